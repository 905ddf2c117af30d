//! What the solvers are asked.

use crate::bugs::{Bug, bugs};
use crate::invariants::{Named, axioms, invariants};
use crate::lemmas::{self, Lemma};
use crate::operation::Operation;
use crate::operations::operations;
use crate::smt::{Script, Universe};
use crate::term::Formula;
use cap_spec::properties::Property;
use std::collections::BTreeSet;

/// What the answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expected {
    /// There is no counterexample.
    Unsat,
    /// There is a model.
    Sat,
}

impl Expected {
    /// As solvers say it.
    pub fn word(self) -> &'static str {
        match self {
            Expected::Unsat => "unsat",
            Expected::Sat => "sat",
        }
    }
}

/// What is asked, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The invariant holds of the first state.
    Initial,
    /// The operation keeps the invariant.
    Step,
    /// What the operation has achieved.
    Lemma,
    /// There are good states, and the operation can happen in one: the proofs are not about nothing.
    Possible,
    /// The wrong operation breaks an invariant or a lemma.
    Bug,
}

/// A query.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its name, a path without suffix.
    pub name: String,
    /// Why it is asked.
    pub purpose: Purpose,
    /// What the answer must be.
    pub expected: Expected,
    /// The properties that it is a part of; of none: all.
    pub properties: Vec<Property>,
    /// In SMT-LIB.
    pub text: String,
}

/// Where models are looked for: enough for a root with its CNode, its capability, a channel and a few more.
const SMALL: Universe = Universe::Finite([6, 5, 6, 2, 1, 2]);

/// What a proof uses of what is known of a good state. What is proved of less is proved.
enum Uses {
    /// Also these facts that claim existence, or lemmas of the same operation, which are themselves proved.
    Also(&'static [&'static str]),
    /// These facts alone.
    Only(&'static [&'static str]),
}

/// Facts that claim existence are left out of proofs, as solvers make up elements without end from them. These proofs need
/// one of them: the operation, what is proved of it, and what it uses.
const NEEDED: &[(&str, &str, Uses)] = &[
    ("grant-move", "no-more-mapped", Uses::Also(&["empty-maprights"])),
    ("retype", "objects-are-fresh", Uses::Also(&["has-original"])),
    (
        "retype",
        "new-places-are-nobodys",
        Uses::Only(&[
            "has-original",
            "place-in-memory",
            "place-lives",
            "kin-only",
            "nameless",
            "untyped-from-untyped",
            "used-below",
            "unique-original",
            "derived-full",
            "empty-orig",
        ]),
    ),
    ("retype", "boot-in-boot", Uses::Also(&["in-a-place", "new-places-are-nobodys"])),
    ("retype", "held-within-bound", Uses::Also(&["in-a-place", "new-places-are-nobodys"])),
    ("retype", "one-home", Uses::Also(&["new-places-are-nobodys"])),
    ("retype", "boot-made", Uses::Also(&["objects-are-fresh"])),
    ("retype", "place-in-memory", Uses::Also(&["objects-are-fresh"])),
];

/// A good state: all that is known of it, or what a proof needs of that.
fn good_state(universe: Universe, is_needed: impl Fn(&Named) -> bool) -> Script {
    let mut script = Script::new(universe);
    for named in axioms().iter().chain(invariants().iter().filter(|invariant| is_needed(invariant))) {
        script.remark(named.name);
        script.assert(&named.formula);
    }
    script
}

fn possible(script: &mut Script, operation: &Operation) {
    script.remark(operation.name);
    script.operation(operation);
    for (_, requirement) in &operation.requires {
        script.assert(requirement);
    }
}

/// Is the claim false somewhere?
fn denied(mut script: Script, name: &str, claim: &Formula) -> String {
    script.remark(&format!("not: {name}"));
    script.assert(&claim.clone().negated());
    script.finished()
}

fn proof(operation: &Operation, name: &str, claim: &Formula) -> String {
    let uses = NEEDED.iter().find(|(of, what, _)| *of == operation.name && *what == name).map(|(.., uses)| uses);
    let is_also = |fact: &str| matches!(uses, Some(Uses::Also(facts)) if facts.contains(&fact));
    let is_needed = |fact: &Named| match uses {
        Some(Uses::Only(facts)) => facts.contains(&fact.name),
        _ => fact.name == name || is_also(fact.name) || !fact.formula.claims_existence(),
    };
    let mut script = good_state(Universe::Any, is_needed);
    possible(&mut script, operation);
    for lemma in lemmas::lemmas().iter().filter(|lemma| lemma.operation.name == operation.name) {
        if is_also(lemma.claim.name) {
            script.remark(&format!("proved: {}", lemma.claim.name));
            script.assert(&lemma.claim.formula);
        }
    }
    denied(script, name, claim)
}

fn step(operation: &Operation, invariant: &Named) -> Query {
    Query {
        name: format!("step/{}/{}", operation.name, invariant.name),
        purpose: Purpose::Step,
        expected: Expected::Unsat,
        properties: invariant.properties.to_vec(),
        text: proof(operation, invariant.name, &operation.afterwards(&invariant.formula)),
    }
}

fn initial(invariant: &Named) -> Query {
    let mut script = Script::new(Universe::Any);
    axioms().iter().for_each(|axiom| script.assert(&axiom.formula));
    lemmas::initial().iter().for_each(|named| script.assert(&named.formula));
    script.assert(&invariant.formula.clone().negated());
    Query {
        name: format!("initial/{}", invariant.name),
        purpose: Purpose::Initial,
        expected: Expected::Unsat,
        properties: invariant.properties.to_vec(),
        text: script.finished(),
    }
}

fn possibility(operation: &Operation) -> Query {
    let mut script = good_state(SMALL, |_| true);
    possible(&mut script, operation);
    Query {
        name: format!("possible/{}", operation.name),
        purpose: Purpose::Possible,
        expected: Expected::Sat,
        properties: Vec::new(),
        text: script.finished(),
    }
}

/// The first state is possible.
fn beginning() -> Query {
    let mut script = good_state(SMALL, |_| true);
    lemmas::initial().iter().for_each(|named| script.assert(&named.formula));
    Query {
        name: "possible/first-state".into(),
        purpose: Purpose::Possible,
        expected: Expected::Sat,
        properties: Vec::new(),
        text: script.finished(),
    }
}

/// A state that is not trivial is good.
fn not_trivial(named: &Named) -> Query {
    let mut script = good_state(SMALL, |_| true);
    script.assert(&named.formula);
    Query {
        name: format!("possible/{}", named.name),
        purpose: Purpose::Possible,
        expected: Expected::Sat,
        properties: Vec::new(),
        text: script.finished(),
    }
}

fn lemma(lemma: &Lemma) -> Query {
    Query {
        name: format!("lemma/{}/{}", lemma.operation.name, lemma.claim.name),
        purpose: Purpose::Lemma,
        expected: Expected::Unsat,
        properties: lemma.claim.properties.to_vec(),
        text: proof(&lemma.operation, lemma.claim.name, &lemma.claim.formula),
    }
}

fn bug(bug: &Bug) -> Query {
    let mut script = good_state(SMALL, |_| true);
    possible(&mut script, &bug.operation);
    Query {
        name: format!("bug/{}", bug.operation.name),
        purpose: Purpose::Bug,
        expected: Expected::Sat,
        properties: bug.breaks.properties.to_vec(),
        text: denied(script, bug.breaks.name, &bug.breaks.formula),
    }
}

/// Every query. A step is asked about only where the operation changes something of the invariant: what is not changed
/// is the same formula before and after.
pub fn queries() -> Vec<Query> {
    let steps = operations().iter().flat_map(|operation| {
        let concerned = invariants().iter().filter(|invariant| operation.concerns(&invariant.formula));
        concerned.map(|invariant| step(operation, invariant))
    });
    let all: Vec<Query> = invariants()
        .iter()
        .map(initial)
        .chain(steps)
        .chain(lemmas::lemmas().iter().map(lemma))
        .chain([beginning()])
        .chain(lemmas::not_trivial().iter().map(not_trivial))
        .chain(operations().iter().map(possibility))
        .chain(bugs().iter().map(bug))
        .collect();
    let names: BTreeSet<&str> = all.iter().map(|query| query.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "names of queries are unique");
    all
}
