//! Functions of an emulator's machine behind a unit made of software: what is handed out, what DMA and messages reach, and
//! what is left when the unit fails.

extern crate alloc;

use super::*;
use crate::iommu::Bus;
use crate::iommu::fake::{CACHING_MODE, CAP, ECAP, Fake as Units};
use crate::iommu::vtd::Tables;
use crate::pci::ConfigAccess;
use crate::pci::capability::Offsets;
use crate::pci::express::{DEVICE_STATUS, TRANSACTIONS_PENDING};
use crate::pci::registers::{BUS_MASTER, COMMAND};
use crate::pci::tests::fake::Fake as Config;
use crate::pci::tests::{IGB, NVME, PLATFORM, PORT_OF_IGB, PORT_OF_NVME, machine};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use cap_spec::abi::Rights;
use core::cell::RefCell;

/// MSI-X tables: what was written where.
#[derive(Default)]
struct Table(BTreeMap<u64, u32>);

impl TableAccess for Table {
    fn write(&mut self, at: Hpa, value: u32) {
        self.0.insert(at.get(), value);
    }

    fn read(&self, at: Hpa) -> u32 {
        self.0.get(&at.get()).copied().unwrap_or(0)
    }
}

type Assigned = Box<Assignment<Config, Table, Units>>;

const TABLES: Tables = Tables {
    root: Hpa::new(0x10_0000),
    empty: Hpa::new(0x10_1000),
    interrupts: Hpa::new(0x10_4000),
    queues: Hpa::new(0x11_0000),
    status: Hpa::new(0x10_2000),
};
const CONTEXTS: [(u8, Hpa); 3] = [(0, Hpa::new(0x12_0000)), (1, Hpa::new(0x12_1000)), (2, Hpa::new(0x12_2000))];
/// A domain whose first page is mapped.
const DOMAIN: VmId = VmId::new(0x100);
const PAGE: u64 = 0x7_7000;
/// The functions' numbers: the adapter, its first virtual function, the disc controller.
const NIC: FunctionId = FunctionId::new(0);
const VF: FunctionId = FunctionId::new(1);
const DISC: FunctionId = FunctionId::new(9);

/// The machine, with its unit on.
fn assigned(config: Config, cap: u64, is_confined: impl Fn(Bdf) -> bool) -> (Units, Assigned) {
    let units = Units::new(&[(cap, ECAP)], 3);
    let turned = Iommu::turn_on(units.clone(), TABLES, [0], CONTEXTS, Ticks::new(500), 0);
    let mut assigned: Assigned = Box::default();
    let mut access = Access { config, tables: Table::default(), iommu: turned.expect("the unit comes on") };
    assigned.functions.enumerate(&mut access.config, 0..=255, PLATFORM);
    assigned.start(access, is_confined, 512 << 30, 1);
    (units, assigned)
}

/// The same, with a page mapped in [`DOMAIN`].
fn with_domain() -> (Units, Assigned) {
    let (units, mut assigned) = assigned(machine(), CAP, |_| true);
    let mut bus = units.clone();
    let (two, one) = (Hpa::new(0x20_0000), Hpa::new(0x20_1000));
    bus.set_word(DOMAIN.root(), iommu::FORMAT.table(two));
    bus.set_word(two, iommu::FORMAT.table(one));
    bus.set_word(one, iommu::FORMAT.leaf(Hpa::new(PAGE), Rights::READ, 1, false));
    for entry in [DOMAIN.root(), two, one] {
        assigned.publish(entry);
    }
    (units, assigned)
}

fn config(assigned: &mut Assigned) -> &mut Config {
    &mut assigned.access.as_mut().unwrap().config
}

fn is_master(assigned: &mut Assigned, at: Bdf) -> bool {
    config(assigned).word(at, COMMAND) as u16 & BUS_MASTER != 0
}

/// Puts a function's virtual ones into use.
fn vfs_of(assigned: &mut Assigned, function: FunctionId, count: u16) {
    assert_eq!(assigned.enable_vfs(function, count), Ticks::new(vfs::ENABLE_US.into()));
    let first = assigned.facts(function).first_vf.get();
    for vf in (first..first + count).map(FunctionId::new) {
        assert_eq!(assigned.revive(vf), None);
    }
}

#[test]
fn endpoints_that_are_alone_below_a_port_are_handed_out_with_all_their_virtual_functions() {
    let (_, mut assigned) = assigned(machine(), CAP, |_| true);
    assert_eq!(assigned.physical().collect::<Vec<_>>(), [NIC, DISC]);
    let facts = assigned.facts(NIC);
    assert_eq!((facts.identity & 0xffff_ffff, facts.vfs, facts.first_vf), (0x10c9_8086, 8, VF));
    assert_eq!((facts.messages, facts.quarantined), (10, false));
    assert_eq!(assigned.facts(DISC).vfs, 2);
    assert_eq!(assigned.facts(FunctionId::new(20)), FunctionFacts::default());
    assert_eq!(assigned.facts(VF).messages, 0, "it is not there yet");
    vfs_of(&mut assigned, NIC, 2);
    assert_eq!(assigned.facts(VF).identity & 0xffff_ffff, 0x10ca_8086);
    // Registers in BAR 0, the MSI-X table in BAR 3.
    let (registers, table) = (assigned.bar(VF, 0), assigned.bar(VF, 3));
    assert_eq!((registers.pages, registers.withheld.map(|(_, pages)| pages)), (4, [0; 2]));
    assert_eq!((table.pages, table.withheld), (4, [(0, 1), (2, 1)]));
    assert_eq!(assigned.bar(VF, 1).pages, 0);
    assert!(assigned.place(FunctionId::new(3)).is_none(), "only two were enabled");
}

#[test]
fn what_the_unit_does_not_confine_is_not_handed_out() {
    let none = |assigned: &Assigned| assigned.physical().count() == 0;
    assert!(none(&Box::new(Assignment::new())), "no unit");
    assert!(none(&assigned(machine(), CAP, |_| false).1));
    assert!(none(&assigned(machine(), CAP | CACHING_MODE, |_| true).1));
    let (_, one) = assigned(machine(), CAP, |at| at == NVME);
    assert_eq!(one.physical().count(), 1);
    // A second function of the device could be reached past the unit.
    let mut both = machine();
    let twin = both.spaces[&NVME].clone();
    both.set(NVME, 0xc, both.word(NVME, 0xc) | 1 << 23);
    both.put(Bdf::new(2, 0, 1), twin);
    let (_, one) = assigned(both, CAP, |_| true);
    assert_eq!(one.physical().map(|function| one.place(function)).collect::<Vec<_>>(), [Some(IGB)]);
}

#[test]
fn an_attached_function_reaches_its_domain_and_a_detached_one_nothing() {
    let (units, mut assigned) = with_domain();
    assert!(units.dma(0, IGB.id(), 0, false).is_err());
    assigned.attach(NIC, DOMAIN);
    assert!(is_master(&mut assigned, IGB) && is_master(&mut assigned, PORT_OF_IGB));
    assert_eq!(units.dma(0, IGB.id(), 8, false), Ok(PAGE + 8));
    assert!(units.dma(0, IGB.id(), 8, true).is_err(), "it may read");
    assert!(units.dma(0, IGB.id(), 0x1000, false).is_err() && units.dma(0, NVME.id(), 8, false).is_err());
    // Unmapped: until it is flushed, the unit may go on.
    units.clone().set_word(Hpa::new(0x20_1000), 0);
    assigned.publish(Hpa::new(0x20_1000));
    assigned.flush(NIC);
    assert!(units.dma(0, IGB.id(), 8, false).is_err());
    assigned.detach(NIC);
    assert!(!is_master(&mut assigned, IGB));
    assert!(units.dma(0, IGB.id(), 8, false).is_err());
}

#[test]
fn a_message_raises_what_its_route_says_from_its_function_only() {
    let (units, mut assigned) = with_domain();
    vfs_of(&mut assigned, NIC, 1);
    let at = assigned.place(VF).unwrap();
    let message = Message { function: VF, entry: 1 };
    let sent = |assigned: &Assigned| {
        let entry = assigned.entry(message).unwrap().get();
        let table = &assigned.access.as_ref().unwrap().tables.0;
        let [low, high, data, control] = [0, 4, 8, 12].map(|offset| table.get(&(entry + offset)).copied().unwrap_or(0));
        (control & 1 == 0).then_some((u64::from(low) | u64::from(high) << 32, data))
    };
    assigned.bind(30, message, true);
    // The function knows its message from now on, and may write it at any time, by its table or by DMA.
    let (address, data) = sent(&assigned).unwrap();
    let raised = |from: Bdf| units.interrupt(0, from.id(), address, data).ok();
    assert_eq!(raised(at), None, "nothing until its route says what");
    assert!(assigned.deliver(30, message, 5, Signal::Vector(0x44)));
    assert_eq!((raised(at), raised(IGB)), (Some((5, Signal::Vector(0x44))), None));
    assert!(assigned.deliver(30, message, 5, Signal::Nmi));
    assert_eq!(raised(at), Some((5, Signal::Nmi)));
    assert!(assigned.block(30, message));
    assert_eq!(raised(at), None, "while its Vcpu is out and was told");
    assert!(assigned.deliver(30, message, 6, Signal::Vector(0x44)));
    assert_eq!(raised(at), Some((6, Signal::Vector(0x44))));
    assigned.unbind(30, message);
    assert_eq!((sent(&assigned), raised(at)), (None, None));
}

#[test]
fn a_unit_that_does_not_answer_ends_the_way_to_memory_of_all() {
    let (units, mut assigned) = with_domain();
    assigned.attach(NIC, DOMAIN);
    assigned.attach(DISC, DOMAIN);
    units.with(0, |unit| unit.stuck = true);
    assigned.flush(NIC);
    for at in [PORT_OF_IGB, PORT_OF_NVME, IGB, NVME] {
        assert!(!is_master(&mut assigned, at), "{at}");
    }
    assert!(assigned.facts(NIC).quarantined && assigned.facts(VF).quarantined);
    // Nothing opens the way again.
    units.with(0, |unit| unit.stuck = false);
    assigned.detach(DISC);
    assigned.attach(DISC, DOMAIN);
    let message = Message { function: DISC, entry: 0 };
    assigned.bind(31, message, true);
    assert!(!assigned.deliver(31, message, 0, Signal::Vector(0x40)));
    assert!(!is_master(&mut assigned, PORT_OF_NVME) && !is_master(&mut assigned, NVME));
}

#[test]
fn a_reset_takes_its_time_and_gives_the_function_back() {
    let (_, mut assigned) = with_domain();
    vfs_of(&mut assigned, NIC, 2);
    assert_eq!(assigned.reset(NIC), Ticks::new(0), "its virtual functions would go with it");
    assert_eq!(assigned.reset(VF), Ticks::new(control::RESET_US.into()));
    assert_eq!(assigned.revive(VF), None);
    assert_eq!(assigned.disable_vfs(NIC), Ticks::new(vfs::DISABLE_US.into()));
    assert!(assigned.place(VF).is_none());
    assert_eq!(assigned.reset(NIC), Ticks::new(control::RESET_US.into()));
    // One that does not answer yet is asked again later.
    let space = config(&mut assigned).spaces.remove(&IGB).unwrap();
    assert_eq!(assigned.revive(NIC), Some(Ticks::new(AGAIN_US.into())));
    config(&mut assigned).put(IGB, space);
    assert_eq!(assigned.revive(NIC), None);
}

/// Looks at a function, one after the other: at its command register, or whether its requests are answered; and whether it
/// could reach memory at that time.
type Looks = Rc<RefCell<Vec<(u16, bool)>>>;

/// Has the adapter, which is attached, answer its requests only after so many looks; and notes all looks at it.
fn pending_for(assigned: &mut Assigned, units: &Units, looks: usize) -> Looks {
    let seen = Looks::default();
    let (seen_by_device, units) = (seen.clone(), units.clone());
    let status = Offsets::find(config(assigned), IGB).express + DEVICE_STATUS;
    let mut left = looks;
    config(assigned).liar = Some(RefCell::new(Box::new(move |at, offset| {
        let is_status = offset == status & !3;
        if at == IGB && (is_status || offset == COMMAND) {
            seen_by_device.borrow_mut().push((offset, units.dma(0, IGB.id(), 8, false).is_ok()));
        }
        let pends = at == IGB && is_status && left > 0;
        left -= usize::from(pends);
        pends.then(|| u32::from(TRANSACTIONS_PENDING) << (8 * (status & 2)))
    })));
    seen
}

/// The order that a detached function is owed: it sends nothing new, what it has sent has arrived, and only then its memory is
/// out of reach and what units have cached is forgotten. The other way round it would be stopped in the middle of a request.
#[test]
fn a_function_is_out_of_reach_of_its_domain_only_when_what_it_has_sent_has_arrived() {
    let (units, mut assigned) = with_domain();
    assigned.attach(NIC, DOMAIN);
    let status = Offsets::find(config(&mut assigned), IGB).express + DEVICE_STATUS;
    let seen = pending_for(&mut assigned, &units, 3);
    assigned.detach(NIC);
    let expected: Vec<(u16, bool)> =
        [COMMAND, COMMAND].into_iter().chain([status & !3; 4]).map(|at| (at, true)).collect();
    assert_eq!(*seen.borrow(), expected, "it is told, it says that it was, and then its requests are waited for");
    assert!(units.dma(0, IGB.id(), 8, false).is_err());
    // One whose requests are never answered is not waited for without end.
    assigned.attach(NIC, DOMAIN);
    let (seen, before) = (pending_for(&mut assigned, &units, usize::MAX), units.now());
    assigned.detach(NIC);
    let waits = seen.borrow().iter().filter(|(at, _)| *at == status & !3).count();
    assert!(waits > 1 && units.now().get() - before.get() < 10 * DRAIN_US, "{waits} looks");
    assert!(units.dma(0, IGB.id(), 8, false).is_err());
    // One that stays a bus master is cut off at once: there is no end of what it sends.
    assigned.attach(NIC, DOMAIN);
    let seen = pending_for(&mut assigned, &units, usize::MAX);
    config(&mut assigned).spaces.get_mut(&IGB).unwrap().writable[usize::from(COMMAND / 4)] = 0;
    assigned.detach(NIC);
    assert!(seen.borrow().iter().all(|(at, _)| *at == COMMAND));
    assert!(units.dma(0, IGB.id(), 8, false).is_err());
}

#[test]
fn the_first_message_that_is_bound_leaves_all_others_masked() {
    let (_, mut assigned) = with_domain();
    vfs_of(&mut assigned, NIC, 1);
    let message = |entry| Message { function: VF, entry };
    let messages = assigned.facts(VF).messages;
    assert!(messages > 2);
    // What a former owner, or the reset, has left: all of them can be sent.
    let entries: Vec<Hpa> = (0..messages).filter_map(|entry| assigned.entry(message(entry))).collect();
    for entry in entries {
        assigned.access.as_mut().unwrap().tables.0.extend([(entry.get(), 0xfee0_0000), (entry.get() + 12, 0)]);
    }
    let unmasked = |assigned: &Assigned| {
        let control =
            |entry| assigned.access.as_ref().unwrap().tables.0[&(assigned.entry(message(entry)).unwrap().get() + 12)];
        (0..messages).filter(|&entry| control(entry) & 1 == 0).collect::<Vec<_>>()
    };
    assert_eq!(unmasked(&assigned).len(), usize::from(messages));
    assigned.bind(30, message(1), true);
    assert_eq!(unmasked(&assigned), [1]);
    assigned.bind(31, message(2), false);
    assert_eq!(unmasked(&assigned), [1, 2], "those that are bound stay");
}

/// A reset takes what confines a function, and may leave it with MSI and addresses that it translates by itself.
#[test]
fn a_function_is_confined_again_when_a_reset_is_over() {
    const ATS: u16 = 0x400;
    const ACS: u16 = 0x420;
    let mut config_space = machine();
    let space = config_space.spaces.get_mut(&IGB).unwrap();
    let mut last = 0x100u16;
    while space.word(last) >> 20 != 0 {
        last = (space.word(last) >> 20) as u16;
    }
    space.words[usize::from(last / 4)] |= u32::from(ATS) << 20;
    for (at, word, writable) in [
        (ATS, 0x1_000f | u32::from(ACS) << 20, 0),
        (ATS + 4, 0, 0x801f_0000),
        (ACS, 0x1_000d, 0),
        (ACS + 4, 0x1f, 0x1f_0000),
    ] {
        (space.words[usize::from(at / 4)], space.writable[usize::from(at / 4)]) = (word, writable);
    }
    let (_, mut assigned) = assigned(config_space, CAP, |_| true);
    let msi = Offsets::find(config(&mut assigned), IGB).msi;
    assert!(msi != 0 && assigned.physical().any(|function| function == NIC));
    assert_eq!(assigned.reset(NIC), Ticks::new(control::RESET_US.into()));
    let high = |assigned: &mut Assigned, at: u16| config(assigned).word(IGB, at) >> 16;
    assert_eq!(high(&mut assigned, ACS + 4), 0, "the reset has turned it off");
    config(&mut assigned).write_half(IGB, ATS + 6, 0x8000);
    config(&mut assigned).write_half(IGB, msi + 2, 1);
    assert!(high(&mut assigned, ATS + 4) & 0x8000 != 0 && high(&mut assigned, msi) & 1 == 1);
    assert_eq!(assigned.revive(NIC), None);
    assert_eq!((high(&mut assigned, ACS + 4), high(&mut assigned, ATS + 4) & 0x8000), (0x1f, 0));
    assert_eq!(high(&mut assigned, msi) & 1, 0);
}
