//! An IOMMU that does not answer: what it may go on reaching is never handed out again, and everything else is.

use super::base::*;
use crate::cap::Cap;
use crate::device_model::{PHYSICAL, PLAIN};
use crate::types::Hpa;
use cap_spec::abi::{DOMAIN_BITS, Error, Label, ObjectType};

/// What is free of a block.
const BLOCK: u64 = 0x4000;
const FUNCTION: u64 = FREE;
const OTHER_FUNCTION: u64 = FREE + 1;
/// Blocks of four pages, the objects that they were made into, and what was derived from those.
const BLOCKS: u64 = 20;
const DOMAIN: u64 = 30;
const TABLES: u64 = 31;
const FRAME: u64 = 33;
const COPY: u64 = 34;

/// A function attached to a domain in which a page is mapped: the copy of a frame of the first of four blocks. The domain is
/// made of the second block and its neighbours, the tables of the last.
fn world() -> World {
    let mut world = World::new();
    for (slot, function) in [(FUNCTION, PLAIN), (OTHER_FUNCTION, PHYSICAL)] {
        world.kernel.give(world.root.plus(slot as u32), Cap::PciFunction { lease: 0, function });
    }
    world.retype(MEMORY, ObjectType::Untyped, 14, BLOCKS, 4);
    world.retype(BLOCKS + 1, ObjectType::IommuDomain, 0, DOMAIN, 1);
    world.retype(BLOCKS + 3, ObjectType::PageTable, 0, TABLES, 2);
    for (table, level) in [(TABLES, 2), (TABLES + 1, 1)] {
        world.ok(Label::PageTableMapIo, table, [DOMAIN, 0, level, 0, 0]);
    }
    world.retype(BLOCKS, ObjectType::Frame, 12, FRAME, 1);
    world.copy(FRAME, COPY);
    world.ok(Label::FrameMapIo, COPY, [DOMAIN, 0, RW, 0, 0]);
    world.ok(Label::PciFunctionAttach, FUNCTION, [DOMAIN, 0, 0, 0, 0]);
    world
}

/// The bytes that a Revoke says that it has kept back.
fn revoked(world: &mut World, slot: u64) -> u64 {
    world.ok(Label::CNodeRevoke, CNODE, [slot, 0, 0, 0, 0])[0]
}

/// The bytes that the frames of a block can still be made of are those above `kept`.
fn offers_all_but(world: &mut World, block: u64, kept: u64) {
    let pages = (BLOCK - kept) >> 12;
    world.refused(
        Label::UntypedRetype,
        block,
        [ObjectType::Frame as u64, 12, CNODE, 60, pages + 1],
        Error::NotEnoughMemory,
        0,
    );
    if pages == 0 {
        return;
    }
    world.retype(block, ObjectType::Frame, 12, 60, pages);
    for slot in 60..60 + pages {
        let Cap::Frame { base, .. } = world.slot(slot).cap else { panic!("{slot} holds no frame") };
        assert!(base.get() % BLOCK >= kept, "{base:?} is handed out again");
        world.delete(slot);
    }
    assert_eq!(revoked(world, block), kept);
}

#[test]
fn a_page_that_could_not_be_flushed_stays_below_the_watermark_of_its_block() {
    let mut world = world();
    world.kernel.machine.devices.is_stuck = true;
    assert_eq!(revoked(&mut world, BLOCKS), 0x1000);
    assert!(world.slot(COPY).is_empty() && world.slot(FRAME).is_empty(), "the revocation goes on");
    offers_all_but(&mut world, BLOCKS, 0x1000);
    // The rest goes on as before.
    assert_eq!(revoked(&mut world, BLOCKS + 2), 0);
    offers_all_but(&mut world, BLOCKS + 2, 0);
    // Nor does the page come back when its block is merged with others.
    for block in BLOCKS..BLOCKS + 4 {
        world.delete(block);
    }
    let kept = revoked(&mut world, MEMORY);
    assert!((0x1000..4 * BLOCK).contains(&kept), "{kept:#x}");
    world.retype(MEMORY, ObjectType::Frame, 12, 60, 1);
    let Cap::Frame { base, .. } = world.slot(60).cap else { panic!("no frame") };
    assert_eq!(base, Hpa::new(MEMORY_BASE + kept));
}

#[test]
fn while_the_iommu_answers_everything_comes_back() {
    let mut world = world();
    for block in BLOCKS..BLOCKS + 4 {
        assert_eq!(revoked(&mut world, block), 0);
        offers_all_but(&mut world, block, 0);
    }
}

#[test]
fn what_was_reached_by_a_function_that_could_not_be_detached_is_kept_back_later() {
    let mut world = world();
    world.kernel.machine.devices.is_stuck = true;
    world.ok(Label::PciFunctionDetach, FUNCTION, [0; 5]);
    // The domain has no function any more, and nobody is flushed.
    world.ok(Label::FrameUnmap, COPY, [0; 5]);
    assert_eq!(revoked(&mut world, BLOCKS), 0x1000);
    // The unit may still walk the tables and the root of the domain.
    assert_eq!(revoked(&mut world, BLOCKS + 3), 0x2000);
    assert_eq!(revoked(&mut world, BLOCKS + 1), 1 << DOMAIN_BITS);
}

#[test]
fn memory_in_quarantine_is_not_mapped_again_and_nothing_more_gets_there() {
    let mut world = world();
    world.retype(MEMORY, ObjectType::Vm, 0, 40, 1);
    world.retype(MEMORY, ObjectType::PageTable, 0, 41, 3);
    for level in [3, 2, 1] {
        world.ok(Label::PageTableMap, 44 - level, [40, 0, level, 0, 0]);
    }
    world.retype(MEMORY, ObjectType::Frame, 12, 50, 3);
    world.ok(Label::FrameMapIo, 51, [DOMAIN, 0x1000, RW, 0, 0]);
    world.kernel.machine.devices.is_stuck = true;
    world.ok(Label::FrameUnmap, COPY, [0; 5]);
    // Whoever else has a capability to the page.
    world.refused(Label::FrameMap, FRAME, [40, 0, RW, 0, 0], Error::InUse, 0);
    world.refused(Label::FrameMapIo, FRAME, [DOMAIN, 0, RW, 0, 0], Error::InvalidCapability, 1);
    // In a row, too, of which one is in quarantine.
    world.ok(Label::FrameUnmap, 51, [0; 5]);
    world.refused(Label::FrameMap, 50, [40, 0, RW, 2, 0], Error::InUse, 4);
    world.ok(Label::FrameMap, 50, [40, 0, RW, 0, 0]);
    world.ok(Label::PageTableUnmap, TABLES + 1, [0; 5]);
    world.refused(Label::PageTableMap, TABLES + 1, [40, 1 << 30, 2, 0, 0], Error::InUse, 0);
    // What is not mapped in a domain now never is, so that it need not be kept back.
    world.refused(Label::FrameMapIo, 52, [DOMAIN, 0x2000, RW, 0, 0], Error::InvalidCapability, 1);
    world.refused(Label::PciFunctionAttach, OTHER_FUNCTION, [DOMAIN, 0, 0, 0, 0], Error::Forbidden, 0);
}

#[test]
fn a_row_of_pages_under_one_flush_is_kept_back_as_a_whole() {
    let mut world = world();
    world.retype(BLOCKS + 2, ObjectType::Frame, 12, 50, 4);
    world.ok(Label::FrameMapIo, 50, [DOMAIN, 0x1000, RW, 2, 0]);
    world.kernel.machine.devices.is_stuck = true;
    world.ok(Label::FrameUnmap, 50, [2, 0, 0, 0, 0]);
    assert_eq!(revoked(&mut world, BLOCKS + 2), 0x3000);
    offers_all_but(&mut world, BLOCKS + 2, 0x3000);
}

#[test]
fn a_frame_below_a_table_that_was_taken_away_is_kept_back_as_well() {
    let mut world = world();
    world.kernel.machine.devices.is_stuck = true;
    world.ok(Label::PageTableUnmap, TABLES + 1, [0; 5]);
    assert_eq!(revoked(&mut world, BLOCKS), 0x1000);
}
