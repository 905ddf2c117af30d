//! Proofs of the kernel's library, from the LLVM IR that the compiler makes of it, in the manner of Hyperkernel (SOSP 2017).
//!
//! The programs of `kernel-harness` take any state of a bounded kernel and any arguments, call the library, and assert what
//! the specification says. [`build`] has them compiled; [`ir`] reads what the compiler wrote; [`exec`] follows a program along all
//! of its paths at once, and makes one formula of it over [`term`]s; [`prove`] asks a solver ([`smt`]) whether anything that must not
//! happen can. Where the solver says no, it cannot for *any* state of that size, reachable or not.
//!
//! Trusted for that: the translation ([`ir`], [`exec`], [`term`], [`smt`]), which is tested against execution of the compiled
//! programs ([`native`], `tests/`); the solver; the compiler, whose code for the kernel that ships is made from the same
//! source at another level of optimisation.

pub mod build;
pub mod evaluate;
pub mod exec;
pub mod ir;
pub mod native;
mod parts;
pub mod prove;
pub mod smt;
pub mod term;
