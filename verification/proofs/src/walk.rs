//! Walks through the executable specification, random and exhaustive, each step of which is checked.

use crate::correspondence::{Checked, Drift, check_state, check_step, check_unchanged};
use crate::witness::Step;
use cap_spec::abi::Label;
use cap_spec::machine::State;
use lockstep::campaign::start;
use lockstep::exhaustive::worlds;
use lockstep::generate;
use lockstep::random::Random;
use lockstep::script;
use lockstep::system::{CORES, Pace, System};
use std::collections::{BTreeMap, HashSet};

/// Steps of one sequence: long enough for a domain with tables and frames, short enough that states stay small.
const LENGTH: usize = 500;

/// Seeds of threads are at most this far apart.
const APART: u64 = 1 << 32;

/// What was walked.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    /// Steps, those included that were refused.
    pub steps: usize,
    /// Steps that were done, by operation; under no name those that change nothing.
    pub done: BTreeMap<Option<&'static str>, usize>,
    /// Labels that succeeded, how often.
    pub labels: BTreeMap<Label, usize>,
    /// Steps whose states are too large for structures.
    pub too_large: usize,
}

impl Walked {
    /// Takes over what was walked elsewhere.
    pub fn add(&mut self, other: Walked) {
        self.steps += other.steps;
        self.too_large += other.too_large;
        other.done.into_iter().for_each(|(name, count)| *self.done.entry(name).or_default() += count);
        other.labels.into_iter().for_each(|(label, count)| *self.labels.entry(label).or_default() += count);
    }

    /// Steps that were found to be those of the formulas.
    pub fn agreed(&self) -> usize {
        self.done.values().sum()
    }

    fn see(&mut self, checked: Checked) {
        match checked {
            Checked::Done(operation) => *self.done.entry(operation.map(|operation| operation.name)).or_default() += 1,
            Checked::TooLarge => self.too_large += 1,
        }
    }

    /// One step of a system.
    fn step(&mut self, system: &mut System, step: script::Step) -> Result<(), Drift> {
        let before: State = system.spec.clone();
        let invoked = match step {
            script::Step::Invoke(core, call) => system.current(core % CORES).map(|invoker| (invoker, call)),
            _ => None,
        };
        let answer = system.step(step).map_err(|divergence| Drift(divergence.0))?;
        self.steps += 1;
        match (invoked, answer) {
            (Some((invoker, call)), Some((label, Ok(_)))) => {
                *self.labels.entry(label).or_default() += 1;
                let step = Step { before: &before, after: &system.spec, invoker, call, label };
                self.see(check_step(&step)?);
            }
            (Some(_), _) => {}
            (None, _) => self.see(check_unchanged(&before, &system.spec)?),
        }
        Ok(())
    }
}

/// Random sequences on several threads, which share the steps.
///
/// # Errors
/// The first that fails, of the first thread that has one.
///
/// # Panics
/// When a thread does.
pub fn random_on_threads(seed: u64, steps: usize, threads: usize) -> Result<Walked, String> {
    std::thread::scope(|scope| {
        let walk = |number: usize| move || random(seed + number as u64 * APART, steps.div_ceil(threads));
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(walk(number))).collect();
        threads.into_iter().try_fold(Walked::default(), |mut walked, thread| {
            walked.add(thread.join().expect("a walk does not panic")?);
            Ok(walked)
        })
    })
}

/// Every sequence of these steps, from the state after `start`, to at most `length` steps; states that are equal are
/// followed once.
///
/// # Errors
/// The steps of the sequence that fails, and what parts.
pub fn exhaustive(start: &[script::Step], steps: &[script::Step], length: usize) -> Result<Walked, String> {
    let mut walked = Walked::default();
    let mut begin = System::small();
    for step in start {
        begin.step(*step).map_err(|divergence| divergence.0)?;
    }
    let mut known = HashSet::from([begin.spec.clone()]);
    let mut edge = vec![(Vec::new(), begin)];
    for _ in 0..length {
        let mut next = Vec::new();
        for (path, system) in &edge {
            for step in steps {
                let mut successor = system.clone();
                let path: Vec<script::Step> = path.iter().chain([step]).copied().collect();
                walked.step(&mut successor, *step).map_err(|drift| failed(&[start, &path].concat(), &drift))?;
                if known.insert(successor.spec.clone()) {
                    next.push((path, successor));
                }
            }
        }
        edge = next;
    }
    Ok(walked)
}

/// The small worlds of lock-step, to this length.
///
/// # Errors
/// As [`exhaustive`].
pub fn small_worlds(length: usize) -> Result<Walked, String> {
    worlds().into_iter().try_fold(Walked::default(), |mut walked, world| {
        walked.add(exhaustive(&world.start, &world.steps, length)?);
        Ok(walked)
    })
}

/// A walk that fails: how it came to that, and what parts.
fn failed(steps: &[script::Step], drift: &Drift) -> String {
    format!("after\n{}{}", script::print(steps), drift.0)
}

/// Random sequences from this seed on, until so many steps have been taken.
///
/// # Errors
/// The steps of the sequence that fails, and what parts.
pub fn random(seed: u64, steps: usize) -> Result<Walked, String> {
    let mut walked = Walked::default();
    let mut seed = seed;
    while walked.steps < steps {
        let mut random = Random::new(seed);
        let mut system = System::small().at_pace(Pace::LONG);
        let mut start = start(seed, &mut random).into_iter();
        let mut taken = Vec::new();
        check_state(&system.spec).map_err(|drift| failed(&taken, &drift))?;
        for _ in 0..LENGTH {
            let Some(step) = start.next().or_else(|| generate::step(&system, &mut random)) else { break };
            taken.push(step);
            walked.step(&mut system, step).map_err(|drift| failed(&taken, &drift))?;
        }
        seed += 1;
    }
    Ok(walked)
}
