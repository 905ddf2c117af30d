//! `cargo run -p interleavings`: every order in which cores can meet at the kernel lock and at each other's gates, and two
//! VMs at a message ring.
//!
//! loom runs a model in every order of its atomic operations, and with every value that a load may see by the rules of the
//! memory model; what is guarded is in cells that tell of every access which no such rule orders. The code is what ships;
//! beside it is the same with one mistake each, which the same models must find, or a model that passes says nothing.
#![forbid(unsafe_code)]

mod cores;
mod rings;

use cap_spec::properties::Property;
use claims::progress::thousands;
use claims::{Established, Tier};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Steps of one execution after which somebody waits for ever.
const MOST_STEPS: usize = 2_000;

/// Runs a model in every order; how many there are.
fn every_order(model: impl Fn() + Sync + Send + 'static) -> usize {
    static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);
    EXECUTIONS.store(0, Ordering::Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = MOST_STEPS;
    builder.check(move || {
        EXECUTIONS.fetch_add(1, Ordering::Relaxed);
        model();
    });
    EXECUTIONS.load(Ordering::Relaxed)
}

/// A model in every order of its atomic operations: how many there were.
type Model = fn() -> usize;

/// What is run, and how many orders there are at least, if they are all.
type Run = (&'static str, Model, usize);

/// A model over code with a mistake, which it must find.
type Mistake = (&'static str, Model);

/// Runs models; what to say of each.
fn run(runs: &[Run]) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    for &(what, run, least) in runs {
        let orders = run();
        let text = format!("{what}: {} executions", thousands(orders));
        if orders < least {
            return Err(format!("{text} are too few to be all"));
        }
        eprintln!("{text}");
        said.push(text);
    }
    Ok(said)
}

fn find(mistakes: &[Mistake]) -> Result<(), String> {
    for (what, run) in mistakes {
        if catch_unwind(AssertUnwindSafe(run)).is_ok() {
            return Err(format!("not found: {what}"));
        }
        eprintln!("found: {what}");
    }
    Ok(())
}

fn every() -> Result<(), String> {
    let bounds = run(&cores::RUNS)?;
    run(&rings::RUNS)?;
    // Each of these is to panic, which is nothing to show.
    std::panic::set_hook(Box::new(|_| {}));
    find(&cores::MISTAKES)?;
    find(&rings::MISTAKES)?;
    Established {
        check: "interleavings".into(),
        property: Property::EntriesBacked.name().into(),
        tier: Tier::ExhaustiveToABound,
        tool: "loom 0.7".into(),
        bound: bounds.join("; "),
        of: "kernel library: lock and gates".into(),
    }
    .tell();
    Ok(())
}

fn main() -> ExitCode {
    match every() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
