//! Derivation: which capability came from which, and what goes when one goes.
//!
//! * Retype and Split make *originals*: the object lives exactly as long as its original capability. Copy, Mint, Grant
//!   and the GetPage invocations make *copies*. Each is a child of what it was made from; boot capabilities have no
//!   parent and are never deleted.
//! * A child is at most [`MAX_DEPTH`](super::MAX_DEPTH) - 1 steps below a boot capability when it is made.
//! * Removing a copy removes that capability; its children become children of its parent.
//! * Removing an original removes its descendants and then its object. The slots inside a destroyed CNode or Channel are
//!   removed in the same way. Slots that hold each other in a circle all go.
//! * A Frame capability that goes takes its mapping with it; a PageTable leaves its tree.
//! * A destroyed Vm leaves its Vcpus stopped and detached, its mappings and tables forgotten. A destroyed Vcpu leaves its
//!   CPU time and interrupt routes unbound, and the channel ends without receiver at which it received. A destroyed
//!   Channel is nobody's handler. A destroyed CNode is nobody's CSpace.
//! * A destroyed IommuDomain is no function's: those attached to it are detached first. A PciFunction that goes is detached,
//!   its messages are unbound, and it is reset, unless it has virtual functions, which would go with that; with the last
//!   virtual function they are disabled.
//! * An Untyped that goes gives its extent back only if it was its parent's whole extent; then the parent's watermark
//!   becomes what the child's was, so that a lease which was never used costs nobody a scrub. Otherwise the parent's
//!   watermark stays, until Revoke. It may also stay (this is left to the kernel) if the Untyped was *captive*: if its slot
//!   went with an object that was made of it, as when a VM revokes its own base.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::faults::free_end;
use super::state::{Cap, Run, Slot, SlotId, State};
use super::vcpu::take_time;
use super::{MAX_DEPTH, address_space, channel, cpu_time, pci_function};
use crate::abi::{Error, Fault, Rights};

/// Checks that something may be derived from `parent`, which argument `number` names.
pub(super) fn check_depth(state: &State, parent: SlotId, number: u8) -> Result<(), Fault> {
    if state.slots[&parent].depth + 1 < MAX_DEPTH { Ok(()) } else { Err(Fault::new(Error::TooDeep, number)) }
}

/// Whether a new capability owns its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The object lives as long as it.
    Original,
    /// The object is another's.
    Copy,
}

/// Puts a capability into the empty slot `destination`, as a child of `parent`.
pub(super) fn derive(state: &mut State, parent: SlotId, destination: SlotId, cap: Cap, rights: Rights, kind: Kind) {
    let depth = state.slots[&parent].depth + 1;
    let slot = Slot { cap, rights, parent: Some(parent), depth, original: kind == Kind::Original };
    state.slots.insert(destination, slot);
}

/// Moves a capability with its place in the derivation.
pub(super) fn relocate(state: &mut State, from: SlotId, to: SlotId) {
    let Some(slot) = state.slots.remove(&from) else { return };
    for other in state.slots.values_mut().filter(|other| other.parent == Some(from)) {
        other.parent = Some(to);
    }
    state.slots.insert(to, slot);
    state.dying.relocate(from, to);
}

/// Removes one capability, with everything that must go with it.
pub(super) fn remove(state: &mut State, slot: SlotId) {
    let captives = captives(state);
    remove_all(state, alloc::vec![slot], &captives);
}

/// Removes every descendant.
pub(super) fn remove_descendants(state: &mut State, slot: SlotId) {
    let captives = captives(state);
    let descendants = state.descendants(slot).into_iter().collect();
    remove_all(state, descendants, &captives);
}

/// Removes what is doomed, and what must go with it.
fn remove_all(state: &mut State, mut doomed: Vec<SlotId>, captives: &BTreeSet<SlotId>) {
    while let Some(next) = doomed.pop() {
        let Some(found) = state.slots.get(&next) else { continue };
        let children: Vec<SlotId> = state.children(next).map(|(id, _)| id).collect();
        if found.original && !children.is_empty() {
            doomed.push(next);
            doomed.extend(children);
            continue;
        }
        doomed.extend(slots_of_object(state, next));
        if matches!(found.cap, Cap::Untyped { .. }) {
            give_memory_back(state, next, captives);
        }
        take(state, next);
    }
}

/// Takes one capability away, with its mapping, or for an original its object, of which nothing is derived any more.
pub(super) fn take(state: &mut State, slot: SlotId) {
    release(state, slot);
    let parent = state.slots[&slot].parent;
    for child in state.slots.values_mut().filter(|child| child.parent == Some(slot)) {
        child.parent = parent;
    }
    if let Some(gone) = state.slots.remove(&slot) {
        state.dying.forget(slot, &gone);
    }
}

/// The slots in the object whose original this is: they go with it.
pub(super) fn slots_of_object(state: &State, slot: SlotId) -> Vec<SlotId> {
    match state.slots[&slot] {
        Slot { cap: Cap::CNode { id, slot_bits }, original: true, .. } => {
            state.slots.range(id.slot(0)..id.slot(1 << slot_bits)).map(|(id, _)| *id).collect()
        }
        Slot { cap: Cap::Channel { id, .. }, original: true, .. } => [1, 2]
            .map(|end| channel::in_flight_slot(id, end))
            .into_iter()
            .filter(|s| state.slots.contains_key(s))
            .collect(),
        _ => Vec::new(),
    }
}

/// The Untypeds that are their parent's whole extent and captive in what is derived from them.
fn captives(state: &State) -> BTreeSet<SlotId> {
    state
        .slots
        .keys()
        .copied()
        .filter(|slot| whole_of_parent(state, *slot).is_some() && is_captive(state, *slot))
        .collect()
}

/// True if the slot goes with an object that is derived from it.
fn is_captive(state: &State, slot: SlotId) -> bool {
    let mut goes = BTreeSet::new();
    let mut open: Vec<SlotId> =
        state.descendants(slot).into_iter().flat_map(|below| slots_of_object(state, below)).collect();
    while let Some(next) = open.pop() {
        if goes.insert(next) {
            if state.slots[&next].original {
                open.extend(state.children(next).map(|(id, _)| id));
            }
            open.extend(slots_of_object(state, next));
        }
    }
    goes.contains(&slot)
}

/// The parent of the Untyped in `slot`, if this is its parent's whole extent.
pub(super) fn whole_of_parent(state: &State, slot: SlotId) -> Option<SlotId> {
    let Slot { cap: Cap::Untyped { extent, .. }, parent: Some(parent), .. } = state.slots[&slot] else { return None };
    match state.slots[&parent].cap {
        Cap::Untyped { extent: whole, .. } if whole == extent => Some(parent),
        _ => None,
    }
}

/// The Untyped in `slot` goes: its watermark becomes its parent's, if that has the same extent.
pub(super) fn give_memory_back(state: &mut State, slot: SlotId, captives: &BTreeSet<SlotId>) {
    let Some(parent) = whole_of_parent(state, slot) else { return };
    let Cap::Untyped { watermark: left, .. } = state.slots[&slot].cap else { return };
    let Some(Cap::Untyped { watermark, .. }) = state.slots.get_mut(&parent).map(|slot| &mut slot.cap) else { return };
    if captives.contains(&slot) {
        let alternatives = [left, *watermark].into_iter().chain(state.choices.remove(&slot).into_iter().flatten());
        state.choices.insert(parent, alternatives.collect());
    } else if let Some(alternatives) = state.choices.remove(&slot) {
        state.choices.insert(parent, alternatives);
    }
    *watermark = left;
}

/// Lets go of what the capability in `slot` holds: its mapping, and for an original its object.
fn release(state: &mut State, slot: SlotId) {
    let Slot { cap, original, .. } = state.slots[&slot].clone();
    match cap {
        Cap::Frame { .. } => address_space::unmap_frame(state, slot),
        Cap::CpuTime { vcpu, .. } => {
            if let Some(vcpu) = vcpu {
                take_time(state, vcpu);
            }
            cpu_time::give_back(state, slot);
        }
        Cap::CNode { id, .. } if original => {
            state.cnodes.remove(&id);
            for vm in state.vms.values_mut().filter(|vm| vm.cspace == Some(id)) {
                vm.cspace = None;
            }
        }
        Cap::PageTable { id, .. } => {
            address_space::unmap_table(state, slot);
            state.tables.remove(&id);
        }
        Cap::Vm(id) if original => {
            for vcpu in state.vcpus.values_mut().filter(|vcpu| vcpu.vm == Some(id)) {
                vcpu.vm = None;
                vcpu.run = Run::Stopped;
            }
            address_space::forget(state, id);
            state.vms.remove(&id);
        }
        Cap::Vcpu(id) if original => {
            take_time(state, id);
            for receiver in state.channels.values_mut().flatten() {
                if receiver.is_some_and(|receiver| receiver.vcpu == id) {
                    *receiver = None;
                }
            }
            state.vcpus.remove(&id);
        }
        Cap::Channel { id, .. } if original => {
            state.channels.remove(&id);
            free_end(state, (id, 1));
            free_end(state, (id, 2));
        }
        Cap::IommuDomain { id, .. } if original => {
            for function in state.functions.values_mut().filter(|function| function.domain == Some(id)) {
                function.domain = None;
            }
            address_space::forget(state, id);
            state.domains.remove(&id);
        }
        Cap::PciFunction { function, lease } => pci_function::give_back(state, function, lease),
        Cap::Untyped { .. }
        | Cap::CNode { .. }
        | Cap::Vm(_)
        | Cap::Vcpu(_)
        | Cap::Channel { .. }
        | Cap::Irq { .. }
        | Cap::IoPort { .. }
        | Cap::Machine
        | Cap::IommuDomain { .. } => {}
    }
}
