//! Every short sequence over small sets of steps.

use lockstep::exhaustive::{self, World};

#[test]
fn every_short_sequence_agrees() {
    for World { name, start, steps, length, least } in exhaustive::worlds() {
        let explored = exhaustive::explore(&start, &steps, length).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(explored.states.last() > Some(&least), "{name}: the steps lead nowhere: {explored:?}");
    }
}
