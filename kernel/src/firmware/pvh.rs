//! The Xen PVH start info (`hvm_start_info`, version 0 and 1), as QEMU's `-kernel` passes it in `ebx`.

use super::memory_map::MemoryMap;
use super::{Fields, Handover, HandoverError, PhysicalMemory, rsdp_at, string_at};

/// Magic number of `hvm_start_info`.
pub const START_MAGIC: u32 = 0x336e_c578;
/// Most entries of the memory map that are read.
const MAX_ENTRIES: u32 = 128;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u32 = 1;

/// Reads the start info at `address`.
///
/// # Errors
/// If it, its module list or its memory map can't be read, lacks its magic number, or has no memory map.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<Handover<'_>, HandoverError> {
    let unreadable = HandoverError::Unreadable;
    let info = Fields(memory.read(address, 40).ok_or(unreadable)?);
    if info.u32(0) != Some(START_MAGIC) {
        return Err(HandoverError::Magic);
    }
    let (Some(version), Some(modules)) = (info.u32(4), info.u32(12)) else { return Err(HandoverError::Truncated) };
    if version < 1 {
        return Err(HandoverError::NoMemoryMap);
    }
    let module = match info.u64(16) {
        Some(list) if modules > 0 => {
            let entry = Fields(memory.read(list, 32).ok_or(unreadable)?);
            entry.u64(0).zip(entry.u64(8))
        }
        _ => None,
    };
    let tail = Fields(memory.read(address, 56).ok_or(unreadable)?);
    let (Some(table), Some(entries)) = (tail.u64(40), tail.u32(48)) else { return Err(HandoverError::Truncated) };
    if table == 0 || entries == 0 {
        return Err(HandoverError::NoMemoryMap);
    }
    let entries = entries.min(MAX_ENTRIES);
    let table = Fields(memory.read(table, entries as usize * 24).ok_or(unreadable)?);
    let mut map = MemoryMap::default();
    for entry in 0..entries as usize {
        if let (Some(start), Some(bytes), Some(RAM)) =
            (table.u64(entry * 24), table.u64(entry * 24 + 8), table.u32(entry * 24 + 16))
        {
            map.add(start, bytes);
        }
    }
    Ok(Handover {
        memory: map,
        module,
        command_line: string_at(memory, info.u64(24).unwrap_or(0)),
        rsdp: rsdp_at(memory, info.u64(32).unwrap_or(0)),
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
