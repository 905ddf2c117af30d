//! `cargo xtask conform`: scenarios and hostile guests in the emulator, and what their kernel did against the
//! specification (`verification/conform`).

mod mistakes;
mod traced;

use crate::boot::Guest;
use crate::emulator::{Acceleration, Config};
use crate::run_state::RunState;
use crate::scenario::Overrides;
use crate::{build, interrupt, paths, run, scenario, setup, turn};
use anyhow::{Context, Result, bail, ensure};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use conform::{Divergence, Statistics};
use mistakes::Mistake;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Wall time after which a run counts as hung.
const TIMEOUT: Duration = Duration::from_secs(1800);
/// Numbers of cores that everything is run with.
const CORES: [u16; 2] = [2, 4];

/// A run, and what it has in it at least on each number of cores: so that none that did next to nothing is taken for good.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    name: &'a str,
    invocations: u64,
    /// Deletes and Revokes that ended well.
    taken: u64,
    /// Times that another core called next.
    turns: u64,
}

impl<'a> Run<'a> {
    const fn new(name: &'a str, invocations: u64, taken: u64, turns: u64) -> Run<'a> {
        Run { name, invocations, taken, turns }
    }
}

/// What is run if nothing is named.
const SHORT: [Run<'static>; 2] = [Run::new("tiny", 8_000, 40, 0), Run::new("hostile/random/3000/1", 10_000, 50, 20)];
/// What is run with `--full`.
const LONG: [Run<'static>; 10] = [
    Run::new("hostile/random/50000/2", 20_000, 80, 300),
    Run::new("hostile/random/50000/3", 20_000, 80, 300),
    Run::new("hostile/revoke-base", 8_000, 40, 1),
    Run::new("hostile/cnodes", 8_000, 40, 1),
    Run::new("hostile/exhaust", 8_000, 40, 1),
    Run::new("hostile/grants/300", 8_000, 150, 100),
    Run::new("hostile/delete-everything", 8_000, 40, 1),
    Run::new("hostile/stop", 8_000, 40, 1),
    Run::new("hostile/no-upcall", 8_000, 40, 1),
    Run::new("hostile/triple-fault", 8_000, 40, 1),
];

/// What `cargo xtask conform` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scenarios, `hostile/ATTACK/ARGUMENT...`, or images that become the root VM; none: the usual ones.
    pub names: Vec<String>,
    /// The long tier instead.
    pub full: bool,
    /// Put mistakes into what a machine tells, instead, and see that each is found.
    pub mistakes: bool,
    /// Cores, instead of 2 and of 4.
    pub cores: Option<u16>,
    /// How instructions are executed.
    pub acceleration: Acceleration,
}

/// Runs them, one after the other, and tells what that has established.
///
/// # Errors
/// When one can't be run, or its kernel does something else than the specification.
pub fn conform(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let tools = setup::ensure()?;
    let Some(_turn) = turn::wait()? else { bail!("interrupted before the boot") };
    let folder = paths::run_folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if options.mistakes {
        return Mistake::ALL.into_iter().try_for_each(|mistake| put_in(mistake, &tools, options, &folder));
    }
    let named: Vec<Run<'_>>;
    let (is_whole, runs): (bool, &[Run<'_>]) = match options {
        Options { names, .. } if !names.is_empty() => {
            named = names.iter().map(|name| Run::new(name, 0, 0, 0)).collect();
            (false, &named)
        }
        Options { full: true, .. } => (true, &LONG),
        _ => (true, &SHORT),
    };
    for cores in options.cores.map_or(CORES.to_vec(), |cores| vec![cores]) {
        for run in runs {
            let begun = Instant::now();
            let machine = machine(run.name, cores, options.acceleration, &folder)?;
            let replay = traced::run(&tools, machine, &folder, TIMEOUT, None);
            let replay = replay.with_context(|| format!("{} on {cores} cores", run.name))?;
            say!("{} on {cores} cores, {:.0} s:\n{}", run.name, begun.elapsed().as_secs_f64(), replay.statistics);
            has_enough(run, &replay.statistics).with_context(|| format!("{} on {cores} cores", run.name))?;
        }
        if is_whole && options.cores.is_none() {
            claim(cores, options.full, runs);
        }
    }
    Ok(())
}

/// True if a run has in it what it must have.
fn has_enough(run: &Run<'_>, found: &Statistics) -> Result<()> {
    let counts = [
        ("invocations", found.invocations(), run.invocations),
        ("Deletes and Revokes", found.taken, run.taken),
        ("times that another core called next", found.turns, run.turns),
        ("cores that called", found.callers.len() as u64, if run.turns == 0 { 1 } else { 2 }),
        ("stops as a ring was full", found.full, u64::from(run.invocations != 0)),
    ];
    for (what, count, least) in counts {
        ensure!(count >= least, "it shows next to nothing: {count} {what}, not {least}");
    }
    Ok(())
}

/// Runs a machine with a mistake put in, which must be found where it stands.
fn put_in(mistake: Mistake, tools: &setup::Tools, options: &Options, folder: &Path) -> Result<()> {
    let begun = Instant::now();
    let name = SHORT[0].name;
    let machine = machine(name, CORES[0], options.acceleration, folder)?;
    match traced::run(tools, machine, folder, TIMEOUT, Some(mistake)) {
        Ok(_) => bail!("{name} has ended before this could be put in: {}", mistake.about()),
        // So is every mistake that was found where it stands, and nothing else.
        Err(error) => match error.downcast::<Divergence>() {
            Ok(found) => {
                let (at, seconds) = (found.at + 1, begun.elapsed().as_secs_f64());
                say!("{}: the first {at} records show it, {seconds:.0} s: {}", mistake.about(), found.what);
                Ok(())
            }
            Err(error) => Err(error.context(mistake.about())),
        },
    }
}

/// The machine of a run, and what its records tell.
fn machine(name: &str, cores: u16, acceleration: Acceleration, folder: &Path) -> Result<(Config, RunState)> {
    let (scenario, attack) = match name.split_once('/') {
        Some((scenario @ "hostile", attack)) => (scenario, Some(attack)),
        _ => (name, None),
    };
    if !Path::new(scenario).is_file()
        && build::guest_packages()?.iter().any(|package| package.programs.iter().any(|program| program == name))
    {
        let built = build::build(&[name])?;
        let guest = Guest { cores, acceleration, ..Guest::new(name) };
        return Ok((guest.config(&built, &folder.join("boot.module"))?, RunState::bare()));
    }
    let file = run::scenario_file(Some(Path::new(scenario)))?;
    let mut sets = vec![format!("machine.cores={cores}")];
    if let Some(attack) = attack {
        // The attacker on the last core, from the start, and the victim's work shorter. A core that waits for the emulator
        // to stop it and all others takes time from them, the more the busier the host is: the victim does not judge that.
        let arguments: Vec<&str> = attack.split('/').collect();
        sets.extend([
            format!("app.hostile.args={arguments:?}"),
            format!("app.hostile.core={}", cores - 1),
            "app.hostile.starts=true".into(),
            "app.victim.args=[\"200\", \"0\"]".into(),
        ]);
    }
    let overrides = Overrides { sets, ..Overrides::default() };
    let scenario = scenario::load(&file, &overrides, &run::application_images()?)?;
    ensure!(
        !scenario.has_nic() && !scenario.has_storage(),
        "{name} has devices, which the replay does not know yet: leave out [network] and [storage]"
    );
    let built = run::build_for(&scenario)?;
    Ok((run::config(&scenario, &built, acceleration, folder, &[])?, RunState::new(&scenario)))
}

/// Tells what the runs have established, in figures that hold for each repetition.
fn claim(cores: u16, full: bool, runs: &[Run<'_>]) {
    let sum = |of: fn(&Run<'_>) -> u64| claims::progress::thousands(runs.iter().map(of).sum::<u64>() as usize);
    let (invocations, taken, turns) = (sum(|run| run.invocations), sum(|run| run.taken), sum(|run| run.turns));
    Established {
        check: format!("conform-{cores}-cores{}", if full { "-long" } else { "" }),
        property: String::new(),
        tier: Tier::Tested,
        tool: "replay of the kernel's trace".into(),
        bound: format!(
            "{} runs: at least {invocations} invocations, {turns} times from another core than the one before; all of \
             memory after each of at least {taken} Deletes and Revokes, where one was preempted, and in the end",
            runs.len()
        ),
        of: format!("machine of {cores} cores, SVM"),
    }
    .tell_all(&[Property::Refinement, Property::RevokeComplete, Property::EntriesBacked]);
}
