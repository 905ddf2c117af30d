//! The rounds of one good over time: standing bids, leases, notices, charges, the base and (in [`desk`]) what happens
//! between rounds.
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
//! Guarantees:
//! - A lease shrinks only after a notice of at least one full interval: `close` is refused before the time it stated,
//!   and when it comes late, the next one moves with it.
//! - Whatever is delivered was charged before. No account falls below 0; no round costs more than `max_payment`.
//! - Leases and bases together never exceed the supply of their interval ([`Rounds::verify`]).
//! - A base is delivered as long as it is paid. When it can't be paid, its owner gets a notice of
//!   [`GoodTerms::stop_notice`] intervals, during which the base goes on, paid from a deposit.

mod desk;

pub use desk::{Desk, DeskError, Returned};

use core::fmt;

use heapless::Vec;

use crate::board;
use crate::curve_lane::{self, Award, ClearError, Entry, Outcome, STEPS_PER_BID, Scratch, Step, Tally, Terms};
use crate::ledger::{Cause, Ledger, LedgerError};
use crate::types::{AccountId, Bid, Credits, CurveError, GoodId, Price, Quantity, RoundNo, Ticks};

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

/// What has to be done, or was done to an account's money, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take these units now: their notice has run out, or the operator needs them.
    ForcedShrink {
        /// Whose.
        account: AccountId,
        /// How many.
        units: Quantity,
    },
    /// Deliver these units now; they are paid.
    Grow {
        /// To whom.
        account: AccountId,
        /// How many.
        units: Quantity,
    },
    /// Tell the account to give up units of its choice.
    Notice {
        /// Whom.
        account: AccountId,
        /// How many.
        units: Quantity,
        /// Not before this time is anything taken.
        deadline: Ticks,
    },
    /// The account paid for an interval to come, or on the desk.
    Charge {
        /// Who.
        account: AccountId,
        /// For what.
        purpose: Purpose,
        /// Of which interval; the first one for a purchase on the desk.
        interval: RoundNo,
        /// How many units.
        units: Quantity,
        /// For all of them.
        amount: Credits,
    },
    /// The account was paid back.
    Refund {
        /// Who.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// The account was paid for a lease that the operator broke.
    Penalty {
        /// Who.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// The base could not be paid: tell the account that it is stopped at the deadline unless it is topped up.
    StopNotice {
        /// Whom.
        account: AccountId,
        /// When.
        deadline: Ticks,
    },
    /// The base was paid after all.
    StopCancelled {
        /// Whose.
        account: AccountId,
    },
    /// Stop the account's VM, take back everything, then call [`Rounds::remove`] for each good.
    Stop {
        /// Which.
        account: AccountId,
    },
}

/// What a charge was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The base, at contract price.
    Base,
    /// Units won in a round.
    Lease,
    /// Units bought between rounds.
    Desk,
}

/// Why an event was refused. It then changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundError {
    /// The account takes no part in this good.
    NoSuchMember,
    /// The account takes part already.
    AlreadyMember,
    /// All slots are taken.
    TooManyMembers,
    /// The supply does not reach for all bases.
    NoRoom,
    /// The bid breaks a rule.
    Bid(CurveError),
    /// The round must not close yet: a notice is still running.
    TooEarly {
        /// When it may.
        earliest: Ticks,
    },
    /// A price above [`Price::LIMIT`], an interval of 0 or a stop notice of 0.
    BadTerms,
    /// The ledger refused.
    Ledger(LedgerError),
    /// The round cannot be cleared. Never returned while [`Rounds`] is used through its methods.
    Clear(ClearError),
}

impl fmt::Display for RoundError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoundError::NoSuchMember => out.write_str("the account takes no part in this good"),
            RoundError::AlreadyMember => out.write_str("the account takes part already"),
            RoundError::TooManyMembers => out.write_str("all slots are taken"),
            RoundError::NoRoom => out.write_str("the supply does not reach for all bases"),
            RoundError::Bid(error) => write!(out, "bid: {error}"),
            RoundError::TooEarly { earliest } => {
                write!(out, "the round closes at {} at the earliest", earliest.0)
            }
            RoundError::BadTerms => out.write_str("price above the limit, or interval or stop notice of 0"),
            RoundError::Ledger(error) => write!(out, "ledger: {error}"),
            RoundError::Clear(error) => write!(out, "clearing: {error}"),
        }
    }
}

impl core::error::Error for RoundError {}

impl From<LedgerError> for RoundError {
    fn from(error: LedgerError) -> RoundError {
        RoundError::Ledger(error)
    }
}

/// What an account holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Paid at contract price, never auctioned.
    pub base: Quantity,
    /// Units above the base in the interval that is running.
    pub running: Quantity,
    /// Units above the base in the interval after it.
    pub next: Quantity,
}

impl Lease {
    /// How many units the account has to give up by the end of the running interval.
    #[must_use]
    pub fn under_notice(&self) -> Quantity {
        self.running.saturating_sub(self.next)
    }
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
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Workspace {
            entries: Vec::new(),
            awards: [Award::default(); N],
            steps: [[Step::default(); STEPS_PER_BID]; N],
            tallies: [[Tally::default(); STEPS_PER_BID + 1]; N],
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

    /// Takes an account in, with `base` units at `base_price` per unit and interval. Charges the base for the intervals
    /// that no round will charge any more (the running one and the next), and the deposit for a stop notice.
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
        let due = Credits::of(base_price, base);
        let intervals = if self.last.is_some() { 2 } else { 1 };
        let first = Credits(due.0 * intervals);
        let deposit = Credits(due.0 * i128::from(self.terms.stop_notice - 1));
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

    /// Closes the round as the module says. `now` is the present time; actions come out in the order to do them.
    ///
    /// # Errors
    /// [`RoundError::TooEarly`]; [`LedgerError::JournalFull`] when fewer than [`POSTINGS_PER_MEMBER`] postings per member
    /// fit.
    pub fn close<const A: usize, const J: usize>(
        &mut self,
        now: Ticks,
        ledger: &mut Ledger<A, J>,
        work: &mut Workspace<N>,
        emit: &mut impl FnMut(Action),
    ) -> Result<Report, RoundError> {
        if now < self.next_close {
            let earliest = self.next_close;
            return Err(RoundError::TooEarly { earliest });
        }
        if ledger.journal_room() < POSTINGS_PER_MEMBER * self.members.len() {
            return Err(LedgerError::JournalFull.into());
        }
        let deadline = now.saturating_add(self.terms.interval);
        self.begin_interval(emit);
        self.collect_bases(now, ledger, emit)?;
        self.supply_next = self.supply;
        let terms = Terms {
            supply: self.supply.saturating_sub(self.bases()),
            reserve: self.terms.reserve,
            fee: self.terms.fee,
        };
        self.set_aside(ledger, work)?;
        let Workspace { entries, awards, steps, tallies } = work;
        let mut scratch = Scratch { steps: steps.as_flattened_mut(), tallies: tallies.as_flattened_mut() };
        let outcome =
            curve_lane::clear(&terms, self.round, entries, &mut scratch, awards).map_err(RoundError::Clear)?;
        self.settle(ledger, work, emit)?;
        for member in &self.members {
            let units = member.lease.under_notice();
            if units > Quantity::ZERO {
                emit(Action::Notice { account: member.account, units, deadline });
            }
        }
        let report = Report { round: self.round, terms, outcome };
        self.clearing_running = self.clearing_next;
        self.clearing_next = outcome.clearing;
        self.last = Some(report);
        self.round = self.round.next();
        self.next_close = deadline;
        Ok(report)
    }

    /// Steps 1 and 2: the interval that was next begins.
    fn begin_interval(&mut self, emit: &mut impl FnMut(Action)) {
        for member in &mut self.members {
            let account = member.account;
            let units = member.lease.under_notice();
            if units > Quantity::ZERO {
                emit(Action::ForcedShrink { account, units });
                member.lease.running = member.lease.next;
            }
        }
        for member in &mut self.members {
            let account = member.account;
            let units = member.lease.next.saturating_sub(member.lease.running);
            if units > Quantity::ZERO {
                emit(Action::Grow { account, units });
                member.lease.running = member.lease.next;
            }
            member.paid_running = member.paid_next;
            member.paid_next = Paid::default();
        }
        self.supply_running = self.supply_next;
        self.claims.advance();
    }

    /// Step 3: the bases of the interval after the one that begins.
    fn collect_bases<const A: usize, const J: usize>(
        &mut self,
        now: Ticks,
        ledger: &mut Ledger<A, J>,
        emit: &mut impl FnMut(Action),
    ) -> Result<(), RoundError> {
        let cause = self.cause();
        let (round, terms) = (self.round, self.terms);
        for member in &mut self.members {
            if member.stopped {
                continue;
            }
            let (account, units) = (member.account, member.lease.base);
            let due = member.base_due();
            let full_deposit = Credits(due.0 * i128::from(terms.stop_notice - 1));
            let refill = full_deposit - member.deposit;
            let owed = if member.base_owed { due } else { Credits::ZERO };
            let mut charged = |interval, amount: Credits| {
                if amount > Credits::ZERO {
                    emit(Action::Charge { account, purpose: Purpose::Base, interval, units, amount });
                }
            };
            if ledger.free(account) >= due + owed + refill {
                ledger.pay(account, owed, cause)?;
                charged(round, owed);
                ledger.pay(account, due, cause)?;
                charged(round.next(), due);
                ledger.escrow(account, refill, cause)?;
                member.deposit = full_deposit;
                member.base_owed = false;
                if member.stop_before.take().is_some() {
                    emit(Action::StopCancelled { account });
                }
            } else if member.stop_before.is_some_and(|interval| interval <= round) {
                ledger.release(account, member.deposit, cause)?;
                member.deposit = Credits::ZERO;
                member.stopped = true;
                emit(Action::Stop { account });
            } else {
                if member.deposit >= due {
                    ledger.charge(account, due, cause)?;
                    member.deposit -= due;
                    charged(round.next(), due);
                } else {
                    member.base_owed = true;
                }
                if member.stop_before.is_none() {
                    let span = terms.interval.0.saturating_mul(u64::from(terms.stop_notice));
                    member.stop_before = Some(RoundNo(round.0 + u64::from(terms.stop_notice)));
                    emit(Action::StopNotice { account, deadline: now.saturating_add(Ticks(span)) });
                }
            }
        }
        Ok(())
    }

    /// Step 4, before clearing: the bids that count, each with its budget set aside.
    fn set_aside<const A: usize, const J: usize>(
        &mut self,
        ledger: &mut Ledger<A, J>,
        work: &mut Workspace<N>,
    ) -> Result<(), RoundError> {
        let (cause, round) = (self.cause(), self.round);
        work.entries.clear();
        for member in &mut self.members {
            if member.bid.is_some_and(|bid| bid.valid_until < round) {
                member.bid = None;
            }
            // Who cannot pay its base must not spend on anything else.
            let Some(bid) = member.bid.filter(|_| member.stop_before.is_none()) else {
                continue;
            };
            let budget = bid.max_payment.min(ledger.free(member.account));
            ledger.escrow(member.account, budget, cause)?;
            let entry =
                Entry { account: member.account, held: member.lease.next, keep: bid.keep, budget, curve: bid.curve };
            work.entries.push(entry).map_err(|_| RoundError::TooManyMembers)?;
        }
        Ok(())
    }

    /// Step 4, after clearing: charges, releases the rest, and writes the leases of the interval sold.
    fn settle<const A: usize, const J: usize>(
        &mut self,
        ledger: &mut Ledger<A, J>,
        work: &Workspace<N>,
        emit: &mut impl FnMut(Action),
    ) -> Result<(), RoundError> {
        let cause = self.cause();
        for member in &mut self.members {
            member.lease.next = Quantity::ZERO;
        }
        for (entry, award) in work.entries().iter().zip(work.awards()) {
            let account = award.account;
            ledger.charge(account, award.payment, cause)?;
            ledger.release(account, entry.budget - award.payment, cause)?;
            let at = self.find(account).map_err(|_| RoundError::NoSuchMember)?;
            self.members[at].lease.next = award.quantity;
            self.members[at].paid_next.add(award.quantity, award.payment);
            if award.quantity > Quantity::ZERO {
                emit(Action::Charge {
                    account,
                    purpose: Purpose::Lease,
                    interval: self.round.next(),
                    units: award.quantity,
                    amount: award.payment,
                });
            }
        }
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
