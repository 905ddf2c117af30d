//! Frames, page tables, and the flush before reuse.

use super::base::*;
use crate::cap::Cap;
use crate::machine::Machine;
use crate::nested::{Entry, EntryFormat, entry_index};
use crate::types::{CoreId, Gpa, Hpa, VmId};
use cap_spec::abi::{Error, Label, ObjectType, Rights};

/// A VM in slot 20 with tables for the first GiB in 21 (level 3), 22 (level 2), 23 (level 1), frames from 30 on.
fn world_with_vm() -> World {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 1);
    world.retype(MEMORY, ObjectType::PageTable, 0, 21, 3);
    world.retype(MEMORY, ObjectType::Frame, 12, 30, 4);
    world
}

fn map_tables(world: &mut World) {
    for level in [3, 2, 1] {
        world.ok(Label::PageTableMap, 24 - level, [20, 0x1000, level, 0, 0]);
    }
}

fn leaf(world: &World, vm: VmId, gpa: u64) -> u64 {
    let mut table = vm.root();
    for level in [4, 3, 2] {
        let index = entry_index(Gpa::new(gpa), level);
        table = Hpa::new(world.kernel.machine.table_entry(table, index) & 0xf_ffff_f000);
    }
    world.kernel.machine.table_entry(table, entry_index(Gpa::new(gpa), 1))
}

#[test]
fn a_frame_is_mapped_through_tables_that_are_there() {
    let mut world = world_with_vm();
    for level in [3, 2, 1] {
        let fault = world.call(Label::FrameMap, 30, [20, 0x5000, RW, 0, 0]).unwrap_err();
        assert_eq!((fault.error, fault.argument, fault.detail), (Error::NoPageTable, 2, level));
        world.ok(Label::PageTableMap, 24 - u64::from(level), [20, 0, level.into(), 0, 0]);
    }
    world.ok(Label::FrameMap, 30, [20, 0x5000, RW, 0, 0]);
    assert_ne!(leaf(&world, world.vm_id(20), 0x5000), 0);
    world.refused(Label::FrameMap, 31, [20, 0x5000, RW, 0, 0], Error::AddressOccupied, 2);
    world.refused(Label::FrameMap, 30, [20, 0x6000, RW, 0, 0], Error::InUse, 0);
    world.refused(Label::FrameMap, 31, [20, 0x6001, RW, 0, 0], Error::Misaligned, 2);
    world.refused(Label::FrameMap, 31, [20, 1 << 48, RW, 0, 0], Error::OutOfRange, 2);
    world.refused(Label::FrameMap, 31, [20, 0x6000, 2, 0, 0], Error::OutOfRange, 3);
    world.refused(Label::FrameMap, 31, [20, 0x6000, 9, 0, 0], Error::OutOfRange, 3);
    world.refused(Label::FrameMap, 31, [21, 0x6000, 1, 0, 0], Error::WrongType, 1);
    world.ok(Label::CNodeCopy, CNODE, [40, 31, 1, 0, 0]);
    world.refused(Label::FrameMap, 40, [20, 0x6000, RW, 0, 0], Error::MissingRight, 3);
    world.ok(Label::FrameMap, 40, [20, 0x6000, 1, 0, 0]);
    world.refused(Label::PageTableMap, 21, [20, 0, 3, 0, 0], Error::InUse, 0);
    world.ok(Label::FrameUnmap, 30, [0; 5]);
    assert_eq!(leaf(&world, world.vm_id(20), 0x5000), 0);
    world.refused(Label::FrameUnmap, 30, [0; 5], Error::NotMapped, 0);
}

#[test]
fn a_frame_under_a_table_that_was_taken_away_is_mapped_for_its_holder_only() {
    let mut world = world_with_vm();
    map_tables(&mut world);
    world.ok(Label::FrameMap, 30, [20, 0x5000, RW, 0, 0]);
    world.ok(Label::PageTableUnmap, 23, [0; 5]);
    world.refused(Label::FrameMap, 30, [20, 0x5000, RW, 0, 0], Error::InUse, 0);
    world.ok(Label::PageTableMap, 23, [20, 0, 1, 0, 0]);
    world.ok(Label::FrameMap, 31, [20, 0x5000, RW, 0, 0]);
    world.ok(Label::FrameUnmap, 30, [0; 5]);
    assert_ne!(leaf(&world, world.vm_id(20), 0x5000), 0, "the other frame's entry stays");
}

#[test]
fn deleting_a_frame_a_table_or_a_vm_takes_the_mapping_with_it() {
    let mut world = world_with_vm();
    map_tables(&mut world);
    world.ok(Label::FrameMap, 30, [20, 0x5000, RW, 0, 0]);
    world.copy(30, 40);
    world.ok(Label::FrameMap, 40, [20, 0x6000, RW, 0, 0]);
    world.delete(30);
    assert_eq!(leaf(&world, world.vm_id(20), 0x6000), 0);
    world.ok(Label::FrameMap, 31, [20, 0x5000, RW, 0, 0]);
    world.delete(23);
    world.delete(20);
    world.refused(Label::FrameUnmap, 31, [0; 5], Error::NotMapped, 0);
    world.refused(Label::PageTableUnmap, 22, [0; 5], Error::NotMapped, 0);
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 1);
    world.ok(Label::PageTableMap, 22, [20, 0, 3, 0, 0]);
}

#[test]
fn a_moved_capability_keeps_its_mapping() {
    let mut world = world_with_vm();
    map_tables(&mut world);
    for (frame, gpa) in [(30, 0x5000), (31, 0x6000), (32, 0x7000)] {
        world.ok(Label::FrameMap, frame, [20, gpa, RW, 0, 0]);
    }
    for (from, to) in [(31, 50), (30, 51), (32, 52), (22, 53)] {
        world.move_into(from, CNODE, to);
    }
    world.delete(50);
    world.delete(20);
    world.refused(Label::FrameUnmap, 51, [0; 5], Error::NotMapped, 0);
}

#[test]
fn large_frames_are_leaves_of_the_upper_levels() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 20, 20, 1);
    world.retype(20, ObjectType::Vm, 0, 21, 1);
    world.retype(20, ObjectType::PageTable, 0, 22, 3);
    world.ok(Label::PageTableMap, 22, [21, 0, 3, 0, 0]);
    world.ok(Label::PageTableMap, 23, [21, 0, 2, 0, 0]);
    world.ok(Label::PageTableMap, 24, [21, 0x20_0000, 1, 0, 0]);
    world.retype(MEMORY, ObjectType::Frame, 21, 31, 1);
    world.refused(Label::FrameMap, 31, [21, 0x10_0000, RW, 0, 0], Error::Misaligned, 2);
    world.refused(Label::FrameMap, 31, [21, 0x20_0000, RW, 0, 0], Error::AddressOccupied, 2);
    world.ok(Label::FrameMap, 31, [21, 0x40_0000, RW, 0, 0]);
    world.retype(DEVICE, ObjectType::Frame, 12, 30, 1);
    world.refused(Label::FrameMap, 30, [21, 0x40_1000, RW, 0, 0], Error::AddressOccupied, 2);
    world.ok(Label::FrameMap, 30, [21, 0x20_0000, RW, 0, 0]);
    assert_eq!(leaf(&world, world.vm_id(21), 0x20_0000) & 0x18, 0x18, "device memory is uncached");
}

/// The entry of level 3 for an address; the tables above must be there.
fn giant_leaf(world: &World, vm: VmId, gpa: u64) -> Entry {
    let format = EntryFormat::Npt;
    let top = world.kernel.machine.table_entry(vm.root(), entry_index(Gpa::new(gpa), 4));
    let Entry::Table(table) = format.decode(top, 4) else { panic!("no table of level 3 for {gpa:#x}") };
    let entry = world.kernel.machine.table_entry(table, entry_index(Gpa::new(gpa), 3));
    let decoded = format.decode(entry, 3);
    if let Entry::Leaf(base) = decoded {
        let rights = Rights::READ.union(Rights::WRITE);
        assert_eq!(entry, format.leaf(base, rights, 3, false), "with the rights asked for, and cached");
    }
    decoded
}

/// Memory that is clean is never touched: so there is none behind it here.
#[test]
fn frames_of_1_gib_are_leaves_of_level_3() {
    const GIANT: u64 = 60;
    const GIB: u64 = 1 << 30;
    const BASE: u64 = 4 * GIB;
    let mut world = World::new();
    let giant = world.root.plus(GIANT as u32);
    world.kernel.give_untyped(giant, Hpa::new(BASE), 32, false);
    let Cap::Untyped { watermark, .. } = &mut world.kernel.machine.slot_mut(giant).cap else { panic!("no Untyped") };
    *watermark = 0;
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 1);
    world.retype(MEMORY, ObjectType::PageTable, 0, 21, 2);
    world.retype(MEMORY, ObjectType::Frame, 12, 23, 1);
    world.retype(GIANT, ObjectType::Frame, 12, 24, 1);
    world.retype(GIANT, ObjectType::Frame, 30, 30, 3);
    world.refused(Label::UntypedRetype, GIANT, [ObjectType::Frame as u64, 30, CNODE, 40, 1], Error::NotEnoughMemory, 0);
    let vm = world.vm_id(20);

    let fault = world.call(Label::FrameMap, 30, [20, GIB, RW, 0, 0]).unwrap_err();
    assert_eq!((fault.error, fault.argument, fault.detail), (Error::NoPageTable, 2, 3));
    world.ok(Label::PageTableMap, 21, [20, 0, 3, 0, 0]);
    for gpa in [GIB + (1 << 12), GIB + (1 << 21), GIB / 2, GIB + GIB / 2] {
        world.refused(Label::FrameMap, 30, [20, gpa, RW, 0, 0], Error::Misaligned, 2);
    }
    for gpa in [1 << 48, (1 << 48) - GIB + (1 << 12)] {
        world.refused(Label::FrameMap, 30, [20, gpa, RW, 0, 0], Error::OutOfRange, 2);
    }
    world.ok(Label::FrameMap, 30, [20, GIB, RW, 0, 0]);
    // The page before it has taken the first GiB.
    assert_eq!(giant_leaf(&world, vm, GIB), Entry::Leaf(Hpa::new(BASE + GIB)));
    world.refused(Label::FrameMap, 30, [20, 2 * GIB, RW, 0, 0], Error::InUse, 0);
    world.refused(Label::FrameMap, 31, [20, GIB, RW, 0, 0], Error::AddressOccupied, 2);
    // Neither a table nor a smaller frame can come under it or in its place.
    world.refused(Label::PageTableMap, 22, [20, GIB, 2, 0, 0], Error::AddressOccupied, 2);
    world.refused(Label::PageTableMap, 22, [20, GIB + (1 << 21), 1, 0, 0], Error::AddressOccupied, 2);
    world.refused(Label::FrameMap, 23, [20, 2 * GIB - (1 << 12), RW, 0, 0], Error::AddressOccupied, 2);
    // Nor it in the place of a table.
    world.ok(Label::PageTableMap, 22, [20, 0, 2, 0, 0]);
    world.refused(Label::FrameMap, 31, [20, 0, RW, 0, 0], Error::AddressOccupied, 2);
    world.refused(Label::FrameMap, 31, [20, 511 * GIB, RW, 1, 0], Error::OutOfRange, 4);
    world.ok(Label::FrameMap, 31, [20, 510 * GIB, RW, 1, 0]);
    assert_eq!(giant_leaf(&world, vm, 510 * GIB), Entry::Leaf(Hpa::new(BASE + 2 * GIB)));
    assert_eq!(giant_leaf(&world, vm, 511 * GIB), Entry::Leaf(Hpa::new(BASE + 3 * GIB)));

    world.ok(Label::FrameUnmap, 31, [1, 0, 0, 0, 0]);
    world.ok(Label::FrameUnmap, 30, [0; 5]);
    world.refused(Label::FrameUnmap, 30, [0; 5], Error::NotMapped, 0);
    for gpa in [GIB, 510 * GIB, 511 * GIB] {
        assert_eq!(giant_leaf(&world, vm, gpa), Entry::Empty);
    }
    world.ok(Label::FrameMap, 32, [20, GIB, RW, 0, 0]);
    world.delete(32);
    assert_eq!(giant_leaf(&world, vm, GIB), Entry::Empty);
}

#[test]
fn unmapping_expels_every_other_core_that_runs_the_vm() {
    let mut world = World::new();
    let vm = world.vm_id(VM);
    world.retype(MEMORY, ObjectType::PageTable, 0, 20, 3);
    for (table, level) in [(20, 3), (21, 2), (22, 1)] {
        world.ok(Label::PageTableMap, table, [VM, 0, level, 0, 0]);
    }
    world.retype(MEMORY, ObjectType::Frame, 12, 30, 1);
    world.ok(Label::FrameMap, 30, [VM, 0x1000, RW, 0, 0]);
    world.retype(MEMORY, ObjectType::Vcpu, 0, 40, 1);
    world.ok(Label::VcpuAttach, 40, [VM, 0, 0, 0, 0]);
    world.ok(Label::CpuTimeSplit, TIME[1], [MS, 10 * MS, CNODE, 41, 0]);
    world.ok(Label::VcpuBindTime, 40, [41, 0, 0, 0, 0]);
    world.ok(Label::VcpuStart, 40, [0; 5]);
    let cores = [0, 1].map(CoreId::new);
    let before = world.kernel.machine.vm(vm).tlb_generation;
    let old = cores.map(|core| world.kernel.schedule(core).entry.asid);
    world.kernel.machine.expelled.clear();
    world.ok(Label::FrameUnmap, 30, [0; 5]);
    assert_eq!(world.kernel.machine.vm(vm).tlb_generation, before + 1);
    assert_eq!(world.kernel.machine.expelled, [CoreId::new(1)]);
    let new = cores.map(|core| world.kernel.schedule(core).entry.asid);
    assert!(old[0] != new[0] && old[1] != new[1], "translations of the old numbers are never used again");
}

#[test]
fn a_row_of_frames_is_mapped_and_unmapped_at_once_or_not_at_all() {
    let mut world = world_with_vm();
    map_tables(&mut world);
    world.retype(MEMORY, ObjectType::IommuDomain, 0, 70, 1);
    world.retype(MEMORY, ObjectType::PageTable, 0, 71, 2);
    world.retype(MEMORY, ObjectType::Frame, 12, 60, 8);
    world.retype(MEMORY, ObjectType::Frame, 21, 68, 1);
    let row = |first: u64, gpa: u64, more: u64| (first, [20, gpa, RW, more, 0]);
    let refused = |world: &mut World, (frame, args): (u64, [u64; 5]), error: Error, number: u8| {
        world.refused(Label::FrameMap, frame, args, error, number);
    };
    refused(&mut world, row(60, 0x5000, 64), Error::OutOfRange, 4);
    refused(&mut world, row(60, 0x1f_f000, 1), Error::OutOfRange, 4);
    refused(&mut world, row(60, 0x5000, 8), Error::WrongType, 4);
    refused(&mut world, row(60, 0x5000, 9), Error::WrongType, 4);
    world.ok(Label::FrameMap, 63, [20, 0x7000, RW, 0, 0]);
    refused(&mut world, row(60, 0x5000, 3), Error::AddressOccupied, 4);
    refused(&mut world, row(60, 0x9000, 3), Error::InUse, 4);
    world.ok(Label::FrameMap, 60, row(60, 0x5000, 1).1);
    world.refused(Label::FrameUnmap, 60, [2, 0, 0, 0, 0], Error::NotMapped, 1);
    world.refused(Label::FrameUnmap, 60, [8, 0, 0, 0, 0], Error::NotMapped, 1);
    world.refused(Label::FrameUnmap, 60, [64, 0, 0, 0, 0], Error::OutOfRange, 1);
    world.ok(Label::FrameUnmap, 60, [1, 0, 0, 0, 0]);
    world.ok(Label::FrameMap, 60, row(60, 0x9000, 2).1);
    // One flush serves a row: it is of one address space.
    for (table, level) in [(71, 2), (72, 1)] {
        world.ok(Label::PageTableMapIo, table, [70, 0, level, 0, 0]);
    }
    world.ok(Label::FrameUnmap, 61, [0; 5]);
    world.ok(Label::FrameMapIo, 61, [70, 0, RW, 0, 0]);
    world.refused(Label::FrameUnmap, 60, [2, 0, 0, 0, 0], Error::NotMapped, 1);
    world.ok(Label::FrameUnmap, 61, [0; 5]);
    world.ok(Label::FrameMap, 61, row(61, 0xa000, 0).1);
    world.refused(Label::FrameMap, 64, row(64, 0xb000, 0).1, Error::AddressOccupied, 2);
    world.check();
    world.ok(Label::FrameUnmap, 60, [3, 0, 0, 0, 0]);
    world.ok(Label::FrameMap, 60, row(60, 0x5000, 7).1);
    world.check();
}
