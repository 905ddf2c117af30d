//! Physical memory as boot reads and fills it, before any of it is an object of the kernel.

use kernel::firmware::PhysicalMemory;
use kernel::firmware::memory_map::Region;

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
pub struct Taken(pub Region);

impl Taken {
    /// Fills it with a copy of `from`, and the rest with zero.
    ///
    /// # Safety
    /// The region must be RAM that the memory map gave up for the caller, and nothing may refer to its old contents.
    pub unsafe fn fill(self, from: &[u8]) {
        let bytes = (self.0.bytes() as usize).min(from.len());
        // SAFETY: the caller's obligation; the copy is cut to the region.
        unsafe {
            core::ptr::copy_nonoverlapping(from.as_ptr(), self.0.start as *mut u8, bytes);
            core::ptr::write_bytes((self.0.start as *mut u8).add(bytes), 0, self.0.bytes() as usize - bytes);
        }
    }
}
