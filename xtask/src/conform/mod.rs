//! `cargo xtask conform`: scenarios and hostile guests in the emulator, and what their kernel did against the
//! specification (`verification/conform`).

mod traced;

use crate::boot::Guest;
use crate::emulator::{Acceleration, Config};
use crate::run_state::RunState;
use crate::scenario::Overrides;
use crate::{build, interrupt, paths, run, scenario, setup, turn};
use anyhow::{Context, Result, bail, ensure};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use conform::Statistics;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Wall time after which a run counts as hung.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Numbers of cores that everything is run with.
const CORES: [u16; 2] = [2, 4];
/// What is run if nothing is named.
const USUAL: [&str; 3] = ["tiny", "hostile/random", "hostile/revoke-base"];
/// What is run besides with `--full`.
const FURTHER: [&str; 8] = [
    "batch",
    "hostile/cnodes",
    "hostile/exhaust",
    "hostile/grants",
    "hostile/delete-everything",
    "hostile/stop",
    "hostile/no-upcall",
    "hostile/triple-fault",
];

/// What `cargo xtask conform` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scenarios, `hostile/ATTACK`, or images that become the root VM; none: the usual ones.
    pub names: Vec<String>,
    /// The long tier.
    pub full: bool,
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
    let is_usual = options.names.is_empty();
    let names: Vec<&str> = match is_usual {
        false => options.names.iter().map(String::as_str).collect(),
        true if options.full => USUAL.into_iter().chain(FURTHER).collect(),
        true => USUAL.into(),
    };
    for cores in options.cores.map_or(CORES.to_vec(), |cores| vec![cores]) {
        let mut total = Statistics::default();
        for name in &names {
            let begun = Instant::now();
            let (config, state) = machine(name, cores, options.acceleration, &folder)?;
            let replay = traced::run(&tools, config, state, &folder, TIMEOUT);
            let replay = replay.with_context(|| format!("{name} on {cores} cores"))?;
            say!("{name} on {cores} cores, {:.0} s:\n{}", begun.elapsed().as_secs_f64(), replay.statistics);
            total.add(&replay.statistics);
        }
        if is_usual && options.cores.is_none() {
            claim(cores, options.full, &names, &total)?;
        }
    }
    Ok(())
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
        // The attacker on the last core, from the start, and the victim's work shorter.
        sets.extend([
            format!("app.hostile.args=[{attack:?}]"),
            format!("app.hostile.core={}", cores - 1),
            "app.hostile.starts=true".into(),
            format!("app.victim.args=[\"200\", \"{cores}\"]"),
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
fn claim(cores: u16, full: bool, names: &[&str], total: &Statistics) -> Result<()> {
    // Several cores take turns at events of the host: the last digits of these figures differ from run to run.
    let stable = |count: u64| match count.checked_ilog10() {
        Some(digits) if digits > 0 => count / 10u64.pow(digits) * 10u64.pow(digits),
        _ => 0,
    };
    let (invocations, taken) = (stable(total.invocations()), stable(total.taken));
    ensure!(invocations >= 1_000 && taken >= 10, "these runs show next to nothing: {invocations} invocations");
    let tier = if full { "-full" } else { "" };
    let runs = names.len();
    Established {
        check: format!("conform-{cores}-cores{tier}"),
        property: String::new(),
        tier: Tier::Tested,
        tool: "replay of the kernel's trace".into(),
        bound: format!(
            "{runs} runs, over {invocations} invocations; all of memory after each of over {taken} Deletes and Revokes"
        ),
        of: format!("machine of {cores} cores, SVM"),
    }
    .tell_all(&[Property::Refinement, Property::RevokeComplete, Property::EntriesBacked]);
    Ok(())
}
