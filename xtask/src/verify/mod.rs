//! `cargo xtask verify`: every claim shown again, by one command.
//!
//! Checks and claims are data, [`register`]; what a run has told is kept, [`record`]; the page is made of both, [`page`].
//! So nothing is claimed that a check which passed has not told: a claim that is listed and not told is an error, one that
//! is told and not listed is an error, and so is a bound that is not the one that stands in `CLAIMS.md`.

mod page;
mod record;
mod register;
mod runner;
pub mod seeded;

use crate::process;
use anyhow::{Context, Result};
use record::{Entry, Record};
pub use register::Register;
use register::{Check, When};
use runner::{Outcome, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Instant;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only these checks; those of the tier if there is none.
    pub checks: Vec<String>,
    /// Also those that take long.
    pub full: bool,
    /// Leave out what starts emulators.
    pub host_only: bool,
    /// Write `CLAIMS.md` anew from what is found, instead of comparing with it.
    pub write: bool,
}

/// Lists the checks.
///
/// # Errors
/// When the register does not make sense.
pub fn list() -> Result<()> {
    for Check { name, about, tier, run, .. } in &Register::read()?.checks {
        let tier = if *tier == When::Ci { "CI" } else { "full" };
        say!("{name} ({tier}): {about}\n    {run}");
    }
    Ok(())
}

/// Makes `CLAIMS.md` anew from what is recorded, without running anything: after `claims.toml` was edited.
///
/// # Errors
/// When the register does not make sense, or a file can't be written.
pub fn write_page() -> Result<()> {
    let register = Register::read()?;
    let mut record = Record::read()?;
    record.renew(&register, &BTreeMap::new());
    write(&register, &record)
}

fn write(register: &Register, record: &Record) -> Result<()> {
    record.write()?;
    fs::write(page::file(), page::text(register, record)?).context("cannot write CLAIMS.md")?;
    say!("verification/CLAIMS.md is written anew");
    Ok(())
}

/// Packages all of whose tests checks of the CI tier run.
///
/// # Errors
/// When the register does not make sense.
pub fn tested_packages() -> Result<BTreeSet<String>> {
    let checks = Register::read()?.checks;
    Ok(checks.into_iter().filter(|check| check.tier == When::Ci).flat_map(|check| check.tests_of).collect())
}

/// Runs the checks; returns how many passed and how many did not.
///
/// # Errors
/// When the register does not make sense, or something does not build.
pub fn verify(options: &Options) -> Result<(u64, u64)> {
    let start = Instant::now();
    let register = Register::read()?;
    let mut record = Record::read()?;
    let mut checks = register.chosen(&options.checks, options.full)?;
    checks.retain(|check| !(options.host_only && check.emulator));
    // Those that took long last time first, so that nothing is left to run alone at the end.
    checks.sort_by_key(|check| {
        let seconds = record.of(&check.name).map(|entry| entry.seconds).max().unwrap_or(u64::MAX);
        std::cmp::Reverse((check.cores, seconds))
    });
    runner::build(&checks)?;
    let outcomes = runner::run(&checks)?;
    let mut faults = Vec::new();
    let mut results = BTreeMap::new();
    let commit = commit()?;
    for outcome in &outcomes {
        let Some(check) = checks.iter().find(|check| check.name == outcome.name) else { continue };
        match judge(check, outcome, &record, options.write) {
            Ok(()) => {
                if let Verdict::Passed(told) = &outcome.verdict {
                    let entry = |told: &claims::Established| Entry {
                        by: check.name.clone(),
                        told: told.clone(),
                        seconds: outcome.time.as_secs(),
                        commit: commit.clone(),
                    };
                    results.insert(check.name.clone(), Some(told.iter().map(entry).collect()));
                }
            }
            Err(mut found) => {
                faults.append(&mut found);
                results.insert(check.name.clone(), None);
            }
        }
    }
    if options.write {
        // Read again, as another run may have ended meanwhile.
        let register = Register::read()?;
        record = Record::read()?;
        record.renew(&register, &results);
        write(&register, &record)?;
    } else {
        faults.extend(stale(&register, &record)?);
    }
    let failed = results.values().filter(|result| result.is_none()).count();
    let skipped = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Skipped(_))).count();
    faults.iter().for_each(|fault| say!("FAILED: {fault}"));
    let seconds = start.elapsed().as_secs();
    say!("{} checks: {failed} failed, {skipped} skipped, {seconds} s", outcomes.len());
    let passed = outcomes.len() - failed - skipped;
    Ok((passed as u64, failed.max(usize::from(!faults.is_empty())) as u64))
}

/// Whether a check has shown what it must.
fn judge(check: &Check, outcome: &Outcome, record: &Record, write: bool) -> Result<(), Vec<String>> {
    let lines = match &outcome.verdict {
        Verdict::Skipped(_) => Vec::new(),
        Verdict::Failed(why) => vec![why.clone()],
        Verdict::Passed(told) => {
            let mut lines = record::faults_of_told(check, told);
            if lines.is_empty() && !write {
                lines = record::differences(check, told, record);
                if !lines.is_empty() {
                    lines.push(format!("if that is right, type: cargo xtask verify {} --write", check.name));
                }
            }
            lines
        }
    };
    if lines.is_empty() {
        return Ok(());
    }
    Err(lines.into_iter().map(|line| format!("{}: {line}", check.name)).collect())
}

/// What is wrong with the page and the record by themselves.
fn stale(register: &Register, record: &Record) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for check in &register.checks {
        let shown: BTreeSet<_> = record.of(&check.name).map(|entry| register::key(&entry.told)).collect();
        // What takes long has no row before it was run, and claims nothing so long.
        let is_open = check.tier == When::Full && shown.is_empty();
        if shown != check.expected() && !is_open {
            let name = &check.name;
            faults.push(format!("{name}: no run has shown what it claims; type: cargo xtask verify {name} --write"));
        }
    }
    if fs::read_to_string(page::file()).ok() != Some(page::text(register, record)?) {
        faults.push("CLAIMS.md is not what established.jsonl says; type: cargo xtask verify --page".into());
    }
    Ok(faults)
}

/// The commit that is checked out, as in the page.
fn commit() -> Result<String> {
    let text = process::output(Command::new("git").current_dir(crate::paths::root()).args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=10",
        "--exclude=*",
    ]));
    // Sources without their history are none the worse.
    Ok(text.map_or_else(|_| "unknown sources".into(), |text| text.trim().to_string()))
}
