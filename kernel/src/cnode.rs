//! CNode: tables of slots, and what is done to slots, except Delete and Revoke (see `destroy`).
//!
//! Invariant: slot 0 of a live CNode is empty. No lookup reaches it; it is where the CNode's own capability waits while
//! the CNode is being destroyed.

use crate::cap::{Cap, Mapping};
use crate::cspace::slots_of;
use crate::decode::{Invocation, Invoked};
use crate::kernel::Kernel;
use crate::launch::Mark;
use crate::machine::Machine;
use crate::slot::{MAX_DEPTH, Slot};
use crate::types::{SlotId, VmId};
use crate::untyped::{bytes_of, identity};
use cap_spec::abi::{Error, Fault, Label, PAGE_BITS, Rights};

/// The bits of an address within a page.
const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;

/// Argument 4 as a window within another, which begins at `first` and has 2^`bits` bytes: log2 of its bytes, added to its
/// first address, which is aligned to that.
#[cold]
#[inline(never)]
fn decode_window(call: &Invoked, first: u64, bits: u8) -> Result<u64, Fault> {
    let badge = call.number(4, 0, u64::MAX)?;
    let (part, part_bits) = (badge & !PAGE_MASK, badge & PAGE_MASK);
    let fits = part_bits >= PAGE_BITS as u64 && part_bits <= bits as u64;
    let size = 1u64.wrapping_shl(part_bits as u32);
    // Windows are aligned to their size: what begins in a larger one ends in it.
    if fits && part & size.wrapping_sub(1) == 0 && part.wrapping_sub(first) < bytes_of(bits) {
        Ok(badge)
    } else {
        Err(Fault::new(Error::OutOfRange, 4))
    }
}

/// Makes a capability to a domain speak for a window, as [`decode_window`] gave it.
#[cold]
#[inline(never)]
fn choose_window(cap: &mut Cap, badge: u64) {
    if let Cap::IommuDomain { bits, first, .. } = cap {
        *bits = badge as u8;
        *first = badge & !PAGE_MASK;
    }
}

/// The end or the window that a Mint chooses, 0 for neither.
#[inline(always)]
fn decode_badge(call: &Invoked, source: &Slot) -> Result<u64, Fault> {
    match source.cap {
        Cap::Channel { .. } if source.rights.contains(Rights::CONTROL) => call.number(4, 1, 2),
        Cap::IommuDomain { bits, first, .. } => decode_window(call, first, bits),
        _ => call.number(4, 0, 0),
    }
}

/// Checks that a child with the same object may be derived from a slot, which argument `number` names.
#[inline]
pub(crate) fn check_copyable(source: &Slot, number: u8) -> Result<(), Fault> {
    if source.cap.object_type().is_unique() {
        return Err(Fault::new(Error::NotCopyable, number));
    }
    if source.depth >= MAX_DEPTH - 1 {
        return Err(Fault::new(Error::TooDeep, number));
    }
    Ok(())
}

impl<M: Machine> Kernel<M> {
    /// Every label of CNode.
    #[inline]
    pub(crate) fn decode_cnode(
        &self,
        label: Label,
        call: &Invoked,
        base: SlotId,
        bits: u8,
    ) -> Result<Invocation, Fault> {
        let slots = slots_of(bits);
        let &[index, source, ..] = call.args;
        match label {
            Label::CNodeCopy | Label::CNodeMint => {
                let to = self.empty_slot(base, slots, index, 1)?;
                let from = self.any(call.root, source, 2)?.slot;
                let mask = call.rights(3, Rights::all())?;
                let source = self.slot(from);
                let badge = if matches!(label, Label::CNodeMint) { decode_badge(call, source)? } else { 0 };
                check_copyable(source, 2)?;
                Ok(Invocation::Derive { from, to, mask, badge })
            }
            Label::CNodeMove => {
                let to = self.empty_slot(base, slots, index, 1)?;
                let from = self.decode_taken(call, source, 2)?;
                if self.slot(from).boot || self.has_register_frames(from) {
                    return Err(Fault::new(Error::InUse, 2));
                }
                Ok(Invocation::Move { from, to, mask: Rights::all() })
            }
            Label::CNodeDelete => {
                let slot = self.full_slot(base, slots, index, 1)?;
                if self.slot(slot).boot {
                    return Err(Fault::new(Error::InUse, 1));
                }
                Ok(Invocation::Delete(slot))
            }
            Label::CNodeRevoke => Ok(Invocation::Revoke(self.full_slot(base, slots, index, 1)?)),
            _ => {
                let slot = self.full_slot(base, slots, index, 1)?;
                Ok(Invocation::Answer(self.identify(slot)))
            }
        }
    }

    /// The capability that argument `number` names, in a slot that it may be taken out of.
    pub(crate) fn decode_taken(&self, call: &Invoked, cptr: u64, number: u8) -> Result<SlotId, Fault> {
        let found = self.any(call.root, cptr, number)?;
        if found.through.is_some() && !self.slot(found.through).rights.contains(Rights::WRITE) {
            return Err(Fault::new(Error::MissingRight, number));
        }
        Ok(found.slot)
    }

    /// What a slot holds, without any address of the machine.
    fn identify(&self, id: SlotId) -> [u64; 2] {
        let slot = self.slot(id);
        let (size_bits, mut bound, detail) = identity(&slot.cap);
        if let Cap::Irq { first, count: 1 } = slot.cap {
            bound = self.route(first).is_some() && !slot.has_children();
        }
        if let Cap::PciFunction { function, .. } = slot.cap {
            bound = self.function(function).domain.is_some();
        }
        let first = slot.cap.object_type() as u64
            | (size_bits as u64) << 8
            | (slot.rights.bits() as u64) << 16
            | (slot.has_children() as u64) << 24
            | (bound as u64) << 25;
        [first, detail]
    }

    /// Puts a copy of `from` with at most the rights of `mask` into the empty slot `to`.
    #[inline]
    pub(crate) fn derive(&mut self, from: SlotId, to: SlotId, mask: Rights, badge: u64) {
        let source = *self.slot(from);
        let copy = self.slot_mut(to);
        *copy = source;
        copy.rights = copy.rights.intersection(mask);
        copy.original = false;
        copy.mark = Mark::NONE;
        match &mut copy.cap {
            Cap::Frame { mapping, .. } => *mapping = Mapping::NONE,
            Cap::CNode { vm, .. } => *vm = VmId::NONE,
            Cap::Channel { end, .. } if badge != 0 => *end = badge as u8,
            Cap::IommuDomain { .. } if badge != 0 => choose_window(&mut copy.cap, badge),
            _ => {}
        }
        self.link_child(from, to);
    }
}
