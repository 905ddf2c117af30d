//! The 82576: its physical function with the driver, and virtual functions with rings, memory and an interrupt each, all in
//! the root VM.

use crate::function;
use crate::root::Root;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use device::{Clock, Registers};
use igb::{Link, Nic, Settings};
use igbvf::MacAddress;
use net::Port;
use net::port::BUFFER_BYTES;
use userlib::arch::{TrapFrame, enable_interrupts, end_of_interrupt, set_handler};
use userlib::cap::{Cap, Fault, IommuDomain, PciFunction, Slot, own};
use userlib::dma::{MappedBuffer, MappedMemory, MappedRegisters, TscClock};

/// Descriptors of each ring.
pub const DESCRIPTORS: usize = 256;
/// Virtual functions at most.
pub const MOST_FUNCTIONS: u16 = 8;
/// Where the first function's memory is, for it and for the VM: one page of 2 MiB. Those of the others are a GiB apart.
const MEMORY: u64 = 0x1_0000_0000;
const MEMORY_STRIDE: u64 = 1 << 30;
/// Pages of it that are rings: one for receiving, two for transmitting.
const TRANSMIT_PAGE: usize = 1;
const BUFFER_PAGE: usize = 3;
/// The vector of the first function; those of the others follow.
pub const FIRST_VECTOR: u8 = 0x50;

/// Interrupts of each function so far, and whether one came since somebody looked.
static INTERRUPTS: [AtomicU64; MOST_FUNCTIONS as usize] = [const { AtomicU64::new(0) }; MOST_FUNCTIONS as usize];
static INTERRUPTED: [AtomicBool; MOST_FUNCTIONS as usize] = [const { AtomicBool::new(false) }; MOST_FUNCTIONS as usize];

fn interrupted(frame: &mut TrapFrame) {
    let function = (frame.vector as usize).wrapping_sub(usize::from(FIRST_VECTOR));
    if let (Some(count), Some(came)) = (INTERRUPTS.get(function), INTERRUPTED.get(function)) {
        count.fetch_add(1, Ordering::Relaxed);
        came.store(true, Ordering::Relaxed);
    }
    end_of_interrupt();
}

/// The address of a function.
pub const fn mac(number: u16) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0x76, 1 + number as u8])
}

/// Interrupts of a function so far.
pub fn interrupts(number: u16) -> u64 {
    INTERRUPTS[usize::from(number)].load(Ordering::Relaxed)
}

/// True if one came since the last [`take_interrupt`].
pub fn is_interrupted(number: u16) -> bool {
    INTERRUPTED[usize::from(number)].load(Ordering::Relaxed)
}

/// As [`is_interrupted`], and forgets it.
pub fn take_interrupt(number: u16) -> bool {
    INTERRUPTED[usize::from(number)].swap(false, Ordering::Relaxed)
}

/// The first 82576 that the kernel hands out.
pub fn find() -> Option<Cap<PciFunction>> {
    function::find(0x8086, 0x10c9)
}

/// The physical function.
pub struct Card {
    /// The clock of all drivers.
    pub clock: TscClock,
    tsc_hz: u64,
    nic: Nic<MappedRegisters>,
    first: Slot,
}

/// The rings and buffers of a function with these registers.
pub type CardPort<R> = Port<R, MappedMemory, MappedBuffer, DESCRIPTORS>;

/// A virtual function that is ready.
pub struct Vf<R> {
    /// Its rings and buffers.
    pub port: CardPort<R>,
    /// Its registers.
    pub registers: R,
    /// Its address.
    pub mac: MacAddress,
}

impl Card {
    /// Brings the physical function up as far as its link, and as many virtual functions (at most [`MOST_FUNCTIONS`]).
    pub fn new(root: &mut Root, physical: Cap<PciFunction>, functions: u16) -> Result<Card, Fault> {
        let clock = TscClock::new(root.tsc_hz, 1_000);
        let registers = function::map_registers(root, physical)?;
        let settings: [_; MOST_FUNCTIONS as usize] =
            core::array::from_fn(|number| Settings::with_mac(mac(number as u16)));
        let nic = Nic::new(registers, &settings[..usize::from(functions)], clock.now_ns());
        // It reaches no memory, but must be a bus master: else the emulator lets nothing in from outside, for VFs neither.
        physical.attach(root.make::<IommuDomain>(0)?)?;
        let first = root.slots(functions);
        let mut card = Card { clock, tsc_hz: root.tsc_hz, nic, first };
        while card.nic.link() != Link::Up {
            card.go_on();
            card.clock.pause();
        }
        physical.enable_vfs(functions, first)?;
        Ok(card)
    }

    /// Does what is due for the physical function.
    pub fn go_on(&mut self) {
        let now_ns = self.clock.now_ns();
        if self.nic.due_ns() <= now_ns {
            let _ = self.nic.poll(now_ns);
        }
    }

    /// Answers what functions ask the physical one, whether something is due or not.
    pub fn answer(&mut self) {
        /// Each function may have been reset, and have asked something.
        const MOST_EVENTS: usize = 2 * MOST_FUNCTIONS as usize + 1;
        let now_ns = self.clock.now_ns();
        let _ = (0..MOST_EVENTS).find(|_| self.nic.poll(now_ns).is_none());
    }

    /// When something is due for the physical function.
    pub fn due_ns(&self) -> u64 {
        self.nic.due_ns()
    }

    /// The time-stamp counter at a time of the clock; saturates.
    pub fn tsc_at(&self, time_ns: u64) -> u64 {
        let ticks = u128::from(time_ns) * u128::from(self.tsc_hz) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// The capability to a virtual function.
    pub fn capability(&self, number: u16) -> Cap<PciFunction> {
        self.first.after(number).cap()
    }

    /// Sets the virtual function of this number up, for which `function` speaks, with an interrupt for frames that come. Its
    /// drivers see its registers as `seen` makes them.
    pub fn function<R: Registers + Clone>(
        &mut self,
        root: &mut Root,
        number: u16,
        function: Cap<PciFunction>,
        seen: impl FnOnce(MappedRegisters) -> R,
    ) -> Result<Vf<R>, Fault> {
        function::until_ready(function, &self.clock)?;
        let domain = root.make::<IommuDomain>(0)?;
        let memory = function::shared_memory(root, domain, MEMORY + u64::from(number) * MEMORY_STRIDE)?;
        let irq = function::message_route(root, number)?;
        let vector = FIRST_VECTOR + number as u8;
        set_handler(vector, Some(interrupted));
        irq.bind(own::VCPU, vector)?;
        enable_interrupts();
        let registers = seen(function::map_registers(root, function)?);
        function.bind_msix(0, irq)?;
        function.attach(domain)?;
        let mut driver = igbvf::Function::new(registers.clone(), self.clock.now_ns());
        // Question and answer are the VM's own: they come as fast as it looks.
        let mac = loop {
            let _ = self.nic.poll(self.clock.now_ns());
            if let Err(error) = driver.poll(self.clock.now_ns()) {
                panic!("the function's mailbox: {error:?}");
            }
            if let Some(mac) = driver.mac() {
                break mac;
            }
        };
        driver.route_interrupts(0, 1, 2);
        // SAFETY: what is behind the rings is used by these buffers only.
        let mut buffers = unsafe { memory.from_page(BUFFER_PAGE).into_buffers(BUFFER_BYTES.into()) };
        let receiving: alloc::vec::Vec<MappedBuffer> = buffers.by_ref().take(DESCRIPTORS - 1).collect();
        let port = Port::new(registers.clone(), memory, memory.from_page(TRANSMIT_PAGE), receiving, buffers)
            .unwrap_or_else(|error| panic!("the function's queues: {error:?}"));
        Ok(Vf { port, registers, mac })
    }
}
