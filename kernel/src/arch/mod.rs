//! What depends on the processor. `svm` is the one back end for guests, which the rest of the kernel knows as [`guests`];
//! everything else here serves any back end.

pub mod apic;
pub mod core_area;
pub mod cpu;
pub mod ecam;
pub mod hpet;
pub mod interrupts;
pub mod ioapic;
pub mod lock;
pub mod mmio;
pub mod msix_table;
pub mod remapping;
pub mod serial;
mod svm;

/// The back end for guests: all that the rest of the kernel knows of it.
pub mod guests {
    pub use super::svm::*;
}
