//! From hashes to items: a hash table that grows and shrinks by one bucket at a time.
//!
//! Linear hashing (Litwin 1980): there are between `half` and twice as many buckets; the next one to come takes its share
//! from one other bucket. So no operation pays for all items. Buckets are chains through the entries. The hash is keyed
//! by the caller, so a client can't make long chains.

use alloc::vec;
use alloc::vec::Vec;

use crate::entries::{Entries, EntryId};

/// Buckets at the start and at least. A power of two.
pub(crate) const LEAST: usize = 256;

/// Buckets that go with an item at most, when there are too many: enough to keep up with any number of removals.
const MOST_MERGES: usize = 4;

/// The table of buckets.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<EntryId>,
    /// The largest power of two that is not larger than the number of buckets.
    half: usize,
    items: usize,
}

impl Index {
    pub fn new() -> Index {
        Index { buckets: vec![EntryId::NONE; LEAST], half: LEAST, items: 0 }
    }

    /// Items in the table.
    pub fn items(&self) -> usize {
        self.items
    }

    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Bytes of the table.
    pub fn table_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<EntryId>()
    }

    fn bucket(&self, hash: u32) -> usize {
        let wide = hash as usize & (2 * self.half - 1);
        if wide < self.buckets.len() { wide } else { wide & (self.half - 1) }
    }

    /// The entry with this hash that is the right one.
    pub fn find(&self, hash: u32, entries: &Entries, is_right: impl Fn(EntryId) -> bool) -> Option<EntryId> {
        let mut id = self.buckets[self.bucket(hash)];
        while id.is_some() {
            let entry = entries.get(id);
            if entry.hash == hash && is_right(id) {
                return Some(id);
            }
            id = entry.chain;
        }
        None
    }

    pub fn insert(&mut self, id: EntryId, entries: &mut Entries) {
        self.items += 1;
        if self.items > self.buckets.len() {
            self.split(entries);
        }
        self.push(id, entries);
    }

    /// Puts an entry where another one is, which has the same hash.
    pub fn replace(&mut self, old: EntryId, new: EntryId, entries: &mut Entries) {
        entries.get_mut(new).chain = entries.get(old).chain;
        self.redirect(old, new, entries);
    }

    /// Lets what leads to an entry in its chain lead to this one instead.
    fn redirect(&mut self, id: EntryId, to: EntryId, entries: &mut Entries) {
        let bucket = self.bucket(entries.get(id).hash);
        let mut before = self.buckets[bucket];
        if before == id {
            self.buckets[bucket] = to;
            return;
        }
        while before.is_some() {
            let entry = entries.get_mut(before);
            if entry.chain == id {
                entry.chain = to;
                return;
            }
            before = entry.chain;
        }
    }

    pub fn remove(&mut self, id: EntryId, entries: &mut Entries) {
        self.redirect(id, entries.get(id).chain, entries);
        self.items -= 1;
        for _ in 0..MOST_MERGES {
            if self.items < self.buckets.len() / 4 && self.buckets.len() > LEAST {
                self.merge(entries);
            }
        }
    }

    /// Every entry of a bucket: for [`crate::check`].
    pub fn bucket_of(&self, hash: u32) -> EntryId {
        self.buckets[self.bucket(hash)]
    }

    fn push(&mut self, id: EntryId, entries: &mut Entries) {
        let bucket = self.bucket(entries.get(id).hash);
        entries.get_mut(id).chain = self.buckets[bucket];
        self.buckets[bucket] = id;
    }

    /// Adds a bucket, and deals out again the one that it takes from.
    fn split(&mut self, entries: &mut Entries) {
        let from = self.buckets.len() - self.half;
        self.buckets.push(EntryId::NONE);
        let chain = core::mem::replace(&mut self.buckets[from], EntryId::NONE);
        self.deal(chain, entries);
        if self.buckets.len() == 2 * self.half {
            self.half *= 2;
        }
    }

    /// Takes the last bucket away, and puts its entries where they came from.
    fn merge(&mut self, entries: &mut Entries) {
        if self.buckets.len() == self.half {
            self.half /= 2;
        }
        let chain = self.buckets.pop().unwrap_or(EntryId::NONE);
        self.deal(chain, entries);
        if self.buckets.len() < self.buckets.capacity() / 4 {
            self.buckets.shrink_to(self.buckets.len() * 2);
        }
    }

    fn deal(&mut self, mut chain: EntryId, entries: &mut Entries) {
        while chain.is_some() {
            let after = entries.get(chain).chain;
            self.push(chain, entries);
            chain = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::Entry;

    #[test]
    fn entries_are_found_while_the_table_grows_and_shrinks() {
        let (mut index, mut entries) = (Index::new(), Entries::new());
        let hash = |number: u32| number.wrapping_mul(0x9e37_79b9);
        let mut ids: Vec<EntryId> = (0..5000).map(|number| entries.insert(Entry::new(hash(number), 1, 0))).collect();
        let found = |index: &Index, entries: &Entries, ids: &[EntryId], number: u32| {
            index.find(hash(number), entries, |id| id == ids[number as usize]).is_some()
        };
        for number in 0..5000 {
            index.insert(ids[number as usize], &mut entries);
            assert!(found(&index, &entries, &ids, number) && found(&index, &entries, &ids, number / 2));
        }
        assert_eq!((index.items(), index.buckets()), (5000, 5000));
        for number in 0..5000 {
            let old = ids[number as usize];
            ids[number as usize] = entries.insert(Entry::new(hash(number), 1, 0));
            index.replace(old, ids[number as usize], &mut entries);
            assert!(
                found(&index, &entries, &ids, number) && index.find(hash(number), &entries, |id| id == old).is_none()
            );
            assert!(found(&index, &entries, &ids, number / 2) && found(&index, &entries, &ids, 4999));
        }
        assert_eq!((index.items(), index.buckets()), (5000, 5000));
        for number in 0..5000 {
            index.remove(ids[number as usize], &mut entries);
            assert!(!found(&index, &entries, &ids, number));
            assert!(number == 4999 || found(&index, &entries, &ids, 4999));
        }
        assert_eq!(index.items(), 0);
        assert!(index.buckets() < 300 && index.table_bytes() < 8192);
    }
}
