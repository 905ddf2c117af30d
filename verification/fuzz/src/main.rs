//! `cargo run -p fuzz -- COMMAND`: the replay of the fuzz targets, and their runs under libFuzzer.

use cap_spec::properties::Property;
use claims::progress::{shown, thousands};
use claims::{Established, Tier};
use clap::Parser;
use fuzz::{Target, libfuzzer, replay as run};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;

/// Hostile and foreign bytes for everything that reads them.
#[derive(Parser)]
#[command(name = "fuzz", about)]
enum Command {
    /// Names the targets.
    List,
    /// Checks every kept input and mutations of them, the same ones each time; and that each target finds a mistake.
    Replay {
        /// Only this target, and claim nothing.
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Runs each target under libFuzzer, which needs the nightly toolchain and a C++ compiler.
    Long {
        /// So many times the inputs of the replay.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        times: u16,
        /// Only this target, and claim nothing.
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// Keep what was found that reaches something new (`verification/fuzz/corpus`).
        #[arg(long)]
        keep: bool,
    },
    /// Checks one input.
    One {
        /// The target.
        target: String,
        /// The input, in hexadecimal.
        #[arg(default_value = "")]
        input: String,
    },
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::List => {
            Target::ALL.iter().for_each(|target| println!("{}: {}", target.name, target.about));
            Ok(())
        }
        Command::Replay { target } => replay(target.as_deref()),
        Command::Long { times, target, keep } => long(times.into(), target.as_deref(), keep),
        Command::One { target, input } => one(&target, &input),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// The target with this name, or all.
fn chosen(only: Option<&str>) -> Result<Vec<&'static Target>, String> {
    match only {
        Some(name) => Ok(vec![Target::from_name(name)?]),
        None => Ok(Target::ALL.iter().collect()),
    }
}

fn replay(only: Option<&str>) -> Result<(), String> {
    let targets = chosen(only)?;
    let all = targets.iter().map(|target| target.inputs).sum();
    let done = AtomicUsize::new(0);
    let reports = shown("inputs", all, &done, || {
        targets.iter().map(|target| run::replay(target, target.inputs, &done)).collect::<Result<Vec<_>, _>>()
    })?;
    let kept: usize = reports.iter().map(|report| report.kept).sum();
    let mutated: usize = reports.iter().map(|report| report.mutated).sum();
    // Mistakes are found by panics, too, of which nothing needs to be printed.
    std::panic::set_hook(Box::new(|_| ()));
    for target in &targets {
        let inputs = run::twin(target, target.inputs)?;
        println!("{}: the mistake in its twin is found by input {inputs}", target.name);
    }
    let bound = format!(
        "{} kept and {} mutated inputs of {} targets, each of which finds a mistake put into it",
        thousands(kept),
        thousands(mutated),
        targets.len()
    );
    println!("{bound}");
    if only.is_none() {
        tell("fuzz", "replay of inputs found by libFuzzer", bound);
    }
    Ok(())
}

fn long(times: usize, only: Option<&str>, keep: bool) -> Result<(), String> {
    let targets = chosen(only)?;
    let program = libfuzzer::build()?;
    for target in &targets {
        libfuzzer::run(&program, target, target.inputs * times, keep)?;
    }
    let inputs: usize = targets.iter().map(|target| target.inputs * times).sum();
    let bound = format!("{} inputs of {} targets", thousands(inputs), targets.len());
    println!("{bound}");
    if only.is_none() {
        tell("fuzz-long", "libFuzzer", bound);
    }
    Ok(())
}

fn one(name: &str, input: &str) -> Result<(), String> {
    let target = Target::from_name(name)?;
    let digits = |at| input.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    let bytes: Option<Vec<u8>> = (0..input.len()).step_by(2).map(digits).collect();
    let bytes = bytes.ok_or("the input is not an even number of hexadecimal digits")?;
    run::one(target, target.check, &bytes).map_err(|finding| finding.to_string())?;
    println!("{name}: {} bytes, nothing found", bytes.len());
    Ok(())
}

fn tell(check: &str, tool: &str, bound: String) {
    let of = "readers of foreign bytes in kernel library, userlib and drivers".into();
    let property = Property::NoPanic.name().into();
    Established { check: check.into(), property, tier: Tier::Tested, tool: tool.into(), bound, of }.tell();
}
