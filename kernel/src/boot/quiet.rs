//! Before the first VM starts: IOMMU translation off as firmware left it, legacy interrupts masked. What keeps PCI functions quiet is
//! [`super::functions`].

use super::physical::MAPPED_END;
use crate::arch::mmio::Registers;
use crate::arch::remapping::Units;
use kernel::firmware::acpi::{Iommu, Platform};
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
