//! Many small worlds of CNodes that hold each other, themselves, and the Untypeds that they were made of.

use lockstep::campaign;
use lockstep::random::Random;
use lockstep::script::{knot, print};

/// Knots that are tied and cut.
const KNOTS: u64 = 3_000;

#[test]
fn every_knot_comes_apart_as_specified() {
    for seed in 0..KNOTS {
        let steps = knot(&mut Random::new(seed));
        if let Err((length, divergence)) = campaign::replay(&steps, None) {
            panic!("seed {seed}:\n{}\n{divergence}", print(&steps[..length]));
        }
    }
}
