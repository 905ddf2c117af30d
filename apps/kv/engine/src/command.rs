//! From a line to what it does: which command it is, and what is left to do when the line is done with.
//!
//! The order of tests and the words of errors are those of memcached 1.6 (proto_text.c, `process_command_ascii`), as
//! clients depend on them.

pub(crate) mod admin;
pub(crate) mod classic;
pub(crate) mod meta;

use crate::cold::{Cold, Ticket};
use crate::output::{Output, say};
use crate::pages::Pages;
use crate::statistics::Group;
use crate::store::{Mode, Pin, Store, Storing};
use crate::text::{self, Words};
use crate::time::Second;

pub(crate) const ERROR: &[u8] = b"ERROR\r\n";
pub(crate) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
pub(crate) const BAD_DATA: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
pub(crate) const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
pub(crate) const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
pub(crate) const NOT_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";

/// What is left to do after a command line.
#[derive(Debug)]
pub(crate) enum After<'a> {
    /// Nothing.
    Done,
    /// Answer these keys.
    Keys(Retrieval, &'a [u8]),
    /// Send the item's value from there on, and the end of its line.
    Send(Pin),
    /// Receive a value.
    Receive(Incoming),
    /// Skip so many bytes.
    Skip(usize),
    /// Tell statistics.
    Statistics(Group),
    /// The line must be executed anew when the value is there.
    Cold(Ticket),
    /// Close the connection.
    Close,
    /// Close it in the middle of an answer, for want of memory.
    BreakOff,
}

/// One of `get`, `gets`, `gat`, `gats`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retrieval {
    pub tells_cas: bool,
    pub touches: Option<Second>,
}

/// A value on its way in.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub pin: Pin,
    pub length: usize,
    /// Bytes that came, among them the two that end the value.
    pub received: usize,
    /// The last two of them.
    pub end: [u8; 2],
    pub storing: Storing,
    pub reply: Reply,
}

/// How the result of storing is told.
#[derive(Debug)]
pub(crate) enum Reply {
    Classic,
    /// `noreply` was asked for.
    None,
    Meta(meta::SetReply),
}

/// Executes a line, without its end.
pub(crate) fn execute<'a, P: Pages, C: Cold>(
    line: &'a [u8],
    store: &mut Store<P, C>,
    output: &mut impl Output,
) -> After<'a> {
    let (command, rest) = text::next_word(line);
    match command {
        b"get" | b"bget" => classic::get(rest, false, output),
        b"gets" => classic::get(rest, true, output),
        b"gat" => classic::get_and_touch(rest, false, store, output),
        b"gats" => classic::get_and_touch(rest, true, store, output),
        _ => {
            let words = Words::new((command, rest));
            match command {
                b"mg" => meta::get(&words, store, output),
                b"ms" => meta::set(&words, store, output),
                b"md" => meta::delete(&words, store, output),
                b"ma" => meta::arithmetic(&words, store, output),
                b"me" => meta::debug(&words, store, output),
                b"mn" => {
                    say(output, b"MN\r\n");
                    After::Done
                }
                b"set" => classic::update(&words, Mode::Set, store, output),
                b"add" => classic::update(&words, Mode::Add, store, output),
                b"replace" => classic::update(&words, Mode::Replace, store, output),
                b"append" => classic::update(&words, Mode::Append, store, output),
                b"prepend" => classic::update(&words, Mode::Prepend, store, output),
                b"cas" => classic::update(&words, Mode::Cas, store, output),
                b"incr" => classic::arithmetic(&words, true, store, output),
                b"decr" => classic::arithmetic(&words, false, store, output),
                b"delete" => classic::delete(&words, store, output),
                b"touch" => classic::touch(&words, store, output),
                _ => admin::execute(&words, store, output),
            }
        }
    }
}

/// Writes a line unless `noreply` was asked for.
pub(crate) fn say_unless(noreply: bool, output: &mut impl Output, text: &[u8]) -> After<'static> {
    if !noreply {
        say(output, text);
    }
    After::Done
}

/// True if the last word asks for no reply.
pub(crate) fn wants_no_reply(words: &Words) -> bool {
    words.last() == b"noreply"
}
