//! One client's stream of commands.
//!
//! Bytes may come in any pieces: the answers are the same. A line that comes whole is read where it is; only a part of a
//! line, or keys whose answer waits for room, are kept in the connection's own buffer, which holds [`MOST_LINE`] bytes
//! at most. Values go from the input right into the store.

use alloc::vec::Vec;

use crate::cold::{Cold, Ticket};
use crate::command::classic::{self, Stop};
use crate::command::{self, After, BAD_DATA, BAD_FORMAT, Incoming, Reply, Retrieval, meta};
use crate::entries::Marks;
use crate::output::{Counted, LEAST_ROOM, Output, say};
use crate::pages::Pages;
use crate::service::{Activity, Client, Ends, Place};
use crate::statistics::{self, Group};
use crate::store::{Outcome, Pin, Store, Written};
use crate::text;
use crate::time::Time;

/// Bytes of a line at most, before the newline (proto_text.c, `try_read_command_ascii`). Only `get` and `gets` may have
/// longer ones.
const MOST_LINE: usize = 2048;

/// Spaces that may stand before a `get` whose line is longer.
const MOST_INDENT: usize = 100;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More input. All that was given is used up.
    Input,
    /// Room in the output: at least [`LEAST_ROOM`] bytes, or less in the middle of a value.
    Room,
    /// The value with this ticket: call again after [`Store::deliver`](crate::Store::deliver). When too many reads are
    /// under way already, the read has not begun yet; call again after any delivery.
    Cold(Ticket),
    /// The connection is to be closed when the output is sent: call [`Connection::close`].
    Close,
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are done with. The rest must be given again.
    pub consumed: usize,
    /// What is needed to go on.
    pub next: Next,
}

#[derive(Debug, Default)]
enum State {
    /// A command line comes. The buffer may have its beginning.
    #[default]
    Line,
    /// The buffer has a line that must be executed again.
    Again,
    /// The buffer has keys that are to be answered; more of them come if the line goes on.
    Keys {
        retrieval: Retrieval,
        goes_on: bool,
    },
    /// The rest of a line is skipped.
    SkipLine,
    /// A value comes.
    Receiving(Incoming),
    /// So many bytes are skipped.
    Skip(usize),
    /// A value is sent from an offset on. Afterwards the keys in the buffer, if it was for `get`.
    Sending {
        pin: Pin,
        offset: usize,
        keys: Option<(Retrieval, bool)>,
    },
    /// Statistics are told from a line on.
    Statistics(Group, usize),
    Closed,
}

/// A client's connection. [`Connection::close`] must be called when it ends.
#[derive(Debug)]
pub struct Connection {
    state: State,
    buffer: Vec<u8>,
    /// Where `stats conns` finds it; none if it is for a datagram.
    place: Option<Place>,
}

/// Whether to go on.
enum Step {
    On,
    Stop(Next),
}

impl Connection {
    /// A new connection of which nobody knows the ends.
    pub fn new<P: Pages, C: Cold>(store: &mut Store<P, C>) -> Connection {
        Connection::between(None, store)
    }

    /// A new connection between these ends.
    pub fn between<P: Pages, C: Cold>(ends: Option<Ends>, store: &mut Store<P, C>) -> Connection {
        store.connections += 1;
        store.counters.total_connections += 1;
        let place = store.clients.add(Client { ends, activity: Activity::default(), heard: store.clock.now() });
        Connection { state: State::Line, buffer: Vec::new(), place: Some(place) }
    }

    /// One for a single request, which is no client's connection.
    pub(crate) fn for_datagram() -> Connection {
        Connection { state: State::Line, buffer: Vec::new(), place: None }
    }

    /// Ends a connection, wherever it stands.
    pub fn close<P: Pages, C: Cold>(self, store: &mut Store<P, C>) {
        if let Some(place) = self.place {
            store.connections -= 1;
            store.clients.remove(place);
        }
        match self.state {
            State::Receiving(incoming) => store.unpin(incoming.pin),
            State::Sending { pin, .. } => store.unpin(pin),
            _ => {}
        }
    }

    /// True if nothing is under way: no part of a command came, and no answer is unfinished.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Line) && self.buffer.is_empty()
    }

    /// True in the middle of a value: what comes next goes right into the store, and answers are short.
    pub fn awaits_value(&self) -> bool {
        matches!(self.state, State::Receiving(_) | State::Skip(_))
    }

    /// Bytes of heap that the connection holds.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes input in, executes the commands in it and writes the answers. Input that can't be used yet is left; call
    /// again with it, or with none, when what `next` tells has come.
    pub fn receive<P: Pages, C: Cold, O: Output>(
        &mut self,
        store: &mut Store<P, C>,
        now: Time,
        input: &[u8],
        output: &mut O,
    ) -> Progress {
        store.set_time(now);
        let mut rest = input;
        let mut output = Counted { output, written: 0 };
        let next = loop {
            match self.step(store, &mut rest, &mut output) {
                Step::On => {}
                Step::Stop(next) => break next,
            }
        };
        let consumed = input.len() - rest.len();
        store.counters.bytes_read += consumed as u64;
        store.counters.bytes_written += output.written;
        let (activity, second) = (self.activity(), store.clock.now());
        if let Some(client) = self.client(store) {
            client.activity = activity;
            if consumed > 0 {
                client.heard = second;
            }
        }
        Progress { consumed, next }
    }

    fn client<'a, P: Pages, C: Cold>(&self, store: &'a mut Store<P, C>) -> Option<&'a mut Client> {
        store.clients.get_mut(self.place?)
    }

    /// What it does between two calls.
    fn activity(&self) -> Activity {
        match self.state {
            State::Line if self.buffer.is_empty() => Activity::Read,
            State::Line => Activity::Waiting,
            State::Again => Activity::IoQueue,
            State::SkipLine | State::Skip(_) => Activity::Swallow,
            State::Receiving(_) => Activity::Nread,
            State::Keys { .. } | State::Sending { .. } | State::Statistics(..) => Activity::Mwrite,
            State::Closed => Activity::Closing,
        }
    }

    fn step<P: Pages, C: Cold, O: Output>(
        &mut self,
        store: &mut Store<P, C>,
        input: &mut &[u8],
        output: &mut O,
    ) -> Step {
        // The usual state needs not be moved.
        if matches!(self.state, State::Line) {
            return self.line(store, input, output);
        }
        match core::mem::take(&mut self.state) {
            State::Line => Step::On,
            State::Again => {
                let line = core::mem::take(&mut self.buffer);
                let after = command::execute(&line, store, output);
                let step = self.after(after, &line, store, input, output);
                self.recycle(line);
                step
            }
            State::Keys { retrieval, goes_on } => self.more_keys(retrieval, goes_on, store, input, output),
            State::SkipLine => match take_line(input) {
                (_, true) => Step::On,
                (_, false) => self.stop(State::SkipLine, Next::Input),
            },
            State::Receiving(incoming) => self.value(incoming, store, input, output),
            State::Skip(count) => {
                let now = count.min(input.len());
                *input = &input[now..];
                if now < count { self.stop(State::Skip(count - now), Next::Input) } else { Step::On }
            }
            State::Sending { pin, offset, keys } => self.send(pin, offset, keys, store, output),
            State::Statistics(group, mut line) => {
                let second = store.clock.now();
                if let Some(client) = self.client(store) {
                    (client.activity, client.heard) = (Activity::Parse, second);
                }
                if statistics::write(group, &mut line, store, output) {
                    return Step::On;
                }
                self.stop(State::Statistics(group, line), Next::Room)
            }
            State::Closed => self.stop(State::Closed, Next::Close),
        }
    }

    /// Ends a connection in the middle of an answer, for want of memory.
    fn break_off<P: Pages, C: Cold>(&mut self, store: &mut Store<P, C>) -> Step {
        store.counters.response_obj_oom += 1;
        self.stop(State::Closed, Next::Close)
    }

    fn stop(&mut self, state: State, next: Next) -> Step {
        self.state = state;
        Step::Stop(next)
    }

    /// Keeps the allocation of a buffer that was taken, if the buffer wasn't needed again.
    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.buffer.is_empty() && self.buffer.capacity() == 0 {
            buffer.clear();
            self.buffer = buffer;
        }
    }

    /// Executes the next line, if all of it is there.
    fn line<P: Pages, C: Cold, O: Output>(
        &mut self,
        store: &mut Store<P, C>,
        input: &mut &[u8],
        output: &mut O,
    ) -> Step {
        if input.is_empty() {
            return Step::Stop(Next::Input);
        }
        if output.room() < LEAST_ROOM {
            return Step::Stop(Next::Room);
        }
        let room = MOST_LINE - self.buffer.len();
        let window = &input[..input.len().min(room + 1)];
        let end = memchr::memchr(b'\n', window);
        match end {
            Some(end) if self.buffer.is_empty() => {
                let line = without_return(&input[..end]);
                *input = &input[end + 1..];
                let after = command::execute(line, store, output);
                self.after(after, line, store, input, output)
            }
            Some(end) => {
                let mut line = core::mem::take(&mut self.buffer);
                line.extend_from_slice(&window[..end]);
                *input = &input[end + 1..];
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                let after = command::execute(&line, store, output);
                let step = self.after(after, &line, store, input, output);
                self.recycle(line);
                step
            }
            None if window.len() <= room => {
                self.buffer.extend_from_slice(window);
                *input = &[];
                Step::Stop(Next::Input)
            }
            None => self.too_long(input),
        }
    }

    /// A line is too long: for `get` and `gets` its keys are answered as they come, else the connection ends.
    fn too_long(&mut self, input: &mut &[u8]) -> Step {
        let room = MOST_LINE - self.buffer.len();
        self.buffer.extend_from_slice(&input[..input.len().min(room)]);
        *input = &input[input.len().min(room)..];
        let indent = self.buffer.iter().take_while(|byte| **byte == b' ').count();
        let (command, _) = text::next_word(&self.buffer);
        let tells_cas = match command {
            b"get" => false,
            b"gets" => true,
            _ => return self.stop(State::Closed, Next::Close),
        };
        let length = command.len();
        if indent > MOST_INDENT {
            return self.stop(State::Closed, Next::Close);
        }
        self.buffer.drain(..indent + length);
        self.state = State::Keys { retrieval: Retrieval { tells_cas, touches: None }, goes_on: true };
        Step::On
    }

    /// Does what a line left to do.
    fn after<P: Pages, C: Cold, O: Output>(
        &mut self,
        after: After,
        line: &[u8],
        store: &mut Store<P, C>,
        input: &mut &[u8],
        output: &mut O,
    ) -> Step {
        self.state = match after {
            After::Done => return Step::On,
            After::Keys(retrieval, keys) => return self.keys(retrieval, keys, false, store, output),
            After::Send(pin) => State::Sending { pin, offset: 0, keys: None },
            After::Receive(incoming) => return self.value(incoming, store, input, output),
            After::Skip(count) => State::Skip(count),
            After::Statistics(group) => State::Statistics(group, 0),
            After::Cold(ticket) => {
                self.buffer = line.to_vec();
                return self.stop(State::Again, Next::Cold(ticket));
            }
            After::Close => return self.stop(State::Closed, Next::Close),
            After::BreakOff => return self.break_off(store),
        };
        Step::On
    }

    /// Answers keys, which are not in the buffer; what can't be answered now goes there.
    fn keys<P: Pages, C: Cold, O: Output>(
        &mut self,
        retrieval: Retrieval,
        keys: &[u8],
        goes_on: bool,
        store: &mut Store<P, C>,
        output: &mut O,
    ) -> Step {
        let (done, stop) = classic::answer_keys(retrieval, keys, goes_on, store, output);
        let rest = keys.get(done..).unwrap_or_default();
        let waiting = State::Keys { retrieval, goes_on };
        match stop {
            Stop::End => return Step::On,
            Stop::TooLong => {
                say(output, BAD_FORMAT);
                if goes_on {
                    self.state = State::SkipLine;
                }
                return Step::On;
            }
            Stop::Input | Stop::Room | Stop::Value(_) | Stop::Cold(_) => self.buffer.extend_from_slice(rest),
        }
        match stop {
            Stop::Room => self.stop(waiting, Next::Room),
            Stop::Cold(ticket) => self.stop(waiting, Next::Cold(ticket)),
            Stop::Value(id) => match store.pin(id) {
                Some(pin) => {
                    self.state = State::Sending { pin, offset: 0, keys: Some((retrieval, goes_on)) };
                    Step::On
                }
                None => self.break_off(store),
            },
            Stop::Input | Stop::End | Stop::TooLong => self.stop(waiting, Next::Input),
        }
    }

    /// Goes on with the keys in the buffer, and those that come behind them.
    fn more_keys<P: Pages, C: Cold, O: Output>(
        &mut self,
        retrieval: Retrieval,
        mut goes_on: bool,
        store: &mut Store<P, C>,
        input: &mut &[u8],
        output: &mut O,
    ) -> Step {
        if goes_on {
            let mut window = &input[..input.len().min(MOST_LINE.saturating_sub(self.buffer.len()))];
            let before = window.len();
            let (line, ends) = take_line(&mut window);
            self.buffer.extend_from_slice(line);
            *input = &input[before - window.len()..];
            if ends {
                goes_on = false;
                if self.buffer.last() == Some(&b'\r') {
                    self.buffer.pop();
                }
            }
        }
        let keys = core::mem::take(&mut self.buffer);
        let step = self.keys(retrieval, &keys, goes_on, store, output);
        self.recycle(keys);
        match step {
            // There may be more input than the buffer took.
            Step::Stop(Next::Input) if !input.is_empty() => Step::On,
            step => step,
        }
    }

    /// Takes in a value and its end.
    fn value<P: Pages, C: Cold, O: Output>(
        &mut self,
        mut incoming: Incoming,
        store: &mut Store<P, C>,
        input: &mut &[u8],
        output: &mut O,
    ) -> Step {
        let wanted = incoming.length.saturating_sub(incoming.received).min(input.len());
        if wanted > 0 {
            let (now, later) = input.split_at(wanted);
            // If it is lost, the rest is received all the same, and the answer says so.
            let _: Written = store.write(incoming.pin.id(), incoming.received, now);
            incoming.received += wanted;
            *input = later;
        }
        if incoming.received < incoming.length {
            return self.stop(State::Receiving(incoming), Next::Input);
        }
        if output.room() < LEAST_ROOM {
            return self.stop(State::Receiving(incoming), Next::Room);
        }
        // Mostly both bytes are there.
        if incoming.received == incoming.length
            && let Some((end, later)) = input.split_first_chunk()
        {
            incoming.end = *end;
            incoming.received += end.len();
            *input = later;
            return self.finish(incoming, store, output);
        }
        while let Some(place) = incoming.end.get_mut(incoming.received - incoming.length) {
            let Some((byte, later)) = input.split_first() else {
                return self.stop(State::Receiving(incoming), Next::Input);
            };
            *place = *byte;
            *input = later;
            incoming.received += 1;
        }
        self.finish(incoming, store, output)
    }

    /// Stores a value that is complete, and answers.
    fn finish<P: Pages, C: Cold, O: Output>(
        &mut self,
        incoming: Incoming,
        store: &mut Store<P, C>,
        output: &mut O,
    ) -> Step {
        let id = incoming.pin.id();
        if &incoming.end != b"\r\n" {
            if !matches!(incoming.reply, Reply::None) {
                say(output, BAD_DATA);
            }
        } else {
            let stored = store.store(&incoming.pin, incoming.storing);
            if let Outcome::Cold(ticket) = stored {
                return self.stop(State::Receiving(incoming), Next::Cold(ticket));
            }
            match &incoming.reply {
                Reply::None => {}
                Reply::Classic => classic::say_stored(stored, output),
                Reply::Meta(reply) => meta::say_stored(stored, reply, id, store, output),
            }
        }
        store.of(id).cmd_set += 1;
        store.unpin(incoming.pin);
        Step::On
    }

    /// Sends a value from an offset on, as far as there is room.
    fn send<P: Pages, C: Cold, O: Output>(
        &mut self,
        pin: Pin,
        mut offset: usize,
        keys: Option<(Retrieval, bool)>,
        store: &mut Store<P, C>,
        output: &mut O,
    ) -> Step {
        let entry = store.entries.get(pin.id());
        if entry.marks.has(Marks::GONE) {
            // Its memory was withdrawn in the middle of the answer, which can't be mended.
            store.unpin(pin);
            return self.break_off(store);
        }
        let length = entry.length as usize;
        for part in store.parts(pin.id(), offset) {
            let part = &part[..part.len().min(output.room())];
            if part.is_empty() {
                break;
            }
            output.write(part);
            offset += part.len();
        }
        if offset < length || output.room() < 2 {
            return self.stop(State::Sending { pin, offset, keys }, Next::Room);
        }
        output.write(b"\r\n");
        store.unpin(pin);
        if let Some((retrieval, goes_on)) = keys {
            self.state = State::Keys { retrieval, goes_on };
        }
        Step::On
    }
}

/// Takes what is left of a line, and says if its end was there, which is taken too.
fn take_line<'a>(input: &mut &'a [u8]) -> (&'a [u8], bool) {
    match memchr::memchr(b'\n', input) {
        Some(end) => {
            let line = &input[..end];
            *input = &input[end + 1..];
            (line, true)
        }
        None => (core::mem::take(input), false),
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
