//! The engine of `kv` behind sockets: clients over TCP, and requests in datagrams over UDP, on one port.
//!
//! Sockets are `smoltcp`'s and belong to whoever has the network; time and pages come from the caller, as for the engine.
//! [`Server::serve`] does what the sockets have for it and returns; the caller polls its network and calls it again.
//!
//! # Bounds
//! A client costs two socket buffers and what the engine keeps of a line. One that does not read its answers is not read
//! from either: its commands wait in its socket, then with the client. One call of [`Server::serve`] does
//! `session::MOST_STEPS` steps for each client at most, so that none can keep the others waiting. A client that is gone
//! without a word is asked for a sign of life, and dropped.
//!
//! # Copies
//! A value goes from the socket's receive buffer right into the store, and from the store right into the socket's transmit
//! buffer. Command lines are copied once, as a socket lends out one of its buffers at a time; so are answers that would
//! wrap around the end of the transmit buffer.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod datagrams;
mod server;
mod session;

pub use kv_engine;
pub use server::{Server, Settings};

#[cfg(test)]
mod tests;
