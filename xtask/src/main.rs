//! `cargo xtask`: the command line of [`xtask`].

#![warn(clippy::print_stdout, clippy::print_stderr)]

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use xtask::boot::Guest;
use xtask::emulator::Acceleration;
use xtask::scenario::{Overrides, Refused};
use xtask::{abi, bench, boot, build, conform, market, model, new, run, say, setup, tcb, tell, test, verify};

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
    /// Build the kernel and programs for VMs, and make flat images of them.
    Build {
        /// Programs (default: all of the servers, applications and test guests).
        program: Vec<String>,
    },
    /// Build, and write a scenario as a bootable disc (ISO image, BIOS and UEFI) for another emulator or a real machine.
    Image(ImageArguments),
    /// Run a scenario: set up, build, boot, show it live, and leave the results in target/run/.
    Run(RunArguments),
    /// Run everything that CI runs: format, lints, host tests, whole machines, bench; the last line is the result.
    Test {
        /// Only tests whose names contain this; leaves out format, lints and bench.
        filter: Option<String>,
        /// Leave out everything that needs the emulator.
        #[arg(long)]
        host_only: bool,
    },
    /// Show every claim of verification/CLAIMS.md again: the checks of the CI tier, at most ten minutes.
    Verify(VerifyArguments),
    /// Measure the kernel's operations in instructions; fail when one is more than 2 % worse than the baseline.
    Bench {
        /// Only on these machines: single, vms, cores, many, network, nvme.
        #[arg(value_name = "MACHINE")]
        machines: Vec<String>,
        /// Also write the table as JSON (- for standard output).
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write bench/baseline.json anew instead of comparing with it.
        #[arg(long, conflicts_with = "machines")]
        update: bool,
    },
    /// Count lines of code by trust class, and bring the table in README.md up to date.
    Tcb {
        /// Also write the table as JSON (- for standard output).
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Also list the files of the kernel, the largest first.
        #[arg(long)]
        files: bool,
        /// Also say how much has come since a revision of this repository.
        #[arg(long, value_name = "REVISION")]
        since: Option<String>,
    },
    /// Make a new application in apps/ from the template: it builds, bids and has a test.
    New {
        /// Its name: lower-case letters, digits, hyphens.
        name: String,
    },
    /// Try the market's rules on the host.
    #[command(subcommand)]
    Market(MarketCommand),
    /// Ask what can happen: explore everything that a small world of VMs and capabilities can do (docs/model.md).
    #[command(disable_help_flag = true)]
    Model {
        /// Names of questions, files, and options: `cargo xtask model --help` has them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write docs/specification.md, the reference of the ABI and of what it means, from cap-spec.
    Abi,
    /// Run scenarios and hostile guests with a kernel that records what it does, and replay that through the specification.
    Conform(ConformArguments),
    /// Boot one image as the root VM, without market: for test guests and benches.
    Boot(BootArguments),
}

#[derive(Subcommand)]
enum MarketCommand {
    /// Clear one round by the code that ships; the schema is in servers/market/mechanism/README.md.
    Clear(market::ClearArgs),
    /// Test the rules, optimised.
    Check {
        /// The long tier: every small market of three bidders, a hundred million operations on the ledger (ten minutes).
        #[arg(long)]
        full: bool,
    },
    /// Measure how long rounds take; fail when one takes longer than it may. For a machine that does nothing else.
    Bench,
}

#[derive(Args)]
struct ConformArguments {
    /// Scenarios, hostile/ATTACK/ARGUMENT..., or images that become the root VM, such as probe (default: tiny and
    /// hostile/random/3000/1).
    #[arg(value_name = "SCENARIO|GUEST")]
    names: Vec<String>,
    /// The long tier instead: more attacks.
    #[arg(long, conflicts_with = "names")]
    full: bool,
    /// Put mistakes into what a machine tells, and into its memory, and see that each is found.
    #[arg(long, conflicts_with_all = ["names", "full", "cores"])]
    mistakes: bool,
    /// Cores, instead of 2 and then 4.
    #[arg(long)]
    cores: Option<u16>,
    /// How instructions are executed.
    #[arg(long, value_enum, default_value_t = Acceleration::InstructionClock)]
    accel: Acceleration,
}

#[derive(Args)]
struct BootArguments {
    /// The image, such as probe.
    image: String,
    /// Cores.
    #[arg(long, default_value_t = 1)]
    cores: u16,
    /// Memory in MiB.
    #[arg(long, default_value_t = 128, value_name = "MIB")]
    memory: u32,
    /// Kernel command line, which the image finds in its BootInfo.
    #[arg(long, default_value = "", value_name = "TEXT")]
    command_line: String,
    /// Images to put into its boot archive.
    #[arg(long, value_name = "IMAGE")]
    with: Vec<String>,
    /// How instructions are executed.
    #[arg(long, value_enum, default_value_t = Acceleration::InstructionClock)]
    accel: Acceleration,
    /// Wall time in seconds after which it counts as hung.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

#[derive(Args)]
struct VerifyArguments {
    /// Only these checks (default: those of the CI tier).
    #[arg(value_name = "CHECK")]
    checks: Vec<String>,
    /// Also the checks that take long (hours).
    #[arg(long, conflicts_with = "checks")]
    full: bool,
    /// Say which checks there are.
    #[arg(long, conflicts_with_all = ["checks", "full", "write"])]
    list: bool,
    /// Write verification/CLAIMS.md anew from what is found, instead of comparing with it.
    #[arg(long)]
    write: bool,
    /// Only make verification/CLAIMS.md anew of what is recorded, after verification/claims.toml was edited.
    #[arg(long, conflicts_with_all = ["checks", "full", "list", "write"])]
    page: bool,
    /// Put bugs into copies of the kernel's source, and see that checks find each (CHECK: only bugs of this name).
    #[arg(long, conflicts_with_all = ["full", "list", "write", "page"])]
    seeded_bugs: bool,
}

impl VerifyArguments {
    fn run(self) -> Result<u8> {
        if self.list {
            return verify::list().map(|()| 0);
        }
        if self.page {
            return verify::write_page().map(|()| 0);
        }
        if self.seeded_bugs {
            return Ok(u8::from(!verify::seeded::run(&self.checks)?));
        }
        let VerifyArguments { checks, full, write, .. } = self;
        let (_, failed) = verify::verify(&verify::Options { checks, full, write, host_only: false })?;
        Ok(u8::from(failed != 0))
    }
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
    /// Something that happens at a time, such as 1s=shock:cache, 500ms=kill:digest, 200ms=start:hostile,
    /// 1500ms=value+:cache, 2s=value-:cache, 2s=value:cache:2.5, 1s=topup:cache:0.1.
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
    /// Where to write the disc (default: target/images/nonkernel.iso).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
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
    /// Keep everything that serves clients up until Ctrl-C, in the time of the host; other applications end when they do.
    #[arg(long)]
    serve: bool,
    /// Wall time in seconds after which the run counts as hung (default: 300, or never with --serve).
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            tell!("error: {error:#}");
            // A scenario that is refused is the user's error, like a wrong argument.
            ExitCode::from(if error.is::<Refused>() { 2 } else { 1 })
        }
    }
}

fn execute(command: Command) -> Result<u8> {
    match command {
        Command::Setup => setup::setup().map(|()| 0),
        Command::Build { program } => {
            setup::ensure()?;
            let names: Vec<&str> = program.iter().map(String::as_str).collect();
            let built = if names.is_empty() { build::build_all()? } else { build::build(&names)? };
            say!("kernel: {}", xtask::paths::shown(&built.kernel));
            for (name, path) in &built.images {
                let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
                say!("image {name}: {} ({bytes} bytes)", xtask::paths::shown(path));
            }
            Ok(0)
        }
        Command::Image(arguments) => {
            run::image(&arguments.scenario.file()?, &arguments.scenario.overrides(), arguments.out.as_deref())
        }
        Command::Run(arguments) => run::run(&run::Options {
            scenario: arguments.scenario.file()?,
            overrides: arguments.scenario.overrides(),
            json: arguments.json,
            plain: arguments.plain,
            serve: arguments.serve,
            timeout: arguments.timeout.map(Duration::from_secs),
        }),
        Command::Test { filter, host_only } => {
            let passed = test::test(&test::Options { host_only, filter })?;
            Ok(if passed { 0 } else { 1 })
        }
        Command::Verify(arguments) => arguments.run(),
        Command::Bench { machines, json, update } => {
            bench::bench(&bench::Options { machines, json, update }).map(|()| 0)
        }
        Command::Tcb { json, files, since } => tcb::tcb(json.as_deref(), files, since.as_deref()).map(|()| 0),
        Command::New { name } => new::new(&name).map(|()| 0),
        Command::Market(MarketCommand::Clear(arguments)) => market::clear(&arguments).map(|()| 0),
        Command::Market(MarketCommand::Check { full }) => market::check(full).map(|()| 0),
        Command::Market(MarketCommand::Bench) => market::bench().map(|()| 0),
        Command::Model { arguments } => model::model(&arguments),
        Command::Abi => abi::write().map(|()| 0),
        Command::Conform(arguments) => conform::conform(&conform::Options {
            names: arguments.names,
            full: arguments.full,
            mistakes: arguments.mistakes,
            cores: arguments.cores,
            acceleration: arguments.accel,
        })
        .map(|()| 0),
        Command::Boot(arguments) => {
            let guest = Guest {
                cores: arguments.cores,
                memory_mib: arguments.memory,
                command_line: arguments.command_line,
                images: arguments.with,
                acceleration: arguments.accel,
                ..Guest::new(&arguments.image)
            };
            boot::boot(&guest, Duration::from_secs(arguments.timeout)).map(|()| 0)
        }
    }
}

impl ScenarioArguments {
    fn file(&self) -> Result<PathBuf> {
        run::scenario_file(self.scenario.as_deref())
    }
}
