//! The console: lines, progress and output files, all through one channel.
//!
//! There is one console per VM, used by [`print!`](crate::print!), [`println!`](crate::println!), [`progress`] and
//! [`File`]. Without a console server, or when it has gone, output is dropped: an application's work does not depend on
//! who watches it.

use alloc::collections::BTreeSet;
use alloc::string::String;
use core::fmt::{self, Write};

use proto::console::{FromConsole, ToConsole};
use serde::Serialize;
use spin::{Mutex, MutexGuard};

use crate::channel::{ChannelError, Endpoint};
use crate::events;
use crate::upcalls::{self, Masked};

/// Bytes of file data in one message.
const FILE_PIECE: usize = 1024;
/// Bytes of text in one message.
const TEXT_PIECE: usize = 1024;

/// A server that makes no room for a message within this time is taken for dead.
const PATIENCE_SECONDS: u64 = 10;

struct Console {
    endpoint: Endpoint,
    next_file: u16,
    /// Files that were ended and are not yet on their way to the host.
    unconfirmed: BTreeSet<u16>,
}

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// The console in use. Upcalls may print, too, so that none comes meanwhile.
struct InUse {
    // In this order: the lock is free before an upcall can come.
    console: MutexGuard<'static, Option<Console>>,
    _masked: Masked,
}

fn lock() -> InUse {
    let masked = upcalls::mask();
    InUse { console: CONSOLE.lock(), _masked: masked }
}

/// The messages that are sent often, without allocation; encoded as [`ToConsole`] is.
#[derive(Serialize)]
enum Borrowed<'a> {
    Text(&'a str),
    #[allow(dead_code, reason = "keeps the number of the message after it")]
    Progress,
    #[allow(dead_code, reason = "as above")]
    FileBegin,
    FileData {
        file: u16,
        data: &'a [u8],
    },
}

/// Opens the console. Called by the start-up of applications; a server calls it if it has a console.
pub fn open(endpoint: Endpoint) {
    *lock().console = Some(Console { endpoint, next_file: 0, unconfirmed: BTreeSet::new() });
}

/// Sends a message; forgets the console when its server has gone.
fn send<T: Serialize>(message: &T) {
    with_console(|console| console.send(message));
}

/// Leaves a figure for the server, likewise.
fn leave(figure: &ToConsole) {
    with_console(|console| console.leave(figure));
}

fn with_console(says: impl FnOnce(&mut Console) -> Result<(), ChannelError>) {
    let mut used = lock();
    if let Some(console) = used.console.as_mut()
        && says(console).is_err()
    {
        *used.console = None;
    }
}

impl Console {
    fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ChannelError> {
        self.collect()?;
        let patience = PATIENCE_SECONDS.saturating_mul(events::tsc_hz());
        self.endpoint.send_waiting(message, events::CONSOLE, crate::clock::now().saturating_add(patience))
    }

    /// Sends a message that is not worth an exit: the server finds it when anybody has woken it, as the market does after each
    /// of its rounds.
    fn leave(&mut self, figure: &ToConsole) -> Result<(), ChannelError> {
        self.collect()?;
        match self.endpoint.leave(figure) {
            Err(ChannelError::Full) => self.send(figure),
            left => left,
        }
    }

    /// Takes in what the server says.
    fn collect(&mut self) -> Result<(), ChannelError> {
        while let Some(message) = self.endpoint.receive::<FromConsole>()? {
            match message {
                FromConsole::FileDone { file } => {
                    self.unconfirmed.remove(&file);
                }
                // For the market server, which has a client of its own.
                FromConsole::Command(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until the server has taken everything, and all files are on their way.
    fn flush(&mut self, deadline: u64) -> Result<(), ChannelError> {
        self.endpoint.wait_until_taken(events::CONSOLE, deadline)?;
        self.collect()?;
        while !self.unconfirmed.is_empty() && crate::clock::now() < deadline {
            self.endpoint.wait(events::CONSOLE, deadline)?;
            self.collect()?;
        }
        Ok(())
    }
}

/// Text in pieces that fit into a message.
struct Pieces {
    text: String,
}

impl Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n').flat_map(|line| chunks(line, TEXT_PIECE)) {
            if self.text.len() + part.len() > TEXT_PIECE {
                self.send();
            }
            self.text.push_str(part);
        }
        Ok(())
    }
}

impl Pieces {
    fn send(&mut self) {
        if !self.text.is_empty() {
            send(&Borrowed::Text(&self.text));
            self.text.clear();
        }
    }
}

/// Splits text into pieces of at most `most` bytes (at least 4), between characters.
fn chunks(mut text: &str, most: usize) -> impl Iterator<Item = &str> {
    core::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let mut end = text.len().min(most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        Some(piece)
    })
}

/// Writes text. What [`print!`](crate::print!) uses.
pub fn write(arguments: fmt::Arguments<'_>) {
    let mut pieces = Pieces { text: String::new() };
    // Fails only if a value's own `Display` does; the rest of it is shown.
    let _ = pieces.write_fmt(arguments);
    pieces.send();
}

/// Writes text to the console.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::write(::core::format_args!($($arguments)*)) };
}

/// Writes a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::write(::core::format_args!("\n")) };
    ($($arguments:tt)*) => {
        $crate::console::write(::core::format_args!("{}\n", ::core::format_args!($($arguments)*)))
    };
}

/// Sends a message as it is. What the server does not like it tells on the console, under this VM's name.
pub fn request(message: &ToConsole) {
    send(message);
}

/// Reports units of work done, of `total` (0 if unknown). No exit, unless there is no room.
pub fn progress(done: u64, total: u64) {
    leave(&ToConsole::Progress { done, total });
}

/// Reports how well a cache does: accesses since the start that found something, and all of them. As [`progress`].
pub fn hits(hits: u64, accesses: u64) {
    leave(&ToConsole::Hits { hits, accesses });
}

/// Reports a row of the bench.
pub fn bench(operation: &str, instructions: u64, exits: u64) {
    request(&ToConsole::Bench { operation: operation.into(), instructions, exits });
}

/// Waits until everything has been taken by the server, and files are on their way to the host, or until the TSC has
/// reached `deadline`.
pub fn flush(deadline: u64) {
    with_console(|console| console.flush(deadline));
}

/// Writes a message about the own end, if the console is not in use right now, and waits for it at most until `deadline`.
/// Nothing is allocated.
#[cfg(target_os = "none")]
pub(crate) fn last_words(text: &str, deadline: u64) {
    if let Some(mut guard) = CONSOLE.try_lock()
        && let Some(console) = guard.as_mut()
    {
        for piece in chunks(text, TEXT_PIECE) {
            let _ = console.endpoint.send_waiting(&Borrowed::Text(piece), events::CONSOLE, deadline);
        }
        let _ = console.endpoint.wait_until_taken(events::CONSOLE, deadline);
    }
}

/// An output file, which arrives at the host under its name.
#[derive(Debug)]
pub struct File {
    number: u16,
}

impl File {
    /// Begins a file. `name` is a plain file name.
    pub fn create(name: &str) -> File {
        let number = lock().console.as_mut().map_or(0, |console| {
            console.next_file += 1;
            console.next_file
        });
        send(&ToConsole::FileBegin { file: number, name: name.into() });
        File { number }
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        for data in bytes.chunks(FILE_PIECE) {
            send(&Borrowed::FileData { file: self.number, data });
        }
    }

    /// Ends the file. [`flush`] waits until it is on its way.
    pub fn close(self) {
        if let Some(console) = lock().console.as_mut() {
            console.unconfirmed.insert(self.number);
        }
        send(&ToConsole::FileEnd { file: self.number });
    }
}

/// Text is appended like bytes.
impl fmt::Write for File {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn borrowed_messages_are_encoded_as_the_protocol_says() {
        let text = postcard::to_allocvec(&Borrowed::Text("zürich")).unwrap();
        assert_eq!(text, postcard::to_allocvec(&ToConsole::Text("zürich".into())).unwrap());
        let data = postcard::to_allocvec(&Borrowed::FileData { file: 300, data: b"abc" }).unwrap();
        assert_eq!(data, postcard::to_allocvec(&ToConsole::FileData { file: 300, data: b"abc".to_vec() }).unwrap());
    }

    #[test]
    fn text_is_cut_between_characters_only() {
        let text = "aé€😀".repeat(50);
        let pieces: Vec<&str> = chunks(&text, 7).collect();
        assert!(pieces.iter().all(|piece| (4..=7).contains(&piece.len())));
        assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn without_a_console_nothing_happens() {
        crate::println!("nobody {}", "reads this");
        progress(1, 2);
        let mut file = File::create("a");
        file.write(b"b");
        file.close();
        flush(u64::MAX);
    }
}
