//! ACPI tables the kernel needs: MADT (cores, IOAPICs), HPET, MCFG (configuration space), DMAR and IVRS (IOMMUs).
//!
//! Tables are untrusted: a signature, length or checksum that does not fit leaves the table out, an entry that runs off
//! its table ends the table. What the kernel can't do without is an error of [`parse`].

use super::{Fields, List, PhysicalMemory};

/// Most cores that are taken from the MADT.
pub const MAX_CORES: usize = 64;
/// Most IOAPICs, configuration-space regions and IOMMUs that are remembered.
pub const MAX_UNITS: usize = 16;
/// Most tables that the root table may list.
const MAX_TABLES: usize = 128;
/// Longest table that is read, in bytes.
const MAX_TABLE_BYTES: u32 = 256 * 1024;
/// Bytes of the header that every table starts with.
const HEADER: usize = 36;

/// An IOAPIC: address of its registers and its first global interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// Global system interrupt of its pin 0.
    pub first_interrupt: u32,
}

/// A region of memory-mapped configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
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
#[derive(Clone, Copy, Debug, Default)]
pub struct Platform {
    /// x2APIC ids of the usable cores, in the order of the MADT.
    pub cores: List<u32, MAX_CORES>,
    /// IOAPICs.
    pub io_apics: List<IoApic, MAX_UNITS>,
    /// Physical address of the HPET's registers.
    pub hpet: u64,
    /// Configuration space.
    pub config_spaces: List<ConfigSpace, MAX_UNITS>,
    /// IOMMUs.
    pub iommus: List<Iommu, MAX_UNITS>,
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
}

/// Reads the tables from the root pointer's bytes on.
///
/// # Errors
/// As [`AcpiError`] says.
pub fn parse(memory: &impl PhysicalMemory, rsdp: &[u8]) -> Result<Platform, AcpiError> {
    let root = Fields(rsdp);
    let first = root.bytes(0, 20).ok_or(AcpiError::RootPointer)?;
    if !first.starts_with(b"RSD PTR ") || sum(first) != 0 {
        return Err(AcpiError::RootPointer);
    }
    let wide = match root.bytes(0, 36) {
        Some(whole) if first[15] >= 2 && sum(whole) == 0 => root.u64(24).filter(|&address| address != 0),
        _ => None,
    };
    let (address, signature, width) = match wide {
        Some(address) => (address, b"XSDT", 8),
        None => (u64::from(root.u32(16).ok_or(AcpiError::RootPointer)?), b"RSDT", 4),
    };
    let list = table(memory, address).filter(|list| list.starts_with(signature)).ok_or(AcpiError::RootTable)?;
    let mut platform = Platform::default();
    for entry in list[HEADER..].chunks_exact(width).take(MAX_TABLES) {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(entry);
        let Some(table) = table(memory, u64::from_le_bytes(bytes)) else { continue };
        match &table[..4] {
            b"APIC" => madt(Fields(table), &mut platform),
            b"HPET" => platform.hpet = Fields(table).u64(44).unwrap_or(0),
            b"MCFG" => mcfg(Fields(table), &mut platform),
            b"DMAR" => dmar(Fields(table), &mut platform),
            b"IVRS" => ivrs(Fields(table), &mut platform),
            _ => {}
        }
    }
    match platform {
        Platform { cores, .. } if cores.is_empty() => Err(AcpiError::NoCores),
        Platform { io_apics, .. } if io_apics.is_empty() => Err(AcpiError::NoIoApic),
        Platform { hpet: 0, .. } => Err(AcpiError::NoHpet),
        _ => Ok(platform),
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// The whole table at an address: at least a header, its length in bounds, its checksum right. Tables that the kernel
/// does not use are not summed: they are large.
fn table(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    let length = Fields(memory.read(address, HEADER)?).u32(4)?;
    if !(HEADER as u32..=MAX_TABLE_BYTES).contains(&length) {
        return None;
    }
    let table = memory.read(address, length as usize)?;
    let used = matches!(&table[..4], b"RSDT" | b"XSDT" | b"APIC" | b"HPET" | b"MCFG" | b"DMAR" | b"IVRS");
    (used && sum(table) == 0).then_some(table)
}

/// Calls `visit` with (type, entry) for every entry of a list whose entries start with their type and length, in the
/// field widths of that table. An entry shorter than its own head, or longer than the table, ends the list.
fn entries<'a>(
    table: Fields<'a>,
    from: usize,
    head: impl Fn(Fields<'a>) -> Option<(u16, usize)>,
    mut visit: impl FnMut(u16, Fields<'a>),
) {
    let mut at = from;
    while let Some((kind, length)) = table.0.get(at..).and_then(|rest| head(Fields(rest))) {
        let Some(entry) = table.bytes(at, length).filter(|entry| entry.len() >= 2) else { return };
        visit(kind, Fields(entry));
        at += length;
    }
}

fn madt(table: Fields<'_>, platform: &mut Platform) {
    /// Flags bit 0: enabled.
    const ENABLED: u32 = 1;
    entries(
        table,
        44,
        |entry| Some((u16::from(entry.u8(0)?), usize::from(entry.u8(1)?))),
        |kind, entry| {
            match kind {
                // Processor local APIC: id at 3, flags at 4.
                0 => {
                    if let (Some(id), Some(flags)) = (entry.u8(3), entry.u32(4))
                        && flags & ENABLED != 0
                        && id != 0xff
                    {
                        add_core(platform, u32::from(id));
                    }
                }
                1 => {
                    if let (Some(address), Some(first_interrupt)) = (entry.u32(4), entry.u32(8)) {
                        platform.io_apics.push(IoApic { address: u64::from(address), first_interrupt });
                    }
                }
                // Processor local x2APIC: id at 4, flags at 8.
                9 => {
                    if let (Some(id), Some(flags)) = (entry.u32(4), entry.u32(8))
                        && flags & ENABLED != 0
                    {
                        add_core(platform, id);
                    }
                }
                _ => {}
            }
        },
    );
}

/// A core that firmware lists twice, as APIC and as x2APIC, is one core.
fn add_core(platform: &mut Platform, id: u32) {
    if !platform.cores.iter().any(|known| known == id) {
        platform.cores.push(id);
    }
}

fn mcfg(table: Fields<'_>, platform: &mut Platform) {
    for entry in table.0.get(44..).unwrap_or(&[]).chunks_exact(16) {
        let entry = Fields(entry);
        if let (Some(address), Some(first_bus), Some(last_bus)) = (entry.u64(0), entry.u8(10), entry.u8(11)) {
            platform.config_spaces.push(ConfigSpace { address, first_bus, last_bus });
        }
    }
}

fn dmar(table: Fields<'_>, platform: &mut Platform) {
    entries(
        table,
        48,
        |entry| Some((entry.u16(0)?, usize::from(entry.u16(2)?))),
        |kind, entry| {
            // DMA remapping hardware unit: register base at 8.
            if let (0, Some(address)) = (kind, entry.u64(8)) {
                platform.iommus.push(Iommu::Vtd(address));
            }
        },
    );
}

fn ivrs(table: Fields<'_>, platform: &mut Platform) {
    entries(
        table,
        48,
        |entry| Some((u16::from(entry.u8(0)?), usize::from(entry.u16(2)?))),
        |kind, entry| {
            // Hardware definition blocks 0x10, 0x11 and 0x40 describe the same unit: base at 8.
            if let (0x10 | 0x11 | 0x40, Some(address)) = (kind, entry.u64(8))
                && !platform.iommus.iter().any(|known| known == Iommu::AmdVi(address))
            {
                platform.iommus.push(Iommu::AmdVi(address));
            }
        },
    );
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
        madt.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend_from_slice(&[0, 8, 1, 1, 1, 0, 0, 0]);
        madt.extend_from_slice(&[0, 8, 2, 2, 0, 0, 0, 0]);
        madt.extend_from_slice(&[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        madt.extend_from_slice(&[9, 16, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let mut hpet = alloc::vec![0; 20];
        hpet[8..16].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
        let mut mcfg = alloc::vec![0; 24];
        mcfg[8..16].copy_from_slice(&0xb000_0000u64.to_le_bytes());
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
        assert_eq!(platform.cores.iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(platform.io_apics.get(0), Some(IoApic { address: 0xfec0_0000, first_interrupt: 0 }));
        assert_eq!(platform.hpet, 0xfed0_0000);
        assert_eq!(
            platform.config_spaces.get(0),
            Some(ConfigSpace { address: 0xb000_0000, first_bus: 0, last_bus: 255 })
        );
        assert_eq!(platform.iommus.iter().collect::<Vec<_>>(), [Iommu::Vtd(0xfed9_0000), Iommu::AmdVi(0xfeb8_0000)]);
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
                let length = Fields(&memory.bytes).u32(start + 4).unwrap() as usize;
                if let Some(table) = memory.bytes.get_mut(start..start.saturating_add(length)).filter(|t| t.len() > 9) {
                    table[9] = table[9].wrapping_sub(sum(table));
                }
            }
            let _ = parse(&memory, &rsdp());
        }
    }
}
