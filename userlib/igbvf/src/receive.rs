//! A receive ring: buffers go in by value, the device fills them, and they come back by value with what is in them.
//!
//! The device owns the descriptors from its head up to, not including, the tail that it was told. A descriptor comes
//! back when its "descriptor done" bit is set; only the oldest one is looked at, so they come back in order. Whatever the
//! device writes, what is handed out is a buffer that was handed in, once, with a length that it has.
//!
//! Source: datasheet, 7.1.4 (receive descriptors), 7.1.6 (ring), 4.5.9 (initialisation).

use crate::registers as reg;
use crate::transmit::QueueError;
use device::{DmaMemory, IoAddress, Registers};

/// Something that frames are received into.
pub trait Buffer {
    /// Where the device writes to. So many bytes as the queue was set up for must follow, contiguous for the device.
    fn io_address(&self) -> IoAddress;
}

const DONE: u32 = 1 << 0;
const END_OF_PACKET: u32 = 1 << 1;
const VLAN_PRESENT: u32 = 1 << 3;
const L4_CHECKED: u32 = 1 << 5;
const IP_CHECKED: u32 = 1 << 6;
const L4_ERROR: u32 = 1 << 29;
const IP_ERROR: u32 = 1 << 30;
const RX_ERROR: u32 = 1 << 31;

/// A buffer that came back, with a frame in it or a part of one.
#[derive(Debug)]
pub struct Received<B> {
    /// The buffer.
    pub buffer: B,
    /// Bytes in it, at most the queue's buffer size; 0 if the device's length was impossible.
    pub length: u16,
    /// The VLAN tag, where the PF has tags taken out of the frame.
    tag: u16,
    status: u32,
}

/// What the device says of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It was not looked at.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
}

impl<B> Received<B> {
    /// True if the frame ends in this buffer; else it goes on in the next one.
    #[inline(always)]
    #[must_use]
    pub fn ends_frame(&self) -> bool {
        self.status & END_OF_PACKET != 0
    }

    /// True if the frame arrived damaged, or its length was impossible.
    #[inline(always)]
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.status & RX_ERROR != 0
    }

    /// Of the IPv4 header; valid where the frame ends.
    #[inline(always)]
    #[must_use]
    pub fn ip_checksum(&self) -> Checksum {
        verdict(self.status, IP_CHECKED, IP_ERROR)
    }

    /// Of TCP, UDP or SCTP; valid where the frame ends.
    #[inline(always)]
    #[must_use]
    pub fn transport_checksum(&self) -> Checksum {
        verdict(self.status, L4_CHECKED, L4_ERROR)
    }

    /// The VLAN tag that was taken out of the frame; valid where the frame ends.
    #[inline(always)]
    #[must_use]
    pub fn vlan_tag(&self) -> Option<u16> {
        (self.status & VLAN_PRESENT != 0).then_some(self.tag)
    }
}

#[inline(always)]
fn verdict(status: u32, checked: u32, error: u32) -> Checksum {
    match (status & checked, status & error) {
        (0, _) => Checksum::Unknown,
        (_, 0) => Checksum::Good,
        _ => Checksum::Bad,
    }
}

/// A receive queue with `N` descriptors, a power of two from 8 to 4096, in `16 N` bytes of memory.
#[derive(Debug)]
pub struct ReceiveQueue<R, M, B, const N: usize> {
    registers: R,
    memory: M,
    slots: [Option<B>; N],
    tail_register: u32,
    buffer_bytes: u16,
    /// Buffers ever taken back, handed in, and shown to the device; all wrap. `taken <= shown <= filled`.
    taken: u32,
    shown: u32,
    filled: u32,
    faults: u32,
}

impl<R: Registers, M: DmaMemory, B: Buffer, const N: usize> ReceiveQueue<R, M, B, N> {
    const MASK: u32 = {
        assert!(N.is_power_of_two() && N >= 8 && N <= 4096);
        N as u32 - 1
    };

    /// Sets up queue 0 or 1 of a function that was reset, for buffers of `buffer_bytes`, 1024 to 32256 (rounded down to
    /// whole kilobytes). The ring is empty; [`ReceiveQueue::supply`] it.
    ///
    /// # Errors
    /// If the memory is too small, the sizes are out of range, or the device does not enable the queue.
    pub fn new(registers: R, memory: M, queue: u8, buffer_bytes: u16) -> Result<Self, QueueError> {
        let units = u32::from(buffer_bytes) / reg::SRRCTL_BUFFER_UNIT;
        if queue > 1 || memory.words() < 2 * N || units == 0 || units > reg::SRRCTL_BUFFER_MAX {
            return Err(QueueError::Arguments);
        }
        let base = reg::receive_queue(queue);
        QueueError::stop(&registers, base)?;
        let at = memory.io_address().0;
        registers.write32(base + reg::DBAL, at as u32);
        registers.write32(base + reg::DBAH, (at >> 32) as u32);
        registers.write32(base + reg::DLEN, 16 * N as u32);
        registers.write32(base + reg::SRRCTL, units | reg::SRRCTL_ADVANCED | reg::SRRCTL_DROP);
        registers.write32(base + reg::DH, 0);
        registers.write32(base + reg::DT, 0);
        QueueError::start(&registers, base)?;
        Ok(ReceiveQueue {
            registers,
            memory,
            slots: [const { None }; N],
            tail_register: base + reg::DT,
            buffer_bytes: (units * reg::SRRCTL_BUFFER_UNIT) as u16,
            taken: 0,
            shown: 0,
            filled: 0,
            faults: 0,
        })
    }

    /// Hands in a buffer. The device hears of it at the next [`ReceiveQueue::show`].
    ///
    /// # Errors
    /// Gives it back if the ring is full; it holds `N - 1`.
    #[inline]
    pub fn supply(&mut self, buffer: B) -> Result<(), B> {
        if self.filled.wrapping_sub(self.taken) >= Self::MASK {
            return Err(buffer);
        }
        let index = (self.filled & Self::MASK) as usize;
        let Some(slot) = self.slots.get_mut(index) else { return Err(buffer) };
        // The status of the last round goes with it.
        self.memory.store_row(index, [buffer.io_address().0, 0]);
        *slot = Some(buffer);
        self.filled = self.filled.wrapping_add(1);
        Ok(())
    }

    /// Lets the device have all buffers handed in so far, with one register write, or none if it has them.
    #[inline]
    pub fn show(&mut self) {
        if self.shown != self.filled {
            self.shown = self.filled;
            self.registers.write32(self.tail_register, self.shown & Self::MASK);
        }
    }

    /// The next buffer that the device has done with.
    #[inline]
    pub fn receive(&mut self) -> Option<Received<B>> {
        if self.taken == self.shown {
            return None;
        }
        let index = (self.taken & Self::MASK) as usize;
        let word = self.memory.load(2 * index + 1);
        let mut status = word as u32;
        if status & DONE == 0 {
            return None;
        }
        let buffer = self.slots.get_mut(index)?.take()?;
        self.taken = self.taken.wrapping_add(1);
        let mut length = (word >> 32) as u16;
        if length > self.buffer_bytes {
            self.faults = self.faults.wrapping_add(1);
            (length, status) = (0, status | RX_ERROR);
        }
        Some(Received { buffer, length, tag: (word >> 48) as u16, status })
    }

    /// Buffers that the ring has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        (Self::MASK - self.filled.wrapping_sub(self.taken)) as usize
    }

    /// Descriptors that the device wrote something impossible into.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.faults
    }

    /// The registers, for interrupts and the like.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    /// Takes a buffer back from a queue that is dead: its function was reset, or taken away from the device, so that
    /// nothing is written any more. Call it until it gives none.
    pub fn reclaim(&mut self) -> Option<B> {
        self.slots.iter_mut().find_map(Option::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::fake::{FakeMemory, FakeRegisters, random};

    #[derive(Debug, PartialEq)]
    struct Numbered(u64);

    impl Buffer for Numbered {
        fn io_address(&self) -> IoAddress {
            IoAddress(self.0 * 2048)
        }
    }

    type Queue<'a> = ReceiveQueue<&'a FakeRegisters, &'a FakeMemory, Numbered, 8>;

    #[test]
    fn a_ring_holds_one_buffer_less_than_descriptors_and_shows_them_at_once() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(16));
        let mut queue = Queue::new(&registers, &memory, 0, 2048).unwrap();
        assert_eq!(queue.room(), 7);
        for n in 1..=7 {
            queue.supply(Numbered(n)).unwrap();
        }
        assert_eq!(queue.supply(Numbered(8)), Err(Numbered(8)));
        let tail = reg::receive_queue(0) + reg::DT;
        let before = registers.writes().len();
        queue.show();
        queue.show();
        assert_eq!(registers.writes()[before..], [(tail, 7)]);
        assert!((0..7).all(|n| memory.load(2 * n) == 2048 * (n as u64 + 1)));
    }

    #[test]
    fn sizes_that_the_device_cannot_have_are_refused() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(15));
        assert!(matches!(Queue::new(&registers, &memory, 0, 2048), Err(QueueError::Arguments)));
        let memory = FakeMemory::new(16);
        assert!(matches!(Queue::new(&registers, &memory, 2, 2048), Err(QueueError::Arguments)));
        assert!(matches!(Queue::new(&registers, &memory, 0, 1023), Err(QueueError::Arguments)));
        registers.set_rule(|_| Some(0));
        assert!(matches!(Queue::new(&registers, &memory, 0, 2048), Err(QueueError::Stuck)));
    }

    #[test]
    fn a_frame_that_is_longer_than_its_buffer_is_empty_and_damaged() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(16));
        let mut queue = Queue::new(&registers, &memory, 0, 2048 + 1023).unwrap();
        for (length, expected) in [(2048, 2048), (2049, 0), (u64::from(u16::MAX), 0), (0, 0)] {
            let index = (queue.taken & 7) as usize;
            queue.supply(Numbered(1)).unwrap();
            queue.show();
            memory.store(2 * index + 1, u64::from(DONE | END_OF_PACKET) | length << 32);
            let received = queue.receive().unwrap();
            assert_eq!((received.length, received.is_damaged()), (expected, length > 2048));
        }
        assert_eq!(queue.faults(), 2);
    }

    #[test]
    fn what_the_last_round_left_is_old() {
        let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(16));
        let mut queue = Queue::new(&registers, &memory, 0, 2048).unwrap();
        for n in 0..20 {
            queue.supply(Numbered(n)).unwrap();
            assert!(queue.receive().is_none(), "the device has not heard of it");
            queue.show();
            assert!(queue.receive().is_none(), "the device has not filled it");
            memory.store(2 * (n as usize % 8) + 1, u64::from(DONE | END_OF_PACKET) | 60 << 32);
            assert_eq!(queue.receive().map(|received| received.buffer), Some(Numbered(n)));
        }
    }

    #[test]
    fn checksums_and_tags_are_told_as_the_device_does() {
        let received = |status| Received { buffer: (), length: 60, tag: 7, status };
        assert_eq!(received(0).ip_checksum(), Checksum::Unknown);
        assert_eq!(received(IP_CHECKED | L4_ERROR).ip_checksum(), Checksum::Good);
        assert_eq!(received(IP_CHECKED | L4_CHECKED | L4_ERROR).transport_checksum(), Checksum::Bad);
        assert_eq!((received(0).vlan_tag(), received(VLAN_PRESENT).vlan_tag()), (None, Some(7)));
    }

    #[test]
    fn whatever_the_device_writes_each_buffer_comes_back_once_and_in_order() {
        let mut seen = 0;
        for seed in 0..200 {
            let mut random = random(seed);
            let (registers, memory) = (FakeRegisters::default(), FakeMemory::new(16));
            let mut queue = Queue::new(&registers, &memory, 1, 2048).unwrap();
            let (mut next_in, mut next_out) = (1, 1);
            for _ in 0..1000 {
                match random(4) {
                    0 => memory.store(random(20) as usize | 1, random(u64::MAX)),
                    1 => {
                        if queue.supply(Numbered(next_in)).is_ok() {
                            next_in += 1;
                        }
                    }
                    2 => queue.show(),
                    _ => {
                        if let Some(received) = queue.receive() {
                            assert_eq!(received.buffer, Numbered(next_out));
                            assert!(received.length <= 2048);
                            next_out += 1;
                        }
                    }
                }
            }
            let left = std::iter::from_fn(|| queue.reclaim()).count() as u64;
            assert_eq!(next_out + left, next_in);
            seen += next_out;
        }
        assert!(seen > 1000, "the test must see some");
    }
}
