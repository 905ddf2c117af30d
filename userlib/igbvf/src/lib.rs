//! Driver of a virtual function (VF) of the Intel 82576, for applications that own one.
//!
//! The VF has two queue pairs, three interrupt vectors and a mailbox to the physical function (PF), whose driver decides
//! what the VF may send and receive. Nothing here waits: what takes time is a state machine that is asked again, with
//! the time as a number.
//!
//! The driver touches descriptor rings and registers only, never the contents of a frame: buffers are handed in by
//! value, come back by value, and are named to the device by their I/O addresses. It never touches the MSI-X table, which
//! is the kernel's.
//!
//! What the device writes is checked: a length is at most the buffer's, a ring position lies among the descriptors that
//! the device was given, and descriptors come back in the order of the ring. What fails the check is counted in
//! `faults` and changes nothing else.
//!
//! Reading order:
//! 1. [`message`]: the mailbox protocol, which the PF's driver shares.
//! 2. [`function`]: reset, MAC address, requests to the PF, interrupts; [`mod@bring_up`].
//! 3. [`receive`] and [`transmit`]: the two rings; [`offload`]: what the device computes into a frame; [`pace`]: sending
//!    at a limit.
//! 4. [`moderation`]: interrupts, polling, or whichever suits the load.
//!
//! Source of all registers and descriptors: Intel 82576EB Gigabit Ethernet Controller Datasheet, revision 2.61.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod bring_up;
pub mod function;
pub mod message;
pub mod moderation;
pub mod offload;
pub mod pace;
pub mod receive;
pub mod registers;
pub mod transmit;

pub use bring_up::bring_up;
pub use function::{Error, Event, Function};
pub use message::MacAddress;
pub use pace::Pace;
pub use receive::{Buffer, ReceiveQueue, Received};
pub use transmit::{Segment, TransmitQueue};
