//! `netbench`: frames, datagrams and streams by a virtual function of its own. By its argument `role` it is one of
//! - `serve`: echoes datagrams at UDP port 7, and takes a stream at TCP port 9, of which it checks every byte, for
//!   `for=MILLISECONDS`, or until `streams=N` have ended;
//! - `ask`: sends `operations=N` datagrams to `peer=A.B.C.D`, one after the other and then 16 at once, and a stream of `kib=N`;
//!   checks every byte that comes back, and tells what it cost; before the stream the datagrams again, once for each of
//!   `turns=MODE:MICROSECONDS,...`, with mode and delay changed as it runs;
//! - `echo`: sends every frame back to whom it came from, for `for=MILLISECONDS`;
//! - `ping`: sends frames to `peer=ADDRESS`, one after the other, and waits for each to come back; for the same time;
//! - `listen`: counts what it hears and says nothing;
//! - `flood`: sends frames of `bytes=N` to `peer` as fast as it may, and bids for `want=MEGABITS` of bandwidth at its value of work;
//! - `hold`: bids for a virtual function at its value of work, and asks the network's gateway for its address (ARP, RFC 826)
//!   all the time that it has one;
//! - `malform`: sends `frames=N` that are almost right ([`malformed`]), which follow from `seed=N`, to whom has the Ethernet
//!   address `peer`, the address `target=A.B.C.D` and serves port 11211, with the own address `from=A.B.C.D`;
//! - `stray`: has its function read frames where it must not, and tells what it hears of that.
//!
//! The first two have an address, by the arguments `address` and `gateway` as [`app_net::address`] reads them; the others
//! send frames of Ethernet. The first two halt on the core while there is work, so that none of it takes an exit, and drive
//! their function as they are told:
//! - `mode=interrupt` (as without), `poll`, or `adaptive`: how they learn of frames; who polls never sleeps;
//! - `delay=MICROSECONDS`: at most one interrupt in such a time (0, at most 8191);
//! - `batch=N`: the device is told of so many frames at once at most (as many as there are to send);
//! - `rest=wait` (as without) or `halt`: what `serve` does with its core when there is no work.
//!
//! A frame holds a number and a pattern that follows from it, so that what comes back is known to be what was sent.
#![no_std]

extern crate alloc;

pub mod content;
pub mod frame;
pub mod malformed;

#[cfg(target_os = "none")]
mod ask;
#[cfg(target_os = "none")]
mod cost;
#[cfg(target_os = "none")]
mod hold;
#[cfg(target_os = "none")]
mod roles;
#[cfg(target_os = "none")]
mod serve;
#[cfg(target_os = "none")]
mod stray;

#[cfg(target_os = "none")]
pub use roles::run;

app_net::no_device!();
