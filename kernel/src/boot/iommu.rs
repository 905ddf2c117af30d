//! Turning the VT-d units on, where the machine has what the kernel needs of them; else they stay off, and no PCI function
//! is handed out.
//!
//! The memory for this is one block, taken once: a root table, an empty page, the interrupt remapping table, a page of
//! status words, a queue for each unit, and a context table for each bus that has functions or lies behind a bridge, so at
//! most 256. Functions that appear later, as virtual functions do, are on such buses, too: a bridge leads to no others.

use super::physical::{MAPPED_END, Taken};
use super::quiet;
use crate::arch::core_area;
use crate::arch::remapping::Units;
use crate::storage::Remapping;
use core::fmt;
use core::sync::atomic::Ordering;
use kernel::firmware::acpi::Platform;
use kernel::firmware::dmar::Kind;
use kernel::firmware::memory_map::MemoryMap;
use kernel::iommu::vtd::{
    INTERRUPT_BYTES, QUEUE_BYTES, REGISTER_BYTES, STATUS_BYTES, StaysOff, TABLE_BYTES, Tables, Vtd,
};
use kernel::iommu::{Delivery, Failure, Requester, Signal, nmi_entry};
use kernel::types::{CoreId, Hpa, Ticks};

/// How long a unit may take for anything, in milliseconds: they need microseconds, but whoever runs this machine as a guest
/// may take its processors away.
const PATIENCE_MS: u64 = 100;
const PAGE: u64 = 4096;

/// Why the units stay off.
enum Reason {
    /// The tables name none, or none that the kernel knows how to drive.
    NoUnits,
    /// The DMAR table is garbled, or lacks something: this.
    Table(&'static str),
    /// There is no memory for the tables.
    Memory,
    /// A unit.
    Unit(StaysOff),
    /// An entry for the kernel's own interrupts could not be set.
    Entry(Failure),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoUnits => write!(f, "there is no VT-d unit"),
            Reason::Table(what) => write!(f, "the DMAR table {what}"),
            Reason::Memory => write!(f, "there is no memory for its tables"),
            Reason::Unit(unit) => write!(f, "{unit:?}"),
            Reason::Entry(failure) => write!(f, "its entries cannot be set: {failure:?}"),
        }
    }
}

/// Turns the units on, which are off: every function is blocked, and of interrupts those of the IOAPIC that raise an NMI of
/// a core pass. `buses`: those that get a context table.
pub fn turn_on(
    platform: &Platform,
    memory: &mut MemoryMap,
    buses: &[bool; 256],
    cores: usize,
    tsc_hz: u64,
) -> Option<Remapping> {
    match try_to(platform, memory, buses, cores, tsc_hz) {
        Ok(remapping) => {
            for unit in &platform.dmar.units {
                log::info!("IOMMU: VT-d at {:#x}, translation and interrupt remapping on", unit.base);
            }
            Some(remapping)
        }
        Err(reason) => {
            // Some may have come on.
            quiet::iommus_off(platform);
            log::info!("IOMMU: off, as {reason}: no PCI function can be handed out");
            None
        }
    }
}

fn try_to(
    platform: &Platform,
    memory: &mut MemoryMap,
    buses: &[bool; 256],
    cores: usize,
    tsc_hz: u64,
) -> Result<Remapping, Reason> {
    let dmar = &platform.dmar;
    let io_apic = usable_source(platform)?;
    let queues = dmar.units.len() as u64 * QUEUE_BYTES;
    let contexts = buses.iter().filter(|&&present| present).count() as u64 * TABLE_BYTES;
    let bytes = 2 * TABLE_BYTES + INTERRUPT_BYTES + STATUS_BYTES.next_multiple_of(PAGE) + queues + contexts;
    let taken = Taken::from(memory, bytes, PAGE, 0).ok_or(Reason::Memory)?;
    // SAFETY: it has just been taken, and nobody knows of it.
    unsafe { taken.fill(0..bytes, &[]) };
    let mut next = taken.base();
    let mut part = |bytes: u64| {
        let behind = next.plus(bytes.next_multiple_of(PAGE));
        core::mem::replace(&mut next, behind)
    };
    let tables = Tables {
        root: part(TABLE_BYTES),
        empty: part(TABLE_BYTES),
        interrupts: part(INTERRUPT_BYTES),
        status: part(STATUS_BYTES),
        queues: part(queues),
    };
    let present = (0..=255u8).zip(buses).filter(|&(_, &present)| present);
    let contexts = present.map(|(number, _)| -> (u8, Hpa) { (number, part(TABLE_BYTES)) });
    // SAFETY: `usable_source` has found the registers within reach, the DMAR names them as the units', which `Usable` leaves
    // out of memory; and the tables were taken for this.
    let units = unsafe { Units::new(dmar.units.iter().map(|unit| unit.base)) };
    let segments = dmar.units.iter().map(|unit| unit.segment);
    let apic_id = |core| core_area::core(core).apic_id.load(Ordering::Relaxed);
    let (patience, boot) = (Ticks::new(tsc_hz / 1000 * PATIENCE_MS), apic_id(CoreId::new(0)));
    let mut units = Vtd::turn_on(units, tables, segments, contexts, patience, boot).map_err(Reason::Unit)?;
    for core in (0..cores).map(|core| CoreId::new(core as u8)) {
        let nmi = Delivery { apic_id: apic_id(core), signal: Signal::Nmi, source: io_apic };
        let _ = units.set_interrupt(nmi_entry(core), Some(nmi)).map_err(Reason::Entry)?;
    }
    Ok(Remapping { units, io_apic })
}

/// The source id of the IOAPIC's messages, if the tables allow to turn the units on.
fn usable_source(platform: &Platform) -> Result<Requester, Reason> {
    let dmar = &platform.dmar;
    let reachable = |base: u64| base != 0 && base <= MAPPED_END - u64::from(REGISTER_BYTES);
    if dmar.units.is_empty() {
        return Err(Reason::NoUnits);
    }
    for (bad, what) in [
        (dmar.garbled, "is garbled"),
        (!dmar.interrupt_remapping, "allows no interrupt remapping"),
        (dmar.x2apic_opt_out, "forbids x2APIC ids"),
        (!dmar.units.iter().all(|unit| reachable(unit.base)), "puts a unit out of reach"),
        (!platform.amd_vi.is_empty(), "is not the only one of IOMMUs"),
    ] {
        if bad {
            return Err(Reason::Table(what));
        }
    }
    match dmar.source(Kind::IoApic, platform.io_apic_id) {
        Some((source, unit)) if dmar.units.get(unit).is_some_and(|unit| unit.segment == 0) => {
            Ok(Requester::new(source))
        }
        _ => Err(Reason::Table("does not name the IOAPIC")),
    }
}
