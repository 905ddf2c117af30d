//! Virtual functions: planned, enabled, started, disabled.

use super::fake::Space;
use super::*;
use crate::pci::ConfigAccess;
use crate::pci::function::Kind;
use crate::pci::registers::*;
use crate::pci::vfs::{self, DISABLE_US, ENABLE_US, PlanError, plan};
use crate::types::Hpa;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Of the SR-IOV capability of the network adapter: control, first base address register.
const IGB_CONTROL: u16 = 0x168;
const IGB_VF_BAR0: u16 = 0x184;
/// VF Enable and VF MSE.
const ON: u32 = 9;

/// The table, and so many virtual functions, enabled and started.
fn enabled(fake: &mut Fake, physical: Bdf, count: u16) -> (Box<Functions>, Vec<Bdf>) {
    let mut functions = found(fake);
    let plan = plan(&functions, physical, count).unwrap();
    assert_eq!(vfs::enable(&mut functions, fake, &plan), Some(ENABLE_US));
    let started = (0..count).map(|index| vfs::start(&mut functions, fake, physical, index).unwrap()).collect();
    (functions, started)
}

#[test]
fn virtual_functions_get_memory_in_the_window_above() {
    let mut fake = machine();
    let (functions, started) = enabled(&mut fake, IGB, 8);
    assert_eq!(started[0], Bdf::from_id(0x180));
    assert_eq!(started[7], Bdf::from_id(0x18e));
    assert_eq!(fake.word(IGB, IGB_CONTROL) & 0x1f, ON, "no ARI, no migration");
    assert_eq!(fake.word(IGB, 0x170) & 0xffff, 8);
    assert_eq!(fake.word(IGB, 0x180), 1, "pages of 4 KiB");
    // Behind the last of the physical function's own, 16 KiB each, first one kind of all, then the other.
    assert_eq!(fake.word(IGB, IGB_VF_BAR0), 0xfe24_4000 | 0xc);
    assert_eq!(fake.word(IGB, IGB_VF_BAR0 + 12), 0xfe26_4000 | 0xc);
    for (index, &at) in started.iter().enumerate() {
        let function = functions.get(at).unwrap();
        assert_eq!((function.vendor, function.device, function.kind), (0x8086, 0x10ca, Kind::Virtual(IGB)));
        let memory: Vec<_> = function.memory().collect();
        let starts: Vec<u64> = memory.iter().map(|memory| memory.region.start).collect();
        assert_eq!(starts, [0xfe24_4000 + 0x4000 * index as u64, 0xfe26_4000 + 0x4000 * index as u64]);
        // The MSI-X table is in the second's first page, the pending bits in its third.
        let gives = |page: u64| memory[1].gives(Hpa::new(starts[1] + page * 4096));
        assert_eq!([0, 1, 2, 3, 4].map(gives), [false, true, false, true, false]);
        assert_eq!(fake.word(at, COMMAND) & 0x7, u32::from(MEMORY_DECODE));
    }
    // The window had room.
    assert_eq!(fake.word(PORT_OF_IGB, MEMORY_WINDOW), 0xfe30_fe20);
}

#[test]
fn one_behind_the_other_and_disabled_again() {
    let mut fake = machine();
    let (mut functions, started) = enabled(&mut fake, NVME, 2);
    assert_eq!(started, [Bdf::new(2, 0, 1), Bdf::new(2, 0, 2)]);
    assert_eq!(functions.get(started[1]).unwrap().memory().next().unwrap().region.start, 0xfe00_8000);
    assert_eq!(vfs::start(&mut functions, &mut fake, NVME, 1), None, "it was started before");
    assert_eq!(vfs::start(&mut functions, &mut fake, NVME, 2), None, "there is none");
    assert_eq!(plan(&functions, NVME, 1).unwrap_err(), PlanError::Enabled);
    assert_eq!(vfs::disable(&mut functions, &mut fake, NVME), Some(DISABLE_US));
    assert_eq!(fake.word(NVME, 0x128) & 0xffff, 0);
    assert!(started.iter().all(|&at| functions.get(at).is_none() && !fake.spaces.contains_key(&at)));
    assert_eq!(vfs::disable(&mut functions, &mut fake, NVME), None);
    assert_eq!(vfs::start(&mut functions, &mut fake, NVME, 0), None);
    plan(&functions, NVME, 2).unwrap();
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let refused = |change: &dyn Fn(&mut Fake), physical, count| {
        let mut fake = machine();
        change(&mut fake);
        let functions = found(&mut fake);
        plan(&functions, physical, count).unwrap_err()
    };
    let same = |_: &mut Fake| {};
    assert_eq!(refused(&same, PORT_OF_IGB, 1), PlanError::NoSriov);
    assert_eq!(refused(&same, Bdf::new(9, 0, 0), 1), PlanError::NoSriov);
    assert_eq!(refused(&same, IGB, 0), PlanError::Count);
    assert_eq!(refused(&same, IGB, 9), PlanError::Count);
    // Fewer at first than in all.
    assert_eq!(refused(&|fake| fake.set(IGB, 0x16c, 0x0008_0004), IGB, 5), PlanError::Count);
    // Pages of 4 KiB are not among those that it does; or there are none at all.
    assert_eq!(refused(&|fake| fake.set(IGB, 0x17c, 0x552), IGB, 1), PlanError::NoSriov);
    assert_eq!(refused(&|fake| fake.set(IGB, 0x16c, 0), IGB, 1), PlanError::NoSriov);
    // Offset and stride: on itself, on each other, on a bus that is not below the port, behind the last bus.
    for offset_and_stride in [0x2_0000, 0x0_0080, 0x2_0100, 0x2_ff00, 0x40_00f0, 0xffff_fff0] {
        let error = refused(&|fake| fake.set(IGB, 0x174, offset_and_stride), IGB, 8);
        assert_eq!(error, PlanError::RoutingIds, "{offset_and_stride:#x}");
    }
    // Somebody is there.
    let neighbour = |fake: &mut Fake| fake.put(Bdf::new(1, 16, 0), Space::of_words(&[(0, 0x1234_5678)]));
    assert_eq!(refused(&neighbour, IGB, 1), PlanError::RoutingIds);
    // Memory of less than a page; of a size that is none; of a reserved type.
    for (low, writable) in [(0xc, 0xffff_ff00), (0xc, 0xffff_5000), (2, 0xffff_0000)] {
        let change = |fake: &mut Fake| {
            let igb = fake.spaces.get_mut(&IGB).unwrap();
            let register = usize::from(IGB_VF_BAR0 / 4);
            (igb.words[register], igb.writable[register]) = (low, writable);
        };
        assert_eq!(refused(&change, IGB, 1), PlanError::Memory, "{writable:#x}");
    }
    assert_eq!(refused(&|fake| fake.set(PORT_OF_NVME, BUS_NUMBERS, 0x1_0100), IGB, 1), PlanError::Path);
}

/// The virtual functions' memory becomes so large that the port's window cannot hold it.
fn with_large_memory(fake: &mut Fake, physical: Bdf, register: u16, bits: u32) {
    let space = fake.spaces.get_mut(&physical).unwrap();
    space.writable[usize::from(register / 4)] = u32::MAX << bits;
}

#[test]
fn the_window_grows_into_what_nobody_claims() {
    let mut fake = machine();
    // Between the window of the network adapter's port and the next thing: the ports' own registers, at 0xfe400000.
    fake.set(PORT_OF_IGB, BAR0, 0xfe70_0000);
    fake.set(PORT_OF_NVME, BAR0, 0xfe70_1000);
    with_large_memory(&mut fake, IGB, IGB_VF_BAR0, 20);
    let (functions, _) = enabled(&mut fake, IGB, 3);
    assert_eq!(fake.word(IGB, IGB_VF_BAR0) & !0xf, 0xfe30_0000);
    assert_eq!(fake.word(PORT_OF_IGB, MEMORY_WINDOW), 0xfe60_fe20, "3 MiB and 48 KiB from 0xfe300000 on");
    let window = functions.get(PORT_OF_IGB).unwrap().bridge().unwrap().windows.memory;
    assert_eq!(window, Region { start: 0xfe20_0000, end: 0xfe70_0000 });
    // Where the ports' registers are at first, they are in the way; below is the window of the other port.
    let mut fake = machine();
    with_large_memory(&mut fake, IGB, IGB_VF_BAR0, 20);
    assert_eq!(plan(&found(&mut fake), IGB, 3).unwrap_err(), PlanError::NoRoom);
}

#[test]
fn the_window_grows_downwards_where_it_cannot_upwards() {
    let mut fake = machine();
    fake.set(PORT_OF_NVME, MEMORY_WINDOW, 0xfd20_fd10);
    fake.set(NVME, BAR0, 0xfd10_0004);
    with_large_memory(&mut fake, IGB, IGB_VF_BAR0, 20);
    enabled(&mut fake, IGB, 3);
    let window = fake.word(PORT_OF_IGB, MEMORY_WINDOW);
    assert_eq!((window >> 16, window & 0xffff), (0xfe30, 0xfd30));
    assert_eq!(fake.word(IGB, IGB_VF_BAR0) & !0xf, 0xfd30_0000);
}

/// The network adapter below a port, below two further bridges.
fn nested(inner: u32, middle: u32, outer: u32) -> Fake {
    let mut fake = machine();
    let mut igb = fake.spaces.remove(&IGB).unwrap();
    igb.words[4] = 0xfd20_0000;
    igb.words[5] = 0xfd22_0000;
    igb.words[7] = 0xfd24_0000;
    let port = fake.spaces[&PORT_OF_IGB].clone();
    let outermost = Bdf::new(0, 5, 0);
    for (at, numbers, window) in
        [(outermost, 0x7_0500, outer), (Bdf::new(5, 0, 0), 0x7_0605, middle), (Bdf::new(6, 0, 0), 0x7_0706, inner)]
    {
        let mut bridge = port.clone();
        (bridge.words[4], bridge.words[6], bridge.words[8], bridge.words[9]) = (0, numbers, window, 0x1_fff1);
        fake.put(at, bridge);
    }
    fake.set(PORT_OF_IGB, BUS_NUMBERS, 0x1_0100);
    fake.put(Bdf::new(7, 0, 0), igb);
    fake
}

#[test]
fn every_window_up_to_the_root_grows() {
    let (window, adapter) = (0xfd20_fd20, Bdf::new(7, 0, 0));
    let bridges = [Bdf::new(0, 5, 0), Bdf::new(5, 0, 0), Bdf::new(6, 0, 0)];
    let mut fake = nested(window, window, window);
    with_large_memory(&mut fake, adapter, IGB_VF_BAR0, 20);
    let mut functions = found(&mut fake);
    let plan = plan(&functions, adapter, 2).unwrap();
    fake.writes.clear();
    assert!(vfs::enable(&mut functions, &mut fake, &plan).is_some());
    let grown: Vec<Bdf> = fake.writes.iter().filter(|write| write.1 == MEMORY_WINDOW).map(|write| write.0).collect();
    assert_eq!(grown, bridges, "from the root down");
    for bridge in bridges {
        assert_eq!(fake.word(bridge, MEMORY_WINDOW), 0xfd50_fd20);
        assert!(fake.read_half(bridge, COMMAND) & MEMORY_DECODE != 0);
    }
    // The outermost had room.
    let mut fake = nested(window, window, 0xfd70_fd20);
    with_large_memory(&mut fake, adapter, IGB_VF_BAR0, 20);
    let plan = vfs::plan(&found(&mut fake), adapter, 2).unwrap();
    assert_eq!(plan.windows.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [bridges[2], bridges[1]]);
    // Something else is in the way, below the outermost: a function beside the middle one.
    let mut in_the_way = Space::of_words(&[(0, 0x1234_5678), (BAR0, 0xfd30_0000)]);
    in_the_way.writable[4] = 0xfff0_0000;
    fake.put(Bdf::new(5, 1, 0), in_the_way);
    assert_eq!(vfs::plan(&found(&mut fake), adapter, 2).unwrap_err(), PlanError::NoRoom);
}

#[test]
fn a_window_does_not_grow_over_what_is_between_it_and_one_below() {
    let adapter = Bdf::new(7, 0, 0);
    let mut fake = nested(0xfd00_fd00, 0xfd20_fd20, 0xfd70_fd00);
    assert_eq!(
        plan(&found(&mut fake), adapter, 8).unwrap().windows.as_slice(),
        [(Bdf::new(5, 0, 0), Region { start: 0xfd00_0000, end: 0xfd30_0000 })]
    );
    let mut between = Space::of_words(&[(0, 0x1234_5678), (BAR0, 0xfd10_0000)]);
    between.writable[4] = 0xfff0_0000;
    fake.put(Bdf::new(5, 1, 0), between);
    assert_eq!(plan(&found(&mut fake), adapter, 8).unwrap_err(), PlanError::NoRoom);
}

#[test]
fn bridges_without_a_window_get_one() {
    let adapter = Bdf::new(7, 0, 0);
    let mut fake = nested(0x0000_fff0, 0x0000_fff0, 0xfd70_fd20);
    let plan = plan(&found(&mut fake), adapter, 8).unwrap();
    let region = Region { start: 0xfd30_0000, end: 0xfd40_0000 };
    assert_eq!(plan.windows.as_slice(), [(Bdf::new(6, 0, 0), region), (Bdf::new(5, 0, 0), region)]);
    assert_eq!(plan.bars[0].unwrap().region, Region::of(0xfd30_0000, 0x4000));
}

#[test]
fn a_function_that_does_not_do_what_it_is_told_has_no_virtual_ones() {
    // Registers that cannot be written: number, page size, memory, control.
    for offset in [0x170, 0x180, IGB_VF_BAR0, IGB_VF_BAR0 + 16, IGB_CONTROL] {
        let mut fake = machine();
        let mut functions = found(&mut fake);
        let plan = plan(&functions, IGB, 4).unwrap();
        fake.set(IGB, 0x180, 0);
        let igb = fake.spaces.get_mut(&IGB).unwrap();
        igb.writable[usize::from(offset / 4)] = 0;
        igb.words[usize::from(offset / 4)] |= 0x7f_0000;
        assert_eq!(vfs::enable(&mut functions, &mut fake, &plan), None, "{offset:#x}");
        assert_eq!(fake.word(IGB, IGB_CONTROL) & ON, 0);
        assert_eq!(functions.get(IGB).unwrap().sriov.unwrap().enabled, None);
        assert_eq!(vfs::start(&mut functions, &mut fake, IGB, 0), None);
    }
    // Another offset or stride than before.
    for offset_and_stride in [0x2_0082, 0x4_0080] {
        let mut fake = machine();
        let mut functions = found(&mut fake);
        let plan = plan(&functions, IGB, 4).unwrap();
        fake.set(IGB, 0x174, offset_and_stride);
        assert_eq!(vfs::enable(&mut functions, &mut fake, &plan), None);
    }
    // One that does not appear, or not yet.
    let mut fake = machine();
    let mut functions = found(&mut fake);
    let plan = plan(&functions, IGB, 2).unwrap();
    vfs::enable(&mut functions, &mut fake, &plan).unwrap();
    let late = fake.spaces.remove(&Bdf::from_id(0x182)).unwrap();
    assert_eq!(vfs::start(&mut functions, &mut fake, IGB, 1), None);
    fake.put(Bdf::from_id(0x182), late);
    assert_eq!(vfs::start(&mut functions, &mut fake, IGB, 1), Some(Bdf::from_id(0x182)));
}

#[test]
fn the_table_must_have_room() {
    let mut fake = machine();
    for number in 0..250 {
        fake.put(Bdf::from_id(0x3000 + number * 8), Space::of_words(&[(0, 0x1234_5678)]));
    }
    let functions = found(&mut fake);
    assert_eq!(functions.iter().count(), 255);
    assert!(plan(&functions, IGB, 1).is_ok());
    assert_eq!(plan(&functions, IGB, 2).unwrap_err(), PlanError::TableFull);
}
