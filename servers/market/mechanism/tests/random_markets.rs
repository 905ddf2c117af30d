//! Random markets from fixed seeds, larger than those that can be enumerated: allocation and payments against the naive
//! mechanism, welfare against an exact optimum that is not greedy, misreports at the thresholds, explanations and
//! estimates against clearing again, and rounds of tens of thousands of bids. How long rounds take: `benches/rounds.rs`.

mod common;

use common::*;
use market_mechanism::curve_lane::{Award, Entry, Terms, bid_value};
use market_mechanism::explain::{Reason, estimate, explain};
use market_mechanism::{Credits, Curve, Price, Quantity, RoundNo, Segment};

fn awards_of(real: &mut Real, terms: &Terms, round: u64, entries: &[Entry]) -> Vec<(u32, i128)> {
    let mut awards = vec![Award::default(); entries.len()];
    real.clear(terms, round, entries, &mut awards);
    let pairs = awards.iter().map(|award| (award.quantity.0, award.payment.0));
    pairs.collect()
}

/// The most welfare that any allocation reaches, by trying every number of units for every entry in turn.
fn optimum(terms: &Terms, entries: &[Entry]) -> i128 {
    let supply = terms.supply.0 as usize;
    let mut best = vec![0i128; supply + 1];
    for entry in entries {
        let gains: Vec<i128> = (0..=affordable(entry).min(terms.supply.0))
            .map(|units| welfare(terms, core::slice::from_ref(entry), &[units]))
            .collect();
        for left in (0..=supply).rev() {
            let options = gains.iter().take(left + 1).enumerate();
            best[left] = options.map(|(units, gain)| gain + best[left - units]).max().unwrap_or(0);
        }
    }
    best[supply]
}

#[test]
fn a_hundred_thousand_random_rounds_equal_the_naive_mechanism() {
    let mut real = Real::default();
    let mut random = Random(1);
    for seed in 0..100_000 {
        // Few values make many ties; many values make none.
        let highest = [4, 12, 1_000, 1 << 50][seed % 4];
        let (terms, round, entries) = random_round(&mut random, 6, 20, highest);
        let awards = awards_of(&mut real, &terms, round, &entries);
        assert_eq!(awards, naive(&terms, round, &entries, Mutation::None), "seed {seed}");
        let units: Vec<u32> = awards.iter().map(|award| award.0).collect();
        assert_eq!(welfare(&terms, &entries, &units), optimum(&terms, &entries), "seed {seed}");
    }
}

/// Many bids take the way through selection instead of sorting.
#[test]
fn rounds_of_many_bids_equal_the_naive_mechanism() {
    let mut real = Real::default();
    let mut random = Random(10);
    for seed in 0..60 {
        let highest = [12, 1_000, 1 << 50][seed % 3];
        let (mut terms, round, entries) = random_round(&mut random, 150, 40, highest);
        terms.supply.0 *= 3;
        let awards = awards_of(&mut real, &terms, round, &entries);
        assert_eq!(awards, naive(&terms, round, &entries, Mutation::None), "seed {seed}");
    }
}

#[test]
fn random_rounds_find_every_wrong_mechanism() {
    for mutation in Mutation::WRONG {
        let mut random = Random(2);
        let mut real = Real::default();
        let differs = (0..2_000).any(|_| {
            let (terms, round, entries) = random_round(&mut random, 5, 12, 12);
            awards_of(&mut real, &terms, round, &entries) != naive(&terms, round, &entries, mutation)
        });
        assert!(differs, "{mutation:?}");
    }
}

/// What one bidder could gain by bidding just above, at or just below what others bid: the only places where anything
/// changes.
#[test]
fn a_million_misreports_at_the_thresholds_gain_nothing() {
    let mut real = Real::default();
    let mut random = Random(3);
    let mut tried = 0;
    while tried < 1_000_000 {
        let (terms, round, mut entries) = random_round(&mut random, 5, 12, 40);
        if entries.is_empty() {
            continue;
        }
        let liar = random.below(entries.len() as u64) as usize;
        // A budget below the truth would bind, and there truthfulness is not claimed.
        entries[liar].budget = Credits::MAX;
        let truth = entries[liar];
        let utility = |real: &mut Real, report: Entry| {
            let mut awards = [Award::default(); 8];
            let mut entries = entries.clone();
            entries[liar] = report;
            real.clear(&terms, round, &entries, &mut awards);
            bid_value(&truth, awards[liar].quantity).0 - awards[liar].payment.0
        };
        let honest = utility(&mut real, truth);
        let thresholds = thresholds(&terms, &entries, liar);
        for _ in 0..100 {
            let report = misreport(&mut random, &truth, &thresholds);
            assert!(utility(&mut real, report) <= honest, "{terms:?} {report:?}");
            tried += 1;
        }
    }
}

/// Everything that a value can be compared with in this round.
fn thresholds(terms: &Terms, entries: &[Entry], liar: usize) -> Vec<u64> {
    let mut values = vec![terms.reserve.0, terms.reserve.0 + terms.fee.0];
    for (at, entry) in entries.iter().enumerate() {
        for segment in entry.curve.segments().iter().filter(|_| at != liar) {
            let value = segment.value.0;
            values.extend([value, value + entry.keep.0, value.saturating_sub(terms.fee.0), value + terms.fee.0]);
        }
    }
    values
}

fn misreport(random: &mut Random, truth: &Entry, thresholds: &[u64]) -> Entry {
    let mut values: Vec<u64> = (0..1 + random.below(4))
        .map(|_| {
            let near = thresholds[random.below(thresholds.len() as u64) as usize];
            (near + random.below(3)).saturating_sub(1)
        })
        .collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.dedup();
    let segments: Vec<Segment> = values
        .iter()
        .map(|&value| Segment { value: Price(value), quantity: Quantity(1 + random.below(5) as u32) })
        .collect();
    let keep = (truth.keep.0 + random.below(3)).saturating_sub(1);
    Entry { curve: Curve::new(&segments).unwrap(), keep: Price(keep), ..*truth }
}

/// `units` units at this value, and after them the rest of the curve as far as it lies below.
fn raised(curve: &Curve, units: u32, value: u64) -> Curve {
    let total = curve.demand().0.max(units);
    let values: Vec<u64> = (1..=total)
        .map(|unit| {
            let own = curve.marginal(Quantity(unit)).0;
            if unit <= units { own.max(value) } else { own }
        })
        .collect();
    curve_of_few(&values)
}

/// The curve of these values; `None`-like empty if they make more segments than a curve may have.
fn curve_of_few(values: &[u64]) -> Curve {
    let mut distinct = values.to_vec();
    distinct.dedup();
    if distinct.len() > 8 {
        return Curve::EMPTY;
    }
    curve_of_units(values)
}

#[test]
fn the_winning_value_wins_and_one_less_does_not() {
    let mut real = Real::default();
    let mut random = Random(5);
    let mut reasons = std::collections::BTreeMap::new();
    for _ in 0..30_000 {
        let (terms, round, mut entries) = random_round(&mut random, 5, 12, 15);
        let mut awards = vec![Award::default(); entries.len()];
        real.clear(&terms, round, &entries, &mut awards);
        for at in 0..entries.len() {
            let account = entries[at].account;
            let answer = explain(&terms, RoundNo(round), &entries, &awards, account).unwrap();
            *reasons.entry(format!("{:?}", answer.reason)).or_insert(0) += 1;
            assert_eq!((answer.quantity, answer.payment), (awards[at].quantity, awards[at].payment));
            assert_eq!(answer.winning_value.is_none(), awards[at].quantity == terms.supply);
            let Some(value) = answer.winning_value else {
                continue;
            };
            let before = entries[at];
            let next = awards[at].quantity.0 + 1;
            let mut wins = |entries: &mut [Entry], curve: Curve| {
                entries[at].curve = curve;
                entries[at].budget = Credits::MAX;
                let units = awards_of(&mut real, &terms, round, entries)[at].0;
                entries[at] = before;
                units >= next
            };
            let curve = raised(&before.curve, next, value.0);
            if curve != Curve::EMPTY {
                assert!(wins(&mut entries, curve), "{answer:?}");
            }
            if let Some(less) = value.0.checked_sub(1) {
                let mut values: Vec<u64> = (1..next).map(|unit| before.curve.marginal(Quantity(unit)).0).collect();
                if values.iter().all(|&own| own >= less) {
                    values.push(less);
                    let curve = curve_of_few(&values);
                    assert!(!wins(&mut entries, curve), "{answer:?} {less}");
                }
            }
        }
    }
    // Every reason was met.
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    let nobody = explain(&terms(1, 0, 0), RoundNo(0), &[], &[], market_mechanism::AccountId(1));
    assert_eq!(nobody, None);
}

#[test]
fn headroom_is_how_much_lower_the_last_unit_could_have_been() {
    let a = entry(1, 1, 2, curve_of_units(&[9, 7]));
    let b = entry(2, 0, 0, curve_of_units(&[6, 3]));
    let mut awards = [Award::default(); 2];
    let round = terms(3, 1, 1);
    Real::default().clear(&round, 0, &[a, b], &mut awards);
    let answer = |account| explain(&round, RoundNo(0), &[a, b], &awards, account).unwrap();
    // The last unit of 1 adds 7 - 2; the best rejected of 2 adds 3 - 2. The other way there is nothing rejected.
    assert_eq!(answer(a.account).headroom, Some(Price(4)));
    assert_eq!(answer(b.account).headroom, Some(Price(4)));
    assert_eq!(answer(a.account).reason, Reason::AllServed);
    assert_eq!(answer(b.account).reason, Reason::Outbid);
}

#[test]
fn an_estimate_is_what_the_quantity_would_have_cost() {
    let mut real = Real::default();
    let mut random = Random(6);
    for _ in 0..20_000 {
        let (terms, round, mut entries) = random_round(&mut random, 5, 12, 15);
        let awards = awards_of(&mut real, &terms, round, &entries);
        for at in 0..entries.len() {
            let before = entries[at];
            let quantity = Quantity(random.below(u64::from(terms.supply.0) + 1) as u32);
            let mut ask = |entries: &[Entry], units| {
                estimate(&terms, RoundNo(round), entries, before.account, units, &mut real.scratch())
            };
            assert_eq!(ask(&entries, Quantity(awards[at].0)), Some(Credits(awards[at].1)));
            assert_eq!(ask(&entries, Quantity(terms.supply.0 + 1)), None);
            let said = ask(&entries, quantity);
            entries[at].curve =
                if quantity.0 == 0 { Curve::EMPTY } else { Curve::flat(quantity, Price::LIMIT).unwrap() };
            entries[at].budget = Credits::MAX;
            let won = awards_of(&mut real, &terms, round, &entries)[at];
            entries[at] = before;
            assert_eq!(won.0, quantity.0);
            assert_eq!(said, Some(Credits(won.1)));
        }
    }
}

/// For a sample of bidders, what they pay is W(without them) - (W - what they get), each found by a round of its own.
#[test]
fn payments_of_a_large_round_equal_rounds_without_the_bidder() {
    let (terms, entries) = large_round(20_000, 7);
    let mut real = Real::default();
    let mut awards = vec![Award::default(); entries.len()];
    let whole = real.clear(&terms, 3, &entries, &mut awards);
    let mut sampled = 0;
    for at in (0..entries.len()).step_by(101) {
        let mut without = entries.clone();
        without[at].curve = Curve::EMPTY;
        let mut others = vec![Award::default(); entries.len()];
        let alone = real.clear(&terms, 3, &without, &mut others);
        let rest = whole.welfare - bid_value(&entries[at], awards[at].quantity);
        assert_eq!(awards[at].payment, alone.welfare - rest);
        sampled += usize::from(awards[at].quantity > Quantity(0));
    }
    assert!(sampled > 50);
}
