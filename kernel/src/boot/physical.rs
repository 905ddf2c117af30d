//! Physical memory as boot reads and fills it, before any of it is an object of the kernel.

use core::ops::Range;
use kernel::firmware::PhysicalMemory;
use kernel::firmware::memory_map::{MemoryMap, Region};
use kernel::types::Hpa;

/// First byte above what the identity map reaches.
pub const MAPPED_END: u64 = 512 << 30;

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
}

/// Where the kernel itself lies, stacks and tables included.
pub fn kernel_image() -> Region {
    Region { start: &raw const kernel_start as u64, end: &raw const kernel_end as u64 }
}

/// Memory in which firmware and boot loader leave their tables: all that is mapped, but not the kernel's own.
pub struct Tables;

impl PhysicalMemory for Tables {
    fn read(&self, address: u64, bytes: usize) -> Option<&[u8]> {
        let end = address.checked_add(bytes as u64)?;
        let kernel = kernel_image();
        if address == 0 || end > MAPPED_END || (address < kernel.end && kernel.start < end) {
            return None;
        }
        // SAFETY: mapped, not the kernel's memory, and written by nobody until boot hands memory out, by when every
        // table has been read.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, bytes) })
    }
}

/// RAM that boot took out of the memory map for one purpose.
#[derive(Clone, Copy, Debug)]
pub struct Taken(Region);

impl Taken {
    /// Takes memory: see [`MemoryMap::allocate`].
    pub fn from(memory: &mut MemoryMap, bytes: u64, align: u64, floor: u64) -> Option<Taken> {
        let start = memory.allocate(bytes, align, floor)?;
        Some(Taken(Region { start, end: start + bytes }))
    }

    /// Takes clean memory for an object or a table: naturally aligned and zero.
    pub fn clean(memory: &mut MemoryMap, bits: u8) -> Taken {
        let taken = Taken::from(memory, 1 << bits, 1 << bits, 0).expect("no memory for the root VM");
        // SAFETY: it has just been taken, and nobody knows of it.
        unsafe { taken.fill(0..taken.bytes(), &[]) };
        taken
    }

    /// Where it starts.
    pub fn base(self) -> Hpa {
        Hpa::new(self.0.start)
    }

    /// How many bytes it has.
    pub fn bytes(self) -> u64 {
        self.0.bytes()
    }

    /// Fills a part of it with a copy of the beginning of `from`, and with zero where that ends.
    ///
    /// # Safety
    /// No object of the kernel lies in it, nobody else writes it at this time, and whoever runs on it has stopped.
    pub unsafe fn fill(self, part: Range<u64>, from: &[u8]) {
        // SAFETY: the caller's.
        let memory = unsafe { self.slice() };
        let part = &mut memory[part.start as usize..part.end as usize];
        let (head, tail) = part.split_at_mut(from.len().min(part.len()));
        head.copy_from_slice(&from[..head.len()]);
        tail.fill(0);
    }

    /// Writes bytes into it.
    ///
    /// # Safety
    /// As for [`Taken::fill`], but that a guest may read it meanwhile.
    pub unsafe fn put(self, offset: usize, bytes: &[u8]) {
        // SAFETY: the caller's.
        let memory = unsafe { self.slice() };
        memory[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    unsafe fn slice<'a>(self) -> &'a mut [u8] {
        // SAFETY: RAM that left the memory map in `from`, so nobody else has it but whom the caller excludes. The reference
        // lives no longer than the two functions above.
        unsafe { core::slice::from_raw_parts_mut(self.0.start as *mut u8, self.0.bytes() as usize) }
    }
}
