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
//! * An Untyped that goes gives its extent back only if it was its parent's whole extent; then the parent's watermark
//!   becomes what the child's was, so that a lease which was never used costs nobody a scrub. Otherwise the parent's
//!   watermark stays, until Revoke.

use alloc::vec::Vec;

use super::state::{Cap, Run, Slot, SlotId, State};
use super::vcpu::take_time;
use super::{MAX_DEPTH, address_space, channel, cpu_time};
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
}

/// Removes one capability, with everything that must go with it.
pub(super) fn remove(state: &mut State, slot: SlotId) {
    let mut doomed = alloc::vec![slot];
    while let Some(next) = doomed.pop() {
        let Some(found) = state.slots.get(&next) else { continue };
        let children: Vec<SlotId> = state.children(next).map(|(id, _)| id).collect();
        if found.original && !children.is_empty() {
            doomed.push(next);
            doomed.extend(children);
            continue;
        }
        let parent = found.parent;
        for child in children {
            if let Some(child) = state.slots.get_mut(&child) {
                child.parent = parent;
            }
        }
        release(state, next, &mut doomed);
        state.slots.remove(&next);
    }
}

/// Removes every descendant.
pub(super) fn remove_descendants(state: &mut State, slot: SlotId) {
    for below in state.descendants(slot) {
        remove(state, below);
    }
}

/// Lets go of what the capability in `slot` holds: its mapping, and for an original its object. The slots that die with
/// the object join `doomed`.
fn release(state: &mut State, slot: SlotId, doomed: &mut Vec<SlotId>) {
    let Slot { cap, original, parent, .. } = state.slots[&slot].clone();
    match cap {
        Cap::Frame { .. } => address_space::unmap_frame(state, slot),
        Cap::Untyped { extent, watermark, .. } => {
            if let Some(Slot { cap: Cap::Untyped { extent: whole, watermark: taken, .. }, .. }) =
                parent.and_then(|parent| state.slots.get_mut(&parent))
                && *whole == extent
            {
                *taken = watermark;
            }
        }
        Cap::CpuTime { vcpu, .. } => {
            if let Some(vcpu) = vcpu {
                take_time(state, vcpu);
            }
            cpu_time::give_back(state, slot);
        }
        Cap::CNode { id, .. } if original => {
            if let Some(slot_bits) = state.cnodes.remove(&id) {
                doomed.extend(state.slots.range(id.slot(0)..id.slot(1 << slot_bits)).map(|(id, _)| *id));
            }
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
            for vcpu in state.vcpus.values_mut() {
                if vcpu.handler.is_some_and(|(channel, _)| channel == id) {
                    vcpu.handler = None;
                }
            }
            doomed.extend([1, 2].map(|end| channel::in_flight_slot(id, end)));
        }
        Cap::CNode { .. }
        | Cap::Vm(_)
        | Cap::Vcpu(_)
        | Cap::Channel { .. }
        | Cap::Irq { .. }
        | Cap::IoPort { .. }
        | Cap::Machine => {}
    }
}
