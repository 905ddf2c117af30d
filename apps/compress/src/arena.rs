//! Leased pages in a row: what a compressor's state is put into.
//!
//! The pager maps pages at the lowest free address, so they form a row from the first one on. Pages are given back from
//! the end of the row, so that it stays one; a page that is taken by force makes a gap, behind which pages are of no use
//! until the next one fills it.

use alloc::vec::Vec;
use core::mem::MaybeUninit;

use userlib::pager::Pager;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Leases of one page each, by address.
#[derive(Debug, Default)]
pub struct Arena {
    /// Address and lease, in ascending order.
    pages: Vec<(u64, u32)>,
}

impl Arena {
    /// A page has arrived.
    pub fn add(&mut self, address: u64, lease: u32) {
        let at = self.pages.partition_point(|&(other, _)| other < address);
        self.pages.insert(at, (address, lease));
    }

    /// A page is gone.
    pub fn remove(&mut self, lease: u32) {
        self.pages.retain(|&(_, other)| other != lease);
    }

    /// Pages in the row, from the lowest on.
    pub fn row(&self) -> u32 {
        let in_row = |pair: &&[(u64, u32)]| pair[1].0 == pair[0].0 + PAGE;
        match self.pages.len() {
            0 => 0,
            _ => 1 + self.pages.windows(2).take_while(in_row).count() as u32,
        }
    }

    /// Pages that are here and under notice, of `noticed` in all that are. Notice can come before the pages: it is then not
    /// used up, and holds of them when they come.
    pub fn due(&self, noticed: usize) -> usize {
        noticed.min(self.pages.len())
    }

    /// Takes up to `count` pages off the end, for giving them back. Returns their leases.
    pub fn shrink(&mut self, count: usize) -> Vec<u32> {
        let keep = self.pages.len().saturating_sub(count);
        self.pages.split_off(keep).into_iter().map(|(_, lease)| lease).collect()
    }

    /// Pages in all.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The first `pages` pages of the row as memory; `None` if the row is shorter, or the pager does not have them.
    ///
    /// # Safety
    /// Until the memory is used no more, none of these pages may be used in another way or given back.
    pub unsafe fn memory<'a>(&self, pages: u32, pager: &Pager) -> Option<&'a mut [MaybeUninit<u8>]> {
        let wanted = self.pages.get(..pages as usize).filter(|_| pages > 0 && pages <= self.row())?;
        if wanted.iter().any(|&(address, lease)| pager.address(lease) != Some(address)) {
            return None;
        }
        let bytes = pages as usize * PAGE as usize;
        // SAFETY: the pager has mapped every page of the row, readable and writable, and the caller keeps it to one use.
        // Uninitialised bytes are fine for this type. A page that is taken by force faults, which stops the program.
        Some(unsafe { core::slice::from_raw_parts_mut(wanted[0].0 as *mut MaybeUninit<u8>, bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use userlib::cap::own;
    use userlib::slots::Slots;

    #[test]
    fn a_row_ends_at_a_gap_and_shrinks_from_its_end() {
        let mut arena = Arena::default();
        assert_eq!((arena.row(), arena.is_empty()), (0, true));
        for (at, lease) in [(3, 30), (0, 9), (1, 7), (2, 8), (5, 50)] {
            arena.add(0x4000_0000 + at * PAGE, lease);
        }
        assert_eq!((arena.row(), arena.len()), (4, 5));
        assert_eq!(arena.shrink(2), [30, 50]);
        assert_eq!(arena.row(), 3);
        arena.remove(7);
        assert_eq!((arena.row(), arena.len()), (1, 2));
        assert_eq!(arena.shrink(9).len(), 2);
    }

    #[test]
    fn pages_that_come_after_their_notice_are_due() {
        let mut arena = Arena::default();
        assert_eq!(arena.due(2), 0);
        assert!(arena.shrink(arena.due(2)).is_empty());
        for page in 0..3 {
            arena.add(0x4000_0000 + page * PAGE, page as u32);
        }
        assert_eq!(arena.due(2), 2);
        assert_eq!(arena.shrink(arena.due(2)), [1, 2]);
    }

    #[test]
    fn memory_that_the_pager_does_not_have_is_none() {
        let mut arena = Arena::default();
        arena.add(0x4000_0000, 1);
        let pager = Pager::new(Slots::new(64), own::BASE, own::VM);
        // SAFETY: nothing is used.
        assert!(unsafe { arena.memory(1, &pager) }.is_none());
        // SAFETY: as above.
        assert!(unsafe { arena.memory(2, &pager) }.is_none());
    }
}
