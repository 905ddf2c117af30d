//! Rounds worked out by hand; random ones are in the crate's `tests/` folder.

use super::*;
use crate::types::{Curve, Segment};

const A: AccountId = AccountId(1);
const B: AccountId = AccountId(2);

struct Market {
    rounds: Rounds<4>,
    ledger: Ledger<4, 256>,
    work: Workspace<4>,
    actions: std::vec::Vec<Action>,
    now: u64,
}

impl Market {
    /// Ten units at a reserve of 2 and a fee of 1; intervals of 100 ticks; A and B with 1,000 each.
    fn new(stop_notice: u32) -> Market {
        let terms = GoodTerms {
            good: GoodId(1),
            interval: Ticks(100),
            reserve: Price(2),
            fee: Price(1),
            penalty: Price(5),
            stop_notice,
        };
        let mut ledger = Ledger::new(Credits(1_000_000));
        for account in [A, B] {
            ledger.open(account).unwrap();
            ledger.top_up(account, Credits(1_000)).unwrap();
        }
        Market {
            rounds: Rounds::new(terms, Quantity(10), Ticks(0)).unwrap(),
            ledger,
            work: Workspace::new(),
            actions: std::vec::Vec::new(),
            now: 0,
        }
    }

    fn with_members(base: u32) -> Market {
        let mut market = Market::new(1);
        for account in [A, B] {
            market.add(account, base, 4).unwrap();
        }
        market.actions.clear();
        market
    }

    fn add(&mut self, account: AccountId, base: u32, price: u64) -> Result<(), RoundError> {
        let emit = &mut |action| self.actions.push(action);
        self.rounds.add(account, Quantity(base), Price(price), &mut self.ledger, emit)
    }

    fn bid(&mut self, account: AccountId, units: u32, value: u64) {
        let segment = Segment { value: Price(value), quantity: Quantity(units) };
        self.rounds
            .bid(Bid {
                account,
                curve: Curve::new(&[segment]).unwrap(),
                keep: Price(0),
                max_payment: Credits(500),
                valid_until: RoundNo(u64::MAX),
            })
            .unwrap();
    }

    /// Closes the round at its time and returns what is to be done.
    fn close(&mut self) -> std::vec::Vec<Action> {
        let emit = &mut |action| self.actions.push(action);
        self.rounds.close(Ticks(self.now), &mut self.ledger, &mut self.work, emit).unwrap();
        self.now += 100;
        assert!(self.rounds.verify());
        assert_eq!(self.ledger.verify(), Ok(()));
        core::mem::take(&mut self.actions)
    }

    fn buy(&mut self, account: AccountId, units: u32) -> Result<Credits, DeskError> {
        let emit = &mut |action| self.actions.push(action);
        self.rounds.buy(account, Quantity(units), &mut self.ledger, emit)
    }

    fn lease(&self, account: AccountId) -> (u32, u32) {
        let lease = self.rounds.lease(account).unwrap();
        (lease.running.0, lease.next.0)
    }
}

fn lease_charge(account: AccountId, interval: u64, units: u32, amount: i128) -> Action {
    Action::Charge {
        account,
        purpose: Purpose::Lease,
        interval: RoundNo(interval),
        units: Quantity(units),
        amount: Credits(amount),
    }
}

#[test]
fn a_round_sells_the_interval_after_the_one_that_begins() {
    let mut market = Market::with_members(0);
    market.bid(A, 4, 9);
    // Round 0 sells interval 1: nothing is delivered yet. 4 x (reserve 2 + fee 1).
    assert_eq!(market.close(), [lease_charge(A, 1, 4, 12)]);
    assert_eq!(market.lease(A), (0, 4));
    assert_eq!(market.ledger.free(A), Credits(988));
    // Interval 1 begins; the units are kept for interval 2, without a fee.
    let grow = Action::Grow { account: A, units: Quantity(4) };
    assert_eq!(market.close(), [grow, lease_charge(A, 2, 4, 8)]);
    assert_eq!(market.lease(A), (4, 4));
}

#[test]
fn who_loses_has_one_interval_to_choose_and_is_then_forced() {
    let mut market = Market::with_members(0);
    market.bid(A, 10, 5);
    market.close();
    market.close();
    market.bid(B, 6, 20);
    let notice = Action::Notice { account: A, units: Quantity(6), deadline: Ticks(300) };
    // A keeps 4 at the reserve; B displaces 6 of A, worth 5 each, and pays the fee.
    assert_eq!(market.close(), [lease_charge(A, 3, 4, 8), lease_charge(B, 3, 6, 36), notice]);
    assert_eq!(market.lease(A), (10, 4));
    let returned = market.rounds.release(A, Quantity(2)).unwrap();
    assert_eq!(returned, Returned { noticed: Quantity(2), early: Quantity(0) });
    let actions = market.close();
    let forced = Action::ForcedShrink { account: A, units: Quantity(4) };
    let grow = Action::Grow { account: B, units: Quantity(6) };
    assert_eq!(actions[..2], [forced, grow]);
    assert_eq!((market.lease(A), market.lease(B)), ((4, 4), (6, 6)));
}

#[test]
fn a_round_never_closes_before_the_deadline_it_gave() {
    let mut market = Market::with_members(0);
    market.close();
    let early = market.rounds.close(Ticks(99), &mut market.ledger, &mut market.work, &mut |_| {});
    assert_eq!(early, Err(RoundError::TooEarly { earliest: Ticks(100) }));
    // Late by 30: the next deadline moves along, so a notice still has its whole interval.
    market.now = 130;
    market.close();
    assert_eq!(market.rounds.next_close(), Ticks(230));
}

#[test]
fn the_base_is_paid_first_and_never_auctioned() {
    let mut market = Market::with_members(2);
    // The running interval was paid when the account joined: 2 x 4.
    assert_eq!(market.ledger.free(A), Credits(992));
    market.bid(B, 100, 50);
    let actions = market.close();
    let base = |account| Action::Charge {
        account,
        purpose: Purpose::Base,
        interval: RoundNo(1),
        units: Quantity(2),
        amount: Credits(8),
    };
    assert_eq!(actions, [base(A), base(B), lease_charge(B, 1, 6, 18)]);
    assert_eq!(market.rounds.lease(A).unwrap().base, Quantity(2));
    assert_eq!(market.rounds.unsold(), Quantity(0));
}

#[test]
fn a_base_that_is_not_paid_ends_after_its_notice() {
    for stop_notice in [1, 3] {
        let mut market = Market::new(stop_notice);
        // Price such that joining and the deposit leave 100: too little for another interval at 150.
        let spend = 1_000 - 150 * i128::from(stop_notice) - 100;
        market.ledger.pay(A, Credits(spend), Cause::default()).unwrap();
        market.add(A, 1, 150).unwrap();
        market.actions.clear();
        let notice = Action::StopNotice { account: A, deadline: Ticks(u64::from(stop_notice) * 100) };
        let first = market.close();
        assert!(first.contains(&notice), "{first:?}");
        for _ in 1..stop_notice {
            let actions = market.close();
            assert!(actions.iter().all(|action| matches!(action, Action::Charge { .. })));
        }
        assert_eq!(market.now, u64::from(stop_notice) * 100);
        let last = market.close();
        assert_eq!(last, [Action::Stop { account: A }]);
        market.rounds.remove(A, &mut market.ledger).unwrap();
        assert_eq!(market.ledger.balance(A).unwrap().escrow, Credits(0));
        assert_eq!(market.ledger.free(A), Credits(100));
    }
}

#[test]
fn a_top_up_before_the_deadline_cancels_the_stop() {
    let mut market = Market::new(2);
    market.ledger.pay(A, Credits(600), Cause::default()).unwrap();
    market.add(A, 1, 150).unwrap();
    market.close();
    market.close();
    market.ledger.top_up(A, Credits(1_000)).unwrap();
    let actions = market.close();
    assert!(actions.contains(&Action::StopCancelled { account: A }));
    // What was owed for the interval that begins, the next one, and the deposit again.
    assert_eq!(market.ledger.free(A), Credits(1_100 - 150 - 150 - 150));
    assert_eq!(market.rounds.deposit(A), Credits(150));
}

#[test]
fn the_desk_sells_what_is_unsold_in_both_intervals() {
    let mut market = Market::with_members(0);
    assert_eq!(market.buy(A, 1), Err(DeskError::NotOpen));
    market.bid(B, 7, 9);
    market.close();
    // Interval 0 is empty, interval 1 has 3 left.
    assert_eq!(market.buy(A, 4), Err(DeskError::NotEnoughUnits { left: Quantity(3) }));
    // Two intervals at the reserve, and the fee once.
    assert_eq!(market.buy(A, 3), Ok(Credits(3 * (2 * 2 + 1))));
    assert_eq!(market.lease(A), (3, 3));
    // Without a bid they end at the end of the next interval, with notice.
    let actions = market.close();
    assert!(actions.contains(&Action::Notice { account: A, units: Quantity(3), deadline: Ticks(200) }));
}

#[test]
fn early_return_is_refunded_by_what_the_desk_gets_at_most_what_was_paid() {
    let mut market = Market::with_members(0);
    market.bid(A, 10, 9);
    market.close();
    market.close();
    // A paid 3 a unit for interval 1 (with the fee) and 2 for interval 2.
    let returned = market.rounds.release(A, Quantity(4)).unwrap();
    assert_eq!(returned.early, Quantity(4));
    assert_eq!(market.lease(A), (6, 6));
    let before = market.ledger.free(A);
    market.actions.clear();
    assert_eq!(market.buy(B, 3), Ok(Credits(15)));
    // The desk got 2 for each of both intervals; the fee stays with the operator.
    assert_eq!(market.ledger.free(A) - before, Credits(3 * 4));
    // In the next interval only that interval is left to be refunded for the fourth unit.
    market.rounds.cancel_bid(A).unwrap();
    market.close();
    let before = market.ledger.free(A);
    assert_eq!(market.rounds.unsold(), Quantity(1));
    assert_eq!(market.buy(B, 1), Ok(Credits(5)));
    assert_eq!(market.ledger.free(A) - before, Credits(2));
    assert_eq!(market.ledger.verify(), Ok(()));
}

#[test]
fn a_unit_taken_without_notice_is_paid_for() {
    let mut market = Market::with_members(0);
    market.bid(A, 10, 9);
    market.close();
    market.close();
    let before = market.ledger.free(A);
    let emit = &mut |action| market.actions.push(action);
    let half = Ticks(150);
    // The treasury holds 30 + 20 of charges; 4 units cost half of 12, 8, and 4 x 2 x 5 of penalty.
    let error = market.rounds.withdraw(A, Quantity(4), half, &mut market.ledger, emit);
    assert_eq!(error, Err(RoundError::Ledger(LedgerError::NotEnough)));
    market.ledger.add_capital(Credits(100)).unwrap();
    market.rounds.withdraw(A, Quantity(4), half, &mut market.ledger, emit).unwrap();
    assert_eq!(market.ledger.free(A) - before, Credits(6 + 8 + 40));
    assert_eq!(market.lease(A), (6, 6));
    // They are gone, not unsold.
    assert_eq!(market.rounds.unsold(), Quantity(0));
    assert!(market.rounds.verify());
}

#[test]
fn a_unit_under_notice_is_paid_back_for_the_running_interval_only() {
    let mut market = Market::with_members(0);
    market.bid(A, 10, 9);
    market.close();
    market.bid(A, 2, 9);
    market.close();
    assert_eq!(market.lease(A), (10, 2));
    market.ledger.add_capital(Credits(100)).unwrap();
    let before = market.ledger.free(A);
    let emit = &mut |action| market.actions.push(action);
    let half = Ticks(150);
    let many = market.rounds.withdraw(A, Quantity(11), half, &mut market.ledger, emit);
    assert_eq!(many, Err(RoundError::NoRoom));
    // Half of 3 each for the running interval; for the two of the next one also 2 each; penalties of 5.
    market.rounds.withdraw(A, Quantity(6), half, &mut market.ledger, emit).unwrap();
    assert_eq!(market.ledger.free(A) - before, Credits(9 + 4 + 5 * (6 + 2)));
    assert_eq!(market.lease(A), (4, 0));
    assert!(market.rounds.verify());
    market.close();
    assert_eq!(market.lease(A), (0, 2), "the supply is smaller, and the bid stands");
}

#[test]
fn intervals_without_a_round_are_nobodys_to_pay_and_numbers_follow_time() {
    let mut market = Market::with_members(2);
    market.bid(A, 4, 9);
    market.close();
    market.close();
    let (held, free) = (market.lease(A), market.ledger.free(A));
    let end = Bid {
        account: B,
        curve: Curve::new(&[Segment { value: Price(9), quantity: Quantity(1) }]).unwrap(),
        keep: Price(0),
        max_payment: Credits(500),
        valid_until: RoundNo(4),
    };
    market.rounds.bid(end).unwrap();
    market.rounds.skip(3);
    assert_eq!((market.rounds.round(), market.rounds.next_close()), (RoundNo(5), Ticks(500)));
    assert_eq!((market.lease(A), market.ledger.free(A)), (held, free));
    market.now += 300;
    // One posting for base and lease of interval 6; the bid that was good until round 4 has run out.
    let actions = market.close();
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Charge { account: A, .. })).count(), 2);
    assert!(actions.contains(&lease_charge(A, 6, 4, 8)));
    assert_eq!(free - market.ledger.free(A), Credits(2 * 4 + 8));
    assert_eq!(market.lease(B).1, 0);
}

#[test]
fn a_stop_notice_lasts_longer_by_the_intervals_without_a_round() {
    let mut market = Market::new(2);
    market.ledger.open(AccountId(7)).unwrap();
    market.ledger.top_up(AccountId(7), Credits(40)).unwrap();
    market.add(AccountId(7), 2, 4).unwrap();
    while !market.close().iter().any(|action| matches!(action, Action::StopNotice { .. })) {}
    market.rounds.skip(5);
    market.now += 500;
    let stops = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Stop { .. }));
    assert!(!stops(&market.close()), "a whole interval of notice is left");
    assert!(stops(&market.close()));
}

#[test]
fn an_account_can_leave_and_join_while_the_market_runs() {
    let mut market = Market::with_members(1);
    market.bid(A, 9, 9);
    market.close();
    market.close();
    assert_eq!(market.add(B, 1, 1), Err(RoundError::AlreadyMember));
    market.rounds.remove(B, &mut market.ledger).unwrap();
    assert_eq!(market.ledger.balance(B).unwrap().escrow, Credits(0));
    assert_eq!(market.add(B, 2, 1), Err(RoundError::NoRoom));
    market.add(B, 1, 1).unwrap();
    market.rounds.remove(A, &mut market.ledger).unwrap();
    assert_eq!(market.rounds.unsold(), Quantity(9));
    assert_eq!(market.rounds.lease(A), None);
    market.close();
}

#[test]
fn what_counts_is_the_last_bid_before_the_close() {
    let mut market = Market::with_members(0);
    market.bid(A, 10, 50);
    market.bid(A, 4, 9);
    assert_eq!(market.close(), [lease_charge(A, 1, 4, 12)]);
    // It stands until it is replaced, and what comes after a close counts in the next round.
    assert_eq!(market.close()[1..], [lease_charge(A, 2, 4, 8)]);
    market.bid(A, 2, 9);
    assert_eq!(market.lease(A), (4, 4));
    market.close();
    assert_eq!(market.lease(A), (4, 2));
}

#[test]
fn a_bid_ends_with_its_last_round() {
    let mut market = Market::with_members(0);
    market.bid(A, 2, 9);
    let bid = *market.rounds.standing_bid(A).unwrap();
    let valid_until = RoundNo(1);
    market.rounds.bid(Bid { valid_until, ..bid }).unwrap();
    market.close();
    market.close();
    assert_eq!(market.lease(A), (2, 2));
    let actions = market.close();
    assert!(actions.iter().any(|action| matches!(action, Action::Notice { .. })));
    assert_eq!(market.lease(A), (2, 0));
    assert!(market.rounds.standing_bid(A).is_none());
}

#[test]
fn a_full_journal_stops_the_round_before_it_changes_anything() {
    let mut market = Market::with_members(1);
    market.bid(A, 2, 9);
    while market.ledger.journal_room() >= POSTINGS_PER_MEMBER * 2 {
        market.ledger.add_capital(Credits(1)).unwrap();
    }
    let head = market.ledger.head();
    let full =
        market.rounds.close(Ticks(0), &mut market.ledger, &mut market.work, &mut |_| panic!("nothing may be done"));
    assert_eq!(full, Err(RoundError::Ledger(LedgerError::JournalFull)));
    assert_eq!(market.ledger.head(), head);
    market.ledger.drain();
    market.close();
}

#[test]
fn the_board_shows_the_last_round() {
    let mut market = Market::with_members(1);
    let line = market.rounds.board_line(0);
    assert_eq!((line.ask, line.clearing, line.sold), (Price(3), Price(2), Quantity(2)));
    market.bid(A, 6, 9);
    market.bid(B, 6, 7);
    market.close();
    let line = market.rounds.board_line(77);
    // Rejected at 7 less the fee; a newcomer has to beat 7 again, and pays the fee.
    assert_eq!((line.ask, line.clearing), (Price(7), Price(6)));
    assert_eq!((line.supply, line.sold), (Quantity(10), Quantity(10)));
    assert_eq!((line.round, line.next_close), (RoundNo(0), Ticks(100)));
    assert_eq!(line.ledger_head, 77);
}

#[test]
fn wrong_terms_and_events_are_refused() {
    let good = *Market::new(1).rounds.terms();
    let supply = Quantity(1);
    for bad in [
        GoodTerms { interval: Ticks(0), ..good },
        GoodTerms { stop_notice: 0, ..good },
        GoodTerms { fee: Price(u64::MAX), ..good },
    ] {
        assert_eq!(Rounds::<1>::new(bad, supply, Ticks(0)).err(), Some(RoundError::BadTerms));
    }
    let mut market = Market::with_members(2);
    assert_eq!(market.rounds.set_supply(Quantity(3)), Err(RoundError::NoRoom));
    assert_eq!(market.rounds.set_supply(Quantity(4)), Ok(()));
    let stranger = AccountId(9);
    assert_eq!(market.rounds.cancel_bid(stranger), Err(RoundError::NoSuchMember));
    assert_eq!(market.rounds.release(A, Quantity(1)), Err(RoundError::NoRoom));
    assert_eq!(market.add(stranger, 0, 0), Err(RoundError::Ledger(LedgerError::NoSuchAccount)));
}
