//! Memory that somebody else can change at any time: words, read and written by value.
//!
//! This is the one module that touches shared memory. Nothing ever has a Rust reference to it: a word is loaded once
//! into a value, and that value is checked and used. The other side may be hostile; all it can do is choose the values.

use core::sync::atomic::{AtomicU64, Ordering};

/// A row of 64-bit words that somebody else may change at any time.
pub trait Words {
    /// How many there are.
    fn len(&self) -> usize;
    /// Reads one. `index < len()`.
    fn load(&self, index: usize, order: Ordering) -> u64;
    /// Writes one. `index < len()`.
    fn store(&self, index: usize, value: u64, order: Ordering);
    /// Writes one and says what was there. `index < len()`.
    fn swap(&self, index: usize, value: u64) -> u64;
    /// Orders all stores before it with all loads after it, as seen by every core.
    fn fence(&self);
    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Words at a fixed address for as long as the program runs.
#[derive(Debug)]
pub struct SharedMemory {
    base: *const AtomicU64,
    words: usize,
}

// SAFETY: words are accessed atomically, from wherever.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// The words of `bytes` bytes from `base` on; both are rounded to whole words.
    ///
    /// # Safety
    /// The range must be mapped, readable and, for stores, writable, whenever it is accessed, or the access must end in
    /// a fault that does not come back to the program; and no Rust object may live in it.
    pub const unsafe fn new(base: u64, bytes: usize) -> SharedMemory {
        SharedMemory { base: (base & !7) as *const AtomicU64, words: bytes / 8 }
    }

    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words);
        // SAFETY: in range and aligned; `new`'s caller vouches for the memory. An atomic word may be changed by others.
        unsafe { &*self.base.add(index) }
    }

    /// The `K` words of a row, which begins at word `K * row`, if all of them are there.
    #[inline(always)]
    pub fn row<const K: usize>(&self, row: usize) -> Option<&[AtomicU64; K]> {
        const { assert!(K > 0) };
        if row >= self.words / K {
            return None;
        }
        // SAFETY: in range and aligned, as for a word; the array has no other layout than its words.
        Some(unsafe { &*self.base.add(row * K).cast::<[AtomicU64; K]>() })
    }

    /// Copies bytes out, from a byte offset on; true unless the range reaches beyond the end. The bytes are read once,
    /// word by word; somebody may change them meanwhile, so they are no snapshot.
    pub fn read_bytes(&self, offset: usize, bytes: &mut [u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.words * 8) {
            return false;
        }
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.load(at / 8, Ordering::Relaxed).to_le_bytes();
            let count = (8 - at % 8).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[at % 8..at % 8 + count]);
            at += count;
            rest = later;
        }
        true
    }
}

impl Words for SharedMemory {
    fn len(&self) -> usize {
        self.words
    }

    #[inline(always)]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).load(order)
    }

    #[inline(always)]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.word(index).store(value, order);
    }

    #[inline(always)]
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.word(index).swap(value, Ordering::SeqCst)
    }

    #[inline(always)]
    fn fence(&self) {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_at_any_offset_and_never_beyond_the_end() {
        let words: [u64; 4] =
            core::array::from_fn(|at| u64::from_le_bytes(core::array::from_fn(|byte| (at * 8 + byte) as u8)));
        // SAFETY: the array outlives the view and is not written.
        let memory = unsafe { SharedMemory::new(words.as_ptr() as u64, 32) };
        for offset in 0..=32 {
            for length in 0..=32 - offset {
                let mut bytes = std::vec![0; length];
                assert!(memory.read_bytes(offset, &mut bytes));
                assert!(bytes.iter().enumerate().all(|(at, &byte)| byte as usize == offset + at));
            }
        }
        assert!(!memory.read_bytes(30, &mut [0; 3]));
        assert!(!memory.read_bytes(usize::MAX, &mut [0; 3]));
    }
}
