//! The server on registers that hold whatever was written.

use super::*;
use device::fake::FakeRegisters;
use std::vec::Vec;

fn settings(last: u8) -> Settings {
    Settings { mac: [2, 0, 0, 0, 0, last], vlan: None, limit_bits_per_s: None }
}

/// The reports that leave at this time.
fn reports_at(server: &mut Server<&FakeRegisters>, now_ns: u64) -> Vec<FromNic> {
    core::iter::from_fn(|| server.next_report(now_ns)).collect()
}

fn reports(server: &mut Server<&FakeRegisters>) -> Vec<FromNic> {
    reports_at(server, 0)
}

#[test]
fn impossible_settings_are_reported_and_close_the_vf() {
    let registers = FakeRegisters::default();
    let mut server = Server::new(&registers, 0);
    server.take(ToNic::Configure { vf: 0, settings: settings(1) }, 0);
    assert_eq!(reports(&mut server), [FromNic::InForce { vf: 0, bits_per_s: None }]);
    for (vf, wrong) in [
        (1, settings(1)),
        (MAX_VFS as u8, settings(2)),
        (2, Settings { mac: [1, 0, 0, 0, 0, 2], ..settings(0) }),
        (3, Settings { vlan: Some(4095), ..settings(3) }),
    ] {
        server.take(ToNic::Configure { vf, settings: wrong }, 0);
        let mut all = reports(&mut server);
        assert_eq!(all.remove(0), FromNic::Impossible { vf });
        assert!(all.iter().all(|report| *report == FromNic::InForce { vf, bits_per_s: Some(0) }));
    }
    server.take(ToNic::Close { vf: u8::MAX }, 0);
    assert_eq!(reports(&mut server), [FromNic::Impossible { vf: u8::MAX }]);
    // VF 0 had the address until it was closed.
    server.take(ToNic::Configure { vf: 0, settings: Settings { vlan: Some(0), ..settings(9) } }, 0);
    server.take(ToNic::Configure { vf: 1, settings: settings(1) }, 0);
    let closed = FromNic::InForce { vf: 0, bits_per_s: Some(0) };
    let other = FromNic::InForce { vf: 1, bits_per_s: None };
    assert_eq!(reports(&mut server), [FromNic::Impossible { vf: 0 }, closed, other]);
}

#[test]
fn a_limit_holds_from_its_time_on_and_is_reported_then() {
    let registers = FakeRegisters::default();
    let mut server = Server::new(&registers, 0);
    let limit = |bits_per_s, from_ns| ToNic::Limit { vf: 2, bits_per_s, from_ns };
    server.take(limit(5, 0), 0);
    assert_eq!(reports(&mut server), [FromNic::InForce { vf: 2, bits_per_s: Some(0) }], "it is closed");
    server.take(ToNic::Configure { vf: 2, settings: Settings { limit_bits_per_s: Some(7), ..settings(2) } }, 0);
    server.take(limit(8, 1_000), 0);
    assert_eq!(reports(&mut server), [FromNic::InForce { vf: 2, bits_per_s: Some(7) }]);
    assert_eq!(server.due_ns(), 1_000);
    server.poll(999);
    assert_eq!(reports(&mut server), []);
    server.poll(1_000);
    assert_eq!(reports(&mut server), [FromNic::InForce { vf: 2, bits_per_s: Some(8) }]);
    // The later word counts, also one that holds at once; and who gets the VF next has nothing to do with it.
    server.take(limit(9, 5_000), 1_000);
    server.take(limit(10, 2_000), 3_000);
    server.take(limit(11, 5_000), 3_000);
    assert_eq!(reports(&mut server), [FromNic::InForce { vf: 2, bits_per_s: Some(10) }]);
    server.take(ToNic::Close { vf: 2 }, 4_000);
    server.poll(6_000);
    assert_eq!(reports(&mut server).first(), Some(&FromNic::InForce { vf: 2, bits_per_s: Some(0) }));
    assert_eq!(reports(&mut server).len(), 0);
    server.take(ToNic::Limit { vf: u8::MAX, bits_per_s: 1, from_ns: 0 }, 6_000);
    assert_eq!(reports(&mut server), []);
}

#[test]
fn reports_that_nobody_takes_do_not_pile_up() {
    let registers = FakeRegisters::default();
    let mut server = Server::new(&registers, 0);
    for round in 0..1_000 {
        for vf in 0..=u8::MAX {
            server.take(ToNic::Close { vf }, round);
        }
    }
    assert_eq!(reports(&mut server).len(), 256, "one that there is no such VF, or what it may send");
}

#[test]
fn a_phy_that_does_not_answer_is_reported() {
    let registers = FakeRegisters::default();
    let mut server = Server::new(&registers, 0);
    server.poll(server.due_ns());
    assert_eq!(reports(&mut server), [FromNic::Failed]);
    assert_eq!(server.due_ns(), u64::MAX);
}

#[test]
fn what_vfs_cause_leaves_now_and_then_and_holds_up_nothing_else() {
    let registers = FakeRegisters::default();
    let mut server = Server::new(&registers, 0);
    let mut left = 0;
    for now_ns in (0..1_000_000_000).step_by(1_000_000) {
        for vf in 0..2 {
            server.report(FromNic::Refused { vf });
            server.report(FromNic::VfReset { vf });
        }
        left += reports_at(&mut server, now_ns).len();
    }
    assert_eq!(left, 4 * 10);
    server.report(FromNic::Link { up: true });
    server.report(FromNic::Link { up: false });
    assert_eq!(reports_at(&mut server, 999_000_000), [FromNic::Link { up: false }]);
    server.give_back(FromNic::Link { up: false });
    let all = reports_at(&mut server, 1_000_000_000);
    assert_eq!(all.first(), Some(&FromNic::Link { up: false }));
    assert_eq!(all.len(), 5, "{all:?}");
}

/// Registers of the device: access to its PHY, and frames that its first function has sent.
const MDIC: u32 = 0x0020;
const MDIC_READY: u32 = 1 << 28;
const PVFGPTC: u32 = 0x10014;

#[test]
fn what_holders_have_sent_is_told_now_and_then_and_at_their_end_and_when_it_is_asked_for() {
    let registers = FakeRegisters::default();
    registers.set_rule(|offset| (offset == MDIC).then_some(MDIC_READY));
    let mut server = Server::new(&registers, 0);
    let mut now_ns = server.due_ns();
    server.poll(now_ns);
    assert!(reports_at(&mut server, now_ns).contains(&FromNic::Ready));
    server.take(ToNic::Configure { vf: 0, settings: settings(1) }, now_ns);
    reports_at(&mut server, now_ns);
    let told = |server: &mut Server<&FakeRegisters>, now_ns| -> Vec<(u8, u64)> {
        let counts = |report| match report {
            FromNic::Counters { mac, counts } => Some((mac[5], counts.sent_frames)),
            FromNic::Counted => Some((0, 0)),
            _ => None,
        };
        reports_at(server, now_ns).into_iter().filter_map(counts).collect()
    };
    // However much is sent, it is told ten times a second.
    let mut often = 0;
    for frames in 1..=100 {
        now_ns += 10_000_000;
        registers.set(PVFGPTC, frames);
        server.poll(now_ns);
        often += told(&mut server, now_ns).len();
    }
    assert_eq!(often, 10);
    registers.set(PVFGPTC, 101);
    server.take(ToNic::Count, now_ns);
    assert_eq!(told(&mut server, now_ns), [(1, 101), (0, 0)], "and then that this is all");
    server.take(ToNic::Count, now_ns);
    assert_eq!(told(&mut server, now_ns), [(0, 0)], "nothing is new");
    // The next holder begins anew, and the last one's end is told with its last frame.
    registers.set(PVFGPTC, 102);
    server.take(ToNic::Configure { vf: 0, settings: settings(2) }, now_ns);
    assert_eq!(told(&mut server, now_ns), [(1, 102)]);
    registers.set(PVFGPTC, 105);
    server.take(ToNic::Close { vf: 0 }, now_ns);
    assert_eq!(told(&mut server, now_ns), [(2, 3)]);
}
