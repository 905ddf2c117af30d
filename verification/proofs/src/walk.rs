//! Walks through the executable specification, random and exhaustive, each step of which is checked.

use crate::correspondence::{Checked, Drift, check_state, check_step, check_unchanged};
use crate::witness::Step;
use cap_spec::abi::Label;
use cap_spec::machine::State;
use lockstep::campaign::start;
use lockstep::generate;
use lockstep::random::Random;
use lockstep::script;
use lockstep::system::{CORES, Pace, System};
use std::collections::BTreeMap;

/// Steps of one sequence: short ones, as small states are checked faster and are not less telling.
const LENGTH: usize = 150;

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
            Checked::Done(name) => *self.done.entry(name).or_default() += 1,
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
