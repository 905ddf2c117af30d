//! The market over whole runs: who values memory more holds more of it, a demand shock moves the price, and elastic
//! applications hold less when it is dear.
//!
//! The runs are short: two caches with the same work compete for fewer pages than either could use.

use e2e::{Change, Finished, run, xtask::paths};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Rounds at the start and at the end of a run that are left out: the applications come and go.
const EDGE: usize = 2;

/// A trace in which few keys are asked for often and many seldom, the same for everybody.
fn trace() -> PathBuf {
    let folder = paths::target().join("e2e");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let path = folder.join(format!("trace-{:?}", std::thread::current().id()).replace(['(', ')'], ""));
    let mut text = String::from("# trace\n");
    let mut state = 1u64;
    for _ in 0..30_000 {
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 2_000
        };
        // The least of three draws: small numbers come often.
        let key = draw().min(draw()).min(draw());
        let _ = writeln!(text, "{key}");
    }
    std::fs::write(&path, text).expect("as above");
    path
}

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
    let trace = trace();
    let run = run(TWO_CACHES, &change.input("left", &trace).input("right", &trace));
    run.expect_good();
    run
}

/// The scenario as it is.
fn quiet() -> &'static Finished {
    static RUN: OnceLock<Finished> = OnceLock::new();
    RUN.get_or_init(|| two_caches(Change::none()))
}

/// Mean pages of an application while both run.
fn mean_pages(run: &Finished, name: &str) -> f64 {
    let app = run.state.apps.iter().position(|app| app.name == name).expect("it is in the scenario");
    let samples = both_running(run);
    samples.iter().map(|(_, holdings)| f64::from(holdings[app])).sum::<f64>() / samples.len() as f64
}

/// Ask and holdings of each round of the page good while both run.
fn both_running(run: &Finished) -> Vec<(f64, Vec<u32>)> {
    let first_end = run.state.apps.iter().filter_map(|app| app.ended).min().expect("one ended");
    let page = run.state.goods.iter().find(|good| good.is_page()).expect("there are pages");
    let rounds: Vec<_> = page.history.iter().filter(|sample| sample.t < first_end).collect();
    assert!(rounds.len() > 2 * EDGE + 4, "only {} rounds", rounds.len());
    let inner = &rounds[EDGE..rounds.len() - EDGE];
    inner.iter().map(|sample| (page.per_hour_f64(sample.ask), sample.holdings.clone())).collect()
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

/// The highest clearing price in a part of the run.
fn highest_clearing(run: &Finished, from_us: u64, to_us: u64) -> f64 {
    let page = run.state.goods.iter().find(|good| good.is_page()).expect("there are pages");
    let inside = page.history.iter().filter(|sample| (from_us..to_us).contains(&sample.t));
    inside.map(|sample| page.per_hour_f64(sample.clearing)).fold(0.0, f64::max)
}

#[test]
fn demand_shock_is_in_the_price_and_vanishes_with_it() {
    let (from, to) = (700_000, 1_300_000);
    let quiet = quiet();
    let shocked = two_caches(Change::none().event("600ms=shock:left:8:600ms"));
    let (without, with) = (highest_clearing(quiet, from, to), highest_clearing(&shocked, from, to));
    assert!(with > 1.3 * without, "clearing up to {with} with the shock, {without} without");
    // Before it there is no difference but that of where things start.
    let (before, same) = (highest_clearing(quiet, 0, 500_000), highest_clearing(&shocked, 0, 500_000));
    assert!(before < 1.3 * same && same < 1.3 * before, "{before} and {same} before the shock");
}

/// Pearson's correlation.
fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|pair| of(pair.0 - x, pair.1 - y)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Whoever is not shocked itself holds less while another's demand makes pages dear, and gets them back afterwards.
#[test]
fn holding_falls_when_the_ask_rises() {
    for seed in [1, 2, 3] {
        let (other, this) = if seed % 2 == 0 { ("left", 1) } else { ("right", 0) };
        let event = format!("{}ms=shock:{other}:12:500ms", 500 + 100 * seed);
        let (dear, cheap) = ("3e-10", "1e-10");
        let (left, right) = if other == "left" { (cheap, dear) } else { (dear, cheap) };
        let change =
            Change::set(&format!("app.left.valuation={left}")).and_set(&format!("app.right.valuation={right}"));
        let run = two_caches(change.seed(seed).event(&event));
        let pairs: Vec<(f64, f64)> =
            both_running(&run).into_iter().map(|(ask, holdings)| (ask, f64::from(holdings[this]))).collect();
        let found = correlation(&pairs);
        assert!(found < -0.3, "seed {seed}: ask and holding correlate with {found:.2}: {pairs:?}");
    }
}
