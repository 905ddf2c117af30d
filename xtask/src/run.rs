//! `cargo xtask run`: one scenario from its file to its results.

use crate::build::{self, Built};
use crate::emulator::{Acceleration, Config, Loader};
use crate::network::{self, Forward};
use crate::pace::Lag;
use crate::run_state::RunState;
use crate::scenario::events::ONE_PPM;
use crate::scenario::{self, Overrides, Refused, Scenario};
use crate::session::{Seen, Session};
use crate::view::{Json, Plain, View, Wish};
use crate::{image, interrupt, paths, report, room, setup, turn};
use anyhow::{Context, Result};
use proto::host::Command;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a view is asked for wishes.
const TICK: Duration = Duration::from_millis(50);
/// Wall time after which a run counts as hung.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long a run has for ending in good order once it is told to.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What `cargo xtask run` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scenario file.
    pub scenario: PathBuf,
    /// Changes to it.
    pub overrides: Overrides,
    /// One JSON object a line.
    pub json: bool,
    /// Plain lines even on a terminal.
    pub plain: bool,
    /// Keep what serves clients up until the user ends the run.
    pub serve: bool,
    /// Wall time after which the run counts as hung, if it is not the usual one.
    pub timeout: Option<Duration>,
}

/// Exit status of an interrupted program, by convention.
const INTERRUPTED: u8 = 130;

/// Runs a scenario. Returns the exit status.
///
/// # Errors
/// When the scenario is refused, the build fails or the emulator can't be started.
pub fn run(options: &Options) -> Result<u8> {
    interrupt::catch()?;
    let remark = |text: &str| if options.json { tell!("{text}") } else { say!("{text}") };
    let tools = setup::ensure()?;
    // The scenario is checked before anything is built.
    let mut scenario = scenario::load(&options.scenario, &options.overrides, &application_images()?)?;
    if options.serve {
        scenario.serve()?;
    }
    let interrupted = || {
        tell!("error: interrupted before the boot");
        Ok(INTERRUPTED)
    };
    // Images are written too, so that it is this run's turn from here on.
    let Some(_turn) = turn::wait()? else { return interrupted() };
    let built = build_for(&scenario)?;
    if interrupt::count() > 0 {
        return interrupted();
    }
    let module = module(&scenario, &built)?;
    let folder = paths::run_folder();
    // What an earlier run left must not be taken for this one's. A run that is refused leaves it alone.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (acceleration, why) = if options.serve { Acceleration::for_clients() } else { Acceleration::choose() };
    remark(&why);
    remark(&format!(
        "machine: {} cores, {} MiB; scenario {}: {}",
        scenario.cores,
        scenario.memory_mib,
        paths::shown(&options.scenario),
        scenario.title
    ));
    if options.json {
        say!("{}", report::json::terms(&scenario.plan));
    } else {
        say!("{}", scenario.terms());
    }
    let forwards = network::forwards(&scenario)?;
    let config = machine(&scenario, &built, acceleration, &folder, &module, &forwards)?;
    forwards.iter().for_each(|forward| remark(&forward.describe(&scenario, &forwards)));
    let log = folder.join("console.log");
    let mut session = Session::start(&tools, &config, RunState::new(&scenario), Some(&log))?;
    let mut view: Box<dyn View> = match (options.json, options.plain || !std::io::stdout().is_terminal()) {
        (true, _) => Box::new(Json),
        (false, true) => Box::new(Plain::new()),
        (false, false) => Box::new(crate::display::Display::open(&scenario)?),
    };
    let timeout = options.timeout.or((!options.serve).then_some(TIMEOUT));
    let outcome = watch(&mut session, view.as_mut(), &scenario, timeout, options.serve);
    view.close();
    let stopped = outcome?;
    let mut failure = stopped.failure.or_else(|| session.failure());
    if stopped.by_user && session.ended_when_told() {
        // What was asked for is no failure; an interrupted run is not a whole one, though, unless it is to end like that.
        let is_whole = options.serve || !stopped.interrupted;
        failure = (!is_whole).then(|| "interrupted; what it had done is reported".into());
    }
    let wall = session.elapsed().as_secs_f64();
    let shown = paths::shown(&options.scenario);
    let result = report::json::result(&session.state, &shown, scenario.plan.seed, wall, failure.as_deref());
    report::write(&session.state, &result, &folder)?;
    if options.json {
        say!("{}", serde_json::json!({ "kind": "result", "result": result }));
    } else {
        say!("\n{}", report::closing(&session.state));
        say!(
            "{:.1} s of virtual time in {wall:.1} s; results in {}",
            session.state.now as f64 / 1e6,
            paths::shown(&folder)
        );
    }
    for event in session.state.missed_events() {
        remark(&format!("event {event} did not happen: the run ended at {:.3} s", session.state.now as f64 / 1e6));
    }
    match failure {
        None => {
            if stopped.by_user {
                remark("ended when it was told to");
            }
            Ok(0)
        }
        Some(failure) => {
            tell!("{}\nerror: {failure}", session.last_lines());
            Ok(failed_status(stopped.interrupted, options.serve, interrupt::count()))
        }
    }
}

/// The exit status of a run with something wrong. One that serves is to end by an interrupt: what is wrong with it then is
/// something else, unless there was another one.
fn failed_status(was_interrupted: bool, serves: bool, interrupts: u32) -> u8 {
    if was_interrupted && (!serves || interrupts > 1) { INTERRUPTED } else { 1 }
}

/// Builds what a scenario needs.
///
/// # Errors
/// When a build fails.
pub fn build_for(scenario: &Scenario) -> Result<Built> {
    build::build(&programs(scenario))
}

/// The programs that run in a scenario.
pub fn programs(scenario: &Scenario) -> Vec<&str> {
    let mut programs = vec![build::ROOT_IMAGE, build::CONSOLE_IMAGE];
    if scenario.has_nic() {
        programs.push(build::NIC_IMAGE);
    }
    if scenario.has_storage() {
        programs.push(build::STORAGE_IMAGE);
    }
    programs.extend(scenario.plan.apps.iter().map(|app| app.image.as_str()));
    programs
}

/// Names of the images that a scenario's applications may have: all but the servers'.
///
/// # Errors
/// When the workspace can't be read.
pub fn application_images() -> Result<Vec<String>> {
    let programs = build::guest_packages()?.into_iter().flat_map(|package| package.programs);
    Ok(programs.filter(|name| !build::SERVER_IMAGES.contains(&name.as_str())).collect())
}

/// The boot module of a scenario.
///
/// # Errors
/// When the machine has no room for what the scenario promises, or an image is missing.
fn module(scenario: &Scenario, built: &Built) -> Result<Vec<u8>> {
    let archive = image::archive(&scenario.plan, &scenario.inputs, built)?;
    let module = image::boot_module(&built.image(build::ROOT_IMAGE)?, &archive)?;
    let kernel = fs::read(&built.kernel).with_context(|| format!("cannot read {}", built.kernel.display()))?;
    room::check(scenario, &kernel, &module, &archive)?;
    Ok(module)
}

/// The machine of a scenario, with its boot module written into `folder`, and what of the host leads to it.
///
/// # Errors
/// When the machine has no room for what the scenario promises, an image is missing or the module can't be written.
pub fn config(
    scenario: &Scenario,
    built: &Built,
    acceleration: Acceleration,
    folder: &Path,
    forwards: &[Forward],
) -> Result<Config> {
    machine(scenario, built, acceleration, folder, &module(scenario, built)?, forwards)
}

fn machine(
    scenario: &Scenario,
    built: &Built,
    acceleration: Acceleration,
    folder: &Path,
    module: &[u8],
    forwards: &[Forward],
) -> Result<Config> {
    let path = folder.join("boot.module");
    fs::write(&path, module).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Config {
        loader: Loader::Emulator,
        kernel: built.kernel.clone(),
        module: Some(path),
        command_line: String::new(),
        cores: scenario.cores,
        memory_mib: scenario.memory_mib,
        acceleration,
        extra: devices(scenario, forwards, folder)?,
    })
}

/// The devices that a scenario needs, as the emulator is told; files behind them are in `folder`.
fn devices(scenario: &Scenario, forwards: &[Forward], folder: &Path) -> Result<Vec<String>> {
    let mut devices = match (scenario.has_nic(), scenario.has_storage()) {
        (true, _) => network::devices(&network::user(forwards)),
        // The first of all devices.
        (false, true) => network::IOMMU.map(String::from).into(),
        (false, false) => Vec::new(),
    };
    devices.extend(scenario.storage.devices(folder)?);
    Ok(devices)
}

/// How watching ended.
struct Stopped {
    /// Why the run had to be stopped from outside, if it had.
    failure: Option<String>,
    /// True if the user interrupted it.
    interrupted: bool,
    /// True if the user ended it, by a key or by an interrupt.
    by_user: bool,
}

fn watch(
    session: &mut Session,
    view: &mut dyn View,
    scenario: &Scenario,
    timeout: Option<Duration>,
    serves: bool,
) -> Result<Stopped> {
    let mut ppm = vec![ONE_PPM; scenario.plan.apps.len()];
    let names: Vec<&str> = scenario.plan.apps.iter().map(|app| app.name.as_str()).collect();
    let mut ending: Option<Instant> = None;
    let mut lag = serves.then(Lag::default);
    let mut interrupted = false;
    let end = |failure: Option<String>, interrupted: bool, by_user: bool| Ok(Stopped { failure, interrupted, by_user });
    loop {
        match session.next(Instant::now() + TICK)? {
            Seen::Line(line) => view.line(&line),
            Seen::Record(record) => view.record(&session.state, &record),
            Seen::Nothing => {}
            Seen::Off => return end(None, interrupted, ending.is_some()),
        }
        // Before its first record the machine boots.
        if let Some(lag) = lag.as_mut().filter(|_| session.state.begun)
            && let Some(text) = lag.look(Instant::now(), session.state.now)
        {
            view.note(&text);
        }
        for wish in view.tick(&session.state) {
            match wish {
                Wish::Act(action) => {
                    let command = action.command(&mut ppm);
                    match session.send(&command) {
                        Ok(()) => view.note(&format!("you: {}", action.describe(&names, &ppm))),
                        Err(error) => view.note(&format!("{error:#}")),
                    }
                }
                Wish::Interrupt => interrupt::note(),
                Wish::Quit if ending.is_none() => {
                    view.note("ending the run in good order");
                    let _ = session.send(&Command::Stop);
                    ending = Some(Instant::now());
                }
                Wish::Quit => {
                    session.stop();
                    return end(Some("stopped by the user".into()), true, false);
                }
            }
        }
        match (interrupt::count(), ending) {
            (0, _) => {}
            (1, None) => {
                view.note("interrupted: ending the run in good order (once more: at once)");
                let _ = session.send(&Command::Stop);
                (ending, interrupted) = (Some(Instant::now()), true);
            }
            (1, Some(_)) => interrupted = true,
            _ => {
                session.stop();
                return end(Some("interrupted".into()), true, false);
            }
        }
        if ending.is_some_and(|since| since.elapsed() > STOP_GRACE) {
            session.stop();
            return end(Some("the machine did not end when it was told to".into()), interrupted, false);
        }
        if let Some(timeout) = timeout.filter(|timeout| session.elapsed() > *timeout) {
            session.stop();
            let seconds = timeout.as_secs();
            let failure = format!("timed out after {seconds} s (--timeout sets another limit)");
            return end(Some(failure), interrupted, false);
        }
        if session.is_stuck() {
            session.stop();
            return end(Some("the machine sent its last record and did not go off".into()), interrupted, false);
        }
    }
}

/// The scenario that a name on the command line means: a file, or a name in `scenarios/`.
///
/// # Errors
/// When there is none; the message lists what there is.
pub fn scenario_file(name: Option<&Path>) -> Result<PathBuf> {
    let folder = paths::scenarios();
    let Some(name) = name else { return Ok(folder.join("default.toml")) };
    if name.is_file() {
        return Ok(name.to_path_buf());
    }
    let shipped = folder.join(name).with_extension("toml");
    if shipped.is_file() {
        return Ok(shipped);
    }
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut known: Vec<String> =
        entries.filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned())).collect();
    known.sort();
    Err(Refused::unknown(name, &known).into())
}

/// `cargo xtask image`: a bootable disc of a scenario, in `disc` or in [`paths::images`], and how to try it.
///
/// # Errors
/// As [`run`], and when the disc can't be made.
pub fn image(file: &Path, overrides: &Overrides, disc: Option<&Path>) -> Result<u8> {
    let tools = setup::ensure()?;
    let scenario = scenario::load(file, overrides, &application_images()?)?;
    let built = build_for(&scenario)?;
    let mut config = config(&scenario, &built, Acceleration::InstructionClock, &paths::images(), &[])?;
    let module = config.module.clone().context("a scenario has a boot module")?;
    let disc = disc.map_or_else(|| paths::images().join("nonkernel.iso"), Path::to_path_buf);
    crate::disc::make(&config.kernel, &module, &config.command_line, &disc)?;
    say!("kernel: {}", paths::shown(&config.kernel));
    say!("boot module: {}", paths::shown(&module));
    say!("disc: {} (BIOS and UEFI)", paths::shown(&disc));
    config.loader = Loader::Disc { image: disc, uefi: None };
    say!("boots with: {}", crate::emulator::typed(&tools, &config));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_how_a_run_that_serves_ends_and_how_another_one_is_cut_short() {
        assert_eq!([failed_status(false, false, 0), failed_status(false, true, 0)], [1, 1]);
        assert_eq!([failed_status(true, false, 1), failed_status(true, false, 2)], [INTERRUPTED; 2]);
        assert_eq!([failed_status(true, true, 1), failed_status(true, true, 2)], [1, INTERRUPTED]);
    }
}
