//! Answers: what a search has found of a question, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use cap_spec::machine as spec;
use claims::{Established, Tier};
use serde::Serialize;

use crate::question::{Expected, Kind, Question};
use crate::search::{Counts, Ending, Found, Limits, Trace, explore, peak_memory};
use crate::story::{self, Told};
use crate::subject::Subject;

/// How a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The property holds in every state; or what was asked for is reached.
    Holds,
    /// It does not; or what was asked for is not reached.
    Counterexample,
    /// The search ended early, at its limit.
    NotExhausted,
}

/// The exit status of a search that ended early.
pub const NOT_EXHAUSTED: u8 = 3;

impl Verdict {
    /// The exit status.
    pub fn status(self) -> u8 {
        match self {
            Verdict::Holds => 0,
            Verdict::Counterexample => 1,
            Verdict::NotExhausted => NOT_EXHAUSTED,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// The question's name.
    pub name: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: Verdict,
    /// What is broken: the name of a property, or `property` for the question's own.
    pub claim: Option<String>,
    /// What is wrong, or what is reached.
    pub what: Option<String>,
    /// Why it fails, where that is expected.
    pub because: Option<String>,
    /// True if it is answered as its file expects.
    pub as_expected: bool,
    /// Different states.
    pub states: usize,
    /// Steps to a state.
    pub edges: usize,
    /// Invocations that were refused.
    pub refusals: usize,
    /// Steps on the longest of the shortest paths.
    pub depth: usize,
    /// How long it took.
    pub seconds: f64,
    /// Most memory that the process has used so far, in bytes.
    pub peak_memory: Option<u64>,
    /// The path to what is wrong, or to what was asked for.
    pub steps: Vec<Told>,
}

/// Answers a question.
///
/// # Errors
/// If a counterexample is none on the machine whose slots record the depth of derivation.
pub fn answer(
    subject: &Subject,
    limits: Limits,
    progress: &mut dyn FnMut(Counts, Duration),
) -> Result<Answer, anyhow::Error> {
    let Found { ending, counts, time } = explore(subject, limits, progress);
    let question = &subject.question;
    let is_reachability = question.claim.as_ref().is_some_and(|claim| claim.kind == Kind::Reachable);
    let (mut claim, mut what, mut steps) = (None, None, Vec::new());
    let verdict = match ending {
        Ending::Limited => Verdict::NotExhausted,
        Ending::Exhausted if is_reachability => {
            what = Some("it is never so".into());
            Verdict::Counterexample
        }
        Ending::Exhausted => Verdict::Holds,
        Ending::Wrong(violation, trace) => {
            confirm(subject, &trace)?;
            steps = story::tell(subject, &trace);
            let is_own = violation.claim == crate::subject::OWN;
            claim = Some(violation.claim);
            what = Some(violation.what);
            if is_reachability && is_own { Verdict::Holds } else { Verdict::Counterexample }
        }
    };
    let expected = match question.expect {
        Expected::Holds => Verdict::Holds,
        Expected::Counterexample => Verdict::Counterexample,
    };
    Ok(Answer {
        name: question.name.clone(),
        question: question.text.clone(),
        answer: verdict,
        claim,
        what,
        because: question.because.clone().filter(|_| verdict == Verdict::Counterexample),
        as_expected: verdict == expected && question.steps.is_none_or(|expected| expected == steps.len()),
        states: counts.states,
        edges: counts.edges,
        refusals: counts.refusals,
        depth: counts.depth,
        seconds: time.as_secs_f64(),
        peak_memory: peak_memory(),
        steps,
    })
}

/// Runs a path once more on the machine as it is, with the depth that slots record.
fn confirm(subject: &Subject, trace: &Trace<Subject>) -> Result<(), anyhow::Error> {
    let mut state = subject.question.world.state.clone();
    for (event, pair) in trace.events.iter().zip(trace.states.windows(2)) {
        let Some(call) = event.call else { continue };
        let performed = subject.perform(&pair[0].state, event.action, call);
        let vcpu = subject.question.parties()[subject.question.actions[event.action].party].vcpu;
        let result = match subject.mistake {
            None => spec::step(&mut state, vcpu, call),
            Some(mistake) => mistake.step(&mut state, vcpu, call),
        };
        if result != performed.result {
            anyhow::bail!(
                "the path needs a derivation deeper than {}: the machine answers {result:?} where the search went on with {:?}",
                spec::MAX_DEPTH,
                performed.result
            );
        }
        // Where the specification leaves a choice, the path has made it.
        for slot in std::mem::take(&mut state.choices).into_keys() {
            if let (Some(here), Some(there)) = (state.slots.get_mut(&slot), pair[1].state.slots.get(&slot)) {
                here.cap = there.cap.clone();
            }
        }
        state.completions.clear();
        state.outputs.clear();
    }
    Ok(())
}

/// A number with commas.
pub fn figure(number: usize) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

impl Answer {
    /// The answer as text.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.name, self.question);
        let figures = format!(
            "{} states, {} steps, {} refusals, depth {}",
            figure(self.states),
            figure(self.edges),
            figure(self.refusals),
            self.depth
        );
        let memory = self.peak_memory.map_or_else(String::new, |bytes| format!(", {} MiB at most so far", bytes >> 20));
        let verdict = match (self.answer, &self.what) {
            (Verdict::Holds, None) => "holds".into(),
            (Verdict::Holds, Some(what)) => format!("holds: {what}, in {} steps", self.steps.len()),
            (Verdict::Counterexample, what) => {
                let what = what.as_deref().unwrap_or_default();
                let claim = self.claim.as_deref().filter(|claim| *claim != crate::subject::OWN);
                let claim = claim.map_or_else(String::new, |claim| format!("{claim}: "));
                let steps =
                    if self.steps.is_empty() { String::new() } else { format!(", after {} steps", self.steps.len()) };
                format!("COUNTEREXAMPLE: {claim}{what}{steps}")
            }
            (Verdict::NotExhausted, _) => "NOT EXHAUSTED: nothing is wrong with the states seen; raise --limit".into(),
        };
        let _ = writeln!(text, "  {verdict}");
        for (number, step) in (1..).zip(&self.steps) {
            let _ = writeln!(text, "  {number}. {} {} -> {}", step.vm, step.what, step.result);
            for change in &step.changes {
                let _ = writeln!(text, "       {change}");
            }
        }
        if let Some(because) = &self.because {
            let _ = writeln!(text, "  why: {because}");
        }
        let _ = writeln!(text, "  {figures}; {:.1} s{memory}", self.seconds);
        text
    }
}

/// What an answer establishes: each named property of a question that holds.
pub fn claims(question: &Question, answer: &Answer) -> Vec<Established> {
    if answer.answer != Verdict::Holds {
        return Vec::new();
    }
    let bound = format!(
        "{}: {} states, {} steps, {} refusals, depth {}",
        question.text,
        figure(answer.states),
        figure(answer.edges),
        figure(answer.refusals),
        answer.depth
    );
    let established = question.checks.iter().map(|property| Established {
        check: format!("model-{}", question.name),
        property: property.name().into(),
        tier: Tier::ExhaustiveToABound,
        tool: "own breadth-first search over the executable specification".into(),
        bound: bound.clone(),
        of: "specification".into(),
    });
    established.collect()
}
