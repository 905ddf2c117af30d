//! Commands to the server itself.
//!
//! What memcached has and this server has not answers as a memcached without it: no watchers, no LRU crawler to steer,
//! no slabs to move by hand, no shutdown. Memory is bought and sold elsewhere, so `cache_memlimit` can't adjust it.

use crate::VERSION;
use crate::cold::Cold;
use crate::command::{After, BAD_FORMAT, ERROR, say_unless, wants_no_reply};
use crate::output::{Line, Output, say};
use crate::pages::Pages;
use crate::statistics::Group;
use crate::store::Store;
use crate::text::{self, Words};

/// The most talkative verbosity (memcached.h, `MAX_VERBOSITY_LEVEL`).
const MOST_VERBOSE: u32 = 2;

/// Executes a command that is about no item.
pub(crate) fn execute<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    match words.get(0) {
        b"flush_all" => flush_all(words, store, output),
        b"stats" => stats(words, store, output),
        b"verbosity" => verbosity(words, store, output),
        b"cache_memlimit" => memory_limit(words, output),
        b"version" => {
            let mut line = Line::new(output);
            line.text(b"VERSION ");
            line.text(VERSION.as_bytes());
            line.end();
            After::Done
        }
        b"quit" => After::Close,
        b"shutdown" => {
            say(output, b"ERROR: shutdown not enabled\r\n");
            After::Done
        }
        b"watch" => say_unless(wants_no_reply(words), output, b"CLIENT_ERROR watch commands not allowed\r\n"),
        b"slabs" => slabs(words, store, output),
        b"lru_crawler" => {
            let crawls = words.count() == 3 && matches!(words.get(1), b"crawl" | b"metadump" | b"mgdump");
            say(output, if crawls { b"CLIENT_ERROR lru crawler disabled\r\n" } else { ERROR });
            After::Done
        }
        _ if words.last().starts_with(b"HTTP/") => After::Close,
        _ => {
            say(output, ERROR);
            After::Done
        }
    }
}

fn flush_all<'a, P: Pages, C: Cold>(words: &Words, store: &mut Store<P, C>, output: &mut impl Output) -> After<'a> {
    if words.count() > 3 {
        say(output, ERROR);
        return After::Done;
    }
    store.counters.cmd_flush += 1;
    let noreply = wants_no_reply(words);
    let delay = if words.count() == 1 + usize::from(noreply) { Some(0) } else { text::signed32(words.get(1)) };
    let Some(delay) = delay else {
        return say_unless(noreply, output, b"CLIENT_ERROR invalid exptime argument\r\n");
    };
    store.flush_all(if delay > 0 { store.clock.expiry(delay) } else { 0 });
    say_unless(noreply, output, b"OK\r\n")
}

fn verbosity<'a, P: Pages, C: Cold>(words: &Words, store: &mut Store<P, C>, output: &mut impl Output) -> After<'a> {
    if words.count() != 2 && words.count() != 3 {
        say(output, ERROR);
        return After::Done;
    }
    let noreply = wants_no_reply(words);
    let Some(level) = text::unsigned32(words.get(1)) else {
        return say_unless(noreply, output, BAD_FORMAT);
    };
    store.verbosity = level.min(MOST_VERBOSE);
    say_unless(noreply, output, b"OK\r\n")
}

fn memory_limit<'a>(words: &Words, output: &mut impl Output) -> After<'a> {
    if words.count() != 2 && words.count() != 3 {
        say(output, ERROR);
        return After::Done;
    }
    let text: &[u8] = match text::unsigned32(words.get(1)) {
        None => ERROR,
        Some(..8) => b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
        Some(1_000_000_001..) => b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n",
        Some(_) => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n",
    };
    say_unless(wants_no_reply(words), output, text)
}

fn slabs<'a, P: Pages, C: Cold>(words: &Words, store: &mut Store<P, C>, output: &mut impl Output) -> After<'a> {
    let noreply = wants_no_reply(words);
    let text: &[u8] = match (words.get(1), words.count()) {
        (b"reassign", 4) => b"CLIENT_ERROR slab reassignment disabled\r\n",
        (b"automove", 3..) => match text::unsigned32(words.get(2)) {
            Some(level @ 0..=2) => {
                store.automove = level;
                b"OK\r\n"
            }
            Some(_) => ERROR,
            None => BAD_FORMAT,
        },
        _ => ERROR,
    };
    say_unless(noreply, output, text)
}

fn stats<'a, P: Pages, C: Cold>(words: &Words, store: &mut Store<P, C>, output: &mut impl Output) -> After<'a> {
    let text: &[u8] = match words.get(1) {
        b"" => return After::Statistics(Group::General),
        b"settings" => return After::Statistics(Group::Settings),
        b"items" => return After::Statistics(Group::Items),
        b"slabs" => return After::Statistics(Group::Slabs),
        b"sizes" => return After::Statistics(Group::Sizes),
        b"conns" => return After::Statistics(Group::Connections),
        b"sizes_enable" => {
            store.track_sizes();
            b"STAT sizes_status enabled\r\n"
        }
        b"sizes_disable" => {
            store.sizes.end();
            b"STAT sizes_status disabled\r\n"
        }
        b"detail" => match words.get(2) {
            b"dump" => return After::Statistics(Group::Prefixes),
            state @ (b"on" | b"off") => {
                store.prefixes.is_on = state == b"on";
                b"OK\r\n"
            }
            _ => b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
        },
        b"reset" => {
            store.reset_counters();
            b"RESET\r\n"
        }
        b"cachedump" => b"CLIENT_ERROR stats cachedump not allowed\r\n",
        _ => ERROR,
    };
    say(output, text);
    After::Done
}
