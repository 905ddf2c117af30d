//! Messages: between applications and servers (rings), between the machine and the host (serial frames), and from the
//! host to the market server at boot (the plan).
//!
//! Everything is `postcard`-encoded serde data, versioned by [`VERSION`]. A receiver never trusts a sender: decoding
//! fails cleanly on any bytes, and no length is believed before it is checked.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod console;
pub mod frame;
pub mod host;
pub mod market;
pub mod nic;
pub mod plan;
pub mod start;
pub mod storage;

/// Version of all messages; part of the plan and of the first record of a run.
pub const VERSION: u32 = 11;

/// The longest encoded message that a ring or a serial frame carries, in bytes.
pub const MAX_MESSAGE: usize = 1536;
