//! The memory of a machine, as a file that the emulator shares: read while the machine is stopped.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::{Context, Result};
use kernel::slot::Slot;
use kernel::trace::Trace;
use memmap2::MmapRaw;

/// Number of the last kind of capability.
const LAST_CAP: u8 = 15;

/// The memory of a machine, from address 0 on.
pub struct Memory {
    map: MmapRaw,
}

/// What may be read from the memory of a machine: it was written by a kernel of the same layout.
///
/// # Safety
/// Plain data without references. Bytes that the kernel has written as this, or zero, are a valid value.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl Plain for [u64; 512] {}
// SAFETY: the kernel's own headers, which it makes of zeroed memory.
unsafe impl Plain for kernel::vm::Vm {}
// SAFETY: as above.
unsafe impl Plain for kernel::vcpu::Vcpu {}
// SAFETY: as above.
unsafe impl Plain for kernel::channel::Channel {}

impl Memory {
    /// The memory that the emulator has in this file.
    ///
    /// # Errors
    /// When it can't be mapped.
    pub fn open(file: &Path) -> Result<Memory> {
        let shown = file.display();
        let opened = OpenOptions::new().read(true).write(true).open(file);
        let opened = opened.with_context(|| format!("cannot open the machine's memory {shown}"))?;
        let map = MmapRaw::map_raw(&opened).with_context(|| format!("cannot map the machine's memory {shown}"))?;
        Ok(Memory { map })
    }

    /// Where something of so many bytes is, if it is memory.
    fn place(&self, address: u64, bytes: usize, align: usize) -> Option<*const u8> {
        let at = usize::try_from(address).ok()?;
        let fits = at.is_multiple_of(align) && at.checked_add(bytes)? <= self.map.len();
        // SAFETY: inside of the mapping.
        fits.then(|| unsafe { self.map.as_ptr().add(at) })
    }

    /// Reads what lies at an address; `None` if that is no memory.
    pub(crate) fn read<T: Plain>(&self, address: u64) -> Option<T> {
        let place = self.place(address, size_of::<T>(), align_of::<T>())?;
        // SAFETY: inside of the mapping and aligned; the type is plain, and the kernel has written it. The machine is
        // stopped, so that nobody writes.
        Some(unsafe { place.cast::<T>().read() })
    }

    /// True if there is nothing but zeros in so many bytes, a multiple of 8.
    pub fn is_zero(&self, address: u64, bytes: usize) -> bool {
        (address..address + bytes as u64).step_by(8).all(|word| self.read::<u64>(word) == Some(0))
    }

    /// Reads a slot; `None` if there is no memory, or no capability.
    pub(crate) fn slot(&self, address: u64) -> Option<Slot> {
        let place = self.place(address, size_of::<Slot>(), align_of::<Slot>())?;
        // SAFETY: inside of the mapping; the number of the kind is a slot's first byte.
        let kind = unsafe { place.read() };
        // SAFETY: the slot of a live CNode or Channel, which the kernel alone writes, with a kind that there is.
        (kind <= LAST_CAP).then(|| unsafe { place.cast::<Slot>().read() })
    }

    /// The kernel's trace, which lies at this address.
    ///
    /// # Errors
    /// When that is no memory.
    pub fn trace(&self, address: u64) -> Result<&Trace> {
        let place = self.place(address, size_of::<Trace>(), align_of::<Trace>());
        let place = place.with_context(|| format!("{address:#x}, where the trace is to be, is no memory"))?;
        // SAFETY: atomics, for which every bit pattern is a value, as long as the mapping lives.
        Ok(unsafe { &*place.cast::<Trace>() })
    }

    /// The state of the kernel, apart from its machine. The machine is stopped.
    pub(crate) fn kernel(&self, address: u64) -> Option<&kernel::Kernel<()>> {
        let place = self.place(address, size_of::<kernel::Kernel<()>>(), align_of::<kernel::Kernel<()>>())?;
        // SAFETY: the kernel has told that its state is there, and that it has this layout; it is at rest.
        Some(unsafe { &*place.cast::<kernel::Kernel<()>>() })
    }
}
