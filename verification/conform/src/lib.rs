//! The running machine against the specification: the trace of a kernel (`kernel::trace`) is replayed through the abstract
//! machine, and at stops of the machine its memory is compared with the abstract state.
//!
//! What a green run says: for every invocation of the run the kernel answered what the specification says, in the order of
//! the kernel lock over all cores; who had to wake woke, with the right events, and nobody else; and whenever a Delete or a
//! Revoke had come to an end, or was preempted, and at the end of the run, everything that is in memory (slots, derivation,
//! objects, bindings, page tables as hardware walks them) stood for exactly the specified state. So nothing that was
//! revoked was left anywhere.
//!
//! What is left to the kernel is taken from it, as in lock-step: when periods end, whose registers a core holds, when a
//! deadline is noticed (never early). What guests do to their own memory and registers is theirs. A Delete or Revoke that
//! is preempted must have left, of everything, what was there before or what is there when it is through.

mod memory;
mod record;
mod replay;
mod seen;
mod statistics;

pub use memory::Memory;
pub use record::{Entry, Record};
pub use replay::{Divergence, Replay};
pub use seen::Snapshot;
pub use statistics::Statistics;
