//! What a kernel that panicked leaves behind, and how it is read from outside.
//!
//! A panic writes two kinds of lines to the first serial port: one [`Epitaph`] and, for each core, its [`Ring`] of the
//! last events, both as hexadecimal bytes behind a mark. The same rings lie at the symbol `EVENT_RINGS` in memory, for a
//! debugger. Everything is little-endian and of fixed size; nothing is formatted while the kernel works.

use core::sync::atomic::{AtomicU64, Ordering};

/// Mark of the line that holds the epitaph.
pub const EPITAPH_MARK: &str = "@EPITAPH ";
/// Mark of the line that holds a core's events: the mark, the core's number in one hexadecimal digit, a blank, bytes.
pub const EVENTS_MARK: &str = "@EVENTS ";
/// First bytes of an epitaph.
pub const MAGIC: [u8; 8] = *b"NKEPITA1";
/// Bytes of an epitaph.
pub const EPITAPH_BYTES: usize = 256;
/// Events that a core remembers.
pub const RING_EVENTS: usize = 32;
/// Bytes of an event.
pub const EVENT_BYTES: usize = 24;

const FILE: core::ops::Range<usize> = 32..80;
const MESSAGE: core::ops::Range<usize> = 80..EPITAPH_BYTES;

/// Why and where the kernel stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epitaph {
    /// TSC at the panic.
    pub tsc: u64,
    /// The core that panicked.
    pub core: u32,
    /// Line of the source file.
    pub line: u32,
    file: [u8; FILE.end - FILE.start],
    message: [u8; MESSAGE.end - MESSAGE.start],
}

impl Epitaph {
    /// An epitaph; the end of a file name and the beginning of a message are kept if they are too long.
    pub fn new(tsc: u64, core: u32, file: &str, line: u32) -> Epitaph {
        let mut epitaph =
            Epitaph { tsc, core, line, file: [0; FILE.end - FILE.start], message: [0; MESSAGE.end - MESSAGE.start] };
        let file = file.as_bytes();
        let tail = &file[file.len().saturating_sub(epitaph.file.len())..];
        epitaph.file[..tail.len()].copy_from_slice(tail);
        epitaph
    }

    /// The source file.
    pub fn file(&self) -> &str {
        text(&self.file)
    }

    /// The message.
    pub fn message(&self) -> &str {
        text(&self.message)
    }

    /// The bytes that are written.
    pub fn to_bytes(&self) -> [u8; EPITAPH_BYTES] {
        let mut bytes = [0; EPITAPH_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.tsc.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.core.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.line.to_le_bytes());
        bytes[FILE].copy_from_slice(&self.file);
        bytes[MESSAGE].copy_from_slice(&self.message);
        bytes
    }

    /// The epitaph on a line of the log, if it holds one.
    pub fn from_line(line: &str) -> Option<Epitaph> {
        let (_, digits) = line.split_once(EPITAPH_MARK)?;
        let mut bytes = [0; EPITAPH_BYTES];
        unhex(digits, &mut bytes)?;
        if bytes[..8] != MAGIC {
            return None;
        }
        Some(Epitaph {
            tsc: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            core: u32::from_le_bytes(bytes[16..20].try_into().ok()?),
            line: u32::from_le_bytes(bytes[20..24].try_into().ok()?),
            file: bytes[FILE].try_into().ok()?,
            message: bytes[MESSAGE].try_into().ok()?,
        })
    }
}

/// The message is written like text; what does not fit is cut.
impl core::fmt::Write for Epitaph {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let used = self.message.iter().position(|&byte| byte == 0).unwrap_or(self.message.len());
        for (to, from) in self.message[used..].iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    match core::str::from_utf8(&bytes[..end]) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    }
}

/// Kinds of events that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// The core entered the kernel for the first time; no details.
    Started = 1,
    /// An exit that is not a hypercall, an NMI or a nested fault: exit code; first exit information.
    Exit = 2,
    /// A nested fault: Vcpu; guest-physical address.
    NestedFault = 3,
    /// A Vcpu stopped by itself: Vcpu; reason.
    Stopped = 4,
    /// The root VM was started again: how often; 0.
    RootRestarted = 5,
    /// The hardware refused a guest's state: Vcpu; exit code.
    Invalid = 6,
}

impl EventKind {
    const ALL: [EventKind; 6] = [
        EventKind::Started,
        EventKind::Exit,
        EventKind::NestedFault,
        EventKind::Stopped,
        EventKind::RootRestarted,
        EventKind::Invalid,
    ];
}

/// Something that happened on a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// TSC then.
    pub tsc: u64,
    /// What.
    pub kind: EventKind,
    /// First detail.
    pub detail: u32,
    /// Second detail.
    pub detail2: u64,
}

/// The last events of a core: three words each. Written by its core alone.
#[derive(Debug)]
pub struct Ring {
    next: AtomicU64,
    words: [[AtomicU64; 3]; RING_EVENTS],
}

impl Default for Ring {
    fn default() -> Self {
        Ring::new()
    }
}

impl Ring {
    /// No events.
    pub const fn new() -> Ring {
        Ring { next: AtomicU64::new(0), words: [const { [const { AtomicU64::new(0) }; 3] }; RING_EVENTS] }
    }

    /// Remembers an event, instead of the oldest.
    pub fn record(&self, event: Event) {
        let next = self.next.load(Ordering::Relaxed);
        let words = &self.words[next as usize % RING_EVENTS];
        words[0].store(event.tsc, Ordering::Relaxed);
        words[1].store(event.kind as u64 | u64::from(event.detail) << 32, Ordering::Relaxed);
        words[2].store(event.detail2, Ordering::Relaxed);
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
    }

    /// The bytes of its events, the oldest first; an event that never was is all zero.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        let next = self.next.load(Ordering::Relaxed) as usize;
        (0..RING_EVENTS)
            .flat_map(move |index| &self.words[(next + index) % RING_EVENTS])
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
    }
}

/// The core and its events on a line of the log, the oldest first, if it holds any.
pub fn events_from_line(line: &str) -> Option<(u32, [Option<Event>; RING_EVENTS])> {
    let (_, rest) = line.split_once(EVENTS_MARK)?;
    let (core, digits) = rest.split_once(' ')?;
    let mut bytes = [0; RING_EVENTS * EVENT_BYTES];
    unhex(digits, &mut bytes)?;
    let mut events = [None; RING_EVENTS];
    for (event, bytes) in events.iter_mut().zip(bytes.chunks_exact(EVENT_BYTES)) {
        let word = |index: usize| bytes[index * 8..index * 8 + 8].try_into().map(u64::from_le_bytes).unwrap_or(0);
        let kind = EventKind::ALL.into_iter().find(|&kind| kind as u64 == word(1) & 0xff);
        *event = kind.map(|kind| Event { tsc: word(0), kind, detail: (word(1) >> 32) as u32, detail2: word(2) });
    }
    Some((u32::from_str_radix(core, 16).ok()?, events))
}

fn unhex(digits: &str, bytes: &mut [u8]) -> Option<()> {
    let digits = digits.trim_end().as_bytes();
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |index: usize| char::from(pair[index]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use core::fmt::Write;

    fn hex(bytes: impl Iterator<Item = u8>) -> String {
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn an_epitaph_survives_its_way_through_the_log() {
        let mut epitaph = Epitaph::new(77, 1, "kernel/src/a/very/long/path/that/does/not/fit/boot/mod.rs", 42);
        write!(epitaph, "assertion {} failed", 3).unwrap();
        let line = format!("noise {EPITAPH_MARK}{}\r", hex(epitaph.to_bytes().into_iter()));
        let read = Epitaph::from_line(&line).unwrap();
        assert_eq!(read, epitaph);
        assert_eq!((read.message(), read.line, read.core), ("assertion 3 failed", 42, 1));
        assert!(read.file().ends_with("fit/boot/mod.rs"));
        assert_eq!(Epitaph::from_line(&line[..line.len() - 3]), None);
        assert_eq!(Epitaph::from_line("kernel: nothing"), None);
    }

    #[test]
    fn a_message_that_is_too_long_is_cut() {
        let mut epitaph = Epitaph::new(0, 0, "x", 1);
        for _ in 0..100 {
            write!(epitaph, "0123456789").unwrap();
        }
        assert_eq!(epitaph.message().len(), MESSAGE.end - MESSAGE.start);
    }

    #[test]
    fn a_ring_keeps_the_last_events_in_order() {
        let ring = Ring::new();
        for tsc in 0..40 {
            ring.record(Event { tsc, kind: EventKind::Exit, detail: 0x72, detail2: tsc * 2 });
        }
        let line = format!("{EVENTS_MARK}1 {}", hex(ring.bytes()));
        let (core, events) = events_from_line(&line).unwrap();
        assert_eq!(core, 1);
        assert_eq!(events.len(), RING_EVENTS);
        for (event, tsc) in events.into_iter().zip(8..) {
            assert_eq!(event, Some(Event { tsc, kind: EventKind::Exit, detail: 0x72, detail2: tsc * 2 }));
        }
        assert_eq!(events_from_line(&line[..40]), None);
    }

    #[test]
    fn an_empty_ring_has_no_events() {
        let line = format!("{EVENTS_MARK}0 {}", hex(Ring::new().bytes()));
        assert_eq!(events_from_line(&line).unwrap().1, [None; RING_EVENTS]);
    }
}
