//! Finds the PCI functions, and makes them quiet before the first VM starts.

use super::physical::MAPPED_END;
use crate::arch::ecam::Ecam;
use crate::arch::mmio::Registers;
use crate::arch::msix_table::MsixTables;
use crate::storage::{self, Remapping};
use core::fmt;
use heapless::Vec;
use kernel::assignment::Access;
use kernel::firmware::Handover;
use kernel::firmware::acpi::{ConfigSpace, Platform};
use kernel::firmware::memory_map::Region;
use kernel::pci::{self, Bdf, Function, Functions};

/// The segment whose functions are managed.
const SEGMENT: u16 = 0;

/// The buses that have functions, or lie behind a bridge and may get some; all of them if functions were left out.
pub fn buses(functions: &Functions) -> [bool; 256] {
    let mut buses = [functions.left_out() != 0; 256];
    for function in functions.iter() {
        buses[usize::from(function.at.bus())] = true;
        if let Some(bridge) = function.bridge() {
            (bridge.secondary..=bridge.subordinate).for_each(|bus| buses[usize::from(bus)] = true);
        }
    }
    buses
}

/// The configuration space of the segment that is managed.
pub fn managed(platform: &Platform) -> Option<Ecam> {
    platform.config_spaces.iter().find(|space| space.segment == SEGMENT).map(ecam)
}

/// Finds every function and makes it quiet: no bus master, no I/O ports (ports are handed out, and there are devices that
/// become bus masters by a write to one), no interrupts. Those of segment 0 are remembered. Returns how many functions
/// there are. Panics if a configuration space is out of reach, or if there is
/// none for segment 0: then nobody could say which device still writes to memory.
pub fn find(functions: &mut Functions, platform: &Platform, handover: &Handover<'_>) -> usize {
    let (mut seen, mut managed) = (0, false);
    for space in &platform.config_spaces {
        let mut config = ecam(space);
        if space.segment == SEGMENT && !managed {
            functions.enumerate(&mut config, space.first_bus..=space.last_bus, claimed(platform, handover));
            seen += functions.iter().count() + functions.left_out();
            managed = true;
        } else {
            seen += pci::silence(&mut config, space.first_bus..=space.last_bus);
        }
    }
    assert!(managed, "no MCFG table for segment 0: PCI functions cannot be kept from memory");
    seen
}

/// All that no device must be given: what firmware's memory map names, and where registers of the platform answer.
fn claimed(platform: &Platform, handover: &Handover<'_>) -> impl Iterator<Item = Region> {
    // With regions left out nobody knows what is whose.
    let everything = handover.named.is_full().then_some(Region { start: 0, end: u64::MAX });
    handover.named.regions().chain(platform.registers()).chain(everything)
}

fn ecam(space: &ConfigSpace) -> Ecam {
    let buses = u64::from(space.last_bus) + 1;
    let reachable = space.address != 0 && space.address <= MAPPED_END - (buses << 20);
    assert!(
        reachable && space.first_bus <= space.last_bus,
        "the configuration space at {:#x} is out of reach",
        space.address
    );
    // SAFETY: the MCFG names this as configuration space; it is in no usable RAM.
    Ecam::new(unsafe { Registers::new(space.address, buses << 20) }, space.first_bus)
}

/// Lets the functions be handed out that may be, as the IOMMU is on.
pub fn assign(assignment: &mut storage::Assignment, remapping: Remapping, platform: &Platform, tsc_hz: u64) {
    let Some(config) = managed(platform) else { return };
    let bridges: Vec<(u16, u8, u8), { pci::MAX_FUNCTIONS }> = assignment
        .functions
        .iter()
        .filter_map(|function| {
            let bridge = function.bridge()?;
            Some((function.at.id(), bridge.secondary, bridge.subordinate))
        })
        .collect();
    let bridge = |requester: u16| {
        bridges.iter().find(|(at, ..)| *at == requester).map(|&(_, secondary, subordinate)| (secondary, subordinate))
    };
    let dmar = &platform.dmar;
    let is_confined =
        |at: Bdf| dmar.unit_of(SEGMENT, at.id(), &bridge).is_some() && !dmar.is_reserved(SEGMENT, at.id(), &bridge);
    // SAFETY: the library names entries that it has measured; `is_reachable` leaves those out that are not mapped, and what
    // overlaps anything else was refused when it was measured.
    let tables = unsafe { MsixTables::new() };
    let access = Access { config, tables, iommu: remapping.units };
    assignment.start(access, is_confined, MAPPED_END, tsc_hz / 1_000_000);
}

/// One line for each function that is handed out, and one if the table was too small.
pub fn tell(assignment: &storage::Assignment) {
    let functions = &assignment.functions;
    for function in assignment.physical() {
        if let Some(function) = assignment.place(function).and_then(|at| functions.get(at)) {
            log::info!("PCI {}", Physical(function));
        }
    }
    if functions.left_out() != 0 {
        log::warn!("PCI: {} functions too many: none can be used", functions.left_out());
    }
}

/// A function that is handed out, as text.
struct Physical<'a>(&'a Function);

impl fmt::Display for Physical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Function { at, vendor, device, ref sriov, ref msix, .. } = *self.0;
        let pages: u64 = self.0.memory().map(|memory| memory.region.bytes() >> 12).sum();
        let (vfs, entries) = (sriov.map_or(0, |sriov| sriov.max), msix.map_or(0, |msix| msix.entries));
        write!(f, "{at} {vendor:04x}:{device:04x}, {vfs} VFs, {entries} MSI-X entries, {pages} pages of memory")?;
        for (number, bar) in self.0.bars.iter().enumerate() {
            if let Some(why) = bar.and_then(|bar| bar.refused) {
                write!(f, ", BAR {number} refused: {why:?}")?;
            }
        }
        Ok(())
    }
}
