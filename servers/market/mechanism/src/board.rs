//! The price board: one line of 64 bytes per good, in a page that every application can read.
//!
//! The line is eight words. Word 0 is the ask, so that reading a price is one load. Word 1 is a sequence number for
//! whoever reads more than one word: odd while the line is being written, and different afterwards.
//!
//! One writer, any number of readers. The board informs; bills come from the rule, not from the board.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::types::{Price, Quantity, RoundNo, Ticks};

/// Words in a line.
pub const WORDS: usize = 8;
/// The ask of a good of which there is nothing at any price.
pub const NOT_FOR_SALE: u64 = u64::MAX;
/// How often [`read`] tries again when the writer is in between.
pub const READ_TRIES: usize = 64;

const ASK: usize = 0;
const SEQUENCE: usize = 1;

/// What the board says about one good after a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Line {
    /// What one further unit would have cost a newcomer, fee included; [`NOT_FOR_SALE`] if there is none.
    pub ask: Price,
    /// Set by [`publish`]; even in every line read whole.
    pub sequence: u64,
    /// The larger of the reserve and the highest rejected marginal value.
    pub clearing: Price,
    /// The lowest price per unit and interval.
    pub reserve: Price,
    /// Units for sale, bases included.
    pub supply: Quantity,
    /// Units sold, bases included.
    pub sold: Quantity,
    /// The last round closed. It sold the interval after this one.
    pub round: RoundNo,
    /// When the next round closes.
    pub next_close: Ticks,
    /// The head of the ledger's chain after that round.
    pub ledger_head: u64,
}

const _: () = assert!(size_of::<Line>() == 64, "a line is one cache line");
const _: () = assert!(core::mem::offset_of!(Line, ask) == 0, "the ask is the first word");

impl Line {
    /// The line as words, in the order of the fields.
    #[must_use]
    pub fn encode(&self) -> [u64; WORDS] {
        [
            self.ask.0,
            self.sequence,
            self.clearing.0,
            self.reserve.0,
            u64::from(self.supply.0) | u64::from(self.sold.0) << 32,
            self.round.0,
            self.next_close.0,
            self.ledger_head,
        ]
    }

    /// The line that these words encode.
    #[must_use]
    pub fn decode(words: &[u64; WORDS]) -> Line {
        Line {
            ask: Price(words[ASK]),
            sequence: words[SEQUENCE],
            clearing: Price(words[2]),
            reserve: Price(words[3]),
            supply: Quantity(words[4] as u32),
            sold: Quantity((words[4] >> 32) as u32),
            round: RoundNo(words[5]),
            next_close: Ticks(words[6]),
            ledger_head: words[7],
        }
    }
}

/// Writes a line. Only one writer per line.
pub fn publish(words: &[AtomicU64; WORDS], line: &Line) {
    let sequence = words[SEQUENCE].load(Ordering::Relaxed) | 1;
    words[SEQUENCE].store(sequence, Ordering::Relaxed);
    fence(Ordering::Release);
    for (at, value) in line.encode().into_iter().enumerate() {
        if at != SEQUENCE {
            words[at].store(value, Ordering::Relaxed);
        }
    }
    words[SEQUENCE].store(sequence.wrapping_add(1), Ordering::Release);
}

/// What one further unit costs a newcomer: one load. `None` if there is nothing for sale.
#[must_use]
pub fn ask(words: &[AtomicU64; WORDS]) -> Option<Price> {
    let ask = words[ASK].load(Ordering::Relaxed);
    (ask != NOT_FOR_SALE).then_some(Price(ask))
}

/// Reads a whole line, all of it from the same round. `None` if the writer was in between [`READ_TRIES`] times, which
/// means that it has stopped in the middle or that the page is no board.
#[must_use]
pub fn read(words: &[AtomicU64; WORDS]) -> Option<Line> {
    for _ in 0..READ_TRIES {
        let before = words[SEQUENCE].load(Ordering::Acquire);
        if before & 1 == 1 {
            core::hint::spin_loop();
            continue;
        }
        let copy: [u64; WORDS] = core::array::from_fn(|at| words[at].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let after = words[SEQUENCE].load(Ordering::Relaxed);
        if before == after && copy[SEQUENCE] == before {
            return Some(Line::decode(&copy));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn line(n: u64) -> Line {
        Line {
            ask: Price(n),
            sequence: 0,
            clearing: Price(n + 1),
            reserve: Price(n + 2),
            supply: Quantity(n as u32 + 3),
            sold: Quantity(n as u32 + 4),
            round: RoundNo(n + 5),
            next_close: Ticks(n + 6),
            ledger_head: n + 7,
        }
    }

    #[test]
    fn words_and_line_say_the_same() {
        let line = Line { sequence: 12, ..line(100) };
        assert_eq!(Line::decode(&line.encode()), line);
        let supply_and_sold = Line { supply: Quantity(u32::MAX), sold: Quantity(7), ..line };
        assert_eq!(Line::decode(&supply_and_sold.encode()), supply_and_sold);
    }

    #[test]
    fn a_line_being_written_is_not_read() {
        let words: [AtomicU64; WORDS] = Default::default();
        publish(&words, &line(1));
        assert_eq!(read(&words).map(|line| (line.ask, line.sequence)), Some((Price(1), 2)));
        words[SEQUENCE].store(3, Ordering::Relaxed);
        assert_eq!(read(&words), None);
        // A writer that starts again after stopping in the middle repairs the line.
        publish(&words, &line(2));
        assert_eq!(read(&words).map(|line| (line.ask, line.sequence)), Some((Price(2), 4)));
    }

    #[test]
    fn nothing_for_sale_is_no_price() {
        let words: [AtomicU64; WORDS] = Default::default();
        publish(&words, &Line { ask: Price(NOT_FOR_SALE), ..line(1) });
        assert_eq!(ask(&words), None);
        publish(&words, &line(5));
        assert_eq!(ask(&words), Some(Price(5)));
    }

    #[test]
    fn a_line_is_never_a_mixture() {
        let words: [AtomicU64; WORDS] = Default::default();
        let done = AtomicBool::new(false);
        publish(&words, &line(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000 {
                    publish(&words, &line(n));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                if let Some(read) = read(&words) {
                    assert_eq!(read, Line { sequence: read.sequence, ..line(read.ask.0) });
                }
            }
        });
    }
}
