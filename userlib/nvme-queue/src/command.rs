//! Commands, as the controller reads them (Base Specification, 3.3.3.1; NVM Command Set Specification, 3.2).

use crate::transfer::Transfer;
use device::IoAddress;

/// Words of a submission queue entry.
pub const WORDS: usize = 8;

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;

/// A command without its identifier, which the queue gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub(crate) [u64; WORDS]);

impl Command {
    /// A command with this operation code on this namespace (0 if it concerns none).
    #[must_use]
    pub const fn new(opcode: u8, namespace: u32) -> Command {
        Command([opcode as u64 | (namespace as u64) << 32, 0, 0, 0, 0, 0, 0, 0])
    }

    /// With data.
    #[must_use]
    pub const fn with_transfer(mut self, transfer: &Transfer) -> Command {
        self.0[3] = transfer.first.0;
        self.0[4] = transfer.second.0;
        self
    }

    /// With the address of a page, or of a ring that is to be made.
    #[must_use]
    pub const fn with_address(mut self, address: IoAddress) -> Command {
        self.0[3] = address.0;
        self
    }

    /// With command double words 10 and 11.
    #[must_use]
    pub const fn with_dwords(mut self, dword_10: u32, dword_11: u32) -> Command {
        self.0[5] = dword_10 as u64 | (dword_11 as u64) << 32;
        self
    }

    /// The words as the controller reads them, with an identifier.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self, identifier: u16) -> [u64; WORDS] {
        let mut words = self.0;
        words[0] |= (identifier as u64) << 16;
        words
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
    /// A read of blocks from `block` on, as many as the transfer has room for. `None` if that is no whole number from 1
    /// to 65536, too much at once, or beyond the end.
    #[inline]
    #[must_use]
    pub fn read(&self, block: u64, transfer: &Transfer) -> Option<Command> {
        self.command(READ, block, transfer)
    }

    /// A write, likewise.
    #[inline]
    #[must_use]
    pub fn write(&self, block: u64, transfer: &Transfer) -> Option<Command> {
        self.command(WRITE, block, transfer)
    }

    /// What was written before is to be on the medium when this is done.
    #[must_use]
    pub const fn flush(&self) -> Command {
        Command::new(FLUSH, self.id)
    }

    #[inline]
    fn command(&self, opcode: u8, block: u64, transfer: &Transfer) -> Option<Command> {
        let bytes = transfer.bytes();
        let shift = u32::from(self.block_shift) & 31;
        let count = bytes >> shift;
        let end = block.checked_add(u64::from(count))?;
        let is_whole = count << shift == bytes;
        if !is_whole || count.wrapping_sub(1) > 0xffff || bytes > self.max_transfer_bytes || end > self.blocks {
            return None;
        }
        let mut command = Command::new(opcode, self.id).with_transfer(transfer);
        command.0[5] = block;
        command.0[6] = u64::from(count - 1);
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Namespace = Namespace { id: 7, block_shift: 9, blocks: 100, max_transfer_bytes: 8192 };

    #[test]
    fn a_read_has_the_layout_of_the_specification() {
        let transfer = Transfer::in_pages(&[IoAddress(0x1000), IoAddress(0x3000)], 512, 4096).unwrap();
        let words = NAMESPACE.read(92, &transfer).unwrap().words(0x1234);
        assert_eq!(words, [0x0000_0007_1234_0002, 0, 0, 0x1200, 0x3000, 92, 7, 0]);
        assert_eq!(NAMESPACE.write(92, &transfer).unwrap().words(0)[0], 0x0000_0007_0000_0001);
        assert_eq!(NAMESPACE.flush().words(1), [0x0000_0007_0001_0000, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn blocks_beyond_the_end_and_parts_of_blocks_are_refused() {
        let transfer = |bytes| Transfer::in_pages(&[IoAddress(0x1000)], 0, bytes).unwrap();
        assert!(NAMESPACE.read(99, &transfer(512)).is_some());
        for (block, bytes) in [(100, 512), (99, 1024), (u64::MAX, 512), (0, 513), (0, 511)] {
            assert_eq!(NAMESPACE.read(block, &transfer(bytes)), None, "{block} {bytes}");
        }
        assert_eq!(NAMESPACE.read(0, &Transfer::NONE), None);
        assert_eq!(Namespace { max_transfer_bytes: 4095, ..NAMESPACE }.read(0, &transfer(4096)), None);
        assert_eq!(Namespace { block_shift: 255, ..NAMESPACE }.read(0, &transfer(4096)), None);
    }
}
