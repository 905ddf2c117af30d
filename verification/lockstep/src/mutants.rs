//! Seeded bugs: the kernel as it would be with one rule broken. Each must be found by the random campaign, or the
//! campaign is blind there.
//!
//! A bug is put in around the real kernel: the call is changed before it arrives, or the kernel's memory before or after.

use cap_spec::abi::Label;
use cap_spec::machine::{Cap, SlotId, State, VcpuId};
use kernel::Kernel;
use kernel::cap::Cap as KernelCap;
use kernel::machine::Machine;
use kernel::slot::Slot;
use kernel::types as k;

use crate::host::Host;

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Copy keeps the source's rights, whatever the mask.
    RightsNotMasked,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Mutant; 1] = [Mutant::RightsNotMasked];

    /// Before the kernel sees the call, in the state `before`. What it returns is handed to [`Mutant::after`].
    pub fn before(
        self,
        kernel: &mut Kernel<Host>,
        before: &State,
        invoker: VcpuId,
        call: &mut kernel::Call,
    ) -> Option<SlotId> {
        let _ = (kernel, before, invoker);
        match self {
            Mutant::RightsNotMasked => {
                if call.label == Label::CNodeCopy as u64 && call.args[2] < 32 {
                    call.args[2] = 31;
                }
            }
        }
        None
    }

    /// After the kernel has answered; the abstract machine went from `before` to `after`.
    pub fn after(self, kernel: &mut Kernel<Host>, before: &State, after: &State, slot: Option<SlotId>) {
        let _ = (kernel, before, after, slot);
    }
}
