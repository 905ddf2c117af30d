//! Many small worlds of CNodes that hold each other, themselves, and the Untypeds that they were made of.

use cap_spec::abi::{Label, ObjectType};
use lockstep::campaign;
use lockstep::random::Random;
use lockstep::script::{Step, knot, print, retype, root};
use lockstep::system::{System, place};

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

#[test]
fn what_abandoned_deletions_leave_is_revoked_from_above() {
    let mut left = 0;
    for seed in 0..KNOTS {
        let mut random = Random::new(seed);
        let mut system = System::new(None);
        let steps: Vec<Step> = (0..3).flat_map(|_| knot(&mut random)).collect();
        // No answer and no state is compared here: operations end half-way, and others come in between.
        for step in &steps {
            if let Step::Invoke(core, call) = step {
                left += usize::from(system.abandon(*core, *call, random.below(4)));
            }
        }
        // For the abstract machine nothing has happened: so must it be when all that was made is revoked.
        let revoke = root(Label::CNodeRevoke, place::CNODE, &[place::CLEAN]);
        let whole = retype(place::CLEAN, ObjectType::Untyped, 19, 90, 1);
        for step in [revoke, whole] {
            match system.step(step) {
                Ok(Some((_, Ok(_)))) => {}
                other => panic!("seed {seed}: {step}: {other:?} after\n{}", print(&steps)),
            }
        }
    }
    println!("{left} operations were abandoned");
    assert!(left > KNOTS as usize / 10, "hardly anything was abandoned: {left}");
}
