//! A virtual function of the network device, ready to send and receive single frames: [`App::nic`].
//!
//! The application drives the function itself, by [`igbvf`]: this module only puts together what the driver needs, on top of
//! [`crate::virtual_function`]. Sending and receiving takes no exit. Frames are copied between the caller's memory and the
//! function's.
//!
//! When the function was reset, as the market tells by an event, [`Nic::reset`] brings it up anew; frames under way are
//! lost, as on any network.

use alloc::format;

use device::{Clock as _, DmaMemory, IoAddress};
use igbvf::offload::Offload;
use igbvf::{Buffer, Pace, ReceiveQueue, Segment, TransmitQueue};

use crate::app::App;
use crate::dma::{MappedMemory, MappedRegisters};
use crate::error::Error;
use crate::market;
use crate::virtual_function::{MAILBOX, RECEIVED, USUAL_PAGES, VirtualFunction};

/// Descriptors of a ring; one less is in use.
const RING: usize = 16;
/// Bytes of a buffer: more than the longest frame of ordinary Ethernet, and whole kilobytes, as the device wants.
pub const BUFFER_BYTES: usize = 2048;
const BUFFERS_PER_PAGE: usize = 4096 / BUFFER_BYTES;
/// Pages that the function reaches: a ring each way, then the buffers of each ring.
pub const MEMORY_PAGES: u16 = 2 + (2 * RING / BUFFERS_PER_PAGE) as u16;
const _: () = assert!(MEMORY_PAGES <= USUAL_PAGES);
/// Buffers for frames that go out follow those for frames that come in; the first of them.
const FIRST_SEND_BUFFER: u8 = RING as u8;
/// Byte of the memory at which the buffers begin.
const BUFFERS_AT: usize = 2 * 4096;

/// A buffer, by its number, and where the function sees it.
#[derive(Clone, Copy, Debug)]
struct Numbered {
    number: u8,
    io: IoAddress,
}

impl Numbered {
    fn new(number: u8, memory: &MappedMemory) -> Numbered {
        Numbered { number, io: memory.io_address() + Numbered::offset(number) as u64 }
    }

    /// The first byte of a buffer in the function's memory.
    const fn offset(number: u8) -> usize {
        BUFFERS_AT + number as usize * BUFFER_BYTES
    }
}

impl Buffer for Numbered {
    fn io_address(&self) -> IoAddress {
        self.io
    }
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// All buffers are under way, or the transmission has just been opened again.
    Full,
    /// It is empty, or longer than [`BUFFER_BYTES`].
    Length,
}

type Receive = ReceiveQueue<MappedRegisters, MappedMemory, Numbered, RING>;
type Transmit = TransmitQueue<MappedRegisters, MappedMemory, Numbered, RING>;

/// A virtual function in use.
#[derive(Debug)]
pub struct Nic {
    function: VirtualFunction,
    queues: Queues,
}

#[derive(Debug)]
struct Queues {
    receive: Receive,
    transmit: Transmit,
    /// Buffers for frames that go out, as bits.
    free: u16,
    pace: Pace,
}

impl App {
    /// Brings up the virtual function that this application has: in its base (`nic = true` in its scenario) or bought. It waits
    /// until the network server has let the function through, but not for the link. To be called once for each function, with
    /// what was brought up before dropped.
    ///
    /// # Errors
    /// As [`App::virtual_function`].
    pub fn nic(&mut self) -> Result<Nic, Error> {
        let function = self.virtual_function(MEMORY_PAGES)?;
        Ok(Nic { queues: Queues::new(&function)?, function })
    }
}

impl Queues {
    /// Sets up both queues of a function that was reset.
    fn new(function: &VirtualFunction) -> Result<Queues, Error> {
        let (registers, memory) = (function.registers(), function.memory());
        let stuck = |error| Error::failed(format!("a queue of the virtual function: {error:?}"));
        let mut receive: Receive = ReceiveQueue::new(registers, memory, 0, BUFFER_BYTES as u16).map_err(stuck)?;
        let transmit = TransmitQueue::new(registers, memory.from_page(1), 0).map_err(stuck)?;
        for buffer in 0..FIRST_SEND_BUFFER {
            // The ring takes one less than it has descriptors.
            let _ = receive.supply(Numbered::new(buffer, &memory));
        }
        receive.show();
        [RECEIVED, MAILBOX].iter().for_each(|&message| function.let_interrupt(message));
        Ok(Queues { receive, transmit, free: u16::MAX, pace: Pace::default() })
    }
}

/// Takes back what was sent.
fn take_back(transmit: &mut Transmit, free: &mut u16) {
    while let Some(buffer) = transmit.completed() {
        *free |= 1 << (buffer.number - FIRST_SEND_BUFFER);
    }
}

impl Nic {
    /// Its Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.function.mac().0
    }

    /// True while the cable has a link. What is sent without one is lost.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.function.link_is_up()
    }

    /// Frames that the device said something impossible about, in either direction.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.queues.receive.faults().wrapping_add(self.queues.transmit.faults())
    }

    /// Sends a frame, from its destination address to the end of its payload. If it can't be sent now, the network server may
    /// have closed the transmission, as more was sent than was bought, or have opened it just now ([`igbvf::pace`]): try again
    /// a little later.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        let clock = self.function.clock();
        let Queues { transmit, free, pace, .. } = &mut self.queues;
        take_back(transmit, free);
        let number = free.trailing_zeros() as u8;
        let bytes = u16::try_from(frame.len()).map_err(|_| SendError::Length)?;
        if bytes == 0 || frame.len() > BUFFER_BYTES {
            return Err(SendError::Length);
        }
        if transmit.pending() as usize >= RING - 1 {
            transmit.nudge();
            take_back(transmit, free);
            if transmit.pending() == 0 {
                // No cable is as fast: it was closed, and is open again.
                pace.was_closed(clock.now_ns());
            }
            return Err(SendError::Full);
        }
        if !pace.may_send(RING as u32 - 1, || clock.now_ns()) {
            return Err(SendError::Full);
        }
        let memory = self.function.memory();
        let buffer = Numbered::new(FIRST_SEND_BUFFER + number, &memory);
        memory.put(Numbered::offset(buffer.number), frame);
        let segment = Segment { address: buffer.io_address(), bytes };
        transmit.send(&[segment], &Offload::NONE, buffer).map_err(|_| SendError::Full)?;
        *free &= !(1 << number);
        transmit.flush();
        Ok(())
    }

    /// Takes the next frame that has come in, and returns its length; what does not fit into `frame` is cut off. Damaged
    /// frames are left out.
    pub fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        loop {
            let received = self.queues.receive.receive()?;
            let length = usize::from(received.length).min(frame.len());
            let whole = received.ends_frame() && !received.is_damaged();
            if whole && let Some(frame) = frame.get_mut(..length) {
                self.function.memory().get(Numbered::offset(received.buffer.number), frame);
            }
            // There is room: it has just come from there.
            let _ = self.queues.receive.supply(received.buffer);
            self.queues.receive.show();
            if whole {
                return Some(length);
            }
        }
    }

    /// Gives the core up until the function has interrupted, something has happened in the market, which is returned, or
    /// the TSC has reached `deadline` (0: never). Look for frames, and after the function, before the next call.
    ///
    /// # Errors
    /// When the market is gone.
    pub fn wait(&mut self, app: &mut App, deadline: u64) -> Result<Option<market::Event>, Error> {
        self.function.wait(app, deadline)
    }

    /// Brings the function up anew, as after [`crate::market::Event::NicReset`]. Frames under way are lost.
    ///
    /// # Errors
    /// As [`App::nic`].
    pub fn reset(&mut self, app: &mut App) -> Result<(), Error> {
        self.function.reset(app)?;
        self.queues = Queues::new(&self.function)?;
        Ok(())
    }

    /// Looks what the physical function has to say; if it was reset, brings this function up anew. True then.
    ///
    /// # Errors
    /// As [`App::nic`].
    pub fn look_after(&mut self, app: &mut App) -> Result<bool, Error> {
        let was_reset = self.function.look_after(app)?;
        if was_reset {
            self.queues = Queues::new(&self.function)?;
        }
        Ok(was_reset)
    }
}
