//! What firmware and boot loader tell the kernel: pure parsing over byte slices, with every length checked.
//!
//! Nothing here touches hardware: physical memory is reached through [`PhysicalMemory`], which the kernel implements
//! over its identity map and the tests over arrays. Garbled input gives an error or is left out, never a panic.

pub mod acpi;
pub mod command_line;
pub mod memory_map;
pub mod module;
pub mod multiboot2;
pub mod pvh;

/// Read access to the physical memory in which firmware and boot loader leave their tables.
pub trait PhysicalMemory {
    /// The bytes from `address` on, or `None` if that range may not be read.
    fn read(&self, address: u64, bytes: usize) -> Option<&[u8]>;
}

/// Little-endian fields of a table: `None` beyond its end.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// `count` bytes from `offset` on.
    pub fn bytes(self, offset: usize, count: usize) -> Option<&'a [u8]> {
        self.0.get(offset..offset.checked_add(count)?)
    }

    /// The byte at `offset`.
    pub fn u8(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    /// The 16-bit field at `offset`.
    pub fn u16(self, offset: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(offset, 2)?.try_into().ok()?))
    }

    /// The 32-bit field at `offset`.
    pub fn u32(self, offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(offset, 4)?.try_into().ok()?))
    }

    /// The 64-bit field at `offset`.
    pub fn u64(self, offset: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(offset, 8)?.try_into().ok()?))
    }
}

/// A list of at most `N` items; what does not fit is refused, not lost in silence.
#[derive(Clone, Copy, Debug)]
pub struct List<T: Copy, const N: usize> {
    items: [Option<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        List { items: [None; N], len: 0 }
    }
}

impl<T: Copy, const N: usize> List<T, N> {
    /// Appends an item; false if the list is full.
    pub fn push(&mut self, item: T) -> bool {
        let free = self.items.get_mut(self.len);
        let Some(slot) = free else { return false };
        *slot = Some(item);
        self.len += 1;
        true
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item at `index`.
    pub fn get(&self, index: usize) -> Option<T> {
        self.items.get(index).copied().flatten()
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.items.iter().take(self.len).filter_map(|item| *item)
    }
}

/// What the boot loader hands over, in whichever protocol.
#[derive(Clone, Copy, Debug)]
pub struct Handover<'a> {
    /// Memory that firmware calls usable RAM.
    pub memory: memory_map::MemoryMap,
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
}

/// Longest command line that is looked at, in bytes.
pub const COMMAND_LINE_MAX: usize = 512;

/// The zero-terminated string at `address`, cut at [`COMMAND_LINE_MAX`]; empty if unreadable.
pub fn string_at(memory: &impl PhysicalMemory, address: u64) -> &[u8] {
    let bytes = match memory.read(address, COMMAND_LINE_MAX) {
        Some(bytes) if address != 0 => bytes,
        _ => return &[],
    };
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// The ACPI root pointer at `address`: 36 bytes from revision 2 on, else 20.
pub fn rsdp_at(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    if address == 0 {
        return None;
    }
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
