//! Virtual functions with a price: who wins one gets it while it runs, and who loses one loses it when that is due.

use super::model::{Model, RESET_TICKS};
use super::*;
use crate::finish::SUCCESS;
use proto::nic::{ToNic, VF_GOOD, VF_MESSAGES};

/// The good's number in the plan.
const VFS: u16 = 2;

/// Applications that may have a function, with so many in the base of each, where `supply` are sold besides.
fn with_base(base_vf: u32, supply: u32) -> Plan {
    let apps = ["a", "b"].map(|name| App { nic: true, base_vf, ..app(name) });
    let mut plan = plan(apps.into(), Some(PAGES));
    let good = Good { name: VF_GOOD.into(), supply_limit: Some(supply), ..plan.goods[0].clone() };
    plan.goods.push(Good { interval_ms: 1_000, ..good });
    plan.limit_ms = Some(9_000);
    plan
}

fn machine(vfs: u64) -> Model {
    let mut model = Model::new(1, &[24, 25, 23, 22, 22]);
    model.add_nic(vfs);
    model
}

/// Parts of functions that arrived at an application, and how often it lost one.
fn heard(sim: &Sim<'_>, app: usize) -> (Vec<u8>, usize) {
    let part = |message: &FromMarket| match message {
        FromMarket::Vf { part } => Some(*part),
        _ => None,
    };
    let heard = &sim.tenants[app].heard;
    (heard.iter().filter_map(part).collect(), heard.iter().filter(|said| **said == FromMarket::VfTaken).count())
}

/// A tenant that takes what arrives; it leaves when it is told that its work is worth nothing.
fn accepting(tenant: &mut Tenant, message: &FromMarket) {
    if let FromMarket::Valuation { ppm } = message {
        let leave = RequestBody::Exit { status: 0, work: 0 };
        tenant.says.push(if *ppm == 1 { leave } else { bid(VFS, 1, *ppm) });
    }
}

const ALL: [u8; 1 + VF_MESSAGES as usize] = [0, 1, 2, 3];

#[test]
fn a_function_goes_to_who_values_it_most_with_its_routes_and_after_its_reset() {
    let mut plan = with_base(0, 1);
    plan.events = [(2_500, 1, 9_000), (6_500, 0, 1), (7_500, 1, 1)]
        .map(|(at_ms, app, ppm)| at(at_ms, Command::Valuation { app, ppm }))
        .into();
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(8), &archive, accepting);
    sim.tenants[0].says.push(bid(VFS, 1, 5_000));
    sim.run_to(990);
    assert_eq!((sim.model().leased_vfs(), heard(&sim, 0).0), (0, vec![]), "it has none in its base");
    // Round 0 sells interval 1.
    sim.run_to(1_010);
    assert_eq!((sim.model().leased_vfs(), heard(&sim, 0)), (1, (ALL.into(), 0)));
    // The other one bids more in round 3, for interval 4; the first one has its notice in interval 3.
    sim.run_to(3_990);
    assert_eq!((heard(&sim, 0).1, heard(&sim, 1).0), (0, vec![]));
    let notice = |message: &&FromMarket| matches!(message, FromMarket::Notice { good: VFS, units: 1, .. });
    assert_eq!(sim.tenants[0].heard.iter().filter(notice).count(), 1);
    sim.run_to(4_002);
    assert_eq!(heard(&sim, 0).1, 1, "it is gone at once");
    // There are others that are not for sale, and one that is not in its reset is as good.
    sim.run_to(4_010);
    assert_eq!((sim.model().leased_vfs(), heard(&sim, 1).0), (1, ALL.into()));
    assert_eq!(sim.run_to_end(), SUCCESS, "{:?}", sim.result());
    assert_eq!(sim.totals().2, 0);
    assert_eq!(sim.model().leased_vfs(), 0);
}

/// Between the close of a round and its interval, the ledger is ahead of what there is: nobody makes it true early.
#[test]
fn a_release_of_another_does_not_end_a_function_before_its_deadline() {
    let mut plan = with_base(0, 1);
    plan.events.push(at(2_500, Command::Valuation { app: 1, ppm: 9_000 }));
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(8), &archive, accepting);
    sim.tenants[0].says.push(bid(VFS, 1, 5_000));
    sim.run_to(3_996);
    sim.tenants[1].says.push(RequestBody::Release { good: VFS, leases: vec![], quantity: 0 });
    // What the winner has is not there yet, and goes the same way.
    sim.tenants[1].says.push(RequestBody::Release { good: VFS, leases: vec![], quantity: 1 });
    sim.run_to(3_999);
    assert_eq!(sim.answers(1)[1..], [Answer::Done, Answer::Done]);
    assert_eq!((heard(&sim, 0).1, sim.model().leased_vfs()), (0, 1), "it has it until its deadline");
    sim.run_to(4_010);
    assert_eq!((heard(&sim, 0).1, sim.model().leased_vfs()), (1, 0));
    assert_eq!((heard(&sim, 1).0, sim.server.tally.mismatches), (vec![], 0));
}

#[test]
fn the_only_function_is_reset_before_its_next_holder_gets_it() {
    let mut plan = with_base(0, 1);
    plan.events.push(at(1_200, Command::Valuation { app: 1, ppm: 9_000 }));
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(1), &archive, accepting);
    sim.tenants[0].says.push(bid(VFS, 1, 5_000));
    sim.run_to(3_000 + RESET_TICKS / 1_000_000 - 10);
    assert_eq!((heard(&sim, 0).1, heard(&sim, 1).0, sim.model().leased_vfs()), (1, vec![], 0));
    sim.run_to(3_000 + RESET_TICKS / 1_000_000 + 10);
    assert_eq!((heard(&sim, 1).0, sim.model().leased_vfs()), (ALL.into(), 1));
    sim.run_to(5_000);
    assert_eq!(sim.server.tally.mismatches, 0);
}

/// Who gives its function back and buys again, shortly before another one comes out of its reset, goes to the end of the line.
#[test]
fn who_has_lacked_a_function_for_longest_gets_the_next_one() {
    let mut plan = with_base(0, 2);
    plan.events.push(at(1_200, Command::Valuation { app: 1, ppm: 9_000 }));
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(2), &archive, accepting);
    // A little shorter than a reset: whenever a function comes out of one, it lacks one just then.
    for ms in (1_010..=3_200).step_by(90) {
        sim.run_to(ms);
        let release = RequestBody::Release { good: VFS, leases: vec![], quantity: 1 };
        sim.tenants[0].says.extend([release, RequestBody::Desk { good: VFS, quantity: 1 }]);
    }
    sim.run_to(3_200);
    let had = heard(&sim, 0).0.iter().filter(|part| **part == 0).count();
    assert!(had > 20, "it has had its own {had} times");
    assert_eq!(heard(&sim, 1).0, ALL, "its interval began 200 ms ago");
    sim.run_to(4_500);
    assert_eq!((heard(&sim, 1), sim.server.tally.mismatches), ((ALL.into(), 0), 0));
}

#[test]
fn nobody_has_two() {
    let archive = archive(&with_base(1, 2));
    let mut sim = Sim::on(machine(8), &archive, silent);
    sim.run_to(100);
    assert_eq!(sim.model().leased_vfs(), 2, "those of the bases");
    for request in [bid(VFS, 1, 5_000), RequestBody::Desk { good: VFS, quantity: 1 }] {
        sim.tenants[0].says.push(request);
    }
    sim.run_to(200);
    let refused = Answer::Refused(proto::market::Refusal::BadQuantity);
    assert_eq!(sim.answers(0), [refused.clone(), refused]);
}

/// Segments add up to what is bid for, so that two of one unit each are a bid for two.
#[test]
fn nobody_wins_two_by_two_segments() {
    let archive = archive(&with_base(0, 2));
    let mut sim = Sim::on(machine(8), &archive, accepting);
    let mut both = bid(VFS, 1, 5_000);
    if let RequestBody::Bid { curve, .. } = &mut both {
        curve.push(Segment { quantity: 1, value: 4_000 });
    }
    sim.tenants[0].says.push(both);
    sim.run_to(2_500);
    assert_eq!(sim.answers(0), [Answer::Refused(proto::market::Refusal::BadQuantity)]);
    assert_eq!((sim.model().leased_vfs(), sim.server.tally.mismatches), (0, 0));
}

/// One that does not take what it has bought loses it like any other, and nothing of it is left.
#[test]
fn parts_that_nobody_accepts_are_taken_back() {
    let archive = archive(&with_base(0, 1));
    let mut sim = Sim::on(machine(8), &archive, silent);
    let free = sim.server.root.memory.slots.free();
    sim.tenants[0].ignores = true;
    sim.tenants[0].says.push(bid(VFS, 1, 5_000));
    sim.run_to(2_500);
    assert_eq!((heard(&sim, 0).0, sim.server.tenants[0].vf_parts.len()), (vec![0], 3));
    sim.tenants[0].says.push(bid(VFS, 1, 0));
    sim.run_to(4_500);
    assert_eq!((heard(&sim, 0).1, sim.server.tenants[0].vf_parts.len(), sim.model().leased_vfs()), (1, 0, 0));
    let told: Vec<ToNic> = sim
        .model()
        .sent
        .entry(Peer::Nic)
        .or_default()
        .iter()
        .map(|bytes| postcard::from_bytes(bytes).unwrap())
        .collect();
    assert!(matches!(told[..], [ToNic::Configure { vf: 0, .. }, ToNic::Close { vf: 0 }]), "{told:?}");
    assert!(sim.server.root.memory.slots.free() + 64 >= free);
    assert_eq!(sim.server.tally.mismatches, 0);
}

/// While an application waits for the function of its base, others buy all that is for sale: its base is not.
#[test]
fn a_base_that_waits_is_not_sold_meanwhile() {
    let mut plan = with_base(1, 0);
    plan.apps[1].starts = false;
    plan.apps.push(app("c"));
    // The function is in its reset up to 250 ms.
    plan.events = [at(150, Command::Kill { app: 0 }), at(160, Command::Start { app: 1 })].into();
    plan.limit_ms = Some(600);
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(1), &archive, silent);
    sim.tenants[2].says.extend([bid(0, 5_000, 5_000), bid(1, 100, 5_000)]);
    sim.run_to(240);
    assert!(matches!(sim.server.tenants[1].state, State::Starting));
    assert!(sim.cpu(2) > 50);
    sim.run_to(260);
    assert!(sim.server.nic.as_ref().unwrap().holds(1), "it runs, and has its function");
    sim.run_to(350);
    let all = PAGES + sim.server.tenants[0].base_pages;
    assert_eq!(sim.pages(2), all, "all, with the base of who has ended");
    sim.run_to_end();
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// A function that comes out of its reset while an application waits for the one of its base goes to nobody else, even if
/// that one asks for it just then.
#[test]
fn a_function_of_a_base_comes_before_those_that_are_bought() {
    let mut plan = with_base(0, 1);
    plan.apps[1] = App { starts: false, base_vf: 1, ..plan.apps[1].clone() };
    plan.events = [at(1_150, Command::Start { app: 1 })].into();
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(2), &archive, accepting);
    sim.tenants[0].says.push(bid(VFS, 1, 5_000));
    let again =
        [RequestBody::Release { good: VFS, leases: vec![], quantity: 1 }, RequestBody::Desk { good: VFS, quantity: 1 }];
    // It has the one, then the other one, then none: the first is in its reset up to 1,200 ms.
    for ms in [1_100, 1_160] {
        sim.run_to(ms);
        sim.tenants[0].says.extend(again.clone());
    }
    sim.run_to(1_190);
    let holders = |sim: &Sim<'_>| sim.server.nic.as_ref().unwrap().holders();
    assert_eq!((holders(&sim), sim.server.spare_vf()), (vec![], None));
    let asks = Request { number: 100, body: RequestBody::Release { good: VFS, leases: vec![], quantity: 0 } };
    sim.send_bytes(0, postcard::to_allocvec(&asks).unwrap());
    sim.model().now = sim.server.clock.at(1_201);
    sim.run_to(1_202);
    assert_eq!(holders(&sim), [1]);
    sim.run_to(1_270);
    assert_eq!(holders(&sim), [1, 0], "the next one is the other's");
    sim.run_to(2_500);
    assert_eq!(sim.server.tally.mismatches, 0);
}
