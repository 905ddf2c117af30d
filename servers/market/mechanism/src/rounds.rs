//! The rounds of one good over time: standing bids, leases, notices, charges, the base, and what happens between rounds.
//!
//! [`Rounds`] is a state machine. Events go in as method calls, what has to be done comes out as [`Action`]s in the
//! order in which it has to be done, and money moves in the [`Ledger`] that the caller passes. It does no I/O, so the
//! market server, host simulations and property tests drive the same code.
//!
//! **Time.** [`Rounds::close`] is called when interval `k` is about to begin: it closes round `k`, which sells interval
//! `k + 1`. In this order it
//! 1. takes what was under notice and not given up by the end of interval `k - 1` ([`Action::ForcedShrink`]),
//! 2. delivers what round `k - 1` sold for interval `k` ([`Action::Grow`]),
//! 3. collects every base's price for `k + 1`, at contract price, before any bid can use the money,
//! 4. clears the standing bids for `k + 1`, charges them in advance from escrow, and releases the rest of the escrow,
//! 5. gives notice of every unit lost ([`Action::Notice`]), whose deadline is the end of interval `k`.
//!
//! When the caller is late by whole intervals, they pass without a round ([`Rounds::skip`]): what is held is held on,
//! unpaid; what was sold comes later, whole; and the numbers of rounds and intervals follow time.
//!
//! Guarantees:
//! - A lease shrinks only after a notice of at least one full interval: `close` is refused before the time it stated,
//!   and when it comes late, the next one moves with it.
//! - Whatever is delivered was charged before. No account falls below 0; no round costs more than `max_payment`.
//! - Leases and bases together never exceed the supply of their interval ([`Rounds::verify`]).
//! - A base is delivered as long as it is paid. When it can't be paid, its owner gets a notice of
//!   [`GoodTerms::stop_notice`] intervals, during which the base goes on, paid from a deposit.

mod actions;
mod close;
mod desk;

pub use actions::{Action, Lease, Purpose, RoundError};
pub use desk::{Desk, DeskError, Returned};

use heapless::Vec;

use crate::board;
use crate::curve_lane::{Award, Entry, Outcome, STEPS_PER_BID, Step, Tally, Terms};
use crate::ledger::{Cause, Ledger, LedgerError};
use crate::types::{AccountId, Bid, Credits, GoodId, Price, Quantity, RoundNo, Ticks};

/// What is fixed for a good as long as the market runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoodTerms {
    /// Which good.
    pub good: GoodId,
    /// Length of an interval; above 0.
    pub interval: Ticks,
    /// The lowest price per unit and interval.
    pub reserve: Price,
    /// What each unit newly acquired costs besides.
    pub fee: Price,
    /// Paid for each unit and interval that the operator takes without notice, besides the price.
    pub penalty: Price,
    /// How many of this good's intervals a tenant has left after it could not pay its base; at least 1. MARKET.md wants
    /// one interval of pages, which is 1 for pages and 10 for CPU time.
    pub stop_notice: u32,
}

/// What was paid for the units of one interval; the base is not part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Paid {
    units: Quantity,
    amount: Credits,
}

impl Paid {
    fn add(&mut self, units: Quantity, amount: Credits) {
        self.units = self.units.saturating_add(units);
        self.amount += amount;
    }

    /// What `units` of them cost, rounded down.
    fn share(&self, units: Quantity) -> Credits {
        let all = i128::from(self.units.0.max(1));
        // The amount is below 2^97 and the units below 2^32; the product would not fit, so the remainder goes apart.
        let (each, rest) = (self.amount.0 / all, self.amount.0 % all);
        Credits(each * i128::from(units.0) + rest * i128::from(units.0) / all)
    }
}

/// One account's part in this good.
#[derive(Clone, Copy, Debug)]
struct Member {
    account: AccountId,
    lease: Lease,
    base_price: Price,
    /// In escrow, to pay the base while a stop notice runs.
    deposit: Credits,
    /// The base's price for the interval that begins next was not collected.
    base_owed: bool,
    /// The interval that the account does not live to see, unless it is topped up.
    stop_before: Option<RoundNo>,
    /// [`Action::Stop`] was given.
    stopped: bool,
    /// [`Rounds::suspend`]: its bid is left out of rounds.
    suspended: bool,
    bid: Option<Bid>,
    paid_running: Paid,
    paid_next: Paid,
}

impl Member {
    fn base_due(&self) -> Credits {
        Credits::of(self.base_price, self.lease.base)
    }
}

/// The buffers of a round for up to `N` members, and after it the bids as they counted and the awards. One may serve
/// several goods, one after the other.
#[derive(Debug)]
pub struct Workspace<const N: usize> {
    entries: Vec<Entry, N>,
    awards: [Award; N],
    steps: [[Step; STEPS_PER_BID]; N],
    // One more per member than steps, as one more in all is needed.
    tallies: [[Tally; STEPS_PER_BID + 1]; N],
}

impl<const N: usize> Workspace<N> {
    /// Empty buffers; `const`, so that they can be a `static` instead of lying on a stack.
    #[must_use]
    pub const fn new() -> Self {
        Workspace {
            entries: Vec::new(),
            awards: [Award::EMPTY; N],
            steps: [[Step::EMPTY; STEPS_PER_BID]; N],
            tallies: [[Tally::EMPTY; STEPS_PER_BID + 1]; N],
        }
    }

    /// The bids of the last round cleared here, as they counted.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What they got, in the same order.
    #[must_use]
    pub fn awards(&self) -> &[Award] {
        &self.awards[..self.entries.len()]
    }
}

impl<const N: usize> Default for Workspace<N> {
    fn default() -> Self {
        Workspace::new()
    }
}

/// What a round did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which round.
    pub round: RoundNo,
    /// On what terms it was cleared; the supply is what was above all bases.
    pub terms: Terms,
    /// With what result.
    pub outcome: Outcome,
}

/// The most postings that one round makes per member: stop cancelled (deposit, two charges of two postings each), and
/// set aside, charge and release for the bid.
pub const POSTINGS_PER_MEMBER: usize = 8;

/// One good's rounds, for up to `N` accounts.
#[derive(Debug)]
pub struct Rounds<const N: usize> {
    terms: GoodTerms,
    /// In ascending order of account.
    members: Vec<Member, N>,
    /// The round that closes next.
    round: RoundNo,
    next_close: Ticks,
    /// Supply, bases included: of the running interval, of the next one, and of those sold from now on.
    supply_running: Quantity,
    supply_next: Quantity,
    supply: Quantity,
    /// The clearing prices of the running interval and of the next one.
    clearing_running: Price,
    clearing_next: Price,
    last: Option<Report>,
    claims: desk::Claims<N>,
}

impl<const N: usize> Rounds<N> {
    /// A good with this supply, whose interval 0 begins at `start`, when round 0 closes.
    ///
    /// # Errors
    /// [`RoundError::BadTerms`].
    pub fn new(terms: GoodTerms, supply: Quantity, start: Ticks) -> Result<Self, RoundError> {
        let highest = terms.reserve.max(terms.fee).max(terms.penalty);
        if highest > Price::LIMIT || terms.interval == Ticks(0) || terms.stop_notice == 0 {
            return Err(RoundError::BadTerms);
        }
        Ok(Rounds {
            terms,
            members: Vec::new(),
            round: RoundNo(0),
            next_close: start,
            supply_running: supply,
            supply_next: supply,
            supply,
            clearing_running: terms.reserve,
            clearing_next: terms.reserve,
            last: None,
            claims: desk::Claims::new(),
        })
    }

    /// What [`Rounds::add`] takes for `base` units at `base_price` per unit and interval: the base for the intervals that no
    /// round will charge any more (the running one and the next), and the deposit for a stop notice.
    #[must_use]
    pub fn entry_cost(&self, base: Quantity, base_price: Price) -> (Credits, Credits) {
        let due = Credits::of(base_price, base);
        let intervals = if self.last.is_some() { 2 } else { 1 };
        (Credits(due.0 * intervals), Credits(due.0 * i128::from(self.terms.stop_notice - 1)))
    }

    /// Takes an account in, with `base` units at `base_price` per unit and interval. Charges [`Rounds::entry_cost`].
    ///
    /// # Errors
    /// [`RoundError::NoRoom`] if the base does not fit beside the leases sold; the ledger's, if it can't be paid.
    pub fn add<const A: usize, const J: usize>(
        &mut self,
        account: AccountId,
        base: Quantity,
        base_price: Price,
        ledger: &mut Ledger<A, J>,
        emit: &mut impl FnMut(Action),
    ) -> Result<(), RoundError> {
        let Err(at) = self.find(account) else {
            return Err(RoundError::AlreadyMember);
        };
        if base_price > Price::LIMIT {
            return Err(RoundError::BadTerms);
        }
        if self.members.is_full() {
            return Err(RoundError::TooManyMembers);
        }
        let (room, bases) = (self.unsold(), self.bases());
        if base > room || base.0 > self.supply.saturating_sub(bases).0 {
            return Err(RoundError::NoRoom);
        }
        let (first, deposit) = self.entry_cost(base, base_price);
        if ledger.balance(account).is_none() {
            return Err(LedgerError::NoSuchAccount.into());
        }
        if ledger.free(account) < first + deposit {
            return Err(LedgerError::NotEnough.into());
        }
        if ledger.journal_room() < 3 {
            return Err(LedgerError::JournalFull.into());
        }
        let cause = self.cause();
        ledger.pay(account, first, cause)?;
        ledger.escrow(account, deposit, cause)?;
        let member = Member {
            account,
            lease: Lease { base, ..Lease::default() },
            base_price,
            deposit,
            base_owed: false,
            stop_before: None,
            stopped: false,
            suspended: false,
            bid: None,
            paid_running: Paid::default(),
            paid_next: Paid::default(),
        };
        self.members.insert(at, member).map_err(|_| RoundError::TooManyMembers)?;
        if first > Credits::ZERO {
            emit(Action::Charge {
                account,
                purpose: Purpose::Base,
                interval: RoundNo(self.round.0.saturating_sub(1)),
                units: base,
                amount: first,
            });
        }
        Ok(())
    }

    /// Takes an account out at once, with its bid, its leases and what it could still claim. Its deposit is released.
    /// Its units count as unsold from now on, so the caller takes them back and scrubs them before it goes on.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`]; the ledger's if the journal is full.
    pub fn remove<const A: usize, const J: usize>(
        &mut self,
        account: AccountId,
        ledger: &mut Ledger<A, J>,
    ) -> Result<Lease, RoundError> {
        let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
        let member = self.members[at];
        ledger.release(account, member.deposit, self.cause())?;
        self.members.remove(at);
        self.claims.forget(account);
        Ok(member.lease)
    }

    /// Places a standing bid, or replaces the one before.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`], [`RoundError::Bid`].
    pub fn bid(&mut self, bid: Bid) -> Result<(), RoundError> {
        bid.check().map_err(RoundError::Bid)?;
        let at = self.find(bid.account).map_err(|_| RoundError::NoSuchMember)?;
        self.members[at].bid = Some(bid);
        Ok(())
    }

    /// Withdraws a standing bid; the lease ends with the notice that the next round gives.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`].
    pub fn cancel_bid(&mut self, account: AccountId) -> Result<(), RoundError> {
        let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
        self.members[at].bid = None;
        Ok(())
    }

    /// Leaves an account's bid out of rounds while it is suspended, as when what it won could not be delivered, so that nobody pays
    /// for that; what it has won already it keeps.
    ///
    /// # Errors
    /// [`RoundError::NoSuchMember`].
    pub fn suspend(&mut self, account: AccountId, suspended: bool) -> Result<(), RoundError> {
        let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
        self.members[at].suspended = suspended;
        Ok(())
    }

    /// So many intervals have passed without a round, as the market was held up: [`Rounds::close`] has to be called for the
    /// round that is due after them. Until then the running interval lasts, and nobody pays for the rest of it: neither
    /// leases nor bases. What the last round sold begins that much later. Stop notices last as much longer.
    pub fn skip(&mut self, intervals: u64) {
        self.round.0 = self.round.0.saturating_add(intervals);
        self.next_close.0 = self.next_close.0.saturating_add(self.terms.interval.0.saturating_mul(intervals));
        for stop_before in self.members.iter_mut().filter_map(|member| member.stop_before.as_mut()) {
            stop_before.0 = stop_before.0.saturating_add(intervals);
        }
    }

    /// Changes the supply that rounds from now on sell. What is sold already stays sold.
    ///
    /// # Errors
    /// [`RoundError::NoRoom`] if it does not reach for all bases.
    pub fn set_supply(&mut self, supply: Quantity) -> Result<(), RoundError> {
        if supply < self.bases() {
            return Err(RoundError::NoRoom);
        }
        self.supply = supply;
        Ok(())
    }

    /// What the good is sold on.
    #[must_use]
    pub fn terms(&self) -> &GoodTerms {
        &self.terms
    }

    /// The round that closes next.
    #[must_use]
    pub fn round(&self) -> RoundNo {
        self.round
    }

    /// When it may close, which is the deadline of all notices.
    #[must_use]
    pub fn next_close(&self) -> Ticks {
        self.next_close
    }

    /// The last round closed.
    #[must_use]
    pub fn last(&self) -> Option<&Report> {
        self.last.as_ref()
    }

    /// What an account holds, if it takes part.
    #[must_use]
    pub fn lease(&self, account: AccountId) -> Option<Lease> {
        self.find(account).ok().map(|at| self.members[at].lease)
    }

    /// An account's standing bid.
    #[must_use]
    pub fn standing_bid(&self, account: AccountId) -> Option<&Bid> {
        let at = self.find(account).ok()?;
        self.members[at].bid.as_ref()
    }

    /// What every account holds, in ascending order of account.
    pub fn leases(&self) -> impl Iterator<Item = (AccountId, Lease)> {
        self.members.iter().map(|member| (member.account, member.lease))
    }

    /// What is set aside in this good for an account's stop notice.
    #[must_use]
    pub fn deposit(&self, account: AccountId) -> Credits {
        self.find(account).map_or(Credits::ZERO, |at| self.members[at].deposit)
    }

    /// The line for the price board; the caller adds the ledger's head.
    #[must_use]
    pub fn board_line(&self, ledger_head: u64) -> board::Line {
        let nothing_yet = board::Line {
            ask: self.terms.reserve.saturating_add(self.terms.fee),
            clearing: self.terms.reserve,
            ..board::Line::default()
        };
        let known = self.last.map_or(nothing_yet, |report| board::Line {
            ask: report.outcome.ask.unwrap_or(Price(board::NOT_FOR_SALE)),
            clearing: report.outcome.clearing,
            round: report.round,
            ..board::Line::default()
        });
        let leased: u32 = self.members.iter().map(|member| member.lease.next.0).sum();
        board::Line {
            reserve: self.terms.reserve,
            supply: self.supply_next,
            sold: Quantity(self.bases().0 + leased),
            next_close: self.next_close,
            ledger_head,
            ..known
        }
    }

    /// Whether bases and leases fit into the supply, in the running interval and in the next one. `false` means a fault
    /// in this crate or in memory.
    #[must_use]
    pub fn verify(&self) -> bool {
        let (mut running, mut next) = (0u64, 0u64);
        for member in &self.members {
            running += u64::from(member.lease.base.0) + u64::from(member.lease.running.0);
            next += u64::from(member.lease.base.0) + u64::from(member.lease.next.0);
        }
        let sorted = self.members.is_sorted_by(|a, b| a.account < b.account);
        sorted && running <= u64::from(self.supply_running.0) && next <= u64::from(self.supply_next.0)
    }

    fn find(&self, account: AccountId) -> Result<usize, usize> {
        self.members.binary_search_by_key(&account, |member| member.account)
    }

    /// All bases together; at most the supply.
    fn bases(&self) -> Quantity {
        Quantity(self.members.iter().map(|member| member.lease.base.0).sum())
    }

    fn cause(&self) -> Cause {
        Cause { good: Some(self.terms.good), round: self.round }
    }
}

#[cfg(test)]
mod tests;
