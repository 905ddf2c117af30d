//! The market between two rivals with the same work, over whole runs: who values memory more holds more of it, a demand
//! shock moves the price, and elastic applications hold less when it is dear.
//!
//! As in `market.rs`, but with scenarios made for the purpose, so that more can be asked of each seed: two caches compete
//! for fewer pages than either could use, `compress` and `cache` have a core of their own, a digest has time to work ahead.

use e2e::rounds::{ask_and_holding, correlation, highest_clearing, mean_holding};
use e2e::{Change, Finished, run, text_for_a_run, trace_for_a_run};
use proto::host::End;
use std::sync::OnceLock;

/// Rounds at the start and at the end of a run that are left out: the applications come and go.
const EDGE: usize = 2;

/// Two caches, each on a core of its own.
const TWO_CACHES: &str = r#"
title = "two caches"
limit = "20 s"
[machine]
cores = 2
memory = "128 MiB"
[page]
reserve = 0.0025
supply = 120
[[app]]
name = "left"
image = "cache"
args = ["passes=4"]
budget = 1
valuation = 1e-10
core = 0
base_cpu = 20
base_pages = 64
[[app]]
name = "right"
image = "cache"
args = ["passes=4"]
budget = 1
valuation = 4e-10
core = 1
base_cpu = 20
base_pages = 64
"#;

fn two_caches(change: Change) -> Finished {
    let trace = trace_for_a_run();
    let run = run(TWO_CACHES, &change.input("left", &trace).input("right", &trace));
    run.expect_good();
    run
}

/// The scenario as it is.
fn quiet() -> &'static Finished {
    static RUN: OnceLock<Finished> = OnceLock::new();
    RUN.get_or_init(|| two_caches(Change::none()))
}

/// Ask of a good and an application's holding from round to round, up to a time and while all run.
fn while_all_run(run: &Finished, good: &str, app: &str, until_us: u64) -> Vec<(f64, f64)> {
    let first_end = run.state.apps.iter().filter(|app| app.awaited).filter_map(|app| app.ended).min().expect("an end");
    let rounds = ask_and_holding(&run.state, good, app, 0..first_end.min(until_us));
    assert!(rounds.len() > 2 * EDGE + 3, "only {} rounds", rounds.len());
    rounds[EDGE..rounds.len() - EDGE].to_vec()
}

/// Mean pages of an application while both run.
fn mean_pages(run: &Finished, name: &str) -> f64 {
    mean_holding(&while_all_run(run, "page", name, u64::MAX))
}

#[test]
fn exchanged_valuations_exchange_the_holdings() {
    let run = quiet();
    let exchanged = two_caches(Change::set("app.left.valuation=4e-10").and_set("app.right.valuation=1e-10"));
    let (left, right) = (mean_pages(run, "left"), mean_pages(run, "right"));
    let (left_then, right_then) = (mean_pages(&exchanged, "left"), mean_pages(&exchanged, "right"));
    assert!(right > 1.2 * left, "left {left:.1}, right {right:.1}");
    assert!(left_then > 1.2 * right_then, "exchanged: left {left_then:.1}, right {right_then:.1}");
    let close = |a: f64, b: f64| (a - b).abs() <= 0.25 * a.max(b);
    assert!(
        close(right, left_then) && close(left, right_then),
        "{left:.1} {right:.1} became {left_then:.1} {right_then:.1}"
    );
}

#[test]
fn demand_shock_is_in_the_price_and_vanishes_with_it() {
    let highest = |run: &Finished, time| highest_clearing(&run.state, "page", time);
    let quiet = quiet();
    let shocked = two_caches(Change::none().event("600ms=shock:left:8:600ms"));
    let (without, with) = (highest(quiet, 700_000..1_300_000), highest(&shocked, 700_000..1_300_000));
    assert!(with > 1.3 * without, "clearing up to {with} with the shock, {without} without");
    // Before it there is no difference but that of where things start.
    let (before, same) = (highest(quiet, 0..500_000), highest(&shocked, 0..500_000));
    assert!(before < 1.3 * same && same < 1.3 * before, "{before} and {same} before the shock");
}

/// A user changes valuations while the run goes on, in every way that there is, and ends it in good order.
#[test]
fn events_change_valuations_and_end_the_run() {
    const ENDLESS: &str = "args=[\"passes=100000\"]";
    let mut change = Change::set(&format!("app.left.{ENDLESS}")).and_set(&format!("app.right.{ENDLESS}"));
    change = change.event("700ms=value:left:16");
    // 16 * 1.5^-10 is 0.28 of what the scenario says, and 0.28 * 1.5^12 is 36.
    for _ in 0..10 {
        change = change.event("1300ms=value-:left");
    }
    for _ in 0..12 {
        change = change.event("1900ms=value+:left");
    }
    let trace = trace_for_a_run();
    let run = run(TWO_CACHES, &change.event("2500ms=stop").input("left", &trace).input("right", &trace));
    // Two rounds after a change its whole effect is there.
    for (from_ms, left_leads) in [(200, false), (900, true), (1_500, false), (2_100, true)] {
        let mean = |app| {
            let rounds = ask_and_holding(&run.state, "page", app, from_ms * 1_000..(from_ms + 400) * 1_000);
            rounds.iter().map(|(_, holding)| holding).sum::<f64>() / rounds.len() as f64
        };
        let (left, right) = (mean("left"), mean("right"));
        let (more, less) = if left_leads { (left, right) } else { (right, left) };
        assert!(more > 1.2 * less, "from {from_ms} ms on: left {left:.1}, right {right:.1}");
    }
    for app in ["left", "right"] {
        assert_eq!(run.end(app), &End::RunOver);
        let ended = run.app(app).ended.expect("ended");
        assert!((2_500_000..2_600_000).contains(&ended), "{app} ended at {ended} us");
    }
    assert!(run.state.verified.as_ref().is_some_and(|totals| totals.agree()), "everything was taken back");
    let failure = run.failure.as_deref().expect("who ends a run early is told that it has not ended by itself");
    assert!(failure.contains("the run was stopped by a command"), "{failure}");
}

/// How an application's holding of a good goes with its ask.
fn holding_and_ask(run: &Finished, good: &str, app: &str, until_us: u64) -> f64 {
    correlation(&while_all_run(run, good, app, until_us))
}

/// Whoever is not shocked itself holds less while another's demand makes pages dear, and gets them back afterwards.
#[test]
fn a_cache_holds_less_when_the_ask_rises() {
    for seed in [1, 2, 3] {
        let (other, this) = if seed % 2 == 0 { ("left", "right") } else { ("right", "left") };
        let event = format!("{}ms=shock:{other}:12:500ms", 500 + 100 * seed);
        let (dear, cheap) = ("3e-10", "1e-10");
        let (left, right) = if other == "left" { (cheap, dear) } else { (dear, cheap) };
        let change =
            Change::set(&format!("app.left.valuation={left}")).and_set(&format!("app.right.valuation={right}"));
        let found = holding_and_ask(&two_caches(change.seed(seed).event(&event)), "page", this, u64::MAX);
        assert!(found < -0.3, "seed {seed}: {found:.2}");
    }
}

/// `compress` and `cache` compete for pages; each has a core of its own.
const COMPRESS_AND_CACHE: &str = r#"
title = "compress and cache"
limit = "20 s"
[machine]
cores = 2
memory = "128 MiB"
[page]
reserve = 0.0025
supply = 160
[[app]]
name = "compress"
budget = 1
valuation = 4e-9
core = 0
base_cpu = 60
base_pages = 128
[[app]]
name = "cache"
args = ["passes=3"]
budget = 1
valuation = 2e-10
core = 1
base_cpu = 20
base_pages = 64
"#;

#[test]
fn compress_holds_less_when_the_ask_rises() {
    let (text, trace) = (text_for_a_run(1_000_000), trace_for_a_run());
    for seed in [1, 2, 3] {
        let event = format!("{}ms=shock:cache:8:500ms", 300 + 100 * seed);
        let change = Change::none().seed(seed).event(&event).input("compress", &text).input("cache", &trace);
        let run = run(COMPRESS_AND_CACHE, &change);
        run.expect_good();
        let found = holding_and_ask(&run, "page", "compress", u64::MAX);
        assert!(found < -0.3, "seed {seed}: {found:.2}");
    }
}

/// Notice of pages can come before the pages: a round closes a little before the pages of the round before are handed
/// out. Whoever loses in each round what it won in the round before gets both, again and again, and must not use such
/// pages for longer than it has them.
#[test]
fn compress_bears_pages_that_are_lost_before_they_come() {
    let (text, trace) = (text_for_a_run(1_000_000), trace_for_a_run());
    let mut change = Change::none().input("compress", &text).input("cache", &trace);
    for at in 3..18 {
        let factor = if at % 2 == 0 { "0.001" } else { "100000" };
        change = change.event(&format!("{at}50ms=value:cache:{factor}"));
    }
    let run = run(&COMPRESS_AND_CACHE.replace("4e-9", "4e-8"), &change);
    run.expect_good();
    let held: Vec<f64> =
        ask_and_holding(&run.state, "page", "compress", 0..1_900_000).iter().map(|(_, pages)| *pages).collect();
    // How many of them go at once depends on how fast its input comes.
    let lost: Vec<f64> = held
        .windows(3)
        .filter(|three| three[0] < three[1] && three[2] < three[1])
        .map(|three| three[1] - three[2])
        .collect();
    assert!(lost.len() >= 4, "pages that were won in one round and lost in the next: {held:?}");
    assert!(lost.iter().sum::<f64>() > 128.0, "pages that were won in one round and lost in the next: {held:?}");
}

/// A digest that has time until its deadline works ahead while CPU time is cheap; then a rival comes that makes it dear.
const AHEAD: &str = r#"
title = "working ahead"
limit = "20 s"
[machine]
cores = 1
memory = "128 MiB"
[[app]]
name = "patient"
image = "digest"
args = ["passes=12"]
budget = 1
valuation = 4e-9
base_cpu = 5
deadline = "3 s"
[[app]]
name = "rival"
image = "digest"
args = ["passes=1000"]
budget = 1
valuation = 1e-9
base_cpu = 5
starts = false
"#;

#[test]
fn digest_holds_less_cpu_time_when_the_ask_rises() {
    // For so long the price is above what the digest has seen of late; then it expects no lower one any more.
    const DEAR_US: u64 = 350_000;
    let text = text_for_a_run(1_500_000);
    for seed in [1, 2, 3] {
        let from_us = 400_000 + 100_000 * seed;
        let event = format!("{}ms=start:rival", from_us / 1_000);
        let change = Change::none().seed(seed).input("patient", &text).input("rival", &text).event(&event);
        let run = run(AHEAD, &change);
        run.expect_good();
        let found = holding_and_ask(&run, "cpu.0", "patient", from_us + DEAR_US);
        assert!(found < -0.3, "seed {seed}: {found:.2}");
    }
}
