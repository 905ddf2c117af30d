//! Address spaces: trees of tables with 512 entries each, and what is mapped where.
//!
//! * A VM's root is the table of level 4, a domain's of level 3. An entry of a level-n table covers 2^(12 + 9 (n - 1)) bytes. Frames of 4 KiB,
//!   2 MiB and 1 GiB are leaves of levels 1, 2 and 3.
//! * A walk towards a level either arrives at the entry of that level, or finds that a table is missing on the way
//!   (`NoPageTable`, the detail is the missing table's level), or that a larger frame is mapped there
//!   (`AddressOccupied`).
//! * Frame and PageTable capabilities record where they were put, and that record alone says whether they count as
//!   mapped. What hardware sees is the tree: a frame whose table was taken away is mapped for its holder, but not for
//!   the VM. Taking a frame out clears the entry only if it still leads to this very frame.
//! * A table is empty whenever it is put into a tree.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::state::{Cap, Entry, Extent, Mapping, SlotId, State, TableId, VmId};
use crate::abi::{Error, Fault, PAGE_BITS};

/// First guest-physical address that is out of reach.
pub(super) const GPA_END: u64 = 1 << 48;

/// Level of the table that has frames of this size as leaves: 1, 2 or 3.
pub(super) fn leaf_level(frame_bits: u8) -> u8 {
    (frame_bits - PAGE_BITS) / 9 + 1
}

/// Index of the entry for `gpa` in a table of this level.
pub(super) fn index(gpa: u64, level: u8) -> u16 {
    (gpa >> (PAGE_BITS + 9 * (level - 1)) & 0x1ff) as u16
}

/// First address that the table of this level which holds `gpa` covers.
pub(super) fn table_start(gpa: u64, level: u8) -> u64 {
    gpa & !((1 << (PAGE_BITS + 9 * level)) - 1)
}

/// Level of the root of an address space.
pub(super) fn root_level(state: &State, space: VmId) -> u8 {
    if state.domains.contains_key(&space) { 3 } else { 4 }
}

/// The table and index of the entry for `gpa` at `level`.
fn walk(state: &State, vm: VmId, gpa: u64, level: u8) -> Result<(TableId, u16), Fault> {
    let mut table = vm.root();
    for above in (level + 1..=root_level(state, vm)).rev() {
        match state.tables[&table].get(&index(gpa, above)) {
            Some(Entry::Table(next)) => table = *next,
            Some(Entry::Leaf { .. }) => return Err(Fault::new(Error::AddressOccupied, 2)),
            None => return Err(Fault::with_detail(Error::NoPageTable, 2, u16::from(above - 1))),
        }
    }
    Ok((table, index(gpa, level)))
}

/// The entry for `gpa` at `level`, if the tree of a live address space has one.
pub(super) fn entry(state: &State, space: VmId, gpa: u64, level: u8) -> Option<Entry> {
    let is_alive = state.vms.contains_key(&space) || state.domains.contains_key(&space);
    let (table, index) = is_alive.then(|| walk(state, space, gpa, level).ok())??;
    state.tables[&table].get(&index).copied()
}

/// The entry for `gpa` at `level`, which must be free.
///
/// # Errors
/// `NoPageTable` or `AddressOccupied`, which name argument 2.
pub(super) fn free_entry(state: &State, vm: VmId, gpa: u64, level: u8) -> Result<(TableId, u16), Fault> {
    let (table, index) = walk(state, vm, gpa, level)?;
    if state.tables[&table].contains_key(&index) {
        return Err(Fault::new(Error::AddressOccupied, 2));
    }
    Ok((table, index))
}

/// Clears the entry for `gpa` at `level` if it is `entry`, whatever its rights.
fn clear(state: &mut State, vm: VmId, gpa: u64, level: u8, leads_here: impl Fn(&Entry) -> bool) {
    if let Ok((table, index)) = walk(state, vm, gpa, level)
        && let Some(entries) = state.tables.get_mut(&table)
        && entries.get(&index).is_some_and(leads_here)
    {
        entries.remove(&index);
    }
}

/// Takes the mapping of the Frame capability in `slot` back, if it has one.
pub(super) fn unmap_frame(state: &mut State, slot: SlotId) {
    let Some(Cap::Frame { extent, mapping, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) else { return };
    let frame = *extent;
    if let Some(Mapping { vm, gpa, .. }) = mapping.take() {
        clear(
            state,
            vm,
            gpa,
            leaf_level(frame.bits),
            |entry| matches!(entry, Entry::Leaf { extent, .. } if *extent == frame),
        );
    }
}

/// Takes the PageTable in `slot` out of its tree, if it is in one, and empties it.
pub(super) fn unmap_table(state: &mut State, slot: SlotId) {
    let Some(Cap::PageTable { id, place }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) else { return };
    let table = *id;
    if let Some(place) = place.take() {
        clear(state, place.vm, place.gpa, place.level + 1, |entry| *entry == Entry::Table(table));
        state.tables.insert(table, Default::default());
    }
}

/// Forgets an address space: its root, and every record that names it.
pub(super) fn forget(state: &mut State, vm: VmId) {
    state.tables.remove(&vm.root());
    for slot in state.slots.values_mut() {
        match &mut slot.cap {
            Cap::Frame { mapping, .. } if mapping.is_some_and(|mapping| mapping.vm == vm) => *mapping = None,
            Cap::PageTable { id, place } if place.is_some_and(|place| place.vm == vm) => {
                *place = None;
                state.tables.insert(*id, Default::default());
            }
            _ => {}
        }
    }
}

/// What hardware sees: every frame that the tree of an address space leads to, by its address there.
pub fn mappings(state: &State, vm: VmId) -> BTreeSet<(u64, Entry)> {
    let mut found = BTreeSet::new();
    let mut open: Vec<(TableId, u8, u64)> = alloc::vec![(vm.root(), root_level(state, vm), 0)];
    while let Some((table, level, start)) = open.pop() {
        for (index, entry) in &state.tables[&table] {
            let gpa = start + (u64::from(*index) << (PAGE_BITS + 9 * (level - 1)));
            found.insert((gpa, *entry));
            if let Entry::Table(next) = entry {
                open.push((*next, level - 1, gpa));
            }
        }
    }
    found
}

/// True if the extent lies in the region.
pub(super) fn is_inside(extent: Extent, region: Extent) -> bool {
    region.holds(extent.base) && extent.bits <= region.bits
}
