//! `kv-load`: clients of `kv` in a VM of their own, with a virtual function of their own.
//!
//! There are two servers, and the load moves between them: one gets many requests and the other few, and then the other way
//! round. Keys are asked for unevenly, some much more often than others. What is missing is stored. Everything follows from
//! the seed and the machine's clock. Every answer is checked: a value must be the one that belongs to its key. A wrong one
//! makes the application fail.
//!
//! Arguments:
//! - `address=A.B.C.D/BITS`: its address; without, it asks for one by DHCP;
//! - `servers=A.B.C.D,A.B.C.D`: who is asked, at port 11211;
//! - `keys=N` (1000) and `bytes=N` (480): keys of each server, and bytes of a value;
//! - `many=N` (60) and `few=N` (6): requests of the one and the other server in [`TICK_US`];
//! - `turn=MILLISECONDS` (1000): how long it stays so, counted from the start of the run;
//! - `for=MILLISECONDS` (3000): when it ends, counted likewise.
#![no_std]

extern crate alloc;

pub mod answers;
#[cfg(target_os = "none")]
mod clients;
pub mod keys;

#[cfg(target_os = "none")]
pub use clients::run;

/// Requests are sent once in so many microseconds, if the last ones were answered.
pub const TICK_US: u64 = 10_000;

app_net::no_device!();
