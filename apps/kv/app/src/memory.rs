//! Which lease is which page of the store: pages that come, that are given up, and that were taken.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use kv_server::kv_engine::{Cold, PageNumber, Store};
use userlib::pager::{Pager, PagerError};

use crate::pages::MappedPages;

/// The store of `kv`, with this second tier.
pub type Items<C> = Store<MappedPages, C>;

/// Bytes of the heap that the store's tables take for a page at most: 64 items, each with an entry, an owner of its chunk
/// and its part of an index that may be a quarter full, while a table that grows is there twice.
pub const TABLE_BYTES_PER_PAGE: u64 = 64 * 2 * (64 + 4 + 16);

/// As many more with a second tier, for what that knows of a value.
pub const COLD_TABLE_BYTES_PER_PAGE: u64 = 64 * 2 * (24 + 4);

/// The leases that are pages of the store.
#[derive(Debug, Default)]
pub struct Memory {
    pages: BTreeMap<u32, PageNumber>,
    leases: BTreeMap<PageNumber, u32>,
}

impl Memory {
    /// Lends the store pages of the base, for good.
    ///
    /// # Errors
    /// When the base does not have as many.
    pub fn base<C: Cold>(items: &mut Items<C>, pager: &mut Pager, pages: u32) -> Result<(), PagerError> {
        for page in items.memory_mut().add_base(pager, pages)? {
            items.add_page(page);
        }
        Ok(())
    }

    /// Lends the store a lease that has arrived.
    pub fn arrived<C: Cold>(&mut self, items: &mut Items<C>, pager: &Pager, lease: u32) {
        if let Some(page) = items.memory_mut().add_lease(pager, lease) {
            self.lend(items, lease, page);
        }
    }

    fn lend<C: Cold>(&mut self, items: &mut Items<C>, lease: u32, page: PageNumber) {
        items.add_page(page);
        self.pages.insert(lease, page);
        self.leases.insert(page, lease);
    }

    /// Pages that are leased.
    pub fn leased(&self) -> usize {
        self.pages.len()
    }

    /// Takes so many leased pages from the store, or all if it has fewer, those first that cost least; returns the leases,
    /// which nothing uses any more.
    pub fn shrink<C: Cold>(&mut self, items: &mut Items<C>, pages: usize) -> Vec<u32> {
        let mut gone = Vec::new();
        while gone.len() < pages {
            // The cheapest may be one of the base; what is worth more than other things moves there from any other.
            let cheapest = items.cheapest_page().and_then(|page| self.leases.get(&page));
            let Some(&lease) = cheapest.or_else(|| self.pages.keys().next_back()) else { break };
            self.forget(items, lease, |items, page| {
                items.give_back(page);
            });
            gone.push(lease);
        }
        gone
    }

    /// Leases were taken by force: what was in them is lost.
    pub fn taken<C: Cold>(&mut self, items: &mut Items<C>, leases: &[u32]) {
        for &lease in leases {
            self.forget(items, lease, Store::lost);
        }
    }

    fn forget<C: Cold>(&mut self, items: &mut Items<C>, lease: u32, give: impl Fn(&mut Items<C>, PageNumber)) {
        if let Some(page) = self.pages.remove(&lease) {
            self.leases.remove(&page);
            give(items, page);
            items.memory_mut().remove(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_server::kv_engine::{Connection, NoCold, Output, Time};
    use proptest::prelude::*;

    const NOW: Time = Time::from_seconds(1_767_225_600);

    struct Text(Vec<u8>);

    impl Output for Text {
        fn room(&self) -> usize {
            1 << 20
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.extend(bytes);
        }
    }

    fn ask(items: &mut Items<NoCold>, connection: &mut Connection, line: &str) -> Vec<u8> {
        let mut output = Text(Vec::new());
        let mut input = line.as_bytes();
        while !input.is_empty() {
            let progress = connection.receive(items, NOW, input, &mut output);
            input = &input[progress.consumed..];
        }
        output.0
    }

    proptest! {
        /// Whatever becomes of the pages, what is found is what was stored last, and no page is used that is not there.
        #[test]
        fn what_is_found_was_stored(steps in prop::collection::vec((0u32..30, 0u8..12, 1usize..5), 1..300)) {
            let mut items = Store::new(MappedPages::default(), NoCold, &[7; 16], NOW);
            let mut memory = Memory::default();
            let mut connection = Connection::new(&mut items);
            let base = items.memory_mut().add_boxed();
            items.add_page(base);
            let mut next_lease = 0;
            let (mut stored, mut held) = (BTreeMap::new(), Vec::new());
            for (at, (key, what, count)) in steps.into_iter().enumerate() {
                match what {
                    0..=2 => {
                        let page = items.memory_mut().add_boxed();
                        memory.lend(&mut items, next_lease, page);
                        held.push(next_lease);
                        next_lease += 1;
                    }
                    3 => {
                        let gone = memory.shrink(&mut items, count);
                        prop_assert_eq!(gone.len(), count.min(held.len()));
                        held.retain(|lease| !gone.contains(lease));
                    }
                    4 => {
                        let mut taken: Vec<u32> = held.iter().copied().step_by(2).take(count).collect();
                        held.retain(|lease| !taken.contains(lease));
                        taken.push(1_000_000);
                        memory.taken(&mut items, &taken);
                    }
                    5..=8 => {
                        let value = alloc::format!("{at:0width$}", width = 200 * count);
                        let line = alloc::format!("set k{key} 0 0 {}\r\n{value}\r\n", value.len());
                        let answer = ask(&mut items, &mut connection, &line);
                        prop_assert_eq!(&answer[..], b"STORED\r\n");
                        stored.insert(key, value);
                    }
                    _ => {
                        let answer = ask(&mut items, &mut connection, &alloc::format!("get k{key}\r\n"));
                        if answer != b"END\r\n" {
                            let value = stored.get(&key).expect("it was stored");
                            let expected = alloc::format!("VALUE k{key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
                            prop_assert_eq!(&answer[..], expected.as_bytes());
                        }
                    }
                }
                prop_assert_eq!(memory.leased(), held.len());
                prop_assert_eq!(items.pages_lent(), held.len() + 1);
            }
            connection.close(&mut items);
        }
    }
}
