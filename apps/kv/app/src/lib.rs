//! `kv`: a memcached server behind a virtual function of its own, whose items live in pages that it buys.
//!
//! It serves TCP and UDP port 11211 and rests when there is nothing to do. A hit is worth the application's valuation; how
//! many hits more pages would bring is estimated from what clients ask for, and pages are bid for at that ([`policy`]). Under
//! notice it gives pages up shortly before the deadline ([`memory`]): what is worth more than other things moves, the rest
//! is evicted. With a namespace (`storage`) the rest goes there instead, comes back when it is asked for, verified, while other
//! clients are served ([`shelf`]), and a page is bid for at what reading would cost more. Clients see misses, never something
//! that was lost. When its function was reset it sets it up again, and connections go on; when the queues of its namespace
//! are gone, what was there is missed, and new ones are used. If its base has no function it buys one, at what all its hits
//! are worth; when that is lost by price items stay, and with the next function clients and their connections are back.
//! Bandwidth it buys as far as it sends more than its base lets through, at what the hits are worth whose answers it carries.
//!
//! Arguments:
//! - `address=A.B.C.D/BITS`, `gateway=A.B.C.D`: its address; without, it asks for one by DHCP;
//! - `rest=wait` (as without) or `halt`: what it does while there is nothing to do: it gives its core up, which is an exit, or
//!   halts inside the VM, so that it keeps its core, is charged, and serves without one exit of its own. Then it hears of the
//!   market once in a period of its CPU time, and a frame that comes when its budget is used up waits for the next one;
//! - `mode=interrupt` (as without), `poll` or `adaptive`: how it learns of frames; who polls never rests;
//! - `delay=MICROSECONDS`: at most one interrupt for frames in such a time (0, at most 8191): fewer interrupts, later answers;
//! - `batch=N`: the device is told of so many frames to be sent at once at most (as many as there are);
//! - `clients=N`: clients at once (as many as its heap has room for, at most 360);
//! - `items=N`: pages of its base for items (32), which it has whatever pages cost;
//! - `pages=N`: pages that it buys at most (as many as its heap has room for tables of);
//! - `cold=N`: pages of its namespace that it uses at most (as many as its heap has room for a table of);
//! - `hits=N`: hits a second that a function is bought for before there are more (1,000), if the base has none, and likewise
//!   the first unit of bandwidth;
//! - `epoch=SECONDS`: the time at which the machine was started, since 1970 (the start of 2026);
//! - `for=MILLISECONDS`: when it ends; without, it serves until the run is over.
#![no_std]

extern crate alloc;

pub mod disk;
pub mod memory;
pub mod pages;
pub mod policy;
#[cfg(target_os = "none")]
mod serve;
pub mod shelf;

#[cfg(target_os = "none")]
pub use serve::{pages_kept, run};

app_net::no_device!();
