//! Random markets over time, watched by an auditor who sees only the actions and the postings and keeps books of its own.
//!
//! After every event the auditor checks that
//! - no unit is in two hands: what was delivered and not taken or given back, with all bases, fits into the supply;
//! - what an account has is what the rounds say it has;
//! - nothing was taken without a notice of one full interval (except what the operator withdraws), and never more than
//!   the notice said;
//! - every unit in use in an interval was charged before that interval began, or on the desk;
//! - no round charged an account more than its `max_payment`; no balance fell below 0;
//! - money is conserved, every balance equals what the actions say, and escrow holds the deposits and nothing else.

mod common;

use std::collections::BTreeMap;

use common::{Random, random_curve};
use market_mechanism::ledger::{Cause, Ledger, LedgerError};
use market_mechanism::rounds::{Action, GoodTerms, POSTINGS_PER_MEMBER, Purpose, RoundError, Rounds, Workspace};
use market_mechanism::{AccountId, Bid, Credits, GoodId, Price, Quantity, RoundNo, Ticks};

const MEMBERS: usize = 4;
const JOURNAL: usize = POSTINGS_PER_MEMBER * MEMBERS;

type Money = Ledger<6, JOURNAL>;

/// One account as the auditor knows it.
#[derive(Default)]
struct Books {
    /// Money it must have, free and escrowed together.
    money: i128,
    /// Units in its hands, above the base.
    units: u32,
    base: u32,
    /// Units it was told to give up and still has, by the deadline.
    notice: Option<(u32, u64)>,
    /// Units charged for each interval.
    charged: BTreeMap<u64, u32>,
    max_payment: i128,
    stopped: bool,
}

#[derive(Default)]
struct Auditor {
    books: BTreeMap<u32, Books>,
    /// Actions met, by name, so that a test that never meets one is noticed.
    met: BTreeMap<String, u64>,
    broken_by_operator: bool,
}

impl Auditor {
    fn book(&mut self, account: AccountId) -> &mut Books {
        self.books.get_mut(&account.0).expect("an action for an account that takes part")
    }

    /// One action at `now`, in the interval `running`.
    fn see(&mut self, action: Action, now: u64, interval_ticks: u64) {
        let name = format!("{action:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default().to_string();
        *self.met.entry(name).or_default() += 1;
        match action {
            Action::ForcedShrink { account, units } => {
                let operator = self.broken_by_operator;
                let book = self.book(account);
                book.units -= units.0;
                if !operator {
                    let (noticed, deadline) = book.notice.take().expect("a notice before force");
                    assert!(units.0 <= noticed && deadline <= now);
                }
            }
            Action::Grow { account, units } => self.book(account).units += units.0,
            Action::Notice { account, units, deadline } => {
                assert!(deadline.0 >= now + interval_ticks, "a full interval");
                self.book(account).notice = Some((units.0, deadline.0));
            }
            Action::Charge { account, purpose, interval, units, amount } => {
                let book = self.book(account);
                book.money -= amount.0;
                match purpose {
                    Purpose::Base => assert_eq!(units.0, book.base),
                    Purpose::Lease => {
                        assert!(amount.0 <= book.max_payment);
                        *book.charged.entry(interval.0).or_default() += units.0;
                    }
                    Purpose::Desk => {
                        *book.charged.entry(interval.0).or_default() += units.0;
                        *book.charged.entry(interval.0 + 1).or_default() += units.0;
                    }
                }
            }
            Action::Refund { account, amount } | Action::Penalty { account, amount } => {
                assert!(amount > Credits::ZERO);
                self.book(account).money += amount.0;
            }
            Action::StopNotice { account, deadline } => {
                assert!(deadline.0 >= now + interval_ticks);
                assert!(!self.book(account).stopped);
            }
            Action::StopCancelled { account } => assert!(!self.book(account).stopped),
            Action::Stop { account } => self.book(account).stopped = true,
        }
    }

    /// Whether what was delivered fits into the supply at this moment.
    fn fits(&self, supply: u32) -> bool {
        self.books.values().map(|book| book.units + book.base).sum::<u32>() <= supply
    }
}

/// Escrow holds the deposits and nothing else: what a round set aside was charged or released.
fn escrow_is_deposits(money: &Money, deposit: impl Fn(AccountId) -> Credits) -> bool {
    money.balances().iter().all(|balance| balance.escrow == deposit(balance.account))
}

struct Run {
    random: Random,
    rounds: Rounds<MEMBERS>,
    money: Money,
    work: Workspace<MEMBERS>,
    auditor: Auditor,
    now: u64,
    /// The most that was ever for sale in the intervals that are not over.
    supply: [u32; 3],
    next_account: u32,
}

const INTERVAL: u64 = 10;

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random(seed);
        let terms = GoodTerms {
            good: GoodId(1),
            interval: Ticks(INTERVAL),
            reserve: Price(random.below(4)),
            fee: Price(random.below(3)),
            penalty: Price(random.below(5)),
            stop_notice: 1 + random.below(3) as u32,
        };
        let supply = 4 + random.below(12) as u32;
        let mut money = Money::new(Credits(1 << 60));
        money.add_capital(Credits(10_000)).unwrap();
        Run {
            random,
            rounds: Rounds::new(terms, Quantity(supply), Ticks(0)).unwrap(),
            money,
            work: Workspace::new(),
            auditor: Auditor::default(),
            now: 0,
            supply: [supply; 3],
            next_account: 1,
        }
    }

    fn any_account(&mut self) -> Option<AccountId> {
        let all: Vec<AccountId> = self.rounds.leases().map(|(account, _)| account).collect();
        let at = self.random.below(all.len().max(1) as u64) as usize;
        all.get(at).copied()
    }

    fn drain(&mut self) {
        while self.money.drain().is_some() {}
    }

    fn join(&mut self) {
        let account = AccountId(self.next_account);
        let base = self.random.below(3) as u32;
        let top_up = 20 + self.random.below(1_500);
        if self.money.open(account).is_err() {
            return;
        }
        self.next_account += 1;
        self.money.top_up(account, Credits(i128::from(top_up))).unwrap();
        let book = Books { money: i128::from(top_up), base, ..Books::default() };
        self.auditor.books.insert(account.0, book);
        let (auditor, now) = (&mut self.auditor, self.now);
        let price = Price(1 + self.random.below(5));
        let emit = &mut |action| auditor.see(action, now, INTERVAL);
        let joined = self.rounds.add(account, Quantity(base), price, &mut self.money, emit);
        if joined.is_err() {
            self.auditor.books.remove(&account.0);
            self.money.close(account).unwrap();
        }
    }

    fn leave(&mut self, account: AccountId) {
        self.rounds.remove(account, &mut self.money).unwrap();
        let book = self.auditor.books.remove(&account.0).unwrap();
        assert_eq!(self.money.close(account).unwrap().free, Credits(book.money));
    }

    fn bid(&mut self, account: AccountId) {
        let curve = random_curve(&mut self.random, 12, 20);
        let max_payment = i128::from(self.random.below(60));
        self.auditor.book(account).max_payment = max_payment;
        let bid = Bid {
            account,
            curve,
            keep: Price(self.random.below(4)),
            max_payment: Credits(max_payment),
            valid_until: RoundNo(self.rounds.round().0 + self.random.below(6)),
        };
        self.rounds.bid(bid).unwrap();
    }

    fn release(&mut self, account: AccountId) {
        let lease = self.rounds.lease(account).unwrap();
        let units = self.random.below(u64::from(lease.running.0) + 1) as u32;
        let returned = self.rounds.release(account, Quantity(units)).unwrap();
        assert_eq!(returned.noticed.0 + returned.early.0, units);
        let book = self.auditor.book(account);
        book.units -= units;
        if let Some((noticed, _)) = &mut book.notice {
            assert_eq!(returned.noticed.0, units.min(*noticed));
            *noticed -= returned.noticed.0;
        }
        book.notice = book.notice.filter(|notice| notice.0 > 0);
        let too_many = Quantity(lease.running.0 + 1);
        assert_eq!(self.rounds.release(account, too_many), Err(RoundError::NoRoom));
    }

    fn buy(&mut self, account: AccountId) {
        let units = Quantity(self.random.below(4) as u32);
        let (auditor, now) = (&mut self.auditor, self.now);
        let before = self.money.treasury();
        let mut refunded = Credits::ZERO;
        let emit = &mut |action| {
            if let Action::Refund { amount, .. } = action {
                refunded += amount;
            }
            auditor.see(action, now, INTERVAL);
        };
        if let Ok(cost) = self.rounds.buy(account, units, &mut self.money, emit) {
            // Refunds never exceed what the desk got, and the fee stays with the operator.
            let fee = Credits::of(self.rounds.terms().fee, units);
            assert!(refunded <= cost - fee);
            assert_eq!(self.money.treasury(), before + cost - refunded);
        }
    }

    fn withdraw(&mut self, account: AccountId) {
        let units = self.random.below(2) as u32;
        let (auditor, now) = (&mut self.auditor, self.now);
        auditor.broken_by_operator = true;
        let emit = &mut |action| auditor.see(action, now, INTERVAL);
        let time = Ticks(now);
        let of_next = units.min(self.rounds.lease(account).unwrap_or_default().next.0);
        let withdrawn = self.rounds.withdraw(account, Quantity(units), time, &mut self.money, emit);
        if withdrawn.is_ok() {
            let bases = self.auditor.books.values().map(|book| book.base).sum();
            let [running, next, later] = self.supply;
            let less = |supply: u32, units| supply.saturating_sub(units).max(bases);
            self.supply = [less(running, units), less(next, of_next), less(later, units)];
            let book = self.auditor.book(account);
            let noticed = |(noticed, deadline)| (noticed + of_next - units, deadline);
            book.notice = book.notice.map(noticed).filter(|(noticed, _)| *noticed > 0);
        }
        self.auditor.broken_by_operator = false;
    }

    fn close(&mut self) {
        let round = self.rounds.round().0;
        // Sometimes the market is late; then notices end later too.
        self.now = self.rounds.next_close().0 + if self.random.chance(4) { self.random.below(9) } else { 0 };
        self.supply.rotate_left(1);
        self.supply[2] = self.supply[1];
        let (auditor, now, supply) = (&mut self.auditor, self.now, self.supply[0]);
        let emit = &mut |action| {
            auditor.see(action, now, INTERVAL);
            // What has to go goes before anything is delivered.
            let going = matches!(action, Action::ForcedShrink { .. });
            assert!(going || auditor.fits(supply), "round {round}: {action:?}");
        };
        let time = Ticks(now);
        self.rounds.close(time, &mut self.money, &mut self.work, emit).unwrap();
        let early = self.rounds.close(Ticks(now + INTERVAL - 1), &mut self.money, &mut self.work, &mut |_| {});
        assert!(matches!(early, Err(RoundError::TooEarly { .. })));
        for (account, book) in &self.auditor.books {
            let paid = book.charged.get(&round).copied().unwrap_or(0);
            assert!(book.units <= paid, "account {account} uses {} units and paid {paid}", book.units);
        }
        let stopped: Vec<u32> =
            self.auditor.books.iter().filter(|(_, book)| book.stopped).map(|(&account, _)| account).collect();
        for account in stopped {
            self.leave(AccountId(account));
        }
    }

    fn event(&mut self) {
        self.drain();
        let account = self.any_account();
        match (self.random.below(16), account) {
            (0, _) => self.join(),
            (1, Some(account)) if self.random.chance(6) => self.leave(account),
            (2..=5, Some(account)) => self.bid(account),
            (6, Some(account)) => self.rounds.cancel_bid(account).unwrap(),
            (7, Some(account)) => self.release(account),
            (8, Some(account)) => self.buy(account),
            (9, Some(account)) if self.random.chance(4) => self.withdraw(account),
            (10, Some(account)) => {
                let amount = self.random.below(90);
                self.money.top_up(account, Credits(i128::from(amount))).unwrap();
                self.auditor.book(account).money += i128::from(amount);
            }
            (11, _) => {
                let supply = self.random.below(16) as u32;
                if self.rounds.set_supply(Quantity(supply)).is_ok() {
                    self.supply[2] = supply;
                }
            }
            _ => self.close(),
        }
        self.check();
    }

    fn check(&self) {
        assert!(self.rounds.verify());
        assert_eq!(self.money.verify(), Ok(()));
        assert!(self.auditor.fits(self.supply[0]));
        for (account, lease) in self.rounds.leases() {
            let book = &self.auditor.books[&account.0];
            assert_eq!((book.units, book.base), (lease.running.0, lease.base.0));
            let balance = self.money.balance(account).unwrap();
            assert_eq!(balance.free.0 + balance.escrow.0, book.money);
        }
        assert_eq!(self.rounds.leases().count(), self.auditor.books.len());
        assert!(escrow_is_deposits(&self.money, |account| self.rounds.deposit(account)));
    }
}

#[test]
fn random_markets_over_time_satisfy_the_auditor() {
    let mut met: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..10_000 {
        let mut run = Run::new(seed);
        for _ in 0..3 {
            run.join();
        }
        for _ in 0..150 {
            run.event();
        }
        for (name, count) in run.auditor.met {
            *met.entry(name).or_default() += count;
        }
    }
    // All nine kinds of action happened, each often.
    assert_eq!(met.len(), 9, "{met:?}");
    assert!(met.values().all(|&count| count > 150), "{met:?}");
}

#[test]
fn the_same_events_lead_to_the_same_head() {
    let run = |seed| {
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.event();
        }
        (run.money.head(), run.money.postings())
    };
    assert_eq!(run(77), run(77));
    assert_ne!(run(77), run(78));
}

/// One round's settlement for one account, right or with the rest of the escrow forgotten.
fn settle(money: &mut Money, budget: Credits, payment: Credits, release_rest: bool) -> Result<(), LedgerError> {
    let (account, cause) = (AccountId(1), Cause::default());
    money.escrow(account, budget, cause)?;
    money.charge(account, payment, cause)?;
    if release_rest {
        money.release(account, budget - payment, cause)?;
    }
    Ok(())
}

#[test]
fn the_auditor_finds_escrow_that_is_not_released() {
    for (release_rest, fine) in [(true, true), (false, false)] {
        let mut money = Money::new(Credits(1_000));
        money.open(AccountId(1)).unwrap();
        money.top_up(AccountId(1), Credits(100)).unwrap();
        settle(&mut money, Credits(30), Credits(10), release_rest).unwrap();
        assert_eq!(escrow_is_deposits(&money, |_| Credits::ZERO), fine);
        // Nothing else would notice: no money is lost.
        assert_eq!(money.verify(), Ok(()));
    }
}

/// Long series without any event but rounds: a holding that goes on winning is never disturbed.
#[test]
fn a_holder_that_goes_on_winning_sees_no_action_but_charges() {
    let mut run = Run::new(5);
    run.join();
    let account = run.any_account().unwrap();
    run.money.top_up(account, Credits(1_000_000)).unwrap();
    run.auditor.book(account).money += 1_000_000;
    run.auditor.book(account).max_payment = 1_000;
    let bid = Bid {
        account,
        curve: market_mechanism::Curve::flat(Quantity(2), Price(50)).unwrap(),
        keep: Price(0),
        max_payment: Credits(1_000),
        valid_until: RoundNo(u64::MAX),
    };
    run.rounds.bid(bid).unwrap();
    for _ in 0..2 {
        run.drain();
        run.close();
    }
    run.auditor.met.clear();
    for _ in 0..500 {
        run.drain();
        run.close();
        run.check();
    }
    assert_eq!(run.auditor.met.keys().collect::<Vec<_>>(), ["Charge"]);
}
