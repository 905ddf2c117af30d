//! Launch: the one time a VM is started by somebody else, and what must be true of it then.
//!
//! What is guaranteed: whoever launched a VM keeps nothing that reads it, steers it or takes its memory piecemeal. The
//! rule is the abstract machine's, word for word (`cap_spec::machine`, chapter `launch`). Foreign parts of the VM are
//! counted as they come and go (`Vm::foreign`); the descendants of the base are visited, [`STEP`] in one hold of the
//! lock, however many there are.
//!
//! Between two steps anybody may change anything. So the check [marks](Mark) what it has passed, and whoever changes a
//! marked capability, or derives from it, makes that check begin again ([`Kernel::changes`]). Invariant: every capability
//! from the base to the one where a check stands, in the order of the walk, is marked by it and keeps to the rules. So
//! the last step knows of all of them at one instant. A change concerns the checks of the memory that the capability
//! names and no others: whoever changes a base for ever delays its launch, and nobody else's.

use crate::cap::Cap;
use crate::cspace::Root;
use crate::decode::{Invocation, Invoked};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::sched::ReservationId;
use crate::types::{CoreId, Hpa, SlotId, VcpuId, VmId};
use crate::untyped::bytes_of;
use cap_spec::abi::{Error, Fault, ObjectType, Rights, SLOT_BITS, VCPU_BITS, VM_BITS};

/// Capabilities that one step of a check visits.
pub const STEP: usize = 64;

/// Whose check has passed a capability: the Vcpu of a core's reservation, as only who has CPU time invokes. A mark may
/// outlive its check, and then means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Mark(u16);

impl Mark {
    /// Nobody's.
    pub const NONE: Mark = Mark(0);

    /// That of the Vcpu with this reservation.
    const fn of(core: CoreId, reservation: ReservationId) -> Mark {
        Mark(((core.get() as u16) << 8 | reservation.get() as u16).wrapping_add(1))
    }

    /// True if it is somebody's.
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// The reservation that it names.
    const fn reservation(self) -> (CoreId, ReservationId) {
        let number = self.0.wrapping_sub(1);
        (CoreId::new((number >> 8) as u8), ReservationId::new(number as u8))
    }
}

/// How far the check of the launch is that a Vcpu has begun and repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The VM that is to be launched.
    vm: VmId,
    /// The slot of its base.
    base: SlotId,
    /// The slot of the invoked capability.
    invoked: SlotId,
    /// The last capability that was visited; none: nothing was, or the check begins again.
    at: SlotId,
    /// The base's memory.
    region: Region,
}

impl Check {
    /// Not begun.
    pub const NONE: Check = Check {
        vm: VmId::NONE,
        base: SlotId::NONE,
        invoked: SlotId::NONE,
        at: SlotId::NONE,
        region: Region { start: 0, bytes: 0 },
    };
}

/// The memory of the Untyped that a VM was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    bytes: u64,
}

impl Region {
    #[inline]
    const fn holds(self, address: Hpa) -> bool {
        address.get().wrapping_sub(self.start) < self.bytes
    }
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
        if header.foreign != 0
            || header.region_bits != bits
            || header.region_base != start
            || !header.region_holds(base.address(), 1 << SLOT_BITS)
            || !header.region_holds(vm.address(), 1 << VM_BITS)
            || !header.region_holds(vcpu.address(), 1 << VCPU_BITS)
            || !header.region_holds(header.cspace.address(), (header.cspace_slots as u64) << SLOT_BITS)
        {
            return Err(Fault::new(Error::NotConfined, 1));
        }
        let region = self.region_of(vm);
        let mut at = self.checked(call.invoker, vm, base, call.id);
        for _ in 0..STEP {
            let Some(next) = self.next_below(base, at) else {
                return Ok(Invocation::Launch { from: call.id, vcpu, vm, base, to });
            };
            if next != call.id && !self.is_kept_inside(vm, region, next) {
                return Err(Fault::new(Error::NotConfined, 1));
            }
            at = next;
        }
        Ok(Invocation::CheckLaunch { from: call.id, vm, base })
    }

    fn region_of(&self, vm: VmId) -> Region {
        let header = self.machine.vm(vm);
        Region { start: header.region_base.get(), bytes: bytes_of(header.region_bits) }
    }

    /// Where the invoker's check of this launch stands: at the base if it has not begun.
    fn checked(&self, invoker: VcpuId, vm: VmId, base: SlotId, invoked: SlotId) -> SlotId {
        let check = &self.machine.vcpu(invoker).check;
        let goes_on = check.at.is_some() && check.vm == vm && check.base == base && check.invoked == invoked;
        if goes_on { check.at } else { base }
    }

    /// Marks what a step of a check has found to keep to the rules.
    pub(crate) fn check_launch(&mut self, invoker: VcpuId, from: SlotId, vm: VmId, base: SlotId) {
        let &crate::vcpu::Vcpu { core, reservation: Some(reservation), .. } = self.machine.vcpu(invoker) else {
            return;
        };
        let mark = Mark::of(core, reservation);
        let mut at = self.checked(invoker, vm, base, from);
        self.mark(at, mark);
        for _ in 0..STEP {
            let Some(next) = self.next_below(base, at) else { break };
            self.mark(next, mark);
            at = next;
        }
        let region = self.region_of(vm);
        self.machine.vcpu_mut(invoker).check = Check { vm, base, invoked: from, at, region };
    }

    /// Marks a capability, and the Vcpu or domain that it names. Another's check that has passed it would not hear of changes any
    /// more: it begins again.
    fn mark(&mut self, slot: SlotId, mark: Mark) {
        if self.slot(slot).mark != mark {
            self.changes(slot);
            self.slot_mut(slot).mark = mark;
        }
        if let Cap::Vcpu { id } = self.slot(slot).cap
            && self.machine.vcpu(id).mark != mark
        {
            self.joins(id);
            self.machine.vcpu_mut(id).mark = mark;
        }
        if let Cap::IommuDomain { id, .. } = self.slot(slot).cap
            && self.machine.vm(id).mark != mark
        {
            self.gets_function(id);
            self.machine.vm_mut(id).mark = mark;
        }
    }

    /// A capability is about to change, to go, or to get a child: a check that has passed it begins again.
    #[inline(always)]
    pub(crate) fn changes(&mut self, slot: SlotId) {
        if self.slot(slot).mark.is_some() {
            self.begin_again_for(slot);
        }
    }

    #[cold]
    fn begin_again_for(&mut self, slot: SlotId) {
        let slot = self.slot_mut(slot);
        let mark = core::mem::replace(&mut slot.mark, Mark::NONE);
        let memory = slot.cap.memory();
        self.begin_again(mark, memory);
    }

    /// A Vcpu is about to join a VM: a check that has passed a capability to it begins again.
    pub(crate) fn joins(&mut self, vcpu: VcpuId) {
        let mark = core::mem::replace(&mut self.machine.vcpu_mut(vcpu).mark, Mark::NONE);
        if mark.is_some() {
            self.begin_again(mark, vcpu.address());
        }
    }

    /// A function is about to be attached to a domain: a check that has passed a capability to it begins again.
    pub(crate) fn gets_function(&mut self, domain: VmId) {
        let mark = core::mem::replace(&mut self.machine.vm_mut(domain).mark, Mark::NONE);
        if mark.is_some() {
            self.begin_again(mark, domain.address());
        }
    }

    /// Makes the check with this mark begin again if this memory is its base's.
    fn begin_again(&mut self, mark: Mark, memory: Hpa) {
        let (core, reservation) = mark.reservation();
        let Some(user) = self.core(core).schedule.reservation(reservation) else { return };
        let check = &mut self.machine.vcpu_mut(user.vcpu).check;
        if check.region.holds(memory) {
            check.at = SlotId::NONE;
        }
    }

    /// What the check of a Vcpu has passed, from the base on; `Err` for what it should not have.
    #[cfg(any(test, feature = "host"))]
    pub(crate) fn passed(&self, vcpu: VcpuId) -> impl Iterator<Item = Result<SlotId, SlotId>> {
        let &crate::vcpu::Vcpu { check, core, reservation, .. } = self.machine.vcpu(vcpu);
        let mark = reservation.map_or(Mark::NONE, |reservation| Mark::of(core, reservation));
        let mut next = check.at.is_some().then_some(check.base);
        core::iter::from_fn(move || {
            let at = next?;
            // A walk that misses where the check stands ends where the forest does, with an error.
            next = if at == check.at { None } else { Some(self.next_below(check.base, at).unwrap_or(SlotId::NONE)) };
            let is_kept = at.is_some()
                && self.slot(at).mark == mark
                && (at == check.base || at == check.invoked || self.is_kept_inside(check.vm, check.region, at));
            if !at.is_some() {
                next = None;
            }
            Some(if is_kept { Ok(at) } else { Err(at) })
        })
    }

    /// True if a capability derived from the base of `vm`, which has this region, keeps to the rules.
    #[inline]
    fn is_kept_inside(&self, vm: VmId, region: Region, id: SlotId) -> bool {
        let slot = self.slot(id);
        let inside = region.holds(id.address());
        match slot.cap {
            Cap::Frame { kernel_page, base, mapping, .. } => {
                // Statistics, and the registers after a stop; the info page says what the VM does while it runs.
                let harmless = kernel_page
                    && slot.rights == Rights::READ
                    && (base == vm.stats_page() || VcpuId::is_handler_page(base));
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
            Cap::IommuDomain { id, .. } => inside && self.machine.vm(id).functions == 0,
            // What is being destroyed is finished first.
            Cap::Zombie(_) | Cap::Doomed { .. } => false,
            Cap::Null
            | Cap::Untyped { .. }
            | Cap::CpuTime { .. }
            | Cap::Channel { .. }
            | Cap::Irq { .. }
            | Cap::IoPort { .. }
            | Cap::Machine
            | Cap::PciFunction { .. } => inside,
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
