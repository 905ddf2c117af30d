//! PCI Express, as far as a kernel without device drivers needs it: which functions there are, what memory they answer at,
//! and how they are kept quiet, reset, split into virtual functions and allowed to send interrupts.
//!
//! Everything here is free of hardware: configuration space is reached through [`ConfigAccess`], an MSI-X table through
//! [`msix::TableAccess`]. The kernel implements these over memory, the tests over arrays.
//!
//! What a device says is an allegation. Guarantees, whatever it says:
//! - Every walk is bounded: at most 65,536 functions are looked for, [`MAX_FUNCTIONS`] are kept, and a list of capabilities
//!   is left at the first that was there before.
//! - A function that was found is no bus master, has no I/O ports, sends no interrupts and has no virtual functions until
//!   somebody asks for it; also one for which the table has no room.
//! - Memory that can be handed out ([`Function::memory`]) overlaps no memory of the platform and shares no page with
//!   another function; the pages with an MSI-X table or its pending bits are told apart.
//! - What was read to measure a function is written back.
//!
//! Only segment 0 is managed. The functions of other segments are made quiet ([`silence`]), and not handed out.
//!
//! Sources: PCI Local Bus Specification 3.0, PCI-to-PCI Bridge Architecture Specification 1.2, PCI Express Base
//! Specification 5.0 (chapter 9 is SR-IOV).

pub mod bar;
pub mod capability;
mod claims;
pub mod control;
mod enumerate;
pub mod express;
pub mod filter;
pub mod function;
pub mod msix;
pub mod registers;
pub mod sriov;
#[cfg(test)]
pub(crate) mod tests;
pub mod vfs;
mod window;

pub use enumerate::{Functions, MAX_FUNCTIONS, silence};
pub use function::{Function, Kind};

use core::fmt;

/// Bytes of a function's configuration space.
pub const CONFIG_BYTES: u16 = 4096;

/// A function's address within segment 0: bus, device and function number. Also its requester id, and its routing id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Bdf(u16);

impl Bdf {
    /// Function `function` (modulo 8) of device `device` (modulo 32) of a bus.
    pub const fn new(bus: u8, device: u8, function: u8) -> Bdf {
        Bdf((bus as u16) << 8 | (device as u16 & 31) << 3 | (function as u16 & 7))
    }

    /// From a requester id.
    pub const fn from_id(id: u16) -> Bdf {
        Bdf(id)
    }

    /// The requester id.
    pub const fn id(self) -> u16 {
        self.0
    }

    /// Its bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Where its configuration space begins within the memory that maps the whole segment, in bytes from that of bus 0
    /// (PCI Express Base Specification, 7.2.2).
    pub const fn ecam_offset(self) -> u64 {
        (self.0 as u64) << 12
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.0 >> 3 & 31, self.0 & 7)
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Access to the configuration space of every function of segment 0.
///
/// Offsets are below [`CONFIG_BYTES`] and multiples of the width. Where no function answers, reads give ones and writes are
/// lost. An access is not split, joined, repeated or reordered with another one.
pub trait ConfigAccess {
    /// Reads 32 bits.
    fn read(&self, function: Bdf, offset: u16) -> u32;

    /// Writes 32 bits.
    fn write(&mut self, function: Bdf, offset: u16, value: u32);

    /// Writes 16 bits and leaves its neighbours alone, which matters where a 1 clears a bit.
    fn write_half(&mut self, function: Bdf, offset: u16, value: u16);

    /// The 16 bits at an even offset.
    fn read_half(&self, function: Bdf, offset: u16) -> u16 {
        (self.read(function, offset & !3) >> ((offset & 2) * 8)) as u16
    }

    /// The 8 bits at an offset.
    fn read_byte(&self, function: Bdf, offset: u16) -> u8 {
        (self.read(function, offset & !3) >> ((offset & 3) * 8)) as u8
    }
}
