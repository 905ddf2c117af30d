//! `cargo xtask conform`: scenarios and hostile guests in the emulator, and what their kernel did against the
//! specification (`verification/conform`).

mod traced;

use crate::emulator::Acceleration;
use crate::run_state::RunState;
use crate::scenario::Overrides;
use crate::{interrupt, paths, run, scenario, setup, turn};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Wall time after which a run counts as hung.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What `cargo xtask conform` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scenarios.
    pub names: Vec<PathBuf>,
    /// Cores, instead of 2 and of 4.
    pub cores: Option<u16>,
    /// How instructions are executed.
    pub acceleration: Acceleration,
}

/// Runs them, one after the other.
///
/// # Errors
/// When one can't be run, or its kernel does something else than the specification.
pub fn conform(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let tools = setup::ensure()?;
    let Some(_turn) = turn::wait()? else { bail!("interrupted before the boot") };
    let folder = paths::run_folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in &options.names {
        let file = run::scenario_file(Some(name))?;
        let sets = options.cores.map(|cores| format!("machine.cores={cores}")).into_iter().collect();
        let overrides = Overrides { sets, ..Overrides::default() };
        let scenario = scenario::load(&file, &overrides, &run::application_images()?)?;
        let built = run::build_for(&scenario)?;
        let config = run::config(&scenario, &built, options.acceleration, &folder, &[])?;
        say!("{}: {} cores", name.display(), scenario.cores);
        let replay = traced::run(&tools, config, RunState::new(&scenario), &folder, TIMEOUT)?;
        say!("{}", replay.statistics);
    }
    Ok(())
}
