//! The hardware-free part of the nonkernel: capabilities, derivation, untyped memory, address spaces, CPU time.
//!
//! The kernel binary and the host's tests, model checker and fake machine run these lines unchanged. What they need of
//! the hardware is the [`machine::Machine`] trait.
#![no_std]
#![forbid(unsafe_code)]

pub mod asid;
pub mod firmware;
pub mod machine;
pub mod protocol;
pub mod sched;
#[cfg(test)]
mod testing;
pub mod types;
