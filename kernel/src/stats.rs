//! Counters that guests read: the statistics pages.

use crate::kernel::Kernel;
use crate::machine::{Machine, SharedPage};
use crate::types::VmId;
use cap_spec::abi::{ExitKind, Fault, stats_page};

/// Adds to a counter.
#[inline]
pub(crate) fn add_to(machine: &mut impl Machine, page: SharedPage, offset: usize, amount: u64) {
    let value = machine.shared_word(page, offset);
    machine.set_shared_word(page, offset, value.wrapping_add(amount));
}

impl<M: Machine> Kernel<M> {
    /// Adds one to a counter.
    #[inline]
    pub(crate) fn bump(&mut self, page: SharedPage, offset: usize) {
        add_to(&mut self.machine, page, offset, 1);
    }

    /// Adds one to a counter of a VM and to that of all.
    #[inline(always)]
    pub(crate) fn count(&mut self, vm: VmId, offset: usize) {
        self.bump(SharedPage::Stats(vm), offset);
        self.bump(SharedPage::GlobalStats, offset);
    }

    /// Counts an invocation, of a VM and of all. A label that does not exist is counted nowhere: its refusal is.
    #[inline]
    pub(crate) fn count_invocation(&mut self, vm: VmId, label: u64) {
        if label < cap_spec::abi::Label::COUNT as u64 {
            self.count(vm, stats_page::INVOCATIONS.wrapping_add(label as usize * 8));
        }
    }

    /// Counts a refusal, of a VM and of all.
    pub(crate) fn count_refusal(&mut self, vm: VmId, fault: Fault) {
        self.count(vm, stats_page::REFUSALS.wrapping_add((fault.error as usize & 63) * 8));
    }

    /// Counts an exit of the Vcpu that is current on a core, of its VM and of all.
    #[inline]
    pub fn count_exit(&mut self, core: crate::types::CoreId, kind: ExitKind) {
        let current = self.core(core).current;
        let offset = stats_page::EXITS.wrapping_add((kind as usize & 31) * 8);
        let vm = if current.is_some() { self.machine.vcpu(current).vm } else { VmId::NONE };
        if vm.is_some() {
            self.bump(SharedPage::Stats(vm), offset);
        }
        self.bump(SharedPage::GlobalStats, offset);
    }
}
