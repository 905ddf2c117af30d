//! The memory of the store: pages of leases and of the base, by dense numbers.
//!
//! A page is here from when it was mapped until before it is given back. One that the market takes by force is gone at
//! once, and whoever uses it then is stopped; so notices are answered in time (`serve`).

use alloc::vec::Vec;
use core::ptr::{NonNull, with_exposed_provenance_mut};

use kv_server::kv_engine::{PAGE_BYTES, PageNumber, Pages};
use userlib::pager::{Pager, PagerError};

type Page = [u8; PAGE_BYTES];

/// Pages that are mapped one to one, for the store alone.
#[derive(Debug, Default)]
pub struct MappedPages {
    /// By number.
    places: Vec<Option<NonNull<Page>>>,
    /// Numbers without a page.
    free: Vec<u32>,
}

impl MappedPages {
    /// Takes a lease of one page; `None` if there is no such lease. The application must use it for nothing else.
    pub fn add_lease(&mut self, pager: &Pager, lease: u32) -> Option<PageNumber> {
        let address = pager.address(lease)?;
        // SAFETY: the pager has mapped a page at least there, leases are used by the store alone, and `remove` comes first.
        unsafe { self.add(address) }
    }

    /// Takes pages of the base, for good.
    ///
    /// # Errors
    /// When the base does not have as many.
    pub fn add_base(&mut self, pager: &mut Pager, pages: u32) -> Result<Vec<PageNumber>, PagerError> {
        let first = pager.map_base(pages)?;
        let addresses = (0..u64::from(pages)).map(|page| first + page * PAGE_BYTES as u64);
        // SAFETY: just mapped there, for this alone, for as long as the VM lives.
        Ok(addresses.filter_map(|address| unsafe { self.add(address) }).collect())
    }

    /// Takes the page at this address.
    ///
    /// # Safety
    /// It is mapped, page-aligned, and used by nothing else until [`MappedPages::remove`].
    unsafe fn add(&mut self, address: u64) -> Option<PageNumber> {
        let place = NonNull::new(with_exposed_provenance_mut(address as usize))?;
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.places.push(None);
                u32::try_from(self.places.len() - 1).ok()?
            }
        };
        *self.places.get_mut(number as usize)? = Some(place);
        Some(PageNumber(number))
    }

    /// Forgets a page, which the store must not have any more.
    pub fn remove(&mut self, page: PageNumber) {
        if self.places.get_mut(page.0 as usize).and_then(Option::take).is_some() {
            self.free.push(page.0);
        }
    }

    /// Where a page is. The store asks only for pages that it was lent, and these are there.
    fn place(&self, page: PageNumber) -> NonNull<Page> {
        self.places.get(page.0 as usize).copied().flatten().expect("the store uses pages that it was lent")
    }
}

impl Pages for MappedPages {
    fn page(&self, page: PageNumber) -> &Page {
        // SAFETY: see `add`; all that is ever in it are plain bytes.
        unsafe { self.place(page).as_ref() }
    }

    fn page_mut(&mut self, page: PageNumber) -> &mut Page {
        // SAFETY: see `add`; no two numbers have the same page, and `self` is borrowed uniquely.
        unsafe { self.place(page).as_mut() }
    }

    fn copy(&mut self, from: (PageNumber, usize), to: (PageNumber, usize), length: usize) {
        let source = from.1..from.1 + length;
        if from.0 == to.0 {
            self.page_mut(to.0).copy_within(source, to.1);
        } else {
            // SAFETY: as for `page` and `page_mut`: two pages, of which one is written.
            let (from, page) = unsafe { (self.place(from.0).as_ref(), self.place(to.0).as_mut()) };
            page[to.1..to.1 + length].copy_from_slice(&from[source]);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::boxed::Box;

    impl MappedPages {
        /// A page of the heap, which stays.
        pub(crate) fn add_boxed(&mut self) -> PageNumber {
            let page = Box::leak(Box::new([0u8; PAGE_BYTES]));
            // SAFETY: leaked, and named by nothing else. (It need not be aligned for what the store does.)
            unsafe { self.add((&raw mut *page).expose_provenance() as u64) }.expect("not at 0")
        }
    }

    #[test]
    fn numbers_are_dense_and_pages_do_not_overlap() {
        let mut pages = MappedPages::default();
        let [a, b, c] = [(); 3].map(|()| pages.add_boxed());
        assert_eq!([a, b, c].map(|page| page.0), [0, 1, 2]);
        for (page, byte) in [(a, 1), (b, 2), (c, 3)] {
            pages.page_mut(page).fill(byte);
        }
        pages.remove(b);
        pages.remove(b);
        let d = pages.add_boxed();
        assert_eq!((d, pages.add_boxed().0), (b, 3));
        pages.copy((a, 0), (d, 4000), 96);
        pages.copy((c, 0), (c, 100), 50);
        assert_eq!((pages.page(d)[3999], pages.page(d)[4000], pages.page(a)[0], pages.page(c)[120]), (0, 1, 1, 3));
    }
}
