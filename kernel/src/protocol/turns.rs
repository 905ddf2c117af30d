//! Whose turn it is at the kernel lock: one after the other, in the order in which they came.
//!
//! Guarantees: one at a time has its turn; who came first has it first, so that who waits waits for as many turns as there
//! are others at most, whoever they are; and what was written in one turn is seen in the next.

use core::sync::atomic::{AtomicU32, Ordering};

/// A place in the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn(u32);

/// The queue (a ticket lock's two counters).
#[derive(Debug, Default)]
pub struct Turns {
    next: AtomicU32,
    serving: AtomicU32,
}

impl Turns {
    /// Nobody waits.
    pub const fn new() -> Turns {
        Turns { next: AtomicU32::new(0), serving: AtomicU32::new(0) }
    }

    /// Queues.
    #[inline(always)]
    #[must_use]
    pub fn queue(&self) -> Turn {
        Turn(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// True once it is this one's turn.
    #[inline(always)]
    pub fn has_come(&self, turn: &Turn) -> bool {
        self.serving.load(Ordering::Acquire) == turn.0
    }

    /// Ends the turn of whoever has it; only they may call this.
    #[inline(always)]
    pub fn end(&self) {
        let serving = self.serving.load(Ordering::Relaxed);
        self.serving.store(serving.wrapping_add(1), Ordering::Release);
    }

    /// True while somebody waits behind whoever has its turn.
    #[inline]
    pub fn is_contended(&self) -> bool {
        self.next.load(Ordering::Relaxed).wrapping_sub(self.serving.load(Ordering::Relaxed)) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn who_came_first_is_first_and_one_at_a_time() {
        // Up to a wrap of the counters.
        for start in [0, u32::MAX - 1] {
            let turns = Turns { next: AtomicU32::new(start), serving: AtomicU32::new(start) };
            assert!(!turns.is_contended());
            let queue = [turns.queue(), turns.queue(), turns.queue()];
            for place in 0..queue.len() {
                let come: std::vec::Vec<bool> = queue.iter().map(|turn| turns.has_come(turn)).collect();
                assert_eq!(come, (0..queue.len()).map(|at| at == place).collect::<std::vec::Vec<_>>());
                assert_eq!(turns.is_contended(), place + 1 < queue.len());
                turns.end();
            }
            let late = turns.queue();
            assert!(turns.has_come(&late));
        }
    }

    #[test]
    fn nothing_that_is_done_in_a_turn_is_lost() {
        let (turns, count) = (Turns::new(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let turn = turns.queue();
                        while !turns.has_come(&turn) {
                            std::thread::yield_now();
                        }
                        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        turns.end();
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 8_000);
    }
}
