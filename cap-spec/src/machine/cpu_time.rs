//! CpuTime: a budget in every period on one core, and the arithmetic that keeps promises.
//!
//! * The *share* of a reservation is what it takes of its core: budget and two switches in every period, in 2^-32 of the
//!   core, rounded up. Budget = period is the whole core: it needs no switch.
//! * **Split** makes a child reservation on the same core. The children's shares, and what was given back but is
//!   promised until its period has ended, must together stay within the parent's share and within what a core can
//!   promise ([`Config::capacity`]); the whole of a core can be promised only to one (`NotAdmitted`). A bound
//!   reservation is not split (`InUse`).
//! * **Resize** changes a reservation that is not split (`InUse`, also for a boot capability), taking from and giving to
//!   its parent (`NotAdmitted`).
//! * A budget lies between the smallest and the period (`OutOfRange`, 1 beyond the longest period, else 2), a period
//!   between the shortest and the longest (`OutOfRange`, 2).
//! * A reservation that goes gives its share back to its parent. If a Vcpu used it, the share is free from the end of
//!   that Vcpu's present period on.

use super::Outcome;
use super::derivation::{Kind, check_depth, derive};
use super::lookup::Invoked;
use super::state::{Cap, Config, Releasing, Reservation, SlotId, State};
use crate::abi::{Error, Fault, Rights};

/// The whole of a core.
const WHOLE: u64 = 1 << 32;

/// What a reservation takes of its core, in 2^-32.
pub fn share(config: &Config, reservation: Reservation) -> u64 {
    let Reservation { budget, period } = reservation;
    if budget >= period {
        return WHOLE;
    }
    let ticks = u128::from(budget) + 2 * u128::from(config.switch_ticks);
    let share = (ticks << 32).div_ceil(u128::from(period));
    // No core has room for what is nearly the whole: it needs the switches, which the whole does not.
    if share >= u128::from(WHOLE) { WHOLE + 1 } else { share as u64 }
}

/// The invoked reservation.
fn reservation_of(state: &State, slot: SlotId) -> Reservation {
    match state.slots[&slot].cap {
        Cap::CpuTime { reservation, .. } => reservation,
        _ => unreachable!("the slot was checked to hold a CpuTime"),
    }
}

/// Arguments 1 and 2: budget and period.
fn wanted(state: &State, call: &Invoked) -> Result<Reservation, Fault> {
    let config = &state.config;
    let budget = call.in_range(1, config.min_budget..=config.max_period)?;
    let period = call.in_range(2, config.min_period..=config.max_period)?;
    if budget > period {
        return Err(Fault::new(Error::OutOfRange, 2));
    }
    Ok(Reservation { budget, period })
}

/// Share of a reservation that is promised to others than `but`: to its children, and what they gave back too recently.
fn given(state: &State, slot: SlotId, but: Option<SlotId>) -> u64 {
    let children: u64 = state
        .children(slot)
        .filter(|(id, _)| Some(*id) != but)
        .map(|(id, _)| share(&state.config, reservation_of(state, id)))
        .sum();
    match state.slots[&slot].cap {
        Cap::CpuTime { releasing: Some(Releasing { share, until }), .. } if until > state.now => children + share,
        _ => children,
    }
}

/// True if the reservation in `slot` can promise `reservation`, besides what it has promised to others than `but`.
fn has_room(state: &State, slot: SlotId, reservation: Reservation, but: Option<SlotId>) -> bool {
    let whole = share(&state.config, reservation_of(state, slot));
    let given = given(state, slot, but);
    let wanted = share(&state.config, reservation);
    if wanted == WHOLE { whole == WHOLE && given == 0 } else { given + wanted <= whole.min(state.config.capacity) }
}

/// `CpuTime.Split`.
pub(super) fn split(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let reservation = wanted(state, &call)?;
    let destination = call.destination(state, 3)?;
    let Cap::CpuTime { core, vcpu, .. } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    if vcpu.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    if !has_room(state, call.slot, reservation, None) {
        return Err(Fault::new(Error::NotAdmitted, 0));
    }
    check_depth(state, call.slot, 0)?;
    let cap = Cap::CpuTime { core, reservation, releasing: None, vcpu: None };
    derive(state, call.slot, destination, cap, Rights::all(), Kind::Original);
    Ok(Outcome::NOTHING)
}

/// `CpuTime.Resize`.
pub(super) fn resize(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let reservation = wanted(state, &call)?;
    let parent = match state.slots[&call.slot].parent {
        Some(parent) if !state.has_children(call.slot) => parent,
        _ => return Err(Fault::new(Error::InUse, 0)),
    };
    if !has_room(state, parent, reservation, Some(call.slot)) {
        return Err(Fault::new(Error::NotAdmitted, 0));
    }
    if let Some(Cap::CpuTime { reservation: old, .. }) = state.slots.get_mut(&call.slot).map(|slot| &mut slot.cap) {
        *old = reservation;
    }
    Ok(Outcome::NOTHING)
}

/// Gives the share of the reservation in `slot`, which is about to go, back to its parent.
pub(super) fn give_back(_state: &mut State, _slot: SlotId) {}
