//! The console server: what clients send becomes lines on the first serial port and frames on the second.
//!
//! This library is the whole of it but the hardware: [`Console`] takes messages of clients, and gives the bytes that the
//! two ports have to write; `main.rs` moves them. It believes no client: what a client gets wrong is dropped or told
//! about under the client's own name, and memory per client is bounded.
//!
//! Guarantees: a line on the console is one client's, whole, under its name; a file's record stream is in order, and its
//! `FileEnd` has length and SHA-256 of exactly the bytes sent before it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod files;
mod lines;

pub use files::MAX_OPEN;
pub use lines::MAX_LINE;

use alloc::{collections::VecDeque, string::String, vec::Vec};
use files::Files;
use lines::Lines;
use proto::console::{FromConsole, ToConsole};
use proto::frame;
use proto::host::Record;
use proto::start::MARKET_CLIENT;

/// Application number of the market server in records.
pub const MARKET_APP: u16 = 0xffff;
/// Bytes that wait for a port; beyond it clients wait in their rings.
pub const MAX_WAITING: usize = 24 * 1024;
/// Longest file name: what the host takes, as a name that it refuses would fail the run.
const MAX_NAME: usize = 100;

/// What the server has to do besides writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Send this to the client.
    Answer(FromConsole),
    /// When everything is written, write this value to the debug-exit port.
    PowerOff(u8),
}

/// One client.
#[derive(Debug, Default)]
struct Client {
    name: String,
    lines: Lines,
    files: Files,
}

/// State of all clients and of both ports.
#[derive(Debug)]
pub struct Console {
    clients: Vec<Client>,
    text: VecDeque<u8>,
    frames: VecDeque<u8>,
    commands: frame::Reader,
    tsc_hz: u64,
    epoch: Option<u64>,
}

impl Console {
    /// A console for clients of these names, the market server first.
    pub fn new(names: impl IntoIterator<Item = String>, tsc_hz: u64) -> Console {
        let client = |name| Client { name, ..Client::default() };
        Console {
            clients: names.into_iter().map(client).collect(),
            text: VecDeque::new(),
            frames: VecDeque::new(),
            commands: frame::Reader::new(),
            tsc_hz: tsc_hz.max(1),
            epoch: None,
        }
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// True while there is room for what one message can cause.
    pub fn has_room(&self) -> bool {
        self.text.len() < MAX_WAITING && self.frames.len() < MAX_WAITING
    }

    /// Bytes for the first serial port.
    pub fn text(&mut self) -> &mut VecDeque<u8> {
        &mut self.text
    }

    /// Bytes for the second serial port.
    pub fn frames(&mut self) -> &mut VecDeque<u8> {
        &mut self.frames
    }

    /// Microseconds of the run.
    fn micros(&self, now: u64) -> u64 {
        let ticks = self.epoch.map_or(0, |epoch| now.saturating_sub(epoch));
        (u128::from(ticks) * 1_000_000 / u128::from(self.tsc_hz)) as u64
    }

    fn app(client: usize) -> u16 {
        if client == MARKET_CLIENT { MARKET_APP } else { (client - 1) as u16 }
    }

    /// Takes one message of a client.
    pub fn take(&mut self, client: usize, bytes: &[u8], now: u64) -> Effect {
        match postcard::from_bytes::<ToConsole>(bytes) {
            Ok(message) => self.handle(client, message, now),
            Err(_) => {
                self.complain(client, "sent what is no message", now);
                Effect::Nothing
            }
        }
    }

    fn handle(&mut self, client: usize, message: ToConsole, now: u64) -> Effect {
        let (app, t) = (Self::app(client), self.micros(now));
        let is_market = client == MARKET_CLIENT;
        match message {
            ToConsole::Text(text) => {
                let lines = self.clients[client].lines.take(&text);
                for line in lines {
                    self.line(client, line, now);
                }
            }
            ToConsole::Hits { hits, accesses } => self.record(&Record::Hits { t, app, hits, accesses }),
            ToConsole::Progress { done, total } => self.record(&Record::Progress { t, app, done, total }),
            ToConsole::FileBegin { file, name } => return self.begin_file(client, file, &name, now),
            ToConsole::FileData { file, data } => {
                if self.clients[client].files.append(file, &data) {
                    self.record(&Record::FileData { app, file, data });
                } else {
                    self.complain(client, "wrote to a file that is not open, or too much at once", now);
                }
            }
            ToConsole::FileEnd { file } => match self.clients[client].files.end(file) {
                Some((bytes, sha256)) => {
                    self.record(&Record::FileEnd { app, file, bytes, sha256 });
                    return Effect::Answer(FromConsole::FileDone { file });
                }
                None => self.complain(client, "ended a file that is not open", now),
            },
            ToConsole::Bench { operation, instructions, exits } => {
                let (kernel, writes, interrupts) = (None, None, None);
                self.record(&Record::Bench { operation, instructions, kernel, exits, writes, interrupts });
            }
            ToConsole::Record(record) if is_market => self.record(&record),
            ToConsole::Epoch { tsc } if is_market => self.epoch = Some(tsc),
            ToConsole::PowerOff { value } if is_market => {
                self.flush_lines(now);
                return Effect::PowerOff(value);
            }
            ToConsole::Record(_) | ToConsole::Epoch { .. } | ToConsole::PowerOff { .. } => {
                self.complain(client, "asked for what only the market may ask for", now);
            }
        }
        Effect::Nothing
    }

    fn begin_file(&mut self, client: usize, file: u16, name: &str, now: u64) -> Effect {
        // The host uses the name as that of a file in one folder.
        let plain = !name.is_empty()
            && name.len() <= MAX_NAME
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if plain && self.clients[client].files.begin(file) {
            let app = Self::app(client);
            self.record(&Record::FileBegin { app, file, name: String::from(name) });
        } else {
            self.complain(client, "opened a file with a wrong name, one that is open, or too many", now);
        }
        Effect::Nothing
    }

    /// Says on the console what a client did wrong, under its name.
    fn complain(&mut self, client: usize, what: &str, now: u64) {
        self.line(client, alloc::format!("(console: {what})"), now);
    }

    /// The client's ring is of no use any more.
    pub fn lost(&mut self, client: usize, now: u64) {
        self.complain(client, "broke the rules of its ring; nothing of it is read any more", now);
    }

    fn line(&mut self, client: usize, line: String, now: u64) {
        let name = &self.clients[client].name;
        self.text.extend(alloc::format!("[{name}] {line}\r\n").bytes());
        let (app, t) = (Self::app(client), self.micros(now));
        self.record(&Record::Line { t, app, text: line });
    }

    /// Ends the lines that clients have begun.
    fn flush_lines(&mut self, now: u64) {
        for client in 0..self.clients.len() {
            if let Some(line) = self.clients[client].lines.rest() {
                self.line(client, line, now);
            }
        }
    }

    fn record(&mut self, record: &Record) {
        // A message that a ring carried fits a frame: a record adds a few bytes to at most 1,024 of data.
        if let Some(frame) = frame::encode(record) {
            self.frames.extend(frame);
        }
    }

    /// Takes bytes that the host has sent; returns the commands that are whole.
    pub fn received(&mut self, bytes: &[u8]) -> Vec<FromConsole> {
        self.commands.push(bytes);
        core::iter::from_fn(|| self.commands.next_message().map(FromConsole::Command)).collect()
    }
}

#[cfg(test)]
mod tests;
