//! A virtual function of the network device, ready to send and receive: [`App::nic`].
//!
//! The application drives the function itself, by [`igbvf`]: this module only puts together what the driver needs. The
//! function's DMA reaches [`MEMORY_PAGES`] pages of the base and nothing else, its interrupts come as vectors of the own
//! IDT, and sending and receiving takes no exit. Frames are copied between the caller's memory and those pages.
//!
//! The function may be reset under the application's hands, as when the network server is started again. The market tells of
//! that by an event, after which [`Nic::reset`] brings it up anew; frames under way are lost, as on any network.

use alloc::format;
use core::sync::atomic::{AtomicBool, Ordering};

use device::{Clock as _, IoAddress};
use igbvf::function::VECTORS;
use igbvf::moderation::{Mode, Moderation};
use igbvf::offload::Offload;
use igbvf::{Buffer, Event, Function, MacAddress, ReceiveQueue, Segment, TransmitQueue};
use proto::nic::BASE_PAGES;
use proto::start::{NIC_IRQ_SLOT, NIC_SLOT};

use crate::app::App;
use crate::arch::{self, TrapFrame};
use crate::cap::{Cap, Frame, IommuDomain, Irq, PageTable, PciFunction, Rights, Slot, own};
use crate::dma::{MappedMemory, MappedRegisters, TscClock};
use crate::error::Error;
use crate::{clock, events, market};

/// Descriptors of a ring; one less is in use.
const RING: usize = 16;
/// Bytes of a buffer: more than the longest frame of ordinary Ethernet, and whole kilobytes, as the device wants.
pub const BUFFER_BYTES: usize = 2048;
const BUFFERS_PER_PAGE: usize = 4096 / BUFFER_BYTES;
/// Pages that the function reaches: a ring each way, then the buffers of each ring.
pub const MEMORY_PAGES: u16 = 2 + (2 * RING / BUFFERS_PER_PAGE) as u16;
/// Buffers for frames that go out follow those for frames that come in; the first of them.
const FIRST_SEND_BUFFER: u8 = RING as u8;
/// Byte of the memory at which the buffers begin.
const BUFFERS_AT: usize = 2 * 4096;
/// Where the memory begins in the function's domain.
const IO_BASE: u64 = 0x10_0000;
/// Vector of the function's messages.
const VECTOR: u8 = 0x50;
/// Which of the function's messages tells what.
const RECEIVED: u8 = 0;
const SENT: u8 = 1;
const MAILBOX: u8 = 2;
/// Pages of the base for the domain of 16 KiB with alignment, and for tables and CNodes.
const OTHER_PAGES: u32 = 14;
const _: () = assert!(MEMORY_PAGES as u32 + OTHER_PAGES <= BASE_PAGES);
/// Microseconds between two looks at a function that is not ready yet.
const LOOK_US: u64 = 1_000;
/// Seconds for which the network server may take to be there and to let the function through.
const PATIENCE_S: u64 = 10;
const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// The function has interrupted since this was looked at.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted(_: &mut TrapFrame) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    arch::end_of_interrupt();
}

/// A buffer, by its number.
#[derive(Clone, Copy, Debug)]
struct Numbered(u8);

impl Numbered {
    /// Its first byte in the function's memory.
    const fn offset(self) -> usize {
        BUFFERS_AT + self.0 as usize * BUFFER_BYTES
    }
}

impl Buffer for Numbered {
    fn io_address(&self) -> IoAddress {
        IoAddress(IO_BASE + self.offset() as u64)
    }
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// All buffers are under way.
    Full,
    /// It is empty, or longer than [`BUFFER_BYTES`].
    Length,
}

type Receive = ReceiveQueue<MappedRegisters, MappedMemory, Numbered, RING>;
type Transmit = TransmitQueue<MappedRegisters, MappedMemory, Numbered, RING>;

/// A virtual function in use.
#[derive(Debug)]
pub struct Nic {
    registers: MappedRegisters,
    memory: MappedMemory,
    clock: TscClock,
    function: Function<MappedRegisters>,
    receive: Receive,
    transmit: Transmit,
    /// Buffers for frames that go out, as bits.
    free: u16,
    mac: MacAddress,
}

impl App {
    /// Brings up the virtual function that the market has given to this application: `nic = true` in its scenario. It waits
    /// until the network server has let the function through, but not for the link. To be called once.
    ///
    /// # Errors
    /// When there is none, the base has too few pages ([`BASE_PAGES`]), or the network server does not answer.
    pub fn nic(&mut self) -> Result<Nic, Error> {
        if self.start().nic_mac.is_none() {
            return Err(Error::failed("this application has no virtual function: `nic = true` in its scenario"));
        }
        let hz = self.clock().hz();
        let function: Cap<PciFunction> = Slot::root(NIC_SLOT).cap();
        let (registers, memory, domain) = self.map_nic(function)?;
        arch::set_handler(VECTOR, Some(interrupted));
        for message in 0..u16::from(VECTORS) {
            let irq: Cap<Irq> = Slot::root(NIC_IRQ_SLOT + message).cap();
            irq.bind(own::VCPU, VECTOR)?;
            function.bind_msix(message, irq)?;
        }
        function.attach(domain)?;
        Nic::bring_up(registers, memory, TscClock::new(hz, LOOK_US))
    }

    /// Maps the function's registers, and memory for the VM and, in a domain, for the function.
    fn map_nic(
        &mut self,
        function: Cap<PciFunction>,
    ) -> Result<(MappedRegisters, MappedMemory, Cap<IommuDomain>), Error> {
        let mut market = self.market();
        let pager = market.pager();
        let pages = function.bar_pages(0)? as u16;
        let bar = pager.take_slots(pages)?;
        function.bar(0, 0, bar, pages.into())?;
        let registers = pager.map_frames(bar, pages)?;
        let domain = pager.make::<IommuDomain>()?;
        for level in [2, 1] {
            pager.make::<PageTable>()?.map_io(domain, IO_BASE, level)?;
        }
        let frames = pager.take_slots(MEMORY_PAGES)?;
        own::BASE.retype_many::<Frame>(cap_spec::abi::PAGE_BITS, frames, MEMORY_PAGES)?;
        let memory = pager.map_frames(frames, MEMORY_PAGES)?;
        // A capability is mapped in one place: the function has copies.
        let copies = pager.take_slots(MEMORY_PAGES)?;
        for page in 0..MEMORY_PAGES {
            copies.after(page).copy(frames.after(page).cap::<Frame>(), BOTH)?;
        }
        copies.cap::<Frame>().map_io(domain, IO_BASE, BOTH, u64::from(MEMORY_PAGES) - 1)?;
        // SAFETY: both have just been mapped, for this alone, and stay as long as the VM, which has one function.
        Ok(unsafe {
            let registers = MappedRegisters::new(registers, u32::from(pages) * 4096);
            (registers, MappedMemory::new(memory, IoAddress(IO_BASE), usize::from(MEMORY_PAGES) * 4096), domain)
        })
    }
}

impl Nic {
    /// Resets the function, waits for its address, and sets up its queues.
    fn bring_up(registers: MappedRegisters, memory: MappedMemory, clock: TscClock) -> Result<Nic, Error> {
        let mut function = Function::new(registers, clock.now_ns());
        let mac = handshake(&mut function, &clock)?;
        function.route_interrupts(RECEIVED, SENT, MAILBOX);
        let stuck = |error| Error::failed(format!("a queue of the virtual function: {error:?}"));
        let mut receive: Receive = ReceiveQueue::new(registers, memory, 0, BUFFER_BYTES as u16).map_err(stuck)?;
        let transmit = TransmitQueue::new(registers, memory.from_page(1), 0).map_err(stuck)?;
        for buffer in 0..FIRST_SEND_BUFFER {
            // The ring takes one less than it has descriptors.
            let _ = receive.supply(Numbered(buffer));
        }
        receive.show();
        for vector in [RECEIVED, MAILBOX] {
            Moderation::new(registers, vector, Mode::Interrupt);
        }
        Ok(Nic { registers, memory, clock, function, receive, transmit, free: u16::MAX, mac })
    }

    /// Its Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac.0
    }

    /// True while the cable has a link. What is sent without one is lost.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.function.link_is_up()
    }

    /// Frames that the device said something impossible about, in either direction.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.receive.faults().wrapping_add(self.transmit.faults())
    }

    /// Sends a frame, from its destination address to the end of its payload. When all buffers are under way, the network
    /// server may have closed the transmission, as more was sent than was bought: try again.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        while let Some(Numbered(buffer)) = self.transmit.completed() {
            self.free |= 1 << (buffer - FIRST_SEND_BUFFER);
        }
        let number = self.free.trailing_zeros() as u8;
        let bytes = u16::try_from(frame.len()).map_err(|_| SendError::Length)?;
        if bytes == 0 || frame.len() > BUFFER_BYTES {
            return Err(SendError::Length);
        }
        if self.transmit.pending() as usize >= RING - 1 {
            self.transmit.nudge();
            return Err(SendError::Full);
        }
        let buffer = Numbered(FIRST_SEND_BUFFER + number);
        self.memory.put(buffer.offset(), frame);
        let segment = Segment { address: buffer.io_address(), bytes };
        self.transmit.send(&[segment], &Offload::NONE, buffer).map_err(|_| SendError::Full)?;
        self.free &= !(1 << number);
        self.transmit.flush();
        Ok(())
    }

    /// Takes the next frame that has come in, and returns its length; what does not fit into `frame` is cut off. Damaged
    /// frames are left out.
    pub fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        loop {
            let received = self.receive.receive()?;
            let length = usize::from(received.length).min(frame.len());
            let whole = received.ends_frame() && !received.is_damaged();
            if whole && let Some(frame) = frame.get_mut(..length) {
                self.memory.get(received.buffer.offset(), frame);
            }
            // There is room: it has just come from there.
            let _ = self.receive.supply(received.buffer);
            self.receive.show();
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
        let event = app.market().wait_unless(deadline, || INTERRUPTED.load(Ordering::Relaxed))?;
        app.note(&event);
        if !arch::interrupts_enabled() {
            // Takes what ended the sleep; the instruction after the enabling one is still without.
            arch::enable_interrupts();
            core::hint::spin_loop();
            arch::disable_interrupts();
        }
        INTERRUPTED.store(false, Ordering::Relaxed);
        Ok(event)
    }

    /// Brings the function up anew, as after [`crate::market::Event::NicReset`]. Frames under way are lost.
    ///
    /// # Errors
    /// As [`App::nic`].
    pub fn reset(&mut self) -> Result<(), Error> {
        *self = Nic::bring_up(self.registers, self.memory, self.clock)?;
        Ok(())
    }

    /// Looks what the physical function has to say; if it was reset, brings this function up anew. True then.
    ///
    /// # Errors
    /// As [`App::nic`].
    pub fn look_after(&mut self) -> Result<bool, Error> {
        match self.function.poll(self.clock.now_ns()) {
            Ok(Some(Event::Lost)) => self.reset().map(|()| true),
            Ok(_) => Ok(false),
            Err(error) => Err(Error::failed(format!("the virtual function: {error:?}"))),
        }
    }
}

/// Waits for the function's address. The network server may not be there yet, or not know of this holder yet.
fn handshake(function: &mut Function<MappedRegisters>, time: &TscClock) -> Result<MacAddress, Error> {
    let deadline = clock::now().saturating_add(PATIENCE_S.saturating_mul(events::tsc_hz()));
    loop {
        match function.poll(time.now_ns()) {
            Ok(Some(Event::Ready(mac))) => return Ok(mac),
            Ok(_) => time.pause(),
            Err(error) if clock::now() >= deadline => {
                return Err(Error::failed(format!("the network server does not let the function through: {error:?}")));
            }
            Err(_) => {
                time.pause();
                function.reset(time.now_ns());
            }
        }
    }
}
