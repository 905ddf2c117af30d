//! `cargo xtask verify --seeded-bugs`: bugs put into the kernel's source, each of which a check must find.
//!
//! Each worker has a copy of the repository, as it is in the folder with what is not committed, and a target folder, both
//! below `target/seeded-bugs/`; so only the kernel and what rests on it is built again for a bug. Nothing outside is changed.

use super::runner;
use crate::{paths, process};
use anyhow::{Context, Result, anyhow, bail, ensure};
use cap_spec::properties::Property;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Copies that are worked in at the same time.
const WORKERS: usize = 2;
/// Seconds that a check has, built already: the kernel as it is passes in a tenth of it. Who does not end has found something.
const LIMIT: u64 = 300;
/// What `timeout` ends with when the command did not end.
const TIMED_OUT: i32 = 124;
/// Characters of a line of evidence.
const EVIDENCE: usize = 110;

/// `verification/seeded-bugs.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "check")]
    checks: Vec<Check>,
    #[serde(rename = "bug")]
    bugs: Vec<Bug>,
}

/// A command that is to find bugs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    name: String,
    about: String,
    /// Makes ready what `run` runs: a bug that does not build is none.
    build: String,
    run: String,
}

/// A change of the source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bug {
    name: String,
    about: String,
    file: PathBuf,
    find: String,
    replace: String,
    /// Properties that do not hold with it.
    breaks: Vec<String>,
    caught_by: Vec<String>,
}

/// What became of a bug: each check that was run, and how the kernel with the bug failed it, if it did.
struct Found<'a> {
    bug: &'a Bug,
    by: Vec<(&'a Check, Option<String>)>,
}

impl Table {
    fn read() -> Result<Table> {
        let file = paths::root().join("verification/seeded-bugs.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let table: Table = toml::from_str(&text).with_context(|| paths::shown(&file))?;
        let names: BTreeSet<&str> = table.bugs.iter().map(|bug| bug.name.as_str()).collect();
        ensure!(names.len() == table.bugs.len(), "two seeded bugs have the same name");
        for bug in &table.bugs {
            ensure!(!bug.caught_by.is_empty(), "{}: no check is to catch it", bug.name);
            for name in &bug.caught_by {
                ensure!(table.check(name).is_some(), "{}: there is no check {name}", bug.name);
            }
            ensure!(!bug.breaks.is_empty(), "{}: it breaks no property", bug.name);
            for name in &bug.breaks {
                ensure!(Property::from_name(name).is_some(), "{}: there is no property {name}", bug.name);
            }
            bug.applied(&paths::root())?;
        }
        Ok(table)
    }

    fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

impl Bug {
    /// The file with the bug in it.
    fn applied(&self, root: &Path) -> Result<String> {
        let file = root.join(&self.file);
        let text = fs::read_to_string(&file).with_context(|| format!("{}: cannot read its file", self.name))?;
        let count = text.matches(&self.find).count();
        ensure!(count == 1, "{}: its text stands {count} times in {}", self.name, self.file.display());
        Ok(text.replacen(&self.find, &self.replace, 1))
    }
}

/// Puts the bugs in, those with these names or all, and prints who found what. True if each was found.
///
/// # Errors
/// When a bug no longer applies, a copy can't be made, or the kernel as it is fails a check.
pub fn run(names: &[String]) -> Result<bool> {
    let start = Instant::now();
    let table = Table::read()?;
    if let Some(unknown) = names.iter().find(|name| !table.bugs.iter().any(|bug| bug.name == **name)) {
        bail!("there is no seeded bug `{unknown}`; verification/seeded-bugs.toml lists them");
    }
    let bugs: Vec<&Bug> = table.bugs.iter().filter(|bug| names.is_empty() || names.contains(&bug.name)).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let failed: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let work = |number| {
            let (table, bugs, next, found) = (&table, &bugs, &next, &found);
            move || worker(number, table, bugs, next, found, start)
        };
        let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(work(number))).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("a worker does not panic").err()).collect()
    });
    if let Some(error) = failed.into_iter().next() {
        return Err(error);
    }
    let mut found = found.into_inner().expect("no worker panicked");
    found.sort_by_key(|found| bugs.iter().position(|bug| bug.name == found.bug.name));
    Ok(report(&found, start))
}

/// Makes a copy, looks that the kernel as it is passes, and takes one bug after the other.
fn worker<'a>(
    number: usize,
    table: &'a Table,
    bugs: &[&'a Bug],
    next: &AtomicUsize,
    found: &Mutex<Vec<Found<'a>>>,
    start: Instant,
) -> Result<()> {
    let folder = paths::target().join(format!("seeded-bugs/{number}"));
    let copy = copy(&folder)?;
    // The checks are shared out, so that each is seen to pass once.
    for check in table.checks.iter().skip(number).step_by(WORKERS) {
        if let Some(evidence) = fails(check, &copy)? {
            bail!("the kernel as it is fails `{}`: {evidence}", check.name);
        }
        say!("      {:4} s  without a bug: {} passes ({})", start.elapsed().as_secs(), check.name, check.about);
    }
    while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
        let file = copy.join(&bug.file);
        let text = fs::read_to_string(&file)?;
        fs::write(&file, bug.applied(&copy)?)?;
        let mut by = Vec::new();
        for check in bug.caught_by.iter().filter_map(|name| table.check(name)) {
            by.push((check, fails(check, &copy)?));
        }
        fs::write(&file, text)?;
        let caught = by.iter().filter(|(_, evidence)| evidence.is_some()).count();
        let seconds = start.elapsed().as_secs();
        let mut found = found.lock().expect("no worker panicked");
        found.push(Found { bug, by });
        say!("{:2}/{:2} {seconds:4} s  {}: found by {caught} checks", found.len(), bugs.len(), bug.name);
    }
    Ok(())
}

/// The first line of evidence if the check fails in this copy.
fn fails(check: &Check, copy: &Path) -> Result<Option<String>> {
    let prepare = |command: &mut Command| {
        command.current_dir(copy).env("CARGO_TARGET_DIR", copy.with_file_name("target")).env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::null());
    };
    let mut build = runner::command(&check.build)?;
    prepare(&mut build);
    process::quiet(&mut build).map_err(|said| anyhow!("`{}` fails:\n{said}", check.build))?;
    let checking = runner::command(&check.run)?;
    // It ends whatever the check has started, too.
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(LIMIT.to_string()).arg(checking.get_program()).args(checking.get_args());
    prepare(&mut command);
    let output = command.output().with_context(|| format!("cannot start `{}`", process::typed(&command)))?;
    if output.status.success() {
        return Ok(None);
    }
    if output.status.code() == Some(TIMED_OUT) {
        return Ok(Some(format!("it has not ended after {LIMIT} s")));
    }
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Some(evidence(&text)))
}

/// The line that says most: of a failure, a panic, or a difference.
fn evidence(text: &str) -> String {
    let is_noise = |line: &&str| {
        let line = line.trim();
        let noise =
            ["running ", "test ", "note:", "error: process", "warning", "CLAIM", "failures:", "----", "invoke "];
        line.is_empty() || line.starts_with('#') || noise.iter().any(|noise| line.starts_with(noise))
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_noise(line)).collect();
    let telling = ["panicked at", "expected ", "differ", "seed ", "says", "too little", "outside", "listed", "linked"];
    let at = telling.iter().find_map(|word| lines.iter().position(|line| line.contains(word)));
    let shown = match at {
        // What a panic says stands in the line behind.
        Some(at) if lines[at].contains("panicked at") && at + 1 < lines.len() => lines[at + 1],
        Some(at) if lines[at].ends_with(':') && at + 1 < lines.len() => lines[at + 1],
        Some(at) => lines[at],
        None => lines.first().copied().unwrap_or("it ends with an error"),
    };
    shown.trim().chars().take(EVIDENCE).collect()
}

/// Brings a copy of the repository up to date; files that are the same keep their time, so that they are not built again.
fn copy(folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("copy");
    let list = process::output(Command::new("git").current_dir(paths::root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))
    .context("the copies are made of what git knows")?;
    let mut wanted = BTreeSet::new();
    for name in list.lines() {
        let Ok(data) = fs::read(paths::root().join(name)) else { continue };
        let file = copy.join(name);
        wanted.insert(file.clone());
        if fs::read(&file).ok().as_ref() != Some(&data) {
            let parent = file.parent().context("a file is in a folder")?;
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            fs::write(&file, data).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    remove_others(&copy, &wanted)?;
    Ok(copy)
}

/// Removes what an earlier copy had and this one has not.
fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn report(found: &[Found<'_>], start: Instant) -> bool {
    say!("\n| seeded bug | what it breaks | found by | evidence |\n|---|---|---|---|");
    let mut missed = Vec::new();
    for Found { bug, by } in found {
        for (check, evidence) in by {
            match evidence {
                Some(evidence) => {
                    let breaks = bug.breaks.join(", ");
                    say!("| {}: {} | {breaks} | {} | {evidence} |", bug.name, bug.about, check.name);
                }
                None => missed.push(format!("{} is not found by {}: {}", bug.name, check.name, bug.about)),
            }
        }
    }
    missed.iter().for_each(|line| say!("FAILED: {line}"));
    let seconds = start.elapsed().as_secs();
    say!("\n{} seeded bugs, {} not found by a check that must find them, {seconds} s", found.len(), missed.len());
    missed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seeded_bug_applies_to_the_kernel_of_today() {
        let table = Table::read().unwrap();
        assert!(table.bugs.len() >= 12, "{}", table.bugs.len());
        assert!(table.bugs.iter().all(|bug| bug.find != bug.replace && bug.file.starts_with("kernel/src")));
    }

    #[test]
    fn evidence_is_what_a_failure_says() {
        let panic =
            "running 3 tests\n\nthread 'a' panicked at kernel/src/a.rs:1:1:\nno table of level 2\nnote: run with";
        assert_eq!(evidence(panic), "no table of level 2");
        assert_eq!(evidence("# seed 0x1, 2 steps:\ninvoke 0 1\n\nexpected Ok(1), the kernel says Ok(2)"), {
            "expected Ok(1), the kernel says Ok(2)"
        });
        assert_eq!(evidence(""), "it ends with an error");
    }
}
