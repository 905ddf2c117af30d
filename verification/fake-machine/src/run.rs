//! A run: a seed, a number of steps, perhaps a bug; what was found.

use crate::bug::Bug;
use crate::core_loop::{Counts, World};
use crate::devices::FUNCTIONS;
use crate::hardware::{Hardware, Stage};
use crate::lines::{Delivery, Target};
use crate::machine::FakeMachine;
use crate::setup::{CORES, PAGES, ROOT_CNODE, boot};
use cap_spec::abi::{info_page, stats_page};
use kernel::check::{invariants, reservation};
use kernel::machine::{Machine, SharedPage};
use kernel::types::{VcpuId, VmId};
use kernel::vcpu::Run;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

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
pub const STEPS: u64 = 3_000;

/// What a run without findings did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kernel work.
    pub counts: Counts,
    /// Guest accesses judged.
    pub accesses: u64,
    /// Interrupts delivered.
    pub interrupts: u64,
    /// Accesses of functions judged.
    pub dma: u64,
    /// Requests of functions that the IOMMU stopped.
    pub stopped: u64,
    /// Of these, those of which the kernel took the record.
    pub told: u64,
    /// Messages of functions.
    pub messages: u64,
    /// Detachments of functions.
    pub detached: u64,
    /// Runs in which the IOMMU failed.
    pub failed: u64,
    /// Shootdowns of a core in a guest.
    pub expulsions: u64,
    /// Ticks that passed.
    pub ticks: u64,
    /// The most that a Vcpu came up short in a period.
    pub shortfall: u64,
}

impl Report {
    /// Both together.
    pub fn add(&mut self, other: &Report) {
        let Counts { done, refused, preempted, switches, restarts, short, handed_over } = other.counts;
        self.counts.done += done;
        self.counts.refused += refused;
        self.counts.preempted += preempted;
        self.counts.switches += switches;
        self.counts.restarts += restarts;
        self.counts.short += short;
        self.counts.handed_over += handed_over;
        self.accesses += other.accesses;
        self.interrupts += other.interrupts;
        self.dma += other.dma;
        self.stopped += other.stopped;
        self.told += other.told;
        self.messages += other.messages;
        self.detached += other.detached;
        self.failed += other.failed;
        self.expulsions += other.expulsions;
        self.ticks += other.ticks;
        self.shortfall = self.shortfall.max(other.shortfall);
    }
}

impl Report {
    /// What has happened too rarely in so many runs to say that it was tried: a run in which nothing happens finds nothing
    /// either.
    pub fn idle(&self, seeds: u64) -> Vec<&'static str> {
        // Of 10,000 seeds.
        let least = [
            ("invocations done", self.counts.done, 300_000),
            ("invocations refused", self.counts.refused, 300_000),
            ("preemptions", self.counts.preempted, 2_000),
            ("restarts", self.counts.restarts, 1_000),
            ("hand-overs", self.counts.handed_over, 200),
            ("shootdowns", self.expulsions, 5_000),
            ("interrupts", self.interrupts, 200_000),
            ("accesses by functions", self.dma, 300_000),
            ("requests stopped", self.stopped, 300_000),
            ("records told", self.told, 10_000),
            ("messages", self.messages, 100_000),
            ("detachments", self.detached, 10_000),
            ("failures of the IOMMU", self.failed, 50),
        ];
        let idle = least.into_iter().filter(|(_, count, least)| *count < least * seeds / 10_000);
        idle.map(|(what, ..)| what).collect()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { done, refused, preempted, switches, restarts, short, handed_over } = self.counts;
        write!(
            f,
            "{done} invocations done, {refused} refused, {preempted} preempted, {short} by the short way, {handed_over} hand-overs, {switches} switches, {} shootdowns, \
             {} accesses, {} interrupts, {} accesses and {} messages by functions, {} requests stopped, {} of them told, {} detachments, {} failures of the IOMMU, {restarts} restarts, {} ticks, \
             at most {} short in a period",
            self.expulsions,
            self.accesses,
            self.interrupts,
            self.dma,
            self.messages,
            self.stopped,
            self.told,
            self.detached,
            self.failed,
            self.ticks,
            self.shortfall
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

/// Says how to replay when the kernel panics.
struct Replay(Options);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: {}", replay(&self.0, self.0.steps));
        }
    }
}

/// Runs so many seeds from that of `options` on, on several threads; `done` says how many so far.
///
/// # Errors
/// What was found first in the first thread that has found something.
///
/// # Panics
/// When the kernel does; what to type to see it again is printed.
pub fn run_seeds(options: &Options, seeds: usize, threads: u64, done: &AtomicUsize) -> Result<Report, Failure> {
    let seeds = options.seed..options.seed.saturating_add(seeds as u64);
    std::thread::scope(|scope| {
        let share = |number: u64| {
            let mut seeds = seeds.clone().skip(number as usize).step_by(threads as usize);
            move || {
                seeds.try_fold(Report::default(), |mut total, seed| {
                    total.add(&run(&Options { seed, ..*options })?);
                    done.fetch_add(1, Ordering::Relaxed);
                    Ok(total)
                })
            }
        };
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(share(number))).collect();
        let mut total = Report::default();
        for thread in threads {
            total.add(&thread.join().expect("the kernel does not panic")?);
        }
        Ok(total)
    })
}

/// Runs a seed.
///
/// # Errors
/// The first thing that was found wrong.
pub fn run(options: &Options) -> Result<Report, Failure> {
    let _replay = Replay(*options);
    let mut hardware = Hardware::new(options.seed, PAGES, CORES, options.bug);
    // Few numbers, so that they run out often.
    let asids = 3 + hardware.random.below(3) as u32;
    let mut world = World::new(boot(FakeMachine(hardware), asids));
    world.kernel.machine.0.trace = options.trace;
    let mut delivered = Delivered::default();
    for step in 0..options.steps {
        let hardware = &mut world.kernel.machine.0;
        hardware.skip_idle_time();
        let ticks = 1 + hardware.random.below(3);
        hardware.pass(ticks);
        let core = match hardware.holder {
            Some(holder) if hardware.random.one_in(2) => holder,
            _ => hardware.random.below(CORES as u64) as usize,
        };
        world.step(core);
        check(&mut world, step, &mut delivered);
        let hardware = &mut world.kernel.machine.0;
        if let Some(text) = hardware.violation.take().or_else(|| hardware.memory.faults.pop()) {
            return Err(Failure { options: *options, step, text });
        }
    }
    let shortfall = world.kernel.machine.shared_word(SharedPage::GlobalStats, stats_page::WORST_SHORTFALL);
    if shortfall > SHORTFALL {
        let text = format!("a period came up {shortfall} ticks short");
        return Err(Failure { options: *options, step: options.steps, text });
    }
    let hardware = &world.kernel.machine.0;
    Ok(Report {
        counts: world.counts,
        accesses: hardware.accesses,
        interrupts: hardware.interrupts,
        dma: hardware.iommu.accesses,
        stopped: hardware.iommu.stopped,
        told: hardware.iommu.taken,
        messages: hardware.functions.messages,
        detached: hardware.functions.detached,
        failed: u64::from(hardware.iommu.is_dead),
        expulsions: hardware.expulsions,
        ticks: hardware.present(),
        shortfall,
    })
}

/// What must hold after every step.
fn check(world: &mut World, step: u64, delivered: &mut Delivered) {
    if let Some(text) = late_core(world)
        .or_else(|| lost_wakeup(world))
        .or_else(|| misled_function(world))
        .or_else(|| delivered.count(world))
    {
        world.kernel.machine.0.violate(text);
    }
    if step.is_multiple_of(INVARIANT_STEPS) {
        let (cnode, slots) = ROOT_CNODE;
        let faults =
            invariants(&world.kernel, cnode, slots, |machine, base, bytes| machine.0.memory.is_zero(base, bytes));
        for fault in faults {
            world.kernel.machine.0.violate(fault);
        }
    }
}

/// The time that Vcpus were in their guests, counted apart from the scheduler's books.
#[derive(Debug, Default)]
struct Delivered {
    /// When time was counted last.
    until: u64,
    /// Of each Vcpu: the end of its period, and its time in that.
    ran: BTreeMap<VcpuId, (u64, u64)>,
}

impl Delivered {
    /// Adds the time since the last step. Nobody may get more than its budget in a period, but for what a core needs to
    /// come back.
    fn count(&mut self, world: &World) -> Option<String> {
        let hardware = &world.kernel.machine.0;
        let passed = hardware.present() - std::mem::replace(&mut self.until, hardware.present());
        for core in &hardware.cores {
            let vcpu = core.run.vcpu;
            if !matches!(core.stage, Stage::Guest(_)) || !hardware.memory.has_vcpu(vcpu) {
                continue;
            }
            let Some(reservation) = reservation(&world.kernel, vcpu) else { continue };
            let ran = self.ran.entry(vcpu).or_default();
            if ran.0 != reservation.deadline.get() {
                *ran = (reservation.deadline.get(), 0);
            }
            ran.1 += passed;
            if ran.1 > reservation.budget.get() + OVERRUN {
                return Some(format!("{vcpu:?} ran for {} ticks of a budget of {:?}", ran.1, reservation.budget));
            }
        }
        None
    }
}

/// A core that should have left its guest or its halt, and has not.
fn late_core(world: &World) -> Option<String> {
    let hardware = &world.kernel.machine.0;
    let now = hardware.present();
    for (number, core) in hardware.cores.iter().enumerate() {
        if !matches!(core.stage, Stage::Enter(..) | Stage::Guest(_) | Stage::Halt(_) | Stage::Halted(_)) {
            continue;
        }
        if core.until.saturating_add(LATE) < now {
            return Some(format!("core {number} should have decided at {} and has not", core.until));
        }
        if core.called.is_some_and(|called| called + LATE < now) {
            return Some(format!("core {number} was called and does not come"));
        }
    }
    None
}

/// A Vcpu that sleeps although what it waits for has come, or that could run on a core that halts.
fn lost_wakeup(world: &World) -> Option<String> {
    let machine = &world.kernel.machine;
    for line in &machine.0.lines {
        if let (Target::Parked, Some(Delivery { core, .. }), Some((vcpu, vector)), true) =
            (line.target, line.entry, line.owner, line.called)
            && matches!(machine.0.cores[core].stage, Stage::Halted(_))
            && !machine.0.cores[core].is_called()
        {
            return Some(format!("interrupt {vector} was raised for {vcpu:?}, and core {core} halts"));
        }
    }
    for &vcpu in machine.0.guests.keys() {
        if !machine.0.memory.has_vcpu(vcpu) {
            continue;
        }
        let header = machine.0.memory.vcpu(vcpu);
        match header.run {
            Run::Stopped => {}
            Run::Blocked => {
                let events = machine.shared_word(SharedPage::Info(vcpu), info_page::EVENTS);
                if events & header.wait_mask != 0 {
                    return Some(format!("{vcpu:?} sleeps although {events:#x} has come"));
                }
            }
            Run::Runnable => {
                let core = &machine.0.cores[header.core.get() as usize];
                let left = reservation(&world.kernel, vcpu).map_or(0, |reservation| reservation.remaining.get());
                if left != 0 && core.called.is_none() && matches!(core.stage, Stage::Halted(_)) {
                    return Some(format!("{vcpu:?} has {left} ticks left and its core halts"));
                }
            }
        }
    }
    None
}

/// A function whose DMA reaches another domain than the kernel says, or one that nobody holds and that goes on.
fn misled_function(world: &World) -> Option<String> {
    let iommu = &world.kernel.machine.0.iommu;
    if iommu.is_dead {
        return None;
    }
    FUNCTIONS.into_iter().find_map(|function| {
        let (domain, ..) = world.kernel.function_state(function);
        let told = iommu.attached.get(&function).copied().unwrap_or(VmId::NONE);
        (told != domain).then(|| format!("{function:?} is attached to {domain:?}, and the IOMMU was told {told:?}"))
    })
}

/// Ticks within which a core that is called, or whose instant has come, must have left its guest or its halt.
const LATE: u64 = 400;
/// Ticks that a Vcpu may run beyond its budget in a period, because NMIs are under way and cores step late.
const OVERRUN: u64 = 200;
/// Ticks that a period of 1,000 and more may come up short, because cores step late and wait for the lock.
const SHORTFALL: u64 = 200;
/// Steps between two visits of everything.
const INVARIANT_STEPS: u64 = 500;
