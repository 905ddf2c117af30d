//! Memory that is taken back from applications that do not look at the market: one asked to be interrupted, others live
//! on the memory itself.

use cap_spec::abi::StopReason;
use e2e::{Change, Finished, Rivalry, run};
use proto::host::{End, Record};

/// Numbers in a line, wherever they stand.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|character: char| !character.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// The first line of an application that contains this.
fn said<'a>(run: &'a Finished, app: &str, text: &str) -> &'a str {
    let lines = &run.app(app).lines;
    let line = lines.iter().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("{app} did not say `{text}` but {lines:?}; {:?}", run.failure))
}

/// An application that never looks.
const COMPUTING: Rivalry =
    Rivalry { name: "computing", image: "notified", more: "", pages: 8, pricing: "", waits_for_rival: false };

#[test]
fn a_notice_interrupts_a_computation_that_never_looks_and_the_block_that_it_chose_goes() {
    is_interrupted(&Change::none());
}

/// The same on another core than the market's, from which the signal comes.
#[test]
fn a_notice_interrupts_a_computation_on_another_core() {
    is_interrupted(&Change::set("machine.cores=2").and_set("app.computing.core=1").and_set("app.rival.core=1"));
}

fn is_interrupted(change: &Change) {
    let run = run(&COMPUTING.scenario(), &change.clone().event("600ms=start:rival"));
    run.expect_good();
    assert_eq!(run.end("computing"), &End::Exit { status: 0 }, "{:?}", run.app("computing").lines);
    // It is on the core within each period of 10 ms; the signal comes with the round's result.
    let heard = numbers(said(&run, "computing", "after the notice"));
    assert!(heard[1] <= 15_000, "heard after {} us", heard[1]);
    assert!(heard[0] > 0, "it computed until then");
    assert_eq!(numbers(said(&run, "computing", "given up, ")).first(), Some(&3), "the handler prints, too");
    assert_eq!(numbers(said(&run, "computing", "kept")), [3, 3, 5], "noticed, given up, kept");
    // The other got what was given up.
    let page = run.state.goods.iter().find(|good| good.is_page()).expect("pages");
    assert!(page.history.iter().any(|sample| sample.holdings[..2] == [5, 3]), "{:?}", page.history);
}

/// The heap of the base has less room than the lenders' buffer needs.
fn lending(what: &str, waits_for_rival: bool) -> Finished {
    let more = format!("args = [\"{what}\"]");
    let scenario =
        Rivalry { name: "lender", image: "lender", more: &more, pages: 256, pricing: "", waits_for_rival }.scenario();
    let run = run(&scenario, &Change::none().event("600ms=start:rival"));
    run.expect_good();
    assert_eq!(said(&run, "lender", "lent "), "lent true, twice false, room true, there true");
    assert_eq!(said(&run, "lender", "in use"), "in use: 0 pages released, copied from false");
    run
}

#[test]
fn pages_lent_to_the_heap_go_back_when_nothing_is_allocated_there_and_not_before() {
    let run = lending("returns", false);
    assert_eq!(run.end("lender"), &End::Exit { status: 0 });
    assert_eq!(said(&run, "lender", "free: "), "free: 256 pages released, right true");
}

#[test]
fn a_heap_that_is_taken_by_force_stops_its_application_at_the_next_use() {
    let run = lending("uses", true);
    let End::Fault { reason, registers, .. } = run.end("lender") else { panic!("{:?}", run.end("lender")) };
    assert_eq!(*reason, StopReason::NestedFault as u8);
    assert!(!registers.is_empty());
    said(&run, "lender", "of memory that this VM does not have: 0x");
    taken_after_an_interval(&run);
}

#[test]
fn a_heap_that_is_taken_by_force_ends_an_application_that_hears_of_it_first() {
    let run = lending("looks", true);
    assert_eq!(run.end("lender"), &End::Exit { status: 101 });
    said(&run, "lender", "1 leases that the heap lived on were taken by force");
    taken_after_an_interval(&run);
}

/// It held its pages for the whole interval of the notice.
fn taken_after_an_interval(run: &Finished) {
    let lost = run.records.iter().find_map(|record| match record {
        Record::Round { t, good: 0, holdings, .. } if holdings[1] == 256 => Some(*t),
        _ => None,
    });
    let (lost, ended) = (lost.expect("the rival won them"), run.app("lender").ended.expect("it ended"));
    assert!((lost + 95_000..lost + 150_000).contains(&ended), "lost at {lost} us, ended at {ended} us");
}
