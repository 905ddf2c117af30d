//! Invocations that are interrupted at any point, by others' invocations, by cores that go on running guests, and by
//! devices that go on with their DMA: after each event every rule of the fine machine holds, and what is answered is what
//! the atomic machine answers at that instant.

use cap_spec::abi::{Label, SLOT_BITS};
use cap_spec::machine::fine::{self, Answer, Destroy, Event, Fine, Hold, Work, check, check_revoked};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use specification::answers::check_answer;
use specification::world::World;
use std::collections::BTreeMap;

/// Runs, one a seed.
const SEEDS: u64 = 210;
/// Events of a run.
const LENGTH: usize = 800;

/// What has happened in all runs.
#[derive(Default)]
struct Counts {
    events: u64,
    preemptions: u64,
    /// Events of others while something stale was remembered.
    during_flush: u64,
    flushes: u64,
    /// IOMMUs that failed.
    failures: u64,
    refused: u64,
    revoked: u64,
    done: BTreeMap<Label, u64>,
    remembered: usize,
}

/// The Revoke that ends with this event, if one does.
fn ends_revoke(before: &Fine, after: &Fine, answer: Answer) -> Option<cap_spec::machine::SlotId> {
    let Answer::Answered(_, Ok(_)) = answer else { return None };
    match before.hold {
        Some(Hold { work: Work::Destroy(Destroy { target, keeps: true, .. }), .. }) if after.hold.is_none() => {
            Some(target)
        }
        _ => None,
    }
}

#[test]
fn every_rule_holds_at_every_point() {
    let mut counts = Counts::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..LENGTH {
            world.revive();
            let before = world.fine.clone();
            let (event, answer) = world.happen();
            let context = || format!("seed {seed}, {event:x?}: {answer:x?}");
            counts.events += 1;
            assert_eq!(check(&world.fine), Ok(()), "{}", context());
            if let Event::Invoke(invoker, call) = event {
                let mut found = world.fine.clone();
                // What is thrown away after each event is compared as well.
                let mut again = before.clone();
                fine::step(&mut again, event);
                found.state = again.state;
                assert_eq!(check_answer(&before.state, &found, invoker, call, answer), Ok(()), "{}", context());
                match (answer, Label::from_number(call.label)) {
                    (Answer::Answered(_, Err(_)), _) => counts.refused += 1,
                    (Answer::Answered(_, Ok(_)), Some(label)) => *counts.done.entry(label).or_default() += 1,
                    _ => {}
                }
            }
            if let Some(target) = ends_revoke(&before, &world.fine, answer) {
                assert_eq!(check_revoked(&world.fine, target), Ok(()), "{}", context());
                assert_ne!(target.0 >> SLOT_BITS, 0);
                counts.revoked += 1;
            }
            let is_flushing = before.hold.is_some_and(|hold| !hold.flush.is_complete());
            match (event, answer) {
                (Event::Preempt, Answer::Again(_) | Answer::Gone(_)) => counts.preemptions += 1,
                (Event::FlushCore(_) | Event::FlushIommu, Answer::Happened) => counts.flushes += 1,
                (Event::TimeOut, Answer::Happened) => counts.failures += 1,
                (_, Answer::Happened | Answer::Stopped) if is_flushing => counts.during_flush += 1,
                _ => {}
            }
            let hardware = &world.fine.hardware;
            counts.remembered =
                counts.remembered.max(hardware.tlb.len() + hardware.iotlb.len() + hardware.routes.len());
        }
    }
    let Counts { events, preemptions, during_flush, flushes, failures, refused, revoked, done, remembered } = counts;
    println!(
        "{events} events, {preemptions} preemptions, {flushes} flushes, {during_flush} events during one, {failures} failed IOMMUs, {refused} refused, {revoked} revoked, {remembered} entries at most, done: {done:?}"
    );
    assert!(
        failures > 20 && preemptions > 300 && during_flush > 100 && flushes > 300 && revoked > 100 && refused > 1_000
    );
    let bound = format!(
        "{SEEDS} runs, {events} events, {preemptions} preemptions, {flushes} flushes, {during_flush} events during one, {failures} IOMMUs that failed"
    );
    for (property, bound) in [
        (Property::WellFormed, bound.clone()),
        (Property::NoAuthorityFromNothing, bound.clone()),
        (Property::NoOverlap, bound.clone()),
        (Property::EntriesBacked, bound.clone()),
        (Property::CleanBeforeReuse, bound.clone()),
        (Property::OneOwner, bound.clone()),
        (Property::RevokeComplete, format!("{bound}, {revoked} Revokes that ended")),
        (Property::FailureChangesNothing, format!("{bound}, {refused} calls refused")),
    ] {
        Established {
            check: "specification-interrupted".into(),
            property: property.name().into(),
            tier: Tier::Tested,
            tool: "random runs".into(),
            bound,
            of: "specification: the fine machine".into(),
        }
        .tell();
    }
}
