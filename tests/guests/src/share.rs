//! The CPU time that a Vcpu really gets, as it sees it itself: the ticks that pass between two readings of the clock
//! without a gap. Compared, period by period, with what the info page says it is owed.

use cap_spec::abi::{INFO_PAGE, info_page};

use crate::root::{tsc, word};

/// Ticks between two readings of the clock from which on the Vcpu was away from its core, on a machine of one core.
/// Readings are closer than a fifth of it.
const GAP: u64 = 2_000;
/// The same on more cores, in microseconds. Under the instruction clock the emulator's cores take turns, so that what
/// another core executes is time for this one too: readings are up to a turn of each other core apart, with what the
/// emulator is late in ending it. Shorter absences are not seen.
const GAP_MICROS: u64 = 60;
/// How long such a turn lasts at most, in microseconds (`pace_emulated_cores` of the kernel). By so much the Vcpu may be
/// wrong about when it was taken off its core, and again about when it came back: if the other core's turn was then.
const TURN_MICROS: u64 = 20;

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whole periods seen in which the reservation stayed the same.
    pub windows: u64,
    /// Period in ticks.
    pub period: u64,
    /// Budget in ticks per period.
    pub budget: u64,
    /// Ticks by which the worst period came up short, beside what the clock may hide.
    pub worst: u64,
    /// Ticks by which a period had more than the budget at most.
    pub over: u64,
    /// Absences in these periods.
    pub absences: u64,
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
    /// Ticks between two readings that are an absence, and how many it may hide of the Vcpu's own time.
    gap: u64,
    hides: u64,
    absences: u64,
    whole: bool,
    first: Option<(u64, u64)>,
    report: Report,
}

fn info(offset: usize) -> u64 {
    word(INFO_PAGE, offset)
}

impl Watch {
    /// Starts watching, on a machine with so many cores. The first period counts when it is whole.
    pub fn new(cores: u64, tsc_hz: u64) -> Watch {
        let micros = |micros: u64| tsc_hz / 1_000_000 * micros;
        let (gap, hides) = if cores > 1 { (micros(GAP_MICROS), micros(2 * TURN_MICROS)) } else { (GAP, 0) };
        let (last, period) = (tsc(), info(info_page::PERIOD_TICKS).max(1));
        Watch {
            last,
            end: last / period * period + period,
            period,
            budget: info(info_page::BUDGET_TICKS),
            current: 0,
            total: 0,
            gap,
            hides,
            absences: 0,
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
        if passed < self.gap {
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
        self.absences += 1;
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
            let hidden = self.absences * self.hides;
            let short = if missed > 0 { budget } else { budget.saturating_sub(self.current) };
            self.report.worst = self.report.worst.max(short.saturating_sub(hidden));
            self.report.over = self.report.over.max(self.current.saturating_sub(budget));
            self.report.absences += self.absences;
            self.report.windows += 1 + missed;
            self.report.owed += budget * (1 + missed);
            self.report.had += self.current.min(budget);
        }
        // What changes now takes effect at a boundary that has passed, or at one to come: the next period is whole.
        self.whole = (period, budget) == (self.period, self.budget);
        (self.period, self.budget) = (period, budget);
        (self.report.period, self.report.budget) = (period, budget);
        (self.current, self.absences) = (0, 0);
        self.end = now / period * period + period;
    }

    /// What was seen so far.
    pub fn report(&self) -> Report {
        self.report
    }
}
