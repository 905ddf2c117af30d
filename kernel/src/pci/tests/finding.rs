//! Enumeration, capabilities, memory.

use super::fake::{Fake, Space};
use super::*;
use crate::pci::bar::Refusal;
use crate::pci::capability::{Capability, Offsets, extended, standard};
use crate::pci::express::DeviceType;
use crate::pci::function::{Above, Kind};
use crate::pci::msix::Place;
use crate::pci::registers::*;
use crate::pci::{ConfigAccess, MAX_FUNCTIONS, control, silence};
use crate::types::Hpa;
use alloc::vec::Vec;

#[test]
fn functions_of_the_emulator_are_found() {
    let mut fake = machine();
    let functions = found(&mut fake);
    let at: Vec<Bdf> = functions.iter().map(|function| function.at).collect();
    assert_eq!(at, [Bdf::new(0, 0, 0), PORT_OF_IGB, PORT_OF_NVME, IGB, NVME]);
    let igb = functions.get(IGB).unwrap();
    assert_eq!((igb.vendor, igb.device, igb.class), (0x8086, 0x10c9, 0x02_0000));
    assert_eq!((igb.kind, igb.above), (Kind::Endpoint, Above::Bridge(PORT_OF_IGB)));
    let express = igb.express.unwrap();
    assert_eq!((express.device_type, express.flr), (DeviceType::Endpoint, true));
    let msix = igb.msix.unwrap();
    let table = Place { bar: 3, offset: 0, bytes: 160 };
    assert_eq!((msix.entries, msix.table, msix.pending.offset), (10, table, 0x2000));
    let sriov = igb.sriov.unwrap();
    assert_eq!((sriov.max, sriov.first_offset, sriov.stride, sriov.device), (8, 0x80, 2, 0x10ca));
    let sizes = sriov.bars.map(|bar| bar.map(|bar| (bar.region.bytes(), bar.wide, bar.prefetchable)));
    let each = Some((0x4000, true, true));
    assert_eq!(sizes, [each, None, None, each, None, None]);
    let nvme = functions.get(NVME).unwrap();
    assert_eq!((nvme.vendor, nvme.device, nvme.class), (0x1b36, 0x0010, 0x01_0802));
    assert_eq!((nvme.sriov.unwrap().max, nvme.sriov.unwrap().first_offset), (2, 1));
    let port = functions.get(PORT_OF_IGB).unwrap();
    let bridge = port.bridge().unwrap();
    assert_eq!((bridge.secondary, bridge.subordinate, port.above), (1, 1, Above::Root));
    assert_eq!(bridge.windows.memory, Region { start: 0xfe20_0000, end: 0xfe40_0000 });
    assert_eq!(bridge.windows.prefetchable, Region { start: 0xfea0_0000, end: 0xfec0_0000 });
    assert_eq!(port.express.unwrap().device_type, DeviceType::RootPort);
    assert_eq!(alloc::format!("{} {:?}", IGB, Bdf::from_id(0x1ff)), "01:00.0 01:1f.7");
}

#[test]
fn memory_is_told_with_the_pages_that_are_withheld() {
    let functions = found(&mut machine());
    let memory: Vec<_> = functions.get(IGB).unwrap().memory().collect();
    let told: Vec<_> = memory.iter().map(|memory| (memory.bar, memory.region.start, memory.region.bytes())).collect();
    // Register 2 is for I/O ports.
    assert_eq!(told, [(0, 0xfe20_0000, 0x2_0000), (1, 0xfe22_0000, 0x2_0000), (3, 0xfe24_0000, 0x4000)]);
    let gives = |at| memory.iter().any(|memory| memory.gives(Hpa::new(at)));
    assert!(gives(0xfe20_0000) && gives(0xfe23_ffff) && gives(0xfe24_1000) && gives(0xfe24_3000));
    assert!(!gives(0xfe24_0000) && !gives(0xfe24_0fff), "the table");
    assert!(!gives(0xfe24_2000), "the pending bits");
    assert!(!gives(0xfe24_4000) && !gives(0xfe1f_ffff), "not the function's");
}

#[test]
fn measuring_leaves_registers_as_they_were_and_happens_with_decoding_off() {
    let mut fake = machine();
    let before = fake.spaces.clone();
    found(&mut fake);
    for (at, space) in &before {
        for offset in (BAR0..CAPABILITIES).step_by(4) {
            assert_eq!(fake.word(*at, offset), space.word(offset), "{at} {offset:#x}");
        }
        assert_eq!(fake.word(*at, COMMAND) & u32::from(MEMORY_DECODE), space.word(COMMAND) & u32::from(MEMORY_DECODE));
    }
    let mut decodes = alloc::collections::BTreeMap::new();
    for &(at, offset, _, new) in &fake.writes {
        if offset == COMMAND {
            decodes.insert(at, new & u32::from(MEMORY_DECODE) != 0);
        }
        if (BAR0..BUS_NUMBERS).contains(&offset) {
            assert!(!decodes[&at], "{at} {offset:#x}");
        }
    }
}

#[test]
fn every_function_is_quiet_afterwards_whether_or_not_the_table_has_room() {
    let mut fake = Fake::default();
    let noisy = Space::of_dump(include_str!("igb.txt"));
    for number in 0..MAX_FUNCTIONS as u16 + 9 {
        let mut space = noisy.clone();
        space.words[1] |= 7;
        // More functions than one; MSI, MSI-X and virtual functions on.
        space.words[3] |= 0x80_0000;
        space.words[0x50 / 4] |= 1 << 16;
        space.words[0x70 / 4] |= 1 << 31;
        space.words[0x168 / 4] |= 9;
        fake.put(Bdf::from_id(number), space);
    }
    let functions = found(&mut fake);
    assert_eq!((functions.iter().count(), functions.left_out()), (MAX_FUNCTIONS, 9));
    for (at, space) in &fake.spaces {
        assert_eq!(space.word(COMMAND) & 0x405, 0x400, "{at}");
        assert_eq!((space.word(0x50) >> 16 & 1, space.word(0x70) >> 30, space.word(0x168) & 9), (0, 0, 0), "{at}");
    }
    // Nobody knows where the memory of those is that were left out. And virtual functions that were on are not offered.
    assert!(functions.iter().all(|function| function.memory().next().is_none() && function.sriov.is_none()));
    let mut fake = machine();
    fake.set(IGB, COMMAND, 7);
    assert_eq!(silence(&mut fake, 0..=255), 5);
    assert_eq!(fake.word(IGB, COMMAND) & 7, 2);
}

#[test]
fn several_functions_are_looked_for_only_where_the_device_says_so() {
    let mut fake = machine();
    fake.put(Bdf::new(1, 0, 3), Space::of_words(&[(0, 0x1234_5678)]));
    assert!(found(&mut fake).get(Bdf::new(1, 0, 3)).is_none());
    fake.set(IGB, 0xc, 0x80_0000);
    assert!(found(&mut fake).get(Bdf::new(1, 0, 3)).is_some());
}

#[test]
fn access_control_is_on_and_translation_by_devices_off() {
    let mut fake = machine();
    fake.set(PORT_OF_IGB, 0x14c, 0x5f);
    // ATS, page requests and PASID behind the last capability of the network adapter.
    let igb = fake.spaces.get_mut(&IGB).unwrap();
    for (offset, word, writable) in
        [(0x160, 0x2001_0010, 0), (0x200, 0x2101_000f, 0), (0x204, 0x8000_0000, 0x8000_0000), (0x210, 0x2201_0013, 0)]
    {
        (igb.words[offset / 4], igb.writable[offset / 4]) = (word, writable);
    }
    for (offset, word) in [(0x214, 1), (0x220, 0x001b), (0x224, 0x1_0000)] {
        (igb.words[offset / 4], igb.writable[offset / 4]) = (word, word);
    }
    let functions = found(&mut fake);
    assert_eq!(control::access_control(&fake, functions.get(PORT_OF_IGB).unwrap()), 0x1f);
    assert_eq!(control::access_control(&fake, functions.get(IGB).unwrap()), 0);
    assert_eq!([0x204, 0x214, 0x224].map(|offset| fake.word(IGB, offset)), [0; 3]);
}

#[test]
fn a_port_passes_no_function_numbers_above_7() {
    let mut fake = machine();
    fake.set(PORT_OF_IGB, 0x54 + 0x28, 0x21);
    found(&mut fake);
    assert_eq!(fake.word(PORT_OF_IGB, 0x54 + 0x28), 1);
}

const ONE: Bdf = Bdf::new(0, 3, 0);

fn one(words: &[(u16, u32)]) -> Fake {
    let mut fake = Fake::default();
    fake.put(ONE, Space::of_words(words));
    fake
}

#[test]
fn lists_of_capabilities_end() {
    let ids = |fake: &Fake| standard(fake, ONE).map(|Capability { id, at }| (id, at)).collect::<Vec<_>>();
    let list = 0x10_0000;
    assert_eq!(ids(&one(&[(4, 0), (0x34, 0x40), (0x40, 5)])), [], "there is none, says Status");
    assert_eq!(ids(&one(&[(4, list), (0x34, 0x43), (0x40, 0x4705), (0x44, 0x0010)])), [(5, 0x40), (0x10, 0x44)]);
    assert_eq!(ids(&one(&[(4, list), (0x34, 0x40), (0x40, 0x4005)])), [(5, 0x40)], "itself");
    assert_eq!(ids(&one(&[(4, list), (0x34, 0x40), (0x40, 0x5005), (0x50, 0x4010)])).len(), 2, "a loop");
    assert_eq!(ids(&one(&[(4, list), (0x34, 0x3c), (0x3c, 5)])), [], "within the header");
    let ids = |fake: &Fake| extended(fake, ONE).map(|Capability { id, at }| (id, at)).collect::<Vec<_>>();
    assert_eq!(ids(&one(&[(0x100, 0xffc1_0010), (0xffc, 0x1001_000d)])), [(0x10, 0x100), (0xd, 0xffc)], "a loop");
    assert_eq!(ids(&one(&[(0x100, 0x0ff1_0010)])), [(0x10, 0x100)], "within the standard space");
    assert_eq!(ids(&one(&[(0x100, u32::MAX)])), []);
    let every: Vec<(u16, u32)> = (0x40..0x100).step_by(4).map(|at| (at as u16, (at + 4) << 8 & 0xff00 | 9)).collect();
    let mut fake = one(&every);
    fake.set(ONE, 4, list);
    fake.set(ONE, 0x34, 0x40);
    assert_eq!(standard(&fake, ONE).count(), 48);
}

#[test]
fn a_capability_that_does_not_fit_does_not_count() {
    let list = (4, 0x10_0000);
    for (at, fits) in [(0xf4, true), (0xf8, false), (0xfc, false)] {
        let fake = one(&[list, (0x34, u32::from(at)), (at, 0x11)]);
        assert_eq!(Offsets::find(&fake, ONE).msix != 0, fits, "{at:#x}");
    }
    for (at, fits) in [(0xfc0, true), (0xfc4, false)] {
        let express = (0x40, 0x2_0010);
        let fake = one(&[list, (0x34, 0x40), express, (0x100, u32::from(at) << 20 | 1), (at, 0x1_0010)]);
        assert_eq!(Offsets::find(&fake, ONE).sriov != 0, fits, "{at:#x}");
    }
    // Without PCI Express there is no extended space.
    let fake = one(&[list, (0x34, 0x40), (0x40, 0x0005), (0x100, 0x1_0010)]);
    assert_eq!(Offsets::find(&fake, ONE).sriov, 0);
}

/// A function with these registers: value, and bits that can be written.
fn with_bars(bars: &[(u32, u32)]) -> Fake {
    let mut fake = one(&[(0, 0x1111_2222), (8, 0xff00_0000)]);
    let space = fake.spaces.get_mut(&ONE).unwrap();
    for (index, &(word, writable)) in bars.iter().enumerate() {
        (space.words[4 + index], space.writable[4 + index]) = (word, writable);
    }
    fake
}

#[test]
fn memory_that_makes_no_sense_is_refused() {
    let first = |bars: &[(u32, u32)]| {
        let functions = found(&mut with_bars(bars));
        functions.get(ONE).unwrap().bars[0].map(|bar| bar.refused)
    };
    let good = (0xe000_0000, 0xffff_0000);
    assert_eq!(first(&[good]), Some(None));
    assert_eq!(first(&[(0xc001, 0xffff_ff00)]), None, "I/O ports");
    assert_eq!(first(&[(0, 0)]), None);
    assert_eq!(first(&[(0xe000_0000, 0)]), Some(Some(Refusal::Size)), "a fixed address");
    assert_eq!(first(&[(0xe000_0000, 0xfff0_f000)]), Some(Some(Refusal::Size)));
    assert_eq!(first(&[(0xe000_0002, 0xffff_0000)]), Some(Some(Refusal::Type)), "below 1 MiB");
    assert_eq!(first(&[(0xe000_1000, 0xffff_0000)]), Some(Some(Refusal::Alignment)));
    assert_eq!(first(&[(0, 0xffff_0000)]), Some(Some(Refusal::Unassigned)));
    assert_eq!(first(&[(4, 0xffff_0000), (1, u32::MAX)]), Some(None), "64 bits");
    assert_eq!(first(&[(4, 0xffff_0000), (1, 0xff)]), Some(Some(Refusal::Size)), "some of 64 bits");
    assert_eq!(first(&[(4, 0xffff_0000), (0x8000_0000, u32::MAX)]), Some(Some(Refusal::Size)), "no address");
    assert_eq!(first(&[(4, 0), (0, 0x8000_0000)]), Some(Some(Refusal::Size)), "larger than all");
    assert_eq!(first(&[(0x700_0000, 0xffff_0000)]), Some(Some(Refusal::Platform)), "RAM");
    assert_eq!(first(&[(0xfee0_0000, 0xffff_0000)]), Some(Some(Refusal::Platform)), "local APICs");
    assert_eq!(first(&[(0xfec0_0000, 0xffff_0000)]), Some(Some(Refusal::Platform)), "no table names it");
    assert_eq!(first(&[good, good]), Some(Some(Refusal::Shared)), "twice the same");
    assert_eq!(first(&[(0xe000_0100, 0xffff_ff00), (0xe000_0200, 0xffff_ff00)]), Some(None), "its own page");
    let functions = found(&mut with_bars(&[(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0xe000_0004, 0xffff_0000)]));
    assert_eq!(functions.get(ONE).unwrap().bars[5].unwrap().refused, Some(Refusal::Type), "the second half is missing");
}

#[test]
fn memory_beside_other_functions_is_refused() {
    let second = Bdf::new(0, 4, 0);
    let refused = |mine: (u32, u32), theirs: (u32, u32)| {
        let mut fake = with_bars(&[mine]);
        fake.put(second, with_bars(&[theirs]).spaces[&ONE].clone());
        let functions = found(&mut fake);
        [ONE, second].map(|at| functions.get(at).unwrap().bars[0].unwrap().refused)
    };
    let shared = Some(Refusal::Shared);
    assert_eq!(refused((0xe000_0000, 0xffff_0000), (0xe001_0000, 0xffff_0000)), [None; 2]);
    assert_eq!(refused((0xe000_0000, 0xffff_0000), (0xe000_f000, 0xffff_f000)), [shared; 2]);
    assert_eq!(refused((0xe000_0000, 0xffff_ff00), (0xe000_0f00, 0xffff_ff00)), [shared; 2], "one page");
    // What is refused for another reason is there nevertheless.
    assert_eq!(refused((0xe000_0000, 0xffff_0000), (0xe000_1000, 0xfffe_0000)), [shared, Some(Refusal::Alignment)]);
    assert_eq!(refused((0xe000_0000, 0xffff_0000), (0, 0xffff_0000)), [None, Some(Refusal::Unassigned)]);
}

#[test]
fn memory_outside_the_window_above_or_in_one_elsewhere_is_refused() {
    let refused = |at: Bdf, number: usize, address: u32| {
        let mut fake = machine();
        fake.set(at, BAR0 + 4 * number as u16, address);
        found(&mut fake).get(at).unwrap().bars[number].unwrap().refused
    };
    assert_eq!(refused(IGB, 0, 0xfe20_0000), None);
    assert_eq!(refused(IGB, 0, 0xe000_0000), Some(Refusal::Window));
    assert_eq!(refused(PORT_OF_IGB, 0, 0xfe10_0000), Some(Refusal::Shared), "the window of the other port");
    // Two bridges with one bus.
    let mut fake = machine();
    fake.set(PORT_OF_NVME, BUS_NUMBERS, 0x1_0100);
    let functions = found(&mut fake);
    assert_eq!(functions.get(IGB).unwrap().above, Above::Unclear);
    assert!(functions.get(IGB).unwrap().memory().next().is_none());
    // A bus within a bridge's range, but right below none.
    fake.set(PORT_OF_NVME, BUS_NUMBERS, 0x5_0300);
    fake.put(Bdf::new(4, 0, 0), with_bars(&[(0xfe00_0000, 0xffff_0000)]).spaces[&ONE].clone());
    assert_eq!(found(&mut fake).get(Bdf::new(4, 0, 0)).unwrap().above, Above::Unclear);
}

#[test]
fn without_the_place_of_the_msix_table_nothing_is_given() {
    for (table, pending) in [(2, 0x2003), (6, 0x2003), (0x1_0003, 0x2003), (3, 7), (0x3f68 | 3, 0x2003), (3, 3)] {
        let mut fake = machine();
        fake.set(IGB, 0x74, table);
        fake.set(IGB, 0x78, pending);
        let functions = found(&mut fake);
        let igb = functions.get(IGB).unwrap();
        assert!(igb.memory().next().is_none(), "{table:#x} {pending:#x}");
        assert_eq!(igb.bars[0].unwrap().refused, Some(Refusal::MsixTable));
    }
}

#[test]
fn a_function_with_fixed_addresses_gives_nothing() {
    let mut fake = machine();
    let head = fake.word(IGB, 0x40);
    fake.set(IGB, 0x40, head & 0xff | 0xe000 | head & 0xffff_0000);
    fake.set(IGB, 0xe0, 0x5014);
    let functions = found(&mut fake);
    assert_eq!(functions.get(IGB).unwrap().bars[0].unwrap().refused, Some(Refusal::EnhancedAllocation));
}

#[test]
fn more_ranges_of_the_platform_than_fit_refuse_everything() {
    let mut functions = alloc::boxed::Box::new(Functions::new());
    functions.enumerate(&mut machine(), 0..=255, PLATFORM.into_iter().cycle().take(500));
    assert!(functions.get(IGB).is_some());
    assert!(functions.iter().all(|function| function.memory().next().is_none()));
}

#[test]
fn buses_outside_the_range_are_left_alone() {
    let mut fake = machine();
    let mut functions = alloc::boxed::Box::new(Functions::new());
    functions.enumerate(&mut fake, 1..=1, PLATFORM);
    assert_eq!(functions.iter().count(), 1);
    assert!(fake.writes.iter().all(|(at, ..)| at.bus() == 1));
    assert_eq!(fake.read_half(IGB, ID), 0x8086);
}
