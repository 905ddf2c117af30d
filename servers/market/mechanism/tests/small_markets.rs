//! Truthfulness directly: in small markets every bid is taken as a report and every bid as the truth, and no report gains
//! anything; the allocation is the best of all, and payments lie between 0 and the bid. `tests/every_market.rs` covers all
//! small markets and finds misreports by arithmetic; here nothing is assumed, so that it takes longer, and the markets are
//! those of one and two bidders with up to three units and values up to 3. The same check finds every wrong mechanism of
//! [`Mutation`].

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
}

/// Calls `each` for every market of a family with the first bidder left open, and counts them.
fn every_market(
    family: &Family,
    mut each: impl FnMut(&Terms, u64, &mut [Entry]) -> Result<(), Fault>,
) -> Result<u64, Fault> {
    let mut count = 0;
    let others = family.bids.list.len();
    for held in holdings(family.bidders, family.units) {
        for supply in 0..=family.units {
            for reserve in 0..=family.highest_reserve {
                for fee in 0..=family.highest_fee {
                    for mut code in 0..others.pow(family.bidders as u32 - 1) {
                        let round = count % family.bidders as u64;
                        let mut entries = vec![entry(1, held[0], 0, Curve::EMPTY)];
                        for (account, &held) in (2..).zip(&held[1..]) {
                            let (curve, keep) = family.bids.list[code % others];
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
fn no_report_gains_in_markets_of_one_and_two_bidders() {
    for (bidders, expected) in [(1, 7_680), (2, 768_000)] {
        let family = Family { bidders, units: 3, highest_reserve: 3, highest_fee: 2, bids: Bids::new(3, 3, &[0, 2]) };
        let markets = check_family(&mut Real::default(), &family).unwrap();
        assert_eq!(markets, expected);
    }
}

/// Small enough for the slow mechanisms, large enough to show every fault.
fn mutants_family() -> Family {
    Family { bidders: 2, units: 3, highest_reserve: 2, highest_fee: 1, bids: Bids::new(3, 3, &[0, 1]) }
}

#[test]
fn the_checks_find_every_wrong_mechanism() {
    assert!(check_family(&mut { Mutation::None }, &mutants_family()).is_ok());
    assert!(check_family(&mut Real::default(), &mutants_family()).is_ok());
    for mut mutation in Mutation::WRONG {
        let found = check_family(&mut mutation, &mutants_family()).err();
        let expected: &[Fault] = match mutation.changes_the_allocation() {
            true => &[Fault::Allocation],
            false => &[Fault::Payment, Fault::Misreport],
        };
        assert!(found.as_ref().is_some_and(|fault| expected.contains(fault)), "{mutation:?}: {found:?}");
    }
}

/// The most that one owner with two names gets above what it gets with one, over all bids of both names. Between the names
/// the owner splits what it holds as it likes.
fn gain_by_a_false_name(mechanism: &mut impl Mechanism, family: &Family) -> i128 {
    let bids = &family.bids.list;
    let mut most = i128::MIN;
    for held in holdings(3, family.units) {
        let terms_of = |at: u64| terms((at % 3) as u32, at / 3 % 3, at / 9 % 2);
        for (terms, &(curve, keep)) in (0..18).map(terms_of).flat_map(|terms| bids.iter().map(move |bid| (terms, bid)))
        {
            let other = entry(9, held[2], keep, curve);
            let mut cheapest = [[None::<i128>; 8]; 8];
            for (first, second) in bids.iter().flat_map(|first| bids.iter().map(move |second| (first, second))) {
                let entries = [entry(1, held[0], first.1, first.0), entry(2, held[1], second.1, second.0), other];
                let mut awards = [(0, 0); 3];
                mechanism.clear(&terms, 0, &entries, &mut awards);
                let kept = awards[0].0.min(held[0]) + awards[1].0.min(held[1]);
                let cheapest = &mut cheapest[(awards[0].0 + awards[1].0) as usize][kept as usize];
                let paid = awards[0].1 + awards[1].1;
                *cheapest = Some(cheapest.map_or(paid, |known| known.min(paid)));
            }
            for &(curve, keep) in bids {
                let truth = entry(1, held[0] + held[1], keep, curve);
                let mut awards = [(0, 0); 3];
                mechanism.clear(&terms, 0, &[truth, other], &mut awards);
                let honest = bid_value(&truth, Quantity(awards[0].0)).0 - awards[0].1;
                for (units, kept) in (0..8).flat_map(|units| (0..8).map(move |kept| (units, kept))) {
                    let Some(paid) = cheapest[units as usize][kept as usize] else { continue };
                    // A unit is kept by a name that held it, as far as the owner wants it at all.
                    let kept = kept.min(curve.demand().0);
                    let value = curve.value_of(Quantity(units)).0 + i128::from(keep) * i128::from(kept);
                    most = most.max(value - paid - honest);
                }
            }
        }
    }
    most
}

#[test]
fn a_false_name_gains_nothing() {
    let family = Family { bidders: 3, units: 2, highest_reserve: 2, highest_fee: 1, bids: Bids::new(2, 2, &[0, 1]) };
    assert_eq!(gain_by_a_false_name(&mut Real::default(), &family), 0);
    assert!(gain_by_a_false_name(&mut { Mutation::PayAsBid }, &family) > 0);
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
