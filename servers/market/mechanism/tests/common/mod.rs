//! What the tests share: a generator of numbers, and two oracles that know nothing of how the crate clears a round.
//!
//! - [`exhaustive`] tries every allocation and takes the best by the rule of ties as MARKET.md words it.
//! - [`naive`] sells unit by unit to whoever gains most, and finds payments by selling again without each bidder. With a
//!   [`Mutation`] it becomes a wrong mechanism on purpose.
#![allow(dead_code, reason = "each test file uses its own part")]

use market_mechanism::curve_lane::{
    self, Award, Entry, Outcome, Scratch, Step, Tally, Terms, bid_value, steps_needed, tallies_needed,
};
use market_mechanism::ledger::Ledger;
use market_mechanism::rounds::{GoodTerms, POSTINGS_PER_MEMBER, Rounds, Workspace};
use market_mechanism::{AccountId, Bid, Credits, Curve, GoodId, Price, Quantity, RoundNo, Segment, Ticks};

/// SplitMix64 (Steele, Lea, Flood 2014): every seed gives its own fixed sequence.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Set by `cargo xtask market check --full`: the long tier of those tests that have one.
pub fn is_full() -> bool {
    std::env::var_os("MARKET_CHECK_FULL").is_some()
}

pub fn terms(supply: u32, reserve: u64, fee: u64) -> Terms {
    Terms { supply: Quantity(supply), reserve: Price(reserve), fee: Price(fee) }
}

/// The curve whose units have these values, which must not rise.
pub fn curve_of_units(values: &[u64]) -> Curve {
    let mut segments: Vec<Segment> = Vec::new();
    for &value in values {
        match segments.last_mut() {
            Some(last) if last.value.0 == value => last.quantity.0 += 1,
            _ => segments.push(Segment { value: Price(value), quantity: Quantity(1) }),
        }
    }
    Curve::new(&segments).unwrap()
}

/// All lists of `len` values from 0 to `highest` that do not rise.
pub fn falling_lists(len: usize, highest: u64) -> Vec<Vec<u64>> {
    let mut lists = vec![vec![]];
    for _ in 0..len {
        let longer = |list: &Vec<u64>| {
            let list = list.clone();
            let most = list.last().copied().unwrap_or(highest);
            (0..=most).map(move |value| [&list[..], &[value]].concat())
        };
        lists = lists.iter().flat_map(longer).collect();
    }
    lists
}

pub fn entry(account: u32, held: u32, keep: u64, curve: Curve) -> Entry {
    Entry { account: AccountId(account), held: Quantity(held), keep: Price(keep), budget: Credits::MAX, curve }
}

/// The crate's round, with buffers kept from call to call.
#[derive(Default)]
pub struct Real {
    steps: Vec<Step>,
    tallies: Vec<Tally>,
}

impl Real {
    pub fn clear(&mut self, terms: &Terms, round: u64, entries: &[Entry], awards: &mut [Award]) -> Outcome {
        self.steps.resize(steps_needed(entries.len()), Step::default());
        self.tallies.resize(tallies_needed(entries.len()), Tally::default());
        curve_lane::clear(terms, RoundNo(round), entries, &mut self.scratch(), awards).unwrap()
    }

    pub fn scratch(&mut self) -> Scratch<'_> {
        Scratch { steps: &mut self.steps, tallies: &mut self.tallies }
    }
}

/// What an allocation adds: values and keeps less reserve and fees.
pub fn welfare(terms: &Terms, entries: &[Entry], units: &[u32]) -> i128 {
    let gains = entries.iter().zip(units).map(|(entry, &units)| {
        let acquired = units.saturating_sub(entry.held.0);
        bid_value(entry, Quantity(units)).0
            - i128::from(terms.reserve.0) * i128::from(units)
            - i128::from(terms.fee.0) * i128::from(acquired)
    });
    gains.sum()
}

/// How many units an entry's budget lets it bid for: as many whole ones as their bid value fits.
pub fn affordable(entry: &Entry) -> u32 {
    let mut units = 0;
    while units < entry.curve.demand().0 && bid_value(entry, Quantity(units + 1)) <= entry.budget {
        units += 1;
    }
    units
}

/// The position of each entry in the order of turns.
fn turns(entries: usize, round: u64) -> Vec<usize> {
    (0..entries).map(|position| (position + (round % entries as u64) as usize) % entries).collect()
}

/// The best allocation of all: most welfare; then most units sold (the operator loses ties); then most units left with
/// their holders; then as much as possible to whose turn is first, then to the second, and so on. For up to 3 entries.
pub fn exhaustive(terms: &Terms, round: u64, entries: &[Entry]) -> [u32; 3] {
    let most: [u32; 3] = core::array::from_fn(|at| entries.get(at).map_or(0, affordable));
    let turns = turns(entries.len().max(1), round);
    let (mut best, mut best_rank) = ([0; 3], None);
    for a in 0..=most[0] {
        for b in 0..=most[1] {
            for c in 0..=most[2] {
                let units = [a, b, c];
                if a + b + c > terms.supply.0 {
                    break;
                }
                let mut by_turn = [0; 3];
                let mut kept = 0;
                for (at, entry) in entries.iter().enumerate() {
                    by_turn[turns[at]] = units[at];
                    kept += units[at].min(entry.held.0);
                }
                let rank = (welfare(terms, entries, &units), a + b + c, kept, by_turn);
                if best_rank.is_none_or(|highest| rank > highest) {
                    (best, best_rank) = (units, Some(rank));
                }
            }
        }
    }
    best
}

/// What may be wrong with a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    None,
    PayAsBid,
    UniformPrice,
    OwnLosingBidsCounted,
    ReserveLeftOutWithout,
    ReserveLeftOutWith,
    FeeLeftOutWithout,
    FeeLeftOutWith,
    HolderLosesTies,
    OperatorWinsTies,
    OneUnitTooMany,
    OneUnitTooFew,
    PriceOneRankTooLow,
    TurnsNeverRotate,
    KeepIgnored,
    KeepLeftOutOfPayment,
}

impl Mutation {
    pub const WRONG: [Mutation; 15] = [
        Mutation::PayAsBid,
        Mutation::UniformPrice,
        Mutation::OwnLosingBidsCounted,
        Mutation::ReserveLeftOutWithout,
        Mutation::ReserveLeftOutWith,
        Mutation::FeeLeftOutWithout,
        Mutation::FeeLeftOutWith,
        Mutation::HolderLosesTies,
        Mutation::OperatorWinsTies,
        Mutation::OneUnitTooMany,
        Mutation::OneUnitTooFew,
        Mutation::PriceOneRankTooLow,
        Mutation::TurnsNeverRotate,
        Mutation::KeepIgnored,
        Mutation::KeepLeftOutOfPayment,
    ];

    /// Whether it is who gets what that is wrong, and not what it costs.
    pub fn changes_the_allocation(self) -> bool {
        matches!(
            self,
            Mutation::HolderLosesTies
                | Mutation::OperatorWinsTies
                | Mutation::OneUnitTooMany
                | Mutation::OneUnitTooFew
                | Mutation::TurnsNeverRotate
                | Mutation::KeepIgnored
        )
    }
}

/// Sells unit by unit to the entry that gains most, nothing to `without`. Returns the units of each.
fn sell(terms: &Terms, round: u64, entries: &[Entry], without: Option<usize>, mutation: Mutation) -> Vec<u32> {
    let most: Vec<u32> = entries.iter().map(affordable).collect();
    let shift = if mutation == Mutation::TurnsNeverRotate { 0 } else { round };
    let turns = turns(entries.len().max(1), shift);
    let supply = match mutation {
        Mutation::OneUnitTooMany => terms.supply.0 + 1,
        Mutation::OneUnitTooFew => terms.supply.0.saturating_sub(1),
        _ => terms.supply.0,
    };
    let mut units = vec![0; entries.len()];
    for _ in 0..supply {
        let gain = |at: usize| -> i128 {
            let entry = &entries[at];
            let next = Quantity(units[at] + 1);
            let keep = if mutation == Mutation::KeepIgnored { 0 } else { entry.keep.0 };
            let held = next <= entry.held;
            let added = if held { i128::from(keep) } else { -i128::from(terms.fee.0) };
            i128::from(entry.curve.marginal(next).0) + added - i128::from(terms.reserve.0)
        };
        let is_held = |at: usize| (units[at] < entries[at].held.0) != (mutation == Mutation::HolderLosesTies);
        let least = i128::from(mutation == Mutation::OperatorWinsTies);
        let best = (0..entries.len())
            .filter(|&at| Some(at) != without && units[at] < most[at] && gain(at) >= least)
            .max_by_key(|&at| (gain(at), is_held(at), core::cmp::Reverse(turns[at])));
        match best {
            Some(at) => units[at] += 1,
            None => break,
        }
    }
    units
}

/// The naive mechanism: allocation and payments.
pub fn naive(terms: &Terms, round: u64, entries: &[Entry], mutation: Mutation) -> Vec<(u32, i128)> {
    let units = sell(terms, round, entries, None, mutation);
    let award = |(at, &own): (usize, &u32)| {
        let payment = if own == 0 { 0 } else { payment(terms, round, entries, &units, at, mutation) };
        (own, payment)
    };
    units.iter().enumerate().map(award).collect()
}

fn payment(terms: &Terms, round: u64, entries: &[Entry], units: &[u32], at: usize, mutation: Mutation) -> i128 {
    let bid = |units: u32| bid_value(&entries[at], Quantity(units)).0;
    let own = units[at];
    let free = Terms { reserve: Price(0), ..*terms };
    let without_fee = Terms { fee: Price(0), ..*terms };
    let others = |terms: &Terms, units: &[u32]| {
        let mut units = units.to_vec();
        units[at] = 0;
        welfare(terms, entries, &units)
    };
    // The operator's part in W - v_i(x_i): what i's units cost it.
    let cost = |terms: &Terms| {
        i128::from(terms.reserve.0) * i128::from(own)
            + i128::from(terms.fee.0) * i128::from(own.saturating_sub(entries[at].held.0))
    };
    let alone = sell(terms, round, entries, Some(at), mutation);
    let exact = others(terms, &alone) - (others(terms, units) - cost(terms));
    match mutation {
        Mutation::PayAsBid => bid(own),
        Mutation::UniformPrice => {
            // Everybody pays the best rejected unit's value for each unit.
            let rejected = (0..entries.len()).filter(|&at| units[at] < affordable(&entries[at]));
            let value = rejected.map(|at| entries[at].curve.marginal(Quantity(units[at] + 1)).0);
            let price = value.max().unwrap_or(0).max(terms.reserve.0);
            (i128::from(price) * i128::from(own) + cost(terms) - i128::from(terms.reserve.0) * i128::from(own))
                .min(bid(own))
        }
        Mutation::OwnLosingBidsCounted => {
            // The best rejected units take the place, i's own among them.
            let mut gains = Vec::new();
            for (entry, &sold) in entries.iter().zip(units) {
                for unit in sold + 1..=affordable(entry) {
                    let step = |units| welfare(terms, core::slice::from_ref(entry), &[units]);
                    gains.push((step(unit) - step(unit - 1)).max(0));
                }
            }
            gains.sort_unstable_by(|a, b| b.cmp(a));
            cost(terms) + gains.iter().take(own as usize).sum::<i128>()
        }
        Mutation::ReserveLeftOutWithout => others(&free, &alone) - (others(terms, units) - cost(terms)),
        Mutation::ReserveLeftOutWith => others(terms, &alone) - (others(&free, units) - cost(&free)),
        Mutation::FeeLeftOutWithout => others(&without_fee, &alone) - (others(terms, units) - cost(terms)),
        Mutation::FeeLeftOutWith => others(terms, &alone) - (others(&without_fee, units) - cost(&without_fee)),
        Mutation::PriceOneRankTooLow => exact - i128::from(exact > cost(terms)),
        Mutation::KeepLeftOutOfPayment => {
            let kept = own.min(entries[at].held.0);
            exact - i128::from(entries[at].keep.0) * i128::from(kept)
        }
        _ => exact,
    }
}

/// A random round: up to `most_bids` bids, up to `most_units` units for sale, values up to `highest`. With few possible
/// values there are many ties.
pub fn random_round(random: &mut Random, most_bids: u64, most_units: u64, highest: u64) -> (Terms, u64, Vec<Entry>) {
    let terms = Terms {
        supply: Quantity(random.below(most_units + 1) as u32),
        reserve: Price(random.below(highest / 2 + 1)),
        fee: Price(random.below(highest / 4 + 1)),
    };
    let mut account = 0;
    let entries = (0..random.below(most_bids + 1)).map(|_| {
        account += 1 + random.below(3) as u32;
        let held = random.below(most_units / 2 + 1) as u32;
        let curve = random_curve(random, most_units, highest);
        let mut entry = entry(account, held, random.below(highest / 4 + 1), curve);
        if random.chance(3) {
            let all = bid_value(&entry, curve.demand()).0 as u64;
            entry.budget = Credits(i128::from(random.below(all + 2)));
        }
        entry
    });
    let entries = entries.collect();
    (terms, random.below(20), entries)
}

pub fn random_curve(random: &mut Random, most_units: u64, highest: u64) -> Curve {
    let mut segments = Vec::new();
    let mut value = random.below(highest + 1);
    for _ in 0..random.below(9) {
        segments.push(Segment { value: Price(value), quantity: Quantity(1 + random.below(most_units / 4 + 1) as u32) });
        let Some(less) = value.checked_sub(1 + random.below(highest / 6 + 1)) else {
            break;
        };
        value = less;
    }
    Curve::new(&segments).unwrap()
}

/// A round of many bids: of one to eight segments, half of them holding something.
pub fn large_round(bids: u32, seed: u64) -> (Terms, Vec<Entry>) {
    let mut random = Random(seed);
    let entries: Vec<Entry> = (0..bids)
        .map(|account| {
            let held = random.below(8) as u32 * random.below(2) as u32;
            let curve = random_curve(&mut random, 16, 1 << 40);
            entry(account, held, random.below(1 << 36), curve)
        })
        .collect();
    (terms(bids * 2, 1 << 36, 1 << 34), entries)
}

/// A good with `N` members who all bid, round after round.
pub struct Market<const N: usize> {
    rounds: Box<Rounds<N>>,
    ledger: Box<Ledger<N, JOURNAL>>,
    work: Box<Workspace<N>>,
    random: Random,
    now: u64,
}

/// Postings of a round of a thousand members.
const JOURNAL: usize = POSTINGS_PER_MEMBER * 1_000;

impl<const N: usize> Market<N> {
    /// `members` accounts with money and a bid each.
    pub fn new(members: u32) -> Market<N> {
        let terms = GoodTerms {
            good: GoodId(1),
            interval: Ticks(10),
            reserve: Price(1 << 20),
            fee: Price(1 << 18),
            penalty: Price(0),
            stop_notice: 1,
        };
        let rounds = Rounds::new(terms, Quantity(members * 3), Ticks(0)).unwrap();
        let mut market = Market {
            rounds: Box::new(rounds),
            ledger: Box::new(Ledger::new(Credits::MAX)),
            work: Box::new(Workspace::new()),
            random: Random(31),
            now: 0,
        };
        for account in (0..members).map(AccountId) {
            market.ledger.open(account).unwrap();
            market.ledger.top_up(account, Credits(1 << 70)).unwrap();
            let (rounds, ledger) = (&mut market.rounds, &mut market.ledger);
            rounds.add(account, Quantity(0), Price(0), ledger, &mut |_| {}).unwrap();
            market.drain();
            market.bid(account);
        }
        market
    }

    fn drain(&mut self) {
        while self.ledger.drain().is_some() {}
    }

    fn bid(&mut self, account: AccountId) {
        let quantity = Quantity(1 + self.random.below(8) as u32);
        let curve = Curve::flat(quantity, Price(self.random.below(1 << 40))).unwrap();
        let (max_payment, valid_until) = (Credits(1 << 60), RoundNo(u64::MAX));
        self.rounds.bid(Bid { account, curve, keep: Price(1 << 30), max_payment, valid_until }).unwrap();
    }

    /// One member in ten bids anew.
    pub fn change_some_bids(&mut self) {
        let accounts: Vec<AccountId> = self.rounds.leases().map(|(account, _)| account).collect();
        for account in accounts {
            if self.random.chance(10) {
                self.bid(account);
            }
        }
    }

    /// Closes a round; returns how long that took.
    pub fn close(&mut self) -> std::time::Duration {
        let mut actions = 0;
        let start = std::time::Instant::now();
        let emit = &mut |_| actions += 1;
        self.rounds.close(Ticks(self.now), &mut self.ledger, &mut self.work, emit).unwrap();
        self.drain();
        let taken = start.elapsed();
        assert!(actions > 0);
        self.now += 10;
        taken
    }
}
