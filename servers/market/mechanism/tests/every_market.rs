//! Every small market, without exception: up to three bidders, up to four units, and values, `keep`, reserve and fee from
//! 0 to 4; every curve of up to four units; every holding of up to four units together; every supply; every order of
//! turns. In each of them, for the code that ships,
//! - the allocation is the best of all under the rule of ties, found by trying all; clearing price, ask and welfare follow;
//! - each payment is what the definition says: what the others could have without the bidder, less what they have. It
//!   lies between 0 and the bid;
//! - **nobody gains by any misreport**: see below;
//! - one owner under several names pays at least what it would pay under one.
//!
//! How the whole product fits into minutes:
//! - *Equal cases are tried once.* Reserve, fee and `keep` reach the clearing only through what each unit adds to welfare
//!   ([`Kind::gains`]) and through whether it is held, so bids that agree in these are one [`Kind`].
//!   `bids_of_a_kind_have_the_same_outcome` takes every bid of every kind against sampled others.
//! - *Turns, not accounts.* Only the order of turns matters, so the bidders are numbered by turn;
//!   `only_the_order_of_turns_matters` exchanges accounts and rounds.
//! - *Misreports by arithmetic.* The payment is checked against a sum over the **others'** bids and the own quantity alone.
//!   So whatever a bidder reports, it pays `price(q)` for the `q` that it gets, and with these prices the honest quantity is
//!   compared with every other: truths times reports, without clearing again.
//! - *A base* only takes units off the supply before a round, so it is one of the smaller supplies; `tests/every_round.rs`
//!   checks its delivery.
//!
//! A test run covers all of it for one and two bidders, and for three bidders those of up to three units, and those of up to
//! four units with numbers from 0 to 2. `cargo xtask market check --full` covers all of it: 3,768,622,215 markets of three
//! bidders, in some ten minutes on two cores.

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::*;
use market_mechanism::curve_lane::{Award, Entry, Outcome, Terms};
use market_mechanism::{AccountId, Credits, Curve, Price, Quantity};

/// The most units and bidders of any family.
const UNITS: usize = 4;
const BIDDERS: usize = 3;

/// How large the numbers of a family are.
#[derive(Clone, Copy)]
struct Bounds {
    bidders: usize,
    /// Supply, demand of one bidder, and all holdings together.
    units: u32,
    /// Values, `keep`, reserve and fee.
    highest: u64,
}

/// All bids whose units add the same to welfare, and of which the same are held.
struct Kind {
    /// One of these bids.
    entry: Entry,
    /// What each unit adds, as long as that is not negative.
    gains: Vec<u64>,
    /// So many of these units are held.
    held: u32,
    /// Welfare of the first `q` units; units beyond the last one add nothing.
    totals: [i64; UNITS + 1],
}

impl Kind {
    fn units(&self) -> u32 {
        self.gains.len() as u32
    }
}

/// What makes a bid's kind: what its units add, and how many of them are held.
fn essence(terms: &Terms, entry: &Entry) -> (Vec<u64>, u32) {
    let gain = |unit: u32| {
        let held = unit <= entry.held.0;
        let value = entry.curve.marginal(Quantity(unit)).0 + if held { entry.keep.0 } else { 0 };
        value.checked_sub(terms.reserve.0 + if held { 0 } else { terms.fee.0 })
    };
    let gains: Vec<u64> = (1..=entry.curve.demand().0).map_while(gain).collect();
    let held = entry.held.0.min(gains.len() as u32);
    (gains, held)
}

/// Every bid on these terms with this holding.
fn bids_holding(bounds: Bounds, held: u32) -> Vec<Entry> {
    let curves = (0..=bounds.units as usize).flat_map(|units| falling_lists(units, bounds.highest));
    let curves: Vec<Curve> = curves.map(|list| curve_of_units(&list)).collect();
    // Without a holding there is nothing to keep.
    let keeps = if held == 0 { 0..=0 } else { 0..=bounds.highest };
    keeps.flat_map(|keep| curves.iter().map(move |&curve| entry(0, held, keep, curve))).collect()
}

/// Every kind of bid on these terms, in ascending order of holding. Of the bids of a kind the one that holds least
/// stands for all, as it fits beside the most others.
fn kinds(terms: &Terms, bounds: Bounds) -> Vec<Kind> {
    let mut seen = std::collections::HashSet::new();
    let mut kinds = Vec::new();
    for entry in (0..=bounds.units).flat_map(|held| bids_holding(bounds, held)) {
        let (gains, held) = essence(terms, &entry);
        if seen.insert((gains.clone(), held)) {
            let mut totals = [0; UNITS + 1];
            for units in 1..totals.len() {
                totals[units] = totals[units - 1] + gains.get(units - 1).map_or(0, |&gain| gain as i64);
            }
            kinds.push(Kind { entry, gains, held, totals });
        }
    }
    kinds
}

/// How good it is that a bidder gets so many units, as one number of which the sum over all bidders decides: welfare, then
/// units sold, then units left with their holders, then units of the first turn, of the second and of the third.
fn score(kind: &Kind, turn: usize, units: u32) -> u64 {
    let welfare = kind.totals[units as usize] as u64;
    welfare << 24
        | u64::from(units) << 20
        | u64::from(units.min(kind.held)) << 16
        | u64::from(units) << place_of_turn(turn)
}

fn place_of_turn(turn: usize) -> usize {
    4 * (BIDDERS - 1 - turn)
}

fn welfare_of(score: u64) -> i64 {
    (score >> 24) as i64
}

/// The best score of two bidders with up to so many units between them.
fn best_of_two(a: &Kind, b: &Kind, turns: [usize; 2]) -> [u64; UNITS + 1] {
    let mut best = [0; UNITS + 1];
    for (supply, best) in (0..).zip(&mut best) {
        for own in 0..=a.units().min(supply) {
            let other = b.units().min(supply - own);
            let options = (0..=other).map(|other| score(a, turns[0], own) + score(b, turns[1], other));
            *best = options.fold(*best, u64::max);
        }
    }
    best
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Allocation,
    Welfare,
    Prices,
    Payment,
    Misreport,
    FalseName,
}

/// A market with which something is wrong.
#[derive(Clone, Debug)]
struct Wrong {
    fault: Fault,
    #[expect(dead_code, reason = "printed with `Debug`")]
    market: (Terms, u64, Vec<Entry>),
}

/// A mechanism under test.
trait Mechanism {
    /// Fills in the awards; the outcome as well, if there is one to be checked.
    fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [Award]) -> Option<Outcome>;
}

impl Mechanism for Real {
    fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [Award]) -> Option<Outcome> {
        Some(Real::clear(self, terms, round, entries, awards))
    }
}

impl Mechanism for Mutation {
    fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [Award]) -> Option<Outcome> {
        for ((award, entry), (units, payment)) in
            awards.iter_mut().zip(entries).zip(naive(terms, round, entries, *self))
        {
            *award = Award { account: entry.account, quantity: Quantity(units), payment: Credits(payment) };
        }
        None
    }
}

/// Everything that is checked about one market. `by_turn` are the bidders in the order of their turns, `without[t]` is the
/// most welfare that the others have without the bidder of turn `t` for each supply, and `first_two` the best score of
/// turns 0 and 1.
struct Market<'a> {
    terms: &'a Terms,
    by_turn: [&'a Kind; BIDDERS],
    without: [&'a [u8; UNITS + 1]; BIDDERS],
    first_two: &'a [u64; UNITS + 1],
}

impl Market<'_> {
    fn check(&self, awards: [&Award; BIDDERS], outcome: Option<&Outcome>) -> Result<(), Fault> {
        let supply = self.terms.supply.0 as usize;
        let third = self.by_turn[2];
        let best = (0..=(third.units() as usize).min(supply))
            .map(|units| score(third, 2, units as u32) + self.first_two[supply - units]);
        let best = best.fold(0, u64::max);
        let units: [usize; BIDDERS] = awards.map(|award| award.quantity.0 as usize);
        let wanted: [usize; BIDDERS] = core::array::from_fn(|turn| (best >> place_of_turn(turn) & 15) as usize);
        if units != wanted {
            return Err(Fault::Allocation);
        }
        if let Some(outcome) = outcome {
            self.check_outcome(outcome, units, welfare_of(best))?;
        }
        let mut displaced = [0; BIDDERS];
        for turn in 0..BIDDERS {
            let (kind, without) = (self.by_turn[turn], self.without[turn]);
            // What the others lose by the bidder's having so many units. It depends on the others only.
            let price = |units: usize| i64::from(without[supply]) - i64::from(without[supply - units]);
            let (own, award) = (units[turn], awards[turn]);
            let acquired = award.quantity.saturating_sub(kind.entry.held);
            let cost = Credits::of(self.terms.reserve, award.quantity) + Credits::of(self.terms.fee, acquired);
            displaced[turn] = price(own);
            // Reserve and fee are the same on both sides of `payment <= bid`.
            if award.payment.0 != cost.0 + i128::from(price(own)) || !(0..=kind.totals[own]).contains(&price(own)) {
                return Err(Fault::Payment);
            }
            let honest = kind.totals[own] - price(own);
            if (0..=supply).any(|units| kind.totals[units] - price(units) > honest) {
                return Err(Fault::Misreport);
            }
        }
        for turn in 0..BIDDERS {
            // The other two may be one owner, and this one the only other bidder.
            let [a, b] = [(turn + 1) % BIDDERS, (turn + 2) % BIDDERS];
            let other = self.by_turn[turn];
            let alone = other.totals[supply] - other.totals[supply - units[a] - units[b]];
            if displaced[a] + displaced[b] < alone {
                return Err(Fault::FalseName);
            }
        }
        Ok(())
    }

    fn check_outcome(&self, outcome: &Outcome, units: [usize; BIDDERS], welfare: i64) -> Result<(), Fault> {
        let sold: usize = units.iter().sum();
        let unsold = self.terms.supply.0 - sold as u32;
        if outcome.welfare.0 != i128::from(welfare) || (outcome.sold.0, outcome.unsold.0) != (sold as u32, unsold) {
            return Err(Fault::Welfare);
        }
        let gain = |(kind, units): (&&Kind, usize)| kind.gains.get(units).copied();
        let rejected = self.by_turn.iter().zip(units).filter_map(gain).max().unwrap_or(0);
        let last = self.by_turn.iter().zip(units).filter_map(|(kind, units)| gain((kind, units.checked_sub(1)?))).min();
        let ask = if unsold > 0 { Some(0) } else { last };
        let ask = ask.map(|gain| Price(self.terms.reserve.0 + self.terms.fee.0 + gain));
        if (outcome.clearing.0, outcome.ask) != (self.terms.reserve.0 + rejected, ask) {
            return Err(Fault::Prices);
        }
        Ok(())
    }
}

/// All markets on the same terms but for the supply.
struct Family {
    terms: Terms,
    bounds: Bounds,
    kinds: Vec<Kind>,
    /// The most welfare of two bidders for each supply, by their kinds.
    of_two: Vec<[u8; UNITS + 1]>,
}

impl Family {
    fn new(terms: Terms, bounds: Bounds) -> Family {
        let kinds = kinds(&terms, bounds);
        let welfare = |a, b| best_of_two(a, b, [0, 1]).map(|score| welfare_of(score) as u8);
        let of_two = kinds.iter().flat_map(|a| kinds.iter().map(move |b| welfare(a, b))).collect();
        Family { terms, bounds, kinds, of_two }
    }

    fn welfare_of_two(&self, a: usize, b: usize) -> &[u8; UNITS + 1] {
        &self.of_two[a * self.kinds.len() + b]
    }

    /// The kinds that may come at a turn when the bidders before hold so much. Who does not exist has no demand.
    fn candidates(&self, turn: usize, held: u32) -> usize {
        match turn < self.bounds.bidders {
            true => self.kinds.partition_point(|kind| kind.entry.held.0 + held <= self.bounds.units),
            false => 1,
        }
    }

    /// Checks every market in which the first turn is the bidder's of kind `a`; returns how many these are.
    fn check(&self, mechanism: &mut impl Mechanism, a: usize) -> Result<u64, Wrong> {
        let bidders = self.bounds.bidders;
        let mut count = 0;
        // Which account has which turn does not matter; so it differs, to be on the safe side.
        let round = (a % bidders) as u64;
        let place = |turn: usize| (turn + bidders - a % bidders) % bidders;
        let mut awards = [Award::default(); BIDDERS];
        let mut entries = [self.kinds[a].entry; BIDDERS];
        let set = |entries: &mut [Entry; BIDDERS], turn: usize, kind: &Kind| {
            if turn < bidders {
                entries[place(turn)] = Entry { account: AccountId(place(turn) as u32 + 1), ..kind.entry };
            }
        };
        set(&mut entries, 0, &self.kinds[a]);
        for b in 0..self.candidates(1, self.kinds[a].entry.held.0) {
            set(&mut entries, 1, &self.kinds[b]);
            let first_two = best_of_two(&self.kinds[a], &self.kinds[b], [0, 1]);
            let held = self.kinds[a].entry.held.0 + self.kinds[b].entry.held.0;
            for c in 0..self.candidates(2, held) {
                set(&mut entries, 2, &self.kinds[c]);
                let without = [self.welfare_of_two(b, c), self.welfare_of_two(a, c), self.welfare_of_two(a, b)];
                let by_turn = [a, b, c].map(|kind| &self.kinds[kind]);
                for supply in 0..=self.bounds.units {
                    let terms = Terms { supply: Quantity(supply), ..self.terms };
                    let entries = &entries[..bidders];
                    let outcome = mechanism.clear(&terms, round, entries, &mut awards);
                    let nothing = Award::default();
                    let awards: [&Award; BIDDERS] =
                        core::array::from_fn(|turn| if turn < bidders { &awards[place(turn)] } else { &nothing });
                    Market { terms: &terms, by_turn, without, first_two: &first_two }
                        .check(awards, outcome.as_ref())
                        .map_err(|fault| Wrong { fault, market: (terms, round, entries.to_vec()) })?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

/// Reserve and fee of each family.
fn all_terms(bounds: Bounds) -> impl Iterator<Item = Terms> {
    (0..=bounds.highest).flat_map(move |reserve| (0..=bounds.highest).map(move |fee| terms(0, reserve, fee)))
}

/// Checks every market within these bounds on all processors, and says how many markets these were.
fn check_all(bounds: Bounds, say: impl Fn(&str) + Sync) -> Result<u64, Wrong> {
    let start = Instant::now();
    let mut markets = 0;
    for terms in all_terms(bounds) {
        let family = Family::new(terms, bounds);
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok(0)));
        let work = || {
            let mut real = Real::default();
            while let Some(a) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&a| a < family.kinds.len()) {
                let checked = family.check(&mut real, a);
                let mut found = found.lock().unwrap();
                *found = core::mem::replace(&mut *found, Ok(0)).and_then(|sum: u64| checked.map(|count| sum + count));
                if found.is_err() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        markets += found.into_inner().unwrap()?;
        let (reserve, fee, kinds) = (terms.reserve.0, terms.fee.0, family.kinds.len());
        say(&format!("reserve {reserve}, fee {fee}: {kinds} kinds of bid; {markets} markets, {:.0?}", start.elapsed()));
    }
    Ok(markets)
}

#[test]
fn every_market_of_one_and_two_bidders() {
    for (bidders, expected) in [(1, 47_775), (2, 11_723_600)] {
        let markets = check_all(Bounds { bidders, units: 4, highest: 4 }, |_| {}).unwrap();
        assert_eq!(markets, expected);
    }
}

#[test]
fn every_market_of_three_bidders() {
    let families: &[(u32, u64, u64)] = match is_full() {
        true => &[(4, 4, 3_768_622_215)],
        false => &[(3, 4, 117_518_508), (4, 2, 33_528_340)],
    };
    for &(units, highest, expected) in families {
        let markets = check_all(Bounds { bidders: 3, units, highest }, |line| println!("{line}")).unwrap();
        assert_eq!(markets, expected);
    }
}

/// The checks above see what is wrong with each wrong mechanism.
#[test]
fn the_checks_find_every_wrong_mechanism() {
    let bounds = Bounds { bidders: 3, units: 2, highest: 2 };
    let families: Vec<Family> = all_terms(bounds).map(|terms| Family::new(terms, bounds)).collect();
    let first_fault = |mut mechanism: Mutation| {
        let mut all = families.iter().flat_map(|family| (0..family.kinds.len()).map(move |a| (family, a)));
        all.find_map(|(family, a)| family.check(&mut mechanism, a).err())
    };
    assert!(first_fault(Mutation::None).is_none());
    for mutation in Mutation::WRONG {
        let expected = if mutation.changes_the_allocation() { Fault::Allocation } else { Fault::Payment };
        let found = first_fault(mutation).map(|wrong| wrong.fault);
        assert_eq!(found, Some(expected), "{mutation:?}");
    }
}

/// What a bidder of this kind gets, and what it pays besides reserve and fees.
fn essential_award(terms: &Terms, entry: &Entry, award: &Award) -> (u32, i128) {
    let acquired = award.quantity.saturating_sub(entry.held);
    let cost = Credits::of(terms.reserve, award.quantity) + Credits::of(terms.fee, acquired);
    (award.quantity.0, (award.payment - cost).0)
}

/// Clears a round with these bids in the order of accounts; returns the essential awards.
fn clear_in_order(real: &mut Real, terms: &Terms, round: u64, bids: [&Entry; BIDDERS]) -> [(u32, i128); BIDDERS] {
    let mut account = 0;
    let entries = bids.map(|bid| {
        account += 1;
        Entry { account: AccountId(account), ..*bid }
    });
    let mut awards = [Award::default(); BIDDERS];
    real.clear(terms, round, &entries, &mut awards);
    core::array::from_fn(|at| essential_award(terms, &entries[at], &awards[at]))
}

#[test]
fn bids_of_a_kind_have_the_same_outcome() {
    let bounds = Bounds { bidders: 3, units: 4, highest: 4 };
    let mut random = Random(21);
    let mut real = Real::default();
    let mut compared = 0;
    for terms in all_terms(bounds) {
        let kinds = kinds(&terms, bounds);
        let of_essence: std::collections::HashMap<_, _> =
            kinds.iter().map(|kind| ((kind.gains.clone(), kind.held), kind)).collect();
        for bid in (0..=bounds.units).flat_map(|held| bids_holding(bounds, held)) {
            let stands_for_it = &of_essence[&essence(&terms, &bid)].entry;
            for _ in 0..10 {
                let terms = Terms { supply: Quantity(random.below(5) as u32), ..terms };
                let [a, b] = [0; 2].map(|_| &kinds[random.below(kinds.len() as u64) as usize].entry);
                let round = random.below(3);
                let mut both = [&bid, stands_for_it].map(|bid| clear_in_order(&mut real, &terms, round, [a, bid, b]));
                assert_eq!(both[0], both[1], "{terms:?} {round} {bid:?} {stands_for_it:?} {a:?} {b:?}");
                both = [&bid, stands_for_it].map(|bid| clear_in_order(&mut real, &terms, round, [bid, b, bid]));
                assert_eq!(both[0], both[1], "{terms:?} {round} {bid:?} {stands_for_it:?} {b:?}");
                compared += usize::from(bid != *stands_for_it);
            }
        }
    }
    assert!(compared > 400_000, "{compared}");
}

#[test]
fn only_the_order_of_turns_matters() {
    let bounds = Bounds { bidders: 3, units: 4, highest: 4 };
    let mut random = Random(22);
    let mut real = Real::default();
    let all: Vec<Terms> = all_terms(bounds).collect();
    let mut rotations_that_matter = 0;
    for _ in 0..400 {
        let terms = all[random.below(all.len() as u64) as usize];
        let terms = Terms { supply: Quantity(random.below(5) as u32), ..terms };
        let kinds = kinds(&terms, bounds);
        for _ in 0..100 {
            let [a, b, c] = [0; 3].map(|_| &kinds[random.below(kinds.len() as u64) as usize].entry);
            let [x, y, z] = clear_in_order(&mut real, &terms, 0, [a, b, c]);
            // One round later the account at place 2 has the first turn.
            assert_eq!(clear_in_order(&mut real, &terms, 1, [b, c, a]), [y, z, x]);
            assert_eq!(clear_in_order(&mut real, &terms, 2, [c, a, b]), [z, x, y]);
            assert_eq!(clear_in_order(&mut real, &terms, 3, [a, b, c]), [x, y, z]);
            rotations_that_matter += u32::from(clear_in_order(&mut real, &terms, 1, [a, b, c]) != [x, y, z]);
        }
    }
    assert!(rotations_that_matter > 100, "{rotations_that_matter}");
}
