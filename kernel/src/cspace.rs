//! The CSpace: from numbers in registers to slots, in constant time.
//!
//! Two levels and no guards: slot `node` of the root CNode may hold a second CNode. What is being destroyed
//! is found by no lookup. Everything that a guest says is an allegation here: what comes out of this module names full slots
//! (or, where asked for, empty ones) of live CNodes.

use crate::cap::Cap;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{SlotId, VcpuId};
use cap_spec::abi::{CptrParts, Error, Fault, ObjectType, Rights};

/// The root of a CSpace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    /// Slot 0 of the root CNode.
    pub(crate) base: SlotId,
    /// Its slots.
    pub(crate) slots: u32,
}

/// A full slot, and how it was reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The slot.
    pub(crate) slot: SlotId,
    /// The slot of the second-level CNode capability that led to it; none if it lies in the root CNode.
    pub(crate) through: SlotId,
}

impl<M: Machine> Kernel<M> {
    /// The CSpace of the VM that a Vcpu runs in.
    #[inline]
    pub(crate) fn cspace_of(&self, vcpu: VcpuId) -> Option<Root> {
        let vm = self.machine.vcpu(vcpu).vm;
        if !vm.is_some() {
            return None;
        }
        // A VM without a root CNode has 0 slots: no pointer finds anything.
        let vm = self.machine.vm(vm);
        Some(Root { base: vm.cspace, slots: vm.cspace_slots })
    }

    /// The slot that a capability pointer names, if it holds a capability.
    #[inline]
    pub(crate) fn look_up(&self, root: Root, cptr: u64) -> Option<Found> {
        let CptrParts { node, index } = CptrParts::from_raw(cptr)?;
        let (mut base, mut slots, mut through) = (root.base, root.slots, SlotId::NONE);
        if node != 0 {
            if node as u32 >= slots {
                return None;
            }
            through = base.plus(node as u32);
            let second = self.slot(through);
            let Cap::CNode { bits, base: second_base, .. } = second.cap else { return None };
            if !second.rights.contains(Rights::READ) {
                return None;
            }
            base = second_base;
            slots = slots_of(bits);
        }
        if index == 0 || index as u32 >= slots {
            return None;
        }
        let slot = base.plus(index as u32);
        match self.slot(slot).cap {
            Cap::Null | Cap::Zombie(_) | Cap::Doomed { .. } => None,
            _ => Some(Found { slot, through }),
        }
    }

    /// How many slots of its CNode lie behind the slot that a capability pointer names.
    pub(crate) fn slots_behind(&self, root: Root, cptr: u64) -> u32 {
        let Some(CptrParts { node, index }) = CptrParts::from_raw(cptr) else { return 0 };
        let slots = match self.slot(root.base.plus(node as u32)).cap {
            _ if node == 0 => root.slots,
            Cap::CNode { bits, .. } => slots_of(bits),
            _ => 0,
        };
        slots.saturating_sub(index as u32).saturating_sub(1)
    }

    /// The capability that argument `number` names, of any type.
    #[inline]
    pub(crate) fn any(&self, root: Root, cptr: u64, number: u8) -> Result<Found, Fault> {
        self.look_up(root, cptr).ok_or(Fault::new(Error::InvalidCapability, number))
    }

    /// The capability of this type with these rights that argument `number` names.
    #[inline]
    pub(crate) fn capability(
        &self,
        root: Root,
        cptr: u64,
        number: u8,
        object: ObjectType,
        rights: Rights,
    ) -> Result<&Slot, Fault> {
        let Found { slot, .. } = self.any(root, cptr, number)?;
        let slot = self.slot(slot);
        if slot.cap.object_type() as u8 != object as u8 {
            return Err(Fault::new(Error::WrongType, number));
        }
        if !slot.rights.contains(rights) {
            return Err(Fault::new(Error::MissingRight, number));
        }
        Ok(slot)
    }

    /// The slot of a CNode (first slot and number of slots) that argument `number` gives the index of.
    #[inline]
    fn slot_at(base: SlotId, slots: u32, index: u64, number: u8) -> Result<SlotId, Fault> {
        if index == 0 || index >= slots as u64 {
            return Err(Fault::new(Error::OutOfRange, number));
        }
        Ok(base.plus(index as u32))
    }

    /// An empty slot of a CNode, the index of which is argument `number`.
    #[inline]
    pub(crate) fn empty_slot(&self, base: SlotId, slots: u32, index: u64, number: u8) -> Result<SlotId, Fault> {
        let slot = Self::slot_at(base, slots, index, number)?;
        if self.slot(slot).is_empty() { Ok(slot) } else { Err(Fault::new(Error::SlotOccupied, number)) }
    }

    /// A full slot of a CNode, the index of which is argument `number`. One that is being destroyed is full.
    #[inline]
    pub(crate) fn full_slot(&self, base: SlotId, slots: u32, index: u64, number: u8) -> Result<SlotId, Fault> {
        let slot = Self::slot_at(base, slots, index, number)?;
        if self.slot(slot).is_empty() { Err(Fault::new(Error::SlotEmpty, number)) } else { Ok(slot) }
    }

    /// Arguments `number` and `number + 1`: a CNode with WRITE (slot 0 and number of slots).
    #[inline]
    pub(crate) fn destination_node(&self, root: Root, cptr: u64, number: u8) -> Result<(SlotId, u32), Fault> {
        let slot = self.capability(root, cptr, number, ObjectType::CNode, Rights::WRITE)?;
        match slot.cap {
            Cap::CNode { bits, base, .. } => Ok((base, slots_of(bits))),
            _ => Err(Fault::new(Error::WrongType, number)),
        }
    }

    /// Arguments `number` and `number + 1`: a CNode with WRITE, and an empty slot of it.
    #[inline]
    pub(crate) fn destination(&self, root: Root, cptr: u64, index: u64, number: u8) -> Result<SlotId, Fault> {
        let (base, slots) = self.destination_node(root, cptr, number)?;
        self.empty_slot(base, slots, index, number.wrapping_add(1))
    }
}

/// How many slots a CNode of this size has (at most 2^16).
#[inline]
pub(crate) const fn slots_of(bits: u8) -> u32 {
    1u32.wrapping_shl(bits as u32)
}
