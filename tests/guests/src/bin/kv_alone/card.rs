//! The 82576: its physical function with the driver, and one virtual function with rings, memory and an interrupt.

use cap_spec::abi::{Error, ROOT_BOOT_INFO, boot_info, slots};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use device::{Clock, IoAddress};
use guests::root::{Root, word};
use igb::{Link, Nic, Settings};
use igbvf::MacAddress;
use net::Port;
use net::port::BUFFER_BYTES;
use userlib::arch::{TrapFrame, enable_interrupts, end_of_interrupt, set_handler};
use userlib::cap::{Cap, Fault, Frame, IommuDomain, Irq, PageTable, PciFunction, Rights, Slot, own};
use userlib::dma::{MappedBuffer, MappedMemory, MappedRegisters, TscClock};

/// Descriptors of each ring.
const DESCRIPTORS: usize = 256;
/// Where the function's memory is, for it and for the VM: one page of 2 MiB.
const MEMORY: u64 = 0x1_0000_0000;
const MEMORY_BITS: u8 = 21;
/// Pages of it that are rings: one for receiving, two for transmitting.
const TRANSMIT_PAGE: usize = 1;
const BUFFER_PAGE: usize = 3;
const VECTOR: u8 = 0x50;
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0x76, 1]);
const BOTH: Rights = Rights::READ.union(Rights::WRITE);

static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted(_: &mut TrapFrame) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    INTERRUPTED.store(true, Ordering::Relaxed);
    end_of_interrupt();
}

/// Interrupts of the function so far.
pub fn interrupts() -> u64 {
    INTERRUPTS.load(Ordering::Relaxed)
}

/// True if one came since the last [`take_interrupt`].
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// As [`is_interrupted`], and forgets it.
pub fn take_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::Relaxed)
}

/// The first 82576 that the kernel hands out.
pub fn find() -> Option<Cap<PciFunction>> {
    let info = |offset| word(ROOT_BOOT_INFO, offset) as u16;
    let first = info(boot_info::FIRST_FUNCTION);
    let mut functions = (first..first + info(boot_info::FUNCTIONS)).map(|index| Slot::root(index).cap::<PciFunction>());
    functions.find(|function| matches!(function.info(), Ok(info) if info.device == 0x10c9))
}

/// The physical function.
pub struct Card {
    /// The clock of all drivers.
    pub clock: TscClock,
    tsc_hz: u64,
    physical: Cap<PciFunction>,
    nic: Nic<MappedRegisters>,
}

/// A virtual function that is ready.
pub struct Vf {
    /// Its rings and buffers.
    pub port: Port<MappedRegisters, MappedMemory, MappedBuffer, DESCRIPTORS>,
    /// Its registers.
    pub registers: MappedRegisters,
    /// Its address.
    pub mac: MacAddress,
}

/// Maps the registers in BAR 0 of a function.
fn map_registers(root: &mut Root, function: Cap<PciFunction>) -> Result<MappedRegisters, Fault> {
    let pages = function.bar_pages(0)?;
    let (first, window) = (root.slots(pages as u16), root.window(pages));
    function.bar(0, 0, first, pages)?.map_row(own::VM, window, BOTH, pages - 1)?;
    // SAFETY: the registers have just been mapped there, and stay.
    Ok(unsafe { MappedRegisters::new(window, pages as u32 * 4096) })
}

/// Memory that the VM and the functions of a domain reach at the same address.
fn shared_memory(root: &mut Root, domain: Cap<IommuDomain>) -> Result<MappedMemory, Fault> {
    root.make::<PageTable>(0)?.map(own::VM, MEMORY, 2)?;
    root.make::<PageTable>(0)?.map_io(domain, MEMORY, 2)?;
    let frame = root.make::<Frame>(MEMORY_BITS)?;
    root.slot().copy(frame, BOTH)?.map_io(domain, MEMORY, BOTH, 0)?;
    frame.map(own::VM, MEMORY, BOTH)?;
    // SAFETY: the frame has just been mapped there, and nothing else uses it.
    Ok(unsafe { MappedMemory::new(MEMORY, IoAddress(MEMORY), 1 << MEMORY_BITS) })
}

impl Card {
    /// Brings the physical function up as far as its link.
    pub fn new(root: &mut Root, physical: Cap<PciFunction>) -> Result<Card, Fault> {
        let clock = TscClock::new(root.tsc_hz, 1_000);
        let registers = map_registers(root, physical)?;
        let nic = Nic::new(registers, &[Settings::with_mac(MAC)], clock.now_ns());
        // It reaches no memory, but must be a bus master: else the emulator lets nothing in from outside, for VFs neither.
        physical.attach(root.make::<IommuDomain>(0)?)?;
        let mut card = Card { clock, tsc_hz: root.tsc_hz, physical, nic };
        while card.nic.link() != Link::Up {
            card.go_on();
            card.clock.pause();
        }
        Ok(card)
    }

    /// Does what is due for the physical function.
    pub fn go_on(&mut self) {
        let now_ns = self.clock.now_ns();
        if self.nic.due_ns() <= now_ns {
            let _ = self.nic.poll(now_ns);
        }
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

    /// Sets a virtual function up, with an interrupt for frames that come.
    pub fn function(&mut self, root: &mut Root) -> Result<Vf, Fault> {
        let first = root.slots(1);
        self.physical.enable_vfs(1, first)?;
        let function: Cap<PciFunction> = first.cap();
        while let Err(fault) = function.info() {
            if fault.error != Error::Busy {
                return Err(fault);
            }
            self.clock.pause();
        }
        let domain = root.make::<IommuDomain>(0)?;
        let memory = shared_memory(root, domain)?;
        let irqs: Cap<Irq> = Slot::root(slots::IRQ).cap();
        let irq = irqs.split(word(ROOT_BOOT_INFO, boot_info::FIRST_MESSAGE_ROUTE), 1, root.slot())?;
        set_handler(VECTOR, Some(interrupted));
        irq.bind(own::VCPU, VECTOR)?;
        enable_interrupts();
        let registers = map_registers(root, function)?;
        function.bind_msix(0, irq)?;
        function.attach(domain)?;
        let mut driver = igbvf::Function::new(registers, self.clock.now_ns());
        let mac = loop {
            let _ = self.nic.poll(self.clock.now_ns());
            if let Err(error) = driver.poll(self.clock.now_ns()) {
                panic!("the function's mailbox: {error:?}");
            }
            match driver.mac() {
                Some(mac) => break mac,
                None => self.clock.pause(),
            }
        };
        driver.route_interrupts(0, 1, 2);
        // SAFETY: what is behind the rings is used by these buffers only.
        let mut buffers = unsafe { memory.from_page(BUFFER_PAGE).into_buffers(BUFFER_BYTES.into()) };
        let receiving: alloc::vec::Vec<MappedBuffer> = buffers.by_ref().take(DESCRIPTORS - 1).collect();
        let port = Port::new(registers, memory, memory.from_page(TRANSMIT_PAGE), receiving, buffers)
            .unwrap_or_else(|error| panic!("the function's queues: {error:?}"));
        Ok(Vf { port, registers, mac })
    }
}
