//! Every small market: the allocation is the best of all under the rule of ties, payments lie between 0 and the bid, and no
//! misreport of any bidder gains anything. The same checks find every wrong mechanism of [`Mutation`].
//!
//! "Every" means, for one run in CI:
//! - two bidders, up to 4 units, four values from 0 to 4 each, every holding of up to 4 units together, reserve 0 to 4,
//!   fee 0 to 2, `keep` 0 or 2;
//! - three bidders, up to 3 units, three values from 0 to 3 each, every holding of up to 3 units, reserve 0 to 2, fee 0
//!   or 1, `keep` 0 or 1 (the same for all);
//! - a fixed random sample of three bidders, up to 4 units, four values from 0 to 4, every other parameter as above.
//!
//! `cargo test -- --ignored every_market_of_three` enumerates the last family whole (hours). A base only takes units off
//! the supply before a round, so it is covered by every smaller supply; `tests/rounds.rs` checks its delivery.

mod common;

use common::*;
use market_mechanism::curve_lane::{Award, Entry, Terms, bid_value};
use market_mechanism::{Curve, Quantity};

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Allocation,
    Payment,
    Misreport,
}

/// A mechanism under test.
trait Mechanism {
    fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [(u32, i128)]);
}

impl Mechanism for Real {
    fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [(u32, i128)]) {
        let mut filled = [Award::default(); 3];
        let outcome = Real::clear(self, terms, round, entries, &mut filled);
        let mut units = [0; 3];
        for (at, award) in filled.iter().take(entries.len()).enumerate() {
            awards[at] = (award.quantity.0, award.payment.0);
            units[at] = award.quantity.0;
        }
        assert_eq!(outcome.welfare.0, welfare(terms, entries, &units));
        let sold: u32 = units.iter().sum();
        assert_eq!((outcome.sold.0, outcome.unsold.0), (sold, terms.supply.0 - sold));
    }
}

impl Mechanism for Mutation {
    fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [(u32, i128)]) {
        awards[..entries.len()].copy_from_slice(&naive(terms, round, entries, *self));
    }
}

/// One bidder's possible bids, which are also its possible truths.
struct Bids {
    list: Vec<(Curve, u64)>,
}

impl Bids {
    fn new(units: usize, highest: u64, keeps: &[u64]) -> Bids {
        let curves: Vec<Curve> = falling_lists(units, highest).iter().map(|list| curve_of_units(list)).collect();
        let with_keeps = curves.iter().flat_map(|&curve| keeps.iter().map(move |&keep| (curve, keep)));
        Bids { list: with_keeps.collect() }
    }
}

/// All ways to hold up to `most` units together.
fn holdings(bidders: usize, most: u32) -> Vec<Vec<u32>> {
    let mut all = vec![vec![]];
    for _ in 0..bidders {
        let longer = |list: &Vec<u32>| {
            let list = list.clone();
            (0..=most - list.iter().sum::<u32>()).map(move |held| [&list[..], &[held]].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Checks one bidder, the one at `liar`, against fixed others: every bid as a report, every bid as the truth.
///
/// What a report leads to depends on the truth only through the truth's value of it, so for each number of units the
/// cheapest way to it stands for all reports.
fn check_bidder(
    mechanism: &mut impl Mechanism,
    terms: &Terms,
    round: u64,
    entries: &mut [Entry],
    liar: usize,
    bids: &Bids,
) -> Result<(), Fault> {
    let mut results = Vec::with_capacity(bids.list.len());
    let mut cheapest = [None::<i128>; 8];
    for &(curve, keep) in &bids.list {
        entries[liar] = entry(entries[liar].account.0, entries[liar].held.0, keep, curve);
        let mut awards = [(0, 0); 3];
        mechanism.clear(terms, round, entries, &mut awards);
        let best = exhaustive(terms, round, entries);
        for (at, entry) in entries.iter().enumerate() {
            let (units, payment) = awards[at];
            if units != best[at] {
                return Err(Fault::Allocation);
            }
            if payment < 0 || payment > bid_value(entry, Quantity(units)).0 {
                return Err(Fault::Payment);
            }
        }
        let (units, payment) = awards[liar];
        let cheaper = cheapest[units as usize].is_none_or(|known| payment < known);
        if cheaper {
            cheapest[units as usize] = Some(payment);
        }
        results.push((units, payment));
    }
    for (&(curve, keep), &(units, payment)) in bids.list.iter().zip(&results) {
        let truth = entry(0, entries[liar].held.0, keep, curve);
        let value = |units: u32| bid_value(&truth, Quantity(units)).0;
        let honest = value(units) - payment;
        for (units, price) in (0..).zip(cheapest) {
            if price.is_some_and(|price| value(units) - price > honest) {
                return Err(Fault::Misreport);
            }
        }
    }
    Ok(())
}

/// The parameters of a family of markets.
struct Family {
    bidders: usize,
    units: u32,
    highest_reserve: u64,
    highest_fee: u64,
    bids: Bids,
    /// Bids of the others; the same unless that would be too many.
    others: Bids,
}

/// Calls `each` for every market of a family with the first bidder left open, and counts them.
fn every_market(
    family: &Family,
    mut each: impl FnMut(&Terms, u64, &mut [Entry]) -> Result<(), Fault>,
) -> Result<u64, Fault> {
    let mut count = 0;
    let others = family.others.list.len();
    for held in holdings(family.bidders, family.units) {
        for supply in 0..=family.units {
            for reserve in 0..=family.highest_reserve {
                for fee in 0..=family.highest_fee {
                    for mut code in 0..others.pow(family.bidders as u32 - 1) {
                        let round = count % family.bidders as u64;
                        let mut entries = vec![entry(1, held[0], 0, Curve::EMPTY)];
                        for (account, &held) in (2..).zip(&held[1..]) {
                            let (curve, keep) = family.others.list[code % others];
                            code /= others;
                            entries.push(entry(account, held, keep, curve));
                        }
                        // Let the open place be at any position in the order of accounts.
                        entries.rotate_left(count as usize / family.bidders % family.bidders);
                        for (account, entry) in (1..).zip(&mut entries) {
                            entry.account.0 = account;
                        }
                        each(&terms(supply, reserve, fee), round, &mut entries)?;
                        count += 1;
                    }
                }
            }
        }
    }
    Ok(count)
}

/// Where [`every_market`] left the open place: the only bid without demand and keep.
fn open_place(entries: &[Entry], count: u64) -> usize {
    let shift = count as usize / entries.len() % entries.len();
    (entries.len() - shift) % entries.len()
}

fn check_family(mechanism: &mut impl Mechanism, family: &Family) -> Result<u64, Fault> {
    let mut count = 0;
    let markets = every_market(family, |terms, round, entries| {
        let liar = open_place(entries, count);
        count += 1;
        check_bidder(mechanism, terms, round, entries, liar, &family.bids)
    })?;
    Ok(markets * family.bids.list.len() as u64)
}

#[test]
fn every_market_of_one_and_two_bidders() {
    for bidders in [1, 2] {
        let family = Family {
            bidders,
            units: 4,
            highest_reserve: 4,
            highest_fee: 2,
            bids: Bids::new(4, 4, &[0, 2]),
            others: Bids::new(4, 4, &[0, 2]),
        };
        let markets = check_family(&mut Real::default(), &family).unwrap();
        assert_eq!(markets, [0, 52_500, 22_050_000][bidders]);
    }
}

#[test]
fn every_market_of_three_bidders_and_three_units() {
    for keep in [0, 1] {
        let family = Family {
            bidders: 3,
            units: 3,
            highest_reserve: 2,
            highest_fee: 1,
            bids: Bids::new(3, 3, &[keep]),
            others: Bids::new(3, 3, &[keep]),
        };
        let markets = check_family(&mut Real::default(), &family).unwrap();
        assert_eq!(markets, 3_840_000);
    }
}

#[test]
fn a_sample_of_markets_of_three_bidders_and_four_units() {
    let bids = Bids::new(4, 4, &[0, 2]);
    let holdings = holdings(3, 4);
    let mut random = Random(4);
    let mut real = Real::default();
    for _ in 0..20_000 {
        let held = &holdings[random.below(holdings.len() as u64) as usize];
        let mut entries: Vec<Entry> = (1..)
            .zip(held)
            .map(|(account, &held)| {
                let (curve, keep) = bids.list[random.below(bids.list.len() as u64) as usize];
                entry(account, held, keep, curve)
            })
            .collect();
        let terms = terms(random.below(5) as u32, random.below(5), random.below(3));
        let liar = random.below(3) as usize;
        check_bidder(&mut real, &terms, random.below(3), &mut entries, liar, &bids).unwrap();
    }
}

#[test]
#[ignore = "hours"]
fn every_market_of_three_bidders_and_four_units() {
    let family = Family {
        bidders: 3,
        units: 4,
        highest_reserve: 4,
        highest_fee: 2,
        bids: Bids::new(4, 4, &[0, 2]),
        others: Bids::new(4, 4, &[0, 2]),
    };
    check_family(&mut Real::default(), &family).unwrap();
}

/// Small enough for the slow mechanisms, large enough to show every fault.
fn mutants_family() -> Family {
    Family {
        bidders: 2,
        units: 3,
        highest_reserve: 2,
        highest_fee: 1,
        bids: Bids::new(3, 3, &[0, 1]),
        others: Bids::new(3, 3, &[0, 1]),
    }
}

#[test]
fn the_checks_find_every_wrong_mechanism() {
    assert!(check_family(&mut { Mutation::None }, &mutants_family()).is_ok());
    assert!(check_family(&mut Real::default(), &mutants_family()).is_ok());
    for mut mutation in Mutation::WRONG {
        let found = check_family(&mut mutation, &mutants_family()).err();
        let expected: &[Fault] = match mutation {
            Mutation::HolderLosesTies
            | Mutation::OperatorWinsTies
            | Mutation::OneUnitTooMany
            | Mutation::OneUnitTooFew
            | Mutation::TurnsNeverRotate
            | Mutation::KeepIgnored => &[Fault::Allocation],
            _ => &[Fault::Payment, Fault::Misreport],
        };
        assert!(found.as_ref().is_some_and(|fault| expected.contains(fault)), "{mutation:?}: {found:?}");
    }
}

/// A budget is a curve cut at the last whole unit that it pays for, and nothing else.
#[test]
fn a_budget_is_a_shorter_curve() {
    let mut real = Real::default();
    for list in falling_lists(4, 4) {
        for (held, keep, budget) in (0..5).flat_map(|h| (0..3).flat_map(move |k| (0..25).map(move |b| (h, k, b)))) {
            let mut bounded = entry(1, held, keep, curve_of_units(&list));
            bounded.budget.0 = budget;
            let cut = entry(1, held, keep, curve_of_units(&list[..affordable(&bounded) as usize]));
            let rival = entry(2, 1, 1, curve_of_units(&[3, 2]));
            for supply in 1..5 {
                let mut awards = [[Award::default(); 2]; 2];
                Real::clear(&mut real, &terms(supply, 1, 1), 0, &[bounded, rival], &mut awards[0]);
                Real::clear(&mut real, &terms(supply, 1, 1), 0, &[cut, rival], &mut awards[1]);
                assert_eq!(awards[0], awards[1]);
                assert!(awards[0][0].payment.0 <= budget);
            }
        }
    }
}
