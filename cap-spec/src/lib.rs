//! What a capability is.
//!
//! [`abi`] is the interface of the one hypercall, `invoke`, as data: object types, rights, labels, errors and the layout
//! of every page that kernel and guests share. Kernel, userlib, documentation and tests all read it, so they cannot drift
//! apart. [`spec`] says of every label what it takes, means and can fail with. [`machine`] is the abstract machine: the specification of every invocation, written to be
//! read and executed. [`properties`] names what is claimed of it, and of the kernel.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "model")]
extern crate alloc;

pub mod abi;
#[cfg(feature = "model")]
pub mod machine;
#[cfg(feature = "model")]
pub mod page;
#[cfg(feature = "model")]
pub mod properties;
#[cfg(feature = "model")]
pub mod spec;
