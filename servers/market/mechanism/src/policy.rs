//! Policies: pure functions from what an application sees to what it bids.
//!
//! A policy is a value that describes the goal; [`Policy::decide`] takes the price board's line and what is held, and
//! gives an [`Offer`]. No clock, no I/O, no memory of its own: what changes over time (work left, budget left) is in the
//! goal, which the application keeps up to date. So the same code decides in a VM, in a simulation and in a test.
//!
//! In one round nothing is better than bidding the true value ([`crate::curve_lane`]). What the policies add is finding
//! that value ([`TargetDeadline`], [`MarginalHit`]) and spreading a budget over many rounds ([`Pacer`]).

mod deadline;
mod hits;
mod pacer;

pub use deadline::TargetDeadline;
pub use hits::{HitPoint, MAX_POINTS, MarginalHit};
pub use pacer::{Paced, Pacer};

use crate::board::Line;
use crate::rounds::Lease;
use crate::types::{AccountId, Bid, Credits, Curve, MAX_SEGMENTS, Price, Quantity, RoundNo, Segment};

/// What an application has of a good, and of money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Base, running interval and next interval.
    pub lease: Lease,
    /// Money that may be spent.
    pub free: Credits,
}

/// What a policy wants to bid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// What units above the base are worth.
    pub curve: Curve,
    /// Added for units held.
    pub keep: Price,
    /// The most that one round may cost.
    pub max_payment: Credits,
}

impl Offer {
    /// Nothing wanted.
    pub const NONE: Offer = Offer { curve: Curve::EMPTY, keep: Price::ZERO, max_payment: Credits::ZERO };

    /// The standing bid that makes this offer.
    #[must_use]
    pub fn bid(&self, account: AccountId, valid_until: RoundNo) -> Bid {
        Bid {
            account,
            curve: self.curve,
            keep: self.keep.min(Price::LIMIT),
            max_payment: self.max_payment.max(Credits::ZERO),
            valid_until,
        }
    }
}

/// A goal that can be turned into an offer.
pub trait Policy {
    /// What to bid in the next round for one good.
    fn decide(&self, board: &Line, holding: &Holding) -> Offer;
}

/// Always the same: `units` worth `value` each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedBid {
    /// Units above the base.
    pub units: Quantity,
    /// What each is worth per interval.
    pub value: Price,
    /// Added for units held.
    pub keep: Price,
}

impl Policy for FixedBid {
    fn decide(&self, _board: &Line, holding: &Holding) -> Offer {
        Offer {
            curve: curve_of(&[Segment { value: self.value, quantity: self.units }]),
            keep: self.keep,
            max_payment: holding.free,
        }
    }
}

/// The most steps that [`curve_of`] takes.
const MAX_STEPS: usize = MAX_POINTS;

/// The curve nearest to these steps that never says more than they do: steps of no units are left out, a step worth more
/// than the one before is lowered to it, equal ones are joined, and while there are too many segments, the two closest in
/// value are joined at the lower one. Steps beyond [`MAX_STEPS`] and units beyond 32 bits are left out.
fn curve_of(steps: &[Segment]) -> Curve {
    let mut list: heapless::Vec<Segment, MAX_STEPS> = heapless::Vec::new();
    let mut units = Quantity::ZERO;
    for step in steps {
        let quantity = step.quantity.min(Quantity(u32::MAX).saturating_sub(units));
        if quantity == Quantity::ZERO {
            continue;
        }
        units = units.saturating_add(quantity);
        let value = step.value.min(Price::LIMIT);
        match list.last_mut() {
            Some(last) if last.value <= value => last.quantity = last.quantity.saturating_add(quantity),
            _ => {
                if list.push(Segment { value, quantity }).is_err() {
                    break;
                }
            }
        }
    }
    while list.len() > MAX_SEGMENTS {
        let gap = |at: &usize| list[*at].value.0 - list[*at + 1].value.0;
        let closest = (0..list.len() - 1).min_by_key(gap).unwrap_or(0);
        let joined = list.remove(closest);
        list[closest].quantity = list[closest].quantity.saturating_add(joined.quantity);
    }
    // The list keeps every rule of a curve, so there is always one.
    Curve::new(&list).unwrap_or(Curve::EMPTY)
}

#[cfg(test)]
mod tests;
