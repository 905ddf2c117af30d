//! What a device driver needs of its surroundings, and nothing else: registers, memory that the device reaches, and
//! the time; how a driver learns of what the device has done ([`look`]); and what servers of devices limit rates by
//! ([`rate`]).
//!
//! Drivers are generic over these traits. In a VM they are pages that the kernel mapped; in tests they are a device of
//! the emulator, reached through a socket. So the same driver runs in both.
//!
//! What comes from a register or from shared memory was written by a device that is not trusted: drivers use it as an
//! allegation, never as an index or a length that is not checked.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "fake"))]
extern crate std;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod look;
pub mod rate;

use core::ops::Add;

/// Bytes of a page: the unit in which an I/O address space is mapped.
pub const PAGE_BYTES: u64 = 4096;

/// An address as the device sees it, translated by its I/O address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoAddress(pub u64);

impl IoAddress {
    /// The offset within its page, in bytes.
    #[must_use]
    pub const fn page_offset(self) -> u64 {
        self.0 % PAGE_BYTES
    }
}

impl Add<u64> for IoAddress {
    type Output = IoAddress;

    /// So many bytes further; wraps at the end of the address space, where nothing is mapped.
    fn add(self, bytes: u64) -> IoAddress {
        IoAddress(self.0.wrapping_add(bytes))
    }
}

/// The registers of one BAR. Offsets are in bytes and multiples of the width. Every access reaches the device, in
/// program order, after all earlier stores to [`DmaMemory`].
pub trait Registers {
    /// Reads 32 bits. An offset beyond the BAR gives all ones, as a missing device does.
    fn read32(&self, offset: u32) -> u32;
    /// Writes 32 bits. An offset beyond the BAR does nothing.
    fn write32(&self, offset: u32, value: u32);
}

impl<R: Registers> Registers for &R {
    #[inline(always)]
    fn read32(&self, offset: u32) -> u32 {
        (**self).read32(offset)
    }

    #[inline(always)]
    fn write32(&self, offset: u32, value: u32) {
        (**self).write32(offset, value);
    }
}

/// The time, and a way to let it pass.
pub trait Clock {
    /// Nanoseconds since some moment.
    fn now_ns(&self) -> u64;
    /// Waits a little, at most until the device raises an interrupt.
    fn pause(&self);

    /// Waits so many times as long, or a little shorter: each look at what takes long costs something, too.
    fn pause_times(&self, times: u32) {
        (0..times).for_each(|_| self.pause());
    }
}

impl<C: Clock> Clock for &C {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }

    fn pause(&self) {
        (**self).pause();
    }

    fn pause_times(&self, times: u32) {
        (**self).pause_times(times);
    }
}

/// Memory that both the driver and its device reach, as little-endian 64-bit words; contiguous for both, which within
/// one page it always is.
///
/// The device sees stores in program order. A load sees what the device had written when it made an earlier loaded word
/// visible (on x86 plain accesses do; the implementation keeps the compiler from reordering them).
pub trait DmaMemory {
    /// Where the device sees the first byte. A multiple of [`PAGE_BYTES`].
    fn io_address(&self) -> IoAddress;
    /// How many words there are.
    fn words(&self) -> usize;
    /// Reads a word; 0 beyond the end.
    fn load(&self, word: usize) -> u64;
    /// Writes a word; nothing beyond the end.
    fn store(&self, word: usize, value: u64);
    /// Writes the `K` words of a row, which begins at word `K * row`, in their order; nothing if a part of it is beyond
    /// the end. Hot paths write descriptors by this, so an implementation does well to check its bounds once.
    #[inline(always)]
    fn store_row<const K: usize>(&self, row: usize, values: [u64; K]) {
        let first = row.saturating_mul(K);
        if first.saturating_add(K) <= self.words() {
            for (word, value) in (first..).zip(values) {
                self.store(word, value);
            }
        }
    }
}

impl<M: DmaMemory> DmaMemory for &M {
    #[inline(always)]
    fn io_address(&self) -> IoAddress {
        (**self).io_address()
    }

    #[inline(always)]
    fn words(&self) -> usize {
        (**self).words()
    }

    #[inline(always)]
    fn load(&self, word: usize) -> u64 {
        (**self).load(word)
    }

    #[inline(always)]
    fn store(&self, word: usize, value: u64) {
        (**self).store(word, value);
    }

    #[inline(always)]
    fn store_row<const K: usize>(&self, row: usize, values: [u64; K]) {
        (**self).store_row(row, values);
    }
}

/// A piece of memory that both its holder and a device reach, contiguous for both. Whoever holds the value may look at
/// the bytes; a driver that lends the memory to a device holds the value meanwhile, and looks at nothing.
pub trait DmaBuffer {
    /// Where the device sees the first byte.
    fn io_address(&self) -> IoAddress;
    /// Bytes that it has.
    fn capacity(&self) -> usize;
    /// Shows the first `bytes` bytes, or all if it has fewer.
    fn read<T>(&self, bytes: usize, look: impl FnOnce(&[u8]) -> T) -> T;
    /// Lets the first `bytes` bytes, or all if it has fewer, be written. What was in them before is of no meaning.
    fn write<T>(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> T) -> T;
}
