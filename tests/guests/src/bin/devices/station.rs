//! A physical function with its driver, and virtual functions with theirs, each with a domain of its own: all in the root VM.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};
use device::{Clock, IoAddress, Registers};
use guests::function::{self, BOTH};
use guests::root::Root;
use igb::{Link, Nic, Settings};
use igbvf::{Buffer, MacAddress, ReceiveQueue, Segment, TransmitQueue};
use userlib::arch::{TrapFrame, end_of_interrupt, set_handler};
use userlib::cap::{Cap, Fault, Frame, IommuDomain, Irq, PageTable, PciFunction, Slot, own};
use userlib::dma::{MappedMemory, MappedRegisters, TscClock};

/// Virtual functions that are used.
pub const STATIONS: u16 = 2;
/// Pages of memory that a function reaches: two of rings, the others of frames.
pub const PAGES: u64 = 8;
/// Where the memory of each function begins in its domain: below the same page table, and where the other one has
/// nothing.
pub const IO_BASES: [u64; STATIONS as usize] = [0x60_0000, 0x68_0000];
/// Bytes of a buffer that frames are received into.
pub const BUFFER_BYTES: u16 = 2048;
/// Page from which frames are sent.
pub const SEND_PAGE: u64 = PAGES - 1;
/// The vector of the first station; those of the others follow.
pub const FIRST_VECTOR: u8 = 0x50;

/// How often each station was interrupted.
static INTERRUPTS: [AtomicU64; STATIONS as usize] = [const { AtomicU64::new(0) }; STATIONS as usize];

fn interrupted(frame: &mut TrapFrame) {
    if let Some(count) = INTERRUPTS.get((frame.vector as usize).wrapping_sub(usize::from(FIRST_VECTOR))) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    end_of_interrupt();
}

/// A buffer, by its address in the domain.
#[derive(Clone, Copy, Debug)]
pub struct Place(pub IoAddress);

impl Buffer for Place {
    fn io_address(&self) -> IoAddress {
        self.0
    }
}

/// A queue that frames come in by.
pub type Receive = ReceiveQueue<MappedRegisters, MappedMemory, Place, 8>;

/// A new receive queue in the first page of this memory, with these buffers.
fn receive_into(registers: MappedRegisters, memory: MappedMemory, buffers: impl Iterator<Item = u64>) -> Receive {
    let mut receive = ReceiveQueue::new(registers, memory, 0, BUFFER_BYTES).unwrap_or_else(|error| panic!("{error:?}"));
    for buffer in buffers {
        let _ = receive.supply(Place(IoAddress(buffer)));
    }
    receive.show();
    receive
}

/// The buffers of a station whose memory begins here.
fn own_buffers(io_base: u64) -> impl Iterator<Item = u64> {
    (0..7).map(move |buffer| io_base + 2 * 4096 + buffer * u64::from(BUFFER_BYTES))
}

/// Everything.
pub struct Bench<'a> {
    /// The root VM.
    pub root: &'a mut Root,
    /// The clock of all drivers.
    pub clock: TscClock,
    /// The physical function.
    pub physical: Cap<PciFunction>,
    /// Its driver.
    pub nic: Nic<MappedRegisters>,
    /// Those who use them.
    pub stations: [Station; STATIONS as usize],
}

/// A virtual function in use.
pub struct Station {
    /// Its function.
    pub function: Cap<PciFunction>,
    /// Its domain.
    pub domain: Cap<IommuDomain>,
    /// Where its memory begins there.
    pub io_base: u64,
    /// The frames of its memory, for the VM, and behind them for the device.
    pub frames: Slot,
    /// The memory.
    pub memory: MappedMemory,
    /// The route of its interrupt.
    pub irq: Cap<Irq>,
    /// Its registers.
    pub registers: MappedRegisters,
    /// The driver.
    pub driver: igbvf::Function<MappedRegisters>,
    /// Frames that come in.
    pub receive: Receive,
    /// Frames that go out.
    pub transmit: TransmitQueue<MappedRegisters, MappedMemory, (), 8>,
}

/// The address of a station.
pub const fn mac(number: u16) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0x76, number as u8])
}

impl<'a> Bench<'a> {
    /// Brings the physical function up as far as its link, and its virtual functions.
    pub fn new(root: &'a mut Root, physical: Cap<PciFunction>) -> Result<Bench<'a>, Fault> {
        let clock = TscClock::new(root.tsc_hz, 1_000);
        let registers = function::map_registers(root, physical)?;
        let mut settings = [Settings::with_mac(mac(0)); STATIONS as usize];
        for (number, settings) in (0..).zip(&mut settings) {
            settings.mac = mac(number);
        }
        let mut nic = Nic::new(registers, &settings, clock.now_ns());
        while nic.link() != Link::Up {
            let _ = nic.poll(clock.now_ns());
            clock.pause();
        }
        let first_vf = root.slots(STATIONS);
        physical.enable_vfs(STATIONS, first_vf)?;
        let [one, two] =
            [0, 1].map(|number| Station::new(root, &mut nic, &clock, number, first_vf.after(number).cap()));
        Ok(Bench { root, clock, physical, nic, stations: [one?, two?] })
    }

    /// Sends a frame from one station to another, and waits until its interrupt has come, or a millisecond has passed. True
    /// if it came.
    pub fn send(&mut self, from: usize, bytes: &[u8]) -> bool {
        let to = from ^ 1;
        let before = self.interrupts(to);
        self.stations[from].send(&frame(to as u16, from as u16, bytes));
        let end = self.clock.now_ns() + 1_000_000;
        while self.interrupts(to) == before && self.clock.now_ns() < end {
            core::hint::spin_loop();
        }
        self.interrupts(to) != before
    }

    /// How often a station was interrupted.
    pub fn interrupts(&self, station: usize) -> u64 {
        INTERRUPTS[station].load(Ordering::Relaxed)
    }
}

/// A frame from one station to another.
pub fn frame(to: u16, from: u16, payload: &[u8]) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..6].copy_from_slice(&mac(to).0);
    frame[6..12].copy_from_slice(&mac(from).0);
    // For experiments (IEEE 802).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..14 + payload.len()].copy_from_slice(payload);
    frame
}

impl Station {
    /// A function with memory, rings and an interrupt.
    pub fn new(
        root: &mut Root,
        nic: &mut Nic<MappedRegisters>,
        clock: &TscClock,
        number: u16,
        function: Cap<PciFunction>,
    ) -> Result<Station, Fault> {
        function::until_ready(function, clock)?;
        let (domain, io_base) = (root.make::<IommuDomain>(0)?, IO_BASES[usize::from(number)]);
        for level in [2, 1] {
            root.make::<PageTable>(0)?.map_io(domain, io_base, level)?;
        }
        // The frames of the VM, and their copies for the device behind them.
        let frames = root.slots(2 * PAGES as u16);
        for page in 0..PAGES as u16 {
            let made = root.make::<Frame>(12)?;
            frames.after(page).move_from(made)?;
            frames.after(PAGES as u16 + page).copy(frames.after(page).cap::<Frame>(), BOTH)?;
        }
        let window = root.window(PAGES);
        frames.cap::<Frame>().map_row(own::VM, window, BOTH, PAGES - 1)?;
        frames.after(PAGES as u16).cap::<Frame>().map_io(domain, io_base, BOTH, PAGES - 1)?;
        // SAFETY: the frames have just been mapped there, and nothing else uses them.
        let memory = unsafe { MappedMemory::new(window, IoAddress(io_base), PAGES as usize * 4096) };

        let irq = function::message_route(root, number)?;
        let vector = FIRST_VECTOR + number as u8;
        set_handler(vector, Some(interrupted));
        irq.bind(own::VCPU, vector)?;
        userlib::arch::enable_interrupts();

        let registers = function::map_registers(root, function)?;
        function.bind_msix(0, irq)?;
        function.attach(domain)?;
        let mut driver = igbvf::Function::new(registers, clock.now_ns());
        while driver.mac().is_none() {
            let _ = nic.poll(clock.now_ns());
            if let Err(error) = driver.poll(clock.now_ns()) {
                panic!("the mailbox of function {number}: {error:?}");
            }
            clock.pause();
        }
        driver.route_interrupts(0, 1, 2);
        let receive = receive_into(registers, memory, own_buffers(io_base));
        let transmit =
            TransmitQueue::new(registers, memory.from_page(1), 0).unwrap_or_else(|error| panic!("{error:?}"));
        igbvf::moderation::Moderation::new(registers, 0, igbvf::moderation::Mode::Interrupt);
        Ok(Station { function, domain, io_base, frames, memory, irq, registers, driver, receive, transmit })
    }

    /// Sends bytes as they are, from the page for this.
    pub fn send(&mut self, bytes: &[u8]) {
        self.memory.put(SEND_PAGE as usize * 4096, bytes);
        self.send_from(IoAddress(self.io_base + SEND_PAGE * 4096), bytes.len() as u16);
    }

    /// Sends what stands at an address of the domain.
    pub fn send_from(&mut self, address: IoAddress, bytes: u16) {
        while self.transmit.completed().is_some() {}
        let sent = self.transmit.send(&[Segment { address, bytes }], &igbvf::offload::Offload::NONE, ());
        assert!(sent.is_ok(), "the ring is full");
        self.transmit.flush();
    }

    /// From now on frames are received into one buffer, at any address.
    pub fn receive_at(&mut self, address: u64) {
        self.receive = receive_into(self.registers, self.memory, core::iter::once(address));
    }

    /// From now on frames are received into its own buffers again, all of them.
    pub fn receive_anew(&mut self) {
        self.receive = receive_into(self.registers, self.memory, own_buffers(self.io_base));
    }

    /// The next frame that came in; its buffer goes back.
    pub fn take(&mut self) -> Option<[u8; 64]> {
        let received = self.receive.receive()?;
        let mut bytes = [0; 64];
        self.memory.get((received.buffer.0.0 - self.io_base) as usize, &mut bytes);
        let _ = self.receive.supply(received.buffer);
        self.receive.show();
        Some(bytes)
    }

    /// What the function says of itself, for messages.
    pub fn tell(&self) -> String {
        format!("link {}, status {:#x}", self.driver.link_is_up(), self.registers.read32(8))
    }
}
