//! What an application knows about its dealings with the market; without I/O.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use market_mechanism::board::Line;
use market_mechanism::policy::Holding;
use market_mechanism::rounds::Lease;
use market_mechanism::types::{Credits, Price, Quantity};
use proto::market::{Answer, FromMarket, Refusal};
use proto::storage::Space;

use crate::pager::PagerError;

/// The good whose leases are blocks of memory.
pub const PAGE_GOOD: u16 = 0;
/// How many rounds are remembered per good.
pub const HISTORY: usize = 128;

/// A good, as the start-up page names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    /// Its name.
    pub name: String,
    /// Its interval in TSC ticks.
    pub interval_ticks: u64,
    /// Units of it in the application's base.
    pub base: Quantity,
    /// What that costs in an interval.
    pub base_charge: Credits,
}

/// What a round brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundRecord {
    /// The round.
    pub round: u64,
    /// Units held in the interval that it sold, base excluded.
    pub holding: u32,
    /// What was paid for that interval.
    pub payment: u64,
    /// The clearing price on the board when the result arrived.
    pub clearing: Price,
    /// The ask then.
    pub ask: Price,
}

/// Units to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Of this good.
    pub good: u16,
    /// Lost in this round.
    pub round: u64,
    /// So many; for pages, those not given up yet.
    pub units: u32,
    /// By this TSC value.
    pub deadline_tsc: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block of pages has arrived and is mapped.
    Leased {
        /// Its number.
        lease: u32,
        /// log2 bytes.
        bits: u8,
    },
    /// A block of pages has arrived, could not be put to use, and goes back.
    Unusable {
        /// Its number.
        lease: u32,
        /// Why.
        error: PagerError,
    },
    /// A round was cleared.
    Round {
        /// Good.
        good: u16,
        /// What it brought.
        record: RoundRecord,
    },
    /// Units must be given up, else the market takes the youngest. It may come a little before the pages that it tells of:
    /// what was won a round ago is on its way then. [`crate::market::Market::notices`] knows what is left to give up.
    Notice(Notice),
    /// At the present bids these units will be lost in the next round.
    AtRisk {
        /// Good.
        good: u16,
        /// Units.
        units: u32,
    },
    /// Leases were taken by force. They are gone.
    Taken {
        /// Their numbers.
        leases: Vec<u32>,
    },
    /// What a unit of work is worth has changed: millionths of the value at the start.
    Valuation {
        /// Millionths.
        ppm: u64,
    },
    /// A virtual function was bought and has arrived: `App::nic` brings it up.
    VfLeased,
    /// The virtual function was taken, with its registers: whoever touches these is stopped.
    VfTaken,
    /// The network device was reset: a virtual function is to be brought up anew, by `Nic::reset`.
    NicReset,
    /// The storage server was started again: queues and namespace are as they were.
    StorageRestarted,
    /// The queues of the namespace are gone; what was under way does not end any more.
    StorageLost,
    /// There are new ones, in a namespace with nothing but zeroes: `Storage::renew`, or `StorageFunction::open` for the first.
    StorageRenewed {
        /// What it is like.
        space: Space,
    },
    /// The base can't be paid: the end comes at this TSC value unless the account is topped up.
    StopNotice {
        /// TSC value.
        deadline_tsc: u64,
    },
    /// A request whose answer nobody waits for was refused.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// What a message asks the I/O side to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Tell the application.
    Tell(Event),
    /// Accept a block from the channel.
    Accept {
        /// Its number.
        lease: u32,
        /// log2 bytes.
        bits: u8,
    },
    /// Accept a part of a virtual function from the channel.
    AcceptVf {
        /// Which.
        part: u8,
    },
    /// Forget blocks, then tell the application.
    Taken {
        /// Their numbers.
        leases: Vec<u32>,
    },
}

/// Books of one good.
#[derive(Debug, Default)]
struct Account {
    lease: Lease,
    history: VecDeque<RoundRecord>,
}

/// The state machine of a market client.
#[derive(Debug)]
pub struct Book {
    goods: Vec<Good>,
    accounts: Vec<Account>,
    free: Credits,
    notices: Vec<Notice>,
    number: u32,
    /// Requests whose answer somebody waits for; `Some` once it is there.
    waiting: BTreeMap<u32, Option<Answer>>,
}

impl Book {
    /// Empty books.
    pub fn new(goods: Vec<Good>) -> Book {
        let account = |good: &Good| {
            let lease = Lease { base: good.base, running: Quantity(0), next: Quantity(0) };
            Account { lease, history: VecDeque::new() }
        };
        let accounts = goods.iter().map(account).collect();
        Book { goods, accounts, free: Credits::ZERO, notices: Vec::new(), number: 0, waiting: BTreeMap::new() }
    }

    /// The free balance, as far as known.
    pub fn set_free(&mut self, free: Credits) {
        self.free = free;
    }

    /// What may be spent on other things than the base: the free balance, but for what the base costs until each of its goods
    /// was paid for once more, as whoever cannot pay for its base is ended.
    pub fn to_spend(&self) -> Credits {
        let bases = self.goods.iter().filter(|good| good.base_charge > Credits::ZERO);
        let longest = bases.clone().map(|good| good.interval_ticks).max().unwrap_or(0);
        let keeps = bases.map(|good| {
            let intervals = longest.div_ceil(good.interval_ticks.max(1)) + 1;
            i128::from(intervals).saturating_mul(good.base_charge.0)
        });
        Credits(self.free.0.saturating_sub(keeps.fold(0, i128::saturating_add)).max(0))
    }

    /// The goods.
    pub fn goods(&self) -> &[Good] {
        &self.goods
    }

    /// What is held of a good.
    pub fn holding(&self, good: u16) -> Holding {
        let lease = self.accounts.get(usize::from(good)).map(|account| account.lease).unwrap_or_default();
        Holding { lease, free: self.free }
    }

    /// The last rounds of a good, oldest first.
    pub fn history(&self, good: u16) -> impl DoubleEndedIterator<Item = &RoundRecord> {
        self.accounts.get(usize::from(good)).into_iter().flat_map(|account| account.history.iter())
    }

    /// The notices that are not answered yet, by as much as is not answered. They may tell of pages that were won and are
    /// still on their way.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The number for the next request.
    pub fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// Somebody waits for the answer to this request.
    pub fn expect(&mut self, number: u32) {
        self.waiting.insert(number, None);
    }

    /// The answer to a request that somebody waits for, once it is there.
    pub fn answer(&mut self, number: u32) -> Option<Answer> {
        let answer = self.waiting.get_mut(&number)?.take()?;
        self.waiting.remove(&number);
        Some(answer)
    }

    /// Nobody waits any more.
    pub fn give_up_waiting(&mut self, number: u32) {
        self.waiting.remove(&number);
    }

    /// Pages were given up: notices get smaller, the oldest first.
    pub fn gave_up(&mut self, pages: u64) {
        let mut left = u32::try_from(pages).unwrap_or(u32::MAX);
        for notice in self.notices.iter_mut().filter(|notice| notice.good == PAGE_GOOD) {
            let now = notice.units.min(left);
            notice.units -= now;
            left -= now;
        }
        self.notices.retain(|notice| notice.units > 0);
    }

    /// Takes in a message at time `now` (TSC). `line` reads the price board.
    pub fn take_in(&mut self, message: FromMarket, now: u64, line: impl FnOnce(u16) -> Option<Line>) -> Effect {
        // What was not answered by its deadline has been taken.
        self.notices.retain(|notice| notice.deadline_tsc > now);
        match message {
            FromMarket::Answer { number, body } => match self.waiting.get_mut(&number) {
                Some(place) => {
                    *place = Some(body);
                    Effect::Nothing
                }
                None => match body {
                    Answer::Refused(refusal) => Effect::Tell(Event::Refused { refusal }),
                    Answer::Done
                    | Answer::Bought { .. }
                    | Answer::Explanation(_)
                    | Answer::Estimate { .. }
                    | Answer::Statement { .. } => Effect::Nothing,
                },
            },
            FromMarket::Lease { lease, bits, round: _ } => Effect::Accept { lease, bits },
            FromMarket::Round { good, round, holding, payment, balance } => {
                self.free = Credits(balance);
                let Some(account) = self.accounts.get_mut(usize::from(good)) else {
                    return Effect::Nothing;
                };
                account.lease.running = account.lease.next;
                account.lease.next = Quantity(holding);
                let board = line(good).unwrap_or_default();
                let record = RoundRecord { round, holding, payment, clearing: board.clearing, ask: board.ask };
                if account.history.len() == HISTORY {
                    account.history.pop_front();
                }
                account.history.push_back(record);
                Effect::Tell(Event::Round { good, record })
            }
            FromMarket::Notice { good, round, units, deadline_tsc } => {
                let notice = Notice { good, round, units, deadline_tsc };
                // Of other goods there is nothing to choose: they shrink by themselves.
                if good == PAGE_GOOD {
                    self.notices.push(notice);
                }
                Effect::Tell(Event::Notice(notice))
            }
            FromMarket::AtRisk { good, units } => Effect::Tell(Event::AtRisk { good, units }),
            FromMarket::Taken { leases } => Effect::Taken { leases },
            FromMarket::Valuation { ppm } => Effect::Tell(Event::Valuation { ppm }),
            FromMarket::Vf { part } => Effect::AcceptVf { part },
            FromMarket::VfTaken => Effect::Tell(Event::VfTaken),
            FromMarket::NicReset => Effect::Tell(Event::NicReset),
            FromMarket::StorageRestarted => Effect::Tell(Event::StorageRestarted),
            FromMarket::StorageLost => Effect::Tell(Event::StorageLost),
            FromMarket::StorageRenewed { space } => Effect::Tell(Event::StorageRenewed { space }),
            FromMarket::StopNotice { deadline_tsc } => Effect::Tell(Event::StopNotice { deadline_tsc }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let good = |name: &str, interval_ticks, base| {
            let base_charge = Credits(i128::from(base) * 10);
            Good { name: name.into(), interval_ticks, base: Quantity(base), base_charge }
        };
        Book::new(std::vec![good("page", 100, 0), good("cpu.0", 100, 3), good("vf.nic", 950, 1)])
    }

    fn round(good: u16, round: u64, holding: u32) -> FromMarket {
        FromMarket::Round { good, round, holding, payment: u64::from(holding) * 2, balance: 50 }
    }

    fn no_line(_: u16) -> Option<Line> {
        None
    }

    #[test]
    fn what_the_base_costs_soon_is_not_to_be_spent() {
        let mut book = book();
        // Ten intervals of CPU time in the longest one, and one more; two of that.
        for (free, to_spend) in [(1_000, 650), (351, 1), (350, 0), (0, 0)] {
            book.set_free(Credits(free));
            assert_eq!(book.to_spend(), Credits(to_spend));
        }
        assert_eq!(Book::new(std::vec![]).to_spend(), Credits::ZERO);
    }

    #[test]
    fn what_was_won_runs_one_interval_later() {
        let mut book = book();
        for (at, holding) in [(4, 5), (5, 2)] {
            assert!(matches!(book.take_in(round(1, at, holding), 0, no_line), Effect::Tell(Event::Round { .. })));
        }
        let lease = book.holding(1).lease;
        assert_eq!((lease.base, lease.running, lease.next), (Quantity(3), Quantity(5), Quantity(2)));
        assert_eq!(book.holding(1).free, Credits(50));
        assert_eq!(book.history(1).map(|record| record.round).collect::<Vec<_>>(), [4, 5]);
        // A good that does not exist is no reason to fall over.
        assert_eq!(book.take_in(round(9, 1, 1), 0, no_line), Effect::Nothing);
        for at in 0..2 * HISTORY as u64 {
            book.take_in(round(0, at, 1), 0, no_line);
        }
        assert_eq!(book.history(0).count(), HISTORY);
    }

    #[test]
    fn answers_reach_whoever_waits_and_refusals_everybody() {
        let mut book = book();
        let (first, second) = (book.next_number(), book.next_number());
        book.expect(second);
        let refused = Answer::Refused(Refusal::CannotPay);
        let answer = |number| FromMarket::Answer { number, body: refused.clone() };
        let told = Effect::Tell(Event::Refused { refusal: Refusal::CannotPay });
        assert_eq!(book.take_in(answer(first), 0, no_line), told);
        assert_eq!(book.answer(second), None);
        assert_eq!(book.take_in(answer(second), 0, no_line), Effect::Nothing);
        assert_eq!(book.answer(second), Some(refused.clone()));
        assert_eq!(book.answer(second), None);
        assert_eq!(book.take_in(answer(second), 0, no_line), told, "nobody waits any more");
    }

    #[test]
    fn a_notice_stays_until_it_is_answered_or_over() {
        let mut book = book();
        let notice = |units, round| FromMarket::Notice { good: PAGE_GOOD, round, units, deadline_tsc: round * 100 };
        book.take_in(notice(10, 3), 200, no_line);
        book.take_in(notice(4, 4), 299, no_line);
        book.gave_up(12);
        assert_eq!(book.notices().iter().map(|notice| notice.units).collect::<Vec<_>>(), [2]);
        // The next round closes before the deadline: until then the units are still to be given up.
        book.take_in(round(0, 5, 1), 399, no_line);
        assert_eq!(book.notices().len(), 1);
        book.take_in(round(1, 5, 1), 400, no_line);
        assert_eq!(book.notices(), []);
    }
}
