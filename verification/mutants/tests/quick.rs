//! What is run against each mutant besides the tests of the two libraries and the directed ones of lock-step: the cheap part
//! of the two random checks. Longer ones find more, and are not worth their time for thousands of mutants.

use fake_machine::run::{Options, STEPS, run_seeds};
use lockstep::campaign;
use std::sync::atomic::AtomicUsize;

/// Random steps of lock-step.
const LOCKSTEP_STEPS: usize = 20_000;
/// Runs of the fake machine.
const SEEDS: usize = 500;

#[test]
fn lockstep_finds_no_difference() {
    if let Err(failure) = campaign::run(1, LOCKSTEP_STEPS, None) {
        panic!("{failure}");
    }
}

#[test]
fn the_fake_machine_finds_nothing() {
    let options = Options { seed: 0, steps: STEPS, bug: None, trace: false };
    if let Err(failure) = run_seeds(&options, SEEDS, 1, &AtomicUsize::new(0)) {
        panic!("{failure}");
    }
}
