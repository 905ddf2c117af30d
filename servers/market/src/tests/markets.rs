//! Who gets what, for how much, and that everything comes back.

use super::*;
use crate::finish::{FAILURE, SUCCESS};
use crate::root::{GLOBAL_STATS_PAGE, STATS_PAGE, TENANT_WINDOW};
use cap_spec::abi::{Label, stats_page};
use market_mechanism::Quantity;

/// Pages beyond all bases in these tests.
const PAGES: u32 = 1_000;

fn three(values: [u64; 3]) -> (Vec<u8>, [u64; 3]) {
    (archive(&plan(["a", "b", "c"].map(app).into(), Some(PAGES))), values)
}

/// Runs three tenants that want 600 pages each at these values; returns their pages after half a second.
fn holdings(values: [u64; 3]) -> [u32; 3] {
    let (archive, values) = three(values);
    let mut sim = Sim::new(&archive, silent);
    for (tenant, value) in sim.tenants.iter_mut().zip(values) {
        tenant.says.push(bid(0, 600, value));
    }
    sim.run_to(550);
    [0, 1, 2].map(|app| sim.pages(app))
}

#[test]
fn those_who_value_pages_most_get_them_and_exchanged_values_exchange_holdings() {
    assert_eq!(holdings([9_000, 5_000, 3_000]), [600, 400, 0]);
    assert_eq!(holdings([3_000, 5_000, 9_000]), [0, 400, 600]);
    assert_eq!(holdings([5_000, 9_000, 3_000]), [400, 600, 0]);
}

#[test]
fn prices_follow_from_what_others_bid() {
    let (archive, values) = three([9_000, 5_000, 3_000]);
    let mut sim = Sim::new(&archive, silent);
    for (tenant, value) in sim.tenants.iter_mut().zip(values) {
        tenant.says.push(bid(0, 600, value));
    }
    sim.run_to(550);
    let rounds: Vec<&Record> =
        sim.records.iter().filter(|record| matches!(record, Record::Round { good: 0, .. })).collect();
    let Record::Round { clearing, ask, holdings, .. } = rounds[rounds.len() - 1] else { unreachable!() };
    // The best rejected unit is b's, who holds 400 and wants 200 more: its value less the fee.
    assert_eq!((*clearing, holdings.as_slice()), (4_990, &[600, 400, 0][..]));
    assert!(*ask >= 5_000);
    let line = market_mechanism::board::Line::decode(&core::array::from_fn(|word| {
        use crate::machine::Machine;
        sim.server.root.machine.read_word(crate::root::BOARD_PAGE + 8 * word as u64)
    }));
    assert_eq!((line.clearing.0, line.sequence % 2), (4_990, 0), "the board shows the same");
}

#[test]
fn a_demand_shock_moves_pages_and_its_end_moves_them_back() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    plan.events.push(at(500, Command::Shock { app: 1, ppm: 4_000_000, for_ms: 500 }));
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, |tenant, message| {
        if let FromMarket::Valuation { ppm } = message {
            tenant.says.push(bid(0, 600, 3_000 * ppm / 1_000_000));
        }
    });
    sim.tenants[0].says.push(bid(0, 600, 6_000));
    sim.tenants[1].says.push(bid(0, 600, 3_000));
    let mut seen = Vec::new();
    for ms in [450, 950, 1_450] {
        sim.run_to(ms);
        seen.push((sim.pages(0), sim.pages(1)));
    }
    assert_eq!(seen, [(600, 400), (400, 600), (600, 400)]);
    let notices = |app: usize| {
        let notice = |message: &&FromMarket| matches!(message, FromMarket::Notice { units: 200, good: 0, .. });
        sim.tenants[app].heard.iter().filter(notice).count()
    };
    assert_eq!((notices(0), notices(1)), (1, 1));
}

#[test]
fn a_changed_valuation_holds_until_it_is_changed_again() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    plan.events.push(at(500, Command::Valuation { app: 1, ppm: 4_000_000 }));
    plan.events.push(at(1_500, Command::Valuation { app: 1, ppm: 1_000_000 }));
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, |tenant, message| {
        if let FromMarket::Valuation { ppm } = message {
            tenant.says.push(bid(0, 600, 3_000 * ppm / 1_000_000));
        }
    });
    sim.tenants[0].says.push(bid(0, 600, 6_000));
    sim.tenants[1].says.push(bid(0, 600, 3_000));
    let mut seen = Vec::new();
    for ms in [450, 950, 1_450, 1_950] {
        sim.run_to(ms);
        seen.push((sim.pages(0), sim.pages(1)));
    }
    assert_eq!(seen, [(600, 400), (400, 600), (400, 600), (600, 400)]);
}

#[test]
fn notice_comes_an_interval_before_force_and_the_holder_chooses() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 800, 3_000));
    sim.run_to(350);
    let before = sim.server.tenants[0].leases.clone();
    assert_eq!(sim.pages(0), 800);
    sim.tenants[1].says.push(bid(0, 600, 9_000));
    sim.run_to(450);
    let deadline = sim.tenants[0].heard.iter().find_map(|message| match message {
        FromMarket::Notice { units: 400, deadline_tsc, .. } => Some(*deadline_tsc),
        _ => None,
    });
    assert_eq!(deadline, Some(sim.server.clock.at(500)), "one interval after the round at 400 ms");
    let named: Vec<u32> = before.keys().copied().take(10).collect();
    sim.tenants[0].says.push(RequestBody::GiveUp { leases: named.clone() });
    sim.run_to(495);
    assert_eq!(sim.pages(0), 800, "until the deadline all of it can be used");
    sim.run_to(502);
    assert_eq!((sim.pages(0), sim.pages(1)), (400, 600));
    let left = &sim.server.tenants[0].leases;
    assert!(named.iter().all(|lease| !left.contains_key(lease)), "what it named is gone");
    let survivor = before.keys().find(|lease| !named.contains(lease)).unwrap();
    assert!(left.contains_key(survivor), "and of the others the youngest went");
    let taken: Vec<u32> = sim.tenants[0]
        .heard
        .iter()
        .filter_map(|message| if let FromMarket::Taken { leases } = message { Some(leases.clone()) } else { None })
        .flatten()
        .collect();
    assert_eq!(taken.len() + named.len() + left.len(), before.len());
}

#[test]
fn all_that_goes_is_out_of_reach_before_anything_is_scrubbed() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 500, 3_000));
    sim.tenants[1].says.push(bid(0, 500, 3_000));
    sim.run_to(350);
    sim.tenants[2].says.push(bid(0, 1_000, 9_000));
    sim.run_to(490);
    assert_eq!(sim.model().cuts, [], "nothing is cut off before its time");
    let scrubbed = sim.model().scrubbed;
    sim.run_to(502);
    // Blocks of four pages, of two tenants.
    assert_eq!(sim.model().cuts, [scrubbed; 250]);
    assert_eq!([0, 1, 2].map(|app| sim.pages(app)), [0, 0, 1_000]);
    sim.run_to(650);
    assert_eq!(sim.server.tally.mismatches, 0);
}

/// 800 pages, of which the round that has just closed took 400 for the interval that begins in some milliseconds.
fn between_a_round_and_its_interval(archive: &[u8]) -> Sim<'_> {
    let mut sim = Sim::new(archive, silent);
    sim.tenants[0].says.push(bid(0, 800, 3_000));
    sim.run_to(350);
    sim.tenants[1].says.push(bid(0, 600, 9_000));
    sim.run_to(496);
    let running = sim.server.markets[0].rounds.lease(crate::server::account(0)).unwrap().running.0;
    assert_eq!((running, sim.server.tenants[0].leased_pages()), (400, 800));
    sim
}

#[test]
fn what_is_given_back_between_a_round_and_its_interval_counts_as_lost() {
    let (archive, _) = three([0; 3]);
    let mut sim = between_a_round_and_its_interval(&archive);
    let leases: Vec<u32> = sim.server.tenants[0].leases.keys().copied().take(50).collect();
    sim.tenants[0].says.push(RequestBody::Release { good: 0, leases, quantity: 0 });
    sim.run_to(498);
    assert_eq!(sim.server.tenants[0].leased_pages(), 600);
    sim.run_to(502);
    assert_eq!((sim.pages(0), sim.pages(1)), (400, 600));
    // More than it loses is given back early.
    let mut sim = between_a_round_and_its_interval(&archive);
    let leases: Vec<u32> = sim.server.tenants[0].leases.keys().copied().take(110).collect();
    sim.tenants[0].says.push(RequestBody::Release { good: 0, leases, quantity: 0 });
    sim.run_to(502);
    assert_eq!((sim.pages(0), sim.pages(1)), (360, 600));
    sim.run_to(650);
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn what_the_desk_sells_between_a_round_and_its_interval_comes_with_the_interval() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 1_000, 3_000));
    sim.run_to(350);
    sim.tenants[0].says.push(bid(0, 100, 3_000));
    // Sold for two intervals to come by now, so that the first that the desk can sell is the one at 500 ms.
    sim.run_to(496);
    sim.tenants[1].says.push(RequestBody::Desk { good: 0, quantity: 64 });
    sim.run_to(498);
    let from = sim.answers(1).iter().find_map(|answer| match answer {
        Answer::Bought { from_tsc, .. } => Some(*from_tsc),
        _ => None,
    });
    assert_eq!(from, Some(sim.server.clock.at(500)));
    assert_eq!((sim.server.tenants[0].leased_pages(), sim.server.tenants[1].leased_pages()), (1_000, 0));
    sim.run_to(502);
    assert_eq!((sim.pages(0), sim.pages(1)), (100, 64));
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn notice_that_is_late_is_a_whole_interval_all_the_same() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 800, 3_000));
    sim.run_to(350);
    sim.tenants[1].says.push(bid(0, 600, 9_000));
    sim.run_to(390);
    // The market is held up: the round that is due at 395 ms closes 20 ms later.
    sim.model().now = sim.server.clock.at(415);
    sim.run_to(417);
    assert!(sim.tenants[0].heard.iter().any(|message| matches!(message, FromMarket::Notice { units: 400, .. })));
    sim.run_to(514);
    assert_eq!(sim.server.tenants[0].leased_pages(), 800);
    sim.run_to(517);
    assert_eq!((sim.pages(0), sim.pages(1)), (400, 600));
    sim.run_to(602);
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn whole_blocks_are_lost_and_the_difference_is_given_anew() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    let mut large = bid(0, 512, 3_000);
    if let RequestBody::Bid { block_bits, .. } = &mut large {
        *block_bits = 21;
    }
    sim.tenants[0].says.push(large);
    sim.run_to(250);
    assert_eq!(sim.server.tenants[0].leases.len(), 1, "one block of 2 MiB");
    sim.tenants[1].says.push(bid(0, 600, 9_000));
    sim.run_to(550);
    assert_eq!((sim.pages(0), sim.pages(1)), (400, 600));
    sim.run_to(650);
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn cpu_time_is_resized_for_the_interval_that_was_sold() {
    let archive = archive(&plan(["a", "b"].map(app).into(), None));
    let mut sim = Sim::new(&archive, silent);
    let supply = sim.server.markets[1].rounds.board_line(0).supply.0 - 2;
    assert!((70..=83).contains(&supply), "what is left of the core is for sale: {supply}");
    sim.tenants[0].says.push(bid(1, 60, 3_000));
    sim.run_to(100);
    assert_eq!((sim.cpu(0), sim.cpu(1)), (60, 0));
    sim.tenants[1].says.push(bid(1, 60, 9_000));
    sim.run_to(105);
    assert_eq!(sim.cpu(0), 60, "the round that sells it has not been closed");
    sim.run_to(130);
    assert_eq!((sim.cpu(0), sim.cpu(1)), (u64::from(supply) - 60, 60));
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn the_desk_sells_at_once_what_is_unsold() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    sim.tenants[0].says.push(RequestBody::Desk { good: 0, quantity: 16 });
    sim.tenants[0].says.push(RequestBody::Desk { good: 1, quantity: 5 });
    sim.run_to(152);
    assert_eq!((sim.pages(0), sim.cpu(0)), (16, 5));
    let payments: Vec<u64> = sim
        .answers(0)
        .iter()
        .filter_map(|answer| if let Answer::Bought { payment, .. } = answer { Some(*payment) } else { None })
        .collect();
    // Two intervals at the reserve and the fee once.
    assert_eq!(payments, [16 * (2 * RESERVE + 10), 5 * (2 * RESERVE + 10)]);
    assert_eq!(sim.tenants[0].leases.values().copied().collect::<Vec<u8>>(), [16], "one block");
    sim.run_to(450);
    assert_eq!((sim.pages(0), sim.cpu(0)), (0, 0), "without a bid it ends");
}

#[test]
fn leases_given_back_early_are_refunded_when_they_are_sold_again() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 1_000, 3_000));
    sim.run_to(250);
    let leases: Vec<u32> = sim.server.tenants[0].leases.keys().copied().take(4).collect();
    let balance = sim.server.ledger.free(crate::server::account(0));
    sim.tenants[0].says.push(RequestBody::Release { good: 0, leases, quantity: 0 });
    sim.run_to(252);
    assert_eq!(sim.pages(0), 1_000 - 16);
    sim.tenants[1].says.push(RequestBody::Desk { good: 0, quantity: 16 });
    sim.run_to(254);
    assert_eq!(sim.pages(1), 16);
    let refund = sim.server.ledger.free(crate::server::account(0)) - balance;
    assert_eq!(refund.0, 2 * 16 * i128::from(RESERVE));
}

#[test]
fn a_lease_that_its_holder_deletes_is_given_back() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 8, 3_000));
    sim.run_to(250);
    assert_eq!(sim.pages(0), 8);
    sim.model().delete_accepted(1);
    sim.run_to(302);
    assert_eq!((sim.pages(0), sim.server.tally.mismatches), (4, 0));
    assert!(!sim.server.tenants[0].leases.contains_key(&1));
    sim.run_to(552);
    assert_eq!((sim.pages(0), sim.server.tally.mismatches), (8, 0), "the bid stands, so a later round gives it anew");
}

#[test]
fn a_killed_application_leaves_nothing_behind() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    plan.apps[0].has_input = true;
    plan.events.push(at(600, Command::Kill { app: 0 }));
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    let free = sim.server.root.memory.free_pages();
    sim.tenants[0].says.extend([bid(0, 700, 5_000), bid(1, 30, 5_000)]);
    sim.tenants[1].says.push(bid(0, 1_000, 3_000));
    sim.run_to(550);
    assert_eq!((sim.pages(0), sim.pages(1), sim.cpu(0)), (700, 300, 30));
    sim.run_to(950);
    assert_eq!(sim.end(0), Some(&End::Killed));
    assert_eq!(sim.pages(1), 1_000, "what it had is sold to others");
    sim.tenants[1].says.push(RequestBody::Exit { status: 0, work: 7 });
    assert_eq!(sim.run_to_end(), SUCCESS);
    // Bases and inputs, which were set aside before the start, are free as well now.
    assert!(sim.server.root.memory.free_pages() > free + 768);
    assert_eq!(sim.totals().2, 0);
}

#[test]
fn everything_is_taken_back_at_the_end() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    let slots = sim.server.root.memory.slots.free();
    for tenant in &mut sim.tenants {
        tenant.says.extend([bid(0, 100, 5_000), bid(1, 10, 5_000)]);
    }
    sim.run_to(450);
    for tenant in &mut sim.tenants {
        tenant.says.push(RequestBody::Exit { status: 0, work: 3 });
    }
    assert_eq!(sim.run_to_end(), SUCCESS);
    assert_eq!(sim.result(), (0, String::new()));
    let (sum, expected, mismatches) = sim.totals();
    assert_eq!((sum, mismatches), (30 * CREDIT, 0));
    assert_eq!(sum, expected);
    // Blocks stay split, whose parts keep their slots; the tenants' own slots are all empty again.
    let merged = slots - sim.server.root.memory.slots.free();
    assert!(merged <= 64 * 8, "{merged}");
    for app in 0..3 {
        assert!(matches!(sim.end(app), Some(End::Exit { status: 0 })));
    }
}

#[test]
fn who_cannot_pay_its_base_gets_notice_then_is_stopped() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    // Enough for the deposits and about three intervals of pages and CPU time at 100 a unit.
    plan.apps[0].budget = 50_000;
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(1_900);
    assert_eq!(sim.end(0), Some(&End::Unpaid));
    assert!(sim.tenants[0].heard.iter().any(|message| matches!(message, FromMarket::StopNotice { .. })));
    assert!(matches!(sim.server.tenants[1].state, State::Running(_)));
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn a_top_up_in_time_cancels_the_stop() {
    let mut plan = plan(["a"].map(app).into(), Some(PAGES));
    plan.apps[0].budget = 50_000;
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    let noticed =
        |sim: &Sim<'_>| sim.tenants[0].heard.iter().any(|message| matches!(message, FromMarket::StopNotice { .. }));
    let mut ms = 0;
    while !noticed(&sim) {
        ms += 1;
        assert!(ms < 1_900, "no notice");
        sim.run_to(ms);
    }
    sim.command(Command::TopUp { app: 0, amount: CREDIT });
    sim.run_to(ms + 500);
    assert!(matches!(sim.server.tenants[0].state, State::Running(_)));
    let (sum, expected) = (sim.server.paid_in.0, 50_000 + CREDIT);
    assert_eq!(sum, expected);
}

#[test]
fn an_application_that_starts_later_gets_its_base_from_what_is_for_sale() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    plan.apps[1].starts = false;
    plan.apps[1].awaited = false;
    plan.events.push(at(500, Command::Start { app: 1 }));
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 5_000, 3_000));
    sim.run_to(450);
    assert_eq!(sim.pages(0), PAGES, "its base is not for sale before");
    assert!(matches!(sim.server.tenants[1].state, State::Waiting));
    sim.run_to(950);
    assert!(matches!(sim.server.tenants[1].state, State::Running(_)));
    assert_eq!(sim.pages(0), PAGES, "nor after");
    assert_eq!(sim.server.tally.mismatches, 0);
}

#[test]
fn income_is_credited_to_the_last_unit() {
    let mut plan = plan(["a"].map(app).into(), Some(PAGES));
    plan.apps[0].income_per_second = 1_000_000_007;
    let archive = archive(&plan);
    let mut sim = Sim::new(&archive, silent);
    // A round closes 5 ms before its interval.
    sim.run_to(1_098);
    let income = sim.server.paid_in.0 - 10 * CREDIT;
    assert!((1_095_000_007..1_096_000_000).contains(&income), "{income}");
}

#[test]
fn a_run_that_reaches_its_limit_fails_and_everything_is_taken_back() {
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 100, 5_000));
    assert_eq!(sim.run_to_end(), FAILURE);
    let (status, reason) = sim.result();
    assert!(status == 1 && reason.starts_with("the run's limit was reached"), "{reason}");
    assert_eq!(sim.end(0), Some(&End::RunOver));
}

#[test]
fn intervals_that_pass_while_the_market_is_held_up_are_counted_and_not_charged() {
    let (archive, _) = three([0; 3]);
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
        let (archive, _) = three([0; 3]);
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
    let (archive, _) = three([0; 3]);
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
    let (archive, _) = three([0; 3]);
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

#[test]
fn a_difference_fails_the_run() {
    let (archive, _) = three([0; 3]);
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
    let (archive, _) = three([0; 3]);
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(250);
    assert_eq!(sim.server.tally.mismatches, 0);
    sim.server.write_payment(0, proto::market::Movement::Income, market_mechanism::Credits(1));
    sim.run_to(350);
    assert!(sim.server.tally.mismatches > 0);
}

#[test]
fn who_would_lose_units_is_warned_half_an_interval_before_and_nobody_else() {
    let (archive, _) = three([0; 3]);
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
