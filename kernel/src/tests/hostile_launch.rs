//! Launch: what a hostile market tries, and must not get.

use super::base::*;
use crate::cap::Cap;
use crate::machine::Machine;
use crate::types::{CoreId, VmId};
use cap_spec::abi::{Error, Fault, Label, ObjectType, Rights};

/// Slots of the root VM in which the tenant's things are before the launch.
pub(super) const PARENT: u64 = 20;
const BASE: u64 = 21;
const TENANT: u64 = 22;
const THREAD: u64 = 23;
const SPACE: u64 = 24;
const TABLES: u64 = 25;
const FRAMES: u64 = 28;
/// A copy of the tenant's CNode capability, deleted before the launch.
const INTO: u64 = 40;
const LEASE: u64 = 41;
/// Free for what the market tries.
const TRICK: u64 = 50;

/// Makes a tenant with two mapped frames, whose capabilities are all in the root VM's CSpace.
fn prepare(world: &mut World) -> VmId {
    world.retype(MEMORY, ObjectType::Untyped, 18, PARENT, 1);
    world.retype(PARENT, ObjectType::Untyped, 18, BASE, 1);
    world.retype(BASE, ObjectType::Vm, 0, TENANT, 1);
    world.retype(BASE, ObjectType::Vcpu, 0, THREAD, 1);
    world.retype(BASE, ObjectType::CNode, 8, SPACE, 1);
    world.retype(BASE, ObjectType::PageTable, 0, TABLES, 3);
    world.retype(BASE, ObjectType::Frame, 12, FRAMES, 2);
    let vm = world.vm_id(TENANT);
    world.refused(Label::VcpuLaunch, THREAD, [4, 3, 0, 0, 0], Error::NotConfigured, 0);
    world.ok(Label::VmSetCSpace, TENANT, [SPACE, 0, 0, 0, 0]);
    world.ok(Label::VcpuAttach, THREAD, [TENANT, 0, 0, 0, 0]);
    for (table, level) in [(TABLES, 3), (TABLES + 1, 2), (TABLES + 2, 1)] {
        world.ok(Label::PageTableMap, table, [TENANT, 0x10_0000, level, 0, 0]);
    }
    for frame in 0..2 {
        world.ok(Label::FrameMap, FRAMES + frame, [TENANT, 0x10_8000 + frame * 0x1000, 7, 0, 0]);
    }
    world.ok(Label::CpuTimeSplit, TIME[1], [MS, 10 * MS, CNODE, LEASE, 0]);
    world.ok(Label::VcpuBindTime, THREAD, [LEASE, 0, 0, 0, 0]);
    world.copy(SPACE, INTO);
    vm
}

/// Moves everything but the Vcpu into the tenant's CSpace.
fn move_in(world: &mut World) {
    for (from, to) in [(BASE, 4), (TENANT, 2), (SPACE, 1), (TABLES, 20), (TABLES + 1, 21), (TABLES + 2, 22)] {
        world.move_into(from, INTO, to);
    }
    for frame in 0..2 {
        world.move_into(FRAMES + frame, INTO, 30 + frame);
    }
    world.delete(INTO);
}

/// Makes a tenant that is ready for launch.
pub(super) fn tenant(world: &mut World) -> VmId {
    let vm = prepare(world);
    move_in(world);
    vm
}

pub(super) fn launch(world: &mut World) -> Result<[u64; 2], Fault> {
    world.call(Label::VcpuLaunch, THREAD, [4, 3, 0, 0, 0])
}

fn is_refused(world: &mut World) {
    let fault = launch(world).expect_err("the tenant was launched");
    assert_eq!((fault.error, fault.argument), (Error::NotConfined, 1));
}

#[test]
fn a_confined_vm_is_launched() {
    let mut world = World::new();
    let vm = tenant(&mut world);
    world.refused(Label::VcpuStart, THREAD, [0; 5], Error::WrongPhase, 0);
    world.refused(Label::VcpuLaunch, THREAD, [9, 3, 0, 0, 0], Error::InvalidCapability, 1);
    world.refused(Label::VcpuLaunch, THREAD, [2, 3, 0, 0, 0], Error::WrongType, 1);
    world.refused(Label::VcpuLaunch, THREAD, [4, 2, 0, 0, 0], Error::SlotOccupied, 2);
    world.refused(Label::VcpuLaunch, THREAD, [4, 256, 0, 0, 0], Error::OutOfRange, 2);
    launch(&mut world).unwrap();
    assert!(world.slot(THREAD).is_empty());
    assert!(world.kernel.machine.vm(vm).launched);
    let running = world.kernel.schedule(CoreId::new(1)).run.expect("nobody runs");
    assert_eq!(world.kernel.machine.vcpu(running).vm, vm);
    // The launcher has a way to everything only through the parent.
    world.revoke(PARENT);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, None);
    assert_eq!(world.watermark(PARENT), 0);
    world.retype(PARENT, ObjectType::Frame, 12, 60, 64);
}

#[test]
fn no_other_vm_has_its_cspace_in_the_base() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(BASE, ObjectType::CNode, 6, TRICK, 1);
    world.retype(MEMORY, ObjectType::Vm, 0, TRICK + 1, 1);
    world.ok(Label::VmSetCSpace, TRICK + 1, [TRICK, 0, 0, 0, 0]);
    world.move_into(TRICK, INTO, 40);
    move_in(&mut world);
    is_refused(&mut world);
}

#[test]
fn a_vm_is_launched_once() {
    let mut world = World::new();
    tenant(&mut world);
    launch(&mut world).unwrap();
    // The tenant itself tries again.
    world.kernel.schedule(CoreId::new(1));
    let outcome = world.call_on(1, Label::VcpuLaunch, 3, [4, 5, 0, 0, 0]);
    let expected = cap_spec::abi::Status::refused(Fault::new(Error::WrongPhase, 0));
    assert_eq!(outcome, crate::run::Outcome::Done { status: expected, results: [0, 0] });
}

#[test]
fn no_copy_of_a_frame_stays_outside() {
    let mut world = World::new();
    prepare(&mut world);
    world.copy(FRAMES, TRICK);
    move_in(&mut world);
    is_refused(&mut world);
    world.delete(TRICK);
    launch(&mut world).unwrap();
}

#[test]
fn no_frame_of_the_tenant_is_mapped_in_the_market() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::PageTable, 0, 60, 3);
    for (table, level) in [(60, 3), (61, 2), (62, 1)] {
        world.ok(Label::PageTableMap, table, [VM, 0, level, 0, 0]);
    }
    world.copy(FRAMES, TRICK);
    world.ok(Label::FrameMap, TRICK, [VM, 0x5000, RW, 0, 0]);
    // Even if the capability lies inside, the mapping is the market's.
    world.move_into(TRICK, INTO, 33);
    move_in(&mut world);
    is_refused(&mut world);
}

#[test]
fn no_capability_to_vm_cnode_table_or_vcpu_stays_outside() {
    for kept in [TENANT, SPACE, THREAD] {
        let mut world = World::new();
        prepare(&mut world);
        world.copy(kept, TRICK);
        move_in(&mut world);
        is_refused(&mut world);
    }
    for kept in [TABLES, FRAMES + 1, TENANT] {
        let mut world = World::new();
        prepare(&mut world);
        world.move_into(kept, CNODE, TRICK);
        world.copy(SPACE, TRICK + 1);
        world.retype(BASE, ObjectType::Frame, 12, kept, 1);
        move_in(&mut world);
        world.delete(TRICK + 1);
        is_refused(&mut world);
    }
}

#[test]
fn the_base_itself_lies_inside() {
    let mut world = World::new();
    prepare(&mut world);
    // A second-level CNode of the market's, in the tenant's CSpace, holds the base.
    world.retype(MEMORY, ObjectType::CNode, 6, TRICK, 1);
    world.ok(Label::CNodeCopy, INTO, [9, TRICK, ALL, 0, 0]);
    world.move_into(BASE, TRICK, 5);
    world.retype(TRICK << 16 | 5, ObjectType::Frame, 12, BASE, 1);
    move_in(&mut world);
    let fault = world.call(Label::VcpuLaunch, THREAD, [9 << 16 | 5, 3, 0, 0, 0]).unwrap_err();
    assert_eq!(fault, Fault::new(Error::NotConfined, 1));
}

#[test]
fn no_second_vm_in_the_base() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(BASE, ObjectType::Vm, 0, TRICK, 1);
    world.move_into(TRICK, INTO, 40);
    move_in(&mut world);
    is_refused(&mut world);
}

#[test]
fn no_writable_frame_of_others_but_rings() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::Frame, 12, TRICK, 2);
    world.ok(Label::FrameMap, TRICK, [TENANT, 0x10_a000, 1, 0, 0]);
    world.ok(Label::FrameMap, TRICK + 1, [TENANT, 0x11_0000, RW, 0, 0]);
    world.copy(TRICK, TRICK + 2);
    world.ok(Label::FrameMap, TRICK + 2, [TENANT, 0x14_0000, RW, 0, 0]);
    move_in(&mut world);
    is_refused(&mut world);
    world.ok(Label::FrameUnmap, TRICK + 2, [0; 5]);
    launch(&mut world).unwrap();
}

#[test]
fn no_table_of_others() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::PageTable, 0, TRICK, 1);
    world.ok(Label::PageTableMap, TRICK, [TENANT, 0x40_0000, 1, 0, 0]);
    move_in(&mut world);
    is_refused(&mut world);
    world.delete(TRICK);
    launch(&mut world).unwrap();
}

#[test]
fn no_vcpu_of_others() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::Vcpu, 0, TRICK, 1);
    world.ok(Label::VcpuAttach, TRICK, [TENANT, 0, 0, 0, 0]);
    move_in(&mut world);
    is_refused(&mut world);
    world.delete(TRICK);
    launch(&mut world).unwrap();
}

#[test]
fn a_vcpu_of_the_base_runs_in_no_other_vm() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(BASE, ObjectType::Vcpu, 0, TRICK, 1);
    world.ok(Label::VcpuAttach, TRICK, [VM, 0, 0, 0, 0]);
    world.move_into(TRICK, INTO, 40);
    move_in(&mut world);
    is_refused(&mut world);
}

#[test]
fn pages_that_the_kernel_writes_stay_outside_read_only() {
    let mut world = World::new();
    prepare(&mut world);
    world.ok(Label::VcpuGetPage, THREAD, [1, CNODE, TRICK, 0, 0]);
    world.ok(Label::VmGetPage, TENANT, [CNODE, TRICK + 1, 0, 0, 0]);
    world.ok(Label::VcpuGetPage, THREAD, [0, CNODE, TRICK + 2, 0, 0]);
    move_in(&mut world);
    is_refused(&mut world);
    world.delete(TRICK + 2);
    launch(&mut world).unwrap();
}

#[test]
fn a_page_has_no_right_that_the_capability_to_its_vcpu_lacks() {
    let mut world = World::new();
    prepare(&mut world);
    world.ok(Label::CNodeMint, CNODE, [TRICK, THREAD, Rights::READ.bits().into(), 0, 0]);
    world.ok(Label::VcpuGetPage, TRICK, [0, CNODE, TRICK + 1, 0, 0]);
    assert_eq!(world.slot(TRICK + 1).rights, Rights::READ);
}

#[test]
fn nothing_of_the_tenant_is_in_flight() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::Channel, 0, TRICK, 1);
    world.ok(Label::ChannelGrant, TRICK, [FRAMES, 1, 0, 0, 0]);
    move_in(&mut world);
    is_refused(&mut world);
}

/// The tenant's second CNode, with many copies of a frame in it.
const MANY: u64 = 51;
/// The market's own capability to that CNode, while it has one.
const BACK_DOOR: u64 = 52;
/// The frame that they are copies of: younger than the CNode, so that the walk comes to it first.
const YOUNGER: u64 = 53;
/// How many.
const COPIES: u64 = 200;
/// Steps of its launch: beside the copies there are 13 capabilities at most.
const STEPS: usize = COPIES as usize / crate::launch::STEP + 1;

/// A tenant with so many capabilities that its launch takes many steps. The market keeps a capability to one CNode.
fn large_tenant(world: &mut World) {
    prepare(world);
    world.retype(BASE, ObjectType::CNode, 8, MANY, 1);
    world.retype(BASE, ObjectType::Frame, 12, YOUNGER, 1);
    for index in 0..COPIES {
        world.call_on(0, Label::CNodeCopy, MANY, [1 + index, YOUNGER, ALL, 0, 0]);
    }
    world.copy(MANY, BACK_DOOR);
    world.move_into(MANY, INTO, 40);
    world.move_into(YOUNGER, INTO, 42);
    move_in(world);
    world.check();
}

/// One step of a launch.
fn step(world: &mut World) -> crate::run::Outcome {
    let call = crate::decode::Call { cap: THREAD, label: Label::VcpuLaunch as u64, args: [4, 3, 0, 0, 0] };
    let outcome = world.kernel.handle_call(CoreId::new(0), &call);
    world.kernel.schedule(CoreId::new(0));
    world.check();
    outcome
}

#[test]
fn a_launch_takes_as_many_steps_as_the_base_has_capabilities() {
    let mut world = World::new();
    large_tenant(&mut world);
    world.delete(BACK_DOOR);
    let mut steps = 1;
    while step(&mut world) == crate::run::Outcome::Preempted {
        steps += 1;
    }
    assert_eq!(steps, STEPS);
    assert!(world.slot(THREAD).is_empty());
}

#[test]
fn what_is_wrong_at_the_far_end_is_found() {
    let mut world = World::new();
    large_tenant(&mut world);
    // The CNode is older than what lies in it: the walk comes to the market's capability to it after them.
    is_refused(&mut world);
    world.delete(BACK_DOOR);
    launch(&mut world).unwrap();
}

/// Takes a launch as far as possible before the last step, changes something, and goes on to the end.
fn launch_with_change(change: impl Fn(&mut World)) -> (World, crate::run::Outcome) {
    let mut world = World::new();
    large_tenant(&mut world);
    for _ in 1..STEPS {
        assert_eq!(step(&mut world), crate::run::Outcome::Preempted);
    }
    change(&mut world);
    world.check();
    for _ in 0..100 {
        match step(&mut world) {
            crate::run::Outcome::Preempted => {}
            outcome => return (world, outcome),
        }
    }
    panic!("the launch does not come to an end");
}

fn is_not_confined(change: impl Fn(&mut World)) {
    let (world, outcome) = launch_with_change(change);
    let status = cap_spec::abi::Status::refused(Fault::new(Error::NotConfined, 1));
    assert_eq!(outcome, crate::run::Outcome::Done { status, results: [0, 0] });
    assert!(!world.slot(THREAD).is_empty());
}

#[test]
fn what_the_check_has_passed_is_not_taken_out_behind_it() {
    let back_door = BACK_DOOR << 16;
    // Each is done through the back door, which is closed before the walk comes to it.
    let close = |world: &mut World| world.delete(BACK_DOOR);
    let (_, outcome) = launch_with_change(close);
    assert_eq!(outcome, crate::run::Outcome::Done { status: cap_spec::abi::Status::OK, results: [0, 0] });
    is_not_confined(|world| {
        world.ok(Label::CNodeCopy, CNODE, [TRICK, back_door | COPIES, ALL, 0, 0]);
        close(world);
    });
    is_not_confined(|world| {
        world.ok(Label::CNodeMove, CNODE, [TRICK, back_door | COPIES, 0, 0, 0]);
        close(world);
    });
    is_not_confined(|world| {
        world.retype(MEMORY, ObjectType::PageTable, 0, 60, 3);
        for (table, level) in [(60, 3), (61, 2), (62, 1)] {
            world.ok(Label::PageTableMap, table, [VM, 0, level, 0, 0]);
        }
        world.ok(Label::FrameMap, back_door | COPIES, [VM, 0x5000, RW, 0, 0]);
        close(world);
    });
}

#[test]
fn a_vcpu_joins_no_other_vm_behind_the_check() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(BASE, ObjectType::CNode, 8, MANY, 1);
    for index in 0..COPIES {
        world.call_on(0, Label::CNodeCopy, MANY, [1 + index, FRAMES, ALL, 0, 0]);
    }
    world.move_into(MANY, INTO, 40);
    // The youngest: the walk comes to it first. The market's copy of it comes next, and is gone before.
    world.retype(BASE, ObjectType::Vcpu, 0, TRICK, 1);
    world.copy(TRICK, BACK_DOOR);
    world.move_into(TRICK, INTO, 41);
    move_in(&mut world);
    is_refused(&mut world);
    world.ok(Label::CNodeRevoke, CNODE, [BACK_DOOR, 0, 0, 0, 0]);
    let core = CoreId::new(0);
    let vcpu = world.vcpu_id(BACK_DOOR);
    world.delete(BACK_DOOR);
    assert_eq!(step(&mut world), crate::run::Outcome::Preempted);
    let market = world.vm_id(VM);
    world.kernel.active = core;
    world.kernel.attach(vcpu, market);
    world.check();
    is_refused(&mut world);
}

#[test]
fn a_launch_that_is_disturbed_for_ever_delays_nobody_else() {
    let mut world = World::new();
    large_tenant(&mut world);
    // A second tenant elsewhere, whose capabilities change all the time.
    world.retype(MEMORY, ObjectType::Untyped, 12, 60, 1);
    world.retype(60, ObjectType::Frame, 12, 61, 1);
    world.delete(BACK_DOOR);
    let mut steps = 1;
    while step(&mut world) == crate::run::Outcome::Preempted {
        steps += 1;
        // As a check of the same Vcpu's that was given up would have left it.
        let mark = world.slot(THREAD).mark;
        let other = world.root.plus(61);
        world.kernel.slot_mut(other).mark = mark;
        world.copy(61, 62);
        world.delete(62);
    }
    assert_eq!(steps, STEPS);
}

#[test]
fn who_changes_its_cpu_time_begins_again() {
    let mut world = World::new();
    large_tenant(&mut world);
    world.delete(BACK_DOOR);
    assert_eq!(step(&mut world), crate::run::Outcome::Preempted);
    assert_ne!(world.kernel.passed(world.vcpu).count(), 0);
    let time = world.kernel.machine.vcpu(world.vcpu).time;
    let vcpu = world.vcpu;
    world.kernel.unbind_time(vcpu);
    world.kernel.bind_time(vcpu, time);
    assert_eq!(world.kernel.passed(world.vcpu).count(), 0);
}

#[test]
fn no_executable_frame_of_others() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::Frame, 12, TRICK, 1);
    // Not even where rings may be.
    world.ok(Label::FrameMap, TRICK, [TENANT, 0x11_0000, 5, 0, 0]);
    move_in(&mut world);
    is_refused(&mut world);
    world.ok(Label::FrameUnmap, TRICK, [0; 5]);
    launch(&mut world).unwrap();
}

#[test]
fn the_info_page_stays_outside_in_no_way() {
    let mut world = World::new();
    prepare(&mut world);
    world.ok(Label::VcpuGetPage, THREAD, [0, CNODE, TRICK, 0, 0]);
    world.ok(Label::CNodeMint, CNODE, [TRICK + 1, TRICK, Rights::READ.bits().into(), 0, 0]);
    world.move_into(TRICK, INTO, 40);
    move_in(&mut world);
    is_refused(&mut world);
    world.delete(TRICK + 1);
    launch(&mut world).unwrap();
}

#[test]
fn a_vm_that_is_launched_keeps_its_cspace_and_handler() {
    let mut world = World::new();
    prepare(&mut world);
    world.retype(MEMORY, ObjectType::Channel, 0, TRICK, 1);
    world.ok(Label::CNodeCopy, INTO, [41, TRICK, ALL, 0, 0]);
    move_in(&mut world);
    launch(&mut world).unwrap();
    world.kernel.schedule(CoreId::new(1));
    let refused = |error| crate::run::Outcome::Done {
        status: cap_spec::abi::Status::refused(Fault::new(error, 0)),
        results: [0, 0],
    };
    assert_eq!(world.call_on(1, Label::VcpuSetHandler, 3, [41, 0, 0, 0, 0]), refused(Error::WrongPhase));
    assert_eq!(world.call_on(1, Label::VmSetCSpace, 2, [1, 0, 0, 0, 0]), refused(Error::WrongPhase));
    world.check();
    assert!(matches!(world.slot(PARENT).cap, Cap::Untyped { .. }));
}
