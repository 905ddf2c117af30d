//! The memory that items live in: 4 KiB pages that the caller lends, by number.
//!
//! The engine asks for a page only while it has it: between [`crate::Store::add_page`] and
//! [`crate::Store::give_back`] or [`crate::Store::lost`].

use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// The caller's number of a page. The engine keeps a table over them, so they should be dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u32);

impl PageNumber {
    /// Page numbers are below this: 256 GiB.
    pub const LIMIT: u32 = 1 << 26;
}

/// What turns page numbers into memory.
pub trait Pages {
    /// The page's bytes.
    fn page(&self, page: PageNumber) -> &[u8; PAGE_BYTES];

    /// The page's bytes, to be written.
    fn page_mut(&mut self, page: PageNumber) -> &mut [u8; PAGE_BYTES];

    /// Copies bytes from a place (page and offset) to another, which does not overlap it. Both lie within their pages.
    fn copy(&mut self, from: (PageNumber, usize), to: (PageNumber, usize), length: usize);
}

/// Pages on the heap, for tests and servers on an ordinary operating system.
#[derive(Debug, Default)]
pub struct HeapPages(Vec<Box<[u8; PAGE_BYTES]>>);

impl HeapPages {
    /// So many pages, numbered from 0.
    pub fn new(count: usize) -> HeapPages {
        HeapPages((0..count).map(|_| Box::new([0; PAGE_BYTES])).collect())
    }
}

impl Pages for HeapPages {
    fn page(&self, page: PageNumber) -> &[u8; PAGE_BYTES] {
        &self.0[page.0 as usize]
    }

    fn page_mut(&mut self, page: PageNumber) -> &mut [u8; PAGE_BYTES] {
        &mut self.0[page.0 as usize]
    }

    fn copy(&mut self, from: (PageNumber, usize), to: (PageNumber, usize), length: usize) {
        let source = from.1..from.1 + length;
        if from.0 == to.0 {
            self.page_mut(to.0).copy_within(source, to.1);
        } else if let Ok([from, page]) = self.0.get_disjoint_mut([from.0.0 as usize, to.0.0 as usize]) {
            page[to.1..to.1 + length].copy_from_slice(&from[source]);
        }
    }
}
