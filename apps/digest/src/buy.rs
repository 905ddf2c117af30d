//! How much CPU time to bid for.

use userlib::market::{
    Credits, FixedBid, Holding, Line, Offer, Policy, Price, Quantity, RoundNo, TargetDeadline, UNITS_PER_CORE,
};

use crate::UNIT;

/// Of a core, the application can use all but what market and servers keep.
const MOST_UNITS: Quantity = Quantity(UNITS_PER_CORE - 10);

/// How fast work goes while the application runs: the fastest piece of late, as caches make some slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speed {
    /// Ticks per KiB; 0 until the first piece.
    ticks_per_kib: u64,
}

impl Speed {
    /// Takes note of a piece of work.
    pub fn measured(&mut self, bytes: u64, ticks: u64) {
        if bytes < UNIT {
            return;
        }
        let now = (ticks.saturating_mul(UNIT) / bytes).max(1);
        // Slowly forgotten, so that one lucky measurement doesn't stay for ever.
        let before = if self.ticks_per_kib == 0 { now } else { self.ticks_per_kib + self.ticks_per_kib / 64 };
        self.ticks_per_kib = now.min(before);
    }

    /// Bytes done in so many ticks; at least 1.
    pub fn bytes_in(&self, ticks: u64) -> u64 {
        let kib = self.ticks_per_kib.max(1);
        u64::try_from(u128::from(ticks) * u128::from(UNIT) / u128::from(kib)).unwrap_or(u64::MAX).max(1)
    }
}

/// The work to be done, and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    total: u64,
    done: u64,
    deadline: Option<u64>,
    speed: Speed,
    /// The round after which the last bid was made.
    decided: Option<u64>,
}

impl Job {
    /// So many bytes, before this TSC value.
    pub fn new(total: u64, deadline: Option<u64>) -> Job {
        Job { total, done: 0, deadline, speed: Speed::default(), decided: None }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Takes note of bytes done, in so many ticks if that is known: a piece that was interrupted says nothing about speed.
    pub fn did(&mut self, bytes: u64, ticks: Option<u64>) {
        self.done += bytes;
        if let Some(ticks) = ticks {
            self.speed.measured(bytes, ticks);
        }
    }

    /// True once in every round, when something has been measured.
    pub fn is_due(&mut self, round: u64) -> bool {
        let due = self.speed != Speed::default() && self.decided != Some(round);
        if due {
            self.decided = Some(round);
        }
        due
    }

    /// What to bid. A unit of CPU time is `unit_ticks` per interval; a KiB done is worth `per_kib`.
    ///
    /// With a deadline that can still be met, the work that is left is spread over the intervals that are left. Without
    /// one, or after it, every unit is worth what it does.
    pub fn offer(
        &self,
        line: &Line,
        holding: &Holding,
        unit_ticks: u64,
        per_kib: Credits,
        expected_price: Price,
        deadline: Option<RoundNo>,
    ) -> Offer {
        let work_left = self.total - self.done;
        let work_per_unit = self.speed.bytes_in(unit_ticks);
        if let Some(deadline) = deadline.filter(|_| self.deadline.is_some_and(|at| at > line.next_close.0)) {
            let value = Credits(per_kib.0.saturating_mul(i128::from(work_left)) / i128::from(UNIT));
            let policy =
                TargetDeadline { work_left, work_per_unit, deadline, value, expected_price, max_units: MOST_UNITS };
            return policy.decide(line, holding);
        }
        let value = per_kib.0.max(0).saturating_mul(i128::from(work_per_unit)) / i128::from(UNIT);
        let value = Price(u64::try_from(value).unwrap_or(u64::MAX)).min(Price::LIMIT);
        let units = Quantity(u32::try_from(work_left.div_ceil(work_per_unit)).unwrap_or(u32::MAX)).min(MOST_UNITS);
        FixedBid { units, value, keep: Price::ZERO }.decide(line, holding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line {
        ask: Price(0),
        sequence: 0,
        clearing: Price(0),
        reserve: Price(0),
        supply: Quantity(95),
        sold: Quantity(0),
        round: RoundNo(0),
        next_close: userlib::market::Ticks(1_000),
        ledger_head: 0,
    };

    fn job(total: u64, deadline: Option<u64>) -> Job {
        let mut job = Job::new(total, deadline);
        // 20 ticks per byte.
        job.did(UNIT, Some(20 * UNIT));
        job
    }

    fn wanted(offer: &Offer) -> u32 {
        offer.curve.demand().0
    }

    #[test]
    fn nothing_is_decided_before_the_speed_is_known() {
        let mut job = Job::new(3 * UNIT, None);
        job.did(UNIT, None);
        assert!(!job.is_due(1));
        job.did(UNIT, Some(20 * UNIT));
        assert!(job.is_due(2));
        job.did(UNIT, None);
        assert_eq!((job.done(), job.speed.bytes_in(20 * UNIT)), (3 * UNIT, UNIT));
    }

    #[test]
    fn the_speed_is_that_of_the_fastest_piece_of_late() {
        let mut speed = Speed::default();
        for ticks in [5_000, 2_000, 90_000, 2_010] {
            speed.measured(UNIT, ticks);
        }
        assert!((2_000..=2_010).contains(&speed.ticks_per_kib));
        assert_eq!(speed.bytes_in(2_010 * 10) / UNIT, 10);
        speed.measured(10, 1);
        assert!(speed.ticks_per_kib >= 2_000, "too little to tell");
    }

    #[test]
    fn less_time_or_more_work_wants_more() {
        let offer = |total, deadline| {
            job(total, Some(u64::MAX)).offer(
                &LINE,
                &Holding::default(),
                100_000,
                Credits(1 << 30),
                Price(1),
                Some(RoundNo(deadline)),
            )
        };
        let needed = |offer: Offer| offer.curve.segments()[0].quantity.0;
        assert!(needed(offer(1 << 22, 100)) < needed(offer(1 << 22, 50)));
        assert!(needed(offer(1 << 22, 50)) < needed(offer(1 << 23, 50)));
        assert_eq!(wanted(&offer(1 << 30, 50)), MOST_UNITS.0);
    }

    #[test]
    fn nothing_is_bought_while_the_base_finishes_in_time() {
        let held = |base, next| Holding {
            lease: userlib::market::Lease { base: Quantity(base), running: Quantity(next), next: Quantity(next) },
            free: Credits(1 << 60),
        };
        let offer = |holding: &Holding, deadline| {
            job(1 << 20, Some(u64::MAX)).offer(
                &LINE,
                holding,
                100_000,
                Credits(1 << 30),
                Price(1),
                Some(RoundNo(deadline)),
            )
        };
        // A unit does 5,000 bytes per interval, so the base of two takes 105 intervals.
        assert_eq!(offer(&held(2, 0), 110), Offer::NONE);
        assert!(wanted(&offer(&held(2, 0), 90)) > 0);
        // As the deadline comes nearer with the same work left, more is bought.
        let needed = |deadline| offer(&held(2, 0), deadline).curve.segments()[0].quantity.0;
        assert!([90, 60, 30, 15].map(needed).is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn without_a_deadline_a_unit_is_worth_what_it_does() {
        let job = job(1 << 30, None);
        let offer = job.offer(&LINE, &Holding::default(), 204_800, Credits(6), Price(1), None);
        // 204,800 ticks do 10 KiB.
        assert_eq!(offer.curve.segments()[0].value, Price(60));
        assert_eq!(wanted(&offer), MOST_UNITS.0);
    }

    #[test]
    fn one_decision_a_round_and_none_before_the_first_piece() {
        let mut fresh = Job::new(10, None);
        assert!(!fresh.is_due(3));
        let mut job = job(1 << 20, None);
        assert!(job.is_due(3) && !job.is_due(3) && job.is_due(4));
    }
}
