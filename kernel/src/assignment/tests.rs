//! Functions of an emulator's machine behind a unit made of software: what is handed out, what DMA and messages reach, and
//! what is left when the unit fails.

extern crate alloc;

use super::*;
use crate::iommu::fake::{CACHING_MODE, CAP, ECAP, Fake as Units};
use crate::iommu::vtd::Tables;
use crate::pci::registers::{BUS_MASTER, COMMAND};
use crate::pci::tests::fake::Fake as Config;
use crate::pci::tests::{IGB, NVME, PLATFORM, PORT_OF_IGB, PORT_OF_NVME, machine};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use cap_spec::abi::Rights;

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
