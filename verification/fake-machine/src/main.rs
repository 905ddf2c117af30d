//! `cargo run -p fake-machine -- --seed N --steps M --bug B --trace`: one seed, or `--seeds N` of them from `--seed` on.

use cap_spec::properties::Property;
use claims::progress::{shown, thousands};
use claims::{Established, Tier};
use clap::Parser;
use fake_machine::bug::Bug;
use fake_machine::run::{Options, Report, STEPS, run_seeds};
use fake_machine::setup::CORES;
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;

/// What the oracles look for after each step.
const PROPERTIES: [Property; 7] = [
    Property::WellFormed,
    Property::NoOverlap,
    Property::EntriesBacked,
    Property::RevokeComplete,
    Property::CleanBeforeReuse,
    Property::TimeDelivered,
    Property::OneOwner,
];

/// The kernel library on a simulated machine.
#[derive(Parser)]
#[command(name = "fake-machine", about)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    seeds: usize,
    /// Steps of a run.
    #[arg(long, default_value_t = STEPS, value_name = "N")]
    steps: u64,
    /// Threads that share the seeds.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Seed a bug into the machine's half of the protocol.
    #[arg(long, value_name = "NAME", value_parser = bug)]
    bug: Option<Bug>,
    /// Name the bugs.
    #[arg(long)]
    bugs: bool,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
    /// Claim what has been shown, under this name.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["bug", "trace"])]
    check: Option<String>,
}

fn bug(name: &str) -> Result<Bug, String> {
    Bug::from_name(name).ok_or("no bug has this name; --bugs lists them".into())
}

fn main() -> ExitCode {
    let Arguments { seed, seeds, steps, threads, bug, bugs, trace, check } = Arguments::parse();
    if bugs {
        Bug::ALL.iter().for_each(|bug| println!("{}", bug.name()));
        return ExitCode::SUCCESS;
    }
    let options = Options { seed, steps, bug, trace };
    let done = AtomicUsize::new(0);
    let total = match shown("seeds", seeds, &done, || run_seeds(&options, seeds, threads, &done)) {
        Ok(total) => total,
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    println!("{} seeds, nothing found: {total}", thousands(seeds));
    if let Some(check) = check {
        let idle = total.idle(seeds as u64);
        if !idle.is_empty() {
            eprintln!("too little happened to say that it was tried: {}", idle.join(", "));
            return ExitCode::FAILURE;
        }
        tell(check, seed, seeds, steps, &total);
    }
    ExitCode::SUCCESS
}

fn tell(check: String, seed: u64, seeds: usize, steps: u64, total: &Report) {
    let bound = format!(
        "{} seeds from {seed} of {} steps: {} invocations, {} preemptions, {} shootdowns, {} accesses by functions",
        thousands(seeds),
        thousands(steps as usize),
        thousands((total.counts.done + total.counts.refused) as usize),
        thousands(total.counts.preempted as usize),
        thousands(total.expulsions as usize),
        thousands(total.dma as usize)
    );
    let tool = "fake machine".to_string();
    let of = format!("kernel library on a simulated machine of {CORES} cores, IOMMU");
    Established { check, property: String::new(), tier: Tier::Tested, tool, bound, of }.tell_all(&PROPERTIES);
}
