//! `cargo xtask model`: the command line of [`model`].

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use model::answer::{self, Answer, Verdict, figure};
use model::explorer;
use model::mistakes::Mistake;
use model::question::{Expected, Question, Wrong};
use model::search::Limits;
use model::subject::Subject;

/// The exit status of a question that is wrong itself.
const WRONG: u8 = 2;

/// Ask what can happen: explore everything that a small world of VMs and capabilities can do.
///
/// Without a name: the list of the questions that are here. docs/model.md says how to write one.
/// Exit status: 0 it holds, 1 there is a counterexample, 2 the question is wrong, 3 the limit was reached. Of several
/// questions: 0 all are answered as their files expect.
#[derive(Parser)]
#[command(name = "cargo xtask model", bin_name = "cargo xtask model")]
struct Cli {
    /// Files, or names of questions or configurations that are here.
    #[arg(value_name = "NAME|FILE")]
    questions: Vec<PathBuf>,
    /// Every question and configuration that is here, but the long ones.
    #[arg(long, conflicts_with = "questions")]
    all: bool,
    /// With --all: the long ones, too (some 20 minutes).
    #[arg(long, requires = "all")]
    full: bool,
    /// Serve stateright's Explorer of one question, for a browser.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = explorer::ADDRESS, conflicts_with_all = ["all", "json"])]
    explore: Option<String>,
    /// One JSON object a question and line.
    #[arg(long)]
    json: bool,
    /// End a search after so many states.
    #[arg(long, value_name = "STATES", default_value_t = Limits::default().states)]
    limit: usize,
    /// Don't merge states that differ by names only.
    #[arg(long)]
    no_symmetry: bool,
    /// Ask of the machine with one rule wrong, to see that it is found; `list` says which there are.
    #[arg(long, value_name = "MISTAKE")]
    mistake: Option<String>,
    /// Tell what is established, for `cargo xtask verify`.
    #[arg(long)]
    claims: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Wrong>() { WRONG } else { 1 })
        }
    }
}

/// The folders of questions that are here.
fn folders() -> [PathBuf; 2] {
    ["questions", "configurations"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
}

/// The files of a folder, by name.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

/// The file of a question: as it is given, or one that is here.
fn file(given: &Path) -> anyhow::Result<PathBuf> {
    if given.exists() && given.is_file() {
        return Ok(given.into());
    }
    let here = folders().map(|folder| folder.join(given).with_extension("toml"));
    here.into_iter().find(|file| file.exists()).with_context(|| {
        format!("there is no question {}: `cargo xtask model` lists those that are here", given.display())
    })
}

fn run(cli: &Cli) -> anyhow::Result<u8> {
    let mistake = match cli.mistake.as_deref() {
        None => None,
        Some(name) => match Mistake::from_name(name) {
            Some(mistake) => Some(mistake),
            None => {
                let known: Vec<String> = Mistake::all().map(Mistake::name).collect();
                println!("mistakes: {}", known.join(", "));
                return Ok(if name == "list" { 0 } else { WRONG });
            }
        },
    };
    if !cli.all && cli.questions.is_empty() {
        return list().map(|()| 0);
    }
    let mut paths: Vec<PathBuf> = cli.questions.iter().map(|given| file(given)).collect::<Result<_, _>>()?;
    if cli.all {
        for folder in folders() {
            paths.extend(files(&folder)?);
        }
    }
    let mut questions = Vec::new();
    for path in &paths {
        questions.push(Question::read(path, !cli.no_symmetry)?);
    }
    if cli.all && !cli.full {
        questions.retain(|question| !question.long);
    }
    if let Some(address) = &cli.explore {
        let question =
            questions.pop().filter(|_| questions.is_empty()).context("--explore shows one question: name it")?;
        anyhow::ensure!(question.hardware.is_none(), "the Explorer shows questions without [hardware]");
        explorer::serve(Subject::new(question, mistake), address, &mut |line| println!("{line}"))?;
        return Ok(0);
    }
    let mut answers = Vec::new();
    for question in questions {
        let answer = ask(cli, question.clone(), mistake)?;
        if cli.json {
            println!("{}", serde_json::to_string(&answer)?);
        } else {
            println!("{}", answer.text());
        }
        if cli.claims {
            answer::claims(&question, &answer).iter().for_each(claims::Established::tell);
        }
        answers.push(answer);
    }
    if let ([answer], false) = (&answers[..], cli.all) {
        return Ok(answer.answer.status());
    }
    let unexpected: Vec<&str> =
        answers.iter().filter(|answer| !answer.as_expected).map(|answer| answer.name.as_str()).collect();
    if !cli.json {
        println!("{} of {} as expected", answers.len() - unexpected.len(), answers.len());
    }
    if !unexpected.is_empty() {
        eprintln!("not as expected: {}", unexpected.join(", "));
    }
    let is_limited = answers.iter().any(|answer| answer.answer == Verdict::NotExhausted);
    Ok(if unexpected.is_empty() {
        0
    } else if is_limited {
        answer::NOT_EXHAUSTED
    } else {
        1
    })
}

fn ask(cli: &Cli, question: Question, mistake: Option<Mistake>) -> anyhow::Result<Answer> {
    let name = question.name.clone();
    let shows = std::io::stderr().is_terminal() || !cli.json;
    answer::answer(question, mistake, Limits { states: cli.limit }, &mut |counts, time| {
        if shows {
            let rate = counts.edges as f64 / time.as_secs_f64();
            eprintln!(
                "{name}: {} states, depth {}, {:.0} s, {} steps a second",
                figure(counts.states),
                counts.depth,
                time.as_secs_f64(),
                figure(rate as usize)
            );
        }
    })
}

/// Lists what is here.
fn list() -> anyhow::Result<()> {
    for folder in folders() {
        println!("{}:", folder.file_name().unwrap_or_default().to_string_lossy());
        for file in files(&folder)? {
            let question = Question::read(&file, false)?;
            let mark = match (question.expect, question.long) {
                (Expected::Counterexample, _) => " (fails on purpose)",
                (_, true) => " (long)",
                _ => "",
            };
            println!("  {:32} {}{mark}", question.name, question.text);
        }
    }
    println!("\n`cargo xtask model NAME` answers one, `--all` all; docs/model.md says how to write your own");
    Ok(())
}
