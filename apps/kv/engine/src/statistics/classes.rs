//! What is told of classes of chunks: `stats items` and `stats slabs`. Only classes that hold something are told of.

use super::{Value, named, numbered};
use crate::classes::{self, CLASSES, Class};
use crate::cold::Cold;
use crate::output::Output;
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::Store;

/// Lines that a class has in a group at most.
const LINES: usize = 32;

/// Tells a line of a class, if it has so many, and returns the number of the next one.
fn tell(prefix: &[u8], line: usize, list: &[(&str, u64)], output: &mut impl Output) -> Option<usize> {
    match list.get(line % LINES) {
        Some((name, value)) => {
            numbered(prefix, line / LINES + 1, name.as_bytes(), Value::Number(*value), output);
            Some(line + 1)
        }
        None => Some((line / LINES + 1) * LINES),
    }
}

/// A line of `stats items`.
pub(super) fn items<P: Pages, C: Cold>(line: usize, store: &Store<P, C>, output: &mut impl Output) -> Option<usize> {
    let number = line / LINES;
    if number >= CLASSES {
        return None;
    }
    let class = number as Class;
    let (stored, c) = (store.entries.stored(class), &store.of_classes[number]);
    if stored.items == 0 {
        return tell(b"", line, &[], output);
    }
    let oldest = [store.entries.oldest(class), store.entries.oldest_cold(class)].into_iter().flatten();
    let accessed = oldest.map(|id| store.entries.get(id).accessed).min();
    let age = accessed.map_or(0, |accessed| store.clock.now().saturating_sub(accessed));
    let lines = [
        ("number", stored.items),
        ("age", age.into()),
        ("mem_requested", stored.bytes),
        ("evicted", c.evictions),
        ("evicted_nonzero", c.evicted_nonzero),
        ("evicted_time", store.evicted_time[number].into()),
        ("outofmemory", c.outofmemory),
        // Nobody can forget to let go of an item.
        ("tailrepairs", 0),
        ("reclaimed", c.reclaimed),
        ("expired_unfetched", c.expired_unfetched),
        ("evicted_unfetched", c.evicted_unfetched),
        // An item that is used is the newest at once.
        ("evicted_active", 0),
        ("crawler_reclaimed", c.crawler_reclaimed),
        ("crawler_items_checked", c.crawler_items_checked),
        ("lrutail_reflocked", c.lrutail_reflocked),
        ("direct_reclaims", c.direct_reclaims),
    ];
    tell(b"items:", line, &lines, output)
}

/// A line of `stats slabs`.
pub(super) fn slabs<P: Pages, C: Cold>(line: usize, store: &Store<P, C>, output: &mut impl Output) -> Option<usize> {
    let number = line / LINES;
    if number >= CLASSES {
        let used = (0..CLASSES as Class).filter(|class| store.chunks.count(*class).pages > 0).count();
        let malloced = (store.pages_lent() * PAGE_BYTES) as u64;
        let last = [("active_slabs", Value::Number(used as u64)), ("total_malloced", Value::Number(malloced))];
        return named(line - CLASSES * LINES, last, output).map(|_| line + 1);
    }
    let class = number as Class;
    let (count, c) = (store.chunks.count(class), &store.of_classes[number]);
    if count.pages == 0 {
        return tell(b"", line, &[], output);
    }
    let per_page = classes::chunks_per_page(class) as u64;
    let lines = [
        ("chunk_size", classes::size(class) as u64),
        ("chunks_per_page", per_page),
        ("total_pages", count.pages),
        ("total_chunks", count.pages * per_page),
        ("used_chunks", count.used),
        ("free_chunks", count.pages * per_page - count.used),
        // A page's chunks are all there as soon as it has its class.
        ("free_chunks_end", 0),
        ("get_hits", c.get_hits),
        ("cmd_set", c.cmd_set),
        ("delete_hits", c.delete_hits),
        ("incr_hits", c.incr_hits),
        ("decr_hits", c.decr_hits),
        ("cas_hits", c.cas_hits),
        ("cas_badval", c.cas_badval),
        ("touch_hits", c.touch_hits),
    ];
    tell(b"", line, &lines, output)
}
