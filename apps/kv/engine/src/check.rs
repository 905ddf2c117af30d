//! The invariants of a store as a program, for tests.

use alloc::vec;
use alloc::vec::Vec;

use crate::chunks::{Chunk, Use};
use crate::classes::{self, CLASSES, Class};
use crate::cold::Cold;
use crate::entries::{EntryId, Marks, Stored};
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::Store;

/// Checks all invariants of a store. Looks at everything.
///
/// # Errors
/// The first invariant that does not hold, in words.
pub fn check<P: Pages, C: Cold>(store: &Store<P, C>) -> Result<(), &'static str> {
    let held = check_entries(store)?;
    check_pages(store, &held)
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

/// Chunks that entries hold, with their holders.
fn check_entries<P: Pages, C: Cold>(store: &Store<P, C>) -> Result<Vec<(Chunk, EntryId)>, &'static str> {
    let mut held = Vec::new();
    let mut bytes = 0;
    let mut linked = 0;
    let mut sized = 0;
    let mut listed = vec![false; store.entries.len()];
    for class in 0..CLASSES as Class {
        let mut stored = Stored::default();
        for (first, is_cold) in [(store.entries.oldest(class), false), (store.entries.oldest_cold(class), true)] {
            let mut next = first;
            while let Some(id) = next {
                ensure(
                    store.entries.get(id).marks.has(Marks::COLD) == is_cold,
                    "an entry is in the list of the other tier",
                )?;
                ensure(!core::mem::replace(&mut listed[id.0 as usize], true), "an entry is in two lists")?;
                ensure(store.entries.class(id) == class, "an entry is in the list of another class")?;
                let entry = store.entries.get(id);
                stored.items += 1;
                stored.bytes += entry.bytes_in_memory();
                next = store.entries.newer(id);
            }
        }
        ensure(stored == store.entries.stored(class), "what is stored in a class was counted wrongly")?;
    }
    for (number, is_listed) in listed.into_iter().enumerate() {
        let id = EntryId(number as u32);
        let entry = store.entries.get(id);
        let has_memory = entry.first.is_some();
        ensure(has_memory == is_listed, "an entry with memory is in no list, or one without in a list")?;
        ensure(has_memory != entry.marks.has(Marks::GONE), "an entry is gone and has memory")?;
        if !has_memory {
            ensure(!entry.marks.has(Marks::LINKED), "an entry without memory can be found")?;
            continue;
        }
        ensure(entry.marks.has(Marks::LINKED) || entry.pins > 0, "nobody knows an entry with memory")?;
        ensure(store.chunks.class(entry.first) == store.entries.class(id), "an entry has the wrong class")?;
        let size = entry.bytes_in_memory() as usize;
        bytes += size as u64;
        let mut room = 0;
        let mut chunk = entry.first;
        while chunk.is_some() {
            held.push((chunk, id));
            room += store.chunks.place(chunk).1;
            chunk = store.chunks.next(chunk);
            ensure(room <= size.next_multiple_of(PAGE_BYTES), "an item has more memory than it needs")?;
        }
        if entry.marks.has(Marks::LINKED) {
            linked += 1;
            sized += u64::from(entry.sized == store.sizes.current());
            ensure(room >= size, "an item has too little memory")?;
            let hash = store.key(store.key_of(id)).hash as u32;
            ensure(hash == entry.hash, "a key does not have its hash")?;
            let mut other = store.index.bucket_of(hash);
            while other.is_some() && other != id {
                ensure(store.key_of(other) != store.key_of(id), "a key is there twice")?;
                other = store.entries.get(other).chain;
            }
            ensure(other == id, "an item is not found under its hash")?;
        }
    }
    ensure(linked == store.items(), "the number of items is wrong")?;
    if store.sizes.is_on() {
        let rows = core::iter::successors(store.sizes.from(0), |row| store.sizes.from(row.0 + 1));
        ensure(rows.map(|row| row.2).sum::<u64>() == sized, "the histogram of sizes is wrong")?;
    }
    ensure(bytes == store.bytes(), "the sum of bytes is wrong")?;
    for (ticket, id) in &store.loads {
        let entry = store.entries.get(*id);
        ensure(entry.marks.has(Marks::COLD) && entry.ticket == *ticket, "a read is for nobody")?;
    }
    Ok(held)
}

fn check_pages<P: Pages, C: Cold>(store: &Store<P, C>, held: &[(Chunk, EntryId)]) -> Result<(), &'static str> {
    let chunks = &store.chunks;
    let mut used = 0;
    let (mut lent, mut free) = (0, 0);
    let mut with_room = [0; CLASSES];
    for page in chunks.numbers() {
        lent += usize::from(chunks.usage(page) != Use::Absent);
        let class = match chunks.usage(page) {
            Use::Absent | Use::Free => {
                free += usize::from(chunks.usage(page) == Use::Free);
                ensure(chunks.used(page) == 0, "a page without class has used chunks")?;
                continue;
            }
            Use::Class(class) => class,
            Use::Closed(_) => return Err("a page is closed"),
        };
        let count = chunks.used(page).count_ones() as usize;
        ensure(count > 0, "a page has a class and no chunk in use")?;
        used += count;
        with_room[usize::from(class)] += usize::from(count < classes::chunks_per_page(class));
        for index in 0..classes::MOST_CHUNKS {
            if let Some(pair) = chunks.owner_at(page, index) {
                ensure(index < classes::chunks_per_page(class), "a chunk is outside of its page")?;
                ensure(store.entries.get(pair.1).first.is_some(), "a chunk belongs to nobody")?;
            }
        }
    }
    ensure(used == held.len(), "chunks are used by nobody")?;
    ensure(
        held.iter().all(|(chunk, id)| chunks.owner_at(chunk.page(), chunk.index()) == Some((*chunk, *id))),
        "owner",
    )?;
    ensure(lent == chunks.lent() && free == chunks.free_pages(), "the number of pages is wrong")?;
    ensure(chunks.listed(None).count() == free, "free pages are not listed")?;
    ensure(chunks.listed(None).all(|page| chunks.usage(page) == Use::Free), "a used page is listed as free")?;
    for class in 0..CLASSES as Class {
        let listed = chunks.listed(Some(class));
        ensure(listed.count() == with_room[usize::from(class)], "pages with room are not listed")?;
        let right = |page| chunks.usage(page) == Use::Class(class);
        ensure(chunks.listed(Some(class)).all(right), "a page is in the list of another class")?;
    }
    Ok(())
}
