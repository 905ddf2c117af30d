//! Namespaces: what they cost, how often they may be read and written, and what becomes of those that were lost.

mod refused;

use super::model::Model;
use super::*;
use alloc::collections::VecDeque;
use proto::market::Movement;
use proto::storage::{ENTRIES, FromStorage, IOPS_GOOD, STORAGE_GOOD, Space, ToStorage, UNIT_OPERATIONS};

/// The good's number in the plan.
const STORAGE: u16 = 2;
/// What a MiB costs in each interval, of a second.
const PRICE: i128 = 700;
const MIB: u64 = 1 << 20;

/// Two applications: the first one with two MiB and a half, the second one with none.
fn two() -> Plan {
    let one = App { storage_bytes: 2 * MIB + MIB / 2, ..app("a") };
    let mut plan = plan([one, app("b")].into(), Some(PAGES));
    let terms = Good { interval_ms: 1_000, base_price: PRICE as u64, ..plan.goods[0].clone() };
    plan.goods.push(Good { name: STORAGE_GOOD.into(), supply_limit: Some(0), ..terms });
    // So that a statement keeps all lines.
    plan.goods[1].interval_ms = 100;
    plan.limit_ms = Some(3_500);
    plan
}

fn machine() -> Model {
    let mut model = Model::new(1, &[24, 25, 23, 22, 22]);
    model.add_nvme(4);
    model
}

/// A storage server that does what it is told at once, and notes it.
#[derive(Default)]
struct Disk {
    told: Vec<ToStorage>,
    /// Namespaces that it made.
    made: u32,
    /// Bytes by which they are too small.
    lacks: u64,
    /// What each VF may do a second, and what it may do from a time in nanoseconds on.
    now: [Option<u64>; 4],
    coming: [Option<(u64, u64)>; 4],
    /// Units that it says to have put in force besides.
    lies: u64,
    /// VFs whose namespaces it erases; kept up to when it is told that it has ended, if it is not to do that at once.
    erases: Option<Vec<u8>>,
    /// How the next ones end that it is to make ready: those that do not end as they should.
    ends: VecDeque<Prepared>,
}

/// How a function that is to be made ready ends.
enum Prepared {
    /// Not at all, until the test says so.
    Never,
    /// It is refused.
    Refused,
    /// Well, but at once it can't be kept to its limit.
    Uncounted,
}

impl Disk {
    fn run_to(&mut self, sim: &mut Sim<'_>, ms: u64) {
        let mut at = sim.server.clock.micros(sim.server.root.machine.now) / 1_000;
        while at < ms && sim.power_off.is_none() {
            at += 1;
            sim.run_to(at);
            let said: Vec<Vec<u8>> = sim.model().sent.entry(Peer::Storage).or_default().drain(..).collect();
            for bytes in said {
                let message = postcard::from_bytes(&bytes).unwrap();
                self.told.push(message);
                match message {
                    ToStorage::Begin => say(sim, &FromStorage::Ready { namespaces: 4 }),
                    ToStorage::Prepare { vf, bytes, per_s, .. } => {
                        let end = self.ends.pop_front();
                        match end {
                            Some(Prepared::Never) => continue,
                            Some(Prepared::Refused) => {
                                say(sim, &FromStorage::Impossible { vf });
                                continue;
                            }
                            Some(Prepared::Uncounted) | None => {}
                        }
                        self.made += 1;
                        self.set(sim, vf, per_s);
                        say(sim, &FromStorage::Prepared { vf, space: space(self.made, bytes - self.lacks) });
                        if end.is_some() {
                            say(sim, &FromStorage::Uncounted { vf });
                        }
                    }
                    ToStorage::Limit { vf, per_s, from_ns } => self.coming[usize::from(vf)] = Some((from_ns, per_s)),
                    ToStorage::Release { vf } => {
                        self.set(sim, vf, None);
                        match &mut self.erases {
                            Some(erases) => erases.push(vf),
                            None => say(sim, &FromStorage::Released { vf }),
                        }
                    }
                    ToStorage::Keep { vf, per_s, .. } => self.set(sim, vf, per_s),
                    ToStorage::Crash | ToStorage::Fail => panic!("nobody ordered that"),
                }
            }
            let now = sim.server.root.machine.now;
            for vf in 0..4 {
                // The model's clock counts nanoseconds.
                if let Some((_, per_s)) = self.coming[vf].take_if(|(from, _)| *from <= now) {
                    self.set(sim, vf as u8, Some(per_s));
                }
            }
        }
    }

    fn set(&mut self, sim: &mut Sim<'_>, vf: u8, per_s: Option<u64>) {
        self.now[usize::from(vf)] = per_s;
        self.coming[usize::from(vf)] = None;
        say(sim, &FromStorage::InForce { vf, per_s: per_s.map(|per_s| per_s + self.lies * UNIT_OPERATIONS) });
    }
}

/// The storage server reports.
fn say(sim: &mut Sim<'_>, report: &FromStorage) {
    let bytes = postcard::to_allocvec(report).unwrap();
    sim.model().incoming.entry(Peer::Storage).or_default().push_back(bytes);
}

/// A namespace of so many bytes.
fn space(namespace: u32, bytes: u64) -> Space {
    let blocks = bytes >> 9;
    Space {
        namespace,
        block_shift: 9,
        blocks,
        max_transfer_bytes: 4096 * u32::from(ENTRIES),
        doorbells: [8, 16],
        stride: 4,
    }
}

/// The intervals of the namespace that the first application has paid, with their units and amounts.
fn paid(sim: &Sim<'_>) -> Vec<(Movement, u64, u32, i128)> {
    let movements = &sim.server.tenants[0].movements;
    let (mut page, mut paid) = (movements.page(0), Vec::new());
    while !page.lines.is_empty() {
        let lines = page.lines.iter().filter(|line| line.good == Some(STORAGE));
        paid.extend(lines.map(|line| (line.kind, line.interval, line.quantity, -line.amount)));
        page = movements.page(page.first + page.lines.len() as u64);
    }
    paid
}

#[test]
fn a_namespace_is_paid_by_the_second_for_each_mib_that_is_begun() {
    let archive = archive(&two());
    let mut sim = Sim::on(machine(), &archive, silent);
    let mut disk = Disk::default();
    // In advance: for the second that runs and the next one, and from just before the end of each on for one more.
    let charge = |interval, seconds: i128| (Movement::Base, interval, 3, seconds * 3 * PRICE);
    let charges = [charge(0, 2), charge(2, 1), charge(3, 1)];
    for (ms, count) in [(150, 1), (900, 1), (1_100, 2), (1_900, 2), (2_100, 3), (2_900, 3)] {
        disk.run_to(&mut sim, ms);
        assert_eq!(paid(&sim), charges[..count], "at {ms} ms");
    }
    // More than the namespace that it asks for is not to be had.
    for request in [bid(STORAGE, 1, 5_000), RequestBody::Desk { good: STORAGE, quantity: 1 }] {
        sim.tenants[0].says.push(request.clone());
        sim.tenants[1].says.push(request);
    }
    disk.run_to(&mut sim, 3_000);
    let refused = |refusal| Answer::Refused(refusal);
    assert_eq!(sim.answers(0), [proto::market::Refusal::BadQuantity; 2].map(refused));
    assert_eq!(sim.answers(1), [proto::market::Refusal::UnknownGood; 2].map(refused), "it takes no part");
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
    assert!(sim.result().1.contains("limit was reached"), "{:?}", sim.result());
    assert_eq!(disk.told.last(), Some(&ToStorage::Release { vf: 0 }));
}

/// Who cannot pay is not started, or is stopped when that is so, and its namespace is erased.
#[test]
fn who_cannot_pay_for_its_namespace_does_not_keep_it() {
    for (intervals, lacking, expected) in [(2, 1, End::Unpaid), (3, 1, End::Unpaid), (4, 0, End::RunOver)] {
        let mut plan = two();
        // Nothing else costs it anything.
        plan.goods[..2].iter_mut().for_each(|good| good.base_price = 0);
        plan.apps[0].budget = intervals * 3 * PRICE - lacking;
        plan.limit_ms = Some(2_500);
        let archive = super::archive(&plan);
        let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk::default());
        disk.run_to(&mut sim, 1_000_000);
        assert_eq!(sim.end(0), Some(&expected), "{intervals} intervals, {lacking} lacking: {:?}", sim.texts);
        let sum: i128 = paid(&sim).iter().map(|(.., amount)| amount).sum();
        assert_eq!(sum, if intervals == 2 { 0 } else { (intervals - lacking) * 3 * PRICE });
        let told = |line: &str| sim.texts.iter().any(|text| text.contains(line));
        assert_eq!(told("a cannot start: ledger: not enough money there"), intervals == 2);
        assert_eq!(told("a cannot pay its base and will be stopped"), intervals == 3, "{:?}", sim.texts);
        assert_eq!(told("storage function 0: its namespace is erased"), expected == End::Unpaid);
        assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
    }
}

/// A namespace that is smaller than what is paid for fails the run.
#[test]
fn what_is_paid_for_is_there() {
    let archive = archive(&two());
    let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk { lacks: MIB, ..Disk::default() });
    disk.run_to(&mut sim, 1_000_000);
    assert!(sim.result().1.contains("MiB of namespaces of a: 3 leased, 2 exist"), "{:?}", sim.result());
}

/// The good's number where operations are sold, and units in the base.
const IOPS: u16 = 3;
const BASE: u32 = 20;

/// Two with a limit, and one without.
fn limited() -> Plan {
    let mut plan = two();
    let app = |name, base_iops| App { storage_bytes: MIB, base_iops, ..app(name) };
    plan.apps = [app("a", Some(BASE)), app("b", Some(BASE)), app("c", None)].into();
    let good = Good { name: IOPS_GOOD.into(), supply_limit: Some(50), ..plan.goods[0].clone() };
    plan.goods.push(good);
    plan
}

#[test]
fn operations_are_limited_to_what_is_sold_from_the_start_of_the_interval_on() {
    let archive = archive(&limited());
    let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk::default());
    disk.run_to(&mut sim, 190);
    assert_eq!(disk.now, [Some(2_000), Some(2_000), None, None]);
    sim.tenants[0].says.push(bid(IOPS, 40, 5_000));
    sim.tenants[2].says.push(bid(IOPS, 40, 5_000));
    disk.run_to(&mut sim, 299);
    assert_eq!(disk.now[0], Some(2_000));
    assert_eq!(sim.answers(2), [Answer::Refused(proto::market::Refusal::UnknownGood)], "it takes no part");
    disk.run_to(&mut sim, 350);
    assert_eq!(disk.now, [Some(6_000), Some(2_000), None, None]);
    // Another one pays more: the first one has an interval to live with its notice.
    sim.tenants[1].says.push(bid(IOPS, 30, 9_000));
    disk.run_to(&mut sim, 499);
    assert_eq!(disk.now[..2], [Some(6_000), Some(2_000)]);
    let notice = |message: &&FromMarket| matches!(message, FromMarket::Notice { good: IOPS, units: 20, .. });
    assert_eq!(sim.tenants[0].heard.iter().filter(notice).count(), 1);
    disk.run_to(&mut sim, 502);
    assert_eq!(disk.now[..2], [Some(4_000), Some(5_000)]);
    // A server that is started again is told what everybody has by then; and so it is when all queues have to be made anew.
    restart(&mut sim, &mut disk);
    assert_eq!(disk.now[..2], [None, None]);
    disk.run_to(&mut sim, 510);
    assert_eq!(disk.now, [Some(4_000), Some(5_000), None, None]);
    say(&mut sim, &FromStorage::Lost);
    restart(&mut sim, &mut disk);
    disk.run_to(&mut sim, 540);
    assert_eq!(disk.now, [Some(4_000), Some(5_000), None, None]);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
    assert_eq!(disk.now, [None; 4], "all were released");
    let bought = |app: u16| {
        sim.records.iter().find_map(|record| match record {
            Record::Ended { app: of, operations_bought, .. } if *of == app => Some(*operations_bought),
            _ => None,
        })
    };
    assert_eq!([bought(1), bought(2)], [Some(31 * 300), Some(0)], "intervals of 100 ms that began, of 3,000 a second");
}

/// The storage server stops, and is started again.
fn restart(sim: &mut Sim<'_>, disk: &mut Disk) {
    let handler = crate::storage_link::STORAGE_HANDLER_PAGE + cap_spec::abi::handler_page::COUNT as u64;
    sim.model().set_word(handler, 1);
    sim.server.step(0);
    sim.model().set_word(handler, 0);
    (disk.now, disk.coming) = ([None; 4], [None; 4]);
}

#[test]
fn a_limit_that_is_not_what_was_sold_fails_the_run() {
    let archive = archive(&limited());
    let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk { lies: 1, ..Disk::default() });
    disk.run_to(&mut sim, 1_000_000);
    let reason = "hundreds of operations a second of a: 20 leased, 21 exist";
    assert!(sim.result().1.contains(reason), "{:?}", sim.result());
}

/// As for bandwidth: one limit of each function waits.
#[test]
fn of_all_limits_that_wait_for_the_server_the_last_one_of_each_function_is_told() {
    let mut plan = limited();
    plan.limit_ms = Some(5_000);
    let archive = archive(&plan);
    let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk::default());
    disk.run_to(&mut sim, 105);
    sim.model().deaf = Some(Peer::Storage);
    let end = super::toggle(&mut sim, IOPS, 105, 20);
    sim.tenants[1].says.push(RequestBody::Desk { good: IOPS, quantity: 30 });
    sim.run_to(end + 2);
    sim.tenants[0].says.push(RequestBody::Desk { good: IOPS, quantity: 7 });
    sim.run_to(end + 4);
    sim.model().deaf = None;
    disk.told.clear();
    disk.run_to(&mut sim, end + 6);
    let told = disk.told.iter().map(|message| match message {
        ToStorage::Limit { vf, per_s, .. } => (*vf, per_s / UNIT_OPERATIONS),
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [(1, 50), (0, 27)]);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// What an application heard of its namespace: notices, losses, and new ones by their number.
fn heard(sim: &Sim<'_>, app: usize) -> [Vec<u64>; 3] {
    let mut heard = [const { Vec::new() }; 3];
    for message in &sim.tenants[app].heard {
        match message {
            FromMarket::Notice { good: STORAGE, units: 3, deadline_tsc, .. } => heard[0].push(*deadline_tsc),
            FromMarket::StorageLost => heard[1].push(0),
            FromMarket::StorageRenewed { space } => heard[2].push(space.namespace.into()),
            _ => {}
        }
    }
    heard
}

/// How often an application heard that the storage server was started again.
fn heard_restarts(sim: &Sim<'_>, app: usize) -> usize {
    sim.tenants[app].heard.iter().filter(|message| **message == FromMarket::StorageRestarted).count()
}

/// Two with a namespace each, the first of which loses its one after 300 ms.
fn revoked() -> Plan {
    let mut plan = two();
    plan.apps[1].storage_bytes = MIB;
    plan.apps.push(app("c"));
    plan.events = [0, 0, 2].map(|app| at(300, Command::RevokeStorage { app })).into();
    plan
}

#[test]
fn a_namespace_is_taken_after_a_notice_and_another_one_given_when_it_is_erased() {
    let archive = archive(&revoked());
    let (mut sim, mut disk) =
        (Sim::on(machine(), &archive, silent), Disk { erases: Some(Vec::new()), ..Disk::default() });
    disk.run_to(&mut sim, 399);
    let [notices, lost, _] = heard(&sim, 0);
    assert_eq!((notices.len(), lost.len()), (1, 0));
    let deadline = sim.server.clock.micros(notices[0]);
    assert!((400_000..401_000).contains(&deadline), "an interval of pages: {deadline}");
    assert!(sim.texts.iter().any(|text| text.contains("c has no namespace that could be taken")), "{:?}", sim.texts);
    assert_eq!(disk.erases, Some([].into()), "it has it until then");
    let prepared = |disk: &Disk| disk.told.iter().filter(|told| matches!(told, ToStorage::Prepare { .. })).count();
    disk.run_to(&mut sim, 402);
    assert_eq!((heard(&sim, 0)[1].len(), &disk.erases), (1, &Some([0].into())));
    disk.run_to(&mut sim, 600);
    assert_eq!(prepared(&disk), 2, "nothing is given before it is erased");
    // A server that is started again erases it from the beginning.
    disk.told.clear();
    restart(&mut sim, &mut disk);
    disk.run_to(&mut sim, 610);
    let kept = |told: &&ToStorage| matches!(told, ToStorage::Keep { .. });
    let kept: Vec<&ToStorage> = disk.told.iter().filter(kept).collect();
    assert_eq!(kept, [&ToStorage::Keep { vf: 1, namespace: 2, per_s: None }]);
    // Who kept its queues hears of the server; who has none hears of new ones.
    assert_eq!([0, 1, 2].map(|app| heard_restarts(&sim, app)), [0, 1, 0]);
    assert_eq!((prepared(&disk), disk.erases.take()), (0, Some([0, 0].into())));
    say(&mut sim, &FromStorage::Released { vf: 0 });
    say(&mut sim, &FromStorage::Released { vf: 0 });
    disk.run_to(&mut sim, 620);
    assert_eq!(prepared(&disk), 1, "once");
    assert_eq!([&heard(&sim, 0)[1..], &heard(&sim, 1)[1..]], [&[vec![0], vec![3]][..], &[vec![], vec![]]]);
    // What was lost otherwise meanwhile is not taken once more; and so it goes again.
    sim.command(Command::RevokeStorage { app: 0 });
    disk.run_to(&mut sim, 650);
    say(&mut sim, &FromStorage::Lost);
    disk.erases = Some(Vec::new());
    disk.run_to(&mut sim, 800);
    assert_eq!((heard(&sim, 0)[1].len(), disk.erases.take()), (2, Some([].into())));
    restart(&mut sim, &mut disk);
    sim.command(Command::RevokeStorage { app: 0 });
    disk.run_to(&mut sim, 1_000);
    assert_eq!((&heard(&sim, 0)[2], heard(&sim, 1)), (&vec![3, 4, 6], [vec![], vec![0], vec![5]]));
    assert_eq!([0, 1, 2].map(|app| heard_restarts(&sim, app)), [0, 1, 0], "they heard of new queues instead");
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// One that ends while its namespace is erased gets no other one, and leaves its function to the next.
#[test]
fn who_ends_without_a_namespace_leaves_nothing() {
    let archive = archive(&revoked());
    let (mut sim, mut disk) =
        (Sim::on(machine(), &archive, silent), Disk { erases: Some(Vec::new()), ..Disk::default() });
    disk.run_to(&mut sim, 450);
    sim.command(Command::Kill { app: 0 });
    disk.run_to(&mut sim, 460);
    assert_eq!(disk.erases.take(), Some([0, 0].into()), "its function was reset, too");
    disk.told.clear();
    say(&mut sim, &FromStorage::Released { vf: 0 });
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(disk.told, [ToStorage::Release { vf: 1 }], "nobody gets anything");
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// Two that buy their namespaces, for which there is one of three MiB: who values it most has it, with its queues, for whole
/// intervals, and the other one is without.
#[test]
fn a_namespace_goes_to_who_values_it_most_and_is_erased_in_between() {
    let mut plan = two();
    plan.apps[1].storage_bytes = 3 * MIB;
    plan.apps.iter_mut().for_each(|app| app.base_storage = false);
    plan.goods[usize::from(STORAGE)].supply_limit = Some(3);
    plan.limit_ms = Some(8_500);
    let archive = archive(&plan);
    let (mut sim, mut disk) =
        (Sim::on(machine(), &archive, silent), Disk { erases: Some(Vec::new()), ..Disk::default() });
    sim.tenants[0].says.extend([bid(STORAGE, 4, 5_000), bid(STORAGE, 3, 5_000)]);
    disk.run_to(&mut sim, 1_995);
    assert!(sim.server.tenants.iter().all(crate::tenant::Tenant::is_running));
    assert_eq!(disk.told, [ToStorage::Begin], "nobody has one in its base");
    assert_eq!(sim.answers(0), [Answer::Refused(proto::market::Refusal::BadQuantity), Answer::Done]);
    disk.run_to(&mut sim, 2_010);
    let prepare = |vf, is_new, mib: u64| ToStorage::Prepare { vf, is_new, bytes: mib * MIB / 2, per_s: None };
    assert_eq!(disk.told[1..], [prepare(0, true, 5)]);
    assert_eq!(heard(&sim, 0), [vec![], vec![], vec![1]]);
    // The other one bids more in round 4, for interval 5.
    disk.run_to(&mut sim, 3_500);
    sim.tenants[1].says.push(bid(STORAGE, 3, 9_000));
    disk.run_to(&mut sim, 4_998);
    assert_eq!((heard(&sim, 0)[0].len(), disk.told.len()), (1, 2), "there is a notice, and nothing is taken");
    disk.run_to(&mut sim, 5_010);
    assert_eq!(disk.told[2..], [ToStorage::Release { vf: 0 }, prepare(1, true, 6)]);
    assert_eq!([&heard(&sim, 0)[1..], &heard(&sim, 1)[1..]], [&[vec![0], vec![1]][..], &[vec![], vec![2]]]);
    // Who is without stays so when that is erased, and when the server is started again.
    say(&mut sim, &FromStorage::Released { vf: 0 });
    disk.run_to(&mut sim, 5_500);
    disk.told.clear();
    restart(&mut sim, &mut disk);
    disk.run_to(&mut sim, 5_600);
    assert_eq!(disk.told, [ToStorage::Keep { vf: 1, namespace: 2, per_s: None }, ToStorage::Begin]);
    // It gets another one when it pays more again: round 6 sells interval 7.
    sim.tenants[0].says.push(bid(STORAGE, 3, 20_000));
    disk.run_to(&mut sim, 7_010);
    assert_eq!(disk.told[2..], [ToStorage::Release { vf: 1 }, prepare(0, false, 5)]);
    assert_eq!([&heard(&sim, 0)[1..], &heard(&sim, 1)[1..]], [&[vec![0], vec![1, 3]][..], &[vec![0], vec![2]]]);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// A notice is of the namespace that there was, not of one that came after it was lost otherwise.
#[test]
fn a_new_namespace_is_not_taken_by_an_old_notice() {
    let archive = archive(&revoked());
    let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk::default());
    disk.run_to(&mut sim, 320);
    assert_eq!(heard(&sim, 0)[0].len(), 1);
    say(&mut sim, &FromStorage::Lost);
    restart(&mut sim, &mut disk);
    disk.run_to(&mut sim, 900);
    assert_eq!(heard(&sim, 0)[1..], [vec![0], vec![3]]);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// One that is offline before its application starts is given to nobody.
#[test]
fn who_waits_for_a_function_that_cannot_be_kept_to_its_limit_gets_another_one() {
    let archive = archive(&limited());
    let mut disk = Disk { ends: [Prepared::Uncounted].into(), ..Disk::default() };
    let mut sim = Sim::on(machine(), &archive, silent);
    disk.run_to(&mut sim, 300);
    assert!(sim.server.tenants.iter().all(crate::tenant::Tenant::is_running), "{:?}", sim.texts);
    assert!(disk.told.contains(&ToStorage::Release { vf: 0 }), "{:?}", disk.told);
    assert_eq!((disk.made, disk.now[0]), (4, None), "{:?}", disk.now);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}
