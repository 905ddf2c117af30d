//! The Multiboot2 information (specification 2.0, section 3.6), as GRUB passes it in `ebx`.

use super::memory_map::MemoryMap;
use super::{Handover, HandoverError, PhysicalMemory, field, string};

/// What `eax` holds at the entry.
pub const BOOT_MAGIC: u32 = 0x36d7_6289;
/// Largest information that is read, in bytes.
const MAX_BYTES: u32 = 64 * 1024;

const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_MODULE: u32 = 3;
const TAG_MEMORY_MAP: u32 = 6;
const TAG_ACPI_OLD: u32 = 14;
const TAG_ACPI_NEW: u32 = 15;

/// Reads the information at `address`.
///
/// # Errors
/// If it can't be read, a tag is shorter than its header or runs off the end, or no memory map is among the tags.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<Handover<'_>, HandoverError> {
    let (unreadable, truncated) = (HandoverError::Unreadable, HandoverError::Truncated);
    let total: Option<u32> = field(memory.read(address, 8).ok_or(unreadable)?, 0);
    let total = total.filter(|total| (8..=MAX_BYTES).contains(total)).ok_or(truncated)?;
    let mut rest = &memory.read(address, total as usize).ok_or(unreadable)?[8..];
    let mut handover = Handover {
        memory: MemoryMap::default(),
        named: MemoryMap::default(),
        module: None,
        command_line: &[],
        rsdp: None,
    };
    // Only the first map counts: a second one would give back what the first one calls something else than RAM.
    let mut has_map = false;
    // At most MAX_BYTES / 8 rounds: every tag has at least 8 bytes.
    while !rest.is_empty() {
        let (kind, bytes) = field::<[u32; 2]>(rest, 0).map(|[kind, bytes]| (kind, bytes as usize)).ok_or(truncated)?;
        let tag = rest.get(..bytes).filter(|tag| tag.len() >= 8).ok_or(truncated)?;
        match kind {
            TAG_END => break,
            TAG_COMMAND_LINE => handover.command_line = string(&tag[8..]),
            TAG_MODULE if handover.module.is_none() => {
                let [start, end]: [u32; 2] = field(tag, 8).ok_or(truncated)?;
                handover.module = Some((u64::from(start), u64::from(end.saturating_sub(start))));
            }
            TAG_MEMORY_MAP if !has_map => {
                has_map = true;
                let entry_bytes: Option<u32> = field(tag, 8);
                let entry_bytes = entry_bytes.filter(|&bytes| bytes >= 24).ok_or(truncated)? as usize;
                let table = tag.get(16..).unwrap_or(&[]);
                handover.memory.add_table(table, entry_bytes);
                handover.named.add_named(table, entry_bytes);
            }
            TAG_ACPI_NEW => handover.rsdp = tag.get(8..44),
            TAG_ACPI_OLD if handover.rsdp.is_none() => handover.rsdp = tag.get(8..28),
            _ => {}
        }
        rest = rest.get(bytes.next_multiple_of(8)..).unwrap_or(&[]);
    }
    if handover.memory.bytes() == 0 { Err(HandoverError::NoMemoryMap) } else { Ok(handover) }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::super::tests::{FakeMemory, random};
    use super::*;
    use alloc::vec::Vec;

    fn tag(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(8 + body.len() as u32).to_le_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// The information with its size, where the tests read it.
    fn whole(mut info: Vec<u8>) -> FakeMemory {
        let total = info.len() as u32;
        info[..4].copy_from_slice(&total.to_le_bytes());
        FakeMemory { base: 0x9000, bytes: info }
    }

    /// The body of a memory map: start, bytes, type.
    fn map(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut map = Vec::new();
        map.extend_from_slice(&24u32.to_le_bytes());
        map.extend_from_slice(&0u32.to_le_bytes());
        for (start, bytes, kind) in entries {
            map.extend_from_slice(&start.to_le_bytes());
            map.extend_from_slice(&bytes.to_le_bytes());
            map.extend_from_slice(&u64::from(*kind).to_le_bytes());
        }
        map
    }

    fn sample() -> FakeMemory {
        let mut info = alloc::vec![0u8; 8];
        tag(&mut info, TAG_COMMAND_LINE, b"cores=1\0");
        let mut module = Vec::new();
        module.extend_from_slice(&0x100_0000u32.to_le_bytes());
        module.extend_from_slice(&0x100_3000u32.to_le_bytes());
        module.push(0);
        tag(&mut info, TAG_MODULE, &module);
        let entries = [(0, 0x9_f000, 1), (0x10_0000, 0x700_0000, 1), (0xfec0_0000, 0x1000, 2)];
        tag(&mut info, TAG_MEMORY_MAP, &map(&entries));
        tag(&mut info, TAG_ACPI_OLD, &[7; 20]);
        tag(&mut info, TAG_END, &[]);
        whole(info)
    }

    #[test]
    fn a_second_memory_map_gives_nothing_back() {
        let mut info = alloc::vec![0u8; 8];
        tag(&mut info, TAG_MEMORY_MAP, &map(&[(0, 0x80_0000, 1), (0x40_0000, 0x10_0000, 2)]));
        tag(&mut info, TAG_MEMORY_MAP, &map(&[(0, 0x80_0000, 1)]));
        tag(&mut info, TAG_END, &[]);
        let memory = whole(info);
        let handover = parse(&memory, 0x9000).unwrap();
        let regions: Vec<(u64, u64)> = handover.memory.regions().map(|region| (region.start, region.end)).collect();
        assert_eq!(regions, [(0, 0x40_0000), (0x50_0000, 0x80_0000)]);
    }

    #[test]
    fn the_information_is_read() {
        let memory = sample();
        let handover = parse(&memory, 0x9000).unwrap();
        assert_eq!(handover.command_line, b"cores=1");
        assert_eq!(handover.module, Some((0x100_0000, 0x3000)));
        assert_eq!(handover.memory.bytes(), 0x9_f000 + 0x700_0000);
        assert_eq!(handover.rsdp, Some(&[7u8; 20][..]));
    }

    #[test]
    fn truncated_and_garbled_information_is_refused_or_survived() {
        let whole = sample().bytes;
        for cut in 0..whole.len() {
            let memory = FakeMemory { base: 0x9000, bytes: whole[..cut].to_vec() };
            assert_eq!(parse(&memory, 0x9000).unwrap_err(), HandoverError::Unreadable);
        }
        let mut state = 11;
        for _ in 0..20_000 {
            let mut memory = sample();
            for _ in 0..1 + random(&mut state) % 5 {
                let at = (random(&mut state) % whole.len() as u64) as usize;
                memory.bytes[at] = random(&mut state) as u8;
            }
            let _ = parse(&memory, 0x9000).map(|handover| handover.memory.bytes());
        }
    }
}
