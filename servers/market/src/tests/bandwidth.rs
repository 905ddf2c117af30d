//! Bandwidth: what is sold of it is what the network server lets virtual functions send, from the moment on that it is sold.

use super::model::Model;
use super::*;
use crate::finish::{FAILURE, SUCCESS};
use alloc::collections::BTreeSet;
use proto::nic::{BANDWIDTH_GOOD, CABLE_UNITS, FromNic, KEPT_UNITS, ToNic};

/// The good's number in the plan.
const BANDWIDTH: u16 = 2;
/// Mb/s in each base, and beyond all bases.
const BASE: u32 = 100;
const SUPPLY: u32 = 300;
const MEGABIT: u64 = 1_000_000;

fn two() -> Plan {
    let apps = ["a", "b"].map(|name| App { nic: true, base_bandwidth: BASE, ..app(name) });
    let mut plan = plan(apps.into(), Some(PAGES));
    let good = Good { name: BANDWIDTH_GOOD.into(), supply_limit: Some(SUPPLY), ..plan.goods[0].clone() };
    plan.goods.push(good);
    plan.limit_ms = Some(1_300);
    plan
}

fn machine() -> Model {
    let mut model = Model::new(1, &[24, 25, 23, 22, 22]);
    model.add_nic(8);
    model
}

/// A network server that does what it is told, and says so.
#[derive(Default)]
struct Limits {
    /// What each VF may send, and what it may send from a time on, in Mb/s and nanoseconds.
    now: [u64; 8],
    coming: [Option<(u64, u64)>; 8],
    /// Times at which limits began, in microseconds after the start of an interval.
    begun: BTreeSet<u64>,
}

impl Limits {
    /// Lets time pass in steps of a millisecond.
    fn run_to(&mut self, sim: &mut Sim<'_>, ms: u64) {
        let mut at = sim.server.clock.micros(sim.server.root.machine.now) / 1_000;
        while at < ms && sim.power_off.is_none() {
            at += 1;
            sim.run_to(at);
            self.serve(sim);
        }
    }

    fn serve(&mut self, sim: &mut Sim<'_>) {
        let said: Vec<Vec<u8>> = sim.model().sent.entry(Peer::Nic).or_default().drain(..).collect();
        for bytes in said {
            match postcard::from_bytes(&bytes).unwrap() {
                ToNic::Configure { vf, settings } => {
                    self.coming[usize::from(vf)] = None;
                    self.set(sim, vf, settings.limit_bits_per_s.expect("bandwidth is sold"));
                }
                ToNic::Limit { vf, bits_per_s, from_ns } => self.coming[usize::from(vf)] = Some((from_ns, bits_per_s)),
                ToNic::Close { vf } => self.set(sim, vf, 0),
                ToNic::Count => {}
                ToNic::Crash => panic!("nobody ordered that"),
            }
        }
        let now = sim.server.root.machine.now;
        for vf in 0..8 {
            if let Some((from, bits_per_s)) = self.coming[usize::from(vf)].take_if(|(from, _)| *from <= now) {
                // The model's clock counts nanoseconds.
                self.begun.insert(sim.server.clock.micros(from) % 100_000);
                self.set(sim, vf, bits_per_s);
            }
        }
    }

    fn set(&mut self, sim: &mut Sim<'_>, vf: u8, bits_per_s: u64) {
        self.now[usize::from(vf)] = bits_per_s / MEGABIT;
        let report = postcard::to_allocvec(&FromNic::InForce { vf, bits_per_s: Some(bits_per_s) }).unwrap();
        sim.model().incoming.entry(Peer::Nic).or_default().push_back(report);
    }
}

#[test]
fn limits_are_what_is_sold_from_the_start_of_the_interval_on() {
    let archive = archive(&two());
    let mut sim = Sim::on(machine(), &archive, silent);
    let mut limits = Limits::default();
    sim.tenants[0].says.push(bid(BANDWIDTH, 250, 5_000));
    limits.run_to(&mut sim, 250);
    assert_eq!(limits.now[..2], [350, 100]);
    // The other one bids more, and is told that it has won; the first one has an interval to live with its notice.
    sim.tenants[1].says.push(bid(BANDWIDTH, 200, 9_000));
    limits.run_to(&mut sim, 399);
    assert_eq!(limits.now[..2], [350, 100]);
    let notice = |message: &&FromMarket| matches!(message, FromMarket::Notice { good: BANDWIDTH, units: 150, .. });
    assert_eq!(sim.tenants[0].heard.iter().filter(notice).count(), 1);
    limits.run_to(&mut sim, 401);
    assert_eq!(limits.now[..2], [200, 300]);
    // At the desk, and given back, at once.
    sim.tenants[0].says.push(bid(BANDWIDTH, 50, 5_000));
    limits.run_to(&mut sim, 650);
    assert_eq!(limits.now[..2], [150, 300]);
    sim.tenants[1].says.push(RequestBody::Desk { good: BANDWIDTH, quantity: 20 });
    limits.run_to(&mut sim, 653);
    assert_eq!(limits.now[..2], [150, 320]);
    assert!(sim.answers(1).iter().any(|answer| matches!(answer, Answer::Bought { .. })), "{:?}", sim.answers(1));
    sim.tenants[1].says.push(RequestBody::Release { good: BANDWIDTH, leases: Vec::new(), quantity: 5 });
    limits.run_to(&mut sim, 656);
    assert_eq!(limits.now[..2], [150, 315]);
    assert_eq!(limits.begun, BTreeSet::from([0]), "limits begin with intervals");
    // Kilobits that they might send beyond their bases, as far as that is over.
    assert_eq!(sim.server.tenants[1].kilobits, 3 * 100 * 200);
    limits.run_to(&mut sim, 1_000_000);
    let (sum, expected, mismatches) = sim.totals();
    assert_eq!((sum - expected, mismatches), (0, 0));
    assert!(sim.result().1.contains("limit was reached"), "{:?}", sim.result());
    assert_eq!(limits.now, [0; 8], "all were closed");
}

#[test]
fn a_limit_that_is_not_what_was_sold_fails_the_run() {
    let archive = archive(&two());
    for lies in [false, true] {
        let mut sim = Sim::on(machine(), &archive, |tenant, message| {
            if matches!(message, FromMarket::Round { good: BANDWIDTH, round: 4, .. }) {
                tenant.says.push(RequestBody::Exit { status: 0, work: 0 });
            }
        });
        let mut limits = Limits::default();
        sim.tenants[0].says.push(bid(BANDWIDTH, 250, 5_000));
        sim.tenants[1].says.push(bid(BANDWIDTH, 50, 5_000));
        limits.run_to(&mut sim, 250);
        if lies {
            limits.set(&mut sim, 0, 351 * MEGABIT);
        }
        limits.run_to(&mut sim, 1_000_000);
        assert_eq!(sim.power_off, Some(if lies { FAILURE } else { SUCCESS }), "{:?}", sim.result());
        assert_eq!(sim.result().1.contains("bandwidth of a: 350 leased, 351 exist"), lies, "{:?}", sim.result());
    }
}

/// After a crash of the network server, its successor is told what everybody holds by then.
#[test]
fn a_server_that_is_started_again_is_told_the_limits_of_now() {
    let archive = archive(&two());
    let mut sim = Sim::on(machine(), &archive, silent);
    let mut limits = Limits::default();
    sim.tenants[0].says.push(bid(BANDWIDTH, 250, 5_000));
    limits.run_to(&mut sim, 350);
    let handler = crate::nic_link::NIC_HANDLER_PAGE + cap_spec::abi::handler_page::COUNT as u64;
    sim.model().set_word(handler, 1);
    sim.server.step(0);
    sim.model().set_word(handler, 0);
    limits = Limits::default();
    limits.run_to(&mut sim, 352);
    assert_eq!(limits.now[..2], [350, 100]);
    limits.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0);
}

#[test]
fn no_more_is_sold_than_the_cable_carries() {
    let mut plan = two();
    plan.goods[usize::from(BANDWIDTH)].supply_limit = None;
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(), &archive, silent);
    // With the bases of those who run: they start when their functions are out of their reset.
    sim.run_to(150);
    let line = sim.server.markets[usize::from(BANDWIDTH)].rounds.board_line(0);
    assert_eq!(line.supply.0, CABLE_UNITS - KEPT_UNITS);
    plan.apps[1].base_bandwidth = CABLE_UNITS - KEPT_UNITS - BASE + 1;
    let archive = super::archive(&plan);
    let refusal = Server::start(machine(), &archive).map_err(|(_, failure)| failure.to_string()).err().unwrap();
    assert!(refusal.contains("application b: the network device has too little bandwidth"), "{refusal}");
}

/// A tenant that buys and gives back all the time while the network server has no turn leaves one limit of its function to
/// be told; what others are told in the meantime is not lost.
#[test]
fn of_all_limits_that_wait_for_the_server_the_last_one_of_each_function_is_told() {
    let mut plan = two();
    plan.limit_ms = Some(5_000);
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(), &archive, silent);
    let mut limits = Limits::default();
    limits.run_to(&mut sim, 105);
    sim.model().deaf = Some(Peer::Nic);
    let end = super::toggle(&mut sim, BANDWIDTH, 105, 20);
    sim.tenants[1].says.push(RequestBody::Desk { good: BANDWIDTH, quantity: 30 });
    sim.run_to(end + 2);
    sim.tenants[0].says.push(RequestBody::Desk { good: BANDWIDTH, quantity: 7 });
    sim.run_to(end + 4);
    sim.model().deaf = None;
    sim.run_to(end + 6);
    let waited: Vec<ToNic> =
        sim.model().sent[&Peer::Nic].iter().map(|bytes| postcard::from_bytes(bytes).unwrap()).collect();
    let told = waited.iter().map(|message| match message {
        ToNic::Limit { vf, bits_per_s, .. } => (*vf, bits_per_s / MEGABIT),
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [(1, 130), (0, 107)]);
    limits.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}
