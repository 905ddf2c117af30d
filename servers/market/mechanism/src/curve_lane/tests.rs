//! Small rounds worked out by hand. The exhaustive and random ones are in the crate's `tests/` folder.

use super::*;
use crate::types::Segment;

fn entry(account: u32, held: u32, keep: u64, segments: &[(u32, u64)]) -> Entry {
    let segments: Vec<Segment> = segments
        .iter()
        .map(|&(quantity, value)| Segment { value: Price(value), quantity: Quantity(quantity) })
        .collect();
    Entry {
        account: AccountId(account),
        held: Quantity(held),
        keep: Price(keep),
        budget: Credits::MAX,
        curve: Curve::new(&segments).unwrap(),
    }
}

fn run(terms: &Terms, round: u64, entries: &[Entry]) -> (Outcome, Vec<(u32, i128)>) {
    let mut steps = vec![Step::default(); steps_needed(entries.len())];
    let mut tallies = vec![Tally::default(); tallies_needed(entries.len())];
    let mut awards = vec![Award::default(); entries.len()];
    let mut scratch = Scratch { steps: &mut steps, tallies: &mut tallies };
    let outcome = clear(terms, RoundNo(round), entries, &mut scratch, &mut awards).unwrap();
    let awards = awards.iter().map(|award| (award.quantity.0, award.payment.0)).collect();
    (outcome, awards)
}

fn terms(supply: u32, reserve: u64, fee: u64) -> Terms {
    Terms { supply: Quantity(supply), reserve: Price(reserve), fee: Price(fee) }
}

#[test]
fn each_pays_what_the_others_lose() {
    // Textbook case: three units; sold at 10, 9, 8; rejected 7 (of the first), 5 (of the second).
    let entries = [entry(1, 0, 0, &[(1, 10), (1, 8), (1, 7)]), entry(2, 0, 0, &[(1, 9), (1, 5)])];
    let (outcome, awards) = run(&terms(3, 0, 0), 0, &entries);
    assert_eq!(awards, [(2, 5), (1, 7)]);
    assert_eq!(outcome.clearing, Price(7));
    assert_eq!(outcome.ask, Some(Price(8)));
    assert_eq!(outcome.sold, Quantity(3));
    assert_eq!(outcome.unsold, Quantity(0));
    assert_eq!(outcome.welfare, Credits(27));
}

#[test]
fn reserve_and_fee_are_paid_by_a_sole_bidder() {
    let (outcome, awards) = run(&terms(10, 3, 2), 0, &[entry(1, 2, 0, &[(4, 9)])]);
    assert_eq!(awards, [(4, 4 * 3 + 2 * 2)]);
    assert_eq!(outcome.clearing, Price(3));
    assert_eq!(outcome.ask, Some(Price(5)));
    assert_eq!(outcome.unsold, Quantity(6));
}

#[test]
fn the_operator_loses_ties() {
    let (_, awards) = run(&terms(2, 3, 2), 0, &[entry(1, 1, 0, &[(1, 5)])]);
    assert_eq!(awards, [(1, 3)]);
    let (_, awards) = run(&terms(2, 3, 2), 0, &[entry(1, 0, 0, &[(1, 5)])]);
    assert_eq!(awards, [(1, 5)]);
    let (_, awards) = run(&terms(2, 3, 2), 0, &[entry(1, 0, 0, &[(1, 4)])]);
    assert_eq!(awards, [(0, 0)]);
}

#[test]
fn the_holder_wins_ties_then_turns_rotate() {
    let entries = [entry(1, 0, 0, &[(1, 5)]), entry(9, 1, 0, &[(1, 5)])];
    for round in 0..4 {
        assert_eq!(run(&terms(1, 0, 0), round, &entries).1, [(0, 0), (1, 5)]);
    }
    let entries = [entry(1, 0, 0, &[(1, 5)]), entry(4, 0, 0, &[(1, 5)]), entry(9, 0, 0, &[(1, 5)])];
    let winners: Vec<usize> = (0..6)
        .map(|round| {
            let (_, awards) = run(&terms(1, 0, 0), round, &entries);
            awards.iter().position(|&(units, _)| units == 1).unwrap()
        })
        .collect();
    assert_eq!(winners, [0, 2, 1, 0, 2, 1]);
}

#[test]
fn keep_counts_for_held_units_only() {
    let entries = [entry(1, 1, 3, &[(2, 4)]), entry(2, 0, 0, &[(2, 6)])];
    // The held unit counts 7, the newcomer's two 6, the second of the holder 4.
    let (outcome, awards) = run(&terms(2, 0, 0), 0, &entries);
    assert_eq!(awards, [(1, 6), (1, 4)]);
    assert_eq!(outcome.clearing, Price(6));
}

#[test]
fn a_budget_cuts_at_the_last_whole_unit() {
    let mut only = entry(1, 1, 1, &[(1, 9), (5, 4)]);
    only.budget = Credits(10 + 4 + 4 + 3);
    assert_eq!(run(&terms(9, 0, 0), 0, &[only]).1, [(3, 0)]);
    only.budget = Credits(9);
    assert_eq!(run(&terms(9, 0, 0), 0, &[only]).1, [(0, 0)]);
    only.budget = Credits(-5);
    assert_eq!(run(&terms(9, 0, 0), 0, &[only]).1, [(0, 0)]);
}

#[test]
fn extremes_do_not_overflow() {
    let limit = Price::LIMIT.0;
    let mut a = entry(1, u32::MAX, limit, &[(u32::MAX, limit)]);
    let b = entry(2, 0, 0, &[(u32::MAX, limit)]);
    let (outcome, awards) = run(&terms(u32::MAX, limit, 0), 0, &[a, b]);
    let all = i128::from(u32::MAX);
    assert_eq!(awards, [(u32::MAX, all * i128::from(limit)), (0, 0)]);
    assert_eq!(outcome.ask, Some(Price(2 * limit)));
    a.held = Quantity(0);
    let (_, awards) = run(&terms(u32::MAX, 0, limit), 0, &[a, b]);
    assert_eq!(awards, [(u32::MAX, all * i128::from(limit)), (0, 0)]);
}

#[test]
fn no_supply_and_no_bids() {
    let (outcome, awards) = run(&terms(0, 2, 1), 0, &[entry(1, 0, 0, &[(3, 9)])]);
    assert_eq!(awards, [(0, 0)]);
    assert_eq!(outcome.ask, None);
    assert_eq!(outcome.clearing, Price(8));
    let (outcome, _) = run(&terms(5, 2, 1), 0, &[]);
    assert_eq!(outcome.ask, Some(Price(3)));
    assert_eq!(outcome.unsold, Quantity(5));
}

#[test]
fn a_wrong_call_is_refused() {
    let entries = [entry(2, 0, 0, &[]), entry(2, 0, 0, &[])];
    let mut steps = [Step::default(); steps_needed(2)];
    let mut tallies = [Tally::default(); tallies_needed(2)];
    let mut awards = [Award::default(); 2];
    let mut scratch = Scratch { steps: &mut steps, tallies: &mut tallies };
    let good = terms(1, 0, 0);
    let no = RoundNo(0);
    assert_eq!(clear(&good, no, &entries, &mut scratch, &mut awards), Err(ClearError::NotSorted { entry: 1 }));
    assert_eq!(clear(&good, no, &entries[..1], &mut scratch, &mut []), Err(ClearError::BufferTooShort));
    let high = terms(1, Price::LIMIT.0 + 1, 0);
    assert_eq!(clear(&high, no, &entries[..1], &mut scratch, &mut awards), Err(ClearError::PriceTooHigh));
}
