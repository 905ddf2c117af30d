//! Mutation testing: cargo-mutants changes a line of the specification or the kernel's library, and the checks must see it.
//!
//! What is mutated, and what is run against each mutant, stands in `.cargo/mutants.toml`; the cheap random checks are in
//! `tests/quick.rs`. A run takes a sample: every n-th mutant, of all files in their order. Those that survived were looked at:
//! `verification/mutants.toml` lists each that is no gap, with the reason. [`Tally`] judges a run: each survivor is listed, each
//! listed one still exists, and enough were caught.
#![forbid(unsafe_code)]

use serde::Deserialize;
use std::collections::BTreeSet;

/// Of the mutants that mean something, at least this share must be caught.
pub const GOAL: f64 = 0.95;

/// `verification/mutants.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivors {
    /// Those that survive, each with its reason.
    #[serde(default, rename = "survivor")]
    pub list: Vec<Survivor>,
}

/// A mutant that survives, and may.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    /// Its name as cargo-mutants tells it, without line and column, which move.
    pub name: String,
    /// Whether it does what the original does: then it is not counted. Otherwise it is a gap that is known.
    pub equivalent: bool,
    /// Why it survives.
    pub reason: String,
}

/// `path:line:column: what` without the numbers: `path: what`.
pub fn name(full: &str) -> String {
    let (place, what) = full.split_once(": ").unwrap_or((full, ""));
    format!("{}: {what}", place.split(':').next().unwrap_or(place))
}

/// What became of a sample of mutants.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Mutants that there are.
    pub all: usize,
    /// Those of the sample that a check has seen; that ran into a time limit among them.
    pub caught: usize,
    /// Those that do not build, and mean nothing.
    pub unbuildable: usize,
    /// Names of those that survived.
    pub survived: Vec<String>,
}

/// `outcomes.json` of cargo-mutants, as far as it is needed.
#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    scenario: Scenario,
    summary: String,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant { name: String },
}

impl Tally {
    /// Reads a run: its `outcomes.json`, and how many mutants there are in all.
    ///
    /// # Errors
    /// If the text is not what this version of cargo-mutants writes.
    pub fn of_run(outcomes: &str, all: usize) -> Result<Tally, String> {
        let run: Outcomes = serde_json::from_str(outcomes).map_err(|error| format!("outcomes.json: {error}"))?;
        let mut tally = Tally { all, ..Tally::default() };
        for Outcome { scenario, summary } in run.outcomes {
            match (scenario, summary.as_str()) {
                (Scenario::Baseline, "Success") => {}
                (Scenario::Baseline, _) => return Err("the checks fail without any mutant".into()),
                (Scenario::Mutant { .. }, "CaughtMutant" | "Timeout") => tally.caught += 1,
                (Scenario::Mutant { .. }, "Unviable") => tally.unbuildable += 1,
                (Scenario::Mutant { name: full }, "MissedMutant") => tally.survived.push(name(&full)),
                (Scenario::Mutant { name }, other) => return Err(format!("{name}: {other}")),
            }
        }
        Ok(tally)
    }

    /// Mutants that mean something: they build, and are not listed as equivalent.
    fn counted(&self, survivors: &Survivors) -> usize {
        let equivalent = |name: &&String| survivors.list.iter().any(|one| one.equivalent && one.name == **name);
        self.caught + self.survived.len() - self.survived.iter().filter(equivalent).count()
    }

    /// The share that was caught, in words: with the interval in which that of all mutants lies (95 %, Wilson).
    pub fn words(&self, survivors: &Survivors) -> String {
        let (counted, all) = (self.counted(survivors), self.all);
        let (low, high) = wilson(self.caught, counted);
        let [share, low, high] = [self.caught as f64 / counted.max(1) as f64, low, high].map(|part| part * 100.0);
        format!(
            "{} of {counted} caught ({share:.1} %; 95 % interval {low:.1} to {high:.1} %), a sample of {all} mutants; \
             {} more are equivalent, {} do not build",
            self.caught,
            self.caught + self.survived.len() - counted,
            self.unbuildable
        )
    }

    /// What is wrong with the run and the list, a line each; `existing` are the names of all mutants.
    pub fn faults(&self, survivors: &Survivors, existing: &BTreeSet<String>) -> Vec<String> {
        let mut faults = stale(survivors, existing);
        let is_listed = |name: &String| survivors.list.iter().any(|one| one.name == *name);
        let unknown = self.survived.iter().filter(|name| !is_listed(name));
        faults.extend(unknown.map(|name| {
            format!("survived, and is not listed: {name} (write a test that sees it, or list it in verification/mutants.toml)")
        }));
        let counted = self.counted(survivors);
        if (self.caught as f64) < GOAL * counted as f64 {
            faults.push(format!("{} of {counted} are fewer than {:.0} %", self.caught, GOAL * 100.0));
        }
        faults
    }
}

/// Listed survivors that are no mutants any more, a line each.
pub fn stale(survivors: &Survivors, existing: &BTreeSet<String>) -> Vec<String> {
    let gone = survivors.list.iter().filter(|one| !existing.contains(&one.name));
    gone.map(|one| format!("listed in verification/mutants.toml, and does not exist: {}", one.name)).collect()
}

/// Wilson's interval for a share of `hits` in `of`, at 95 %.
fn wilson(hits: usize, of: usize) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, share) = (of as f64, hits as f64 / of as f64);
    let middle = share + Z * Z / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    ((middle - spread) / scale, (middle + spread) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"outcomes": [
        {"scenario": "Baseline", "summary": "Success"},
        {"scenario": {"Mutant": {"name": "a.rs:1:2: replace f with ()", "file": "a.rs"}}, "summary": "CaughtMutant"},
        {"scenario": {"Mutant": {"name": "a.rs:9:2: replace < with <= in f"}}, "summary": "MissedMutant"},
        {"scenario": {"Mutant": {"name": "b.rs:3:4: replace g with 1"}}, "summary": "Unviable"},
        {"scenario": {"Mutant": {"name": "b.rs:5:4: replace h with 1"}}, "summary": "Timeout"}
    ], "total_mutants": 4}"#;

    fn survivors(equivalent: bool) -> Survivors {
        let text = format!(
            "[[survivor]]\nname = 'a.rs: replace < with <= in f'\nequivalent = {equivalent}\nreason = 'both are 0 there'\n"
        );
        toml::from_str(&text).unwrap()
    }

    fn existing(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_run_is_counted_without_what_means_nothing() {
        let tally = Tally::of_run(RUN, 40).unwrap();
        assert_eq!((tally.caught, tally.unbuildable, tally.survived.len()), (2, 1, 1));
        assert_eq!((tally.counted(&survivors(true)), tally.counted(&survivors(false))), (2, 3));
        assert!(tally.words(&survivors(false)).starts_with("2 of 3 caught (66.7 %"));
        assert!(Tally::of_run(&RUN.replace("Success", "Failure"), 40).is_err());
    }

    #[test]
    fn what_is_not_listed_stale_or_too_little_is_a_fault() {
        let tally = Tally::of_run(RUN, 40).unwrap();
        let known = existing(&["a.rs: replace < with <= in f"]);
        assert_eq!(tally.faults(&survivors(true), &known), Vec::<String>::new());
        assert!(tally.faults(&survivors(false), &known)[0].contains("fewer than 95 %"));
        assert!(tally.faults(&survivors(true), &existing(&[]))[0].contains("does not exist"));
        assert!(tally.faults(&Survivors::default(), &known)[0].contains("not listed"));
    }

    #[test]
    fn the_interval_is_wilsons() {
        // 19 of 20, as any table has it.
        let (low, high) = wilson(19, 20);
        assert!((low - 0.7639).abs() < 1e-3 && (high - 0.9911).abs() < 1e-3, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }
}
