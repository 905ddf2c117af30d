//! The meta commands (protocol.txt, "Meta Commands").

mod flags;

use crate::cold::Cold;
use crate::command::{After, BAD_FORMAT, ERROR, Incoming, NO_MEMORY, NOT_NUMERIC, Reply, TOO_LARGE};
use crate::entries::{EntryId, Marks};
use crate::output::{Line, Output, say};
use crate::pages::Pages;
use crate::store::{Delta, MOST_KEY_BYTES, Made, Mode, Outcome, Refusal, Store, Storing};
use crate::text::{self, MOST_DIGITS, Words};
use crate::{base64, classes};

use flags::{Flags, KeyBuffer};

const BAD_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
const TOO_MANY: &[u8] = b"CLIENT_ERROR options flags too long\r\n";

/// Words of a meta command at most (proto_text.c, `MFLAG_MAX_OPT_LENGTH`).
const MOST_META_WORDS: usize = 19;

fn fail<'a>(output: &mut impl Output, text: &[u8]) -> After<'a> {
    say(output, text);
    After::Done
}

/// Refuses what is too long or too short to be a meta command.
fn check(words: &Words, too_many: &'static [u8]) -> Result<(), &'static [u8]> {
    match words.count() {
        0 | 1 => Err(ERROR),
        _ if words.get(1).len() > MOST_KEY_BYTES => Err(BAD_FORMAT),
        count if count > MOST_META_WORDS => Err(too_many),
        _ => Ok(()),
    }
}

/// Writes the opaque token and the key where they were asked for.
fn return_token(line: &mut Line<impl Output>, flag: &[u8], key: &[u8], binary: bool) {
    match flag.first() {
        Some(b'O') => {
            line.text(b" ");
            line.text(flag);
        }
        Some(b'k') => return_key(line, key, binary),
        _ => {}
    }
}

fn return_key(line: &mut Line<impl Output>, key: &[u8], binary: bool) {
    line.text(b" k");
    if binary {
        base64::encode(key, |text| line.text(text));
        line.text(b" b");
    } else {
        line.text(key);
    }
}

/// `mg`.
pub(crate) fn get<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    store.counters.cmd_meta += 1;
    if let Err(error) = check(words, b"CLIENT_ERROR options flags are too long\r\n") {
        return fail(output, error);
    }
    let mut buffer = KeyBuffer::new();
    let (flags, key) = match Flags::read(words, 2, &store.clock, &mut buffer) {
        Ok(read) => read,
        Err(error) => return fail(output, error),
    };
    if flags.opaque_is_too_long() {
        return fail(output, flags::OPAQUE_TOO_LONG);
    }
    let key = store.key(key);
    let mut found = store.find(key);
    if let Some(ticket) = found.filter(|_| flags.value).and_then(|id| store.load(id)) {
        return After::Cold(ticket);
    }
    store.note_access(key, found);
    let is_hit = found.is_some();
    if !is_hit && flags.vivify.is_some() {
        let made = Made { marks: flags.key_marks(), explicit: flags.explicit, ..Made::default() };
        found = store.make(key, made).ok();
    }
    // As in memcached, an item that is made is a hit, and touching one that is there does not count as a retrieval.
    match found {
        Some(id) if flags.ttl.is_some() => {
            store.counters.cmd_touch += 1;
            store.of(id).touch_hits += 1;
        }
        Some(id) => {
            store.counters.cmd_get += 1;
            store.of(id).get_hits += 1;
        }
        None => {
            store.counters.cmd_get += 1;
            store.counters.get_misses += 1;
        }
    }
    let Some(id) = found else {
        if !flags.quiet {
            let mut line = Line::new(output);
            line.text(b"EN");
            flags.words().for_each(|flag| return_token(&mut line, flag, key.bytes, flags.binary));
            line.end();
        }
        return After::Done;
    };
    answer_hit(id, !is_hit, &flags, key.bytes, store, output);
    if !flags.no_update {
        store.bump(id);
    }
    if !flags.value {
        return After::Done;
    }
    if store.entries.get(id).length as usize + 2 > output.room() {
        // A client that is refused for too many of its like is closed, as its answer has begun.
        return store.pin(id).map_or(After::BreakOff, After::Send);
    }
    for part in store.parts(id, 0) {
        output.write(part);
    }
    output.write(b"\r\n");
    After::Done
}

/// Writes the line of a hit, and does what its flags ask for, in their order.
fn answer_hit<P: Pages, C: Cold>(
    id: EntryId,
    is_new: bool,
    flags: &Flags,
    key: &[u8],
    store: &mut Store<P, C>,
    output: &mut impl Output,
) {
    let now = store.clock.now();
    let entry = store.entries.get_mut(id);
    let mut line = Line::new(output);
    if flags.value {
        line.text(b"VA ");
        line.number(entry.length.into());
    } else {
        line.text(b"HD");
    }
    let mut wins = is_new;
    for flag in flags.words() {
        match flag[0] {
            b'T' => entry.expiry = flags.ttl.unwrap_or(entry.expiry),
            b'N' if is_new => entry.expiry = flags.vivify.unwrap_or(entry.expiry),
            b'R' => {
                let is_due = flags.recache.is_some_and(|recache| entry.expiry < recache);
                wins |= !entry.marks.has(Marks::WON) && !is_new && entry.expiry != 0 && is_due;
            }
            b's' => line.flag(b's', entry.length.into()),
            b't' if entry.expiry == 0 => line.text(b" t-1"),
            b't' => line.flag(b't', entry.expiry.wrapping_sub(now).into()),
            b'c' => line.flag(b'c', entry.cas),
            b'f' => line.flag(b'f', entry.client_flags.into()),
            b'l' => line.flag(b'l', now.saturating_sub(entry.accessed).into()),
            b'h' => line.flag(b'h', entry.marks.has(Marks::FETCHED).into()),
            _ => return_token(&mut line, flag, key, entry.marks.has(Marks::BINARY)),
        }
    }
    let has_won = entry.marks.has(Marks::WON);
    if has_won {
        line.text(b" Z");
    }
    if entry.marks.has(Marks::STALE) {
        line.text(b" X");
        wins |= !has_won;
    }
    if wins {
        line.text(b" W");
        entry.marks.set(Marks::WON);
    }
    line.end();
}

/// What `ms` returns when the value has come.
#[derive(Debug)]
pub(crate) struct SetReply {
    quiet: bool,
    /// Letters of the flags that return something, in their order; 0 is none.
    order: [u8; 4],
    opaque: [u8; flags::MOST_OPAQUE],
    opaque_length: usize,
}

/// `ms`.
pub(crate) fn set<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    store.counters.cmd_meta += 1;
    if let Err(error) = check(words, TOO_MANY) {
        return fail(output, error);
    }
    let length = text::signed32(words.get(2)).and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length <= i32::MAX as usize - 2) else {
        return fail(output, BAD_FORMAT);
    };
    let mut buffer = KeyBuffer::new();
    let begun =
        Flags::read(words, 3, &store.clock, &mut buffer).and_then(|(flags, key)| begin_set(&flags, key, length, store));
    match begun {
        Ok(incoming) => After::Receive(incoming),
        Err(error) => {
            say(output, error);
            After::Skip(length + 2)
        }
    }
}

fn begin_set<P: Pages, C: Cold>(
    flags: &Flags,
    key: &[u8],
    length: usize,
    store: &mut Store<P, C>,
) -> Result<Incoming, &'static [u8]> {
    let mode = match flags.mode {
        None | Some(b'S') => Mode::Set,
        Some(b'E') => Mode::Add,
        Some(b'A') if flags.vivify.is_some() => Mode::AppendOrSet,
        Some(b'A') => Mode::Append,
        Some(b'P') if flags.vivify.is_some() => Mode::PrependOrSet,
        Some(b'P') => Mode::Prepend,
        Some(b'R') => Mode::Replace,
        Some(_) => return Err(b"CLIENT_ERROR invalid mode for ms M token\r\n"),
    };
    if flags.opaque_is_too_long() {
        return Err(flags::OPAQUE_TOO_LONG);
    }
    let mode = match mode {
        Mode::Set | Mode::Replace if flags.cas.is_some() => Mode::Cas,
        mode => mode,
    };
    let expiry = if matches!(mode, Mode::AppendOrSet | Mode::PrependOrSet) { flags.vivify } else { flags.ttl };
    let key = store.key(key);
    let pin = match store.begin(key, flags.client_flags, expiry.unwrap_or(0), length) {
        Ok(pin) => pin,
        Err(refusal) => {
            store.discard(key);
            return Err(if refusal == Refusal::TooLarge { TOO_LARGE } else { NO_MEMORY });
        }
    };
    store.entries.get_mut(pin.id()).marks.set(flags.key_marks());
    let mut reply = SetReply { quiet: flags.quiet, order: [0; 4], opaque: [0; flags::MOST_OPAQUE], opaque_length: 0 };
    let returning = flags.words().filter(|flag| matches!(flag[0], b'O' | b'k' | b'c' | b's'));
    for (flag, place) in returning.zip(&mut reply.order) {
        *place = flag[0];
        if flag[0] == b'O' {
            reply.opaque[..flag.len()].copy_from_slice(flag);
            reply.opaque_length = flag.len();
        }
    }
    let storing = Storing {
        mode,
        cas: flags.cas.unwrap_or(0),
        invalidates: flags.stale && mode == Mode::Cas,
        explicit: flags.explicit,
    };
    Ok(Incoming { pin, length, received: 0, end: [0; 2], storing, reply: Reply::Meta(reply) })
}

/// Tells the result of `ms`.
// Inlined into what ends every storage command, it would slow `set` down.
#[inline(never)]
pub(crate) fn say_stored<P: Pages, C: Cold>(
    stored: Outcome,
    reply: &SetReply,
    id: EntryId,
    store: &Store<P, C>,
    output: &mut impl Output,
) {
    let (code, cas): (&[u8], u64) = match stored {
        Outcome::Stored(_) if reply.quiet => return,
        Outcome::Stored(cas) => (b"HD", cas),
        Outcome::NotStored => (b"NS", 0),
        Outcome::Exists => (b"EX", 0),
        Outcome::NotFound => (b"NF", 0),
        Outcome::NoMemory | Outcome::Cold(_) => return say(output, NO_MEMORY),
    };
    let binary = store.entries.get(id).marks.has(Marks::BINARY);
    let mut line = Line::new(output);
    line.text(code);
    for letter in reply.order {
        match letter {
            b'c' => line.flag(b'c', cas),
            // As in memcached, what was not stored has a size as well: that of what was sent.
            b's' if code == b"HD" => line.flag(b's', store.stored_length(id).into()),
            b's' => line.flag(b's', store.entries.get(id).length.into()),
            b'O' => return_token(&mut line, &reply.opaque[..reply.opaque_length], &[], false),
            b'k' => return_key(&mut line, store.key_of(id), binary),
            _ => {}
        }
    }
    line.end();
}

/// `md`.
pub(crate) fn delete<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    store.counters.cmd_meta += 1;
    if let Err(error) = check(words, TOO_MANY) {
        return fail(output, error);
    }
    let mut buffer = KeyBuffer::new();
    let Ok((flags, key)) = Flags::read(words, 2, &store.clock, &mut buffer) else {
        return fail(output, BAD_FLAG);
    };
    if flags.opaque_is_too_long() {
        return fail(output, flags::OPAQUE_TOO_LONG);
    }
    let hashed = store.key(key);
    let code: &[u8] = match store.find(hashed) {
        None => {
            store.counters.delete_misses += 1;
            b"NF"
        }
        Some(id) if flags.cas.is_some_and(|cas| cas != store.entries.get(id).cas) => {
            store.counters.delete_misses += 1;
            b"EX"
        }
        Some(mut id) => {
            if flags.no_value {
                let made = Made {
                    client_flags: flags.client_flags,
                    expiry: flags.ttl.unwrap_or(0),
                    marks: flags.key_marks(),
                    explicit: flags.explicit.or(Some(store.entries.get(id).cas)),
                    ..Made::default()
                };
                id = match store.make(hashed, made) {
                    Ok(id) => id,
                    Err(_) => return fail(output, b"SERVER_ERROR out of memory\r\n"),
                };
            }
            if flags.stale {
                let cas = store.next_cas(flags.explicit);
                let entry = store.entries.get_mut(id);
                entry.expiry = flags.ttl.unwrap_or(entry.expiry);
                entry.cas = cas;
                entry.marks.set(Marks::STALE);
                // So that the next client wins.
                entry.marks.clear(Marks::WON);
            } else {
                store.of(id).delete_hits += 1;
                if !flags.no_value {
                    store.unlink(id);
                }
            }
            if flags.quiet {
                return After::Done;
            }
            b"HD"
        }
    };
    let mut line = Line::new(output);
    line.text(code);
    flags.words().for_each(|flag| return_token(&mut line, flag, key, flags.binary));
    line.end();
    After::Done
}

/// `ma`.
pub(crate) fn arithmetic<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    store.counters.cmd_meta += 1;
    if let Err(error) = check(words, TOO_MANY) {
        return fail(output, error);
    }
    let mut buffer = KeyBuffer::new();
    let Ok((flags, key)) = Flags::read(words, 2, &store.clock, &mut buffer) else {
        return fail(output, BAD_FLAG);
    };
    let increase = match flags.mode {
        None | Some(b'I' | b'i' | b'+') => true,
        Some(b'D' | b'd' | b'-') => false,
        Some(_) => return fail(output, b"CLIENT_ERROR invalid mode for ma M token\r\n"),
    };
    if flags.opaque_is_too_long() {
        return fail(output, flags::OPAQUE_TOO_LONG);
    }
    let key = store.key(key);
    let result = store.delta(key, increase, flags.delta.unwrap_or(1), flags.cas.unwrap_or(0), flags.explicit);
    let mut miss = |code| {
        let mut line = Line::new(output);
        line.text(code);
        flags.words().for_each(|flag| return_token(&mut line, flag, key.bytes, flags.binary));
        line.end();
        After::Done
    };
    let (id, value) = match result {
        Delta::Done(id, _) if flags.quiet => {
            let entry = store.entries.get_mut(id);
            entry.expiry = flags.ttl.unwrap_or(entry.expiry);
            return After::Done;
        }
        Delta::Done(id, value) => (id, value),
        Delta::Exists => return miss(b"EX"),
        Delta::Cold(ticket) => return After::Cold(ticket),
        Delta::NotNumeric => return fail(output, NOT_NUMERIC),
        Delta::NoMemory => return fail(output, b"SERVER_ERROR out of memory\r\n"),
        Delta::NotFound => {
            if flags.vivify.is_none() {
                store.count_delta_miss(increase);
                return miss(b"NF");
            }
            let mut buffer = [0; MOST_DIGITS];
            let made = Made {
                value: text::digits(flags.initial, &mut buffer),
                marks: flags.key_marks(),
                explicit: flags.explicit,
                ..Made::default()
            };
            match store.make(key, made) {
                Ok(id) => (id, flags.initial),
                Err(_) => return fail(output, b"SERVER_ERROR Out of memory allocating new item\r\n"),
            }
        }
    };
    let is_new = matches!(result, Delta::NotFound);
    let now = store.clock.now();
    let entry = store.entries.get_mut(id);
    let mut buffer = [0; MOST_DIGITS];
    let digits = text::digits(value, &mut buffer);
    let mut line = Line::new(output);
    if flags.value {
        line.text(b"VA ");
        line.number(digits.len() as u64);
    } else {
        line.text(b"HD");
    }
    for flag in flags.words() {
        match flag[0] {
            b'c' => line.flag(b'c', entry.cas),
            b't' if entry.expiry == 0 => line.text(b" t-1"),
            b't' => line.flag(b't', entry.expiry.wrapping_sub(now).into()),
            b'T' => entry.expiry = flags.ttl.unwrap_or(entry.expiry),
            b'N' if is_new => entry.expiry = flags.vivify.unwrap_or(entry.expiry),
            _ => return_token(&mut line, flag, key.bytes, flags.binary),
        }
    }
    if flags.value {
        line.text(b"\r\n");
        line.text(digits);
    }
    line.end();
    After::Done
}

/// `me`.
pub(crate) fn debug<'a, P: Pages, C: Cold>(
    words: &Words,
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    store.counters.cmd_meta += 1;
    let mut buffer = KeyBuffer::new();
    let word = words.get(1);
    let key = if words.get(2) == b"b" { buffer.decode(word) } else { Some(word) };
    let Some(key) = key.filter(|_| words.count() >= 2 && word.len() <= MOST_KEY_BYTES) else {
        return fail(output, BAD_FORMAT);
    };
    let Some(id) = store.find(store.key(key)) else {
        return fail(output, b"EN\r\n");
    };
    let now = store.clock.now();
    let entry = store.entries.get(id);
    let mut line = Line::new(output);
    line.text(b"ME ");
    if entry.marks.has(Marks::BINARY) {
        base64::encode(key, |text| line.text(text));
    } else {
        line.text(key);
    }
    // memcached tells the negative of the time left.
    line.text(b" exp=-");
    line.number(if entry.expiry == 0 { 1 } else { entry.expiry.wrapping_sub(now).into() });
    line.text(b" la=");
    line.number(now.saturating_sub(entry.accessed).into());
    line.text(b" cas=");
    line.number(entry.cas);
    line.text(if entry.marks.has(Marks::FETCHED) { b" fetch=yes cls=" } else { b" fetch=no cls=" });
    line.number(u64::from(store.entries.class(id)) + 1);
    line.text(b" size=");
    line.number(classes::size(store.entries.class(id)).max(key.len() + entry.length as usize) as u64);
    line.end();
    After::Done
}
