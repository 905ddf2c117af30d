//! Between rounds: units sold at once from the desk, leases given back early, and leases that the operator breaks.
//!
//! - The desk sells what is unsold both in the running interval and in the next one, first come, until the end of the
//!   next one. The price per unit and interval is the larger of the reserve and the two intervals' clearing prices; a
//!   purchase pays it for *both* intervals, the running one whole, and the fee once. (Charging the two intervals as one
//!   would make it cheaper to wait for the desk than to bid.)
//! - Who gives units back early is refunded what the desk gets for them (the fee excepted), first returned first, at
//!   most what it paid for them, and nothing for units that were under notice: those are sold already.
//! - Units that the operator takes without notice are refunded by the time left, and a penalty is paid. They are gone from
//!   the supply.

use super::{Action, Purpose, RoundError, Rounds};
use crate::ledger::{Ledger, LedgerError};
use crate::types::{AccountId, Credits, Price, Quantity, RoundNo, Ticks};

use core::fmt;

use heapless::Vec;

/// What the desk offers at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desk {
    /// Units for sale.
    pub units: Quantity,
    /// Per unit and interval, without the fee.
    pub price: Price,
    /// What one unit costs until the end of the next interval: two intervals and the fee.
    pub unit_cost: Credits,
}

/// Why the desk did not sell. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeskError {
    /// The account takes no part in this good, or is being stopped.
    NoSuchMember,
    /// No round has closed yet.
    NotOpen,
    /// Fewer units are unsold.
    NotEnoughUnits {
        /// That many.
        left: Quantity,
    },
    /// The account can't pay.
    CannotPay {
        /// The price.
        cost: Credits,
    },
    /// The ledger's journal has to be drained first.
    JournalFull,
}

impl fmt::Display for DeskError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeskError::NoSuchMember => out.write_str("the account cannot buy this good"),
            DeskError::NotOpen => out.write_str("no round has closed yet"),
            DeskError::NotEnoughUnits { left } => write!(out, "only {} units are unsold", left.0),
            DeskError::CannotPay { cost } => write!(out, "it costs {cost} credits"),
            DeskError::JournalFull => out.write_str("the ledger's journal is full"),
        }
    }
}

impl core::error::Error for DeskError {}

/// How units given back were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// These were under notice.
    pub noticed: Quantity,
    /// These were not; what the desk gets for them is refunded.
    pub early: Quantity,
}

/// What the accounts may still be refunded: one claim per account for returns in the interval before, and one for those
/// in the running interval. Older ones have nothing left to be refunded for.
#[derive(Debug)]
pub(super) struct Claims<const N: usize> {
    before: Vec<Claim, N>,
    now: Vec<Claim, N>,
}

impl<const N: usize> Claims<N> {
    pub(super) const fn new() -> Self {
        Claims { before: Vec::new(), now: Vec::new() }
    }

    fn len(&self) -> usize {
        self.before.len() + self.now.len()
    }

    /// Adds a return to the account's claim of the running interval. If it paid different prices for its units, the lower
    /// one counts for all, so that a claim never exceeds what was paid.
    fn add(&mut self, new: Claim) {
        if let Some(claim) = self.now.iter_mut().find(|claim| claim.account == new.account) {
            claim.units = claim.units.saturating_add(new.units);
            claim.each_running = claim.each_running.min(new.each_running);
            claim.each_next = claim.each_next.min(new.each_next);
        } else {
            // There is one slot per member, and a member that leaves takes its claims along, so there is room.
            let _ = self.now.push(new);
        }
    }

    /// The next interval begins: what was paid for it is now what was paid for the running one.
    pub(super) fn advance(&mut self) {
        core::mem::swap(&mut self.before, &mut self.now);
        self.now.clear();
        for claim in &mut self.before {
            claim.each_running = claim.each_next;
            claim.each_next = Credits::ZERO;
        }
    }

    /// The account has left.
    pub(super) fn forget(&mut self, account: AccountId) {
        self.before.retain(|claim| claim.account != account);
        self.now.retain(|claim| claim.account != account);
    }
}

/// What an account may still be refunded for units that it gave back.
#[derive(Clone, Copy, Debug)]
struct Claim {
    account: AccountId,
    /// Units given back and not sold again.
    units: Quantity,
    /// What each was paid for the running interval, and for the next one.
    each_running: Credits,
    each_next: Credits,
}

impl<const N: usize> Rounds<N> {
    /// Units that are unsold both in the running interval and in the next one.
    #[must_use]
    pub fn unsold(&self) -> Quantity {
        let (mut running, mut next) = (self.supply_running, self.supply_next);
        for member in &self.members {
            running = running.saturating_sub(member.lease.base).saturating_sub(member.lease.running);
            next = next.saturating_sub(member.lease.base).saturating_sub(member.lease.next);
        }
        running.min(next)
    }

    /// What the desk offers, once a round has closed.
    #[must_use]
    pub fn desk(&self) -> Option<Desk> {
        self.last.as_ref()?;
        let price = self.terms.reserve.max(self.clearing_running).max(self.clearing_next);
        Some(Desk {
            units: self.unsold(),
            price,
            unit_cost: Credits::of(price, Quantity(2)) + Credits::of(self.terms.fee, Quantity(1)),
        })
    }

    /// Units that exist from now on: they are unsold in the running interval and in the next one. The opposite of
    /// [`Rounds::withdraw`]; the base of an account that is about to join, for instance.
    pub fn add_supply(&mut self, units: Quantity) {
        for supply in [&mut self.supply_running, &mut self.supply_next, &mut self.supply] {
            *supply = supply.saturating_add(units);
        }
    }

    /// Sells units at once, until the end of the next interval. Emits the charge, the delivery and the refunds to those
    /// who gave these units back. Returns what it cost.
    ///
    /// # Errors
    /// [`DeskError`].
    pub fn buy<const A: usize, const J: usize>(
        &mut self,
        account: AccountId,
        units: Quantity,
        ledger: &mut Ledger<A, J>,
        emit: &mut impl FnMut(Action),
    ) -> Result<Credits, DeskError> {
        let at = self.find(account).map_err(|_| DeskError::NoSuchMember)?;
        if self.members[at].stop_before.is_some() {
            return Err(DeskError::NoSuchMember);
        }
        let desk = self.desk().ok_or(DeskError::NotOpen)?;
        if units > desk.units {
            return Err(DeskError::NotEnoughUnits { left: desk.units });
        }
        let cost = Credits(desk.unit_cost.0 * i128::from(units.0));
        if ledger.free(account) < cost {
            return Err(DeskError::CannotPay { cost });
        }
        if ledger.journal_room() < 2 + self.claims.len() {
            return Err(DeskError::JournalFull);
        }
        let cause = self.cause();
        ledger.pay(account, cost, cause).map_err(|_| DeskError::CannotPay { cost })?;
        let member = &mut self.members[at];
        let price = Credits::of(desk.price, units);
        member.lease.running = member.lease.running.saturating_add(units);
        member.lease.next = member.lease.next.saturating_add(units);
        member.paid_running.add(units, price);
        member.paid_next.add(units, price);
        if units > Quantity::ZERO {
            emit(Action::Charge {
                account,
                purpose: Purpose::Desk,
                interval: RoundNo(self.round.0 - 1),
                units,
                amount: cost,
            });
            emit(Action::Grow { account, units });
        }
        self.refund_returned(units, desk.price, ledger, emit);
        Ok(cost)
    }

    /// Pays those who gave back the units that the desk has just sold, first returned first.
    fn refund_returned<const A: usize, const J: usize>(
        &mut self,
        units: Quantity,
        price: Price,
        ledger: &mut Ledger<A, J>,
        emit: &mut impl FnMut(Action),
    ) {
        let cause = self.cause();
        let price = Credits(i128::from(price.0));
        let mut left = units;
        for claim in self.claims.before.iter_mut().chain(&mut self.claims.now) {
            let sold = left.min(claim.units);
            left = left.saturating_sub(sold);
            claim.units = claim.units.saturating_sub(sold);
            let each = claim.each_running.min(price) + claim.each_next.min(price);
            let (account, amount) = (claim.account, Credits(each.0 * i128::from(sold.0)));
            // The treasury has just received at least this much, and the journal's room was checked.
            if amount > Credits::ZERO && ledger.refund(account, amount, cause).is_ok() {
                emit(Action::Refund { account, amount });
            }
        }
    }

    /// Takes note that an account has given units back: first those under notice, then others, which it then has neither
    /// in the running interval nor in the next one. The standing bid stays; who wants to hold less bids for less.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`]; [`RoundError::NoRoom`] if the account has fewer units.
    pub fn release(&mut self, account: AccountId, units: Quantity) -> Result<Returned, RoundError> {
        let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
        let member = &mut self.members[at];
        if units > member.lease.running {
            return Err(RoundError::NoRoom);
        }
        let noticed = units.min(member.lease.under_notice());
        let early = units.saturating_sub(noticed);
        let claim = Claim {
            account,
            units: early,
            each_running: member.paid_running.share(Quantity(1)),
            each_next: member.paid_next.share(Quantity(1)),
        };
        member.lease.running = member.lease.running.saturating_sub(units);
        member.lease.next = member.lease.next.saturating_sub(early);
        if early > Quantity::ZERO {
            self.claims.add(claim);
        }
        Ok(Returned { noticed, early })
    }

    /// What [`Rounds::withdraw`] pays back, and as a penalty.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`]; [`RoundError::NoRoom`] if the account has fewer units.
    pub fn withdrawal(
        &self,
        account: AccountId,
        units: Quantity,
        now: Ticks,
    ) -> Result<(Credits, Credits), RoundError> {
        let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
        let member = &self.members[at];
        if units > member.lease.running {
            return Err(RoundError::NoRoom);
        }
        let of_next = units.min(member.lease.next);
        let time_left = self.next_close.0.saturating_sub(now.0).min(self.terms.interval.0);
        let running = by_time(member.paid_running.share(units), time_left, self.terms.interval);
        let penalty = Credits::of(self.terms.penalty, units) + Credits::of(self.terms.penalty, of_next);
        Ok((running + member.paid_next.share(of_next), penalty))
    }

    /// The operator takes units without notice, or could not deliver them, because memory or a device failed, for
    /// instance; the supply shrinks with them. The running interval is refunded by the time left, the next one whole, and
    /// the penalty is paid for each unit and interval. Units that go on into the next interval are taken first; those under
    /// notice are sold to somebody else for it, so that only the running one is paid back.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`]; [`RoundError::NoRoom`] if the account has fewer units; the ledger's if the treasury
    /// can't pay or the journal is full.
    pub fn withdraw<const A: usize, const J: usize>(
        &mut self,
        account: AccountId,
        units: Quantity,
        now: Ticks,
        ledger: &mut Ledger<A, J>,
        emit: &mut impl FnMut(Action),
    ) -> Result<(), RoundError> {
        let (amount, penalty) = self.withdrawal(account, units, now)?;
        let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
        let cause = self.cause();
        if ledger.treasury() < amount + penalty {
            return Err(LedgerError::NotEnough.into());
        }
        if ledger.journal_room() < 2 {
            return Err(LedgerError::JournalFull.into());
        }
        ledger.refund(account, amount, cause)?;
        ledger.penalty(account, penalty, cause)?;
        let member = &mut self.members[at];
        let of_next = units.min(member.lease.next);
        member.lease.running = member.lease.running.saturating_sub(units);
        member.lease.next = member.lease.next.saturating_sub(of_next);
        // In the two intervals sold these units were part of the supply besides all bases.
        self.supply_running = self.supply_running.saturating_sub(units);
        self.supply_next = self.supply_next.saturating_sub(of_next);
        self.supply = self.supply.saturating_sub(units).max(self.bases());
        emit(Action::ForcedShrink { account, units });
        if amount > Credits::ZERO {
            emit(Action::Refund { account, amount });
        }
        if penalty > Credits::ZERO {
            emit(Action::Penalty { account, amount: penalty });
        }
        Ok(())
    }
}

/// The part of an interval's price that falls on `left` of its ticks, rounded down.
fn by_time(price: Credits, left: u64, interval: Ticks) -> Credits {
    let whole = i128::from(interval.0.max(1));
    let left = i128::from(left);
    let (each, rest) = (price.0 / whole, price.0 % whole);
    // `rest` and `left` are below `whole`, which has 64 bits, so their product has 127 or fewer.
    let part = (rest as u128 * left as u128) / whole as u128;
    Credits(each * left + part as i128)
}
