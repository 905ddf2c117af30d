//! How long the rules take, alone on a machine: `cargo xtask market bench`.
//!
//! Each row says how long the best of several repetitions took, and what it must take at most. With `--test` (as
//! `cargo test --benches` passes it) each row runs once and its time is not judged. The status is 1 if a row is too slow.

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Market, Random, large_round};
use market_mechanism::curve_lane::{Award, Entry, Scratch, Step, Tally, Terms, clear, steps_needed, tallies_needed};
use market_mechanism::{Curve, Price, Quantity, RoundNo};

/// Repetitions of each row; the machine's other work disturbs some.
const REPETITIONS: u32 = 9;

/// Bids of one segment each.
fn simple_round(bids: u32) -> (Terms, Vec<Entry>) {
    let (terms, mut entries) = large_round(bids, 8);
    let mut random = Random(9);
    for entry in &mut entries {
        let quantity = Quantity(1 + random.below(8) as u32);
        entry.curve = Curve::flat(quantity, Price(random.below(1 << 40))).expect("one segment");
    }
    (terms, entries)
}

/// The shortest time that clearing takes.
fn time_to_clear((terms, entries): (Terms, Vec<Entry>), repetitions: u32) -> Duration {
    let mut steps = vec![Step::default(); steps_needed(entries.len())];
    let mut tallies = vec![Tally::default(); tallies_needed(entries.len())];
    let mut awards = vec![Award::default(); entries.len()];
    let once = |_| {
        let mut scratch = Scratch { steps: &mut steps, tallies: &mut tallies };
        let start = Instant::now();
        let outcome = clear(&terms, RoundNo(1), &entries, &mut scratch, &mut awards).expect("a round");
        let taken = start.elapsed();
        assert!(outcome.sold > Quantity::ZERO);
        taken
    };
    (0..repetitions).map(once).min().unwrap_or_default()
}

/// The shortest time of a whole round of a thousand members that all bid: charges, escrow, notices and journal included.
fn time_of_a_round(repetitions: u32) -> Duration {
    let mut market = Market::<1_000>::new(1_000);
    // The first rounds deliver to everybody.
    let mut once = |_| {
        market.change_some_bids();
        market.close()
    };
    (0..3 + repetitions).map(&mut once).skip(3).min().unwrap_or_default()
}

fn main() -> ExitCode {
    let judged = !std::env::args().any(|argument| argument == "--test");
    let repetitions = if judged { REPETITIONS } else { 1 };
    let mut all_met = true;
    let mut row = |name: &str, taken: Duration, target: Option<Duration>| {
        let met = target.is_none_or(|target| taken <= target);
        all_met &= met;
        let target = target.map_or("-".to_string(), |target| format!("<= {target:?}"));
        println!("{name:<66} {:>10} {target:>12}  {}", format!("{taken:.1?}"), if met { "yes" } else { "NO" });
    };
    let ms = Duration::from_millis;
    row(
        "clear 100,000 bids of one segment, all payments",
        time_to_clear(simple_round(100_000), repetitions),
        Some(ms(10)),
    );
    row(
        "clear 1,000,000 bids of one segment, all payments",
        time_to_clear(simple_round(1_000_000), repetitions),
        Some(ms(150)),
    );
    row(
        "clear 100,000 bids of up to eight segments, all payments",
        time_to_clear(large_round(100_000, 8), repetitions),
        None,
    );
    // A hundred rounds a second at 1 % of a core.
    row("a whole round of 1,000 bids", time_of_a_round(repetitions), Some(Duration::from_micros(100)));
    if judged && !all_met { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
