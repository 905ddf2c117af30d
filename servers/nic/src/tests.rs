//! The server on registers that hold whatever was written.

use super::*;
use device::fake::FakeRegisters;
use std::vec::Vec;

fn settings(last: u8) -> Settings {
    Settings { mac: [2, 0, 0, 0, 0, last], vlan: None, limit_bits_per_s: None }
}

fn reports(server: &mut Server<&FakeRegisters>) -> Vec<FromNic> {
    let mut all = Vec::new();
    while let Some(report) = server.next_report().copied() {
        server.reported();
        all.push(report);
    }
    all
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
