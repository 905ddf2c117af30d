//! The formulas against the executable specification: every step of it must be a step of theirs.
//!
//! Of each invocation that was not refused, the operation's requirements must hold before, its updates must say exactly
//! what is different afterwards (of every relation of the vocabulary), and every invariant must hold afterwards. Of every
//! other step, nothing of the vocabulary may be different.

use crate::abstraction::Elements;
use crate::bound;
use crate::evaluate::{Evaluator, unmet};
use crate::invariants::{axioms, invariants};
use crate::operation::{Operation, Value};
use crate::operations::{UNCHANGING, operations};
use crate::structure::{MOST, Structure};
use crate::vocabulary::{Lasts, Vocabulary};
use crate::witness::Step;
use cap_spec::machine::State;

/// What the state of the specification does not say.
const UNSAID: [&str; 3] = ["dirty", "cached", "due"];

/// How a step and the formulas part.
#[derive(Clone, Debug)]
pub struct Drift(pub String);

/// What became of a step.
#[derive(Clone, Copy, Debug)]
pub enum Checked {
    /// It is a step of this operation; nothing changed if there is none.
    Done(Option<&'static str>),
    /// The states have more elements than structures can have.
    TooLarge,
}

/// The most dirt and the most memory of hardware that a good state allows.
fn assume_the_worst(structure: &mut Structure) {
    let free = |part: usize, structure: &Structure| {
        let is_free =
            |slot: usize| structure.tables["kind"].has(&[slot, 0]) && !structure.tables["used"].has(&[slot, part]);
        structure.tables["covers"].before(part).iter().any(is_free)
    };
    let dirty: Vec<usize> =
        (0..structure.size(crate::term::Sort::Part)).filter(|part| !free(*part, structure)).collect();
    let entries = structure.tables["entry"].after(0);
    if let Some(table) = structure.tables.get_mut("dirty") {
        dirty.iter().for_each(|part| table.insert(&[*part]));
    }
    if let Some(table) = structure.tables.get_mut("cached") {
        entries.iter().for_each(|slot| table.insert(&[0, slot]));
    }
}

/// What is not the same in both, but for what the state does not say: relations, and a few of the tuples.
fn difference(expected: &Structure, found: &Structure) -> Vec<String> {
    let mut told = Vec::new();
    for symbol in &Vocabulary::get().symbols {
        if symbol.lasts == Lasts::Forever || UNSAID.contains(&symbol.name.as_str()) {
            continue;
        }
        let name = symbol.name.as_str();
        if symbol.is_number {
            if expected.numbers[name] != found.numbers[name] {
                told.push(format!("{name}: {:?}, and not {:?}", found.numbers[name], expected.numbers[name]));
            }
            continue;
        }
        let (expected, found) = (&expected.tables[name], &found.tables[name]);
        for row in 0..expected.rows() {
            let (more, less) = (found.after(row).but(expected.after(row)), expected.after(row).but(found.after(row)));
            if !more.is_empty() || !less.is_empty() {
                let list = |set: crate::structure::Set| set.iter().take(8).collect::<Vec<_>>();
                told.push(format!("{name} of {row}: also {:?}, not {:?}", list(more), list(less)));
            }
        }
    }
    told
}

/// What the operation makes of the state before.
fn applied(operation: &Operation, before: &Structure) -> Structure {
    let evaluator = Evaluator::new(before);
    let mut after = before.clone();
    for update in &operation.updates {
        match update.value {
            Value::Relation(_) => {
                if let Some(table) = evaluator.updated(update) {
                    after.tables.insert(update.symbol.clone(), table);
                }
            }
            Value::Number(_) => {
                if let Some(numbers) = evaluator.recounted(update) {
                    after.numbers.insert(update.symbol.clone(), numbers);
                }
            }
        }
    }
    after
}

/// The axioms and invariants that do not hold, with elements of which they don't.
fn broken(structure: &Structure, is_concerned: impl Fn(&crate::term::Formula) -> bool) -> Vec<String> {
    let evaluator = Evaluator::new(structure);
    let all = axioms().iter().chain(invariants()).filter(|named| is_concerned(&named.formula));
    let wrong = all.filter(|named| !evaluator.holds(&named.formula));
    wrong.map(|named| format!("{} (at {:?})", named.name, evaluator.counterexample(&named.formula))).collect()
}

/// Checks that a state is good.
///
/// # Errors
/// The invariants that do not hold.
pub fn check_state(state: &State) -> Result<(), Drift> {
    let elements = Elements::of(state, state);
    let mut structure = elements.structure(state);
    assume_the_worst(&mut structure);
    bound::close(&mut structure);
    let broken = broken(&structure, |_| true);
    if broken.is_empty() { Ok(()) } else { Err(Drift(format!("broken: {broken:#?}\n{elements:x?}"))) }
}

/// Checks that nothing of the vocabulary is different.
///
/// # Errors
/// What is.
pub fn check_unchanged(before: &State, after: &State) -> Result<Checked, Drift> {
    let elements = Elements::of(before, after);
    if elements.most() > MOST {
        return Ok(Checked::TooLarge);
    }
    let difference = difference(&elements.structure(before), &elements.structure(after));
    match difference.is_empty() {
        true => Ok(Checked::Done(None)),
        false => Err(Drift(format!("nothing may be different: {difference:#?}\n{elements:x?}"))),
    }
}

/// Checks an invocation that was not refused.
///
/// # Errors
/// How it parts from the operation's formulas.
pub fn check_step(step: &Step) -> Result<Checked, Drift> {
    if UNCHANGING.contains(&step.label) {
        return check_unchanged(step.before, step.after);
    }
    let name = step.name().ok_or_else(|| Drift(format!("{:?} is no operation", step.label)))?;
    let operation = operations().iter().find(|operation| operation.name == name);
    check_step_as(step, operation.ok_or_else(|| Drift(format!("there is no operation {name}")))?)
}

/// Checks that an invocation is a step of this operation.
///
/// # Errors
/// How it parts from its formulas.
pub fn check_step_as(step: &Step, operation: &Operation) -> Result<Checked, Drift> {
    let name = operation.name;
    let elements = Elements::of(step.before, step.after);
    if elements.most() > MOST {
        return Ok(Checked::TooLarge);
    }
    let (mut before, mut after) = (elements.structure(step.before), elements.structure(step.after));
    let drift = |text: String| Drift(format!("{name}: {text}\n{elements:x?}"));
    assume_the_worst(&mut before);
    bound::close(&mut before);
    step.parameters(operation, &elements, &mut before, &after).map_err(drift)?;
    let unmet = unmet(operation, &before);
    if !unmet.is_empty() {
        return Err(drift(format!("required, and not so: {unmet:#?}")));
    }
    let expected = applied(operation, &before);
    let difference = difference(&expected, &after);
    if !difference.is_empty() {
        return Err(drift(format!("differs: {difference:#?}")));
    }
    for name in UNSAID.iter().chain(&["may", "flow"]) {
        after.tables.insert((*name).into(), expected.tables[*name].clone());
    }
    let broken = broken(&after, |formula| operation.concerns(formula));
    if !broken.is_empty() {
        return Err(drift(format!("broken afterwards: {broken:#?}")));
    }
    Ok(Checked::Done(Some(operation.name)))
}
