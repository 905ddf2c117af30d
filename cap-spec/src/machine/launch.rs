//! Launch: the one time a VM is started by somebody else, and what must be true of it then.
//!
//! The launcher makes a tenant's Vm, Vcpus, CNode, page tables and frames from one Untyped, the tenant's *base*, fills
//! them, and moves the capabilities, the base's own included, into the tenant's CSpace. **Launch** checks that this is
//! so: whoever launched a VM keeps nothing that reads it, steers it or takes its memory piecemeal. One Revoke of what
//! the base was split from still takes all of it back.
//!
//! The base is named in the *VM's* CSpace, `index` is a slot of the VM's root CNode. So the Vcpu must be configured
//! (attached to a VM with a CSpace, and bound to CPU time: `NotConfigured`) and the VM not launched (`WrongPhase`)
//! before the arguments mean anything: these two are checked first.
//!
//! The VM is *confined* to its base if
//! * the base's extent is the VM's region; the base's slot, the Vm, its root CNode and this Vcpu lie in it;
//! * every capability derived from the base, the invoked one excepted, lies in a slot in the region, or is a read-only
//!   Frame of the VM's statistics or of a Vcpu's handler page, which is written when that Vcpu has stopped by itself;
//! * there is no other Vm among them, no CNode among them is the root of another VM, every Vcpu is the VM's or nobody's,
//!   every Frame and PageTable is mapped in this VM or nowhere, no function is attached to a domain;
//! * nothing foreign was made part of the VM: no Vcpu and no PageTable from outside the region, and no Frame from
//!   outside it with EXECUTE, nor with WRITE unless it is in the [ring window](RING_WINDOW) (channel rings are their
//!   server's).
//!
//! One that is not confined is `NotConfined`, which names the base (1). Then the invoked capability moves into the slot,
//! the VM is launched and the Vcpu runs.

use core::ops::Range;

use super::Outcome;
use super::address_space::is_inside;
use super::derivation::relocate;
use super::lookup::{Invoked, check_capability, in_cspace, slot_of};
use super::state::{Cap, Extent, Run, Slot, SlotId, State, VcpuId, VmId};
use crate::abi::{Error, Fault, ObjectType, PAGE_BITS, Rights, SLOT_BITS, VCPU_BITS, VM_BITS};

/// Guest-physical addresses at which a VM may have writable memory of others when it is launched.
pub const RING_WINDOW: Range<u64> = 0x11_0000..0x14_0000;

/// A Launch whose arguments are in order.
#[derive(Clone, Copy)]
pub(super) struct Launch {
    /// The invoked capability.
    invoked: SlotId,
    vcpu: VcpuId,
    /// The VM that is to be launched.
    pub vm: VmId,
    /// The slot of its base.
    pub base: SlotId,
    /// The empty slot for the invoked capability.
    index: SlotId,
}

/// `Vcpu.Launch`.
pub(super) fn launch(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let launch = prepare(state, call)?;
    if !launch.is_possible(state) || !state.descendants(launch.base).into_iter().all(|slot| launch.keeps(state, slot)) {
        return Err(launch.refusal());
    }
    launch.start(state);
    Ok(Outcome::NOTHING)
}

/// Checks everything but that the VM is confined.
pub(super) fn prepare(state: &State, call: Invoked) -> Result<Launch, Fault> {
    let Cap::Vcpu(vcpu) = state.slots[&call.slot].cap else { unreachable!("the label was checked against the type") };
    let not_configured = Fault::new(Error::NotConfigured, 0);
    let vm = state.vcpus[&vcpu].vm.ok_or(not_configured)?;
    let root = state.vms[&vm].cspace.ok_or(not_configured)?;
    state.time_of(vcpu).ok_or(not_configured)?;
    if state.vms[&vm].launched {
        return Err(Fault::new(Error::WrongPhase, 0));
    }
    let base = in_cspace(state, root, call.arg(1)).ok_or(Fault::new(Error::InvalidCapability, 1))?;
    check_capability(state, base, 1, ObjectType::Untyped, Rights::empty())?;
    let index = slot_of(state, root, call.arg(2)).ok_or(Fault::new(Error::OutOfRange, 2))?;
    if state.slots.contains_key(&index) {
        return Err(Fault::new(Error::SlotOccupied, 2));
    }
    Ok(Launch { invoked: call.slot, vcpu, vm, base, index })
}

impl Launch {
    /// True if the VM is confined to its base by the rules above, but for what is derived from the base.
    pub(super) fn is_possible(&self, state: &State) -> bool {
        let Launch { vm, vcpu, base, .. } = *self;
        let region = state.vms[&vm].region;
        let Cap::Untyped { extent, .. } = state.slots[&base].cap else { return false };
        let root = state.vms[&vm].cspace.map(|root| Extent { base: root.0, bits: state.cnodes[&root] + SLOT_BITS });
        extent == region
            && region.holds(base.0)
            && is_inside(Extent { base: vm.0, bits: VM_BITS }, region)
            && is_inside(Extent { base: vcpu.0, bits: VCPU_BITS }, region)
            && root.is_some_and(|root| is_inside(root, region))
            && foreign_parts(state, vm) == 0
    }

    /// True if a capability derived from the base breaks no rule.
    pub(super) fn keeps(&self, state: &State, slot: SlotId) -> bool {
        slot == self.invoked || keeps(state, self.vm, slot)
    }

    /// The VM is not confined.
    pub(super) fn refusal(&self) -> Fault {
        Fault::new(Error::NotConfined, 1)
    }

    /// Moves the invoked capability into the VM, and starts it.
    pub(super) fn start(&self, state: &mut State) {
        relocate(state, self.invoked, self.index);
        if let Some(vm) = state.vms.get_mut(&self.vm) {
            vm.launched = true;
        }
        if let Some(vcpu) = state.vcpus.get_mut(&self.vcpu) {
            vcpu.run = Run::Runnable;
        }
    }
}

/// True if a capability derived from the base of a VM breaks no rule of its launch.
pub(super) fn keeps(state: &State, vm: VmId, slot: SlotId) -> bool {
    is_kept_inside(state, vm, state.vms[&vm].region, slot, &state.slots[&slot])
}

/// The same, in its memory.
fn is_kept_inside(state: &State, vm: VmId, region: Extent, id: SlotId, slot: &Slot) -> bool {
    let is_harmless = match slot.cap {
        Cap::Frame { kernel_page: true, extent, .. } => {
            let page = extent.base;
            let is_telling = page == vm.stats_page() || state.vcpus.keys().any(|vcpu| page == vcpu.handler_page());
            is_telling && slot.rights == Rights::READ
        }
        _ => false,
    };
    if state.dying.hides(id) || !region.holds(id.0) && !is_harmless {
        return false;
    }
    match slot.cap {
        Cap::Vm(other) => other == vm,
        Cap::CNode { id, .. } => state.vms.iter().all(|(&other, object)| other == vm || object.cspace != Some(id)),
        Cap::Vcpu(vcpu) => state.vcpus[&vcpu].vm.is_none_or(|other| other == vm),
        Cap::Frame { mapping, .. } => is_harmless || mapping.is_none_or(|mapping| mapping.vm == vm),
        Cap::PageTable { place, .. } => place.is_none_or(|place| place.vm == vm),
        Cap::IommuDomain { id, .. } => state.functions.values().all(|function| function.domain != Some(id)),
        _ => true,
    }
}

/// How many parts of a VM that is not launched belong to others: what makes it unfit for launch.
pub fn foreign_parts(state: &State, vm: VmId) -> usize {
    let region = state.vms[&vm].region;
    let capabilities = state.slots.values().filter(|slot| match slot.cap {
        Cap::Frame { extent, mapping: Some(mapping), .. } => {
            let is_ring = RING_WINDOW.contains(&mapping.gpa);
            let steers = mapping.rights.contains(Rights::EXECUTE) || mapping.rights.contains(Rights::WRITE) && !is_ring;
            mapping.vm == vm && steers && !is_inside(extent, region)
        }
        Cap::PageTable { id, place: Some(place) } => {
            place.vm == vm && !is_inside(Extent { base: id.0, bits: PAGE_BITS }, region)
        }
        _ => false,
    });
    let vcpus = state
        .vcpus
        .iter()
        .filter(|(id, vcpu)| vcpu.vm == Some(vm) && !is_inside(Extent { base: id.0, bits: VCPU_BITS }, region));
    capabilities.count() + vcpus.count()
}
