//! The replay: the trace goes through the abstract machine, record by record.

mod between;
mod boot;
mod call;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use cap_spec::machine::{self as spec, Cap, Run, Slot, State, VcpuId};
use kernel::trace::{RECORDS, WORDS};
use kernel::types as k;
use lockstep::observe::{comparable, is_observed, observe};
use lockstep::system::difference;

use crate::record::{Entry, Record};
use crate::seen::Snapshot;
use crate::statistics::Statistics;
use between::Between;
use call::Open;

/// Records that a divergence repeats.
const LAST: usize = 24;
/// Comparisons at rest between two checks of the specification's invariants, which take much longer.
const CHECK_EVERY: u64 = 16;

/// Where the machine and the specification part.
#[derive(Debug)]
pub struct Divergence {
    /// What differs.
    pub what: String,
    /// The number of the last record of the shortest prefix that shows it.
    pub at: u64,
    /// The last records before, in words.
    pub last: Vec<String>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "the first {} records show it: {}", self.at + 1, self.what)?;
        write!(out, "the last of them:")?;
        self.last.iter().try_for_each(|line| write!(out, "\n  {line}"))
    }
}

impl std::error::Error for Divergence {}

/// The abstract machine on its way through a trace.
pub struct Replay {
    spec: State,
    boot: Vec<k::SlotId>,
    next: u64,
    /// What is being worked on under the lock.
    open: Option<Open>,
    /// A call was left half-way, and the memory has not been looked at since.
    left: Option<Between>,
    /// Calls that were left half-way and did not come to an end, by invoker.
    half_done: BTreeSet<VcpuId>,
    /// Vcpus that have run since their registers were last known.
    ran: BTreeSet<VcpuId>,
    /// What the boot mapped into the root VM, without capabilities.
    boot_tables: BTreeMap<spec::TableId, BTreeMap<u16, spec::Entry>>,
    last: VecDeque<Entry>,
    /// The core that called last.
    caller: Option<u8>,
    /// Comparisons at rest since the invariants were checked.
    unchecked: u64,
    /// What the run had in it so far.
    pub statistics: Statistics,
}

impl Replay {
    /// From this state on, in which this is the root VM's Vcpu.
    fn starting(spec: State, boot: Vec<k::SlotId>, vcpu: VcpuId) -> Replay {
        Replay {
            boot_tables: spec.tables.clone(),
            spec,
            boot,
            next: 0,
            open: None,
            left: None,
            half_done: BTreeSet::new(),
            ran: [vcpu].into(),
            last: VecDeque::new(),
            caller: None,
            unchecked: 0,
            statistics: Statistics::default(),
        }
    }

    /// Takes records, as they were written; they follow those taken before.
    ///
    /// # Errors
    /// The first record that the specification does not allow.
    pub fn take(&mut self, records: &[[u64; WORDS]]) -> Result<(), Divergence> {
        let mut rings = BTreeMap::<u8, usize>::new();
        for words in records {
            let taken = Entry::from_words(words).and_then(|entry| self.take_one(entry));
            let core = taken.map_err(|what| self.divergence(what))?;
            *rings.entry(core).or_default() += 1;
        }
        self.statistics.stops += 1;
        self.statistics.full += u64::from(rings.into_values().any(|count| count == RECORDS));
        Ok(())
    }

    fn divergence(&self, what: String) -> Divergence {
        let last = self.last.iter().map(Entry::to_string).collect();
        Divergence { what, at: self.next.saturating_sub(1), last }
    }

    /// Takes a record; says which core wrote it.
    fn take_one(&mut self, entry: Entry) -> Result<u8, String> {
        if entry.number != self.next {
            return Err(format!(
                "record {} is missing: {} comes after {}",
                self.next,
                entry.number,
                self.next as i64 - 1
            ));
        }
        self.next += 1;
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(entry);
        self.statistics.records += 1;
        self.statistics.cores.insert(entry.core);
        match entry.record {
            Record::Call(invoker, call) => {
                self.settle()?;
                *self.statistics.callers.entry(entry.core).or_default() += 1;
                let before = self.caller.replace(entry.core);
                self.statistics.turns += u64::from(before.is_some_and(|before| before != entry.core));
                self.open = Some(Open::call(entry, invoker, call));
            }
            Record::Return(reply) => self.returned(entry, reply)?,
            Record::Left { gone } => self.was_left(entry, gone)?,
            Record::Stopped(vcpu, _) => {
                self.settle()?;
                self.open = Some(Open::stopped(entry, vcpu));
            }
            Record::Fault(function, record) => {
                self.settle()?;
                self.open = Some(Open::fault(entry, function, record));
            }
            Record::Woken(vcpu, events) => match &mut self.open {
                Some(open) => open.woken.push((vcpu, events, entry.tsc)),
                None => self.wakes_by_itself(entry.tsc, vcpu, events)?,
            },
            Record::Events(vcpu, word) => match &mut self.open {
                // What is found later in the same work is its own doing.
                Some(open) => {
                    open.events.entry(vcpu).or_insert(word);
                }
                None => self.found_events(vcpu, word),
            },
            Record::Freed(vcpu, from) => match &mut self.open {
                Some(open) => {
                    open.freed.insert(vcpu, from);
                }
                None => return Err("time is freed by nobody".into()),
            },
            Record::Loaded(vcpu) => {
                self.settle()?;
                self.spec.holders.retain(|_, holder| *holder != entry.core);
                if let Some(vcpu) = vcpu {
                    self.spec.holders.insert(vcpu, entry.core);
                    self.ran.insert(vcpu);
                }
            }
            Record::RootStarted(vcpu, at) => {
                self.settle()?;
                spec::start_root(&mut self.spec, vcpu, at);
                self.spec.holders.remove(&vcpu);
                self.statistics.restarts += 1;
            }
        }
        Ok(entry.core)
    }

    /// A guest may have changed its event word.
    fn found_events(&mut self, vcpu: VcpuId, word: u64) {
        if let Some(vcpu) = self.spec.vcpus.get_mut(&vcpu) {
            vcpu.events = word;
        }
    }

    /// A sleeper wakes that nobody has signalled: at its deadline, or by an interrupt.
    fn wakes_by_itself(&mut self, tsc: u64, vcpu: VcpuId, events: u64) -> Result<(), String> {
        self.spec.now = tsc;
        let by_deadline = spec::expire(&mut self.spec, vcpu);
        let (woken, how) = match by_deadline {
            Some(events) => (Some(events), 1),
            None => (spec::interrupt(&mut self.spec, vcpu), 2),
        };
        match woken {
            Some(found) if found == events => self.statistics.woken[how] += 1,
            Some(found) => return Err(format!("Vcpu {:#x} must wake with events {found:#x}", vcpu.0)),
            None => return Err(format!("Vcpu {:#x} wakes, and must not", vcpu.0)),
        }
        Ok(())
    }

    /// The memory at a stop, outside of an invocation, is what the specification says. `None`: the machine was stopped
    /// within one, and there is nothing to compare.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&mut self, snapshot: &mut Snapshot<'_>) -> Result<(), Divergence> {
        if self.open.as_ref().is_some_and(Open::is_call) {
            return Ok(());
        }
        let compared = self.settle().and_then(|()| self.compare_at_rest(snapshot));
        compared.map_err(|what| self.divergence(what))
    }

    fn compare_at_rest(&mut self, snapshot: &mut Snapshot<'_>) -> Result<(), String> {
        snapshot.between = self.left.is_some() || !self.half_done.is_empty();
        let found = observe(snapshot, &self.boot, &self.spec.config)?;
        self.agree(found)
    }

    /// What memory stands for is what the specification says.
    fn agree(&mut self, mut found: State) -> Result<(), String> {
        self.statistics.compared += 1;
        self.statistics.slots += found.slots.len() as u64;
        self.adopt(&mut found);
        let left = self.left.take();
        let is_at_rest = left.is_none() && self.half_done.is_empty();
        match left {
            Some(mut between) => {
                between.adopt(&found);
                between.check(&found)?;
                self.spec = between.resume(found);
            }
            None => {
                if !is_observed(&mut self.spec, &found) {
                    return Err(difference(&comparable(&self.spec), &found));
                }
            }
        }
        // What is half done is no state of the specification: a zombie is in no slot that a capability can be in.
        self.unchecked += u64::from(is_at_rest);
        if self.unchecked == CHECK_EVERY {
            self.unchecked = 0;
            self.check_invariants()?;
        }
        Ok(())
    }

    /// What is left to the machine is taken from it.
    fn adopt(&mut self, found: &mut State) {
        found.now = self.spec.now;
        found.port_input = self.spec.port_input;
        found.periods.clone_from(&self.spec.periods);
        found.holders.clone_from(&self.spec.holders);
        self.spec.outputs.clear();
        for (id, vcpu) in &mut found.vcpus {
            let Some(expected) = self.spec.vcpus.get_mut(id) else { continue };
            vcpu.registers = expected.registers;
            expected.events = vcpu.events;
            // The kernel keeps a sleeper's deadline in the schedule, where it shows when it passes.
            if let (Run::Blocked { deadline, .. }, Run::Blocked { deadline: expected, .. }) =
                (&mut vcpu.run, expected.run)
            {
                *deadline = expected;
            }
        }
        for (slot, alternatives) in std::mem::take(&mut self.spec.choices) {
            if let (
                Some(Slot { cap: Cap::Untyped { watermark: chosen, .. }, .. }),
                Some(Slot { cap: Cap::Untyped { watermark, .. }, .. }),
            ) = (found.slots.get(&slot), self.spec.slots.get_mut(&slot))
                && alternatives.contains(chosen)
            {
                *watermark = *chosen;
            }
        }
        for (id, function) in &found.functions {
            // The clock is read within the call, whose begin and end are known.
            if let Some(expected) = self.spec.functions.get_mut(id)
                && function.ready_at <= expected.ready_at
            {
                expected.ready_at = function.ready_at;
            }
        }
    }

    /// Addresses of an entry that maps a frame, and of one that is empty beside it, in a page table of the specified state:
    /// for tests of the comparison.
    pub fn mapping_and_gap(&self) -> Option<(u64, u64)> {
        let is_leaf = |entry: &spec::Entry| matches!(entry, spec::Entry::Leaf { .. });
        comparable(&self.spec).tables.iter().rev().find_map(|(table, entries)| {
            let (leaf, _) = entries.iter().find(|(_, entry)| is_leaf(entry))?;
            let gap = (0..512).find(|index| !entries.contains_key(index))?;
            Some((table.0 + 8 * u64::from(*leaf), table.0 + 8 * u64::from(gap)))
        })
    }

    /// Addresses of a slot with a capability, and of an empty one of the same CNode: for tests of the comparison.
    pub fn slot_and_gap(&self) -> Option<(u64, u64)> {
        self.spec.cnodes.iter().rev().find_map(|(cnode, bits)| {
            let is_full = |index: &u64| self.spec.slots.contains_key(&cnode.slot(*index));
            let full = (1..1 << bits).find(is_full)?;
            let gap = (1..1 << bits).find(|index| !is_full(index))?;
            Some((cnode.slot(full).0, cnode.slot(gap).0))
        })
    }

    /// The specification's own invariants, but of what the boot has mapped into the root VM, which no capability records.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut state = self.spec.clone();
        let roots: BTreeSet<_> = state.vms.keys().map(|vm| vm.root()).collect();
        for (table, entries) in &self.boot_tables {
            if !roots.contains(table) {
                state.tables.remove(table);
            } else if let Some(found) = state.tables.get_mut(table) {
                found.retain(|index, entry| entries.get(index) != Some(entry));
            }
        }
        spec::invariants::check(&state).map_err(|broken| format!("the specification itself is broken: {broken:x?}"))
    }

    /// The trace has ended, and this is what the machine has left in memory.
    ///
    /// # Errors
    /// When it ends within a call that does not end the machine, what is in memory differs, or an invariant is broken.
    pub fn end(&mut self, snapshot: &mut Snapshot<'_>) -> Result<(), Divergence> {
        let ended = self.settle_last().and_then(|()| self.compare_at_rest(snapshot));
        let ended = ended.and_then(|()| self.check_invariants());
        ended.map_err(|what| self.divergence(what))
    }
}
