//! The market over whole runs of the default scenario, for several seeds: who values memory more holds more of it, a
//! demand shock moves the price, and elastic applications hold less when it is dear.
//!
//! A run is watched until the time that a test is about, while all applications run.

use e2e::xtask::run_state::{GoodState, RunState};
use e2e::{Change, Machine};
use proto::host::Record;
use std::sync::OnceLock;

const SEEDS: [u64; 3] = [1, 2, 3];
/// The shock of the scenario, in microseconds: `cache` values its hits higher, for pages and for core 1.
const SHOCK: std::ops::Range<u64> = 1_200_000..2_000_000;
/// As far as runs are watched.
const WATCHED: u64 = 2_100_000;
/// Before this the applications have just begun: `cache` does not know yet what pages bring.
const BEGUN: u64 = 800_000;
/// Two valuations: what `compress` has in the scenario, and less than `cache` has there.
const HIGH: &str = "4e-8";
const LOW: &str = "5e-11";
/// What takes the shock away.
const NO_SHOCK: &str = "event=[]";

fn watch(change: &Change) -> RunState {
    let mut machine = Machine::start("default", change).unwrap_or_else(|error| panic!("{error:#}"));
    let enough = |record: &Record| matches!(record, Record::Round { t, .. } if *t >= WATCHED);
    machine.wait_record(enough).unwrap_or_else(|error| panic!("{error:#}"));
    let state = machine.state().clone();
    assert!(state.apps.iter().all(|app| app.ended.is_none()), "all applications run");
    state
}

/// The scenario as it is, once per seed.
fn as_it_is(seed: u64) -> &'static RunState {
    static RUNS: [OnceLock<RunState>; SEEDS.len()] = [const { OnceLock::new() }; SEEDS.len()];
    let at = SEEDS.iter().position(|known| *known == seed).expect("one of the seeds");
    RUNS[at].get_or_init(|| watch(&Change::none().seed(seed)))
}

fn good<'a>(run: &'a RunState, name: &str) -> &'a GoodState {
    run.goods.iter().find(|good| good.name == name).expect("the good")
}

/// Ask and an application's holding, round by round.
fn rounds(run: &RunState, name: &str, app: &str, time: std::ops::Range<u64>) -> Vec<(f64, f64)> {
    let app = run.apps.iter().position(|found| found.name == app).expect("the application");
    let good = good(run, name);
    let inside = good.history.iter().filter(|sample| time.contains(&sample.t));
    inside.map(|sample| (good.per_hour_f64(sample.ask), f64::from(sample.holdings[app]))).collect()
}

fn mean_pages(run: &RunState, app: &str) -> f64 {
    let rounds = rounds(run, "page", app, BEGUN..SHOCK.end);
    assert!(rounds.len() >= 10, "only {} rounds", rounds.len());
    rounds.iter().map(|(_, holding)| holding).sum::<f64>() / rounds.len() as f64
}

/// The highest clearing price of a good in a part of the run.
fn highest_clearing(run: &RunState, name: &str, time: std::ops::Range<u64>) -> f64 {
    let good = good(run, name);
    let inside = good.history.iter().filter(|sample| time.contains(&sample.t));
    inside.map(|sample| good.per_hour_f64(sample.clearing)).fold(0.0, f64::max)
}

#[test]
fn exchanged_valuations_exchange_the_holdings() {
    for seed in SEEDS {
        let change = |compress: &str, cache: &str| {
            let change = Change::set(&format!("app.compress.valuation={compress}"));
            change.and_set(&format!("app.cache.valuation={cache}")).and_set(NO_SHOCK).seed(seed)
        };
        let [before, after] = [change(HIGH, LOW), change(LOW, HIGH)].map(|change| watch(&change));
        let held = |run: &RunState| [mean_pages(run, "compress"), mean_pages(run, "cache")];
        let ([compress, cache], [compress_then, cache_then]) = (held(&before), held(&after));
        let said = format!("seed {seed}: {compress:.1} and {cache:.1} became {compress_then:.1} and {cache_then:.1}");
        // Of the 128 pages `compress` can use about half, `cache` any number: so the first is no more than near to the
        // other when it values them more.
        assert!(compress > 0.8 * cache && compress > 2.0 * compress_then, "{said}");
        assert!(cache_then > 2.0 * compress_then && cache_then > 1.3 * cache, "{said}");
    }
}

#[test]
fn demand_shock_is_in_the_price_and_vanishes_with_it() {
    for seed in SEEDS {
        let (with, without) = (as_it_is(seed), watch(&Change::set(NO_SHOCK).seed(seed)));
        let (shocked, quiet) = (highest_clearing(with, "cpu.1", SHOCK), highest_clearing(&without, "cpu.1", SHOCK));
        assert!(shocked > 2.0 * quiet, "seed {seed}: clearing up to {shocked} with the shock, {quiet} without");
        // Before it the core is as cheap in both.
        let [before, same] = [with, &without].map(|run| highest_clearing(run, "cpu.1", BEGUN..SHOCK.start));
        assert!(shocked > 2.0 * before.max(same), "seed {seed}: {before} and {same} before the shock, then {shocked}");
    }
}

/// Pearson's correlation.
fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|pair| of(pair.0 - x, pair.1 - y)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Where each number stands among all; equal ones share the middle of their places.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let rank = |number: f64| {
        let below = numbers.iter().filter(|other| **other < number).count();
        let equal = numbers.iter().filter(|other| **other == number).count();
        below as f64 + equal as f64 / 2.0
    };
    numbers.iter().map(|number| rank(*number)).collect()
}

/// Whoever is not shocked itself holds less while another's demand makes a good dear. By rank (Spearman), as a single ask
/// of the shock can be twenty times the others and would outweigh them.
#[test]
fn compress_holds_less_when_the_ask_rises() {
    for seed in SEEDS {
        let pairs = rounds(as_it_is(seed), "page", "compress", 200_000..SHOCK.end);
        let (asks, holdings): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let ranked: Vec<(f64, f64)> = ranks(&asks).into_iter().zip(ranks(&holdings)).collect();
        let found = correlation(&ranked);
        assert!(found < -0.3, "seed {seed}: {found:.2}");
    }
}

/// As above, with a shock of `compress` instead: it wants pages and core 0.
#[test]
fn cache_and_digest_hold_less_when_the_ask_rises() {
    for seed in SEEDS {
        let run = watch(&Change::set(NO_SHOCK).event("1000ms=shock:compress:50:500ms").seed(seed));
        for (good, app) in [("page", "cache"), ("cpu.0", "digest")] {
            let found = correlation(&rounds(&run, good, app, BEGUN..WATCHED));
            assert!(found < -0.3, "seed {seed}, {app}: {found:.2}");
        }
    }
}
