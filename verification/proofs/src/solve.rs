//! Both solvers on the same files, two at a time, and what they say of each other.

use crate::queries::{Expected, Query};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// The solvers, by the names that the worker knows.
pub const SOLVERS: [&str; 2] = ["z3", "cvc5"];
/// How many processes answer.
const WORKERS: usize = 2;
/// What each of them runs.
const WORKER: &str = include_str!("../worker.py");

/// What a solver said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// `sat`, `unsat` or `unknown`.
    pub word: String,
    /// How long it took.
    pub seconds: f64,
}

/// What both said of the queries.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// The solvers' names with their versions.
    pub tools: String,
    /// For each query, the answers in the order of [`SOLVERS`]; empty of who was not asked.
    pub of: Vec<[Answer; 2]>,
}

/// A process that answers.
struct Worker {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    versions: String,
}

impl Worker {
    fn start(python: &Path, script: &Path) -> Result<Worker> {
        let mut process =
            Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(
                || format!("cannot start {}; remove target/solvers and run this again", python.display()),
            )?;
        let (Some(to), Some(from)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("a worker has no pipes");
        };
        let mut worker = Worker { process, to, from: BufReader::new(from), versions: String::new() };
        worker.versions = worker.line()?.replace('\t', ", ");
        Ok(worker)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("a solver's process has ended before its time; what it said is above");
        }
        Ok(line.trim_end().to_string())
    }

    fn ask(&mut self, solver: &str, milliseconds: u64, file: &Path) -> Result<Answer> {
        writeln!(self.to, "{solver}\t{milliseconds}\t{}", file.display())?;
        let line = self.line().with_context(|| format!("{solver} on {}", file.display()))?;
        let (word, seconds) = line.split_once('\t').ok_or_else(|| anyhow!("{solver} says {line}"))?;
        Ok(Answer { word: word.into(), seconds: seconds.parse()? })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The file of a query below a folder.
fn file_of(folder: &Path, query: &Query) -> PathBuf {
    folder.join(format!("{}.smt2", query.name))
}

/// Writes every query to a file of its own.
///
/// # Errors
/// When a file cannot be written.
pub fn dump(queries: &[Query], folder: &Path) -> Result<()> {
    for query in queries {
        let file = file_of(folder, query);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let text = format!("; {}: {} is expected\n{}", query.name, query.expected.word(), query.text);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Who is asked, by the place in [`SOLVERS`]: for a proof both. A model is sought by z3 alone: cvc5 takes some seconds for
/// each, and a model is no less one for having been found once.
pub fn solvers(query: &Query) -> std::ops::Range<usize> {
    match query.expected {
        Expected::Unsat => 0..SOLVERS.len(),
        Expected::Sat => 0..1,
    }
}

/// Asks the solvers every query, which must have been dumped below the folder.
///
/// # Errors
/// When a solver cannot be run; a wrong answer is none.
pub fn ask(queries: &[Query], folder: &Path, python: &Path, milliseconds: u64) -> Result<Answers> {
    let script = folder.join("worker.py");
    fs::write(&script, WORKER).with_context(|| format!("cannot write {}", script.display()))?;
    let tasks: Mutex<VecDeque<(usize, usize)>> = Mutex::new(
        (0..queries.len()).flat_map(|query| solvers(&queries[query]).map(move |solver| (query, solver))).collect(),
    );
    let all = lock(&tasks).len();
    let answers = Mutex::new(Answers { tools: String::new(), of: vec![Default::default(); queries.len()] });
    let work = || -> Result<()> {
        let mut worker = Worker::start(python, &script)?;
        lock(&answers).tools.clone_from(&worker.versions);
        loop {
            let (task, left) = {
                let mut tasks = lock(&tasks);
                (tasks.pop_front(), tasks.len())
            };
            let Some((query, solver)) = task else { return Ok(()) };
            progress(all - left, all);
            let answer = worker.ask(SOLVERS[solver], milliseconds, &file_of(folder, &queries[query]));
            match answer {
                Ok(answer) => lock(&answers).of[query][solver] = answer,
                Err(error) => {
                    lock(&tasks).clear();
                    return Err(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a worker's thread died")))
    })?;
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    answers.into_inner().map_err(|_| anyhow!("a worker's thread died"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Says how far it is: in one line of a terminal, else now and then.
fn progress(done: usize, all: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\rproofs: {done} of {all} answers");
    } else if done.is_multiple_of(500) {
        eprintln!("proofs: {done} of {all} answers");
    }
}
