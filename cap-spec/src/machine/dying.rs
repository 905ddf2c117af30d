//! Dying: what Delete and Revoke have begun to destroy and not finished.
//!
//! [`step`](super::step) destroys at once and leaves nothing here. Where destruction is done in bounded steps, between
//! which the kernel lock may be given up (chapter `fine`), others see what is half done, and this is all that they see of
//! it:
//! * A *zombie* is the original of a CNode or Channel whose slots are being emptied. No lookup finds it. It lies in the
//!   slot of its own object that is kept for it (its *home*), or, if a Delete began with it, in the slot that the Delete
//!   named, which is then full, and can be deleted or revoked again. Zombies that one operation has met are a *circle*:
//!   who finishes one of them finishes all.
//! * A *doomed* Untyped is one of whose memory there is a zombie which is no longer below it. No lookup finds it.
//! * A *dissolving* address space still has its Vm or IommuDomain capability, but nothing joins it any more: it is no
//!   argument (`InvalidCapability`).
//! * A *closing* VM is one that was launched and whose base is being revoked. None of its Vcpus starts again
//!   (`WrongPhase`).

use alloc::collections::{BTreeMap, BTreeSet};

use super::lookup::Invoked;
use super::state::{Cap, Slot, SlotId, State, VmId};
use crate::abi::{Error, Fault, ObjectType, Rights, SLOT_BITS};

/// A CNode or Channel whose slots are being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zombie {
    /// Its circle, by the address of the object with which that began.
    pub circle: u64,
    /// Which of its circle joined later: who joined last is finished first.
    pub turn: u64,
    /// Slots at the object's start that have not been seen empty yet.
    pub left: u64,
}

/// Everything that is half destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dying {
    /// Slots that hold zombies.
    pub zombies: BTreeMap<SlotId, Zombie>,
    /// Slots that hold doomed Untypeds.
    pub doomed: BTreeSet<SlotId>,
    /// Address spaces that are being dissolved.
    pub dissolving: BTreeSet<VmId>,
    /// VMs whose base is being revoked.
    pub closing: BTreeSet<VmId>,
}

impl Dying {
    /// True if no lookup finds what is in the slot.
    pub fn hides(&self, slot: SlotId) -> bool {
        self.zombies.contains_key(&slot) || self.doomed.contains(&slot)
    }

    /// A capability has moved.
    pub(super) fn relocate(&mut self, from: SlotId, to: SlotId) {
        if let Some(zombie) = self.zombies.remove(&from) {
            self.zombies.insert(to, zombie);
        }
        if self.doomed.remove(&from) {
            self.doomed.insert(to);
        }
    }

    /// A slot has become empty that held `gone`.
    pub(super) fn forget(&mut self, slot: SlotId, gone: &Slot) {
        self.zombies.remove(&slot);
        self.doomed.remove(&slot);
        if let (true, Cap::Vm(space) | Cap::IommuDomain { id: space, .. }) = (gone.original, &gone.cap) {
            self.dissolving.remove(space);
            self.closing.remove(space);
        }
    }
}

/// The slot that an object keeps for its zombie: slot 0 of a CNode, the last of a Channel.
pub fn home(cap: &Cap) -> Option<SlotId> {
    match *cap {
        Cap::CNode { id, .. } => Some(id.slot(0)),
        Cap::Channel { id, .. } => Some(SlotId(id.0 + (3 << SLOT_BITS))),
        _ => None,
    }
}

/// Checks that the address space that argument `number` named may be joined.
pub(super) fn check_space(state: &State, space: VmId, number: u8) -> Result<(), Fault> {
    if state.dying.dissolving.contains(&space) {
        return Err(Fault::new(Error::InvalidCapability, number));
    }
    Ok(())
}

impl Invoked {
    /// Argument `number` as a Vm with WRITE that is not being dissolved.
    pub(super) fn vm(&self, state: &State, number: u8) -> Result<VmId, Fault> {
        let slot = self.capability(state, number, ObjectType::Vm, Rights::WRITE)?;
        let Cap::Vm(vm) = state.slots[&slot].cap else { unreachable!("the argument was checked to be a Vm") };
        check_space(state, vm, number)?;
        Ok(vm)
    }
}
