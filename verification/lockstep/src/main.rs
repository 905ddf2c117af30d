//! `cargo run -p lockstep -- COMMAND`: the checks that take long, and the repetition of a sequence that failed.

use cap_spec::properties::Property;
use claims::progress::{shown, thousands};
use claims::{Established, Tier};
use clap::Parser;
use lockstep::{campaign, exhaustive, script};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;

/// What follows from agreement with a specification whose invariants were checked on the way.
const PROPERTIES: [Property; 6] = [
    Property::Refinement,
    Property::FailureChangesNothing,
    Property::WellFormed,
    Property::NoAuthorityFromNothing,
    Property::NoOverlap,
    Property::OneOwner,
];

/// The kernel library and the abstract machine, step by step.
#[derive(Parser)]
#[command(name = "lockstep", about)]
enum Command {
    /// Random sequences of near-valid steps, compared after each.
    Random {
        /// How many steps.
        #[arg(long, default_value_t = 1_000_000, value_name = "N")]
        steps: usize,
        /// Seed of the first sequence.
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
        /// Threads that share the steps.
        #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
        threads: u64,
        /// The name under which it claims something.
        #[arg(long, default_value = "lockstep-random", value_name = "NAME")]
        check: String,
    },
    /// Every sequence over small sets of steps, up to a length.
    Exhaustive {
        /// Longer by so many steps than usual: each makes it take about twice as long.
        #[arg(long, default_value_t = 0, value_name = "N")]
        longer: usize,
        /// The name under which it claims something.
        #[arg(long, default_value = "lockstep-exhaustive", value_name = "NAME")]
        check: String,
    },
    /// Repeat the steps of a file, as a failure prints them.
    Replay {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Random { steps, seed, threads, check } => random(steps, seed, threads, check),
        Command::Exhaustive { longer, check } => exhaustively(longer, check),
        Command::Replay { file } => replay(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn random(steps: usize, seed: u64, threads: u64, check: String) -> Result<(), String> {
    let taken = AtomicUsize::new(0);
    let run = || campaign::run_on_threads(seed, steps, threads, &taken);
    let report = shown("steps", steps, &taken, run).map_err(|failure| failure.to_string())?;
    println!("done: {:?}", report.done);
    println!("refused: {:?}", report.seen.counts());
    if !report.seen.unknown().is_empty() {
        return Err(format!("errors that the ABI does not know of these labels: {:?}", report.seen.unknown()));
    }
    if !report.hardly_tried().is_empty() {
        return Err(format!("labels that succeeded too rarely: {:?}", report.hardly_tried()));
    }
    let bound = format!(
        "{} random steps of 2 cores from seed {seed}, {} labels done, {} pairs of label and error",
        thousands(report.steps),
        report.done.len(),
        report.seen.len()
    );
    tell(check, Tier::Tested, bound);
    Ok(())
}

fn exhaustively(longer: usize, check: String) -> Result<(), String> {
    let mut bounds = Vec::new();
    for world in exhaustive::worlds() {
        let length = world.length + longer;
        let explored =
            exhaustive::explore(&world.start, &world.steps, length).map_err(|failure| failure.to_string())?;
        let states = explored.states.last().copied().unwrap_or_default();
        let bound = format!(
            "{} {} steps to length {length}: {} states, {} transitions",
            world.steps.len(),
            world.name,
            thousands(states),
            thousands(explored.transitions)
        );
        eprintln!("{bound}");
        bounds.push(bound);
    }
    tell(check, Tier::ExhaustiveToABound, bounds.join("; "));
    Ok(())
}

fn replay(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let steps = script::parse(&text)?;
    campaign::replay(&steps, None).map_err(|(length, divergence)| format!("after {length} steps: {divergence}"))?;
    println!("{} steps, no difference", steps.len());
    Ok(())
}

fn tell(check: String, tier: Tier, bound: String) {
    // What Miri adds: that nothing reaches outside of its memory, overflows or panics.
    let (tool, properties) =
        if cfg!(miri) { ("lockstep, Miri", &[Property::NoPanic][..]) } else { ("lockstep", &PROPERTIES[..]) };
    let of = "kernel library, 2 cores".to_string();
    Established { check, property: String::new(), tier, tool: tool.into(), bound, of }.tell_all(properties);
}
