//! Registers and tables of the VT-d units, as `kernel::iommu` reaches them.

use super::cpu::rdtsc;
use super::mmio::Registers;
use heapless::Vec;
use kernel::firmware::acpi::MAX_UNITS;
use kernel::iommu::Bus;
use kernel::iommu::vtd::REGISTER_BYTES;
use kernel::types::{Hpa, Ticks};

/// Registers of the units, and memory.
#[derive(Debug)]
pub struct Units(Vec<Registers, MAX_UNITS>);

impl Units {
    /// The units whose registers are at these physical addresses, at most [`MAX_UNITS`].
    ///
    /// # Safety
    /// Each is the address of [`REGISTER_BYTES`] of registers of a VT-d unit, below 512 GiB. The tables that are given to the
    /// [`Vtd`](kernel::iommu::vtd::Vtd) over this are identity-mapped memory that nothing else uses: its words are reached through this alone.
    pub unsafe fn new(bases: impl Iterator<Item = u64>) -> Units {
        // SAFETY: the caller's obligation.
        Units(bases.take(MAX_UNITS).map(|base| unsafe { Registers::new(base, REGISTER_BYTES.into()) }).collect())
    }
}

impl Bus for Units {
    fn register32(&self, unit: usize, offset: u32) -> u32 {
        self.0.get(unit).map_or(0, |registers| registers.read(offset.into()))
    }

    fn register64(&self, unit: usize, offset: u32) -> u64 {
        self.0.get(unit).map_or(0, |registers| registers.read(offset.into()))
    }

    fn set_register32(&mut self, unit: usize, offset: u32, value: u32) {
        self.0.get(unit).inspect(|registers| registers.write(offset.into(), value));
    }

    fn set_register64(&mut self, unit: usize, offset: u32, value: u64) {
        self.0.get(unit).inspect(|registers| registers.write(offset.into(), value));
    }

    fn word(&self, at: Hpa) -> u64 {
        // SAFETY: an aligned word of the tables, see `new`; a unit may write it: hence volatile.
        unsafe { (at.get() as *const u64).read_volatile() }
    }

    fn set_word(&mut self, at: Hpa, value: u64) {
        // SAFETY: as for `word`. Stores are seen in their order.
        unsafe { (at.get() as *mut u64).write_volatile(value) };
    }

    fn write_back(&mut self, at: Hpa) {
        // SAFETY: writes a line of mapped memory back, and waits until that is done; what the memory holds stays the same.
        unsafe { core::arch::asm!("clflush [{}]", "mfence", in(reg) at.get(), options(nostack, preserves_flags)) };
    }

    fn now(&self) -> Ticks {
        Ticks::new(rdtsc())
    }
}
