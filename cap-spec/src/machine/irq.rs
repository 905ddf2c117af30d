//! Irq: a range of interrupt routes. Some are pins of the machine; the others are raised by messages of functions, which
//! `PciFunction.BindMsix` chooses.
//!
//! * **Split** makes a child that owns part of the range: `first` must be one of the routes (`OutOfRange`, 1) and
//!   `count` 1 or more that end in the range (`OutOfRange`, 2). `InUse` if the range is bound (to a Vcpu or a message), has
//!   [`MAX_SPLITS`](super::MAX_SPLITS) children, or a child has one of the routes. What a child has, the parent can't use.
//! * **Bind** routes the interrupt of a range of one to a Vcpu, as a vector of 32 to 255 (`OutOfRange`, 2). That the
//!   range has one route is a property of the invoked capability (`OutOfRange`, 0), and so checked before the
//!   arguments. `InUse` if it is bound or split; `NotConfigured` names a Vcpu (1) that has no CPU time,
//!   `InUse` (1) one that takes [`VCPU_ROUTES`] already; `Forbidden` if the route is never handed out. A Vcpu that sleeps wakes with the events that there are, as the
//!   interrupt may have come before it can be delivered.
//! * **Unbind** masks it; `NotMapped` if it is not bound.

use super::derivation::{Kind, check_depth, derive};
use super::lookup::Invoked;
use super::state::{Cap, Route, SlotId, State};
use super::vcpu::wake;
use super::{MAX_SPLITS, Outcome};
use crate::abi::{Error, Fault, ObjectType, Rights, VCPU_ROUTES};

/// Checks arguments 1 and 2 of a Split: a part of the range.
pub(super) fn part(call: &Invoked, first: u16, count: u32) -> Result<(u16, u32), Fault> {
    let end = u64::from(first) + u64::from(count);
    let part_first = call.in_range(1, u64::from(first)..=end - 1)?;
    let part_count = call.in_range(2, 1..=end - part_first)?;
    Ok((part_first as u16, part_count as u32))
}

/// True if a child of the range in `slot` has one of these routes or ports.
pub(super) fn is_taken(state: &State, slot: SlotId, first: u16, count: u32) -> bool {
    let (start, end) = (u32::from(first), u32::from(first) + count);
    state.children(slot).any(|(_, child)| match child.cap {
        Cap::Irq { first, count, .. } | Cap::IoPort { first, count } => {
            u32::from(first) < end && start < u32::from(first) + count
        }
        _ => false,
    })
}

/// True if the range in `slot` cannot be split further.
pub(super) fn is_split_up(state: &State, slot: SlotId) -> bool {
    state.children(slot).count() >= MAX_SPLITS
}

/// `Irq.Split`.
pub(super) fn split(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::Irq { first, count, route, message } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let (first, count) = part(&call, first, count)?;
    let destination = call.destination(state, 3)?;
    let bound = route.is_some() || message.is_some();
    if bound || is_split_up(state, call.slot) || is_taken(state, call.slot, first, count) {
        return Err(Fault::new(Error::InUse, 0));
    }
    check_depth(state, call.slot, 0)?;
    let cap = Cap::Irq { first, count, route: None, message: None };
    let rights = state.slots[&call.slot].rights;
    derive(state, call.slot, destination, cap, rights, Kind::Original);
    Ok(Outcome::NOTHING)
}

/// `Irq.Bind`.
pub(super) fn bind(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::Irq { first, count, route, .. } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    if count != 1 {
        return Err(Fault::new(Error::OutOfRange, 0));
    }
    let Cap::Vcpu(vcpu) = state.slots[&call.capability(state, 1, ObjectType::Vcpu, Rights::WRITE)?].cap else {
        unreachable!("argument 1 was checked to be a Vcpu")
    };
    let vector = call.in_range(2, 32..=255)? as u8;
    if route.is_some() || state.has_children(call.slot) {
        return Err(Fault::new(Error::InUse, 0));
    }
    if state.time_of(vcpu).is_none() {
        return Err(Fault::new(Error::NotConfigured, 1));
    }
    if state.routes_of(vcpu) >= usize::from(VCPU_ROUTES) {
        return Err(Fault::new(Error::InUse, 1));
    }
    if state.config.forbidden_routes.contains(&first) {
        return Err(Fault::new(Error::Forbidden, 0));
    }
    set_route(state, call.slot, Some(Route { vcpu, vector }));
    wake(state, vcpu);
    Ok(Outcome::NOTHING)
}

/// `Irq.Unbind`.
pub(super) fn unbind(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    if let Cap::Irq { route: None, .. } = state.slots[&call.slot].cap {
        return Err(Fault::new(Error::NotMapped, 0));
    }
    set_route(state, call.slot, None);
    Ok(Outcome::NOTHING)
}

/// Binds or unbinds a route.
fn set_route(state: &mut State, slot: SlotId, to: Option<Route>) {
    if let Some(Cap::Irq { route, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) {
        *route = to;
    }
}
