//! Merging states that differ by names is sound: what is found is the same without it; stateright finds the same; and the
//! specification commutes with the renamings.

mod renaming;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use model::explorer::Explored;
use model::machine::{Machine, fingerprint};
use model::question::Question;
use model::search::{Ending, Limits, explore};
use model::subject::{Event, Situation, Subject};
use proptest::prelude::*;
use renaming::{rename, rename_call};

fn subject(name: &str, merges: bool) -> Subject {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).with_extension("toml");
    Subject::new(Question::read(&file, merges).unwrap_or_else(|wrong| panic!("{wrong}")), None)
}

/// Questions whose states can be counted without merging.
const SMALL: [&str; 7] = [
    "questions/ends-are-not-confused",
    "questions/dma-after-revocation",
    "questions/leases-are-not-shared",
    "questions/market-crashes",
    "questions/messages-after-revocation",
    "configurations/cpu-time",
    "configurations/cnodes",
];

#[test]
fn without_merging_the_same_states_are_met_up_to_names() {
    for name in SMALL {
        let (merged, plain) = (subject(name, true), subject(name, false));
        let found = explore(&merged, Limits::default(), &mut |_, _| {});
        assert!(matches!(found.ending, Ending::Exhausted), "{name}");
        // Every state by itself, and the descriptions of all of them.
        let mut scratch = Vec::new();
        let mut seen: HashSet<u128> = HashSet::new();
        let mut classes: HashSet<u128> = HashSet::new();
        let mut open = vec![plain.start()];
        seen.insert(fingerprint(&plain, &open[0], &mut scratch));
        while let Some(state) = open.pop() {
            assert!(plain.wrong(&state).is_none(), "{name}");
            classes.insert(fingerprint(&merged, &state, &mut scratch));
            let (mut events, mut next) = (Vec::new(), Vec::new());
            plain.events(&state, &mut events);
            for event in &events {
                plain.next(&state, event, &mut next);
                for after in next.drain(..) {
                    if seen.insert(fingerprint(&plain, &after, &mut scratch)) {
                        open.push(after);
                    }
                }
            }
        }
        println!("{name}: {} states, {} up to names", seen.len(), classes.len());
        assert_eq!(classes.len(), found.counts.states, "{name}");
        assert!(seen.len() >= classes.len());
    }
}

#[test]
fn stateright_finds_the_same() {
    for name in SMALL.into_iter().chain(["configurations/derivation-4", "questions/shared-cnode-passes"]) {
        let subject = subject(name, true);
        let found = explore(&subject, Limits::default(), &mut |_, _| {});
        let (states, is_wrong) = Explored::new(subject, false).count();
        assert_eq!(is_wrong, matches!(found.ending, Ending::Wrong(..)), "{name}");
        if !is_wrong {
            assert_eq!(states, found.counts.states, "{name}");
        }
    }
}

#[test]
fn a_limit_is_told() {
    let found = explore(&subject("configurations/derivation-4", true), Limits { states: 100 }, &mut |_, _| {});
    assert!(matches!(found.ending, Ending::Limited));
    assert!(found.counts.states > 100 && found.counts.states < 200, "{:?}", found.counts);
}

/// What follows after each event of a state, by description: what a renaming must not change.
fn outcomes(subject: &Subject, situation: &Situation) -> HashMap<(u128, bool), usize> {
    let (mut events, mut next, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
    subject.events(situation, &mut events);
    let mut found = HashMap::new();
    for event in &events {
        let done = subject.next(situation, event, &mut next);
        for after in next.drain(..) {
            *found.entry((fingerprint(subject, &after, &mut scratch), done)).or_default() += 1;
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// A walk to some state, slots of each VM shuffled there, and objects put in each other's places: the description is the
    /// same, each invocation answers the same, and leads to the same state by other names.
    #[test]
    fn steps_commute_with_renaming(
        name in prop::sample::select(vec![
            "configurations/channels", "configurations/mapping", "configurations/derivation-5", "configurations/iommu",
            "questions/revocation-reaches-grantees", "configurations/launch",
        ]),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 1..24),
        shuffle in any::<u64>(),
    ) {
        let (plain, merged) = (subject(name, false), subject(name, true));
        let mut situation = plain.start();
        for choice in choices {
            let (mut events, mut next) = (Vec::new(), Vec::new());
            plain.events(&situation, &mut events);
            if !events.is_empty() {
                plain.next(&situation, choice.get(&events), &mut next);
            }
            if let Some(after) = next.into_iter().next() {
                situation = after;
            }
        }
        let names = renaming::Renaming::of(&plain.question, &situation.state, shuffle);
        let renamed = Situation { state: rename(&situation.state, &names), ..situation.clone() };
        let mut scratch = Vec::new();
        prop_assert_eq!(fingerprint(&merged, &situation, &mut scratch), fingerprint(&merged, &renamed, &mut scratch));
        prop_assert_eq!(outcomes(&plain, &situation).values().sum::<usize>(), outcomes(&plain, &renamed).values().sum::<usize>());
        let mut events = Vec::new();
        plain.events(&situation, &mut events);
        for event in events {
            let call = event.call.map(|call| rename_call(&plain.question, &situation.state, &names, event.action, call));
            let there = Event { call, ..event.clone() };
            let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
            let done = plain.next(&situation, &event, &mut here);
            prop_assert_eq!(done, plain.next(&renamed, &there, &mut elsewhere), "{:?}", event);
            prop_assert_eq!(here.len(), elsewhere.len());
            for (here, elsewhere) in here.iter().zip(&elsewhere) {
                prop_assert_eq!(&rename(&here.state, &names), &elsewhere.state, "{:?}", event);
            }
        }
    }
}
