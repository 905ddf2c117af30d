//! `symbolic`: the command line of the proofs of the kernel's library.

use anyhow::{Context, Result, bail};
use claims::{Established, Tier};
use clap::{Parser, ValueEnum};
use kernel_harness::{PROGRAMS, Program};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use symbolic::build;
use symbolic::prove::{Proof, prove};
use symbolic::smt::Solver;

/// Proves what the programs of verification/symbolic/harness assert of the kernel's library, for all states of a bounded kernel.
#[derive(Parser)]
struct Cli {
    /// Programs (default: all).
    program: Vec<String>,
    /// List the programs.
    #[arg(long)]
    list: bool,
    /// The long tier: compiled at every level of optimisation.
    #[arg(long)]
    full: bool,
    /// Which solver is asked.
    #[arg(long, value_enum, default_value_t = Which::Bitwuzla)]
    solver: Which,
    /// The Python environment that has the solvers (default: target/solvers, where `cargo xtask setup` puts it).
    #[arg(long, value_name = "FOLDER")]
    environment: Option<PathBuf>,
    /// Seconds that the solver has for one question.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    limit: u64,
    /// Programs side by side.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    /// PyPI's bitwuzla.
    Bitwuzla,
    /// PyPI's z3-solver.
    Z3,
}

fn main() -> ExitCode {
    match execute(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn execute(cli: &Cli) -> Result<bool> {
    if cli.list {
        for program in PROGRAMS {
            let kind = if program.is_wrong { "has a mistake that must be found" } else { "must hold" };
            println!("{:24} {} slots, {}: {kind}", program.name, program.slots, program.operation);
        }
        return Ok(true);
    }
    for name in &cli.program {
        if !PROGRAMS.iter().any(|program| program.name == name) {
            bail!("no program is called {name}; --list shows them");
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().context("the repository is gone")?;
    let environment = cli.environment.clone().unwrap_or_else(|| root.join("target/solvers"));
    let solver = match cli.solver {
        Which::Bitwuzla => Solver::Bitwuzla(environment.join("bin/python"), root.join("verification/symbolic/ask.py")),
        Which::Z3 => Solver::Z3(environment.join("bin/z3")),
    };
    let is_wanted = |program: &Program| cli.program.is_empty() || cli.program.iter().any(|name| name == program.name);
    let programs: Vec<&Program> = PROGRAMS.iter().filter(|program| is_wanted(program)).collect();
    let levels: &[&str] = if cli.full { &["1", "2", "3", "s"] } else { &["1"] };
    let mut all_hold = true;
    for level in levels {
        all_hold &= level_holds(cli, &root, level, &programs, &solver)?;
    }
    if all_hold && cli.program.is_empty() {
        tell(&programs, levels, &solver);
    }
    Ok(all_hold)
}

/// Proves every program as compiled at one level of optimisation.
fn level_holds(cli: &Cli, root: &Path, level: &str, programs: &[&Program], solver: &Solver) -> Result<bool> {
    let started = Instant::now();
    println!("compiling the kernel's library and {} programs at optimisation level {level}", programs.len());
    let module = build::module(root, level)?;
    let folder = root.join("target/symbolic/queries").join(level);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let limit = Duration::from_secs(cli.limit);
    let queue: Mutex<VecDeque<&Program>> = Mutex::new(programs.iter().copied().collect());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().map(|mut queue| queue.pop_front()).unwrap_or_default();
                    let Some(program) = next else { return };
                    let result = prove(&module, program, solver, &folder, limit);
                    let holds = report(program, &result);
                    if let Ok(mut results) = results.lock() {
                        results.push(holds);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    let good = results.iter().filter(|holds| **holds).count();
    println!("level {level}: {good} of {} as they should be, {:.1} s", programs.len(), started.elapsed().as_secs_f64());
    Ok(good == programs.len())
}

/// Says what became of a program; true if it is as it should be.
fn report(program: &Program, result: &Result<Proof>) -> bool {
    let proof = match result {
        Ok(proof) => proof,
        Err(error) => {
            println!("{}: NOT UNDERSTOOD: {error:#}", program.name);
            return false;
        }
    };
    let Proof { terms, obligations, assertions, time, .. } = proof;
    let size =
        format!("{terms} terms, {obligations} obligations, {assertions} assertions, {:.1} s", time.as_secs_f64());
    match (program.is_wrong, proof.failures.first()) {
        (true, Some(failure)) => {
            println!(
                "{}: refuted as it must be ({size}): {}",
                program.name,
                failure.split(", with").next().unwrap_or("")
            );
            true
        }
        (true, None) => {
            println!("{}: NOT REFUTED, although it has a mistake in it ({size})", program.name);
            false
        }
        (false, _) if proof.holds() => {
            println!(
                "{}: {} of all states of {} slots: proved ({size})",
                program.name, program.operation, program.slots
            );
            true
        }
        (false, _) => {
            println!("{}: NOT PROVED ({size})", program.name);
            for failure in proof.failures.iter().chain(&proof.open) {
                println!("  {failure}");
            }
            false
        }
    }
}

/// Tells what has been established.
fn tell(programs: &[&Program], levels: &[&str], solver: &Solver) {
    let mut by_property: BTreeMap<&str, BTreeMap<usize, Vec<&str>>> = BTreeMap::new();
    for program in programs.iter().filter(|program| !program.is_wrong) {
        let names = program.properties.iter().map(|property| property.name()).chain(["no-panic"]);
        for name in names {
            by_property.entry(name).or_default().entry(program.slots).or_default().push(program.operation);
        }
    }
    for (property, by_slots) in by_property {
        let of = |(slots, operations): (&usize, &Vec<&str>)| format!("{slots} slots: {}", operations.join(", "));
        let bound: Vec<String> = by_slots.iter().map(of).collect();
        let levels = levels.join(", ");
        Established {
            check: "symbolic".into(),
            property: property.into(),
            tier: Tier::ProvedToABound,
            tool: format!("LLVM IR to SMT, {}", solver.name()),
            bound: format!(
                "all states of slots, with nothing mapped, bound or under way elsewhere: {}; optimisation level {levels}",
                bound.join("; ")
            ),
            of: "kernel library".into(),
        }
        .tell();
    }
}
