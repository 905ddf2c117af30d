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
    assert_eq!(reports(&mut server), []);
    for (vf, wrong) in [
        (1, settings(1)),
        (MAX_VFS as u8, settings(2)),
        (2, Settings { mac: [1, 0, 0, 0, 0, 2], ..settings(0) }),
        (3, Settings { vlan: Some(4095), ..settings(3) }),
        (4, Settings { limit_bits_per_s: Some(0), ..settings(4) }),
    ] {
        server.take(ToNic::Configure { vf, settings: wrong }, 0);
        assert_eq!(reports(&mut server), [FromNic::Impossible { vf }]);
    }
    server.take(ToNic::Close { vf: u8::MAX }, 0);
    assert_eq!(reports(&mut server), [FromNic::Impossible { vf: u8::MAX }]);
    // VF 0 had the address until it was closed.
    server.take(ToNic::Configure { vf: 0, settings: Settings { vlan: Some(0), ..settings(9) } }, 0);
    server.take(ToNic::Configure { vf: 1, settings: settings(1) }, 0);
    assert_eq!(reports(&mut server), [FromNic::Impossible { vf: 0 }]);
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
    assert_eq!(reports(&mut server).len(), 256 - MAX_VFS);
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
