//! NVMe queue pairs: what an application needs to read and write blocks by itself, once a server has made the queues in
//! the application's memory. All it touches is the page of doorbells and memory.
//!
//! Many commands are under way at a time, and they end in any order. Each has a token that comes back with its end. Data
//! are never copied: the controller reads and writes the application's pages, which a [`Transfer`] names.
//!
//! What the controller writes is checked: a completion counts only if its phase is the awaited one and it names a command
//! that is under way, so that each token comes back at most once. What fails the check is counted in `faults`, and what
//! was under way stays so.
//!
//! Reading order: [`transfer`] (where data are), [`command`] (what the controller is told), [`completion`] (what it
//! tells), [`queue`] (the pair of rings), [`gate`] (the same in a namespace that is closed at times).
//!
//! Source: NVM Express Base Specification 2.0 and NVM Command Set Specification 1.0.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod completion;
pub mod gate;
pub mod queue;
pub mod transfer;

pub use command::{Access, Command, Namespace};
pub use completion::Status;
pub use gate::GatedPair;
pub use queue::{Completed, QueuePair, Rings, SubmitError};
pub use transfer::{PrpLists, Transfer};
