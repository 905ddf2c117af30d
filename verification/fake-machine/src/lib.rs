//! The kernel library, unchanged, on a simulated machine: what proofs usually assume, and what emulators hide.
//!
//! Several cores step in any order, also between the release of the lock and VMRUN, between two steps of a long
//! invocation, and while one of them waits for a shootdown. Translations stay cached until they are flushed, walkers
//! write accessed and dirty bits wherever their caches lead them, NMIs and interrupts are in flight. Everything follows
//! from one seed. After each step the oracles look: see `run` and [`hardware`].
//!
//! That the oracles see something is shown by [`bug`]: mistakes in the machine's half of the protocol that are each
//! found within a few seeds.

pub mod bug;
pub mod core_loop;
pub mod devices;
pub mod guest;
pub mod hardware;
pub mod iommu;
pub mod lines;
pub mod machine;
pub mod memory;
pub mod random;
mod routes;
pub mod run;
pub mod setup;
mod signals;
pub mod tlb;
mod translate;
