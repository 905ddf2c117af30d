//! Driver of the physical function (PF) of the Intel 82576, for the network server: it brings the link up, decides what
//! each virtual function (VF) may send and receive, and counts and limits what it does.
//!
//! The PF itself sends and receives nothing: all eight pools of the device belong to VFs. The kernel enables the VFs in
//! configuration space and owns the MSI-X table; this driver has the registers of BAR 0. Nothing here waits:
//! [`Nic::poll`] is called on the PF's interrupt and when the time is due that it names.
//!
//! A VF is believed nothing. What it asks through its mailbox is checked against its [`Settings`]; one message of each
//! VF is taken per poll, so that none can keep the server busy to the harm of another.
//!
//! Reading order: [`nic`] (the device as a whole, bring-up), [`pool`] (what one VF may do), `tables` (what VFs
//! share: VLANs and multicast), [`counters`], `limiters` (limits that the device keeps), [`meter`] (those that it does not).
//!
//! Source of all registers and sequences: Intel 82576EB Gigabit Ethernet Controller Datasheet, revision 2.61.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod counters;
mod debts;
mod limiters;
pub mod meter;
pub mod nic;
pub mod pool;
mod registers;
mod tables;

pub use counters::Counters;
pub use nic::{Event, Link, Nic};
pub use pool::{Settings, Vlans};

#[cfg(test)]
mod tests;

/// VFs of the device.
pub const VFS: usize = 8;
