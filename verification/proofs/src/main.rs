//! The command: prove, show the formulas to others, and check them against the executable specification.

use anyhow::{Result, anyhow, bail};
use cap_spec::spec::LABELS;
use clap::{Parser, Subcommand};
use proofs::queries::{Query, queries};
use proofs::report::{self, Report};
use proofs::{solve, walk};
use std::path::PathBuf;
use std::time::Instant;

/// Threads that walk.
const THREADS: usize = 2;

/// The invariants of the specification, proved inductive for any number of slots, objects and VMs.
#[derive(Parser)]
#[command(name = "proofs", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask z3 and cvc5 every query; fails if one of them does not give the expected answer.
    Prove {
        /// Only queries whose name contains this (nothing is claimed then).
        #[arg(long)]
        only: Option<String>,
        /// Seconds that a solver has for a query.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Check the formulas against the executable specification: on random steps, on every step of the worlds that the model
    /// checker explores, and on all short sequences over those of lock-step.
    CheckFormulas {
        /// How many steps, those included that are refused.
        #[arg(long, default_value_t = 100_000)]
        steps: usize,
        /// The seed of the first sequence.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Every sequence of so many steps is taken over the small worlds.
        #[arg(long, default_value_t = 2)]
        length: usize,
        /// Only these worlds of the model checker; without: all that it explores in every run.
        #[arg(long, num_args = 1..)]
        worlds: Vec<String>,
        /// Labels that never succeeded are told, and are no error: for few steps.
        #[arg(long)]
        some_labels: bool,
        /// Under which name the claims are told.
        #[arg(long, default_value = "formulas")]
        check: String,
    },
    /// Write every query as an SMT-LIB 2 file below a folder.
    Dump {
        /// The folder, which is made.
        folder: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Prove { only, seconds } => prove(only.as_deref(), seconds),
        Command::CheckFormulas { steps, seed, length, worlds, some_labels, check } => {
            let walked = walk_all(steps, seed, length, &worlds)?;
            tell_walked(&walked, length, some_labels, &check)
        }
        Command::Dump { folder } => {
            let queries = queries();
            solve::dump(&queries, &folder)?;
            println!("{} queries below {}", queries.len(), folder.display());
            Ok(())
        }
    }
}

/// The walks of a run: over small worlds, of which some are the model checker's, and random ones.
struct Walks {
    small: walk::Walked,
    worlds: usize,
    random: walk::Walked,
}

fn walk_all(steps: usize, seed: u64, length: usize, worlds: &[String]) -> Result<Walks> {
    let failed = |text: String| anyhow!("the formulas are not those of the specification: {text}");
    eprintln!("formulas: every sequence of {length} steps over small worlds");
    let mut small = walk::small_worlds(length).map_err(failed)?;
    let mut questions = walk::model_worlds().map_err(|error| anyhow!(error))?;
    let is_there = |name: &&String| questions.iter().any(|question| question.name == **name);
    if let Some(name) = worlds.iter().find(|name| !is_there(name)) {
        bail!("the model checker explores no world {name}; `cargo xtask model` lists them");
    }
    questions.retain(|question| worlds.is_empty() || worlds.contains(&question.name));
    let worlds = questions.len();
    small.add(walk::whole_worlds(questions, THREADS).map_err(failed)?);
    eprintln!("formulas: {steps} random steps from seed {seed}");
    let random = walk::random_on_threads(seed, steps, THREADS).map_err(failed)?;
    Ok(Walks { small, worlds, random })
}

fn tell_walked(walks: &Walks, length: usize, some_labels: bool, check: &str) -> Result<()> {
    let mut all = walks.small.clone();
    all.add(walks.random.clone());
    for (operation, count) in &all.done {
        println!("{:<24}{count:>10}", operation.unwrap_or("nothing changes"));
    }
    println!("{} steps agreed, {} were too large to be looked at", all.agreed(), all.too_large);
    let unseen: Vec<&str> =
        LABELS.iter().filter(|spec| !all.labels.contains_key(&spec.label)).map(|spec| spec.name).collect();
    if !unseen.is_empty() {
        let what = format!("labels that never succeeded, so that nothing is shown of them: {unseen:?}");
        if !some_labels {
            bail!("{what}; take more --steps");
        }
        println!("{what}");
    }
    let Walks { small, worlds, random } = walks;
    report::correspondence(check, small, *worlds, random, length).iter().for_each(claims::Established::tell);
    Ok(())
}

fn prove(only: Option<&str>, seconds: u64) -> Result<()> {
    let began = Instant::now();
    let python = xtask::setup::ensure_solvers()?;
    let is_wanted = |query: &Query| only.is_none_or(|part| query.name.contains(part));
    let queries: Vec<Query> = queries().into_iter().filter(is_wanted).collect();
    if queries.is_empty() {
        bail!("no query has a name with that in it; `dump` writes them all");
    }
    let folder = xtask::paths::target().join("proofs");
    solve::dump(&queries, &folder)?;
    let answers = solve::ask(&queries, &folder, &python, seconds * 1000)?;
    let report = Report::new(&queries, &answers);
    let failures = report.failures();
    print!("{}", report.table());
    println!("{} in {:.0} s; the queries are below {}", answers.tools, began.elapsed().as_secs_f64(), folder.display());
    if !failures.is_empty() {
        bail!("{} of {} queries failed:\n{}", failures.len(), queries.len(), failures.join("\n"));
    }
    if only.is_none() {
        report.claims().iter().for_each(claims::Established::tell);
    }
    Ok(())
}
