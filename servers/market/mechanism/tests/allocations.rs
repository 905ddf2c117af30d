//! Nothing is allocated in a round, however many bids there are: memory is the caller's, from before.

mod common;

use std::hint::black_box;

use common::{Market, large_round};
use market_mechanism::RoundNo;
use market_mechanism::curve_lane::{Award, Scratch, Step, Tally, clear, steps_needed, tallies_needed};

/// How often memory is allocated while this runs.
fn allocations(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).count_total
}

#[test]
fn clearing_allocates_nothing() {
    let (terms, entries) = large_round(20_000, 8);
    let mut steps = vec![Step::default(); steps_needed(entries.len())];
    let mut tallies = vec![Tally::default(); tallies_needed(entries.len())];
    let mut awards = vec![Award::default(); entries.len()];
    let mut scratch = Scratch { steps: &mut steps, tallies: &mut tallies };
    let mut outcome = None;
    let count = allocations(|| outcome = Some(clear(&terms, RoundNo(1), &entries, &mut scratch, &mut awards)));
    assert_eq!(count, 0);
    assert!(outcome.is_some_and(|outcome| outcome.is_ok_and(|outcome| outcome.sold.0 > 0)));
    // The counter counts.
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
}

#[test]
fn a_whole_round_allocates_nothing() {
    let mut market = Market::<200>::new(200);
    for _ in 0..5 {
        market.change_some_bids();
        let mut closed = None;
        assert_eq!(allocations(|| closed = Some(market.close())), 0);
        assert!(closed.is_some());
    }
}
