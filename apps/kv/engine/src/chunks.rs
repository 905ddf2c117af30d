//! Which chunk of which page belongs to which item.
//!
//! What the engine knows about a page lies here, outside of the page, so that a page that is already gone can be given
//! up without being read. Invariants (checked by [`crate::check`]): a page is absent, free, or of one class; its free
//! chunks are found through its class's list of pages with room; every used chunk has one owner.

use alloc::vec::Vec;

use crate::classes::{self, CLASSES, Class, WHOLE};
use crate::entries::EntryId;
use crate::pages::{PAGE_BYTES, PageNumber};

/// Bits of a chunk's name that are its number within the page.
const INDEX_BITS: u32 = 6;

/// A chunk: page and number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk(u32);

impl Chunk {
    /// No chunk.
    pub const NONE: Chunk = Chunk(u32::MAX);

    fn new(page: PageNumber, index: u32) -> Chunk {
        Chunk(page.0 << INDEX_BITS | index)
    }

    pub fn page(self) -> PageNumber {
        PageNumber(self.0 >> INDEX_BITS)
    }

    pub fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    pub fn is_some(self) -> bool {
        self != Chunk::NONE
    }
}

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Not lent.
    Absent,
    /// Lent, without chunks.
    Free,
    /// Divided into chunks.
    Class(Class),
    /// As `Class`, but no chunk is taken from it any more.
    Closed(Class),
}

/// No page, in a list.
const END: u32 = u32::MAX;

/// What is known about a page.
#[derive(Debug)]
struct Page {
    usage: Use,
    /// Chunks in use, one bit each.
    used: u64,
    /// Of the one chunk of a page of the class `WHOLE`: where its item goes on.
    next: Chunk,
    /// Neighbours in the list of free pages or of pages with room.
    before: u32,
    after: u32,
    owners: Vec<EntryId>,
}

/// All pages and their chunks.
#[derive(Debug)]
pub(crate) struct Chunks {
    pages: Vec<Page>,
    /// The first free page.
    free: u32,
    /// The first page with room, by class.
    room: [u32; CLASSES],
    lent: usize,
    free_pages: usize,
    /// Pages and used chunks by class.
    counts: [Count; CLASSES],
    /// Owners that the pages' tables have room for.
    owners: usize,
}

/// What a class has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub pages: u64,
    pub used: u64,
}

impl Chunks {
    pub fn new() -> Chunks {
        Chunks {
            pages: Vec::new(),
            free: END,
            room: [END; CLASSES],
            lent: 0,
            free_pages: 0,
            counts: [Count::default(); CLASSES],
            owners: 0,
        }
    }

    /// Pages that are lent.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Pages that are lent and hold nothing.
    pub fn free_pages(&self) -> usize {
        self.free_pages
    }

    pub fn a_free_page(&self) -> Option<PageNumber> {
        (self.free != END).then_some(PageNumber(self.free))
    }

    pub fn count(&self, class: Class) -> Count {
        self.counts[usize::from(class)]
    }

    /// Bytes of the tables kept about pages.
    pub fn table_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Page>() + self.owners * size_of::<EntryId>()
    }

    pub fn usage(&self, page: PageNumber) -> Use {
        self.pages.get(page.0 as usize).map_or(Use::Absent, |page| page.usage)
    }

    /// Takes a page into use. False if it already was, or its number is too large.
    pub fn add(&mut self, page: PageNumber) -> bool {
        if page.0 >= PageNumber::LIMIT || self.usage(page) != Use::Absent {
            return false;
        }
        let number = page.0 as usize;
        while self.pages.len() <= number {
            self.pages.push(Page {
                usage: Use::Absent,
                used: 0,
                next: Chunk::NONE,
                before: END,
                after: END,
                owners: Vec::new(),
            });
        }
        self.lent += 1;
        self.become_free(page.0);
        true
    }

    /// Forgets a free page.
    pub fn remove(&mut self, page: PageNumber) {
        debug_assert_eq!(self.usage(page), Use::Free);
        self.unlink(page.0);
        let record = &mut self.pages[page.0 as usize];
        record.usage = Use::Absent;
        self.owners -= record.owners.capacity();
        record.owners = Vec::new();
        self.lent -= 1;
        self.free_pages -= 1;
    }

    /// Takes no more chunks from a page. It becomes free when its last chunk is given back.
    pub fn close(&mut self, page: PageNumber) {
        if let Use::Class(class) = self.usage(page) {
            if !self.is_full(page.0) {
                self.unlink(page.0);
            }
            self.pages[page.0 as usize].usage = Use::Closed(class);
        }
    }

    /// The owners of a page's chunks, with the chunks.
    pub fn owner_at(&self, page: PageNumber, index: usize) -> Option<(Chunk, EntryId)> {
        let record = self.pages.get(page.0 as usize)?;
        let owner = *record.owners.get(index)?;
        (record.used >> index & 1 == 1).then(|| (Chunk::new(page, index as u32), owner))
    }

    /// True if a page of this class has a chunk to take, so that no free page is needed.
    pub fn has_room(&self, class: Class) -> bool {
        self.room[usize::from(class)] != END
    }

    /// A chunk of this class, from a page with room or a free page.
    pub fn take(&mut self, class: Class, owner: EntryId) -> Option<Chunk> {
        let mut number = self.room[usize::from(class)];
        if number == END {
            number = self.free;
            if number == END {
                return None;
            }
            self.unlink(number);
            self.free_pages -= 1;
            self.counts[usize::from(class)].pages += 1;
            let page = &mut self.pages[number as usize];
            page.usage = Use::Class(class);
            self.owners -= page.owners.capacity();
            page.owners.clear();
            page.owners.resize(classes::chunks_per_page(class), owner);
            self.owners += page.owners.capacity();
            self.link(number, class);
        }
        let page = &mut self.pages[number as usize];
        let index = (!page.used).trailing_zeros();
        page.used |= 1 << index;
        page.owners[index as usize] = owner;
        page.next = Chunk::NONE;
        self.counts[usize::from(class)].used += 1;
        if self.is_full(number) {
            self.unlink(number);
        }
        Some(Chunk::new(PageNumber(number), index))
    }

    /// Gives a chunk back. A page without used chunks becomes free.
    pub fn give(&mut self, chunk: Chunk) {
        let number = chunk.page().0;
        let was_full = self.is_full(number);
        let page = &mut self.pages[number as usize];
        debug_assert!(page.used >> chunk.index() & 1 == 1);
        page.used &= !(1 << chunk.index());
        let empty = page.used == 0;
        let (class, closed) = match page.usage {
            Use::Class(class) => (class, false),
            Use::Closed(class) => (class, true),
            Use::Absent | Use::Free => return,
        };
        self.counts[usize::from(class)].used -= 1;
        if empty {
            if !was_full && !closed {
                self.unlink(number);
            }
            self.counts[usize::from(class)].pages -= 1;
            self.become_free(number);
        } else if was_full && !closed {
            self.link(number, class);
        }
    }

    pub fn class(&self, chunk: Chunk) -> Class {
        match self.usage(chunk.page()) {
            Use::Class(class) | Use::Closed(class) => class,
            Use::Absent | Use::Free => WHOLE,
        }
    }

    /// Where the chunk begins in its page, and its size.
    pub fn place(&self, chunk: Chunk) -> (usize, usize) {
        let size = classes::size(self.class(chunk));
        (chunk.index() * size, size)
    }

    /// The chunk with which an item goes on after this one.
    pub fn next(&self, chunk: Chunk) -> Chunk {
        if self.place(chunk).1 < PAGE_BYTES { Chunk::NONE } else { self.pages[chunk.page().0 as usize].next }
    }

    /// Lets an item go on with `next` after `chunk`, which is a whole page.
    pub fn set_next(&mut self, chunk: Chunk, next: Chunk) {
        debug_assert_eq!(self.class(chunk), WHOLE);
        self.pages[chunk.page().0 as usize].next = next;
    }

    /// Numbers of all pages there ever were: for [`crate::check`].
    pub fn numbers(&self) -> impl Iterator<Item = PageNumber> {
        (0..self.pages.len() as u32).map(PageNumber)
    }

    /// Pages in the list of free pages, and of those with room of a class: for [`crate::check`].
    pub fn listed(&self, class: Option<Class>) -> impl Iterator<Item = PageNumber> {
        let first = class.map_or(self.free, |class| self.room[usize::from(class)]);
        let some = |number: u32| (number != END).then_some(PageNumber(number));
        core::iter::successors(some(first), move |page| some(self.pages[page.0 as usize].after))
    }

    /// Chunks in use, one bit each.
    pub fn used(&self, page: PageNumber) -> u64 {
        self.pages.get(page.0 as usize).map_or(0, |page| page.used)
    }

    fn is_full(&self, number: u32) -> bool {
        let page = &self.pages[number as usize];
        page.used.count_ones() as usize == page.owners.len()
    }

    fn become_free(&mut self, number: u32) {
        let first = self.free;
        let page = &mut self.pages[number as usize];
        page.usage = Use::Free;
        page.used = 0;
        page.before = END;
        page.after = first;
        if let Some(first) = self.pages.get_mut(first as usize) {
            first.before = number;
        }
        self.free = number;
        self.free_pages += 1;
    }

    /// Puts a page first in its class's list.
    fn link(&mut self, number: u32, class: Class) {
        let first = self.room[usize::from(class)];
        let page = &mut self.pages[number as usize];
        page.before = END;
        page.after = first;
        if let Some(first) = self.pages.get_mut(first as usize) {
            first.before = number;
        }
        self.room[usize::from(class)] = number;
    }

    /// Takes a page out of the list that it is in.
    fn unlink(&mut self, number: u32) {
        let Page { before, after, usage, .. } = self.pages[number as usize];
        match self.pages.get_mut(before as usize) {
            Some(page) => page.after = after,
            None => match usage {
                Use::Free => self.free = after,
                Use::Class(class) | Use::Closed(class) => self.room[usize::from(class)] = after,
                Use::Absent => {}
            },
        }
        if let Some(page) = self.pages.get_mut(after as usize) {
            page.before = before;
        }
    }
}
