//! The engine of `kv`: memcached's text protocol over a store whose items live on lent pages.
//!
//! It needs no network, no clock and no operating system: bytes come as slices ([`Connection::receive`],
//! [`udp::Exchange`]), answers leave through [`Output`], time and pages come from the caller. What a client sends can
//! neither panic it nor make it take memory without bound: a connection keeps at most a line of 2 KiB, everything else
//! lies in the pages, whose number the caller decides.
//!
//! # Pages
//! Pages are lent with [`Store::add_page`] and taken back with [`Store::give_back`], which moves what is worth more than
//! other things and evicts the rest, or [`Store::lost`], when a page is gone already. Tables about pages and items are on
//! the heap ([`Store::table_bytes`]); key and value are in the pages only.
//!
//! # Copies
//! A value is copied once on its way in, from the caller's receive buffer into pages, and once on its way out, from
//! pages into the caller's transmit buffer. Over UDP an answer is gathered first, as its datagrams tell how many there
//! are.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod base64;
pub mod check;
mod chunks;
mod classes;
mod cold;
mod command;
mod connection;
mod entries;
mod index;
mod output;
mod pages;
mod prefixes;
mod service;
mod sizes;
mod statistics;
mod stats;
mod store;
mod text;
mod time;
pub mod udp;

pub use cold::{Cold, NoCold, Ticket};
pub use connection::{Connection, Next, Progress};
pub use output::{LEAST_ROOM, Output};
pub use pages::{HeapPages, PAGE_BYTES, PageNumber, Pages};
pub use service::{Ends, Service};
pub use stats::{ClassCounters, Counters, Retrievals, Usage};
pub use store::{Given, MOST_KEY_BYTES, MOST_VALUE_BYTES, Store};
pub use time::Time;

/// The version of memcached whose protocol this is, as `version` tells it.
pub const VERSION: &str = "1.6.18";
