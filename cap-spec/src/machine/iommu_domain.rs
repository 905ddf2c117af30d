//! IommuDomain: what the DMA of functions can reach.
//!
//! * A domain has 2^39 bytes of I/O addresses; its root is a table of level 3. A capability speaks for a window of them,
//!   aligned to its size: the original for all, and Mint chooses a part.
//! * **Frame.MapIo**: the frame must lie within the window (`OutOfRange`, 2) and be aligned to its size (`Misaligned`, 2).
//!   The wanted rights are READ, WRITE or both (`OutOfRange`, 3) and all of them the capability's (`MissingRight`, 3).
//!   `more` is as in chapter `frame`.
//! * State: `DeviceMemory` for registers of devices; `Forbidden` for a page that the kernel writes, and (2) where a frame
//!   would cover addresses [at which interrupts are written](INTERRUPT_ADDRESSES), which no table translates; `InUse`;
//!   `NoPageTable` with the missing level and `AddressOccupied`, which name the address (2); then those of the further
//!   frames, in the same order.
//! * **PageTable.MapIo** puts a table into the tree as the one of level 1 or 2 that covers the address. All that it covers
//!   must lie within the window (`OutOfRange`, 2, after the level was checked).
//! * What its functions were stopped from is chapter `faults`.
//! * `Frame.Unmap` and `PageTable.Unmap` take either back; when they return no device reaches anything by it.
//! * The IOMMU of this machine does not fail; that of the fine machine may (module `fine::quarantine`). If one does not say
//!   in time that it has done what it was told, no function is a bus master any more, all are quarantined, and what was in
//!   its reach then goes into quarantine as soon as it leaves the domain: frames and tables that are mapped in one, and
//!   with their last function the domains themselves. No Untyped's watermark is lowered below memory in quarantine: Revoke
//!   returns how many bytes of the Untyped that is. A Frame or PageTable in quarantine is not mapped again: `InUse`, as if
//!   it were mapped. Nothing more is mapped in a domain: `InvalidCapability` (1). The kernel tells a number of ranges
//!   apart; what lies between two of them may be in quarantine as well.

use core::ops::Range;

use super::Outcome;
use super::address_space::{free_entry, leaf_level, table_start};
use super::dying::check_space;
use super::frame::row;
use super::lookup::Invoked;
use super::state::{Cap, Entry, Mapping, State, TablePlace, VmId, Window};
use crate::abi::{Error, Fault, ObjectType, PAGE_BITS, Rights};

/// Writes to these addresses are messages of interrupts (Intel VT-d, 3.15: Handling Requests to Interrupt Address Range).
pub const INTERRUPT_ADDRESSES: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Argument 1: a domain with WRITE.
fn domain_of(state: &State, call: &Invoked) -> Result<(VmId, Window), Fault> {
    match state.slots[&call.capability(state, 1, ObjectType::IommuDomain, Rights::WRITE)?].cap {
        Cap::IommuDomain { id, window } => check_space(state, id, 1).map(|()| (id, window)),
        _ => unreachable!("argument 1 was checked to be an IommuDomain"),
    }
}

/// True if DMA may reach what a Frame capability names, by its kind; argument `number` named it.
fn check_kind(cap: &Cap, number: u8) -> Result<(), Fault> {
    match cap {
        Cap::Frame { device: true, .. } => Err(Fault::new(Error::DeviceMemory, number)),
        Cap::Frame { kernel_page: true, .. } => Err(Fault::new(Error::Forbidden, number)),
        _ => Ok(()),
    }
}

/// `Frame.MapIo`.
pub(super) fn map_frame(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::Frame { extent, mapping, .. } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let (domain, window) = domain_of(state, &call)?;
    let address = call.arg(2);
    if !window.holds(address, extent.bytes()) {
        return Err(Fault::new(Error::OutOfRange, 2));
    }
    if !address.is_multiple_of(extent.bytes()) {
        return Err(Fault::new(Error::Misaligned, 2));
    }
    let rights = call.rights(3, Rights::READ | Rights::WRITE)?;
    if rights.is_empty() {
        return Err(Fault::new(Error::OutOfRange, 3));
    }
    if !state.slots[&call.slot].rights.contains(rights) {
        return Err(Fault::new(Error::MissingRight, 3));
    }
    let row = row(state, &call, 4)?;
    let level = leaf_level(extent.bits);
    let bytes = row.len() as u64 * extent.bytes();
    if table_start(address + (bytes - extent.bytes()), level) != table_start(address, level)
        || !window.holds(address, bytes)
    {
        return Err(Fault::new(Error::OutOfRange, 4));
    }

    check_kind(&state.slots[&call.slot].cap, 0)?;
    if address < INTERRUPT_ADDRESSES.end && INTERRUPT_ADDRESSES.start < address + bytes {
        return Err(Fault::new(Error::Forbidden, 2));
    }
    if mapping.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    free_entry(state, domain, address, level)?;
    let addresses = (address..).step_by(extent.bytes() as usize);
    for (slot, address) in row.iter().zip(addresses.clone()).skip(1) {
        let further = state.slots.get(slot).ok_or(Fault::new(Error::WrongType, 4))?;
        if !matches!(further.cap, Cap::Frame { extent: other, .. } if other.bits == extent.bits) {
            return Err(Fault::new(Error::WrongType, 4));
        }
        if !further.rights.contains(rights) {
            return Err(Fault::new(Error::MissingRight, 4));
        }
        check_kind(&further.cap, 4)?;
        if matches!(further.cap, Cap::Frame { mapping: Some(_), .. }) {
            return Err(Fault::new(Error::InUse, 4));
        }
        if free_entry(state, domain, address, level).is_err() {
            return Err(Fault::new(Error::AddressOccupied, 4));
        }
    }

    for (slot, gpa) in row.into_iter().zip(addresses) {
        let (table, index) = free_entry(state, domain, gpa, level)?;
        let Some(Cap::Frame { extent, mapping, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) else {
            unreachable!("each of the row was checked to be a Frame")
        };
        *mapping = Some(Mapping { vm: domain, gpa, rights });
        if let Some(entries) = state.tables.get_mut(&table) {
            entries.insert(index, Entry::Leaf { extent: *extent, rights });
        }
    }
    Ok(Outcome::NOTHING)
}

/// `PageTable.MapIo`.
pub(super) fn map_table(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::PageTable { id, place } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let (domain, window) = domain_of(state, &call)?;
    let address = call.in_range(2, window.first..=window.end() - 1)?;
    let level = call.in_range(3, 1..=2)? as u8;
    let start = table_start(address, level);
    if !window.holds(start, 1 << (PAGE_BITS + 9 * level)) {
        return Err(Fault::new(Error::OutOfRange, 2));
    }

    if place.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    let (parent, index) = free_entry(state, domain, address, level + 1)?;

    if let Some(entries) = state.tables.get_mut(&parent) {
        entries.insert(index, Entry::Table(id));
    }
    if let Some(Cap::PageTable { place, .. }) = state.slots.get_mut(&call.slot).map(|slot| &mut slot.cap) {
        *place = Some(TablePlace { vm: domain, gpa: start, level });
    }
    Ok(Outcome::NOTHING)
}
