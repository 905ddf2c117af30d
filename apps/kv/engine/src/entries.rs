//! The table of items: what is known about each, and the order in which they were used.
//!
//! An entry is 64 bytes in the caller's heap; key and value lie in lent pages. Every entry that holds chunks is in a list of
//! the class of its first chunk, newest first: those whose value is in memory in one, those of which memory has the key
//! alone ([`Marks::COLD`]) in another. The mark is changed only while an entry is in neither.

use alloc::vec::Vec;

use crate::chunks::Chunk;
use crate::classes::{CLASSES, Class};
use crate::cold::Ticket;
use crate::time::Second;

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryId(pub u32);

impl EntryId {
    /// No entry.
    pub const NONE: EntryId = EntryId(u32::MAX);

    pub fn is_some(self) -> bool {
        self != EntryId::NONE
    }
}

/// What may be true of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(u8);

impl Marks {
    /// It can be found under its key.
    pub const LINKED: Marks = Marks(1);
    /// It was fetched since it was stored.
    pub const FETCHED: Marks = Marks(2);
    /// `md` with `I` made it stale.
    pub const STALE: Marks = Marks(4);
    /// Some client was told that it shall store the item anew.
    pub const WON: Marks = Marks(8);
    /// The key came in base64 and is told so.
    pub const BINARY: Marks = Marks(16);
    /// It has lost its chunks, and stays only until it is unpinned.
    pub const GONE: Marks = Marks(32);
    /// Its value is in the second tier, under its ticket.
    pub const COLD: Marks = Marks(64);

    pub fn has(self, mark: Marks) -> bool {
        self.0 & mark.0 != 0
    }

    pub fn set(&mut self, mark: Marks) {
        self.0 |= mark.0;
    }

    pub fn clear(&mut self, mark: Marks) {
        self.0 &= !mark.0;
    }

    /// Those of `self` that are also in `other`.
    pub fn only(self, other: Marks) -> Marks {
        Marks(self.0 & other.0)
    }

    pub const fn and(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }
}

/// An item.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub hash: u32,
    /// The next in the chain of the index, or in the list of unused entries.
    pub chain: EntryId,
    older: EntryId,
    newer: EntryId,
    /// The CAS unique value, as `gets` tells it.
    pub cas: u64,
    pub ticket: Ticket,
    /// When it expires; 0 is never.
    pub expiry: Second,
    /// When it was fetched or stored last.
    pub accessed: Second,
    /// The same in accesses, for comparing items of different classes.
    pub stamp: u32,
    pub client_flags: u32,
    /// Bytes of the value.
    pub length: u32,
    /// The chunk with the key and the beginning of the value.
    pub first: Chunk,
    /// Users that rely on the entry's number.
    pub pins: u16,
    /// The number of flushes before it was stored.
    pub generation: u16,
    pub key_length: u8,
    pub marks: Marks,
    /// The histogram of sizes that it counts in ([`crate::sizes`]); 0 is none.
    pub sized: u8,
    class: Class,
}

const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    /// An item without chunks.
    pub fn new(hash: u32, key_length: u8, length: u32) -> Entry {
        Entry {
            hash,
            chain: EntryId::NONE,
            older: EntryId::NONE,
            newer: EntryId::NONE,
            cas: 0,
            ticket: Ticket(0),
            expiry: 0,
            accessed: 0,
            stamp: 0,
            client_flags: 0,
            length,
            first: Chunk::NONE,
            pins: 0,
            generation: 0,
            key_length,
            marks: Marks::default(),
            sized: 0,
            class: 0,
        }
    }

    /// Bytes of its key, and of its value if that is in memory.
    pub fn bytes_in_memory(&self) -> u64 {
        let value = if self.marks.has(Marks::COLD) { 0 } else { self.length };
        u64::from(self.key_length) + u64::from(value)
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        usize::from(self.key_length) + self.length as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    newest: EntryId,
    oldest: EntryId,
}

/// Items of a class, among them those whose value is being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub items: u64,
    /// Bytes of their keys, and of their values that are in memory.
    pub bytes: u64,
}

/// All entries.
#[derive(Debug)]
pub(crate) struct Entries {
    entries: Vec<Entry>,
    unused: EntryId,
    /// By class: first those with values in memory, then those without.
    lists: [List; 2 * CLASSES],
    stored: [Stored; CLASSES],
}

impl Entries {
    pub fn new() -> Entries {
        let empty = List { newest: EntryId::NONE, oldest: EntryId::NONE };
        Entries {
            entries: Vec::new(),
            unused: EntryId::NONE,
            lists: [empty; 2 * CLASSES],
            stored: [Stored::default(); CLASSES],
        }
    }

    /// Bytes of the table.
    pub fn table_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// Entries, used or not.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, id: EntryId) -> &Entry {
        &self.entries[id.0 as usize]
    }

    pub fn get_mut(&mut self, id: EntryId) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    /// Puts an entry into the table.
    pub fn insert(&mut self, entry: Entry) -> EntryId {
        if self.unused.is_some() {
            let id = self.unused;
            self.unused = self.get(id).chain;
            *self.get_mut(id) = entry;
            return id;
        }
        let id = EntryId(self.entries.len() as u32);
        self.entries.push(entry);
        id
    }

    /// Lets the entry be used for another item.
    pub fn remove(&mut self, id: EntryId) {
        let unused = self.unused;
        let entry = self.get_mut(id);
        entry.marks = Marks::GONE;
        entry.first = Chunk::NONE;
        entry.pins = 0;
        entry.chain = unused;
        self.unused = id;
    }

    /// Puts an entry first in the list of its class.
    pub fn push_newest(&mut self, id: EntryId, class: Class) {
        let entry = self.get_mut(id);
        entry.class = class;
        let bytes = entry.bytes_in_memory();
        let stored = &mut self.stored[usize::from(class)];
        stored.items += 1;
        stored.bytes += bytes;
        self.attach(id, self.list_of(id));
    }

    /// Takes an entry out of its list.
    pub fn unlist(&mut self, id: EntryId) {
        let entry = self.get(id);
        let (class, bytes) = (entry.class, entry.bytes_in_memory());
        let stored = &mut self.stored[usize::from(class)];
        stored.items -= 1;
        stored.bytes -= bytes;
        self.detach(id, self.list_of(id));
    }

    fn attach(&mut self, id: EntryId, place: usize) {
        let list = &mut self.lists[place];
        let before = list.newest;
        list.newest = id;
        if before.is_some() {
            self.get_mut(before).newer = id;
        } else {
            self.lists[place].oldest = id;
        }
        let entry = self.get_mut(id);
        entry.older = before;
        entry.newer = EntryId::NONE;
    }

    fn detach(&mut self, id: EntryId, place: usize) {
        let Entry { older, newer, .. } = *self.get(id);
        if older.is_some() {
            self.get_mut(older).newer = newer;
        } else {
            self.lists[place].oldest = newer;
        }
        if newer.is_some() {
            self.get_mut(newer).older = older;
        } else {
            self.lists[place].newest = older;
        }
    }

    /// The list that an entry belongs to.
    fn list_of(&self, id: EntryId) -> usize {
        let entry = self.get(id);
        usize::from(entry.class) + if entry.marks.has(Marks::COLD) { CLASSES } else { 0 }
    }

    /// Moves an entry to the front of its list.
    pub fn bump(&mut self, id: EntryId) {
        if self.get(id).newer.is_some() {
            let place = self.list_of(id);
            self.detach(id, place);
            self.attach(id, place);
        }
    }

    pub fn class(&self, id: EntryId) -> Class {
        self.get(id).class
    }

    /// The entry of this class that was not used for longest, of those with their value in memory.
    pub fn oldest(&self, class: Class) -> Option<EntryId> {
        let id = self.lists[usize::from(class)].oldest;
        id.is_some().then_some(id)
    }

    /// The same of those whose value is in the second tier.
    pub fn oldest_cold(&self, class: Class) -> Option<EntryId> {
        let id = self.lists[CLASSES + usize::from(class)].oldest;
        id.is_some().then_some(id)
    }

    /// The next one that was used later, in the same list.
    pub fn newer(&self, id: EntryId) -> Option<EntryId> {
        let id = self.get(id).newer;
        id.is_some().then_some(id)
    }

    /// Bytes of keys, and of values in memory, of all classes.
    pub fn bytes(&self) -> u64 {
        self.stored.iter().map(|stored| stored.bytes).sum()
    }

    /// What there is of this class.
    pub fn stored(&self, class: Class) -> Stored {
        self.stored[usize::from(class)]
    }
}
