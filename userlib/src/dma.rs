//! What drivers need of a VM: registers of a device that are mapped into it, memory that both the VM and a device reach,
//! and the clock.

use device::{Clock, DmaBuffer, DmaMemory, IoAddress, Registers};

/// Pages of a BAR that are mapped into the VM.
#[derive(Clone, Copy, Debug)]
pub struct MappedRegisters {
    at: usize,
    bytes: u32,
}

impl MappedRegisters {
    /// `bytes` bytes of registers from this guest-physical address on, which is mapped one to one.
    ///
    /// # Safety
    /// They are registers of a device, and stay mapped for as long as this or a copy of it is used; a page that is taken
    /// away is a fault as of any other memory.
    pub const unsafe fn new(gpa: u64, bytes: u32) -> MappedRegisters {
        MappedRegisters { at: gpa as usize, bytes }
    }

    #[inline(always)]
    fn holds(&self, offset: u32) -> bool {
        offset.is_multiple_of(4) && offset < self.bytes
    }
}

impl Registers for MappedRegisters {
    #[inline(always)]
    fn read32(&self, offset: u32) -> u32 {
        if !self.holds(offset) {
            return u32::MAX;
        }
        // SAFETY: in range, see `new`.
        unsafe { core::ptr::with_exposed_provenance::<u32>(self.at + offset as usize).read_volatile() }
    }

    #[inline(always)]
    fn write32(&self, offset: u32, value: u32) {
        if self.holds(offset) {
            // SAFETY: as for `read32`. Volatile: after all stores before it, which on this processor is the order in which
            // the device sees them.
            unsafe {
                core::ptr::with_exposed_provenance_mut::<u32>(self.at + offset as usize).write_volatile(value);
            }
        }
    }
}

/// Memory that a device reaches, mapped into the VM and into the device's domain.
#[derive(Clone, Copy, Debug)]
pub struct MappedMemory {
    at: usize,
    io: IoAddress,
    words: usize,
}

impl MappedMemory {
    /// `bytes` bytes (a multiple of 8) from this guest-physical address on, which is mapped one to one, and which the device
    /// sees from `io` on.
    ///
    /// # Safety
    /// The memory is used by nothing but this and its copies and the device, and stays mapped in the VM meanwhile.
    pub const unsafe fn new(gpa: u64, io: IoAddress, bytes: usize) -> MappedMemory {
        MappedMemory { at: gpa as usize, io, words: bytes / 8 }
    }

    /// The memory from this multiple of a page on, as long as it goes.
    #[must_use]
    pub fn from_page(self, page: usize) -> MappedMemory {
        let words = (page * 512).min(self.words);
        MappedMemory { at: self.at + words * 8, io: self.io + words as u64 * 8, words: self.words - words }
    }

    /// Cuts the memory into buffers of so many bytes (at least 1, a divisor of a page's), as many as it has.
    ///
    /// # Safety
    /// From now on the memory is used through these buffers only, and by a device only while its driver holds the buffer:
    /// until it says that it has done with it.
    pub unsafe fn into_buffers(self, bytes: usize) -> impl Iterator<Item = MappedBuffer> {
        let count = (self.words * 8).checked_div(bytes).unwrap_or_default();
        (0..count).map(move |index| MappedBuffer {
            at: self.at + index * bytes,
            io: self.io + (index * bytes) as u64,
            bytes,
        })
    }

    /// Copies bytes in from a multiple of 8 on; what is beyond the end is left out.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        for (word, piece) in (offset / 8..).zip(bytes.chunks(8)) {
            let mut value = [0; 8];
            value[..piece.len()].copy_from_slice(piece);
            self.store(word, u64::from_le_bytes(value));
        }
    }

    /// Copies bytes out from a multiple of 8 on.
    pub fn get(&self, offset: usize, bytes: &mut [u8]) {
        for (word, piece) in (offset / 8..).zip(bytes.chunks_mut(8)) {
            let value = self.load(word).to_le_bytes();
            piece.copy_from_slice(&value[..piece.len()]);
        }
    }
}

impl DmaMemory for MappedMemory {
    #[inline(always)]
    fn io_address(&self) -> IoAddress {
        self.io
    }

    #[inline(always)]
    fn words(&self) -> usize {
        self.words
    }

    #[inline(always)]
    fn load(&self, word: usize) -> u64 {
        if word >= self.words {
            return 0;
        }
        // SAFETY: in range, see `new`; the device writes it at any time: hence volatile.
        unsafe { core::ptr::with_exposed_provenance::<u64>(self.at + word * 8).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, word: usize, value: u64) {
        if word < self.words {
            // SAFETY: as for `load`.
            unsafe { core::ptr::with_exposed_provenance_mut::<u64>(self.at + word * 8).write_volatile(value) };
        }
    }

    #[inline(always)]
    fn store_row<const K: usize>(&self, row: usize, values: [u64; K]) {
        if row < self.words / K {
            for (word, value) in (row * K..).zip(values) {
                // SAFETY: as for `load`: the row ends within the memory.
                unsafe { core::ptr::with_exposed_provenance_mut::<u64>(self.at + word * 8).write_volatile(value) };
            }
        }
    }
}

/// A buffer of [`MappedMemory`], which belongs to whoever holds the value.
#[derive(Debug)]
pub struct MappedBuffer {
    at: usize,
    io: IoAddress,
    bytes: usize,
}

impl DmaBuffer for MappedBuffer {
    fn io_address(&self) -> IoAddress {
        self.io
    }

    fn capacity(&self) -> usize {
        self.bytes
    }

    #[inline]
    fn read<T>(&self, bytes: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: mapped and of this length, see `MappedMemory::new`. By the promise of `into_buffers` nobody else writes
        // it while the value is held outside of a driver; all that is ever in it are plain bytes.
        look(unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(self.at), bytes.min(self.bytes)) })
    }

    #[inline]
    fn write<T>(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> T) -> T {
        let bytes = bytes.min(self.bytes);
        // SAFETY: as for `read`; the value is borrowed uniquely, and no other buffer overlaps it.
        fill(unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(self.at), bytes) })
    }
}

/// The time-stamp counter as drivers use it.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// Nanoseconds of a tick, times 2^32: a multiplication is a tenth of a division's work.
    scale: u64,
    /// Ticks of a pause.
    pause: u64,
}

impl TscClock {
    /// The counter with this frequency (at least 1); a pause takes so many microseconds at most.
    #[must_use]
    pub const fn new(hz: u64, pause_us: u64) -> TscClock {
        let hz = if hz == 0 { 1 } else { hz };
        TscClock { scale: ((1_000_000_000 << 32) / hz as u128) as u64, pause: hz / 1_000_000 * pause_us }
    }
}

impl Clock for TscClock {
    fn now_ns(&self) -> u64 {
        ((u128::from(crate::clock::now()) * u128::from(self.scale)) >> 32) as u64
    }

    fn pause(&self) {
        self.pause_times(1);
    }

    fn pause_times(&self, times: u32) {
        crate::clock::sleep_until(crate::clock::now().saturating_add(self.pause * u64::from(times)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reached_beyond_the_ends() {
        let mut words = [1u64, 2, 3, 4];
        let at = words.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the array, of which nothing but this is used meanwhile.
        let (memory, registers) =
            unsafe { (MappedMemory::new(at, IoAddress(0x1000), 24), MappedRegisters::new(at, 24)) };
        assert_eq!([memory.load(2), memory.load(3)], [3, 0]);
        memory.store(3, 9);
        memory.store(2, 7);
        registers.write32(24, 9);
        registers.write32(2, 9);
        assert_eq!([registers.read32(16), registers.read32(24), registers.read32(1)], [7, u32::MAX, u32::MAX]);
        memory.store_row(1, [9, 9]);
        memory.store_row(usize::MAX, [9, 9]);
        assert_eq!(memory.load(2), 7, "the row would end beyond the memory");
        memory.store_row(0, [5, 6]);
        assert_eq!([memory.load(0), memory.load(1)], [5, 6]);
        memory.put(0, &[8, 7, 6, 5, 4, 3, 2, 1, 9]);
        let mut back = [0; 9];
        memory.get(0, &mut back);
        assert_eq!(back, [8, 7, 6, 5, 4, 3, 2, 1, 9]);
        assert_eq!(memory.from_page(1).words(), 0);
        assert_eq!(words[3], 4);
    }

    #[test]
    fn buffers_are_parts_that_do_not_overlap() {
        let mut bytes = [0u8; 24];
        let at = bytes.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the array, of which nothing but the buffers is used meanwhile.
        let buffers = unsafe { MappedMemory::new(at, IoAddress(0x1000), 24).into_buffers(10) };
        for (n, mut buffer) in (1..).zip(buffers) {
            assert_eq!((buffer.io_address(), buffer.capacity()), (IoAddress(0x1000 + 10 * (n - 1)), 10));
            buffer.write(99, |bytes| bytes.fill(n as u8));
            assert_eq!(buffer.read(3, <[u8]>::to_vec), [n as u8; 3]);
        }
        assert_eq!(bytes[9..12], [1, 2, 2]);
        assert_eq!(bytes[18..], [2, 2, 0, 0, 0, 0]);
    }
}
