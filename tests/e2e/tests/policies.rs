//! What each application of the market's buys, in whole runs: as much as pays at the prices of the moment, and no more.
//!
//! - `compress` trades memory against CPU time by their prices.
//! - `digest` buys CPU time as its deadline needs, and none when it is early.
//! - `cache` holds as many pages as bring hits that are worth their price.
//!
//! The runs are short, and each has only what it is about.

use cache::sizes::{Size, simulate};
use cache::trace::Trace;
use compress::plan::PLANS;
use e2e::{Change, Finished, file_for_a_run, random_numbers, run, text_for_a_run};
use std::fmt::Write;
use std::path::PathBuf;

/// Ticks of CPU time that an application bought beyond its base.
fn bought(run: &Finished, name: &str) -> u64 {
    run.app(name).totals.cpu_ticks_bought
}

/// Members of the file by the plan that they were compressed with, as `compress` says at its end.
fn members_by_plan(run: &Finished) -> Vec<u32> {
    let lines = &run.app("compress").lines;
    let list = lines.iter().find_map(|line| line.split_once("members by plan: [")).expect("it reports its plans").1;
    list.trim_end_matches(']').split(", ").map(|count| count.parse().expect("a count")).collect()
}

/// `compress` alone on a core, with prices that nobody else moves.
fn compress_at(page_reserve: &str, cpu_reserve: &str) -> Finished {
    let scenario = r#"
        title = "compress alone"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [[app]]
        name = "compress"
        budget = 1
        valuation = 4e-9
        base_cpu = 50
        base_pages = 128
    "#;
    let prices = Change::set(&format!("page.reserve={page_reserve}")).and_set(&format!("cpu.reserve={cpu_reserve}"));
    let run = run(scenario, &prices.input("compress", &text_for_a_run(1_000_000)));
    run.expect_good();
    run
}

#[test]
fn compress_trades_memory_against_cpu_time_by_price() {
    let cheap_pages = compress_at("0.0001", "0.001");
    let dear_pages = compress_at("2000", "0.001");
    let dear_time = compress_at("0.0001", "3");
    // With pages for nothing most members have a window of 32 KiB, whose plans start at number 6; without pages there are
    // only the two small windows of the base; with dear time most plans are of the least effort, zlib's level 1, with
    // whichever window.
    let members = |run: &Finished, wanted: &dyn Fn(usize) -> bool| -> u32 {
        members_by_plan(run).iter().enumerate().filter(|(plan, _)| wanted(*plan)).map(|(_, count)| count).sum()
    };
    let all = |run: &Finished| members(run, &|_| true);
    let large = members(&cheap_pages, &|plan| plan >= 6);
    assert!(2 * large > all(&cheap_pages), "{:?}", members_by_plan(&cheap_pages));
    assert_eq!(members(&dear_pages, &|plan| plan < 2), all(&dear_pages), "{:?}", members_by_plan(&dear_pages));
    let least = members(&dear_time, &|plan| PLANS[plan].level == 1);
    assert!(2 * least > all(&dear_time), "{:?}", members_by_plan(&dear_time));
    // What it does not have as memory it makes up for by CPU time, as far as that goes; time that is too dear it leaves.
    let pages = [&cheap_pages, &dear_pages].map(|run| run.app("compress").totals.page_ms);
    assert!(pages[0] > 0 && pages[1] == 0, "{pages:?}");
    let time = [&cheap_pages, &dear_pages, &dear_time].map(|run| bought(run, "compress"));
    assert!(time[1] > time[0] && time[0] > 0 && time[2] == 0, "{time:?}");
    // Whichever of the two is dear, the file gets larger. How much says nothing of the order of the two.
    let bytes = [&cheap_pages, &dear_pages, &dear_time].map(|run| run.file("compress", "output.gz").len());
    assert!(bytes[0] < bytes[1] && bytes[0] < bytes[2], "{bytes:?}");
}

/// A digest with a deadline beside one without, which takes whatever is left of the core.
fn digest_before(deadline: &str) -> Finished {
    let scenario = r#"
        title = "a deadline and a rival"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [[app]]
        name = "patient"
        image = "digest"
        budget = 1
        valuation = 4e-9
        base_cpu = 5
        deadline = "2 s"
        [[app]]
        name = "rival"
        image = "digest"
        args = ["passes=12"]
        budget = 1
        valuation = 1e-9
        base_cpu = 5
    "#;
    let change = Change::set(&format!("app.patient.deadline=\"{deadline}\""));
    let run =
        run(scenario, &change.input("patient", &text_for_a_run(1_500_000)).input("rival", &text_for_a_run(600_000)));
    run.expect_good();
    let lines = &run.app("patient").lines;
    assert!(lines.iter().any(|line| line.starts_with("in time")), "{lines:?}");
    run
}

#[test]
fn digest_buys_what_its_deadline_needs_and_nothing_when_it_is_early() {
    let (near, far) = (digest_before("1 s"), digest_before("2 s"));
    let early = digest_before("10 s");
    let bought = [near, far, early].map(|run| bought(&run, "patient"));
    // 1.5 MB take 0.12 s of CPU time; the base has 0.05 s of it in a second, and all of it in ten.
    assert!(bought[0] > 2 * bought[1] && bought[1] > 0, "{bought:?}");
    assert_eq!(bought[2], 0);
}

/// Keys of three kinds: 100 that are asked for often, 300 now and then, 10,000 seldom.
fn keys() -> PathBuf {
    let mut draw = random_numbers(1);
    let mut text = String::from("# trace\n");
    for _ in 0..60_000 {
        let key = match draw(10) {
            0..6 => draw(100),
            6..9 => 1_000 + draw(300),
            _ => 10_000 + draw(10_000),
        };
        let _ = writeln!(text, "{key}");
    }
    file_for_a_run("keys", text.as_bytes())
}

/// `cache` alone, with pages without end at this price. Its CPU time is that of its base, so that accesses are as many at
/// every size.
fn cache_at(page_reserve: &str) -> Finished {
    let scenario = r#"
        title = "a cache alone"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [cpu]
        reserve = 1000
        base_price = 0.04
        [[app]]
        name = "cache"
        args = ["passes=2"]
        budget = 1
        valuation = 2e-10
        base_cpu = 60
        base_pages = 64
    "#;
    let run = run(scenario, &Change::set(&format!("page.reserve={page_reserve}")).input("cache", &keys()));
    run.expect_good();
    run
}

#[test]
fn cache_holds_pages_as_far_as_their_hits_are_worth_the_price() {
    const HIT: f64 = 2e-10;
    let input = std::fs::read(keys()).expect("the trace");
    let trace = || Trace::new(&input).chain(Trace::new(&input));
    let hits = |pages: u32| simulate(trace(), &[Size { position: 0, pages }]) as f64;
    let mut held = Vec::new();
    for reserve in ["16", "4", "1"] {
        let run = cache_at(reserve);
        let page = run.state.goods.iter().find(|good| good.is_page()).expect("there are pages");
        let ended = run.app("cache").ended.expect("ended");
        let samples: Vec<_> = page.history.iter().filter(|sample| sample.t < ended).collect();
        let pages = samples.last().expect("rounds").holdings[0];
        let price = samples[0].ask.0 as f64 * 1e-15;
        // What further pages bring in an interval, per page. The application knows sizes in steps of a half.
        let worth = |from: u32, to: u32| (hits(to) - hits(from)) / f64::from(to - from) / samples.len() as f64 * HIT;
        let (last, next) = (worth(pages * 2 / 3, pages), worth(pages, pages * 3 / 2));
        assert!(last > price / 2.0, "at {reserve}: the last of {pages} pages bring {last:e} for {price:e}");
        assert!(next < price * 2.0, "at {reserve}: pages after {pages} would bring {next:e} for {price:e}");
        held.push(pages);
    }
    assert!(held.is_sorted_by(|a, b| a < b), "{held:?}");
}
