//! The CPU time that a Vcpu really gets, as it sees it itself: the ticks that pass between two readings of the clock
//! without a gap. Compared, period by period, with what the info page says it is owed.

use cap_spec::abi::{INFO_PAGE, info_page};

use crate::root::{tsc, word};

/// Ticks between two readings of the clock from which on the Vcpu was away from its core. Readings are closer than a
/// fifth of it.
const GAP: u64 = 2_000;

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whole periods seen in which the reservation stayed the same.
    pub windows: u64,
    /// Period in ticks.
    pub period: u64,
    /// Budget in ticks per period.
    pub budget: u64,
    /// Ticks by which the worst period came up short.
    pub worst: u64,
    /// Ticks owed in those periods.
    pub owed: u64,
    /// Ticks had in those periods, at most the budget of each.
    pub had: u64,
    /// Ticks charged by the kernel between the first and the last time away.
    pub charged: u64,
    /// Ticks that the Vcpu saw in the same time.
    pub seen: u64,
}

/// Watches. [`Watch::look`] must be called all the time.
pub struct Watch {
    last: u64,
    /// End of the present period, which started at the multiple of the period before it; 0 before the first one.
    end: u64,
    period: u64,
    budget: u64,
    current: u64,
    total: u64,
    whole: bool,
    first: Option<(u64, u64)>,
    report: Report,
}

fn info(offset: usize) -> u64 {
    word(INFO_PAGE, offset)
}

impl Watch {
    /// Starts watching. The first period counts when it is whole.
    pub fn new() -> Watch {
        let (last, period) = (tsc(), info(info_page::PERIOD_TICKS).max(1));
        Watch {
            last,
            end: last / period * period + period,
            period,
            budget: info(info_page::BUDGET_TICKS),
            current: 0,
            total: 0,
            whole: false,
            first: None,
            report: Report::default(),
        }
    }

    /// Reads the clock.
    #[inline(always)]
    pub fn look(&mut self) {
        let now = tsc();
        let passed = now - self.last;
        if passed < GAP {
            self.current += passed;
            self.total += passed;
        } else {
            self.away();
        }
        if now >= self.end {
            self.close(now);
        }
        self.last = now;
    }

    /// The kernel writes what it has charged when it switches away, so right after is the time to compare.
    fn away(&mut self) {
        let used = info(info_page::USED_TICKS);
        let (first_used, first_total) = *self.first.get_or_insert((used, self.total));
        self.report.charged = used - first_used;
        self.report.seen = self.total - first_total;
    }

    fn close(&mut self, now: u64) {
        let (period, budget) = (info(info_page::PERIOD_TICKS).max(1), info(info_page::BUDGET_TICKS));
        if self.whole && (period, budget) == (self.period, self.budget) {
            // Periods that passed altogether while the Vcpu was away gave it nothing.
            let missed = (now - self.end) / period;
            let short = if missed > 0 { budget } else { budget.saturating_sub(self.current) };
            self.report.worst = self.report.worst.max(short);
            self.report.windows += 1 + missed;
            self.report.owed += budget * (1 + missed);
            self.report.had += self.current.min(budget);
        }
        // What changes now takes effect at a boundary that has passed, or at one to come: the next period is whole.
        self.whole = (period, budget) == (self.period, self.budget);
        (self.period, self.budget) = (period, budget);
        (self.report.period, self.report.budget) = (period, budget);
        self.current = 0;
        self.end = now / period * period + period;
    }

    /// What was seen so far.
    pub fn report(&self) -> Report {
        self.report
    }
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new()
    }
}
