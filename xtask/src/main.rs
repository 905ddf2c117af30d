//! `cargo xtask`: the command line of [`xtask`].

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use xtask::scenario::{Overrides, Refused};
use xtask::{build, run, setup};

/// Every developer command of the nonkernel.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: QEMU 10 or later, the Rust target, clippy and rustfmt.
    Setup,
    /// Build the kernel, the servers, the applications and the test guests.
    Build,
    /// Build, and write the boot module of a scenario for use with another emulator or machine.
    Image(ImageArguments),
    /// Run a scenario: set up, build, boot, show it live, and leave the results in target/run/.
    Run(RunArguments),
}

#[derive(Args)]
struct ScenarioArguments {
    /// A scenario file, or the name of one in scenarios/ (default: default).
    scenario: Option<PathBuf>,
    /// Give an application this file as its input; @sources is the repository's own sources as one archive.
    #[arg(long, value_name = "APP=FILE")]
    input: Vec<String>,
    /// Change a key of the scenario, such as app.cache.valuation=2e-9, page.reserve=0.01 or machine.memory=1GiB.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// Something that happens at a time, such as 5s=shock:cache, 500ms=kill:digest, 2s=start:hostile,
    /// 3s=value+:cache, 3s=value-:cache, 3s=value:cache:2.5, 4s=topup:cache:0.1.
    #[arg(long, value_name = "T=KEY")]
    event: Vec<String>,
}

impl ScenarioArguments {
    fn overrides(&self) -> Overrides {
        Overrides { inputs: self.input.clone(), sets: self.set.clone(), events: self.event.clone(), seed: self.seed }
    }
}

#[derive(Args)]
struct ImageArguments {
    #[command(flatten)]
    scenario: ScenarioArguments,
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    scenario: ScenarioArguments,
    /// Print one JSON object a line (schema: docs/result.md).
    #[arg(long)]
    json: bool,
    /// Print plain lines even on a terminal.
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    /// Wall time in seconds after which the run counts as hung.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            // A scenario that is refused is the user's error, like a wrong argument.
            ExitCode::from(if error.is::<Refused>() { 2 } else { 1 })
        }
    }
}

fn execute(command: Command) -> Result<u8> {
    match command {
        Command::Setup => setup::setup().map(|()| 0),
        Command::Build => {
            setup::ensure()?;
            let built = build::build()?;
            println!("kernel: {}", xtask::paths::shown(&built.kernel));
            for (name, path) in &built.images {
                let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
                println!("image {name}: {} ({bytes} bytes)", xtask::paths::shown(path));
            }
            Ok(0)
        }
        Command::Image(arguments) => run::image(&arguments.scenario.file()?, &arguments.scenario.overrides()),
        Command::Run(arguments) => run::run(&run::Options {
            scenario: arguments.scenario.file()?,
            overrides: arguments.scenario.overrides(),
            json: arguments.json,
            plain: arguments.plain,
            timeout: Duration::from_secs(arguments.timeout),
        }),
    }
}

impl ScenarioArguments {
    fn file(&self) -> Result<PathBuf> {
        run::scenario_file(self.scenario.as_deref())
    }
}
