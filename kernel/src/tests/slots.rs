//! Retype, Copy, Mint, Move, Identify, ranges.

use super::base::*;
use crate::cap::Cap;
use crate::machine::Machine;
use cap_spec::abi::{Error, Label, ObjectType, Rights};

#[test]
fn a_label_of_another_type_or_a_missing_right_is_refused() {
    let mut world = World::new();
    world.ok(Label::Nop, VM, [0; 5]);
    world.refused(Label::FrameMap, VM, [0; 5], Error::InvalidLabel, 0);
    world.refused(Label::Nop, 0, [0; 5], Error::InvalidCapability, 0);
    world.refused(Label::Nop, FREE, [0; 5], Error::InvalidCapability, 0);
    world.refused(Label::Nop, 1 << 32, [0; 5], Error::InvalidCapability, 0);
    world.refused(Label::Nop, ROOT_SLOTS as u64, [0; 5], Error::InvalidCapability, 0);
    world.refused(Label::Nop, VM << 16 | 1, [0; 5], Error::InvalidCapability, 0);
    world.ok(Label::CNodeCopy, CNODE, [FREE, CNODE, Rights::READ.bits() as u64, 0, 0]);
    world.refused(Label::CNodeDelete, FREE, [VM, 0, 0, 0, 0], Error::MissingRight, 0);
    world.ok(Label::CNodeIdentify, FREE, [VM, 0, 0, 0, 0]);
}

#[test]
fn what_lies_behind_a_cnode_is_no_slot_of_it() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::CNode, 6, 20, 1);
    world.retype(MEMORY, ObjectType::Frame, 12, 21, 1);
    let Cap::CNode { base, .. } = world.slot(20).cap else { panic!("no CNode") };
    assert!(matches!(world.slot(21).cap, Cap::Frame { base: frame, .. } if frame == base.plus(64).address()));
    // A tenant writes into its frame what looks like a capability.
    *world.kernel.machine.slot_mut(base.plus(64)) = *world.slot(VM);
    world.refused(Label::Nop, 20 << 16 | 64, [0; 5], Error::InvalidCapability, 0);
}

#[test]
fn retype_makes_objects_at_the_watermark() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Frame, 12, 20, 3);
    world.retype(MEMORY, ObjectType::Untyped, 14, 30, 2);
    assert_eq!(world.watermark(MEMORY), 0x4000 + 2 * 0x4000);
    for (index, offset) in [(20, 0), (21, 0x1000), (22, 0x2000)] {
        assert!(matches!(world.slot(index).cap, Cap::Frame { base, .. } if base.get() == MEMORY_BASE + offset));
    }
    let size = ObjectType::Frame as u64;
    world.refused(Label::UntypedRetype, MEMORY, [10, 0, CNODE, 40, 1], Error::OutOfRange, 1);
    world.refused(Label::UntypedRetype, MEMORY, [size, 13, CNODE, 40, 1], Error::OutOfRange, 2);
    world.refused(Label::UntypedRetype, MEMORY, [size, 12, VM, 40, 1], Error::WrongType, 3);
    world.refused(Label::UntypedRetype, MEMORY, [size, 12, CNODE, 0, 1], Error::OutOfRange, 4);
    world.refused(Label::UntypedRetype, MEMORY, [size, 12, CNODE, 20, 1], Error::SlotOccupied, 4);
    world.refused(Label::UntypedRetype, MEMORY, [size, 12, CNODE, 19, 2], Error::SlotOccupied, 5);
    world.refused(Label::UntypedRetype, MEMORY, [size, 12, CNODE, 40, 65], Error::OutOfRange, 5);
    world.refused(Label::UntypedRetype, MEMORY, [size, 12, CNODE, 1020, 5], Error::OutOfRange, 5);
    world.refused(Label::UntypedRetype, MEMORY, [size, 30, CNODE, 40, 1], Error::NotEnoughMemory, 0);
    world.refused(Label::UntypedRetype, DIRTY, [size, 12, CNODE, 40, 1], Error::NotEnoughMemory, 0);
    world.refused(Label::UntypedRetype, DEVICE, [ObjectType::CNode as u64, 6, CNODE, 40, 1], Error::DeviceMemory, 1);
    world.retype(DEVICE, ObjectType::Frame, 12, 40, 64);
}

#[test]
fn a_dirty_untyped_is_scrubbed_by_revoke() {
    let mut world = World::new();
    world.revoke(DIRTY);
    assert_eq!(world.watermark(DIRTY), 0);
    world.retype(DIRTY, ObjectType::CNode, 10, 20, 1);
}

#[test]
fn an_untouched_lease_costs_its_parent_no_scrub() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 16, 20, 1);
    world.retype(20, ObjectType::Untyped, 16, 21, 1);
    assert_eq!(world.watermark(20), 0x1_0000);
    world.retype(21, ObjectType::Frame, 12, 22, 1);
    world.delete(21);
    assert_eq!(world.watermark(20), 0x1000, "only what the tenant used is dirty");
    world.retype(20, ObjectType::Frame, 12, 21, 1);
}

#[test]
fn copies_have_at_most_the_rights_of_their_source() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Frame, 12, 20, 1);
    world.ok(Label::CNodeCopy, CNODE, [21, 20, RW, 0, 0]);
    world.ok(Label::CNodeCopy, CNODE, [22, 21, ALL & !2, 0, 0]);
    assert_eq!(world.slot(22).rights, Rights::READ);
    assert!(!world.slot(22).original);
    world.refused(Label::CNodeCopy, CNODE, [23, 22, 0x20, 0, 0], Error::OutOfRange, 3);
    world.refused(Label::CNodeCopy, CNODE, [22, 20, RW, 0, 0], Error::SlotOccupied, 1);
    world.refused(Label::CNodeCopy, CNODE, [23, MEMORY, RW, 0, 0], Error::NotCopyable, 2);
    world.refused(Label::CNodeMint, CNODE, [23, 20, RW, 1, 0], Error::OutOfRange, 4);
}

#[test]
fn mint_chooses_the_end_of_a_channel() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Channel, 0, 20, 1);
    world.ok(Label::CNodeMint, CNODE, [21, 20, ALL, 2, 0]);
    world.refused(Label::CNodeMint, CNODE, [22, 20, ALL, 0, 0], Error::OutOfRange, 4);
    world.refused(Label::CNodeMint, CNODE, [22, 20, ALL, 3, 0], Error::OutOfRange, 4);
    assert!(matches!(world.slot(21).cap, Cap::Channel { end: 2, .. }));
    world.ok(Label::CNodeCopy, CNODE, [22, 21, ALL & !16, 0, 0]);
    world.refused(Label::CNodeMint, CNODE, [23, 22, ALL, 1, 0], Error::OutOfRange, 4);
    world.ok(Label::CNodeMint, CNODE, [23, 22, ALL, 0, 0]);
    assert!(matches!(world.slot(23).cap, Cap::Channel { end: 2, .. }));
}

#[test]
fn derivation_ends_at_its_depth() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Frame, 12, 20, 1);
    for step in 0..30 {
        world.copy(20 + step, 21 + step);
    }
    world.refused(Label::CNodeCopy, CNODE, [60, 50, RW, 0, 0], Error::TooDeep, 2);
    world.delete(20);
    assert!((20..=50).all(|index| world.slot(index).is_empty()));
}

#[test]
fn move_keeps_the_place_in_the_derivation() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 16, 20, 2);
    world.retype(20, ObjectType::Frame, 12, 30, 5);
    world.retype(MEMORY, ObjectType::CNode, 6, 40, 1);
    world.move_into(20, 40, 9);
    world.move_into(32, 40, 10);
    assert!(world.slot(20).is_empty());
    world.retype(40 << 16 | 9, ObjectType::Frame, 12, 50, 1);
    world.ok(Label::CNodeRevoke, 40, [9, 0, 0, 0, 0]);
    assert!([30, 31, 33, 34, 50].iter().all(|index| world.slot(*index).is_empty()));
    assert!(world.inner(40, 10).is_empty());
    world.refused(Label::CNodeMove, CNODE, [60, VM, 0, 0, 0], Error::InUse, 2);
    world.ok(Label::CNodeCopy, CNODE, [41, 40, 1, 0, 0]);
    world.refused(Label::CNodeMove, CNODE, [60, 41 << 16 | 9, 0, 0, 0], Error::MissingRight, 2);
}

#[test]
fn the_children_of_a_deleted_copy_are_its_parents() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Frame, 12, 20, 1);
    for (from, to) in [(20, 21), (20, 22), (20, 23), (22, 24), (22, 25), (25, 26)] {
        world.copy(from, to);
    }
    world.delete(22);
    world.revoke(21);
    assert!(!world.slot(24).is_empty() && !world.slot(26).is_empty());
    world.revoke(20);
    assert!((21..=26).all(|index| world.slot(index).is_empty()));
}

#[test]
fn identify_tells_type_size_rights_and_no_address() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 16, 20, 1);
    world.retype(20, ObjectType::Frame, 12, 21, 1);
    let identify = |world: &mut World, index| world.ok(Label::CNodeIdentify, CNODE, [index, 0, 0, 0, 0]);
    assert_eq!(identify(&mut world, 20), [1 | 16 << 8 | 0x1f << 16 | 1 << 24, 0xf000]);
    assert_eq!(identify(&mut world, 21), [3 | 12 << 8 | 0x1f << 16, 0]);
    assert_eq!(identify(&mut world, IRQS), [9 | 0x1f << 16, 24 << 32]);
    assert_eq!(identify(&mut world, OWN_TIME), [7 | 0x1f << 16 | 1 << 25, 2 * MS]);
}

#[test]
fn ranges_are_split_and_what_a_child_has_its_parent_cannot_use() {
    let mut world = World::new();
    let uart = [0x3f8, 8, CNODE, 20, 0];
    world.ok(Label::IoPortSplit, PORTS, uart);
    world.refused(Label::IoPortSplit, PORTS, [0x3ff, 1, CNODE, 21, 0], Error::InUse, 0);
    world.refused(Label::IoPortOut, PORTS, [0x3f8, 1, 1, 0, 0], Error::InUse, 0);
    world.refused(Label::IoPortSplit, 20, [0x3f7, 1, CNODE, 21, 0], Error::OutOfRange, 1);
    world.refused(Label::IoPortSplit, 20, [0x3f8, 9, CNODE, 21, 0], Error::OutOfRange, 2);
    let forbidden = |port: u16| {
        matches!(port, 0..=0x1f | 0x20 | 0x21 | 0x2e | 0x2f | 0x40..=0x43 | 0x4e | 0x4f | 0x61 | 0x64 | 0x70 | 0x71)
            || matches!(port, 0x80..=0x8f | 0x92 | 0xa0 | 0xa1 | 0xb2 | 0xb3 | 0xc0..=0xdf | 0x4d0 | 0x4d1)
            || matches!(port, 0x510..=0x51b | 0xc00 | 0xc01 | 0xc14 | 0xcd4..=0xcd7 | 0xcf8..=0xcff)
    };
    for port in 0..=0xffff {
        assert_eq!(crate::ioport::is_forbidden(port, 1), forbidden(port), "{port:#x}");
    }
    for (port, count) in [(0xcfc, 1), (0, 0x100), (0x43, 4), (0x60, 5), (0x4c0, 0x11)] {
        world.refused(Label::IoPortSplit, PORTS, [port, count, CNODE, 21, 0], Error::Forbidden, 1);
    }
    world.refused(Label::IoPortIn, PORTS, [0xcf7, 2, 0, 0, 0], Error::Forbidden, 1);
    world.refused(Label::IoPortIn, PORTS, [0xffff, 2, 0, 0, 0], Error::OutOfRange, 2);
    world.refused(Label::IoPortOut, 20, [0x3f8, 1, 0x100, 0, 0], Error::OutOfRange, 3);
    world.refused(Label::IoPortIn, 20, [0x3f8, 3, 0, 0, 0], Error::OutOfRange, 2);
    world.kernel.machine.port_input = 0x1234;
    assert_eq!(world.ok(Label::IoPortIn, 20, [0x3fd, 1, 0, 0, 0]), [0x34, 0]);
    world.ok(Label::IoPortOutBytes, 20, [0x3f8, 10, 0x3837_3635_3433_3231, 0x3039, 0]);
    let written: std::vec::Vec<u8> = world.kernel.machine.outputs.iter().map(|(_, _, value)| *value as u8).collect();
    assert_eq!(written, b"1234567890"[..8].iter().chain(b"90").copied().collect::<std::vec::Vec<u8>>());
    world.delete(20);
    world.ok(Label::IoPortOut, PORTS, [0x3f8, 4, 7, 0, 0]);
}

#[test]
fn a_part_has_no_right_that_its_whole_lacks() {
    for (whole, label, arguments) in [
        (PORTS, Label::IoPortSplit, [0x3f8, 8, CNODE, 20, 0]),
        (IRQS, Label::IrqSplit, [4, 1, CNODE, 20, 0]),
        (TIME[1], Label::CpuTimeSplit, [MS, 10 * MS, CNODE, 20, 0]),
    ] {
        let mut world = World::new();
        let slot = world.root.plus(whole as u32);
        world.kernel.slot_mut(slot).rights = Rights::READ;
        world.ok(label, whole, arguments);
        assert_eq!(world.slot(20).rights, Rights::READ, "{label:?}");
    }
}

#[test]
fn a_range_has_at_most_64_children() {
    let mut world = World::new();
    for child in 0..64 {
        world.ok(Label::IoPortSplit, PORTS, [0x1000 + child, 1, CNODE, 20 + child, 0]);
    }
    world.refused(Label::IoPortSplit, PORTS, [0x2000, 1, CNODE, 90, 0], Error::InUse, 0);
}

#[test]
fn the_machine_is_reset_by_its_capability_only() {
    let mut world = World::new();
    world.ok(Label::CNodeCopy, CNODE, [20, MACHINE, 1, 0, 0]);
    world.refused(Label::MachineReset, 20, [0; 5], Error::MissingRight, 0);
    world.ok(Label::MachineGetPage, 20, [CNODE, 21, 0, 0, 0]);
    assert_eq!(world.slot(21).rights, Rights::READ);
    world.ok(Label::MachineReset, MACHINE, [0; 5]);
    assert_eq!(world.kernel.machine.resets, 1);
}
