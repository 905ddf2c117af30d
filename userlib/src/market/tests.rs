//! The client against a small market of its own, over real rings; the kernel is a stand-in.

use core::cell::RefCell;
use core::sync::atomic::AtomicU64;
use std::boxed::Box;
use std::rc::Rc;
use std::vec;

use market_mechanism::board::{WORDS, publish};
use proto::market::StatementPage;

use super::*;
use crate::cap::{Label, own};
use crate::channel::tests::pair;
use crate::invoke::fake;
use crate::slots::Slots;

/// The market's side: answers one request at a time, whenever the client waits.
struct Server {
    endpoint: Endpoint,
    requests: Vec<RequestBody>,
    answer: fn(&RequestBody) -> Vec<FromMarket>,
}

impl Server {
    fn serve(&mut self) -> u64 {
        while let Some(Request { number, body }) = self.endpoint.receive::<Request>().unwrap() {
            for message in (self.answer)(&body) {
                let message = match message {
                    FromMarket::Answer { body, .. } => FromMarket::Answer { number, body },
                    other => other,
                };
                self.endpoint.send(&message).unwrap();
            }
            self.requests.push(body);
        }
        events::MARKET
    }
}

fn connect(answer: fn(&RequestBody) -> Vec<FromMarket>) -> (Market, Rc<RefCell<Server>>) {
    let (client, endpoint) = pair(0);
    let server = Rc::new(RefCell::new(Server { endpoint, requests: Vec::new(), answer }));
    let kernel = server.clone();
    fake::install(move |_, label, _| match label {
        Label::VcpuWait => Ok((kernel.borrow_mut().serve(), 0)),
        _ => Ok((0, 0)),
    });
    let lines: &'static [[AtomicU64; WORDS]] = Box::leak(Box::new([const { [const { AtomicU64::new(0) }; WORDS] }; 2]));
    publish(&lines[1], &Line { ask: Price(31), clearing: Price(30), ..Line::default() });
    let goods = ["page", "cpu.0"].map(|name| Good {
        name: name.into(),
        interval_ticks: 10,
        base: Quantity(1),
        base_charge: Credits(10),
    });
    let pager = Pager::new(Slots::new(200), own::BASE, own::VM);
    let market = Market::new(client, Board::new(lines), goods.into(), pager, 1_000_000_000);
    (market, server)
}

fn answer(body: Answer) -> Vec<FromMarket> {
    vec![FromMarket::Answer { number: 0, body }]
}

#[test]
fn a_question_gets_its_answer_and_what_comes_between_is_kept() {
    let (mut market, _) = connect(|body| match body {
        RequestBody::Estimate { .. } => {
            let mut messages = vec![FromMarket::AtRisk { good: 1, units: 2 }];
            messages.extend(answer(Answer::Estimate { cost: 77 }));
            messages
        }
        _ => answer(Answer::Refused(Refusal::TooManyRequests)),
    });
    assert_eq!(market.estimate(1, 5), Ok(77));
    assert_eq!(market.poll(), Ok(Some(Event::AtRisk { good: 1, units: 2 })));
    assert_eq!(market.poll(), Ok(None));
    assert_eq!(market.explain(1, None), Err(MarketError::Refused(Refusal::TooManyRequests)));
    assert_eq!((market.ask(1), market.ask(7)), (Some(Price(31)), None));
    assert_eq!((market.watch(1).and_then(Ask::now), market.watch(7).is_none()), (Some(Price(31)), true));
}

#[test]
fn a_round_is_explained_by_its_number() {
    const EXPLAINED: Explanation = Explanation {
        round: 7,
        wanted: 5,
        won: 2,
        payment: 60,
        reason: Reason::Outbid,
        would_have_won: 31,
        headroom: 4,
    };
    let (mut market, server) = connect(|body| match body {
        RequestBody::Explain { round: 7 | u64::MAX, .. } => answer(Answer::Explanation(EXPLAINED)),
        RequestBody::Explain { .. } => answer(Answer::Done),
        _ => answer(Answer::Refused(Refusal::Malformed)),
    });
    assert_eq!(market.explain(1, Some(RoundNo(7))), Ok(EXPLAINED));
    assert_eq!(market.explain(1, None), Ok(EXPLAINED));
    assert_eq!(market.explain(1, Some(RoundNo(8))), Err(MarketError::NoAnswer), "an answer to something else");
    assert_eq!(server.borrow().requests[0], RequestBody::Explain { good: 1, round: 7 });
}

#[test]
fn cpu_time_is_bought_and_given_back_and_the_account_says_what_it_cost() {
    const LINE: StatementLine =
        StatementLine { kind: Movement::Desk, good: Some(1), interval: 7, quantity: 3, amount: -96 };
    let (mut market, server) = connect(|body| match body {
        RequestBody::Desk { good: 1, quantity: 3 } => answer(Answer::Bought { payment: 96, from_tsc: 12 }),
        RequestBody::Desk { .. } => answer(Answer::Refused(Refusal::CannotPay)),
        RequestBody::Statement { from: 0 } => {
            let page = StatementPage { first: 4, opening: 596, lines: vec![LINE], end: 6 };
            answer(Answer::Statement { balance: 500, escrow: 0, paid: 96, page })
        }
        // A line was written after the first answer.
        RequestBody::Statement { from } => {
            assert_eq!(*from, 5);
            let top_up = StatementLine { kind: Movement::TopUp, good: None, quantity: 0, amount: 7, ..LINE };
            let page = StatementPage { first: 5, opening: 500, lines: vec![top_up], end: 6 };
            answer(Answer::Statement { balance: 507, escrow: 0, paid: 96, page })
        }
        _ => answer(Answer::Done),
    });
    assert_eq!(market.buy_cpu(1, 3), Ok((96, 12)));
    assert_eq!(market.buy_cpu(1, 4), Err(MarketError::Refused(Refusal::CannotPay)));
    market.release_cpu(1, 2).unwrap();
    let statement = market.statement().unwrap();
    assert_eq!((statement.balance, statement.paid), (Credits(507), Credits(96)));
    assert_eq!(
        statement.lines.iter().map(|line| (line.good, line.quantity)).collect::<Vec<_>>(),
        [(Some(1), 3), (None, 0)]
    );
    assert!(statement.adds_up());
    let release = RequestBody::Release { good: 1, leases: vec![], quantity: 2 };
    assert!(server.borrow().requests.contains(&release));
}

#[test]
fn notices_and_warnings_say_what_and_by_when() {
    let (mut market, server) = connect(|_| answer(Answer::Done));
    let notice = Notice { good: 0, round: 3, units: 2, deadline_tsc: 900 };
    let Notice { good, round, units, deadline_tsc } = notice;
    for message in [FromMarket::AtRisk { good, units: 5 }, FromMarket::Notice { good, round, units, deadline_tsc }] {
        server.borrow_mut().endpoint.send(&message).unwrap();
    }
    assert_eq!(market.poll(), Ok(Some(Event::AtRisk { good: 0, units: 5 })));
    assert_eq!(market.wait(0), Ok(Some(Event::Notice(notice))));
    assert_eq!(market.notices(), [notice]);
}

#[test]
fn a_handler_hears_of_each_notice_once_and_in_turn() {
    std::thread_local! {
        static HEARD: RefCell<Vec<(u64, Vec<u32>)>> = const { RefCell::new(Vec::new()) };
    }
    let (mut market, server) = connect(|_| answer(Answer::Done));
    let notice = |round| FromMarket::Notice { good: 0, round, units: 2, deadline_tsc: 900 };
    let lease = |lease| FromMarket::Lease { lease, bits: 12, round: 1 };
    for message in [lease(5), notice(3)] {
        server.borrow_mut().endpoint.send(&message).unwrap();
    }
    assert!(market.poll().unwrap().is_some());
    market.handle_notices(Some(|market, notice| {
        let held = market.pager().leases().map(|(lease, _)| lease).collect();
        HEARD.with_borrow_mut(|heard| heard.push((notice.round, held)));
        assert_eq!(market.give_up(&[5]).unwrap(), u64::from(notice.round == 4));
        // It may take in messages: the notice among them waits for its turn.
        market.take_in().unwrap();
        HEARD.with_borrow(|heard| assert_eq!(heard.last().map(|(round, _)| *round), Some(notice.round)));
    }));
    for message in [notice(4), notice(5)] {
        server.borrow_mut().endpoint.send(&message).unwrap();
    }
    market.take_in().unwrap();
    assert_eq!(HEARD.take(), [(4, vec![5]), (5, vec![])], "not of what came before");
    let rounds: Vec<u64> = core::iter::from_fn(|| market.poll().unwrap())
        .filter_map(|event| if let Event::Notice(notice) = event { Some(notice.round) } else { None })
        .collect();
    assert_eq!(rounds, [3, 4, 5], "events tell of all of them afterwards");
}

#[test]
fn a_standing_bid_is_sent_once() {
    let (mut market, server) = connect(|_| answer(Answer::Done));
    let policy = |value| FixedBid { units: Quantity(3), value: Price(value), keep: Price(0) };
    for value in [5, 5, 6, 6, 5] {
        market.bid_by(1, &policy(value)).unwrap();
    }
    server.borrow_mut().serve();
    assert_eq!(server.borrow().requests.len(), 3);
    market.max_price(1, Price(5));
    market.bid_by(1, &policy(90)).unwrap();
    server.borrow_mut().serve();
    assert_eq!(server.borrow().requests.len(), 3, "the limit makes it the same bid");
}

#[test]
fn a_lease_bought_at_the_desk_is_mapped_and_goes_back() {
    let (mut market, server) = connect(|body| match body {
        RequestBody::Desk { good: 0, quantity: 4 } => {
            let mut messages = answer(Answer::Bought { payment: 8, from_tsc: 0 });
            messages.push(FromMarket::Lease { lease: 9, bits: 14, round: u64::MAX });
            messages
        }
        RequestBody::Desk { .. } => answer(Answer::Refused(Refusal::NotAvailable)),
        _ => answer(Answer::Done),
    });
    assert_eq!(market.lease(0, 4), Ok(9));
    assert_eq!(market.pager().pages(), 4);
    assert_eq!(market.poll(), Ok(Some(Event::Leased { lease: 9, bits: 14 })));
    assert_eq!(market.lease(0, 8), Err(MarketError::Refused(Refusal::NotAvailable)));
    assert_eq!(market.release(0, &[9, 10]), Ok(4));
    server.borrow_mut().serve();
    let release = RequestBody::Release { good: 0, leases: vec![9], quantity: 0 };
    assert_eq!(server.borrow().requests.last(), Some(&release));
    assert_eq!(market.pager().pages(), 0);
}

#[test]
fn a_market_that_is_silent_or_talks_nonsense_is_an_error_not_a_hang() {
    let (mut market, server) = connect(|_| Vec::new());
    market.patience_ticks = 1_000_000;
    assert_eq!(market.statement(), Err(MarketError::NoAnswer));
    server.borrow_mut().endpoint.send_bytes(&[0xff; 40]).unwrap();
    assert_eq!(market.poll(), Err(MarketError::Channel(ChannelError::Corrupt)));
}

#[test]
fn a_bid_stays_within_its_limits() {
    let steps = [(3, 90), (2, 50), (4, 10)];
    let steps = steps.map(|(quantity, value)| Segment { quantity: Quantity(quantity), value: Price(value) });
    let offer = Offer { curve: Curve::new(&steps).unwrap(), keep: Price(1), max_payment: Credits(1 << 100) };
    let bid = |limits: Limits, to_spend| match bid_message(0, &offer, &limits, Credits(to_spend)) {
        RequestBody::Bid { curve, max_payment, keep, .. } => {
            assert_eq!(keep, 1);
            (curve.iter().map(|segment| (segment.quantity, segment.value)).collect::<Vec<_>>(), max_payment)
        }
        other => panic!("{other:?}"),
    };
    let sent = |limits| bid(limits, 1 << 100);
    assert_eq!(sent(NO_LIMITS), (vec![(3, 90), (2, 50), (4, 10)], u64::MAX));
    assert_eq!(sent(Limits { max_price: Price(50), ..NO_LIMITS }).0, [(5, 50), (4, 10)]);
    assert_eq!(sent(Limits { budget: Credits(700), ..NO_LIMITS }).1, 700);
    assert_eq!(sent(Limits { most_units: 4, ..NO_LIMITS }).0, [(3, 90), (1, 50)]);
    assert_eq!(sent(Limits { most_units: 0, ..NO_LIMITS }), (vec![], 0), "nothing is the same whatever money there is");
    // What its base costs is not spent; who could pay all that it bids is not held up by it, and says the same every time.
    assert_eq!([419, 418, 0].map(|to_spend| bid(NO_LIMITS, to_spend).1), [u64::MAX, 418, 0]);
    assert_eq!(bid(Limits { budget: Credits(7), ..NO_LIMITS }, 9).1, 7);
}

#[test]
fn goods_that_are_bid_for_share_what_may_be_spent() {
    let (mut market, server) = connect(|_| answer(Answer::Done));
    // What two bases of 10 cost in two intervals, and 400.
    market.set_free(440);
    let steps = [Segment { quantity: Quantity(1_000), value: Price(10) }];
    let some = Offer { curve: Curve::new(&steps).unwrap(), keep: Price(0), max_payment: Credits::MAX };
    let none = Offer { curve: Curve::new(&[]).unwrap(), ..some };
    for (good, offer) in [(0, &some), (1, &some), (0, &some), (1, &none), (0, &some)] {
        market.bid(good, offer).unwrap();
    }
    assert!(market.statement().is_err(), "so that the market has read them");
    let most = |request: &RequestBody| match request {
        RequestBody::Bid { max_payment, .. } => Some(*max_payment),
        _ => None,
    };
    assert_eq!(server.borrow().requests.iter().filter_map(most).collect::<Vec<_>>(), [400, 200, 200, 0, 400]);
}

#[test]
fn a_bid_wakes_nobody_as_the_market_wakes_for_the_next_round() {
    let (mut market, server) = connect(|_| answer(Answer::Done));
    let signals = Rc::new(RefCell::new(0));
    let count = signals.clone();
    fake::install(move |_, label, _| {
        *count.borrow_mut() += usize::from(label == Label::ChannelSignal);
        Ok((0, 0))
    });
    assert_eq!(server.borrow_mut().endpoint.announce_sleep(), Ok(true));
    let offer = FixedBid { units: Quantity(3), value: Price(5), keep: Price(0) };
    market.bid(0, &offer.decide(&Line::default(), &market.holding(0))).unwrap();
    assert_eq!(*signals.borrow(), 0);
    server.borrow_mut().serve();
    assert!(matches!(server.borrow().requests[..], [RequestBody::Bid { good: 0, .. }]));
    // Somebody who wants his answer wakes it.
    assert_eq!(server.borrow_mut().endpoint.announce_sleep(), Ok(true));
    market.release_cpu(1, 1).unwrap();
    assert_eq!(*signals.borrow(), 1);
}

#[test]
fn pages_that_cannot_be_used_go_back_and_are_bid_for_no_more() {
    let (mut market, server) = connect(|_| answer(Answer::Done));
    let wanted = FixedBid { units: Quantity(3), value: Price(5), keep: Price(0) };
    let offer = wanted.decide(&Line::default(), &market.holding(0));
    market.bid(0, &offer).unwrap();
    // No block of this size is ever leased.
    server.borrow_mut().endpoint.send(&FromMarket::Lease { lease: 4, bits: 40, round: 1 }).unwrap();
    assert!(matches!(market.poll(), Ok(Some(Event::Unusable { lease: 4, .. }))));
    market.bid(0, &offer).unwrap();
    server.borrow_mut().serve();
    let requests = &server.borrow().requests;
    assert!(matches!(&requests[1], RequestBody::Release { leases, .. } if leases == &[4]));
    assert!(matches!(&requests[2], RequestBody::Bid { curve, .. } if curve.is_empty()));
}

#[test]
fn any_number_of_leases_can_be_given_up_at_once() {
    let (mut market, server) = connect(|_| answer(Answer::Done));
    let leases: Vec<u32> = (0..600).map(|at| u32::MAX - at).collect();
    for lease in &leases {
        server.borrow_mut().endpoint.send(&FromMarket::Lease { lease: *lease, bits: 12, round: 1 }).unwrap();
        assert!(matches!(market.poll(), Ok(Some(Event::Leased { .. }))));
    }
    assert_eq!(market.give_up(&leases), Ok(600));
    server.borrow_mut().serve();
    let given: Vec<u32> = (server.borrow().requests.iter())
        .flat_map(|body| match body {
            RequestBody::GiveUp { leases } => leases.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(given, leases);
}
