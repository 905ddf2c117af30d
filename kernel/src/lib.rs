//! The hardware-free part of the nonkernel: capabilities, derivation, untyped memory, address spaces, CPU time.
//!
//! The kernel binary and the host's tests, model checker and fake machine run these lines unchanged. What they need of
//! the hardware is the [`machine::Machine`] trait.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod address_space;
pub mod apic_timer;
pub mod asid;
pub mod assignment;
pub mod cap;
pub mod channel;
#[cfg(any(test, feature = "host"))]
pub mod check;
mod cnode;
mod cpu_time;
mod cspace;
pub mod decode;
mod derivation;
mod destroy;
#[cfg(any(test, feature = "host"))]
pub mod device_model;
mod domain;
pub mod epitaph;
pub mod fault;
pub mod firmware;
mod flush;
pub mod function;
mod invoke;
pub mod iommu;
pub mod ioport;
mod irq;
mod kernel;
mod launch;
pub mod machine;
pub mod nested;
pub mod pci;
pub mod protocol;
mod quarantine;
mod run;
pub mod sched;
pub mod slot;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod types;
mod untyped;
pub mod vcpu;
pub mod vm;

pub use address_space::RING_WINDOW;
pub use decode::{Call, Invocation};
pub use derivation::MAX_SPLITS;
pub use kernel::{Config, Kernel, LAYOUT, MAX_ROUTES, Message, Route};
pub use launch::STEP as LAUNCH_STEP;
pub use run::{Decision, FaultAction, Outcome};
