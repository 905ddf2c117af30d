//! Whole runs of scenarios: results, commands, determinism, and what the market does when demand changes.

use e2e::xtask::emulator::Acceleration;
use e2e::xtask::scenario::Scenario;
use e2e::{Change, Finished, Machine, run};
use market_mechanism::Credits;
use proto::host::{Command, End, Record};
use std::io::Write;
use std::process::{Command as Program, Stdio};

fn run_of(scenario: &Scenario) -> Finished {
    Machine::start_with(scenario, Acceleration::InstructionClock).and_then(Machine::finish).expect("a run")
}

/// What a program makes of this input.
fn output_of(program: &str, input: &[u8]) -> String {
    let mut child = Program::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(program);
    child.stdin.take().expect("stdin").write_all(input).expect("written");
    String::from_utf8(child.wait_with_output().expect(program).stdout).expect("text")
}

/// Numbers of a line, however they are spaced.
fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn digest_equals_sha256sum_and_wc() {
    let scenario = e2e::scenario("tiny", &Change::none()).expect("a scenario");
    let finished = run_of(&scenario);
    finished.expect_good();
    assert_eq!(finished.end("digest"), &End::Exit { status: 0 });
    let input = scenario.inputs[0].as_deref().expect("an input");
    let file = String::from_utf8(finished.file("digest", "digest.txt").to_vec()).expect("text");
    let mut lines = file.lines();
    assert_eq!(lines.next(), Some(output_of("sha256sum", input).trim_end()));
    assert_eq!(numbers(lines.next().expect("a second line")), numbers(&output_of("wc", input)));
}

/// What a run decided, without the times: the host takes console output as it likes, so that a line may come some
/// microseconds earlier or later.
fn decisions(records: &[Record]) -> Vec<Record> {
    let decided = |record: &Record| match record.clone() {
        Record::Round { good, round, ask, clearing, supply, sold, holdings, paid, .. } => {
            Some(Record::Round { t: 0, good, round, ask, clearing, supply, sold, holdings, paid })
        }
        Record::Account { app, balance, escrow, paid, .. } => {
            Some(Record::Account { t: 0, app, balance, escrow, paid })
        }
        file @ Record::FileEnd { .. } => Some(file),
        _ => None,
    };
    records.iter().filter_map(decided).collect()
}

#[test]
fn two_runs_decide_the_same() {
    let scenario = e2e::scenario("tiny", &Change::none().seed(5)).expect("a scenario");
    let run = || decisions(&run_of(&scenario).expect_good().records);
    let (first, second) = (run(), run());
    assert!(first.len() > 20, "{} decisions", first.len());
    assert_eq!(first, second);
}

#[test]
fn a_command_kills_and_everything_is_taken_back() {
    let mut machine = Machine::start("tiny", &Change::set("app.digest.args=[\"passes=1000\"]")).expect("started");
    machine.wait_record(|record| matches!(record, Record::Progress { .. })).expect("progress");
    machine.send(&Command::Kill { app: 0 }).expect("sent");
    let finished = machine.finish().expect("finished");
    assert_eq!(finished.end("digest"), &End::Killed);
    let totals = finished.state.verified.clone().expect("totals");
    assert!(totals.agree(), "{totals:?}");
    assert!(finished.state.apps[0].totals.reclaim_us > 0);
}

#[test]
fn an_event_kills_at_its_time() {
    let change = Change::set("app.digest.args=[\"passes=1000\"]").event("300ms=kill:digest");
    let finished = run("tiny", &change);
    assert_eq!(finished.end("digest"), &End::Killed);
    let ended = finished.app("digest").ended.expect("ended");
    assert!((300_000..400_000).contains(&ended), "ended at {ended} us");
}

#[test]
fn a_run_that_reaches_its_limit_is_timed_out() {
    let change = Change::set("app.digest.args=[\"passes=1000\"]").and_set("limit=500 ms");
    let finished = run("tiny", &change);
    assert_eq!(finished.end("digest"), &End::RunOver);
    assert!(finished.failure.is_some(), "a run over its limit is not good");
    assert!(finished.state.verified.as_ref().is_some_and(|totals| totals.agree()));
}

/// Two applications that differ in nothing but what their work is worth to them; both want the whole core.
fn rivals(first: &str, second: &str) -> Finished {
    let text = format!(
        r#"
        title = "two rivals"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [operator]
        common_pool_percent = 0
        [[app]]
        name = "first"
        image = "digest"
        input = "@sources"
        args = ["passes=2"]
        budget = 1
        valuation = {first}
        base_cpu = 5
        [[app]]
        name = "second"
        image = "digest"
        input = "@sources"
        args = ["passes=2"]
        budget = 1
        valuation = {second}
        base_cpu = 5
        "#
    );
    run(&text, &Change::none())
}

#[test]
fn exchanged_valuations_exchange_who_is_served_first() {
    let order = |finished: &Finished| {
        finished.expect_good();
        let ended = |name: &str| finished.app(name).ended.expect("ended");
        let paid = |name: &str| finished.app(name).paid;
        assert!(paid("first") > Credits::ZERO && paid("second") > Credits::ZERO);
        ended("first").cmp(&ended("second"))
    };
    assert_eq!(order(&rivals("8e-9", "2e-9")), std::cmp::Ordering::Less);
    assert_eq!(order(&rivals("2e-9", "8e-9")), std::cmp::Ordering::Greater);
}

#[test]
fn demand_is_in_the_price() {
    let dearest = |finished: &Finished| {
        let good = finished.state.goods.iter().find(|good| good.name == "cpu.0").expect("cpu.0");
        good.history.iter().map(|sample| sample.clearing).max().expect("rounds")
    };
    let alone = run("tiny", &Change::none());
    alone.expect_good();
    let rivals = rivals("8e-9", "2e-9");
    rivals.expect_good();
    assert!(dearest(&rivals) > dearest(&alone), "{:?} and {:?}", dearest(&rivals), dearest(&alone));
}
