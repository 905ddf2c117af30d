//! What firmware and boot loader tell the kernel: pure parsing over byte slices, with every length checked.
//!
//! Nothing here touches hardware: physical memory is reached through [`PhysicalMemory`], which the kernel implements
//! over its identity map and the tests over arrays. Garbled input gives an error or is left out, never a panic.

pub mod acpi;
pub mod command_line;
pub mod dmar;
pub mod memory_map;
pub mod module;
pub mod multiboot2;
pub mod pvh;
pub mod usable;

use zerocopy::FromBytes;

/// Read access to the physical memory in which firmware and boot loader leave their tables.
pub trait PhysicalMemory {
    /// The bytes from `address` on, or `None` if that range may not be read.
    fn read(&self, address: u64, bytes: usize) -> Option<&[u8]>;
}

/// The (little-endian) field at an offset of a table: `None` beyond its end.
pub fn field<T: FromBytes>(table: &[u8], offset: usize) -> Option<T> {
    Some(T::read_from_prefix(table.get(offset..)?).ok()?.0)
}

/// What the boot loader hands over, in whichever protocol.
#[derive(Clone, Debug)]
pub struct Handover<'a> {
    /// Memory that firmware calls usable RAM.
    pub memory: memory_map::MemoryMap,
    /// All that firmware's memory map names, RAM and what is reserved.
    pub named: memory_map::MemoryMap,
    /// The first boot module: address and bytes.
    pub module: Option<(u64, u64)>,
    /// The kernel command line without its terminator.
    pub command_line: &'a [u8],
    /// The ACPI root pointer's bytes (20 of revision 0, 36 of later ones).
    pub rsdp: Option<&'a [u8]>,
}

/// Why what the boot loader handed over can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverError {
    /// Memory that should hold a structure can't be read.
    Unreadable,
    /// A structure lacks its magic number.
    Magic,
    /// A structure is shorter than its header says or than it must be.
    Truncated,
    /// There is no memory map.
    NoMemoryMap,
    /// A memory map has more entries than are read.
    TooManyEntries,
}

/// Longest command line that is looked at, in bytes.
pub const COMMAND_LINE_MAX: usize = 512;

/// The string at the start of `bytes`, up to a zero or to [`COMMAND_LINE_MAX`].
pub fn string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().map_or(&[], |string| &string[..string.len().min(COMMAND_LINE_MAX)])
}

/// The ACPI root pointer at `address`: 36 bytes from revision 2 on, else 20.
pub fn rsdp_at(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    let short = memory.read(address, 20)?;
    if short[15] >= 2 { memory.read(address, 36) } else { Some(short) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::PhysicalMemory;
    extern crate alloc;
    use alloc::vec::Vec;

    /// Memory of a test: one array from a base address on.
    pub struct FakeMemory {
        pub base: u64,
        pub bytes: Vec<u8>,
    }

    impl FakeMemory {
        pub fn new(base: u64, bytes: usize) -> FakeMemory {
            FakeMemory { base, bytes: alloc::vec![0; bytes] }
        }

        pub fn put(&mut self, address: u64, bytes: &[u8]) {
            let at = (address - self.base) as usize;
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl PhysicalMemory for FakeMemory {
        fn read(&self, address: u64, bytes: usize) -> Option<&[u8]> {
            let at = usize::try_from(address.checked_sub(self.base)?).ok()?;
            self.bytes.get(at..at.checked_add(bytes)?)
        }
    }

    /// A small deterministic generator for garbled input.
    pub fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }
}
