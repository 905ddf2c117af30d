//! CNode: tables of slots, and everything that is done to slots.
//!
//! * **Copy** makes a child of the source with at most its rights. A Frame's copy is unmapped. Unique types (Untyped,
//!   PageTable, CpuTime, Irq, IoPort, PciFunction) are not copied: `NotCopyable`, which names the source, as does `TooDeep`.
//! * **Mint** is Copy; from a Channel capability with CONTROL it chooses the end, 1 or 2; from an IommuDomain a window
//!   within the source's: log2 of its bytes, added to its first address, which is aligned to it. For everything else
//!   `badge` must be 0.
//! * **Move** moves a capability with its place in the derivation. The source must lie in the root CNode or in a CNode
//!   reached with WRITE (`MissingRight`, 2), and not be a boot capability (`InUse`, 2).
//! * **Delete** removes a capability as chapter `derivation` says. Boot capabilities are `InUse`.
//! * **Revoke** removes every descendant. An Untyped that is still there then gets watermark 0. What an IOMMU that has failed
//!   may reach stays below it: see chapter `iommu_domain`.
//! * **Identify** says what a slot holds, and tells no address.

use super::Outcome;
use super::derivation::{Kind, check_depth, derive, relocate, remove, remove_descendants};
use super::lookup::{Invoked, empty_slot, full_slot};
use super::pci_function::has_register_frames;
use super::state::{Cap, Slot, SlotId, State, Window};
use crate::abi::{Error, Fault, IO_ADDRESS_BITS, ObjectType, PAGE_BITS, Rights};

/// What a copy of a capability of a type that can be copied holds.
fn copied(cap: &Cap) -> Cap {
    match cap {
        Cap::Frame { extent, device, kernel_page, .. } => {
            Cap::Frame { extent: *extent, device: *device, kernel_page: *kernel_page, mapping: None }
        }
        other => other.clone(),
    }
}

/// Checks that a child with the same object may be derived from `source`, which argument `number` names.
pub(super) fn check_copyable(state: &State, source: SlotId, number: u8) -> Result<(), Fault> {
    if state.slots[&source].cap.object_type().is_unique() {
        return Err(Fault::new(Error::NotCopyable, number));
    }
    check_depth(state, source, number)
}

/// Puts a copy of `source` with at most these rights into `destination`.
pub(super) fn put_copy(state: &mut State, source: SlotId, destination: SlotId, mask: Rights) {
    let Slot { cap, rights, .. } = &state.slots[&source];
    let (cap, rights) = (copied(cap), *rights & mask);
    derive(state, source, destination, cap, rights, Kind::Copy);
}

/// `CNode.Copy`.
pub(super) fn copy(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let destination = empty_slot(state, call.slot, call.arg(1), 1)?;
    let source = call.any(state, 2)?;
    let mask = call.rights(3, Rights::all())?;
    check_copyable(state, source, 2)?;
    put_copy(state, source, destination, mask);
    Ok(Outcome::NOTHING)
}

/// `CNode.Mint`.
pub(super) fn mint(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let destination = empty_slot(state, call.slot, call.arg(1), 1)?;
    let source = call.any(state, 2)?;
    let mask = call.rights(3, Rights::all())?;
    let Slot { cap, rights, .. } = &state.slots[&source];
    let chooses_end = matches!(cap, Cap::Channel { .. }) && rights.contains(Rights::CONTROL);
    let chosen = match *cap {
        Cap::IommuDomain { window, .. } => Some(part_of(window, &call)?),
        _ => None,
    };
    let badge = if chosen.is_some() { 0 } else { call.in_range(4, if chooses_end { 1..=2 } else { 0..=0 })? };
    check_copyable(state, source, 2)?;
    put_copy(state, source, destination, mask);
    if chooses_end && let Some(Cap::Channel { end, .. }) = state.slots.get_mut(&destination).map(|slot| &mut slot.cap) {
        *end = badge as u8;
    }
    if let (Some(chosen), Some(Cap::IommuDomain { window, .. })) =
        (chosen, state.slots.get_mut(&destination).map(|slot| &mut slot.cap))
    {
        *window = chosen;
    }
    Ok(Outcome::NOTHING)
}

/// The window that a Mint chooses.
fn part_of(window: Window, call: &Invoked) -> Result<Window, Fault> {
    let badge = call.arg(4);
    let part = Window { first: badge & !0xfff, bits: (badge & 0xfff).min(63) as u8 };
    let is_window = (PAGE_BITS..=IO_ADDRESS_BITS).contains(&part.bits) && part.first.is_multiple_of(1 << part.bits);
    if is_window && window.holds(part.first, 1 << part.bits) { Ok(part) } else { Err(Fault::new(Error::OutOfRange, 4)) }
}

/// `CNode.Move`.
pub(super) fn move_(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let destination = empty_slot(state, call.slot, call.arg(1), 1)?;
    let source = call.any(state, 2)?;
    if !call.may_take(state, 2) {
        return Err(Fault::new(Error::MissingRight, 2));
    }
    if state.slots[&source].parent.is_none() || has_register_frames(state, source) {
        return Err(Fault::new(Error::InUse, 2));
    }
    relocate(state, source, destination);
    Ok(Outcome::NOTHING)
}

/// The slot that a Delete is about.
pub(super) fn to_delete(state: &State, call: Invoked) -> Result<SlotId, Fault> {
    let slot = full_slot(state, call.slot, call.arg(1), 1)?;
    if state.slots[&slot].parent.is_none() {
        return Err(Fault::new(Error::InUse, 1));
    }
    Ok(slot)
}

/// The slot that a Revoke is about.
pub(super) fn to_revoke(state: &State, call: Invoked) -> Result<SlotId, Fault> {
    full_slot(state, call.slot, call.arg(1), 1)
}

/// `CNode.Delete`.
pub(super) fn delete(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let slot = to_delete(state, call)?;
    remove(state, slot);
    Ok(Outcome::NOTHING)
}

/// `CNode.Revoke`.
pub(super) fn revoke(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let slot = to_revoke(state, call)?;
    remove_descendants(state, slot);
    if let Some(Cap::Untyped { watermark, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) {
        *watermark = 0;
    }
    Ok(Outcome::NOTHING)
}

/// `CNode.Identify`.
pub(super) fn identify(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let slot = full_slot(state, call.slot, call.arg(1), 1)?;
    Ok(Outcome::Done(identity(state, slot)))
}

/// What Identify tells of the capability in a slot.
pub(super) fn identity(state: &State, slot: SlotId) -> [u64; 2] {
    let Slot { cap, rights, .. } = &state.slots[&slot];
    let mut size_bits = 0;
    let mut bound = false;
    let mut detail = 0;
    match cap {
        _ if state.dying.hides(slot) => {}
        Cap::Untyped { extent, watermark, .. } => {
            size_bits = extent.bits;
            detail = extent.bytes() - watermark;
        }
        Cap::CNode { slot_bits, .. } => {
            size_bits = *slot_bits;
            detail = 1 << slot_bits;
        }
        Cap::Frame { extent, mapping, .. } => {
            size_bits = extent.bits;
            bound = mapping.is_some();
        }
        Cap::PageTable { place, .. } => bound = place.is_some(),
        Cap::CpuTime { reservation, vcpu, .. } => {
            bound = vcpu.is_some();
            detail = reservation.budget;
        }
        Cap::Irq { first, count, route, .. } => {
            bound = route.is_some();
            detail = u64::from(*first) | u64::from(*count) << 32;
        }
        Cap::IoPort { first, count } => detail = u64::from(*first) | u64::from(*count) << 32,
        Cap::IommuDomain { window, .. } => size_bits = window.bits,
        Cap::PciFunction { function, .. } => bound = state.functions[function].domain.is_some(),
        Cap::Vm(_) | Cap::Vcpu(_) | Cap::Channel { .. } | Cap::Machine => {}
    }
    let object_type = if state.dying.hides(slot) { ObjectType::Null } else { cap.object_type() };
    let first = object_type as u64
        | u64::from(size_bits) << 8
        | u64::from(rights.bits()) << 16
        | u64::from(state.has_children(slot)) << 24
        | u64::from(bound) << 25;
    [first, detail]
}
