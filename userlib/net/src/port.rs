//! A pair of rings with their buffers, as the device of the stack.
//!
//! Buffers are in one of four places: lent to the device for receiving, in the stack's hands for the time of one call,
//! free for sending, or lent to the device for sending. They are never copied and never lost.

use crate::checksum;
use crate::datagram::{self, Request, Service};
use crate::neighbours::{Introduction, NO_INTRODUCTION};
use alloc::vec;
use alloc::vec::Vec;
use device::{DmaBuffer, DmaMemory, IoAddress, Registers};
use igbvf::offload::Offload;
use igbvf::receive::{Buffer, Checksum};
use igbvf::transmit::QueueError;
use igbvf::{ReceiveQueue, Segment, TransmitQueue};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Bytes of a frame at most, without its checksum: Ethernet's 1500 and a header.
pub const MOST_FRAME_BYTES: usize = 1514;
/// Bytes of a buffer: a frame fits into one, and the device counts in kilobytes.
pub const BUFFER_BYTES: u16 = 2048;
/// Nanoseconds after which a device that has not sent all that it was told of is told again.
pub(crate) const STALLED_NS: u64 = 1_000_000;

/// A buffer in a receive ring.
#[derive(Debug)]
struct Lent<B>(B);

impl<B: DmaBuffer> Buffer for Lent<B> {
    fn io_address(&self) -> IoAddress {
        self.0.io_address()
    }
}

/// Frames that went nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Received ones that were damaged, in several pieces, or with a wrong checksum.
    pub received: u64,
    /// Ones to be sent that the ring did not take, or that were too long.
    pub sent: u64,
}

/// What has become of the frames that were there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// Requests that were answered.
    pub requests: usize,
    /// The next frame is something else. If it is not, the stack must see none: what has come since may be a request.
    pub is_for_stack: bool,
}

/// Rings of `N` descriptors each, a power of two from 8 to 4096, and buffers of [`BUFFER_BYTES`] at least.
#[derive(Debug)]
pub struct Port<R, M, B, const N: usize> {
    receiver: Receiver<R, M, B, N>,
    sender: Sender<R, M, B, N>,
    /// Buffers for receiving, wherever they are.
    receiving: usize,
}

#[derive(Debug)]
struct Receiver<R, M, B, const N: usize> {
    queue: ReceiveQueue<R, M, Lent<B>, N>,
    /// The buffer that the stack has seen last, on its way back to the ring, and the bytes of its frame.
    held: Option<(B, usize)>,
    /// Whether the stack has not seen that one yet: it is next.
    is_unseen: bool,
    /// Whether the stack is to see this before that one.
    is_introduced: bool,
    introduction: Introduction,
    /// Whether that one opens a connection.
    opens: bool,
    /// Whether the frame that is being dropped goes on in the next buffer.
    goes_on: bool,
    taken: u64,
    drops: u64,
}

#[derive(Debug)]
struct Sender<R, M, B, const N: usize> {
    queue: TransmitQueue<R, M, B, N>,
    free: Vec<B>,
    drops: u64,
    /// When the device is to be told again of what it has not sent.
    stalls_ns: Option<u64>,
}

impl<R: Registers + Clone, M: DmaMemory, B: DmaBuffer, const N: usize> Port<R, M, B, N> {
    /// Buffers for sending that can be in use: each frame may need a second descriptor, and one of the ring stays free.
    pub const MOST_SENDING: usize = N / 2 - 1;
    /// Buffers for receiving that the ring holds.
    pub const MOST_RECEIVING: usize = N - 1;

    /// Sets up queue 0 of a function that was reset, with rings in `receive` and `transmit`. Of the buffers it takes as
    /// many as [`Port::MOST_RECEIVING`] and [`Port::MOST_SENDING`] at most.
    ///
    /// # Errors
    /// If a ring's memory or a buffer is too small, there is none for sending, or the device does not enable a queue.
    pub fn new(
        registers: R,
        receive: M,
        transmit: M,
        for_receiving: impl IntoIterator<Item = B>,
        for_sending: impl IntoIterator<Item = B>,
    ) -> Result<Self, QueueError> {
        let mut queue = ReceiveQueue::new(registers.clone(), receive, 0, BUFFER_BYTES)?;
        let is_large = |buffer: &B| buffer.capacity() >= usize::from(BUFFER_BYTES);
        let mut receiving = 0;
        for buffer in for_receiving.into_iter().take(Self::MOST_RECEIVING) {
            receiving += 1;
            if !is_large(&buffer) || queue.supply(Lent(buffer)).is_err() {
                return Err(QueueError::Arguments);
            }
        }
        let free: Vec<B> = for_sending.into_iter().take(Self::MOST_SENDING).collect();
        if free.is_empty() || !free.iter().all(is_large) {
            return Err(QueueError::Arguments);
        }
        queue.show();
        let receiver = Receiver {
            queue,
            held: None,
            is_unseen: false,
            is_introduced: false,
            introduction: NO_INTRODUCTION,
            opens: false,
            goes_on: false,
            taken: 0,
            drops: 0,
        };
        let sender = Sender { queue: TransmitQueue::new(registers, transmit, 0)?, free, drops: 0, stalls_ns: None };
        Ok(Port { receiver, sender, receiving })
    }

    /// Frames ever taken from the receive ring; wraps.
    pub(crate) fn taken(&self) -> u64 {
        self.receiver.taken
    }

    /// Gives the device all buffers that were seen, and tells it of all frames to be sent: at most one register write
    /// each.
    pub fn flush(&mut self) {
        self.receiver.give_back();
        self.receiver.queue.show();
        self.sender.queue.flush();
    }

    /// Answers requests to a service where they lie, so many at most, until something else has come, which is left for the
    /// stack. The answers go out at [`Port::flush`].
    pub(crate) fn answer(
        &mut self,
        service: &Service,
        most: usize,
        answer: &mut impl FnMut(&[u8], &mut [u8]) -> Option<usize>,
    ) -> Answered {
        let Port { receiver, sender, .. } = self;
        for requests in 0..most {
            let none_left = Answered { requests, is_for_stack: false };
            if !sender.can_send() || !receiver.next() {
                return none_left;
            }
            let Some((buffer, bytes)) = &receiver.held else { return none_left };
            let is_request = buffer.read(*bytes, |frame| {
                let request = Request::parse(frame, service);
                request.map(|request| sender.answer(&request, service, answer)).is_some()
            });
            if !is_request {
                receiver.is_unseen = true;
                return Answered { requests, is_for_stack: true };
            }
        }
        Answered { requests: most, is_for_stack: false }
    }

    /// Whether there is a next frame, and an answer to it could be sent.
    #[inline]
    pub(crate) fn has_next(&mut self) -> bool {
        let has_next = self.sender.can_send() && self.receiver.next();
        self.receiver.is_unseen |= has_next;
        has_next
    }

    /// What there is to say of the next frame before the stack sees it.
    #[inline]
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        self.receiver.held.as_ref().and_then(|(buffer, bytes)| buffer.read(*bytes, look))
    }

    /// Has the stack see this before the next frame, which was looked at.
    pub(crate) fn introduce(&mut self, introduction: Introduction) {
        self.receiver.introduction = introduction;
        self.receiver.is_introduced = true;
    }

    /// Drops the next frame, which was looked at.
    pub(crate) fn discard(&mut self) {
        if core::mem::take(&mut self.receiver.is_unseen) {
            self.receiver.drops = self.receiver.drops.wrapping_add(1);
        }
    }

    /// Sends a frame that is not the stack's, at [`Port::flush`]; true if there was room for it.
    pub(crate) fn send(&mut self, frame: &Introduction) -> bool {
        let transmit = self.sender.can_send().then_some(Transmit(&mut self.sender));
        transmit.map(|transmit| transmit.consume(frame.len(), |place| place.copy_from_slice(frame))).is_some()
    }

    /// True if the frame that the stack has seen last was one that opens a TCP connection.
    pub(crate) fn has_opened(&self) -> bool {
        self.receiver.held.is_some() && !self.receiver.is_unseen && self.receiver.opens
    }

    /// Takes back what was sent; true if nothing more can be sent until the device has gone on. It may have to be told so, as
    /// when its transmission was closed for a while.
    pub(crate) fn is_exhausted(&mut self) -> bool {
        let is_exhausted = !self.sender.can_send();
        if is_exhausted {
            self.sender.queue.nudge();
        }
        is_exhausted
    }

    /// Whether the device has not sent yet all that it was told of. Once in [`STALLED_NS`] it is told again.
    pub(crate) fn is_sending(&mut self, now_ns: u64) -> bool {
        let sender = &mut self.sender;
        sender.take_back();
        if sender.queue.pending() == 0 {
            sender.stalls_ns = None;
            return false;
        }
        let stalls_ns = *sender.stalls_ns.get_or_insert(now_ns.saturating_add(STALLED_NS));
        if now_ns >= stalls_ns {
            sender.queue.nudge();
            sender.stalls_ns = None;
        }
        true
    }

    /// The device is told of so many frames at once at most, at least 1; fewer when the stack has no more to send. May be
    /// changed at any time, and stays when the function is reset.
    pub fn set_send_batch(&mut self, frames: u32) {
        self.sender.queue.set_batch(frames);
    }

    /// Frames that went nowhere, so far.
    pub fn drops(&self) -> Drops {
        Drops { received: self.receiver.drops, sent: self.sender.drops }
    }

    /// Impossible things that the device wrote into the rings, so far.
    pub fn faults(&self) -> u32 {
        self.receiver.queue.faults().wrapping_add(self.sender.queue.faults())
    }

    /// Sets the queues up anew, with the buffers that there are, when the function was reset. Frames under way are lost.
    ///
    /// # Errors
    /// As [`Port::new`]. The buffers are gone then: no frame comes or goes any more.
    pub fn restart(&mut self, registers: R, receive: M, transmit: M) -> Result<(), QueueError> {
        let mut buffers = self.take_buffers();
        // As many as there were at first, as none is ever lost.
        let for_sending = buffers.split_off(self.receiving.min(buffers.len()));
        let batch = self.sender.queue.batch();
        *self = Port::new(registers, receive, transmit, buffers, for_sending)?;
        self.set_send_batch(batch);
        Ok(())
    }

    /// Gives all buffers back when the function was reset, or taken away from the device, so that it reaches nothing any
    /// more.
    pub fn dismantle(mut self) -> Vec<B> {
        self.take_buffers()
    }

    fn take_buffers(&mut self) -> Vec<B> {
        let mut buffers = core::mem::take(&mut self.sender.free);
        buffers.extend(self.receiver.held.take().map(|(buffer, _)| buffer));
        buffers.extend(core::iter::from_fn(|| self.receiver.queue.reclaim()).map(|Lent(buffer)| buffer));
        buffers.extend(core::iter::from_fn(|| self.sender.queue.reclaim()));
        buffers
    }
}

impl<R: Registers, M: DmaMemory, B: DmaBuffer, const N: usize> Receiver<R, M, B, N> {
    /// Lets the ring have the buffer that the stack has seen.
    fn give_back(&mut self) {
        if !self.is_unseen
            && let Some((buffer, _)) = self.held.take()
        {
            self.supply(buffer);
        }
    }

    fn supply(&mut self, buffer: B) {
        // The ring has room for it, as it came from there.
        let refused = self.queue.supply(Lent(buffer));
        debug_assert!(refused.is_ok());
    }

    /// Holds the next frame that is to be believed. At most as many others are dropped as the ring has.
    fn next(&mut self) -> bool {
        if core::mem::take(&mut self.is_unseen) {
            return true;
        }
        self.give_back();
        for _ in 0..N {
            let Some(received) = self.queue.receive() else { return false };
            self.taken = self.taken.wrapping_add(1);
            let is_first = !core::mem::replace(&mut self.goes_on, !received.ends_frame());
            let is_whole = is_first && received.ends_frame() && !received.is_damaged();
            let (ip, transport) = (received.ip_checksum(), received.transport_checksum());
            let (buffer, bytes) = (received.buffer.0, usize::from(received.length));
            let is_good = match (ip, transport) {
                (Checksum::Bad, _) | (_, Checksum::Bad) => false,
                // The device has looked at all of it, and it looks at no transport of a fragment.
                (Checksum::Good, Checksum::Good) => true,
                _ => is_whole && buffer.read(bytes, |frame| checksum::is_good(frame, ip, transport)),
            };
            if is_whole && is_good {
                self.opens = buffer.read(bytes, opens_connection);
                self.held = Some((buffer, bytes));
                return true;
            }
            self.drops = self.drops.wrapping_add(u64::from(is_first));
            self.supply(buffer);
        }
        false
    }
}

/// True for a segment with SYN and without ACK (RFC 9293, 3.1), in a packet that is not malformed.
#[inline]
fn opens_connection(frame: &[u8]) -> bool {
    const ETHERNET_BYTES: usize = 14;
    const FLAGS: usize = 13;
    const SYN: u8 = 1 << 1;
    const ACK: u8 = 1 << 4;
    let Some(head) = frame.first_chunk::<{ ETHERNET_BYTES + 20 }>() else { return false };
    if head[12..14] != [0x08, 0x00] || head[23] != 6 {
        return false;
    }
    let header_bytes = usize::from(head[14] & 0xf) * 4;
    frame.get(ETHERNET_BYTES + header_bytes + FLAGS).is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

impl<R: Registers, M: DmaMemory, B: DmaBuffer, const N: usize> Sender<R, M, B, N> {
    fn take_back(&mut self) {
        // At most as many as the ring has.
        while let Some(buffer) = self.queue.completed() {
            self.free.push(buffer);
        }
    }

    /// Sends the answer to a request, if there is one.
    fn answer(
        &mut self,
        request: &Request,
        service: &Service,
        answer: &mut impl FnMut(&[u8], &mut [u8]) -> Option<usize>,
    ) {
        let (Some(mut buffer), Some(offload)) = (self.free.pop(), datagram::OFFLOAD) else { return };
        match buffer.write(MOST_FRAME_BYTES, |frame| request.answer(frame, service, answer)) {
            Some(bytes) => self.send(buffer, bytes, &offload),
            None => self.free.push(buffer),
        }
    }

    /// Puts a frame into the ring.
    fn send(&mut self, buffer: B, bytes: usize, offload: &Offload) {
        let segment = Segment { address: buffer.io_address(), bytes: bytes as u16 };
        if let Err((_, buffer)) = self.queue.send(&[segment], offload, buffer) {
            self.free.push(buffer);
            self.drops = self.drops.wrapping_add(1);
        }
    }

    fn can_send(&mut self) -> bool {
        if self.free.is_empty() {
            self.take_back();
        }
        !self.free.is_empty()
    }
}

/// A frame that was received, or what is to be seen before it.
#[derive(Debug)]
pub struct Receive<'a, B> {
    frame: &'a (B, usize),
    before: Option<&'a Introduction>,
}

impl<B: DmaBuffer> RxToken for Receive<'_, B> {
    #[inline]
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, look: F) -> T {
        let (buffer, bytes) = self.frame;
        // In one place, so that the stack is compiled into it.
        buffer.read(*bytes, |frame| look(self.before.map_or(frame, |introduction| introduction)))
    }
}

/// A place for a frame to be sent.
#[derive(Debug)]
pub struct Transmit<'a, R, M, B, const N: usize>(&'a mut Sender<R, M, B, N>);

impl<R: Registers, M: DmaMemory, B: DmaBuffer, const N: usize> TxToken for Transmit<'_, R, M, B, N> {
    fn consume<T, F: FnOnce(&mut [u8]) -> T>(self, bytes: usize, fill: F) -> T {
        let sender = self.0;
        let buffer = sender.free.pop_if(|_| bytes <= usize::from(BUFFER_BYTES));
        // There is a buffer, as there is a token; a frame that is longer than the stack was told is lost.
        let Some(mut buffer) = buffer else {
            sender.drops = sender.drops.wrapping_add(1);
            return fill(&mut vec![0; bytes]);
        };
        let (result, offload) = buffer.write(bytes, |frame| {
            let result = fill(frame);
            (result, checksum::prepare(frame))
        });
        sender.send(buffer, bytes, &offload);
        result
    }
}

impl<R: Registers, M: DmaMemory, B: DmaBuffer, const N: usize> Device for Port<R, M, B, N> {
    type RxToken<'a>
        = Receive<'a, B>
    where
        Self: 'a;
    type TxToken<'a>
        = Transmit<'a, R, M, B, N>
    where
        Self: 'a;

    /// The next frame, if an answer to it could be sent: else it waits in the ring.
    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        if !self.sender.can_send() || !self.receiver.next() {
            return None;
        }
        let receiver = &mut self.receiver;
        receiver.is_unseen = core::mem::take(&mut receiver.is_introduced);
        let before = receiver.is_unseen.then_some(&receiver.introduction);
        Some((Receive { frame: receiver.held.as_ref()?, before }, Transmit(&mut self.sender)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.sender.can_send().then_some(Transmit(&mut self.sender))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MOST_FRAME_BYTES;
        capabilities.checksum = checksum::capabilities();
        capabilities
    }
}
