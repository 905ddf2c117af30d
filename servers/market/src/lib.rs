//! The market server: the root VM's program, as a library that also runs on the host.
//!
//! It reads the boot archive, launches the console server and the applications, and sells pages and CPU time to them in
//! the rounds of [`market_mechanism`]. What is sold is delivered as capabilities: a lease of pages is an
//! Untyped derived from a block of the market's, a lease of CPU time is the budget of the tenant's reservation. What is
//! lost is cut off by one deletion, and scrubbed by one revocation.
//!
//! Everything is written against [`machine::Machine`]: invocations, shared pages and rings. `main.rs` implements it in
//! the root VM; the tests run whole markets against a model of the kernel's capabilities.
//!
//! Reading order:
//! 1. [`machine`]: what the market needs, and its invocations by name. [`boot`] and [`archive`]: what it is given.
//! 2. [`slots`], [`memory`], [`root`]: CSpace, blocks of RAM, the market's own objects and windows.
//! 3. [`launch`]: how a VM is made. [`console_link`], [`device_server`], [`nic_link`], [`storage_link`] with [`storage_state`]: the servers'.
//!    [`life`]: an application's start and end; [`nic`], [`storage`]: its virtual functions;
//!    [`faults`]: what the IOMMU has stopped; [`sold_rate`]: limits that servers of devices keep.
//! 4. [`server`]: state and loop. [`clock`], [`tenant`]: time, and what is known of an application.
//! 5. [`trading`]: rounds and deliveries. [`losses`]: what an interval of pages takes. [`requests`], [`commands`]: what
//!    applications and the host ask; [`statement`]: where their money went.
//! 6. [`finish`]: reconciliation, with [`usage`], and the end; [`report`]: records; [`last_words`]: an end without a
//!    console server.
//! 7. [`rehearsal`]: whether a machine has room for a plan, for the host's tool.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod archive;
pub mod boot;
pub mod clock;
pub mod commands;
pub mod console_link;
pub mod device_server;
pub mod faults;
pub mod finish;
pub mod last_words;
pub mod launch;
pub mod life;
pub mod losses;
pub mod machine;
pub mod memory;
pub mod nic;
pub mod nic_link;
pub mod rehearsal;
pub mod report;
pub mod requests;
pub mod root;
pub mod server;
pub mod slots;
pub mod sold_rate;
pub mod statement;
pub mod storage;
pub mod storage_function;
pub mod storage_link;
pub mod storage_state;
pub mod tenant;
pub mod trading;
pub mod usage;

#[cfg(test)]
mod tests;
