//! `verification/claims.toml`: which checks there are, what each must establish, what is assumed, and what is not claimed.
//!
//! Guarantees that what is read makes sense by itself: names are unique, properties are those of the specification, each
//! property is claimed by a check or listed as not claimed, and not both.

use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// What is run, in the order of the page.
    #[serde(rename = "check")]
    pub checks: Vec<Check>,
    /// What no check shows, and everything rests on.
    #[serde(rename = "assumption", default)]
    pub assumptions: Vec<Assumption>,
    /// What one might expect to be claimed, and is not.
    #[serde(rename = "gap", default)]
    pub gaps: Vec<Gap>,
}

/// A command, and what it must establish.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name on the command line.
    pub name: String,
    /// What it does, a sentence.
    pub about: String,
    /// What is built before checks run side by side: commands, one after the other.
    #[serde(default)]
    pub build: Vec<String>,
    /// The command.
    pub run: String,
    /// When it is run.
    pub tier: When,
    /// How many processors it keeps busy: one that needs two, or a machine that does nothing else, runs alone.
    #[serde(default = "one")]
    pub cores: usize,
    /// Whether it starts emulators.
    #[serde(default)]
    pub emulator: bool,
    /// What it needs beyond what builds the project.
    pub needs: Option<Need>,
    /// Packages of which it runs all tests, so that `cargo xtask test` need not.
    #[serde(default)]
    pub tests_of: Vec<String>,
    /// What it establishes; nothing, if it only shows that another check can find something.
    #[serde(default)]
    pub claims: Vec<Claim>,
}

/// What a check establishes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The name under which the check tells it, if it is another than its own.
    pub check: Option<String>,
    /// How far it goes.
    pub tier: Tier,
    /// The properties.
    pub properties: Vec<String>,
}

/// What a check needs that is not there on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// The interpreter of Rust's nightly toolchain.
    Miri,
    /// z3, cvc5 and bitwuzla.
    Solvers,
    /// Rust's nightly toolchain, and a C++ compiler, for libFuzzer.
    Nightly,
    /// cargo-mutants.
    Mutants,
}

/// When a check is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Always.
    Ci,
    /// With `--full`, or by its name.
    Full,
}

/// What no check shows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumption {
    /// Of what: processor, IOMMU, tools.
    pub of: String,
    /// What is assumed.
    pub text: String,
    /// Where the manual says so.
    pub source: String,
    /// Where it is relied on.
    pub used: String,
}

/// What is not claimed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The property, if it is one as a whole.
    pub property: Option<String>,
    /// What is not claimed.
    pub what: String,
    /// Why not.
    pub why: String,
}

fn one() -> usize {
    1
}

/// Who told what: what identifies a claim of a run.
pub type Key = (String, String, Tier);

/// The key of what was told.
pub fn key(told: &Established) -> Key {
    (told.check.clone(), told.property.clone(), told.tier)
}

impl Check {
    /// What it must tell.
    pub fn expected(&self) -> BTreeSet<Key> {
        let of_claim = |claim: &Claim| {
            let check = claim.check.clone().unwrap_or_else(|| self.name.clone());
            let tier = claim.tier;
            claim.properties.clone().into_iter().map(move |property| (check.clone(), property, tier))
        };
        self.claims.iter().flat_map(of_claim).collect()
    }
}

impl Register {
    /// Where it is.
    pub fn file() -> PathBuf {
        paths::root().join("verification/claims.toml")
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// When it can't be read, or does not make sense; the message says what to change.
    pub fn read() -> Result<Register> {
        let file = Register::file();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Register::parse(&text).with_context(|| paths::shown(&file))
    }

    /// The register of a text.
    ///
    /// # Errors
    /// As [`Register::read`].
    pub fn parse(text: &str) -> Result<Register> {
        let register: Register = toml::from_str(text)?;
        let mut names = BTreeSet::new();
        let mut told = BTreeSet::new();
        for check in &register.checks {
            ensure!(names.insert(&check.name), "two checks are named {}", check.name);
            ensure!((1..=2).contains(&check.cores), "{}: cores is 1 or 2", check.name);
            for key in check.expected() {
                ensure!(Property::from_name(&key.1).is_some(), "{}: there is no property {}", check.name, key.1);
                ensure!(told.insert(key.clone()), "{}: {} is claimed twice as {:?}", check.name, key.1, key.2);
            }
        }
        for gap in &register.gaps {
            if let Some(property) = &gap.property {
                ensure!(Property::from_name(property).is_some(), "gap: there is no property {property}");
                ensure!(!told.iter().any(|key| key.1 == *property), "gap: {property} is claimed by a check");
            }
        }
        for property in Property::all() {
            let name = property.name();
            let listed = register.gaps.iter().any(|gap| gap.property.as_deref() == Some(name));
            if !listed && !told.iter().any(|key| key.1 == name) {
                bail!("{name} is claimed by no check: claim it, or add a [[gap]] that says that it is not claimed");
            }
        }
        Ok(register)
    }

    /// The checks with these names, or those of the tier.
    ///
    /// # Errors
    /// When there is none of a name.
    pub fn chosen(&self, names: &[String], full: bool) -> Result<Vec<&Check>> {
        if names.is_empty() {
            return Ok(self.checks.iter().filter(|check| full || check.tier == When::Ci).collect());
        }
        if let Some(unknown) = names.iter().find(|name| !self.checks.iter().any(|check| check.name == **name)) {
            let known: Vec<&str> = self.checks.iter().map(|check| check.name.as_str()).collect();
            bail!("there is no check `{unknown}`; there are: {}", known.join(", "));
        }
        Ok(self.checks.iter().filter(|check| names.contains(&check.name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register that claims these properties, and lists the others as gaps.
    fn register(properties: &[&str]) -> String {
        let mut text = format!(
            "[[check]]\nname = 'a'\nabout = ''\nrun = 'true'\ntier = 'ci'\n\
             claims = [{{ tier = 'tested', properties = {properties:?} }}]\n"
        );
        for property in Property::all().filter(|property| !properties.contains(&property.name())) {
            text.push_str(&format!("[[gap]]\nproperty = '{}'\nwhat = ''\nwhy = ''\n", property.name()));
        }
        text
    }

    #[test]
    fn what_ships_makes_sense() {
        let register = Register::read().unwrap();
        assert!(!register.checks.is_empty() && !register.assumptions.is_empty());
    }

    #[test]
    fn each_property_is_claimed_or_a_gap() {
        assert!(Register::parse(&register(&["no-panic"])).is_ok());
        let text = register(&["no-panic"]);
        let none = text.replace("property = 'well-formed'\n", "");
        assert!(Register::parse(&none).unwrap_err().to_string().contains("well-formed is claimed by no check"));
        let both = format!("{text}[[gap]]\nproperty = 'no-panic'\nwhat = ''\nwhy = ''\n");
        assert!(Register::parse(&both).unwrap_err().to_string().contains("no-panic is claimed by a check"));
        let twice = register(&["no-panic", "no-panic"]);
        assert!(Register::parse(&twice).is_ok(), "the same claim once more is the same claim");
        assert!(Register::parse(&register(&["magic"])).unwrap_err().to_string().contains("no property magic"));
    }

    #[test]
    fn checks_are_found_by_name() {
        let register = Register::parse(&register(&["no-panic"])).unwrap();
        assert_eq!(register.chosen(&["a".into()], false).unwrap().len(), 1);
        let error = register.chosen(&["b".into()], false).unwrap_err().to_string();
        assert_eq!(error, "there is no check `b`; there are: a");
    }
}
