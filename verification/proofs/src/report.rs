//! What a run of the solvers has shown: what failed, a table by property, and the claims.

use crate::invariants::{invariants, properties};
use crate::operations::operations;
use crate::queries::{Expected, Purpose, Query};
use crate::solve::{Answers, SOLVERS, solvers};
use crate::walk::Walked;
use cap_spec::properties::Property;
use cap_spec::spec::LABELS;
use claims::{Established, Tier};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A run.
pub struct Report<'a> {
    queries: &'a [Query],
    answers: &'a Answers,
}

impl<'a> Report<'a> {
    /// Of these queries.
    pub fn new(queries: &'a [Query], answers: &'a Answers) -> Report<'a> {
        Report { queries, answers }
    }

    fn is_right(&self, at: usize) -> bool {
        let asked = solvers(&self.queries[at]);
        self.answers.of[at][asked].iter().all(|answer| answer.word == self.queries[at].expected.word())
    }

    /// The queries of which a solver said something else than is expected, a line each.
    pub fn failures(&self) -> Vec<String> {
        let wrong = (0..self.queries.len()).filter(|at| !self.is_right(*at));
        wrong
            .map(|at| {
                let (query, [z3, cvc5]) = (&self.queries[at], &self.answers.of[at]);
                let other = if cvc5.word.is_empty() { "was not asked" } else { &cvc5.word };
                let disagree = [(&z3.word, &cvc5.word), (&cvc5.word, &z3.word)]
                    .iter()
                    .any(|(one, other)| *one == Expected::Sat.word() && *other == Expected::Unsat.word());
                let what = if disagree { "the solvers disagree: " } else { "" };
                let expected = query.expected.word();
                format!("{}: {what}z3 says {}, cvc5 {other}, {expected} is expected", query.name, z3.word)
            })
            .collect()
    }

    /// Queries of this kind and property: how many.
    fn count(&self, purpose: Purpose, property: Option<Property>) -> usize {
        let concerns = |query: &&Query| property.is_none_or(|property| query.properties.contains(&property));
        self.queries.iter().filter(|query| query.purpose == purpose).filter(concerns).count()
    }

    fn seconds(&self, property: Option<Property>, solver: usize) -> f64 {
        let of = |at: &usize| property.is_none_or(|property| self.queries[*at].properties.contains(&property));
        (0..self.queries.len()).filter(of).map(|at| self.answers.of[at][solver].seconds).sum()
    }

    /// The table by property.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<30}{:>11}{:>9}{:>8}{:>8}{:>7}{:>10}{:>10}\n",
            "property", "invariants", "initial", "steps", "lemmas", "bugs", SOLVERS[0], SOLVERS[1]
        );
        for property in Property::all() {
            let of = invariants().iter().filter(|invariant| invariant.properties.contains(&property)).count();
            let [initial, steps, lemmas, bugs] = [Purpose::Initial, Purpose::Step, Purpose::Lemma, Purpose::Bug]
                .map(|purpose| self.count(purpose, Some(property)));
            if initial + steps + lemmas + bugs == 0 {
                continue;
            }
            let [z3, cvc5] = [0, 1].map(|solver| self.seconds(Some(property), solver));
            let name = property.name();
            let _ =
                writeln!(text, "{name:<30}{of:>11}{initial:>9}{steps:>8}{lemmas:>8}{bugs:>7}{z3:>8.1} s{cvc5:>8.1} s");
        }
        let [z3, cvc5] = [0, 1].map(|solver| self.seconds(None, solver));
        let _ = writeln!(
            text,
            "all: {} invariants over {} operations; {} proofs by both solvers; models by z3 alone, as cvc5 takes seconds for \
             each: {} possible states and operations, {} seeded bugs refuted; {z3:.1} s of z3, {cvc5:.1} s of cvc5",
            invariants().len(),
            operations().len(),
            self.count(Purpose::Initial, None) + self.count(Purpose::Step, None) + self.count(Purpose::Lemma, None),
            self.count(Purpose::Possible, None),
            self.count(Purpose::Bug, None),
        );
        text
    }

    /// What is established, of a run in which nothing failed.
    pub fn claims(&self) -> Vec<Established> {
        let lemmas = Property::all().filter(|property| self.count(Purpose::Lemma, Some(*property)) > 0);
        let mut claimed: Vec<Property> = properties().into_iter().chain(lemmas).collect();
        claimed.sort_unstable();
        claimed.dedup();
        let establish = |property: Property| {
            let count = |purpose| self.count(purpose, Some(property));
            let of = invariants().iter().filter(|invariant| invariant.properties.contains(&property)).count();
            Established {
                check: format!("proofs-{}", property.name()),
                property: property.name().into(),
                tier: Tier::ProvedForAnySize,
                tool: self.answers.tools.clone(),
                bound: format!(
                    "{}any number of slots, objects and VMs: {of} invariants over {} operations, {} proofs by both solvers; {} \
                     seeded bugs refuted",
                    // That what is sold is delivered is no invariant of states.
                    if property == Property::TimeDelivered { "of what is sold, not of its delivery: " } else { "" },
                    operations().len(),
                    count(Purpose::Initial) + count(Purpose::Step) + count(Purpose::Lemma),
                    count(Purpose::Bug),
                ),
                of: "relational form of the specification".into(),
            }
        };
        claimed.into_iter().map(establish).collect()
    }
}

/// What is established by walks that have not failed.
pub fn correspondence(check: &str, small: &Walked, worlds: usize, random: &Walked, length: usize) -> Vec<Established> {
    let labels: BTreeSet<_> = small.labels.keys().chain(random.labels.keys()).collect();
    let establish = |property: Property| Established {
        check: check.into(),
        property: property.name().into(),
        tier: Tier::Tested,
        tool: "evaluation of the proved formulas on states of the executable specification".into(),
        bound: format!(
            "{} random steps; {} steps from {} states: all of {worlds} worlds of the model checker, and of all sequences of \
             {length} steps over small worlds; {} of {} labels; each that was done is a step of the formulas",
            random.steps,
            small.steps,
            small.states,
            labels.len(),
            LABELS.len(),
        ),
        of: "specification".into(),
    };
    properties().into_iter().map(establish).collect()
}
