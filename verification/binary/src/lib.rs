//! What can be read off the kernel's machine code: who calls whom, that nothing recurs, where it may panic, how deep the
//! stack gets.
//!
//! [`image`] is the ELF file with its functions, [`graph`] the calls between them, [`findings`] what follows from these.
//! Everything is an upper bound: a call or a jump that is there counts, whether or not it can be reached.
#![forbid(unsafe_code)]

pub mod findings;
pub mod graph;
pub mod image;
