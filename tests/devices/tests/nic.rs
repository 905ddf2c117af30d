//! The drivers of the 82576 and its virtual functions, against the emulated device.

use device_tests::nic::{Bench, IDENTITY, OUTSIDE, frame, mac};
use igb::Settings;

const TEST: u16 = 0x88b5;

fn settings(count: u8) -> Vec<Settings> {
    (0..count).map(|n| Settings::with_mac(mac(n))).collect()
}

#[test]
fn the_link_comes_up_and_a_vf_gets_its_address() {
    let mut bench = Bench::start(&settings(2));
    assert_eq!(bench.pf.identity(), IDENTITY);
    let station = bench.station(1);
    assert_eq!(station.function.mac(), Some(mac(1)));
    assert!(station.function.link_is_up());
}

#[test]
fn a_frame_goes_from_one_vf_to_another_unchanged() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let sent = frame(mac(1), mac(0), TEST, b"from one function to the other");
    one.send(&sent);
    assert_eq!(two.receive().0, sent);
    assert!(one.is_quiet() && bench.is_quiet_outside(), "it goes nowhere else");
}

#[test]
fn frames_go_out_and_come_in() {
    let mut bench = Bench::start(&settings(2));
    let mut station = bench.station(0);
    let out = frame(OUTSIDE, mac(0), TEST, b"out");
    station.send(&out);
    assert_eq!(bench.receive_outside(), out);
    let back = frame(mac(0), OUTSIDE, TEST, b"back");
    bench.send_from_outside(&back);
    assert_eq!(station.receive().0, back);
}
