//! Good runs are good, and each contradiction is found.

use super::*;
use crate::scenario::{self, Overrides};
use std::path::Path;

/// A state of two applications on one core.
pub fn two() -> RunState {
    let text = "[machine]\ncores = 1\n[[app]]\nname = \"a\"\nbudget = 1\n[[app]]\nname = \"b\"\nbudget = 2\n";
    let images = ["a".to_string(), "b".to_string()];
    RunState::new(&scenario::parse(Path::new("x.toml"), text, &Overrides::default(), &images).unwrap())
}

fn begin() -> Record {
    let (supply, bases) = (vec![1000, 90], vec![128, 4]);
    Record::Begin { version: proto::VERSION, tsc_hz: 1_000_000_000, cores: 1, restarts: 0, supply, bases }
}

fn end() -> Record {
    Record::End { t: 9_000_000, status: 0, reason: String::new() }
}

fn file(app: u16, bytes: &[u8], sha256: [u8; 32]) -> [Record; 3] {
    [
        Record::FileBegin { app, file: 1, name: "out.txt".into() },
        Record::FileData { app, file: 1, data: bytes.to_vec() },
        Record::FileEnd { app, file: 1, bytes: bytes.len() as u64, sha256 },
    ]
}

#[test]
fn a_good_run_has_no_failure() {
    let mut state = two();
    state.apply(&begin());
    let round = Record::Round {
        t: 100_000,
        good: 0,
        round: 1,
        ask: 105_963,
        clearing: 5,
        supply: 1000,
        sold: 30,
        holdings: vec![10, 20],
        paid: 77,
    };
    state.apply(&round);
    for record in file(0, b"hello", Sha256::digest(b"hello").into()) {
        state.apply(&record);
    }
    state.apply(&Record::Used { t: 200_000, app: 1, ticks: 10_000_000 });
    state.apply(&Record::Used { t: 300_000, app: 1, ticks: 60_000_000 });
    state.apply(&end());
    assert_eq!(state.failure(), None);
    assert_eq!(state.apps[1].holdings, [20, 0]);
    assert_eq!(state.goods[0].paid, Credits(77));
    let near_one = state.goods[0].per_hour_f64(Price(105_963));
    assert!((0.9999..=1.0).contains(&near_one), "{near_one}");
    assert_eq!(state.apps[1].share(state.tsc_hz), Some(0.5));
}

#[test]
fn every_contradiction_is_a_failure() {
    let cases: Vec<(&str, Vec<Record>)> = vec![
        ("without its last record", vec![begin()]),
        ("damaged", [vec![begin()], file(0, b"hello", [0; 32]).into(), vec![end()]].concat()),
        ("incomplete", vec![begin(), Record::FileBegin { app: 0, file: 1, name: "x".into() }, end()]),
        (
            "opens its file 1 twice",
            vec![
                begin(),
                Record::FileBegin { app: 0, file: 1, name: "x".into() },
                Record::FileBegin { app: 0, file: 1, name: "y".into() },
                end(),
            ],
        ),
        ("no plain name", vec![begin(), Record::FileBegin { app: 0, file: 1, name: "../x".into() }, end()]),
        ("not open", vec![begin(), Record::FileData { app: 0, file: 1, data: vec![1] }, end()]),
        ("application 7", vec![begin(), Record::Used { t: 0, app: 7, ticks: 0 }, end()]),
        (
            "goes back",
            vec![
                begin(),
                Record::Used { t: 5_000_000, app: 0, ticks: 0 },
                Record::Used { t: 4, app: 0, ticks: 0 },
                end(),
            ],
        ),
        ("in debt", vec![begin(), Record::Account { t: 0, app: 0, balance: -1, escrow: 0, paid: 0 }, end()]),
        ("late", vec![begin(), Record::End { t: 0, status: 3, reason: "late".into() }]),
        ("totals disagree", vec![begin(), totals(5, 6), end()]),
    ];
    for (expected, records) in cases {
        let mut state = two();
        records.iter().for_each(|record| state.apply(record));
        let failure = state.failure().expect(expected);
        assert!(failure.contains(expected), "{failure} does not contain {expected}");
    }
}

/// Numbers are the sender's choice, and those of closed files are free.
#[test]
fn events_after_the_end_are_missed() {
    let mut state = two();
    state.events = vec![(0, "0s=value+:a".into()), (9_000, "9s=kill:a".into()), (9_001, "9001ms=stop".into())];
    assert!(state.missed_events().is_empty(), "it is not over");
    state.apply(&end());
    assert_eq!(state.missed_events(), ["9001ms=stop"]);
    // A market server that crashed.
    state.apply(&Record::End { t: 0, status: 1, reason: "it failed".into() });
    assert!(state.missed_events().is_empty());
}

#[test]
fn a_number_is_used_again_when_its_file_is_closed() {
    let mut state = two();
    let hash = Sha256::digest(b"hello").into();
    let records = [vec![begin()], file(0, b"hello", hash).into(), file(0, b"hello", hash).into(), vec![end()]].concat();
    records.iter().for_each(|record| state.apply(record));
    assert_eq!(state.failure(), None);
    assert_eq!(state.apps[0].files.len(), 2);
}

fn totals(leased: u64, existing: u64) -> Record {
    Record::Totals {
        t: 0,
        intervals: 1,
        sum: 3,
        expected: 3,
        leased,
        existing,
        mismatches: 0,
        skipped: 0,
        worst_shortfall: 0,
        longest_hold: 0,
        slowest_notice: 0,
        slowest_cut: 0,
    }
}
