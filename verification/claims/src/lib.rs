//! What a check has established, in the one form that all checks tell and `cargo xtask verify` reads.
//!
//! A check prints one line for each property that it has just established, `CLAIM ` and a JSON object, and prints it only
//! when it has passed. So what `verification/CLAIMS.md` says of bounds and counts is what a run has found, not what
//! somebody wrote.
#![forbid(unsafe_code)]

pub mod progress;

use cap_spec::properties::Property;
use serde::{Deserialize, Serialize};

/// What a line begins with.
pub const MARK: &str = "CLAIM ";

/// How far a claim goes, from the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// For any number of slots, objects and VMs.
    ProvedForAnySize,
    /// For every state that satisfies the invariant, reachable or not, of a system of stated size.
    ProvedToABound,
    /// Every state, or every sequence, of a system of stated size.
    ExhaustiveToABound,
    /// Read off the binary that ships.
    ReadOffTheBinary,
    /// On random, directed or real runs.
    Tested,
    /// Not shown here: of hardware, of tools.
    Assumed,
}

impl Tier {
    /// As a reader of `CLAIMS.md` sees it.
    pub const fn words(self) -> &'static str {
        match self {
            Tier::ProvedForAnySize => "proved for any size",
            Tier::ProvedToABound => "proved for all states to a bound",
            Tier::ExhaustiveToABound => "exhaustively checked to a bound",
            Tier::ReadOffTheBinary => "read off the binary",
            Tier::Tested => "tested",
            Tier::Assumed => "assumed",
        }
    }
}

/// A property that a check has established.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Established {
    /// The check: a short name, unique among all of the project's checks, such as `model-derivation-5-slots`.
    pub check: String,
    /// The property's name, see [`Property`].
    pub property: String,
    /// How far it goes.
    pub tier: Tier,
    /// With what: `z3 5.4.1`, `own breadth-first search`.
    pub tool: String,
    /// What was covered, in figures of this run that are the same in each run: `4 slots: 69,012 states, 1,1 M edges`.
    pub bound: String,
    /// Of what: `specification`, `kernel library`, `kernel binary, SVM`, `machine of 2 cores, SVM, VT-d`.
    pub of: String,
}

impl Established {
    /// One of these properties each, of the same check with the same bound.
    pub fn tell_all(self, properties: &[Property]) {
        for property in properties {
            Established { property: property.name().into(), ..self.clone() }.tell();
        }
    }

    /// Prints the line.
    pub fn tell(&self) {
        println!("{MARK}{}", serde_json::to_string(self).expect("a record of strings is JSON"));
    }

    /// The record of a line, if it is one.
    ///
    /// # Errors
    /// A line that begins as one, and is none, or names no property of the specification.
    pub fn of_line(line: &str) -> Result<Option<Established>, String> {
        let Some(json) = line.trim().strip_prefix(MARK) else { return Ok(None) };
        let found: Established = serde_json::from_str(json).map_err(|error| format!("not a claim: {error}: {line}"))?;
        match Property::from_name(&found.property) {
            Some(_) => Ok(Some(found)),
            None => Err(format!("not a property of the specification: {}", found.property)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_told() {
        let told = Established {
            check: "model".into(),
            property: Property::NoOverlap.name().into(),
            tier: Tier::ExhaustiveToABound,
            tool: "own search".into(),
            bound: "4 slots".into(),
            of: "specification".into(),
        };
        let line = format!("{MARK}{}", serde_json::to_string(&told).unwrap());
        assert_eq!(Established::of_line(&line), Ok(Some(told)));
        assert_eq!(Established::of_line("running 3 tests"), Ok(None));
        assert!(Established::of_line("CLAIM {}").is_err());
    }

    #[test]
    fn an_unknown_property_is_refused() {
        let line = r#"CLAIM {"check":"a","property":"magic","tier":"tested","tool":"","bound":"","of":""}"#;
        assert!(Established::of_line(line).is_err());
    }
}
