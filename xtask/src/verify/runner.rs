//! Runs checks, so many at a time as there are processors for, shows how far they are, and collects what they tell.
//!
//! What a check prints goes to `target/verify/NAME.log`.

use super::register::{Check, Need};
use crate::{build, paths, process, setup};
use anyhow::{Context, Result, bail};
use claims::Established;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Processors that checks share.
const CORES: usize = 2;
/// Between two lines that say how far checks are.
const PAUSE: Duration = Duration::from_secs(15);
/// Lines of a failed check that are shown.
const TAIL: usize = 25;
/// What a line begins with by which a check says that it can't run here, and why.
const SKIPPED: &str = "SKIPPED: ";

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should, and this was told.
    Passed(Vec<Established>),
    /// It could not run here.
    Skipped(String),
    /// It failed: the first line that says why.
    Failed(String),
}

/// A check that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub time: Duration,
}

/// What a check that runs does.
enum Event {
    Line { name: String, text: String, is_error: bool },
    Closed { name: String },
}

/// A check that runs.
struct Running {
    child: Child,
    cores: usize,
    start: Instant,
    log: File,
    /// Of its two outputs, those that are still open.
    open: usize,
    told: Vec<Established>,
    skipped: Option<String>,
    fault: Option<String>,
    tail: Vec<String>,
    /// What it said last of how far it is.
    progress: String,
}

/// Builds what checks need, each command once.
///
/// # Errors
/// When a build fails.
pub fn build(checks: &[&Check]) -> Result<()> {
    let mut done = BTreeSet::new();
    for line in checks.iter().flat_map(|check| &check.build) {
        if done.insert(line) {
            say!("building: {line}");
            process::run(&mut command(line)?)?;
        }
    }
    Ok(())
}

/// Where a tool is missing, what to type.
const NIGHTLY: &str = "rustup toolchain install nightly --profile minimal";
const MUTANTS: &str = "cargo install cargo-mutants --version 27.1.0 --locked";

/// Why this does not answer, and what to type.
fn unless_answers(program: &str, words: &[&str], what: &str, typed: &str) -> Option<String> {
    let mut command = Command::new(program);
    let why = process::quiet(command.args(words)).err()?;
    Some(format!("{what} is not installed ({}); type: {typed}", why.lines().last().unwrap_or_default()))
}

/// Installs what a check needs, or says why it can't run here.
fn missing(check: &Check) -> Option<String> {
    match check.needs? {
        Need::Miri => {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "miri", "rust-src", "--toolchain", "nightly"]);
            let why = process::quiet(&mut rustup).err()?;
            let typed = "rustup toolchain install nightly --component miri --component rust-src";
            Some(format!("Miri can't be installed ({}); type: {typed}", why.lines().last().unwrap_or_default()))
        }
        Need::Nightly => unless_answers("rustup", &["run", "nightly", "rustc", "--version"], "Rust nightly", NIGHTLY)
            .or_else(|| unless_answers("c++", &["--version"], "A C++ compiler", "sudo apt-get install g++")),
        Need::Mutants => unless_answers("cargo", &["mutants", "--version"], "cargo-mutants", MUTANTS),
        Need::Solvers => setup::ensure_solvers().err().map(|error| format!("{error:#}")),
    }
}

/// The command of a line: words, of which none contains a space.
pub fn command(line: &str) -> Result<Command> {
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else { bail!("an empty command") };
    let mut command = if program == "cargo" { build::cargo() } else { Command::new(program) };
    command.current_dir(paths::root()).args(words);
    Ok(command)
}

/// Where what a check printed is.
pub fn log_file(name: &str) -> PathBuf {
    paths::target().join("verify").join(format!("{name}.log"))
}

/// Runs them; those that take long should come first.
///
/// # Errors
/// When one can't be started.
pub fn run(checks: &[&Check]) -> Result<Vec<Outcome>> {
    let folder = paths::target().join("verify");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (sender, events) = channel();
    let mut waiting: Vec<&Check> = checks.to_vec();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    let mut outcomes = Vec::new();
    let start = Instant::now();
    let mut shown = Instant::now();
    while !waiting.is_empty() || !running.is_empty() {
        let busy: usize = running.values().map(|running| running.cores).sum();
        if let Some(next) = waiting.iter().position(|check| busy + check.cores <= CORES) {
            let check = waiting.remove(next);
            if let Some(why) = missing(check) {
                let outcome =
                    Outcome { name: check.name.clone(), verdict: Verdict::Skipped(why), time: Duration::ZERO };
                report(&outcome, outcomes.len() + 1, checks.len(), start.elapsed());
                outcomes.push(outcome);
                continue;
            }
            say!("      {:4} s  {}: {}", start.elapsed().as_secs(), check.name, check.run);
            running.insert(check.name.clone(), Running::start(check, &sender)?);
            continue;
        }
        if let Some(name) = next_event(&events, &mut running) {
            if let Some(ended) = running.remove(&name) {
                let outcome = ended.end(name)?;
                outcomes.push(outcome);
                let number = outcomes.len();
                report(&outcomes[number - 1], number, checks.len(), start.elapsed());
            }
        } else if shown.elapsed() >= PAUSE {
            shown = Instant::now();
            let parts = running.iter().map(|(name, running)| running.shown(name));
            say!("      {:4} s  {}", start.elapsed().as_secs(), parts.collect::<Vec<_>>().join("; "));
        }
    }
    Ok(outcomes)
}

/// Waits for something to happen; the name of a check that has ended.
fn next_event(events: &Receiver<Event>, running: &mut BTreeMap<String, Running>) -> Option<String> {
    match events.recv_timeout(PAUSE) {
        Ok(Event::Line { name, text, is_error }) => {
            if let Some(check) = running.get_mut(&name) {
                check.take(&text, is_error);
            }
            None
        }
        Ok(Event::Closed { name }) => {
            let check = running.get_mut(&name)?;
            check.open -= 1;
            (check.open == 0).then_some(name)
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
    }
}

fn report(outcome: &Outcome, number: usize, all: usize, elapsed: Duration) {
    let (elapsed, time) = (elapsed.as_secs(), outcome.time.as_secs());
    let Outcome { name, verdict, .. } = outcome;
    match verdict {
        Verdict::Passed(told) => {
            say!("{number:2}/{all:2} {elapsed:4} s  {name}: passed, {time} s, {} claims", told.len());
        }
        Verdict::Skipped(why) => say!("{number:2}/{all:2} {elapsed:4} s  {name}: skipped: {why}"),
        Verdict::Failed(why) => say!("{number:2}/{all:2} {elapsed:4} s  {name}: FAILED, {time} s: {why}"),
    }
}

impl Running {
    fn start(check: &Check, sender: &Sender<Event>) -> Result<Running> {
        let mut command = command(&check.run)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", check.run))?;
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            forward(stdout, check.name.clone(), false, sender.clone());
            forward(stderr, check.name.clone(), true, sender.clone());
        }
        let file = log_file(&check.name);
        let log = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Running {
            child,
            cores: check.cores,
            start: Instant::now(),
            log,
            open: 2,
            told: Vec::new(),
            skipped: None,
            fault: None,
            tail: Vec::new(),
            progress: String::new(),
        })
    }

    fn take(&mut self, text: &str, is_error: bool) {
        // A log that can't be written is no reason to stop.
        let _ = writeln!(self.log, "{text}");
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(text.to_string());
        if is_error && !text.trim().is_empty() {
            self.progress = text.trim().to_string();
        }
        if let Some(why) = text.strip_prefix(SKIPPED) {
            self.skipped = Some(why.to_string());
        }
        // Cargo's tests print what a test does behind `test NAME ... `.
        let told = text.find(claims::MARK).map_or(Ok(None), |at| Established::of_line(&text[at..]));
        match told {
            Ok(told) => self.told.extend(told),
            Err(fault) => self.fault = Some(fault),
        }
    }

    fn shown(&self, name: &str) -> String {
        let text: String = self.progress.chars().take(70).collect();
        format!("{name} {} s{}{text}", self.start.elapsed().as_secs(), if text.is_empty() { "" } else { ": " })
    }

    fn end(mut self, name: String) -> Result<Outcome> {
        let status = self.child.wait().with_context(|| format!("cannot wait for {name}"))?;
        let time = self.start.elapsed();
        let verdict = match (status.success(), self.fault, self.skipped) {
            (true, None, None) => Verdict::Passed(self.told),
            (true, None, Some(why)) => Verdict::Skipped(why),
            (_, fault, _) => {
                self.tail.iter().for_each(|line| say!("      | {line}"));
                say!("      everything that it printed: {}", paths::shown(&log_file(&name)));
                Verdict::Failed(fault.unwrap_or_else(|| status.to_string()))
            }
        };
        Ok(Outcome { name, verdict, time })
    }
}

/// Sends each line of an output, and that it is closed.
fn forward(output: impl Read + Send + 'static, name: String, is_error: bool, sender: Sender<Event>) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let text = String::from_utf8_lossy(&line).into_owned();
            // Nobody listens any more when the run is given up.
            let _ = sender.send(Event::Line { name: name.clone(), text, is_error });
        }
        let _ = sender.send(Event::Closed { name });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check that prints the lines of a file.
    fn check(name: &str, run: &str) -> Check {
        toml::from_str(&format!("name = '{name}'\nabout = ''\nrun = '{run}'\ntier = 'ci'\n")).unwrap()
    }

    #[test]
    fn checks_pass_fail_skip_and_tell() {
        let line =
            r#"test a ... CLAIM {"check":"a","property":"no-panic","tier":"tested","tool":"","bound":"","of":""}"#;
        let folder = paths::target().join("verify-tests");
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let file = folder.join(format!("{}-{name}", std::process::id()));
            fs::write(&file, text).unwrap();
            format!("cat {}", file.display())
        };
        let checks = [
            check("self-test-tells", &file("tells", line)),
            check("self-test-skips", &file("skips", "SKIPPED: no such tool")),
            check("self-test-garbled", &file("garbled", "CLAIM {}")),
            check("self-test-fails", "false"),
        ];
        let outcomes = run(&checks.iter().collect::<Vec<_>>()).unwrap();
        let verdict = |name: &str| &outcomes.iter().find(|outcome| outcome.name == name).unwrap().verdict;
        assert!(matches!(verdict("self-test-tells"), Verdict::Passed(told) if told.len() == 1));
        assert_eq!(*verdict("self-test-skips"), Verdict::Skipped("no such tool".into()));
        assert!(matches!(verdict("self-test-garbled"), Verdict::Failed(why) if why.contains("not a claim")));
        assert!(matches!(verdict("self-test-fails"), Verdict::Failed(_)));
    }
}
