//! Closing a round, in the order that [`super`] states.

use super::{Action, POSTINGS_PER_MEMBER, Paid, Purpose, Report, RoundError, Rounds, Workspace};
use crate::curve_lane::{self, Entry, Scratch, Terms};
use crate::ledger::{Ledger, LedgerError};
use crate::types::{Credits, Quantity, RoundNo, Ticks};

impl<const N: usize> Rounds<N> {
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
            let Some(bid) = member.bid.filter(|_| member.stop_before.is_none() && !member.suspended) else {
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
        // Entries are in the order of the members, and not every member has one.
        let mut cleared = work.entries().iter().zip(work.awards()).peekable();
        for member in &mut self.members {
            let account = member.account;
            let Some((entry, award)) = cleared.next_if(|(entry, _)| entry.account == account) else {
                member.lease.next = Quantity::ZERO;
                continue;
            };
            ledger.charge(account, award.payment, cause)?;
            ledger.release(account, entry.budget - award.payment, cause)?;
            member.lease.next = award.quantity;
            member.paid_next.add(award.quantity, award.payment);
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
}
