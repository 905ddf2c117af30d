//! Lifetime: what goes when something goes. The named tests of the design.

use super::base::*;
use crate::cap::Cap;
use crate::check::forest;
use crate::decode::Call;
use crate::destroy::{Step, Work};
use crate::machine::Machine;
use crate::run::Outcome;
use crate::types::{CoreId, SlotId};
use crate::vcpu::Run;
use cap_spec::abi::{Error, Label, ObjectType, Register, Rights};

/// How a Delete or Revoke is driven: after how many steps its state is forgotten, as if the lock had been given up.
#[derive(Clone, Copy, Debug)]
struct Drive {
    forget_after: usize,
    /// After so many steps it is given up for good.
    give_up_after: usize,
}

/// Runs a test with every way to drive it, and takes everything back.
fn driven(test: impl Fn(&mut World, Drive)) {
    let whole = usize::MAX;
    let forgetful = [1, 2, 3, whole].map(|forget_after| Drive { forget_after, give_up_after: whole });
    let abandoned = (1..40).map(|give_up_after| Drive { forget_after: whole, give_up_after });
    for drive in forgetful.into_iter().chain(abandoned) {
        let mut world = World::new();
        test(&mut world, drive);
        world.revoke(MEMORY);
        assert_eq!(world.watermark(MEMORY), 0, "{drive:?}");
        assert!(!world.slot(MEMORY).has_children(), "{drive:?}");
    }
}

impl World {
    /// The slot that a capability pointer of the root VM names.
    fn at(&self, cptr: u64) -> SlotId {
        match self.slot(cptr >> 16).cap {
            Cap::CNode { base, .. } if cptr >> 16 != 0 => base.plus(cptr as u32 & 0xffff),
            _ => self.root.plus(cptr as u32),
        }
    }

    /// A Delete or Revoke, with the invariants checked after every step. When it is done by itself, nothing half dead
    /// is left.
    fn drive(&mut self, drive: Drive, target: SlotId, make: fn(SlotId) -> Work) {
        let mut work = make(target);
        let mut steps = 0;
        while steps < drive.give_up_after {
            if self.kernel.destroy_step(&mut work) == Step::Done {
                let is_dead = |node: &crate::check::Node| matches!(node.slot.cap, Cap::Zombie(_) | Cap::Doomed { .. });
                let left = forest(&self.kernel, self.root, ROOT_SLOTS);
                let left: std::vec::Vec<_> = left.iter().filter(|node| is_dead(node)).collect();
                assert!(left.is_empty() || drive.forget_after != usize::MAX, "{left:#?}");
                self.check();
                return;
            }
            self.check();
            steps += 1;
            assert!(steps < 10_000, "no end");
            if steps % drive.forget_after == 0 {
                work = make(target);
            }
        }
    }

    fn drive_delete(&mut self, drive: Drive, cptr: u64) {
        self.drive(drive, self.at(cptr), Work::delete);
    }

    fn drive_revoke(&mut self, drive: Drive, cptr: u64) {
        self.drive(drive, self.at(cptr), Work::revoke);
    }
}

/// True if the operation came to its end.
fn finished(drive: Drive) -> bool {
    drive.give_up_after == usize::MAX
}

#[test]
fn cnodes_in_cnodes() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::CNode, 6, 20, 4);
        world.retype(MEMORY, ObjectType::Frame, 12, 30, 1);
        world.copy(30, 31);
        world.move_into(31, 23, 63);
        world.move_into(23, 22, 1);
        world.move_into(22, 21, 5);
        world.move_into(21, 20, 63);
        world.drive_delete(drive, 20);
        assert!(!finished(drive) || !world.slot(30).has_children());
    });
}

#[test]
fn deep_nesting_of_cnodes() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::CNode, 6, 100, 40);
        let chain: std::vec::Vec<u64> = (100..140).collect();
        for pair in chain.windows(2).rev() {
            world.move_into(pair[1], pair[0], 7);
        }
        world.drive_delete(drive, 100);
    });
}

#[test]
fn a_cnode_that_holds_its_own_original() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::CNode, 6, 20, 1);
        world.copy(20, 21);
        world.move_into(20, 21, 9);
        world.ok(Label::CNodeCopy, 21, [10, 21 << 16 | 9, ALL, 0, 0]);
        world.drive_revoke(drive, MEMORY);
        assert!(!finished(drive) || world.slot(21).is_empty());
    });
}

#[test]
fn a_cnode_deletes_its_own_original_in_itself() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::CNode, 6, 20, 1);
    world.copy(20, 21);
    world.move_into(20, 21, 9);
    world.ok(Label::CNodeDelete, 21, [9, 0, 0, 0, 0]);
    assert!(world.slot(21).is_empty());
    world.revoke(MEMORY);
}

#[test]
fn cnodes_in_a_cycle() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::CNode, 6, 20, 3);
        for index in 20..23 {
            world.copy(index, index + 10);
        }
        for index in 0..3 {
            world.move_into(20 + index, 30 + (index + 1) % 3, 5);
        }
        world.retype(MEMORY, ObjectType::Frame, 12, 40, 1);
        world.copy(40, 41);
        world.move_into(41, 31, 8);
        world.drive_delete(drive, 31 << 16 | 5);
        // The call that is repeated may not find the CNode any more through which it named the slot.
        assert!(drive.forget_after != usize::MAX || !finished(drive) || !world.slot(40).has_children());
    });
}

#[test]
fn a_cnode_that_holds_the_untyped_it_was_made_of() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::Untyped, 16, 20, 1);
        world.retype(20, ObjectType::CNode, 6, 21, 1);
        world.retype(20, ObjectType::Frame, 12, 22, 2);
        world.move_into(20, 21, 3);
        world.drive_delete(drive, 21);
        assert!(!finished(drive) || (20..24).all(|index| world.slot(index).is_empty()));
    });
}

#[test]
fn a_cnode_revokes_its_own_base() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::Untyped, 16, 20, 1);
        world.retype(20, ObjectType::CNode, 6, 21, 1);
        world.retype(20, ObjectType::Frame, 12, 22, 2);
        world.copy(21, 30);
        world.move_into(20, 21, 3);
        world.move_into(21, 30, 4);
        world.drive_revoke(drive, 30 << 16 | 3);
        assert!(drive.forget_after != usize::MAX || !finished(drive) || world.slot(22).is_empty());
    });
}

#[test]
fn untypeds_and_cnodes_that_hold_each_other() {
    driven(|world, drive| {
        // Two CNodes, each in the other's keeping together with the Untyped that the other was made of, at some depth.
        world.retype(MEMORY, ObjectType::Untyped, 17, 20, 2);
        for side in 0..2 {
            world.retype(20 + side, ObjectType::Untyped, 16, 30 + side, 1);
            world.retype(30 + side, ObjectType::Untyped, 15, 40 + side, 1);
            world.retype(40 + side, ObjectType::CNode, 6, 50 + side, 1);
            world.retype(40 + side, ObjectType::Frame, 12, 60 + side, 1);
            world.copy(50 + side, 70 + side);
        }
        for side in 0..2 {
            world.move_into(20 + side, 71 - side, 1);
            world.move_into(40 + side, 71 - side, 2);
            world.move_into(30 + side, 70 + side, 3);
        }
        world.drive_delete(drive, 50);
        assert!(!finished(drive) || [51, 60, 61].iter().all(|index| world.slot(*index).is_empty()));
    });
}

#[test]
fn an_abandoned_zombie_is_finished_with_the_untyped_above_it() {
    for steps in 1..8 {
        let mut world = World::new();
        world.retype(MEMORY, ObjectType::Untyped, 18, 20, 1);
        world.retype(20, ObjectType::CNode, 6, 21, 1);
        world.retype(MEMORY, ObjectType::Frame, 12, 22, 1);
        for index in 1..9 {
            world.ok(Label::CNodeCopy, 21, [index, 22, ALL, 0, 0]);
        }
        let given_up = Drive { forget_after: usize::MAX, give_up_after: steps };
        world.drive_delete(given_up, 21);
        world.retype(MEMORY, ObjectType::CNode, 6, 30, 1);
        world.move_into(20, 30, 3);
        world.drive_delete(Drive { give_up_after: usize::MAX, ..given_up }, 30);
        assert!(!world.slot(22).has_children(), "after {steps} steps");
    }
}

#[test]
fn what_is_in_flight_dies_with_the_channel() {
    driven(|world, drive| {
        world.retype(MEMORY, ObjectType::Channel, 0, 20, 2);
        world.retype(MEMORY, ObjectType::CNode, 6, 30, 1);
        world.retype(MEMORY, ObjectType::Frame, 12, 40, 1);
        world.copy(40, 41);
        world.move_into(41, 30, 6);
        world.ok(Label::ChannelGrant, 20, [30, ALL, 1, 0, 0]);
        world.ok(Label::ChannelGrant, 21, [20, ALL, 1, 0, 0]);
        world.drive_delete(drive, 21);
        assert!(
            !finished(drive) || !world.slot(40).has_children(),
            "a channel in flight, with a CNode in flight, with a copy"
        );
    });
}

#[test]
fn an_abandoned_deletion_is_finished_by_the_one_above() {
    for steps in 1..20 {
        let mut world = World::new();
        world.retype(MEMORY, ObjectType::Untyped, 18, 19, 1);
        world.retype(19, ObjectType::CNode, 6, 20, 4);
        for index in 20..24 {
            world.copy(index, index + 10);
        }
        for index in 0..4 {
            world.move_into(20 + index, 30 + (index + 1) % 4, 5);
        }
        world.kernel.machine.patience.set(Some(0));
        let call = Call { cap: 31, label: Label::CNodeDelete as u64, args: [5, 0, 0, 0, 0] };
        for _ in 0..steps {
            let _ = world.kernel.handle_call(CoreId::new(0), &call);
            world.check();
        }
        world.kernel.machine.patience.set(None);
        world.revoke(19);
        world.retype(19, ObjectType::Frame, 12, 200, 64);
    }
}

#[test]
fn a_vm_dies_with_its_vcpus_stopped_and_its_mappings_gone() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 1);
    world.retype(MEMORY, ObjectType::Vcpu, 0, 21, 3);
    world.retype(MEMORY, ObjectType::CNode, 6, 30, 1);
    world.ok(Label::VmSetCSpace, 20, [30, 0, 0, 0, 0]);
    world.refused(Label::VmSetCSpace, 20, [30, 0, 0, 0, 0], Error::WrongPhase, 0);
    for vcpu in 21..24 {
        world.ok(Label::VcpuAttach, vcpu, [20, 0, 0, 0, 0]);
    }
    world.refused(Label::VcpuAttach, 21, [20, 0, 0, 0, 0], Error::InUse, 0);
    world.ok(Label::VmGetPage, 20, [CNODE, 40, 0, 0, 0]);
    world.ok(Label::VcpuGetPage, 22, [0, CNODE, 41, 0, 0]);
    world.delete(22);
    assert!(world.slot(41).is_empty());
    world.delete(20);
    assert!(world.slot(40).is_empty());
    for vcpu in [21, 23] {
        world.refused(Label::VcpuStop, vcpu, [0; 5], Error::NotConfigured, 0);
    }
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 1);
    world.ok(Label::VmSetCSpace, 20, [30, 0, 0, 0, 0]);
    world.delete(30);
    world.ok(Label::VcpuAttach, 21, [20, 0, 0, 0, 0]);
}

#[test]
fn an_invoker_may_destroy_itself() {
    let mut world = World::new();
    // A second VM on core 1, which holds its own Untyped and revokes it.
    world.retype(MEMORY, ObjectType::Untyped, 18, 20, 1);
    world.retype(20, ObjectType::Vm, 0, 21, 1);
    world.retype(20, ObjectType::Vcpu, 0, 22, 1);
    world.retype(20, ObjectType::CNode, 8, 23, 1);
    world.ok(Label::VmSetCSpace, 21, [23, 0, 0, 0, 0]);
    world.ok(Label::VcpuAttach, 22, [21, 0, 0, 0, 0]);
    world.ok(Label::CpuTimeSplit, TIME[1], [MS, 10 * MS, CNODE, 24, 0]);
    world.ok(Label::VcpuBindTime, 22, [24, 0, 0, 0, 0]);
    world.copy(23, 30);
    for (from, to) in [(20, 4), (21, 2), (23, 1)] {
        world.move_into(from, 30, to);
    }
    world.delete(30);
    world.ok(Label::VcpuLaunch, 22, [4, 3, 0, 0, 0]);
    let core = CoreId::new(1);
    assert!(world.kernel.schedule(core).run.is_some());
    world.kernel.machine.patience.set(Some(0));
    let call = Call { cap: 1, label: Label::CNodeRevoke as u64, args: [4, 0, 0, 0, 0] };
    let outcome = world.kernel.handle_call(core, &call);
    assert!(matches!(outcome, Outcome::Gone | Outcome::Preempted), "{outcome:?}");
    world.check();
    assert_eq!(world.kernel.schedule(core).run, None);
    world.kernel.machine.patience.set(None);
    world.revoke(MEMORY);
    assert_eq!(world.watermark(MEMORY), 0);
}

#[test]
fn boot_capabilities_stay() {
    let mut world = World::new();
    for index in [CNODE, VM, VCPU, MACHINE, PORTS, IRQS, MEMORY, TIME[0]] {
        world.refused(Label::CNodeDelete, CNODE, [index, 0, 0, 0, 0], Error::InUse, 1);
    }
    world.refused(Label::CNodeDelete, CNODE, [FREE, 0, 0, 0, 0], Error::SlotEmpty, 1);
    world.refused(Label::CNodeRevoke, CNODE, [0; 5], Error::OutOfRange, 1);
}

#[test]
fn a_revoke_is_preempted_between_bounded_steps() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 18, 20, 1);
    world.retype(20, ObjectType::Frame, 12, 30, 64);
    world.kernel.machine.patience.set(Some(0));
    let call = Call { cap: CNODE, label: Label::CNodeRevoke as u64, args: [20, 0, 0, 0, 0] };
    let mut preempted = 0;
    while world.kernel.handle_call(CoreId::new(0), &call) == Outcome::Preempted {
        preempted += 1;
        world.check();
    }
    // 64 frames, 8 at once or so, and 64 pages, 16 at once.
    assert!((64 / 9 + 64 / 16..=20).contains(&preempted), "{preempted} pieces");
    assert_eq!(world.watermark(20), 0);
}

#[test]
fn reclaiming_a_base_stops_its_vm_first() {
    let mut world = World::new();
    let vm = super::hostile_launch::tenant(&mut world);
    super::hostile_launch::launch(&mut world).unwrap();
    world.kernel.machine.patience.set(Some(0));
    let call = Call { cap: CNODE, label: Label::CNodeRevoke as u64, args: [MEMORY, 0, 0, 0, 0] };
    assert_eq!(world.kernel.handle_call(CoreId::new(0), &call), Outcome::Preempted);
    world.check();
    assert!(world.kernel.machine.vm(vm).dying);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, None);
    assert!(matches!(world.slot(MEMORY).cap, Cap::Untyped { .. }));
}

/// However many Vcpus a VM has, one step stops a few of them only, and nothing else is done before the last has stopped.
#[test]
fn a_dying_vm_is_stopped_in_bounded_steps() {
    const VCPUS: u64 = 40;
    let mut world = World::new();
    let vm = super::hostile_launch::tenant(&mut world);
    super::hostile_launch::launch(&mut world).unwrap();
    world.retype(MEMORY, ObjectType::Vcpu, 0, 200, VCPUS);
    for vcpu in 200..200 + VCPUS {
        let id = world.vcpu_id(vcpu);
        world.kernel.attach(id, vm);
        world.kernel.machine.vcpu_mut(id).run = Run::Runnable;
    }
    let running = |world: &World| {
        let is_running = |vcpu: &u64| world.kernel.machine.vcpu(world.vcpu_id(*vcpu)).run != Run::Stopped;
        (200..200 + VCPUS).filter(is_running).count()
    };
    let mut work = Work::revoke(world.at(super::hostile_launch::PARENT));
    let mut before = running(&world);
    while before != 0 {
        assert_eq!(world.kernel.destroy_step(&mut work), Step::Heavy);
        let now = running(&world);
        assert!((1..=16).contains(&(before - now)), "{before} were running, {now} are");
        before = now;
        // What a Vcpu that is still to be stopped might do meanwhile: one of those goes.
        if now == VCPUS as usize - 16 {
            let next = world.kernel.machine.vm(vm).to_stop;
            world.kernel.machine.vcpu_mut(next).run = Run::Stopped;
            world.kernel.detach(next);
            before -= 1;
        }
    }
    world.revoke(MEMORY);
    assert_eq!(world.watermark(MEMORY), 0);
}

#[test]
fn the_tables_of_a_vm_that_never_runs_again_are_walked_by_nobody() {
    let mut world = World::new();
    let vm = super::hostile_launch::tenant(&mut world);
    super::hostile_launch::launch(&mut world).unwrap();
    // A lease of the tenant's that is not of its base, and a friend's capability to its VM.
    world.retype(MEMORY, ObjectType::Frame, 12, 200, 2);
    let (from, friend) = (world.kernel.machine.vm(vm).cspace.plus(2), world.root.plus(210));
    world.kernel.derive(from, friend, Rights::all(), 0);
    world.ok(Label::FrameMap, 200, [210, 0x10_a000, RW, 0, 0]);
    let flushes = world.kernel.machine.vm(vm).tlb_generation;
    let mut work = Work::revoke(world.at(super::hostile_launch::PARENT));
    assert_eq!(world.kernel.destroy_step(&mut work), Step::Heavy);
    assert!(world.kernel.machine.vm(vm).is_cut());
    // The Revoke is given up here. The lease is taken back without a flush, and maps nothing any more.
    world.ok(Label::FrameUnmap, 200, [0; 5]);
    assert_eq!(world.kernel.machine.vm(vm).tlb_generation, flushes);
    world.refused(Label::FrameMap, 201, [210, 0x10_b000, RW, 0, 0], Error::NoPageTable, 2);
    world.revoke(super::hostile_launch::PARENT);
    assert!(world.slot(210).is_empty());
}

#[test]
fn a_vcpu_that_joins_another_vm_has_asked_for_nothing() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 2);
    world.retype(MEMORY, ObjectType::Vcpu, 0, 22, 1);
    world.ok(Label::VcpuAttach, 22, [20, 0, 0, 0, 0]);
    world.ok(Label::VcpuSetUpcall, 22, [40, 41, 0, 0, 0]);
    world.ok(Label::VcpuSignal, 22, [1, 0, 0, 0, 0]);
    world.delete(20);
    world.ok(Label::VcpuAttach, 22, [21, 0x1000, 0x2000, 0x3000, 0]);
    let id = world.vcpu_id(22);
    let header = world.kernel.machine.vcpu(id);
    assert_eq!((header.fault_vector, header.event_vector, header.event_pending), (0, 0, false));
    for (register, value) in [(Register::Rip, 0x1000), (Register::Cr3, 0x2000), (Register::Rsp, 0x3000)] {
        assert_eq!(world.ok(Label::VcpuGetRegister, 22, [register as u64, 0, 0, 0, 0])[0], value);
    }
}
