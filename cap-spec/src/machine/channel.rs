//! Channel: a connection with two ends.
//!
//! * A Channel capability speaks for one end, 1 (as the original does) or 2. Each end may have a *receiver*: a Vcpu and
//!   the events that a signal to this end sets. **Bind** chooses it for the end spoken for, with bits that are not 0
//!   (`OutOfRange`, 2); `InUse` while there is one.
//! * **Signal** sets the other end's bits in its receiver's event word and wakes it; `NoReceiver` if there is none.
//!   **SignalWait** is Signal and then the invoker's own Wait.
//! * Towards each end there is a slot for one capability in flight. **Grant** derives a child of the source into the
//!   other end's slot, or moves the source there: `ChannelFull`; for a move `InUse` if it is a boot capability, or
//!   is mapped or has children and would lose a right that these have, or a function of whose registers there are Frames; for a child `NotCopyable` and `TooDeep`. These
//!   three name the source (1). A source that is moved must lie in the root CNode or in a CNode reached with WRITE
//!   (`MissingRight`, 1); as only argument 3 says whether it is moved, this is checked after argument 3.
//! * **Accept** moves what is in flight towards the end spoken for into an empty slot; `ChannelEmpty` if nothing is.

use super::Outcome;
use super::cnode::{check_copyable, put_copy};
use super::derivation::relocate;
use super::lookup::Invoked;
use super::pci_function::has_register_frames;
use super::state::{Cap, ChannelId, Receiver, Slot, SlotId, State};
use super::vcpu::{SOME_EVENTS, raise, sleep};
use crate::abi::{Error, Fault, ObjectType, Rights, SLOT_BITS};

/// The slot of the capability in flight towards an end.
pub fn in_flight_slot(channel: ChannelId, end: u8) -> SlotId {
    SlotId(channel.0 + (u64::from(end - 1) << SLOT_BITS))
}

/// The channel and the end that an invoked Channel capability speaks for.
fn end_of(state: &State, call: &Invoked) -> (ChannelId, u8) {
    match state.slots[&call.slot].cap {
        Cap::Channel { id, end } => (id, end),
        _ => unreachable!("the label was checked against the type"),
    }
}

/// The other end.
fn peer(end: u8) -> u8 {
    3 - end
}

/// The receiver at the other end.
fn peer_receiver(state: &State, call: &Invoked) -> Result<Receiver, Fault> {
    let (id, end) = end_of(state, call);
    state.channels[&id][usize::from(peer(end)) - 1].ok_or(Fault::new(Error::NoReceiver, 0))
}

/// `Channel.Bind`.
pub(super) fn bind(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (id, end) = end_of(state, &call);
    let Cap::Vcpu(vcpu) = state.slots[&call.capability(state, 1, ObjectType::Vcpu, Rights::WRITE)?].cap else {
        unreachable!("argument 1 was checked to be a Vcpu")
    };
    let bits = call.in_range(2, SOME_EVENTS)?;
    if state.channels[&id][usize::from(end) - 1].is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    if let Some(ends) = state.channels.get_mut(&id) {
        ends[usize::from(end) - 1] = Some(Receiver { vcpu, bits });
    }
    Ok(Outcome::NOTHING)
}

/// `Channel.Signal`.
pub(super) fn signal(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Receiver { vcpu, bits } = peer_receiver(state, &call)?;
    raise(state, vcpu, bits);
    Ok(Outcome::NOTHING)
}

/// `Channel.SignalWait`.
pub(super) fn signal_wait(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let mask = call.in_range(1, SOME_EVENTS)?;
    let Receiver { vcpu, bits } = peer_receiver(state, &call)?;
    raise(state, vcpu, bits);
    Ok(sleep(state, call.invoker, mask, call.arg(2)))
}

/// `Channel.Grant`.
pub(super) fn grant(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (id, end) = end_of(state, &call);
    let source = call.any(state, 1)?;
    let mask = call.rights(2, Rights::all())?;
    let is_move = call.in_range(3, 0..=1)? == 1;
    if is_move && !call.may_take(state, 1) {
        return Err(Fault::new(Error::MissingRight, 1));
    }
    let destination = in_flight_slot(id, peer(end));
    if state.slots.contains_key(&destination) {
        return Err(Fault::new(Error::ChannelFull, 0));
    }
    if is_move {
        let Slot { cap, rights, parent, .. } = &state.slots[&source];
        let is_mapped = matches!(cap, Cap::Frame { mapping: Some(_), .. } | Cap::PageTable { place: Some(_), .. });
        let is_needed = is_mapped || state.has_children(source);
        if parent.is_none() || (is_needed && !mask.contains(*rights)) || has_register_frames(state, source) {
            return Err(Fault::new(Error::InUse, 1));
        }
        relocate(state, source, destination);
        if let Some(slot) = state.slots.get_mut(&destination) {
            slot.rights &= mask;
        }
        return Ok(Outcome::NOTHING);
    }
    check_copyable(state, source, 1)?;
    put_copy(state, source, destination, mask);
    Ok(Outcome::NOTHING)
}

/// `Channel.Accept`.
pub(super) fn accept(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (id, end) = end_of(state, &call);
    let destination = call.destination(state, 1)?;
    let source = in_flight_slot(id, end);
    if !state.slots.contains_key(&source) {
        return Err(Fault::new(Error::ChannelEmpty, 0));
    }
    relocate(state, source, destination);
    Ok(Outcome::NOTHING)
}
