//! Reads what a kernel that panicked left on its serial port: see `kernel::epitaph`, which says what is written.

use kernel::epitaph::{EPITAPH_MARK, EVENTS_MARK, EventKind, RING_EVENTS};

/// Why and where the kernel stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epitaph {
    /// The core that panicked.
    pub core: u64,
    /// TSC at the panic.
    pub tsc: u64,
    /// Source file and line, and the first line of the message.
    pub message: String,
}

impl Epitaph {
    /// The epitaph that a line of the log is, if it is one.
    pub fn from_line(line: &str) -> Option<Epitaph> {
        let mut fields = line.strip_prefix(EPITAPH_MARK)?.trim().splitn(3, ' ');
        Some(Epitaph { core: hex(fields.next()?)?, tsc: hex(fields.next()?)?, message: fields.next()?.into() })
    }
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

/// The core and its events that a line of the log is, the oldest first, if it is one.
pub fn events_from_line(line: &str) -> Option<(u64, Vec<Event>)> {
    let words: Vec<u64> = line.strip_prefix(EVENTS_MARK)?.split_whitespace().map(hex).collect::<Option<_>>()?;
    let (&core, words) = words.split_first()?;
    let event = |words: &[u64]| {
        let kind = EventKind::from_repr(words[1] as u8)?;
        Some(Event { tsc: words[0], kind, detail: (words[1] >> 32) as u32, detail2: words[2] })
    };
    (words.len() == RING_EVENTS * 3).then(|| (core, words.chunks_exact(3).filter_map(event).collect()))
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::epitaph::Ring;

    #[test]
    fn an_epitaph_survives_its_way_through_the_log() {
        let line = format!("{EPITAPH_MARK} 1 4d kernel/src/boot/mod.rs:42: assertion 3 failed\r");
        let read = Epitaph::from_line(&line).unwrap();
        assert_eq!((read.core, read.tsc), (1, 77));
        assert_eq!(read.message, "kernel/src/boot/mod.rs:42: assertion 3 failed");
        assert_eq!(Epitaph::from_line(&line[..12]), None);
        assert_eq!(Epitaph::from_line("kernel: nothing"), None);
    }

    #[test]
    fn events_survive_their_way_through_the_log() {
        let ring = Ring::empty();
        let line = |ring: &Ring| ring.words().fold(format!("{EVENTS_MARK} 1"), |line, word| format!("{line} {word:x}"));
        assert_eq!(events_from_line(&line(&ring)), Some((1, Vec::new())));
        for tsc in 0..40 {
            ring.record(tsc, EventKind::Exit, 0x72, tsc * 2);
        }
        let (core, events) = events_from_line(&line(&ring)).unwrap();
        assert_eq!((core, events.len()), (1, RING_EVENTS));
        for (event, tsc) in events.into_iter().zip(8..) {
            assert_eq!(event, Event { tsc, kind: EventKind::Exit, detail: 0x72, detail2: tsc * 2 });
        }
        assert_eq!(events_from_line(&line(&ring)[..40]), None);
    }
}
