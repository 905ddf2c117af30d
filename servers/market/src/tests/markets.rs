//! Who gets what, for how much, and that everything comes back.

use super::*;
use crate::finish::{FAILURE, SUCCESS};
use proto::host::TOLD_TO_END;

/// Three tenants that want 600 pages each at these values, after half a second.
fn bidding(archive: &[u8], values: [u64; 3]) -> Sim<'_> {
    let mut sim = Sim::new(archive, silent);
    for (tenant, value) in sim.tenants.iter_mut().zip(values) {
        tenant.says.push(bid(0, 600, value));
    }
    sim.run_to(550);
    sim
}

fn holdings(values: [u64; 3]) -> [u32; 3] {
    let archive = three();
    let sim = bidding(&archive, values);
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
    let archive = three();
    let sim = bidding(&archive, [9_000, 5_000, 3_000]);
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

/// Two tenants want 600 pages each: `a` values them at 6,000, `b` at 3,000 and at what it is told from then on. Returns what
/// both hold at these times, too.
fn values_that_change<'a>(archive: &'a [u8], times_ms: &[u64]) -> (Sim<'a>, Vec<(u32, u32)>) {
    let mut sim = Sim::new(archive, |tenant, message| {
        if let FromMarket::Valuation { ppm } = message {
            tenant.says.push(bid(0, 600, 3_000 * ppm / 1_000_000));
        }
    });
    sim.tenants[0].says.push(bid(0, 600, 6_000));
    sim.tenants[1].says.push(bid(0, 600, 3_000));
    let mut holdings_at = |ms| {
        sim.run_to(ms);
        (sim.pages(0), sim.pages(1))
    };
    let seen = times_ms.iter().map(|ms| holdings_at(*ms)).collect();
    (sim, seen)
}

#[test]
fn a_demand_shock_moves_pages_and_its_end_moves_them_back() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    plan.events.push(at(500, Command::Shock { app: 1, ppm: 4_000_000, for_ms: 500 }));
    let archive = archive(&plan);
    let (sim, seen) = values_that_change(&archive, &[450, 950, 1_450]);
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
    let (_, seen) = values_that_change(&archive, &[450, 950, 1_450, 1_950]);
    assert_eq!(seen, [(600, 400), (400, 600), (400, 600), (600, 400)]);
}

/// One holds 800 pages; from 350 ms on another one values 600 of them more. Runs up to a time after that.
fn outbid(archive: &[u8], until_ms: u64) -> Sim<'_> {
    let mut sim = Sim::new(archive, silent);
    sim.tenants[0].says.push(bid(0, 800, 3_000));
    sim.run_to(350);
    sim.tenants[1].says.push(bid(0, 600, 9_000));
    sim.run_to(until_ms);
    sim
}

#[test]
fn notice_comes_an_interval_before_force_and_the_holder_chooses() {
    let archive = three();
    let mut sim = outbid(&archive, 450);
    let before = sim.server.tenants[0].leases.clone();
    assert_eq!(sim.pages(0), 800);
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

/// A tenant deletes what it gives up, and then names it: what runs on another core than the market can be seen in between.
#[test]
fn leases_that_were_seen_deleted_before_they_were_named_are_named_all_the_same() {
    let archive = three();
    let mut sim = outbid(&archive, 397);
    let named: Vec<u32> = sim.server.tenants[0].leases.keys().copied().take(100).collect();
    assert_eq!(named.iter().map(|lease| sim.server.tenants[0].leases[lease].pages()).sum::<u32>(), 400);
    sim.model().delete_accepted(1);
    sim.model().delete_accepted(2);
    sim.run_to(402);
    assert_eq!((sim.pages(0), sim.server.tally.mismatches), (792, 0), "the books of the interval were looked at");
    sim.tenants[0].says.push(RequestBody::GiveUp { leases: named.clone() });
    sim.run_to(502);
    assert_eq!(sim.answers(0).last(), Some(&Answer::Done));
    assert_eq!((sim.pages(0), sim.pages(1)), (400, 600));
    assert!(named.iter().all(|lease| !sim.server.tenants[0].leases.contains_key(lease)), "what it named is gone");
    let taken = sim.tenants[0].heard.iter().any(|message| matches!(message, FromMarket::Taken { .. }));
    assert!(!taken, "and nothing else");
    // The same for what it releases.
    let released: Vec<u32> = sim.server.tenants[0].leases.keys().copied().take(2).collect();
    sim.model().delete_accepted(u16::try_from(released[0]).unwrap());
    sim.run_to(602);
    sim.tenants[0].says.push(RequestBody::Release { good: 0, leases: released, quantity: 0 });
    sim.run_to(604);
    assert_eq!((sim.answers(0).last(), sim.pages(0)), (Some(&Answer::Done), 392));
}

#[test]
fn all_that_goes_is_out_of_reach_before_anything_is_scrubbed() {
    let archive = three();
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
    let sim = outbid(archive, 496);
    let running = sim.server.markets[0].rounds.lease(crate::server::account(0)).unwrap().running.0;
    assert_eq!((running, sim.server.tenants[0].leased_pages()), (400, 800));
    sim
}

#[test]
fn what_is_given_back_between_a_round_and_its_interval_counts_as_lost() {
    let archive = three();
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
    let archive = three();
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
    let archive = three();
    let mut sim = outbid(&archive, 390);
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
    let archive = three();
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
    sim.run_to(1);
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
    let archive = three();
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
    let archive = three();
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
    let archive = three();
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
    let archive = three();
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
fn who_cannot_pay_for_its_whole_base_pays_for_nothing_of_it() {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    let pages = i128::from(Sim::new(&archive(&plan), silent).server.tenants[0].base_pages);
    for lacking in [1, 0] {
        // An interval of pages, and one of CPU time with a deposit for nine more, at 100 a unit.
        plan.apps[0].budget = (pages + 10) * 100 - lacking;
        let archive = archive(&plan);
        let mut sim = Sim::new(&archive, silent);
        sim.run_to(5);
        // A round of CPU time has been charged since the start, to the deposit.
        let (end, paid) = if lacking > 0 { (Some(&End::Unpaid), 0) } else { (None, (pages + 2) * 100) };
        assert_eq!((sim.end(0), sim.server.paid(0)), (end, paid), "{lacking} lacking");
    }
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
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 100, 5_000));
    assert_eq!(sim.run_to_end(), FAILURE);
    let (status, reason) = sim.result();
    assert!(status == 1 && reason.starts_with("the run's limit was reached"), "{reason}");
    assert_eq!(sim.end(0), Some(&End::RunOver));
}

/// Intervals of a minute, so that hours are few rounds.
fn for_hours() -> Plan {
    let mut plan = plan(["a", "b"].map(app).into(), Some(PAGES));
    for good in &mut plan.goods {
        good.interval_ms = 60_000;
    }
    (plan.limit_ms, plan.apps[0].income_covers_base) = (None, true);
    plan.apps[1].awaited = false;
    // What three hours of its base cost, and no more.
    plan.apps.iter_mut().for_each(|app| app.budget = 3 * 60 * (100 * i128::from(16 + 16) + 100));
    plan
}

#[test]
fn a_run_without_a_limit_goes_on_for_days_until_it_is_told_to_end() {
    const HOUR_MS: u64 = 3_600_000;
    let archive = archive(&for_hours());
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(2 * HOUR_MS);
    let [a, b] = [0, 1].map(|app| sim.server.ledger.free(crate::server::account(app)));
    assert!(a > b, "who has an income for its base keeps what it had: {a}, {b}");
    sim.run_to(48 * HOUR_MS);
    assert_eq!((sim.power_off, sim.end(1)), (None, Some(&End::Unpaid)));
    let kept = sim.server.ledger.free(crate::server::account(0)) - a;
    let seconds = 46 * 3_600;
    assert!((0..=seconds).contains(&kept.0), "{kept}: a unit a second at most, as an income is whole units");
    sim.command(Command::Stop);
    sim.run_to(49 * HOUR_MS);
    let (status, reason) = sim.result();
    assert!(status == TOLD_TO_END && reason.starts_with(crate::finish::STOPPED), "{status}: {reason}");
    assert_eq!((sim.end(0), sim.totals().2), (Some(&End::RunOver), 0));
}

#[test]
fn numbers_of_leases_begin_again_when_all_were_used() {
    let archive = three();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    sim.tenants[0].says.push(RequestBody::Desk { good: 0, quantity: 1 });
    sim.run_to(152);
    sim.server.tenants[0].next_lease = u64::from(u32::MAX);
    for _ in 0..3 {
        sim.tenants[0].says.push(RequestBody::Desk { good: 0, quantity: 1 });
    }
    sim.run_to(190);
    let numbers: Vec<u32> = sim.tenants[0].leases.keys().copied().collect();
    assert_eq!(numbers, [1, 2, 3, u32::MAX], "the first one is held");
    sim.tenants[0].says.push(RequestBody::GiveUp { leases: vec![u32::MAX, 2] });
    sim.run_to(450);
    assert_eq!((sim.pages(0), sim.server.tally.mismatches), (0, 0));
}
