//! What is known of an application.

use super::History;
use market_mechanism::Credits;
use proto::host::End;
use proto::nic::Counts;

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
    pub used: History<(u64, u64)>,
    /// How well its cache does, if it has one and tells: (when in microseconds, hits, accesses) so far; neither ever falls.
    pub hits: History<(u64, u64, u64)>,
    /// Its output files.
    pub files: Vec<OutputFile>,
    /// From its end.
    pub totals: Totals,
    /// What it has sent and received by virtual functions of the network device, if it has had one; from the run's end.
    pub network: Option<Counts>,
    /// Lines that it printed.
    pub lines: History<String>,
    /// Bytes of its files so far.
    pub(super) output_bytes: usize,
}

impl AppState {
    /// Share of its core between the last two reports, if there were two.
    pub fn share(&self, tsc_hz: u64) -> Option<f64> {
        let [.., before, last] = &self.used[..] else { return None };
        share(*before, *last, tsc_hz)
    }

    /// Its share over time: (milliseconds, share of its core).
    pub fn shares(&self, tsc_hz: u64) -> Vec<(u64, f64)> {
        let pairs = self.used.windows(2);
        pairs.filter_map(|pair| Some((pair[1].0 / 1000, share(pair[0], pair[1], tsc_hz)?))).collect()
    }

    /// The part of the accesses between the last two reports that its cache could answer, if there were any.
    pub fn hit_ratio(&self) -> Option<f64> {
        let [.., before, last] = &self.hits[..] else { return None };
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
