//! Pages lent and given back, and chunks for items.
//!
//! With a second tier, what has to leave memory goes there if it can (`tier`), and the last free pages are for the keys that
//! stay behind.

use crate::chunks::{Chunk, Use};
use crate::classes::{CLASSES, Class, MOST_CHUNKS};
use crate::cold::Cold;
use crate::entries::{EntryId, Marks};
use crate::pages::{PAGE_BYTES, PageNumber, Pages};
use crate::store::Store;
use crate::store::tier::Retired;
use crate::time::Time;

/// Free pages that are kept for keys while there is a second tier, if so many pages are lent.
const PAGES_FOR_KEYS: usize = 1;
const LEAST_LENT: usize = 8;

/// What became of the chunks of a page that was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Chunks that were moved to other pages.
    pub moved: u32,
    /// Items that were evicted, in this page or to make room for what was worth more.
    pub evicted: u32,
}

impl<P: Pages, C: Cold> Store<P, C> {
    /// Takes a page into use. Its content is overwritten. False if it was in use already, or if its number is not below
    /// [`PageNumber::LIMIT`].
    pub fn add_page(&mut self, page: PageNumber) -> bool {
        self.chunks.add(page)
    }

    /// Pages that are lent.
    pub fn pages_lent(&self) -> usize {
        self.chunks.lent()
    }

    /// Pages that are lent and hold nothing.
    pub fn pages_free(&self) -> usize {
        self.chunks.free_pages()
    }

    /// The page that costs least to give back: a free one, else that of the item that was not used for longest.
    pub fn cheapest_page(&self) -> Option<PageNumber> {
        self.chunks.a_free_page().or_else(|| self.oldest(EntryId::NONE).map(|id| self.entries.get(id).first.page()))
    }

    /// Empties a page, and uses it no more. What it held moves where there is room or where it is worth more than what
    /// is there; the rest is evicted. `None` if the page was not lent. At most 64 chunks are moved, and at most 128
    /// items evicted.
    pub fn give_back(&mut self, page: PageNumber) -> Option<Given> {
        if self.chunks.usage(page) == Use::Absent {
            return None;
        }
        let given = self.vacate(page, true);
        self.chunks.remove(page);
        self.counters.pages_given_back += 1;
        Some(given)
    }

    /// The page is gone already: its content can't be read any more. The items in it are dropped.
    pub fn lost(&mut self, page: PageNumber) {
        if self.chunks.usage(page) == Use::Absent {
            return;
        }
        self.chunks.close(page);
        for index in 0..MOST_CHUNKS {
            if let Some((_, owner)) = self.chunks.owner_at(page, index) {
                self.counters.items_lost += 1;
                self.evict(owner);
            }
        }
        self.chunks.remove(page);
    }

    /// Lets pages become free until so many are, by what the second tier takes and by moving; nothing is evicted while there
    /// is memory for keys and for what the tier does not take. True if they are; false if the tier takes no more now, or
    /// nothing is left that it could take.
    pub fn make_room(&mut self, now: Time, pages: usize) -> bool {
        self.set_time(now);
        for _ in 0..self.chunks.lent() {
            if self.chunks.free_pages() >= pages {
                return true;
            }
            // For what is in one page, in pages of its own that are not full.
            if self.cold.room() < 2 * PAGE_BYTES {
                return false;
            }
            let Some(oldest) = self.oldest_that_goes() else { return false };
            self.empty(self.entries.get(oldest).first.page(), self.age(oldest));
        }
        false
    }

    /// Moves values out of a page to the second tier, and the rest elsewhere: what that does not take, and what was used much
    /// later than such an age says, if there is a chunk for it.
    fn empty(&mut self, page: PageNumber, age: u32) {
        self.chunks.close(page);
        self.counters.slabs_moved += 1;
        for index in 0..MOST_CHUNKS {
            let Some((chunk, owner)) = self.chunks.owner_at(page, index) else { continue };
            let class = self.chunks.class(chunk);
            let stays = self.age(owner) < age / 2 && self.chunks.has_room(class);
            if !stays && self.goes(owner) && self.shelve(owner).is_some() {
                continue;
            }
            match self.chunks.take(class, owner) {
                Some(to) => {
                    self.move_chunk(chunk, to, owner);
                }
                None => {
                    self.count_displaced(self.standing(owner));
                    self.evict(owner);
                }
            }
        }
    }

    /// A chunk for this entry, if need be at the cost of others. `None` if there is no memory at all, or if the entry has
    /// lost its own.
    pub(super) fn allocate(&mut self, class: Class, owner: EntryId) -> Option<Chunk> {
        // A round evicts an item of the class, or all that is worth least in a page, which then becomes one of the class.
        for _ in 0..2 {
            let kept = self.pages_for_keys();
            if (self.chunks.has_room(class) || self.chunks.free_pages() > kept)
                && let Some(chunk) = self.chunks.take(class, owner)
            {
                return Some(chunk);
            }
            let Some(oldest) = self.oldest(owner) else { break };
            self.of_class(class).direct_reclaims += 1;
            let page_suffices = self.chunks.free_pages() >= kept;
            match self.oldest_of(class, owner) {
                Some(of_class) if page_suffices && !self.is_much_older(oldest, of_class) => {
                    let is_used = self.entries.get(of_class).pins > 0;
                    self.of_class(class).lrutail_reflocked += u64::from(is_used);
                    self.retire(of_class);
                }
                _ => {
                    self.vacate(self.entries.get(oldest).first.page(), false);
                }
            }
            if self.entries.get(owner).marks.has(Marks::GONE) {
                return None;
            }
        }
        self.chunks.take(class, owner)
    }

    /// Free pages that no item gets: the keys of what goes to the second tier need them.
    fn pages_for_keys(&self) -> usize {
        if self.cold.room() >= PAGE_BYTES && self.chunks.lent() >= LEAST_LENT { PAGES_FOR_KEYS } else { 0 }
    }

    pub(super) fn free_chunks(&mut self, first: Chunk) {
        let mut chunk = first;
        while chunk.is_some() {
            let next = self.chunks.next(chunk);
            self.chunks.give(chunk);
            chunk = next;
        }
    }

    /// The item that was not used for longest, but for one. A key whose value is in the second tier is named only when there
    /// is nothing else: it is small for what it is worth.
    fn oldest(&self, but: EntryId) -> Option<EntryId> {
        let oldest = (0..CLASSES as Class).filter_map(|class| self.oldest_of(class, but));
        let cold = || (0..CLASSES as Class).filter_map(|class| self.entries.oldest_cold(class));
        oldest.max_by_key(|id| self.age(*id)).or_else(|| cold().max_by_key(|id| self.age(*id)))
    }

    /// The same of one class, of those with their value in memory.
    fn oldest_of(&self, class: Class, but: EntryId) -> Option<EntryId> {
        let oldest = self.entries.oldest(class)?;
        if oldest == but { self.entries.newer(oldest) } else { Some(oldest) }
    }

    /// How long ago it was used, in steps of accesses.
    pub(crate) fn age(&self, id: EntryId) -> u32 {
        self.stamp().wrapping_sub(self.entries.get(id).stamp)
    }

    /// True if the first is so much older that a page should change its class.
    fn is_much_older(&self, first: EntryId, second: EntryId) -> bool {
        self.age(first) / 2 > self.age(second)
    }

    /// Moves out of a page what is worth it, into free pages if `opens` says so; the rest retires. The page is free then.
    fn vacate(&mut self, page: PageNumber, opens: bool) -> Given {
        let mut given = Given::default();
        self.counters.slabs_moved += u64::from(self.chunks.usage(page) != Use::Free);
        self.chunks.close(page);
        for index in 0..MOST_CHUNKS {
            let Some((chunk, owner)) = self.chunks.owner_at(page, index) else { continue };
            if let Some(to) = self.room_for(chunk, owner, opens, &mut given) {
                self.move_chunk(chunk, to, owner);
                given.moved += 1;
            } else {
                given.evicted += self.displace(owner);
            }
        }
        given
    }

    /// Takes the memory of an item for the sake of a page that is emptied. 1 if it was evicted, else 0.
    fn displace(&mut self, id: EntryId) -> u32 {
        let standing = self.standing(id);
        let is_evicted = self.retire(id) == Retired::Evicted;
        if is_evicted {
            self.count_displaced(standing);
        }
        is_evicted.into()
    }

    /// Whether an item can be found, and whether it is in use.
    fn standing(&self, id: EntryId) -> (bool, bool) {
        let entry = self.entries.get(id);
        (entry.marks.has(Marks::LINKED) && !self.is_dead(id), entry.pins > 0)
    }

    /// Counts an item that was evicted for the sake of a page.
    fn count_displaced(&mut self, (is_valid, is_used): (bool, bool)) {
        self.counters.slab_reassign_evictions_nomem += u64::from(is_valid);
        self.counters.slab_reassign_busy_deletes += u64::from(is_used);
    }

    /// A chunk elsewhere for what is in this one, if need be at the cost of what was not used for longer.
    fn room_for(&mut self, chunk: Chunk, owner: EntryId, opens: bool, given: &mut Given) -> Option<Chunk> {
        if self.entries.get(owner).marks.has(Marks::LINKED) && self.is_dead(owner) {
            return None;
        }
        let class = self.chunks.class(chunk);
        // Each round evicts an item in this page, or one in another page, which makes room.
        for _ in 0..=MOST_CHUNKS {
            if (opens || self.chunks.has_room(class) || !self.goes(owner))
                && let Some(to) = self.chunks.take(class, owner)
            {
                return Some(to);
            }
            let oldest = [self.entries.oldest(class), self.entries.oldest_cold(class)].into_iter().flatten();
            let coldest = oldest.max_by_key(|id| self.age(*id))?;
            let is_colder =
                if self.entries.class(owner) == class { coldest != owner } else { self.age(coldest) > self.age(owner) };
            if !is_colder {
                return None;
            }
            given.evicted += self.displace(coldest);
        }
        None
    }

    /// Moves a chunk of an item.
    fn move_chunk(&mut self, from: Chunk, to: Chunk, owner: EntryId) {
        let ((start, size), (target, _)) = (self.chunks.place(from), self.chunks.place(to));
        self.pages.copy((from.page(), start), (to.page(), target), size);
        if size == PAGE_BYTES {
            let next = self.chunks.next(from);
            self.chunks.set_next(to, next);
        }
        let first = self.entries.get(owner).first;
        if first == from {
            self.counters.slab_reassign_rescues += 1;
            self.entries.get_mut(owner).first = to;
        } else {
            self.counters.slab_reassign_chunk_rescues += 1;
            let mut before = first;
            while before.is_some() && self.chunks.next(before) != from {
                before = self.chunks.next(before);
            }
            if before.is_some() {
                self.chunks.set_next(before, to);
            }
        }
        self.chunks.give(from);
    }
}
