//! Pages lent and given back, and chunks for items.

use crate::chunks::{Chunk, Use};
use crate::classes::{CLASSES, Class, MOST_CHUNKS};
use crate::cold::Cold;
use crate::entries::{EntryId, Marks};
use crate::pages::{PAGE_BYTES, PageNumber, Pages};
use crate::store::Store;

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
        let given = self.vacate(page);
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

    /// A chunk for this entry, if need be at the cost of others. `None` if there is no memory at all, or if the entry has
    /// lost its own.
    pub(super) fn allocate(&mut self, class: Class, owner: EntryId) -> Option<Chunk> {
        // A round evicts an item of the class, or all that is worth least in a page, which then becomes one of the class.
        for _ in 0..2 {
            if let Some(chunk) = self.chunks.take(class, owner) {
                return Some(chunk);
            }
            let oldest = self.oldest(owner)?;
            match self.oldest_of(class, owner) {
                Some(of_class) if !self.is_much_older(oldest, of_class) => self.evict(of_class),
                _ => {
                    self.vacate(self.entries.get(oldest).first.page());
                }
            }
            if self.entries.get(owner).marks.has(Marks::GONE) {
                return None;
            }
        }
        self.chunks.take(class, owner)
    }

    pub(super) fn free_chunks(&mut self, first: Chunk) {
        let mut chunk = first;
        while chunk.is_some() {
            let next = self.chunks.next(chunk);
            self.chunks.give(chunk);
            chunk = next;
        }
    }

    /// The item that was not used for longest, but for one.
    fn oldest(&self, but: EntryId) -> Option<EntryId> {
        let oldest = (0..CLASSES as Class).filter_map(|class| self.oldest_of(class, but));
        oldest.max_by_key(|id| self.age(*id))
    }

    /// The same of one class.
    fn oldest_of(&self, class: Class, but: EntryId) -> Option<EntryId> {
        let oldest = self.entries.oldest(class)?;
        if oldest == but { self.entries.newer(oldest) } else { Some(oldest) }
    }

    /// How long ago it was used, in steps of accesses.
    pub(super) fn age(&self, id: EntryId) -> u32 {
        self.stamp().wrapping_sub(self.entries.get(id).stamp)
    }

    /// True if the first is so much older that a page should change its class.
    fn is_much_older(&self, first: EntryId, second: EntryId) -> bool {
        self.age(first) / 2 > self.age(second)
    }

    /// Moves out of a page what is worth it, evicts the rest. The page is free then.
    fn vacate(&mut self, page: PageNumber) -> Given {
        let mut given = Given::default();
        self.chunks.close(page);
        for index in 0..MOST_CHUNKS {
            let Some((chunk, owner)) = self.chunks.owner_at(page, index) else { continue };
            if let Some(to) = self.room_for(chunk, owner, &mut given) {
                self.move_chunk(chunk, to, owner);
                given.moved += 1;
                self.counters.chunks_moved += 1;
            } else {
                self.evict(owner);
                given.evicted += 1;
            }
        }
        given
    }

    /// A chunk elsewhere for what is in this one, if need be at the cost of what was not used for longer.
    fn room_for(&mut self, chunk: Chunk, owner: EntryId, given: &mut Given) -> Option<Chunk> {
        if self.entries.get(owner).marks.has(Marks::LINKED) && self.is_dead(owner) {
            return None;
        }
        let class = self.chunks.class(chunk);
        // Each round evicts an item in this page, or one in another page, which makes room.
        for _ in 0..=MOST_CHUNKS {
            if let Some(to) = self.chunks.take(class, owner) {
                return Some(to);
            }
            let coldest = self.entries.oldest(class)?;
            let is_colder =
                if self.entries.class(owner) == class { coldest != owner } else { self.age(coldest) > self.age(owner) };
            if !is_colder {
                return None;
            }
            self.evict(coldest);
            given.evicted += 1;
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
            self.entries.get_mut(owner).first = to;
        } else {
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
