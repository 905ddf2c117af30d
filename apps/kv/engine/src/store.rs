//! The store: items on lent pages.
//!
//! Parts: this file finds, links, unlinks and evicts; `memory` gives and takes pages and chunks; `value` reads and writes
//! values; `change` is what commands do to items; `tier` moves values to the second tier and back.
//!
//! **Order of eviction.** Within a class of chunk sizes the item that was not used for longest goes first. Between
//! classes the one whose oldest item is the oldest gives a page, and what is worth more than others in it moves.

mod change;
mod memory;
mod tier;
mod value;

pub use memory::Given;

pub(crate) use change::{Delta, Made, Mode, Outcome, Storing};
pub(crate) use value::{Refusal, Written};

use alloc::vec::Vec;

use siphasher::sip::SipHasher13;
use stack_distance::Distances;

use crate::chunks::{Chunk, Chunks};
use crate::classes::{CLASSES, Class};
use crate::cold::{Cold, Ticket};
use crate::entries::{Entries, Entry, EntryId, Marks};
use crate::index::Index;
use crate::pages::{PAGE_BYTES, Pages};
use crate::prefixes::Prefixes;
use crate::service::{Clients, Service};
use crate::sizes::Sizes;
use crate::stats::{ClassCounters, Counters, Retrievals, Usage};
use crate::time::{Clock, Second, Time};

/// Bytes of a key at most (protocol.txt, "Keys").
pub const MOST_KEY_BYTES: usize = 250;
/// Bytes of a value at most.
pub const MOST_VALUE_BYTES: usize = 1 << 20;

/// Stack distances are counted in units of so many bytes.
const DISTANCE_UNIT: usize = 64;
/// One key in `1 << SAMPLE_BITS` is followed for stack distances, or fewer.
const SAMPLE_BITS: u32 = 4;

/// A key with its hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub bytes: &'a [u8],
    pub hash: u64,
}

impl Key<'_> {
    fn short(self) -> u32 {
        self.hash as u32
    }
}

/// An entry that stays this item's until [`Store::unpin`], even if it is replaced or loses its memory.
#[derive(Debug)]
pub(crate) struct Pin(EntryId);

impl Pin {
    pub fn id(&self) -> EntryId {
        self.0
    }
}

/// The items, on pages from `P`, with values in `C` if there are any in a second tier.
#[derive(Debug)]
pub struct Store<P, C> {
    pub(crate) pages: P,
    pub(crate) cold: C,
    pub(crate) chunks: Chunks,
    pub(crate) entries: Entries,
    pub(crate) index: Index,
    hasher: SipHasher13,
    pub(crate) clock: Clock,
    /// The last CAS unique value that was given.
    pub(crate) last_cas: u64,
    /// How often everything was flushed; items of earlier generations are invalid.
    generation: u16,
    /// When everything will be flushed; 0 is never.
    flush_at: Second,
    /// Everything that was stored before this is invalid, or will be.
    pub(crate) oldest: Second,
    accesses: u64,
    pub(crate) distances: Distances,
    /// Reads from the second tier that are under way.
    pub(crate) loads: Vec<(Ticket, EntryId)>,
    crawled: usize,
    pub(crate) counters: Counters,
    retrievals: Retrievals,
    pub(crate) of_classes: [ClassCounters; CLASSES],
    /// By class: how long the item had not been used that was evicted last, in seconds.
    pub(crate) evicted_time: [Second; CLASSES],
    pub(crate) prefixes: Prefixes,
    pub(crate) sizes: Sizes,
    pub(crate) service: Service,
    pub(crate) clients: Clients,
    pub(crate) connections: u64,
    pub(crate) verbosity: u32,
    /// What `slabs automove` asked for. A page changes its class when an item needs it, whatever it is.
    pub(crate) automove: u32,
    /// Tells what the VM has cost, if there is one.
    pub(crate) usage: Option<fn() -> Usage>,
}

impl<P: Pages, C: Cold> Store<P, C> {
    /// An empty store without pages. `hash_key` must be unpredictable for clients.
    pub fn new(pages: P, cold: C, hash_key: &[u8; 16], now: Time) -> Store<P, C> {
        Store {
            pages,
            cold,
            chunks: Chunks::new(),
            entries: Entries::new(),
            index: Index::new(),
            hasher: SipHasher13::new_with_key(hash_key),
            clock: Clock::new(now),
            last_cas: 0,
            generation: 0,
            flush_at: 0,
            oldest: 0,
            accesses: 0,
            distances: Distances::new((PAGE_BYTES / DISTANCE_UNIT) as u32, SAMPLE_BITS),
            loads: Vec::new(),
            crawled: 0,
            counters: Counters::default(),
            retrievals: Retrievals::default(),
            of_classes: [ClassCounters::default(); CLASSES],
            evicted_time: [0; CLASSES],
            prefixes: Prefixes::default(),
            sizes: Sizes::default(),
            service: Service::default(),
            clients: Clients::default(),
            connections: 0,
            verbosity: 0,
            automove: 0,
            usage: None,
        }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted by class, of all classes.
    pub fn totals(&self) -> ClassCounters {
        self.of_classes.iter().fold(ClassCounters::default(), |sum, class| sum + *class)
    }

    /// Keys that were asked for since the start, by whatever command: what pages are for.
    pub fn retrievals(&self) -> Retrievals {
        self.retrievals
    }

    /// What the server around the store tells of itself.
    pub fn service_mut(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Has `stats` tell what the VM has cost, which it asks this for.
    pub fn set_usage(&mut self, usage: fn() -> Usage) {
        self.usage = Some(usage);
    }

    pub(crate) fn of_class(&mut self, class: Class) -> &mut ClassCounters {
        &mut self.of_classes[usize::from(class)]
    }

    /// The counters of an item's class.
    pub(crate) fn of(&mut self, id: EntryId) -> &mut ClassCounters {
        self.of_class(self.entries.class(id))
    }

    /// Begins to count anew, as `stats reset` asks for.
    pub(crate) fn reset_counters(&mut self) {
        self.counters = Counters::default();
        self.of_classes = [ClassCounters::default(); CLASSES];
        self.evicted_time = [0; CLASSES];
        self.prefixes.clear();
        self.service.reset();
    }

    /// Begins to count items by size, unless that was done already.
    pub(crate) fn track_sizes(&mut self) {
        if self.sizes.is_on() {
            return;
        }
        if self.sizes.begin() {
            (0..self.entries.len() as u32).for_each(|id| self.entries.get_mut(EntryId(id)).sized = 0);
        }
        // As in memcached, this takes a CAS unique value.
        self.next_cas(None);
    }

    /// Items that can be found, among them such that have expired and were not noticed yet.
    pub fn items(&self) -> usize {
        self.index.items()
    }

    /// Bytes of keys and values in memory.
    pub fn bytes(&self) -> u64 {
        self.entries.bytes()
    }

    /// Bytes of the caller's heap that the tables of pages, entries and buckets take. They grow with the pages lent.
    pub fn table_bytes(&self) -> usize {
        self.chunks.table_bytes() + self.entries.table_bytes() + self.index.table_bytes()
    }

    /// The pages' memory.
    pub fn memory(&self) -> &P {
        &self.pages
    }

    /// The pages' memory, so that the caller can add to it. It must not change pages that are lent.
    pub fn memory_mut(&mut self) -> &mut P {
        &mut self.pages
    }

    /// The second tier.
    pub fn cold_mut(&mut self) -> &mut C {
        &mut self.cold
    }

    /// Takes note of the time: every call that a client causes begins with this.
    pub fn set_time(&mut self, now: Time) {
        self.clock.set(now);
        if self.flush_at != 0 && self.flush_at <= self.clock.now() {
            self.flush_at = 0;
            self.flush_now();
        }
    }

    /// What hits would there be in a store of other sizes, in pages, when there are `accesses`? Ascending by size. For
    /// bids: what an extra page is worth is the difference.
    pub fn hits_by_pages(&self, accesses: u64) -> impl Iterator<Item = (u32, u64)> {
        self.distances.points(accesses)
    }

    /// Lets what was seen so far count less in [`Store::hits_by_pages`]. To be called once per bid.
    pub fn fade_distances(&mut self) {
        self.distances.fade();
    }

    /// Looks at up to `most` entries, going on where the last call ended, and removes the expired ones.
    pub fn crawl(&mut self, now: Time, most: usize) {
        self.set_time(now);
        self.counters.lru_crawler_starts += 1;
        for _ in 0..most.min(self.entries.len()) {
            self.crawled = if self.crawled + 1 < self.entries.len() { self.crawled + 1 } else { 0 };
            let id = EntryId(self.crawled as u32);
            if self.entries.get(id).marks.has(Marks::LINKED) {
                let (is_dead, is_unfetched) = (self.is_dead(id), self.is_unfetched(id));
                let counters = self.of(id);
                counters.crawler_items_checked += 1;
                if is_dead {
                    counters.crawler_reclaimed += 1;
                    counters.expired_unfetched += u64::from(is_unfetched);
                    self.unlink(id);
                }
            }
        }
    }

    pub(crate) fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { bytes, hash: self.hasher.hash(bytes) }
    }

    /// The key of an entry.
    pub(crate) fn key_of(&self, id: EntryId) -> &[u8] {
        let entry = self.entries.get(id);
        let (start, _) = self.chunks.place(entry.first);
        &self.pages.page(entry.first.page())[start..start + usize::from(entry.key_length)]
    }

    /// Finds an item, and removes it if it has expired.
    pub(crate) fn find(&mut self, key: Key) -> Option<EntryId> {
        let id = self.index.find(key.short(), &self.entries, |id| self.key_of(id) == key.bytes)?;
        if self.is_dead(id) {
            if self.is_flushed(id) {
                self.counters.get_flushed += 1;
            } else {
                self.counters.get_expired += 1;
            }
            self.unlink(id);
            return None;
        }
        Some(id)
    }

    /// Lets an item count as fetched now.
    pub(crate) fn bump(&mut self, id: EntryId) {
        self.touch_position(id);
        self.entries.get_mut(id).marks.set(Marks::FETCHED);
    }

    /// Lets an item count as used now, though not as fetched.
    pub(crate) fn touch_position(&mut self, id: EntryId) {
        self.accesses += 1;
        let (now, stamp) = (self.clock.now(), self.stamp());
        self.entries.bump(id);
        let entry = self.entries.get_mut(id);
        entry.accessed = now;
        entry.stamp = stamp;
    }

    /// Takes note of an access for the estimate of hits by size.
    pub(crate) fn note_access(&mut self, key: Key, id: Option<EntryId>) {
        match id {
            Some(_) => self.retrievals.hits += 1,
            None => self.retrievals.misses += 1,
        }
        let units = if self.distances.follows(key.hash) { id.map(|id| self.units(id)) } else { None };
        self.distances.access(key.hash, units);
    }

    /// Memory of an item in units of stack distances.
    fn units(&self, id: EntryId) -> u32 {
        let entry = self.entries.get(id);
        (usize::from(entry.key_length) + entry.length as usize).div_ceil(DISTANCE_UNIT) as u32
    }

    pub(crate) fn pin(&mut self, id: EntryId) -> Option<Pin> {
        let entry = self.entries.get_mut(id);
        entry.pins = entry.pins.checked_add(1)?;
        Some(Pin(id))
    }

    /// Gives a pin up. An item that can't be found any more ends with its last pin.
    pub(crate) fn unpin(&mut self, pin: Pin) {
        let entry = self.entries.get_mut(pin.0);
        entry.pins -= 1;
        if entry.pins == 0 && !entry.marks.has(Marks::LINKED) {
            self.destroy(pin.0);
        }
    }

    /// A new CAS unique value: the one that was asked for, or the next.
    pub(crate) fn next_cas(&mut self, explicit: Option<u64>) -> u64 {
        explicit.unwrap_or_else(|| {
            self.last_cas += 1;
            self.last_cas
        })
    }

    /// Makes all items invalid, at once or at that second.
    pub(crate) fn flush_all(&mut self, at: Second) {
        self.oldest = at.max(self.clock.now()) - 1;
        if at > self.clock.now() {
            self.flush_at = at;
        } else {
            self.flush_at = 0;
            self.flush_now();
        }
    }

    fn flush_now(&mut self) {
        // As in memcached, a flush takes a CAS unique value.
        self.next_cas(None);
        let Some(next) = self.generation.checked_add(1) else {
            // Generations start again, so nothing may be left of the old ones.
            (0..self.entries.len()).map(|id| EntryId(id as u32)).for_each(|id| {
                if self.entries.get(id).marks.has(Marks::LINKED) {
                    self.unlink(id);
                }
            });
            self.generation = 0;
            return;
        };
        self.generation = next;
    }

    fn stamp(&self) -> u32 {
        (self.accesses >> 6) as u32
    }

    fn is_flushed(&self, id: EntryId) -> bool {
        self.entries.get(id).generation != self.generation
    }

    /// True if clients must not see it any more.
    pub(crate) fn is_dead(&self, id: EntryId) -> bool {
        let entry = self.entries.get(id);
        (entry.expiry != 0 && entry.expiry <= self.clock.now()) || self.is_flushed(id)
    }

    fn is_unfetched(&self, id: EntryId) -> bool {
        !self.entries.get(id).marks.has(Marks::FETCHED)
    }

    /// Makes an item the one with its key, and returns its CAS unique value. There must be none.
    fn link(&mut self, id: EntryId, explicit: Option<u64>) -> u64 {
        self.index.insert(id, &mut self.entries);
        self.mark_linked(id, explicit)
    }

    /// Makes an item the one with its key instead of the old one, which is destroyed unless it is pinned.
    fn relink(&mut self, old: EntryId, new: EntryId, explicit: Option<u64>) -> u64 {
        self.index.replace(old, new, &mut self.entries);
        self.mark_unlinked(old);
        if self.entries.get(old).pins == 0 {
            self.destroy(old);
        }
        self.mark_linked(new, explicit)
    }

    /// Lets an item that is in the index count as stored from now on.
    fn mark_linked(&mut self, id: EntryId, explicit: Option<u64>) -> u64 {
        self.accesses += 1;
        let cas = self.next_cas(explicit);
        let (now, stamp, generation) = (self.clock.now(), self.stamp(), self.generation);
        if self.sizes.is_on() {
            self.add_size(id);
        }
        let entry = self.entries.get_mut(id);
        entry.marks.set(Marks::LINKED);
        entry.cas = cas;
        entry.generation = generation;
        entry.accessed = now;
        entry.stamp = stamp;
        self.entries.bump(id);
        self.counters.total_items += 1;
        cas
    }

    /// Takes an item from its key. It is destroyed unless it is pinned.
    pub(crate) fn unlink(&mut self, id: EntryId) {
        self.take_key(id);
        if self.entries.get(id).pins == 0 {
            self.destroy(id);
        }
    }

    /// Lets an item not be found any more.
    fn take_key(&mut self, id: EntryId) {
        self.index.remove(id, &mut self.entries);
        self.mark_unlinked(id);
    }

    /// Lets an item that is not in the index any more count as stored no longer.
    fn mark_unlinked(&mut self, id: EntryId) {
        self.entries.get_mut(id).marks.clear(Marks::LINKED);
        if self.sizes.is_on() {
            self.subtract_size(id);
        }
    }

    #[cold]
    fn add_size(&mut self, id: EntryId) {
        let entry = self.entries.get_mut(id);
        entry.sized = self.sizes.current();
        self.sizes.add(entry.size());
    }

    #[cold]
    fn subtract_size(&mut self, id: EntryId) {
        let entry = self.entries.get(id);
        self.sizes.subtract(entry.sized, entry.size());
    }

    /// Takes the memory of an item. If it is pinned, its entry stays and says so.
    fn evict(&mut self, id: EntryId) {
        let Entry { marks, expiry, accessed, .. } = *self.entries.get(id);
        if marks.has(Marks::LINKED) {
            let (is_dead, is_unfetched) = (self.is_dead(id), u64::from(self.is_unfetched(id)));
            let counters = self.of(id);
            if is_dead {
                counters.reclaimed += 1;
                counters.expired_unfetched += is_unfetched;
            } else {
                counters.evictions += 1;
                counters.evicted_nonzero += u64::from(expiry != 0);
                counters.evicted_unfetched += is_unfetched;
                let idle = self.clock.now().saturating_sub(accessed);
                self.evicted_time[usize::from(self.entries.class(id))] = idle;
            }
            self.take_key(id);
        }
        self.free_memory(id);
        if self.entries.get(id).pins == 0 {
            self.entries.remove(id);
        }
    }

    /// Frees memory and entry of an item that is neither linked nor pinned.
    fn destroy(&mut self, id: EntryId) {
        self.free_memory(id);
        self.entries.remove(id);
    }

    /// Frees an item's chunks and its place in the second tier.
    fn free_memory(&mut self, id: EntryId) {
        let Entry { marks, ticket, first, .. } = *self.entries.get(id);
        if marks.has(Marks::GONE) {
            return;
        }
        if first.is_some() {
            self.free_chunks(first);
            self.entries.unlist(id);
        }
        if marks.has(Marks::COLD) {
            self.cold.release(ticket);
            self.loads.retain(|load| load.1 != id);
        }
        let entry = self.entries.get_mut(id);
        entry.marks.set(Marks::GONE);
        entry.first = Chunk::NONE;
    }
}
