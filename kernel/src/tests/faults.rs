//! What the IOMMU has stopped: who is told, what is kept, and how often a storm calls the first core.

use super::base::*;
use crate::cap::Cap;
use crate::device_model::{PHYSICAL, PLAIN, requester};
use crate::types::{CoreId, FunctionId};
use cap_spec::abi::{Error, FAULTS_KEPT, FaultRecord, Label, ObjectType, Rights, Stopped};

const CORE: CoreId = CoreId::new(0);
/// Slots of two functions, their domains, the channels of the domains' handlers and the machine's.
const FUNCTIONS: [u64; 2] = [20, 21];
const DOMAINS: [u64; 2] = [22, 23];
const CHANNELS: [u64; 3] = [24, 25, 26];
/// Slots of the channels' other ends.
const ENDS: [u64; 3] = [27, 28, 29];

/// Both functions attached, each with its domain's handler; and the machine's. The root VM gets events 1, 2 and 4.
fn world() -> World {
    let mut world = World::new();
    for (slot, function) in FUNCTIONS.into_iter().zip([PHYSICAL, PLAIN]) {
        world.kernel.give(world.root.plus(slot as u32), Cap::PciFunction { lease: 0, function });
    }
    world.retype(MEMORY, ObjectType::IommuDomain, 0, DOMAINS[0], 2);
    world.retype(MEMORY, ObjectType::Channel, 0, CHANNELS[0], 3);
    for (index, (channel, end)) in CHANNELS.into_iter().zip(ENDS).enumerate() {
        world.ok(Label::CNodeMint, CNODE, [end, channel, ALL, 2, 0]);
        world.ok(Label::ChannelBind, end, [VCPU, 1 << index, 0, 0, 0]);
    }
    for index in 0..2 {
        world.ok(Label::IommuDomainSetHandler, DOMAINS[index], [CHANNELS[index], 0, 0, 0, 0]);
        world.ok(Label::PciFunctionAttach, FUNCTIONS[index], [DOMAINS[index], 0, 0, 0, 0]);
    }
    world.ok(Label::MachineSetHandler, MACHINE, [CHANNELS[2], 0, 0, 0, 0]);
    world
}

fn record(function: FunctionId, page: u64) -> FaultRecord {
    FaultRecord { requester: requester(function), stopped: Stopped::Write(page << 12), reason: 5 }
}

/// The unit stops something.
fn stop(world: &mut World, function: FunctionId, page: u64) {
    world.kernel.machine.devices.faults_recorded.push((Some(function), record(function, page)));
}

/// An NMI comes: how many records were taken.
fn nmi(world: &mut World) -> usize {
    let before = world.kernel.machine.devices.faults_recorded.len();
    let now = crate::machine::Machine::now(&world.kernel.machine);
    world.kernel.on_nmi(CORE, now);
    world.kernel.look_at_faults(CORE);
    world.kernel.schedule(CORE);
    world.check();
    before - world.kernel.machine.devices.faults_recorded.len()
}

/// The events that the root VM has.
fn events(world: &mut World) -> u64 {
    world.ok(Label::VcpuWait, VCPU, [7, 1, 0, 0, 0])[0]
}

/// The record that a domain or the machine tells, and how many were lost.
fn taken(world: &mut World, label: Label, slot: u64) -> (Option<FaultRecord>, u64) {
    let [what, who] = world.ok(label, slot, [0; 5]);
    (FaultRecord::from_words([what, who]), who >> 32)
}

fn of_domain(world: &mut World, index: usize) -> (Option<FaultRecord>, u64) {
    taken(world, Label::IommuDomainGetFault, DOMAINS[index])
}

fn of_machine(world: &mut World) -> (Option<FaultRecord>, u64) {
    taken(world, Label::MachineGetFault, MACHINE)
}

#[test]
fn the_holder_of_the_domain_and_of_the_machine_are_told_and_nobody_else() {
    let mut world = world();
    stop(&mut world, PLAIN, 0x1234);
    assert_eq!((nmi(&mut world), events(&mut world)), (1, 0b110));
    assert_eq!(of_domain(&mut world, 0), (None, 0));
    assert_eq!(of_domain(&mut world, 1), (Some(record(PLAIN, 0x1234)), 0));
    assert_eq!(of_domain(&mut world, 1), (None, 0), "it was taken");
    assert_eq!(of_machine(&mut world), (Some(record(PLAIN, 0x1234)), 0));
    // One that nobody has, and one without a domain: only the machine's holder.
    world.kernel.report_fault(None, record(FunctionId::new(9), 1), false);
    world.ok(Label::PciFunctionDetach, FUNCTIONS[0], [0; 5]);
    world.kernel.report_fault(Some(PHYSICAL), record(PHYSICAL, 2), false);
    assert_eq!(events(&mut world), 0b100);
    assert_eq!([of_domain(&mut world, 0), of_domain(&mut world, 1)], [(None, 0); 2]);
    assert_eq!(of_machine(&mut world).0, Some(record(FunctionId::new(9), 1)));
    assert_eq!(of_machine(&mut world).0, Some(record(PHYSICAL, 2)));
}

#[test]
fn what_a_function_did_is_told_to_its_domain_of_that_time() {
    let mut world = world();
    stop(&mut world, PLAIN, 1);
    world.ok(Label::PciFunctionDetach, FUNCTIONS[1], [0; 5]);
    stop(&mut world, PLAIN, 2);
    world.ok(Label::PciFunctionAttach, FUNCTIONS[1], [DOMAINS[0], 0, 0, 0, 0]);
    stop(&mut world, PLAIN, 3);
    assert_eq!(nmi(&mut world), 1);
    assert_eq!(of_domain(&mut world, 1), (Some(record(PLAIN, 1)), 0));
    assert_eq!(of_domain(&mut world, 1), (None, 0));
    assert_eq!(of_domain(&mut world, 0), (Some(record(PLAIN, 3)), 0));
    assert_eq!([1, 2, 3].map(|_| of_machine(&mut world).0), [1, 2, 3].map(|page| Some(record(PLAIN, page))));
}

#[test]
fn the_first_records_are_kept_and_the_others_counted() {
    let mut world = world();
    let kept = FAULTS_KEPT as u64;
    for page in 0..kept + 3 {
        world.kernel.report_fault(Some(PLAIN), record(PLAIN, page), false);
    }
    for page in 0..kept {
        assert_eq!(of_domain(&mut world, 1), (Some(record(PLAIN, page)), 3));
    }
    assert_eq!(of_domain(&mut world, 1), (None, 3), "the count stays");
    world.kernel.report_fault(Some(PLAIN), record(PLAIN, 99), false);
    assert_eq!(of_domain(&mut world, 1), (Some(record(PLAIN, 99)), 3));
}

/// The first core decides when it said that it would, until something holds.
fn comes_back(world: &mut World, holds: impl Fn(&World) -> bool) {
    while !holds(world) {
        world.kernel.machine.now = world.kernel.schedule(CORE).until.get();
        world.kernel.on_deadline(CORE);
        world.kernel.schedule(CORE);
    }
}

/// While faults go on, the core takes a bounded number, holds events back, and looks again after a millisecond, and after twice
/// as long each time that it finds something; when nothing has come meanwhile, it lets events through.
#[test]
fn a_storm_calls_the_first_core_once_in_a_millisecond_and_ever_more_rarely() {
    let mut world = world();
    for page in 0..6 {
        stop(&mut world, PLAIN, page);
    }
    assert_eq!(nmi(&mut world), 2, "no more at a time");
    assert!(world.kernel.machine.devices.holds_fault_events);
    for _ in 0..3 {
        world.kernel.machine.now += MS / 4;
        assert_eq!(nmi(&mut world), 0, "an NMI of another cause");
    }
    world.kernel.machine.now += MS / 4;
    assert_eq!(nmi(&mut world), 2);
    // Nobody calls it: it comes back by itself, also if it decides for another reason just then.
    for pause in [2, 4, 8, 16, 32, 64, 64, 64] {
        let since = world.kernel.machine.now;
        comes_back(&mut world, |world| world.kernel.machine.devices.faults_recorded.is_empty());
        assert_eq!(world.kernel.machine.now, since + pause * MS);
        assert!(world.kernel.machine.devices.holds_fault_events, "it has found some");
        stop(&mut world, PLAIN, pause);
    }
    world.kernel.machine.devices.faults_recorded.clear();
    comes_back(&mut world, |world| !world.kernel.machine.devices.holds_fault_events);
    stop(&mut world, PLAIN, 5);
    assert_eq!(nmi(&mut world), 1, "the next is told at once");
    let since = world.kernel.machine.now;
    comes_back(&mut world, |world| !world.kernel.machine.devices.holds_fault_events);
    assert_eq!(world.kernel.machine.now, since + MS, "as at first");
    // Another core does not look.
    stop(&mut world, PLAIN, 6);
    world.kernel.machine.now += MS;
    world.kernel.look_at_faults(CoreId::new(1));
    assert_eq!(world.kernel.machine.devices.faults_recorded.len(), 1);
}

#[test]
fn an_end_tells_of_one_thing_and_none_of_what_is_gone() {
    let mut world = world();
    // The machine cannot have the end of the second domain, unless that is told no more.
    let end = [CHANNELS[1], 0, 0, 0, 0];
    world.refused(Label::MachineSetHandler, MACHINE, end, Error::InUse, 1);
    world.ok(Label::IommuDomainSetHandler, DOMAINS[1], end);
    world.ok(Label::IommuDomainSetHandler, DOMAINS[1], [0; 5]);
    world.kernel.report_fault(Some(PLAIN), record(PLAIN, 1), false);
    assert_eq!(events(&mut world), 0b100, "told once, for the machine");
    world.ok(Label::MachineSetHandler, MACHINE, end);
    world.kernel.report_fault(Some(PLAIN), record(PLAIN, 1), false);
    assert_eq!(events(&mut world), 0b010, "told once, for the machine");
    world.kernel.report_fault(Some(PHYSICAL), record(PHYSICAL, 1), false);
    assert_eq!(events(&mut world), 0b011);
    world.delete(CHANNELS[0]);
    world.delete(CHANNELS[1]);
    world.kernel.report_fault(Some(PHYSICAL), record(PHYSICAL, 1), false);
    assert_eq!(events(&mut world), 0);
    // A domain that goes leaves its end free, and its function without a domain.
    world.ok(Label::IommuDomainSetHandler, DOMAINS[0], [CHANNELS[2], 0, 0, 0, 0]);
    world.delete(DOMAINS[0]);
    world.kernel.report_fault(Some(PHYSICAL), record(PHYSICAL, 1), false);
    assert_eq!(events(&mut world), 0);
    world.ok(Label::MachineSetHandler, MACHINE, [CHANNELS[2], 0, 0, 0, 0]);
    world.kernel.report_fault(None, record(PHYSICAL, 1), false);
    assert_eq!(events(&mut world), 0b100);
}

/// A copy for a part of the addresses neither tells what is stopped nor chooses who is told; nor can an end be taken that only
/// may be read.
#[test]
fn a_part_of_a_domain_has_no_say() {
    const PART: u64 = 30;
    let mut world = world();
    world.ok(Label::CNodeMint, CNODE, [PART, DOMAINS[1], ALL, 0x20_0000 + 21, 0]);
    world.kernel.report_fault(Some(PLAIN), record(PLAIN, 1), false);
    for end in [0, CHANNELS[1]] {
        world.refused(Label::IommuDomainSetHandler, PART, [end, 0, 0, 0, 0], Error::Forbidden, 0);
    }
    world.refused(Label::IommuDomainGetFault, PART, [0; 5], Error::Forbidden, 0);
    assert_eq!(of_domain(&mut world, 1), (Some(record(PLAIN, 1)), 0));
    world.ok(Label::CNodeMint, CNODE, [PART + 1, CHANNELS[1], Rights::READ.bits().into(), 1, 0]);
    world.refused(Label::IommuDomainSetHandler, DOMAINS[1], [PART + 1, 0, 0, 0, 0], Error::MissingRight, 1);
}

/// Also a core that idles comes back to let events through again.
#[test]
fn an_idle_core_comes_back() {
    let mut world = world();
    stop(&mut world, PLAIN, 1);
    assert_eq!(nmi(&mut world), 1);
    let since = world.kernel.machine.now;
    assert_eq!(events(&mut world), 0b110);
    let outcome = world.call_on(0, Label::VcpuWait, VCPU, [7, since + 5 * MS, 0, 0, 0]);
    assert_eq!(outcome, crate::run::Outcome::Blocked);
    comes_back(&mut world, |world| !world.kernel.machine.devices.holds_fault_events);
    assert_eq!(world.kernel.machine.now, since + MS);
}
