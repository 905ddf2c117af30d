//! The PF's driver on registers that say anything: what the emulated device lacks, and what no device should do.

use crate::nic::{Event, Link, Nic, RESET_NS};
use crate::registers as reg;
use crate::{Settings, VFS, Vlans};
use device::Registers;
use device::fake::{FakeRegisters, random};
use igbvf::MacAddress;
use igbvf::message::{ACCEPTED, REFUSED, Request};

const fn mac(n: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, n])
}

/// A device without rate limiters that answers as it should, with its driver running and the link up.
fn running<'a>(registers: &'a FakeRegisters, settings: &[Settings]) -> Nic<&'a FakeRegisters> {
    registers.set_rule(|offset| match offset {
        reg::RTTBCNRM => Some(0),
        _ => well_behaved(offset),
    });
    start(registers, settings)
}

fn well_behaved(offset: u32) -> Option<u32> {
    match offset {
        reg::MDIC => Some(reg::MDIC_READY),
        // Written ones clear, which these registers do not know.
        reg::VFLRE => Some(0),
        _ => None,
    }
}

fn start<'a>(registers: &'a FakeRegisters, settings: &[Settings]) -> Nic<&'a FakeRegisters> {
    let mut nic = Nic::new(registers, settings, 0);
    assert_eq!(nic.poll(RESET_NS - 1), None);
    assert_eq!(nic.poll(RESET_NS), Some(Event::Ready));
    registers.set(reg::STATUS, reg::STATUS_LU | GIGABIT);
    assert_eq!(nic.poll(RESET_NS), Some(Event::LinkChanged(Link::Up)));
    nic
}

/// STATUS: speeds of the link.
const GIGABIT: u32 = 2 << reg::STATUS_SPEED_SHIFT;
const HUNDRED_MEGABIT: u32 = 1 << reg::STATUS_SPEED_SHIFT;

/// Lets a VF send a message; what the driver tells, and whether it accepted.
fn ask(registers: &FakeRegisters, nic: &mut Nic<&FakeRegisters>, vf: usize, request: Request) -> (Option<Event>, bool) {
    for (offset, word) in (reg::vmbmem(vf)..).step_by(4).zip(request.encode()) {
        registers.set(offset, word);
    }
    registers.set(reg::MBVFICR, 1 << vf);
    let event = nic.poll(RESET_NS);
    let answer = registers.read32(reg::vmbmem(vf));
    assert_ne!(answer & (ACCEPTED | REFUSED), 0, "it was answered");
    (event, answer & ACCEPTED != 0)
}

#[test]
fn forged_frames_are_to_be_dropped_and_are_counted() {
    let registers = FakeRegisters::default();
    let mut nic = running(&registers, &[Settings::with_mac(mac(1)), Settings::with_mac(mac(2))]);
    let checks = registers.read32(reg::DTXSWC);
    assert_eq!(checks & 0xffff, 0xffff, "addresses and VLANs of all pools are checked");
    registers.set(reg::WVBR, 0b10);
    registers.set(reg::SSVPC, 3);
    assert_eq!(nic.poll(2 * RESET_NS), Some(Event::Forged(0b10)));
    assert_eq!(nic.forged_frames(), 3);
}

#[test]
fn messages_that_come_while_others_are_looked_at_are_not_lost() {
    let registers = FakeRegisters::default();
    let mut nic = running(&registers, &[Settings::with_mac(mac(1)), Settings::with_mac(mac(2))]);
    registers.set(reg::MBVFICR, 0x0002_0001);
    nic.poll(RESET_NS);
    let cleared: Vec<u32> = registers.writes().into_iter().filter(|w| w.0 == reg::MBVFICR).map(|w| w.1).collect();
    assert_eq!(cleared.last(), Some(&1));
}

#[test]
fn the_buffer_is_taken_from_a_vf_that_keeps_it() {
    let registers = FakeRegisters::default();
    let mut nic = running(&registers, &[Settings::with_mac(mac(1))]);
    registers.set_rule(|offset| match offset {
        // The buffer never becomes the PF's.
        offset if offset == reg::p2vmailbox(0) => Some(0),
        reg::VFLRE => Some(0),
        _ => None,
    });
    assert_eq!(ask(&registers, &mut nic, 0, Request::Reset), (Some(Event::VfReady(0)), true));
    assert!(registers.writes().contains(&(reg::p2vmailbox(0), reg::P2V_RVFU)));
}

#[test]
fn a_vf_that_has_not_shaken_hands_is_refused() {
    let registers = FakeRegisters::default();
    let mut nic = running(&registers, &[Settings { vlans: Vlans::Chosen, ..Settings::with_mac(mac(1)) }]);
    let join = Request::SetVlan { vlan: 3, member: true };
    assert_eq!(ask(&registers, &mut nic, 0, join), (Some(Event::Refused(0)), false));
    assert_eq!(ask(&registers, &mut nic, 0, Request::Reset), (Some(Event::VfReady(0)), true));
    assert_eq!(ask(&registers, &mut nic, 0, join), (None, true));
    assert_eq!((registers.read32(reg::VFRE), registers.read32(reg::VFTE)), (1, 1));
    assert_eq!(ask(&registers, &mut nic, 3, Request::Reset), (None, false), "it has no settings");
    assert_eq!((registers.read32(reg::VFRE), registers.read32(reg::VFTE)), (1, 1));
}

#[test]
fn the_table_of_vlans_can_be_full_and_is_given_back() {
    let registers = FakeRegisters::default();
    let settings = [1, 2].map(|n| Settings { vlans: Vlans::Chosen, ..Settings::with_mac(mac(n)) });
    let mut nic = running(&registers, &settings);
    ask(&registers, &mut nic, 0, Request::Reset);
    ask(&registers, &mut nic, 1, Request::Reset);
    for vlan in 1..=32 {
        assert!(ask(&registers, &mut nic, 0, Request::SetVlan { vlan, member: true }).1);
    }
    assert!(!ask(&registers, &mut nic, 1, Request::SetVlan { vlan: 33, member: true }).1);
    assert!(ask(&registers, &mut nic, 1, Request::SetVlan { vlan: 32, member: true }).1, "it is there already");
    assert!(ask(&registers, &mut nic, 0, Request::Reset).1);
    assert!(ask(&registers, &mut nic, 1, Request::SetVlan { vlan: 33, member: true }).1);
    let vlans: Vec<u32> = (0..32).map(|entry| registers.read32(reg::vlvf(entry))).filter(|&entry| entry != 0).collect();
    assert_eq!(vlans.len(), 2);
    assert!(vlans.iter().all(|entry| entry >> reg::VLVF_POOL_SHIFT & 0xff == 0b10), "{vlans:x?}");
}

#[test]
fn a_phy_that_does_not_answer_is_told_of() {
    for answer in [0, reg::MDIC_READY | reg::MDIC_ERROR] {
        let registers = FakeRegisters::default();
        registers.set_rule(move |offset| (offset == reg::MDIC).then_some(answer));
        let mut nic = Nic::new(&registers, &[], 0);
        assert_eq!(nic.poll(RESET_NS), Some(Event::PhyFailed));
        assert_eq!((nic.poll(u64::MAX), nic.due_ns()), (None, u64::MAX));
    }
}

#[test]
fn settings_that_nobody_can_have_are_refused() {
    let registers = FakeRegisters::default();
    let good = Settings::with_mac(mac(1));
    let mut nic = running(&registers, &[good]);
    for bad in [
        Settings::with_mac(MacAddress([0xff; 6])),
        Settings::with_mac(MacAddress([0; 6])),
        Settings { vlans: Vlans::Port(0), ..good },
        Settings { vlans: Vlans::Port(4095), ..good },
        Settings { max_frame_bytes: 9729, ..good },
    ] {
        assert!(!nic.configure(0, Some(bad), 0), "{bad:?}");
    }
    assert!(!nic.configure(1, Some(good), 0), "another one has the address");
    assert!(!nic.configure(VFS, None, 0));
    assert!(nic.configure(0, None, 0) && nic.configure(1, Some(good), 0));
}

#[test]
fn whatever_registers_and_vfs_say_no_two_vfs_have_one_address_and_no_vf_the_place_of_another() {
    let mut accepted = 0;
    for seed in 1..60 {
        let registers = FakeRegisters::default();
        let settings: [Settings; VFS] = core::array::from_fn(|n| Settings {
            may_change_mac: n % 2 == 0,
            vlans: [Vlans::None, Vlans::Port(9), Vlans::Chosen][n % 3],
            max_frame_bytes: 1522 + 1000 * n as u32,
            limit_bits_per_s: (n == 5).then_some(1_000_000),
            ..Settings::with_mac(mac(n as u8 + 1))
        });
        let mut nic = running(&registers, &settings);
        let mut random = random(seed);
        let mut now_ns = RESET_NS;
        for _ in 0..400 {
            for vf in 0..VFS {
                let request = match random(6) {
                    0 => Request::Reset,
                    1 => Request::SetMac(mac(random(12) as u8)),
                    2 => Request::SetVlan { vlan: random(5000) as u16, member: random(2) == 0 },
                    3 => Request::SetMaxFrame(random(12000) as u32),
                    _ => Request::Unknown(random(1 << 32) as u32),
                };
                for (offset, word) in (reg::vmbmem(vf)..).step_by(4).zip(request.encode()) {
                    registers.set(offset, if random(20) == 0 { random(1 << 32) as u32 } else { word });
                }
            }
            for register in [reg::MBVFICR, reg::ICR, reg::STATUS, reg::WVBR, reg::pvfgotc(5), reg::p2vmailbox(1)] {
                registers.set(register, random(1 << 32) as u32);
            }
            now_ns += random(20_000_000);
            for _ in 0..20 {
                nic.poll(now_ns);
            }
            let mut addresses = Vec::new();
            for (vf, settings) in settings.iter().enumerate() {
                accepted += u32::from(registers.read32(reg::vmbmem(vf)) & ACCEPTED != 0);
                let (low, high) = (registers.read32(reg::ral(vf)), registers.read32(reg::rah(vf)));
                if high & reg::RAH_VALID != 0 {
                    assert_eq!(high >> reg::RAH_POOL_SHIFT & 0xff, 1 << vf);
                    assert!(!addresses.contains(&(low, high as u16)), "two have one address");
                    addresses.push((low, high as u16));
                }
                let limit = registers.read32(reg::vmolr(vf)) & 0x3fff;
                assert!(limit <= settings.max_frame_bytes);
            }
            let joined = (0..32).map(|entry| registers.read32(reg::vlvf(entry)));
            let vfs =
                joined.filter(|entry| entry & 0xfff != 9).fold(0, |vfs, entry| vfs | entry >> reg::VLVF_POOL_SHIFT);
            assert_eq!(vfs & 0b1101_1011, 0, "only VFs 2 and 5 choose VLANs");
        }
    }
    assert!(accepted > 1000, "the test must see some");
}

#[test]
fn a_debt_follows_an_address_to_another_function() {
    let registers = FakeRegisters::default();
    let limited = Settings { limit_bits_per_s: Some(8_000_000), ..Settings::with_mac(mac(1)) };
    let mut nic = running(&registers, &[limited]);
    assert_eq!(ask(&registers, &mut nic, 0, Request::Reset), (Some(Event::VfReady(0)), true));
    // A second's worth; then the function is given back before that was noticed, and another one is taken.
    registers.set(reg::pvfgotc(0), 1_000_000);
    assert!(nic.configure(0, None, RESET_NS));
    assert!(nic.configure(3, Some(limited), RESET_NS));
    let send = |nic: &mut Nic<_>, now_ns| {
        nic.read_counters(now_ns);
        registers.read32(reg::VFTE)
    };
    assert_eq!(ask(&registers, &mut nic, 3, Request::Reset), (Some(Event::VfReady(3)), true));
    assert_eq!(send(&mut nic, RESET_NS + 900_000_000), 0, "it pays for what it has sent");
    assert_eq!(send(&mut nic, RESET_NS + 1_000_000_000), 1 << 3);
    // Nor is a time without any limit to pay by of use.
    registers.set(reg::pvfgotc(3), 1_000_000);
    assert!(nic.set_limit(3, Some(0), 2_000_000_000));
    assert!(nic.set_limit(3, Some(8_000_000), 5_000_000_000));
    assert_eq!(send(&mut nic, 5_900_000_000), 0);
    assert_eq!(send(&mut nic, 6_000_000_000), 1 << 3);
}

/// What a VF may send by the rate limiters of its two queues, as Mb/s of a link of this speed; 0: they are off.
fn limited_to(registers: &FakeRegisters, vf: usize, link: u64) -> [u64; 2] {
    let (mut selected, mut words) = (0, [None; 16]);
    for (offset, word) in registers.writes() {
        match offset {
            reg::RTTDQSEL => selected = word as usize,
            reg::RTTBCNRC => words[selected] = Some(word),
            _ => {}
        }
    }
    [vf, vf + VFS].map(|queue| match words[queue].expect("it was told") {
        0 => 0,
        word => {
            assert_ne!(word & reg::RTTBCNRC_ON, 0);
            (link << reg::RTTBCNRC_POINT).div_ceil(u64::from(word & reg::RTTBCNRC_FACTOR))
        }
    })
}

fn megabits(limit: u64) -> Option<u64> {
    Some(limit * 1_000_000)
}

#[test]
fn a_device_with_rate_limiters_keeps_the_limits_and_the_meter_closes_who_gets_around_them() {
    let registers = FakeRegisters::default();
    registers.set_rule(well_behaved);
    let limited = Settings { limit_bits_per_s: megabits(100), ..Settings::with_mac(mac(1)) };
    let mut nic = start(&registers, &[limited, Settings::with_mac(mac(2))]);
    assert!(nic.has_limiters());
    assert_eq!(registers.read32(reg::RTTBCNRM), reg::RTTBCNRM_LONG);
    let limits = |vf| limited_to(&registers, vf, 1_000);
    assert_eq!([limits(0), limits(1), limits(2)], [[100; 2], [0; 2], [0; 2]]);
    assert!(nic.set_limit(0, megabits(50), RESET_NS) && nic.set_limit(1, megabits(1_000), RESET_NS));
    assert_eq!([limits(0), limits(1)], [[50; 2], [0; 2]], "the link carries no more");
    assert!(nic.configure(2, Some(Settings { limit_bits_per_s: megabits(7), ..Settings::with_mac(mac(3)) }), RESET_NS));
    assert!(nic.configure(0, None, RESET_NS));
    assert_eq!([limits(0), limits(2)], [[0; 2], [7; 2]], "nothing of one holder is the next one's");

    // Of who sends at its limit, a look now and then sees nothing to close; nor do bursts that the device let pass.
    assert_eq!(ask(&registers, &mut nic, 2, Request::Reset), (Some(Event::VfReady(2)), true));
    let (mut now_ns, mut octets) = (RESET_NS, 0);
    for _ in 0..100 {
        now_ns += 10_000_000;
        octets += 7_000_000 / 100 / 8;
        registers.set(reg::pvfgotc(2), octets);
        nic.read_counters(now_ns);
        assert_eq!(registers.read32(reg::VFTE), 1 << 2);
    }
    // A way around them is found: twice the limit, as by both queues at once.
    octets += 2 * 7_000_000 / 10 / 8;
    registers.set(reg::pvfgotc(2), octets);
    nic.read_counters(now_ns + 100_000_000);
    assert_eq!(registers.read32(reg::VFTE), 0);
    nic.read_counters(now_ns + 190_000_000);
    assert_eq!(registers.read32(reg::VFTE), 0, "a tenth of a second is to be made up for");
    nic.read_counters(now_ns + 200_000_000);
    assert_eq!(registers.read32(reg::VFTE), 1 << 2);
    assert!(nic.set_limit(2, Some(0), now_ns + 200_000_000));
    nic.read_counters(now_ns + 200_000_000);
    assert_eq!(registers.read32(reg::VFTE), 0, "nothing at all is closed, as no factor says that");
}

#[test]
fn rate_limiters_follow_the_links_speed_and_are_set_anew_after_a_reset() {
    let registers = FakeRegisters::default();
    registers.set_rule(well_behaved);
    let limited = |limit, last| Settings { limit_bits_per_s: megabits(limit), ..Settings::with_mac(mac(last)) };
    let mut nic = start(&registers, &[limited(50, 1), limited(200, 2)]);
    let limits = |link| [0, 1].map(|vf| limited_to(&registers, vf, link));
    assert_eq!(limits(1_000), [[50; 2], [200; 2]]);
    // The link goes, and comes back slower.
    registers.set(reg::STATUS, 0);
    assert_eq!(nic.poll(2 * RESET_NS), Some(Event::LinkChanged(Link::Down)));
    assert_eq!(limits(1_000), [[50; 2], [200; 2]], "a link that is down has no speed");
    registers.set(reg::STATUS, reg::STATUS_LU | HUNDRED_MEGABIT);
    assert_eq!(nic.poll(3 * RESET_NS), Some(Event::LinkChanged(Link::Up)));
    assert_eq!(limits(100), [[50; 2], [0; 2]], "the slower link carries no 200");
    // And faster without having been seen to go.
    registers.set(reg::STATUS, reg::STATUS_LU | GIGABIT);
    assert_eq!(nic.poll(4 * RESET_NS), None);
    assert_eq!(limits(1_000), [[50; 2], [200; 2]]);
    let before = registers.writes().len();
    nic.reset(4 * RESET_NS);
    assert!(nic.set_limit(0, megabits(60), 4 * RESET_NS));
    assert!(!registers.writes()[before..].iter().any(|(offset, _)| *offset == reg::RTTBCNRC), "it is left alone");
    assert_eq!(nic.poll(5 * RESET_NS), Some(Event::Ready));
    let after = &registers.writes()[before..];
    assert_eq!(after.iter().filter(|(offset, _)| *offset == reg::RTTBCNRC).count(), 16, "all queues, once");
    assert_eq!(limits(1_000), [[60; 2], [200; 2]]);
}

/// As the emulated device: what is written there is lost, or reads as something else.
#[test]
fn of_a_device_without_rate_limiters_the_meter_keeps_the_limits() {
    for reads in [0, u32::MAX, reg::RTTBCNRM_LONG] {
        let registers = FakeRegisters::default();
        registers.set_rule(move |offset| match offset {
            reg::RTTBCNRM => Some(reads),
            _ => well_behaved(offset),
        });
        let limited = Settings { limit_bits_per_s: Some(8_000_000), ..Settings::with_mac(mac(1)) };
        let mut nic = start(&registers, &[limited]);
        assert!(!nic.has_limiters());
        assert!(nic.set_limit(0, megabits(8), RESET_NS));
        assert!(registers.writes().iter().all(|(offset, _)| *offset != reg::RTTBCNRC));
        assert_eq!(ask(&registers, &mut nic, 0, Request::Reset), (Some(Event::VfReady(0)), true));
        // 20 ms' worth, of which the burst is free.
        registers.set(reg::pvfgotc(0), 20_000);
        for (at_ms, sends) in [(10, 0), (26, 0), (27, 1)] {
            nic.read_counters(RESET_NS + at_ms * 1_000_000);
            assert_eq!(registers.read32(reg::VFTE), sends, "at {at_ms} ms");
        }
    }
}

/// What the device counts for a time is added up: over wraps, over a reset of the device, and what reading clears.
#[test]
fn counts_go_on_over_wraps_and_resets_and_what_is_forged_is_counted_of_those_who_have() {
    let registers = FakeRegisters::default();
    let mut nic = running(&registers, &[Settings::with_mac(mac(1)), Settings::with_mac(mac(2))]);
    let set = |frames, octets| {
        registers.set(reg::pvfgptc(0), frames);
        registers.set(reg::pvfgotc(0), octets);
    };
    set(1, u32::MAX - 9);
    nic.count(RESET_NS);
    set(2, 90);
    nic.count(RESET_NS);
    nic.reset(RESET_NS);
    set(3, 50);
    nic.count(RESET_NS);
    assert_eq!(nic.counters(0).unwrap().sent_frames, 2, "a device that is being reset is left alone");
    assert_eq!(nic.poll(2 * RESET_NS), Some(Event::Ready));
    nic.count(2 * RESET_NS);
    let counters = nic.counters(0).unwrap();
    assert_eq!((counters.sent_frames, counters.sent_octets), (5, u64::from(u32::MAX) - 9 + 100 + 50));

    registers.set(reg::WVBR, 0b10);
    registers.set(reg::SSVPC, 4);
    assert_eq!(nic.poll(2 * RESET_NS), Some(Event::LinkChanged(Link::Up)));
    registers.set(reg::WVBR, 0);
    registers.set(reg::SSVPC, 0);
    // Of its two queues; these registers are not cleared by reading.
    registers.set(reg::rqdpc(1), 0xf000 | 5);
    registers.set(reg::rqdpc(9), 2);
    nic.count(2 * RESET_NS);
    let of = |vf| nic.counters(vf).map(|counters| (counters.forged_frames, counters.dropped_frames));
    assert_eq!([of(0), of(1)], [Some((0, 0)), Some((4, 7))]);
}
