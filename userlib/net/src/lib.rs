//! TCP/IP of an application that drives its own virtual function: the rings of `igbvf` under the stack `smoltcp`.
//!
//! A frame is copied by nobody between the ring and the stack: what is received is read by the stack in the buffer that
//! the device wrote, what is sent is written by it into the buffer that the device reads. Checksums of IPv4, TCP and UDP
//! are the device's work, in both directions; where it says nothing of one that came in, it is computed here.
//!
//! Nothing here waits, and nothing fails: a full ring lets the stack wait, a frame that makes no sense is counted and
//! dropped. The application calls [`Stack::poll`] with the time, does what its sockets have for it, and looks or sleeps
//! as it is told ([`Next`]); every call has a bound.
//!
//! Reading order: [`checksum`] (what the device computes, and what of it is believed), [`datagram`] (requests that need no
//! socket), [`port`] (rings and buffers as the stack's device), `neighbours` (who is where), [`stack`] (addresses, sockets, and when to look again).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod checksum;
pub mod datagram;
mod neighbours;
pub mod port;
pub mod stack;

pub use igbvf::MacAddress;
pub use igbvf::function::MOST_INTERRUPT_DELAY_US;
pub use igbvf::moderation::Mode;
pub use port::{Drops, Port};
pub use smoltcp;
pub use stack::{Address, Next, Settings, Stack};
