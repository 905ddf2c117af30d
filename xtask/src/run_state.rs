//! What is known of a run: every record of the machine goes through [`RunState::apply`], and displays, the report and
//! the end-to-end tests read the result.
//!
//! A record that contradicts the plan or an earlier record is a [`Violation`]: it is counted and makes the run fail.

use crate::scenario::Scenario;
use market_mechanism::Credits;
use market_mechanism::types::{
    MIB_PER_GIB, PAGES_PER_GIB, Price, UNITS_PER_CORE, UNITS_PER_GIGABIT, UNITS_PER_THOUSAND,
};
use proto::host::{End, Record};
use proto::nic::{BANDWIDTH_GOOD, Counts, VF_GOOD};
use proto::storage::{IOPS_GOOD, STORAGE_GOOD, UNIT_OPERATIONS};
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

/// A point of a good's history: after one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Microseconds since the start of the run.
    pub t: u64,
    /// 1e-15 credit per unit and interval.
    pub ask: Price,
    /// 1e-15 credit per unit and interval.
    pub clearing: Price,
    /// Units sold, bases included.
    pub sold: u32,
    /// Per application, bases excluded.
    pub holdings: Vec<u32>,
}

/// A good.
#[derive(Clone, Debug)]
pub struct GoodState {
    /// Name.
    pub name: String,
    /// Interval.
    pub interval_ms: u32,
    /// Units for sale.
    pub supply: u32,
    /// One sample per round.
    pub history: Vec<Sample>,
    /// All payments of its rounds.
    pub paid: Credits,
}

impl GoodState {
    /// True for memory.
    pub fn is_page(&self) -> bool {
        self.name == "page"
    }

    /// True for what virtual functions of the network device may send.
    pub fn is_bandwidth(&self) -> bool {
        self.name == BANDWIDTH_GOOD
    }

    /// True for reads and writes of namespaces.
    pub fn is_iops(&self) -> bool {
        self.name == IOPS_GOOD
    }

    /// True for CPU time.
    fn is_cpu(&self) -> bool {
        self.name.starts_with("cpu.")
    }

    /// True for what only applications with a virtual function of the network device take part in.
    pub fn is_of_nic(&self) -> bool {
        self.is_bandwidth() || self.name == VF_GOOD
    }

    /// What people read prices in, and how many units that is.
    fn measure(&self) -> (&'static str, u32) {
        match () {
            () if self.is_page() => ("credits/GiB-hour", PAGES_PER_GIB),
            () if self.is_bandwidth() => ("credits/Gb/s-hour", UNITS_PER_GIGABIT),
            () if self.is_cpu() => ("credits/core-hour", UNITS_PER_CORE),
            () if self.is_iops() => ("credits/1,000 ops/s-hour", UNITS_PER_THOUSAND),
            () if self.name == STORAGE_GOOD => ("credits/GiB-hour of storage", MIB_PER_GIB),
            () => ("credits/VF-hour", 1),
        }
    }

    /// What people read prices in.
    pub fn price_unit(&self) -> &'static str {
        self.measure().0
    }

    /// A price as people read it: for a GiB, a core or a Gb/s, for an hour.
    pub fn per_hour(&self, price: Price) -> Credits {
        price.per_hour(self.measure().1, u64::from(self.interval_ms) * 1_000_000)
    }

    /// As [`GoodState::per_hour`], as a number to draw.
    pub fn per_hour_f64(&self, price: Price) -> f64 {
        to_f64(self.per_hour(price))
    }
}

/// An amount as a number to draw; exact amounts are [`Credits`].
pub fn to_f64(amount: Credits) -> f64 {
    amount.0 as f64 / Credits::ONE.0 as f64
}

/// A file that an application sends.
#[derive(Clone, Debug)]
pub struct OutputFile {
    /// Its number.
    pub number: u16,
    /// Plain file name.
    pub name: String,
    /// What arrived.
    pub data: Vec<u8>,
    /// Its hash, once it is complete and was checked.
    pub sha256: Option<[u8; 32]>,
}

/// How far an application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Waiting,
    /// Started.
    Running,
    /// Ended.
    Ended(End),
}

/// What an application's end told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exits of its VM by kind.
    pub exits: Vec<u64>,
    /// Ticks on its core.
    pub used_ticks: u64,
    /// Page-milliseconds beyond its base.
    pub page_ms: u64,
    /// Ticks of CPU time bought beyond its base.
    pub cpu_ticks_bought: u64,
    /// Kilobits that it might send beyond its base.
    pub kilobits_bought: u64,
    /// Reads and writes that it might do beyond its base.
    pub operations_bought: u64,
    /// From the order to stop until nothing was reachable.
    pub reclaim_us: u64,
}

/// An application.
#[derive(Clone, Debug)]
pub struct AppState {
    /// Name.
    pub name: String,
    /// Core.
    pub core: u8,
    /// True if the run waits for it.
    pub awaited: bool,
    /// Units of CPU time in its base.
    pub base_cpu: u32,
    /// Mb/s in its base, if it has a virtual function of the network device.
    pub base_bandwidth: Option<u32>,
    /// Units of operations in its base, if its reads and writes are limited.
    pub base_iops: Option<u32>,
    /// How far it is.
    pub phase: Phase,
    /// When it started, in microseconds.
    pub started: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
    /// Free balance.
    pub balance: Credits,
    /// In escrow.
    pub escrow: Credits,
    /// Paid so far.
    pub paid: Credits,
    /// Work done.
    pub done: u64,
    /// Work in all, 0 if unknown.
    pub total: u64,
    /// Units held now, per good.
    pub holdings: Vec<u32>,
    /// Ticks had so far: (when in microseconds, ticks).
    pub used: Vec<(u64, u64)>,
    /// How well its cache does, if it has one and tells: (when in microseconds, hits, accesses) so far; neither ever falls.
    pub hits: Vec<(u64, u64, u64)>,
    /// Its output files.
    pub files: Vec<OutputFile>,
    /// From its end.
    pub totals: Totals,
    /// What it has sent and received by virtual functions of the network device, if it has had one; from the run's end.
    pub network: Option<Counts>,
    /// Lines that it printed.
    pub lines: Vec<String>,
    /// Bytes of its files so far.
    output_bytes: usize,
}

impl AppState {
    /// Share of its core between the last two reports, if there were two.
    pub fn share(&self, tsc_hz: u64) -> Option<f64> {
        let [.., before, last] = self.used.as_slice() else { return None };
        share(*before, *last, tsc_hz)
    }

    /// Its share over time: (milliseconds, share of its core).
    pub fn shares(&self, tsc_hz: u64) -> Vec<(u64, f64)> {
        let pairs = self.used.windows(2);
        pairs.filter_map(|pair| Some((pair[1].0 / 1000, share(pair[0], pair[1], tsc_hz)?))).collect()
    }
}

impl AppState {
    /// The part of the accesses between the last two reports that its cache could answer, if there were any.
    pub fn hit_ratio(&self) -> Option<f64> {
        let [.., before, last] = self.hits.as_slice() else { return None };
        hit_ratio(*before, *last)
    }

    /// The same over time: (milliseconds, ratio), of each pair of reports with accesses between them.
    pub fn hit_ratios(&self) -> Vec<(u64, f64)> {
        let pairs = self.hits.windows(2);
        pairs.filter_map(|pair| Some((pair[1].0 / 1000, hit_ratio(pair[0], pair[1])?))).collect()
    }
}

fn hit_ratio(before: (u64, u64, u64), after: (u64, u64, u64)) -> Option<f64> {
    let (hits, accesses) = (after.1 - before.1, after.2 - before.2);
    (accesses > 0).then(|| hits as f64 / accesses as f64)
}

fn share(before: (u64, u64), after: (u64, u64), tsc_hz: u64) -> Option<f64> {
    let micros = after.0.checked_sub(before.0).filter(|&micros| micros > 0)?;
    let ticks = after.1.checked_sub(before.1)?;
    (tsc_hz > 0).then(|| ticks as f64 * 1e6 / (tsc_hz as f64 * micros as f64))
}

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
            history: Vec::new(),
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
            used: Vec::new(),
            hits: Vec::new(),
            files: Vec::new(),
            network: None,
            totals: Totals::default(),
            lines: Vec::new(),
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
