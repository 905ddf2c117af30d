//! Random sequences, and what to do with one that fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use cap_spec::abi::Label;

use crate::generate;
use crate::mutants::Mutant;
use crate::pairs::Seen;
use crate::random::Random;
use crate::script::{self, Step};
use crate::system::{Divergence, Pace, System};

/// Steps of one sequence at most.
const LENGTH: usize = 1_000;
/// The first seeds of two threads are this far apart.
const APART: u64 = 1 << 32;
/// Of so many steps each label succeeds once at least, or it can't be said to have been tried.
const RAREST: usize = 100_000;

/// What a campaign has done.
#[derive(Debug, Default)]
pub struct Report {
    /// Steps taken.
    pub steps: usize,
    /// Invocations that were not refused, by label.
    pub done: BTreeMap<Label, usize>,
    /// Errors that were seen.
    pub seen: Seen,
}

impl Report {
    /// Takes over what another campaign did.
    pub fn add(&mut self, other: Report) {
        self.steps += other.steps;
        for (label, count) in other.done {
            *self.done.entry(label).or_default() += count;
        }
        self.seen.add(other.seen);
    }

    /// Labels that succeeded too rarely to say that they were tried.
    pub fn hardly_tried(&self) -> Vec<Label> {
        let done = |label: &Label| self.done.get(label).copied().unwrap_or(0);
        let labels = cap_spec::spec::LABELS.iter().map(|spec| spec.label);
        labels.filter(|label| done(label) < self.steps / RAREST).collect()
    }
}

/// A sequence on which the machines part.
#[derive(Debug)]
pub struct Failure {
    /// The seed of the sequence.
    pub seed: u64,
    /// The sequence, shrunk.
    pub steps: Vec<Step>,
    /// What differs after its last step.
    pub divergence: Divergence,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "# seed {:#x}, {} steps:\n{}", self.seed, self.steps.len(), script::print(&self.steps))?;
        write!(out, "{}", self.divergence)
    }
}

/// Runs random sequences until `steps` steps have been taken, the first with seed `seed`, against the kernel with a bug or
/// without.
///
/// # Errors
/// The first sequence that fails, shrunk.
pub fn run(seed: u64, steps: usize, mutant: Option<Mutant>) -> Result<Report, Box<Failure>> {
    run_counted(seed, steps, mutant, &AtomicUsize::new(0))
}

fn run_counted(
    mut seed: u64,
    steps: usize,
    mutant: Option<Mutant>,
    counted: &AtomicUsize,
) -> Result<Report, Box<Failure>> {
    let mut report = Report::default();
    while report.steps < steps {
        let mut taken = Vec::new();
        let length = LENGTH.min(steps - report.steps);
        if let Err(divergence) = sequence(seed, length, mutant, &mut taken, &mut report) {
            let (steps, divergence) = shrink(taken, divergence, mutant);
            return Err(Box::new(Failure { seed, steps, divergence }));
        }
        counted.fetch_add(taken.len(), Ordering::Relaxed);
        seed += 1;
    }
    Ok(report)
}

/// [`run`] on several threads, which share the steps; `taken` says how many there have been so far.
///
/// # Errors
/// The first sequence that fails in the first thread that has one.
///
/// # Panics
/// When the kernel or the specification does.
pub fn run_on_threads(seed: u64, steps: usize, threads: u64, taken: &AtomicUsize) -> Result<Report, Box<Failure>> {
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let share = steps.div_ceil(threads as usize);
        let run = |number| move || run_counted(seed + number * APART, share, None, taken);
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(run(number))).collect();
        for thread in threads {
            report.add(thread.join().expect("neither machine panics")?);
        }
        Ok(report)
    })
}

/// How the sequence of this seed begins: with a tenant in some stage of its making, with knots, or with nothing.
pub fn start(seed: u64, random: &mut Random) -> Vec<Step> {
    let core = random.below(2) as u8;
    let mut start = match seed % 7 {
        0 => Vec::new(),
        1 => script::build_tenant(core),
        2 => [script::build_tenant(core), script::hand_over()].concat(),
        3 | 4 => script::launched_tenant(core),
        5 => (0..4).flat_map(|_| script::knot(random)).collect(),
        _ => {
            let threats = script::threats();
            let threat = threats[random.below(threats.len())].clone();
            [script::build_tenant(core), threat, script::hand_over(), script::launch().to_vec()].concat()
        }
    };
    // Some starts lack a step, so that what depends on it is refused.
    if !start.is_empty() && random.one_in(4) {
        start.remove(random.below(start.len()));
    }
    start
}

/// One random sequence; `steps` are those taken.
fn sequence(
    seed: u64,
    length: usize,
    mutant: Option<Mutant>,
    steps: &mut Vec<Step>,
    report: &mut Report,
) -> Result<(), Divergence> {
    let mut random = Random::new(seed);
    let mut system = System::new(mutant).at_pace(Pace::LONG);
    let mut start = start(seed, &mut random).into_iter();
    for _ in 0..length {
        let Some(step) = start.next().or_else(|| generate::step(&system, &mut random)) else { break };
        steps.push(step);
        report.steps += 1;
        if let Some((label, reply)) = system.step(step)? {
            match reply {
                Ok(_) => *report.done.entry(label).or_default() += 1,
                Err(fault) => report.seen.insert(label, fault.error),
            }
        }
    }
    Ok(())
}

/// Takes the steps one after the other.
///
/// # Errors
/// What differs first, and after how many steps.
pub fn replay(steps: &[Step], mutant: Option<Mutant>) -> Result<(), (usize, Divergence)> {
    let mut system = System::new(mutant);
    for (at, step) in steps.iter().enumerate() {
        system.step(*step).map_err(|divergence| (at + 1, divergence))?;
    }
    Ok(())
}

/// Leaves out every step without which the sequence still fails: first large pieces, then smaller ones.
fn shrink(mut steps: Vec<Step>, mut divergence: Divergence, mutant: Option<Mutant>) -> (Vec<Step>, Divergence) {
    let mut piece = steps.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut shorter = steps.clone();
            shorter.drain(at..(at + piece).min(steps.len()));
            match replay(&shorter, mutant) {
                Err((length, found)) => {
                    shorter.truncate(length);
                    steps = shorter;
                    divergence = found;
                }
                Ok(()) => at += piece,
            }
        }
        piece /= 2;
    }
    (steps, divergence)
}
