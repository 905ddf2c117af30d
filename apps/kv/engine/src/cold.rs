//! The second tier: where values go that are rarely asked for.
//!
//! When memory runs short, or is about to ([`Store::make_room`](crate::Store::make_room)), values of the items that were not
//! used for longest go to a [`Cold`] tier instead of being evicted; their keys stay in memory. Keys are evicted only when there
//! is no memory for them either, or the tier takes no more. A command that needs such a value starts a read and waits
//! ([`Next::Cold`](crate::Next::Cold)); the caller hands the bytes over with
//! [`Store::deliver`](crate::Store::deliver) and lets the connection go on. A read that fails makes the item a miss.

/// The tier's name for a value that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A place for values that is larger and slower than memory.
pub trait Cold {
    /// Bytes of the largest value that it takes now.
    fn room(&self) -> usize;

    /// Takes a copy of a value of `length` bytes, which come in parts, and keeps it until `release`. `None` if it can't
    /// now. Writing it out may go on afterwards; until then the tier reads from its own copy.
    fn write<'a>(&mut self, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> Option<Ticket>;

    /// Starts reading a value. It comes with [`Store::deliver`](crate::Store::deliver), never from within this call.
    /// False if it can't now; it is asked again then. At most one read is under way for a ticket.
    fn read(&mut self, ticket: Ticket) -> bool;

    /// The value is no longer needed. A read of it may be under way; its result is ignored.
    fn release(&mut self, ticket: Ticket);
}

/// No second tier.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCold;

impl Cold for NoCold {
    fn room(&self) -> usize {
        0
    }

    fn write<'a>(&mut self, _: usize, _: impl Iterator<Item = &'a [u8]>) -> Option<Ticket> {
        None
    }

    fn read(&mut self, _: Ticket) -> bool {
        false
    }

    fn release(&mut self, _: Ticket) {}
}
