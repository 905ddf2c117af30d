//! The header of a `Vm` object, and its invocations. A domain of the IOMMU has the same header: it is an address space
//! without processors.
//!
//! A `Vm` is 16 KiB: page 0 begins with this header, page 1 is the root of its nested page tables, page 2 its
//! statistics page, page 3 is the back end's.

use crate::asid::Tag;
use crate::cap::Cap;
use crate::cspace::slots_of;
use crate::decode::{Invocation, Invoked};
use crate::fault::Faults;
use crate::iommu::FORMAT;
use crate::kernel::Kernel;
use crate::launch::Mark;
use crate::machine::Machine;
use crate::nested::{EntryFormat, IO_ROOT_LEVEL, ROOT_LEVEL};
use crate::types::{Hpa, SlotId, VcpuId, VmId};
use crate::vcpu::Vcpu;
use cap_spec::abi::{Error, Fault, ObjectType, Rights, VCPU_BITS};

/// Cores that the kernel can use.
pub const MAX_CORES: usize = 8;

/// An address space and its CSpace.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Vm {
    /// Slot 0 of the root CNode; none until SetCSpace.
    pub cspace: SlotId,
    /// How many slots the root CNode has.
    pub cspace_slots: u32,
    /// The slot of the root CNode's original capability (for a VM made at boot as for all others).
    pub cspace_original: SlotId,
    /// The first of the Frame and PageTable capabilities that are mapped here.
    pub mappings: SlotId,
    /// The first of its Vcpus.
    pub vcpus: VcpuId,
    /// The slot of its base Untyped from launch on.
    pub base: SlotId,
    /// Foreign parts since before launch: of frames outside the region, executable mappings, and writable ones outside the
    /// ring window; tables and Vcpus outside the region.
    pub foreign: u32,
    /// log2 of the bytes of the Untyped that it was made from; 0 for a VM made at boot.
    pub region_bits: u8,
    /// Started for the first time. Always true of a domain.
    pub launched: bool,
    /// Its base is being revoked: its Vcpus are being stopped, and none is started.
    pub dying: bool,
    /// It is being destroyed: nothing more is mapped in it, and nobody joins it.
    pub dissolving: bool,
    /// While it is dying, the first of its Vcpus that have not been stopped yet.
    pub to_stop: VcpuId,
    /// First byte of the Untyped that it was made from.
    pub region_base: Hpa,
    /// Withdrawals from its tables so far; a core that entered with another number needs a new ASID.
    pub tlb_generation: u64,
    /// Its address-space number on each core.
    pub tags: [Tag; MAX_CORES],
    /// How the entries of its tables are written.
    pub format: EntryFormat,
    /// Of a domain, how many functions are attached to it.
    pub functions: u16,
    /// Of a domain, whose check of a launch counts on its having no function.
    pub mark: Mark,
    /// Of a domain, what its functions were stopped from.
    pub faults: Faults,
}

const _: () = assert!(size_of::<Vm>() <= 1024, "the rest of the page is the back end's");

impl Vm {
    /// A domain that has just been made.
    pub const fn domain() -> Vm {
        Vm { launched: true, ..Vm::new(Hpa::new(0), 0, FORMAT) }
    }

    /// True for a domain.
    #[inline]
    pub const fn is_domain(&self) -> bool {
        matches!(self.format, FORMAT)
    }

    /// The level of its root table.
    #[inline]
    pub const fn root_level(&self) -> u8 {
        if self.is_domain() { IO_ROOT_LEVEL } else { ROOT_LEVEL }
    }

    /// A VM that has just been made from the Untyped with this extent.
    pub const fn new(region_base: Hpa, region_bits: u8, format: EntryFormat) -> Vm {
        Vm {
            cspace: SlotId::NONE,
            cspace_slots: 0,
            cspace_original: SlotId::NONE,
            mappings: SlotId::NONE,
            vcpus: VcpuId::NONE,
            base: SlotId::NONE,
            foreign: 0,
            region_bits,
            launched: false,
            dying: false,
            dissolving: false,
            to_stop: VcpuId::NONE,
            region_base,
            tlb_generation: 0,
            tags: [Tag::NONE; MAX_CORES],
            format,
            functions: 0,
            mark: Mark::NONE,
            faults: Faults::NONE,
        }
    }

    /// True if no core enters the VM ever again: its base is being revoked, and all its Vcpus have been stopped. What its
    /// tables say means nothing any more, and they are neither read nor written.
    #[inline]
    pub const fn is_cut(&self) -> bool {
        self.dying && !self.to_stop.is_some()
    }

    /// True if these bytes lie in the Untyped that the VM was made from.
    #[inline]
    pub const fn region_holds(&self, base: Hpa, bytes: u64) -> bool {
        let size = match 1u64.checked_shl(self.region_bits as u32) {
            Some(size) if self.region_bits != 0 => size,
            _ => return false,
        };
        let offset = base.get().wrapping_sub(self.region_base.get());
        offset < size && bytes <= size.wrapping_sub(offset)
    }
}

impl VmId {
    /// The VM whose first byte is at this address.
    #[inline]
    pub const fn at(address: Hpa) -> VmId {
        VmId::new((address.get() >> cap_spec::abi::PAGE_BITS) as u32)
    }
}

impl<M: Machine> Kernel<M> {
    /// `Vm.SetCSpace`.
    pub(crate) fn decode_set_cspace(&self, call: &Invoked, vm: VmId) -> Result<Invocation, Fault> {
        let &[cptr, ..] = call.args;
        let needed = Rights::READ.union(Rights::WRITE);
        let root = self.any(call.root, cptr, 1)?.slot;
        let slot = self.capability(call.root, cptr, 1, ObjectType::CNode, needed)?;
        let Cap::CNode { vm: owner, .. } = slot.cap else { return Err(Fault::new(Error::WrongType, 1)) };
        if !slot.original {
            return Err(Fault::new(Error::WrongType, 1));
        }
        let header = self.machine.vm(vm);
        if header.cspace.is_some() || header.launched {
            return Err(Fault::new(Error::WrongPhase, 0));
        }
        if owner.is_some() {
            return Err(Fault::new(Error::WrongPhase, 1));
        }
        Ok(Invocation::SetCSpace { vm, root })
    }

    /// Makes the CNode of an original capability a VM's CSpace; each names the other.
    pub(crate) fn set_cspace(&mut self, vm: VmId, root: SlotId) {
        self.changes(root);
        let Cap::CNode { bits, base, vm: ref mut owner } = self.slot_mut(root).cap else { return };
        *owner = vm;
        let header = self.machine.vm_mut(vm);
        header.cspace = base;
        header.cspace_slots = slots_of(bits);
        header.cspace_original = root;
    }

    /// Parts a VM from its CSpace, if it has one.
    pub(crate) fn clear_cspace(&mut self, vm: VmId) {
        let header = self.machine.vm_mut(vm);
        let original = header.cspace_original;
        header.cspace = SlotId::NONE;
        header.cspace_slots = 0;
        header.cspace_original = SlotId::NONE;
        if original.is_some()
            && let Cap::CNode { vm, .. } = &mut self.slot_mut(original).cap
        {
            *vm = VmId::NONE;
        }
    }

    /// Makes a detached Vcpu a processor of a VM, stopped, in its initial state: it may have been another VM's before.
    pub(crate) fn attach(&mut self, vcpu: VcpuId, vm: VmId) {
        self.joins(vcpu);
        let header = self.machine.vm_mut(vm);
        let next = header.vcpus;
        header.vcpus = vcpu;
        let foreign = !header.launched && !header.region_holds(vcpu.address(), 1 << VCPU_BITS);
        header.foreign = header.foreign.wrapping_add(foreign as u32);
        if next.is_some() {
            self.machine.vcpu_mut(next).prev = vcpu;
        }
        let processor = self.machine.vcpu_mut(vcpu);
        processor.vm = vm;
        processor.next = next;
        processor.prev = VcpuId::NONE;
        processor.foreign = foreign;
        self.forget_upcalls(vcpu);
        self.machine.init_vcpu(vcpu, vm.root());
        self.write_info(vcpu);
    }

    /// Takes a stopped Vcpu, which no core holds, off its VM.
    pub(crate) fn detach(&mut self, vcpu: VcpuId) {
        let &Vcpu { vm, next, prev, foreign, .. } = self.machine.vcpu(vcpu);
        if !vm.is_some() {
            return;
        }
        if next.is_some() {
            self.machine.vcpu_mut(next).prev = prev;
        }
        if prev.is_some() {
            self.machine.vcpu_mut(prev).next = next;
        } else {
            self.machine.vm_mut(vm).vcpus = next;
        }
        if self.machine.vm(vm).to_stop == vcpu {
            self.machine.vm_mut(vm).to_stop = next;
        }
        if foreign {
            let header = self.machine.vm_mut(vm);
            header.foreign = header.foreign.wrapping_sub(1);
        }
        let processor = self.machine.vcpu_mut(vcpu);
        processor.vm = VmId::NONE;
        processor.next = VcpuId::NONE;
        processor.prev = VcpuId::NONE;
        processor.foreign = false;
    }
}
