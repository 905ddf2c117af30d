//! Flush before reuse, as types.
//!
//! Whoever takes memory out of reach of a VM, or of the devices of a domain, gets a [`Withdrawn`], which nothing but a completed flush turns into a
//! [`Flushed`]; and a slot whose capability made memory reachable is erased only against a [`Flushed`]. So forgetting the
//! flush, or erasing first, does not compile.
//!
//! What a flush is: no core runs the VM (each that did has left the guest, and cannot enter again before the lock is
//! free), and the VM's TLB generation has moved, so that every core gives it a new address-space number before it enters
//! it again. Translations cached under the old numbers are never used again. For a domain: the IOMMU has dropped what it
//! cached for the functions that are attached to it, and has said so. If it has not, then or ever before, the [`Flushed`]
//! says so, and with the capability the memory goes into quarantine (see `quarantine`).

use crate::function::MAX_FUNCTIONS;
use crate::kernel::{Kernel, News};
use crate::machine::Machine;
use crate::types::{CoreId, FunctionId, VmId};
use cap_spec::abi::stats_page;

/// An address space's tables have lost an entry, which cores, or the IOMMU, may still remember.
#[must_use = "what was withdrawn is in reach until it is flushed"]
#[derive(Debug)]
pub(crate) struct Withdrawn {
    vm: VmId,
}

/// Nothing that was withdrawn is in anybody's reach, or a failed IOMMU may still reach it, so that it is to be kept back.
#[must_use = "proof that memory may be reused"]
#[derive(Debug)]
pub(crate) struct Flushed {
    has_failed: bool,
}

impl Withdrawn {
    /// An entry of this VM's tables has been cleared.
    #[inline]
    pub(crate) fn from(vm: VmId) -> Withdrawn {
        Withdrawn { vm }
    }
}

impl Flushed {
    /// For a capability that made nothing reachable: there was nothing to flush.
    #[inline]
    pub(crate) fn nothing_withdrawn() -> Flushed {
        Flushed { has_failed: false }
    }

    /// The IOMMU has failed: what was withdrawn from a domain is to be kept back.
    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }
}

impl<M: Machine> Kernel<M> {
    /// Completes a withdrawal from a domain: no function that is attached to it uses what was cached. One that is not
    /// attached has nothing cached (see [`crate::machine::Devices::detach_function`]), unless the IOMMU has failed.
    #[cold]
    fn flush_domain(&mut self, domain: VmId) -> Flushed {
        if self.machine.vm(domain).functions != 0 {
            for function in (0..MAX_FUNCTIONS as u16).map(FunctionId::new) {
                if self.function(function).domain == domain {
                    self.machine.flush_function(function);
                }
            }
        }
        Flushed { has_failed: self.machine.iommu_has_failed() }
    }

    /// Completes a withdrawal.
    #[inline]
    pub(crate) fn flush(&mut self, withdrawn: Withdrawn) -> Flushed {
        let vm = withdrawn.vm;
        let header = self.machine.vm_mut(vm);
        header.tlb_generation = header.tlb_generation.wrapping_add(1);
        if header.is_domain() {
            return self.flush_domain(vm);
        }
        for core in 0..self.core_count {
            let id = CoreId::new(core as u8);
            let current = self.core(id).current;
            if current.is_some() && self.machine.vcpu(current).vm == vm {
                // It needs another number, also if it is in the kernel on its way back.
                self.core_mut(id).news.insert(News::RENUMBER);
                if id != self.active {
                    // The VM's own doing: it shares its memory with whoever takes it back.
                    self.core_mut(id).schedule.blame_current();
                    self.machine.expel(id);
                }
            }
        }
        self.count(vm, stats_page::SHOOTDOWNS);
        Flushed::nothing_withdrawn()
    }
}
