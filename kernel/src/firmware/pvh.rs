//! The Xen PVH start info (`hvm_start_info`, version 0 and 1), as QEMU's `-kernel` passes it in `ebx`.

use super::memory_map::MemoryMap;
use super::{COMMAND_LINE_MAX, Handover, HandoverError, PhysicalMemory, field, rsdp_at, string};

/// Magic number of `hvm_start_info`.
pub const START_MAGIC: u32 = 0x336e_c578;
/// Most entries of a memory map.
const MAX_ENTRIES: u32 = 128;

/// Reads the start info at `address`.
///
/// # Errors
/// If it, its module list or its memory map can't be read, lacks its magic number, or has no memory map, or one with more
/// entries than are read: an entry that is left out may say that a part of RAM is none.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<Handover<'_>, HandoverError> {
    let unreadable = HandoverError::Unreadable;
    let info = memory.read(address, 40).ok_or(unreadable)?;
    let [magic, version, _, modules]: [u32; 4] = field(info, 0).ok_or(unreadable)?;
    let [module_list, command_line, rsdp]: [u64; 3] = field(info, 16).ok_or(unreadable)?;
    if magic != START_MAGIC {
        return Err(HandoverError::Magic);
    }
    if version < 1 {
        return Err(HandoverError::NoMemoryMap);
    }
    let module = match modules {
        0 => None,
        _ => field(memory.read(module_list, 32).ok_or(unreadable)?, 0).map(|[start, bytes]: [u64; 2]| (start, bytes)),
    };
    let tail = memory.read(address, 56).ok_or(unreadable)?;
    let (Some(table @ 1..), Some(entries @ 1u32..)) = (field(tail, 40), field(tail, 48)) else {
        return Err(HandoverError::NoMemoryMap);
    };
    if entries > MAX_ENTRIES {
        return Err(HandoverError::TooManyEntries);
    }
    let table = memory.read(table, entries as usize * 24).ok_or(unreadable)?;
    let (mut map, mut named) = (MemoryMap::default(), MemoryMap::default());
    map.add_table(table, 24);
    named.add_named(table, 24);
    Ok(Handover {
        memory: map,
        named,
        module,
        command_line: string(memory.read(command_line, COMMAND_LINE_MAX).unwrap_or(&[])),
        rsdp: rsdp_at(memory, rsdp),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FakeMemory, random};
    use super::*;

    fn sample() -> FakeMemory {
        let mut memory = FakeMemory::new(0x1000, 0x2000);
        memory.put(0x1000, &START_MAGIC.to_le_bytes());
        memory.put(0x1004, &1u32.to_le_bytes());
        memory.put(0x100c, &1u32.to_le_bytes());
        for (at, value) in [(16, 0x1100u64), (24, 0x1200), (32, 0x1300), (40, 0x1400)] {
            memory.put(0x1000 + at, &value.to_le_bytes());
        }
        memory.put(0x1030, &2u32.to_le_bytes());
        memory.put(0x1100, &0x80_0000u64.to_le_bytes());
        memory.put(0x1108, &0x5000u64.to_le_bytes());
        memory.put(0x1200, b"quiet cores=2\0");
        memory.put(0x1300, b"RSD PTR ");
        for (entry, (start, bytes, kind)) in
            [(0u64, 0x9_fc00u64, 1u32), (0xf_0000, 0x1_0000, 2)].into_iter().enumerate()
        {
            let at = 0x1400 + entry as u64 * 24;
            memory.put(at, &start.to_le_bytes());
            memory.put(at + 8, &bytes.to_le_bytes());
            memory.put(at + 16, &kind.to_le_bytes());
        }
        memory
    }

    #[test]
    fn the_start_info_is_read() {
        let memory = sample();
        let handover = parse(&memory, 0x1000).unwrap();
        assert_eq!(handover.module, Some((0x80_0000, 0x5000)));
        assert_eq!(handover.command_line, b"quiet cores=2");
        assert_eq!(handover.rsdp.map(<[u8]>::len), Some(20));
        assert_eq!(handover.memory.bytes(), 0x9_f000);
    }

    #[test]
    fn a_map_with_more_entries_than_are_read_is_refused() {
        let mut memory = sample();
        memory.put(0x1030, &MAX_ENTRIES.to_le_bytes());
        assert!(parse(&memory, 0x1000).is_ok());
        memory.put(0x1030, &(MAX_ENTRIES + 1).to_le_bytes());
        assert_eq!(parse(&memory, 0x1000).unwrap_err(), HandoverError::TooManyEntries);
    }

    #[test]
    fn truncated_and_garbled_start_info_is_refused_or_survived() {
        assert_eq!(parse(&sample(), 0x2ff0).unwrap_err(), HandoverError::Unreadable);
        assert_eq!(parse(&sample(), 0x1100).unwrap_err(), HandoverError::Magic);
        let mut state = 5;
        for _ in 0..20_000 {
            let mut memory = sample();
            for _ in 0..1 + random(&mut state) % 6 {
                let at = (4 + random(&mut state) % 60) as usize;
                memory.bytes[at] = random(&mut state) as u8;
            }
            let _ = parse(&memory, 0x1000).map(|handover| handover.memory.bytes());
        }
    }
}
