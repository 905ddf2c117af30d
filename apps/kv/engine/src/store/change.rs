//! What commands do to items, whatever protocol they come in. The rules are memcached's (`do_store_item`,
//! `do_add_delta` in its memcached.c).

use crate::cold::{Cold, Ticket};
use crate::entries::{Entry, EntryId, Marks};
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::{Key, MOST_KEY_BYTES, Pin, Refusal, Store, Written};
use crate::text::{self, MOST_DIGITS};
use crate::time::Second;

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    /// As [`Mode::Append`], but a miss stores the value as it came.
    AppendOrSet,
    /// The same of [`Mode::Prepend`].
    PrependOrSet,
    Cas,
}

/// How and under which conditions a value is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storing {
    pub mode: Mode,
    /// The CAS unique value that the item must have; 0 is any.
    pub cas: u64,
    /// An item with a larger one is replaced, too, and stale then.
    pub invalidates: bool,
    /// The new CAS unique value, instead of the next one.
    pub explicit: Option<u64>,
}

/// An item that no client sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made<'a> {
    pub value: &'a [u8],
    pub client_flags: u32,
    pub expiry: Second,
    pub marks: Marks,
    /// The CAS unique value, instead of the next one.
    pub explicit: Option<u64>,
}

/// What becomes of a value that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Under its key, with this CAS unique value.
    Stored(u64),
    NotStored,
    Exists,
    NotFound,
    /// An item may have been lost for want of memory; nothing older is left under the key.
    NoMemory,
    /// The old value must be read first; ask again then.
    Cold(Ticket),
}

/// What becomes of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delta {
    /// The item has this value now.
    Done(EntryId, u64),
    NotFound,
    NotNumeric,
    /// The CAS unique value is another one.
    Exists,
    NoMemory,
    Cold(Ticket),
}

/// Bytes that are copied at a time when values are joined.
const COPIED: usize = 1024;

impl<P: Pages, C: Cold> Store<P, C> {
    /// Stores the item of a value that is complete.
    pub(crate) fn store(&mut self, pin: &Pin, how: Storing) -> Outcome {
        let Storing { mode, cas, invalidates, explicit } = how;
        let id = pin.id();
        if self.entries.get(id).marks.has(Marks::GONE) {
            if mode == Mode::Set {
                self.discard_hash(self.entries.get(id).hash);
            }
            return Outcome::NoMemory;
        }
        let Some(old) = self.find_like(id) else {
            return match mode {
                Mode::Set | Mode::Add | Mode::AppendOrSet | Mode::PrependOrSet => self.stored(id, explicit),
                Mode::Cas => {
                    self.counters.cas_misses += 1;
                    Outcome::NotFound
                }
                Mode::Replace | Mode::Append | Mode::Prepend => Outcome::NotStored,
            };
        };
        let old_cas = self.entries.get(old).cas;
        let matches = cas == old_cas;
        match mode {
            Mode::Add => {
                self.touch_position(old);
                Outcome::NotStored
            }
            Mode::Set | Mode::Replace => self.replaced(old, id, explicit),
            Mode::Cas if matches => {
                self.of(old).cas_hits += 1;
                self.replaced(old, id, explicit)
            }
            Mode::Cas if invalidates && cas != 0 && cas < old_cas => {
                let (expiry, marks) = (self.entries.get(old).expiry, self.entries.get(old).marks);
                let entry = self.entries.get_mut(id);
                entry.expiry = expiry;
                entry.marks.set(Marks::STALE);
                entry.marks.set(marks.only(Marks::WON));
                self.of(old).cas_hits += 1;
                self.replaced(old, id, explicit)
            }
            Mode::Cas => {
                self.of(old).cas_badval += 1;
                Outcome::Exists
            }
            _ if cas != 0 && !matches => Outcome::Exists,
            Mode::Append | Mode::AppendOrSet => self.join(old, [old, id], how),
            Mode::Prepend | Mode::PrependOrSet => self.join(old, [id, old], how),
        }
    }

    /// Adds to a number, or subtracts down to 0. `cas` other than 0 is compared; `explicit` becomes the new one.
    pub(crate) fn delta(&mut self, key: Key, increase: bool, by: u64, cas: u64, explicit: Option<u64>) -> Delta {
        let Some(id) = self.find(key) else { return Delta::NotFound };
        let entry = self.entries.get(id);
        if cas != 0 && cas != entry.cas && entry.length > 0 {
            return Delta::Exists;
        }
        if let Some(ticket) = self.load(id) {
            return Delta::Cold(ticket);
        }
        let entry = self.entries.get(id);
        let fits_chunk = usize::from(entry.key_length) + entry.length as usize <= PAGE_BYTES;
        let number = self.parts(id, 0).next().filter(|_| fits_chunk).and_then(text::unsigned);
        let Some(value) = number else { return Delta::NotNumeric };
        let value = if increase { value.wrapping_add(by) } else { value.saturating_sub(by) };
        let counters = self.of(id);
        if increase {
            counters.incr_hits += 1;
        } else {
            counters.decr_hits += 1;
        }
        let mut buffer = [0; MOST_DIGITS];
        let digits = text::digits(value, &mut buffer);
        let entry = self.entries.get(id);
        let (client_flags, expiry) = (entry.client_flags, entry.expiry);
        if digits.len() <= entry.length as usize && entry.pins == 0 {
            let cas = self.next_cas(explicit);
            self.entries.get_mut(id).cas = cas;
            self.overwrite(id, digits);
            self.touch_position(id);
            return Delta::Done(id, value);
        }
        let made = Made { value: digits, client_flags, expiry, explicit, ..Made::default() };
        match self.make(key, made) {
            Ok(new) => Delta::Done(new, value),
            Err(_) => Delta::NoMemory,
        }
    }

    /// Makes an item with a short value, in place of the one under its key if there is one.
    pub(crate) fn make(&mut self, key: Key, made: Made) -> Result<EntryId, Refusal> {
        let pin = self.begin(key, made.client_flags, made.expiry, made.value.len())?;
        let id = pin.id();
        self.entries.get_mut(id).marks.set(made.marks);
        self.write(id, 0, made.value);
        // Making room may have taken the old one.
        match self.find_like(id) {
            Some(old) => self.replaced(old, id, made.explicit),
            None => self.stored(id, made.explicit),
        };
        self.unpin(pin);
        Ok(id)
    }

    /// Bytes of the value that was stored for this item, which is another item's if it was joined with an older value.
    pub(crate) fn stored_length(&self, id: EntryId) -> u32 {
        let hash = self.entries.get(id).hash;
        let stored = self.index.find(hash, &self.entries, |other| self.key_of(other) == self.key_of(id));
        self.entries.get(stored.unwrap_or(id)).length
    }

    /// Removes what is under a key, if there is anything, without counting it as a command.
    pub(crate) fn discard(&mut self, key: Key) {
        if let Some(id) = self.find(key) {
            self.unlink(id);
        }
    }

    /// Writes digits over a value in one chunk. What is left is filled up with spaces, as memcached does.
    fn overwrite(&mut self, id: EntryId, digits: &[u8]) {
        let Entry { first, key_length, length, .. } = *self.entries.get(id);
        let start = self.chunks.place(first).0 + usize::from(key_length);
        let value = &mut self.pages.page_mut(first.page())[start..start + length as usize];
        let (number, rest) = value.split_at_mut(digits.len());
        number.copy_from_slice(digits);
        rest.fill(b' ');
    }

    pub(crate) fn count_delta_miss(&mut self, increase: bool) {
        if increase {
            self.counters.incr_misses += 1;
        } else {
            self.counters.decr_misses += 1;
        }
    }

    /// Removes what could be under a key of which only the hash is left: rather nothing than something old.
    fn discard_hash(&mut self, hash: u32) {
        while let Some(id) = self.index.find(hash, &self.entries, |_| true) {
            self.unlink(id);
        }
    }

    /// The item that is found under the key of this one.
    fn find_like(&mut self, id: EntryId) -> Option<EntryId> {
        let hash = self.entries.get(id).hash;
        let old = self.index.find(hash, &self.entries, |other| self.key_of(other) == self.key_of(id))?;
        if self.is_dead(old) {
            self.unlink(old);
            return None;
        }
        Some(old)
    }

    fn stored(&mut self, id: EntryId, explicit: Option<u64>) -> Outcome {
        Outcome::Stored(self.link(id, explicit))
    }

    fn replaced(&mut self, old: EntryId, new: EntryId, explicit: Option<u64>) -> Outcome {
        Outcome::Stored(self.relink(old, new, explicit))
    }

    /// Makes an item of the values of two, with key, flags and expiry of `old`, which is one of them.
    fn join(&mut self, old: EntryId, [first, second]: [EntryId; 2], how: Storing) -> Outcome {
        if let Some(ticket) = self.load(old) {
            return Outcome::Cold(ticket);
        }
        let mut key = [0; MOST_KEY_BYTES];
        let key_length = usize::from(self.entries.get(old).key_length);
        key[..key_length].copy_from_slice(self.key_of(old));
        let entry = self.entries.get(old);
        let (flags, expiry) = (entry.client_flags, entry.expiry);
        let lengths = [first, second].map(|id| self.entries.get(id).length as usize);
        let key = self.key(&key[..key_length]);
        let Ok(pin) = self.begin(key, flags, expiry, lengths[0] + lengths[1]) else {
            return if lengths[0] + lengths[1] > crate::MOST_VALUE_BYTES {
                Outcome::NotStored
            } else {
                Outcome::NoMemory
            };
        };
        let new = pin.id();
        let is_gone = |store: &Self, id: EntryId| store.entries.get(id).marks.has(Marks::GONE);
        let sent = if first == old { second } else { first };
        let complete = self.copy(first, new, 0) && self.copy(second, new, lengths[0]);
        let result = match self.find_like(new) {
            // Making room may have taken what was sent, which is told about as well, whether it was copied before or is empty.
            _ if is_gone(self, sent) => Outcome::NoMemory,
            Some(old) if complete => self.replaced(old, new, how.explicit),
            // Or the old one: then it is a miss.
            None if matches!(how.mode, Mode::AppendOrSet | Mode::PrependOrSet) => self.stored(sent, how.explicit),
            None if complete => Outcome::NotStored,
            _ => Outcome::NoMemory,
        };
        self.unpin(pin);
        result
    }

    /// Copies a value into another from `offset` on. False if one of them was lost for want of memory.
    fn copy(&mut self, from: EntryId, to: EntryId, offset: usize) -> bool {
        let length = self.entries.get(from).length as usize;
        let mut buffer = [0; COPIED];
        let mut done = 0;
        while done < length {
            if self.entries.get(from).marks.has(Marks::GONE) {
                return false;
            }
            let Some(part) = self.parts(from, done).next() else { return false };
            let part = &part[..part.len().min(COPIED)];
            let size = part.len();
            buffer[..size].copy_from_slice(part);
            if self.write(to, offset + done, &buffer[..size]) == Written::Lost {
                return false;
            }
            done += size;
        }
        true
    }
}
