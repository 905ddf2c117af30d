//! What is proved of decoding: for any registers and any slots, a call is found good or refused as the specification says, with
//! the same error about the same argument; and what is found good satisfies what the operation counts on.
//!
//! The world has one CNode, in which all slots lie, and which is the CSpace of the one Vcpu; capabilities to it lie in it.

use cap_spec::abi::{Error, Fault, IO_ADDRESS_BITS, Label, ObjectType, PAGE_BITS, Rights};
use kernel::cap::Cap;
use kernel::slot::{MAX_DEPTH, Slot};
use kernel::types::{SlotId, VcpuId, VmId};
use kernel::{Call, Invocation};

use crate::forest::argument;
use crate::input::{assert, assume, observe};
use crate::world::{Kinds, Small, World};

/// log2 of the slots of the CNode.
const BITS: u8 = 3;
/// Slot 0 of the CNode.
const BASE: SlotId = SlotId::new(1);
/// The Vcpu that calls, and its VM.
const INVOKER: VcpuId = VcpuId::new(1);
const VM: VmId = VmId::new(1);

/// Kinds that the calls here look into.
const KINDS: Kinds = Kinds::of(&[
    ObjectType::Untyped,
    ObjectType::CNode,
    ObjectType::Frame,
    ObjectType::Channel,
    ObjectType::CpuTime,
    ObjectType::Machine,
    ObjectType::IommuDomain,
]);

/// What a call comes to.
pub type Decoded = Result<Invocation, Fault>;

/// Any slots, and any registers but the label.
fn begin<const N: usize>(kernel: &mut Small<N, 1>, label: Label) -> Call {
    kernel.machine.fill(KINDS);
    let mut are_good = kernel.machine.slots[0].is_empty();
    for slot in &kernel.machine.slots {
        if let Cap::CNode { bits, base, .. } = slot.cap {
            are_good &= (bits == BITS) & (base == BASE);
        }
        // A window of a domain is one: it is never made otherwise.
        if let Cap::IommuDomain { bits, first, .. } = slot.cap {
            are_good &= is_window_of(0, IO_ADDRESS_BITS, first | u64::from(bits)) & (first & 0xfff == 0);
        }
    }
    assume(are_good);
    kernel.machine.vcpus[0].vm = VM;
    kernel.machine.vms[0].cspace = BASE;
    kernel.machine.vms[0].cspace_slots = 1 << BITS;
    let args = [argument(1), argument(2), argument(3), argument(4), argument(5)];
    Call { cap: argument(0), label: label as u64, args }
}

/// The slot with this index, if there is one.
fn at<const N: usize>(world: &World<N, 1>, index: u64) -> Option<&Slot> {
    if index == 0 || index >= 1 << BITS { None } else { world.slots.get(index as usize) }
}

/// `lookup::in_cspace` of the specification: the index of a full slot, and of the CNode capability that led to it (0: none).
fn look_up<const N: usize>(world: &World<N, 1>, cptr: u64) -> Option<(u64, u64)> {
    let (node, index) = (cptr >> 16, cptr & 0xffff);
    if cptr > u64::from(u32::MAX) {
        return None;
    }
    if node != 0 {
        let second = at(world, node)?;
        if !matches!(second.cap, Cap::CNode { .. }) || !second.rights.contains(Rights::READ) {
            return None;
        }
    }
    if at(world, index)?.is_empty() { None } else { Some((index, node)) }
}

/// The checks that come before every other: capability, label, right.
fn check_invoked<const N: usize>(
    world: &World<N, 1>,
    call: &Call,
    object: ObjectType,
    rights: Rights,
) -> Result<u64, Fault> {
    let (index, _) = look_up(world, call.cap).ok_or(Fault::new(Error::InvalidCapability, 0))?;
    let slot = at(world, index).ok_or(Fault::new(Error::InvalidCapability, 0))?;
    if slot.cap.object_type() as u8 != object as u8 {
        return Err(Fault::new(Error::InvalidLabel, 0));
    }
    if slot.rights.contains(rights) { Ok(index) } else { Err(Fault::new(Error::MissingRight, 0)) }
}

/// An empty slot of the CNode.
fn empty_slot<const N: usize>(world: &World<N, 1>, index: u64, number: u8) -> Result<SlotId, Fault> {
    match at(world, index) {
        None => Err(Fault::new(Error::OutOfRange, number)),
        Some(slot) if slot.is_empty() => Ok(BASE.plus(index as u32)),
        Some(_) => Err(Fault::new(Error::SlotOccupied, number)),
    }
}

/// A full slot of the CNode.
fn full_slot<const N: usize>(world: &World<N, 1>, index: u64, number: u8) -> Result<SlotId, Fault> {
    match at(world, index) {
        None => Err(Fault::new(Error::OutOfRange, number)),
        Some(slot) if slot.is_empty() => Err(Fault::new(Error::SlotEmpty, number)),
        Some(_) => Ok(BASE.plus(index as u32)),
    }
}

/// The specification's Copy and Mint.
fn derived<const N: usize>(world: &World<N, 1>, call: &Call, is_mint: bool) -> Decoded {
    check_invoked(world, call, ObjectType::CNode, Rights::WRITE)?;
    let to = empty_slot(world, call.args[0], 1)?;
    let (index, _) = look_up(world, call.args[1]).ok_or(Fault::new(Error::InvalidCapability, 2))?;
    let source = at(world, index).ok_or(Fault::new(Error::InvalidCapability, 2))?;
    if call.args[2] & !u64::from(Rights::all().bits()) != 0 {
        return Err(Fault::new(Error::OutOfRange, 3));
    }
    let mask = Rights::from_bits_truncate(call.args[2] as u8);
    let mut badge = 0;
    if is_mint {
        let chooses = matches!(source.cap, Cap::Channel { .. }) & source.rights.contains(Rights::CONTROL);
        badge = call.args[3];
        let is_good = match source.cap {
            Cap::IommuDomain { bits, first, .. } => is_window_of(first, bits, badge),
            _ if chooses => badge == 1 || badge == 2,
            _ => badge == 0,
        };
        if !is_good {
            return Err(Fault::new(Error::OutOfRange, 4));
        }
    }
    if source.cap.object_type().is_unique() {
        return Err(Fault::new(Error::NotCopyable, 2));
    }
    if source.depth >= MAX_DEPTH - 1 {
        return Err(Fault::new(Error::TooDeep, 2));
    }
    Ok(Invocation::Derive { from: BASE.plus(index as u32), to, mask, badge })
}

/// `cnode::part_of` of the specification: the badge is a window, aligned to its size, within this one.
fn is_window_of(first: u64, bits: u8, badge: u64) -> bool {
    let (start, part) = (badge & !0xfff, badge & 0xfff);
    if part < PAGE_BITS.into() || part > IO_ADDRESS_BITS.into() {
        return false;
    }
    let size = 1u64 << part;
    let end = first.wrapping_add(1u64 << (bits & 63));
    start & size.wrapping_sub(1) == 0 && start >= first && start <= end && size <= end.wrapping_sub(start)
}

/// The specification's Move.
fn moved<const N: usize>(world: &World<N, 1>, call: &Call) -> Decoded {
    check_invoked(world, call, ObjectType::CNode, Rights::WRITE)?;
    let to = empty_slot(world, call.args[0], 1)?;
    let (index, node) = look_up(world, call.args[1]).ok_or(Fault::new(Error::InvalidCapability, 2))?;
    if node != 0 && at(world, node).is_some_and(|second| !second.rights.contains(Rights::WRITE)) {
        return Err(Fault::new(Error::MissingRight, 2));
    }
    if at(world, index).is_some_and(|source| source.boot) {
        return Err(Fault::new(Error::InUse, 2));
    }
    Ok(Invocation::Move { from: BASE.plus(index as u32), to, mask: Rights::all() })
}

/// The specification's Delete.
fn deleted<const N: usize>(world: &World<N, 1>, call: &Call) -> Decoded {
    check_invoked(world, call, ObjectType::CNode, Rights::WRITE)?;
    let slot = full_slot(world, call.args[0], 1)?;
    if at(world, call.args[0]).is_some_and(|slot| slot.boot) {
        return Err(Fault::new(Error::InUse, 1));
    }
    Ok(Invocation::Delete(slot))
}

/// The specification's Revoke.
fn revoked<const N: usize>(world: &World<N, 1>, call: &Call) -> Decoded {
    check_invoked(world, call, ObjectType::CNode, Rights::WRITE)?;
    Ok(Invocation::Revoke(full_slot(world, call.args[0], 1)?))
}

/// What the specification says of a call: the labels of CNode that are looked at here.
pub fn specified<const N: usize>(world: &World<N, 1>, call: &Call, label: Label) -> Decoded {
    match label {
        Label::CNodeCopy => derived(world, call, false),
        Label::CNodeMint => derived(world, call, true),
        Label::CNodeMove => moved(world, call),
        Label::CNodeDelete => deleted(world, call),
        _ => revoked(world, call),
    }
}

/// Asserts that the library decodes a call as the specification does.
fn compare<const N: usize>(kernel: &Small<N, 1>, call: &Call, label: Label) {
    let wanted = specified(&kernel.machine, call, label);
    let found = kernel.decode(INVOKER, call);
    match (found, wanted) {
        (Err(found), Err(wanted)) => assert(1, found == wanted),
        (
            Ok(Invocation::Derive { from, to, mask, badge }),
            Ok(Invocation::Derive { from: f, to: t, mask: m, badge: b }),
        ) => {
            assert(2, (from == f) & (to == t) & (mask == m) & (badge == b));
        }
        (Ok(Invocation::Move { from, to, mask }), Ok(Invocation::Move { from: f, to: t, mask: m })) => {
            assert(3, (from == f) & (to == t) & (mask == m));
        }
        (Ok(Invocation::Delete(slot)), Ok(Invocation::Delete(wanted))) => assert(4, slot == wanted),
        (Ok(Invocation::Revoke(slot)), Ok(Invocation::Revoke(wanted))) => assert(5, slot == wanted),
        _ => assert(6, false),
    }
    observe(0, found.is_ok().into());
}

/// Decoding of `CNode.Copy`.
pub fn copy<const N: usize>(kernel: &mut Small<N, 1>) {
    let call = begin(kernel, Label::CNodeCopy);
    compare(kernel, &call, Label::CNodeCopy);
}

/// Decoding of `CNode.Mint`.
pub fn mint<const N: usize>(kernel: &mut Small<N, 1>) {
    let call = begin(kernel, Label::CNodeMint);
    compare(kernel, &call, Label::CNodeMint);
}

/// Decoding of `CNode.Move`.
pub fn move_<const N: usize>(kernel: &mut Small<N, 1>) {
    let call = begin(kernel, Label::CNodeMove);
    compare(kernel, &call, Label::CNodeMove);
}

/// Decoding of `CNode.Delete`.
pub fn delete<const N: usize>(kernel: &mut Small<N, 1>) {
    let call = begin(kernel, Label::CNodeDelete);
    compare(kernel, &call, Label::CNodeDelete);
}

/// Decoding of `CNode.Revoke`.
pub fn revoke<const N: usize>(kernel: &mut Small<N, 1>) {
    let call = begin(kernel, Label::CNodeRevoke);
    compare(kernel, &call, Label::CNodeRevoke);
}
