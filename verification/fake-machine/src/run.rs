//! A run: a seed, a number of steps, perhaps a bug; what was found.

use crate::bug::Bug;
use crate::core_loop::{Counts, World};
use crate::hardware::{Hardware, Stage};
use crate::machine::FakeMachine;
use crate::setup::{CORES, PAGES, boot};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Steps of cores.
    pub steps: u64,
    /// A bug to seed.
    pub bug: Option<Bug>,
    /// Print what happens.
    pub trace: bool,
}

/// Steps of a run if nothing else is asked for.
pub const STEPS: u64 = 1_200;

/// What a run without findings did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Kernel work.
    pub counts: Counts,
    /// Guest accesses judged.
    pub accesses: u64,
    /// Interrupts delivered.
    pub interrupts: u64,
    /// Shootdowns of a core in a guest.
    pub expulsions: u64,
    /// Ticks that passed.
    pub ticks: u64,
}

impl Report {
    /// Both together.
    pub fn add(&mut self, other: &Report) {
        let Counts { done, refused, preempted, switches, restarts } = other.counts;
        self.counts.done += done;
        self.counts.refused += refused;
        self.counts.preempted += preempted;
        self.counts.switches += switches;
        self.counts.restarts += restarts;
        self.accesses += other.accesses;
        self.interrupts += other.interrupts;
        self.expulsions += other.expulsions;
        self.ticks += other.ticks;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { done, refused, preempted, switches, restarts } = self.counts;
        write!(
            f,
            "{done} invocations done, {refused} refused, {preempted} preempted, {switches} switches, {} shootdowns, \
             {} accesses, {} interrupts, {restarts} restarts, {} ticks",
            self.expulsions, self.accesses, self.interrupts, self.ticks
        )
    }
}

/// What went wrong, and after how many steps.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub options: Options,
    /// Steps done.
    pub step: u64,
    /// What was found.
    pub text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Options { seed, .. } = self.options;
        writeln!(f, "seed {seed}, step {}: {}", self.step, self.text)?;
        write!(f, "replay: {}", replay(&self.options, self.step + 1))
    }
}

/// The command that runs a seed again, with its trace.
pub fn replay(options: &Options, steps: u64) -> String {
    let bug = options.bug.map_or(String::new(), |bug| format!(" --bug {}", bug.name()));
    format!("cargo run -p fake-machine -- --seed {} --steps {steps}{bug} --trace", options.seed)
}

/// Runs a seed.
///
/// # Errors
/// The first thing that was found wrong.
pub fn run(options: &Options) -> Result<Report, Failure> {
    let mut hardware = Hardware::new(options.seed, PAGES, CORES, options.bug);
    // Few numbers, so that they run out often.
    let asids = 3 + hardware.random.below(3) as u32;
    let mut world = World::new(boot(FakeMachine(hardware), asids));
    world.kernel.machine.0.trace = options.trace;
    for step in 0..options.steps {
        let hardware = &mut world.kernel.machine.0;
        let ticks = 1 + hardware.random.below(3);
        hardware.pass(ticks);
        let core = match hardware.holder {
            Some(holder) if hardware.random.one_in(2) => holder,
            _ => hardware.random.below(CORES as u64) as usize,
        };
        world.step(core);
        check(&mut world);
        let hardware = &mut world.kernel.machine.0;
        if let Some(text) = hardware.violation.take().or_else(|| hardware.memory.faults.pop()) {
            return Err(Failure { options: *options, step, text });
        }
    }
    let hardware = &world.kernel.machine.0;
    Ok(Report {
        counts: world.counts,
        accesses: hardware.accesses,
        interrupts: hardware.interrupts,
        expulsions: hardware.expulsions,
        ticks: hardware.present(),
    })
}

/// What must hold after every step.
fn check(world: &mut World) {
    let hardware = &world.kernel.machine.0;
    let now = hardware.present();
    let mut found = None;
    for (number, core) in hardware.cores.iter().enumerate() {
        if !matches!(core.stage, Stage::Enter(..) | Stage::Guest(_) | Stage::Halt(_) | Stage::Halted(_)) {
            continue;
        }
        if core.until.saturating_add(LATE) < now {
            found = Some(format!("core {number} should have decided at {} and has not", core.until));
        }
        if core.called.is_some_and(|called| called + LATE < now) {
            found = Some(format!("core {number} was called and does not come"));
        }
    }
    if let Some(text) = found {
        world.kernel.machine.0.violate(text);
    }
}

/// Ticks within which a core that is called, or whose instant has come, must have left its guest or its halt.
const LATE: u64 = 400;
