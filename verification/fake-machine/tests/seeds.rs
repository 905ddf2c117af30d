//! Two thousand runs find nothing (many more: `cargo xtask verify fake-machine`); each seeded bug is found within a few hundred; every run replays from its seed.

use fake_machine::bug::Bug;
use fake_machine::run::{Failure, Options, STEPS, run, run_seeds};
use std::sync::atomic::AtomicUsize;

fn options(seed: u64, bug: Option<Bug>) -> Options {
    Options { seed, steps: STEPS, bug, trace: false }
}

/// The first of this many seeds that finds the bug by what it is: what is told contains `text`.
fn find(bug: Bug, seeds: u64, text: &str) -> Failure {
    find_among(bug, 0..seeds, text)
}

/// The first of these seeds that finds the bug.
fn find_among(bug: Bug, seeds: core::ops::Range<u64>, text: &str) -> Failure {
    let range = seeds.clone();
    seeds
        .filter_map(|seed| run(&options(seed, Some(bug))).err())
        .find(|failure| failure.text.contains(text))
        .unwrap_or_else(|| panic!("{} was not found in the seeds {range:?}", bug.name()))
}

#[test]
fn two_thousand_seeds_find_nothing() {
    let done = AtomicUsize::new(0);
    let total = run_seeds(&options(0, None), 2_000, 2, &done).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((done.into_inner(), total.idle(2_000)), (2_000, vec![]), "{total}");
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
    // A Vcpu has to die while its route is open: some thousands of seeds lie between two that find it.
    find_among(Bug::RouteLeftOpen, 6_000..6_500, "which runs another");
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
fn an_nmi_that_is_taken_when_its_route_is_open_again_is_found() {
    find(Bug::LateNmi, 10_000, "never got interrupt");
}

#[test]
fn a_forgotten_flush_of_the_iotlb_is_found() {
    find(Bug::ForgottenIotlbFlush, 20, "any more");
}

#[test]
fn a_forgotten_flush_of_a_context_entry_is_found() {
    find(Bug::ForgottenContextFlush, 200, "of its domain any more");
}

#[test]
fn a_forgotten_flush_of_the_iotlb_at_a_detachment_is_found() {
    find(Bug::ForgottenDetachFlush, 200, "does not map so any more");
}

#[test]
fn a_forgotten_flush_of_an_interrupt_entry_is_found() {
    find(Bug::ForgottenEntryFlush, 200, "interrupt");
}

#[test]
fn dma_in_flight_past_a_flush_is_found() {
    find(Bug::DmaInFlight, 200, "does not map so any more");
}

#[test]
fn a_time_out_that_counts_as_an_answer_is_found() {
    find(Bug::IgnoredTimeOut, 2_000, "any more");
}

#[test]
fn memory_that_a_failed_iommu_reaches_and_that_is_handed_out_again_is_found() {
    find(Bug::ForgottenQuarantine, 2_000, "since");
}

#[test]
fn a_message_in_flight_past_its_mask_is_found() {
    find(Bug::MessagePastMask, 20, "which runs another");
}

#[test]
fn memory_that_is_sold_under_dma_is_found() {
    find(Bug::ResaleUnderDma, 200, "after it was detached");
}

#[test]
fn a_function_left_a_bus_master_is_found() {
    find(Bug::BusMasterLeftOn, 20, "is a bus master although");
}

#[test]
fn what_a_function_did_for_its_former_holder_and_is_told_to_the_next_is_found() {
    find(Bug::FaultsLeft, 2_000, "is not told yet");
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
