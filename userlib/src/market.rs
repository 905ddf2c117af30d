//! The market, as an application sees it: prices, bids, leases, notices.
//!
//! [`Book`] is the state machine: it turns what the market says into [`Event`]s and into what is held, and does no I/O.
//! [`Market`] adds the channel, the price board and the pager, and calls the application's handler of notices, if there is
//! one. The words are those of MARKET.md: a bid *stands* until it
//! is replaced, round k sells interval k + 1, notice is one whole interval.
//!
//! The policies that turn prices into bids are `market_mechanism::policy`'s, re-exported here: the same code runs in the
//! host's simulations.

mod board;
mod book;
mod statement;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

pub use board::{Ask, Board};
pub use book::{Book, Effect, Event, Good, Notice, RoundRecord};
pub use market_mechanism::board::Line;
pub use market_mechanism::policy::{
    FixedBid, HitPoint, Holding, MarginalHit, Offer, Paced, Pacer, Policy, TargetDeadline,
};
pub use market_mechanism::rounds::Lease;
pub use market_mechanism::types::{Credits, Curve, Price, Quantity, RoundNo, Segment, Ticks, UNITS_PER_CORE};
pub use proto::market::{
    Answer, Explanation, FromMarket, Movement, Reason, Refusal, Request, RequestBody, StatementLine,
};
pub use proto::nic::UNIT_BITS_PER_S as BANDWIDTH_UNIT;
use proto::nic::VF_MESSAGES;
use proto::start::NIC_SLOT;
pub use statement::Statement;

use crate::cap::{Irq, PciFunction, Slot};
use crate::channel::{ChannelError, Endpoint};
use crate::events;
use crate::pager::Pager;

/// How many rounds [`Market::history`] goes back.
pub const HISTORY: usize = book::HISTORY;

/// Lease numbers in one message: each is at most 5 bytes long, so they always fit.
const LEASES_PER_MESSAGE: usize = 256;

/// Answers of which a statement is put together; lines that are written meanwhile make it longer.
const MOST_PAGES: usize = 64;

const _: () = assert!(LEASES_PER_MESSAGE * 5 + 64 <= proto::MAX_MESSAGE);

/// Why the market did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarketError {
    /// It said no.
    Refused(Refusal),
    /// The connection is broken.
    Channel(ChannelError),
    /// It did not answer in time, or with something else.
    NoAnswer,
}

impl From<ChannelError> for MarketError {
    fn from(error: ChannelError) -> MarketError {
        MarketError::Channel(error)
    }
}

/// How an application deals with a good: limits that its bids never exceed, and in which blocks it wants pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    max_price: Price,
    budget: Credits,
    last_round: RoundNo,
    /// Units that can be put to use: fewer than all once a lease could not be.
    most_units: u32,
    block_bits: u8,
}

const NO_LIMITS: Limits = Limits {
    max_price: Price::LIMIT,
    budget: Credits::MAX,
    last_round: RoundNo(u64::MAX),
    most_units: u32::MAX,
    block_bits: cap_spec::abi::PAGE_BITS,
};

/// What an application does about a notice at once: in the middle of its computation if it has asked to be interrupted
/// ([`crate::App::on_notice`]), and in any case before anybody sees the [`Event::Notice`].
///
/// It runs with interrupts off, and is not interrupted by a further notice: that one follows when it returns, and there is
/// at most one a round and good. It may use all of [`Market`] that does not wait (`give_up`, `release`, `bid`, `line`, the
/// pager), allocate, and print. It must not wait, and has no way to the [`crate::App`]: what it shares with the rest of the
/// application are atomics.
pub type NoticeHandler = fn(&mut Market, &Notice);

/// The connection to the market.
#[derive(Debug)]
pub struct Market {
    endpoint: Endpoint,
    board: Board,
    book: Book,
    pager: Pager,
    limits: Vec<Limits>,
    /// Bids that stand, as they were sent: a bid that changes nothing is not sent again.
    standing: Vec<Option<RequestBody>>,
    happened: VecDeque<Event>,
    handler: Option<NoticeHandler>,
    /// Notices that the handler was not told of yet.
    untold: VecDeque<Notice>,
    /// It is running.
    handling: bool,
    patience_ticks: u64,
}

impl Market {
    /// Takes up the connection. `goods` as in the start-up page; answers are waited for `patience_ticks` at most.
    pub fn new(endpoint: Endpoint, board: Board, goods: Vec<Good>, pager: Pager, patience_ticks: u64) -> Market {
        let count = goods.len();
        Market {
            endpoint,
            board,
            book: Book::new(goods),
            pager,
            limits: alloc::vec![NO_LIMITS; count],
            standing: alloc::vec![None; count],
            happened: VecDeque::new(),
            handler: None,
            untold: VecDeque::new(),
            handling: false,
            patience_ticks,
        }
    }

    /// What one further unit would cost a newcomer now: one load, no message, no exit. `None` if there is none for sale.
    #[inline]
    pub fn ask(&self, good: u16) -> Option<Price> {
        self.board.ask(good)
    }

    /// [`Market::ask`] of one good, for who reads it often.
    pub fn watch(&self, good: u16) -> Option<Ask> {
        self.board.watch(good)
    }

    /// The whole line of the price board.
    pub fn line(&self, good: u16) -> Option<Line> {
        self.board.line(good)
    }

    /// The last rounds of a good in which this application took part, oldest first, at most [`HISTORY`].
    pub fn history(&self, good: u16) -> impl DoubleEndedIterator<Item = &RoundRecord> {
        self.book.history(good)
    }

    /// What is held of a good, and the money that is free: what policies take.
    pub fn holding(&self, good: u16) -> Holding {
        self.book.holding(good)
    }

    /// Chooses what is done about notices as soon as they are taken in, from the next one on.
    pub fn handle_notices(&mut self, handler: Option<NoticeHandler>) {
        self.handler = handler;
    }

    /// The notices that are not answered yet.
    pub fn notices(&self) -> &[Notice] {
        self.book.notices()
    }

    /// No bid of this application's says more than this per unit, from the next one on.
    pub fn max_price(&mut self, good: u16, price: Price) {
        if let Some(limits) = self.limits.get_mut(usize::from(good)) {
            limits.max_price = price;
        }
    }

    /// No interval of this good costs more than this, from the next bid on.
    pub fn budget(&mut self, good: u16, most: Credits) {
        if let Some(limits) = self.limits.get_mut(usize::from(good)) {
            limits.budget = most;
        }
    }

    /// Bids for this good stand up to this round and not longer, from the next bid on.
    pub fn last_round(&mut self, good: u16, round: RoundNo) {
        if let Some(limits) = self.limits.get_mut(usize::from(good)) {
            limits.last_round = round;
        }
    }

    /// Pages shall come in blocks of 2^`bits` bytes (12 to 21), from the next bid on.
    pub fn block_bits(&mut self, good: u16, bits: u8) {
        if let Some(limits) = self.limits.get_mut(usize::from(good)) {
            limits.block_bits = bits.clamp(12, crate::pager::LARGE_BITS);
        }
    }

    /// Replaces the standing bid for a good, within the limits that were set and without what the base costs soon. A bid that changes nothing is not sent. A
    /// refusal comes as [`Event::Refused`]. The market is not woken for it, so it costs no exit: it counts when the next round
    /// is closed, for which the market wakes.
    pub fn bid(&mut self, good: u16, offer: &Offer) -> Result<(), MarketError> {
        let at = usize::from(good);
        let Some(limits) = self.limits.get(at) else {
            return Err(MarketError::Refused(Refusal::UnknownGood));
        };
        // Each good that is bid for may take its part, whatever the others take.
        let others = self.standing.iter().enumerate().filter(|(other, bid)| *other != at && wants_some(bid)).count();
        let body = bid_message(good, offer, limits, Credits(self.book.to_spend().0 / (others as i128 + 1)));
        if self.standing[at].as_ref() != Some(&body) {
            self.say(body.clone(), Endpoint::leave)?;
            self.standing[at] = Some(body);
        }
        Ok(())
    }

    /// Decides with a policy and bids that.
    pub fn bid_by(&mut self, good: u16, policy: &impl Policy) -> Result<(), MarketError> {
        let Some(line) = self.line(good) else {
            return Ok(());
        };
        let offer = policy.decide(&line, &self.holding(good));
        self.bid(good, &offer)
    }

    /// Buys `quantity` (a power of two) pages at the desk, in one block, and waits for it. Returns its lease number. A
    /// lease that cannot be put to use goes back, and its good is bid for no further than what is held by then.
    pub fn lease(&mut self, good: u16, quantity: u32) -> Result<u32, MarketError> {
        let before: Vec<u32> = self.pager.leases().map(|(lease, _)| lease).collect();
        let deadline = crate::clock::now().saturating_add(self.patience_ticks);
        self.desk(good, quantity)?;
        loop {
            if let Some((lease, _)) = self.pager.leases().find(|(lease, _)| !before.contains(lease)) {
                return Ok(lease);
            }
            if crate::clock::now() >= deadline {
                return Err(MarketError::NoAnswer);
            }
            self.wait_for_message(deadline)?;
        }
    }

    /// Buys CPU time at the desk. Returns what it cost and from which TSC value on it is delivered.
    pub fn buy_cpu(&mut self, good: u16, units: u32) -> Result<(u64, u64), MarketError> {
        self.desk(good, units)
    }

    /// Buys at the desk. Returns what it cost and from when on it is delivered.
    fn desk(&mut self, good: u16, quantity: u32) -> Result<(u64, u64), MarketError> {
        match self.call(RequestBody::Desk { good, quantity })? {
            Answer::Bought { payment, from_tsc } => Ok((payment, from_tsc)),
            _ => Err(MarketError::NoAnswer),
        }
    }

    /// Gives leases back: scrubs them, lets go of them and tells the market. Those that the heap still uses stay.
    /// Returns the pages given back.
    pub fn release(&mut self, good: u16, leases: &[u32]) -> Result<u64, MarketError> {
        let mut pages = 0;
        for leases in leases.chunks(LEASES_PER_MESSAGE) {
            let (leases, given) = self.let_go(leases);
            pages += given;
            if !leases.is_empty() {
                self.send(RequestBody::Release { good, leases, quantity: 0 })?;
            }
        }
        Ok(pages)
    }

    /// Gives units of CPU time back.
    pub fn release_cpu(&mut self, good: u16, units: u32) -> Result<(), MarketError> {
        self.send(RequestBody::Release { good, leases: Vec::new(), quantity: units }).map(drop)
    }

    /// Answers a notice with the leases that shall go. Returns the pages given up.
    pub fn give_up(&mut self, leases: &[u32]) -> Result<u64, MarketError> {
        let mut pages = 0;
        for leases in leases.chunks(LEASES_PER_MESSAGE) {
            let (leases, given) = self.let_go(leases);
            pages += given;
            if !leases.is_empty() {
                self.book.gave_up(given);
                self.send(RequestBody::GiveUp { leases })?;
            }
        }
        Ok(pages)
    }

    /// Why a round went as it did (`None`: the last one), and what would have won. Waits for the answer.
    pub fn explain(&mut self, good: u16, round: Option<RoundNo>) -> Result<Explanation, MarketError> {
        let round = round.map_or(u64::MAX, |round| round.0);
        match self.call(RequestBody::Explain { good, round })? {
            Answer::Explanation(explanation) => Ok(explanation),
            _ => Err(MarketError::NoAnswer),
        }
    }

    /// What so many units would have cost in the last round, per interval. Waits for the answer.
    pub fn estimate(&mut self, good: u16, quantity: u32) -> Result<u64, MarketError> {
        match self.call(RequestBody::Estimate { good, quantity })? {
            Answer::Estimate { cost } => Ok(cost),
            _ => Err(MarketError::NoAnswer),
        }
    }

    /// The account, with every movement that the market remembers. Waits for the answers.
    pub fn statement(&mut self) -> Result<Statement, MarketError> {
        let mut statement = Statement::new(self.goods().to_vec());
        for _ in 0..MOST_PAGES {
            match self.call(RequestBody::Statement { from: statement.next() })? {
                Answer::Statement { balance, escrow, paid, page } => {
                    if statement.append([balance, escrow, paid], page) {
                        return Ok(statement);
                    }
                }
                _ => return Err(MarketError::NoAnswer),
            }
        }
        Err(MarketError::NoAnswer)
    }

    /// The next thing that has happened, if any. No exit unless a lease has arrived.
    pub fn poll(&mut self) -> Result<Option<Event>, MarketError> {
        self.take_in()?;
        Ok(self.happened.pop_front())
    }

    /// Gives the core up until something has happened or the TSC has reached `deadline` (0: never); `None` then.
    pub fn wait(&mut self, deadline: u64) -> Result<Option<Event>, MarketError> {
        loop {
            if let Some(event) = self.poll()? {
                return Ok(Some(event));
            }
            if deadline != 0 && crate::clock::now() >= deadline {
                return Ok(None);
            }
            self.endpoint.wait(events::MARKET, deadline)?;
        }
    }

    /// Gives the core up until something has happened, a device has interrupted, of which `happened` tells (see
    /// [`events::wait_unless`]), or the TSC has reached `deadline` (0: never).
    pub fn wait_unless(&mut self, deadline: u64, happened: impl Fn() -> bool) -> Result<Option<Event>, MarketError> {
        if let Some(event) = self.poll()? {
            return Ok(Some(event));
        }
        self.endpoint.wait_unless(events::MARKET, deadline, happened)?;
        self.poll()
    }

    /// Leased memory.
    pub fn pager(&mut self) -> &mut Pager {
        &mut self.pager
    }

    /// Says what money is free, until the market says it after the next round (1e-15 credit).
    pub fn set_free(&mut self, free: i128) {
        self.book.set_free(Credits(free));
    }

    /// The goods.
    pub fn goods(&self) -> &[Good] {
        self.book.goods()
    }

    /// Tells the market that this application has ended. It takes everything back, so nothing may be used afterwards.
    pub fn exit(&mut self, status: u32, work: u64) -> Result<(), MarketError> {
        let number = self.book.next_number();
        let request = Request { number, body: RequestBody::Exit { status, work } };
        self.endpoint.send_waiting(&request, events::MARKET, 0).map_err(MarketError::from)
    }

    /// Lets go of those leases that nothing uses any more.
    fn let_go(&mut self, leases: &[u32]) -> (Vec<u32>, u64) {
        let mut pages = 0;
        let mut gone = Vec::new();
        for &lease in leases {
            let bits = self.pager.bits(lease);
            if let Some(bits) = bits
                && self.pager.release(lease)
            {
                pages += 1 << (bits - cap_spec::abi::PAGE_BITS);
                gone.push(lease);
            }
        }
        (gone, pages)
    }

    /// Sends a request without waiting for its answer. A refusal becomes an event.
    fn send(&mut self, body: RequestBody) -> Result<u32, MarketError> {
        self.say(body, Endpoint::send)
    }

    /// The same, in this way.
    fn say(
        &mut self,
        body: RequestBody,
        way: impl FnOnce(&mut Endpoint, &Request) -> Result<(), ChannelError>,
    ) -> Result<u32, MarketError> {
        let number = self.book.next_number();
        let request = Request { number, body };
        match way(&mut self.endpoint, &request) {
            Ok(()) => Ok(number),
            // Both rings could be full of each other's messages: taking ours in makes room for the market's.
            Err(ChannelError::Full) => {
                self.take_in()?;
                let deadline = crate::clock::now().saturating_add(self.patience_ticks);
                self.endpoint.send_waiting(&request, events::MARKET, deadline)?;
                Ok(number)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request and waits for its answer; what else arrives meanwhile is kept for [`Market::poll`].
    fn call(&mut self, body: RequestBody) -> Result<Answer, MarketError> {
        let number = self.send(body)?;
        self.book.expect(number);
        let deadline = crate::clock::now().saturating_add(self.patience_ticks);
        loop {
            self.take_in()?;
            match self.book.answer(number) {
                Some(Answer::Refused(refusal)) => return Err(MarketError::Refused(refusal)),
                Some(answer) => return Ok(answer),
                None if crate::clock::now() >= deadline => {
                    self.book.give_up_waiting(number);
                    return Err(MarketError::NoAnswer);
                }
                None => drop(self.endpoint.wait(events::MARKET, deadline)?),
            }
        }
    }

    fn wait_for_message(&mut self, deadline: u64) -> Result<(), MarketError> {
        self.endpoint.wait(events::MARKET, deadline)?;
        self.take_in()
    }

    /// Takes in all messages that have arrived. What happened is kept for [`Market::poll`].
    pub(crate) fn take_in(&mut self) -> Result<(), MarketError> {
        while let Some(message) = self.endpoint.receive::<FromMarket>()? {
            match self.book.take_in(message, crate::clock::now(), |good| self.board.line(good)) {
                Effect::Nothing => {}
                Effect::Tell(event) => {
                    if let Event::Notice(notice) = event
                        && self.handler.is_some()
                    {
                        self.untold.push_back(notice);
                    }
                    self.happened.push_back(event);
                }
                Effect::Accept { lease, bits } => self.accept(lease, bits)?,
                Effect::AcceptVf { part } => self.accept_vf(part),
                Effect::Taken { leases } => {
                    let heap_lost = leases.iter().filter(|&&lease| self.pager.taken(lease)).count();
                    assert!(heap_lost == 0, "{heap_lost} leases that the heap lived on were taken by force");
                    self.happened.push_back(Event::Taken { leases });
                }
            }
        }
        self.tell_notices();
        Ok(())
    }

    /// Calls the handler for each notice that it was not told of, one after the other.
    fn tell_notices(&mut self) {
        // What the handler asks of the market may take in further messages.
        let Some(handler) = self.handler.filter(|_| !self.handling) else { return };
        self.handling = true;
        while let Some(notice) = self.untold.pop_front() {
            handler(self, &notice);
        }
        self.handling = false;
    }

    /// Puts a part of a virtual function where it belongs; of what the market has taken again meanwhile it tells.
    fn accept_vf(&mut self, part: u8) {
        let channel = self.endpoint.channel();
        let part = u16::from(part).min(VF_MESSAGES);
        let slot = Slot::root(NIC_SLOT + part);
        let accepted = if part == 0 {
            channel.accept::<PciFunction>(slot).map(drop)
        } else {
            channel.accept::<Irq>(slot).map(drop)
        };
        // The market has the next part, which could not be in flight before.
        let _ = channel.signal();
        if accepted.is_ok() && part == VF_MESSAGES {
            self.happened.push_back(Event::VfLeased);
        }
    }

    /// Puts an arrived lease to use, or gives it back at once if that can't be.
    fn accept(&mut self, lease: u32, bits: u8) -> Result<(), MarketError> {
        let channel = self.endpoint.channel();
        let accepted = self.pager.accept(channel, lease, bits);
        // The market may have a further block for us, which could not be in flight before this one was accepted.
        let _ = channel.signal();
        match accepted {
            Ok(()) => self.happened.push_back(Event::Leased { lease, bits }),
            Err(error) => {
                // To go on bidding for what can't be used would cost money in every interval.
                let pages = u32::try_from(self.pager.pages()).unwrap_or(u32::MAX);
                self.limits[usize::from(book::PAGE_GOOD)].most_units = pages;
                self.send(RequestBody::Release { good: book::PAGE_GOOD, leases: alloc::vec![lease], quantity: 0 })?;
                self.happened.push_back(Event::Unusable { lease, error });
            }
        }
        Ok(())
    }
}

/// True for a bid that wants something.
fn wants_some(bid: &Option<RequestBody>) -> bool {
    matches!(bid, Some(RequestBody::Bid { curve, .. }) if !curve.is_empty())
}

/// An offer as a message, within limits, for who has so much to spend.
fn bid_message(good: u16, offer: &Offer, limits: &Limits, to_spend: Credits) -> RequestBody {
    let mut left = limits.most_units;
    let mut curve: Vec<proto::market::Segment> = Vec::new();
    for segment in offer.curve.segments() {
        let value = segment.value.min(limits.max_price).0;
        let quantity = segment.quantity.0.min(left);
        left -= quantity;
        match curve.last_mut() {
            // What the limit has made equal is one segment: values fall strictly.
            Some(last) if last.value == value => last.quantity = last.quantity.saturating_add(quantity),
            _ if quantity > 0 => curve.push(proto::market::Segment { quantity, value }),
            _ => {}
        }
    }
    // Who wants nothing says the same whatever money there is, so that it is said once.
    let most = if curve.is_empty() { Credits::ZERO } else { offer.max_payment.min(limits.budget).max(Credits::ZERO) };
    // Nor does who can pay for all of it, as if everything was held already and worth keeping.
    let keep = i128::from(offer.keep.0);
    let all = curve.iter().map(|segment| i128::from(segment.quantity) * (i128::from(segment.value) + keep));
    let most = if all.sum::<i128>() <= to_spend.0 { most } else { most.min(to_spend) };
    RequestBody::Bid {
        good,
        curve,
        keep: offer.keep.0,
        max_payment: u64::try_from(most.0).unwrap_or(u64::MAX),
        valid_until: limits.last_round.0,
        block_bits: limits.block_bits,
    }
}

#[cfg(test)]
mod tests;
