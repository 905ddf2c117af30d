//! The commands that memcached always had.

use crate::cold::{Cold, Ticket};
use crate::command::{
    After, BAD_FORMAT, ERROR, Incoming, NO_MEMORY, NOT_NUMERIC, Reply, Retrieval, TOO_LARGE, say_unless, wants_no_reply,
};
use crate::entries::EntryId;
use crate::output::{LEAST_ROOM, Line, Output, say};
use crate::pages::Pages;
use crate::store::{Delta, MOST_KEY_BYTES, Mode, Outcome, Refusal, Store, Storing};
use crate::text::{self, Words};

const END: &[u8] = b"END\r\n";

/// `get` and `gets`.
pub(crate) fn get<'a>(keys: &'a [u8], tells_cas: bool, output: &mut impl Output) -> After<'a> {
    if !text::has_word(keys) {
        say(output, ERROR);
        return After::Done;
    }
    begin_keys(Retrieval { tells_cas, touches: None }, keys, output)
}

/// `gat` and `gats`.
pub(crate) fn get_and_touch<'a, P: Pages, C: Cold>(
    rest: &'a [u8],
    tells_cas: bool,
    store: &Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    let (exptime, keys) = text::next_word(rest);
    if exptime.is_empty() {
        say(output, ERROR);
        return After::Done;
    }
    let Some(exptime) = text::signed32(exptime) else {
        say(output, b"CLIENT_ERROR invalid exptime argument\r\n");
        return After::Done;
    };
    begin_keys(Retrieval { tells_cas, touches: Some(store.clock.expiry(exptime)) }, keys, output)
}

/// A key that is too long spoils the whole line: nothing of it is answered.
fn begin_keys<'a>(retrieval: Retrieval, keys: &'a [u8], output: &mut impl Output) -> After<'a> {
    let mut rest = keys;
    loop {
        // What is short as a whole has no long word.
        if rest.len() <= MOST_KEY_BYTES {
            return After::Keys(retrieval, keys);
        }
        let (key, after) = text::next_word(rest);
        if key.len() > MOST_KEY_BYTES {
            say(output, BAD_FORMAT);
            return After::Done;
        }
        rest = after;
    }
}

/// Where the answer to keys stands.
#[derive(Debug)]
pub(crate) enum Stop {
    /// All keys are answered.
    End,
    /// More of the line is needed.
    Input,
    /// More room is needed.
    Room,
    /// The value of the last key must be sent.
    Value(EntryId),
    /// The value of the next key must be read.
    Cold(Ticket),
    /// A key is too long.
    TooLong,
}

/// Answers keys, as far as possible. `has_more` says that the line goes on behind them. Says how many bytes of the keys
/// are done with.
pub(crate) fn answer_keys<P: Pages, C: Cold>(
    retrieval: Retrieval,
    keys: &[u8],
    has_more: bool,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> (usize, Stop) {
    let mut rest = keys;
    loop {
        let (key, after) = text::next_word(rest);
        // Where the next key begins, or where the spaces end.
        let done = keys.len() - after.len() - key.len();
        if output.room() < LEAST_ROOM {
            return (done, Stop::Room);
        }
        if key.len() > MOST_KEY_BYTES {
            return (done, Stop::TooLong);
        }
        if has_more && after.is_empty() {
            return (done, Stop::Input);
        }
        if key.is_empty() {
            say(output, END);
            return (done, Stop::End);
        }
        let is_last = after.is_empty() && !has_more;
        match answer_key(retrieval, key, is_last, store, output) {
            Answered::Complete if is_last => return (keys.len(), Stop::End),
            Answered::Complete => rest = after,
            Answered::Value(id) => return (keys.len() - after.len(), Stop::Value(id)),
            Answered::Cold(ticket) => return (done, Stop::Cold(ticket)),
        }
    }
}

enum Answered {
    Complete,
    Value(EntryId),
    Cold(Ticket),
}

/// Answers a key, and ends the answer if it is the last one and complete.
fn answer_key<P: Pages, C: Cold>(
    retrieval: Retrieval,
    key: &[u8],
    is_last: bool,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> Answered {
    let hashed = store.key(key);
    let found = store.find(hashed);
    if let Some(ticket) = found.and_then(|id| store.load(id)) {
        return Answered::Cold(ticket);
    }
    store.note_access(hashed, found);
    let counters = &mut store.counters;
    match retrieval.touches {
        // As in memcached, this counts as touching alone.
        Some(_) => {
            counters.cmd_touch += 1;
            match found {
                Some(id) => store.of(id).touch_hits += 1,
                None => counters.touch_misses += 1,
            }
        }
        None => {
            counters.cmd_get += 1;
            match found {
                Some(id) => store.of(id).get_hits += 1,
                None => counters.get_misses += 1,
            }
        }
    }
    store.prefixes.note(key, |counts| {
        counts.get += 1;
        counts.hit += u64::from(found.is_some());
    });
    let Some(id) = found else {
        if is_last {
            say(output, END);
        }
        return Answered::Complete;
    };
    store.bump(id);
    let entry = store.entries.get_mut(id);
    if let Some(expiry) = retrieval.touches {
        entry.expiry = expiry;
    }
    let mut line = Line::new(output);
    line.text(b"VALUE ");
    line.text(key);
    line.letter(b' ');
    line.number(entry.client_flags.into());
    line.letter(b' ');
    line.number(entry.length.into());
    if retrieval.tells_cas {
        line.letter(b' ');
        line.number(entry.cas);
    }
    line.end();
    if entry.length as usize + b"\r\n".len() + END.len() > output.room() {
        return Answered::Value(id);
    }
    for part in store.parts(id, 0) {
        output.write(part);
    }
    output.write(if is_last { b"\r\nEND\r\n" } else { b"\r\n" });
    Answered::Complete
}

/// `set`, `add`, `replace`, `append`, `prepend` and `cas`.
pub(crate) fn update<'a, P: Pages, C: Cold>(
    words: &Words,
    mode: Mode,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    let arguments = if mode == Mode::Cas { 6 } else { 5 };
    if words.count() != arguments && words.count() != arguments + 1 {
        say(output, ERROR);
        return After::Done;
    }
    let noreply = wants_no_reply(words);
    let key = words.get(1);
    let numbers = (text::unsigned32(words.get(2)), text::signed32(words.get(3)), text::signed32(words.get(4)));
    let (Some(flags), Some(exptime), Some(length)) = numbers else {
        return say_unless(noreply, output, BAD_FORMAT);
    };
    let cas = if mode == Mode::Cas { text::unsigned(words.get(5)) } else { Some(0) };
    // The length must leave room for the end of the value in 31 bits.
    let length = usize::try_from(length).ok().filter(|length| *length <= i32::MAX as usize - 2);
    let (Some(cas), Some(length), true) = (cas, length, key.len() <= MOST_KEY_BYTES) else {
        return say_unless(noreply, output, BAD_FORMAT);
    };
    store.prefixes.note(key, |counts| counts.set += 1);
    let key = store.key(key);
    let expiry = store.clock.expiry(exptime);
    match store.begin(key, flags, expiry, length) {
        Ok(pin) => {
            let reply = if noreply { Reply::None } else { Reply::Classic };
            let storing = Storing { mode, cas, invalidates: false, explicit: None };
            After::Receive(Incoming { pin, length, received: 0, end: [0; 2], storing, reply })
        }
        Err(refusal) => {
            // Rather nothing than something old under the key.
            if mode == Mode::Set {
                store.discard(key);
            }
            say_unless(noreply, output, if refusal == Refusal::TooLarge { TOO_LARGE } else { NO_MEMORY });
            After::Skip(length + 2)
        }
    }
}

/// Tells the result of storing.
pub(crate) fn say_stored(stored: Outcome, output: &mut impl Output) {
    let text: &[u8] = match stored {
        Outcome::Stored(_) => b"STORED\r\n",
        Outcome::NotStored => b"NOT_STORED\r\n",
        Outcome::Exists => b"EXISTS\r\n",
        Outcome::NotFound => b"NOT_FOUND\r\n",
        Outcome::NoMemory | Outcome::Cold(_) => NO_MEMORY,
    };
    say(output, text);
}

/// `incr` and `decr`.
pub(crate) fn arithmetic<'a, P: Pages, C: Cold>(
    words: &Words,
    increase: bool,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    if words.count() != 3 && words.count() != 4 {
        say(output, ERROR);
        return After::Done;
    }
    let noreply = wants_no_reply(words);
    if words.get(1).len() > MOST_KEY_BYTES {
        return say_unless(noreply, output, BAD_FORMAT);
    }
    let Some(by) = text::unsigned(words.get(2)) else {
        return say_unless(noreply, output, b"CLIENT_ERROR invalid numeric delta argument\r\n");
    };
    let key = store.key(words.get(1));
    match store.delta(key, increase, by, 0, None) {
        Delta::Done(_, value) => {
            if !noreply {
                let mut line = Line::new(output);
                line.number(value);
                line.end();
            }
            After::Done
        }
        Delta::NotFound | Delta::Exists => {
            store.count_delta_miss(increase);
            say_unless(noreply, output, b"NOT_FOUND\r\n")
        }
        Delta::NotNumeric => say_unless(noreply, output, NOT_NUMERIC),
        Delta::NoMemory => say_unless(noreply, output, b"SERVER_ERROR out of memory\r\n"),
        Delta::Cold(ticket) => After::Cold(ticket),
    }
}

/// `delete`.
pub(crate) fn delete<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    if !(2..=4).contains(&words.count()) {
        say(output, ERROR);
        return After::Done;
    }
    let noreply = words.count() > 2 && wants_no_reply(words);
    // An old form has a time before which the key can't be added again; it must be 0.
    let has_zero = words.get(2) == b"0";
    let is_valid = match words.count() {
        2 => true,
        3 => has_zero || noreply,
        _ => has_zero && noreply,
    };
    if !is_valid {
        let usage = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
        return say_unless(noreply, output, usage);
    }
    if words.get(1).len() > MOST_KEY_BYTES {
        return say_unless(noreply, output, BAD_FORMAT);
    }
    store.prefixes.note(words.get(1), |counts| counts.del += 1);
    let key = store.key(words.get(1));
    match store.find(key) {
        Some(id) => {
            store.of(id).delete_hits += 1;
            store.unlink(id);
            say_unless(noreply, output, b"DELETED\r\n")
        }
        None => {
            store.counters.delete_misses += 1;
            say_unless(noreply, output, b"NOT_FOUND\r\n")
        }
    }
}

/// `touch`.
pub(crate) fn touch<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    if words.count() != 3 && words.count() != 4 {
        say(output, ERROR);
        return After::Done;
    }
    let noreply = wants_no_reply(words);
    if words.get(1).len() > MOST_KEY_BYTES {
        return say_unless(noreply, output, BAD_FORMAT);
    }
    let Some(exptime) = text::signed32(words.get(2)) else {
        return say_unless(noreply, output, b"CLIENT_ERROR invalid exptime argument\r\n");
    };
    let key = store.key(words.get(1));
    store.counters.cmd_touch += 1;
    match store.find(key) {
        Some(id) => {
            store.of(id).touch_hits += 1;
            store.entries.get_mut(id).expiry = store.clock.expiry(exptime);
            store.bump(id);
            say_unless(noreply, output, b"TOUCHED\r\n")
        }
        None => {
            store.counters.touch_misses += 1;
            say_unless(noreply, output, b"NOT_FOUND\r\n")
        }
    }
}
