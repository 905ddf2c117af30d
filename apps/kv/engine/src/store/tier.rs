//! Values on their way to the second tier and back.

use crate::chunks::Chunk;
use crate::classes::{CLASSES, Class};
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

impl<P: Pages, C: Cold> Store<P, C> {
    /// Moves values of at least `least` bytes to the second tier: up to `most`, of the items that were not used for
    /// longest. Says how many moved; fewer if the tier takes no more. Their keys stay, as if used now.
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
            let entry = self.entries.get(id);
            let may_move = entry.marks.has(Marks::LINKED) && !entry.marks.has(Marks::COLD) && entry.pins == 0;
            if !may_move || (entry.length as usize) < least || self.is_dead(id) {
                continue;
            }
            let length = entry.length as usize;
            let parts = Parts::new(&self.chunks, &self.pages, entry, 0);
            let Some(ticket) = self.cold.write(length, parts) else { break };
            self.counters.cold_writes += 1;
            moved += 1;
            self.keep_key(id, ticket);
            if moved == most {
                break;
            }
            // Room for the key may have cost the item at the cursor.
            let is_listed = |id: EntryId| self.entries.get(id).first.is_some();
            for (class, cursor) in cursors.iter_mut().enumerate() {
                if !cursor.is_some_and(is_listed) {
                    *cursor = self.entries.oldest(class as Class);
                }
            }
        }
        moved
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

    /// Gives an item's memory up, but for its key.
    fn keep_key(&mut self, id: EntryId, ticket: Ticket) {
        let length = self.entries.get(id).length;
        let kept = self.place_anew(id, 0);
        self.bytes -= u64::from(length);
        let entry = self.entries.get_mut(id);
        entry.ticket = ticket;
        entry.marks.set(Marks::COLD);
        if kept == Written::Lost {
            self.evict(id);
        }
    }

    /// Writes a value back into memory. False if there is too little of it or of memory.
    fn restore<'a>(&mut self, id: EntryId, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let Entry { length, ticket, .. } = *self.entries.get(id);
        let kept = self.place_anew(id, length as usize);
        self.bytes += u64::from(length);
        self.entries.get_mut(id).marks.clear(Marks::COLD);
        self.cold.release(ticket);
        let mut offset = 0;
        let mut complete = kept == Written::Kept;
        for part in parts {
            let part = &part[..part.len().min(length as usize - offset)];
            complete = complete && self.write(id, offset, part) == Written::Kept;
            offset += part.len();
        }
        complete && offset == length as usize
    }

    /// Gives an item other memory, for its key and so many bytes.
    fn place_anew(&mut self, id: EntryId, length: usize) -> Written {
        let mut key = [0; MOST_KEY_BYTES];
        let key_length = usize::from(self.entries.get(id).key_length);
        key[..key_length].copy_from_slice(self.key_of(id));
        let first = self.entries.get(id).first;
        self.free_chunks(first);
        self.entries.unlist(id);
        let stamp = self.stamp();
        let entry = self.entries.get_mut(id);
        entry.first = Chunk::NONE;
        entry.stamp = stamp;
        self.place_key(id, &key[..key_length], key_length + length)
    }
}
