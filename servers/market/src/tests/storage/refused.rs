//! Namespaces that cannot be made ready: what becomes of who was to have one, and of the others.

use super::*;

/// One that buys its namespace, of two MiB and a half, from the second interval on.
fn buyer() -> Plan {
    let mut plan = two();
    plan.apps[0].base_storage = false;
    plan.goods[usize::from(STORAGE)].supply_limit = Some(3);
    plan.limit_ms = Some(8_500);
    plan
}

const PREPARE: ToStorage = prepare(true);

const fn prepare(is_new: bool) -> ToStorage {
    ToStorage::Prepare { vf: 0, is_new, bytes: 2 * MIB + MIB / 2, per_s: None }
}

/// The server would find a function reset that it is about to make ready; what it says of that is not said of the release.
#[test]
fn who_leaves_while_its_namespace_is_made_ready_has_its_function_reset_only_after_that() {
    let archive = archive(&buyer());
    for answer in [FromStorage::Impossible { vf: 0 }, FromStorage::Prepared { vf: 0, space: space(1, 3 * MIB) }] {
        let mut disk = Disk { erases: Some(Vec::new()), ends: [Prepared::Never].into(), ..Disk::default() };
        let mut sim = Sim::on(machine(), &archive, silent);
        sim.tenants[0].says.push(bid(STORAGE, 3, 5_000));
        disk.run_to(&mut sim, 2_100);
        assert_eq!(disk.told, [ToStorage::Begin, PREPARE]);
        sim.command(Command::Kill { app: 0 });
        disk.run_to(&mut sim, 2_110);
        assert_eq!((&disk.told[2..], &disk.erases), (&[ToStorage::Release { vf: 0 }][..], &Some([0].into())));
        assert!(!sim.model().is_nvme_reset(), "it is about to be made ready");
        say(&mut sim, &answer);
        disk.run_to(&mut sim, 2_120);
        assert!(!sim.model().is_nvme_reset());
        say(&mut sim, &FromStorage::Released { vf: 0 });
        disk.run_to(&mut sim, 2_130);
        assert!(sim.model().is_nvme_reset());
        disk.run_to(&mut sim, 2_300);
        let Sim { server, .. } = &mut sim;
        let link = server.storage.as_mut().expect("a controller");
        let all: Vec<usize> = (0..4).filter(|&app| link.ready(&mut server.root, app, WANTED).is_ok()).collect();
        assert_eq!((all.len(), link.holders().len()), (4, 4), "no function is lost");
    }
}

const WANTED: crate::storage_state::Wanted =
    crate::storage_state::Wanted { is_entitled: true, bytes: MIB, per_s: None };

/// It may have kept its function from answering: that costs nobody else anything, and it what it has paid.
#[test]
fn who_gets_no_namespace_made_ready_gives_it_back_and_may_buy_again() {
    let archive = archive(&buyer());
    let mut disk = Disk { ends: [Prepared::Refused, Prepared::Refused].into(), ..Disk::default() };
    let mut sim = Sim::on(machine(), &archive, silent);
    sim.tenants[0].says.push(bid(STORAGE, 3, 5_000));
    disk.run_to(&mut sim, 2_900);
    assert_eq!(disk.told[1..], [PREPARE]);
    let leased = |sim: &Sim<'_>| {
        let lease = sim.server.markets[usize::from(STORAGE)].rounds.lease(crate::server::account(0)).expect("a member");
        (lease.running.0, lease.next.0)
    };
    assert_eq!(leased(&sim), (0, 0));
    disk.run_to(&mut sim, 8_000);
    assert_eq!(disk.told[1..], [PREPARE, prepare(false), prepare(false)], "its bid stands");
    assert_eq!(heard(&sim, 0), [vec![], vec![], vec![1]]);
    assert_eq!(leased(&sim), (3, 3));
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// The server waits a second each time for a function that its holder keeps from answering, and makes nothing ready for others
/// meanwhile. So it is tried ever more seldom, and nobody pays for what it waits for.
#[test]
fn who_keeps_its_function_from_answering_again_and_again_is_tried_ever_more_seldom() {
    let mut plan = buyer();
    plan.limit_ms = Some(360_000);
    let archive = archive(&plan);
    let refusals = (0..64).map(|_| Prepared::Refused).collect();
    let mut disk = Disk { ends: refusals, ..Disk::default() };
    let mut sim = Sim::on(machine(), &archive, silent);
    sim.tenants[0].says.push(bid(STORAGE, 3, 5_000));
    let mut tries = Vec::new();
    for second in 1..260 {
        let before = disk.told.len();
        disk.run_to(&mut sim, second * 1_000 + 500);
        tries.extend((before < disk.told.len()).then_some(second));
    }
    let gaps: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.is_sorted() && gaps[0] <= 2 && gaps.iter().rev().take(2).all(|gap| (64..=66).contains(gap)),
        "{gaps:?}"
    );
    let lease = sim.server.markets[usize::from(STORAGE)].rounds.lease(crate::server::account(0)).expect("a member");
    assert_eq!((lease.running.0, lease.next.0), (0, 0), "it waits");
    // What it had won when it failed it has paid for, of which that was the last.
    let paid = |message: &&FromMarket| matches!(message, FromMarket::Round { good: STORAGE, payment: 1.., .. });
    let paid = sim.tenants[0].heard.iter().filter(paid).count();
    assert!(paid <= 2 * tries.len(), "{paid} intervals for {} tries", tries.len());
    sim.tenants[0].says.push(RequestBody::Desk { good: STORAGE, quantity: 3 });
    disk.run_to(&mut sim, 260_400);
    assert_eq!(sim.answers(0).last(), Some(&Answer::Refused(proto::market::Refusal::NotAvailable)));
    // One that answers again is served as soon as it is tried.
    disk.ends.clear();
    disk.run_to(&mut sim, 350_000);
    assert_eq!(heard(&sim, 0)[2].len(), 1);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// Nor is who gives a namespace back before it is known that none can be made ready.
#[test]
fn who_gives_it_back_while_its_function_does_not_answer_has_to_wait_all_the_same() {
    let mut plan = buyer();
    plan.limit_ms = Some(30_000);
    let archive = archive(&plan);
    let mut disk = Disk { ends: (0..16).map(|_| Prepared::Never).collect(), ..Disk::default() };
    let mut sim = Sim::on(machine(), &archive, silent);
    let prepared = |disk: &Disk| disk.told.iter().filter(|told| matches!(told, ToStorage::Prepare { .. })).count();
    let mut at = 2_100;
    for _ in 0..12 {
        let before = prepared(&disk);
        sim.tenants[0].says.push(RequestBody::Desk { good: STORAGE, quantity: 3 });
        disk.run_to(&mut sim, at + 50);
        if prepared(&disk) > before {
            sim.tenants[0].says.push(RequestBody::Release { good: STORAGE, leases: Vec::new(), quantity: 3 });
            disk.run_to(&mut sim, at + 100);
            say(&mut sim, &FromStorage::Impossible { vf: 0 });
        }
        at += 2_000;
        disk.run_to(&mut sim, at);
    }
    // At once, at once, after a second, three, seven and fifteen.
    assert_eq!(prepared(&disk), 5, "{:?}", disk.told);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}

/// One with a namespace in its base, which was lost, is refused a new one once: it is tried again.
#[test]
fn who_is_refused_a_namespace_in_its_base_gets_one_in_the_next_interval() {
    let archive = archive(&two());
    let (mut sim, mut disk) = (Sim::on(machine(), &archive, silent), Disk::default());
    disk.run_to(&mut sim, 500);
    disk.ends.push_back(Prepared::Refused);
    say(&mut sim, &FromStorage::Lost);
    restart(&mut sim, &mut disk);
    disk.run_to(&mut sim, 600);
    assert_eq!(heard(&sim, 0), [vec![], vec![0], vec![]]);
    disk.run_to(&mut sim, 1_100);
    assert_eq!(heard(&sim, 0), [vec![], vec![0], vec![2]]);
    disk.run_to(&mut sim, 1_000_000);
    assert_eq!(sim.totals().2, 0, "{:?}", sim.result());
}
