//! Bounds of work: how much one step may change, and how many steps a Delete or Revoke can take.

use alloc::collections::{BTreeMap, BTreeSet};

use super::super::derivation::slots_of_object;
use super::super::dying::home;
use super::super::state::{Cap, Run, Slot, SlotId, State, VmId};
use super::destroy::{Destroy, SCAN, SCRUB};

/// Capabilities and objects that one step of a Delete or Revoke changes at most: those of the longest line of derivation
/// that is doomed, or the messages of a function, whichever are more. Besides, it makes [`SCRUB`] bytes zero at most.
pub const STEP_CHANGES: usize = 64;

/// How many capabilities and objects a step has changed. Who a capability was derived from does not count: children
/// are handed to another parent all at once.
pub fn changes(before: &State, after: &State) -> usize {
    fn differ<K: Ord, V>(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>, is_same: impl Fn(&V, &V) -> bool) -> usize {
        let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
        let same = |key: &&K| match (before.get(key), after.get(key)) {
            (Some(before), Some(after)) => is_same(before, after),
            _ => false,
        };
        keys.iter().filter(|key| !same(key)).count()
    }
    let is_same_slot = |one: &Slot, other: &Slot| (&one.cap, one.rights) == (&other.cap, other.rights);
    differ(&before.slots, &after.slots, is_same_slot)
        + differ(&before.cnodes, &after.cnodes, PartialEq::eq)
        + differ(&before.tables, &after.tables, PartialEq::eq)
        + differ(&before.vms, &after.vms, PartialEq::eq)
        + differ(&before.vcpus, &after.vcpus, PartialEq::eq)
        + differ(&before.domains, &after.domains, PartialEq::eq)
        + differ(&before.functions, &after.functions, PartialEq::eq)
        + differ(&before.channels, &after.channels, PartialEq::eq)
        + before.dying.doomed.symmetric_difference(&after.dying.doomed).count()
}

/// Steps that a Delete or Revoke has still to take at most, if nobody makes anything new of what it takes away meanwhile.
/// Each of its steps makes this less.
pub fn remaining(state: &State, destroy: &Destroy) -> u64 {
    let scrub = match state.slots.get(&destroy.target).map(|slot| &slot.cap) {
        Some(Cap::Untyped { device: false, watermark, .. }) if destroy.keeps => watermark.div_ceil(SCRUB),
        _ => 0,
    };
    let all: u64 = goes(state, destroy).into_iter().map(|slot| steps_of(state, slot)).sum();
    1 + scrub + all - u64::from(destroy.erasing.is_some())
}

/// Everything that goes with the operation: what it is about, and with each original what is derived from it and what lies
/// in its object; with a zombie its circle.
fn goes(state: &State, destroy: &Destroy) -> BTreeSet<SlotId> {
    let mut found = BTreeSet::new();
    let hidden = destroy.keeps && state.dying.hides(destroy.target);
    let mut open: alloc::vec::Vec<SlotId> = match destroy.keeps && !hidden {
        true => state.descendants(destroy.target).into_iter().collect(),
        false => alloc::vec![destroy.target],
    };
    open.extend(destroy.focus);
    while let Some(next) = open.pop() {
        let Some(slot) = state.slots.get(&next) else { continue };
        if !found.insert(next) {
            continue;
        }
        if slot.original {
            open.extend(state.descendants(next));
        }
        open.extend(slots_of_object(state, next));
        if let Some(zombie) = state.dying.zombies.get(&next) {
            let circle = state.dying.zombies.iter().filter(|(_, other)| other.circle == zombie.circle);
            open.extend(circle.map(|(slot, _)| *slot));
        }
    }
    found
}

/// Steps that it takes at most to be rid of one capability: to let go of each thing that it holds, and to erase it.
fn steps_of(state: &State, id: SlotId) -> u64 {
    let slot = &state.slots[&id];
    let mut above = 0;
    let mut parent = slot.parent;
    while let Some(next) = parent {
        // Each is one that a zombie can be taken out from below.
        above += 1;
        parent = state.slots.get(&next).and_then(|slot| slot.parent);
    }
    let held = match (&slot.cap, state.dying.zombies.get(&id)) {
        (cap, Some(zombie)) => zombie.left.div_ceil(SCAN) + u64::from(home(cap) != Some(id)),
        (Cap::CNode { slot_bits, .. }, None) if slot.original => 2 + (1_u64 << slot_bits).div_ceil(SCAN),
        (Cap::Channel { .. }, None) if slot.original => 3,
        (Cap::Untyped { .. }, None) => u64::from(!state.dying.doomed.contains(&id)),
        (Cap::Vm(space) | Cap::IommuDomain { id: space, .. }, None) if slot.original => held_by_space(state, *space),
        (Cap::Vcpu(vcpu), None) if slot.original => {
            let ends = state.channels.values().flatten();
            ends.filter(|end| end.is_some_and(|end| end.vcpu == *vcpu)).count() as u64
        }
        _ => 0,
    };
    2 + above + held
}

/// Vcpus that must be stopped and taken off, functions, and mappings of an address space.
fn held_by_space(state: &State, space: VmId) -> u64 {
    let vcpus = state.vcpus.values().filter(|vcpu| vcpu.vm == Some(space));
    let vcpus: u64 = vcpus.map(|vcpu| 1 + u64::from(vcpu.run != Run::Stopped)).sum();
    let functions = state.functions.values().filter(|function| function.domain == Some(space)).count();
    let mappings = state.slots.values().filter(|slot| match slot.cap {
        Cap::Frame { mapping, .. } => mapping.is_some_and(|mapping| mapping.vm == space),
        Cap::PageTable { place, .. } => place.is_some_and(|place| place.vm == space),
        _ => false,
    });
    vcpus + functions as u64 + mappings.count() as u64
}
