//! Vcpus: registers, starting, events, faults, interrupts.

use super::base::*;
use crate::machine::{Machine, SharedPage};
use crate::run::{FaultAction, Outcome};
use crate::types::{CoreId, Gpa};
use crate::vcpu::Run;
use cap_spec::abi::{
    Error, Label, ObjectType, Register, Status, StopReason, VCPU_ROUTES, handler_page, info_page, stats_page,
};

const OTHER: u64 = 20;

/// A second Vcpu of the root VM, with time on core 1, in slot [`OTHER`], stopped.
fn world_with_other() -> World {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vcpu, 0, OTHER, 1);
    world.ok(Label::VcpuAttach, OTHER, [VM, 0, 0, 0, 0]);
    world.ok(Label::CpuTimeSplit, TIME[1], [5 * MS, 10 * MS, CNODE, 21, 0]);
    world.ok(Label::VcpuBindTime, OTHER, [21, 0, 0, 0, 0]);
    world
}

#[test]
fn registers_of_a_stopped_vcpu_are_checked() {
    let mut world = world_with_other();
    let set = |register: Register, value| [register as u64, value, 0, 0, 0];
    world.ok(Label::VcpuSetRegister, OTHER, set(Register::Rip, 0x7fff_ffff_f000));
    world.refused(Label::VcpuSetRegister, OTHER, set(Register::Rip, 1 << 47), Error::OutOfRange, 2);
    world.refused(Label::VcpuSetRegister, OTHER, set(Register::Rflags, 1 << 17), Error::OutOfRange, 2);
    world.refused(Label::VcpuSetRegister, OTHER, set(Register::Cr3, 8), Error::Misaligned, 2);
    world.refused(Label::VcpuSetRegister, OTHER, set(Register::Cr3, 1 << 48), Error::OutOfRange, 2);
    world.refused(Label::VcpuSetRegister, OTHER, [21, 0, 0, 0, 0], Error::OutOfRange, 1);
    world.ok(Label::VcpuSetRegister, OTHER, set(Register::Rflags, 0x200));
    assert_eq!(world.ok(Label::VcpuGetRegister, OTHER, [Register::Rflags as u64, 0, 0, 0, 0]), [0x202, 0]);
    world.refused(Label::VcpuSetRegister, VCPU, set(Register::Rax, 0), Error::Running, 0);
}

#[test]
fn a_stopped_vcpu_is_busy_until_its_core_has_let_go() {
    let mut world = world_with_other();
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    let id = world.vcpu_id(OTHER);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, Some(id));
    world.refused(Label::VcpuStart, OTHER, [0; 5], Error::Running, 0);
    world.kernel.machine.expelled.clear();
    world.ok(Label::VcpuStop, OTHER, [0; 5]);
    assert_eq!(world.kernel.machine.expelled, [CoreId::new(1)]);
    assert!(world.kernel.machine.kicked.contains(&CoreId::new(1)));
    world.refused(Label::VcpuGetRegister, OTHER, [0; 5], Error::Busy, 0);
    let next = world.kernel.schedule(CoreId::new(1));
    assert_eq!((next.save, next.run), (Some(id), None));
    world.ok(Label::VcpuGetRegister, OTHER, [0; 5]);
}

#[test]
fn wait_takes_events_or_sleeps_until_a_signal() {
    let mut world = world_with_other();
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    world.kernel.schedule(CoreId::new(1));
    world.ok(Label::VcpuSignal, OTHER, [6, 0, 0, 0, 0]);
    let wait = |world: &mut World, mask, deadline| world.call_on(1, Label::VcpuWait, OTHER, [mask, deadline, 0, 0, 0]);
    assert_eq!(wait(&mut world, 2, 0), Outcome::Done { status: Status::OK, results: [2, 0] });
    assert_eq!(wait(&mut world, 2, 1), Outcome::Done { status: Status::OK, results: [0, 0] }, "deadline has passed");
    assert_eq!(wait(&mut world, 1, 0), Outcome::Blocked);
    world.check();
    assert_eq!(world.kernel.current(CoreId::new(1)), None);
    world.ok(Label::VcpuSignal, OTHER, [8, 0, 0, 0, 0]);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, None, "not an event that it waits for");
    world.ok(Label::VcpuSignal, OTHER, [9, 0, 0, 0, 0]);
    let id = world.vcpu_id(OTHER);
    assert_eq!(world.kernel.machine.results, [(id, [1, 0])]);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, Some(id));
    assert_eq!(wait(&mut world, 12, 0), Outcome::Done { status: Status::OK, results: [12, 0] });
    world.refused(Label::VcpuWait, OTHER, [1, 0, 0, 0, 0], Error::Forbidden, 0);
    world.refused(Label::VcpuSignal, OTHER, [0; 5], Error::OutOfRange, 1);
}

#[test]
fn a_sleeper_wakes_at_its_deadline_with_nothing() {
    let mut world = world_with_other();
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    world.kernel.schedule(CoreId::new(1));
    let deadline = world.kernel.machine.now + MS;
    assert_eq!(world.call_on(1, Label::VcpuWait, OTHER, [1, deadline, 0, 0, 0]), Outcome::Blocked);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).until.get(), deadline);
    world.kernel.machine.now = deadline;
    world.kernel.on_deadline(CoreId::new(1));
    let id = world.vcpu_id(OTHER);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, Some(id));
    assert_eq!(world.kernel.machine.results, [(id, [0, 0])]);
    world.check();
}

#[test]
fn a_running_receiver_that_asked_gets_a_vector() {
    let mut world = world_with_other();
    world.refused(Label::VcpuSetUpcall, OTHER, [31, 0, 0, 0, 0], Error::OutOfRange, 1);
    world.refused(Label::VcpuSetUpcall, OTHER, [0, 256, 0, 0, 0], Error::OutOfRange, 2);
    world.ok(Label::VcpuSetUpcall, OTHER, [0, 40, 0, 0, 0]);
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    world.kernel.schedule(CoreId::new(1));
    world.kernel.machine.kicked.clear();
    world.ok(Label::VcpuSignal, OTHER, [1, 0, 0, 0, 0]);
    assert_eq!(world.kernel.machine.kicked, [CoreId::new(1)]);
    let vcpu = world.kernel.current(CoreId::new(1)).expect("it runs");
    assert_eq!(world.kernel.take_event_vector(vcpu), Some(40));
    assert_eq!(world.kernel.take_event_vector(vcpu), None);
    world.kernel.machine.kicked.clear();
    world.ok(Label::VcpuSignal, OTHER, [1, 0, 0, 0, 0]);
    assert!(world.kernel.machine.kicked.is_empty(), "it has been told of this event");
    assert_eq!(world.kernel.take_event_vector(vcpu), None);
    world.ok(Label::VcpuSignal, OTHER, [3, 0, 0, 0, 0]);
    assert_eq!(world.kernel.machine.kicked, [CoreId::new(1)]);
    // What it did not wait for while it slept it is told of when it runs.
    world.kernel.take_event_vector(vcpu);
    assert_eq!(world.call_on(1, Label::VcpuWait, OTHER, [1 << 9, 0, 0, 0, 0]), Outcome::Blocked);
    world.ok(Label::VcpuSignal, OTHER, [1 << 8, 0, 0, 0, 0]);
    world.ok(Label::VcpuSignal, OTHER, [1 << 9, 0, 0, 0, 0]);
    world.kernel.schedule(CoreId::new(1));
    assert_eq!(world.kernel.take_event_vector(vcpu), Some(40));
}

#[test]
fn channels_signal_the_receiver_of_the_other_end() {
    let mut world = world_with_other();
    world.retype(MEMORY, ObjectType::Channel, 0, 30, 1);
    world.ok(Label::CNodeMint, CNODE, [31, 30, ALL, 2, 0]);
    world.refused(Label::ChannelSignal, 30, [0; 5], Error::NoReceiver, 0);
    world.refused(Label::ChannelBind, 31, [OTHER, 0, 0, 0, 0], Error::OutOfRange, 2);
    world.ok(Label::ChannelBind, 31, [OTHER, 4, 0, 0, 0]);
    world.refused(Label::ChannelBind, 31, [OTHER, 4, 0, 0, 0], Error::InUse, 0);
    world.ok(Label::ChannelBind, 30, [VCPU, 1, 0, 0, 0]);
    world.ok(Label::ChannelSignal, 30, [0; 5]);
    let id = world.vcpu_id(OTHER);
    assert_eq!(world.kernel.machine.shared_word(SharedPage::Info(id), info_page::EVENTS), 4);
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    world.kernel.schedule(CoreId::new(1));
    let waited = world.call_on(1, Label::ChannelWait, 31, [4, 0, 0, 0, 0]);
    assert_eq!(waited, Outcome::Done { status: Status::OK, results: [4, 0] });
    assert_eq!(
        world.call_on(0, Label::VcpuWait, VCPU, [1, 0, 0, 0, 0]),
        Outcome::Done { status: Status::OK, results: [1, 0] }
    );
    world.delete(OTHER);
    world.refused(Label::ChannelSignal, 30, [0; 5], Error::NoReceiver, 0);
    world.delete(30);
}

#[test]
fn a_grant_is_accepted_once() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Channel, 0, 30, 1);
    world.ok(Label::CNodeMint, CNODE, [31, 30, ALL, 2, 0]);
    world.retype(MEMORY, ObjectType::Frame, 12, 20, 1);
    world.refused(Label::ChannelAccept, 31, [CNODE, 40, 0, 0, 0], Error::ChannelEmpty, 0);
    world.ok(Label::ChannelGrant, 30, [20, RW, 0, 0, 0]);
    world.refused(Label::ChannelGrant, 30, [20, RW, 0, 0, 0], Error::ChannelFull, 0);
    world.ok(Label::ChannelAccept, 31, [CNODE, 40, 0, 0, 0]);
    assert_eq!(u64::from(world.slot(40).rights.bits()), RW);
    world.refused(Label::ChannelGrant, 30, [MEMORY, ALL, 0, 0, 0], Error::NotCopyable, 1);
    world.refused(Label::ChannelGrant, 30, [MEMORY, ALL, 1, 0, 0], Error::InUse, 1);
    world.retype(MEMORY, ObjectType::Untyped, 16, 21, 1);
    world.ok(Label::ChannelGrant, 30, [21, ALL, 1, 0, 0]);
    assert!(world.slot(21).is_empty());
    world.ok(Label::ChannelAccept, 31, [CNODE, 41, 0, 0, 0]);
    world.ok(Label::ChannelGrant, 30, [20, RW, 0, 0, 0]);
    world.revoke(20);
    world.refused(Label::ChannelAccept, 31, [CNODE, 42, 0, 0, 0], Error::ChannelEmpty, 0);
}

#[test]
fn a_fault_is_told_once_and_then_stops_the_vcpu() {
    let mut world = world_with_other();
    world.retype(MEMORY, ObjectType::Channel, 0, 30, 1);
    world.ok(Label::CNodeMint, CNODE, [31, 30, ALL, 2, 0]);
    world.ok(Label::ChannelBind, 30, [VCPU, 64, 0, 0, 0]);
    let core = CoreId::new(1);
    let id = world.vcpu_id(OTHER);
    world.kernel.set_handler(crate::channel::Handled::Vcpu(id), crate::types::EndId::of(channel(&world, 31), 2));
    world.check();
    world.ok(Label::VcpuSetUpcall, OTHER, [50, 0, 0, 0, 0]);
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    world.kernel.schedule(core);
    let gpa = Gpa::new(0x1234_5000);
    assert_eq!(world.kernel.nested_fault(core, gpa, 2, true), FaultAction::Stop, "during delivery");
    assert_eq!(world.kernel.nested_fault(core, gpa, 2, false), FaultAction::Inject(50));
    let info = SharedPage::Info(id);
    assert_eq!(world.kernel.machine.shared_word(info, info_page::FAULT_GPA), gpa.get());
    assert_eq!(world.kernel.machine.shared_word(info, info_page::UPCALL_BUSY), 1);
    assert_eq!(world.kernel.nested_fault(core, gpa, 2, false), FaultAction::Stop, "while busy");
    world.kernel.stop_by_itself(core, StopReason::NestedFault, gpa.get(), 2);
    world.check();
    assert_eq!(world.kernel.machine.vcpu(id).run, Run::Stopped);
    let page = SharedPage::Handler(id);
    assert_eq!(world.kernel.machine.shared_word(page, handler_page::COUNT), 1);
    assert_eq!(world.kernel.machine.shared_word(page, handler_page::DETAIL), gpa.get());
    let own = SharedPage::Info(world.vcpu);
    assert_eq!(world.kernel.machine.shared_word(own, info_page::EVENTS), 64, "the handler's receiver is signalled");
}

#[test]
fn a_restarted_root_vm_has_nothing_of_the_image_before() {
    let mut world = World::new();
    let core = CoreId::new(0);
    let gpa = Gpa::new(0x1234_5000);
    world.ok(Label::VcpuSetUpcall, VCPU, [50, 51, 0, 0, 0]);
    assert_eq!(world.kernel.nested_fault(core, gpa, 2, false), FaultAction::Inject(50));
    world.kernel.start_root(world.vcpu, 0x20_0000, 0x1000);
    world.kernel.schedule(core);
    assert_eq!(world.kernel.nested_fault(core, gpa, 2, false), FaultAction::Stop, "it has not asked for upcalls");
    world.ok(Label::VcpuSetUpcall, VCPU, [52, 0, 0, 0, 0]);
    assert_eq!(world.kernel.nested_fault(core, gpa, 2, false), FaultAction::Inject(52), "and none of its own is busy");
}

fn channel(world: &World, index: u64) -> crate::types::ChannelId {
    match world.slot(index).cap {
        crate::cap::Cap::Channel { id, .. } => id,
        other => panic!("{index} holds {other:?}"),
    }
}

#[test]
fn the_last_vcpu_that_names_a_handler_has_it() {
    let mut world = World::new();
    world.retype(MEMORY, ObjectType::Vm, 0, 20, 1);
    world.retype(MEMORY, ObjectType::Vcpu, 0, 21, 2);
    world.retype(MEMORY, ObjectType::Channel, 0, 30, 2);
    world.refused(Label::VcpuSetHandler, 21, [30, 0, 0, 0, 0], Error::NotConfigured, 0);
    for vcpu in [21, 22] {
        world.ok(Label::VcpuAttach, vcpu, [20, 0, 0, 0, 0]);
        world.ok(Label::VcpuSetHandler, vcpu, [30, 0, 0, 0, 0]);
    }
    let ids = [world.vcpu_id(21), world.vcpu_id(22)];
    assert_eq!(ids.map(|id| world.kernel.machine.vcpu(id).handler.is_some()), [false, true]);
    world.ok(Label::VcpuSetHandler, 22, [31, 0, 0, 0, 0]);
    world.delete(30);
    world.delete(31);
    assert!(!world.kernel.machine.vcpu(ids[1]).handler.is_some());
    world.refused(Label::VcpuSetHandler, VCPU, [20, 0, 0, 0, 0], Error::WrongType, 1);
}

#[test]
fn an_interrupt_goes_to_one_vcpu_with_time() {
    let mut world = world_with_other();
    world.ok(Label::IrqSplit, IRQS, [4, 1, CNODE, 30, 0]);
    world.ok(Label::IrqSplit, IRQS, [8, 1, CNODE, 31, 0]);
    world.refused(Label::IrqSplit, IRQS, [3, 2, CNODE, 32, 0], Error::InUse, 0);
    world.refused(Label::IrqBind, IRQS, [OTHER, 40, 0, 0, 0], Error::OutOfRange, 0);
    world.refused(Label::IrqBind, 30, [OTHER, 31, 0, 0, 0], Error::OutOfRange, 2);
    world.refused(Label::IrqBind, 31, [OTHER, 40, 0, 0, 0], Error::Forbidden, 0);
    world.refused(Label::IrqUnbind, 30, [0; 5], Error::NotMapped, 0);
    world.ok(Label::IrqBind, 30, [OTHER, 40, 0, 0, 0]);
    assert_eq!(world.kernel.machine.routes.get(&4), Some(&(CoreId::new(1), 40)));
    world.refused(Label::IrqBind, 30, [OTHER, 41, 0, 0, 0], Error::InUse, 0);
    world.refused(Label::IrqSplit, 30, [4, 1, CNODE, 32, 0], Error::InUse, 0);
    world.ok(Label::IrqUnbind, 30, [0; 5]);
    assert!(world.kernel.machine.routes.is_empty());
    for last in [21, 30, OTHER] {
        world.ok(Label::IrqBind, 30, [OTHER, 40, 0, 0, 0]);
        world.delete(last);
        assert!(world.kernel.machine.routes.is_empty(), "deleting {last} masks the route");
        if last == 21 {
            world.ok(Label::CpuTimeSplit, TIME[1], [5 * MS, 10 * MS, CNODE, 21, 0]);
            world.ok(Label::VcpuBindTime, OTHER, [21, 0, 0, 0, 0]);
        }
        if last == 30 {
            world.ok(Label::IrqSplit, IRQS, [4, 1, CNODE, 30, 0]);
        }
    }
}

#[test]
fn a_vcpu_takes_so_many_routes_and_no_more() {
    let mut world = world_with_other();
    let most = u64::from(VCPU_ROUTES);
    for number in 0..=most {
        world.ok(Label::IrqSplit, IRQS, [9 + number, 1, CNODE, 40 + number, 0]);
    }
    for number in 0..most {
        world.ok(Label::IrqBind, 40 + number, [OTHER, 40 + number, 0, 0, 0]);
    }
    world.refused(Label::IrqBind, 40 + most, [OTHER, 60, 0, 0, 0], Error::InUse, 1);
    world.ok(Label::IrqUnbind, 40, [0; 5]);
    world.ok(Label::IrqBind, 40 + most, [OTHER, 60, 0, 0, 0]);
}

/// The interrupt may have come before it can be delivered; and nobody may run one whose routes nobody has opened.
#[test]
fn a_sleeper_that_is_given_a_route_wakes_and_is_not_handed_the_core() {
    let mut world = world_with_other();
    let core = CoreId::new(1);
    world.ok(Label::IrqSplit, IRQS, [4, 1, CNODE, 30, 0]);
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    world.kernel.schedule(core);
    assert_eq!(world.call_on(1, Label::VcpuWait, OTHER, [1, 0, 0, 0, 0]), Outcome::Blocked);
    world.ok(Label::IrqBind, 30, [OTHER, 40, 0, 0, 0]);
    let id = world.vcpu_id(OTHER);
    assert_eq!(world.kernel.machine.results, [(id, [0, 0])]);
    assert_eq!(world.kernel.schedule(core).run, Some(id));
    // It sleeps again; another one of its core signals it and waits.
    world.retype(MEMORY, ObjectType::Vcpu, 0, 40, 1);
    world.ok(Label::VcpuAttach, 40, [VM, 0, 0, 0, 0]);
    world.ok(Label::CpuTimeSplit, TIME[1], [2 * MS, 20 * MS, CNODE, 41, 0]);
    world.ok(Label::VcpuBindTime, 40, [41, 0, 0, 0, 0]);
    world.retype(MEMORY, ObjectType::Channel, 0, 50, 1);
    world.ok(Label::CNodeMint, CNODE, [51, 50, ALL, 2, 0]);
    world.ok(Label::ChannelBind, 50, [40, 1, 0, 0, 0]);
    world.ok(Label::ChannelBind, 51, [OTHER, 1, 0, 0, 0]);
    world.ok(Label::VcpuStart, 40, [0; 5]);
    for routes in [true, false] {
        assert_eq!(world.call_on(1, Label::VcpuWait, OTHER, [1, 0, 0, 0, 0]), Outcome::Blocked);
        world.kernel.on_deadline(core);
        assert_eq!(world.kernel.schedule(core).run, Some(world.vcpu_id(40)));
        let outcome = world.call_on(1, Label::ChannelWait, 50, [1, 0, 0, 0, 0]);
        assert_eq!(matches!(outcome, Outcome::HandedOver(_)), !routes, "{outcome:?}");
        assert_eq!(world.kernel.schedule(core).run, Some(id));
        if routes {
            world.ok(Label::IrqUnbind, 30, [0; 5]);
            world.ok(Label::ChannelSignal, 51, [0; 5]);
            world.kernel.schedule(core);
        }
    }
}

#[test]
fn invocations_and_refusals_are_counted() {
    let mut world = World::new();
    let stats = SharedPage::Stats(world.vm_id(VM));
    let count = |world: &World, page, offset: usize| world.kernel.machine.shared_word(page, offset);
    let nop = stats_page::INVOCATIONS;
    let before = count(&world, stats, nop);
    world.ok(Label::Nop, VM, [0; 5]);
    world.refused(Label::Nop, 0, [0; 5], Error::InvalidCapability, 0);
    assert_eq!(count(&world, stats, nop), before + 2);
    assert_eq!(count(&world, SharedPage::GlobalStats, nop), before + 2);
    assert_eq!(count(&world, stats, stats_page::REFUSALS + 8 * Error::InvalidCapability as usize), 1);
    world.kernel.count_exit(CoreId::new(0), cap_spec::abi::ExitKind::Cpuid);
    assert_eq!(count(&world, stats, stats_page::EXITS + 3 * 8), 1);
}

#[test]
fn a_vcpu_that_is_being_deleted_has_lost_its_routes_before_anything_is_preempted() {
    let mut world = world_with_other();
    world.ok(Label::IrqSplit, IRQS, [4, 1, CNODE, 30, 0]);
    world.ok(Label::IrqBind, 30, [OTHER, 40, 0, 0, 0]);
    world.retype(MEMORY, ObjectType::Channel, 0, 40, 4);
    for channel in 40..44 {
        world.ok(Label::ChannelBind, channel, [OTHER, 1, 0, 0, 0]);
    }
    world.ok(Label::VcpuStart, OTHER, [0; 5]);
    let id = world.vcpu_id(OTHER);
    assert_eq!(world.kernel.schedule(CoreId::new(1)).run, Some(id));
    world.kernel.machine.patience.set(Some(0));
    let call = crate::decode::Call { cap: CNODE, label: Label::CNodeDelete as u64, args: [OTHER, 0, 0, 0, 0] };
    assert_eq!(world.kernel.handle_call(CoreId::new(0), &call), Outcome::Preempted);
    // The core that held it does not save it, so it does not park its routes either.
    assert_eq!(world.kernel.schedule(CoreId::new(1)).save, None);
    assert_eq!(world.kernel.route(4), None);
}
