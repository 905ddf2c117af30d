//! Message rings: one producer, one consumer, in memory that both can write.
//!
//! Each side believes nothing. Its own position lives in its own memory and is only published in the ring; of the other
//! side it reads one position and one length per message, each once, by value, and checks them. Whatever a broken or
//! hostile peer writes, the answers are messages of at most the agreed length with arbitrary contents, or
//! [`RingError::Corrupt`] for good. Nothing waits in here.
//!
//! Layout, in 64-bit words; zeroed memory is an empty ring, and the memory's length fixes the capacity:
//!
//! | word | written by | meaning |
//! |---|---|---|
//! | 0 | producer | tail: words ever written |
//! | 1 | producer, cleared by the consumer | the producer sleeps until there is room |
//! | 8 | consumer | head: words ever taken |
//! | 9 | consumer, cleared by the producer | the consumer sleeps until there is a message |
//! | 16.. | producer | frames: length in bytes (16 bits), then the bytes, padded to whole words |
//!
//! A signal costs an exit, so it is sent only to a side that announced that it sleeps. The announcement (store, fence,
//! look again) and the publication (store, fence, look for a sleeper) are ordered so that one of both sides always sees
//! the other: no wake-up is lost. `verification/interleavings` goes through all orders. A message that nobody waits for may be left for when
//! the other side wakes by itself, or is woken by a later one.

use core::sync::atomic::Ordering;

use crate::shared::Words;

const TAIL: usize = 0;
const PRODUCER_SLEEPS: usize = 1;
const HEAD: usize = 8;
const CONSUMER_SLEEPS: usize = 9;
/// Where the frames begin.
pub const DATA: usize = 16;

/// Bytes of the first word of a frame that are its length.
const LENGTH_BYTES: usize = 2;

/// Why a ring did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// No room now.
    Full,
    /// The message is longer than the ring or a frame can hold.
    TooLong,
    /// The other side broke the rules. The ring is of no use any more.
    Corrupt,
}

/// Whether somebody has to be woken after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sleeping peer waits for a signal"]
pub enum Wake {
    /// No.
    Nobody,
    /// The other side announced that it sleeps: signal it.
    Peer,
}

/// Words that a message of this many bytes takes.
const fn words_of(bytes: usize) -> u64 {
    ((LENGTH_BYTES + bytes).div_ceil(8)) as u64
}

/// Data words of a ring in that memory.
fn capacity<M: Words>(memory: &M) -> u64 {
    memory.len().saturating_sub(DATA) as u64
}

/// Publishes a position and looks whether the other side sleeps.
#[inline(always)]
fn publish<M: Words>(memory: &M, word: usize, position: u64, sleeper: usize) -> Wake {
    memory.store(word, position, Ordering::Release);
    memory.fence();
    if memory.load(sleeper, Ordering::Relaxed) != 0 && memory.swap(sleeper, 0) != 0 { Wake::Peer } else { Wake::Nobody }
}

/// The sending side.
#[derive(Debug)]
pub struct Producer<M: Words> {
    memory: M,
    tail: u64,
    /// `tail` modulo the capacity.
    index: usize,
    /// The last head that was read and found possible.
    head: u64,
    broken: bool,
}

impl<M: Words> Producer<M> {
    /// A producer at the start of a zeroed ring.
    pub fn new(memory: M) -> Producer<M> {
        assert!(memory.len() > DATA, "a ring needs room for data");
        Producer { memory, tail: 0, index: 0, head: 0, broken: false }
    }

    /// The longest message that the ring can hold, in bytes.
    pub fn longest(&self) -> usize {
        (capacity(&self.memory) as usize * 8 - LENGTH_BYTES).min(u16::MAX as usize)
    }

    /// Appends a message.
    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<Wake, RingError> {
        self.append(message)?;
        Ok(self.wake())
    }

    /// Appends a message for when the consumer looks: a sleeping one still waits for [`Producer::wake`], or the next `send`.
    pub fn leave(&mut self, message: &[u8]) -> Result<(), RingError> {
        self.append(message)?;
        self.memory.store(TAIL, self.tail, Ordering::Release);
        Ok(())
    }

    /// Publishes what was appended, and says whether the consumer has to be woken for it.
    #[inline]
    pub fn wake(&self) -> Wake {
        publish(&self.memory, TAIL, self.tail, CONSUMER_SLEEPS)
    }

    /// Writes a message, which is not published yet.
    #[inline]
    fn append(&mut self, message: &[u8]) -> Result<(), RingError> {
        if message.len() > self.longest() {
            return Err(RingError::TooLong);
        }
        let words = words_of(message.len());
        if self.room() < words {
            self.look()?;
            if self.room() < words {
                return Err(RingError::Full);
            }
        }
        let (now, mut rest) = message.split_at(message.len().min(8 - LENGTH_BYTES));
        let mut first = [0; 8];
        first[..LENGTH_BYTES].copy_from_slice(&(message.len() as u16).to_le_bytes());
        first[LENGTH_BYTES..LENGTH_BYTES + now.len()].copy_from_slice(now);
        self.put(first);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(8));
            let mut word = [0; 8];
            word[..now.len()].copy_from_slice(now);
            self.put(word);
            rest = later;
        }
        self.tail = self.tail.wrapping_add(words);
        Ok(())
    }

    /// Announces that this side is going to sleep until there is room for a message of this many bytes. False if there
    /// is already, and then nothing is announced.
    pub fn announce_sleep(&mut self, bytes: usize) -> Result<bool, RingError> {
        self.memory.store(PRODUCER_SLEEPS, 1, Ordering::Relaxed);
        self.memory.fence();
        self.look()?;
        if self.room() >= words_of(bytes) {
            self.awake();
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes the announcement back.
    pub fn awake(&mut self) {
        self.memory.store(PRODUCER_SLEEPS, 0, Ordering::Relaxed);
    }

    fn room(&self) -> u64 {
        capacity(&self.memory) - self.tail.wrapping_sub(self.head)
    }

    /// Reads the consumer's position anew.
    fn look(&mut self) -> Result<(), RingError> {
        let head = self.memory.load(HEAD, Ordering::Acquire);
        // It may have moved on from where it was last, and not beyond what was written.
        if self.broken || head.wrapping_sub(self.head) > self.tail.wrapping_sub(self.head) {
            self.broken = true;
            // No room any more: a short message would still fit by what was believed before, and not be refused.
            self.head = self.tail.wrapping_sub(capacity(&self.memory));
            return Err(RingError::Corrupt);
        }
        self.head = head;
        Ok(())
    }

    #[inline(always)]
    fn put(&mut self, word: [u8; 8]) {
        self.memory.store(DATA + self.index, u64::from_le_bytes(word), Ordering::Relaxed);
        self.index += 1;
        if DATA + self.index == self.memory.len() {
            self.index = 0;
        }
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Consumer<M: Words> {
    memory: M,
    head: u64,
    /// `head` modulo the capacity.
    index: usize,
    broken: bool,
}

impl<M: Words> Consumer<M> {
    /// A consumer at the start of a zeroed ring.
    pub fn new(memory: M) -> Consumer<M> {
        assert!(memory.len() > DATA, "a ring needs room for data");
        Consumer { memory, head: 0, index: 0, broken: false }
    }

    /// Takes the next message into `buffer` and says how many bytes it has; `None` if there is none. A message longer
    /// than the buffer breaks the ring: the buffer's length is what both sides agreed on.
    #[inline]
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(usize, Wake)>, RingError> {
        let waiting = self.waiting()?;
        if waiting == 0 {
            return Ok(None);
        }
        let first = self.take().to_le_bytes();
        let length = usize::from(u16::from_le_bytes([first[0], first[1]]));
        let words = words_of(length);
        if words > waiting || length > buffer.len() {
            self.broken = true;
            return Err(RingError::Corrupt);
        }
        let (now, mut rest) = buffer[..length].split_at_mut(length.min(8 - LENGTH_BYTES));
        now.copy_from_slice(&first[LENGTH_BYTES..LENGTH_BYTES + now.len()]);
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(rest.len().min(8));
            now.copy_from_slice(&self.take().to_le_bytes()[..now.len()]);
            rest = later;
        }
        self.head = self.head.wrapping_add(words);
        Ok(Some((length, publish(&self.memory, HEAD, self.head, PRODUCER_SLEEPS))))
    }

    /// Announces that this side is going to sleep until there is a message. False if there is one already, and then
    /// nothing is announced.
    pub fn announce_sleep(&mut self) -> Result<bool, RingError> {
        self.memory.store(CONSUMER_SLEEPS, 1, Ordering::Relaxed);
        self.memory.fence();
        if self.waiting()? > 0 {
            self.awake();
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes the announcement back.
    pub fn awake(&mut self) {
        self.memory.store(CONSUMER_SLEEPS, 0, Ordering::Relaxed);
    }

    /// Words that wait to be taken.
    #[inline(always)]
    fn waiting(&mut self) -> Result<u64, RingError> {
        let waiting = self.memory.load(TAIL, Ordering::Acquire).wrapping_sub(self.head);
        if self.broken || waiting > capacity(&self.memory) {
            self.broken = true;
            return Err(RingError::Corrupt);
        }
        Ok(waiting)
    }

    #[inline(always)]
    fn take(&mut self) -> u64 {
        let word = self.memory.load(DATA + self.index, Ordering::Relaxed);
        self.index += 1;
        if DATA + self.index == self.memory.len() {
            self.index = 0;
        }
        word
    }
}

#[cfg(test)]
mod tests;
