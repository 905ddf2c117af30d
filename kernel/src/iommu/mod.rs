//! IOMMUs: which memory a device reaches by DMA, and which interrupts it can raise.
//!
//! Guarantees, towards hardware that does what its manual says: a function that is not attached reaches no memory; an
//! attached one reaches what its domain's tables map; a message raises what the entry says that it names, and only if it
//! comes from the source of that entry. An operation returns [`Completed`] only when every unit has carried it out, DMA and
//! interrupts in flight included. If a unit fails, what the operation was for stays in quarantine, functions (`assignment`)
//! and memory (`quarantine`): nobody knows whether the unit still uses what it has cached.
//!
//! The names here fit any vendor's units; [`vtd`] is the back end that there is, and whoever does not turn units on knows it
//! only as [`Iommu`], [`FORMAT`], [`message`] and [`redirection`]. Only this module writes the tables by which units find
//! domains, and those of interrupt remapping; the tables of a domain are the capability core's, in the format [`FORMAT`].

#[cfg(any(test, feature = "host"))]
pub mod fake;
pub mod vtd;

use crate::kernel::MAX_ROUTES;
use crate::nested::EntryFormat;
use crate::types::{CoreId, Hpa, Ticks};
use crate::vm::MAX_CORES;
pub use cap_spec::abi::{FaultRecord, Stopped};
pub use vtd::{message, redirection};

/// All units of the machine.
pub type Iommu<B> = vtd::Vtd<B>;

/// How the entries of the tables of a domain are written.
pub const FORMAT: EntryFormat = EntryFormat::Vtd;

/// Entries of the interrupt remapping table.
pub const INTERRUPTS: u16 = 1024;
/// The first entry that is for messages of functions; those before are for the pins of the IOAPIC.
pub const FIRST_MESSAGE: u16 = MAX_CORES as u16 + MAX_ROUTES as u16;

/// The entry by which the IOAPIC raises an NMI of a core.
pub const fn nmi_entry(core: CoreId) -> u16 {
    core.get() as u16 % MAX_CORES as u16
}

/// The entry by which a pin (below [`MAX_ROUTES`]) of the IOAPIC raises the vector that it is bound to.
pub const fn pin_entry(pin: u8) -> u16 {
    MAX_CORES as u16 + pin as u16 % MAX_ROUTES as u16
}

/// The requester id of a PCI function: bus, device, function in 8, 5 and 3 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requester(u16);

impl Requester {
    /// The function with this id.
    pub const fn new(id: u16) -> Requester {
        Requester(id)
    }

    /// Its id.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The number of a domain by which units tag what they cache: 1 to [`Limits::domains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainNumber(u16);

impl DomainNumber {
    /// The domain with this number.
    pub const fn new(number: u16) -> DomainNumber {
        DomainNumber(number)
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What all units of the machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The highest number that a domain may have.
    pub domains: u16,
    /// Domains may have trees of three levels: 39 bits of I/O address.
    pub three_levels: bool,
    /// Domains may have trees of four levels: 48 bits of I/O address.
    pub four_levels: bool,
    /// The highest level at which an entry may map memory: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub leaf_level: u8,
    /// Units remember that nothing was mapped: what is newly mapped must be flushed, too.
    pub remembers_absence: bool,
}

/// What a message raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// An interrupt with this vector, 32 to 255.
    Vector(u8),
    /// An NMI.
    Nmi,
    /// Nothing, and no fault is recorded: for a time.
    Nothing,
}

/// What an entry of the interrupt remapping table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// x2APIC id of the core.
    pub apic_id: u32,
    /// What it gets.
    pub signal: Signal,
    /// The only source whose messages count.
    pub source: Requester,
}

/// A device's interrupt message: what is written where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// I/O address that is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// Every unit has carried out what it was told.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Completed(());

/// Why an operation is not known to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A unit did not complete in time. It is dead from now on.
    TimedOut,
    /// A unit refused what it was told, or could not reach its queue. It is dead from now on.
    QueueFault,
    /// A unit failed before.
    Dead,
    /// Function, domain, levels or entry are none that the units know. Nothing has changed.
    OutOfRange,
}

/// What the units' registers and tables are reached through.
pub trait Bus {
    /// Reads a 32-bit register at an offset of a unit's registers. An offset is below [`vtd::REGISTER_BYTES`].
    fn register32(&self, unit: usize, offset: u32) -> u32;
    /// Reads a 64-bit register.
    fn register64(&self, unit: usize, offset: u32) -> u64;
    /// Writes a 32-bit register.
    fn set_register32(&mut self, unit: usize, offset: u32, value: u32);
    /// Writes a 64-bit register.
    fn set_register64(&mut self, unit: usize, offset: u32, value: u64);
    /// Reads the aligned word at an address of the tables that the module was given.
    fn word(&self, at: Hpa) -> u64;
    /// Writes it, as one store; later ones are not seen before it.
    fn set_word(&mut self, at: Hpa, value: u64);
    /// Makes a unit that does not look into the processors' caches see the line at an address.
    fn write_back(&mut self, at: Hpa);
    /// The time-stamp counter.
    fn now(&self) -> Ticks;
}
