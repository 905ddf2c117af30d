//! A transmit ring: frames of one or more segments go in with a token each, and the tokens come back in the same order
//! when the device has read the segments.
//!
//! The device learns of frames by one register write per batch. It reports by writing its head position into memory
//! (head write-back), at the last frame of each batch: that is one word to look at, however many frames were sent. The
//! position is believed only if it lies among the descriptors that the device was given.
//!
//! A PF may close a function's transmission. When it opens it again, an emulated device goes on only when told the tail
//! anew: [`TransmitQueue::nudge`].
//!
//! Source: datasheet, 7.2.2 (transmit descriptors), 7.2.3 (head write-back), 4.5.10 (initialisation).

use crate::offload::Offload;
use crate::registers as reg;
use device::{DmaMemory, IoAddress, Registers};

/// Most segments of a frame.
pub const MAX_SEGMENTS: usize = 16;
/// Most bytes of a frame, without the checksum of 4 that the device adds.
pub const MAX_FRAME_BYTES: u32 = 9724;

const DATA: u32 = 0x3 << 20;
const END_OF_PACKET: u32 = 1 << 24;
const INSERT_FCS: u32 = 1 << 25;
const REPORT_STATUS: u32 = 1 << 27;
const EXTENSION: u32 = 1 << 29;
const PAYLOAD_SHIFT: u32 = 14;

/// Reads of a queue's control register until it must show what was written. The datasheet names no bound; devices need
/// a few microseconds, a read takes about one.
const CONTROL_READS: u32 = 1000;

/// Why a queue can't be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// There is no such queue, the memory is too small, or a size is out of range.
    Arguments,
    /// The device does not stop or start the queue.
    Stuck,
}

impl QueueError {
    pub(crate) fn stop(registers: &impl Registers, base: u32) -> Result<(), QueueError> {
        Self::control(registers, base, 0)
    }

    pub(crate) fn start(registers: &impl Registers, base: u32) -> Result<(), QueueError> {
        Self::control(registers, base, reg::DCTL_ENABLE)
    }

    fn control(registers: &impl Registers, base: u32, enable: u32) -> Result<(), QueueError> {
        let thresholds = registers.read32(base + reg::DCTL) & !reg::DCTL_ENABLE;
        registers.write32(base + reg::DCTL, thresholds | enable);
        let done = (0..CONTROL_READS).any(|_| registers.read32(base + reg::DCTL) & reg::DCTL_ENABLE == enable);
        if done { Ok(()) } else { Err(QueueError::Stuck) }
    }
}

/// A part of a frame, contiguous for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: IoAddress,
    /// Its length in bytes.
    pub bytes: u16,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The ring is full until tokens come back.
    Full,
    /// It has no segment, too many, an empty one, or too many bytes.
    Frame,
}

/// A transmit queue with `N` descriptors, a power of two from 8 to 4096, in `16 N + 8` bytes of memory. `T` is what the
/// sender wants back when a frame is done.
#[derive(Debug)]
pub struct TransmitQueue<R, M, T, const N: usize> {
    registers: R,
    memory: M,
    /// The tokens of frames, at their last descriptors.
    slots: [Option<T>; N],
    tail_register: u32,
    /// Descriptors ever given back, reported by the device, told to it, and written; all wrap.
    /// `cleaned <= done <= told <= written`.
    cleaned: u32,
    done: u32,
    told: u32,
    written: u32,
    /// The last data descriptor's second word, which asks for a report if the batch ends there.
    last: u64,
    /// The context that the device has.
    context: [u64; 2],
    /// Frames after which the device is told without [`TransmitQueue::flush`], and how many are waiting.
    batch: u32,
    waiting: u32,
    faults: u32,
}

impl<R: Registers, M: DmaMemory, T, const N: usize> TransmitQueue<R, M, T, N> {
    const MASK: u32 = {
        assert!(N.is_power_of_two() && N >= 8 && N <= 4096);
        N as u32 - 1
    };
    /// The word behind the ring, which the device writes its head to.
    const HEAD_WORD: usize = 2 * N;

    /// Sets up queue 0 or 1 of a function that was reset. Frames go out at [`TransmitQueue::flush`].
    ///
    /// # Errors
    /// If the memory is too small or the device does not enable the queue.
    pub fn new(registers: R, memory: M, queue: u8) -> Result<Self, QueueError> {
        if queue > 1 || memory.words() <= Self::HEAD_WORD {
            return Err(QueueError::Arguments);
        }
        let base = reg::transmit_queue(queue);
        QueueError::stop(&registers, base)?;
        memory.store(Self::HEAD_WORD, 0);
        let at = memory.io_address();
        let head = at + 8 * Self::HEAD_WORD as u64;
        registers.write32(base + reg::DBAL, at.0 as u32);
        registers.write32(base + reg::DBAH, (at.0 >> 32) as u32);
        registers.write32(base + reg::DLEN, 16 * N as u32);
        registers.write32(base + reg::TDWBAH, (head.0 >> 32) as u32);
        registers.write32(base + reg::TDWBAL, head.0 as u32 | reg::TDWBAL_ENABLE);
        registers.write32(base + reg::DH, 0);
        registers.write32(base + reg::DT, 0);
        QueueError::start(&registers, base)?;
        Ok(TransmitQueue {
            registers,
            memory,
            slots: [const { None }; N],
            tail_register: base + reg::DT,
            cleaned: 0,
            done: 0,
            told: 0,
            written: 0,
            last: 0,
            context: [0; 2],
            batch: u32::MAX,
            waiting: 0,
            faults: 0,
        })
    }

    /// Tells the device by itself after so many frames, at least 1; until then frames wait for [`TransmitQueue::flush`].
    /// This is the batching delay of sending; it may be changed at any time.
    pub fn set_batch(&mut self, frames: u32) {
        self.batch = frames.max(1);
    }

    /// The frames after which it tells the device by itself.
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Puts a frame into the ring. The segments must stay as they are until the token comes back.
    ///
    /// # Errors
    /// Gives the token back with the reason.
    #[inline]
    pub fn send(&mut self, segments: &[Segment], offload: &Offload, token: T) -> Result<(), (SendError, T)> {
        let bytes = segments.iter().fold(0u32, |sum, segment| sum.wrapping_add(u32::from(segment.bytes)));
        let count = segments.len();
        if count == 0 || count > MAX_SEGMENTS || bytes > MAX_FRAME_BYTES || segments.iter().any(|s| s.bytes == 0) {
            return Err((SendError::Frame, token));
        }
        let tells = offload.needs_context() && offload.context != self.context;
        let room = Self::MASK - self.written.wrapping_sub(self.cleaned);
        if count as u32 + u32::from(tells) > room {
            return Err((SendError::Full, token));
        }
        if tells {
            self.context = offload.context;
            self.put(offload.context);
        }
        let options = offload.options | bytes << PAYLOAD_SHIFT;
        let command = DATA | EXTENSION | INSERT_FCS | offload.command;
        let end = count - 1;
        for (n, segment) in segments.iter().enumerate() {
            let end = if n == end { END_OF_PACKET } else { 0 };
            self.last = u64::from(command | end | u32::from(segment.bytes)) | u64::from(options) << 32;
            self.put([segment.address.0, self.last]);
        }
        let index = self.written.wrapping_sub(1) & Self::MASK;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = Some(token);
        }
        self.waiting += 1;
        if self.waiting >= self.batch {
            self.flush();
        }
        Ok(())
    }

    #[inline(always)]
    fn put(&mut self, descriptor: [u64; 2]) {
        let index = (self.written & Self::MASK) as usize;
        self.memory.store_row(index, descriptor);
        self.written = self.written.wrapping_add(1);
    }

    /// Tells the device of all frames so far, with one register write, or none if it knows them.
    #[inline]
    pub fn flush(&mut self) {
        if self.told == self.written {
            return;
        }
        // The report of the last frame of a batch stands for all of it.
        let index = (self.written.wrapping_sub(1) & Self::MASK) as usize;
        self.memory.store(2 * index + 1, self.last | u64::from(REPORT_STATUS));
        self.told = self.written;
        self.waiting = 0;
        self.registers.write32(self.tail_register, self.told & Self::MASK);
    }

    /// The token of the next frame that the device has done with.
    #[inline]
    pub fn completed(&mut self) -> Option<T> {
        if self.cleaned == self.done {
            self.look();
        }
        // At most one descriptor without a token for each segment and context of a frame.
        while self.cleaned != self.done {
            let index = (self.cleaned & Self::MASK) as usize;
            self.cleaned = self.cleaned.wrapping_add(1);
            if let Some(token) = self.slots.get_mut(index).and_then(Option::take) {
                return Some(token);
            }
        }
        None
    }

    /// Takes the device's position over, if it can be one.
    #[inline]
    fn look(&mut self) {
        let head = self.memory.load(Self::HEAD_WORD) as u32;
        let further = head.wrapping_sub(self.done) & Self::MASK;
        if head > Self::MASK || further > self.told.wrapping_sub(self.done) {
            self.faults = self.faults.wrapping_add(1);
        } else {
            self.done = self.done.wrapping_add(further);
        }
    }

    /// Tells the device again what it knows: an emulated one needs that after the PF has closed and opened the function's
    /// transmission. For use when [`TransmitQueue::pending`] frames make no progress.
    pub fn nudge(&mut self) {
        self.registers.write32(self.tail_register, self.told & Self::MASK);
    }

    /// Descriptors that the device was told of and has not reported.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.told.wrapping_sub(self.done)
    }

    /// Impossible positions that the device reported.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.faults
    }

    /// Takes a token back from a queue that is dead: its function was reset, or taken away from the device, so that
    /// nothing is read any more. Call it until it gives none.
    pub fn reclaim(&mut self) -> Option<T> {
        self.slots.iter_mut().find_map(Option::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Network, Transport};
    use device::fake::{FakeMemory, FakeRegisters, random};

    type Queue<'a> = TransmitQueue<&'a FakeRegisters, &'a FakeMemory, u64, 8>;
    const SMALL: [Segment; 1] = [Segment { address: IoAddress(4096), bytes: 60 }];

    #[test]
    fn a_batch_is_one_doorbell_and_one_report() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(17));
        let mut queue = Queue::new(&registers, &memory, 0).unwrap();
        let before = registers.writes().len();
        for token in 0..3 {
            queue.send(&SMALL, &Offload::NONE, token).unwrap();
        }
        assert_eq!(registers.writes().len(), before);
        queue.flush();
        queue.flush();
        assert_eq!(registers.writes()[before..], [(reg::transmit_queue(0) + reg::DT, 3)]);
        let reports: Vec<bool> = (0..3).map(|n| memory.load(2 * n + 1) & u64::from(REPORT_STATUS) != 0).collect();
        assert_eq!(reports, [false, false, true]);
        assert_eq!(queue.completed(), None);
        memory.store(16, 3);
        assert_eq!([queue.completed(), queue.completed(), queue.completed()], [Some(0), Some(1), Some(2)]);
        assert_eq!((queue.completed(), queue.pending(), queue.faults()), (None, 0, 0));
    }

    #[test]
    fn a_full_batch_goes_out_by_itself() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(17));
        let mut queue = Queue::new(&registers, &memory, 1).unwrap();
        queue.set_batch(2);
        let before = registers.writes().len();
        for token in 0..4 {
            queue.send(&SMALL, &Offload::NONE, token).unwrap();
        }
        assert_eq!((registers.writes().len(), queue.pending()), (before + 2, 4));
    }

    #[test]
    fn a_context_is_told_when_it_changes() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(17));
        let mut queue = Queue::new(&registers, &memory, 0).unwrap();
        let udp = Offload::checksums(14, Network::Ipv4(20), Some(Transport::Udp)).unwrap();
        for offload in [udp, udp, Offload::NONE, udp] {
            queue.send(&SMALL, &offload, 0).unwrap();
        }
        assert_eq!(queue.written, 5);
        queue.send(&SMALL, &udp.with_vlan_tag(3), 0).unwrap();
        assert_eq!((queue.written, memory.load(10)), (7, udp.with_vlan_tag(3).context[0]));
    }

    #[test]
    fn frames_that_the_device_cannot_send_are_refused() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(17));
        let mut queue = Queue::new(&registers, &memory, 0).unwrap();
        let segment = |bytes| Segment { address: IoAddress(0), bytes };
        let long = [segment(MAX_FRAME_BYTES as u16), segment(1)];
        for frame in [&[][..], &[segment(0)], &long, &[segment(1); MAX_SEGMENTS + 1]] {
            assert_eq!(queue.send(frame, &Offload::NONE, 5), Err((SendError::Frame, 5)));
        }
        assert_eq!(queue.send(&[segment(1); 8], &Offload::NONE, 6), Err((SendError::Full, 6)));
        assert_eq!(queue.send(&[segment(1); 7], &Offload::NONE, 7), Ok(()));
        assert_eq!(queue.send(&SMALL, &Offload::NONE, 8), Err((SendError::Full, 8)));
    }

    #[test]
    fn whatever_the_device_reports_tokens_come_back_once_in_order_and_never_too_early() {
        for seed in 0..200 {
            let mut random = random(seed);
            let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(17));
            let mut queue = Queue::new(&registers, &memory, 0).unwrap();
            let (mut sent, mut told, mut back) = (0, 0, 0);
            for _ in 0..500 {
                match random(4) {
                    0 => memory.store(random(17) as usize, random(u64::MAX)),
                    1 => memory.store(16, random(9)),
                    2 => {
                        let segments = &[SMALL[0]; 3][..1 + random(3) as usize];
                        sent += u64::from(queue.send(segments, &Offload::NONE, sent).is_ok());
                    }
                    _ if random(2) == 0 => {
                        queue.flush();
                        told = sent;
                    }
                    _ => {
                        if let Some(token) = queue.completed() {
                            assert_eq!(token, back);
                            assert!(token < told);
                            back += 1;
                        }
                    }
                }
            }
            assert!(back > 10, "the test must see some");
            assert_eq!(back + std::iter::from_fn(|| queue.reclaim()).count() as u64, sent);
        }
    }
}
