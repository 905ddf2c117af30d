//! What an IOMMU has stopped: of a domain, for the functions that are attached to it, and of the machine, for all.
//!
//! * **SetHandler** chooses who is told, or that nobody is: 0 instead of an end, which must have WRITE. An end tells of one
//!   thing (a Vcpu that stops, a domain, the machine): `InUse` (1) if it tells of another one.
//! * Either invocation of a domain needs a capability for all of its addresses: `Forbidden` by one for a part of them.
//! * The world stops a function: [`report`]. The record is kept for the machine, and for the domain that the function is
//!   attached to. [`FAULTS_KEPT`] are kept of each; one more is lost, which is counted for good. In either case the receiver
//!   at the other end of the handler's channel, if there is one, is signalled.
//! * **GetFault** takes the oldest record that is kept; zero words if there is none, but for the count of those lost.

use super::Outcome;
use super::lookup::Invoked;
use super::state::{Cap, Faults, State, VmId, Window};
use super::vcpu::raise;
use crate::abi::{Error, FAULTS_KEPT, Fault, FaultRecord, ObjectType, Rights};

/// The domain that is invoked; none: the machine.
fn invoked(state: &State, call: &Invoked) -> Option<VmId> {
    match state.slots[&call.slot].cap {
        Cap::IommuDomain { id, .. } => Some(id),
        _ => None,
    }
}

/// Checks that a domain is invoked by a capability for all of its addresses.
fn check_whole(state: &State, call: &Invoked) -> Result<(), Fault> {
    match state.slots[&call.slot].cap {
        Cap::IommuDomain { window, .. } if window != Window::WHOLE => Err(Fault::new(Error::Forbidden, 0)),
        _ => Ok(()),
    }
}

/// The records of a domain, or of the machine, to change them.
fn faults(state: &mut State, domain: Option<VmId>) -> Option<&mut Faults> {
    match domain {
        Some(domain) => state.domains.get_mut(&domain),
        None => Some(&mut state.faults),
    }
}

/// Takes an end from what it tells of.
pub(super) fn free_end(state: &mut State, end: (super::ChannelId, u8)) {
    let of_vcpus = state.vcpus.values_mut().map(|vcpu| &mut vcpu.handler);
    let of_domains = state.domains.values_mut().map(|faults| &mut faults.handler);
    let of_machine = core::iter::once(&mut state.faults.handler);
    for handler in of_vcpus.chain(of_domains).chain(of_machine).filter(|handler| **handler == Some(end)) {
        *handler = None;
    }
}

/// `IommuDomain.SetHandler`, `Machine.SetHandler`.
pub(super) fn set_handler(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let domain = invoked(state, &call);
    let mut handler = None;
    if call.arg(1) != 0 {
        let Cap::Channel { id, end } = state.slots[&call.capability(state, 1, ObjectType::Channel, Rights::WRITE)?].cap
        else {
            unreachable!("argument 1 was checked to be a Channel")
        };
        handler = Some((id, end));
    }
    let own = faults(state, domain).is_some_and(|faults| faults.handler == handler);
    let told = state.vcpus.values().map(|vcpu| vcpu.handler).chain(state.domains.values().map(|faults| faults.handler));
    let is_taken = told.chain([state.faults.handler]).any(|other| other == handler);
    if handler.is_some() && is_taken && !own {
        return Err(Fault::new(Error::InUse, 1));
    }
    check_whole(state, &call)?;
    if let Some(faults) = faults(state, domain) {
        faults.handler = handler;
    }
    Ok(Outcome::NOTHING)
}

/// `IommuDomain.GetFault`, `Machine.GetFault`.
pub(super) fn get_fault(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    check_whole(state, &call)?;
    let domain = invoked(state, &call);
    let Some(faults) = faults(state, domain) else { return Ok(Outcome::NOTHING) };
    let [what, who] = if faults.kept.is_empty() { [0; 2] } else { faults.kept.remove(0).to_words() };
    Ok(Outcome::Done([what, who | u64::from(faults.lost) << 32]))
}

/// The IOMMU has stopped a function, or something that is none of those handed out.
pub fn report(state: &mut State, function: Option<u16>, record: FaultRecord) {
    let domain = function.and_then(|function| state.functions.get(&function)?.domain);
    for of in domain.map(Some).into_iter().chain([None]) {
        let Some(faults) = faults(state, of) else { continue };
        if faults.kept.len() < FAULTS_KEPT {
            faults.kept.push(record);
        } else {
            faults.lost = faults.lost.saturating_add(1);
        }
        let handler = faults.handler;
        tell_handler(state, handler);
    }
}

/// Signals the receiver at the other end of a handler's channel, if there is one.
pub(super) fn tell_handler(state: &mut State, handler: Option<(super::ChannelId, u8)>) {
    let told = handler.and_then(|(channel, end)| state.channels[&channel][usize::from(2 - end)]);
    if let Some(receiver) = told {
        raise(state, receiver.vcpu, receiver.bits);
    }
}
