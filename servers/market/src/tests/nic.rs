//! Virtual functions: who gets which and when, and what becomes of them when their server stops.

use super::model::{Model, RESET_TICKS};
use super::*;
use crate::faults::FAULT_EVENT;
use crate::nic::MAX_RESTARTS;
use crate::nic_link::{NIC_HANDLER_PAGE, mac};
use cap_spec::abi::{FaultRecord, Stopped, handler_page};
use proto::nic::{Counts, FromNic, Settings, ToNic};

/// A plan in which these applications are to have a virtual function.
fn with_nic(names: &[&str], events: Vec<Event>) -> Vec<u8> {
    let apps = names.iter().map(|name| App { nic: true, ..app(name) }).collect();
    archive(&Plan { events, ..plan(apps, Some(PAGES)) })
}

fn machine(vfs: u64) -> Model {
    let mut model = Model::new(1, &[24, 25, 23, 22, 22]);
    if vfs > 0 {
        model.add_nic(vfs);
    }
    model
}

/// What the network server was told so far: which VF is configured with whose address, or closed.
fn told(sim: &mut Sim<'_>) -> Vec<(u8, Option<[u8; 6]>)> {
    settings_told(sim).into_iter().map(|(vf, settings)| (vf, settings.map(|settings| settings.mac))).collect()
}

/// The same with all settings.
fn settings_told(sim: &mut Sim<'_>) -> Vec<(u8, Option<Settings>)> {
    let messages = sim.model().sent.entry(Peer::Nic).or_default().drain(..);
    let read = |bytes: Vec<u8>| match postcard::from_bytes(&bytes).unwrap() {
        ToNic::Configure { vf, settings } => (vf, Some(settings)),
        ToNic::Close { vf } => (vf, None),
        ToNic::Limit { .. } => panic!("bandwidth is not sold here"),
        ToNic::Count | ToNic::Crash => panic!("nobody ordered that"),
    };
    messages.map(read).collect()
}

/// The network server says something.
fn say(sim: &mut Sim<'_>, report: &FromNic) {
    let bytes = postcard::to_allocvec(report).unwrap();
    sim.model().incoming.entry(Peer::Nic).or_default().push_back(bytes);
}

/// When an application was started, in microseconds of the run.
fn started(sim: &Sim<'_>, app: u16) -> Option<u64> {
    sim.records.iter().find_map(|record| match record {
        Record::Started { t, app: of, .. } if *of == app => Some(*t),
        _ => None,
    })
}

/// The network server stops at a fault.
fn stop_server(sim: &mut Sim<'_>) {
    sim.model().set_word(NIC_HANDLER_PAGE + handler_page::COUNT as u64, 1);
    sim.server.step(0);
    // The page of the next one is another.
    sim.model().set_word(NIC_HANDLER_PAGE + handler_page::COUNT as u64, 0);
}

#[test]
fn without_a_device_a_plan_that_needs_one_is_refused_and_others_are_not() {
    let needs = with_nic(&["a"], Vec::new());
    let refusal = Server::start(machine(0), &needs).map_err(|(_, failure)| failure.to_string()).err().unwrap();
    assert!(refusal.starts_with("this scenario needs an Intel 82576"), "{refusal}");
    // Nobody is told of a device that nobody needs.
    let others = three();
    let mut sim = Sim::on(machine(2), &others, silent);
    sim.run_to(100);
    assert!(sim.server.nic.is_none() && told(&mut sim).is_empty());
}

#[test]
fn a_function_has_one_holder_and_its_next_one_waits_for_it_and_for_its_reset() {
    let archive = with_nic(&["a", "b"], vec![at(300, Command::Kill { app: 0 })]);
    let mut sim = Sim::on(machine(1), &archive, silent);
    sim.run_to(299);
    assert_eq!((sim.model().leased_vfs(), started(&sim, 1)), (1, None), "the other one has it");
    assert_eq!(told(&mut sim), [(0, Some(mac(0)))]);
    sim.run_to(320);
    assert_eq!(sim.end(0), Some(&End::Killed));
    assert_eq!(sim.model().leased_vfs(), 0);
    assert_eq!(told(&mut sim), [(0, None)]);
    sim.run_to(600);
    let waited = started(&sim, 1).expect("it got the function") - 300_000;
    assert!(waited >= RESET_TICKS / 1_000, "{waited} us");
    assert_eq!((told(&mut sim), sim.model().leased_vfs()), (vec![(0, Some(mac(1)))], 1));
}

#[test]
fn a_server_that_stops_is_started_again_and_functions_stay_their_holders() {
    let archive = with_nic(&["a", "b"], Vec::new());
    let mut sim = Sim::on(machine(8), &archive, silent);
    sim.run_to(400);
    let holders = vec![(0, Some(mac(0))), (1, Some(mac(1)))];
    assert_eq!(told(&mut sim), holders);
    let derived = sim.model().derived();
    for _ in 0..MAX_RESTARTS {
        stop_server(&mut sim);
        assert_eq!((told(&mut sim), sim.model().leased_vfs()), (holders.clone(), 2));
        assert_eq!(sim.model().derived(), derived, "nothing is left of the last one");
    }
    sim.run_to(500);
    assert!(sim.tenants.iter().all(|tenant| !tenant.heard.contains(&FromMarket::NicReset)));
    let ready = postcard::to_allocvec(&proto::nic::FromNic::Ready).unwrap();
    sim.model().incoming.entry(Peer::Nic).or_default().push_back(ready);
    sim.run_to(600);
    assert!(sim.tenants.iter().all(|tenant| tenant.heard.contains(&FromMarket::NicReset)));
    // One that always stops is not started for ever, and that fails the run.
    stop_server(&mut sim);
    assert_eq!(sim.run_to_end(), crate::finish::FAILURE);
    assert!(sim.result().1.contains("the network server cannot be started again"), "{:?}", sim.result());
}

#[test]
fn what_the_server_sends_is_checked() {
    let archive = with_nic(&["a"], Vec::new());
    let mut sim = Sim::on(machine(8), &archive, silent);
    sim.run_to(200);
    for vf in [0, 1, 8, u8::MAX] {
        let report = postcard::to_allocvec(&proto::nic::FromNic::VfReady { vf }).unwrap();
        sim.model().incoming.entry(Peer::Nic).or_default().push_back(report);
    }
    sim.run_to(300);
    assert!(told(&mut sim).len() == 1, "it is not started again for that");
    sim.model().incoming.entry(Peer::Nic).or_default().push_back(vec![0xff; 40]);
    sim.run_to(400);
    assert_eq!(told(&mut sim), [(0, Some(mac(0)))], "it was started again");
}

/// What the IOMMU stops is told to the host, by the name of the application whose function it was; a storm does not fill the
/// log.
#[test]
fn what_is_stopped_is_told_by_whose_it_was() {
    let archive = with_nic(&["a", "b"], Vec::new());
    let mut sim = Sim::on(machine(2), &archive, silent);
    sim.run_to(200);
    let requesters = sim.model().leased_requesters();
    let record = |requester| FaultRecord { requester, stopped: Stopped::Write(0x7000), reason: 5 };
    for _ in 0..6 {
        sim.model().faults.push_back(record(requesters[1]));
    }
    sim.server.step(FAULT_EVENT);
    sim.model().faults.push_back(record(0x108));
    sim.server.step(FAULT_EVENT);
    sim.run_to(300);
    let lines = sim.texts.join("\n");
    let of_b: Vec<&str> = lines.lines().filter(|line| line.contains("by the function of b")).collect();
    assert_eq!(of_b.len(), 3, "the first, the second and the fourth: {lines}");
    assert!(of_b[0].contains("a write at I/O address 0x7000"), "{lines}");
    assert!(lines.contains("by the function of 01:01.0") && !lines.contains("function of a "), "{lines}");
    assert_eq!(sim.model().faults.len(), 0);
}

/// The VLAN of an application is that of every function that it gets, also after the server was started again.
#[test]
fn functions_are_in_the_vlan_of_their_holder() {
    let mut plan = plan(vec![App { vlan: Some(7), nic: true, ..app("a") }, App { nic: true, ..app("b") }], Some(PAGES));
    plan.apps[1].starts = false;
    plan.events = vec![at(200, Command::Kill { app: 0 }), at(210, Command::Start { app: 1 })];
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(1), &archive, silent);
    let vlans = |sim: &mut Sim<'_>| -> Vec<_> {
        settings_told(sim).into_iter().map(|(vf, settings)| (vf, settings.map(|settings| settings.vlan))).collect()
    };
    sim.run_to(100);
    assert_eq!(vlans(&mut sim), [(0, Some(Some(7)))]);
    stop_server(&mut sim);
    assert_eq!(vlans(&mut sim), [(0, Some(Some(7)))]);
    sim.run_to(600);
    assert_eq!(vlans(&mut sim), [(0, None), (0, Some(None))], "the next holder is in none");
}

/// What each has sent and received is told at the end, over all functions and all servers; nobody is told what another one
/// did, and a server whose counts go back is not believed.
#[test]
fn what_was_sent_and_received_is_summed_over_functions_and_servers() {
    let mut plan = plan(["a", "b", "c"].map(|name| App { nic: name != "c", ..app(name) }).into(), Some(PAGES));
    plan.limit_ms = Some(1_000);
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(2), &archive, silent);
    let counts = |frames| Counts { sent_frames: frames, received_octets: 3 * frames, ..Counts::default() };
    let counted = |app, frames| FromNic::Counters { mac: mac(app), counts: counts(frames) };
    for (ms, report) in [
        (100, counted(0, 10)),
        (110, counted(1, 7)),
        (120, counted(0, 15)),
        (130, counted(0, 14)),
        (140, counted(2, 1_000)),
        (150, counted(9, 1_000)),
        (160, FromNic::Counted),
    ] {
        say(&mut sim, &report);
        sim.run_to(ms);
    }
    stop_server(&mut sim);
    for report in [counted(0, 1), counted(1, 2)] {
        say(&mut sim, &report);
    }
    // The last word is waited for, and not for ever.
    sim.run_to(1_010);
    let asked = sim.model().sent[&Peer::Nic].back().map(|bytes| postcard::from_bytes(bytes).unwrap());
    assert_eq!((asked, sim.power_off), (Some(ToNic::Count), None));
    say(&mut sim, &counted(1, 5));
    say(&mut sim, &FromNic::Counted);
    sim.run_to(1_012);
    assert!(sim.power_off.is_some(), "it was answered");
    let told = sim.records.iter().filter_map(|record| match record {
        Record::Network { app, counts, .. } => Some((*app, *counts)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(0, counts(16)), (1, counts(12))]);
}

#[test]
fn a_server_that_does_not_answer_does_not_keep_the_run_from_its_end() {
    let mut plan = plan(vec![App { nic: true, ..app("a") }], Some(PAGES));
    plan.limit_ms = Some(1_000);
    let archive = archive(&plan);
    let mut sim = Sim::on(machine(2), &archive, silent);
    sim.run_to(1_045);
    assert_eq!(sim.power_off, None);
    sim.run_to(1_060);
    assert!(sim.power_off.is_some());
    assert!(sim.result().1.contains("limit was reached"), "{:?}", sim.result());
}
