//! The drivers of the 82576 and its virtual functions, against the emulated device.

use device::Registers;
use device_tests::nic::{Bench, IDENTITY, OUTSIDE, Station, frame, mac};
use igb::{Event, Settings, Vlans};
use igbvf::MacAddress;
use igbvf::message::{Multicast, Request};
use igbvf::moderation::{Mode, Moderation};
use igbvf::offload::{Network, Offload, Transport};
use igbvf::receive::Checksum;

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

const BROADCAST: MacAddress = MacAddress([0xff; 6]);
const VLAN: u16 = 0x8100;

/// What the PF's driver answers to a request.
fn ask(bench: &mut Bench, station: &mut Station, request: Request) -> bool {
    station.function.request(request, bench.machine.now_ns()).expect("nothing is under way");
    match bench.drive(&mut station.function).expect("the PF answers") {
        igbvf::Event::Answered { accepted } => accepted,
        other => panic!("{other:?}"),
    }
}

/// A frame with a VLAN tag.
fn tagged(to: MacAddress, from: MacAddress, vlan: u16, payload: &[u8]) -> Vec<u8> {
    frame(to, from, VLAN, &[&vlan.to_be_bytes()[..], &TEST.to_be_bytes()[..], payload].concat())
}

/// An IPv4 packet of UDP without its checksums, but with the sum of the pseudo-header where hardware wants it.
fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let udp_bytes = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_bytes).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0x12, 0x34, 0x56, 0x78]);
    packet.extend(udp_bytes.to_be_bytes());
    let pseudo = sum(&packet[12..20]) + 17 + u32::from(udp_bytes);
    packet.extend(folded(pseudo).to_be_bytes());
    packet.extend(payload);
    packet
}

/// The sum of 16-bit words that IP's checksums are made of (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn broadcasts_reach_the_other_functions_and_the_outside() {
    let mut bench = Bench::start(&settings(3));
    let (mut one, mut two, mut three) = (bench.station(0), bench.station(1), bench.station(2));
    let sent = frame(BROADCAST, mac(0), TEST, b"to all");
    one.send(&sent);
    assert_eq!(two.receive().0, sent);
    assert_eq!(three.receive().0, sent);
    assert_eq!(bench.receive_outside(), sent);
    let sent = frame(BROADCAST, OUTSIDE, TEST, b"to all inside");
    bench.send_from_outside(&sent);
    assert_eq!(two.receive().0, sent);
    assert_eq!(three.receive().0, sent);
}

#[test]
fn frames_for_others_do_not_come_in() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    bench.send_from_outside(&frame(mac(1), OUTSIDE, TEST, b"for the second"));
    bench.send_from_outside(&frame(mac(7), OUTSIDE, TEST, b"for nobody"));
    let last = frame(mac(0), OUTSIDE, TEST, b"for the first");
    bench.send_from_outside(&last);
    assert_eq!(one.receive().0, last);
    assert!(two.receive().0.ends_with(&[0; 20]));
    assert!(one.is_quiet() && two.is_quiet());
}

#[test]
fn a_vf_takes_another_address_only_if_it_may_and_nobody_has_it() {
    let mut settings = settings(3);
    settings[0].may_change_mac = true;
    let mut bench = Bench::start(&settings);
    let (mut free, mut bound) = (bench.station(0), bench.station(1));
    assert!(!ask(&mut bench, &mut bound, Request::SetMac(mac(9))));
    assert!(ask(&mut bench, &mut bound, Request::SetMac(mac(1))), "its own it may have");
    assert!(!ask(&mut bench, &mut free, Request::SetMac(mac(1))), "taken");
    assert!(!ask(&mut bench, &mut free, Request::SetMac(mac(2))), "of a function that is not in use yet");
    assert!(!ask(&mut bench, &mut free, Request::SetMac(BROADCAST)));
    assert!(ask(&mut bench, &mut free, Request::SetMac(mac(9))));
    assert_eq!(free.function.mac(), Some(mac(9)));
    let sent = frame(mac(9), mac(1), TEST, b"to the new address");
    bound.send(&sent);
    assert_eq!(free.receive().0, sent);
    bound.send(&frame(mac(0), mac(1), TEST, b"to the old address"));
    assert!(free.is_quiet());
}

#[test]
fn groups_are_received_when_asked_for() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let group = MacAddress([1, 0, 0x5e, 0x10, 0x20, 0x30]);
    let sent = frame(group, mac(0), TEST, b"to a group");
    one.send(&sent);
    assert!(two.is_quiet());
    assert!(ask(&mut bench, &mut two, Request::SetMulticast(Multicast::of(&[group]).unwrap())));
    one.send(&sent);
    assert_eq!(two.receive().0, sent);
    assert!(ask(&mut bench, &mut two, Request::SetMulticast(Multicast::NONE)));
    one.send(&sent);
    assert!(two.is_quiet());
}

#[test]
fn vlans_are_received_by_their_members_only() {
    let mut settings = settings(3);
    settings[0].vlans = Vlans::Chosen;
    settings[1].vlans = Vlans::Chosen;
    let mut bench = Bench::start(&settings);
    let (mut one, mut two, mut three) = (bench.station(0), bench.station(1), bench.station(2));
    let five = tagged(mac(1), mac(0), 5, b"in a VLAN");
    one.send(&five);
    assert!(two.is_quiet());
    assert!(!ask(&mut bench, &mut three, Request::SetVlan { vlan: 5, member: true }), "it may be in none");
    assert!(ask(&mut bench, &mut one, Request::SetVlan { vlan: 5, member: true }));
    assert!(ask(&mut bench, &mut two, Request::SetVlan { vlan: 6, member: true }));
    one.send(&five);
    assert!(two.is_quiet(), "a member of another one");
    assert!(ask(&mut bench, &mut two, Request::SetVlan { vlan: 5, member: true }));
    one.send(&five);
    assert_eq!(two.receive().0, five);
    one.send(&tagged(mac(2), mac(0), 5, b"to no member"));
    assert!(three.is_quiet());
    assert!(ask(&mut bench, &mut two, Request::SetVlan { vlan: 5, member: false }));
    one.send(&five);
    assert!(two.is_quiet());
}

#[test]
fn a_port_vlan_is_put_in_and_taken_out_by_the_device() {
    let mut settings = settings(3);
    settings[0].vlans = Vlans::Port(17);
    settings[1].vlans = Vlans::Port(17);
    let mut bench = Bench::start(&settings);
    let (mut one, mut two, mut three) = (bench.station(0), bench.station(1), bench.station(2));
    let plain = frame(mac(1), mac(0), TEST, b"with a tag that nobody inside sees");
    one.send(&plain);
    let (got, received) = two.receive();
    assert_eq!(got[..14], plain[..14]);
    assert_eq!(received.vlan_tag(), Some(17));
    one.send(&frame(OUTSIDE, mac(0), TEST, b"out"));
    let out = bench.receive_outside();
    assert_eq!(out[12..16], [0x81, 0, 0, 17]);
    one.send(&frame(mac(2), mac(0), TEST, b"across"));
    assert!(three.is_quiet());
    three.send(&frame(mac(1), mac(2), TEST, b"across"));
    assert!(two.is_quiet(), "untagged frames are not for it");
    assert!(!ask(&mut bench, &mut one, Request::SetVlan { vlan: 17, member: false }));
    // What is for everybody is for everybody in the VLAN.
    one.send(&frame(BROADCAST, mac(0), TEST, b"to all of 17"));
    assert_eq!(two.receive().1.vlan_tag(), Some(17));
    assert!(three.is_quiet());
    // The emulated device gives a sender its own broadcast, too.
    assert_eq!(one.receive().1.vlan_tag(), Some(17));
    let untagged = frame(BROADCAST, mac(2), TEST, b"to all of none");
    three.send(&untagged);
    assert_eq!(three.receive().0, untagged);
    assert!(one.is_quiet() && two.is_quiet());
    // A tag of the sender's own is inside of it.
    one.send(&tagged(mac(2), mac(0), 5, b"to another VLAN"));
    assert!(three.is_quiet());
    // It outlasts the holder's reset.
    bench.vfs[1].reset();
    assert_eq!(bench.events(), [Event::VfReset(1)]);
    let mut two = bench.station(1);
    one.send(&plain);
    assert_eq!(two.receive().1.vlan_tag(), Some(17));
    three.send(&frame(mac(1), mac(2), TEST, b"across"));
    assert!(two.is_quiet());
}

#[test]
fn long_frames_are_received_when_asked_for_and_allowed() {
    let mut settings = settings(2);
    settings[1].max_frame_bytes = 4000;
    let mut bench = Bench::start(&settings);
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let long = frame(mac(1), mac(0), TEST, &[0xa5; 3000]);
    one.send(&long);
    assert!(two.is_quiet());
    assert!(!ask(&mut bench, &mut one, Request::SetMaxFrame(4000)));
    assert!(!ask(&mut bench, &mut two, Request::SetMaxFrame(4001)));
    assert!(ask(&mut bench, &mut two, Request::SetMaxFrame(4000)));
    one.send(&long);
    let (first, received) = two.receive();
    assert!(!received.ends_frame() && first.len() == 2048);
    let (rest, received) = two.receive();
    assert!(received.ends_frame());
    assert_eq!([first, rest].concat(), long);
    one.send(&frame(mac(1), mac(0), TEST, &[0xa5; 4000]));
    assert!(two.is_quiet());
}

#[test]
fn nothing_goes_through_before_the_handshake_and_after_a_reset() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let sent = frame(mac(1), mac(0), TEST, b"before");
    one.send(&sent);
    assert_eq!(two.receive().0, sent);
    bench.vfs[0].reset();
    assert_eq!(bench.events(), [Event::VfReset(0)]);
    one.send_with(&[&sent], &Offload::NONE);
    two.send(&frame(mac(0), mac(1), TEST, b"to the dead"));
    assert!(two.is_quiet() && one.is_quiet());
    let mut one = bench.station(0);
    one.send(&sent);
    assert_eq!(two.receive().0, sent);
    two.send(&frame(mac(0), mac(1), TEST, b"again"));
    assert_eq!(one.receive().0[14..19], *b"again");
}

#[test]
fn a_vf_that_is_given_to_somebody_else_has_nothing_of_its_last_owner() {
    let mut settings = settings(2);
    settings[0].may_change_mac = true;
    settings[0].vlans = Vlans::Chosen;
    let mut bench = Bench::start(&settings);
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let group = MacAddress([1, 0, 0x5e, 1, 1, 1]);
    assert!(ask(&mut bench, &mut one, Request::SetMac(mac(9))));
    assert!(ask(&mut bench, &mut one, Request::SetVlan { vlan: 5, member: true }));
    assert!(ask(&mut bench, &mut one, Request::SetMulticast(Multicast::of(&[group]).unwrap())));
    bench.vfs[0].reset();
    let now_ns = bench.machine.now_ns();
    assert!(!bench.nic.configure(0, Some(Settings::with_mac(mac(1))), now_ns), "that address is another's");
    assert!(bench.nic.configure(0, Some(Settings::with_mac(mac(4))), now_ns));
    let mut one = bench.station(0);
    assert_eq!(one.function.mac(), Some(mac(4)));
    for sent in [
        frame(mac(9), mac(1), TEST, b""),
        frame(mac(0), mac(1), TEST, b""),
        frame(group, mac(1), TEST, b""),
        tagged(mac(4), mac(1), 5, b""),
    ] {
        two.send(&sent);
        assert!(one.is_quiet(), "{sent:x?}");
    }
    let sent = frame(mac(4), mac(1), TEST, b"for the new owner");
    two.send(&sent);
    assert_eq!(one.receive().0, sent);
}

#[test]
fn the_address_of_a_vf_without_settings_is_outside() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    assert!(bench.nic.configure(1, None, bench.machine.now_ns()));
    let sent = frame(mac(1), mac(0), TEST, b"to whoever has it now");
    one.send(&sent);
    assert_eq!(bench.receive_outside(), sent);
    assert!(two.is_quiet());
}

#[test]
fn the_pf_counts_what_each_vf_sends_and_receives() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    for _ in 0..3 {
        one.send(&frame(mac(1), mac(0), TEST, &[1; 86]));
        two.receive();
    }
    bench.nic.read_counters(bench.machine.now_ns());
    let (first, second) = (bench.nic.counters(0).unwrap(), bench.nic.counters(1).unwrap());
    assert_eq!((first.sent_frames, first.sent_octets), (3, 3 * 104));
    assert_eq!((second.received_frames, second.received_octets), (3, 3 * 104));
    assert_eq!((second.sent_frames, first.received_frames), (0, 0));
    let own = one.function.counters();
    assert_eq!((own.sent_frames, own.sent_octets), (3, 3 * 104));
}

#[test]
fn a_vf_with_a_limit_sends_no_more_than_that() {
    let mut bench = Bench::start(&settings(2));
    let mut one = bench.station(0);
    // The driver knows the time by what it is told only, so this is no matter of how fast the test runs.
    let (limit, start_ns, step_ns) = (20_000_000, bench.machine.now_ns(), 50_000);
    assert!(bench.nic.set_limit(0, Some(limit), start_ns));
    let sent = frame(mac(1), mac(0), TEST, &[0; 1000]);
    let (mut closed, mut now_ns) = (0, start_ns);
    while now_ns < start_ns + 100_000_000 {
        now_ns += step_ns;
        while bench.nic.due_ns() <= now_ns {
            bench.nic.poll(now_ns);
        }
        one.transmit.nudge();
        while one.transmit.completed().is_some() {}
        if one.transmit.pending() == 0 {
            one.send_with(&[&sent], &Offload::NONE);
        } else {
            closed += 1;
        }
    }
    bench.nic.read_counters(now_ns);
    let bits = 8 * bench.nic.counters(0).unwrap().sent_octets;
    let wanted = limit * (now_ns - start_ns) / 1_000_000_000;
    assert!(closed > 1000, "the limit was seldom reached");
    assert!(bits.abs_diff(wanted) < wanted / 20, "{bits} bits, {wanted} wanted");
}

#[test]
fn checksums_are_computed_and_checked_by_the_device() {
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let packet = udp_packet(b"somebody computes the sum");
    let sent = frame(OUTSIDE, mac(0), 0x0800, &packet);
    let offload = Offload::checksums(14, Network::Ipv4(20), Some(Transport::Udp)).unwrap();
    // In three parts, as headers and data of an application would be.
    one.send_with(&[&sent[..14], &sent[14..42], &sent[42..]], &offload);
    let out = bench.receive_outside();
    let (header, udp) = (&out[14..34], &out[34..14 + packet.len()]);
    assert_eq!(folded(sum(header)), 0xffff, "of the IP header");
    assert_eq!(folded(sum(&header[12..20]) + 17 + udp.len() as u32 + sum(udp)), 0xffff, "of UDP");
    assert_eq!(out[42..], sent[42..]);

    let mut good = out;
    good[..6].copy_from_slice(&mac(1).0);
    bench.send_from_outside(&good);
    let (_, received) = two.receive();
    assert_eq!((received.ip_checksum(), received.transport_checksum()), (Checksum::Good, Checksum::Good));
    good[45] ^= 1;
    bench.send_from_outside(&good);
    let (_, received) = two.receive();
    assert_eq!((received.ip_checksum(), received.transport_checksum()), (Checksum::Good, Checksum::Bad));
    bench.send_from_outside(&frame(mac(1), OUTSIDE, TEST, b"no checksum"));
    let (_, received) = two.receive();
    assert_eq!((received.ip_checksum(), received.transport_checksum()), (Checksum::Unknown, Checksum::Unknown));
}

#[test]
fn the_second_queue_sends_too() {
    let mut bench = Bench::start(&settings(1));
    let one = bench.station(0);
    let mut second =
        igbvf::TransmitQueue::<_, _, u8, 8>::new(bench.vf(0), bench.machine.memory(1), 1).expect("the queue starts");
    // More than once around the ring.
    for n in 0..20 {
        let sent = frame(OUTSIDE, mac(0), TEST, &[n; 50]);
        second.send(&[one.place(0, &sent)], &Offload::NONE, n).expect("there is room");
        second.flush();
        assert_eq!(bench.receive_outside(), sent);
        assert_eq!(bench.machine.wait("a sent frame", || second.completed()), n);
    }
    assert_eq!(second.faults(), 0);
}

#[test]
fn each_frame_is_an_interrupt_unless_masked_or_delayed() {
    let mut bench = Bench::start(&settings(2));
    let messages = bench.vfs[1].catch_messages();
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    two.function.route_interrupts(0, 1, 2);
    let sent = frame(mac(1), mac(0), TEST, b"an interrupt");
    one.send(&sent);
    assert!(!messages.take(0), "nothing is enabled");
    let mut moderation = Moderation::new(bench.vf(1), 0, Mode::Adaptive { idle_looks: 1 });
    assert!(messages.take(0), "what came while it was masked is told when it is unmasked");
    for _ in 0..3 {
        one.send(&sent);
        assert!(messages.take(0) && !messages.take(1));
    }
    moderation.interrupted();
    one.send(&sent);
    assert!(!messages.take(0));
    while let Some(received) = two.receive.receive() {
        two.receive.supply(received.buffer).unwrap();
    }
    moderation.looked(false);
    assert!(messages.take(0), "the application slept while the frame came");

    two.function.set_interrupt_delay_us(0, 8000);
    one.send(&sent);
    one.send(&sent);
    let first = messages.take(0);
    let second = bench.machine.wait("the delayed message", || messages.take(0).then_some(true));
    assert!(first && second);
    assert!(!messages.take(0));
}

#[test]
fn the_vectors_of_a_last_owner_are_forgotten() {
    let mut bench = Bench::start(&settings(2));
    let messages = bench.vfs[1].catch_messages();
    let mut one = bench.station(0);
    let sent = frame(mac(1), mac(0), TEST, b"an interrupt");
    for vector in [0, 1, 2] {
        let two = bench.station(1);
        two.function.route_interrupts(vector, 0, 0);
        for enabled in 0..3 {
            Moderation::new(bench.vf(1), enabled, Mode::Interrupt);
        }
        one.send(&sent);
        let came: Vec<bool> = (0..3).map(|vector| messages.take(vector)).collect();
        assert_eq!(came, [vector == 0, vector == 1, vector == 2]);
    }
}

#[test]
fn the_pf_is_told_of_mailboxes_by_its_interrupt() {
    let mut bench = Bench::start(&settings(1));
    let messages = bench.pf.catch_messages();
    for _ in 0..2 {
        let mut function = igbvf::Function::new(bench.vf(0), bench.machine.now_ns());
        assert!(messages.take(0), "of the reset");
        function.poll(bench.machine.now_ns()).unwrap();
        bench.drive(&mut function).expect("the handshake works");
        assert!(messages.take(0), "of the message and its acknowledgement");
        bench.events();
    }
}

#[test]
fn a_vf_that_floods_its_mailbox_gets_one_answer_per_round_and_harms_nobody() {
    let mut bench = Bench::start(&settings(2));
    let mut two = bench.station(1);
    let flood = bench.vf(0);
    for n in 0..50u32 {
        for word in 0..16 {
            flood.write32(0x800 + 4 * word, n.wrapping_mul(0x9e37_79b9) ^ word);
        }
        // Keeps the buffer, and sends a request all the same.
        flood.write32(0xc40, 4 | 1);
        assert!(bench.events().len() <= 2);
    }
    assert!(!ask(&mut bench, &mut two, Request::SetMac(mac(5))));
    assert!(ask(&mut bench, &mut two, Request::SetMac(mac(1))));
    let mut one = bench.station(0);
    one.send(&frame(mac(1), mac(0), TEST, b"well again"));
    assert!(two.receive().0[14..].starts_with(b"well again"));
}

#[test]
fn a_vf_notices_that_its_pf_was_reset_and_comes_back() {
    let mut bench = Bench::start(&settings(2));
    let mut station = bench.station(0);
    bench.nic.reset(bench.machine.now_ns());
    assert_eq!(station.function.poll(bench.machine.now_ns()), Ok(Some(igbvf::Event::Lost)));
    let request = station.function.request(Request::Reset, bench.machine.now_ns());
    assert_eq!(request, Err(igbvf::Error::NotReady));
    bench.run_until(Event::Ready);
    bench.run_until(Event::LinkChanged(igb::Link::Up));
    let mut station = bench.station(0);
    let sent = frame(OUTSIDE, mac(0), TEST, b"back again");
    station.send(&sent);
    assert_eq!(bench.receive_outside(), sent);
}

#[test]
fn without_a_pf_the_handshake_times_out() {
    let bench = Bench::start(&settings(1));
    let start_ns = bench.machine.now_ns();
    let mut function = igbvf::Function::new(bench.vf(0), start_ns);
    assert_eq!(function.poll(start_ns), Ok(None));
    assert_eq!(function.poll(start_ns + 999_999_999), Ok(None));
    assert_eq!(function.poll(start_ns + 1_000_000_000), Err(igbvf::Error::TimedOut));
}

#[test]
fn the_emulated_device_does_not_check_source_addresses() {
    // The driver asks for it; the emulator (10.0) knows neither the check nor its counters. Should this fail one day,
    // the emulator has learnt it, and forged frames are to be tested for being dropped and told of.
    let mut bench = Bench::start(&settings(2));
    let (mut one, mut two) = (bench.station(0), bench.station(1));
    let forged = frame(mac(1), mac(7), TEST, b"not from whom it says");
    one.send(&forged);
    assert_eq!(two.receive().0, forged);
    assert_eq!(bench.nic.forged_frames(), 0);
}

#[test]
fn the_emulated_device_has_no_rate_limiters() {
    // Should this fail one day, the emulator has learnt them, and limits are to be tested with them on a machine.
    let bench = Bench::start(&settings(1));
    assert!(!bench.nic.has_limiters());
}
