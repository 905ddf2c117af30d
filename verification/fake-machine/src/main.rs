//! `cargo run -p fake-machine -- --seed N --steps M --bug B --trace`: one seed, or `--seeds N` of them from `--seed` on.

use fake_machine::bug::Bug;
use fake_machine::run::{Options, Report, STEPS, replay, run};
use std::process::ExitCode;

const HELP: &str = "\
The kernel library on a simulated machine.

usage: fake-machine [--seed N] [--seeds COUNT] [--steps M] [--bug NAME] [--trace]

  --seed N       the first seed (0)
  --seeds COUNT  how many seeds (1)
  --steps M      steps of a run
  --bug NAME     seed a bug into the machine's half of the protocol; --bug list names them
  --trace        print what happens";

/// What the command line asks for.
struct Arguments {
    options: Options,
    seeds: u64,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut options = Options { seed: 0, steps: STEPS, bug: None, trace: false };
    let mut seeds = 1;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seed" => options.seed = number(value()?)?,
            "--seeds" => seeds = number(value()?)?,
            "--steps" => options.steps = number(value()?)?,
            "--bug" => match value()?.as_str() {
                "list" => {
                    Bug::ALL.iter().for_each(|bug| println!("{}", bug.name()));
                    return Ok(None);
                }
                name => options.bug = Some(Bug::from_name(name).ok_or(format!("no bug is named {name}"))?),
            },
            "--trace" => options.trace = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            other => return Err(format!("{other} is not known\n{HELP}")),
        }
    }
    Ok(Some(Arguments { options, seeds }))
}

fn main() -> ExitCode {
    let Arguments { options, seeds } = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let mut total = Report::default();
    for seed in options.seed..options.seed.saturating_add(seeds) {
        let options = Options { seed, ..options };
        std::panic::set_hook(Box::new(move |info| {
            eprintln!("seed {seed}: {info}\nreplay: {}", replay(&options, options.steps));
        }));
        match run(&options) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{seeds} seeds, nothing found: {total}");
    ExitCode::SUCCESS
}
