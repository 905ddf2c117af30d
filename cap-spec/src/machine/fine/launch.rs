//! Launch in bounded steps.
//!
//! A step checks [`STEP`] capabilities that are derived from the base, and keeps a list of what has *passed*. The call is
//! repeated until all have; the lock is given up in between. Whenever somebody changes a capability that has passed,
//! derives from it, or changes the Vcpu or domain that it names, the check begins again. So the last step knows of
//! all of them at one instant: its answer is the one that `step` gives at that instant.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::super::launch::prepare;
use super::super::lookup::Invoked;
use super::super::state::{Cap, SlotId, State, VmId};
use super::super::{Outcome, state::VcpuId};
use crate::abi::Fault;

/// Capabilities that one step visits.
pub const STEP: usize = 64;

/// How far the check of a launch is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check {
    /// The VM that is to be launched.
    pub vm: VmId,
    /// The slot of its base.
    pub base: SlotId,
    /// The slot of the invoked capability.
    pub invoked: SlotId,
    /// What has passed, from the base on.
    pub passed: BTreeSet<SlotId>,
}

/// One step of a launch; `None` if more are needed. `check` is the invoker's.
pub(super) fn step(state: &mut State, call: Invoked, check: &mut Option<Check>) -> Option<Result<Outcome, Fault>> {
    let launch = match prepare(state, call) {
        Ok(launch) if launch.is_possible(state) => launch,
        Ok(launch) => return Some(Err(launch.refusal())),
        Err(fault) => return Some(Err(fault)),
    };
    let begun = check.take().filter(|check| {
        (check.vm, check.base, check.invoked) == (launch.vm, launch.base, call.slot) && !check.passed.is_empty()
    });
    let begins = Check { vm: launch.vm, base: launch.base, invoked: call.slot, passed: [launch.base].into() };
    let mut at = begun.unwrap_or(begins);
    let open: Vec<SlotId> = state.descendants(at.base).difference(&at.passed).copied().collect();
    for slot in open.iter().take(STEP) {
        if !launch.keeps(state, *slot) {
            return Some(Err(launch.refusal()));
        }
    }
    if open.len() <= STEP {
        launch.start(state);
        return Some(Ok(Outcome::NOTHING));
    }
    at.passed.extend(&open[..STEP]);
    *check = Some(at);
    None
}

impl Check {
    /// True if the check must begin again after this change.
    pub(super) fn is_touched(&self, before: &State, after: &State) -> bool {
        let children =
            |state: &State, of: SlotId| -> BTreeSet<SlotId> { state.children(of).map(|(id, _)| id).collect() };
        self.passed.iter().any(|slot| {
            before.slots.get(slot) != after.slots.get(slot)
                || before.dying.hides(*slot) != after.dying.hides(*slot)
                || children(before, *slot) != children(after, *slot)
                || match before.slots.get(slot).map(|slot| &slot.cap) {
                    Some(Cap::Vcpu(vcpu)) => owner(before, *vcpu) != owner(after, *vcpu),
                    Some(Cap::IommuDomain { id, .. }) => functions(before, *id) != functions(after, *id),
                    Some(Cap::CNode { id, .. }) => {
                        let of =
                            |state: &State| state.vms.iter().find(|(_, vm)| vm.cspace == Some(*id)).map(|at| *at.0);
                        of(before) != of(after)
                    }
                    _ => false,
                }
        })
    }
}

/// The VM of a Vcpu.
fn owner(state: &State, vcpu: VcpuId) -> Option<VmId> {
    state.vcpus.get(&vcpu).and_then(|vcpu| vcpu.vm)
}

/// How many functions are attached to a domain.
fn functions(state: &State, domain: VmId) -> usize {
    state.functions.values().filter(|function| function.domain == Some(domain)).count()
}
