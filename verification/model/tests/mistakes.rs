//! Each wrong rule is found, by a path as short as any: a search that finds none of them says nothing.

use std::path::Path;

use model::answer::{Verdict, answer, answer_fine};
use model::fine::{Forgotten, Scenario};
use model::mistakes::Mistake;
use model::question::Question;
use model::search::Limits;

/// Each mistake, with a question that finds it, the property that it breaks, and the length of the shortest path.
const FOUND: &[(Mistake, &str, &str, usize)] = &[
    (Mistake::CopyAddsRights, "configurations/mapping", "no-authority-from-nothing", 1),
    (Mistake::CopyOfUnique, "configurations/derivation-4", "no-overlap", 1),
    (Mistake::RevokeLeavesGrandchildren, "configurations/derivation-4", "revoke-complete", 3),
    (Mistake::RevokeKeepsWatermark, "configurations/derivation-4", "revoke-complete", 2),
    (Mistake::MoveKeepsSource, "configurations/derivation-4", "no-overlap", 2),
    (Mistake::DeleteForgetsChildren, "configurations/channels", "well-formed", 4),
    (Mistake::DeleteForgetsEntries, "configurations/iommu", "entries-backed", 2),
    (Mistake::UnmapForgetsEntry, "configurations/iommu", "entries-backed", 2),
    (Mistake::RetypeForgetsWatermark, "configurations/derivation-4", "no-overlap", 1),
    (Mistake::RetypeIgnoresWatermark, "configurations/derivation-4", "clean-before-reuse", 2),
    (Mistake::RefusalChangesState, "configurations/derivation-4", "failure-changes-nothing", 2),
    (Mistake::SplitForgetsSiblings, "configurations/cpu-time", "time-delivered", 2),
    (Mistake::LeaseForgetsHolder, "configurations/iommu", "one-owner", 2),
    (Mistake::GrantNeedsNoRight, "questions/no-grant-no-passing", "property", 2),
    (Mistake::AcceptTakesFromAnyChannel, "configurations/channels", "non-interference", 2),
    (Mistake::AcceptTakesFromAnyChannel, "configurations/confinement", "authority-confined", 2),
    (Mistake::SignalReachesEverybody, "configurations/channels", "non-interference", 1),
    (Mistake::LaunchForgetsForeignParts, "questions/launch-refuses-foreign-parts", "property", 5),
];

fn question(name: &str) -> Question {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).with_extension("toml");
    Question::read(&file, true).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn each_mistake_is_found_by_a_shortest_path() {
    let all: Vec<Mistake> = Mistake::all().collect();
    let mut named: Vec<Mistake> = FOUND.iter().map(|(mistake, ..)| *mistake).collect();
    named.dedup();
    assert_eq!(named, all, "each mistake, in order");
    let mut wrong = Vec::new();
    for (mistake, name, claim, steps) in FOUND {
        let found = answer(question(name), Some(*mistake), Limits::default(), &mut |_, _| {}).expect("a path");
        let as_expected = found.claim.as_deref() == Some(*claim) && found.steps.len() == *steps;
        if found.answer != Verdict::Counterexample || !as_expected {
            wrong.push(format!("{mistake:?}: {:?} after {} steps in {name}", found.claim, found.steps.len()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_not_waited_for_or_not_done_is_found() {
    let found = [
        ("stale-tlb", Forgotten::Cores, "entries-backed"),
        ("iommu-remembers", Forgotten::Iommu, "entries-backed"),
        ("revoke-preempted", Forgotten::Cores, "entries-backed"),
        ("stale-tlb", Forgotten::Scrub, "clean-before-reuse"),
        ("iommu-fails", Forgotten::Quarantine, "clean-before-reuse"),
    ];
    for (name, forgotten, claim) in found {
        let scenario = Scenario::new(question(&format!("configurations/{name}")), Some(forgotten));
        let found = answer_fine(&scenario, Limits::default(), &mut |_, _| {});
        print!("{}", found.text());
        assert_eq!(found.answer, Verdict::Counterexample, "{name}");
        assert_eq!(found.claim.as_deref(), Some(claim), "{name}: {forgotten:?}");
    }
}
