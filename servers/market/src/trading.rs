//! Rounds as they fall due: closing them, and doing what comes out.

use crate::archive::GoodKind;
use crate::machine::{Attention, Full, Invoke, Machine};
use crate::memory::{MemoryError, PAGE_BITS};
use crate::root::BOARD_PAGE;
use crate::server::{Market, Phase, Server, account, base_units};
use crate::tenant::{PageLease, State, Tenant};
use alloc::{format, vec::Vec};
use cap_spec::abi::{Error, ObjectType};
use market_mechanism::board::WORDS;
use market_mechanism::curve_lane::{self, Award, Entry, Scratch, Step, Tally, Terms};
use market_mechanism::ledger::Cause;
use market_mechanism::rounds::{Action, Report};
use market_mechanism::types::{Price, Ticks};
use market_mechanism::{Credits, Quantity, RoundNo};
use proto::host::{End, Record};
use proto::market::{FromMarket, Movement};
use proto::storage::UNIT_OPERATIONS;

/// A lease that its tenant does not accept for so long is tried again only when the market wakes for something else.
const ACCEPT_MICROS: u64 = 20_000;
/// `round` of a lease from the desk.
pub const DESK_ROUND: u64 = u64::MAX;

impl<M: Machine> Server<'_, M> {
    /// Closes every round that is due and begins every interval whose time has come, in order of time.
    pub(crate) fn close_rounds(&mut self) {
        while self.phase == Phase::Running {
            let now = self.root.machine.now();
            let begins = self.markets.iter().enumerate().filter_map(|(good, market)| Some((market.begins?, 0, good)));
            let closes = self.markets.iter().enumerate().map(|(good, market)| (market.due(), 1, good));
            match begins.chain(closes).min() {
                Some((at, 0, good)) if at <= now => self.begin_interval(good),
                Some((at, _, good)) if at <= now => {
                    if self.markets[good].kind == GoodKind::Page {
                        self.pay_income();
                    }
                    if !self.close(good, now) {
                        return;
                    }
                }
                _ => break,
            }
        }
        for good in 0..self.markets.len() {
            if self.markets[good].retry {
                self.apply(good);
            }
        }
    }

    /// Closes one round, and does what comes out: notices first, then the price board, then everything else. `false` if
    /// the rules refuse, which ends the run.
    fn close(&mut self, good: usize, now: u64) -> bool {
        if self.markets[good].begins.is_some() {
            // So late that the interval before it has not begun.
            self.begin_interval(good);
        }
        match self.markets[good].kind {
            // There was the whole interval to put limits in force, and to reset functions that changed hands.
            GoodKind::Bandwidth | GoodKind::Operations | GoodKind::Vf | GoodKind::Storage => self.reconcile_ended(good),
            // A market that is late may not have looked at this interval yet. Once the rules have closed the round, what they
            // say is of the next one, and what the kernel says still of this one.
            GoodKind::Cpu(_) => self.reconcile_begun(good),
            GoodKind::Page => {}
        }
        if self.markets[good].kind == GoodKind::Storage {
            self.suspend_waiting(good);
        }
        self.skip_missed(good, now);
        let market = &mut self.markets[good];
        let (nominal, interval) = (market.rounds.next_close(), market.rounds.terms().interval.0);
        let mut actions = Vec::new();
        let closed = market.rounds.close(nominal, &mut self.ledger, &mut self.work, &mut |action| actions.push(action));
        let result_at = self.root.machine.now();
        let report = match closed {
            Ok(report) => report,
            Err(error) => {
                self.fail(format!("round of good {good}: {error}"));
                self.finish(Some("the rules refused a round"));
                return false;
            }
        };
        self.give_notice(good, report.round, &actions, result_at);
        let noticed_at = self.root.machine.now();
        self.publish(good);
        let market = &mut self.markets[good];
        market.keep(report, self.work.entries().iter().copied().zip(self.work.awards().iter().copied()));
        market.warn_at = nominal.0 + interval / 2;
        self.drain_journal();
        self.write_lines(good, &actions);
        self.perform(&actions);
        match self.markets[good].kind {
            GoodKind::Page | GoodKind::Vf | GoodKind::Storage => {
                self.markets[good].begin_after(nominal.0, interval, noticed_at)
            }
            GoodKind::Cpu(_) | GoodKind::Bandwidth | GoodKind::Operations => {
                self.apply(good);
                self.markets[good].unreconciled = true;
            }
        }
        self.count_holdings(good);
        self.tell_results(good, &report);
        self.record_round(good, &report);
        true
    }

    /// Tells everybody who loses something, and wakes those who sleep.
    fn give_notice(&mut self, good: usize, round: RoundNo, actions: &[Action], result_at: u64) {
        for action in actions {
            if let Action::Notice { account, units, deadline } = *action {
                let notice =
                    FromMarket::Notice { good: good as u16, round: round.0, units: units.0, deadline_tsc: deadline.0 };
                self.post_urgent(account.0 as usize, &notice);
                self.signal_tenant(account.0 as usize);
                self.tally.slowest_notice = self.tally.slowest_notice.max(self.root.machine.now() - result_at);
            }
        }
    }

    /// Rounds stay on their grid. When the market was held up for whole intervals, these pass without a round and without
    /// a charge; what was held was held on.
    fn skip_missed(&mut self, good: usize, now: u64) {
        let interval_ms = u64::from(self.plan().goods[good].interval_ms);
        let market = &mut self.markets[good];
        let missed = now.saturating_sub(market.rounds.next_close().0) / market.rounds.terms().interval.0;
        if missed == 0 {
            return;
        }
        market.skipped += missed;
        market.rounds.skip(missed);
        let kind = market.kind;
        for (account, lease) in market.rounds.leases() {
            let held = u64::from(lease.running.0) * interval_ms * missed;
            let tenant = &mut self.tenants[account.0 as usize];
            match kind {
                GoodKind::Page => tenant.page_ms += held,
                GoodKind::Bandwidth => tenant.kilobits += held,
                GoodKind::Operations => tenant.operations += held * UNIT_OPERATIONS / 1_000,
                // What it bought counts, and it paid for nothing.
                GoodKind::Cpu(_) | GoodKind::Vf | GoodKind::Storage => {}
            }
        }
    }

    fn perform(&mut self, actions: &[Action]) {
        let mut stopped = Vec::new();
        for action in actions {
            match *action {
                // Notice was given; pages move when their interval begins, reservations are set for all together.
                Action::Notice { .. } | Action::ForcedShrink { .. } | Action::Grow { .. } => {}
                Action::StopNotice { account, deadline } => {
                    let name = self.name(account.0 as usize);
                    self.say(&format!("{name} cannot pay its base and will be stopped"));
                    self.post_urgent(account.0 as usize, &FromMarket::StopNotice { deadline_tsc: deadline.0 });
                }
                Action::StopCancelled { account } => {
                    let name = self.name(account.0 as usize);
                    self.say(&format!("{name} can pay its base again"));
                }
                Action::Stop { account } => stopped.push(account.0 as usize),
                Action::Charge { .. } | Action::Refund { .. } | Action::Penalty { .. } => {}
            }
        }
        for app in stopped {
            self.end_tenant(app, End::Unpaid);
        }
    }

    /// Makes leases of `units` pages in blocks of at most 2^`bits` bytes and sends them on their way.
    pub(crate) fn deliver(&mut self, app: usize, units: u32, bits: u8, round: u64) {
        let (mut left, mut bits) = (units, bits);
        while left > 0 && self.tenants[app].is_running() {
            bits = bits.min(PAGE_BITS + left.ilog2() as u8);
            match self.make_lease(bits, round) {
                Ok(lease) => {
                    let tenant = &mut self.tenants[app];
                    let number = tenant.take_lease_number();
                    tenant.leases.insert(number, lease);
                    tenant.waiting.push_back(number);
                    tenant.granted = self.root.machine.now();
                    left -= lease.pages();
                }
                // Enough pages are free, but not in one piece.
                Err(MemoryError::NoMemory) if bits > PAGE_BITS => bits -= 1,
                Err(error) => {
                    self.fail(format!("{left} pages for application {app} cannot be delivered: {error:?}"));
                    self.pay_back(app, left);
                    return;
                }
            }
        }
    }

    /// The market cannot give an application pages that it has paid for: it pays them back, with the penalty.
    fn pay_back(&mut self, app: usize, units: u32) {
        let (good, units, now) = (0, Quantity(units), Ticks(self.root.machine.now()));
        let mut actions = Vec::new();
        let rounds = &mut self.markets[good].rounds;
        let withdrawn = rounds.withdrawal(account(app), units, now).and_then(|(amount, penalty)| {
            let lacking = amount + penalty - self.ledger.treasury();
            if lacking > Credits::ZERO {
                // The operator has not earned so much yet.
                self.ledger.add_capital(lacking)?;
                self.paid_in += lacking;
            }
            let emit = &mut |action| actions.push(action);
            rounds.withdraw(account(app), units, now, &mut self.ledger, emit).map(|()| amount + penalty)
        });
        self.drain_journal();
        self.write_lines(good, &actions);
        let (units, name) = (units.0, self.name(app));
        match withdrawn {
            Ok(amount) => self.say(&format!("{name} is paid {amount} credits back for {units} pages")),
            Err(error) => self.fail(format!("{units} pages cannot be paid back to {name}: {error}")),
        }
    }

    fn make_lease(&mut self, bits: u8, round: u64) -> Result<PageLease, MemoryError> {
        let block = self.root.take(bits)?;
        let made =
            self.root.make(self.root.memory.slot(block), ObjectType::Untyped, bits).and_then(|handle| {
                match self.root.make(handle, ObjectType::Untyped, bits) {
                    Ok(lease) => Ok(PageLease { block, handle, bits, waiting: Some(lease), round }),
                    Err(error) => self.root.drop_slot(handle).and(Err(error)),
                }
            });
        made.or_else(|error| self.root.give(block).and(Err(error)))
    }

    /// Makes what holders may use of CPU time, bandwidth, operations, functions or namespaces what they have by the ledger. Pages move when their
    /// interval begins.
    pub(crate) fn apply(&mut self, good: usize) {
        match self.markets[good].kind {
            GoodKind::Page => {}
            GoodKind::Vf => self.move_vfs(),
            GoodKind::Storage => self.move_namespaces(),
            GoodKind::Cpu(_) => self.apply_time(good),
            GoodKind::Bandwidth => self.apply_limits(good),
            GoodKind::Operations => self.apply_operations(good),
        }
    }

    /// Sets every reservation of a core to what its holder has: first those that shrink, as their share is what the
    /// others grow by.
    fn apply_time(&mut self, good: usize) {
        let interval_ms = self.plan().goods[good].interval_ms;
        let mut changes = Vec::new();
        for (app, tenant) in self.tenants.iter().enumerate().filter(|(_, tenant)| tenant.is_running()) {
            if usize::from(self.archive.cpu_goods[app]) != good {
                continue;
            }
            let Some(lease) = self.markets[good].rounds.lease(account(app)) else { continue };
            let wanted = self.clock.reservation(lease.base.0 + lease.running.0, interval_ms);
            if wanted != tenant.reservation {
                let share = |(budget, period): (u64, u64)| (u128::from(budget) << 32) / u128::from(period.max(1));
                let grows = share(wanted) > share(tenant.reservation);
                changes.push((grows, app, wanted));
            }
        }
        changes.sort_unstable();
        self.markets[good].retry = false;
        for (_, app, wanted) in changes {
            match self.root.machine.resize_time(self.tenants[app].time, wanted.0, wanted.1) {
                Ok(()) => (self.tenants[app].reservation, self.tenants[app].usage) = (wanted, None),
                Err(fault) if fault.error == Error::NotAdmitted => self.markets[good].retry = true,
                Err(fault) => self.fail(format!("CPU time of application {app}: {fault:?}")),
            }
        }
    }

    /// Adds what is held in the interval that begins to what is reported at the end.
    fn count_holdings(&mut self, good: usize) {
        let interval_ms = u64::from(self.plan().goods[good].interval_ms);
        let frames = interval_ms / crate::clock::FRAME_MS;
        let unit = self.clock.unit();
        let market = &self.markets[good];
        for (account, lease) in market.rounds.leases() {
            let Some(tenant) = self.tenants.get_mut(account.0 as usize) else { continue };
            let units = u64::from(lease.running.0);
            match market.kind {
                GoodKind::Page => tenant.page_ms += units * interval_ms,
                GoodKind::Cpu(_) => tenant.cpu_ticks += units * unit * frames,
                GoodKind::Bandwidth => tenant.kilobits += units * interval_ms,
                GoodKind::Operations => tenant.operations += units * interval_ms * UNIT_OPERATIONS / 1_000,
                // It is seen in the rounds; it is one or none, and a whole namespace or none.
                GoodKind::Vf | GoodKind::Storage => {}
            }
        }
    }

    /// Tells everybody who bids or holds something how the round went.
    fn tell_results(&mut self, good: usize, report: &Report) {
        for app in 0..self.tenants.len() {
            let market = &self.markets[good];
            let Some(lease) = market.rounds.lease(account(app)) else { continue };
            let award = market.last().iter().find(|(entry, _)| entry.account == account(app)).map(|(_, award)| *award);
            if award.is_none() && lease.running.0 == 0 && lease.next.0 == 0 {
                continue;
            }
            let payment = award.map_or(0, |award| u64::try_from(award.payment.0).unwrap_or(u64::MAX));
            let message = FromMarket::Round {
                good: good as u16,
                round: report.round.0,
                holding: lease.next.0,
                payment,
                balance: self.ledger.free(account(app)).0,
            };
            self.post(app, &message);
        }
    }

    fn record_round(&mut self, good: usize, report: &Report) {
        let market = &self.markets[good];
        let line = market.rounds.board_line(0);
        let holding = |app| market.rounds.lease(account(app)).map_or(0, |lease| lease.next.0);
        let record = Record::Round {
            t: self.micros(),
            good: good as u16,
            round: report.round.0,
            ask: line.ask.0,
            clearing: line.clearing.0,
            supply: line.supply.0,
            sold: line.sold.0,
            holdings: (0..self.tenants.len()).map(holding).collect(),
            paid: market.last().iter().map(|(_, award)| award.payment.0).sum(),
        };
        self.record(record);
    }

    /// Writes a good's line on the price board.
    pub(crate) fn publish(&mut self, good: usize) {
        let market = &self.markets[good];
        let mut line = market.rounds.board_line(self.ledger.head());
        line.next_close = Ticks(market.due());
        let at = |word: usize| BOARD_PAGE + ((good * WORDS + word) * size_of::<u64>()) as u64;
        // The protocol of `market_mechanism::board::publish`: word 1 is odd while the others are written.
        let machine = &mut self.root.machine;
        let sequence = machine.read_word(at(1)) | 1;
        machine.write_word(at(1), sequence);
        for (word, value) in line.encode().into_iter().enumerate().filter(|(word, _)| *word != 1) {
            machine.write_word(at(word), value);
        }
        machine.write_word(at(1), sequence.wrapping_add(1));
    }

    /// What an application's base costs in an interval of a good.
    pub(crate) fn base_charge(&self, app: usize, good: usize) -> Credits {
        let units = base_units(&self.archive, app, &self.tenants[app], good).unwrap_or(0);
        Credits::of(Price(self.plan().goods[good].base_price), Quantity(units))
    }

    /// An application's income in a second, in 1e-15 credits.
    pub(crate) fn income(&self, app: usize) -> i128 {
        let plan = &self.plan().apps[app];
        if !plan.income_covers_base {
            return plan.income_per_second;
        }
        let costs = self.plan().goods.iter().enumerate().map(|(good, of)| {
            let interval = i128::from(of.interval_ms);
            (self.base_charge(app, good).0 * 1_000 + interval - 1) / interval
        });
        plan.income_per_second.max(costs.sum())
    }

    /// Credits what has been earned since the start of the run, to the last whole unit.
    fn pay_income(&mut self) {
        let now = self.root.machine.now();
        let elapsed = i128::from(now.saturating_sub(self.clock.epoch));
        for app in 0..self.tenants.len() {
            let rate = self.income(app);
            let tenant = &mut self.tenants[app];
            if rate == 0 || !tenant.is_running() {
                continue;
            }
            let hz = i128::from(self.clock.tsc_hz);
            // Whole and rest apart: the product of a rate of 96 bits and a time of 64 would not fit.
            let due = rate / hz * elapsed + rate % hz * elapsed / hz;
            let amount = Credits(due - tenant.income);
            tenant.income = due;
            let cause = Cause { good: None, round: self.markets[0].rounds.round() };
            match self.ledger.income(account(app), amount, cause) {
                Ok(()) => {
                    self.paid_in += amount;
                    self.write_payment(app, Movement::Income, amount);
                }
                Err(error) => self.fail(format!("income of application {app}: {error}")),
            }
            self.drain_journal();
        }
    }

    pub(crate) fn end_page_interval(&mut self) {
        for tenant in &mut self.tenants {
            tenant.requests = 0;
        }
        self.look_for_destroyed();
        self.reconcile_good(0);
        self.check_books();
        self.report_accounts();
        self.report_use();
    }

    /// In the middle of an interval, tells who would lose units if the next round were closed with the present bids.
    pub(crate) fn warn(&mut self) {
        let now = self.root.machine.now();
        for good in 0..self.markets.len() {
            if self.markets[good].warn_at > now || self.phase != Phase::Running {
                continue;
            }
            self.markets[good].warn_at = u64::MAX;
            let entries = self.standing(good);
            if entries.iter().all(|entry| entry.held.0 == 0) {
                continue;
            }
            let market = &self.markets[good];
            let Some(report) = market.rounds.last() else { continue };
            let Some(awards) = try_round(&report.terms, market.rounds.round(), &entries) else { continue };
            for (entry, award) in entries.iter().zip(awards) {
                let units = entry.held.saturating_sub(award.quantity);
                if units.0 > 0 {
                    let warning = FromMarket::AtRisk { good: good as u16, units: units.0 };
                    self.post(entry.account.0 as usize, &warning);
                }
            }
        }
    }

    /// The standing bids of a good as they would count now.
    fn standing(&self, good: usize) -> Vec<Entry> {
        let Market { rounds, .. } = &self.markets[good];
        let entry = |(account, lease): (_, market_mechanism::rounds::Lease)| {
            let bid = rounds.standing_bid(account).filter(|bid| bid.valid_until >= rounds.round())?;
            let budget = bid.max_payment.min(self.ledger.free(account));
            Some(Entry { account, held: lease.next, keep: bid.keep, budget, curve: bid.curve })
        };
        rounds.leases().filter_map(entry).collect()
    }

    /// Sends a message to a tenant, at once if its ring has room.
    pub(crate) fn post(&mut self, app: usize, message: &FromMarket) {
        let Some(tenant) = self.tenants.get_mut(app).filter(|tenant| tenant.is_running()) else { return };
        let Ok(bytes) = postcard::to_allocvec(message) else { return };
        // Messages keep their order: what waits goes first.
        let sent = if tenant.outbox.is_empty() { self.root.machine.send(Self::peer(app), &bytes) } else { Err(Full) };
        match sent {
            Ok(attention) => tenant.unsignalled |= attention == Attention::Asleep,
            Err(Full) => tenant.queue(bytes),
        }
    }

    /// Sends a message that must not wait until the tenant looks: it is signalled even if it does not sleep, which
    /// interrupts it if it has asked for that.
    pub(crate) fn post_urgent(&mut self, app: usize, message: &FromMarket) {
        self.post(app, message);
        if let Some(tenant) = self.tenants.get_mut(app).filter(|tenant| tenant.is_running()) {
            tenant.unsignalled = true;
        }
    }

    /// Moves what waits for a tenant: messages into its ring, then leases into its channel. True if it should be tried
    /// again soon.
    pub(crate) fn flush_tenant(&mut self, app: usize) -> bool {
        let tenant = &mut self.tenants[app];
        let State::Running(running) = &tenant.state else { return false };
        let channel = running.channel;
        while let Some(message) = tenant.outbox.front() {
            if self.root.machine.send(Self::peer(app), message).is_err() {
                break;
            }
            // Something urgent may be among what had no room.
            tenant.unsignalled = true;
            tenant.outbox.pop_front();
        }
        while self.tenants[app].outbox.is_empty() && (self.grant_next(app, channel) || self.grant_vf_part(app, channel))
        {
        }
        self.signal_tenant(app);
        let tenant = &self.tenants[app];
        let left = !(tenant.waiting.is_empty() && tenant.vf_parts.is_empty() && tenant.outbox.is_empty());
        left && self.takes_leases(&self.tenants[app])
    }

    /// Wakes a tenant that sleeps on what was put into its ring.
    pub(crate) fn signal_tenant(&mut self, app: usize) {
        let tenant = &mut self.tenants[app];
        if let State::Running(running) = &tenant.state
            && core::mem::take(&mut tenant.unsignalled)
        {
            // A Vcpu that is gone is found by its handler page.
            let _ = self.root.machine.signal(running.channel);
        }
    }

    /// True while a tenant accepts what is on its way to it.
    pub(crate) fn takes_leases(&self, tenant: &Tenant) -> bool {
        self.root.machine.now().saturating_sub(tenant.granted) < self.clock.span(ACCEPT_MICROS)
    }

    /// Moves the next waiting lease into the channel, if the one before was accepted.
    fn grant_next(&mut self, app: usize, channel: crate::machine::Slot) -> bool {
        let Some(&number) = self.tenants[app].waiting.front() else { return false };
        let Some(lease) = self.tenants[app].leases.get(&number).copied() else { return false };
        let Some(slot) = lease.waiting else { return false };
        if self.root.machine.grant_moving(channel, slot).is_err() {
            return false;
        }
        self.root.memory.slots.give(slot);
        let tenant = &mut self.tenants[app];
        tenant.waiting.pop_front();
        tenant.granted = self.root.machine.now();
        if let Some(lease) = tenant.leases.get_mut(&number) {
            lease.waiting = None;
        }
        self.post(app, &FromMarket::Lease { lease: number, bits: lease.bits, round: lease.round });
        true
    }
}

/// What these bids would get on these terms, without any consequence. `None` if they cannot be cleared.
pub(crate) fn try_round(terms: &Terms, round: RoundNo, entries: &[Entry]) -> Option<Vec<Award>> {
    let mut steps = alloc::vec![Step::default(); curve_lane::steps_needed(entries.len())];
    let mut tallies = alloc::vec![Tally::default(); curve_lane::tallies_needed(entries.len())];
    let mut awards = alloc::vec![Award::default(); entries.len()];
    let mut scratch = Scratch { steps: &mut steps, tallies: &mut tallies };
    curve_lane::clear(terms, round, entries, &mut scratch, &mut awards).ok()?;
    Some(awards)
}
