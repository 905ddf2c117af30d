//! Finishing work before a deadline.

use super::{Holding, Offer, Policy, curve_of};
use crate::board::Line;
use crate::types::{Credits, Price, Quantity, RoundNo, Segment};

/// Buys CPU time so that the work left is done by a deadline, and works ahead when that is cheap.
///
/// The units needed per interval are the work left, divided by what a unit does in an interval and by the intervals left;
/// each is worth an equal part of what finishing is worth. Every unit beyond these saves one later, so it is worth what
/// one is expected to cost later. Decided anew in every round, so wrong estimates correct themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetDeadline {
    /// Work not done yet, in any unit.
    pub work_left: u64,
    /// How much work one unit does in one interval; above 0.
    pub work_per_unit: u64,
    /// The last interval whose work counts.
    pub deadline: RoundNo,
    /// What it is worth to finish in time.
    pub value: Credits,
    /// What a unit is expected to cost in later intervals, such as a mean of past clearing prices.
    pub expected_price: Price,
    /// The most units above the base that can be put to use at once.
    pub max_units: Quantity,
}

impl Policy for TargetDeadline {
    fn decide(&self, board: &Line, holding: &Holding) -> Offer {
        // The bid counts in the round after the last one closed, which sells the interval after that.
        let first = board.round.0.saturating_add(2);
        let intervals = match self.deadline.0.checked_sub(first) {
            Some(more) => u128::from(more) + 1,
            None => return Offer::NONE,
        };
        let per_unit = u128::from(self.work_per_unit.max(1));
        let base = u128::from(holding.lease.base.0);
        // What is bought already does its share. The running interval is left out, as nobody knows how much of it is over.
        let bought = (base + u128::from(holding.lease.next.0)) * per_unit;
        let work = u128::from(self.work_left).saturating_sub(bought);
        let all = work.div_ceil(per_unit).saturating_sub(base * intervals);
        if all == 0 {
            return Offer::NONE;
        }
        let most = u128::from(self.max_units.0);
        let needed = all.div_ceil(intervals).min(most);
        let ahead = all.min(most) - needed;
        let value = self.value.0.max(0) as u128 / all;
        let value = Price(u64::try_from(value).unwrap_or(u64::MAX)).min(Price::LIMIT);
        // Both fit, as `most` has 32 bits.
        let quantity = |units: u128| Quantity(units as u32);
        Offer {
            curve: curve_of(&[
                Segment { value, quantity: quantity(needed) },
                Segment { value: self.expected_price.min(value), quantity: quantity(ahead) },
            ]),
            keep: Price::ZERO,
            max_payment: holding.free,
        }
    }
}
