//! The whole system where it could go wrong as a whole: the market crashes, and a market with fees adds up.

use e2e::{Change, Finished, run, trace_for_a_run};
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

/// With fees every total agrees as without, and they are part of what buyers weigh.
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
        [cpu]
        reserve = 0.0001
        [[app]]
        name = "one"
        image = "cache"
        budget = 1
        valuation = 2e-10
        args = ["passes=20"]
        base_cpu = 30
        base_pages = 64
        [[app]]
        name = "other"
        image = "cache"
        budget = 1
        valuation = 2e-10
        args = ["passes=20"]
        base_cpu = 30
        base_pages = 64
        [[event]]
        at = "400 ms"
        do = "shock:one:1.5:400 ms"
        [[event]]
        at = "1200 ms"
        do = "shock:other:1.5:400 ms"
        [[event]]
        at = "2 s"
        do = "kill:one"
        [[event]]
        at = "2 s"
        do = "kill:other"
    "#;
    let trace = trace_for_a_run();
    let with_fee = |page: u32| {
        let change = Change::set(&format!("page.fee={page}")).and_set("cpu.fee=0.0001");
        run(SCENARIO, &change.input("one", &trace).input("other", &trace))
    };
    let [without, with, prohibitive] = [0, 5, 100].map(with_fee);
    for run in [&without, &with, &prohibitive] {
        run.expect_good();
        let totals = run.state.verified.as_ref().expect("totals");
        assert!(totals.agree() && totals.mismatches == 0 && totals.intervals >= 20, "{totals:?}");
    }
    let pages = |run: &Finished| -> (Credits, u32) {
        let page = run.state.goods.iter().find(|good| good.is_page()).expect("pages");
        (page.paid, page.history.iter().map(|sample| sample.holdings.iter().sum()).max().unwrap_or(0))
    };
    // What the rounds recorded is what the accounts paid. Who acquires a unit pays the fee on top, so that a fee above what
    // pages bring is one that nobody pays.
    assert!(pages(&without).0 > Credits::ZERO && pages(&with).0 > Credits::ZERO);
    assert!(pages(&without).1 == 100 && pages(&with).1 > 0, "{:?} {:?}", pages(&without), pages(&with));
    assert_eq!(pages(&prohibitive), (Credits::ZERO, 0));
}
