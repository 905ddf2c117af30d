//! What applications ask of the market. Every message may be anything; every answer is an answer to its number.

use crate::archive::GoodKind;
use crate::machine::{Attention, Machine, Peer, Received};
use crate::memory::{LARGE_BITS, PAGE_BITS};
use crate::server::{CLIENT_EVENTS, Cleared, Server, account};
use crate::tenant::Tenant;
use crate::trading::DESK_ROUND;
use alloc::vec::Vec;
use market_mechanism::curve_lane::{Award, Entry, Scratch, Step, steps_needed};
use market_mechanism::rounds::{DeskError, RoundError};
use market_mechanism::{Bid, Credits, Curve, Price, Quantity, RoundNo, Segment, explain};
use proto::console::FromConsole;
use proto::host::End;
use proto::market::{Answer, Explanation, FromMarket, Reason, Refusal, Request, RequestBody};
use proto::storage::storage_units;

/// Requests that a client may make in one interval of pages. What lies beyond is read in the next one.
pub const MAX_REQUESTS: u32 = 128;
/// Messages that are read from one client before the others have their turn.
const BURST: u32 = 16;
/// `round` of a request about the last one.
const LAST_ROUND: u64 = u64::MAX;
/// What a damaged ring counts as.
const DAMAGE: u32 = MAX_REQUESTS;

impl<M: Machine> Server<'_, M> {
    /// True if a client has used up its requests of this interval.
    pub(crate) fn over_limit(&self, tenant: &Tenant) -> bool {
        tenant.requests >= MAX_REQUESTS
    }

    /// Serves every client's requests in turn. True if some are left.
    pub(crate) fn serve_clients(&mut self, events: u64) -> bool {
        let mut more = false;
        for app in 0..self.tenants.len() {
            let signalled = events & 1 << (CLIENT_EVENTS as usize + app) != 0;
            more |= self.serve_client(app, signalled);
            self.begin_intervals();
        }
        more
    }

    fn serve_client(&mut self, app: usize, signalled: bool) -> bool {
        let mut served = 0;
        while served < BURST && self.tenants[app].is_running() && !self.over_limit(&self.tenants[app]) {
            match self.root.machine.receive(Peer::App(app as u16)) {
                Received::Nothing => break,
                Received::Message(bytes, attention) => {
                    self.tenants[app].requests += 1;
                    self.tenants[app].unsignalled |= attention == Attention::Asleep;
                    self.serve_message(app, &bytes);
                }
                Received::Damaged => {
                    self.tenants[app].requests += DAMAGE;
                    self.refuse(app, 0, Refusal::Malformed);
                }
            }
            served += 1;
        }
        if served == 0 && signalled && !self.takes_leases(&self.tenants[app]) {
            // A signal without a message tells that a lease was accepted; this one woke the market for nothing.
            self.tenants[app].requests += 1;
        }
        served == BURST
    }

    fn serve_message(&mut self, app: usize, bytes: &[u8]) {
        match postcard::from_bytes::<Request>(bytes) {
            Ok(request) if self.over_limit(&self.tenants[app]) => {
                // An end is an end, however much was asked before.
                if let RequestBody::Exit { status, work } = request.body {
                    self.exit(app, status, work);
                } else {
                    self.refuse(app, request.number, Refusal::TooManyRequests);
                }
            }
            Ok(request) => {
                if let Some(body) = self.serve(app, request.body) {
                    self.post(app, &FromMarket::Answer { number: request.number, body });
                }
            }
            Err(_) => self.refuse(app, 0, Refusal::Malformed),
        }
    }

    fn refuse(&mut self, app: usize, number: u32, refusal: Refusal) {
        self.post(app, &FromMarket::Answer { number, body: Answer::Refused(refusal) });
    }

    fn exit(&mut self, app: usize, status: u32, work: u64) {
        self.tenants[app].work = work;
        self.end_tenant(app, End::Exit { status });
    }

    /// Serves one request; `None` if there is nobody left to answer.
    fn serve(&mut self, app: usize, body: RequestBody) -> Option<Answer> {
        let done = match body {
            RequestBody::Bid { good, curve, keep, max_payment, valid_until, block_bits } => {
                self.bid(app, good, &curve, keep, max_payment, valid_until, block_bits).map(|()| Answer::Done)
            }
            RequestBody::Desk { good, quantity } => self.desk(app, good, quantity),
            RequestBody::Release { good, leases, quantity } => self.release(app, good, &leases, quantity),
            RequestBody::GiveUp { leases } => self.give_up(app, leases),
            RequestBody::Explain { good, round } => self.explain(app, good, round),
            RequestBody::Estimate { good, quantity } => self.estimate(app, good, quantity),
            RequestBody::Statement { from } => {
                let (balance, escrow) = self.money(app);
                let page = self.tenants[app].movements.page(from);
                Ok(Answer::Statement { balance: balance.0, escrow: escrow.0, paid: self.paid(app), page })
            }
            RequestBody::Exit { status, work } => {
                self.exit(app, status, work);
                return None;
            }
        };
        Some(done.unwrap_or_else(Answer::Refused))
    }

    /// The good, if the application takes part in it.
    fn member(&self, app: usize, good: u16) -> Result<usize, Refusal> {
        let good = usize::from(good);
        let market = self.markets.get(good).ok_or(Refusal::UnknownGood)?;
        market.rounds.lease(account(app)).map(|_| good).ok_or(Refusal::UnknownGood)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn bid(
        &mut self,
        app: usize,
        good: u16,
        curve: &[proto::market::Segment],
        keep: u64,
        max_payment: u64,
        valid_until: u64,
        block_bits: u8,
    ) -> Result<(), Refusal> {
        let good = self.member(app, good)?;
        let is_page = self.markets[good].kind == GoodKind::Page;
        if is_page && !(PAGE_BITS..=LARGE_BITS).contains(&block_bits) {
            return Err(Refusal::BadQuantity);
        }
        let segments: Vec<Segment> = curve
            .iter()
            .map(|segment| Segment { value: Price(segment.value), quantity: Quantity(segment.quantity) })
            .collect();
        let curve = Curve::new(&segments).map_err(|_| Refusal::BadCurve)?;
        // Segments add up: each alone may be small enough.
        if curve.demand().0 > self.room(app, good) {
            return Err(Refusal::BadQuantity);
        }
        let bid = Bid {
            account: account(app),
            curve,
            keep: Price(keep),
            max_payment: Credits(max_payment.into()),
            valid_until: RoundNo(valid_until),
        };
        self.markets[good].rounds.bid(bid).map_err(|error| match error {
            RoundError::Bid(_) => Refusal::BadCurve,
            _ => Refusal::UnknownGood,
        })?;
        if is_page {
            self.tenants[app].block_bits = block_bits;
        }
        Ok(())
    }

    /// Units of a good that an application can have besides its base: one function together with the base, and the namespace
    /// that it asks for.
    fn room(&self, app: usize, good: usize) -> u32 {
        match self.markets[good].kind {
            GoodKind::Vf => {
                let lease = self.markets[good].rounds.lease(account(app)).unwrap_or_default();
                1u32.saturating_sub(lease.base.0)
            }
            GoodKind::Storage => {
                let lease = self.markets[good].rounds.lease(account(app)).unwrap_or_default();
                storage_units(self.plan().apps[app].storage_bytes).saturating_sub(lease.base.0)
            }
            GoodKind::Page | GoodKind::Cpu(_) | GoodKind::Bandwidth | GoodKind::Operations => u32::MAX,
        }
    }

    fn desk(&mut self, app: usize, good: u16, quantity: u32) -> Result<Answer, Refusal> {
        let good = self.member(app, good)?;
        let is_page = self.markets[good].kind == GoodKind::Page;
        let largest = 1 << (LARGE_BITS - PAGE_BITS);
        let lease = self.markets[good].rounds.lease(account(app)).unwrap_or_default();
        let left = self.room(app, good).saturating_sub(lease.running.0.max(lease.next.0));
        if quantity > left || quantity == 0 || is_page && (!quantity.is_power_of_two() || quantity > largest) {
            return Err(Refusal::BadQuantity);
        }
        if self.markets[good].kind == GoodKind::Storage && self.must_wait_for_storage(app) {
            return Err(Refusal::NotAvailable);
        }
        // Deliveries follow from the state after the purchase.
        let mut actions = Vec::new();
        let mut emit = |action| actions.push(action);
        let rounds = &mut self.markets[good].rounds;
        let bought = rounds.buy(account(app), Quantity(quantity), &mut self.ledger, &mut emit);
        self.drain_journal();
        self.write_lines(good, &actions);
        let cost = bought.map_err(|error| match error {
            DeskError::NoSuchMember => Refusal::UnknownGood,
            DeskError::NotOpen | DeskError::NotEnoughUnits { .. } | DeskError::JournalFull => Refusal::NotAvailable,
            DeskError::CannotPay { .. } => Refusal::CannotPay,
        })?;
        let now = self.root.machine.now();
        let from_tsc = if let Some(begins) = self.markets[good].begins {
            // Sold for the interval that is about to begin, and delivered with what was won for it.
            begins
        } else if is_page {
            self.deliver(app, quantity, LARGE_BITS, DESK_ROUND);
            now
        } else {
            self.apply(good);
            match self.markets[good].kind {
                // What it buys holds from the next boundary of its period on.
                GoodKind::Cpu(_) => now.next_multiple_of(self.tenants[app].reservation.1.max(1)),
                GoodKind::Page | GoodKind::Bandwidth | GoodKind::Operations | GoodKind::Vf | GoodKind::Storage => now,
            }
        };
        Ok(Answer::Bought { payment: u64::try_from(cost.0).unwrap_or(u64::MAX), from_tsc })
    }

    fn release(&mut self, app: usize, good: u16, leases: &[u32], quantity: u32) -> Result<Answer, Refusal> {
        let good = self.member(app, good)?;
        if self.markets[good].kind != GoodKind::Page {
            let released = self.markets[good].rounds.release(account(app), Quantity(quantity));
            released.map_err(|_| Refusal::BadQuantity)?;
            self.apply(good);
            return Ok(Answer::Done);
        }
        let leases = self.own_leases(app, leases)?;
        let pages: u32 = leases.iter().map(|lease| self.tenants[app].leases[lease].pages()).sum();
        // What it loses anyway when the next interval begins is not in that interval's books any more.
        let early = pages.saturating_sub(self.excess(app));
        let released = self.markets[good].rounds.release(account(app), Quantity(early));
        released.map_err(|_| Refusal::BadQuantity)?;
        for lease in leases {
            self.take_lease(app, lease);
        }
        Ok(Answer::Done)
    }

    fn give_up(&mut self, app: usize, leases: Vec<u32>) -> Result<Answer, Refusal> {
        self.tenants[app].named = self.own_leases(app, &leases)?;
        Ok(Answer::Done)
    }

    /// Those of these leases, without repetitions, that the application still has, if all of them were its own. An
    /// application deletes what it lets go of before it says so: the books may have been looked at in between, and what
    /// was deleted is gone then.
    fn own_leases(&self, app: usize, leases: &[u32]) -> Result<Vec<u32>, Refusal> {
        let tenant = &self.tenants[app];
        if leases.is_empty() || leases.iter().any(|&lease| lease == 0 || u64::from(lease) >= tenant.next_lease) {
            return Err(Refusal::UnknownLease);
        }
        let mut own: Vec<u32> = leases.iter().copied().filter(|lease| tenant.leases.contains_key(lease)).collect();
        own.sort_unstable();
        own.dedup();
        Ok(own)
    }

    fn explain(&self, app: usize, good: u16, round: u64) -> Result<Answer, Refusal> {
        let market = &self.markets[self.member(app, good)?];
        let wanted = |cleared: &&Cleared| round == LAST_ROUND || cleared.report.round.0 == round;
        let Cleared { report, bids } = market.past.iter().rev().find(wanted).ok_or(Refusal::NotAvailable)?;
        let (entries, awards): (Vec<Entry>, Vec<Award>) = bids.iter().copied().unzip();
        let mine = entries.iter().find(|entry| entry.account == account(app));
        let found = explain::explain(&report.terms, report.round, &entries, &awards, account(app));
        let price = |price: Option<Price>| price.map_or(u64::MAX, |price| price.0);
        Ok(Answer::Explanation(Explanation {
            round: report.round.0,
            wanted: mine.map_or(0, |entry| entry.curve.demand().0),
            won: found.map_or(0, |found| found.quantity.0),
            payment: found.map_or(0, |found| u64::try_from(found.payment.0).unwrap_or(u64::MAX)),
            reason: found.map_or(Reason::NoBid, |found| match found.reason {
                explain::Reason::AllServed => Reason::AllServed,
                explain::Reason::BelowReserve => Reason::BelowReserve,
                explain::Reason::Budget => Reason::Budget,
                explain::Reason::NoSupply => Reason::NoSupply,
                explain::Reason::Outbid => Reason::Outbid,
            }),
            // Who did not bid would have paid what a newcomer pays.
            would_have_won: price(found.map_or(report.outcome.ask, |found| found.winning_value)),
            headroom: found.and_then(|found| found.headroom).map_or(0, |price| price.0),
        }))
    }

    fn estimate(&self, app: usize, good: u16, quantity: u32) -> Result<Answer, Refusal> {
        let market = &self.markets[self.member(app, good)?];
        let report = market.rounds.last().ok_or(Refusal::NotAvailable)?;
        let entries: Vec<Entry> = market.last().iter().map(|(entry, _)| *entry).collect();
        let mut steps = alloc::vec![Step::default(); steps_needed(entries.len())];
        let mut scratch = Scratch { steps: &mut steps, tallies: &mut [] };
        let (terms, round) = (&report.terms, report.round);
        explain::estimate(terms, round, &entries, account(app), Quantity(quantity), &mut scratch)
            .map(|cost| Answer::Estimate { cost: u64::try_from(cost.0).unwrap_or(u64::MAX) })
            .ok_or(Refusal::BadQuantity)
    }

    /// Takes commands that the host sent. True if some are left.
    pub(crate) fn serve_console(&mut self) -> bool {
        for _ in 0..BURST {
            match self.root.machine.receive(Peer::Console) {
                Received::Message(bytes, attention) => {
                    self.console.unsignalled |= attention == Attention::Asleep;
                    match postcard::from_bytes(&bytes) {
                        Ok(FromConsole::Command(command)) => self.obey(&command),
                        Ok(FromConsole::FileDone { .. }) | Err(_) => {}
                    }
                }
                Received::Nothing | Received::Damaged => return false,
            }
        }
        true
    }
}
