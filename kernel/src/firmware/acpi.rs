//! ACPI tables the kernel needs: MADT (cores, IOAPICs), HPET, MCFG (configuration space), DMAR and IVRS (IOMMUs).
//!
//! Tables are untrusted: a signature, length or checksum that does not fit leaves the table out, an entry that runs off
//! its table ends the table. What the kernel can't do without is an error of [`parse`].

use super::dmar::Dmar;
use super::memory_map::Region;
use super::{PhysicalMemory, field};
use heapless::Vec;

/// Most cores that are taken from the MADT.
pub const MAX_CORES: usize = 64;
/// Configuration-space regions, IOMMUs and IOAPICs that are remembered: with so many of a kind, some may be missing.
pub const MAX_UNITS: usize = 16;
/// Bytes of an IOMMU's registers, as many as the largest have: AMD-Vi with performance counters.
const IOMMU_BYTES: u64 = 512 << 10;
/// Bytes of what has its registers in one page.
const PAGE: u64 = 4096;
/// Most tables that the root table may list.
const MAX_TABLES: usize = 128;
/// Longest table that is read, in bytes.
const MAX_TABLE_BYTES: u32 = 256 * 1024;
/// Bytes of the header that every table starts with.
const HEADER: usize = 36;

/// A region of memory-mapped configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    /// Segment: a set of buses with numbers of its own.
    pub segment: u16,
    /// Physical address of bus 0 of the segment.
    pub address: u64,
    /// First bus that is decoded.
    pub first_bus: u8,
    /// Last bus that is decoded.
    pub last_bus: u8,
}

/// An IOMMU's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iommu {
    /// Intel VT-d, from a DMAR table.
    Vtd(u64),
    /// AMD-Vi, from an IVRS table.
    AmdVi(u64),
}

/// What the tables say.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// x2APIC ids of the usable cores, in the order of the MADT.
    pub cores: Vec<u32, MAX_CORES>,
    /// Physical address of the local APICs' registers, where they are in memory.
    pub local_apic: u64,
    /// Physical address of the registers of the IOAPIC whose pins are the first global interrupts.
    pub io_apic: u64,
    /// Its number.
    pub io_apic_id: u8,
    /// Registers of every IOAPIC.
    pub io_apics: Vec<u64, MAX_UNITS>,
    /// Physical address of the HPET's registers.
    pub hpet: u64,
    /// Configuration space.
    pub config_spaces: Vec<ConfigSpace, MAX_UNITS>,
    /// VT-d units and what stands behind them.
    pub dmar: Dmar,
    /// Physical addresses of AMD-Vi units' registers.
    pub amd_vi: Vec<u64, MAX_UNITS>,
}

impl Platform {
    /// Every IOMMU.
    pub fn iommus(&self) -> impl Iterator<Item = Iommu> + '_ {
        let vtd = self.dmar.units.iter().map(|unit| Iommu::Vtd(unit.base));
        vtd.chain(self.amd_vi.iter().map(|&base| Iommu::AmdVi(base)))
    }

    /// Where registers of these devices answer, and no memory does.
    pub fn registers(&self) -> impl Iterator<Item = Region> + '_ {
        let pages = [self.local_apic, self.hpet].into_iter().chain(self.io_apics.iter().copied());
        let iommus = self.iommus().map(|(Iommu::Vtd(base) | Iommu::AmdVi(base))| Region::of(base, IOMMU_BYTES));
        pages.map(|base| Region::of(base, PAGE)).chain(iommus).chain(self.config_spaces.iter().map(ConfigSpace::region))
    }
}

impl ConfigSpace {
    /// Bytes of a bus.
    const BUS: u64 = 1 << 20;

    /// Where it is.
    pub fn region(&self) -> Region {
        let bus = |number: u64| self.address.saturating_add(number * Self::BUS);
        Region { start: bus(self.first_bus.into()), end: bus(u64::from(self.last_bus) + 1) }
    }
}

/// What makes the tables unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// The root pointer is missing, or its signature or checksum is wrong.
    RootPointer,
    /// The root table is unreadable or garbled.
    RootTable,
    /// The MADT names no usable core.
    NoCores,
    /// The MADT names no IOAPIC.
    NoIoApic,
    /// There is no HPET.
    NoHpet,
    /// There may be more units of a kind than are remembered.
    TooManyUnits,
}

/// Reads the tables from the root pointer's bytes on.
///
/// # Errors
/// As [`AcpiError`] says.
pub fn parse(memory: &impl PhysicalMemory, rsdp: &[u8]) -> Result<Platform, AcpiError> {
    let first = rsdp.get(..20).filter(|first| first.starts_with(b"RSD PTR ") && sum(first) == 0);
    let first = first.ok_or(AcpiError::RootPointer)?;
    let wide = match rsdp.get(..36) {
        Some(whole) if first[15] >= 2 && sum(whole) == 0 => field::<u64>(whole, 24).filter(|&address| address != 0),
        _ => None,
    };
    let (address, signature, width) = match wide {
        Some(address) => (address, b"XSDT", 8),
        None => (u64::from(field::<u32>(first, 16).unwrap_or(0)), b"RSDT", 4),
    };
    let list = table(memory, address).filter(|list| list.starts_with(signature)).ok_or(AcpiError::RootTable)?;
    let mut platform = Platform::default();
    for entry in list[HEADER..].chunks_exact(width).take(MAX_TABLES) {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(entry);
        let Some(table) = table(memory, u64::from_le_bytes(bytes)) else { continue };
        let byte_length = |entry: &[u8]| field::<u8>(entry, 1).map(usize::from);
        let word_length = |entry: &[u8]| field::<u16>(entry, 2).map(usize::from);
        match &table[..4] {
            b"APIC" => {
                platform.local_apic = field::<u32>(table, 36).unwrap_or(0).into();
                each(table, 44, byte_length, |entry| madt(entry, &mut platform));
            }
            b"HPET" => platform.hpet = field(table, 44).unwrap_or(0),
            b"MCFG" => {
                each(table, 44, |_| Some(16), |entry| mcfg(entry, &mut platform));
            }
            b"DMAR" => platform.dmar.read(table),
            b"IVRS" => {
                each(table, 48, word_length, |entry| ivrs(entry, &mut platform));
            }
            _ => {}
        }
    }
    match platform {
        Platform { cores, .. } if cores.is_empty() => Err(AcpiError::NoCores),
        Platform { io_apic: 0, .. } => Err(AcpiError::NoIoApic),
        Platform { hpet: 0, .. } => Err(AcpiError::NoHpet),
        Platform { ref io_apics, ref config_spaces, ref dmar, ref amd_vi, .. }
            if io_apics.is_full() || config_spaces.is_full() || dmar.units.is_full() || amd_vi.is_full() =>
        {
            Err(AcpiError::TooManyUnits)
        }
        _ => Ok(platform),
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// The whole table at an address: at least a header, its length in bounds, its checksum right. Tables that the kernel
/// does not use are not summed: they are large.
fn table(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    let length: u32 = field(memory.read(address, HEADER)?, 4)?;
    if !(HEADER as u32..=MAX_TABLE_BYTES).contains(&length) {
        return None;
    }
    let table = memory.read(address, length as usize)?;
    let used = matches!(&table[..4], b"RSDT" | b"XSDT" | b"APIC" | b"HPET" | b"MCFG" | b"DMAR" | b"IVRS");
    (used && sum(table) == 0).then_some(table)
}

/// Calls `visit` for every entry of a table from an offset on; `length` finds an entry's length at its start. An entry
/// that is shorter than its own head, or longer than the table, ends the list; one in which `visit` misses a field is
/// left out. True if the list ended where the table does.
pub(super) fn each<'a>(
    table: &'a [u8],
    from: usize,
    length: impl Fn(&[u8]) -> Option<usize>,
    mut visit: impl FnMut(&'a [u8]) -> Option<()>,
) -> bool {
    let mut rest = table.get(from..).unwrap_or(&[]);
    while let Some((entry, after)) = length(rest).filter(|&length| length >= 2).and_then(|n| rest.split_at_checked(n)) {
        let _ = visit(entry);
        rest = after;
    }
    rest.is_empty()
}

fn madt(entry: &[u8], platform: &mut Platform) -> Option<()> {
    match entry[0] {
        // Processor local APIC: id at 3, flags at 4.
        0 => match field::<u8>(entry, 3)? {
            0xff => None,
            id => add_core(platform, u32::from(id), field(entry, 4)?),
        },
        // IOAPIC: number at 2, address at 4, its first global interrupt at 8.
        1 => {
            let (address, first) = (field::<u32>(entry, 4)?.into(), field::<u32>(entry, 8)?);
            if first == 0 {
                (platform.io_apic, platform.io_apic_id) = (address, field(entry, 2)?);
            }
            platform.io_apics.push(address).ok()
        }
        // Local APICs' address, where 32 bits are too few: at 4.
        5 => {
            platform.local_apic = field(entry, 4)?;
            Some(())
        }
        // Processor local x2APIC: id at 4, flags at 8.
        9 => add_core(platform, field(entry, 4)?, field(entry, 8)?),
        _ => None,
    }
}

/// A core that firmware lists twice, as APIC and as x2APIC, is one core. Flags bit 0: enabled.
fn add_core(platform: &mut Platform, id: u32, flags: u32) -> Option<()> {
    let fresh = flags & 1 != 0 && !platform.cores.contains(&id);
    fresh.then(|| platform.cores.push(id).ok())?
}

fn mcfg(entry: &[u8], platform: &mut Platform) -> Option<()> {
    let [first_bus, last_bus] = field(entry, 10)?;
    let space = ConfigSpace { segment: field(entry, 8)?, address: field(entry, 0)?, first_bus, last_bus };
    platform.config_spaces.push(space).ok()
}

/// Hardware definition blocks 0x10, 0x11 and 0x40 describe the same unit: base at 8.
fn ivrs(entry: &[u8], platform: &mut Platform) -> Option<()> {
    let (0x10 | 0x11 | 0x40, unit) = (entry[0], field(entry, 8)?) else { return None };
    let fresh = !platform.amd_vi.contains(&unit);
    fresh.then(|| platform.amd_vi.push(unit).ok())?
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::super::tests::{FakeMemory, random};
    use super::*;
    use alloc::vec::Vec;

    fn build(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = alloc::vec![0; HEADER];
        table[..4].copy_from_slice(signature);
        table.extend_from_slice(body);
        let length = table.len() as u32;
        table[4..8].copy_from_slice(&length.to_le_bytes());
        table[9] = 0u8.wrapping_sub(sum(&table));
        table
    }

    fn rsdp() -> Vec<u8> {
        let mut rsdp = b"RSD PTR \0BOCHS \0".to_vec();
        rsdp.extend_from_slice(&0x1000u32.to_le_bytes());
        rsdp[8] = 0u8.wrapping_sub(sum(&rsdp));
        rsdp
    }

    /// Two cores (one listed twice), an IOAPIC, an HPET, one MCFG region, one unit of each kind of IOMMU.
    fn sample() -> FakeMemory {
        let mut memory = FakeMemory::new(0x1000, 0x4000);
        let mut madt = alloc::vec![0; 8];
        madt[..4].copy_from_slice(&0xfee0_0000u32.to_le_bytes());
        madt.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend_from_slice(&[0, 8, 1, 1, 1, 0, 0, 0]);
        madt.extend_from_slice(&[0, 8, 2, 2, 0, 0, 0, 0]);
        madt.extend_from_slice(&[1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        // Another IOAPIC, of later interrupts.
        madt.extend_from_slice(&[1, 12, 1, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0]);
        madt.extend_from_slice(&[9, 16, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let mut hpet = alloc::vec![0; 20];
        hpet[8..16].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
        let mut mcfg = alloc::vec![0; 24];
        mcfg[8..16].copy_from_slice(&0xb000_0000u64.to_le_bytes());
        mcfg[16] = 3;
        mcfg[19] = 255;
        let mut dmar = alloc::vec![0; 12 + 16];
        dmar[14] = 16;
        dmar[20..28].copy_from_slice(&0xfed9_0000u64.to_le_bytes());
        let mut ivrs = alloc::vec![0; 12 + 24];
        (ivrs[12], ivrs[14]) = (0x10, 24);
        ivrs[20..28].copy_from_slice(&0xfeb8_0000u64.to_le_bytes());
        let tables = [
            (b"APIC", madt),
            (b"HPET", hpet),
            (b"MCFG", mcfg),
            (b"DMAR", dmar),
            (b"IVRS", ivrs),
            (b"FACP", Vec::new()),
        ];
        let mut list = Vec::new();
        for (index, (signature, body)) in tables.into_iter().enumerate() {
            let at = 0x2000 + index as u64 * 0x200;
            memory.put(at, &build(signature, &body));
            list.extend_from_slice(&(at as u32).to_le_bytes());
        }
        memory.put(0x1000, &build(b"RSDT", &list));
        memory
    }

    #[test]
    fn the_tables_are_read() {
        let platform = parse(&sample(), &rsdp()).unwrap();
        assert_eq!(platform.cores, [0, 1]);
        assert_eq!(platform.local_apic, 0xfee0_0000);
        assert_eq!(platform.io_apic, 0xfec0_0000);
        assert_eq!(platform.io_apics, [0xfec0_0000, 0xfec0_1000]);
        assert_eq!(platform.hpet, 0xfed0_0000);
        assert_eq!(
            platform.config_spaces,
            [ConfigSpace { segment: 3, address: 0xb000_0000, first_bus: 0, last_bus: 255 }]
        );
        assert!(platform.iommus().eq([Iommu::Vtd(0xfed9_0000), Iommu::AmdVi(0xfeb8_0000)]));
        assert_eq!(platform.io_apic_id, 3);
    }

    #[test]
    fn a_table_may_move_the_local_apics_and_units_too_many_are_refused() {
        let mut memory = sample();
        let mut madt = alloc::vec![0; 8];
        madt.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend_from_slice(&[5, 12, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        for number in 0..MAX_UNITS as u8 {
            madt.extend_from_slice(&[1, 12, number, 0, 0, number, 0xc0, 0xfe, number, 0, 0, 0]);
            memory.put(0x2000, &build(b"APIC", &madt));
            memory.put(0x1000, &build(b"RSDT", &[0x2000u32.to_le_bytes(), 0x2200u32.to_le_bytes()].concat()));
            memory.put(0x2200, &build(b"HPET", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0]));
            let platform = parse(&memory, &rsdp());
            if usize::from(number) + 1 < MAX_UNITS {
                assert_eq!(platform.unwrap().local_apic, 1 << 32);
            } else {
                assert_eq!(platform.unwrap_err(), AcpiError::TooManyUnits);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_leaves_the_table_out() {
        for (at, error) in
            [(0x2000u64, AcpiError::NoCores), (0x2200, AcpiError::NoHpet), (0x1000, AcpiError::RootTable)]
        {
            let mut memory = sample();
            memory.bytes[(at - 0x1000) as usize + 30] ^= 1;
            assert_eq!(parse(&memory, &rsdp()).unwrap_err(), error);
        }
        let mut pointer = rsdp();
        pointer[10] ^= 1;
        assert_eq!(parse(&sample(), &pointer).unwrap_err(), AcpiError::RootPointer);
        assert_eq!(parse(&sample(), &rsdp()[..19]).unwrap_err(), AcpiError::RootPointer);
    }

    #[test]
    fn lengths_that_do_not_fit_end_the_table() {
        // An entry of length 0 would never end; one that runs off would read beyond.
        for length in [0u8, 1, 200] {
            let mut memory = sample();
            let mut body = alloc::vec![0; 8];
            body.extend_from_slice(&[0, length, 0, 0, 1, 0, 0, 0]);
            memory.put(0x2000, &build(b"APIC", &body));
            assert_eq!(parse(&memory, &rsdp()).unwrap_err(), AcpiError::NoCores, "length {length}");
        }
        for length in [0u32, 35, 0x8000_0000, u32::MAX] {
            let mut memory = sample();
            memory.put(0x1004, &length.to_le_bytes());
            assert_eq!(parse(&memory, &rsdp()).unwrap_err(), AcpiError::RootTable, "length {length:#x}");
        }
    }

    #[test]
    fn garbled_tables_with_right_checksums_are_survived() {
        let mut state = 3;
        for _ in 0..20_000 {
            let mut memory = sample();
            for _ in 0..1 + random(&mut state) % 8 {
                let at = (random(&mut state) % 0x2000) as usize;
                memory.bytes[at] = random(&mut state) as u8;
            }
            for at in [0x1000u64, 0x2000, 0x2200, 0x2400, 0x2600, 0x2800] {
                // Make the sum right again where the length still allows it, so that the entries are reached.
                let start = (at - 0x1000) as usize;
                let length = field::<u32>(&memory.bytes, start + 4).unwrap() as usize;
                if let Some(table) = memory.bytes.get_mut(start..start.saturating_add(length)).filter(|t| t.len() > 9) {
                    table[9] = table[9].wrapping_sub(sum(table));
                }
            }
            let _ = parse(&memory, &rsdp());
        }
    }
}
