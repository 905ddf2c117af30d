//! What firmware and the boot loader hand over: ACPI tables, the two forms of a start info, the head of the boot module.

use crate::{Checked, Target, ensure};
use cap_spec::abi::{IMAGE_BASE, MODULE_MAGIC, ROOT_ARCHIVE, VERSION};
use kernel::firmware::acpi::{self, Platform};
use kernel::firmware::memory_map::{MemoryMap, Region};
use kernel::firmware::module::{self, HEADER_BYTES, Module, ModuleError};
use kernel::firmware::usable::Usable;
use kernel::firmware::{COMMAND_LINE_MAX, Handover, PhysicalMemory, command_line, multiboot2, pvh};
use std::cell::Cell;

/// Where the bytes of an input lie in physical memory.
const BASE: u64 = 0x1000;
/// Reads of physical memory at most: root pointer and root table, two for each table of 128.
const READS: u32 = 4 + 2 * 128;
const PAGE: u64 = 4096;

/// Tables in memory: the first byte says whether sums are made right (bit 0), the root pointer begins after it.
pub const ACPI: Target = Target {
    name: "acpi",
    about: "ACPI tables: what they say is in bounds, reading is bounded, and no memory is used where registers answer.",
    check: |input| acpi(input, |platform| platform.clone()),
    twin: |input| acpi(input, |platform| Platform { hpet: 0, ..platform.clone() }),
    seeds: acpi_seeds,
    inputs: 20_000,
};

/// A start info: the first byte chooses which, the rest is memory.
pub const HANDOVER: Target = Target {
    name: "handover",
    about: "Multiboot2 and PVH start infos, and the command line: maps are in order, strings end, options are in range.",
    check: |input| handover(input, |handover| handover.command_line),
    twin: |input| handover(input, |handover| handover.rsdp.unwrap_or(handover.command_line)),
    seeds: handover_seeds,
    inputs: 20_000,
};

/// The size of the file in pages and bytes, then its head.
pub const MODULE: Target = Target {
    name: "module",
    about: "The head of the boot module: what is accepted fits, by arithmetic that can't wrap.",
    check: |input| boot_module(input, module::parse),
    twin: |input| boot_module(input, without_archive),
    seeds: module_seeds,
    inputs: 20_000,
};

struct Memory {
    bytes: Vec<u8>,
    reads: Cell<u32>,
}

impl Memory {
    fn new(bytes: &[u8]) -> Memory {
        Memory { bytes: bytes.to_vec(), reads: Cell::new(0) }
    }

    /// Makes the sum of a piece 0 by the byte at `place` in it.
    fn make_sum_right(&mut self, address: u64, bytes: usize, place: usize) {
        let Some(at) = address.checked_sub(BASE).and_then(|at| usize::try_from(at).ok()) else { return };
        let Some(piece) = at.checked_add(bytes).and_then(|end| self.bytes.get_mut(at..end)) else { return };
        if place < piece.len() {
            piece[place] = 0;
            piece[place] = 0u8.wrapping_sub(piece.iter().fold(0, |sum, &byte| sum.wrapping_add(byte)));
        }
    }

    fn number<const N: usize>(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        if let Some(read) = self.read(address, N) {
            bytes[..N].copy_from_slice(read);
        }
        u64::from_le_bytes(bytes)
    }

    fn make_table_right(&mut self, address: u64) {
        let length = self.number::<4>(address.saturating_add(4));
        self.make_sum_right(address, length as usize, 9);
    }

    /// As a firmware would that can add up: otherwise hardly an input gets past a sum.
    fn make_sums_right(&mut self) {
        self.make_sum_right(BASE, 20, 8);
        self.make_sum_right(BASE, 36, 32);
        let (root, width) = match self.number::<8>(BASE + 24) {
            wide if self.number::<1>(BASE + 15) >= 2 && wide != 0 => (wide, 8),
            _ => (self.number::<4>(BASE + 16), 4),
        };
        let entries = self.number::<4>(root.saturating_add(4)).saturating_sub(36) / width;
        for entry in 0..entries.min(128) {
            let at = root.saturating_add(36 + entry * width);
            let table = if width == 8 { self.number::<8>(at) } else { self.number::<4>(at) };
            self.make_table_right(table);
        }
        self.make_table_right(root);
        self.reads.set(0);
    }
}

impl PhysicalMemory for Memory {
    fn read(&self, address: u64, bytes: usize) -> Option<&[u8]> {
        self.reads.set(self.reads.get() + 1);
        let at = usize::try_from(address.checked_sub(BASE)?).ok()?;
        self.bytes.get(at..at.checked_add(bytes)?)
    }
}

fn acpi(input: &[u8], believed: impl Fn(&Platform) -> Platform) -> Checked {
    let Some((&flags, bytes)) = input.split_first() else { return Ok(()) };
    let mut memory = Memory::new(bytes);
    if flags & 1 != 0 {
        memory.make_sums_right();
    }
    let rsdp = &memory.bytes[..memory.bytes.len().min(36)];
    let found = acpi::parse(&memory, rsdp);
    ensure(memory.reads.get() <= READS, || format!("{} reads", memory.reads.get()))?;
    let Ok(platform) = found else { return Ok(()) };
    let mut cores = platform.cores.to_vec();
    cores.sort_unstable();
    cores.dedup();
    ensure(!cores.is_empty() && cores.len() == platform.cores.len(), || format!("cores {:?}", platform.cores))?;
    ensure(platform.io_apic != 0 && platform.hpet != 0, || "an IOAPIC or HPET at 0".into())?;
    let dmar = &platform.dmar;
    for requester in [0, 8, 0x100, 0xffff] {
        let unit = dmar.unit_of(0, requester, &|at: u16| Some((at as u8, 0xff)));
        ensure(unit.is_none_or(|unit| unit < dmar.units.len()), || format!("unit {unit:?}"))?;
    }
    for id in 0..=3 {
        let unit = dmar.source(kernel::firmware::dmar::Kind::IoApic, id).map(|(_, unit)| unit);
        ensure(unit.is_none_or(|unit| unit < dmar.units.len()), || format!("unit {unit:?} of an IOAPIC"))?;
    }
    let mut ram = MemoryMap::default();
    ram.add(0, 1 << 40);
    let none = Region { start: 0, end: 0 };
    let usable = Usable::new(ram, &believed(&platform), none, none).rest;
    for taken in platform.registers().chain(dmar.reserved.iter().copied()) {
        let shared = usable.regions().find(|region| region.overlaps(taken));
        ensure(shared.is_none(), || format!("{shared:x?} is used, where {taken:x?} answers"))?;
    }
    Ok(())
}

/// Whether a map is in order: whole pages, ascending, disjoint.
pub fn in_order(map: &MemoryMap) -> bool {
    let regions: Vec<Region> = map.regions().collect();
    let is_whole = |region: &Region| {
        region.start < region.end && region.start.is_multiple_of(PAGE) && region.end.is_multiple_of(PAGE)
    };
    regions.iter().all(is_whole) && regions.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

fn handover(input: &[u8], line: impl for<'a> Fn(&Handover<'a>) -> &'a [u8]) -> Checked {
    let Some((&form, bytes)) = input.split_first() else { return Ok(()) };
    let memory = Memory::new(bytes);
    let found = if form & 1 == 0 { multiboot2::parse(&memory, BASE) } else { pvh::parse(&memory, BASE) };
    ensure(memory.reads.get() <= 8, || format!("{} reads", memory.reads.get()))?;
    let Ok(handover) = found else { return Ok(()) };
    ensure(in_order(&handover.memory) && in_order(&handover.named), || "a map that is not in order".into())?;
    // Named regions are disjoint, so that what they share with a region adds up.
    let shared = |ram: Region, named: Region| ram.end.min(named.end).saturating_sub(ram.start.max(named.start));
    let named = |ram: Region| handover.named.regions().map(|named| shared(ram, named)).sum::<u64>();
    let is_named = |ram: Region| handover.named.is_full() || named(ram) == ram.bytes();
    ensure(handover.memory.regions().all(is_named), || "RAM that the map does not name".into())?;
    if let Some(rsdp) = handover.rsdp {
        ensure(matches!(rsdp.len(), 20 | 36), || format!("a root pointer of {} bytes", rsdp.len()))?;
        // What comes of it is another target's matter.
        let _ = acpi::parse(&memory, rsdp);
    }
    let line = line(&handover);
    ensure(line.len() <= COMMAND_LINE_MAX && !line.contains(&0), || format!("command line {line:?}"))?;
    let options = command_line::parse(line);
    ensure(options.cores > 0 && matches!(options.root_budget_us, 250..=9_000 | 10_000), || {
        format!("{options:?} of {line:?}")
    })
}

fn boot_module(input: &[u8], parse: impl Fn(&[u8], u64) -> Result<Module, ModuleError>) -> Checked {
    let Some((size, header)) = input.split_first_chunk() else { return Ok(()) };
    let bytes = u64::from_le_bytes(*size);
    let Ok(module) = parse(header, bytes) else { return Ok(()) };
    let wide = u128::from;
    let memory = wide(IMAGE_BASE)..wide(IMAGE_BASE) + wide(module.memory_bytes);
    let image_end = wide(HEADER_BYTES) + wide(module.image_bytes);
    let archive_end = wide(module.archive_offset) + wide(module.archive_bytes);
    let has_archive = module.archive_bytes != 0;
    let fits = [
        module.memory_bytes != 0 && memory.end <= wide(ROOT_ARCHIVE) && module.memory_bytes % 0x20_0000 == 0,
        image_end <= wide(bytes) && module.image_bytes <= module.memory_bytes,
        memory.contains(&wide(module.entry)) && memory.contains(&wide(module.cr3)) && module.cr3.is_multiple_of(PAGE),
        !has_archive || archive_end <= wide(bytes),
        !has_archive || wide(module.archive_offset) >= image_end && module.archive_offset.is_multiple_of(PAGE),
    ];
    ensure(fits == [true; 5], || format!("{module:x?} of {bytes:#x} bytes: {fits:?}"))
}

/// Reads a head whose archive is not looked at.
fn without_archive(header: &[u8], bytes: u64) -> Result<Module, ModuleError> {
    let mut blind = header.to_vec();
    if let Some(length) = blind.get_mut(56..64) {
        length.fill(0);
    }
    let word = |at: usize| header.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let module = module::parse(&blind, bytes)?;
    Ok(Module { archive_bytes: word(56).unwrap_or(0), ..module })
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn module_seeds() -> Vec<Vec<u8>> {
    let version = u64::from(VERSION);
    let head = [MODULE_MAGIC, version, 0x1800, 0x20_0000, IMAGE_BASE + 0x40, IMAGE_BASE + 0x1000, 0x3000, 0x100];
    let bare = [MODULE_MAGIC, version, 0x1000, 0x40_0000, IMAGE_BASE, IMAGE_BASE, 0, 0];
    [(0x3100, head), (0x2000, bare)].map(|(bytes, head)| [words(&[bytes]), words(&head)].concat()).to_vec()
}

/// A table with a right length; its sum is made right when it is read.
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.resize(36, 0);
    table.extend(body);
    table
}

fn acpi_seeds() -> Vec<Vec<u8>> {
    let madt = [
        &0xfee0_0000u32.to_le_bytes()[..],
        &[0, 0, 0, 0],
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0],
        &[9, 16, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let hpet = [&[0; 8][..], &0xfed0_0000u64.to_le_bytes(), &[0; 4]].concat();
    let mcfg = [&[0; 8][..], &0xb000_0000u64.to_le_bytes(), &[0, 0, 0, 255, 0, 0, 0, 0]].concat();
    let unit = [
        &[0, 0, 32, 0, 0, 0, 0, 0][..],
        &0xfed9_0000u64.to_le_bytes(),
        &[3, 8, 0, 0, 0, 0xf0, 31, 0, 1, 8, 0, 0, 0, 0, 2, 0],
    ];
    let all = [&[0, 0, 16, 0, 1, 0, 0, 0][..], &0xfed9_1000u64.to_le_bytes()];
    let reserved = [
        &[1, 0, 32, 0, 0, 0, 0, 0][..],
        &0x7000_0000u64.to_le_bytes(),
        &0x7000_0fffu64.to_le_bytes(),
        &[2, 8, 0, 0, 0, 0, 3, 0],
    ];
    let dmar = [&[38, 1][..], &[0; 10], &unit.concat(), &all.concat(), &reserved.concat()].concat();
    let ivrs = [&[0; 12][..], &[0x10, 0, 24, 0, 0, 0, 0x40, 0], &0xfeb8_0000u64.to_le_bytes(), &[0; 8]].concat();
    let tables = [
        table(b"APIC", &madt),
        table(b"HPET", &hpet),
        table(b"MCFG", &mcfg),
        table(b"DMAR", &dmar),
        table(b"IVRS", &ivrs),
    ];
    let root_at = BASE + 64;
    let mut at = root_at + 36 + 8 * tables.len() as u64;
    let mut list = Vec::new();
    for table in &tables {
        list.push(at);
        at += table.len() as u64;
    }
    let build = |signature, list: Vec<u8>, revision: u8| {
        let mut rsdp = b"RSD PTR ".to_vec();
        rsdp.resize(64, 0);
        rsdp[15] = revision;
        rsdp[16..20].copy_from_slice(&(root_at as u32).to_le_bytes());
        rsdp[20..24].copy_from_slice(&36u32.to_le_bytes());
        rsdp[24..32].copy_from_slice(&root_at.to_le_bytes());
        let mut root = table(signature, &list);
        root.resize(36 + 8 * tables.len(), 0);
        [vec![1], rsdp, root, tables.concat()].concat()
    };
    let narrow = list.iter().flat_map(|&at| (at as u32).to_le_bytes()).collect();
    vec![build(b"XSDT", words(&list), 2), build(b"RSDT", narrow, 0)]
}

fn handover_seeds() -> Vec<Vec<u8>> {
    let tag = |kind: u32, body: &[u8]| {
        let mut tag = [kind.to_le_bytes(), (8 + body.len() as u32).to_le_bytes()].concat();
        tag.extend(body);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    };
    let entries = words(&[0, 0x9_fc00, 1, 0x10_0000, 0x4000_0000, 1, 0xf_0000, 0x1_0000, 2]);
    let map = [&24u32.to_le_bytes()[..], &[0; 4], &entries].concat();
    let line = b"quiet cores=2 root_budget_us=500 trace=on pace=pit\0";
    let tags = [
        tag(1, line),
        tag(3, &[0x80_0000u32.to_le_bytes(), 0x81_0000u32.to_le_bytes()].concat()),
        tag(6, &map),
        tag(14, b"RSD PTR 012345678901"),
        tag(15, b"RSD PTR 0123456789012345678901234567"),
        tag(0, &[]),
    ]
    .concat();
    let multiboot = [&[0][..], &(8 + tags.len() as u32).to_le_bytes(), &[0; 4], &tags].concat();
    let mut start = [0x336e_c578u32, 1, 0, 1].map(u32::to_le_bytes).concat();
    start.extend(words(&[BASE + 0x40, BASE + 0x60, BASE + 0xa0, BASE + 0xd0, 3]));
    start.resize(0x40, 0);
    start.extend(words(&[0x80_0000, 0x5000, 0, 0]));
    start.extend(line);
    start.resize(0xa0, 0);
    start.extend(b"RSD PTR \0firmw\x02");
    start.resize(0xd0, 0);
    start.extend(&entries);
    // The command line is read whole, so there is something behind it.
    start.resize(0x400, 0);
    vec![multiboot, [vec![1], start].concat()]
}
