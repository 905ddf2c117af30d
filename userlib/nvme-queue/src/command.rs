//! Commands, as the controller reads them (Base Specification, 3.3.3.1; NVM Command Set Specification, 3.2).

use crate::transfer::Transfer;
use device::IoAddress;

/// Words of an entry of a submission queue.
pub const WORDS: usize = 8;

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE_ZEROES: u8 = 0x08;

/// A command without its identifier, which the queue gives it: double words 0 and 1, those of the data pointer, and 10 to
/// 13. The others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    head: u64,
    first: u64,
    second: u64,
    dwords_10: u64,
    dwords_12: u64,
}

impl Command {
    /// A command with this operation code on this namespace (0 if it concerns none).
    #[must_use]
    pub const fn new(opcode: u8, namespace: u32) -> Command {
        let head = opcode as u64 | (namespace as u64) << 32;
        Command { head, first: 0, second: 0, dwords_10: 0, dwords_12: 0 }
    }

    /// With data.
    #[must_use]
    pub const fn with_transfer(mut self, transfer: &Transfer) -> Command {
        (self.first, self.second) = (transfer.first.0, transfer.second.0);
        self
    }

    /// With the address of a page, or of a ring that is to be made.
    #[must_use]
    pub const fn with_address(mut self, address: IoAddress) -> Command {
        self.first = address.0;
        self
    }

    /// With command double words 10 and 11.
    #[must_use]
    pub const fn with_dwords(mut self, dword_10: u32, dword_11: u32) -> Command {
        self.dwords_10 = dword_10 as u64 | (dword_11 as u64) << 32;
        self
    }

    /// The words as the controller reads them, with an identifier.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self, identifier: u16) -> [u64; WORDS] {
        let head = self.head | (identifier as u64) << 16;
        [head, 0, 0, self.first, self.second, self.dwords_10, self.dwords_12, 0]
    }
}

/// Reads or writes of one size between one place in memory and any place of a namespace. It is worked out once per
/// buffer; each use costs one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    command: Command,
    /// The last block that it can begin at.
    last: u64,
}

impl Access {
    /// The command for the blocks from this one on. `None` if they reach beyond the namespace's end.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self, block: u64) -> Option<Command> {
        if block > self.last {
            return None;
        }
        Some(Command { dwords_10: block, ..self.command })
    }
}

/// A namespace, or the part of one that an application has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its identifier.
    pub id: u32,
    /// Bytes of a block, as a power of two; 9 to 12.
    pub block_shift: u8,
    /// Blocks that it has.
    pub blocks: u64,
    /// Bytes of the largest transfer that the controller takes.
    pub max_transfer_bytes: u32,
}

impl Namespace {
    /// Reads into this place, of as many blocks as it has room for. `None` if that is no whole number from 1 to 65536, or
    /// more than the namespace has or the controller takes at once.
    #[must_use]
    pub fn reads(&self, transfer: &Transfer) -> Option<Access> {
        self.access(READ, transfer)
    }

    /// Writes from this place, likewise.
    #[must_use]
    pub fn writes(&self, transfer: &Transfer) -> Option<Access> {
        self.access(WRITE, transfer)
    }

    /// What was written before is to be on the medium when this is done.
    #[must_use]
    pub const fn flush(&self) -> Command {
        Command::new(FLUSH, self.id)
    }

    /// Makes these blocks read as zeroes. `None` if they are not 1 to 65536, or reach beyond the namespace's end.
    #[must_use]
    pub fn zeroes(&self, block: u64, blocks: u64) -> Option<Command> {
        let is_within = block.checked_add(blocks).is_some_and(|end| end <= self.blocks);
        let fits = is_within && (1..=0x1_0000).contains(&blocks);
        let command = Command::new(WRITE_ZEROES, self.id);
        fits.then_some(Command { dwords_10: block, dwords_12: blocks.wrapping_sub(1), ..command })
    }

    fn access(&self, opcode: u8, transfer: &Transfer) -> Option<Access> {
        let bytes = transfer.bytes();
        let count = bytes.checked_shr(u32::from(self.block_shift))?;
        let last = self.blocks.checked_sub(u64::from(count))?;
        let is_whole = count << self.block_shift == bytes;
        if !is_whole || !(1..=0x1_0000).contains(&count) || bytes > self.max_transfer_bytes {
            return None;
        }
        let command = Command::new(opcode, self.id).with_transfer(transfer);
        Some(Access { command: Command { dwords_12: u64::from(count - 1), ..command }, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Namespace = Namespace { id: 7, block_shift: 9, blocks: 100, max_transfer_bytes: 8192 };

    #[test]
    fn a_read_has_the_layout_of_the_specification() {
        let transfer = Transfer::in_pages(&[IoAddress(0x1000), IoAddress(0x3000)], 512, 4096).unwrap();
        let words = NAMESPACE.reads(&transfer).unwrap().at(92).unwrap().words(0x1234);
        assert_eq!(words, [0x0000_0007_1234_0002, 0, 0, 0x1200, 0x3000, 92, 7, 0]);
        assert_eq!(NAMESPACE.writes(&transfer).unwrap().at(92).unwrap().words(0)[0], 0x0000_0007_0000_0001);
        assert_eq!(NAMESPACE.flush().words(1), [0x0000_0007_0001_0000, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn zeroes_are_written_within_the_namespace() {
        assert_eq!(NAMESPACE.zeroes(90, 10).unwrap().words(5), [0x0000_0007_0005_0008, 0, 0, 0, 0, 90, 9, 0]);
        for (block, blocks) in [(90, 11), (100, 1), (0, 0), (u64::MAX, 1)] {
            assert_eq!(NAMESPACE.zeroes(block, blocks), None, "{block} {blocks}");
        }
        assert_eq!(Namespace { blocks: 1 << 40, ..NAMESPACE }.zeroes(0, 0x1_0001), None);
    }

    #[test]
    fn blocks_beyond_the_end_and_parts_of_blocks_are_refused() {
        let transfer = |bytes| Transfer::in_pages(&[IoAddress(0x1000)], 0, bytes).unwrap();
        let reads = |bytes| NAMESPACE.reads(&transfer(bytes));
        assert!(reads(512).unwrap().at(99).is_some() && reads(1024).unwrap().at(98).is_some());
        for (block, bytes) in [(100, 512), (99, 1024), (u64::MAX, 512)] {
            assert_eq!(reads(bytes).unwrap().at(block), None, "{block} {bytes}");
        }
        assert_eq!((reads(513), reads(511)), (None, None));
        assert_eq!(NAMESPACE.reads(&Transfer::NONE), None);
        assert_eq!(Namespace { max_transfer_bytes: 4095, ..NAMESPACE }.writes(&transfer(4096)), None);
        assert_eq!(Namespace { block_shift: 255, ..NAMESPACE }.writes(&transfer(4096)), None);
        assert_eq!(Namespace { blocks: 7, ..NAMESPACE }.writes(&transfer(4096)), None);
    }
}
