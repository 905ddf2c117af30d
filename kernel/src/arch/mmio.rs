//! Registers of devices that the kernel itself drives: HPET, IOAPIC, IOMMUs, configuration space.

use core::ptr;

/// A range of device registers, identity-mapped.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: u64,
    bytes: u64,
}

impl Registers {
    /// The registers at a physical address.
    ///
    /// # Safety
    /// The range must be device registers below 512 GiB that nothing else in the kernel uses as memory.
    pub const unsafe fn new(base: u64, bytes: u64) -> Registers {
        Registers { base, bytes }
    }

    /// Reads a 32-bit register; an offset outside the range reads as all ones, as an absent device does.
    pub fn read32(self, offset: u64) -> u32 {
        if offset.saturating_add(4) > self.bytes {
            return u32::MAX;
        }
        // SAFETY: in range, and `new`'s caller says that these are registers.
        unsafe { ptr::read_volatile((self.base + offset) as *const u32) }
    }

    /// Writes a 32-bit register; an offset outside the range is ignored.
    pub fn write32(self, offset: u64, value: u32) {
        if offset.saturating_add(4) <= self.bytes {
            // SAFETY: as for `read32`.
            unsafe { ptr::write_volatile((self.base + offset) as *mut u32, value) };
        }
    }

    /// Reads a 64-bit register; an offset outside the range reads as all ones.
    pub fn read64(self, offset: u64) -> u64 {
        if offset.saturating_add(8) > self.bytes {
            return u64::MAX;
        }
        // SAFETY: as for `read32`.
        unsafe { ptr::read_volatile((self.base + offset) as *const u64) }
    }

    /// Writes a 64-bit register; an offset outside the range is ignored.
    pub fn write64(self, offset: u64, value: u64) {
        if offset.saturating_add(8) <= self.bytes {
            // SAFETY: as for `read32`.
            unsafe { ptr::write_volatile((self.base + offset) as *mut u64, value) };
        }
    }
}
