//! Spreading a budget over many rounds.

use super::{Holding, Offer, Policy, curve_of};
use crate::board::Line;
use crate::types::{Credits, MAX_SEGMENTS, Price, Segment};

/// 1 in the multiplier's fixed point.
const ONE: u32 = 1 << 16;
/// The multiplier never falls below this (1/1,024), so that it can recover.
const LEAST: u32 = 1 << 6;
/// A step changes the multiplier by this part.
const STEP: u32 = 16;

/// Adaptive pacing (Balseiro and Gur 2019): values are scaled by a multiplier, which falls when a round cost more than
/// its share of the budget that is left, and rises, at most to 1, when it cost less. So money is spent where it buys most
/// instead of in the first rounds, and a budget that is not scarce changes nothing.
///
/// With a budget, truthful bidding round by round is no longer best, and no policy is known to be best against everybody;
/// this one's average comes close to the best constant multiplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacer {
    budget: Credits,
    intervals: u64,
    multiplier: u32,
    burst: u32,
}

impl Pacer {
    /// Spends `budget` over `intervals`, at most `burst` shares in one (at least 1).
    #[must_use]
    pub fn new(budget: Credits, intervals: u64, burst: u32) -> Pacer {
        Pacer { budget: budget.max(Credits::ZERO), intervals, multiplier: ONE, burst: burst.max(1) }
    }

    /// What one interval may cost on average from now on.
    #[must_use]
    pub fn share(&self) -> Credits {
        match i128::from(self.intervals) {
            0 => Credits::ZERO,
            intervals => Credits(self.budget.0 / intervals),
        }
    }

    /// What is left to spend.
    #[must_use]
    pub fn budget(&self) -> Credits {
        self.budget
    }

    /// Takes note of what an interval cost. Call it once per interval.
    pub fn observe(&mut self, paid: Credits) {
        let change = (self.multiplier / STEP).max(1);
        self.multiplier = if paid > self.share() {
            (self.multiplier - change.min(self.multiplier)).max(LEAST)
        } else {
            (self.multiplier + change).min(ONE)
        };
        self.budget = (self.budget - paid).max(Credits::ZERO);
        self.intervals = self.intervals.saturating_sub(1);
    }

    /// The offer, scaled, and capped to `burst` shares of the budget.
    #[must_use]
    pub fn pace(&self, offer: &Offer) -> Offer {
        let scale = |price: Price| Price((u128::from(price.0) * u128::from(self.multiplier) / u128::from(ONE)) as u64);
        let mut segments = [Segment::default(); MAX_SEGMENTS];
        for (scaled, segment) in segments.iter_mut().zip(offer.curve.segments()) {
            *scaled = Segment { value: scale(segment.value), quantity: segment.quantity };
        }
        let burst = Credits(self.share().0.saturating_mul(i128::from(self.burst)));
        Offer {
            curve: curve_of(&segments),
            keep: scale(offer.keep),
            max_payment: offer.max_payment.min(burst).min(self.budget),
        }
    }
}

/// A policy whose offers go through a [`Pacer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paced<P> {
    /// Says what units are worth.
    pub policy: P,
    /// Says how much of that to bid.
    pub pacer: Pacer,
}

impl<P: Policy> Policy for Paced<P> {
    fn decide(&self, board: &Line, holding: &Holding) -> Offer {
        self.pacer.pace(&self.policy.decide(board, holding))
    }
}
