//! What a capability is.
//!
//! [`abi`] is the interface of the one hypercall, `invoke`, as data: object types, rights, labels, arguments, errors
//! and the layout of every page that kernel and guests share. Kernel, userlib, documentation and tests all read it, so
//! they cannot drift apart. [`machine`] is the abstract machine: the specification of every invocation, written to be
//! read and executed.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "model")]
extern crate alloc;

pub mod abi;
#[cfg(feature = "model")]
pub mod machine;
pub mod page;
