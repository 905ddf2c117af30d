//! Admission: what share of a core a reservation needs, and whether it fits.
//!
//! Shares are in units of 2^-32 of a core, rounded up, so that a sum of shares that fits is a sum of exact fractions
//! that fits. EDF with aligned periods delivers every set of reservations whose fractions sum to at most 1; what is
//! sold is at most [`CAPACITY`], and each reservation is counted with two switches a period on top of its budget: they
//! pay for its arrival and its first alarm in the period, for entering again whom that interrupted, and for one overrun by the longest hold
//! of the kernel lock. The reserve pays for what is charged to nobody: NMIs, waiting for the kernel lock.
//!
//! A reservation has at least the [`MAX_RESERVATIONS`]th part of a core, so that no core runs out of reservations before
//! it runs out of time.

use super::MAX_RESERVATIONS;
use crate::types::Ticks;

/// A part of a core, in units of 2^-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u64);

impl Share {
    /// Nothing.
    pub const ZERO: Share = Share(0);
    /// All of a core.
    pub const WHOLE: Share = Share(1 << 32);

    /// The share with this number of units.
    pub const fn new(units: u64) -> Share {
        Share(units)
    }

    /// The number of units.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Both together.
    pub const fn plus(self, other: Share) -> Share {
        Share(self.0.saturating_add(other.0))
    }

    /// What is left without the other, at least nothing.
    pub const fn minus(self, other: Share) -> Share {
        Share(self.0.saturating_sub(other.0))
    }

    /// True if `wanted` can be given out of `self`, of which `given` is given already.
    ///
    /// A whole core can be given only out of a whole core of which nothing is given: it needs no switch and no timer,
    /// and so no reserve. Everything else leaves the reserve of a whole core alone.
    pub const fn has_room(self, given: Share, wanted: Share) -> bool {
        if wanted.0 == Share::WHOLE.0 {
            return self.0 == Share::WHOLE.0 && given.0 == 0;
        }
        let limit = if self.0 < CAPACITY.0 { self.0 } else { CAPACITY.0 };
        given.0.saturating_add(wanted.0) <= limit
    }
}

/// What can be promised of a core to more than one: all but a reserve of 5 % (rounded up).
pub const CAPACITY: Share = Share(Share::WHOLE.0 - Share::WHOLE.0.div_ceil(20));

/// Longest switch between two Vcpus, the wait for the lock included, in microseconds. Admission reserves two a period,
/// which are also as long as a reservation can overrun: the longest hold of the kernel lock.
pub const SWITCH_US: u64 = 10;

/// `budget / period` in 2^-32, rounded down; `period` is not 0.
pub(super) const fn rate_down(budget: u64, period: u64) -> u64 {
    if period == 0 {
        return 0;
    }
    (((budget as u128) << 32) / period as u128) as u64
}

/// What a core's clock and the machine's speed make of the bounds on reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    min_budget: u64,
    min_period: u64,
    max_period: u64,
    switch: u64,
}

impl Limits {
    /// The bounds for a TSC of `hz` ticks per second, on which one switch between two Vcpus takes `switch` ticks:
    /// budget at least 50 us, period 1 ms to 1 s.
    pub const fn new(hz: u64, switch: Ticks) -> Limits {
        Limits { min_budget: hz / 20_000, min_period: hz / 1_000, max_period: hz, switch: switch.get() }
    }

    /// Ticks of one switch.
    pub const fn switch(&self) -> Ticks {
        Ticks::new(self.switch)
    }

    /// The part of a switch that is the entry of the one that is switched to.
    pub const fn entry(&self) -> Ticks {
        Ticks::new(self.switch / 20)
    }

    /// What an alarm costs at most: from its NMI to the decision, and the entry of whom it interrupted.
    pub const fn alarm(&self) -> Ticks {
        Ticks::new(3 * self.entry().get())
    }

    /// The shortest period.
    pub const fn min_period(&self) -> Ticks {
        Ticks::new(self.min_period)
    }

    /// The longest period.
    pub const fn max_period(&self) -> Ticks {
        Ticks::new(self.max_period)
    }

    /// The longest period for a budget.
    pub const fn max_period_of(&self, budget: Ticks) -> Ticks {
        let longest = budget.get().saturating_add(2 * self.switch).saturating_mul(MAX_RESERVATIONS as u64);
        Ticks::new(if longest < self.max_period { longest } else { self.max_period })
    }

    /// The smallest budget.
    pub const fn min_budget(&self) -> Ticks {
        Ticks::new(self.min_budget)
    }

    /// True if the period is within its bounds.
    pub const fn has_period(&self, period: Ticks) -> bool {
        period.get() >= self.min_period && period.get() <= self.max_period && period.get() > 0
    }

    /// True if the budget is within its bounds for this period.
    pub const fn has_budget(&self, budget: Ticks, period: Ticks) -> bool {
        budget.get() >= self.min_budget && budget.get() <= period.get()
    }

    /// What a reservation takes of a core: budget and two switches in each period, rounded up. Budget = period is the
    /// whole core. The share of what is nearly a period can exceed the whole; no core has room for that.
    pub const fn share(&self, budget: Ticks, period: Ticks) -> Share {
        let (budget, period) = (budget.get() as u128, period.get() as u128);
        if budget >= period {
            return Share::WHOLE;
        }
        let units = ((budget + 2 * self.switch as u128) << 32).div_ceil(period);
        // A share that exceeds the whole must not pass for it.
        if units >= Share::WHOLE.0 as u128 { Share(Share::WHOLE.0 + 1) } else { Share(units as u64) }
    }

    /// The largest budget in this period whose share fits into `room`, 0 if not even the switches do: what a seller can
    /// offer of what is left.
    pub const fn budget_within(&self, room: Share, period: Ticks) -> Ticks {
        let ticks = (room.0 as u128 * period.get() as u128) >> 32;
        let ticks = if ticks > period.get() as u128 { period.get() as u128 } else { ticks };
        Ticks::new((ticks as u64).saturating_sub(2 * self.switch))
    }
}
