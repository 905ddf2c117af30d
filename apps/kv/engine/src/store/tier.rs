//! Values on their way to the second tier and back.

use crate::chunks::Chunk;
use crate::classes::{CLASSES, Class, class_of};
use crate::cold::{Cold, Ticket};
use crate::entries::{Entry, EntryId, Marks};
use crate::pages::Pages;
use crate::store::value::{Parts, Written};
use crate::store::{MOST_KEY_BYTES, Store};
use crate::time::Time;

/// Reads from the second tier that are under way at most.
const MOST_LOADS: usize = 64;

/// Entries that are looked at for each value that shall move.
const LOOKED_AT: usize = 16;

/// Bytes of the smallest value that goes to the second tier for want of memory.
const LEAST_COLD: usize = 64;

/// What became of an item that had to leave memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retired {
    /// Its value is in the second tier.
    Cold,
    /// It is gone.
    Evicted,
}

impl<P: Pages, C: Cold> Store<P, C> {
    /// Moves values of at least `least` bytes to the second tier: up to `most`, of the items that were not used for
    /// longest. Says how many moved; fewer if the tier takes no more, or there is no memory for keys. Their keys stay, as if
    /// used now.
    pub fn spill(&mut self, now: Time, most: usize, least: usize) -> usize {
        self.set_time(now);
        let mut moved = 0;
        let mut cursors: [Option<EntryId>; CLASSES] = core::array::from_fn(|class| self.entries.oldest(class as Class));
        for _ in 0..most.saturating_mul(LOOKED_AT) {
            let oldest = (0..CLASSES)
                .filter(|class| cursors[*class].is_some())
                .max_by_key(|class| cursors[*class].map_or(0, |id| self.age(id)));
            let Some((class, id)) = oldest.and_then(|class| Some((class, cursors[class]?))) else { break };
            cursors[class] = self.entries.newer(id);
            if !self.may_go(id, least) {
                continue;
            }
            if self.shelve(id) != Some(Retired::Cold) {
                break;
            }
            moved += 1;
            if moved == most {
                break;
            }
        }
        moved
    }

    /// Takes the memory of an item. Its value goes to the second tier, if that takes it, it is worth it and there is memory
    /// for its key; else it is evicted.
    pub(super) fn retire(&mut self, id: EntryId) -> Retired {
        let shelved = if self.goes(id) { self.shelve(id) } else { None };
        shelved.unwrap_or_else(|| {
            self.evict(id);
            Retired::Evicted
        })
    }

    /// What was read of a value: all of its bytes, in parts, or nothing if the read failed. Connections that wait for it
    /// go on when they are called next.
    pub fn deliver<'a>(&mut self, now: Time, ticket: Ticket, value: Option<impl Iterator<Item = &'a [u8]>>) {
        self.set_time(now);
        let Some(at) = self.loads.iter().position(|load| load.0 == ticket) else { return };
        let (_, id) = self.loads.swap_remove(at);
        let restored = value.is_some_and(|parts| self.restore(id, parts));
        if restored {
            self.counters.cold_reads += 1;
            self.retrievals.cold_reads += 1;
        } else {
            self.counters.cold_failures += 1;
            if self.entries.get(id).marks.has(Marks::LINKED) {
                self.unlink(id);
            }
        }
    }

    /// Reads from the second tier that are under way.
    pub fn loading(&self) -> impl Iterator<Item = Ticket> {
        self.loads.iter().map(|load| load.0)
    }

    /// Starts to read an item's value, if it isn't in memory. What comes later, under this ticket.
    pub(crate) fn load(&mut self, id: EntryId) -> Option<Ticket> {
        let Entry { marks, ticket, .. } = *self.entries.get(id);
        if !marks.has(Marks::COLD) {
            return None;
        }
        let is_under_way = self.loads.iter().any(|load| load.0 == ticket);
        if !is_under_way && self.loads.len() < MOST_LOADS && self.cold.read(ticket) {
            self.loads.push((ticket, id));
        }
        Some(ticket)
    }

    /// True if an item's value could be in the second tier, and has so many bytes.
    fn may_go(&self, id: EntryId, least: usize) -> bool {
        let entry = self.entries.get(id);
        let may_move = entry.marks.has(Marks::LINKED) && !entry.marks.has(Marks::COLD) && entry.pins == 0;
        may_move && entry.length as usize >= least && !self.is_dead(id)
    }

    /// True if an item's value goes to the second tier for want of memory: it is worth it, and the tier takes it.
    pub(super) fn goes(&self, id: EntryId) -> bool {
        let Entry { key_length, length, .. } = *self.entries.get(id);
        let (key, length) = (usize::from(key_length), length as usize);
        class_of(key) < class_of(key + length) && length <= self.cold.room() && self.may_go(id, LEAST_COLD)
    }

    /// Of the items whose values could go to the second tier now, one that was not used for longest. Only some are looked at.
    pub(super) fn oldest_that_goes(&self) -> Option<EntryId> {
        let of_class = |class: usize| {
            let mut newer = core::iter::successors(self.entries.oldest(class as Class), |id| self.entries.newer(*id));
            newer.by_ref().take(LOOKED_AT).find(|id| self.goes(*id))
        };
        (0..CLASSES).filter_map(of_class).max_by_key(|id| self.age(*id))
    }

    /// Moves an item's value to the second tier. `None` if that does not take it: then the item is as it was. It is evicted
    /// if there is no memory for its key.
    pub(super) fn shelve(&mut self, id: EntryId) -> Option<Retired> {
        let entry = self.entries.get(id);
        let length = entry.length;
        let parts = Parts::new(&self.chunks, &self.pages, entry, 0);
        let ticket = self.cold.write(length as usize, parts)?;
        let key = self.take_out(id);
        let stamp = self.stamp();
        let entry = self.entries.get_mut(id);
        entry.ticket = ticket;
        entry.stamp = stamp;
        entry.marks.set(Marks::COLD);
        let key = &key[..usize::from(entry.key_length)];
        let class = class_of(key.len());
        let mut chunk = self.chunks.take(class, id);
        if chunk.is_none()
            && let Some(oldest) = self.entries.oldest_cold(class)
        {
            self.evict(oldest);
            chunk = self.chunks.take(class, id);
        }
        let Some(chunk) = chunk else {
            self.evict(id);
            return Some(Retired::Evicted);
        };
        self.counters.cold_writes += 1;
        self.put_key(id, key, chunk);
        Some(Retired::Cold)
    }

    /// Writes a value back into memory. False if there is too little of it or of memory.
    fn restore<'a>(&mut self, id: EntryId, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        // Room for it must not be made by moving what is there of it.
        let Some(pin) = self.pin(id) else { return false };
        let Entry { length, ticket, key_length, .. } = *self.entries.get(id);
        let key = self.take_out(id);
        let stamp = self.stamp();
        let entry = self.entries.get_mut(id);
        entry.stamp = stamp;
        entry.marks.clear(Marks::COLD);
        self.cold.release(ticket);
        let key = &key[..usize::from(key_length)];
        let kept = self.place_key(id, key, key.len() + length as usize);
        let mut offset = 0;
        let mut complete = kept == Written::Kept;
        for part in parts {
            let part = &part[..part.len().min(length as usize - offset)];
            complete = complete && self.write(id, offset, part) == Written::Kept;
            offset += part.len();
        }
        self.unpin(pin);
        complete && offset == length as usize
    }

    /// Takes an item's chunks, and takes it out of its list. Its key is returned, with something behind it.
    fn take_out(&mut self, id: EntryId) -> [u8; MOST_KEY_BYTES] {
        let mut key = [0; MOST_KEY_BYTES];
        let of_item = self.key_of(id);
        key[..of_item.len()].copy_from_slice(of_item);
        let first = self.entries.get(id).first;
        self.free_chunks(first);
        self.entries.unlist(id);
        self.entries.get_mut(id).first = Chunk::NONE;
        key
    }
}
