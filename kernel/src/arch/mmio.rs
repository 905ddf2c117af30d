//! Registers of devices that the kernel itself drives: HPET, IOAPIC, IOMMUs, configuration space.

use zerocopy::{FromBytes, IntoBytes};

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

    /// How many bytes the range has.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    fn at<T>(self, offset: u64) -> *mut T {
        assert!(offset + size_of::<T>() as u64 <= self.bytes, "a register outside its device");
        (self.base + offset) as *mut T
    }

    /// Reads a register, which lies within the range.
    pub fn read<T: FromBytes>(self, offset: u64) -> T {
        // SAFETY: in range, and `new`'s caller says that these are registers.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes a register, which lies within the range.
    pub fn write<T: IntoBytes>(self, offset: u64, value: T) {
        // SAFETY: as for `read`.
        unsafe { self.at::<T>(offset).write_volatile(value) };
    }
}
