//! Every short sequence over small sets of steps.

use lockstep::exhaustive::{self, Explored};
use lockstep::script::Step;

fn explore(name: &str, start: &[Step], steps: &[Step], length: usize) -> Explored {
    match exhaustive::explore(start, steps, length) {
        Ok(explored) => {
            println!(
                "{name}: {} steps, sequences of up to {length}: {} transitions, states by length {:?}",
                steps.len(),
                explored.transitions,
                explored.states
            );
            explored
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn every_short_sequence_of_derivations_and_deletions() {
    let steps = exhaustive::derivation();
    let explored = explore("derivation", &[], &steps, length(9));
    assert!(explored.states.last() > Some(&1_000), "the steps lead nowhere: {explored:?}");
}

#[test]
fn every_short_sequence_of_mappings() {
    let explored = explore("mapping", &exhaustive::mapping_start(), &exhaustive::mapping(), length(11));
    assert!(explored.states.last() > Some(&500), "the steps lead nowhere: {explored:?}");
}

#[test]
fn every_short_sequence_of_processors_and_time() {
    let explored = explore("processors", &exhaustive::processors_start(), &exhaustive::processors(), length(8));
    assert!(explored.states.last() > Some(&500), "the steps lead nowhere: {explored:?}");
}

/// Length of the sequences: `LOCKSTEP_LENGTH`, or what fits into every run.
fn length(usual: usize) -> usize {
    std::env::var("LOCKSTEP_LENGTH").ok().and_then(|length| length.parse().ok()).unwrap_or(usual)
}
