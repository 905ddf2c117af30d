//! What a kernel that panicked leaves behind, to be read from outside (`xtask::epitaph`).
//!
//! A panic writes to the first serial port one line behind [`EPITAPH_MARK`]: core and TSC in hexadecimal, and place and
//! message as text; and for each core a line behind [`EVENTS_MARK`]: its number, and the words of its [`Ring`], all in
//! hexadecimal. The same rings lie at the symbol `EVENT_RINGS` in memory, for a debugger. Nothing is formatted while the
//! kernel works.

use core::sync::atomic::{AtomicU64, Ordering};
use strum::FromRepr;

/// Mark of the line that holds the epitaph.
pub const EPITAPH_MARK: &str = "@EPITAPH";
/// Mark of the line that holds a core's events.
pub const EVENTS_MARK: &str = "@EVENTS";
/// Events that a core remembers.
pub const RING_EVENTS: usize = 32;

/// Kinds of events that are remembered, with their two details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum EventKind {
    /// The core entered the kernel for the first time; no details.
    Started = 1,
    /// An exit that is not a hypercall, an NMI or a nested fault: exit code; first exit information.
    Exit = 2,
    /// A Vcpu stopped by itself: Vcpu; reason.
    Stopped = 3,
    /// The root VM was started again: how often; 0.
    RootRestarted = 4,
}

/// The last events of a core. Written by its core alone.
#[derive(Debug)]
pub struct Ring {
    next: AtomicU64,
    /// Of each event: TSC; kind, and the first detail in the high half; the second detail.
    words: [[AtomicU64; 3]; RING_EVENTS],
}

impl Ring {
    /// No events.
    pub const fn empty() -> Ring {
        Ring { next: AtomicU64::new(0), words: [const { [const { AtomicU64::new(0) }; 3] }; RING_EVENTS] }
    }

    /// Remembers an event, instead of the oldest.
    pub fn record(&self, tsc: u64, kind: EventKind, detail: u32, detail2: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let event = [tsc, kind as u64 | u64::from(detail) << 32, detail2];
        for (word, value) in self.words[next as usize % RING_EVENTS].iter().zip(event) {
            word.store(value, Ordering::Relaxed);
        }
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
    }

    /// The words of its events, the oldest first; an event that never was is all zero.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        let next = self.next.load(Ordering::Relaxed) as usize;
        (0..RING_EVENTS)
            .flat_map(move |index| &self.words[(next + index) % RING_EVENTS])
            .map(|word| word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_ring_keeps_the_last_events_in_order() {
        let ring = Ring::empty();
        assert!(ring.words().all(|word| word == 0));
        for tsc in 0..40 {
            ring.record(tsc, EventKind::Exit, 0x72, tsc * 2);
        }
        let words: Vec<u64> = ring.words().collect();
        assert_eq!(words.len(), RING_EVENTS * 3);
        for (event, tsc) in words.chunks(3).zip(8..) {
            assert_eq!(event, [tsc, 2 | 0x72 << 32, tsc * 2]);
        }
    }
}
