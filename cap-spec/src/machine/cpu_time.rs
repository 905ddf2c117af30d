//! CpuTime: a budget in every period on one core, and the arithmetic that keeps promises.
//!
//! * The *share* of a reservation is what it takes of its core: budget and two switches in every period, in 2^-32 of the
//!   core, rounded up. Budget = period is the whole core: it needs no switch.
//! * **Split** makes a child reservation on the same core. The children's shares must together stay within the parent's
//!   share and within what a core can promise ([`Config::capacity`]); the whole of a core can be promised only to one
//!   (`NotAdmitted`). A reservation that is bound, or has [`MAX_SPLITS`] children, is not split (`InUse`).
//! * **Resize** changes a reservation that is not split (`InUse`, also for a boot capability), taking from and giving to
//!   its parent (`NotAdmitted`).
//! * A budget lies between the smallest and the period (`OutOfRange`, 1 beyond the longest period, else 2), a period
//!   between the shortest and the longest (`OutOfRange`, 2). A share is at least the [`MAX_RESERVATIONS`]th part of a core:
//!   a period is at most so many times as long as the budget and its two switches (`OutOfRange`, 2). So no core runs out
//!   of reservations before it runs out of time.
//! * What is given back, by a reservation that is unbound, shrinks or goes, may be promised for a period that has not
//!   ended. It can be handed on at once, but is not used before: every reservation knows from when on it is free, passes
//!   that on to what is split off it, and back to its parent, and a Vcpu is given no time before. What a Vcpu overran
//!   before it is taken off a reservation is not free for as long as it takes to pay that back.
//! * A change of a reservation in use takes effect at the end of the Vcpu's present period, or at the first boundary of
//!   that period's length at which what it grows by is free.

use super::derivation::{Kind, check_depth, derive};
use super::lookup::Invoked;
use super::state::{Cap, Config, Period, Reservation, SlotId, State, VcpuId};
use super::{MAX_RESERVATIONS, MAX_SPLITS, Outcome};
use crate::abi::{Error, Fault};

/// The whole of a core.
pub(super) const WHOLE: u64 = 1 << 32;

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
    if budget > period || period > (budget + 2 * config.switch_ticks) * MAX_RESERVATIONS as u64 {
        return Err(Fault::new(Error::OutOfRange, 2));
    }
    Ok(Reservation { budget, period })
}

/// From when on all of the reservation in `slot` is free.
fn free_from(state: &State, slot: SlotId) -> u64 {
    match state.slots[&slot].cap {
        Cap::CpuTime { free_from, .. } => free_from,
        _ => unreachable!("the slot was checked to hold a CpuTime"),
    }
}

/// Part of the reservation in `slot` is not free before `until`.
fn hold(state: &mut State, slot: SlotId, until: u64) {
    if let Some(Cap::CpuTime { free_from, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) {
        *free_from = until.max(*free_from);
    }
}

/// True if the reservation in `slot` can promise `reservation`, besides what it has promised to others than `but`.
fn has_room(state: &State, slot: SlotId, reservation: Reservation, but: Option<SlotId>) -> bool {
    let whole = share(&state.config, reservation_of(state, slot));
    let given: u64 = state
        .children(slot)
        .filter(|(id, _)| Some(*id) != but)
        .map(|(id, _)| share(&state.config, reservation_of(state, id)))
        .sum();
    let wanted = share(&state.config, reservation);
    if wanted == WHOLE { whole == WHOLE && given == 0 } else { given + wanted <= whole.min(state.config.capacity) }
}

/// `CpuTime.Split`.
pub(super) fn split(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let reservation = wanted(state, &call)?;
    let destination = call.destination(state, 3)?;
    let Cap::CpuTime { core, free_from, vcpu, .. } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    if vcpu.is_some() || state.children(call.slot).count() >= MAX_SPLITS {
        return Err(Fault::new(Error::InUse, 0));
    }
    if !has_room(state, call.slot, reservation, None) {
        return Err(Fault::new(Error::NotAdmitted, 0));
    }
    check_depth(state, call.slot, 0)?;
    let cap = Cap::CpuTime { core, reservation, free_from, vcpu: None };
    let rights = state.slots[&call.slot].rights;
    derive(state, call.slot, destination, cap, rights, Kind::Original);
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

    let before = share(&state.config, reservation_of(state, call.slot));
    let after = share(&state.config, reservation);
    if after > before {
        hold(state, call.slot, free_from(state, parent));
    }
    if after < before {
        hold(state, parent, effect_of_change(state, call.slot));
    }
    if let Some(Cap::CpuTime { reservation: old, .. }) = state.slots.get_mut(&call.slot).map(|slot| &mut slot.cap) {
        *old = reservation;
    }
    Ok(Outcome::NOTHING)
}

/// When a change of the reservation in `slot` takes effect.
fn effect_of_change(state: &State, slot: SlotId) -> u64 {
    let free = free_from(state, slot);
    let Cap::CpuTime { vcpu: Some(vcpu), .. } = state.slots[&slot].cap else { return free };
    let end = period_end(state, vcpu);
    match state.periods.get(&vcpu) {
        // Boundaries are multiples of the length.
        Some(Period { length, .. }) if end < free => free.next_multiple_of(*length),
        _ => end.max(free),
    }
}

/// When what a Vcpu leaves is free: at the end of its period and when it has paid back what it overran; now, if it slept
/// through that.
fn release(state: &State, vcpu: VcpuId) -> u64 {
    state.periods.get(&vcpu).map_or(state.now, |period| period.free.max(state.now))
}

/// When the present period of a Vcpu ends: now, if it slept through its end.
fn period_end(state: &State, vcpu: VcpuId) -> u64 {
    state.periods.get(&vcpu).map_or(state.now, |period| period.end.max(state.now))
}

/// Takes the Vcpu off the reservation in `slot`, if it has one. What it did not use is its until its period ends.
pub(super) fn unbind(state: &mut State, slot: SlotId) {
    let Some(Cap::CpuTime { vcpu, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) else { return };
    let Some(vcpu) = vcpu.take() else { return };
    hold(state, slot, release(state, vcpu));
}

/// Gives the reservation in `slot`, which is bound to nobody and about to go, back to its parent.
pub(super) fn give_back(state: &mut State, slot: SlotId) {
    if let Some(parent) = state.slots[&slot].parent {
        hold(state, parent, free_from(state, slot));
    }
}
