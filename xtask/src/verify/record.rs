//! `verification/established.jsonl`: what the last runs have established, a line each, from which `CLAIMS.md` is made.
//!
//! Guarantees that nothing stands in it that no run has told: lines are written by [`Record::renew`] alone, for checks that
//! passed, and lines of a check that fails, or that the register does not know, go.

use super::register::{Check, Key, Register, key};
use crate::paths;
use anyhow::{Context, Result};
use claims::Established;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// A claim, and the run that has shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The check of the register that was run.
    pub by: String,
    /// What it told.
    #[serde(flatten)]
    pub told: Established,
    /// Seconds that it took.
    pub seconds: u64,
    /// The commit that it ran on.
    pub commit: String,
}

/// All that was established.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// In the order of the register, then of properties.
    pub entries: Vec<Entry>,
}

impl Record {
    fn file() -> PathBuf {
        paths::root().join("verification/established.jsonl")
    }

    /// Reads it; nothing was established if there is no file.
    ///
    /// # Errors
    /// When a line is none of its own.
    pub fn read() -> Result<Record> {
        let file = Record::file();
        let text = fs::read_to_string(&file).unwrap_or_default();
        let entry = |line| serde_json::from_str(line).with_context(|| format!("{}: {line}", paths::shown(&file)));
        Ok(Record { entries: text.lines().map(entry).collect::<Result<_>>()? })
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self) -> Result<()> {
        let mut text = String::new();
        for entry in &self.entries {
            writeln!(text, "{}", serde_json::to_string(entry)?)?;
        }
        let file = Record::file();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What a check has established last.
    pub fn of<'a>(&'a self, check: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.by == check)
    }

    /// Takes the results of runs over: `None` for a check that failed.
    pub fn renew(&mut self, register: &Register, results: &BTreeMap<String, Option<Vec<Entry>>>) {
        let mut entries = Vec::new();
        for check in &register.checks {
            let expected = check.expected();
            let mut rows: Vec<Entry> = match results.get(&check.name) {
                Some(result) => result.clone().unwrap_or_default(),
                None => self.of(&check.name).cloned().collect(),
            };
            rows.retain(|entry| expected.contains(&key(&entry.told)));
            rows.sort_by_key(|entry| (entry.told.check.clone(), entry.told.property.clone()));
            entries.append(&mut rows);
        }
        self.entries = entries;
    }
}

/// What is wrong with what a check has told, a line each: that it did not tell what it must, or told what it must not.
pub fn faults_of_told(check: &Check, told: &[Established]) -> Vec<String> {
    let expected = check.expected();
    let mut found = BTreeSet::new();
    let mut faults = Vec::new();
    for one in told {
        let key = key(one);
        if !expected.contains(&key) {
            faults.push(format!("claims {}, which verification/claims.toml does not list", words(&key)));
        }
        if !found.insert(key.clone()) {
            faults.push(format!("claims {} twice", words(&key)));
        }
    }
    let missing = expected.difference(&found);
    faults.extend(missing.map(|key| format!("does not claim {}, which verification/claims.toml lists", words(key))));
    faults
}

/// What differs between what a check has told now and what is recorded, a line each.
pub fn differences(check: &Check, told: &[Established], record: &Record) -> Vec<String> {
    let recorded: BTreeMap<Key, &Established> =
        record.of(&check.name).map(|entry| (key(&entry.told), &entry.told)).collect();
    let mut lines = Vec::new();
    for one in told {
        match recorded.get(&key(one)) {
            None => lines.push(format!("{} is not in CLAIMS.md", words(&key(one)))),
            Some(known) if *known != one => lines.push(format!(
                "{}: CLAIMS.md says `{}` of `{}` by {}, this run `{}` of `{}` by {}",
                words(&key(one)),
                known.bound,
                known.of,
                known.tool,
                one.bound,
                one.of,
                one.tool
            )),
            Some(_) => {}
        }
    }
    lines
}

fn words((check, property, tier): &Key) -> String {
    format!("{check}: {property}, {}", tier.words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use claims::Tier;

    fn told(property: &str, bound: &str) -> Established {
        let [check, tool, of] = ["a", "tool", "library"].map(String::from);
        Established { check, property: property.into(), tier: Tier::Tested, tool, bound: bound.into(), of }
    }

    fn entry(property: &str, bound: &str) -> Entry {
        Entry { by: "a".into(), told: told(property, bound), seconds: 1, commit: "c".into() }
    }

    fn register() -> Register {
        let check = "name = 'a'\nabout = ''\nrun = 'true'\ntier = 'ci'\n";
        let claims = "claims = [{ tier = 'tested', properties = ['no-panic', 'no-overlap'] }]\n";
        toml::from_str(&format!("[[check]]\n{check}{claims}")).unwrap()
    }

    #[test]
    fn a_check_tells_exactly_what_is_listed() {
        let register = register();
        let check = &register.checks[0];
        assert_eq!(faults_of_told(check, &[told("no-panic", ""), told("no-overlap", "")]), Vec::<String>::new());
        assert_eq!(faults_of_told(check, &[told("no-panic", "")]).len(), 1, "one is missing");
        let strange = [told("no-panic", ""), told("no-overlap", ""), told("refinement", "")];
        assert!(faults_of_told(check, &strange)[0].contains("does not list"));
        let stronger = Established { tier: Tier::ProvedForAnySize, ..told("no-panic", "") };
        assert_eq!(faults_of_told(check, &[stronger, told("no-overlap", "")]).len(), 2, "not the tier that is listed");
    }

    #[test]
    fn another_bound_is_a_difference() {
        let register = register();
        let record = Record { entries: vec![entry("no-panic", "4 slots")] };
        let check = &register.checks[0];
        assert_eq!(differences(check, &[told("no-panic", "4 slots")], &record), Vec::<String>::new());
        assert_eq!(differences(check, &[told("no-panic", "5 slots")], &record).len(), 1);
        assert_eq!(differences(check, &[told("no-overlap", "")], &record).len(), 1);
    }

    #[test]
    fn what_fails_and_what_is_not_listed_goes() {
        let register = register();
        let mut record = Record { entries: vec![entry("no-panic", ""), entry("refinement", "")] };
        record.renew(&register, &BTreeMap::new());
        assert_eq!(record.entries, [entry("no-panic", "")]);
        record.renew(&register, &BTreeMap::from([("a".to_string(), Some(vec![entry("no-overlap", "2")]))]));
        assert_eq!(record.entries, [entry("no-overlap", "2")]);
        record.renew(&register, &BTreeMap::from([("a".to_string(), None)]));
        assert_eq!(record.entries, []);
    }
}
