//! Ten thousand runs find nothing; each seeded bug is found within a few hundred; every run replays from its seed.

use fake_machine::bug::Bug;
use fake_machine::run::{Failure, Options, Report, STEPS, run};

fn options(seed: u64, bug: Option<Bug>) -> Options {
    Options { seed, steps: STEPS, bug, trace: false }
}

/// The first seed that finds the bug, of this many.
fn find(bug: Bug, seeds: u64) -> Failure {
    (0..seeds)
        .find_map(|seed| run(&options(seed, Some(bug))).err())
        .unwrap_or_else(|| panic!("{} was not found in {seeds} seeds", bug.name()))
}

#[test]
fn ten_thousand_seeds_find_nothing() {
    let mut total = Report::default();
    for seed in 0..10_000 {
        match run(&options(seed, None)) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    // A run in which nothing happens finds nothing either.
    println!("{total}");
    assert!(total.counts.done > 300_000 && total.counts.refused > 300_000, "{total}");
    assert!(total.counts.preempted > 2_000 && total.counts.restarts > 1_000, "{total}");
    assert!(total.expulsions > 5_000 && total.interrupts > 200_000 && total.counts.handed_over > 200, "{total}");
}

#[test]
fn a_forgotten_flush_is_found() {
    let failure = find(Bug::ForgottenFlush, 20);
    assert!(failure.text.contains("any more"), "{failure}");
}

#[test]
fn a_number_used_again_too_early_is_found() {
    let failure = find(Bug::AsidReused, 20);
    assert!(failure.text.contains("any more"), "{failure}");
}

#[test]
fn a_walk_through_a_freed_table_is_found() {
    let found = (0..2_000).filter_map(|seed| run(&options(seed, Some(Bug::FreedTable))).err());
    let failure = found.into_iter().find(|failure| failure.text.contains("no table of level"));
    assert!(failure.is_some(), "no walker was caught at writing into a table that is free");
}

#[test]
fn a_route_left_open_is_found() {
    let failure = find(Bug::RouteLeftOpen, 20_000);
    assert!(failure.text.contains("which runs another"), "{failure}");
}

#[test]
fn a_lost_nmi_is_found() {
    let failure = find(Bug::LostNmi, 20);
    assert!(failure.text.contains("should have decided"), "{failure}");
}

#[test]
fn a_lost_interrupt_is_found() {
    let failure = find(Bug::LostInterrupt, 200);
    assert!(failure.text.contains("never got interrupt"), "{failure}");
}

#[test]
fn a_shootdown_that_waits_for_the_lock_is_found() {
    let failure = find(Bug::ShootdownDeadlock, 20);
    assert!(failure.text.contains("does not acknowledge"), "{failure}");
}

#[test]
fn a_timer_set_to_the_past_is_found() {
    let failure = find(Bug::SilentTimer, 20);
    assert!(failure.text.contains("should have decided"), "{failure}");
}

#[test]
fn an_alarm_that_comes_early_and_is_not_set_again_is_found() {
    let failure = find(Bug::SpentAlarm, 200);
    assert!(failure.text.contains("should have decided"), "{failure}");
}

#[test]
fn a_lost_wakeup_is_found() {
    let failure = find(Bug::LostWakeup, 20);
    assert!(failure.text.contains("was called and does not come"), "{failure}");
}

#[test]
fn a_write_into_a_destroyed_vcpu_is_found() {
    let failure = find(Bug::LateSave, 3_000);
    assert!(failure.text.contains("which is destroyed"), "{failure}");
}

#[test]
fn a_run_replays_from_its_seed() {
    for seed in 0..20 {
        let [one, two] = [(); 2].map(|()| run(&options(seed, None)).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(one, two);
    }
    let failure = find(Bug::ForgottenFlush, 20);
    let again = run(&Options { steps: failure.step + 1, ..failure.options }).unwrap_err();
    assert_eq!((again.step, &again.text), (failure.step, &failure.text));
    let command = failure.to_string();
    let expected =
        format!("--seed {} --steps {} --bug forgotten-flush --trace", failure.options.seed, failure.step + 1);
    assert!(command.contains("cargo run -p fake-machine -- ") && command.contains(&expected), "{command}");
}
