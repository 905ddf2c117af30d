//! A pair of rings: commands go into the submission queue, and come back by the completion queue (Base Specification,
//! 3.3.1).
//!
//! At most `N - 1` commands are under way, so neither ring can overflow. The controller hears of commands by one doorbell
//! per batch, and that completions were taken by one per batch.

use crate::command::{Command, WORDS};
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
}

/// What an identifier stands for.
#[derive(Debug)]
enum Slot<T> {
    /// Nothing; the next free one follows.
    Free(u32),
    /// A command with this token.
    UnderWay(T),
}

/// A queue pair with `N` entries each, a power of two from 2 to 4096.
#[derive(Debug)]
pub struct QueuePair<R, M, T, const N: usize> {
    rings: Rings<R, M>,
    /// By identifier. The last one is never used, so that `N - 1` commands are under way at most.
    slots: [Slot<T>; N],
    /// The first free identifier; `N`, which is none, if there is none.
    free: u32,
    /// Commands ever put in, and told to the controller; completions ever taken, and told. All wrap.
    put: u32,
    told: u32,
    taken: u32,
    acknowledged: u32,
    /// Completions after which the controller is told.
    acknowledge: u32,
    faults: u32,
}

impl<R: Registers, M: DmaMemory, T, const N: usize> QueuePair<R, M, T, N> {
    const MASK: u32 = {
        assert!(N.is_power_of_two() && N >= 2 && N <= 4096);
        N as u32 - 1
    };
    /// Positions shifted by this are rounds.
    const ROUND_SHIFT: u32 = N.trailing_zeros();

    /// For queues that the controller has, or is going to be given, and that nothing was put into. `None` if the memory
    /// is too small.
    #[must_use]
    pub fn new(rings: Rings<R, M>) -> Option<Self> {
        if rings.submission.words() < WORDS * N || rings.completion.words() < 2 * N {
            return None;
        }
        Some(QueuePair {
            rings,
            slots: core::array::from_fn(|n| Slot::Free(if n + 2 < N { n as u32 + 1 } else { N as u32 })),
            free: 0,
            put: 0,
            told: 0,
            taken: 0,
            acknowledged: 0,
            acknowledge: 1,
            faults: 0,
        })
    }

    /// For queues that another program has used, and in which nothing is under way: as many commands have ended as
    /// `position` says, modulo twice the entries. `None` if the memory is too small.
    #[must_use]
    pub fn resumed(rings: Rings<R, M>, position: u32) -> Option<Self> {
        let pair = QueuePair::new(rings)?;
        Some(QueuePair { put: position, told: position, taken: position, acknowledged: position, ..pair })
    }

    /// Commands ever put in, modulo 2^32.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.put
    }

    /// The memory of the completion queue, behind whose entries there may be more.
    #[must_use]
    pub fn completion_ring(&self) -> &M {
        &self.rings.completion
    }

    /// How many completions the controller has written into a ring that began with zeroes, modulo twice its entries.
    #[must_use]
    pub fn completions(completion: &M) -> u32 {
        let phase = |index: usize| Entry(completion.load(2 * index + 1)).phase();
        let first = phase(0);
        // Those of the round that is under way come first, with its phase: 1 in the first round, 0 in the next one.
        let round = (0..N).take_while(|&index| phase(index) == first).count() as u32;
        (round + if first == 1 { 0 } else { N as u32 }) % (2 * N as u32)
    }

    /// Tells the controller that completions were taken only once there are so many, at least 1 and at most half of the
    /// ring. More than 1 suits polling; a controller may hold an interrupt back until it hears.
    pub fn set_acknowledge_batch(&mut self, completions: u32) {
        self.acknowledge = completions.clamp(1, N as u32 / 2);
    }

    /// Puts a command into the ring. The controller hears of it at the next [`QueuePair::ring`].
    ///
    /// # Errors
    /// Gives the token back if the ring is full.
    #[inline]
    pub fn submit(&mut self, command: &Command, token: T) -> Result<(), (SubmitError, T)> {
        let identifier = self.free;
        let Some(slot) = self.slots.get_mut(identifier as usize) else { return Err((SubmitError::Full, token)) };
        // A free identifier is always one of those; what else it could be, the compiler can't know.
        let Slot::Free(next) = *slot else { return Err((SubmitError::Full, token)) };
        self.free = next;
        *slot = Slot::UnderWay(token);
        self.rings.submission.store_row((self.put & Self::MASK) as usize, command.words(identifier as u16));
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// Tells the controller of all commands so far, with one register write, or none if it knows them.
    #[inline]
    pub fn ring(&mut self) {
        if self.told != self.put {
            self.told = self.put;
            self.rings.doorbells.write32(self.rings.first, self.told & Self::MASK);
        }
    }

    /// The next command that ended; to be called until there is none, when the controller is told what was taken.
    #[inline]
    pub fn completed(&mut self) -> Option<Completed<T>> {
        // Ends: each round takes an entry of this phase, of which the controller has room for `N` at most before it is
        // told.
        let mut taken = self.taken;
        for _ in 0..N {
            let index = (taken & Self::MASK) as usize;
            let entry = Entry(self.rings.completion.load(2 * index + 1));
            let round = taken >> Self::ROUND_SHIFT;
            if entry.phase() == round & 1 {
                break;
            }
            taken = taken.wrapping_add(1);
            self.taken = taken;
            if let Some(token) = self.take(entry) {
                return Some(Completed { token, status: entry.status() });
            }
        }
        if taken.wrapping_sub(self.acknowledged) >= self.acknowledge {
            self.acknowledged = taken;
            let doorbell = self.rings.first.wrapping_add(self.rings.stride);
            self.rings.doorbells.write32(doorbell, taken & Self::MASK);
        }
        None
    }

    /// The token of the command that an entry is about, if the command is under way and the entry makes sense.
    #[inline(always)]
    fn take(&mut self, entry: Entry) -> Option<T> {
        let identifier = u32::from(entry.identifier());
        if let Some(slot @ Slot::UnderWay(_)) = self.slots.get_mut(identifier as usize)
            && u32::from(entry.submission_head()) <= Self::MASK
            && let Slot::UnderWay(token) = core::mem::replace(slot, Slot::Free(self.free))
        {
            self.free = identifier;
            return Some(token);
        }
        self.faults = self.faults.wrapping_add(1);
        None
    }

    /// Commands under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::UnderWay(_))).count()
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
        let slot = self.slots.iter_mut().find(|slot| matches!(slot, Slot::UnderWay(_)))?;
        // No identifier is given out again by a dead queue.
        match core::mem::replace(slot, Slot::Free(N as u32)) {
            Slot::UnderWay(token) => Some(token),
            Slot::Free(_) => None,
        }
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
        assert_eq!(queue.completed(), Some(Completed { token: 2, status: Status::SUCCESS }));
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
    fn who_comes_later_goes_on_where_the_ring_was_left() {
        for done in 0..40u64 {
            let bench = Bench::new();
            let mut queue = bench.queue();
            for n in 0..done {
                queue.submit(&NOTHING, n).unwrap();
                queue.ring();
                bench.complete((n % 8) as usize, 0, ((n + 1) % 8) as u16, n / 8 % 2 == 0, 0);
                assert!(queue.completed().is_some() && queue.completed().is_none());
            }
            let position = Queue::completions(&&bench.completion);
            assert_eq!(u64::from(position), done % 16);
            let mut queue = Queue::resumed(queue.into_rings(), position).unwrap();
            assert_eq!(queue.completed(), None);
            queue.submit(&NOTHING, done).unwrap();
            queue.ring();
            assert_eq!(bench.doorbells.writes().last(), Some(&(8, (done as u32 + 1) % 8)));
            bench.complete((done % 8) as usize, 0, ((done + 1) % 8) as u16, done / 8 % 2 == 0, 0);
            assert_eq!(queue.completed().map(|ended| ended.token), Some(done));
            assert_eq!((queue.completed(), queue.position()), (None, position + 1));
        }
    }

    #[test]
    fn acknowledgements_are_saved_up_when_asked_for() {
        let bench = Bench::new();
        let mut queue = bench.queue();
        queue.set_acknowledge_batch(u32::MAX);
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
        bench.complete(5, 0, 8, true, 0);
        assert_eq!((queue.completed(), queue.faults()), (None, 5), "the ring has no place 8");
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
