//! Ten thousand runs find nothing; each seeded bug is found within a few hundred; every run replays from its seed.

use fake_machine::bug::Bug;
use fake_machine::run::{Failure, Options, Report, STEPS, run};

fn options(seed: u64, bug: Option<Bug>) -> Options {
    Options { seed, steps: STEPS, bug, trace: false }
}

/// The first of this many seeds that finds the bug by what it is: what is told contains `text`.
fn find(bug: Bug, seeds: u64, text: &str) -> Failure {
    (0..seeds)
        .filter_map(|seed| run(&options(seed, Some(bug))).err())
        .find(|failure| failure.text.contains(text))
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
    find(Bug::ForgottenFlush, 20, "any more");
}

#[test]
fn a_number_used_again_too_early_is_found() {
    find(Bug::AsidReused, 20, "any more");
}

#[test]
fn a_refused_entry_that_counts_as_a_flush_is_found() {
    find(Bug::RefusedFlush, 20, "any more");
}

#[test]
fn a_walk_through_a_freed_table_is_found() {
    find(Bug::FreedTable, 2_000, "no table of level");
}

#[test]
fn a_route_left_open_is_found() {
    find(Bug::RouteLeftOpen, 20_000, "which runs another");
}

#[test]
fn a_lost_nmi_is_found() {
    find(Bug::LostNmi, 20, "should have decided");
}

#[test]
fn a_lost_interrupt_is_found() {
    find(Bug::LostInterrupt, 200, "never got interrupt");
}

#[test]
fn a_shootdown_that_waits_for_the_lock_is_found() {
    find(Bug::ShootdownDeadlock, 20, "does not acknowledge");
}

#[test]
fn a_timer_set_to_the_past_is_found() {
    find(Bug::SilentTimer, 20, "should have decided");
}

#[test]
fn an_alarm_that_comes_early_and_is_not_set_again_is_found() {
    find(Bug::SpentAlarm, 200, "should have decided");
}

#[test]
fn a_lost_wakeup_is_found() {
    find(Bug::LostWakeup, 200, "was called and does not come");
}

#[test]
fn a_write_into_a_destroyed_vcpu_is_found() {
    find(Bug::LateSave, 10_000, "which is destroyed");
}

#[test]
fn a_run_replays_from_its_seed() {
    for seed in 0..20 {
        let [one, two] = [(); 2].map(|()| run(&options(seed, None)).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(one, two);
    }
    let failure = find(Bug::ForgottenFlush, 20, "any more");
    let again = run(&Options { steps: failure.step + 1, ..failure.options }).unwrap_err();
    assert_eq!((again.step, &again.text), (failure.step, &failure.text));
    let command = failure.to_string();
    let expected =
        format!("--seed {} --steps {} --bug forgotten-flush --trace", failure.options.seed, failure.step + 1);
    assert!(command.contains("cargo run -p fake-machine -- ") && command.contains(&expected), "{command}");
}
