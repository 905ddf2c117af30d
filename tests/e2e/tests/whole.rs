//! The whole system where it could go wrong as a whole: the market crashes, and a market with fees adds up.

use e2e::{Change, run};
use market_mechanism::Credits;

#[test]
fn a_market_that_crashes_ends_the_run_with_a_clear_record() {
    let run = run("tiny", &Change::none().event("100ms=crash"));
    let failure = run.failure.as_deref().expect("such a run is no success");
    assert!(failure.contains("the market server failed: "), "{failure}");
    assert!(failure.contains("ordered to crash"), "{failure}");
    assert!(!failure.contains("timed out"), "{failure}");
    assert!(run.state.verified.is_none() || run.state.verified.as_ref().is_some_and(|totals| totals.mismatches == 0));
}

/// With fees the market earns more, and every total agrees as without.
#[test]
fn a_run_with_fees_adds_up() {
    const SCENARIO: &str = r#"
        title = "two caches come and go"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [page]
        reserve = 0.0025
        supply = 100
        [[app]]
        name = "one"
        image = "cache"
        input = "@sources"
        budget = 1
        valuation = 2e-10
        base_cpu = 30
        base_pages = 64
        [[app]]
        name = "other"
        image = "cache"
        input = "@sources"
        budget = 1
        valuation = 2e-10
        base_cpu = 30
        base_pages = 64
        [[event]]
        at = "400 ms"
        do = "shock:one:8:400 ms"
        [[event]]
        at = "1200 ms"
        do = "shock:other:8:400 ms"
        [[event]]
        at = "2 s"
        do = "kill:one"
        [[event]]
        at = "2 s"
        do = "kill:other"
    "#;
    let fees = Change::set("page.fee=0.5").and_set("cpu.fee=0.5");
    let [without, with] = [Change::none(), fees].map(|change| run(SCENARIO, &change));
    for run in [&without, &with] {
        run.expect_good();
        let totals = run.state.verified.as_ref().expect("totals");
        assert!(totals.agree() && totals.mismatches == 0 && totals.intervals >= 20, "{totals:?}");
        // What the rounds recorded, the bases and the desk are what the accounts paid; here only that it is something.
        assert!(run.state.goods.iter().all(|good| good.paid > Credits::ZERO));
    }
    // Who acquires a unit pays the fee on top: pages change hands less often.
    let moves = |run: &e2e::Finished| -> u64 {
        let page = run.state.goods.iter().find(|good| good.is_page()).expect("pages");
        let pairs = page.history.windows(2);
        pairs.map(|pair| u64::from(pair[0].holdings[0].abs_diff(pair[1].holdings[0]))).sum()
    };
    assert!(moves(&with) < moves(&without), "{} and {} pages moved", moves(&with), moves(&without));
}
