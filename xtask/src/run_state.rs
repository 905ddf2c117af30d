//! What is known of a run: every record of the machine goes through [`RunState::apply`], and displays, the report and
//! the end-to-end tests read the result.
//!
//! A record that contradicts the plan or an earlier record is a [`Violation`]: it is counted and makes the run fail.

mod app;
mod good;
mod history;

use crate::scenario::Scenario;
pub use app::{AppState, OutputFile, Phase, Totals};
pub use good::{GoodState, Sample, to_f64};
pub use history::History;
use market_mechanism::Credits;
use market_mechanism::types::Price;
use proto::host::Record;
use proto::storage::UNIT_OPERATIONS;
use sha2::{Digest, Sha256};
use std::fmt;

/// Sender of lines from the market server.
pub const FROM_MARKET: u16 = 0xffff;
/// Sender of lines from the console server.
pub const FROM_CONSOLE: u16 = 0xfffe;
/// Files of one application may not be larger than this altogether.
const MAX_OUTPUT: usize = 256 << 20;
/// How far apart records of different senders may be in time, in microseconds.
const CLOCK_SLACK_US: u64 = 1_000_000;

/// The last totals that the market server verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Intervals reconciled.
    pub intervals: u64,
    /// Sum of all accounts.
    pub sum: Credits,
    /// What it must be.
    pub expected: Credits,
    /// Units leased, by the ledger.
    pub leased: u64,
    /// Units that exist, by the kernel.
    pub existing: u64,
    /// Mismatches in the run.
    pub mismatches: u64,
    /// Intervals that passed without a round because the market was late.
    pub skipped: u64,
    /// Ticks that any period came up short at most.
    pub worst_shortfall: u64,
    /// Longest hold of the kernel lock in ticks.
    pub longest_hold: u64,
    /// Most ticks from a round's result to the last of its notices.
    pub slowest_notice: u64,
    /// Most ticks from the start of an interval of pages until all that was lost was out of reach.
    pub slowest_cut: u64,
}

impl Verified {
    /// True if nothing disagrees.
    pub fn agree(&self) -> bool {
        self.mismatches == 0 && self.sum == self.expected && self.leased == self.existing
    }
}

/// A measured row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchRow {
    /// Name.
    pub operation: String,
    /// Instructions.
    pub instructions: u64,
    /// How many of them the kernel executed, if they were counted.
    pub kernel: Option<u64>,
    /// Exits.
    pub exits: u64,
    /// Writes to registers of devices, in thousandths, if they were counted.
    pub writes: Option<u64>,
    /// Interrupts of devices, in thousandths, if they were counted.
    pub interrupts: Option<u64>,
}

/// A record that can't be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Everything known of a run.
#[derive(Clone, Debug)]
pub struct RunState {
    /// Virtual time of the last record, in microseconds.
    pub now: u64,
    /// TSC frequency; 0 before the first record.
    pub tsc_hz: u64,
    /// Times the root VM was restarted.
    pub restarts: u32,
    /// True once the first record came.
    pub begun: bool,
    /// Goods in the plan's order.
    pub goods: Vec<GoodState>,
    /// Applications in the plan's order.
    pub apps: Vec<AppState>,
    /// Rounds cleared.
    pub rounds: u64,
    /// Last verified totals.
    pub verified: Option<Verified>,
    /// Rows of a bench.
    pub bench: Vec<BenchRow>,
    /// The scenario's events, with the millisecond at which each is due.
    pub events: Vec<(u64, String)>,
    /// When the market server ended the run, in microseconds; `None` while it has not, and if it could not.
    pub over: Option<u64>,
    /// Status and reason of the last record.
    pub end: Option<(u8, String)>,
    /// Records that could not be.
    pub violations: Vec<Violation>,
}

impl RunState {
    /// For a machine without market: a test guest or a bench as its root VM.
    pub fn bare() -> RunState {
        RunState {
            now: 0,
            tsc_hz: 0,
            restarts: 0,
            begun: false,
            goods: Vec::new(),
            apps: Vec::new(),
            rounds: 0,
            verified: None,
            bench: Vec::new(),
            events: Vec::new(),
            over: None,
            end: None,
            violations: Vec::new(),
        }
    }

    /// Before the first record.
    pub fn new(scenario: &Scenario) -> RunState {
        let plan = &scenario.plan;
        let good = |good: &proto::plan::Good| GoodState {
            name: good.name.clone(),
            interval_ms: good.interval_ms,
            supply: 0,
            history: History::default(),
            paid: Credits::ZERO,
        };
        let app = |app: &proto::plan::App| AppState {
            name: app.name.clone(),
            core: app.core,
            awaited: app.awaited,
            base_cpu: app.base_cpu,
            base_bandwidth: app.nic.then_some(app.base_bandwidth),
            base_iops: app.base_iops,
            phase: Phase::Waiting,
            started: None,
            ended: None,
            balance: Credits(app.budget),
            escrow: Credits::ZERO,
            paid: Credits::ZERO,
            done: 0,
            total: 0,
            holdings: vec![0; plan.goods.len()],
            used: History::default(),
            hits: History::default(),
            files: Vec::new(),
            network: None,
            totals: Totals::default(),
            lines: History::default(),
            output_bytes: 0,
        };
        RunState {
            goods: plan.goods.iter().map(good).collect(),
            apps: plan.apps.iter().map(app).collect(),
            events: plan.events.iter().map(|event| event.at_ms).zip(scenario.events.iter().cloned()).collect(),
            ..RunState::bare()
        }
    }

    /// Units that an application has of the CPU time of its core.
    pub fn cpu(&self, app: &AppState) -> u32 {
        app.base_cpu + self.held(app, GoodState::is_cpu)
    }

    /// Mb/s that an application may send, if it has a virtual function of the network device.
    pub fn bandwidth(&self, app: &AppState) -> Option<u32> {
        Some(app.base_bandwidth? + self.held(app, GoodState::is_bandwidth))
    }

    /// Reads and writes per second that an application may do, if they are limited.
    pub fn operations(&self, app: &AppState) -> Option<u64> {
        Some(u64::from(app.base_iops? + self.held(app, GoodState::is_iops)) * UNIT_OPERATIONS)
    }

    fn held(&self, app: &AppState, of: impl Fn(&GoodState) -> bool) -> u32 {
        self.goods.iter().zip(&app.holdings).filter(|(good, _)| of(good)).map(|(_, units)| units).sum()
    }

    /// Name of a sender of lines.
    pub fn sender(&self, app: u16) -> &str {
        match app {
            FROM_MARKET => "market",
            FROM_CONSOLE => "console",
            app => self.apps.get(usize::from(app)).map_or("?", |app| app.name.as_str()),
        }
    }

    /// Work that an application has done as far as is known: what it told at its end or, of one that told nothing, its last
    /// report.
    pub fn done(&self, app: u16) -> u64 {
        self.apps.get(usize::from(app)).map_or(0, |app| app.done)
    }

    /// Takes a record in. What can't be is remembered as a violation and otherwise ignored.
    pub fn apply(&mut self, record: &Record) {
        if let Err(violation) = self.try_apply(record) {
            self.violations.push(violation);
        }
    }

    fn app(&mut self, app: u16) -> Result<&mut AppState, Violation> {
        let count = self.apps.len();
        self.apps
            .get_mut(usize::from(app))
            .ok_or_else(|| Violation(format!("a record names application {app} of {count}")))
    }

    /// The market and the console server each stamp their own records, and the market's may wait in its ring meanwhile:
    /// between the two, time may seem to go back a little.
    fn time(&mut self, t: u64) -> Result<(), Violation> {
        if t.saturating_add(CLOCK_SLACK_US) < self.now {
            return Err(Violation(format!("time goes back from {} us to {t} us", self.now)));
        }
        self.now = self.now.max(t);
        Ok(())
    }

    fn try_apply(&mut self, record: &Record) -> Result<(), Violation> {
        match record {
            Record::Begin { version, tsc_hz, restarts, supply, .. } => {
                if *version != proto::VERSION {
                    return Err(Violation(format!(
                        "the market server speaks version {version}, not {}",
                        proto::VERSION
                    )));
                }
                if supply.len() != self.goods.len() {
                    return Err(Violation(format!("it sells {} goods, not {}", supply.len(), self.goods.len())));
                }
                (self.begun, self.tsc_hz, self.restarts) = (true, *tsc_hz, *restarts);
                for (good, supply) in self.goods.iter_mut().zip(supply) {
                    good.supply = *supply;
                }
            }
            Record::Round { t, good, ask, clearing, supply, sold, holdings, paid, .. } => {
                self.time(*t)?;
                let apps = self.apps.len();
                let name = usize::from(*good);
                let Some(state) = self.goods.get_mut(name) else {
                    return Err(Violation(format!("a round of good {good}, which is none")));
                };
                if holdings.len() != apps {
                    return Err(Violation(format!("a round with {} holdings of {apps} applications", holdings.len())));
                }
                state.supply = *supply;
                state.paid += Credits(*paid);
                state.history.push(Sample {
                    t: *t,
                    ask: Price(*ask),
                    clearing: Price(*clearing),
                    sold: *sold,
                    holdings: holdings.clone(),
                });
                for (app, units) in self.apps.iter_mut().zip(holdings) {
                    app.holdings[name] = *units;
                }
                self.rounds += 1;
            }
            Record::Account { t, app, balance, escrow, paid } => {
                self.time(*t)?;
                let app = self.app(*app)?;
                (app.balance, app.escrow, app.paid) = (Credits(*balance), Credits(*escrow), Credits(*paid));
                if *balance < 0 || *escrow < 0 {
                    return Err(Violation(format!("`{}` is in debt", app.name)));
                }
            }
            Record::Progress { t, app, done, total } => {
                self.time(*t)?;
                let app = self.app(*app)?;
                (app.done, app.total) = (*done, *total);
            }
            Record::Hits { t, app, hits, accesses } => {
                self.time(*t)?;
                let app = self.app(*app)?;
                let before = app.hits.last().map_or((0, 0), |&(_, hits, accesses)| (hits, accesses));
                // It is the application's own word, so that one that makes no sense is nobody else's failure.
                let more = hits.checked_sub(before.0).zip(accesses.checked_sub(before.1));
                if more.is_some_and(|(hits, accesses)| hits <= accesses) {
                    app.hits.push((*t, *hits, *accesses));
                }
            }
            Record::Line { t, app, text } => {
                self.time(*t)?;
                if *app != FROM_MARKET && *app != FROM_CONSOLE {
                    self.app(*app)?.lines.push(text.clone());
                }
            }
            Record::Used { t, app, ticks } => {
                self.time(*t)?;
                self.app(*app)?.used.push((*t, *ticks));
            }
            Record::FileBegin { .. } | Record::FileData { .. } | Record::FileEnd { .. } => self.apply_file(record)?,
            Record::Started { t, app, .. } => {
                self.time(*t)?;
                let app = self.app(*app)?;
                app.phase = Phase::Running;
                app.started = Some(*t);
            }
            Record::Ended {
                t,
                app,
                end,
                work,
                paid,
                exits,
                used_ticks,
                page_ms,
                cpu_ticks_bought,
                kilobits_bought,
                operations_bought,
                reclaim_us,
            } => {
                self.time(*t)?;
                let app = self.app(*app)?;
                app.phase = Phase::Ended(end.clone());
                app.ended = Some(*t);
                // The market knows the work of those who tell it at their end; of others the last report counts.
                app.done = app.done.max(*work);
                app.paid = Credits(*paid);
                app.holdings.fill(0);
                app.totals = Totals {
                    exits: exits.clone(),
                    used_ticks: *used_ticks,
                    page_ms: *page_ms,
                    cpu_ticks_bought: *cpu_ticks_bought,
                    kilobits_bought: *kilobits_bought,
                    operations_bought: *operations_bought,
                    reclaim_us: *reclaim_us,
                };
            }
            Record::Network { t, app, counts } => {
                self.time(*t)?;
                self.app(*app)?.network = Some(*counts);
            }
            Record::Totals {
                t,
                intervals,
                sum,
                expected,
                leased,
                existing,
                mismatches,
                skipped,
                worst_shortfall,
                longest_hold,
                slowest_notice,
                slowest_cut,
            } => {
                self.time(*t)?;
                self.verified = Some(Verified {
                    intervals: *intervals,
                    sum: Credits(*sum),
                    expected: Credits(*expected),
                    leased: *leased,
                    existing: *existing,
                    mismatches: *mismatches,
                    skipped: *skipped,
                    worst_shortfall: *worst_shortfall,
                    longest_hold: *longest_hold,
                    slowest_notice: *slowest_notice,
                    slowest_cut: *slowest_cut,
                });
            }
            Record::End { t, status, reason } => {
                self.end = Some((*status, reason.clone()));
                // Whoever ends it without the market's clock says 0.
                self.over = Some(*t).filter(|&t| t > 0);
                self.time(*t)?;
            }
            Record::Bench { operation, instructions, kernel, exits, writes, interrupts } => {
                self.bench.push(BenchRow {
                    operation: operation.clone(),
                    instructions: *instructions,
                    kernel: *kernel,
                    exits: *exits,
                    writes: *writes,
                    interrupts: *interrupts,
                });
            }
        }
        Ok(())
    }

    fn apply_file(&mut self, record: &Record) -> Result<(), Violation> {
        match record {
            Record::FileBegin { app, file, name } => {
                let app = self.app(*app)?;
                if app.files.iter().any(|open| open.number == *file && open.sha256.is_none()) {
                    return Err(Violation(format!("`{}` opens its file {file} twice", app.name)));
                }
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
                    return Err(Violation(format!("`{}` names a file {name:?}, which is no plain name", app.name)));
                }
                let (number, name) = (*file, name.clone());
                app.files.push(OutputFile { number, name, data: Vec::new(), sha256: None });
            }
            Record::FileData { app, file, data } => {
                let app = self.app(*app)?;
                app.output_bytes += data.len();
                let within = app.output_bytes <= MAX_OUTPUT;
                let name = app.name.clone();
                let file = open_file(app, *file)?;
                if !within {
                    return Err(Violation(format!("`{name}` sends more than {} MiB", MAX_OUTPUT >> 20)));
                }
                file.data.extend_from_slice(data);
            }
            Record::FileEnd { app, file, bytes, sha256 } => {
                let app = self.app(*app)?;
                let name = app.name.clone();
                let file = open_file(app, *file)?;
                let hash: [u8; 32] = Sha256::digest(&file.data).into();
                if file.data.len() as u64 != *bytes || hash != *sha256 {
                    return Err(Violation(format!("file {} of `{name}` arrived damaged", file.name)));
                }
                file.sha256 = Some(hash);
            }
            _ => {}
        }
        Ok(())
    }

    /// The events whose time never came, as the run was over before. None of a run that the market server did not end: how
    /// far it came is not known.
    pub fn missed_events(&self) -> Vec<&str> {
        let over = self.over.unwrap_or(u64::MAX);
        let missed = self.events.iter().filter(|(at_ms, _)| at_ms.saturating_mul(1000) > over);
        missed.map(|(_, event)| event.as_str()).collect()
    }

    /// Why the run did not end well, if it didn't. Call it when the machine is off.
    pub fn failure(&self) -> Option<String> {
        if let Some(violation) = self.violations.first() {
            return Some(format!("the machine's records contradict themselves: {violation}"));
        }
        match &self.end {
            None => return Some("the machine went off without its last record".into()),
            Some((0, _)) => {}
            Some((status, reason)) => return Some(format!("the run ended with status {status}: {reason}")),
        }
        for app in &self.apps {
            if let Some(file) = app.files.iter().find(|file| file.sha256.is_none()) {
                return Some(format!("file {} of `{}` is incomplete", file.name, app.name));
            }
        }
        self.verified.as_ref().filter(|verified| !verified.agree()).map(|_| "the verified totals disagree".into())
    }
}

fn open_file(app: &mut AppState, number: u16) -> Result<&mut OutputFile, Violation> {
    let name = &app.name;
    let file = app.files.iter_mut().find(|file| file.number == number && file.sha256.is_none());
    file.ok_or_else(|| Violation(format!("`{name}` writes to its file {number}, which is not open")))
}

#[cfg(test)]
pub(crate) mod tests;
