//! A pair of rings: commands go into the submission queue, and come back by the completion queue (Base Specification,
//! 3.3.1).
//!
//! At most `N - 1` commands are under way, so neither ring can overflow. The controller hears of commands by one doorbell
//! per batch, and that completions were taken by one per batch.

use crate::command::Command;
use crate::completion::{Entry, Status};
use device::{DmaMemory, Registers};

/// What a pair of rings is made of.
#[derive(Debug)]
pub struct Rings<R, M> {
    /// The doorbells.
    pub doorbells: R,
    /// Offset of the submission queue's doorbell in them; that of the completion queue follows at [`Rings::stride`].
    pub first: u32,
    /// Bytes from one doorbell to the next: 4, or more by CAP.DSTRD.
    pub stride: u32,
    /// The submission queue, 64 bytes for each entry.
    pub submission: M,
    /// The completion queue, 16 bytes for each entry, all zero.
    pub completion: M,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// `N - 1` commands are under way.
    Full,
}

/// A command that ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed<T> {
    /// The command's token.
    pub token: T,
    /// How it ended.
    pub status: Status,
    /// What it gave (double word 0); 0 for reads and writes.
    pub result: u32,
}

/// A queue pair with `N` entries each, a power of two from 2 to 4096.
#[derive(Debug)]
pub struct QueuePair<R, M, T, const N: usize> {
    rings: Rings<R, M>,
    /// The tokens of commands under way, by identifier; and the identifiers that are free, of which the first `unused`
    /// count.
    slots: [Option<T>; N],
    free: [u16; N],
    unused: usize,
    tail: u16,
    told: u16,
    /// Where the controller said that it reads.
    submission_head: u16,
    head: u16,
    phase: bool,
    /// Completions taken of which the controller has not heard, and after how many it does at the latest.
    unacknowledged: u16,
    acknowledge: u16,
    faults: u32,
}

impl<R: Registers, M: DmaMemory, T, const N: usize> QueuePair<R, M, T, N> {
    const MASK: u16 = {
        assert!(N.is_power_of_two() && N >= 2 && N <= 4096);
        N as u16 - 1
    };
    const SUBMISSION_WORDS: usize = crate::command::WORDS;

    /// For queues that the controller has, or is going to be given, and that nothing was put into. `None` if the memory
    /// is too small.
    #[must_use]
    pub fn new(rings: Rings<R, M>) -> Option<Self> {
        if rings.submission.words() < Self::SUBMISSION_WORDS * N || rings.completion.words() < 2 * N {
            return None;
        }
        Some(QueuePair {
            rings,
            slots: [const { None }; N],
            // The lowest identifiers are used first.
            free: core::array::from_fn(|n| (N - 1 - n) as u16),
            unused: N,
            tail: 0,
            told: 0,
            submission_head: 0,
            head: 0,
            phase: true,
            unacknowledged: 0,
            acknowledge: 1,
            faults: 0,
        })
    }

    /// Tells the controller that completions were taken only once there are so many, at least 1 and at most half of the
    /// ring. More than 1 suits polling; a controller may hold an interrupt back until it hears.
    pub fn set_acknowledge_batch(&mut self, completions: u16) {
        self.acknowledge = completions.clamp(1, N as u16 / 2);
    }

    /// Puts a command into the ring. The controller hears of it at the next [`QueuePair::ring`].
    ///
    /// # Errors
    /// Gives the token back if the ring is full.
    #[inline]
    pub fn submit(&mut self, command: &Command, token: T) -> Result<(), (SubmitError, T)> {
        // One entry stays free, by which a full ring is told from an empty one.
        if self.unused <= 1 {
            return Err((SubmitError::Full, token));
        }
        let last = self.unused - 1;
        let Some(&identifier) = self.free.get(last) else { return Err((SubmitError::Full, token)) };
        let Some(slot) = self.slots.get_mut(usize::from(identifier)) else { return Err((SubmitError::Full, token)) };
        *slot = Some(token);
        self.unused = last;
        let first = usize::from(self.tail) * Self::SUBMISSION_WORDS;
        for (word, value) in command.words(identifier).into_iter().enumerate() {
            self.rings.submission.store(first + word, value);
        }
        self.tail = (self.tail + 1) & Self::MASK;
        Ok(())
    }

    /// Tells the controller of all commands so far, with one register write, or none if it knows them.
    #[inline]
    pub fn ring(&mut self) {
        if self.told != self.tail {
            self.told = self.tail;
            self.rings.doorbells.write32(self.rings.first, u32::from(self.told));
        }
    }

    /// The next command that ended; to be called until there is none.
    #[inline]
    pub fn completed(&mut self) -> Option<Completed<T>> {
        // Ends: each round takes an entry of this phase, of which the controller can have written no more than `N`
        // before it hears of the head.
        for _ in 0..N {
            let index = 2 * usize::from(self.head);
            let entry = Entry(self.rings.completion.load(index + 1));
            if !entry.has_phase(self.phase) {
                break;
            }
            let result = self.rings.completion.load(index) as u32;
            self.head = (self.head + 1) & Self::MASK;
            if self.head == 0 {
                self.phase = !self.phase;
            }
            self.unacknowledged += 1;
            if self.unacknowledged > Self::MASK / 2 {
                self.acknowledge();
            }
            if let Some(token) = self.take(entry) {
                return Some(Completed { token, status: entry.status(), result });
            }
        }
        if self.unacknowledged >= self.acknowledge {
            self.acknowledge();
        }
        None
    }

    #[inline(always)]
    fn acknowledge(&mut self) {
        self.unacknowledged = 0;
        self.rings.doorbells.write32(self.rings.first.wrapping_add(self.rings.stride), u32::from(self.head));
    }

    /// The token of the command that an entry is about, if it is under way.
    #[inline(always)]
    fn take(&mut self, entry: Entry) -> Option<T> {
        let (identifier, read) = (entry.identifier(), entry.submission_head());
        let further = read.wrapping_sub(self.submission_head) & Self::MASK;
        if read > Self::MASK || further > self.told.wrapping_sub(self.submission_head) & Self::MASK {
            // It claims to have read what it was not told of. The command may have ended all the same.
            self.faults = self.faults.wrapping_add(1);
        } else {
            self.submission_head = read;
        }
        let token = self.slots.get_mut(usize::from(identifier)).and_then(Option::take);
        match (&token, self.free.get_mut(self.unused)) {
            (Some(_), Some(free)) => {
                *free = identifier;
                self.unused += 1;
            }
            _ => self.faults = self.faults.wrapping_add(1),
        }
        token
    }

    /// Commands under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        N - self.unused
    }

    /// Impossible completions.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.faults
    }

    /// What the pair is made of; commands under way are forgotten.
    #[must_use]
    pub fn into_rings(self) -> Rings<R, M> {
        self.rings
    }

    /// Takes a token back from a queue that is dead: it was deleted, or its function taken from the controller, so that
    /// its data are not touched any more. Call it until it gives none.
    pub fn reclaim(&mut self) -> Option<T> {
        self.slots.iter_mut().find_map(Option::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::fake::{FakeMemory, FakeRegisters, random};

    struct Bench {
        doorbells: FakeRegisters,
        submission: FakeMemory,
        completion: FakeMemory,
    }

    type Queue<'a> = QueuePair<&'a FakeRegisters, &'a FakeMemory, u64, 8>;
    const NOTHING: Command = Command::new(0, 1);

    impl Bench {
        fn new() -> Bench {
            let (submission, completion) = (FakeMemory::new(64), FakeMemory::new(16));
            Bench { doorbells: FakeRegisters::default(), submission, completion }
        }

        fn queue(&self) -> Queue<'_> {
            let (submission, completion) = (&self.submission, &self.completion);
            QueuePair::new(Rings { doorbells: &self.doorbells, first: 8, stride: 4, submission, completion }).unwrap()
        }

        /// Writes a completion, as a controller that has read up to `head`.
        fn complete(&self, entry: usize, identifier: u16, head: u16, phase: bool, status: u16) {
            let word = u64::from(head)
                | 1 << 16
                | u64::from(identifier) << 32
                | u64::from(phase) << 48
                | u64::from(status) << 49;
            self.completion.store(2 * entry, 0xffff_ffff_0000_0000 + entry as u64);
            self.completion.store(2 * entry + 1, word);
        }
    }

    #[test]
    fn a_batch_is_one_doorbell_each_way() {
        let bench = Bench::new();
        let mut queue = bench.queue();
        for token in 0..3 {
            queue.submit(&NOTHING, token).unwrap();
        }
        queue.ring();
        queue.ring();
        assert_eq!(bench.doorbells.writes(), [(8, 3)]);
        assert_eq!(bench.submission.load(16), 0x0000_0001_0002_0000, "the third one's first word");
        assert_eq!(queue.completed(), None);
        bench.complete(0, 2, 3, true, 0);
        bench.complete(1, 0, 3, true, 0x4281);
        assert_eq!(queue.completed(), Some(Completed { token: 2, status: Status::SUCCESS, result: 0 }));
        let failed = queue.completed().unwrap();
        assert_eq!((failed.token, failed.status.code(), failed.status.is_final()), (0, 0x281, true));
        assert_eq!((queue.completed(), queue.under_way()), (None, 1));
        assert_eq!(bench.doorbells.writes(), [(8, 3), (12, 2)]);
    }

    #[test]
    fn the_phase_turns_with_each_round() {
        let bench = Bench::new();
        let mut queue = bench.queue();
        for n in 0..40u64 {
            queue.submit(&NOTHING, n).unwrap();
            queue.ring();
            assert_eq!(queue.completed(), None, "what the last round left is old");
            bench.complete((n % 8) as usize, 0, ((n + 1) % 8) as u16, n / 8 % 2 == 0, 0);
            assert_eq!(queue.completed().map(|done| done.token), Some(n));
        }
        assert_eq!(queue.faults(), 0);
    }

    #[test]
    fn acknowledgements_are_saved_up_when_asked_for() {
        let bench = Bench::new();
        let mut queue = bench.queue();
        queue.set_acknowledge_batch(u16::MAX);
        for n in 0..16u64 {
            queue.submit(&NOTHING, n).unwrap();
            queue.ring();
            bench.complete((n % 8) as usize, 0, ((n + 1) % 8) as u16, n / 8 % 2 == 0, 0);
            assert!(queue.completed().is_some() && queue.completed().is_none());
        }
        let acknowledged: Vec<_> = bench.doorbells.writes().into_iter().filter(|(offset, _)| *offset == 12).collect();
        assert_eq!(acknowledged, [(12, 4), (12, 0), (12, 4), (12, 0)]);
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let bench = Bench::new();
        let mut queue = bench.queue();
        for token in 0..7 {
            queue.submit(&NOTHING, token).unwrap();
        }
        assert_eq!(queue.submit(&NOTHING, 7), Err((SubmitError::Full, 7)));
        queue.ring();
        bench.complete(0, 3, 1, true, 0);
        assert_eq!(queue.completed().map(|done| done.token), Some(3));
        assert_eq!(queue.submit(&NOTHING, 8), Ok(()));
    }

    #[test]
    fn commands_that_are_not_under_way_do_not_end() {
        let bench = Bench::new();
        let mut queue = bench.queue();
        queue.submit(&NOTHING, 5).unwrap();
        queue.ring();
        for (entry, identifier) in [(0, 1), (1, 8), (2, u16::MAX)] {
            bench.complete(entry, identifier, 1, true, 0);
        }
        assert_eq!((queue.completed(), queue.faults(), queue.under_way()), (None, 3, 1));
        bench.complete(3, 0, 1, true, 0);
        bench.complete(4, 0, 1, true, 0);
        assert_eq!(queue.completed().map(|done| done.token), Some(5));
        assert_eq!((queue.completed(), queue.faults()), (None, 4), "twice is once too often");
        queue.submit(&NOTHING, 6).unwrap();
        bench.complete(5, 0, 7, true, 0);
        assert_eq!((queue.completed().map(|done| done.token), queue.faults()), (Some(6), 5), "it was not told of 7");
    }

    #[test]
    fn whatever_the_controller_writes_each_token_comes_back_once() {
        let mut ended = 0;
        for seed in 1..300u64 {
            let mut random = random(seed);
            let bench = Bench::new();
            let mut queue = bench.queue();
            let (mut under_way, mut next) = (std::collections::BTreeSet::new(), 0);
            for _ in 0..400 {
                match random(4) {
                    0 => bench.completion.store(random(20) as usize, random(1 << 31) << 33 | random(1 << 31)),
                    1 => {
                        let (entry, phase) = (random(8) as usize, random(2) == 0);
                        bench.complete(entry, random(10) as u16, random(10) as u16, phase, 0);
                    }
                    2 => {
                        if queue.submit(&NOTHING, next).is_ok() {
                            under_way.insert(next);
                            next += 1;
                        }
                        queue.ring();
                    }
                    _ => {
                        if let Some(done) = queue.completed() {
                            assert!(under_way.remove(&done.token));
                            ended += 1;
                        }
                    }
                }
                assert_eq!(queue.under_way(), under_way.len());
            }
            while let Some(token) = queue.reclaim() {
                assert!(under_way.remove(&token));
            }
            assert!(under_way.is_empty());
        }
        assert!(ended > 1000, "the test must see some");
    }
}
