//! What a run had in it: so that nobody takes a run that did nothing for one that was right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cap_spec::abi::{Error, Label};

/// Counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Records, in one sequence without a gap.
    pub records: u64,
    /// Cores that wrote any.
    pub cores: BTreeSet<u8>,
    /// Calls that began, by core.
    pub callers: BTreeMap<u8, u64>,
    /// Calls before which another core had called last.
    pub turns: u64,
    /// Stops of the machine, and those of them at which a ring was full.
    pub stops: u64,
    /// See `stops`.
    pub full: u64,
    /// Invocations that came to an end, by label.
    pub calls: BTreeMap<Label, u64>,
    /// Those that were refused, by label and error.
    pub refused: BTreeMap<(Label, Error), u64>,
    /// Calls that were refused as no label has their number, or as there is nothing to invoke.
    pub unknown: u64,
    /// Deletes and Revokes that ended well.
    pub taken: u64,
    /// Calls that were preempted.
    pub preempted: u64,
    /// Invokers that were gone before their call came to an end.
    pub gone: u64,
    /// Sleepers that were woken by signals, by deadlines, by interrupts.
    pub woken: [u64; 3],
    /// Vcpus that stopped by themselves.
    pub stopped: u64,
    /// Times that the root VM was started again.
    pub restarts: u64,
    /// Things that an IOMMU stopped.
    pub faults: u64,
    /// How often the whole state was compared.
    pub compared: u64,
    /// Slots that were compared, in all.
    pub slots: u64,
}

impl Statistics {
    /// Invocations that came to an end.
    pub fn invocations(&self) -> u64 {
        self.calls.values().sum::<u64>() + self.unknown
    }

    /// Takes over what another run had.
    pub fn add(&mut self, other: &Statistics) {
        self.records += other.records;
        self.cores.extend(&other.cores);
        for (core, count) in &other.callers {
            *self.callers.entry(*core).or_default() += count;
        }
        self.turns += other.turns;
        self.stops += other.stops;
        self.full += other.full;
        for (label, count) in &other.calls {
            *self.calls.entry(*label).or_default() += count;
        }
        for (pair, count) in &other.refused {
            *self.refused.entry(*pair).or_default() += count;
        }
        self.unknown += other.unknown;
        self.taken += other.taken;
        self.preempted += other.preempted;
        self.gone += other.gone;
        for (count, more) in self.woken.iter_mut().zip(other.woken) {
            *count += more;
        }
        self.stopped += other.stopped;
        self.restarts += other.restarts;
        self.faults += other.faults;
        self.compared += other.compared;
        self.slots += other.slots;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: u64 = self.refused.values().sum();
        writeln!(
            out,
            "  records: {} of {} cores, none missing, in the order of the lock; {} stops, {} as a ring was full",
            self.records,
            self.cores.len(),
            self.stops,
            self.full
        )?;
        let callers: Vec<String> = self.callers.iter().map(|(core, count)| format!("{count} on core {core}")).collect();
        writeln!(out, "  calls: {}; {} times another core called next", callers.join(", "), self.turns)?;
        writeln!(
            out,
            "  invocations: {}, of {} labels; refused: {refused} with {} pairs of label and error, and {} of nothing",
            self.invocations(),
            self.calls.len(),
            self.refused.len(),
            self.unknown
        )?;
        let [signals, deadlines, interrupts] = self.woken;
        writeln!(
            out,
            "  Deletes and Revokes: {}; calls preempted: {}; invokers gone: {}",
            self.taken, self.preempted, self.gone
        )?;
        writeln!(out, "  woken: {signals} by signals, {deadlines} by deadlines, {interrupts} by interrupts")?;
        writeln!(
            out,
            "  stopped by themselves: {}; root VM started again: {}; stopped by the IOMMU: {}",
            self.stopped, self.restarts, self.faults
        )?;
        write!(out, "  memory compared with the specification: {} times, {} slots in all", self.compared, self.slots)
    }
}
