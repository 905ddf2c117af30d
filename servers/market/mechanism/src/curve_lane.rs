//! The curve lane: one round of one divisible good.
//!
//! Guarantees, for one round:
//! - The allocation maximises `sum of v_i(x_i) - r x_i - f max(0, x_i - held_i)` over all allocations within the supply,
//!   where `v_i` is the bid's curve plus `keep` for each unit held, `r` the reserve, `f` the fee per unit acquired.
//! - The payments are exact VCG payments, `p_i = W(without i) - (W - v_i(x_i))`. *Without i* means that `x_i` is 0 and
//!   everybody else's holding is unchanged; the operator is still there, so reserve and fee count in both terms.
//!   Hence `0 <= p_i <= v_i(x_i)`, and no misreport gains.
//! - Ties: the operator loses them (a unit worth exactly reserve and fee is sold); then whoever already holds the unit
//!   wins; then the order `(position + round) mod n`, where `position` counts the round's bids by account number.
//! - A budget cuts the curve at the last whole unit where the summed bid value fits, so `p_i` never exceeds it.
//! - Nothing is allocated and nothing is rounded. Time: a selection of the best steps, linear on average; the payments
//!   then take a logarithm each.
//!
//! Why greedy is exact: `keep` is added to the *first* units (those held) and the fee taken from the units *after*
//! them, so what a unit adds never grows along a curve, and picking the best units one by one never skips one.
//!
//! Clarke (1971), Groves (1973), Vickrey (1961).

use core::fmt;

use crate::types::{AccountId, Credits, Curve, MAX_SEGMENTS, Price, Quantity, RoundNo};

/// What the operator fixes for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Units for sale above all bases.
    pub supply: Quantity,
    /// The lowest price per unit and interval.
    pub reserve: Price,
    /// What each unit newly acquired costs besides: scrub, map, flush.
    pub fee: Price,
}

/// A bid as it counts in a round, with what the account holds and can pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who bids.
    pub account: AccountId,
    /// What the round before gave it.
    pub held: Quantity,
    /// Added to the value of each unit held, as far as the curve reaches.
    pub keep: Price,
    /// The most it can pay: the smaller of its `max_payment` and its free balance.
    pub budget: Credits,
    /// What units above its base are worth.
    pub curve: Curve,
}

/// What an account gets and pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Award {
    /// Who.
    pub account: AccountId,
    /// Units above the base in the interval sold.
    pub quantity: Quantity,
    /// For all of them together, for the interval sold.
    pub payment: Credits,
}

impl Award {
    /// What a buffer is filled with at first.
    pub const EMPTY: Award = Award { account: AccountId(0), quantity: Quantity::ZERO, payment: Credits::ZERO };
}

/// What a round says about the good as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The larger of the reserve and the highest marginal value (after the fee) that was rejected.
    pub clearing: Price,
    /// What one further unit would have cost a newcomer, fee included; `None` when there is no supply at all.
    pub ask: Option<Price>,
    /// Units awarded.
    pub sold: Quantity,
    /// Units left.
    pub unsold: Quantity,
    /// The maximum reached: value less reserve and fees.
    pub welfare: Credits,
}

/// Why a round cannot be cleared. All are errors of the caller; no bid that passed its checks causes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearError {
    /// The entries are not in strictly ascending order of account.
    NotSorted {
        /// The first entry out of order.
        entry: usize,
    },
    /// Reserve, fee or an entry's `keep` above [`Price::LIMIT`].
    PriceTooHigh,
    /// A scratch buffer is shorter than [`steps_needed`] or [`tallies_needed`] says, or `awards` than the entries.
    BufferTooShort,
}

impl fmt::Display for ClearError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClearError::NotSorted { entry } => {
                write!(out, "entry {entry} is not above the one before by account")
            }
            ClearError::PriceTooHigh => {
                write!(out, "reserve, fee or keep is above {}", Price::LIMIT.0)
            }
            ClearError::BufferTooShort => out.write_str("a buffer is too short"),
        }
    }
}

impl core::error::Error for ClearError {}

/// Segments, and one more where the holding ends inside a segment.
pub const STEPS_PER_BID: usize = MAX_SEGMENTS + 1;

/// How many [`Step`]s a round of `bids` bids needs.
#[must_use]
pub const fn steps_needed(bids: usize) -> usize {
    bids * STEPS_PER_BID
}

/// How many [`Tally`]s a round of `bids` bids needs.
#[must_use]
pub const fn tallies_needed(bids: usize) -> usize {
    bids * STEPS_PER_BID + 1
}

/// Units of one bid that add equally much. Scratch space; its contents mean nothing to callers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    /// `u64::MAX` less what a unit adds to welfare, so that ascending order puts the best first.
    rank: u64,
    /// How ties of `rank` are broken: acquired after held, then turn, then order within the bid.
    tie: u64,
    quantity: u32,
    entry: u32,
}

impl Step {
    /// What a buffer is filled with at first.
    pub const EMPTY: Step = Step { rank: 0, tie: 0, quantity: 0, entry: 0 };

    /// What each unit adds to welfare.
    pub(crate) const fn gain(&self) -> u64 {
        u64::MAX - self.rank
    }

    /// How many units.
    pub(crate) const fn quantity(&self) -> u32 {
        self.quantity
    }

    /// The part of the order that breaks ties, smallest first.
    pub(crate) const fn tie(&self) -> u64 {
        self.tie
    }

    /// The whole order as one number, smallest first.
    pub(crate) const fn order(&self) -> u128 {
        (self.rank as u128) << 64 | self.tie as u128
    }
}

/// Sums over the best rejected steps. Scratch space; its contents mean nothing to callers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// What the units before this point add.
    gain: i128,
    /// How many units lie before this point.
    units: u64,
}

impl Tally {
    /// What a buffer is filled with at first.
    pub const EMPTY: Tally = Tally { gain: 0, units: 0 };
}

/// The buffers of a round; the caller owns them so that a round allocates nothing.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// At least [`steps_needed`].
    pub steps: &'a mut [Step],
    /// At least [`tallies_needed`].
    pub tallies: &'a mut [Tally],
}

/// The order of ties of a round.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    entries: usize,
    shift: usize,
}

impl Turns {
    /// The order of `entries` entries in `round`.
    pub(crate) fn new(entries: usize, round: RoundNo) -> Turns {
        // Less than the entries, which an index counts.
        Turns { entries, shift: (round.0 % entries.max(1) as u64) as usize }
    }

    /// The place of the entry at `position`: `(position + round) mod entries`, without dividing for each.
    pub(crate) fn of(self, position: usize) -> Turn {
        let place = position + self.shift;
        Turn(if place < self.entries { place } else { place - self.entries } as u32)
    }
}

/// One entry's place in the order of ties.
#[derive(Clone, Copy)]
pub(crate) struct Turn(u32);

impl Turn {
    /// The second half of the order: held before acquired, then turn, then order within the bid.
    pub(crate) fn tie(self, acquired: bool, nth: u32) -> u64 {
        u64::from(acquired) << 36 | u64::from(self.0) << 4 | u64::from(nth)
    }
}

/// Calls `each` for every step of an entry that is worth selling and within the entry's budget, best first.
pub(crate) fn for_each_step(terms: &Terms, entry: &Entry, turn: Turn, position: u32, mut each: impl FnMut(Step)) {
    let mut budget = entry.budget.0.max(0) as u128;
    let mut held_left = entry.held.0;
    let mut nth = 0;
    for segment in entry.curve.segments() {
        let mut left = segment.quantity.0;
        while left > 0 {
            let acquired = held_left == 0;
            let (bid, cost) = if acquired {
                (segment.value.0, terms.reserve.0 + terms.fee.0)
            } else {
                (segment.value.0 + entry.keep.0, terms.reserve.0)
            };
            // Later units add no more than this one, so the first that is not worth selling ends the bid.
            if bid < cost {
                return;
            }
            let wanted = if acquired { left } else { left.min(held_left) };
            let total = u128::from(bid) * u128::from(wanted);
            let affordable = if total <= budget {
                wanted
            } else {
                // Below `wanted`, as `bid * wanted` exceeds the budget.
                (budget / u128::from(bid)) as u32
            };
            if affordable > 0 {
                each(Step {
                    rank: u64::MAX - (bid - cost),
                    tie: turn.tie(acquired, nth),
                    quantity: affordable,
                    entry: position,
                });
            }
            if affordable < wanted {
                return;
            }
            budget -= total;
            left -= wanted;
            held_left -= if acquired { 0 } else { wanted };
            nth += 1;
        }
    }
}

/// The bid's value of `quantity` units: the curve, and `keep` for those that are held. A unit beyond the curve is not
/// demanded, so it is worth nothing, held or not.
#[must_use]
pub fn bid_value(entry: &Entry, quantity: Quantity) -> Credits {
    let kept = quantity.min(entry.held).min(entry.curve.demand());
    entry.curve.value_of(quantity) + Credits::of(entry.keep, kept)
}

/// Clears one round: fills `awards[i]` for `entries[i]` and returns what the round says about the good.
///
/// `entries` must be in ascending order of account; so the order in which bids arrived cannot matter.
///
/// # Errors
/// [`ClearError`]; then the contents of the buffers mean nothing.
pub fn clear(
    terms: &Terms,
    round: RoundNo,
    entries: &[Entry],
    scratch: &mut Scratch<'_>,
    awards: &mut [Award],
) -> Result<Outcome, ClearError> {
    check(terms, entries)?;
    if scratch.steps.len() < steps_needed(entries.len())
        || scratch.tallies.len() < tallies_needed(entries.len())
        || awards.len() < entries.len()
    {
        return Err(ClearError::BufferTooShort);
    }
    let (steps, largest) = collect(terms, round, entries, scratch.steps);
    for (award, entry) in awards.iter_mut().zip(entries) {
        *award = Award { account: entry.account, ..Award::default() };
    }
    let sale = sell(terms, steps, awards);
    let rejected = &mut steps[sale.first_rejected..];
    // Steps that were never candidates are worth less than the reserve.
    let best_rejected = rejected.first().map_or(0, Step::gain);
    let rejected = sort_best(rejected, largest + u64::from(sale.partly_sold));
    let tallies = tally(rejected, sale.partly_sold, largest, scratch.tallies);
    let turns = Turns::new(entries.len(), round);
    for (position, award) in awards[..entries.len()].iter_mut().enumerate() {
        if award.quantity == Quantity::ZERO {
            continue;
        }
        let entry = &entries[position];
        let displaced = displaced(terms, entry, turns.of(position), award.quantity, rejected, tallies);
        let acquired = award.quantity.saturating_sub(entry.held);
        award.payment = Credits::of(terms.reserve, award.quantity) + Credits::of(terms.fee, acquired) + displaced;
    }
    let unsold = terms.supply.saturating_sub(sale.sold);
    let ask = if unsold > Quantity::ZERO {
        Some(terms.reserve.saturating_add(terms.fee))
    } else {
        sale.lowest_gain.map(|gain| Price(terms.reserve.0 + terms.fee.0).saturating_add(Price(gain)))
    };
    Ok(Outcome {
        clearing: terms.reserve.saturating_add(Price(best_rejected)),
        ask,
        sold: sale.sold,
        unsold,
        welfare: sale.welfare,
    })
}

/// Checks what the types leave open.
fn check(terms: &Terms, entries: &[Entry]) -> Result<(), ClearError> {
    if terms.reserve > Price::LIMIT || terms.fee > Price::LIMIT {
        return Err(ClearError::PriceTooHigh);
    }
    let mut last = None;
    for (position, entry) in entries.iter().enumerate() {
        if entry.keep > Price::LIMIT {
            return Err(ClearError::PriceTooHigh);
        }
        if last.is_some_and(|last| last >= entry.account) {
            return Err(ClearError::NotSorted { entry: position });
        }
        last = Some(entry.account);
    }
    Ok(())
}

/// Writes all steps worth selling, in no order, and returns them with the most units that one entry asks for.
fn collect<'a>(terms: &Terms, round: RoundNo, entries: &[Entry], steps: &'a mut [Step]) -> (&'a mut [Step], u64) {
    let turns = Turns::new(entries.len(), round);
    let mut count = 0;
    let mut largest = 0;
    for (entry, position) in entries.iter().zip(0u32..) {
        let turn = turns.of(position as usize);
        let mut units = 0;
        for_each_step(terms, entry, turn, position, |step| {
            steps[count] = step;
            count += 1;
            units += u64::from(step.quantity);
        });
        largest = largest.max(units);
    }
    (&mut steps[..count], largest)
}

/// The result of selling the best steps until the supply ends.
struct Sale {
    sold: Quantity,
    welfare: Credits,
    /// What the last unit sold adds.
    lowest_gain: Option<u64>,
    /// The first step that was not sold whole.
    first_rejected: usize,
    /// How much of that step was sold.
    partly_sold: u32,
}

/// Sells the best steps until the supply ends, adding to `awards`. Afterwards the steps sold come first, in no order, and
/// the one sold in part, if any, comes next, before the rest.
fn sell(terms: &Terms, steps: &mut [Step], awards: &mut [Award]) -> Sale {
    let (first_rejected, left) = split_by_units(steps, u64::from(terms.supply.0));
    let mut sale =
        Sale { sold: Quantity::ZERO, welfare: Credits::ZERO, lowest_gain: None, first_rejected, partly_sold: 0 };
    let mut sell_one = |step: &Step, units: u32| {
        awards[step.entry as usize].quantity.0 += units;
        sale.sold.0 += units;
        sale.welfare += Credits::of(Price(step.gain()), Quantity(units));
        sale.lowest_gain = Some(sale.lowest_gain.map_or(step.gain(), |gain| gain.min(step.gain())));
    };
    for step in &steps[..first_rejected] {
        sell_one(step, step.quantity);
    }
    if let Some(step) = steps.get(first_rejected).filter(|_| left > 0) {
        // Less than the step has, or it would have been sold whole.
        sell_one(step, left as u32);
        sale.partly_sold = left as u32;
    }
    sale
}

/// Below this many steps sorting is quicker than selecting.
const SORT_BELOW: usize = 64;

/// Reorders the steps so that the best ones whose units together do not exceed `units` come first, and the next best one
/// right after them. Returns how many come first, and how many of the units are left. Linear on average.
fn split_by_units(steps: &mut [Step], units: u64) -> (usize, u64) {
    // Everything before `low` is better than the rest and fits; what lies from `high` on is worse and does not.
    let (mut low, mut high, mut left) = (0, steps.len(), units);
    while high - low > SORT_BELOW {
        let half = (high - low) / 2;
        steps[low..high].select_nth_unstable_by_key(half, Step::order);
        let better = &steps[low..low + half];
        let better: u64 = better.iter().map(|step| u64::from(step.quantity)).sum();
        if better > left {
            high = low + half;
        } else {
            left -= better;
            low += half;
        }
    }
    steps[low..high].sort_unstable_by_key(Step::order);
    while low < high && u64::from(steps[low].quantity) <= left {
        left -= u64::from(steps[low].quantity);
        low += 1;
    }
    (low, left)
}

/// Sorts the best steps, of at least `units` units together or all there are, and returns them.
fn sort_best(steps: &mut [Step], units: u64) -> &[Step] {
    let (fitting, _) = split_by_units(steps, units);
    let end = steps.len().min(fitting + 1);
    let best = &mut steps[..end];
    best.sort_unstable_by_key(Step::order);
    best
}

/// Sums up the rejected steps, best first, as far as a payment can need them: `largest` units.
///
/// `tallies[j]` is the sum over the first `j` rejected steps, the first of which was already sold in part.
fn tally<'a>(rejected: &[Step], partly_sold: u32, largest: u64, tallies: &'a mut [Tally]) -> &'a [Tally] {
    let mut sum = Tally::default();
    tallies[0] = sum;
    let mut count = 1;
    let mut already_sold = partly_sold;
    for step in rejected {
        if sum.units >= largest {
            break;
        }
        let units = step.quantity - already_sold;
        already_sold = 0;
        sum.units += u64::from(units);
        sum.gain += i128::from(step.gain()) * i128::from(units);
        tallies[count] = sum;
        count += 1;
    }
    &tallies[..count]
}

/// What the best `quantity` rejected units of *other* entries would add: what this award takes from them.
fn displaced(
    terms: &Terms,
    entry: &Entry,
    turn: Turn,
    quantity: Quantity,
    rejected: &[Step],
    tallies: &[Tally],
) -> Credits {
    let listed = &rejected[..tallies.len() - 1];
    // Take the best `wanted` units of all, where `wanted` grows by the entry's own units met on the way; these are then
    // taken off again. The tallies reach that far, as an entry's units, sold and rejected, are at most `largest`.
    let mut wanted = u64::from(quantity.0);
    let mut own = 0;
    if !listed.is_empty() {
        for_each_step(terms, entry, turn, 0, |step| {
            let at = match listed.binary_search_by_key(&step.order(), Step::order) {
                Ok(at) if tallies[at].units < wanted => at,
                _ => return,
            };
            wanted += tallies[at + 1].units - tallies[at].units;
            own += tallies[at + 1].gain - tallies[at].gain;
        });
    }
    Credits(best(listed, tallies, wanted) - own)
}

/// What the best `units` rejected units add together; all of them when there are fewer.
fn best(listed: &[Step], tallies: &[Tally], units: u64) -> i128 {
    let at = tallies.partition_point(|tally| tally.units <= units) - 1;
    let rest = units - tallies[at].units;
    let next = listed.get(at).map_or(0, Step::gain);
    tallies[at].gain + i128::from(next) * i128::from(rest)
}

#[cfg(test)]
mod tests;
