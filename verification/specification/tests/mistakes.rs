//! Seeded mistakes: for each property a wrong state, or a wrong step, that the check of this very property reports. So none
//! of the checks is vacuous.

use cap_spec::abi::{Error, Fault, Label, ObjectType, Rights};
use cap_spec::machine::authority::Bound;
use cap_spec::machine::fine::{self, Answer, Event, Fine, Flush, Hold, SCRUB, STEP_CHANGES, Work, changes, remaining};
use cap_spec::machine::interference::{may_influence, observe};
use cap_spec::machine::{Call, Cap, Message, Slot, SlotId, State, VmId, invariants, step};
use cap_spec::properties::Property;
use lockstep::script::{self, Step};
use lockstep::system::{ROOT_VCPU, ROOT_VM, place};
use specification::answers::check_answer;
use specification::world::{World, start, two_tenants};
use std::collections::BTreeSet;

/// Takes a step of the root VM, which must succeed.
fn root(state: &mut State, step_of_script: Step) {
    let Step::Invoke(_, call) = step_of_script else { panic!("not an invocation") };
    step(state, ROOT_VCPU, call).unwrap_or_else(|fault| panic!("{call:x?}: {fault:?}"));
}

/// The property that the rules of the abstract machine find broken.
fn broken(state: &State) -> Option<Property> {
    invariants::check(state).err().map(|broken| broken.property())
}

/// A half-built tenant, with functions in use: nothing is wrong with it.
fn good() -> State {
    let state = start(1);
    assert_eq!(broken(&state), None);
    state
}

/// The first slot whose capability is like this, to change it.
fn find(state: &mut State, is_it: impl Fn(&Slot) -> bool) -> (SlotId, &mut Slot) {
    let found = state.slots.iter_mut().find(|(_, slot)| is_it(slot));
    found.map(|(id, slot)| (*id, slot)).expect("the state has one")
}

#[test]
fn a_wrong_state_breaks_its_property() {
    let mut orphan = good();
    find(&mut orphan, |slot| slot.parent.is_some()).1.parent = Some(SlotId(0x40));
    assert_eq!(broken(&orphan), Some(Property::WellFormed));

    let mut nowhere = good();
    let (_, slot) = find(&mut nowhere, |slot| slot.cap == Cap::Machine);
    let slot = slot.clone();
    nowhere.slots.insert(SlotId(0x7000_0000), slot);
    assert_eq!(broken(&nowhere), Some(Property::WellFormed));

    // A right that the source lacks, and a part that is none of the whole.
    let mut more = good();
    let (id, slot) = find(&mut more, |slot| matches!(slot.cap, Cap::Channel { .. }) && !slot.original);
    let parent = slot.parent.expect("a copy has a source");
    assert_ne!(id, parent);
    more.slots.get_mut(&parent).expect("its source is there").rights.remove(Rights::GRANT);
    assert_eq!(broken(&more), Some(Property::NoAuthorityFromNothing));
    let mut other = good();
    let is_split = |slot: &Slot| matches!(slot.cap, Cap::CpuTime { vcpu: Some(ROOT_VCPU), .. });
    if let Cap::CpuTime { core, .. } = &mut find(&mut other, is_split).1.cap {
        *core += 1;
    }
    assert_eq!(broken(&other), Some(Property::NoAuthorityFromNothing));

    let mut overlap = good();
    let is_frame = |slot: &Slot| matches!(slot.cap, Cap::Frame { kernel_page: false, .. });
    let all: Vec<SlotId> = overlap.slots.iter().filter(|(_, slot)| is_frame(slot)).map(|(id, _)| *id).collect();
    let same_parent = |a: &SlotId, b: &SlotId| overlap.slots[a].parent == overlap.slots[b].parent;
    let pair = all.iter().zip(&all[1..]).find(|(a, b)| same_parent(a, b)).expect("two frames of one Untyped");
    let cap = overlap.slots[pair.0].cap.clone();
    overlap.slots.get_mut(pair.1).expect("it is there").cap = cap;
    assert_eq!(broken(&overlap), Some(Property::NoOverlap));

    let mut mapped = good();
    let is_mapped = |slot: &Slot| matches!(slot.cap, Cap::Frame { mapping: Some(_), .. });
    if let Cap::Frame { mapping, .. } = &mut find(&mut mapped, is_mapped).1.cap {
        *mapping = None;
    }
    assert_eq!(broken(&mapped), Some(Property::EntriesBacked));

    let mut sold = good();
    let config = sold.config.clone();
    let is_root = |slot: &Slot| matches!(slot.cap, Cap::CpuTime { vcpu: Some(ROOT_VCPU), .. });
    if let Cap::CpuTime { reservation, .. } = &mut find(&mut sold, is_root).1.cap {
        reservation.budget = config.max_period - 1;
        reservation.period = config.max_period;
    }
    assert_eq!(broken(&sold), Some(Property::TimeDelivered));

    let mut twice = good();
    let is_bound = |slot: &Slot| matches!(slot.cap, Cap::Irq { message: Some(_), .. });
    let bound: Message = match find(&mut twice, is_bound).1.cap {
        Cap::Irq { message: Some(message), .. } => message,
        _ => unreachable!("that is what was looked for"),
    };
    root(&mut twice, script::root(Label::IrqSplit, place::ROUTES, &[30, 1, place::CNODE, 90]));
    if let Cap::Irq { message, .. } = &mut find(&mut twice, |slot| matches!(slot.cap, Cap::Irq { first: 30, .. })).1.cap
    {
        *message = Some(bound);
    }
    assert_eq!(broken(&twice), Some(Property::OneOwner));
    let mut leased = good();
    leased.functions.values_mut().next().expect("there is a function").leases += 1;
    assert_eq!(broken(&leased), Some(Property::OneOwner));
}

/// Runs random worlds, with a mistake made after each event, until a property is found broken. How often the mistake was
/// made before.
fn made(mistake: impl Fn(&Fine, Event, &mut Fine) -> bool) -> (Option<Property>, usize) {
    let mut times = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.revive();
            let before = world.fine.clone();
            let (event, _) = world.happen();
            times += usize::from(mistake(&before, event, &mut world.fine));
            if let Err(broken) = fine::check(&world.fine) {
                return (Some(broken.property()), times);
            }
        }
    }
    (None, times)
}

/// The invocation that holds the lock believes that these have flushed.
fn forget(fine: &mut Fine, forgotten: impl Fn(&mut Flush) -> bool) -> bool {
    fine.hold.as_mut().is_some_and(|hold| forgotten(&mut hold.flush))
}

#[test]
fn a_wrong_step_is_found_on_random_runs() {
    let (property, times) = made(|_, _, fine| forget(fine, |flush| flush.cores.pop_first().is_some()));
    assert_eq!((property, times), (Some(Property::EntriesBacked), 1), "a core that is not told to flush");
    let (property, times) = made(|_, _, fine| forget(fine, |flush| std::mem::take(&mut flush.iommu)));
    assert_eq!((property, times), (Some(Property::EntriesBacked), 1), "an IOMMU that is not told to flush");
    let (property, _) = made(|before, event, fine| {
        // Scrubbing lowers the watermark, and writes nothing.
        let scrubs = matches!(event, Event::Continue | Event::Invoke(..)) && before.dirt != fine.dirt;
        if scrubs && before.state.slots.len() == fine.state.slots.len() {
            fine.dirt = before.dirt.clone();
        }
        scrubs
    });
    assert_eq!(property, Some(Property::CleanBeforeReuse), "scrubbing that writes nothing");
    let (property, _) = made(|_, _, fine| {
        // A core keeps running, and uses what it remembers, while memory is given back.
        let kept = fine.hardware.tlb.clone();
        let flushed = forget(fine, |flush| std::mem::take(&mut flush.cores).len() + usize::from(flush.iommu) != 0);
        if flushed {
            fine.hold = None;
            fine.hardware.tlb = kept;
        }
        flushed
    });
    assert_eq!(property, Some(Property::EntriesBacked), "a lock that is given up before the flush");
    let (property, _) = made(|_, _, fine| {
        let had = fine.quarantine.kept != fine::Bytes::new();
        fine.quarantine.kept = fine::Bytes::new();
        had
    });
    assert_eq!(property, Some(Property::CleanBeforeReuse), "what a failed IOMMU may reach is not kept back");
    assert_eq!(made(|_, _, _| false), (None, 0), "no mistake");
}

#[test]
fn a_revoke_that_leaves_something_is_found() {
    let mut state = good();
    root(&mut state, script::root(Label::CNodeRevoke, place::CNODE, &[script::tenant::BASE]));
    let base = state.cnodes.keys().next().expect("there is a root CNode").slot(script::tenant::BASE);
    let revoked = Fine::new(state);
    assert_eq!(fine::check_revoked(&revoked, base), Ok(()));

    let mut leaves_child = revoked.clone();
    let Cap::Untyped { extent, .. } = revoked.state.slots[&base].cap else { panic!("the base is an Untyped") };
    let child = Slot {
        cap: Cap::Frame { extent, device: false, kernel_page: false, mapping: None },
        parent: Some(base),
        ..revoked.state.slots[&base].clone()
    };
    leaves_child.state.slots.insert(SlotId(base.0 + 0x40), child);
    let mut leaves_entry = revoked.clone();
    let entry = cap_spec::machine::Entry::Leaf { extent, rights: Rights::READ };
    let cached = fine::Cached { space: ROOT_VM, gpa: 0, level: 1, entry };
    leaves_entry.hardware.tlb.insert((0, cached));
    let mut leaves_watermark = revoked.clone();
    if let Some(Cap::Untyped { watermark, .. }) = leaves_watermark.state.slots.get_mut(&base).map(|slot| &mut slot.cap)
    {
        *watermark = SCRUB;
    }
    for (wrong, property) in [
        (leaves_child, Property::RevokeComplete),
        (leaves_entry, Property::EntriesBacked),
        (leaves_watermark, Property::RevokeComplete),
    ] {
        let found = fine::check_revoked(&wrong, base).expect_err("something is left");
        assert_eq!(found.property(), property, "{found:?}");
    }
}

#[test]
fn a_refusal_that_changes_something_is_found() {
    let before = good();
    let call = Call { cptr: 0xffff_ffff, label: Label::Nop as u64, args: [0; 5] };
    let refused = Answer::Answered(ROOT_VCPU, Err(Fault::new(Error::InvalidCapability, 0)));
    let mut after = Fine::new(before.clone());
    assert_eq!(check_answer(&before, &after, ROOT_VCPU, call, refused), Ok(()));
    after.state.vcpus.get_mut(&ROOT_VCPU).expect("the root Vcpu").events |= 1;
    let found = check_answer(&before, &after, ROOT_VCPU, call, refused).expect_err("the state has changed");
    assert_eq!(found.0, Property::FailureChangesNothing);
    let after = Fine::new(before.clone());
    let wrong = Answer::Answered(ROOT_VCPU, Err(Fault::new(Error::InvalidLabel, 0)));
    let found = check_answer(&before, &after, ROOT_VCPU, call, wrong).expect_err("it is the wrong error");
    assert_eq!(found.0, Property::Refinement);
}

#[test]
fn what_reaches_a_tenant_from_nowhere_is_found() {
    let state = two_tenants(false);
    let tenants: Vec<VmId> = state.vms.keys().copied().filter(|vm| *vm != ROOT_VM).collect();
    let &[one, other] = tenants.as_slice() else { panic!("two tenants") };
    assert!(!may_influence(&state, one, other) && !may_influence(&state, other, one));

    // A capability of the root VM in the CSpace of a tenant, which nobody granted.
    let vms = BTreeSet::from([one]);
    let bound = Bound::of(&state, &vms);
    assert_eq!(bound.exceeded(&state, &vms), None);
    let mut wrong = state.clone();
    let machine = find(&mut wrong, |slot| slot.cap == Cap::Machine).1.clone();
    let cnode = wrong.vms[&one].cspace.expect("it has a CSpace");
    wrong.slots.insert(cnode.slot(40), machine);
    assert_eq!(bound.exceeded(&wrong, &vms), Some(cnode.slot(40)));

    // A step of one that reaches the other: an event of its Vcpu, a slot of its CNode, a mapping.
    let seen = observe(&state, other);
    let mut raised = state.clone();
    let vcpu = raised.vcpus.values_mut().find(|vcpu| vcpu.vm == Some(other)).expect("it has a Vcpu");
    vcpu.events |= 1;
    let mut filled = state.clone();
    let cnode = filled.vms[&other].cspace.expect("it has a CSpace");
    let copy = find(&mut filled, |slot| slot.cap == Cap::Machine).1.clone();
    filled.slots.insert(cnode.slot(40), copy);
    let mut unmapped = state.clone();
    unmapped.tables.insert(other.root(), Default::default());
    for wrong in [raised, filled, unmapped] {
        assert_ne!(observe(&wrong, other), seen);
        assert_eq!(observe(&wrong, one), observe(&state, one));
    }
}

#[test]
fn a_step_that_does_too_much_or_nothing_is_found() {
    let mut state = good();
    for number in 0..2 {
        let index = 30 * number;
        root(&mut state, script::retype(place::CLEAN, ObjectType::CNode, 6, 92 + number, 1));
        let into = [ObjectType::Frame as u64, 12, 92 + number, 1 + index, 50 - index];
        root(&mut state, script::root(Label::UntypedRetype, place::CLEAN, &into));
    }
    let root_cnode = *state.cnodes.keys().next().expect("there is a root CNode");
    let target = root_cnode.slot(place::CLEAN);
    let mut at_once = state.clone();
    root(&mut at_once, script::root(Label::CNodeRevoke, place::CNODE, &[place::CLEAN]));
    assert!(changes(&state, &at_once) > STEP_CHANGES);

    let call = Call { cptr: place::CNODE, label: Label::CNodeRevoke as u64, args: [place::CLEAN, 0, 0, 0, 0] };
    let mut fine = Fine::new(state);
    assert_eq!(fine::step(&mut fine, Event::Invoke(ROOT_VCPU, call)), Answer::Holds);
    fine::flush(&mut fine);
    let Some(Hold { work: Work::Destroy(before), .. }) = fine.hold.clone() else { panic!("it goes on") };
    assert_eq!(before.target, target);
    let left = remaining(&fine.state, &before);
    // A step that does nothing leaves as much as there was; a right one leaves less.
    assert_eq!(remaining(&fine.clone().state, &before), left);
    assert_eq!(fine::step(&mut fine, Event::Continue), Answer::Holds);
    let Some(Hold { work: Work::Destroy(after), .. }) = fine.hold.clone() else { panic!("it goes on") };
    assert!(remaining(&fine.state, &after) < left);
}
