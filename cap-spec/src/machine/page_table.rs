//! PageTable: one level of a nested page table, from the holder's memory.
//!
//! * A PageTable is in at most one tree at a time, and is never copied.
//! * **Map** puts it into the tree of a VM as the table of a level from 1 to 3 that covers an address below 2^48
//!   (`OutOfRange`). The levels above must be there.
//! * State: `InUse` if it is in a tree; `NoPageTable` with the missing level and `AddressOccupied`, which name the
//!   address (2).
//! * **Unmap** takes it out and empties it; `NotMapped` if it is in no tree. What was mapped through it is no longer
//!   seen by the VM.

use super::Outcome;
use super::address_space::{GPA_END, free_entry, table_start, unmap_table};
use super::lookup::Invoked;
use super::state::{Cap, Entry, State, TablePlace};
use crate::abi::{Error, Fault};

/// `PageTable.Map`.
pub(super) fn map(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::PageTable { id, place } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let vm = call.vm(state, 1)?;
    let gpa = call.in_range(2, 0..=GPA_END - 1)?;
    let level = call.in_range(3, 1..=3)? as u8;

    if place.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    let (parent, index) = free_entry(state, vm, gpa, level + 1)?;

    if let Some(entries) = state.tables.get_mut(&parent) {
        entries.insert(index, Entry::Table(id));
    }
    if let Some(Cap::PageTable { place, .. }) = state.slots.get_mut(&call.slot).map(|slot| &mut slot.cap) {
        *place = Some(TablePlace { vm, gpa: table_start(gpa, level), level });
    }
    Ok(Outcome::NOTHING)
}

/// `PageTable.Unmap`.
pub(super) fn unmap(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    if let Cap::PageTable { place: None, .. } = state.slots[&call.slot].cap {
        return Err(Fault::new(Error::NotMapped, 0));
    }
    unmap_table(state, call.slot);
    Ok(Outcome::NOTHING)
}
