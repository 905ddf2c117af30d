//! What depends on the processor. `svm` is the one back end for guests; everything else here serves any back end.

pub mod apic;
pub mod core_area;
pub mod cpu;
pub mod hpet;
pub mod interrupts;
pub mod ioapic;
pub mod lock;
pub mod mmio;
pub mod serial;
pub mod svm;
