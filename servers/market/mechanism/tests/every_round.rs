//! Every small case of rounds with bases: for the code that ships, three rounds in a row of up to three members, one of
//! which may bid nothing, with every base of up to two units, every supply of up to four, members that can pay their bases
//! and members that cannot, rescued or not. A model that knows the rules from MARKET.md only says what has to come out:
//! - a round sells what is for sale less **all** bases, also those of members that do not bid or were stopped;
//! - bases are paid first, at the contract's price, and only what is left pays for bids;
//! - what counts as held in a round is the lease; the base is no part of it, and never shrinks;
//! - who cannot pay its base is told so, does not take part, loses its lease with notice, and is stopped a round later
//!   unless it has been given money by then.

mod common;

use common::{Mutation, curve_of_units, falling_lists, naive};
use market_mechanism::curve_lane::{Entry, Terms};
use market_mechanism::ledger::Ledger;
use market_mechanism::rounds::{Action, GoodTerms, POSTINGS_PER_MEMBER, Purpose, Rounds, Workspace};
use market_mechanism::{AccountId, Bid, Credits, Curve, GoodId, Price, Quantity, RoundNo, Ticks};

const MEMBERS: usize = 3;
const JOURNAL: usize = POSTINGS_PER_MEMBER * MEMBERS;
const BASE_PRICE: u64 = 1;
const KEEP: Price = Price(1);
const INTERVAL: u64 = 10;
/// More than everything that can be bought.
const PLENTY: i128 = 1_000;

/// A member of a case.
#[derive(Clone, Copy, Debug)]
struct Member {
    base: u32,
    /// What it has when it has joined.
    money: i128,
    /// What it is given after each round.
    income: i128,
    /// It bids in rounds 0, 1 and 2 with these.
    bids: [Option<Curve>; 3],
}

/// A case.
#[derive(Clone, Debug)]
struct Case {
    supply: u32,
    reserve: u64,
    fee: u64,
    members: Vec<Member>,
}

/// What the rules say of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    money: i128,
    running: u32,
    next: u32,
    owed: i128,
    warned: bool,
    stopped: bool,
}

/// What a round does to a member, as far as it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    paid_for_base: i128,
    paid_for_lease: i128,
    notice: u32,
    stop_notice: bool,
    cancelled: bool,
    stop: bool,
}

/// A round by the rules. Returns what is sold above the bases, and what everybody is told.
fn by_the_rules(case: &Case, round: usize, states: &mut [State]) -> (u32, Vec<Told>) {
    let mut told = vec![Told::default(); states.len()];
    let mut entries = Vec::new();
    for (at, member) in case.members.iter().enumerate() {
        let (state, told) = (&mut states[at], &mut told[at]);
        state.running = state.next;
        let due = i128::from(member.base) * i128::from(BASE_PRICE);
        if state.stopped {
        } else if state.money >= due + state.owed {
            told.paid_for_base = due + state.owed;
            told.cancelled = state.warned;
            state.money -= told.paid_for_base;
            (state.owed, state.warned) = (0, false);
        } else if state.warned {
            (state.stopped, told.stop) = (true, true);
        } else {
            (state.owed, state.warned, told.stop_notice) = (due, true, true);
        }
        if let Some(curve) = member.bids[round].filter(|_| !state.warned) {
            let budget = Credits(state.money);
            let held = Quantity(state.next);
            entries.push(Entry { account: AccountId(at as u32), held, keep: KEEP, budget, curve });
        }
        state.next = 0;
    }
    let offered = case.supply - case.members.iter().map(|member| member.base).sum::<u32>();
    let terms = Terms { supply: Quantity(offered), reserve: Price(case.reserve), fee: Price(case.fee) };
    let awards = naive(&terms, round as u64, &entries, Mutation::None);
    for (entry, (units, payment)) in entries.iter().zip(awards) {
        let at = entry.account.0 as usize;
        states[at].next = units;
        states[at].money -= payment;
        told[at].paid_for_lease = payment;
    }
    for (state, told) in states.iter().zip(&mut told) {
        told.notice = state.running.saturating_sub(state.next);
    }
    (offered, told)
}

/// The good under test with its members.
struct Market {
    rounds: Rounds<MEMBERS>,
    ledger: Ledger<MEMBERS, JOURNAL>,
    work: Workspace<MEMBERS>,
}

impl Market {
    fn of(case: &Case) -> Market {
        let terms = GoodTerms {
            good: GoodId(0),
            interval: Ticks(INTERVAL),
            reserve: Price(case.reserve),
            fee: Price(case.fee),
            penalty: Price(0),
            stop_notice: 1,
        };
        let rounds = Rounds::new(terms, Quantity(case.supply), Ticks(0)).unwrap();
        let mut market = Market { rounds, ledger: Ledger::new(Credits(1 << 40)), work: Workspace::new() };
        for (account, member) in (0..).map(AccountId).zip(&case.members) {
            market.ledger.open(account).unwrap();
            let first = i128::from(member.base) * i128::from(BASE_PRICE);
            market.top_up(account, member.money + first);
            let Market { rounds, ledger, .. } = &mut market;
            rounds.add(account, Quantity(member.base), Price(BASE_PRICE), ledger, &mut |_| {}).unwrap();
            market.drain();
        }
        market
    }

    fn top_up(&mut self, account: AccountId, amount: i128) {
        if amount > 0 {
            self.ledger.top_up(account, Credits(amount)).unwrap();
        }
        self.drain();
    }

    fn drain(&mut self) {
        while self.ledger.drain().is_some() {}
    }

    /// A round, after the bids of the members.
    fn round(&mut self, case: &Case, round: usize) -> (u32, Vec<Told>) {
        for (account, member) in (0..).map(AccountId).zip(&case.members) {
            match member.bids[round] {
                Some(curve) => {
                    let (max_payment, valid_until) = (Credits(PLENTY * PLENTY), RoundNo(u64::MAX));
                    self.rounds.bid(Bid { account, curve, keep: KEEP, max_payment, valid_until }).unwrap();
                }
                None => self.rounds.cancel_bid(account).unwrap(),
            }
        }
        let mut told = vec![Told::default(); case.members.len()];
        let now = Ticks(round as u64 * INTERVAL);
        let Market { rounds, ledger, work } = self;
        let report = rounds.close(now, ledger, work, &mut |action| match action {
            Action::Charge { account, purpose: Purpose::Base, amount, units, .. } => {
                let at = account.0 as usize;
                assert_eq!(units.0, case.members[at].base);
                told[at].paid_for_base += amount.0;
            }
            Action::Charge { account, purpose: Purpose::Lease, amount, .. } => {
                told[account.0 as usize].paid_for_lease += amount.0;
            }
            Action::Notice { account, units, .. } => told[account.0 as usize].notice = units.0,
            Action::StopNotice { account, .. } => told[account.0 as usize].stop_notice = true,
            Action::StopCancelled { account } => told[account.0 as usize].cancelled = true,
            Action::Stop { account } => told[account.0 as usize].stop = true,
            Action::Grow { .. } | Action::ForcedShrink { .. } => {}
            other => panic!("{other:?} has no place here"),
        });
        self.drain();
        (report.unwrap().terms.supply.0, told)
    }
}

/// Runs a case; returns how many members were stopped in it, and how many units were leased.
fn check(case: &Case) -> (u64, u64) {
    let mut market = Market::of(case);
    let mut states: Vec<State> =
        case.members.iter().map(|member| State { money: member.money, ..State::default() }).collect();
    let mut leased = 0;
    for round in 0..3 {
        let expected = by_the_rules(case, round, &mut states);
        assert_eq!(market.round(case, round), expected, "round {round} of {case:?}");
        assert!(market.rounds.verify(), "round {round} of {case:?}");
        for (account, (state, member)) in (0..).map(AccountId).zip(states.iter_mut().zip(&case.members)) {
            let lease = market.rounds.lease(account).unwrap();
            assert_eq!(
                (lease.base.0, lease.running.0, lease.next.0, market.ledger.free(account).0),
                (member.base, state.running, state.next, state.money),
                "round {round} of {case:?}"
            );
            leased += u64::from(state.next);
            state.money += member.income;
            market.top_up(account, member.income);
        }
    }
    (states.iter().filter(|state| state.stopped).count() as u64, leased)
}

#[test]
fn bases_come_first_are_no_part_of_what_is_held_and_are_never_sold() {
    let curves: Vec<Option<Curve>> = core::iter::once(None)
        .chain((1..=2).flat_map(|units| falling_lists(units, 3)).map(|values| Some(curve_of_units(&values))))
        .collect();
    let firsts = [None, Some(curve_of_units(&[3])), Some(curve_of_units(&[3, 2]))];
    // Enough for everything; for the base of the first round or none, with more to come or not.
    let purses = [(PLENTY, 0), (0, 0), (1, 0), (2, 1), (3, 0), (0, 4)];
    let idle = |base, money| Member { base, money, income: 0, bids: [None; 3] };
    let thirds = [None, Some(idle(1, PLENTY)), Some(idle(1, 0))];
    let (mut cases, mut stopped, mut leased) = (0u64, 0, 0);
    for supply in 0..=4 {
        for (base, other) in (0..=2).flat_map(|base| (0..=2).map(move |other| (base, other))) {
            for third in thirds {
                if base + other + third.map_or(0, |third| third.base) > supply {
                    continue;
                }
                for (reserve, fee) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    for (money, income) in purses {
                        for (&one, two) in curves.iter().flat_map(|one| curves.iter().map(move |two| (one, two))) {
                            for &first in &firsts {
                                let a = Member { base, money, income, bids: [first, one, first] };
                                let b = Member {
                                    base: other,
                                    money: PLENTY,
                                    income: 0,
                                    bids: [firsts[1], *two, firsts[2]],
                                };
                                let members = [Some(a), Some(b), third].into_iter().flatten().collect();
                                let (stops, units) = check(&Case { supply, reserve, fee, members });
                                (cases, stopped, leased) = (cases + 1, stopped + stops, leased + units);
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(
        cases > 500_000 && stopped > cases / 10 && leased > cases,
        "{cases} cases, {stopped} stops, {leased} units"
    );
}
