//! The market over whole runs of the scenario `batch`, for several seeds: who values memory more holds more of it, a
//! demand shock moves the price, and elastic applications hold less when it is dear.
//!
//! The input is a text of the size of the sources, always the same, so that a run doesn't change with every edit of the
//! repository. A run is watched until the time that a test is about, while all applications run.

use e2e::rounds::{ask_and_holding, correlation, highest_clearing, mean_holding};
use e2e::xtask::run_state::RunState;
use e2e::{Change, Machine, text_for_a_run};
use proto::host::Record;
use std::sync::OnceLock;

const SEEDS: [u64; 3] = [1, 2, 3];
/// Bytes of the input.
const INPUT: usize = 1_770_000;
/// The shock of the scenario, in microseconds: `cache` values its hits higher, for pages and for core 1.
const SHOCK: std::ops::Range<u64> = 1_200_000..2_000_000;
/// As far as runs are watched.
const WATCHED: u64 = 2_100_000;
/// Before this the applications have just begun: `cache` does not know yet what pages bring.
const BEGUN: u64 = 800_000;
/// Two valuations: what `compress` has in the scenario, and much less than `cache` has there.
const HIGH: &str = "4e-8";
const LOW: &str = "1e-11";
/// Any window of `compress` (48, 63 or 93 pages) fits, and the smallest leaves less than it takes. CPU time is cheap, as
/// `digest` is content with its base: while that is dear, no window is worth much to `compress`.
const SCARCE_PAGES: &str = "page.supply=94";
const CHEAP_CPU: &str = "app.digest.args=[]";
/// What takes the shock away.
const NO_SHOCK: &str = "event=[]";

fn watch(change: Change, until_us: u64) -> RunState {
    let text = text_for_a_run(INPUT);
    let change = ["digest", "compress", "cache"].iter().fold(change, |change, app| change.input(app, &text));
    let mut machine = Machine::start("batch", &change).unwrap_or_else(|error| panic!("{error:#}"));
    let enough = |record: &Record| matches!(record, Record::Round { t, .. } if *t >= until_us);
    machine.wait_record(enough).unwrap_or_else(|error| panic!("{error:#}"));
    let state = machine.state().clone();
    assert!(state.apps.iter().all(|app| app.ended.is_none()), "all applications run");
    state
}

/// The scenario as it is, once per seed.
fn as_it_is(seed: u64) -> &'static RunState {
    static RUNS: [OnceLock<RunState>; SEEDS.len()] = [const { OnceLock::new() }; SEEDS.len()];
    let at = SEEDS.iter().position(|known| *known == seed).expect("one of the seeds");
    RUNS[at].get_or_init(|| watch(Change::none().seed(seed), WATCHED))
}

#[test]
fn exchanged_valuations_exchange_the_holdings() {
    for seed in SEEDS {
        let change = |compress: &str, cache: &str| {
            let change = Change::set(&format!("app.compress.valuation={compress}"));
            change
                .and_set(&format!("app.cache.valuation={cache}"))
                .and_set(SCARCE_PAGES)
                .and_set(CHEAP_CPU)
                .and_set(NO_SHOCK)
                .seed(seed)
        };
        let [before, after] = [change(HIGH, LOW), change(LOW, HIGH)].map(|change| watch(change, WATCHED));
        let held = |run: &RunState| {
            ["compress", "cache"].map(|app| mean_holding(&ask_and_holding(run, "page", app, BEGUN..SHOCK.end)))
        };
        let ([compress, cache], [compress_then, cache_then]) = (held(&before), held(&after));
        let said = format!("seed {seed}: {compress:.1} and {cache:.1} became {compress_then:.1} and {cache_then:.1}");
        println!("{said}");
        assert!(compress > cache && cache_then > 1.2 * compress_then, "{said}");
        assert!(compress > 2.0 * compress_then && cache_then > 1.5 * cache, "{said}");
    }
}

#[test]
fn demand_shock_is_in_the_price_and_vanishes_with_it() {
    for seed in SEEDS {
        let (with, without) = (as_it_is(seed), watch(Change::set(NO_SHOCK).seed(seed), WATCHED));
        let (shocked, quiet) = (highest_clearing(with, "cpu.1", SHOCK), highest_clearing(&without, "cpu.1", SHOCK));
        assert!(shocked > 2.0 * quiet, "seed {seed}: clearing up to {shocked} with the shock, {quiet} without");
        // Before it the core is as cheap in both.
        let [before, same] = [with, &without].map(|run| highest_clearing(run, "cpu.1", BEGUN..SHOCK.start));
        assert!(shocked > 2.0 * before.max(same), "seed {seed}: {before} and {same} before the shock, then {shocked}");
    }
}

/// How the holding of an application goes with the ask, over the rounds of all seeds.
fn over_the_seeds(rounds_of: impl Fn(u64) -> Vec<(f64, f64)>) -> f64 {
    let rounds = SEEDS.map(rounds_of);
    let each = rounds.each_ref().map(|rounds| correlation(rounds));
    let found = correlation(&rounds.concat());
    println!("{found:.2} over all seeds, {each:.2?} in each");
    found
}

/// Whoever is not shocked itself holds less while another's demand makes a good dear.
#[test]
fn compress_holds_less_when_the_ask_rises() {
    let found = over_the_seeds(|seed| ask_and_holding(as_it_is(seed), "page", "compress", 200_000..SHOCK.end));
    assert!(found < -0.3, "{found:.2}");
}

/// As above, with a shock of `compress` instead: it wants core 0.
#[test]
fn digest_holds_less_when_the_ask_rises() {
    let found = over_the_seeds(|seed| {
        let run = watch(Change::set(NO_SHOCK).event("1000ms=shock:compress:50:500ms").seed(seed), WATCHED);
        ask_and_holding(&run, "cpu.0", "digest", BEGUN..WATCHED)
    });
    assert!(found < -0.3, "{found:.2}");
}

/// `compress` values pages less than `cache` does, and for half a second more.
#[test]
fn cache_holds_less_when_the_ask_rises() {
    const AGAIN: u64 = 2_400_000;
    let found = over_the_seeds(|seed| {
        let change = Change::set(NO_SHOCK).and_set("app.compress.valuation=5e-11");
        let run = watch(change.event("1200ms=shock:compress:800:500ms").seed(seed), AGAIN);
        ask_and_holding(&run, "page", "cache", BEGUN..AGAIN)
    });
    assert!(found < -0.3, "{found:.2}");
}
