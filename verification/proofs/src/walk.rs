//! Walks through the executable specification, random and exhaustive, each step of which is checked.

use crate::correspondence::{Checked, Drift, check_state, check_step, check_unchanged};
use crate::witness::Step;
use cap_spec::abi::Label;
use cap_spec::machine::{Call, State, VcpuId};
use lockstep::campaign::start;
use lockstep::exhaustive::worlds;
use lockstep::generate;
use lockstep::random::Random;
use lockstep::script;
use lockstep::system::{CORES, Pace, System};
use model::machine::{Machine, fingerprint};
use model::question::Question;
use model::subject::{Situation, Subject};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

/// Steps of one sequence: long enough for a domain with tables and frames, short enough that states stay small.
const LENGTH: usize = 500;

/// Seeds of threads are at most this far apart.
const APART: u64 = 1 << 32;

/// What every invocation that was not refused is put to.
pub type Check<'a> = &'a dyn Fn(&Step) -> Result<Checked, Drift>;

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
    /// States that were followed, where every step from a state was.
    pub states: usize,
}

impl Walked {
    /// Takes over what was walked elsewhere.
    pub fn add(&mut self, other: Walked) {
        self.steps += other.steps;
        self.too_large += other.too_large;
        self.states += other.states;
        other.done.into_iter().for_each(|(name, count)| *self.done.entry(name).or_default() += count);
        other.labels.into_iter().for_each(|(label, count)| *self.labels.entry(label).or_default() += count);
    }

    /// Steps that were found to be those of the formulas.
    pub fn agreed(&self) -> usize {
        self.done.values().sum()
    }

    fn see(&mut self, checked: Checked) {
        match checked {
            Checked::Done(operation) => *self.done.entry(operation).or_default() += 1,
            Checked::TooLarge => self.too_large += 1,
        }
    }

    /// One step of a system.
    fn step(&mut self, system: &mut System, step: script::Step, check: Check<'_>) -> Result<(), Drift> {
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
                self.see(check(&step)?);
            }
            (Some(_), _) => {}
            (None, _) => self.see(check_unchanged(&before, &system.spec)?),
        }
        Ok(())
    }

    /// One step of a world of the model checker.
    fn model_step(&mut self, before: &Situation, after: &Situation, invoker: VcpuId, call: Call) -> Result<(), Drift> {
        let Some(label) = Label::from_number(call.label) else { return Ok(()) };
        *self.labels.entry(label).or_default() += 1;
        let step = Step { before: &before.state, after: &after.state, invoker, call, label };
        self.see(check_step(&step)?);
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
        let walk = |number: usize| move || random(seed + number as u64 * APART, steps.div_ceil(threads), &check_step);
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
                walked
                    .step(&mut successor, *step, &check_step)
                    .map_err(|drift| failed(&[start, &path].concat(), &drift))?;
                if known.insert(successor.spec.clone()) {
                    walked.states += 1;
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

/// The worlds of the model checker that are explored in every run, on hardware that remembers nothing.
///
/// # Errors
/// A file that cannot be read.
pub fn model_worlds() -> Result<Vec<Question>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/configurations");
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.sort();
    let questions = files.iter().map(|file| Question::read(file, true).map_err(|wrong| wrong.to_string()));
    let questions: Vec<Question> = questions.collect::<Result<_, _>>()?;
    Ok(questions.into_iter().filter(|question| !question.long && question.hardware.is_none()).collect())
}

/// Every step from every state that a world of the model checker can reach.
///
/// # Errors
/// The state and the call that fail, and what parts.
pub fn whole_world(question: Question) -> Result<Walked, String> {
    let name = question.name.clone();
    let subject = Subject::new(question, None);
    let mut walked = Walked { states: 1, ..Walked::default() };
    let mut scratch = Vec::new();
    let start = subject.start();
    check_state(&start.state).map_err(|drift| format!("{name}, at its start: {}", drift.0))?;
    let mut known = HashSet::from([fingerprint(&subject, &start, &mut scratch)]);
    let mut open = vec![start];
    let (mut events, mut next) = (Vec::new(), Vec::new());
    while let Some(before) = open.pop() {
        events.clear();
        subject.events(&before, &mut events);
        for event in &events {
            next.clear();
            let done = subject.next(&before, event, &mut next);
            walked.steps += 1;
            for after in next.drain(..) {
                if let (Some(call), true) = (event.call, done) {
                    let actor = &subject.question.actions[event.action];
                    let invoker = subject.question.parties()[actor.party].vcpu;
                    walked.model_step(&before, &after, invoker, call).map_err(|drift| {
                        format!("{name}, a state after {} steps: {invoker:?} {call:?}: {}", walked.steps, drift.0)
                    })?;
                }
                if known.insert(fingerprint(&subject, &after, &mut scratch)) {
                    walked.states += 1;
                    open.push(after);
                }
            }
        }
    }
    Ok(walked)
}

/// The same of several worlds, on several threads, each of which takes the next one when it is done.
///
/// # Errors
/// As [`whole_world`], of the first thread that has one.
///
/// # Panics
/// When a thread does.
pub fn whole_worlds(questions: Vec<Question>, threads: usize) -> Result<Walked, String> {
    let open = Mutex::new(questions);
    let next = || open.lock().expect("nobody panics with the lock").pop();
    let work = || {
        let mut walked = Walked::default();
        while let Some(question) = next() {
            let name = question.name.clone();
            let world = whole_world(question)?;
            eprintln!("formulas: every step of the {} states of {name}", world.states);
            walked.add(world);
        }
        Ok::<Walked, String>(walked)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_fold(Walked::default(), |mut all: Walked, thread| {
            all.add(thread.join().expect("a walk does not panic")?);
            Ok(all)
        })
    })
}

/// A walk that fails: how it came to that, and what parts.
fn failed(steps: &[script::Step], drift: &Drift) -> String {
    format!("after\n{}{}", script::print(steps), drift.0)
}

/// Random sequences from this seed on, until so many steps have been taken, with what else invocations are put to.
///
/// # Errors
/// The steps of the sequence that fails, and what parts.
pub fn random(seed: u64, steps: usize, check: Check<'_>) -> Result<Walked, String> {
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
            walked.step(&mut system, step, check).map_err(|drift| failed(&taken, &drift))?;
        }
        seed += 1;
    }
    Ok(walked)
}
