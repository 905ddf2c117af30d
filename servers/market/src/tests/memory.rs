//! Blocks of RAM against the model.

use super::model::Model;
use crate::machine::{Invoke, Slot};
use crate::memory::{BlockId, Memory, MemoryError};
use crate::slots::Slots;
use alloc::vec::Vec;
use cap_spec::abi::{ObjectType, slots};

/// Memory of one Untyped of 2^`bits` bytes on a machine without anything else.
fn memory(bits: u8) -> (Model, Memory) {
    let boot = Slot::root(slots::FREE + 1);
    (Model::new(1, &[bits]), Memory::new(Slots::new(64, 4096), &[(boot, bits)]))
}

#[test]
fn every_page_can_be_had_once_and_comes_back_clean() {
    let (mut model, mut memory) = memory(20);
    assert_eq!(memory.free_pages(), 256);
    let mut blocks = Vec::new();
    while let Ok(block) = memory.take(&mut model, 12) {
        let lease = memory.slots.take(1).unwrap();
        model.retype(memory.slot(block), ObjectType::Untyped, 12, lease, 1).unwrap();
        blocks.push((block, lease));
    }
    assert_eq!((blocks.len(), memory.free_pages()), (256, 0));
    assert_eq!(memory.take(&mut model, 12), Err(MemoryError::NoMemory));
    for (block, lease) in blocks {
        assert!(model.identify(memory.slot(block)).unwrap().has_children);
        memory.give(&mut model, block).unwrap();
        let found = model.identify(memory.slot(block)).unwrap();
        assert_eq!((found.has_children, found.detail), (false, 4096));
        memory.slots.give(lease);
    }
    assert_eq!(memory.free_pages(), 256);
    assert!(memory.take(&mut model, 20).is_ok(), "all pages merge into the whole again");
}

#[test]
fn nothing_is_merged_while_a_part_is_in_use() {
    let (mut model, mut memory) = memory(16);
    let blocks: Vec<BlockId> = (0..16).map(|_| memory.take(&mut model, 12).unwrap()).collect();
    for block in &blocks[1..] {
        memory.give(&mut model, *block).unwrap();
    }
    assert_eq!(memory.take(&mut model, 16), Err(MemoryError::NoMemory));
    memory.give(&mut model, blocks[0]).unwrap();
    let whole = memory.take(&mut model, 16).unwrap();
    assert_eq!((memory.bits(whole), memory.free_pages()), (16, 0));
    memory.give(&mut model, whole).unwrap();
    assert!(memory.take(&mut model, 13).is_ok(), "and can be split anew");
}

#[test]
fn what_the_kernel_keeps_back_is_not_used_again_and_everything_else_is() {
    let (mut model, mut memory) = memory(16);
    let blocks: Vec<BlockId> = (0..16).map(|_| memory.take(&mut model, 12).unwrap()).collect();
    let lease = memory.slots.take(1).unwrap();
    model.retype(memory.slot(blocks[3]), ObjectType::Frame, 12, lease, 1).unwrap();
    // Of the others nothing has been made.
    model.keeps_back = true;
    for &block in &blocks {
        memory.give(&mut model, block).unwrap();
        assert_eq!(memory.is_kept(block), block == blocks[3]);
    }
    assert_eq!((memory.free_pages(), memory.audit(&mut model, 100)), (15, 0));
    assert_eq!(memory.take(&mut model, 16), Err(MemoryError::NoMemory), "the whole is never merged again");
    let again: Vec<BlockId> = core::iter::from_fn(|| memory.take(&mut model, 12).ok()).collect();
    assert_eq!((again.len(), again.contains(&blocks[3])), (15, false));
}

#[test]
fn small_untypeds_are_scrubbed_first_and_only_as_needed() {
    let first = slots::FREE + 1;
    let mut model = Model::new(1, &[24, 16]);
    let boot = [(Slot::root(first), 24), (Slot::root(first + 1), 16)];
    let mut memory = Memory::new(Slots::new(64, 4096), &boot);
    memory.take(&mut model, 14).unwrap();
    assert_eq!(model.scrubbed, 16, "the large one is still dirty");
    memory.take(&mut model, 20).unwrap();
    assert_eq!(model.scrubbed, 16 + 4096);
}

#[test]
fn slots_never_run_out_while_there_is_memory() {
    let boot = Slot::root(slots::FREE + 1);
    let mut model = Model::new(1, &[23]);
    let mut memory = Memory::new(Slots::new(64, 512), &[(boot, 23)]);
    let mut count = 0;
    while memory.take(&mut model, 12).is_ok() {
        count += 1;
    }
    // 2,048 pages and their parents need many more than 448 slots: CNodes were made, of what pages there were.
    assert!((1_900..2_048).contains(&count), "{count}");
}
