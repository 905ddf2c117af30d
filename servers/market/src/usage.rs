//! CPU time that was used against CPU time that was sold.
//!
//! The kernel counts for each VM how long it was current on its core. From check to check that is compared with the
//! reservation, as long as that stands: nobody may have more, and who never waits must have all of it. A VM is known not
//! to wait when it has run since the last check but one and has invoked nothing that waits or stops since.
//!
//! Tolerance: what the kernel promises ([`SHORT_MICROS`] in each period), and [`EDGE_PERIODS`] budgets, as checks do not
//! fall on the ends of periods and a Vcpu that is current is counted when it is switched away from. As the comparison goes
//! on from where it began, that becomes small against what was sold.

use crate::life::WAITS;
use crate::machine::Machine;
use crate::server::Server;
use alloc::{format, string::String, vec::Vec};
use cap_spec::abi::{Label, stats_page};

/// A period of CPU time may come up short by this many microseconds.
pub const SHORT_MICROS: u64 = 20;
/// Budgets by which a comparison may be off at its two ends, and by a debt that is carried over.
const EDGE_PERIODS: u64 = 3;

/// What a VM may invoke to its own end; when that has come is seen elsewhere.
const STOPS: [Label; 3] = [Label::VcpuStop, Label::CNodeDelete, Label::CNodeRevoke];

/// From where on a comparison goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// TSC value.
    since: u64,
    /// Ticks used by then.
    used: u64,
}

/// What is known of an application's use since its reservation was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The last check.
    last: Mark,
    /// How often it had waited by then.
    waits: u64,
    /// The first check at which its reservation held for sure; `None` at the first check of all.
    settled: Option<Mark>,
    /// The first check since which it never waited.
    busy: Option<Mark>,
}

impl<M: Machine> Server<'_, M> {
    /// Compares for every application what it used with its reservation; returns what is wrong.
    pub(crate) fn check_usage(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for app in 0..self.tenants.len() {
            if self.tenants[app].is_running() {
                wrong.extend(self.check_usage_of(app));
            }
        }
        wrong
    }

    fn check_usage_of(&mut self, app: usize) -> Option<String> {
        let used = self.stats_word(app, stats_page::USED_TICKS);
        let waits = WAITS.into_iter().chain(STOPS).map(|label| self.invocations(app, label)).sum();
        let here = Mark { since: self.root.machine.now(), used };
        let Some(before) = self.tenants[app].usage else {
            // What was set shortly before may hold from the next period on only.
            self.tenants[app].usage = Some(Usage { last: here, waits, settled: None, busy: None });
            return None;
        };
        // It ran, and has not waited since: now it runs, or waits for its turn.
        let is_busy = waits == before.waits && used > before.last.used;
        self.tenants[app].usage = Some(Usage {
            last: here,
            waits,
            settled: before.settled.or(Some(here)),
            busy: before.settled.filter(|_| is_busy).and(before.busy.or(Some(here))),
        });
        let name = || self.name(app);
        if let Some((sold, had, tolerance)) = before.settled.map(|mark| self.compare(app, mark, here))
            && had > sold + tolerance
        {
            return Some(format!("CPU time of {}: {sold} ticks sold, {had} used", name()));
        }
        if let Some((sold, had, tolerance)) = before.busy.filter(|_| is_busy).map(|mark| self.compare(app, mark, here))
            && had + tolerance < sold
        {
            return Some(format!("CPU time of {}: {sold} ticks sold, {had} delivered", name()));
        }
        None
    }

    /// Ticks that the reservation is worth between two checks, ticks used, and by how much they may differ.
    fn compare(&self, app: usize, from: Mark, to: Mark) -> (u64, u64, u64) {
        let (budget, period) = self.tenants[app].reservation;
        let (time, period) = (to.since.saturating_sub(from.since), period.max(1));
        let sold = u128::from(time) * u128::from(budget) / u128::from(period);
        let short = (time / period + 1).saturating_mul(self.clock.span(SHORT_MICROS));
        let sold = u64::try_from(sold).unwrap_or(u64::MAX);
        (sold, to.used.saturating_sub(from.used), EDGE_PERIODS * budget + short)
    }
}
