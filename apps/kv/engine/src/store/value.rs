//! Values: written into chunks as they come, read as slices of pages.
//!
//! Key and value lie one after the other in a chain of chunks: all but the last are whole pages, the last is as small as
//! possible. Chunks are taken as bytes come, so a client that announces much and sends nothing holds nothing.

use crate::chunks::{Chunk, Chunks};
use crate::classes::class_of;
use crate::cold::Cold;
use crate::entries::{Entry, EntryId, Marks};
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::{Key, MOST_KEY_BYTES, MOST_VALUE_BYTES, Pin, Store};
use crate::time::Second;

/// Why an item can't be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    TooLarge,
    NoMemory,
}

/// Whether bytes of a value were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Kept,
    /// There is no memory: the item has lost what it had.
    Lost,
}

/// The bytes of a value, slice by slice.
#[derive(Debug)]
pub(crate) struct Parts<'a, P> {
    chunks: &'a Chunks,
    pages: &'a P,
    chunk: Chunk,
    /// Bytes of the item before `chunk`'s first one that is wanted.
    offset: usize,
    left: usize,
}

impl<'a, P> Parts<'a, P> {
    /// The value of this entry from an offset on. Empty if it is in the second tier or lost.
    pub fn new(chunks: &'a Chunks, pages: &'a P, entry: &Entry, offset: usize) -> Parts<'a, P> {
        let at = usize::from(entry.key_length) + offset;
        let is_here = !entry.marks.has(Marks::GONE.and(Marks::COLD));
        let left = if is_here { (entry.length as usize).saturating_sub(offset) } else { 0 };
        let chunk = if left > 0 { chunk_at(chunks, entry.first, at) } else { Chunk::NONE };
        Parts { chunks, pages, chunk, offset: at % PAGE_BYTES, left }
    }
}

impl<'a, P: Pages> Iterator for Parts<'a, P> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 || !self.chunk.is_some() {
            return None;
        }
        let (start, size) = self.chunks.place(self.chunk);
        let from = start + self.offset;
        let length = self.left.min(size.saturating_sub(self.offset));
        let part = self.pages.page(self.chunk.page()).get(from..from + length)?;
        self.left -= length;
        self.offset = 0;
        self.chunk = self.chunks.next(self.chunk);
        Some(part)
    }
}

impl<P: Pages, C: Cold> Store<P, C> {
    /// Makes an item that can't be found yet, pinned; its value is written next. The caller has checked the key's length.
    pub(crate) fn begin(&mut self, key: Key, client_flags: u32, expiry: Second, length: usize) -> Result<Pin, Refusal> {
        let total = key.bytes.len() + length;
        if length > MOST_VALUE_BYTES || key.bytes.len() > MOST_KEY_BYTES {
            self.counters.store_too_large += 1;
            return Err(Refusal::TooLarge);
        }
        let mut entry = Entry::new(key.short(), key.bytes.len() as u8, length as u32);
        entry.client_flags = client_flags;
        entry.expiry = expiry;
        entry.pins = 1;
        entry.stamp = self.stamp();
        let id = self.entries.insert(entry);
        let fits = total.div_ceil(PAGE_BYTES) <= self.chunks.lent();
        if !fits || self.place_key(id, key.bytes, total) == Written::Lost {
            self.entries.remove(id);
            self.counters.store_no_memory += 1;
            self.of_class(class_of(total)).outofmemory += 1;
            return Err(Refusal::NoMemory);
        }
        if self.distances.follows(key.hash) {
            self.distances.store(key.hash, self.units(id));
        }
        Ok(Pin(id))
    }

    /// Gives an entry without memory a chunk for the first of `total` bytes, writes the key there, and lets it count as
    /// the newest of its class.
    pub(super) fn place_key(&mut self, id: EntryId, key: &[u8], total: usize) -> Written {
        let Some(chunk) = self.allocate(class_of(total), id) else { return Written::Lost };
        self.put_key(id, key, chunk);
        Written::Kept
    }

    /// The same in this chunk.
    pub(super) fn put_key(&mut self, id: EntryId, key: &[u8], chunk: Chunk) {
        let (start, _) = self.chunks.place(chunk);
        self.pages.page_mut(chunk.page())[start..start + key.len()].copy_from_slice(key);
        self.entries.get_mut(id).first = chunk;
        self.entries.push_newest(id, self.chunks.class(chunk));
    }

    /// Writes bytes of a value that was begun. They come in order.
    pub(crate) fn write(&mut self, id: EntryId, offset: usize, mut bytes: &[u8]) -> Written {
        let entry = self.entries.get(id);
        let total = usize::from(entry.key_length) + entry.length as usize;
        let mut at = usize::from(entry.key_length) + offset;
        if entry.marks.has(Marks::GONE) {
            return Written::Lost;
        }
        let mut chunk = self.chunk_for(id, at);
        while !bytes.is_empty() {
            if at > 0 && at.is_multiple_of(PAGE_BYTES) {
                let Some(next) = self.allocate(class_of(total - at), id) else {
                    self.lose(id);
                    return Written::Lost;
                };
                // Taking it may have moved the others.
                chunk = self.chunk_for(id, at - 1);
                self.chunks.set_next(chunk, next);
                chunk = next;
            }
            let (start, size) = self.chunks.place(chunk);
            let within = at % PAGE_BYTES;
            let length = bytes.len().min(size - within);
            let (now, later) = bytes.split_at(length);
            self.pages.page_mut(chunk.page())[start + within..start + within + length].copy_from_slice(now);
            bytes = later;
            at += length;
        }
        Written::Kept
    }

    /// The value from an offset on. Empty if it is in the second tier or lost.
    pub(crate) fn parts(&self, id: EntryId, offset: usize) -> Parts<'_, P> {
        Parts::new(&self.chunks, &self.pages, self.entries.get(id), offset)
    }

    /// Takes an item's memory for good, as there is not enough for all of it.
    pub(super) fn lose(&mut self, id: EntryId) {
        self.counters.store_no_memory += 1;
        self.of(id).outofmemory += 1;
        self.free_memory(id);
    }

    fn chunk_for(&self, id: EntryId, at: usize) -> Chunk {
        chunk_at(&self.chunks, self.entries.get(id).first, at)
    }
}

/// The chunk that has the byte at this offset of key and value; the last one that there is, if that byte begins the
/// next.
fn chunk_at(chunks: &Chunks, first: Chunk, at: usize) -> Chunk {
    let mut chunk = first;
    for _ in 0..at / PAGE_BYTES {
        let next = chunks.next(chunk);
        if !next.is_some() {
            break;
        }
        chunk = next;
    }
    chunk
}
