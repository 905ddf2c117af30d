//! Bounded work: a step of a Delete or Revoke changes at most so much, and brings its end nearer.

use cap_spec::machine::fine::{Answer, Event, Hold, STEP_CHANGES, Work, changes, remaining, step};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use specification::world::World;

/// Runs, one a seed.
const SEEDS: u64 = 700;
/// Events of a run.
const LENGTH: usize = 400;

#[test]
fn every_step_is_small_and_brings_the_end_nearer() {
    let (mut steps, mut most, mut longest, mut ended) = (0_u64, 0, 0, 0_u64);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..LENGTH {
            world.revive();
            let event = world.choose();
            let before = world.fine.clone();
            let answer = step(&mut world.fine, event);
            let Event::Continue = event else {
                world.follow(event, answer);
                continue;
            };
            if let Some(Hold { work: Work::Destroy(destroy), flush, .. }) = &before.hold
                && flush.is_complete()
            {
                let context = format!("seed {seed}: {destroy:x?}, {answer:?}");
                steps += 1;
                most = most.max(changes(&before.state, &world.fine.state));
                assert!(most <= STEP_CHANGES, "{context}: {most}");
                let left = remaining(&before.state, destroy);
                longest = longest.max(left);
                match &world.fine.hold {
                    Some(Hold { work: Work::Destroy(next), .. }) => {
                        let now = remaining(&world.fine.state, next);
                        assert!(now < left, "{context}: {left} steps were left, and now {now} are");
                    }
                    _ => ended += 1,
                }
                assert!(left > 0, "{context}");
            }
            assert_ne!(answer, Answer::Impossible, "seed {seed}: the lock is held, and nobody goes on");
            world.follow(event, answer);
        }
    }
    println!("{steps} steps, {most} changes at most, {longest} steps left at most, {ended} operations ended");
    assert!(steps > 5_000 && longest > 40 && ended > 1_000);
    Established {
        check: "specification-bounded-work".into(),
        property: Property::BoundedWork.name().into(),
        tier: Tier::Tested,
        tool: "random runs".into(),
        bound: format!(
            "{SEEDS} runs, {steps} steps of {ended} operations, up to {longest} steps each, up to {most} changes a step"
        ),
        of: "specification: the fine machine".into(),
    }
    .tell();
}
