//! `cargo run -p mutants -- COMMAND`: a sample of mutants is run and judged.

use clap::Parser;
use mutants::{Survivors, Tally, name, stale};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Mutation testing of the specification and the kernel library.
#[derive(Parser)]
#[command(name = "mutants", about)]
enum Action {
    /// Runs every N-th mutant, one after the other, in a copy of the sources, and judges.
    Run {
        /// Every so-manieth mutant.
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        every: u32,
        /// The first of them, below N.
        #[arg(long, default_value_t = 0, value_name = "K")]
        from: u32,
    },
    /// Judges a run of before, of which this is the folder (`mutants.out`).
    Judge {
        /// The folder.
        run: PathBuf,
    },
    /// Sees that the mutants of verification/mutants.toml still exist.
    List,
}

fn main() -> ExitCode {
    let result = match Action::parse() {
        Action::Run { every, from } => run(every, from).and_then(|folder| judge(&folder)),
        Action::Judge { run } => judge(&run),
        Action::List => list(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cargo_mutants() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root()).arg("mutants");
    command
}

/// Runs a sample; the folder with what came of it.
fn run(every: u32, from: u32) -> Result<PathBuf, String> {
    if from >= every {
        return Err(format!("the first mutant must be below {every}"));
    }
    let output = root().join("target/mutants");
    fs::create_dir_all(&output).map_err(|error| format!("cannot make {}: {error}", output.display()))?;
    let mut command = cargo_mutants();
    command.args(["--shard", &format!("{from}/{every}"), "--sharding", "round-robin", "--colors", "never"]);
    // Survivors are no failure yet: they are judged afterwards.
    command.arg("--output").arg(&output);
    let status = command.status().map_err(|error| format!("cannot run cargo mutants: {error}"))?;
    // 2: some survived; 3: some ran into a time limit.
    match status.code() {
        Some(0 | 2 | 3) => Ok(output.join("mutants.out")),
        _ => Err(format!("cargo mutants ended with {status}")),
    }
}

fn judge(folder: &Path) -> Result<(), String> {
    let file = folder.join("outcomes.json");
    let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let (existing, survivors) = (existing()?, survivors()?);
    let tally = Tally::of_run(&text, existing.len())?;
    println!("{}", tally.words(&survivors));
    fail_on(tally.faults(&survivors, &existing.into_iter().collect()))
}

fn list() -> Result<(), String> {
    let (existing, survivors) = (existing()?, survivors()?);
    println!("{} mutants, {} of which are listed as survivors", existing.len(), survivors.list.len());
    fail_on(stale(&survivors, &existing.into_iter().collect::<BTreeSet<_>>()))
}

fn fail_on(faults: Vec<String>) -> Result<(), String> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// The names of all mutants.
fn existing() -> Result<Vec<String>, String> {
    let output = cargo_mutants().arg("--list").stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot run cargo mutants: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo mutants --list ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(name).collect())
}

fn survivors() -> Result<Survivors, String> {
    let file = root().join("verification/mutants.toml");
    let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}
