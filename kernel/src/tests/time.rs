//! CpuTime: splitting, resizing, binding.

use super::base::*;
use crate::cap::Cap;
use crate::machine::{Machine, SharedPage};
use crate::sched::CAPACITY;
use crate::types::{CoreId, Ticks};
use cap_spec::abi::{Error, Label, ObjectType, info_page};

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
    world.kernel.schedule(CORE);
    world.kernel.machine.now += MS;
    world.delete(30);
    split(&mut world, TIME[1], 31, 9 * MS, 10 * MS).unwrap();
    let Cap::CpuTime { free_from, .. } = world.slot(31).cap else { panic!("no CPU time") };
    assert_eq!(free_from, 10 * MS, "the next boundary");
}

/// A period that makes a share smaller than the 128th part of a core is refused, however large the reservation that it is
/// split off, so that a tenant cannot use up the reservations of a core with next to nothing of its time.
#[test]
fn a_core_runs_out_of_time_before_it_runs_out_of_reservations() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Untyped, 21, 19, 1);
    let (budget, switches) = (MS / 20, 10_000);
    let longest = (budget + switches) * 128;
    world.refused(Label::CpuTimeSplit, TIME[1], [budget, longest + 1, CNODE, 20, 0], Error::OutOfRange, 2);
    world.refused(Label::CpuTimeSplit, TIME[1], [MS, 1000 * MS, CNODE, 20, 0], Error::OutOfRange, 2);
    let mut fit = 0;
    for half in [500, 501] {
        split(&mut world, TIME[1], half, 470 * MS, 1000 * MS).unwrap();
        for number in 0..64 {
            let (vcpu, time) = (20 + fit, 200 + fit);
            match split(&mut world, half, time, budget, longest) {
                Ok(_) => fit += 1,
                Err(fault) => {
                    assert_eq!(fault.error, Error::NotAdmitted, "{number}");
                    break;
                }
            }
            world.refused(Label::CpuTimeResize, time, [budget, longest + 1, 0, 0, 0], Error::OutOfRange, 2);
            world.call_on(0, Label::UntypedRetype, 19, [ObjectType::Vcpu as u64, 0, CNODE, vcpu, 1]);
            world.call_on(0, Label::VcpuAttach, vcpu, [VM, 0, 0, 0, 0]);
            world.call_on(0, Label::VcpuBindTime, vcpu, [time, 0, 0, 0, 0]);
            let vcpu = world.vcpu_id(vcpu);
            assert!(world.kernel.machine.vcpu(vcpu).reservation.is_some());
        }
    }
    world.check();
    assert_eq!(fit, 120, "of 121 that fit into 95 %, the halves lose one");
}

/// A Vcpu of the root VM that runs on core 1, in slot 20, with an event vector, and one that is stopped, in slot 21.
fn two_on_core_1() -> World {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vcpu, 0, 20, 2);
    for (vcpu, period) in [(20, 10 * MS), (21, 5 * MS)] {
        world.ok(Label::VcpuAttach, vcpu, [VM, 0, 0, 0, 0]);
        split(&mut world, TIME[1], vcpu + 10, MS, period).unwrap();
        world.ok(Label::VcpuBindTime, vcpu, [vcpu + 10, 0, 0, 0, 0]);
    }
    world.ok(Label::VcpuSetUpcall, 20, [0, 40, 0, 0, 0]);
    world.ok(Label::VcpuStart, 20, [0; 5]);
    world.kernel.schedule(CORE);
    world
}

const CORE: CoreId = CoreId::new(1);

impl World {
    /// Core 1 takes an NMI 100 ticks from now and decides 900 ticks later; returns what the Vcpus in slots 20 and 21 are
    /// charged from now on.
    fn used_by_an_nmi(&mut self) -> [u64; 2] {
        let used = |world: &World| {
            [20, 21].map(|slot| {
                let vcpu = world.vcpu_id(slot);
                let told = world.kernel.machine.shared_word(SharedPage::Info(vcpu), info_page::USED_TICKS);
                told + world.kernel.reservation_of(vcpu).unwrap().used.get()
            })
        };
        let before = used(self);
        let at = self.kernel.machine.now + 100;
        self.kernel.machine.now += 1_000;
        self.kernel.on_nmi(CORE, Ticks::new(at));
        self.kernel.schedule(CORE);
        let after = used(self);
        [0, 1].map(|index: usize| after[index] - before[index])
    }
}

#[test]
fn the_work_of_an_nmi_is_charged_to_its_cause() {
    let mut world = two_on_core_1();
    assert_eq!(world.used_by_an_nmi(), [1_000, 0], "it was started");
    world.kernel.machine.now += 10_000;
    world.kernel.on_deadline(CORE);
    world.kernel.schedule(CORE);
    assert_eq!(world.used_by_an_nmi(), [100, 0], "the alarm of the core");
    world.kernel.machine.now += 10_000;
    world.kernel.on_deadline(CORE);
    world.kernel.schedule(CORE);
    world.ok(Label::VcpuSignal, 20, [1, 0, 0, 0, 0]);
    assert_eq!(world.used_by_an_nmi(), [1_000, 0], "an event for the one that runs");
    world.retype(MEMORY, ObjectType::Frame, 12, 40, 1);
    for level in [3, 2, 1] {
        world.retype(MEMORY, ObjectType::PageTable, 0, 40 + level, 1);
        world.ok(Label::PageTableMap, 40 + level, [VM, 0, level, 0, 0]);
    }
    world.ok(Label::FrameMap, 40, [VM, 0, RW, 0, 0]);
    world.ok(Label::FrameUnmap, 40, [0; 5]);
    assert_eq!(world.used_by_an_nmi(), [1_000, 0], "memory of its VM is taken back");
    world.ok(Label::VcpuStart, 21, [0; 5]);
    assert_eq!(world.used_by_an_nmi(), [100, 900], "another one is started");
    world.ok(Label::VcpuStop, 21, [0; 5]);
    assert_eq!(world.used_by_an_nmi(), [0, 1_000], "and stopped");
}

/// Nor is anybody else charged for an NMI that a device raises for a Vcpu that is out.
#[test]
fn an_interrupt_for_a_vcpu_that_is_out_is_charged_to_it() {
    let mut world = two_on_core_1();
    assert_eq!(world.used_by_an_nmi(), [1_000, 0], "it was started");
    let used = |world: &World| world.kernel.reservation_of(world.vcpu_id(21)).unwrap().used.get();
    for (fired, charged) in [(false, 0), (true, 900)] {
        let before = used(&world);
        world.kernel.machine.now += 10_000;
        let at = world.kernel.machine.now + 100;
        world.kernel.machine.now += 1_000;
        world.kernel.on_nmi(CORE, Ticks::new(at));
        if fired {
            let vcpu = world.vcpu_id(21);
            world.kernel.interrupt_by_nmi(vcpu);
        }
        world.kernel.schedule(CORE);
        assert_eq!(used(&world) - before, charged);
    }
}

/// A repeated event costs a running receiver nothing.
#[test]
fn an_event_that_is_repeated_is_charged_to_nobody_but_who_repeats_it() {
    let mut world = two_on_core_1();
    world.ok(Label::VcpuSignal, 20, [1, 0, 0, 0, 0]);
    assert_eq!(world.used_by_an_nmi(), [1_000, 0], "it was started, and told");
    world.ok(Label::VcpuSignal, 20, [1, 0, 0, 0, 0]);
    assert_eq!(world.used_by_an_nmi(), [100, 0], "the alarm of the core");
}

/// A route that is bound to a Vcpu that is out stays masked: nobody is called for it.
#[test]
fn binding_a_route_calls_no_core_that_does_not_hold_its_vcpu() {
    let mut world = two_on_core_1();
    world.ok(Label::IrqSplit, IRQS, [5, 1, CNODE, 40, 0]);
    for (vcpu, held) in [(21, false), (20, true)] {
        world.kernel.machine.kicked.clear();
        world.ok(Label::IrqBind, 40, [vcpu, 50, 0, 0, 0]);
        assert_eq!(world.kernel.machine.kicked.contains(&CORE), held);
        world.ok(Label::IrqUnbind, 40, [0; 5]);
    }
    assert_eq!(world.used_by_an_nmi(), [1_000, 0], "the core was called for the one that runs");
}
