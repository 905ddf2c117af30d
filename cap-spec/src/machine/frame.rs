//! Frame: memory that a VM can be given.
//!
//! * A Frame capability has at most one mapping; for a second one it takes a copy. The mapping lives as long as the
//!   capability, the VM, and nobody calls Unmap.
//! * **Map**: the frame must end at or below 2^48 (`OutOfRange`, 2) and be aligned to its size (`Misaligned`, 2). The
//!   wanted rights are some of READ, WRITE and EXECUTE with READ among them (`OutOfRange`, 3) and all of them the
//!   capability's (`MissingRight`, 3).
//! * With **more** (0 to 63, `OutOfRange`), the invocation is about so many further frames, which lie in the slots behind
//!   the invoked one: these must exist in its CNode (`OutOfRange`) and hold Frames of its size (`WrongType`) with the
//!   wanted rights (`MissingRight`). Each is mapped behind the one before it; the whole row lies under one table
//!   (`OutOfRange`). What is wrong with a further frame names the argument `more`.
//! * State: `InUse`; `NoPageTable` with the missing level and `AddressOccupied`, which name the address (2); then those of
//!   the further frames.
//! * **Unmap**: `NotMapped` if there is no mapping. When it returns, no core reaches a frame by it.

use alloc::vec::Vec;

use super::Outcome;
use super::address_space::{GPA_END, free_entry, leaf_level, table_start, unmap_frame};
use super::lookup::{Invoked, slots_behind};
use super::state::{Cap, Entry, Mapping, SlotId, State};
use crate::abi::{Error, Fault, Rights};

/// Further frames that one invocation is about at most.
const MAX_MORE: u64 = 63;

/// `Frame.Map`.
pub(super) fn map(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::Frame { extent, mapping, .. } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let vm = call.vm(state, 1)?;
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
    let row = row(state, &call, 4)?;
    let level = leaf_level(extent.bits);
    let last = gpa + (row.len() as u64 - 1) * extent.bytes();
    if table_start(last, level) != table_start(gpa, level) {
        return Err(Fault::new(Error::OutOfRange, 4));
    }

    if mapping.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    free_entry(state, vm, gpa, level)?;
    for (slot, gpa) in row.iter().zip((gpa..).step_by(extent.bytes() as usize)).skip(1) {
        let further = state.slots.get(slot).ok_or(Fault::new(Error::WrongType, 4))?;
        if !matches!(further.cap, Cap::Frame { extent: other, .. } if other.bits == extent.bits) {
            return Err(Fault::new(Error::WrongType, 4));
        }
        if !further.rights.contains(rights) {
            return Err(Fault::new(Error::MissingRight, 4));
        }
        if matches!(further.cap, Cap::Frame { mapping: Some(_), .. }) {
            return Err(Fault::new(Error::InUse, 4));
        }
        if free_entry(state, vm, gpa, level).is_err() {
            return Err(Fault::new(Error::AddressOccupied, 4));
        }
    }

    for (slot, gpa) in row.into_iter().zip((gpa..).step_by(extent.bytes() as usize)) {
        let (table, index) = free_entry(state, vm, gpa, level)?;
        let Some(Cap::Frame { extent, mapping, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) else {
            unreachable!("each of the row was checked to be a Frame")
        };
        *mapping = Some(Mapping { vm, gpa, rights });
        if let Some(entries) = state.tables.get_mut(&table) {
            entries.insert(index, Entry::Leaf { extent: *extent, rights });
        }
    }
    Ok(Outcome::NOTHING)
}

/// `Frame.Unmap`.
pub(super) fn unmap(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let row = row(state, &call, 1)?;
    let space = |slot: &SlotId| match state.slots.get(slot).map(|slot| &slot.cap) {
        Some(Cap::Frame { mapping: Some(mapping), .. }) => Some(mapping.vm),
        _ => None,
    };
    for (slot, number) in row.iter().zip([0].into_iter().chain(core::iter::repeat(1))) {
        match state.slots.get(slot).map(|slot| &slot.cap) {
            Some(Cap::Frame { mapping: Some(_), .. }) if space(slot) == space(&call.slot) => {}
            Some(Cap::Frame { .. }) => return Err(Fault::new(Error::NotMapped, number)),
            _ => return Err(Fault::new(Error::WrongType, number)),
        }
    }
    for slot in row {
        unmap_frame(state, slot);
    }
    Ok(Outcome::NOTHING)
}

/// The invoked slot and as many further ones behind it as argument `number` says.
pub(super) fn row(state: &State, call: &Invoked, number: u8) -> Result<Vec<SlotId>, Fault> {
    let more = call.in_range(number, 0..=MAX_MORE.min(slots_behind(state, call.slot)))?;
    Ok((0..=more).map(|offset| call.slot.behind(offset)).collect())
}
