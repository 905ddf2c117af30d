//! What `stats` tells, one line at a time, so that it needs little room.

use crate::classes::{self, CLASSES, Class};
use crate::cold::Cold;
use crate::output::{Line, Output};
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::{MOST_VALUE_BYTES, Store};
use crate::{LEAST_ROOM, VERSION};

/// Groups of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    General,
    Settings,
    Items,
    Slabs,
    Sizes,
    Connections,
}

/// Lines that a class has in a group at most.
const LINES_PER_CLASS: usize = 8;

/// Writes lines of the group from `*line` on while there is room. True when the end is written.
pub(crate) fn write<P: Pages, C: Cold>(
    group: Group,
    line: &mut usize,
    store: &Store<P, C>,
    output: &mut impl Output,
) -> bool {
    loop {
        if output.room() < LEAST_ROOM {
            return false;
        }
        let named = |list: &[(&'static str, Value)], output: &mut _| {
            list.get(*line).map(|(name, value)| stat(output, &[name.as_bytes()], *value)).is_some()
        };
        let written = match group {
            Group::General => named(&general(store), output),
            Group::Settings => named(&settings(store), output),
            Group::Items => items(*line, store, output),
            Group::Slabs => slabs(*line, store, output),
            Group::Sizes => named(&[("sizes_status", Value::Text("disabled"))], output),
            Group::Connections => named(&[("curr_connections", Value::Number(store.connections))], output),
        };
        if !written {
            output.write(b"END\r\n");
            return true;
        }
        *line += 1;
    }
}

#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    Text(&'static str),
}

fn stat(output: &mut impl Output, name: &[&[u8]], value: Value) {
    let mut line = Line::new(output);
    line.text(b"STAT ");
    name.iter().for_each(|part| line.text(part));
    line.text(b" ");
    match value {
        Value::Number(number) => line.number(number),
        Value::Text(text) => line.text(text.as_bytes()),
    }
    line.end();
}

/// The general statistics. Those that an operating system would tell are left out.
fn general<P: Pages, C: Cold>(store: &Store<P, C>) -> [(&'static str, Value); 55] {
    let c = &store.counters;
    [
        ("pid", Value::Number(1)),
        ("uptime", Value::Number(store.clock.uptime())),
        ("time", Value::Number(store.clock.time().seconds())),
        ("version", Value::Text(VERSION)),
        ("pointer_size", Value::Number(64)),
        ("curr_connections", Value::Number(store.connections)),
        ("total_connections", Value::Number(c.total_connections)),
        ("cmd_get", Value::Number(c.cmd_get)),
        ("cmd_set", Value::Number(c.cmd_set)),
        ("cmd_flush", Value::Number(c.cmd_flush)),
        ("cmd_touch", Value::Number(c.cmd_touch)),
        ("cmd_meta", Value::Number(c.cmd_meta)),
        ("get_hits", Value::Number(c.get_hits)),
        ("get_misses", Value::Number(c.get_misses)),
        ("get_expired", Value::Number(c.get_expired)),
        ("get_flushed", Value::Number(c.get_flushed)),
        ("delete_misses", Value::Number(c.delete_misses)),
        ("delete_hits", Value::Number(c.delete_hits)),
        ("incr_misses", Value::Number(c.incr_misses)),
        ("incr_hits", Value::Number(c.incr_hits)),
        ("decr_misses", Value::Number(c.decr_misses)),
        ("decr_hits", Value::Number(c.decr_hits)),
        ("cas_misses", Value::Number(c.cas_misses)),
        ("cas_hits", Value::Number(c.cas_hits)),
        ("cas_badval", Value::Number(c.cas_badval)),
        ("touch_hits", Value::Number(c.touch_hits)),
        ("touch_misses", Value::Number(c.touch_misses)),
        ("store_too_large", Value::Number(c.store_too_large)),
        ("store_no_memory", Value::Number(c.store_no_memory)),
        ("auth_cmds", Value::Number(0)),
        ("auth_errors", Value::Number(0)),
        ("bytes_read", Value::Number(c.bytes_read)),
        ("bytes_written", Value::Number(c.bytes_written)),
        ("limit_maxbytes", Value::Number((store.pages_lent() * PAGE_BYTES) as u64)),
        ("accepting_conns", Value::Number(1)),
        ("threads", Value::Number(1)),
        ("hash_power_level", Value::Number(store.index.buckets().ilog2().into())),
        ("hash_bytes", Value::Number(store.table_bytes() as u64)),
        ("bytes", Value::Number(store.bytes())),
        ("curr_items", Value::Number(store.items() as u64)),
        ("total_items", Value::Number(c.total_items)),
        ("expired_unfetched", Value::Number(c.expired_unfetched)),
        ("evicted_unfetched", Value::Number(c.evicted_unfetched)),
        ("evictions", Value::Number(c.evictions)),
        ("reclaimed", Value::Number(c.reclaimed)),
        ("crawler_reclaimed", Value::Number(c.crawler_reclaimed)),
        ("crawler_items_checked", Value::Number(c.crawler_items_checked)),
        ("pages_lent", Value::Number(store.pages_lent() as u64)),
        ("pages_free", Value::Number(store.pages_free() as u64)),
        ("pages_given_back", Value::Number(c.pages_given_back)),
        ("chunks_moved", Value::Number(c.chunks_moved)),
        ("items_lost", Value::Number(c.items_lost)),
        ("cold_writes", Value::Number(c.cold_writes)),
        ("cold_reads", Value::Number(c.cold_reads)),
        ("cold_failures", Value::Number(c.cold_failures)),
    ]
}

/// How the server is set up.
fn settings<P: Pages, C: Cold>(store: &Store<P, C>) -> [(&'static str, Value); 16] {
    [
        ("maxbytes", Value::Number((store.pages_lent() * PAGE_BYTES) as u64)),
        ("verbosity", Value::Number(store.verbosity.into())),
        ("evictions", Value::Text("on")),
        ("shutdown_command", Value::Text("no")),
        ("chunk_size", Value::Number(classes::size(0) as u64)),
        ("num_threads", Value::Number(1)),
        ("detail_enabled", Value::Text("no")),
        ("cas_enabled", Value::Text("yes")),
        ("binding_protocol", Value::Text("ascii")),
        ("auth_enabled_sasl", Value::Text("no")),
        ("item_size_max", Value::Number(MOST_VALUE_BYTES as u64)),
        ("lru_crawler", Value::Text("no")),
        ("flush_enabled", Value::Text("yes")),
        ("dump_enabled", Value::Text("no")),
        ("hash_algorithm", Value::Text("siphash13")),
        ("lru_segmented", Value::Text("no")),
    ]
}

/// Writes `prefix` CLASS `:` name, if the class has anything.
fn of_class(prefix: &[u8], class: Class, name: &[u8], value: u64, output: &mut impl Output) {
    let mut buffer = [0; crate::text::MOST_DIGITS];
    let number = crate::text::digits(u64::from(class) + 1, &mut buffer);
    stat(output, &[prefix, number, b":", name], Value::Number(value));
}

/// Writes the line with this number, if it tells anything. False behind the last one.
fn items<P: Pages, C: Cold>(number: usize, store: &Store<P, C>, output: &mut impl Output) -> bool {
    let class = number / LINES_PER_CLASS;
    if class >= CLASSES {
        return false;
    }
    let class = class as Class;
    let entries = &store.entries;
    let oldest = [entries.oldest(class), entries.oldest_cold(class)].into_iter().flatten();
    let Some(oldest) = oldest.max_by_key(|id| store.age(*id)) else { return true };
    let age = store.clock.now().saturating_sub(store.entries.get(oldest).accessed);
    let lines: [(&[u8], u64); 2] = [(b"number", store.entries.count(class)), (b"age", age.into())];
    if let Some((name, value)) = lines.get(number % LINES_PER_CLASS) {
        of_class(b"items:", class, name, *value, output);
    }
    true
}

/// As [`items`].
fn slabs<P: Pages, C: Cold>(number: usize, store: &Store<P, C>, output: &mut impl Output) -> bool {
    let class = number / LINES_PER_CLASS;
    if class >= CLASSES {
        let used = (0..CLASSES as Class).filter(|class| store.chunks.count(*class).pages > 0).count();
        match number - CLASSES * LINES_PER_CLASS {
            0 => stat(output, &[b"active_slabs"], Value::Number(used as u64)),
            1 => stat(output, &[b"total_malloced"], Value::Number((store.pages_lent() * PAGE_BYTES) as u64)),
            _ => return false,
        }
        return true;
    }
    let class = class as Class;
    let count = store.chunks.count(class);
    let per_page = classes::chunks_per_page(class) as u64;
    let lines: [(&[u8], u64); 6] = [
        (b"chunk_size", classes::size(class) as u64),
        (b"chunks_per_page", per_page),
        (b"total_pages", count.pages),
        (b"total_chunks", count.pages * per_page),
        (b"used_chunks", count.used),
        (b"free_chunks", count.pages * per_page - count.used),
    ];
    if let Some((name, value)) = lines.get(number % LINES_PER_CLASS).filter(|_| count.pages > 0) {
        of_class(b"", class, name, *value, output);
    }
    true
}
