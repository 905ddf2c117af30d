//! Breadth-first search: every state that a machine can reach, and a shortest path to what is wrong.
//!
//! A state is kept as 128 bits of its description and the number of the state from which it was reached first; whole
//! states are kept for the edge of the search only. So a state costs about 50 bytes, and a path is found by following it
//! once more from the start.
//!
//! Guarantees: what is wrong is found on a path as short as any; the same machine gives the same counts in each run; a
//! search that ended early says so.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::machine::{Machine, Step, Violation, fingerprint};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(5);
/// States between two looks at the clock.
const LOOK: usize = 1 << 12;

/// What a search may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States at most.
    pub states: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        // A gigabyte and a half, at 50 bytes each.
        Limits { states: 30_000_000 }
    }
}

/// How far a search has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different states.
    pub states: usize,
    /// Steps to a state, known or new.
    pub edges: usize,
    /// Events tried that were refused.
    pub refusals: usize,
    /// Steps on the longest of the shortest paths from the start.
    pub depth: usize,
}

/// A path from the start.
#[derive(Clone, Debug)]
pub struct Trace<M: Machine> {
    /// The states, the start first.
    pub states: Vec<M::State>,
    /// What led from each to the next.
    pub events: Vec<M::Event>,
}

/// How a search has ended.
#[derive(Clone, Debug)]
pub enum Ending<M: Machine> {
    /// Every state was seen, and nothing is wrong.
    Exhausted,
    /// There were more states than allowed; nothing was wrong with those seen.
    Limited,
    /// Something is wrong.
    Wrong(Violation, Trace<M>),
}

/// What a search has found.
#[derive(Clone, Debug)]
pub struct Found<M: Machine> {
    /// How it has ended.
    pub ending: Ending<M>,
    /// How far it came.
    pub counts: Counts,
    /// How long it took.
    pub time: Duration,
}

/// A fingerprint is a hash already.
#[derive(Clone, Copy, Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// The states seen: the number of each, and of the one from which each was reached first.
struct Seen {
    numbers: HashMap<u128, u32, BuildHasherDefault<Fingerprint>>,
    parents: Vec<u32>,
}

impl Seen {
    /// The number of a state that is new, reached from `parent`; `None` if it is known.
    fn add(&mut self, fingerprint: u128, parent: u32) -> Option<u32> {
        match self.numbers.entry(fingerprint) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let number = u32::try_from(self.parents.len()).expect("limits are below 2^32 states");
                vacant.insert(number);
                self.parents.push(parent);
                Some(number)
            }
        }
    }

    /// The numbers on the path to a state, the start first.
    fn path(&self, mut number: u32) -> Vec<u32> {
        let mut path = vec![number];
        while number != 0 {
            number = self.parents[number as usize];
            path.push(number);
        }
        path.reverse();
        path
    }
}

/// Explores a machine. `progress` is told now and then how far it is.
pub fn explore<M: Machine>(machine: &M, limits: Limits, progress: &mut dyn FnMut(Counts, Duration)) -> Found<M> {
    let begun = Instant::now();
    let mut told = begun;
    let mut counts = Counts::default();
    let mut seen = Seen { numbers: HashMap::default(), parents: Vec::new() };
    let mut scratch = Vec::new();
    let (mut events, mut next) = (Vec::new(), Vec::new());
    let start = machine.start();
    seen.add(fingerprint(machine, &start, &mut scratch), 0);
    counts.states = 1;
    if let Some(violation) = machine.wrong(&start) {
        let trace = Trace { states: vec![start], events: Vec::new() };
        return Found { ending: Ending::Wrong(violation, trace), counts, time: begun.elapsed() };
    }
    let mut edge = vec![(0, start)];
    let mut handled = 0_usize;
    while !edge.is_empty() {
        let mut further = Vec::new();
        for (number, state) in edge {
            handled += 1;
            if handled.is_multiple_of(LOOK) && told.elapsed() >= PROGRESS {
                told = Instant::now();
                progress(counts, begun.elapsed());
            }
            events.clear();
            machine.events(&state, &mut events);
            for event in &events {
                next.clear();
                let done = machine.next(&state, event, &mut next);
                counts.refusals += usize::from(!done);
                if next.is_empty() {
                    let step = Step { before: &state, event, done, after: &state };
                    if let Some(violation) = machine.violation(step) {
                        let mut trace = follow(machine, &seen, number);
                        trace.events.push(event.clone());
                        trace.states.push(state.clone());
                        return Found { ending: Ending::Wrong(violation, trace), counts, time: begun.elapsed() };
                    }
                }
                for after in next.drain(..) {
                    counts.edges += 1;
                    let new = seen.add(fingerprint(machine, &after, &mut scratch), number);
                    let wrong = machine.violation(Step { before: &state, event, done, after: &after });
                    let wrong = wrong.or_else(|| new.and_then(|_| machine.wrong(&after)));
                    if let Some(violation) = wrong {
                        counts.states = seen.parents.len();
                        let mut trace = follow(machine, &seen, number);
                        counts.depth = trace.events.len() + 1;
                        trace.events.push(event.clone());
                        trace.states.push(after);
                        return Found { ending: Ending::Wrong(violation, trace), counts, time: begun.elapsed() };
                    }
                    if let Some(new) = new {
                        further.push((new, after));
                    }
                }
            }
            counts.states = seen.parents.len();
            if counts.states > limits.states {
                return Found { ending: Ending::Limited, counts, time: begun.elapsed() };
            }
        }
        counts.depth += usize::from(!further.is_empty());
        edge = further;
    }
    Found { ending: Ending::Exhausted, counts, time: begun.elapsed() }
}

/// The path to a state. Events are tried in the same order as before, so that the same states are met.
fn follow<M: Machine>(machine: &M, seen: &Seen, number: u32) -> Trace<M> {
    let mut scratch = Vec::new();
    let (mut events, mut next) = (Vec::new(), Vec::new());
    let mut trace: Trace<M> = Trace { states: vec![machine.start()], events: Vec::new() };
    for wanted in seen.path(number).into_iter().skip(1) {
        let state = trace.states.last().expect("a trace has a start").clone();
        events.clear();
        machine.events(&state, &mut events);
        let mut found = None;
        for event in &events {
            next.clear();
            machine.next(&state, event, &mut next);
            for after in next.drain(..) {
                let fingerprint = fingerprint(machine, &after, &mut scratch);
                if found.is_none() && seen.numbers.get(&fingerprint) == Some(&wanted) {
                    found = Some((event.clone(), after));
                }
            }
            if found.is_some() {
                break;
            }
        }
        let (event, after) = found.expect("a state was reached by an event of the state before it");
        trace.events.push(event);
        trace.states.push(after);
    }
    trace
}

/// The most memory that this process has used so far, in bytes; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
