//! A queue pair in a namespace that is closed at times: whoever limits the operations of its holder detaches it meanwhile, and
//! the controller refuses commands. They are kept and sent again, so that who waits for their ends sees them later, and as
//! they should be.
//!
//! That is right for commands that may be done twice and in any order, such as reads, writes and flushes whose ends are still
//! awaited. While it is closed one command alone is sent, now and then; when that is not refused, the others follow.

use crate::command::Command;
use crate::queue::{Completed, QueuePair, Rings, SubmitError};
use alloc::collections::VecDeque;
use device::{DmaMemory, Registers};

/// A queue pair that keeps what is refused as the namespace is not attached. What a command is follows from its token. Times
/// are in ticks of whatever clock.
#[derive(Debug)]
pub struct GatedPair<R, M, T, const N: usize> {
    pair: QueuePair<R, M, T, N>,
    /// What was refused, and what came after that, oldest first.
    held: VecDeque<T>,
    /// From when on one is sent; [`u64::MAX`]: it is under way. None while the namespace is open.
    closed: Option<u64>,
    /// How long to wait between two tries.
    patience: u64,
}

impl<R: Registers, M: DmaMemory, T, const N: usize> GatedPair<R, M, T, N> {
    /// As [`QueuePair::new`]. One command is sent each `patience` ticks while the namespace is closed.
    #[must_use]
    pub fn new(rings: Rings<R, M>, patience: u64) -> Option<Self> {
        let pair = QueuePair::new(rings)?;
        Some(GatedPair { pair, held: VecDeque::with_capacity(N), closed: None, patience })
    }

    /// As [`QueuePair::submit`].
    ///
    /// # Errors
    /// Gives the token back if `N - 1` commands are under way or held.
    #[inline]
    pub fn submit(&mut self, command: &Command, token: T) -> Result<(), (SubmitError, T)> {
        if self.closed.is_none() { self.pair.submit(command, token) } else { self.keep(token) }
    }

    /// Keeps a command that comes while the namespace is closed.
    #[cold]
    fn keep(&mut self, token: T) -> Result<(), (SubmitError, T)> {
        if self.under_way() >= N - 1 {
            return Err((SubmitError::Full, token));
        }
        self.held.push_back(token);
        Ok(())
    }

    /// As [`QueuePair::ring`].
    #[inline]
    pub fn ring(&mut self) {
        self.pair.ring();
    }

    /// As [`QueuePair::completed`], for all commands but those that are held; sends one of them if it is time, as `command` makes
    /// it anew.
    #[inline]
    pub fn completed(&mut self, now: impl Fn() -> u64, command: impl Fn(&T) -> Command) -> Option<Completed<T>> {
        if self.closed.is_none() {
            let done = self.pair.completed()?;
            if !done.status.is_of_no_namespace() {
                return Some(done);
            }
            self.hold(done.token, now());
        }
        self.completed_closed(now, command)
    }

    /// The same, while it is closed.
    #[cold]
    fn completed_closed(&mut self, now: impl Fn() -> u64, command: impl Fn(&T) -> Command) -> Option<Completed<T>> {
        if self.closed.is_some_and(|from| from <= now()) {
            self.send(1, &command);
        }
        // Ends: each round takes a command from the controller.
        while let Some(done) = self.pair.completed() {
            if done.status.is_of_no_namespace() {
                self.hold(done.token, now());
                continue;
            }
            if self.closed.is_some() {
                self.closed = None;
                self.send(N, &command);
            }
            return Some(done);
        }
        None
    }

    /// Keeps a command that was refused.
    #[cold]
    fn hold(&mut self, token: T, now: u64) {
        self.held.push_back(token);
        self.closed = Some(now.saturating_add(self.patience));
    }

    /// Sends up to so many of the commands that are held.
    #[cold]
    fn send(&mut self, most: usize, command: &impl Fn(&T) -> Command) {
        for _ in 0..most {
            let Some(token) = self.held.pop_front() else { break };
            if let Err((_, token)) = self.pair.submit(&command(&token), token) {
                // There is room: no more are under way and held than the queue has room for.
                self.held.push_front(token);
                break;
            }
        }
        self.pair.ring();
        self.closed = self.closed.map(|_| u64::MAX);
    }

    /// True if the namespace is closed, as far as is known.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// When [`GatedPair::completed`] has something to send, though nothing has ended.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.closed.filter(|from| *from != u64::MAX)
    }

    /// Commands under way or held.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.pair.under_way() + self.held.len()
    }

    /// As [`QueuePair::faults`].
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.pair.faults()
    }

    /// As [`QueuePair::set_acknowledge_batch`].
    pub fn set_acknowledge_batch(&mut self, completions: u32) {
        self.pair.set_acknowledge_batch(completions);
    }

    /// As [`QueuePair::reclaim`], with what is held.
    pub fn reclaim(&mut self) -> Option<T> {
        self.closed = None;
        self.held.pop_front().or_else(|| self.pair.reclaim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Status;
    use device::fake::{FakeMemory, FakeRegisters, random};
    use std::collections::BTreeSet;

    const PATIENCE: u64 = 100;

    fn read(_: &u64) -> Command {
        Command::new(2, 1)
    }

    /// Invalid Field in Command, final.
    const CLOSED: u64 = 0x4002;

    /// A controller that does or refuses what it is told, in any order.
    struct Controller<'a> {
        doorbells: &'a FakeRegisters,
        submission: &'a FakeMemory,
        completion: &'a FakeMemory,
        read: u32,
        written: u32,
        waiting: Vec<u64>,
    }

    impl Controller<'_> {
        /// Takes what is new. Returns how many that are.
        fn fetch(&mut self) -> usize {
            let tail = self.doorbells.read32(8);
            let before = self.waiting.len();
            while self.read % 8 != tail {
                self.waiting.push(self.submission.load(8 * (self.read as usize % 8)) >> 16 & 0xffff);
                self.read += 1;
            }
            self.waiting.len() - before
        }

        /// Ends the one at this place, of those that it has taken.
        fn end(&mut self, at: usize, status: u64) {
            let identifier = self.waiting.remove(at);
            let phase = u64::from(self.written & 8 == 0);
            let word = u64::from(self.read % 8) | identifier << 32 | phase << 48 | status << 49;
            self.completion.store(2 * (self.written as usize % 8) + 1, word);
            self.written += 1;
        }
    }

    fn bench(test: impl FnOnce(GatedPair<&FakeRegisters, &FakeMemory, u64, 8>, Controller<'_>)) {
        let (doorbells, submission, completion) = (FakeRegisters::default(), FakeMemory::new(64), FakeMemory::new(16));
        let (doorbells, submission, completion) = (&doorbells, &submission, &completion);
        let rings = Rings { doorbells, first: 8, stride: 4, submission, completion };
        let controller = Controller { doorbells, submission, completion, read: 0, written: 0, waiting: Vec::new() };
        test(GatedPair::new(rings, PATIENCE).unwrap(), controller);
    }

    #[test]
    fn what_is_refused_is_sent_again_one_by_one_until_it_is_open() {
        bench(|mut pair, mut controller| {
            for token in 0..3 {
                pair.submit(&read(&token), token).unwrap();
            }
            pair.ring();
            assert_eq!((controller.fetch(), pair.due()), (3, None));
            (0..3).for_each(|_| controller.end(0, CLOSED));
            assert_eq!((pair.completed(|| 50, read), pair.due()), (None, Some(150)));
            // What comes meanwhile waits as well, up to the room of the queue.
            (3..7).for_each(|token| pair.submit(&read(&token), token).unwrap());
            assert_eq!(pair.submit(&read(&7), 7), Err((SubmitError::Full, 7)));
            pair.ring();
            assert_eq!((pair.completed(|| 149, read), controller.fetch()), (None, 0));
            for now in [150, 250] {
                assert_eq!((pair.completed(|| now, read), controller.fetch(), pair.due()), (None, 1, None));
                assert_eq!((pair.completed(|| 9_999, read), controller.fetch()), (None, 0), "one at a time");
                controller.end(0, CLOSED);
                assert_eq!((pair.completed(|| now, read), pair.due()), (None, Some(now + PATIENCE)));
            }
            assert_eq!((pair.completed(|| 350, read), controller.fetch()), (None, 1));
            controller.end(0, 0);
            assert_eq!(pair.completed(|| 351, read), Some(Completed { token: 2, status: Status::SUCCESS }));
            assert_eq!((controller.fetch(), pair.due(), pair.under_way()), (6, None, 6), "all of them");
            (0..6).for_each(|_| controller.end(0, 0));
            let tokens: BTreeSet<u64> =
                std::iter::from_fn(|| pair.completed(|| 352, read)).map(|done| done.token).collect();
            assert_eq!(tokens, BTreeSet::from([0, 1, 3, 4, 5, 6]));
            assert_eq!((pair.under_way(), pair.faults()), (0, 0));
        });
    }

    #[test]
    fn another_failure_is_told() {
        bench(|mut pair, mut controller| {
            (0..2).for_each(|token| pair.submit(&read(&token), token).unwrap());
            pair.ring();
            controller.fetch();
            controller.end(0, CLOSED);
            controller.end(0, 0x0281);
            let done = pair.completed(|| 0, read).unwrap();
            assert_eq!((done.token, done.status.code()), (1, 0x281));
            assert_eq!(controller.fetch(), 1, "it is open");
        });
    }

    #[test]
    fn each_token_comes_back_once_however_often_it_is_closed() {
        for seed in 1..200 {
            bench(|mut pair, mut controller| {
                let mut random = random(seed);
                let (mut next, mut back, mut open) = (0u64, BTreeSet::new(), true);
                for now in 0..2_000 {
                    let is_over = now > 1_500;
                    open = is_over || if random(20) == 0 { !open } else { open };
                    if !is_over && pair.submit(&read(&next), next).is_ok() {
                        next += 1;
                    }
                    pair.ring();
                    controller.fetch();
                    if !controller.waiting.is_empty() {
                        let at = random(controller.waiting.len() as u64) as usize;
                        controller.end(at, if open { 0 } else { CLOSED });
                    }
                    while let Some(done) = pair.completed(|| 10 * now, read) {
                        assert!(done.status.is_success() && back.insert(done.token), "{seed}");
                    }
                }
                assert_eq!((back.len() as u64, pair.under_way()), (next, 0), "{seed}");
                assert!(next > 100);
            });
        }
    }

    #[test]
    fn what_is_held_is_given_back_by_a_dead_queue() {
        bench(|mut pair, mut controller| {
            (0..2).for_each(|token| pair.submit(&read(&token), token).unwrap());
            pair.ring();
            controller.fetch();
            controller.end(1, CLOSED);
            assert_eq!(pair.completed(|| 0, read), None);
            let tokens: BTreeSet<u64> = std::iter::from_fn(|| pair.reclaim()).collect();
            assert_eq!((tokens, pair.due()), (BTreeSet::from([0, 1]), None));
        });
    }
}
