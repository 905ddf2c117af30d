//! The heap behind `alloc`: talc, over the image's first heap and whatever is claimed later. Upcalls may allocate, too, so
//! that every use of it keeps them away.

use core::alloc::{GlobalAlloc, Layout};

use talc::{ErrOnOom, Span, Talc, Talck};

use crate::upcalls;

/// A heap of several pieces.
pub struct Heap(Talck<spin::Mutex<()>, ErrOnOom>);

/// A piece of memory that belongs to a heap.
#[derive(Debug)]
pub struct Piece(Span);

impl Heap {
    /// A heap without memory.
    pub const fn new() -> Heap {
        Heap(Talc::new(ErrOnOom).lock())
    }

    /// Gives the heap memory. `None` if it is too small to be of use.
    ///
    /// # Safety
    /// The memory must be the heap's alone, readable and writable, until [`Heap::take_back`] has returned it.
    pub unsafe fn claim(&self, base: *mut u8, bytes: usize) -> Option<Piece> {
        let _masked = upcalls::mask();
        // SAFETY: as the caller says.
        unsafe { self.0.lock().claim(Span::from_base_size(base, bytes)).ok().map(Piece) }
    }

    /// Takes a piece back if nothing is allocated in it; else it stays. The first piece always stays: the heap's own
    /// tables are in it.
    pub fn take_back(&self, piece: Piece) -> Result<(), Piece> {
        let _masked = upcalls::mask();
        let mut heap = self.0.lock();
        // SAFETY: the span is what `claim` returned for a piece that is still claimed.
        unsafe {
            if !heap.get_allocated_span(piece.0).is_empty() {
                return Err(piece);
            }
            heap.truncate(piece.0, Span::empty());
        }
        Ok(())
    }
}

impl Default for Heap {
    fn default() -> Heap {
        Heap::new()
    }
}

// SAFETY: talc's lock is such an allocator, and no upcall comes while it is held.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _masked = upcalls::mask();
        // SAFETY: the caller's duties are the same.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _masked = upcalls::mask();
        // SAFETY: the caller's duties are the same.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let _masked = upcalls::mask();
        // SAFETY: the caller's duties are the same.
        unsafe { self.0.realloc(memory, layout, bytes) }
    }
}

/// The program's heap.
#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Heap = Heap::new();

/// Gives the program's heap memory.
///
/// # Safety
/// As for [`Heap::claim`].
pub unsafe fn claim(base: *mut u8, bytes: usize) -> Option<Piece> {
    // SAFETY: as the caller says.
    unsafe { HEAP.claim(base, bytes) }
}

/// Takes a piece of the program's heap back if nothing is allocated in it.
pub fn take_back(piece: Piece) -> Result<(), Piece> {
    HEAP.take_back(piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_piece_comes_back_only_when_it_is_empty() {
        let heap = Heap::new();
        let mut memory: Vec<u64> = std::vec![0; 3 * 8192];
        let mut pieces = Vec::new();
        for part in memory.chunks_mut(8192) {
            // SAFETY: the parts live to the end of the test and are used by the heap alone.
            pieces.push(unsafe { heap.claim(part.as_mut_ptr().cast(), 65536) }.expect("large enough"));
        }
        let layout = Layout::from_size_align(50_000, 16).unwrap();
        // SAFETY: the layout is not empty.
        let blocks: Vec<_> = (0..3).map(|_| unsafe { heap.alloc(layout) }).collect();
        assert!(blocks.iter().all(|block| !block.is_null()));
        // SAFETY: as above.
        assert!(unsafe { heap.alloc(layout) }.is_null(), "no fourth block fits");
        let pieces: Vec<_> = pieces.into_iter().map(|piece| heap.take_back(piece).expect_err("in use")).collect();
        for block in blocks {
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(block, layout) };
        }
        let left: Vec<_> = pieces.into_iter().map(|piece| heap.take_back(piece).is_err()).collect();
        assert_eq!(left, [true, false, false], "all but the first");
        // SAFETY: as above.
        let blocks: Vec<_> = (0..2).map(|_| unsafe { heap.alloc(layout) }).collect();
        assert!(!blocks[0].is_null() && blocks[1].is_null());
    }
}
