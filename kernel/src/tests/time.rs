//! CpuTime: splitting, resizing, binding.

use super::base::*;
use crate::cap::Cap;
use crate::sched::CAPACITY;
use cap_spec::abi::{Error, Label, ObjectType};

fn split(world: &mut World, from: u64, to: u64, budget: u64, period: u64) -> Result<[u64; 2], cap_spec::abi::Fault> {
    world.call(Label::CpuTimeSplit, from, [budget, period, CNODE, to, 0])
}

#[test]
fn a_core_promises_no_more_than_its_capacity() {
    let mut world = World::new();
    for part in 0..9 {
        split(&mut world, TIME[1], 20 + part, MS, 10 * MS).unwrap();
    }
    world.refused(Label::CpuTimeSplit, TIME[1], [MS, 10 * MS, CNODE, 40, 0], Error::NotAdmitted, 0);
    world.delete(20);
    split(&mut world, TIME[1], 20, MS, 10 * MS).unwrap();
    assert!(matches!(world.slot(TIME[1]).cap, Cap::CpuTime { allocated, .. } if allocated <= CAPACITY.get()));
}

#[test]
fn a_whole_core_is_given_to_one_only() {
    let mut world = World::new();
    split(&mut world, TIME[1], 20, 10 * MS, 10 * MS).unwrap();
    world.refused(Label::CpuTimeSplit, TIME[1], [MS, 10 * MS, CNODE, 21, 0], Error::NotAdmitted, 0);
    world.refused(Label::CpuTimeSplit, TIME[0], [10 * MS, 10 * MS, CNODE, 21, 0], Error::NotAdmitted, 0);
    split(&mut world, 20, 21, 9 * MS, 10 * MS).unwrap();
    world.delete(20);
    assert!(world.slot(21).is_empty());
    split(&mut world, TIME[1], 20, MS, 10 * MS).unwrap();
}

#[test]
fn budgets_and_periods_have_bounds() {
    let mut world = World::new();
    for (budget, period, argument) in
        [(0, MS, 1), (MS / 100, MS, 1), (MS, MS / 2, 2), (2 * MS, MS, 2), (MS, 2000 * MS, 2), (u64::MAX, MS, 1)]
    {
        world.refused(Label::CpuTimeSplit, TIME[1], [budget, period, CNODE, 20, 0], Error::OutOfRange, argument);
    }
}

#[test]
fn a_resize_takes_from_and_gives_to_the_parent() {
    let mut world = World::new();
    split(&mut world, TIME[1], 20, 4 * MS, 10 * MS).unwrap();
    split(&mut world, TIME[1], 21, 4 * MS, 10 * MS).unwrap();
    world.refused(Label::CpuTimeResize, 20, [6 * MS, 10 * MS, 0, 0, 0], Error::NotAdmitted, 0);
    world.ok(Label::CpuTimeResize, 21, [2 * MS, 10 * MS, 0, 0, 0]);
    world.ok(Label::CpuTimeResize, 20, [6 * MS, 10 * MS, 0, 0, 0]);
    world.refused(Label::CpuTimeResize, TIME[1], [MS, 10 * MS, 0, 0, 0], Error::InUse, 0);
    split(&mut world, 20, 22, MS, 10 * MS).unwrap();
    world.refused(Label::CpuTimeResize, 20, [MS, 10 * MS, 0, 0, 0], Error::InUse, 0);
    world.ok(Label::CNodeCopy, CNODE, [30, VM, ALL, 0, 0]);
    world.refused(Label::CNodeCopy, CNODE, [31, 21, ALL, 0, 0], Error::NotCopyable, 2);
}

#[test]
fn a_reservation_is_bound_or_split_never_both() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vcpu, 0, 20, 2);
    split(&mut world, TIME[1], 30, 2 * MS, 10 * MS).unwrap();
    world.refused(Label::VcpuBindTime, 20, [30, 0, 0, 0, 0], Error::NotConfigured, 0);
    world.ok(Label::VcpuAttach, 20, [VM, 0, 0, 0, 0]);
    world.ok(Label::VcpuAttach, 21, [VM, 0, 0, 0, 0]);
    world.ok(Label::VcpuBindTime, 20, [30, 0, 0, 0, 0]);
    world.refused(Label::VcpuBindTime, 21, [30, 0, 0, 0, 0], Error::InUse, 1);
    world.refused(Label::VcpuBindTime, 20, [30, 0, 0, 0, 0], Error::InUse, 0);
    world.refused(Label::CpuTimeSplit, 30, [MS, 10 * MS, CNODE, 40, 0], Error::InUse, 0);
    world.ok(Label::CpuTimeResize, 30, [3 * MS, 10 * MS, 0, 0, 0]);
    world.move_into(30, CNODE, 31);
    world.ok(Label::VcpuUnbindTime, 20, [0; 5]);
    world.refused(Label::VcpuUnbindTime, 20, [0; 5], Error::NotConfigured, 0);
    split(&mut world, 31, 32, MS, 10 * MS).unwrap();
    world.refused(Label::VcpuBindTime, 20, [31, 0, 0, 0, 0], Error::InUse, 1);
    world.ok(Label::VcpuBindTime, 20, [32, 0, 0, 0, 0]);
    world.delete(31);
    world.refused(Label::VcpuStart, 20, [0; 5], Error::NotConfigured, 0);
}

#[test]
fn what_a_running_vcpu_gave_back_is_not_used_before_its_period_has_ended() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vcpu, 0, 20, 1);
    world.ok(Label::VcpuAttach, 20, [VM, 0, 0, 0, 0]);
    split(&mut world, TIME[1], 30, 9 * MS, 10 * MS).unwrap();
    world.ok(Label::VcpuBindTime, 20, [30, 0, 0, 0, 0]);
    world.ok(Label::VcpuStart, 20, [0; 5]);
    world.kernel.schedule(crate::types::CoreId::new(1));
    world.kernel.machine.now += MS;
    world.delete(30);
    split(&mut world, TIME[1], 31, 9 * MS, 10 * MS).unwrap();
    let Cap::CpuTime { free_from, .. } = world.slot(31).cap else { panic!("no CPU time") };
    assert_eq!(free_from, 10 * MS, "the next boundary");
}

#[test]
fn a_core_has_room_for_128_reservations() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 20, 19, 1);
    for half in 0..2 {
        split(&mut world, TIME[1], 500 + half, 470 * MS, 1000 * MS).unwrap();
    }
    let mut made = 0;
    for number in 0..129_u64 {
        if number % 32 == 0 && number < 128 {
            world.retype(19, ObjectType::Vcpu, 0, 20 + number, 16);
            world.retype(MEMORY, ObjectType::Vcpu, 0, 36 + number, 16);
        }
        if number < 128 {
            world.call_on(0, Label::CpuTimeSplit, 500 + number / 64, [MS, 1000 * MS, CNODE, 200 + number, 0]);
            world.call_on(0, Label::VcpuAttach, 20 + number, [VM, 0, 0, 0, 0]);
            world.call_on(0, Label::VcpuBindTime, 20 + number, [200 + number, 0, 0, 0, 0]);
            made += u32::from(world.kernel.machine_vcpu_has_time(world.vcpu_id(20 + number)));
        }
    }
    world.check();
    assert_eq!(made, 128);
    world.refused(Label::CpuTimeSplit, 500, [MS, 1000 * MS, CNODE, 600, 0], Error::InUse, 0);
    world.retype(MEMORY, ObjectType::Vcpu, 0, 400, 1);
    world.ok(Label::VcpuAttach, 400, [VM, 0, 0, 0, 0]);
    split(&mut world, TIME[1], 502, MS, 1000 * MS).unwrap();
    world.refused(Label::VcpuBindTime, 400, [502, 0, 0, 0, 0], Error::TooManyReservations, 1);
}

impl crate::kernel::Kernel<super::host::Host> {
    fn machine_vcpu_has_time(&self, vcpu: crate::types::VcpuId) -> bool {
        crate::machine::Machine::vcpu(&self.machine, vcpu).time.is_some()
    }
}
