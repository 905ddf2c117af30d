//! A rate that was paid for, kept by closing and opening: what passes is charged by the time that it takes at the rate, and
//! who is ahead of the time is closed until time has made up for that.
//!
//! All that passed is charged, also what passed before a closing took effect, and a debt outlives a change of the rate. So
//! over a long time exactly the rate passes, however late closings are; openings may be late by the burst.

const SECOND_NS: u64 = 1_000_000_000;

/// A rate in units per second, whatever is counted, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    per_s: Option<u64>,
    /// The time up to which all that passed is paid.
    paid_ns: u64,
    /// Units that are owed besides, while nothing may pass: no time makes up for them.
    owed: u64,
}

impl Rate {
    /// A rate from now on, or none. 0 lets nothing pass.
    #[must_use]
    pub const fn new(per_s: Option<u64>, now_ns: u64) -> Rate {
        Rate { per_s, paid_ns: now_ns, owed: 0 }
    }

    /// The same, for somebody who owes so many units already.
    #[must_use]
    pub fn owing(owed: u64, per_s: Option<u64>, now_ns: u64) -> Rate {
        let mut rate = Rate { per_s: Some(0), paid_ns: now_ns, owed };
        rate.change(per_s, now_ns);
        rate
    }

    /// Units that are owed at a time at which all that passed is charged.
    #[must_use]
    pub fn owed(&self, now_ns: u64) -> u64 {
        let per_s = self.per_s.unwrap_or(0);
        self.owed.saturating_add(units_in(self.paid_ns.saturating_sub(now_ns), per_s))
    }

    /// Units per second; `None`: no limit.
    #[must_use]
    pub const fn per_s(&self) -> Option<u64> {
        self.per_s
    }

    /// Another rate from now on, at a time at which all that passed is charged. What is owed stays owed, unless everything may
    /// pass from now on.
    pub fn change(&mut self, per_s: Option<u64>, now_ns: u64) {
        let owed = self.owed(now_ns);
        *self = match per_s {
            None => Rate::new(None, now_ns),
            Some(0) => Rate { per_s, paid_ns: now_ns, owed },
            Some(new) => Rate { per_s, paid_ns: now_ns.saturating_add(time_ns(owed, new)), owed: 0 },
        };
    }

    /// Charges what passed up to now. Who let less pass than it might have may let so much more pass at once as the rate is
    /// in `burst_ns`.
    pub fn charge(&mut self, units: u64, now_ns: u64, burst_ns: u64) {
        match self.per_s {
            None => {}
            Some(0) => self.owed = self.owed.saturating_add(units),
            Some(per_s) => {
                let earliest_ns = now_ns.saturating_sub(burst_ns);
                self.paid_ns = self.paid_ns.max(earliest_ns).saturating_add(time_ns(units, per_s));
            }
        }
    }

    /// From when on units may pass, if no more are charged; `u64::MAX`: never.
    #[must_use]
    pub fn opens_ns(&self) -> u64 {
        match self.per_s {
            None => 0,
            Some(0) => u64::MAX,
            Some(_) => self.paid_ns,
        }
    }
}

/// The time that so many units take at this rate: for ever at none, unless there are none.
#[must_use]
pub fn time_ns(units: u64, per_s: u64) -> u64 {
    let units = u128::from(units) * u128::from(SECOND_NS);
    if units == 0 {
        return 0;
    }
    units.checked_div(u128::from(per_s)).and_then(|ns| u64::try_from(ns).ok()).unwrap_or(u64::MAX)
}

/// The units that pass at this rate in so long a time.
#[must_use]
pub fn units_in(ns: u64, per_s: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(per_s) / u128::from(SECOND_NS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_outlives_a_change_of_the_rate() {
        let mut rate = Rate::new(Some(8_000), 0);
        rate.charge(8_000, 0, 0);
        assert_eq!(rate.opens_ns(), SECOND_NS);
        rate.change(Some(16_000), 0);
        assert_eq!(rate.opens_ns(), SECOND_NS / 2);
        rate.change(Some(0), 0);
        assert_eq!(rate.opens_ns(), u64::MAX);
        rate.charge(4_000, 1, 0);
        assert_eq!(rate.owed(5), 12_000);
        rate.change(Some(8_000), 5);
        assert_eq!(rate.opens_ns(), 5 + 3 * SECOND_NS / 2, "no time without a rate makes up for it");
        assert_eq!(rate.owed(5 + SECOND_NS), 4_000);
        assert_eq!(Rate::owing(4_000, Some(8_000), 7).opens_ns(), 7 + SECOND_NS / 2);
        rate.change(None, 5);
        rate.change(Some(8_000), 5);
        assert_eq!(rate.opens_ns(), 5, "who has no limit owes nothing");
    }

    #[test]
    fn a_silent_time_is_not_saved_up_beyond_the_burst() {
        let mut rate = Rate::new(Some(SECOND_NS), 0);
        let now_ns = 3_600 * SECOND_NS;
        rate.charge(100, now_ns, 100);
        assert_eq!(rate.opens_ns(), now_ns);
        rate.charge(5, now_ns, 100);
        assert_eq!(rate.opens_ns(), now_ns + 5);
    }

    #[test]
    fn no_limit_and_nothing_at_all_are_limits_too() {
        for (per_s, opens_ns) in [(None, 0), (Some(0), u64::MAX)] {
            let mut rate = Rate::new(per_s, 7);
            rate.charge(u64::MAX, 7, 0);
            assert_eq!(rate.opens_ns(), opens_ns);
        }
        let mut rate = Rate::new(Some(1), 7);
        rate.charge(u64::MAX, 7, 0);
        assert_eq!(rate.opens_ns(), u64::MAX, "a debt without end");
    }
}
