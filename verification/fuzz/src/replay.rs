//! The replay: kept inputs and mutations of them, the same ones each time; and that the twin of each target is found by
//! them.

use crate::mutate::mutated;
use crate::{Target, corpus};
use lockstep::random::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Seed of the mutations.
const SEED: u64 = 1;

/// What a replay of a target has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs that are kept, or well-formed.
    pub kept: usize,
    /// Mutated ones.
    pub mutated: usize,
}

/// An input on which something does not hold.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// What does not hold; a panic has said so itself.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let input: String = self.input.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(
            out,
            "{}: {}\n  input: {input}\n  again: cargo run -p fuzz -- one {} {input}",
            self.target, self.what, self.target
        )
    }
}

/// Checks one input; a panic is a finding, too.
///
/// # Errors
/// The finding.
pub fn one(target: &'static Target, check: fn(&[u8]) -> crate::Checked, input: &[u8]) -> Result<(), Box<Finding>> {
    let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
    let what = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(what)) => what,
        Err(_) => "it panics".into(),
    };
    Err(Box::new(Finding { target: target.name, input: input.to_vec(), what }))
}

/// All inputs of the replay, in their order, until `visit` has enough of them.
fn each(
    target: &'static Target,
    inputs: usize,
    mut visit: impl FnMut(&[u8]) -> Result<(), Box<Finding>>,
) -> Result<Report, String> {
    let kept = corpus::inputs(target)?;
    let mut random = Random::new(SEED);
    let mut report = Report::default();
    for input in &kept {
        visit(input).map_err(|finding| finding.to_string())?;
        report.kept += 1;
    }
    for _ in 0..inputs {
        let [input, other] = [(); 2].map(|()| &kept[random.below(kept.len())]);
        visit(&mutated(input, other, &mut random)).map_err(|finding| finding.to_string())?;
        report.mutated += 1;
    }
    Ok(report)
}

/// Checks kept inputs, and so many mutated ones.
///
/// # Errors
/// The first finding.
pub fn replay(target: &'static Target, inputs: usize, done: &AtomicUsize) -> Result<Report, String> {
    each(target, inputs, |input| {
        done.fetch_add(1, Ordering::Relaxed);
        one(target, target.check, input)
    })
}

/// How many of these inputs it takes until the twin is found.
///
/// # Errors
/// If none of them finds it.
pub fn twin(target: &'static Target, inputs: usize) -> Result<usize, String> {
    let mut taken = 0;
    let outcome = each(target, inputs, |input| {
        taken += 1;
        one(target, target.twin, input)
    });
    match outcome {
        Err(_) => Ok(taken),
        Ok(report) => Err(format!("{}: the mistake in its twin is not found by {report:?}", target.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs that take a second or less.
    const FEW: usize = 300;

    #[test]
    fn nothing_is_found_in_what_is_kept_and_a_few_more() {
        for target in Target::ALL {
            let report = replay(target, FEW, &AtomicUsize::new(0)).unwrap_or_else(|finding| panic!("{finding}"));
            assert!(report.kept > 0 && report.mutated == FEW);
        }
    }

    #[test]
    fn each_twin_is_found() {
        for target in Target::ALL {
            twin(target, target.inputs).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
