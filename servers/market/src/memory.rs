//! The market's RAM: blocks of a power of two bytes, each an Untyped in a slot of the market's.
//!
//! The Untypeds found at boot are dirty; they are scrubbed when memory is first needed from them. A block is split into
//! at most 64 equal parts at a time, as one `Retype` does, until the size wanted is reached, and parts are merged again
//! only when a larger block is wanted: merging costs a scrub of the whole.
//!
//! Guarantees: a free block is clean and has no capability derived from it; blocks in use never overlap; a block that
//! comes back is revoked and scrubbed before it counts as free; one of which the kernel keeps something back never does.

use crate::machine::{Invoke, Slot};
use crate::slots::Slots;
use alloc::{collections::BTreeSet, vec::Vec};
use cap_spec::abi::{Fault, ObjectType};

/// log2 bytes of the smallest block.
pub const PAGE_BITS: u8 = 12;
/// log2 bytes of the largest block that is leased.
pub const LARGE_BITS: u8 = 21;
/// Parts that one split makes at most, as log2.
const SPLIT_BITS: u8 = 6;
/// log2 slots of a second-level CNode.
const NODE_BITS: u8 = 12;
/// log2 slots of one that takes a page.
const MIN_NODE_BITS: u8 = 6;
/// A further CNode is made when fewer slots than this are empty.
const FEW_SLOTS: u32 = 256;

/// A block by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(u32);

/// Why memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No block of that size is free, and none can be made by splitting or merging.
    NoMemory,
    /// The CSpace is full.
    NoSlots,
    /// The kernel refused.
    Kernel(Fault),
}

impl From<Fault> for MemoryError {
    fn from(fault: Fault) -> MemoryError {
        MemoryError::Kernel(fault)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Used,
    /// Parts `first..first + count`, of which so many are whole and free.
    Split {
        first: u32,
        count: u32,
        free: u32,
    },
    /// The kernel keeps some of it back, for good.
    Kept,
    /// Was a part of a block that has been merged; its number can be used again.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    slot: Slot,
    bits: u8,
    parent: Option<u32>,
    state: State,
}

/// The memory and the slots.
#[derive(Debug)]
pub struct Memory {
    /// The CSpace.
    pub slots: Slots,
    blocks: Vec<Block>,
    /// Free blocks by log2 bytes; the lowest number first, so that use gathers in few large blocks.
    free: [BTreeSet<u32>; 48],
    /// Untypeds of the boot that were not scrubbed yet.
    dirty: Vec<(Slot, u8)>,
    /// Runs of block numbers that can be used again, with their length.
    numbers: Vec<(u32, u32)>,
    /// Pages in free blocks and dirty Untypeds.
    free_pages: u64,
    /// The block about which the kernel was asked last.
    audited: usize,
}

const fn pages(bits: u8) -> u64 {
    1 << (bits - PAGE_BITS)
}

impl Memory {
    /// Memory that consists of these boot Untypeds (slot, log2 bytes); all are taken to be dirty.
    pub fn new(slots: Slots, boot: &[(Slot, u8)]) -> Memory {
        let mut dirty: Vec<(Slot, u8)> =
            boot.iter().copied().filter(|(_, bits)| (PAGE_BITS..48).contains(bits)).collect();
        // The smallest is scrubbed first: the first VM runs as soon as there is enough for it.
        dirty.sort_by_key(|(slot, bits)| core::cmp::Reverse((*bits, *slot)));
        let free_pages = dirty.iter().map(|(_, bits)| pages(*bits)).sum();
        Memory {
            slots,
            blocks: Vec::new(),
            free: core::array::from_fn(|_| BTreeSet::new()),
            dirty,
            numbers: Vec::new(),
            free_pages,
            audited: 0,
        }
    }

    /// Pages that are free, whether scrubbed or not.
    pub fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// log2 bytes of a block.
    pub fn bits(&self, id: BlockId) -> u8 {
        self.blocks[id.0 as usize].bits
    }

    /// The slot of a block's Untyped.
    pub fn slot(&self, id: BlockId) -> Slot {
        self.blocks[id.0 as usize].slot
    }

    /// Scrubs the next Untyped of the boot. `false` if there is none left.
    ///
    /// # Errors
    /// The kernel's.
    pub fn scrub_next(&mut self, kernel: &mut impl Invoke) -> Result<bool, MemoryError> {
        let Some(&(slot, bits)) = self.dirty.last() else { return Ok(false) };
        let kept = kernel.revoke(slot)?;
        self.dirty.pop();
        let id = self.number(1);
        self.blocks[id as usize] = Block { slot, bits, parent: None, state: State::Kept };
        match kept {
            0 => self.release(id),
            _ => self.free_pages -= pages(bits),
        }
        Ok(true)
    }

    /// A block of 2^`bits` bytes.
    ///
    /// # Errors
    /// [`MemoryError`]; then nothing is taken.
    pub fn take(&mut self, kernel: &mut impl Invoke, bits: u8) -> Result<BlockId, MemoryError> {
        self.ensure_slots(kernel)?;
        self.take_block(kernel, bits)
    }

    /// Takes a block back: revokes what was derived from it and scrubs it. It is free then, unless [`Memory::is_kept`].
    ///
    /// # Errors
    /// The kernel's; then the block stays in use.
    pub fn give(&mut self, kernel: &mut impl Invoke, id: BlockId) -> Result<(), MemoryError> {
        let block = self.blocks[id.0 as usize];
        debug_assert_eq!(block.state, State::Used);
        if kernel.revoke(block.slot)? == 0 {
            self.release(id.0);
            self.free_pages += pages(block.bits);
        } else {
            self.blocks[id.0 as usize].state = State::Kept;
        }
        Ok(())
    }

    /// True of a block that came back and is not used any more, as the kernel keeps some of it back.
    pub fn is_kept(&self, id: BlockId) -> bool {
        self.blocks[id.0 as usize].state == State::Kept
    }

    /// Whether the kernel says that a block is as a free one must be: an Untyped of its size, nothing of it used, nothing
    /// derived from it.
    pub fn is_clean(&self, kernel: &mut impl Invoke, id: BlockId) -> bool {
        let Block { slot, bits, .. } = self.blocks[id.0 as usize];
        let found = kernel.identify(slot).map(|found| (found.object, found.bits, found.has_children, found.detail));
        found == Ok((ObjectType::Untyped, bits, false, 1 << bits))
    }

    /// Asks the kernel about the free ones of the next `count` blocks, in turn; returns the pages of those that are not
    /// clean.
    pub fn audit(&mut self, kernel: &mut impl Invoke, count: usize) -> u64 {
        let mut dirty = 0;
        for _ in 0..count.min(self.blocks.len()) {
            self.audited = (self.audited + 1) % self.blocks.len();
            let block = self.blocks[self.audited];
            if block.state == State::Free && !self.is_clean(kernel, BlockId(self.audited as u32)) {
                dirty += pages(block.bits);
            }
        }
        dirty
    }

    fn take_block(&mut self, kernel: &mut impl Invoke, bits: u8) -> Result<BlockId, MemoryError> {
        loop {
            let found = (bits..48).find_map(|size| self.free[usize::from(size)].first().map(|id| (*id, size)));
            match found {
                Some((id, size)) if size == bits => {
                    self.free[usize::from(size)].remove(&id);
                    self.blocks[id as usize].state = State::Used;
                    self.count_parent(id, false);
                    self.free_pages -= pages(bits);
                    return Ok(BlockId(id));
                }
                Some((id, size)) => self.split(kernel, id, bits.max(size.saturating_sub(SPLIT_BITS)))?,
                None if self.scrub_next(kernel)? => {}
                None => self.merge(kernel, bits)?,
            }
        }
    }

    /// Splits a free block into parts of 2^`bits` bytes.
    fn split(&mut self, kernel: &mut impl Invoke, id: u32, bits: u8) -> Result<(), MemoryError> {
        let Block { slot, bits: size, .. } = self.blocks[id as usize];
        let count = 1u16 << (size - bits);
        let first_slot = self.slots.take(count).ok_or(MemoryError::NoSlots)?;
        if let Err(fault) = kernel.retype(slot, ObjectType::Untyped, bits, first_slot, count) {
            self.slots.give_run(first_slot, count);
            return Err(fault.into());
        }
        self.free[usize::from(size)].remove(&id);
        self.count_parent(id, false);
        let first = self.number(count.into());
        for at in 0..count {
            let part = first + u32::from(at);
            let slot = Slot::nested(first_slot.node(), first_slot.index() + at);
            self.blocks[part as usize] = Block { slot, bits, parent: Some(id), state: State::Free };
            self.free[usize::from(bits)].insert(part);
        }
        let count = count.into();
        self.blocks[id as usize].state = State::Split { first, count, free: count };
        Ok(())
    }

    /// Merges the smallest block of at least 2^`bits` bytes of which nothing is in use.
    fn merge(&mut self, kernel: &mut impl Invoke, bits: u8) -> Result<(), MemoryError> {
        let whole = self
            .blocks
            .iter()
            .enumerate()
            .filter(|(id, block)| block.bits >= bits && self.is_unused(*id as u32))
            .min_by_key(|(_, block)| block.bits);
        let id = whole.map(|(id, _)| id as u32).ok_or(MemoryError::NoMemory)?;
        let kept = kernel.revoke(self.blocks[id as usize].slot)?;
        self.forget_parts(id);
        self.blocks[id as usize].state = State::Kept;
        match kept {
            0 => self.release(id),
            // Clean parts lay between what is kept back.
            _ => self.free_pages -= pages(self.blocks[id as usize].bits),
        }
        Ok(())
    }

    /// True if the block is split and all its parts are free, or split and unused themselves.
    fn is_unused(&self, id: u32) -> bool {
        // A block is at most 2^47 bytes, so parts of parts of .. end after (47 - 12) levels.
        match self.blocks[id as usize].state {
            State::Split { free, count, .. } if free == count => true,
            State::Split { first, count, .. } => (first..first + count)
                .all(|part| self.blocks[part as usize].state == State::Free || self.is_unused(part)),
            _ => false,
        }
    }

    /// The capabilities of a merged block's parts are gone: so are the parts.
    fn forget_parts(&mut self, id: u32) {
        let State::Split { first, count, .. } = self.blocks[id as usize].state else { return };
        for part in first..first + count {
            self.forget_parts(part);
            let Block { slot, bits, .. } = self.blocks[part as usize];
            self.free[usize::from(bits)].remove(&part);
            self.slots.give(slot);
            self.blocks[part as usize].state = State::Gone;
        }
        self.numbers.push((first, count));
    }

    /// Marks a block free.
    fn release(&mut self, id: u32) {
        self.blocks[id as usize].state = State::Free;
        self.free[usize::from(self.blocks[id as usize].bits)].insert(id);
        self.count_parent(id, true);
    }

    /// Tells the parent that this part has become free, or is not any more.
    fn count_parent(&mut self, id: u32, became_free: bool) {
        let Some(parent) = self.blocks[id as usize].parent else { return };
        if let State::Split { free, .. } = &mut self.blocks[parent as usize].state {
            *free = if became_free { *free + 1 } else { *free - 1 };
        }
    }

    /// `count` consecutive block numbers.
    fn number(&mut self, count: u32) -> u32 {
        if let Some(at) = self.numbers.iter().position(|(_, length)| *length == count) {
            return self.numbers.swap_remove(at).0;
        }
        let first = self.blocks.len() as u32;
        let gone = Block { slot: Slot::root(0), bits: PAGE_BITS, parent: None, state: State::Gone };
        self.blocks.resize(self.blocks.len() + count as usize, gone);
        first
    }

    /// Makes a further CNode if slots run short.
    fn ensure_slots(&mut self, kernel: &mut impl Invoke) -> Result<(), MemoryError> {
        if self.slots.free() >= FEW_SLOTS {
            return Ok(());
        }
        // A smaller one when memory is in pieces; that nothing is left for any is no reason to fail while there are slots.
        let mut bits = NODE_BITS;
        let block = loop {
            match self.take_block(kernel, bits + cap_spec::abi::SLOT_BITS) {
                Err(MemoryError::NoMemory) if bits > MIN_NODE_BITS => bits -= 1,
                Err(MemoryError::NoMemory) if self.slots.free() > 0 => return Ok(()),
                block => break block?,
            }
        };
        let slot = self.slots.take_root().ok_or(MemoryError::NoSlots)?;
        kernel.retype(self.slot(block), ObjectType::CNode, bits, slot, 1)?;
        self.slots.add_node(slot.index(), bits);
        Ok(())
    }
}
