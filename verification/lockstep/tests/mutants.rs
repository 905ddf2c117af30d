//! A campaign that cannot find seeded bugs says nothing about real ones.

use lockstep::campaign;
use lockstep::mutants::Mutant;

/// Steps within which each bug must be found.
const STEPS: usize = 200_000;

#[test]
fn every_seeded_bug_is_found_and_its_sequence_replays() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        match campaign::run(1, STEPS, Some(mutant)) {
            Ok(_) => missed.push(mutant),
            Err(failure) => {
                println!("{mutant:?}: {} steps, seed {}: {}", failure.steps.len(), failure.seed, failure.divergence);
                assert!(campaign::replay(&failure.steps, Some(mutant)).is_err(), "{mutant:?} does not replay");
                assert!(campaign::replay(&failure.steps, None).is_ok(), "{mutant:?}: the kernel itself fails");
            }
        }
    }
    assert_eq!(missed, [], "not found in {STEPS} steps");
}
