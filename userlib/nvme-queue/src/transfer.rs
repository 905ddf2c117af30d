//! Where the data of a command are: up to two pages by themselves, more by a list in memory (PRP lists; Base
//! Specification, 4.1.1). A transfer is worked out once per buffer, and using it costs a command nothing.

use device::{DmaMemory, IoAddress, PAGE_BYTES};

/// Bytes of an entry of a list.
const ENTRY_BYTES: u64 = 8;

/// The place of a command's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    pub(crate) first: IoAddress,
    pub(crate) second: IoAddress,
    bytes: u32,
}

impl Transfer {
    /// No data.
    pub const NONE: Transfer = Transfer { first: IoAddress(0), second: IoAddress(0), bytes: 0 };

    /// `bytes` from `offset`, a multiple of 4, within the first of these pages on. Pages are named by their I/O addresses,
    /// and need not be neighbours. `None` if the data do not reach exactly into the last page, or more than two pages are
    /// named: those need a list.
    #[must_use]
    pub fn in_pages(pages: &[IoAddress], offset: u16, bytes: u32) -> Option<Transfer> {
        check(pages, offset, bytes)?;
        match *pages {
            [first] => Some(Transfer { first: first + u64::from(offset), second: IoAddress(0), bytes }),
            [first, second] => Some(Transfer { first: first + u64::from(offset), second, bytes }),
            _ => None,
        }
    }

    /// How many bytes.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// Pages are whole, and the data fill them exactly from the offset on.
fn check(pages: &[IoAddress], offset: u16, bytes: u32) -> Option<()> {
    let offset = u64::from(offset);
    let end = offset + u64::from(bytes);
    let fits = end.div_ceil(PAGE_BYTES) == pages.len() as u64;
    let is_aligned = offset.is_multiple_of(4) && pages.iter().all(|page| page.page_offset() == 0);
    (bytes > 0 && offset < PAGE_BYTES && fits && is_aligned).then_some(())
}

/// Lists of pages, in memory that the controller reads. Each is as long as the others and serves one transfer, which
/// must not be used once its list is written anew.
#[derive(Debug)]
pub struct PrpLists<M> {
    memory: M,
    entries: usize,
}

impl<M: DmaMemory> PrpLists<M> {
    /// Divides memory into lists of so many entries, a power of two from 2 to 512, which is one page. A list serves
    /// transfers of one page more than it has entries.
    #[must_use]
    pub fn new(memory: M, entries: usize) -> Option<PrpLists<M>> {
        let possible = entries.is_power_of_two() && entries >= 2 && entries as u64 <= PAGE_BYTES / ENTRY_BYTES;
        possible.then_some(PrpLists { memory, entries })
    }

    /// How many lists there are.
    #[must_use]
    pub fn lists(&self) -> usize {
        self.memory.words() / self.entries
    }

    /// As [`Transfer::in_pages`], for any number of pages that the list has room for. `None` also if there is no such
    /// list.
    #[must_use]
    pub fn transfer(&self, list: usize, pages: &[IoAddress], offset: u16, bytes: u32) -> Option<Transfer> {
        let (first, rest) = pages.split_first()?;
        if rest.len() < 2 {
            return Transfer::in_pages(pages, offset, bytes);
        }
        check(pages, offset, bytes)?;
        if rest.len() > self.entries || list >= self.lists() {
            return None;
        }
        let start = list * self.entries;
        for (word, page) in (start..).zip(rest) {
            self.memory.store(word, page.0);
        }
        let second = self.memory.io_address() + ENTRY_BYTES * start as u64;
        Some(Transfer { first: *first + u64::from(offset), second, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::fake::FakeMemory;

    const PAGES: [IoAddress; 5] =
        [IoAddress(0x5000), IoAddress(0x9000), IoAddress(0x1000), IoAddress(0x2000), IoAddress(0x7000)];

    #[test]
    fn up_to_two_pages_need_no_list() {
        let one = Transfer::in_pages(&PAGES[..1], 512, 3584).unwrap();
        assert_eq!((one.first, one.second, one.bytes), (IoAddress(0x5200), IoAddress(0), 3584));
        let two = Transfer::in_pages(&PAGES[..2], 512, 4096).unwrap();
        assert_eq!((two.first, two.second), (IoAddress(0x5200), IoAddress(0x9000)));
        assert_eq!(Transfer::in_pages(&PAGES[..3], 0, 3 * 4096), None);
    }

    #[test]
    fn data_that_do_not_fit_their_pages_are_refused() {
        assert_eq!(Transfer::in_pages(&PAGES[..1], 512, 3585), None);
        assert_eq!(Transfer::in_pages(&PAGES[..2], 0, 4096), None);
        assert_eq!(Transfer::in_pages(&PAGES[..1], 2, 512), None);
        assert_eq!(Transfer::in_pages(&PAGES[..1], 4096, 512), None);
        assert_eq!(Transfer::in_pages(&PAGES[..1], 0, 0), None);
        assert_eq!(Transfer::in_pages(&[], 0, 0), None);
        assert_eq!(Transfer::in_pages(&[IoAddress(0x5004)], 0, 512), None);
    }

    #[test]
    fn more_pages_have_a_list_that_stays_in_its_place() {
        let memory = FakeMemory::new(512);
        let lists = PrpLists::new(&memory, 4).unwrap();
        assert_eq!(lists.lists(), 128);
        let transfer = lists.transfer(127, &PAGES, 1024, 4 * 4096).unwrap();
        assert_eq!((transfer.first, transfer.second.0), (IoAddress(0x5400), memory.io_address().0 + 127 * 32));
        let list: Vec<u64> = (508..512).map(|word| memory.load(word)).collect();
        assert_eq!(list, [0x9000, 0x1000, 0x2000, 0x7000]);
        assert_eq!(lists.transfer(128, &PAGES, 1024, 4 * 4096), None);
        let short = PrpLists::new(&memory, 2).unwrap();
        assert_eq!(short.transfer(0, &PAGES, 1024, 4 * 4096), None);
        assert!([0, 1, 3, 1024].iter().all(|&entries| PrpLists::new(&memory, entries).is_none()));
    }
}
