//! Frame: memory that a VM can be given.
//!
//! * A Frame capability has at most one mapping; for a second one it takes a copy. The mapping lives as long as the
//!   capability, the VM, and nobody calls Unmap.
//! * **Map**: the frame must end at or below 2^48 (`OutOfRange`, 2) and be aligned to its size (`Misaligned`, 2). The
//!   wanted rights are some of READ, WRITE and EXECUTE with READ among them (`OutOfRange`, 3) and all of them the
//!   capability's (`MissingRight`, 3).
//! * State: `InUse`; `NoPageTable` with the missing level and `AddressOccupied`, which name the address (2).
//! * **Unmap**: `NotMapped` if there is no mapping. When it returns, no core reaches the frame by it.

use super::Outcome;
use super::address_space::{GPA_END, free_entry, leaf_level, unmap_frame};
use super::lookup::Invoked;
use super::state::{Cap, Entry, Mapping, State};
use crate::abi::{Error, Fault, ObjectType, Rights};

/// `Frame.Map`.
pub(super) fn map(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::Frame { extent, mapping, .. } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let Cap::Vm(vm) = state.slots[&call.capability(state, 1, ObjectType::Vm, Rights::WRITE)?].cap else {
        unreachable!("argument 1 was checked to be a Vm")
    };
    let gpa = call.in_range(2, 0..=GPA_END - extent.bytes())?;
    if !gpa.is_multiple_of(extent.bytes()) {
        return Err(Fault::new(Error::Misaligned, 2));
    }
    let rights = call.rights(3, Rights::READ | Rights::WRITE | Rights::EXECUTE)?;
    if !rights.contains(Rights::READ) {
        return Err(Fault::new(Error::OutOfRange, 3));
    }
    if !state.slots[&call.slot].rights.contains(rights) {
        return Err(Fault::new(Error::MissingRight, 3));
    }

    if mapping.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    let (table, index) = free_entry(state, vm, gpa, leaf_level(extent.bits))?;

    if let Some(entries) = state.tables.get_mut(&table) {
        entries.insert(index, Entry::Leaf { extent, rights });
    }
    if let Some(Cap::Frame { mapping, .. }) = state.slots.get_mut(&call.slot).map(|slot| &mut slot.cap) {
        *mapping = Some(Mapping { vm, gpa, rights });
    }
    Ok(Outcome::NOTHING)
}

/// `Frame.Unmap`.
pub(super) fn unmap(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    if let Cap::Frame { mapping: None, .. } = state.slots[&call.slot].cap {
        return Err(Fault::new(Error::NotMapped, 0));
    }
    unmap_frame(state, call.slot);
    Ok(Outcome::NOTHING)
}
