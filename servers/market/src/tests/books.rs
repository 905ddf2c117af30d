//! That the books are right: every difference between ledger, kernel and deliveries is found, what was not delivered is
//! paid back, and statements add up.

use super::*;
use crate::finish::{FAILURE, SUCCESS};
use crate::root::{GLOBAL_STATS_PAGE, STATS_PAGE, TENANT_WINDOW};
use cap_spec::abi::{Label, stats_page};
use market_mechanism::Quantity;

#[test]
fn intervals_that_pass_while_the_market_is_held_up_are_counted_and_not_charged() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 100, 5_000));
    sim.run_to(355);
    let (paid, rounds, held) = (sim.server.paid(0), sim.records.len(), sim.server.tenants[0].page_ms);
    // Rounds of pages are due at 400, 500, 600 and 700 ms.
    sim.model().now += 350_000_000;
    sim.run_to(708);
    let closed = |good: u16| {
        let of_good = |record: &&Record| matches!(record, Record::Round { good: of, .. } if *of == good);
        sim.records[rounds..].iter().filter(of_good).count()
    };
    assert_eq!((closed(0), sim.server.markets[0].skipped), (1, 3));
    let number = |good: usize| sim.server.markets[good].rounds.last().unwrap().round.0;
    assert_eq!((number(0), number(1)), (7, 70), "numbers follow time");
    assert_eq!(sim.server.markets[1].skipped, 34);
    // One posting each for the leases and for the base of pages, and one for each round of CPU time.
    let base = i128::from(sim.server.tenants[0].base_pages) * 100;
    assert_eq!(sim.server.paid(0) - paid, 100 * i128::from(RESERVE) + base + 100 * closed(1) as i128);
    assert_eq!(sim.server.tenants[0].page_ms - held, 4 * 100 * 100, "it has held them all the time");
    sim.run_to(1_050);
    assert_eq!((sim.pages(0), sim.server.tally.mismatches), (100, 0));
    for tenant in &mut sim.tenants {
        tenant.says.push(RequestBody::Exit { status: 0, work: 0 });
    }
    assert_eq!(sim.run_to_end(), SUCCESS);
    assert!(sim.records.iter().any(|record| matches!(record, Record::Totals { skipped: 37, .. })));
}

#[test]
fn pages_that_cannot_be_delivered_are_paid_back_with_the_penalty() {
    // More than the operator has earned by then: it has to pay in.
    let mut plan = plan(["a", "b", "c"].map(app).into(), Some(PAGES));
    plan.goods[0].penalty = 30_000;
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    sim.tenants[0].says.push(bid(0, 64, 5_000));
    sim.run_to(250);
    let supply = |sim: &Sim<'_>| sim.server.markets[0].rounds.board_line(0).supply.0;
    let (free, before) = (sim.server.ledger.free(crate::server::account(0)), supply(&sim));
    // From the seventh block on the kernel makes no lease any more; there are two Untypeds to each.
    sim.model().leases_left = Some(12);
    sim.run_to(302);
    assert_eq!(sim.pages(0), 24, "the books say what there is");
    let back = sim.server.ledger.free(crate::server::account(0)).0 - free.0;
    // Interval 3 began just now, and what was paid for it is paid back but for what is over; interval 4 was paid when its
    // round closed at 300 ms, with the base's price.
    let penalty = 2 * 40 * 30_000;
    let paid = 64 * i128::from(RESERVE) + i128::from(sim.server.tenants[0].base_pages) * 100 + 100 * 5;
    let whole = 40 * 2 * i128::from(RESERVE) + 40 * 10 + penalty;
    assert!((whole - 400..=whole).contains(&(back + paid)), "{} of {whole}", back + paid);
    assert_eq!(supply(&sim), before - 40, "what the operator does not have it does not sell");
    assert!(sim.server.paid_in > market_mechanism::Credits(30 * CREDIT));
    assert_eq!(sim.server.tally.mismatches, 0);
    sim.model().leases_left = None;
    sim.run_to(502);
    assert_eq!((sim.pages(0), sim.server.tally.mismatches), (64, 0), "its bid stands");
    assert!(sim.server.failures[0].contains("40 pages for application 0 cannot be delivered"));
    assert_eq!(sim.server.ledger.verify(), Ok(()));
}

/// Makes something go wrong.
type GoWrong = fn(&mut Sim<'_>);

/// What may go wrong between ledger, kernel and deliveries, each made to go wrong in a running market of two tenants with
/// pages and CPU time, and what the run says then.
const DISCREPANCIES: [(GoWrong, &str); 11] = [
    (|sim| resize(sim, 700_000), "CPU time of a: 6 leased, 7 exist"),
    (|sim| resize(sim, 500_000), "CPU time of a: 6 leased, 5 exist"),
    (
        |sim| {
            // The ledger forgets a lease that the tenant goes on using.
            sim.server.markets[0].rounds.release(crate::server::account(0), Quantity(4)).unwrap();
        },
        "pages of a: 120 leased, 124 exist",
    ),
    (
        |sim| {
            // A lease goes, and the ledger goes on charging for it.
            let lease = *sim.server.tenants[0].leases.keys().next().unwrap();
            sim.server.take_lease(0, lease);
        },
        "pages of a: 124 leased, 120 exist",
    ),
    (
        |sim| {
            // The block's own capability is not what it was: the kernel does not know it any more.
            let block = sim.server.tenants[0].leases.values().next().unwrap().block;
            let slot = sim.server.root.memory.slot(block);
            sim.model().forget(slot);
        },
        "pages of a: 124 leased, 120 exist",
    ),
    (
        |sim| {
            // A base without anything in it.
            let State::Running(running) = &sim.server.tenants[1].state else { unreachable!() };
            let slot = sim.server.root.memory.slot(running.base);
            sim.model().forget(slot);
        },
        "pages of b",
    ),
    (
        |sim| sim.server.ledger.add_capital(market_mechanism::Credits(1)).unwrap(),
        "money: 30 credits were paid in, 30.000000000000001 are there",
    ),
    (
        |sim| {
            let word = GLOBAL_STATS_PAGE + stats_page::WORST_SHORTFALL as u64;
            sim.model().set_word(word, 20_001);
        },
        "a period of CPU time came 20001 ticks short, more than 20000",
    ),
    (
        |sim| {
            // Memory that counts as free is somebody's.
            let block = sim.server.root.take(12).unwrap();
            let slot = sim.server.root.memory.slot(block);
            sim.server.root.give(block).unwrap();
            sim.server.root.make(slot, cap_spec::abi::ObjectType::Untyped, 12).unwrap();
            // A few blocks are looked at each time.
            (0..100).for_each(|_| {
                sim.server.reconcile();
            });
        },
        "1 free pages are not as they were given back",
    ),
    (
        |sim| {
            // A revocation that leaves something.
            sim.model().keeps_children = true;
            sim.server.end_tenant(0, End::Killed);
        },
        "pages of a: 0 leased,",
    ),
    (|sim| sim.server.paid_in.0 += 1, "money: 30.000000000000001 credits were paid in, 30 are there"),
];

/// The kernel gives tenant `a` another budget than was sold.
fn resize(sim: &mut Sim<'_>, budget: u64) {
    use crate::machine::Invoke;
    let time = sim.server.tenants[0].time;
    sim.model().resize_time(time, budget, 10_000_000).unwrap();
}

#[test]
fn every_difference_between_ledger_kernel_and_delivery_fails_the_run() {
    for (go_wrong, expected) in DISCREPANCIES {
        let archive = three();
        let mut sim = Sim::new(&archive, silent);
        sim.tenants[0].says.extend([bid(0, 64, 5_000), bid(1, 5, 5_000)]);
        sim.run_to(350);
        assert_eq!((sim.pages(0), sim.cpu(0), sim.server.tally.mismatches), (64, 5, 0));
        go_wrong(&mut sim);
        sim.server.reconcile();
        assert!(sim.server.tally.mismatches > 0, "not noticed: {expected}");
        assert!(sim.server.failures[0].contains(expected), "{} instead of {expected}", sim.server.failures[0]);
    }
}

/// Tenant `a` has 10 % of its core; runs it for 600 ms with so many ticks each millisecond, and so many waits. What the
/// market has to say to that.
fn use_time(ticks: u64, waits: u64) -> Vec<String> {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(1, 9, 5_000));
    sim.run_to(50);
    let page = TENANT_WINDOW + STATS_PAGE;
    for ms in 51..650 {
        sim.model().set_word(page + stats_page::USED_TICKS as u64, ticks * (ms - 50));
        let waited = page + (stats_page::INVOCATIONS + 8 * Label::ChannelWait as usize) as u64;
        sim.model().set_word(waited, waits * (ms - 50));
        sim.run_to(ms);
    }
    assert_eq!(sim.server.tally.mismatches, sim.server.failures.len() as u64);
    sim.server.failures
}

#[test]
fn cpu_time_that_was_used_is_compared_with_what_was_sold() {
    assert_eq!(use_time(100_000, 0), [""; 0], "all of it");
    assert_eq!(use_time(0, 0), [""; 0], "asleep");
    assert_eq!(use_time(50_000, 1), [""; 0], "half of it, as it waits now and then");
    let failures = use_time(50_000, 0);
    assert!(failures[0].contains("CPU time of a: ") && failures[0].ends_with(" delivered"), "{failures:?}");
    let failures = use_time(150_000, 1);
    assert!(failures[0].contains("CPU time of a: ") && failures[0].ends_with(" used"), "{failures:?}");
}

#[test]
fn cpu_time_is_reconciled_in_every_interval() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(130);
    resize(&mut sim, 700_000);
    let before = sim.server.tally.mismatches;
    // The next round of CPU time closes at 138.5 ms, of pages at 200.
    sim.run_to(140);
    assert_eq!((before, sim.server.tally.mismatches), (0, 1));
    let intervals = sim.server.tally.intervals;
    sim.run_to(190);
    assert_eq!(sim.server.tally.intervals - intervals, 5);
}

/// As after it was held up with the pages of an application that gave much up: it closes the next round of CPU time before it has
/// looked at the interval that goes on. What it compares is of one and the same interval all the same.
#[test]
fn a_market_that_is_late_compares_the_interval_that_the_kernel_has() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(1, 30, 3_000));
    sim.run_to(155);
    assert_eq!(sim.cpu(0), 30);
    sim.tenants[0].says.push(bid(1, 5, 3_000));
    let before = sim.server.tally.intervals;
    for quarter in 0..400 {
        let end = sim.server.clock.at(155) + quarter * sim.server.clock.span(250);
        let market = &mut sim.server.markets[1];
        market.unreconciled |= market.due() <= end && !market.retry;
        while sim.model().now < end {
            sim.step(end);
        }
    }
    assert_eq!(sim.cpu(0), 5);
    assert!(sim.server.tally.intervals > before);
    assert_eq!((sim.server.tally.mismatches, &sim.server.failures[..]), (0, &[][..]));
}

#[test]
fn a_difference_fails_the_run() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    // The kernel delivers more than was sold, until the end of the interval.
    resize(&mut sim, 700_000);
    sim.run_to(250);
    assert!(sim.server.tally.mismatches > 0);
    for tenant in &mut sim.tenants {
        tenant.says.push(RequestBody::Exit { status: 0, work: 0 });
    }
    assert_eq!(sim.run_to_end(), FAILURE);
    assert!(sim.result().1.contains("CPU time of a"), "{}", sim.result().1);
}

/// The statement of an application, asked for page by page as a client does it.
fn statement(sim: &mut Sim<'_>, app: usize, mut ms: u64) -> (Vec<proto::market::StatementLine>, i128) {
    let (mut lines, mut from) = (Vec::new(), 0);
    loop {
        sim.tenants[app].says.push(RequestBody::Statement { from });
        ms += 1;
        sim.run_to(ms);
        let Some(Answer::Statement { balance, escrow, page, .. }) = sim.answers(app).pop() else { panic!("no answer") };
        if from == 0 {
            assert_eq!((page.first, page.opening), (0, 0), "this short run is remembered whole");
        }
        from = page.first + page.lines.len() as u64;
        lines.extend(page.lines);
        if from == page.end {
            return (lines, balance + escrow);
        }
    }
}

#[test]
fn a_statement_has_every_movement_and_adds_up_to_the_ledger() {
    use proto::market::Movement::{self, Base, Desk, Income, Refund, Round, TopUp};
    let mut apps: Vec<App> = ["a", "b"].map(app).into();
    apps[0].income_per_second = CREDIT;
    let mut plan = plan(apps, Some(PAGES));
    plan.goods[1].interval_ms = 100;
    plan.events.push(at(320, Command::TopUp { app: 0, amount: CREDIT }));
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 8, 3_000));
    sim.run_to(350);
    // A gives back what B then buys at the desk: A's refund.
    let leases: Vec<u32> = sim.server.tenants[0].leases.keys().copied().collect();
    sim.tenants[0].says.push(RequestBody::Release { good: 0, leases, quantity: 0 });
    sim.run_to(352);
    let units = sim.server.markets[0].rounds.unsold().0.min(512);
    let units = 1 << units.ilog2();
    sim.tenants[1]
        .says
        .extend([RequestBody::Desk { good: 0, quantity: units }, RequestBody::Desk { good: 0, quantity: units / 2 }]);
    sim.run_to(410);
    sim.command(Command::TopUp { app: 1, amount: 3 });
    for (app, kinds) in [(0, &[TopUp, Income, Base, Round, Refund][..]), (1, &[TopUp, Base, Desk])] {
        let (lines, held) = statement(&mut sim, app, 420 + 20 * app as u64);
        assert_eq!(lines.iter().map(|line| line.amount).sum::<i128>(), held, "{lines:?}");
        let has = |kind: &Movement| lines.iter().any(|line| line.kind == *kind);
        assert!(kinds.iter().all(has), "{lines:?}");
        let charge = |kind: Movement| matches!(kind, Base | Round | Desk);
        assert!(
            lines.iter().all(|line| (line.amount < 0) == charge(line.kind) && charge(line.kind) == (line.quantity > 0))
        );
    }
    sim.run_to(550);
    assert_eq!(sim.server.tally.mismatches, 0, "every interval has compared the lines with the ledger");
}

#[test]
fn a_line_that_is_missing_is_found() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(250);
    assert_eq!(sim.server.tally.mismatches, 0);
    sim.server.write_payment(0, proto::market::Movement::Income, market_mechanism::Credits(1));
    sim.run_to(350);
    assert!(sim.server.tally.mismatches > 0);
}

#[test]
fn who_would_lose_units_is_warned_half_an_interval_before_and_nobody_else() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 800, 3_000));
    sim.run_to(310);
    assert_eq!(sim.pages(0), 800);
    let warnings = |sim: &Sim<'_>, app: usize| -> Vec<u32> {
        let warning = |message: &FromMarket| match message {
            FromMarket::AtRisk { good: 0, units } => Some(*units),
            _ => None,
        };
        sim.tenants[app].heard.iter().filter_map(warning).collect()
    };
    // A bid that stands at the middle of the interval (350 ms) takes 400 units in the round at 400 ms.
    sim.tenants[1].says.push(bid(0, 600, 9_000));
    sim.run_to(345);
    assert_eq!(warnings(&sim, 0), [], "not before the middle");
    sim.run_to(360);
    assert_eq!(warnings(&sim, 0), [400]);
    let notices = |sim: &Sim<'_>| {
        let notice = |message: &&FromMarket| matches!(message, FromMarket::Notice { good: 0, .. });
        sim.tenants[0].heard.iter().filter(notice).count()
    };
    assert_eq!(notices(&sim), 0, "it is early: there is no notice yet");
    // Who hears it can still bid more: then the other is the one that loses, and holds nothing yet.
    sim.tenants[0].says.push(bid(0, 800, 20_000));
    sim.run_to(450);
    assert_eq!((notices(&sim), sim.pages(0)), (0, 800));
    sim.run_to(460);
    assert_eq!((warnings(&sim, 0), warnings(&sim, 1)), (vec![400], vec![]), "nobody is at risk any more");
}
