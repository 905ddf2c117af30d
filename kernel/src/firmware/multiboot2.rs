//! The Multiboot2 information (specification 2.0, section 3.6), as GRUB passes it in `ebx`.

use super::memory_map::MemoryMap;
use super::{COMMAND_LINE_MAX, Fields, Handover, HandoverError, PhysicalMemory};

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
/// Type of usable RAM in the memory map.
const RAM: u32 = 1;

/// Reads the information at `address`.
///
/// # Errors
/// If it can't be read, a tag is shorter than its header or runs off the end, or no memory map is among the tags.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<Handover<'_>, HandoverError> {
    let head = Fields(memory.read(address, 8).ok_or(HandoverError::Unreadable)?);
    let total = head.u32(0).filter(|&total| (8..=MAX_BYTES).contains(&total)).ok_or(HandoverError::Truncated)?;
    let info = Fields(memory.read(address, total as usize).ok_or(HandoverError::Unreadable)?);
    let mut handover = Handover { memory: MemoryMap::default(), module: None, command_line: &[], rsdp: None };
    let mut at = 8;
    while at < total as usize {
        let (Some(kind), Some(bytes)) = (info.u32(at), info.u32(at + 4)) else { return Err(HandoverError::Truncated) };
        if bytes < 8 {
            return Err(HandoverError::Truncated);
        }
        let tag = Fields(info.bytes(at, bytes as usize).ok_or(HandoverError::Truncated)?);
        match kind {
            TAG_END => break,
            TAG_COMMAND_LINE => handover.command_line = string(&tag.0[8..]),
            TAG_MODULE if handover.module.is_none() => {
                let (Some(start), Some(end)) = (tag.u32(8), tag.u32(12)) else { return Err(HandoverError::Truncated) };
                handover.module = Some((u64::from(start), u64::from(end.saturating_sub(start))));
            }
            TAG_MEMORY_MAP => memory_map(tag, &mut handover.memory)?,
            TAG_ACPI_NEW => handover.rsdp = tag.bytes(8, 36),
            TAG_ACPI_OLD if handover.rsdp.is_none() => handover.rsdp = tag.bytes(8, 20),
            _ => {}
        }
        // At most MAX_BYTES / 8 rounds: every tag has at least 8 bytes.
        at += (bytes as usize).next_multiple_of(8);
    }
    if handover.memory.bytes() == 0 { Err(HandoverError::NoMemoryMap) } else { Ok(handover) }
}

fn memory_map(tag: Fields<'_>, map: &mut MemoryMap) -> Result<(), HandoverError> {
    let entry_bytes = tag.u32(8).filter(|&bytes| bytes >= 24).ok_or(HandoverError::Truncated)? as usize;
    let mut at = 16;
    while let (Some(start), Some(bytes), Some(kind)) = (tag.u64(at), tag.u64(at + 8), tag.u32(at + 16)) {
        if kind == RAM {
            map.add(start, bytes);
        }
        at += entry_bytes;
    }
    Ok(())
}

fn string(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().take(COMMAND_LINE_MAX).position(|&byte| byte == 0);
    &bytes[..end.unwrap_or(bytes.len().min(COMMAND_LINE_MAX))]
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

    fn sample() -> FakeMemory {
        let mut info = alloc::vec![0u8; 8];
        tag(&mut info, TAG_COMMAND_LINE, b"cores=1\0");
        let mut module = Vec::new();
        module.extend_from_slice(&0x100_0000u32.to_le_bytes());
        module.extend_from_slice(&0x100_3000u32.to_le_bytes());
        module.push(0);
        tag(&mut info, TAG_MODULE, &module);
        let mut map = Vec::new();
        map.extend_from_slice(&24u32.to_le_bytes());
        map.extend_from_slice(&0u32.to_le_bytes());
        for (start, bytes, kind) in [(0u64, 0x9_f000u64, 1u32), (0x10_0000, 0x700_0000, 1), (0xfec0_0000, 0x1000, 2)] {
            map.extend_from_slice(&start.to_le_bytes());
            map.extend_from_slice(&bytes.to_le_bytes());
            map.extend_from_slice(&kind.to_le_bytes());
            map.extend_from_slice(&0u32.to_le_bytes());
        }
        tag(&mut info, TAG_MEMORY_MAP, &map);
        tag(&mut info, TAG_ACPI_OLD, &[7; 20]);
        tag(&mut info, TAG_END, &[]);
        let total = info.len() as u32;
        info[..4].copy_from_slice(&total.to_le_bytes());
        FakeMemory { base: 0x9000, bytes: info }
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
