//! The CSpace: how a number names a slot, and how arguments are checked.
//!
//! A VM's CSpace is its root CNode and the CNodes whose capabilities lie in it. A capability pointer is
//! `node << 16 | index`. With `node` 0 it names slot `index` of the root CNode; else slot `node` of the root CNode must
//! hold a CNode capability with READ, and `index` is a slot of that CNode. Slot 0 is never addressable. A pointer that
//! does not fit in 32 bits, leads nowhere or to an empty slot is `InvalidCapability`.

use super::state::{CNodeId, Cap, SlotId, State, VcpuId};
use crate::abi::{CptrParts, Error, Fault, ObjectType, Rights, SLOT_BITS};

/// An invocation past the checks of its invoked capability.
#[derive(Clone, Copy)]
pub(super) struct Invoked {
    /// Who invokes.
    pub invoker: VcpuId,
    /// The slot of the invoked capability.
    pub slot: SlotId,
    /// The five argument registers.
    pub args: [u64; 5],
}

impl Invoked {
    /// Argument `number`, 1 to 5.
    pub fn arg(&self, number: u8) -> u64 {
        self.args[number as usize - 1]
    }

    /// Argument `number` if it lies in the range.
    pub fn in_range(&self, number: u8, range: core::ops::RangeInclusive<u64>) -> Result<u64, Fault> {
        let value = self.arg(number);
        if range.contains(&value) { Ok(value) } else { Err(Fault::new(Error::OutOfRange, number)) }
    }

    /// Argument `number` as a mask of rights, of which no others may be set than `allowed`.
    pub fn rights(&self, number: u8, allowed: Rights) -> Result<Rights, Fault> {
        let value = self.arg(number);
        match u8::try_from(value).ok().and_then(Rights::from_bits) {
            Some(rights) if allowed.contains(rights) => Ok(rights),
            _ => Err(Fault::new(Error::OutOfRange, number)),
        }
    }

    /// Argument `number` as a capability of this type with these rights.
    pub fn capability(
        &self,
        state: &State,
        number: u8,
        object_type: ObjectType,
        rights: Rights,
    ) -> Result<SlotId, Fault> {
        let slot = self.any(state, number)?;
        check_capability(state, slot, number, object_type, rights)?;
        Ok(slot)
    }

    /// Argument `number` as any capability.
    pub fn any(&self, state: &State, number: u8) -> Result<SlotId, Fault> {
        in_cspace_of_vcpu(state, self.invoker, self.arg(number), number)
    }

    /// Arguments `number` and `number + 1` as a destination: a CNode with WRITE, and an empty slot of it.
    pub fn destination(&self, state: &State, number: u8) -> Result<SlotId, Fault> {
        let cnode = self.capability(state, number, ObjectType::CNode, Rights::WRITE)?;
        empty_slot(state, cnode, self.arg(number + 1), number + 1)
    }

    /// True if the capability that argument `number` names may leave its slot: the slot is in the root CNode, or in one
    /// reached through a capability with WRITE.
    pub fn may_take(&self, state: &State, number: u8) -> bool {
        match CptrParts::from_raw(self.arg(number)) {
            Some(CptrParts { node: 0, .. }) => true,
            Some(CptrParts { node, .. }) => match cspace(state, self.invoker) {
                Some(root) => state.slots[&root.slot(node as u64)].rights.contains(Rights::WRITE),
                None => false,
            },
            None => false,
        }
    }
}

/// Checks type and rights of the capability that argument `number` names.
pub(super) fn check_capability(
    state: &State,
    slot: SlotId,
    number: u8,
    object_type: ObjectType,
    rights: Rights,
) -> Result<(), Fault> {
    let found = &state.slots[&slot];
    if found.cap.object_type() != object_type {
        return Err(Fault::new(Error::WrongType, number));
    }
    if !found.rights.contains(rights) {
        return Err(Fault::new(Error::MissingRight, number));
    }
    Ok(())
}

/// The root CNode of the VM that a Vcpu runs in.
fn cspace(state: &State, vcpu: VcpuId) -> Option<CNodeId> {
    state.vms[&state.vcpus.get(&vcpu)?.vm?].cspace
}

/// The full slot that `cptr` names in the CSpace of the VM of `vcpu`.
pub(super) fn in_cspace_of_vcpu(state: &State, vcpu: VcpuId, cptr: u64, number: u8) -> Result<SlotId, Fault> {
    cspace(state, vcpu)
        .and_then(|root| in_cspace(state, root, cptr))
        .ok_or(Fault::new(Error::InvalidCapability, number))
}

/// The full slot that `cptr` names in the CSpace with this root.
pub(super) fn in_cspace(state: &State, root: CNodeId, cptr: u64) -> Option<SlotId> {
    let CptrParts { node, index } = CptrParts::from_raw(cptr)?;
    let mut cnode = root;
    if node != 0 {
        let through = slot_of(state, root, node as u64)?;
        let second = state.slots.get(&through)?;
        match second.cap {
            Cap::CNode { id, .. } if second.rights.contains(Rights::READ) && !state.dying.hides(through) => cnode = id,
            _ => return None,
        }
    }
    let slot = slot_of(state, cnode, index as u64)?;
    (state.slots.contains_key(&slot) && !state.dying.hides(slot)).then_some(slot)
}

/// Slot `index` of a CNode, full or empty; `None` for slot 0 and beyond the end.
pub(super) fn slot_of(state: &State, cnode: CNodeId, index: u64) -> Option<SlotId> {
    let slots = 1 << state.cnodes[&cnode];
    (index != 0 && index < slots).then(|| cnode.slot(index))
}

/// How many slots of its CNode lie behind a slot.
pub(super) fn slots_behind(state: &State, slot: SlotId) -> u64 {
    let (cnode, bits) = state.cnodes.range(..=CNodeId(slot.0)).next_back().expect("the slot is in a CNode");
    ((cnode.slot(1 << bits).0 - slot.0) >> SLOT_BITS) - 1
}

/// The CNode that a CNode capability names.
pub(super) fn cnode_of(state: &State, capability: SlotId) -> CNodeId {
    match state.slots[&capability].cap {
        Cap::CNode { id, .. } => id,
        _ => unreachable!("the capability was checked to be a CNode's"),
    }
}

/// Slot `index` of the CNode that `capability` names, which must be empty.
pub(super) fn empty_slot(state: &State, capability: SlotId, index: u64, number: u8) -> Result<SlotId, Fault> {
    let slot = slot_of(state, cnode_of(state, capability), index).ok_or(Fault::new(Error::OutOfRange, number))?;
    if state.slots.contains_key(&slot) { Err(Fault::new(Error::SlotOccupied, number)) } else { Ok(slot) }
}

/// Slot `index` of the CNode that `capability` names, which must be full.
pub(super) fn full_slot(state: &State, capability: SlotId, index: u64, number: u8) -> Result<SlotId, Fault> {
    let slot = slot_of(state, cnode_of(state, capability), index).ok_or(Fault::new(Error::OutOfRange, number))?;
    if state.slots.contains_key(&slot) { Ok(slot) } else { Err(Fault::new(Error::SlotEmpty, number)) }
}
