//! Before the first VM starts: IOMMU translation off as firmware left it, every PCI function's bus mastering and I/O ports off, legacy
//! interrupts masked.

use super::physical::MAPPED_END;
use crate::arch::mmio::Registers;
use crate::arch::remapping::Units;
use kernel::firmware::acpi::{ConfigSpace, Iommu, Platform};
use kernel::iommu::vtd::{self, REGISTER_BYTES};
use kernel::types::Ticks;
use x86_64::instructions::port::Port;

/// Ticks of the TSC after which an IOMMU is given up: more than half a second on every processor.
const PATIENCE: Ticks = Ticks::new(1 << 32);

/// Writes to ports of the PICs or of the PIT.
fn write_ports(writes: &[(u16, u8)]) {
    for &(port, value) in writes {
        // SAFETY: programming these touches no memory.
        unsafe { Port::new(port).write(value) };
    }
}

/// Masks both PICs.
pub fn mask_pics() {
    write_ports(&[(0x21, 0xff), (0xa1, 0xff)]);
}

/// Lets PIT channel 0 run fast, with its interrupt masked at both controllers. An emulator whose clock counts instructions
/// lets its cores take turns at the events of that clock: with no timer set, one core's spinning guest keeps the others from
/// their NMIs for tens of milliseconds.
pub fn pace_emulated_cores() {
    /// Channel 0, low and high byte, mode 3 (square wave).
    const COMMAND: u8 = 0x36;
    /// Counts of 838 ns between two rising edges; an event lies between.
    const PERIOD: u8 = 48;
    write_ports(&[(0x43, COMMAND), (0x40, PERIOD), (0x40, 0)]);
}

/// Turns translation and interrupt remapping of every IOMMU off; returns how many there are. Panics if one is out of reach
/// or stays on: what devices reach would be decided by tables in memory that is about to be handed out.
pub fn iommus_off(platform: &Platform) -> usize {
    platform.iommus().inspect(|&iommu| assert!(iommu_off(iommu), "{iommu:?} cannot be turned off")).count()
}

fn iommu_off(iommu: Iommu) -> bool {
    const BYTES: u64 = REGISTER_BYTES as u64;
    let (Iommu::Vtd(base) | Iommu::AmdVi(base)) = iommu;
    if base == 0 || base > MAPPED_END - BYTES {
        return false;
    }
    match iommu {
        Iommu::Vtd(_) => {
            // SAFETY: ACPI names these as the unit's registers; they are in no usable RAM. No table is given to it.
            let mut unit = unsafe { Units::new(core::iter::once(base)) };
            vtd::turn_off(&mut unit, 0, PATIENCE)
        }
        Iommu::AmdVi(_) => {
            const CONTROL: u64 = 0x18;
            // SAFETY: ACPI names these as the IOMMU's registers; they are in no usable RAM.
            let registers = unsafe { Registers::new(base, BYTES) };
            registers.write(CONTROL, 0u64);
            registers.read::<u64>(CONTROL) & 1 == 0
        }
    }
}

/// The functions that there are.
pub struct Functions {
    /// How many.
    pub count: usize,
    /// Buses that have some or, behind a bridge, may get some.
    pub buses: [bool; 256],
}

/// Clears the bus-master bit of every function, and the bit by which it answers at I/O ports: ports are handed out, and
/// there are devices that become bus masters by a write to one. Returns which functions there are. Every bus of each
/// segment is visited, at most 256: there may be several root buses, and no bridge leads from one to the next. Panics if a
/// configuration space is out of reach, or if there is none: then nobody could say which device still writes to memory.
pub fn bus_masters_off(platform: &Platform) -> Functions {
    assert!(!platform.config_spaces.is_empty(), "no MCFG table: PCI functions cannot be kept from memory");
    let mut functions = Functions { count: 0, buses: [false; 256] };
    platform.config_spaces.iter().for_each(|space| segment_off(*space, &mut functions));
    functions
}

fn segment_off(space: ConfigSpace, functions: &mut Functions) {
    /// Vendor that an absent function shows.
    const ABSENT: u32 = 0xffff;
    /// Of the command register.
    const IO_DECODE: u32 = 1;
    const BUS_MASTER: u32 = 1 << 2;
    /// Of the double word that holds the header type: the device has more functions than this one.
    const MULTIFUNCTION: u32 = 1 << 23;
    /// And the layout of the header, and that of a bridge, which has secondary and subordinate bus in bytes 1 and 2 here.
    const LAYOUT: u32 = 0x7f << 16;
    const BRIDGE: u32 = 1 << 16;
    const BUS_NUMBERS: u64 = 0x18;
    let buses = u64::from(space.last_bus) + 1;
    let reachable = space.address != 0 && space.address <= MAPPED_END - (buses << 20);
    assert!(
        reachable && space.first_bus <= space.last_bus,
        "the configuration space at {:#x} is out of reach",
        space.address
    );
    // SAFETY: the MCFG names this as configuration space; it is in no usable RAM.
    let config = unsafe { Registers::new(space.address, buses << 20) };
    // On an absent bus that is one read for each of 32 devices.
    for bus in u64::from(space.first_bus)..buses {
        for device in 0..32 {
            for function in 0..8 {
                let at = bus << 20 | device << 15 | function << 12;
                let read = |offset| config.read::<u32>(at + offset);
                if read(0) & 0xffff == ABSENT {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                functions.count += 1;
                functions.buses[bus as usize] = true;
                if read(0xc) & LAYOUT == BRIDGE {
                    let [_, secondary, subordinate, _] = read(BUS_NUMBERS).to_le_bytes();
                    (secondary..=subordinate).for_each(|behind| functions.buses[usize::from(behind)] = true);
                }
                config.write(at + 4, read(4) & 0xffff & !(BUS_MASTER | IO_DECODE));
                if function == 0 && read(0xc) & MULTIFUNCTION == 0 {
                    break;
                }
            }
        }
    }
}
