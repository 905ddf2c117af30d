//! Administration of an NVMe controller, for the block server: the physical function (PF) with its namespaces and
//! resources, and each virtual function (VF) until it is handed to an application.
//!
//! A VF's own admin queue could attach any namespace to it, and its doorbell lies in the page that an application needs
//! for its I/O queues. So the server makes the I/O queues, in the application's memory, through the VF's admin queue;
//! then [`Controller::hand_over`] fills the admin submission ring with harmless commands for good. The server keeps the
//! register page and the memory of the admin rings, which the kernel maps for the VF so that the application can neither
//! write nor replace them. An application that rings the admin doorbell wastes its own function's time.
//!
//! The order of things (seen on the emulated controller; Base Specification, 8.26, "Virtualization Enhancements"):
//! 1. PF: [`Controller::enable`], [`Controller::release_resources`], and `enable` again, which makes it count.
//! 2. Kernel: VFs on.
//! 3. PF, per VF: [`Controller::assign`], [`Controller::set_online`], [`Controller::attach`].
//! 4. VF: `enable`, [`Controller::create_queues`], `hand_over`.
//! 5. To take it back: reset of the VF by the kernel; PF: [`Controller::set_offline`], [`Controller::detach`].
//!
//! Commands are done one after the other, each within a limit of time; the server pauses meanwhile. Reading order:
//! [`controller`], [`identify`], [`log`], [`virtualization`], [`queues`].
//!
//! Source: NVM Express Base Specification 2.0.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod controller;
pub mod identify;
pub mod log;
pub mod queues;
mod registers;
pub mod virtualization;

#[cfg(test)]
mod tests;

pub use controller::{AdminMemory, Controller, Error, switch_off};
pub use identify::Identity;
pub use queues::{IoQueues, QueueRequest};
pub use virtualization::{Resource, Secondary};
