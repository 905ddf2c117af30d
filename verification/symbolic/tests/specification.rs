//! The specification that the proofs use against the one that is the project's: `harness/src/spec.rs` and `lookup.rs` say
//! `cap_spec::machine` again over arrays, and take the same steps here, at random and exhaustively; each answer and each state
//! must be the same. What the proofs hold the kernel against so cannot drift from the specification.

mod random;

use cap_spec::abi::{Label, ObjectType, Rights};
use cap_spec::machine::{self, Call, Cap, Extent, Reservation, Slot, State, Window};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use kernel::Invocation;
use kernel::cap::Mapping;
use kernel::sched::CAPACITY;
use kernel::types::{ChannelId, CoreId, Hpa, SlotId, VcpuId, VmId};
use kernel_harness::spec::{self, Record};
use kernel_harness::world::World;
use kernel_harness::{lookup, spec::State as Array, time};
use random::Random;
use std::collections::BTreeSet;

/// Slots of the one CNode, which slot 0 is one of; slot 1 holds the capability to it.
const SLOTS: usize = 8;
/// The one CNode: its slot 0 is the slot with the number 1 of the arrays.
const CNODE: machine::CNodeId = machine::CNodeId(1 << 6);
/// The VM and the Vcpu that call.
const VM: machine::VmId = machine::VmId(1 << 12);
const VCPU: machine::VcpuId = machine::VcpuId(1 << 12);
/// The one channel, the one domain.
const CHANNEL: machine::ChannelId = machine::ChannelId(0x9000);
const DOMAIN: machine::VmId = machine::VmId(0xa000);
/// Where the memory of Untypeds lies.
const MEMORY: u64 = 0x40_0000;

/// The longest period.
const PERIOD: u64 = 2_000_000_000;

impl Random {
    /// One of these, mostly.
    fn of(&mut self, usual: &[u64]) -> u64 {
        if self.below(24) == 0 { self.bits() } else { usual[self.below(usual.len() as u64) as usize] }
    }

    /// The index of a slot, mostly.
    fn index(&mut self) -> u64 {
        self.of(&[0, 1, 2, 3, 4, 5, 6, 7])
    }

    /// A capability pointer, mostly one that leads to something.
    fn pointer(&mut self) -> u64 {
        let index = self.index();
        if self.below(5) == 0 { self.below(SLOTS as u64) << 16 | index } else { index }
    }
}

/// Nothing but the VM that calls, with a CNode and boot capabilities in its slots from 1 on.
fn system(held: &[Cap]) -> State {
    let limits = time::limits();
    let mut state = State::new(machine::Config {
        min_period: limits.min_period().get(),
        max_period: limits.max_period().get(),
        min_budget: limits.min_budget().get(),
        switch_ticks: limits.switch().get(),
        capacity: CAPACITY.get(),
        forbidden_routes: BTreeSet::new(),
        forbidden_ports: Vec::new(),
        statistics_page: 0,
        first_message_route: 24,
        functions: Vec::new(),
    });
    let nowhere = Extent { base: 0, bits: 12 };
    state.cnodes.insert(CNODE, 3);
    state.vms.insert(VM, machine::Vm { cspace: Some(CNODE), region: nowhere, launched: true });
    state.tables.insert(VM.root(), Default::default());
    state.domains.insert(DOMAIN, machine::Faults::default());
    state.tables.insert(DOMAIN.root(), Default::default());
    state.channels.insert(CHANNEL, [None, None]);
    let vcpu = machine::Vcpu {
        vm: Some(VM),
        run: machine::Run::Runnable,
        events: 0,
        registers: machine::initial_registers(),
        upcall: [0, 0],
        handler: None,
    };
    state.vcpus.insert(VCPU, vcpu);
    let cnode = Cap::CNode { id: CNODE, slot_bits: 3 };
    for (index, cap) in (1..).zip([&cnode].into_iter().chain(held)) {
        let slot = Slot { cap: cap.clone(), rights: Rights::all(), parent: None, depth: 0, original: true };
        state.slots.insert(CNODE.slot(index), slot);
    }
    state
}

/// Steps from the start within which every state is looked at.
const STEPS: usize = 16;

/// What boot may have given.
fn held() -> [Cap; 8] {
    let memory = Extent { base: MEMORY, bits: 16 };
    let page = Extent { base: 0x80_0000, bits: 12 };
    [
        Cap::Untyped { extent: memory, device: false, watermark: 0 },
        Cap::Untyped { extent: Extent { base: 0x100_0000, bits: 14 }, device: true, watermark: 0x1000 },
        Cap::Frame { extent: page, device: false, kernel_page: true, mapping: None },
        Cap::Machine,
        Cap::Channel { id: CHANNEL, end: 1 },
        Cap::IommuDomain { id: DOMAIN, window: Window::WHOLE },
        Cap::Vm(VM),
        Cap::CpuTime { core: 0, reservation: Reservation { budget: PERIOD, period: PERIOD }, free_from: 0, vcpu: None },
    ]
}

/// The number of a slot in the arrays.
fn number(slot: machine::SlotId) -> SlotId {
    SlotId::new((slot.0 >> 6) as u32)
}

/// The capability as the kernel writes it, with nothing of what it keeps beside it.
fn cap(cap: &Cap) -> kernel::cap::Cap {
    use kernel::cap::Cap as Own;
    match *cap {
        Cap::Untyped { extent, device, watermark } => {
            Own::Untyped { bits: extent.bits, device, vm: VmId::NONE, base: Hpa::new(extent.base), watermark }
        }
        Cap::CNode { id, slot_bits } => Own::CNode { bits: slot_bits, vm: VmId::NONE, base: Hpa::new(id.0).to_slot() },
        Cap::Frame { extent, device, kernel_page, mapping: None } => {
            Own::Frame { bits: extent.bits, device, kernel_page, base: Hpa::new(extent.base), mapping: Mapping::NONE }
        }
        Cap::PageTable { id, place: None } => Own::PageTable { base: Hpa::new(id.0), mapping: Mapping::NONE },
        Cap::Vm(id) => Own::Vm { id: VmId::at(Hpa::new(id.0)) },
        Cap::Vcpu(id) => Own::Vcpu { id: VcpuId::at(Hpa::new(id.0)) },
        // What its children have is said by `array`.
        Cap::CpuTime { core, reservation: Reservation { budget, period }, free_from, vcpu: None } => {
            Own::CpuTime { core: CoreId::new(core), vcpu: VcpuId::NONE, budget, period, free_from, allocated: 0 }
        }
        Cap::Channel { id, end } => Own::Channel { end, id: ChannelId::at(Hpa::new(id.0)) },
        Cap::Irq { first, count, .. } => Own::Irq { first, count },
        Cap::IoPort { first, count } => Own::IoPort { first, count },
        Cap::Machine => Own::Machine,
        Cap::IommuDomain { id, window } => {
            Own::IommuDomain { bits: window.bits, id: VmId::at(Hpa::new(id.0)), first: window.first }
        }
        ref other => panic!("{other:?} is not in these worlds"),
    }
}

/// A state of the machine as an array.
fn array(state: &State) -> Array<SLOTS> {
    let mut array = Array { slots: [Record::EMPTY; SLOTS] };
    for (id, slot) in &state.slots {
        let mut cap = cap(&slot.cap);
        if let kernel::cap::Cap::CpuTime { allocated, .. } = &mut cap {
            let shares = state.children(*id).map(|(_, child)| match child.cap {
                Cap::CpuTime { reservation, .. } => machine::share(&state.config, reservation),
                _ => 0,
            });
            *allocated = shares.sum();
        }
        array.slots[number(*id).get() as usize - 1] = Record {
            cap,
            rights: slot.rights,
            parent: slot.parent.map_or(SlotId::NONE, number),
            depth: slot.depth,
            original: slot.original,
            boot: slot.parent.is_none(),
        };
    }
    array
}

/// The slots that decoding looks at: whatever their links are.
fn world(array: &Array<SLOTS>) -> World<SLOTS, 1> {
    let mut world = World::new();
    for (slot, record) in world.slots.iter_mut().zip(&array.slots) {
        let &Record { cap, rights, depth, original, boot, .. } = record;
        *slot = kernel::slot::Slot { depth, boot, ..kernel::slot::Slot::of(cap, rights, original) };
    }
    world
}

/// What the array does of what was decoded. The leaves of a Delete or Revoke go in any order.
fn apply(array: &mut Array<SLOTS>, invocation: Invocation, random: &mut Random) {
    match invocation {
        Invocation::Derive { from, to, mask, badge } => {
            array.derive(from, to, mask, spec::copied(array.get(from).cap, badge));
        }
        Invocation::Move { from, to, mask } => array.relocate(from, to, mask),
        Invocation::Delete(slot) if !array.get(slot).original => array.remove(slot),
        Invocation::Delete(slot) => {
            take_all_below(array, slot, random);
            array.take_time_leaf(slot, time::share);
        }
        Invocation::Revoke(slot) => {
            take_all_below(array, slot, random);
            if let kernel::cap::Cap::Untyped { bits, device, vm, base, .. } = array.get(slot).cap {
                array.set_cap(slot, kernel::cap::Cap::Untyped { bits, device, vm, base, watermark: 0 });
            }
        }
        Invocation::Retype { untyped, object, bits, to, count, offset } => {
            array.retype(untyped, object, bits, to, count, offset);
        }
        Invocation::SplitTime { from, to, budget, period } => array.split_time(from, to, budget, period, time::share),
        Invocation::ResizeTime { slot, budget, period, .. } => array.resize_time(slot, budget, period, time::share),
        other => panic!("{other:?} is not asked for"),
    }
}

/// Slots have no order: under other names, what is done comes to the same. (But Retype fills a row of them.)
fn check_renamed(before: &Array<SLOTS>, invocation: Invocation, random: &mut Random) {
    let turn = random.below(SLOTS as u64) as u32;
    let name = |id: SlotId| match id.get() {
        0 => SlotId::NONE,
        number => SlotId::new((number - 1 + turn) % SLOTS as u32 + 1),
    };
    let renamed = match invocation {
        Invocation::Derive { from, to, mask, badge } => {
            Invocation::Derive { from: name(from), to: name(to), mask, badge }
        }
        Invocation::Move { from, to, mask } => Invocation::Move { from: name(from), to: name(to), mask },
        Invocation::Delete(slot) => Invocation::Delete(name(slot)),
        Invocation::Revoke(slot) => Invocation::Revoke(name(slot)),
        Invocation::SplitTime { from, to, budget, period } => {
            Invocation::SplitTime { from: name(from), to: name(to), budget, period }
        }
        Invocation::ResizeTime { slot, parent, budget, period } => {
            Invocation::ResizeTime { slot: name(slot), parent: name(parent), budget, period }
        }
        _ => return,
    };
    let rename = |array: &Array<SLOTS>| {
        let mut other = *array;
        for (record, number) in array.slots.iter().zip(1..) {
            let place = name(SlotId::new(number)).get() as usize - 1;
            other.slots[place] = Record { parent: name(record.parent), ..*record };
        }
        other
    };
    let (mut one, mut other) = (*before, rename(before));
    apply(&mut one, invocation, random);
    apply(&mut other, renamed, random);
    for (one, other) in rename(&one).slots.iter().zip(&other.slots) {
        assert!(spec::is_same(one, other), "{invocation:x?} is not {renamed:x?} under other names");
    }
}

fn take_all_below(array: &mut Array<SLOTS>, slot: SlotId, random: &mut Random) {
    loop {
        let all = (1..=SLOTS as u32).map(SlotId::new);
        let leaves: Vec<SlotId> = all
            .filter(|id| array.get(*id).is_full() && array.is_below(slot, *id) && !array.has_children(*id))
            .collect();
        let Some(leaf) = leaves.get(random.below(leaves.len().max(1) as u64) as usize) else { return };
        array.take_time_leaf(*leaf, time::share);
    }
}

/// The labels about slots.
const LABELS: [Label; 8] = [
    Label::CNodeCopy,
    Label::CNodeMint,
    Label::CNodeMove,
    Label::CNodeDelete,
    Label::CNodeRevoke,
    Label::UntypedRetype,
    Label::CpuTimeSplit,
    Label::CpuTimeResize,
];

/// What the arrays' specification answers to a call. Of Retype, Split and Resize it says what they do and not what is refused:
/// that is what the machine has found.
fn decoded(array: &Array<SLOTS>, call: &Call, is_good: bool) -> Option<Result<Invocation, cap_spec::abi::Fault>> {
    let own = kernel::Call { cap: call.cptr, label: call.label, args: call.args };
    let label = Label::from_number(call.label)?;
    if label.object() == ObjectType::CNode {
        return Some(lookup::specified(&world(array), &own, label));
    }
    if !is_good {
        return None;
    }
    let slot = |index: u64| SlotId::new(index as u32 + 1);
    let from = slot(call.cptr);
    let [budget, period, _, to, count] = call.args;
    Some(Ok(match label {
        Label::CpuTimeSplit => Invocation::SplitTime { from, to: slot(to), budget, period },
        Label::CpuTimeResize => Invocation::ResizeTime { slot: from, parent: array.get(from).parent, budget, period },
        _ => {
            let kernel::cap::Cap::Untyped { watermark, .. } = array.get(from).cap else { panic!("no Untyped") };
            let object = ObjectType::from_number(call.args[0])?;
            let bits = object.object_bits(call.args[1])?;
            let offset = watermark.next_multiple_of(1 << bits);
            Invocation::Retype { untyped: from, object, bits, to: slot(to), count: count as u32, offset }
        }
    }))
}

/// Takes one step by both, and compares; true if it was not refused.
fn step(state: &mut State, call: Call, random: &mut Random) -> bool {
    let mut own = array(state);
    let answer = machine::step(state, VCPU, call);
    match (decoded(&own, &call, answer.is_ok()), answer) {
        (Some(Ok(invocation)), Ok(_)) => {
            check_renamed(&own, invocation, random);
            apply(&mut own, invocation, random);
            let wanted = array(state);
            for (at, (one, other)) in own.slots.iter().zip(&wanted.slots).enumerate() {
                assert!(spec::is_same(one, other), "{call:x?}: slot {at} is {one:x?}, and should be {other:x?}");
            }
            true
        }
        (Some(Err(own)), Err(fault)) => {
            assert_eq!(own, fault, "{call:x?}");
            false
        }
        (None, Err(_)) => false,
        (own, answer) => panic!("{call:x?}: {own:x?}, and should be {answer:x?}"),
    }
}

/// A call about slots, mostly one that makes sense.
fn any_call(random: &mut Random, label: Label) -> Call {
    let rights = random.of(&[0, 1, 2, 3, 7, 0x1f, 0xff]) & if random.below(4) == 0 { u64::MAX } else { 0x1f };
    let (cptr, args) = match label {
        Label::UntypedRetype => {
            let object = random.of(&[
                ObjectType::Untyped as u64,
                ObjectType::CNode as u64,
                ObjectType::Frame as u64,
                ObjectType::PageTable as u64,
            ]);
            let bits = random.of(&[0, 12, 12, 13, 14, 16]);
            (2 + random.below(4), [object, bits, 1, 3 + random.below(5), random.of(&[1, 2, 3])])
        }
        Label::CpuTimeSplit | Label::CpuTimeResize => {
            let part = |random: &mut Random| PERIOD / (1 + random.below(12));
            let (budget, period) = (part(random), part(random));
            (2 + random.below(6), [budget, period, 1, 3 + random.below(5), 0])
        }
        _ => {
            let badge = random.of(&[0, 0, 0, 0, 1, 2, 12, 0x1000 | 12, 0x4000 | 14, 0x2000 | 14, 39]);
            let pointer = if random.below(8) == 0 { random.pointer() } else { 1 };
            (pointer, [random.index(), random.pointer(), rights, badge, random.bits()])
        }
    };
    Call { cptr, label: label as u64, args }
}

/// True if a slot holds a CNode that Retype has made: the arrays have only slots of the one that the VM has.
fn is_another_cnode(state: &State, index: u64) -> bool {
    let slot = state.slots.get(&CNODE.slot(index & 0xffff));
    slot.is_some_and(|slot| matches!(slot.cap, Cap::CNode { id, .. } if id != CNODE))
}

#[test]
fn arrays_and_machine_take_the_same_steps() {
    let at_random = at_random();
    let (states, steps) = in_all_small_states();
    Established {
        check: "symbolic-specification".into(),
        property: Property::Refinement.name().into(),
        tier: Tier::Tested,
        tool: "the specification that the symbolic proofs use, against the executable one".into(),
        bound: format!("{at_random} calls at random in 8 slots; all {steps} of {states} states of 5 slots, reached in {STEPS} steps"),
        of: "specification".into(),
    }
    .tell();
}

/// Calls at random; how many.
fn at_random() -> u64 {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut done = [0u32; LABELS.len()];
    let mut taken = 0;
    let held = held();
    for round in 0..60_000_u64 {
        let count = 1 + round % 3;
        let some: Vec<Cap> = (0..count).map(|_| held[random.below(held.len() as u64) as usize].clone()).collect();
        let some: Vec<Cap> = some
            .iter()
            .enumerate()
            .filter(|(at, cap)| !some[..*at].contains(cap))
            .map(|(_, cap)| cap.clone())
            .collect();
        let mut state = system(&some);
        for _ in 0..24 {
            let label = random.below(LABELS.len() as u64) as usize;
            let call = any_call(&mut random, LABELS[label]);
            let through = [call.cptr, call.cptr >> 16, call.args[1] >> 16];
            if through.iter().any(|index| is_another_cnode(&state, *index)) {
                continue;
            }
            // When what was given back is free is the cores' doing.
            let free = random.below(8);
            if let Some(Slot { cap: Cap::CpuTime { free_from, .. }, .. }) =
                state.slots.get_mut(&CNODE.slot(2 + random.below(6)))
            {
                *free_from = free;
            }
            taken += 1;
            done[label] += u32::from(step(&mut state, call, &mut random));
        }
    }
    for (label, done) in LABELS.iter().zip(done) {
        println!("{label:?}: {done} not refused");
        assert!(done > 200, "{label:?} is hardly ever done: {done}");
    }
    taken
}

/// Every call in every state that few steps reach; how many states and calls.
fn in_all_small_states() -> (usize, u64) {
    let mut random = Random(1);
    let memory = Extent { base: MEMORY, bits: 13 };
    let start = system(&[Cap::Untyped { extent: memory, device: false, watermark: 0 }, Cap::Machine]);
    let mut seen = BTreeSet::from([start.clone()]);
    let mut open = vec![start];
    let mut steps = 0u64;
    // All that so many steps from the start can do, and each step from there.
    for depth in 0..=STEPS {
        let mut next = Vec::new();
        for state in &open {
            for call in calls() {
                let mut state = state.clone();
                steps += 1;
                if step(&mut state, call, &mut random) && depth < STEPS && seen.insert(state.clone()) {
                    next.push(state);
                }
            }
        }
        open = next;
    }
    println!("{} states, {steps} steps", seen.len());
    assert!(seen.len() > 1_000 && steps > 100_000, "{} states, {steps} steps", seen.len());
    (seen.len(), steps)
}

/// Every call about slots 1 to 5, with one or all rights; objects of all or half of the memory.
fn calls() -> Vec<Call> {
    let mut calls = Vec::new();
    let mut call = |label: Label, cptr: u64, args: [u64; 5]| calls.push(Call { cptr, label: label as u64, args });
    for one in 1..=5 {
        call(Label::CNodeDelete, 1, [one, 0, 0, 0, 0]);
        call(Label::CNodeRevoke, 1, [one, 0, 0, 0, 0]);
        for other in 1..=5 {
            call(Label::CNodeMove, 1, [other, one, 0, 0, 0]);
            call(Label::CNodeCopy, 1, [other, one, 0x1f, 0, 0]);
            call(Label::CNodeMint, 1, [other, one, 1, 0, 0]);
            for (object, bits) in [(ObjectType::Untyped, 13), (ObjectType::Untyped, 12), (ObjectType::Frame, 12)] {
                call(Label::UntypedRetype, one, [object as u64, bits, 1, other, 1]);
            }
        }
    }
    calls
}
