//! Answers: what a search has found of a question, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use cap_spec::machine as spec;
use claims::{Established, Tier};
use serde::Serialize;

use crate::fine::Scenario;
use crate::machine::Violation;
use crate::mistakes::Mistake;
use crate::question::{Expected, Kind, Question, label_name};
use crate::search::{Counts, Ending, Found, Limits, Trace, explore, peak_memory};
use crate::story::{self, Told};
use crate::subject::{OWN, Subject};

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
    /// What VMs may do and could never do: it holds of less than it seems.
    pub never_done: Vec<String>,
}

/// Answers a question: of the fine machine, if it says what hardware does, else of the abstract machine, with this mistake
/// in it.
///
/// # Errors
/// If a counterexample is none on the machine whose slots record the depth of derivation.
pub fn answer(
    question: Question,
    mistake: Option<Mistake>,
    limits: Limits,
    progress: &mut dyn FnMut(Counts, Duration),
) -> Result<Answer, anyhow::Error> {
    if question.hardware.is_some() {
        return Ok(answer_fine(&Scenario::new(question, None), limits, progress));
    }
    let subject = Subject::new(question, mistake);
    let Found { ending, counts, time } = explore(&subject, limits, progress);
    let question = &subject.question;
    let is_reachability = question.claim.as_ref().is_some_and(|claim| claim.kind == Kind::Reachable);
    Ok(match ending {
        Ending::Limited => Answer::new(question, Verdict::NotExhausted, None, Vec::new(), counts, time),
        Ending::Exhausted if is_reachability => {
            let never = Violation { claim: OWN.into(), what: "it is never so".into() };
            Answer::new(question, Verdict::Counterexample, Some(never), Vec::new(), counts, time)
        }
        Ending::Exhausted => {
            let never_done = subject.never_done().map(|action| {
                let label = action.pattern.as_ref().map(|pattern| label_name(pattern.label));
                let what = action.name.clone().or(label).unwrap_or_default();
                format!("{} {what}", question.names.parties[action.party])
            });
            let never_done: Vec<String> = never_done.collect();
            let answer = Answer::new(question, Verdict::Holds, None, Vec::new(), counts, time);
            let as_expected = answer.as_expected && never_done == question.impossible;
            Answer { never_done, as_expected, ..answer }
        }
        Ending::Wrong(violation, trace) => {
            confirm(&subject, &trace)?;
            let is_reached = is_reachability && violation.claim == OWN;
            let verdict = if is_reached { Verdict::Holds } else { Verdict::Counterexample };
            Answer::new(question, verdict, Some(violation), story::tell(&subject, &trace), counts, time)
        }
    })
}

/// Answers a question of the fine machine.
pub fn answer_fine(scenario: &Scenario, limits: Limits, progress: &mut dyn FnMut(Counts, Duration)) -> Answer {
    let Found { ending, counts, time } = explore(scenario, limits, progress);
    let question = &scenario.question;
    match ending {
        Ending::Limited => Answer::new(question, Verdict::NotExhausted, None, Vec::new(), counts, time),
        Ending::Exhausted => Answer::new(question, Verdict::Holds, None, Vec::new(), counts, time),
        Ending::Wrong(violation, trace) => {
            let told = trace.events.iter().zip(&trace.states).map(|(event, before)| Told {
                vm: String::new(),
                what: scenario.tell(before, event),
                label: None,
                result: "done".into(),
                changes: Vec::new(),
            });
            let told = told.collect();
            Answer::new(question, Verdict::Counterexample, Some(violation), told, counts, time)
        }
    }
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
    fn new(
        question: &Question,
        verdict: Verdict,
        violation: Option<Violation>,
        steps: Vec<Told>,
        counts: Counts,
        time: Duration,
    ) -> Answer {
        let expected = match question.expect {
            Expected::Holds => Verdict::Holds,
            Expected::Counterexample => Verdict::Counterexample,
        };
        let (claim, what) = violation.map(|violation| (violation.claim, violation.what)).unzip();
        Answer {
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
            never_done: Vec::new(),
        }
    }

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
                let claim = self.claim.as_deref().filter(|claim| *claim != OWN);
                let claim = claim.map_or_else(String::new, |claim| format!("{claim}: "));
                let steps =
                    if self.steps.is_empty() { String::new() } else { format!(", after {} steps", self.steps.len()) };
                format!("COUNTEREXAMPLE: {claim}{what}{steps}")
            }
            (Verdict::NotExhausted, _) => "NOT EXHAUSTED: nothing is wrong with the states seen; raise --limit".into(),
        };
        let _ = writeln!(text, "  {verdict}");
        for (number, step) in (1..).zip(&self.steps) {
            let _ =
                writeln!(text, "  {number}. {} -> {}", format!("{} {}", step.vm, step.what).trim_start(), step.result);
            for change in &step.changes {
                let _ = writeln!(text, "       {change}");
            }
        }
        if let Some(because) = &self.because {
            let _ = writeln!(text, "  why: {because}");
        }
        if !self.never_done.is_empty() {
            let _ = writeln!(text, "  never possible: {}", self.never_done.join(", "));
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
