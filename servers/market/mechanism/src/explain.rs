//! Answers about a round that was cleared: why a bid lost, what would have won, what a quantity would have cost.
//!
//! All of it is computed from the bids as they counted and the awards, by the same order as [`curve_lane::clear`] uses,
//! so an answer is exact, not a guess: the crate's tests clear the round again with the bid that is said to win.
//!
//! [`curve_lane::clear`]: crate::curve_lane::clear

use crate::curve_lane::{Award, Entry, Scratch, Step, Terms, Turns, bid_value, for_each_step, steps_needed};
use crate::types::{AccountId, Credits, Price, Quantity, RoundNo};

/// Why a bid did not get one unit more than it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It did not ask for more.
    AllServed,
    /// The next unit is worth less to it than the reserve, and the fee if it would be new.
    BelowReserve,
    /// The budget ends before the next unit.
    Budget,
    /// It has the whole supply.
    NoSupply,
    /// Others offered more, or the same and came first in the order of ties.
    Outbid,
}

/// What a round meant for one bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Units awarded.
    pub quantity: Quantity,
    /// What they cost together.
    pub payment: Credits,
    /// Why there was not one more.
    pub reason: Reason,
    /// The lowest value per unit for which one more unit would have been awarded, if the units before it are worth at
    /// least as much and the budget allows it. `None` if no bid could have: the account has the whole supply.
    pub winning_value: Option<Price>,
    /// By how much the last unit awarded beat the reserve and the best rejected unit of the others: a small number means
    /// that the unit is at risk in the next round. `None` without any award.
    pub headroom: Option<Price>,
}

/// Explains a round to one of its bidders. `None` if the account had no bid in it.
///
/// `entries` and `awards` are those of the round, in the same order. Time: one pass over the bids.
#[must_use]
pub fn explain(
    terms: &Terms,
    round: RoundNo,
    entries: &[Entry],
    awards: &[Award],
    account: AccountId,
) -> Option<Explanation> {
    let me = entries.iter().position(|entry| entry.account == account)?;
    let (entry, award) = (&entries[me], awards.get(me)?);
    let margin = margin(terms, round, entries, awards, me);
    let sold: u64 = awards.iter().map(|award| u64::from(award.quantity.0)).sum();
    let next = award.quantity.saturating_add(Quantity(1));
    let held = next <= entry.held;
    let cost = terms.reserve.0 + if held { 0 } else { terms.fee.0 };
    let keep = if held { entry.keep.0 } else { 0 };
    let needed_gain = if sold < u64::from(terms.supply.0) {
        Some(0)
    } else {
        margin.worst_sold.map(|worst| {
            let turn = Turns::new(entries.len(), round).of(me);
            // Another entry's turn differs, so the place within the bid does not matter.
            let wins_tie = turn.tie(!held, 0) < worst.tie();
            worst.gain() + u64::from(!wins_tie)
        })
    };
    let reason = if entry.curve.demand() <= award.quantity {
        Reason::AllServed
    } else if entry.curve.marginal(next).0 + keep < cost {
        Reason::BelowReserve
    } else if bid_value(entry, next) > entry.budget {
        Reason::Budget
    } else if needed_gain.is_none() {
        Reason::NoSupply
    } else {
        Reason::Outbid
    };
    Some(Explanation {
        quantity: award.quantity,
        payment: award.payment,
        reason,
        winning_value: needed_gain.map(|gain| Price((gain + cost).saturating_sub(keep))),
        headroom: margin.own_last.map(|last| Price(last.gain() - margin.best_rejected.min(last.gain()))),
    })
}

/// The steps around the line between sold and rejected, as one entry sees it.
struct Margin {
    /// The last unit sold to others.
    worst_sold: Option<Step>,
    /// The last unit sold to this entry.
    own_last: Option<Step>,
    /// What the best rejected unit of others adds; 0 if there is none.
    best_rejected: u64,
}

fn margin(terms: &Terms, round: RoundNo, entries: &[Entry], awards: &[Award], me: usize) -> Margin {
    let turns = Turns::new(entries.len(), round);
    let mut margin = Margin { worst_sold: None, own_last: None, best_rejected: 0 };
    for ((entry, award), position) in entries.iter().zip(awards).zip(0u32..) {
        let turn = turns.of(position as usize);
        let mut left = award.quantity.0;
        for_each_step(terms, entry, turn, position, |step| {
            let (sold, own) = (left > 0, position as usize == me);
            let whole = left >= step.quantity();
            left = left.saturating_sub(step.quantity());
            if sold && own {
                margin.own_last = Some(step);
            } else if sold && margin.worst_sold.is_none_or(|worst| worst.order() < step.order()) {
                margin.worst_sold = Some(step);
            }
            if !whole && !own {
                margin.best_rejected = margin.best_rejected.max(step.gain());
            }
        });
    }
    margin
}

/// What `quantity` units would have cost `account` in this round, whatever it bid, as long as it won exactly these:
/// the price of a good as a function of the quantity. The account need not have bid; then it holds nothing. `None` if the
/// supply is smaller, or a buffer too short ([`steps_needed`]).
///
/// Time: one sort.
#[must_use]
pub fn estimate(
    terms: &Terms,
    round: RoundNo,
    entries: &[Entry],
    account: AccountId,
    quantity: Quantity,
    scratch: &mut Scratch<'_>,
) -> Option<Credits> {
    if quantity > terms.supply || scratch.steps.len() < steps_needed(entries.len()) {
        return None;
    }
    let turns = Turns::new(entries.len(), round);
    let mut held = Quantity::ZERO;
    let mut count = 0;
    for (entry, position) in entries.iter().zip(0u32..) {
        if entry.account == account {
            held = entry.held;
            continue;
        }
        let turn = turns.of(position as usize);
        for_each_step(terms, entry, turn, position, |step| {
            scratch.steps[count] = step;
            count += 1;
        });
    }
    let steps = &mut scratch.steps[..count];
    steps.sort_unstable_by_key(Step::order);
    // Without the account the others would have the whole supply; with it, what is left.
    let whole = u64::from(terms.supply.0);
    let left = whole - u64::from(quantity.0);
    let acquired = quantity.saturating_sub(held);
    let lost = best(steps, whole) - best(steps, left);
    Some(Credits::of(terms.reserve, quantity) + Credits::of(terms.fee, acquired) + Credits(lost))
}

/// What the best `units` units add together.
fn best(sorted: &[Step], units: u64) -> i128 {
    let mut left = units;
    let mut sum = 0;
    for step in sorted {
        let taken = left.min(u64::from(step.quantity()));
        sum += i128::from(step.gain()) * i128::from(taken);
        left -= taken;
        if left == 0 {
            break;
        }
    }
    sum
}
