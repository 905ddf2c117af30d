//! Launch: the one time a VM is started by somebody else, and what must be true of it then.
//!
//! What is guaranteed: whoever launched a VM keeps nothing that reads it, steers it or takes its memory piecemeal. The
//! rule is the abstract machine's, word for word (`cap_spec::machine`, chapter `launch`); foreign parts of the VM are
//! counted as they come and go (`Vm::foreign`), so that only the descendants of the base have to be visited, at most
//! [`LAUNCH_MAX`] of them.

use crate::cap::Cap;
use crate::cspace::Root;
use crate::decode::{Invocation, Invoked};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::types::{SlotId, VcpuId, VmId};
use crate::untyped::bytes_of;
use cap_spec::abi::{Error, Fault, ObjectType, Rights, SLOT_BITS, VCPU_BITS, VM_BITS};

/// Descendants of a base that a launch visits at most.
pub const LAUNCH_MAX: usize = 1024;

/// The memory of the Untyped that a VM was made from.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: u64,
    bytes: u64,
}

impl<M: Machine> Kernel<M> {
    /// `Vcpu.Launch`. The arguments are named in the VM's own CSpace, so that there is one is checked before them.
    pub(crate) fn decode_launch(&self, call: &Invoked, vcpu: VcpuId) -> Result<Invocation, Fault> {
        let vm = self.check_configured(vcpu)?;
        let header = self.machine.vm(vm);
        if header.launched {
            return Err(Fault::new(Error::WrongPhase, 0));
        }
        let root = Root { base: header.cspace, slots: header.cspace_slots };
        let &[cptr, index, ..] = call.args;
        let base = self.any(root, cptr, 1)?.slot;
        let Cap::Untyped { bits, base: start, .. } =
            self.capability(root, cptr, 1, ObjectType::Untyped, Rights::empty())?.cap
        else {
            return Err(Fault::new(Error::WrongType, 1));
        };
        let to = self.empty_slot(root.base, root.slots, index, 2)?;
        let confined = self.are_descendants_confined(vm, base, call.id)?;
        if !confined
            || header.foreign != 0
            || header.region_bits != bits
            || header.region_base != start
            || !header.region_holds(base.address(), 1 << SLOT_BITS)
            || !header.region_holds(vm.address(), 1 << VM_BITS)
            || !header.region_holds(vcpu.address(), 1 << VCPU_BITS)
            || !header.region_holds(header.cspace.address(), (header.cspace_slots as u64) << SLOT_BITS)
        {
            return Err(Fault::new(Error::NotConfined, 1));
        }
        Ok(Invocation::Launch { from: call.id, vcpu, vm, base, to })
    }

    /// True if every capability derived from the base keeps to the rules, the invoked one excepted.
    ///
    /// # Errors
    /// `TooManyToCheck` if there are more than [`LAUNCH_MAX`].
    fn are_descendants_confined(&self, vm: VmId, base: SlotId, invoked: SlotId) -> Result<bool, Fault> {
        let header = self.machine.vm(vm);
        let region = Region { start: header.region_base.get(), bytes: bytes_of(header.region_bits) };
        let mut confined = true;
        let mut at = base;
        for _ in 0..LAUNCH_MAX {
            let Some(next) = self.next_below(base, at) else { return Ok(confined) };
            at = next;
            confined &= self.is_kept_inside(vm, region, at) || at == invoked;
        }
        if self.next_below(base, at).is_some() { Err(Fault::new(Error::TooManyToCheck, 1)) } else { Ok(confined) }
    }

    /// True if a capability derived from the base of `vm`, which has this region, keeps to the rules.
    #[inline]
    fn is_kept_inside(&self, vm: VmId, region: Region, id: SlotId) -> bool {
        let slot = self.slot(id);
        let inside = id.address().get().wrapping_sub(region.start) < region.bytes;
        match slot.cap {
            Cap::Frame { kernel_page, mapping, .. } => {
                let harmless = kernel_page && slot.rights == Rights::READ;
                harmless || inside && (!mapping.vm.is_some() || mapping.vm == vm)
            }
            Cap::PageTable { mapping, .. } => inside && (!mapping.vm.is_some() || mapping.vm == vm),
            Cap::Vm { id } => inside && id == vm,
            // A VM elsewhere with its CSpace in the base would hold whatever lies in it.
            Cap::CNode { vm: owner, .. } => inside && (!owner.is_some() || owner == vm),
            Cap::Vcpu { id } => {
                let other = self.machine.vcpu(id).vm;
                inside && (!other.is_some() || other == vm)
            }
            // What is being destroyed is finished first.
            Cap::Zombie(_) | Cap::Doomed { .. } => false,
            Cap::Null
            | Cap::Untyped { .. }
            | Cap::CpuTime { .. }
            | Cap::Channel { .. }
            | Cap::Irq { .. }
            | Cap::IoPort { .. }
            | Cap::Machine => inside,
        }
    }

    /// Moves the invoked capability into the VM, and starts it.
    pub(crate) fn launch(&mut self, from: SlotId, vcpu: VcpuId, vm: VmId, base: SlotId, to: SlotId) {
        self.relocate(from, to);
        if let Cap::Untyped { vm: owner, .. } = &mut self.slot_mut(base).cap {
            *owner = vm;
        }
        let header = self.machine.vm_mut(vm);
        header.launched = true;
        header.base = base;
        self.start_vcpu(vcpu);
    }
}
