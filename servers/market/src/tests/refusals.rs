//! Wrong archives, wrong requests, hostile tenants.

use super::*;
use crate::requests::MAX_REQUESTS;
use crate::root::{STATS_PAGE, TENANT_STRIDE, TENANT_WINDOW};
use cap_spec::abi::{Label, stats_page};
use proto::market::{Reason, Refusal};

fn two() -> Vec<u8> {
    archive(&plan(["a", "b"].map(app).into(), Some(1_000)))
}

fn failure(archive: &[u8]) -> String {
    match Server::start(Model::new(1, &[25, 24]), archive) {
        Ok(_) => panic!("it starts"),
        Err((_, failure)) => failure.to_string(),
    }
}

#[test]
fn a_wrong_plan_is_refused_with_its_place() {
    let wrong = |change: fn(&mut Plan)| {
        let mut plan = plan(["a", "b"].map(app).into(), None);
        change(&mut plan);
        failure(&archive(&plan))
    };
    assert!(wrong(|plan| plan.version = 99).contains("another version"));
    assert!(wrong(|plan| plan.common_pool_percent = 5).contains("common pool"));
    assert!(wrong(|plan| plan.goods.swap(0, 1)).contains("the first good is `page`"));
    assert!(wrong(|plan| plan.goods[1].name = "cpu.7".into()).contains("no such core"));
    assert!(wrong(|plan| plan.goods[1].interval_ms = 15).contains("multiple of 10 ms"));
    assert!(wrong(|plan| plan.apps[1].budget = -1).contains("application b: budget"));
    assert!(wrong(|plan| plan.apps[1].name = "a".into()).contains("another one's"));
    assert!(wrong(|plan| plan.apps[0].core = 3).contains("application a: CPU time"));
    assert!(wrong(|plan| plan.apps[0].image = "none".into()).contains("images/none: is not in the archive"));
    assert!(wrong(|plan| plan.events = vec![at(1, Command::Kill { app: 2 })]).contains("event at 1 ms"));
    assert!(wrong(|plan| plan.apps[0].base_cpu = 95).contains("CPU time for the base of a"));
    assert!(wrong(|plan| plan.apps[0].base_pages = 50_000).contains("out of memory"));
    assert!(failure(b"no archive").contains("archive"));
}

#[test]
fn wrong_requests_are_answered_and_change_nothing() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    let rising = vec![Segment { quantity: 1, value: 5 }, Segment { quantity: 1, value: 6 }];
    let mut steep = bid(0, 1, 1);
    if let RequestBody::Bid { curve, .. } = &mut steep {
        *curve = rising;
    }
    let cases = [
        (bid(9, 1, 1), Refusal::UnknownGood),
        (bid(0, 0, 1), Refusal::BadCurve),
        (steep, Refusal::BadCurve),
        (RequestBody::Desk { good: 0, quantity: 3 }, Refusal::BadQuantity),
        (RequestBody::Desk { good: 0, quantity: 0 }, Refusal::BadQuantity),
        (RequestBody::Desk { good: 1, quantity: 5_000 }, Refusal::NotAvailable),
        (RequestBody::Release { good: 0, leases: vec![77], quantity: 0 }, Refusal::UnknownLease),
        (RequestBody::Release { good: 1, leases: vec![], quantity: 1 }, Refusal::BadQuantity),
        (RequestBody::GiveUp { leases: vec![1] }, Refusal::UnknownLease),
        (RequestBody::Estimate { good: 0, quantity: 1 << 30 }, Refusal::BadQuantity),
    ];
    let expected: Vec<Answer> = cases.iter().map(|(_, refusal)| Answer::Refused(*refusal)).collect();
    sim.tenants[0].says.extend(cases.into_iter().map(|(body, _)| body));
    sim.run_to(152);
    assert_eq!(sim.answers(0), expected);
    assert_eq!((sim.pages(0), sim.cpu(0)), (0, 0));
}

#[test]
fn explanations_and_estimates_are_of_the_last_round() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].says.push(bid(0, 800, 5_000));
    sim.tenants[1].says.push(bid(0, 800, 3_000));
    sim.run_to(350);
    sim.tenants[1].says.push(RequestBody::Explain { good: 0, round: u64::MAX });
    sim.tenants[1].says.push(RequestBody::Estimate { good: 0, quantity: 1 });
    sim.tenants[1].says.push(RequestBody::Statement { from: 0 });
    sim.run_to(352);
    let answers = sim.answers(1);
    let Answer::Explanation(explained) = answers[1] else { panic!("{answers:?}") };
    assert_eq!((explained.wanted, explained.won, explained.reason), (800, 200, Reason::Outbid));
    assert!((5_000..=5_011).contains(&explained.would_have_won), "{explained:?}");
    // It pays the reserve for its units, and would have been outbid at less than that.
    assert_eq!((explained.payment, explained.headroom), (200 * RESERVE, 2_000));
    let Answer::Estimate { cost } = answers[2] else { panic!("{answers:?}") };
    // It holds units already, so one costs the reserve: a's demand leaves 200.
    assert_eq!(cost, RESERVE);
    assert!(matches!(answers[3], Answer::Statement { paid, .. } if paid > 0));
}

#[test]
fn rounds_of_the_past_are_explained_as_long_as_they_are_kept() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(355);
    let newest = sim.server.markets[1].rounds.last().unwrap().round.0;
    let oldest = newest + 1 - crate::server::KEPT_ROUNDS as u64;
    // Of these the tenant bids in none.
    for round in [newest, oldest, oldest - 1, newest + 1] {
        sim.tenants[0].says.push(RequestBody::Explain { good: 1, round });
    }
    sim.run_to(357);
    let answers = sim.answers(0);
    for (answer, expected) in answers.iter().zip([newest, oldest]) {
        let Answer::Explanation(explained) = answer else { panic!("{answers:?}") };
        assert_eq!((explained.round, explained.won, explained.reason), (expected, 0, Reason::NoBid));
        assert_eq!(explained.would_have_won, RESERVE + 10, "what a newcomer pays");
    }
    assert_eq!(answers[2..], [Answer::Refused(Refusal::NotAvailable), Answer::Refused(Refusal::NotAvailable)]);
}

#[test]
fn malformed_messages_are_answered() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    for bytes in [vec![], vec![0xff; 100], vec![1, 2, 3]] {
        sim.send_bytes(0, bytes);
    }
    sim.run_to(152);
    assert_eq!(sim.answers(0), vec![Answer::Refused(Refusal::Malformed); 3]);
}

#[test]
fn a_flood_costs_only_its_sender() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(150);
    for _ in 0..3 * MAX_REQUESTS {
        sim.tenants[0].says.push(RequestBody::Statement { from: 0 });
    }
    sim.tenants[1].says.push(RequestBody::Statement { from: 0 });
    sim.run_to(152);
    assert_eq!(sim.answers(1).len(), 1, "the other is served");
    let answers = sim.answers(0);
    assert_eq!(answers.len() as u32, MAX_REQUESTS);
    assert_eq!(answers.last(), Some(&Answer::Refused(Refusal::TooManyRequests)));
    let wake = sim.server.step(0);
    assert_eq!(wake.mask & 0b11, 0b10, "its signals do not wake the market any more");
    sim.run_to(212);
    assert_eq!(sim.answers(0).len() as u32, 2 * MAX_REQUESTS, "in the next interval it is read again");
}

#[test]
fn a_tenant_that_does_not_read_blocks_nobody() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.tenants[0].ignores = true;
    sim.tenants[0].says.push(bid(0, 300, 9_000));
    sim.run_to(20);
    sim.model().deaf = Some(Peer::App(0));
    sim.tenants[1].says.push(bid(0, 300, 5_000));
    sim.run_to(850);
    assert_eq!((sim.pages(0), sim.pages(1)), (300, 300), "its leases exist although it does not take them");
    assert_eq!(sim.tenants[1].leases.values().map(|bits| 1u32 << (bits - 12)).sum::<u32>(), 300);
    assert_eq!(sim.server.tally.mismatches, 0);
    sim.command(Command::Kill { app: 0 });
    sim.run_to(900);
    assert_eq!(sim.end(0), Some(&End::Killed));
}

#[test]
fn a_fault_is_reported_with_its_reason_and_ends_the_run() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(250);
    sim.model().stop(0, 2);
    sim.run_to(300);
    assert!(matches!(sim.end(0), Some(End::Fault { reason: 2, .. })));
    sim.tenants[1].says.push(RequestBody::Exit { status: 0, work: 0 });
    assert_eq!(sim.run_to_end(), crate::finish::FAILURE);
    assert_eq!(sim.result().1, "a stopped at a fault: triple fault");
}

#[test]
fn an_application_that_destroys_its_own_vm_has_ended_at_the_next_page_interval() {
    // The handler page goes with the Vcpu, the statistics page with the VM.
    for page in 0..2 {
        let archive = two();
        let mut sim = Sim::new(&archive, silent);
        sim.tenants[0].says.push(bid(0, 8, 3_000));
        sim.run_to(250);
        let State::Running(running) = &sim.server.tenants[0].state else { unreachable!() };
        let slot = running.kernel_pages.unwrap()[page];
        sim.model().forget(slot);
        sim.run_to(310);
        assert_eq!(sim.end(0), Some(&End::Destroyed));
        sim.tenants[1].says.push(RequestBody::Exit { status: 0, work: 0 });
        assert_eq!(sim.run_to_end(), crate::finish::FAILURE);
        assert_eq!(sim.result().1, "a destroyed its own VM");
    }
}

#[test]
fn an_application_that_stops_itself_has_ended_at_the_next_page_interval() {
    let archive = archive(&plan(["a", "b", "c"].map(app).into(), None));
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(200);
    let word = |app: u64, offset: usize| TENANT_WINDOW + app * TENANT_STRIDE + STATS_PAGE + offset as u64;
    let invocations = |label: Label| stats_page::INVOCATIONS + 8 * label as usize;
    // b and c run a little now and then, and sleep. b stopped a Vcpu of its own once, and wakes when it is signalled.
    sim.model().set_word(word(1, invocations(Label::VcpuStop)), 1);
    for ms in 201..420 {
        let channel = sim.channel(1).unwrap();
        let signals = sim.model().signals(channel);
        for app in [1, 2] {
            let woken = ms / 150 + if app == 1 { signals } else { 0 };
            sim.model().set_word(word(app, stats_page::USED_TICKS), woken);
            sim.model().set_word(word(app, invocations(Label::VcpuWait)), woken);
        }
        if ms == 205 {
            // a runs, and never again.
            sim.model().set_word(word(0, stats_page::USED_TICKS), 1_000);
        }
        if ms == 310 {
            assert_eq!(sim.end(0), Some(&End::Stopped));
        }
        sim.run_to(ms);
    }
    let channel = sim.channel(1).expect("b goes on");
    assert!(sim.model().signals(channel) > 1);
    assert!(sim.channel(2).is_some(), "who sleeps is left alone");
    for tenant in &mut sim.tenants {
        tenant.says.push(RequestBody::Exit { status: 0, work: 0 });
    }
    assert_eq!(sim.run_to_end(), crate::finish::FAILURE);
    assert_eq!(sim.result().1, "a stopped itself");
}

#[test]
fn who_stopped_itself_after_it_had_waited_is_found_by_a_signal() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(200);
    for offset in [
        stats_page::USED_TICKS,
        stats_page::INVOCATIONS + 8 * Label::VcpuWait as usize,
        stats_page::INVOCATIONS + 8 * Label::VcpuStop as usize,
    ] {
        sim.model().set_word(TENANT_WINDOW + STATS_PAGE + offset as u64, 1);
    }
    sim.run_to(320);
    assert_eq!(sim.end(0), Some(&End::Stopped));
}

/// Both wait and revoke something between two looks of the market: one of them never runs again, the other one only sleeps,
/// and wakes when it is signalled. That is asked once.
#[test]
fn who_revokes_what_it_is_made_of_after_it_had_waited_is_found_by_a_signal() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(200);
    let invocations = |label: Label| stats_page::INVOCATIONS + 8 * label as usize;
    let set = |sim: &mut Sim<'_>, app: u64, offset: usize, value| {
        let at = TENANT_WINDOW + app * TENANT_STRIDE + STATS_PAGE + offset as u64;
        sim.model().set_word(at, value);
    };
    for (app, label) in [(0, Label::CNodeRevoke), (1, Label::CNodeDelete)] {
        for offset in [stats_page::USED_TICKS, invocations(Label::VcpuWait), invocations(label)] {
            set(&mut sim, app, offset, 1);
        }
    }
    let (ended, other) = (sim.channel(0).unwrap(), sim.channel(1).unwrap());
    let before = [ended, other].map(|channel| sim.model().signals(channel));
    for ms in 201..600 {
        sim.run_to(ms);
        let woken = sim.model().signals(other) - before[1];
        for offset in [stats_page::USED_TICKS, invocations(Label::VcpuWait)] {
            set(&mut sim, 1, offset, 1 + woken);
        }
        if ms == 230 {
            assert_eq!((sim.end(0), woken), (None, 0), "they may be waiting for their CPU time");
        }
    }
    assert_eq!(sim.end(0), Some(&End::Stopped));
    assert!(sim.channel(1).is_some(), "who sleeps is left alone");
    assert_eq!([ended, other].map(|channel| sim.model().signals(channel)), before.map(|count| count + 1));
}

#[test]
fn a_console_server_that_stops_ends_the_run() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(250);
    let count = cap_spec::abi::handler_page::COUNT as u64;
    sim.model().set_word(crate::console_link::CONSOLE_HANDLER_PAGE + count, 1);
    sim.server.step(0);
    assert!(matches!(sim.server.phase, Phase::PowerOff { deadline, .. } if deadline <= sim.server.root.machine.now));
}

#[test]
fn a_restarted_market_revokes_everything() {
    let archive = two();
    let mut sim = Sim::new(&archive, silent);
    sim.run_to(50);
    let mut model = sim.server.root.machine;
    assert!(model.derived() > 100);
    let boot = crate::boot::Boot::read(&model).unwrap();
    crate::last_words::revoke_everything(&mut model, &boot);
    // Reservations and the statistics page are no memory and run nothing.
    assert!(model.derived() < 10, "{}", model.derived());
    crate::last_words::end_run(&mut model, 0, "the ledger is lost");
}
