//! Random sequences of near-valid steps: a short run, and what a long one (`cargo run -p lockstep -- random`) prints.

use lockstep::{campaign, script};
use std::sync::atomic::AtomicUsize;

/// Steps that take some seconds.
const STEPS: usize = 300_000;

#[test]
fn random_steps_agree_and_try_every_label() {
    let taken = AtomicUsize::new(0);
    let report = campaign::run_on_threads(1, STEPS, 2, &taken).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((taken.into_inner(), report.steps >= STEPS), (report.steps, true));
    assert_eq!(report.seen.unknown(), [], "errors that the ABI does not know of these labels");
    assert_eq!(report.hardly_tried(), [], "labels that succeeded too rarely to say that they were tried");
}

#[test]
fn steps_survive_being_printed() {
    let steps = script::launched_tenant(1);
    assert_eq!(script::parse(&script::print(&steps)), Ok(steps));
}
