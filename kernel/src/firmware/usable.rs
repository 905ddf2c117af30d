//! What of the memory that firmware calls RAM is used: nothing below 1 MiB but for the start of the cores, nothing that
//! slots cannot name, nothing of kernel and boot module, nothing where a device's registers answer, and nothing that firmware
//! has reserved for its devices' DMA.
//!
//! Everything that boot hands out, or makes objects of, comes from here. A memory map that is wrong about the devices which
//! the platform's tables name cannot put their registers into somebody's hands.

use super::acpi::Platform;
use super::memory_map::{MemoryMap, Region};
use cap_spec::abi::SLOT_BITS;

/// First byte above the memory that belongs to firmware and to the cores' start-up.
const LOW_END: u64 = 0x10_0000;
/// First byte above the memory that slots can name: 2^32 slots.
const REACHABLE_END: u64 = 1 << (32 + SLOT_BITS);
/// Where writes of devices are interrupts, wherever the local APICs' registers are.
const INTERRUPT_MESSAGES: Region = Region { start: 0xfee0_0000, end: 0xfef0_0000 };

/// The RAM that is used.
#[derive(Clone, Debug)]
pub struct Usable {
    /// What lies below 1 MiB, where cores start. It is never handed out: firmware has its data there.
    pub low: MemoryMap,
    /// The rest: of it the root VM is made, and what it is given.
    pub rest: MemoryMap,
}

impl Usable {
    /// What is left of `memory`, which firmware calls RAM.
    pub fn new(memory: MemoryMap, platform: &Platform, kernel: Region, module: Region) -> Usable {
        let mut rest = memory;
        let reserved = platform.dmar.reserved.iter().copied();
        for region in [kernel, module, INTERRUPT_MESSAGES].into_iter().chain(platform.registers()).chain(reserved) {
            rest.remove(region.start, region.end);
        }
        rest.remove(REACHABLE_END, u64::MAX);
        let mut low = rest.clone();
        low.remove(LOW_END, u64::MAX);
        rest.remove(0, LOW_END);
        Usable { low, rest }
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::super::acpi::ConfigSpace;
    use super::super::memory_map::untypeds;
    use super::*;
    use alloc::vec::Vec;

    const KERNEL: Region = Region { start: 0x10_0000, end: 0x30_0800 };
    const MODULE: Region = Region { start: 0x100_0000, end: 0x123_4567 };

    fn platform() -> Platform {
        let mut platform =
            Platform { local_apic: 0xfed8_0000, io_apic: 0xfec0_0000, hpet: 0xfed0_0000, ..Platform::default() };
        platform.io_apics.extend([0xfec0_0000, 0xfec1_0000]);
        platform.config_spaces.extend([
            ConfigSpace { segment: 0, address: 0xb000_0000, first_bus: 0, last_bus: 255 },
            ConfigSpace { segment: 0, address: 0xc000_0000, first_bus: 16, last_bus: 31 },
        ]);
        platform.amd_vi.extend([0xfed9_0000, 0x20_0000_0000]);
        platform.dmar.reserved.extend([Region { start: 0x7000_0800, end: 0x7000_1001 }]);
        platform
    }

    /// Ranges that nobody may get, whatever firmware calls them.
    const NEVER: [(&str, u64, u64); 15] = [
        ("memory of firmware's devices, its pages whole", 0x7000_0000, 0x7000_2000),
        ("the real mode's tables", 0, 0x1000),
        ("firmware's data", 0x9_f000, 0xa_0000),
        ("the last page below 1 MiB", 0xf_f000, 0x10_0000),
        ("the kernel, its last page whole", 0x10_0000, 0x30_1000),
        ("the boot module, its last page whole", 0x100_0000, 0x123_5000),
        ("configuration space", 0xb000_0000, 0xc000_0000),
        ("configuration space of a part of the buses", 0xc100_0000, 0xc200_0000),
        ("the IOAPIC", 0xfec0_0000, 0xfec0_1000),
        ("the other IOAPIC", 0xfec1_0000, 0xfec1_1000),
        ("the HPET", 0xfed0_0000, 0xfed0_1000),
        ("the local APICs", 0xfed8_0000, 0xfed8_1000),
        ("the IOMMU", 0xfed9_0000, 0xfee1_0000),
        ("interrupt messages", 0xfee0_0000, 0xfef0_0000),
        ("the IOMMU above 4 GiB, with its counters", 0x20_0000_0000, 0x20_0008_0000),
    ];

    fn list(map: &MemoryMap) -> Vec<(u64, u64)> {
        map.regions().map(|region| (region.start, region.end)).collect()
    }

    #[test]
    fn all_is_ram_to_firmware_and_exactly_the_rest_is_handed_out() {
        let mut all = MemoryMap::default();
        all.add(0, u64::MAX);
        let usable = Usable::new(all, &platform(), KERNEL, MODULE);
        assert_eq!(list(&usable.low), [(0, 0x10_0000)]);
        let expected = [
            (0x30_1000, 0x100_0000),
            (0x123_5000, 0x7000_0000),
            (0x7000_2000, 0xb000_0000),
            (0xc000_0000, 0xc100_0000),
            (0xc200_0000, 0xfec0_0000),
            (0xfec0_1000, 0xfec1_0000),
            (0xfec1_1000, 0xfed0_0000),
            (0xfed0_1000, 0xfed8_0000),
            (0xfed8_1000, 0xfed9_0000),
            (0xfef0_0000, 0x20_0000_0000),
            (0x20_0008_0000, 0x40_0000_0000),
        ];
        assert_eq!(list(&usable.rest), expected);
    }

    #[test]
    fn no_untyped_reaches_what_nobody_may_get() {
        for (what, start, end) in NEVER.into_iter().chain([("what slots cannot name", 1 << 38, (1 << 38) + 0x1000)]) {
            // A region of RAM that lies over it, as firmware may have it, and one for itself.
            for margin in [0, 0x1000, 0x80_0000] {
                let mut memory = MemoryMap::default();
                let from = start.saturating_sub(margin);
                memory.add(from, end + margin - from);
                memory.add(0x8000_0000, 0x1000_0000);
                let usable = Usable::new(memory, &platform(), KERNEL, MODULE);
                let mut bytes = 0;
                for (base, bits) in untypeds(&usable.rest) {
                    assert!(base >= end || base + (1 << bits) <= start, "{what}: an Untyped at {base:#x}");
                    bytes += 1u64 << bits;
                }
                assert!(bytes >= 0x1000_0000, "{what}: the memory beside it is gone");
            }
        }
    }

    #[test]
    fn what_cores_start_from_is_below_1_mib_and_neither_kernel_nor_module() {
        let mut memory = MemoryMap::default();
        memory.add(0, 0x9_f000);
        memory.add(0x10_0000, 0x1000_0000);
        let module = Region { start: 0x1000, end: 0x5000 };
        let mut usable = Usable::new(memory, &platform(), KERNEL, module);
        assert_eq!(usable.low.allocate(0x1000, 0x1000, 0x1000), Some(0x5000));
        assert_eq!(list(&usable.low), [(0, 0x1000), (0x6000, 0x9_f000)]);
        assert_eq!(list(&usable.rest), [(0x30_1000, 0x1010_0000)]);
    }

    #[test]
    fn ranges_that_make_no_sense_take_nothing_else_away() {
        let mut platform = Platform { hpet: u64::MAX, ..Platform::default() };
        platform.config_spaces.extend([
            ConfigSpace { segment: 0, address: 0x1000_0000, first_bus: 9, last_bus: 3 },
            ConfigSpace { segment: 0, address: u64::MAX - 0xfff, first_bus: 0, last_bus: 255 },
        ]);
        let mut memory = MemoryMap::default();
        memory.add(0x100_0000, 0x2000_0000);
        let none = Region { start: 0, end: 0 };
        let usable = Usable::new(memory, &platform, none, none);
        assert_eq!(list(&usable.rest), [(0x100_0000, 0x2100_0000)]);
    }
}
