//! What drivers need, in a VM: registers of a device and memory that it reaches, as pages that the kernel mapped. This is
//! the one module that touches registers.

use crate::shared::{SharedMemory, Words};
use core::sync::atomic::{Ordering, compiler_fence};
use device::{DmaMemory, IoAddress, Registers};

/// Registers in pages at a fixed address, of which copies may be made.
#[derive(Clone, Copy, Debug)]
pub struct MappedRegisters {
    base: *mut u32,
    bytes: u32,
}

// SAFETY: a register is accessed by one instruction, from wherever; what accesses mean is the driver's business.
unsafe impl Send for MappedRegisters {}
// SAFETY: as above.
unsafe impl Sync for MappedRegisters {}

impl MappedRegisters {
    /// The registers of `bytes` bytes from `base` on, both rounded down to multiples of 4.
    ///
    /// # Safety
    /// The range must be pages of a device that are mapped, readable and writable, whenever it is accessed, or the access
    /// must end in a fault that does not come back to the program.
    #[must_use]
    pub const unsafe fn new(base: u64, bytes: u32) -> MappedRegisters {
        MappedRegisters { base: (base & !3) as *mut u32, bytes: bytes & !3 }
    }

    /// The register at an offset, if there is one.
    #[inline(always)]
    fn register(&self, offset: u32) -> Option<*mut u32> {
        let inside = offset < self.bytes && offset.is_multiple_of(4);
        inside.then(|| self.base.wrapping_byte_add(offset as usize))
    }
}

impl Registers for MappedRegisters {
    #[inline(always)]
    fn read32(&self, offset: u32) -> u32 {
        let Some(register) = self.register(offset) else { return u32::MAX };
        compiler_fence(Ordering::SeqCst);
        // SAFETY: inside the range for which `new`'s caller vouches, and aligned.
        let value = unsafe { register.read_volatile() };
        compiler_fence(Ordering::SeqCst);
        value
    }

    #[inline(always)]
    fn write32(&self, offset: u32, value: u32) {
        let Some(register) = self.register(offset) else { return };
        // The processor keeps stores in order; the compiler must, too.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `read32`.
        unsafe { register.write_volatile(value) };
        compiler_fence(Ordering::SeqCst);
    }
}

/// Memory that the program and its device reach.
#[derive(Debug)]
pub struct MappedMemory {
    memory: SharedMemory,
    at: IoAddress,
}

impl MappedMemory {
    /// Memory that the device sees at `at`, contiguous, a multiple of a page.
    #[must_use]
    pub const fn new(memory: SharedMemory, at: IoAddress) -> MappedMemory {
        MappedMemory { memory, at }
    }
}

impl DmaMemory for MappedMemory {
    fn io_address(&self) -> IoAddress {
        self.at
    }

    #[inline(always)]
    fn words(&self) -> usize {
        self.memory.len()
    }

    #[inline(always)]
    fn load(&self, word: usize) -> u64 {
        if word < self.words() { self.memory.load(word, Ordering::Acquire) } else { 0 }
    }

    #[inline(always)]
    fn store(&self, word: usize, value: u64) {
        if word < self.words() {
            self.memory.store(word, value, Ordering::Release);
        }
    }

    #[inline(always)]
    fn store_row<const K: usize>(&self, row: usize, values: [u64; K]) {
        if let Some(words) = self.memory.row::<K>(row) {
            for (word, value) in words.iter().zip(values) {
                word.store(value, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, AtomicU64};

    #[test]
    fn registers_are_where_they_are_and_nowhere_else() {
        let array: [AtomicU32; 4] = core::array::from_fn(|n| AtomicU32::new(n as u32));
        // SAFETY: the array outlives the view.
        let registers = unsafe { MappedRegisters::new(array.as_ptr() as u64, 12) };
        registers.write32(8, 77);
        for outside in [12, 9, u32::MAX] {
            registers.write32(outside, 1);
            assert_eq!(registers.read32(outside), u32::MAX);
        }
        let values = array.map(|register| register.load(Ordering::Relaxed));
        assert_eq!((values, registers.read32(4)), ([0, 1, 77, 3], 1));
    }

    #[test]
    fn memory_beyond_the_end_is_zero_and_takes_nothing() {
        let array: [AtomicU64; 6] = core::array::from_fn(|n| AtomicU64::new(n as u64));
        // SAFETY: the array outlives the view.
        let memory = MappedMemory::new(unsafe { SharedMemory::new(array.as_ptr() as u64, 40) }, IoAddress(0x1000));
        memory.store_row(1, [7, 8]);
        memory.store_row(2, [9, 9]);
        memory.store_row(usize::MAX, [9, 9]);
        memory.store(5, 9);
        assert_eq!((memory.load(2), memory.load(5), memory.words()), (7, 0, 5));
        let values = array.map(|word| word.load(Ordering::Relaxed));
        assert_eq!(values, [0, 1, 7, 8, 4, 5]);
    }
}
