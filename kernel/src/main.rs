//! The nonkernel's bootable binary: boot, the processor's back end, and the storage under the capability core.
//!
//! Everything that decides anything lives in the library (`kernel`), which forbids `unsafe`. This binary holds the
//! `unsafe` that hardware needs: entry code, registers, world switch, and the one module that turns object ids into
//! references.
#![no_std]
#![no_main]

mod arch;
mod boot;
mod panic;
mod routes;
mod storage;
mod tracing;

use kernel::Kernel;
use storage::Hardware;

/// The capability core over this machine.
pub type Nonkernel = Kernel<Hardware>;
