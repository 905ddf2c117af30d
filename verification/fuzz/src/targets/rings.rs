//! Rings in memory that somebody else writes: messages of another VM, completions of NVMe, received descriptors.

use crate::bytes::Bytes;
use crate::{Checked, Target, ensure};
use device::{DmaMemory, IoAddress, PAGE_BYTES, Registers};
use igbvf::receive::{Buffer, ReceiveQueue};
use nvme_queue::command::Command;
use nvme_queue::queue::{Completed, QueuePair, Rings};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use userlib::ring::{Consumer, Producer, RingError};
use userlib::shared::Words;

/// Words of a message ring: 16 of the head, and 24 for messages.
const RING_WORDS: usize = 40;
/// Entries of a queue.
const ENTRIES: usize = 8;
/// Longest message that both sides of a ring agreed on.
const LONGEST: usize = 100;
/// Bytes of a receive buffer.
const BUFFER_BYTES: u16 = 2048;

/// Steps of both sides of a ring, and of somebody who writes into it.
pub const RING: Target = Target {
    name: "ring",
    about: "Message rings: what comes is what was sent, in order; behind a peer that lies, short enough or refused for good.",
    check: |input| ring(input, RING_WORDS),
    twin: |input| ring(input, RING_WORDS - 3),
    seeds: ring_seeds,
    inputs: 40_000,
};

/// Steps of a driver, and of a controller that writes what it likes.
pub const COMPLETIONS: Target = Target {
    name: "completions",
    about: "NVMe completions: each command ends once, and only one that was under way.",
    check: |input| completions(input, |found, _| found),
    twin: |input| completions(input, |found, last| found.or(last)),
    seeds: completion_seeds,
    inputs: 40_000,
};

/// Steps of a driver, and of an adapter that writes what it likes.
pub const RECEIVED: Target = Target {
    name: "received",
    about: "Receive descriptors: each buffer comes back once, with a length that it has.",
    check: |input| received(input, u64::MAX),
    twin: |input| received(input, 0xffff_ffff_ffff_fffe),
    seeds: received_seeds,
    inputs: 40_000,
};

/// Shared words, of which the last ones lose what is stored into them if there are more than `kept`.
#[derive(Clone)]
struct Shared {
    words: Rc<[Cell<u64>; RING_WORDS]>,
    kept: usize,
}

impl Words for Shared {
    fn len(&self) -> usize {
        RING_WORDS
    }

    fn load(&self, index: usize, _: Ordering) -> u64 {
        self.words[index].get()
    }

    fn store(&self, index: usize, value: u64, _: Ordering) {
        if index < self.kept {
            self.words[index].set(value);
        }
    }

    fn swap(&self, index: usize, value: u64) -> u64 {
        self.words[index].replace(value)
    }

    fn fence(&self) {}
}

fn ring(input: &[u8], kept: usize) -> Checked {
    let memory = Shared { words: Rc::new([const { Cell::new(0) }; RING_WORDS]), kept };
    let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory.clone()));
    let mut bytes = Bytes::new(input);
    // What was sent and not received yet; nobody knows, once somebody has written what is not his.
    let mut sent: Option<VecDeque<Vec<u8>>> = Some(VecDeque::new());
    let (mut no_sending, mut no_receiving) = (false, false);
    while let (Some(step), Some(detail)) = (bytes.byte(), bytes.byte()) {
        match step % 8 {
            0 | 1 => {
                let message: Vec<u8> = (0..usize::from(detail) % (LONGEST + 1)).map(|at| detail ^ at as u8).collect();
                let outcome =
                    if step % 8 == 0 { producer.send(&message).map(|_| ()) } else { producer.leave(&message) };
                ensure(!no_sending || outcome.is_err(), || "sent into a ring that was corrupt".into())?;
                no_sending |= outcome == Err(RingError::Corrupt);
                if let (Ok(()), Some(sent)) = (outcome, &mut sent) {
                    sent.push_back(message);
                }
            }
            2..=4 => {
                let mut buffer = [0; LONGEST];
                let outcome = consumer.receive(&mut buffer);
                ensure(!no_receiving || outcome.is_err(), || "received out of a ring that was corrupt".into())?;
                match (outcome, &mut sent) {
                    (Ok(Some((length, _))), Some(sent)) => {
                        let expected = sent.pop_front();
                        let is_it = buffer.get(..length) == expected.as_deref();
                        ensure(is_it, || format!("{:?} instead of {expected:?}", buffer.get(..length)))?;
                    }
                    (Ok(Some((length, _))), None) => {
                        ensure(length <= LONGEST, || format!("a message of {length} bytes"))?;
                    }
                    (Ok(None), Some(sent)) => ensure(sent.is_empty(), || format!("{} were lost", sent.len()))?,
                    (Err(error), Some(_)) => return Err(format!("{error:?}, and nobody lied")),
                    (Ok(None) | Err(_), _) => {}
                }
                no_receiving |= outcome == Err(RingError::Corrupt);
            }
            5 => drop(consumer.announce_sleep()),
            6 => drop(producer.announce_sleep(usize::from(detail))),
            _ => {
                let Some(value) = bytes.long() else { break };
                memory.words[usize::from(detail) % RING_WORDS].set(value);
                sent = None;
            }
        }
    }
    Ok(())
}

/// Registers that say what was written into them.
#[derive(Default)]
struct Echo(Cell<BTreeMap<u32, u32>>);

impl Registers for Echo {
    fn read32(&self, offset: u32) -> u32 {
        let values = self.0.take();
        let value = values.get(&offset).copied().unwrap_or(0);
        self.0.set(values);
        value
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut values = self.0.take();
        values.insert(offset, value);
        self.0.set(values);
    }
}

/// Memory that the device writes, too.
struct Dma<const WORDS: usize> {
    words: Rc<[Cell<u64>; WORDS]>,
    /// Bits that are kept of what is stored.
    kept: u64,
}

impl<const WORDS: usize> Dma<WORDS> {
    fn new(kept: u64) -> Dma<WORDS> {
        Dma { words: Rc::new([const { Cell::new(0) }; WORDS]), kept }
    }
}

impl<const WORDS: usize> DmaMemory for Dma<WORDS> {
    fn io_address(&self) -> IoAddress {
        IoAddress(0x1_0000_0000)
    }

    fn words(&self) -> usize {
        WORDS
    }

    fn load(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, Cell::get)
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(cell) = self.words.get(word) {
            // What a mistake keeps of a word that is cleared: that it was done.
            cell.set(value & self.kept | cell.get() & !self.kept);
        }
    }
}

fn completions(input: &[u8], seen: impl Fn(Option<u32>, Option<u32>) -> Option<u32>) -> Checked {
    const WORDS: usize = ENTRIES * 8;
    let (submission, completion) = (Dma::<WORDS>::new(u64::MAX), Dma::<WORDS>::new(u64::MAX));
    let device = Rc::clone(&completion.words);
    let rings = Rings { doorbells: Echo::default(), first: 0x1000, stride: 4, submission, completion };
    let pair = QueuePair::<_, _, u32, ENTRIES>::new(rings);
    let mut pair = pair.ok_or("the memory is too small")?;
    let mut bytes = Bytes::new(input);
    let mut under_way = Vec::new();
    let (mut next, mut last) = (0, None);
    while let Some(step) = bytes.byte() {
        match step % 4 {
            0 => {
                let refused = pair.submit(&Command::new(2, 1), next).is_err();
                let is_full = under_way.len() == ENTRIES - 1;
                ensure(refused == is_full, || format!("refused: {refused}, with {} under way", under_way.len()))?;
                if !refused {
                    under_way.push(next);
                }
                next += 1;
            }
            1 => pair.ring(),
            2 => {
                let (Some(entry), Some(value)) = (bytes.byte(), bytes.word()) else { break };
                // The half with identifier, phase and status comes last in the entry; the head before it.
                let head = u64::from(entry >> 4);
                device[2 * (usize::from(entry) % ENTRIES) + 1].set(u64::from(value) << 32 | head);
            }
            _ => {
                let found = pair.completed().map(|Completed { token, .. }| token);
                let Some(token) = seen(found, last) else { continue };
                let place = under_way.iter().position(|&one| one == token);
                let place = place.ok_or_else(|| format!("command {token} ended, and was not under way"))?;
                under_way.swap_remove(place);
                last = Some(token);
            }
        }
        ensure(pair.under_way() == under_way.len(), || format!("{} instead of {under_way:?}", pair.under_way()))?;
    }
    let mut left: Vec<u32> = std::iter::from_fn(|| pair.reclaim()).collect();
    left.sort_unstable();
    under_way.sort_unstable();
    ensure(left == under_way, || format!("{left:?} came back of {under_way:?}"))
}

struct Numbered(u64);

impl Buffer for Numbered {
    fn io_address(&self) -> IoAddress {
        IoAddress(self.0 * PAGE_BYTES)
    }
}

fn received(input: &[u8], kept: u64) -> Checked {
    const WORDS: usize = ENTRIES * 2;
    let memory = Dma::<WORDS>::new(kept);
    let device = Rc::clone(&memory.words);
    let queue = ReceiveQueue::<_, _, Numbered, ENTRIES>::new(Echo::default(), memory, 0, BUFFER_BYTES);
    let mut queue = queue.map_err(|error| format!("{error:?}"))?;
    let mut bytes = Bytes::new(input);
    // Buffers that the device has, in order, those that it was shown, and descriptors that it has written.
    let mut lent = VecDeque::new();
    let (mut next, mut shown) = (1, 0);
    let mut is_written = [false; ENTRIES];
    let (mut supplied, mut taken) = (0, 0);
    while let Some(step) = bytes.byte() {
        match step % 4 {
            0 => {
                let refused = queue.supply(Numbered(next)).is_err();
                ensure(refused == (lent.len() == ENTRIES - 1), || format!("refused: {refused}, {} lent", lent.len()))?;
                if !refused {
                    lent.push_back(next);
                    is_written[supplied % ENTRIES] = false;
                    supplied += 1;
                }
                next += 1;
            }
            1 => {
                queue.show();
                shown = supplied;
            }
            2 => {
                let (Some(place), Some(value)) = (bytes.byte(), bytes.long()) else { break };
                let place = usize::from(place) % ENTRIES;
                device[2 * place + 1].set(value);
                is_written[place] = true;
            }
            _ => {
                let Some(found) = queue.receive() else { continue };
                let expected = lent.pop_front();
                ensure(expected == Some(found.buffer.0), || format!("{} instead of {expected:?}", found.buffer.0))?;
                ensure(taken < shown, || format!("buffer {} was not shown yet", found.buffer.0))?;
                let written = is_written[taken % ENTRIES];
                ensure(written, || format!("buffer {} came back before it was written", found.buffer.0))?;
                ensure(found.length <= BUFFER_BYTES, || format!("{} bytes", found.length))?;
                taken += 1;
            }
        }
        ensure(queue.room() == ENTRIES - 1 - lent.len(), || format!("room for {}", queue.room()))?;
    }
    let left = std::iter::from_fn(|| queue.reclaim()).count();
    ensure(left == lent.len(), || format!("{left} came back of {}", lent.len()))
}

fn ring_seeds() -> Vec<Vec<u8>> {
    let honest: Vec<u8> = (0..60).flat_map(|step: u8| [step % 5, step.wrapping_mul(37)]).collect();
    let full: Vec<u8> = (0..8).flat_map(|_| [0, 90]).chain((0..8).flat_map(|_| [2, 0])).collect();
    let liar =
        [&[0, 9][..], &[7, 0], &u64::MAX.to_le_bytes(), &[2, 0, 0, 9, 7, 16, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 2, 0]];
    vec![honest, full, liar.concat()]
}

fn completion_seeds() -> Vec<Vec<u8>> {
    // Identifier and phase of an entry, so that commands end in another order than they began.
    let entry = |place: u8, identifier: u16, phase: u16| {
        [&[2, place][..], &identifier.to_le_bytes(), &phase.to_le_bytes()].concat()
    };
    let ended = [&[0, 0, 0, 1][..], &entry(0, 2, 1), &entry(1, 0, 1), &[3, 3, 3, 0]].concat();
    let twice = [&[0, 0, 1][..], &entry(0, 1, 1), &entry(1, 1, 1), &[3, 3]].concat();
    let full: Vec<u8> = [0; 9].into_iter().chain((0..8).flat_map(|n| entry(n as u8, n, 1))).chain([3; 9]).collect();
    vec![ended, twice, full]
}

fn received_seeds() -> Vec<Vec<u8>> {
    let done = |place: u8, length: u64| [&[2, place][..], &(length << 32 | 3).to_le_bytes()].concat();
    let some = [&[0, 0, 1][..], &done(0, 60), &[3, 3], &done(1, 0xffff), &[3]].concat();
    let round: Vec<u8> =
        (0..20).flat_map(|n: u8| [&[0, 1][..], &done(n % 8, 64), &[3]].concat()).chain([0, 1, 3, 3]).collect();
    vec![some, round]
}
