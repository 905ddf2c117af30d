//! Tests of the pager's books against a small stand-in for the kernel.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet as Set};
use std::rc::Rc;

use super::*;
use crate::cap::{Label, ObjectType, own};
use crate::invoke::fake;

/// What the stand-in knows: what is in which slot, what is mapped where, and how many pages the base has left.
#[derive(Debug, Default)]
struct World {
    full: BTreeMap<u64, ObjectType>,
    mapped: BTreeMap<u64, u64>,
    tables: Set<(u64, u64)>,
    base_pages: u64,
    in_flight: bool,
}

impl World {
    fn install(base_pages: u64) -> Rc<RefCell<World>> {
        let world = Rc::new(RefCell::new(World { base_pages, ..World::default() }));
        let kernel = world.clone();
        fake::install(move |cptr, label, args| kernel.borrow_mut().invoke(cptr, label, args));
        world
    }

    /// The capability pointer of a slot, from a CNode's and an index.
    fn slot(cnode: u64, index: u64) -> u64 {
        if cnode == own::CNODE.cptr() { index } else { cnode << 16 | index }
    }

    fn put(&mut self, slot: u64, object: ObjectType) -> Result<(), Fault> {
        match self.full.insert(slot, object) {
            None => Ok(()),
            Some(_) => Err(Fault::new(Error::SlotOccupied, 4)),
        }
    }

    fn invoke(&mut self, cptr: u64, label: Label, args: [u64; 5]) -> Result<(u64, u64), Fault> {
        let refuse = |error, argument| Err(Fault::new(error, argument));
        match label {
            Label::ChannelAccept => {
                if !core::mem::take(&mut self.in_flight) {
                    return refuse(Error::ChannelEmpty, 0);
                }
                self.put(World::slot(args[0], args[1]), ObjectType::Untyped)?;
            }
            Label::UntypedRetype => {
                if cptr == own::BASE.cptr() {
                    let pages = if args[0] == ObjectType::CNode as u64 { 1 << (args[1] - 6) } else { args[4] };
                    if self.base_pages < pages {
                        return refuse(Error::NotEnoughMemory, 0);
                    }
                    self.base_pages -= pages;
                }
                let object = ObjectType::from_number(args[0]).expect("a type");
                for at in 0..args[4] {
                    self.put(World::slot(args[2], args[3] + at), object)?;
                }
            }
            Label::FrameMap => {
                for (level, bits) in [(3, 39), (2, 30), (1, 21)] {
                    if !self.tables.contains(&(level, args[1] >> bits)) {
                        return Err(Fault::with_detail(Error::NoPageTable, 2, level as u16));
                    }
                }
                assert_eq!(self.full.get(&cptr), Some(&ObjectType::Frame));
                assert!(self.mapped.insert(args[1], cptr).is_none(), "mapped twice");
            }
            Label::PageTableMap => {
                let bits = 12 + 9 * args[2];
                assert!(self.tables.insert((args[2], args[1] >> bits)), "a table twice");
            }
            Label::CNodeRevoke | Label::CNodeDelete => {
                let slot = World::slot(cptr, args[0]);
                if self.full.get(&slot) == Some(&ObjectType::Untyped) {
                    // One lease at a time is enough to tell whose frames they are: all that are mapped.
                    for (_, frame) in core::mem::take(&mut self.mapped) {
                        self.full.remove(&frame);
                    }
                }
                if label == Label::CNodeDelete && self.full.remove(&slot).is_none() {
                    return refuse(Error::SlotEmpty, 1);
                }
            }
            other => panic!("{other:?} is not expected"),
        }
        Ok((0, 0))
    }
}

fn pager() -> Pager {
    Pager::new(Slots::new(300), own::BASE, own::VM)
}

#[test]
fn a_lease_is_mapped_whole_and_leaves_nothing_behind() {
    let world = World::install(20);
    let mut pager = pager();
    for (round, bits) in [12, 16, 19, 12].into_iter().enumerate() {
        world.borrow_mut().in_flight = true;
        let lease = round as u32;
        assert_eq!(pager.accept(own::MARKET, lease, bits), Ok(()));
        assert_eq!(pager.pages(), 1 << (bits - 12));
        let start = pager.address(lease).unwrap();
        let expected: Vec<u64> = (0..1 << (bits - 12)).map(|at| start + at * 4096).collect();
        assert_eq!(world.borrow().mapped.keys().copied().collect::<Vec<_>>(), expected);
        assert!(pager.release(lease));
        assert!(!pager.release(lease));
        assert!(world.borrow().full.values().all(|object| *object == ObjectType::PageTable));
    }
    assert_eq!(world.borrow().full.len(), 3, "the tables stay");
    assert_eq!(world.borrow().base_pages, 17);
}

#[test]
fn a_base_without_room_for_tables_refuses_and_keeps_nothing() {
    let world = World::install(1);
    let mut pager = pager();
    world.borrow_mut().in_flight = true;
    let full = Fault::new(Error::NotEnoughMemory, 0);
    assert_eq!(pager.accept(own::MARKET, 1, 14), Err(PagerError::Kernel(full)));
    assert!(!world.borrow().full.values().any(|object| *object == ObjectType::Untyped));
    assert_eq!(pager.pages(), 0);
    // Nothing is in flight; a size that is never leased.
    assert!(matches!(pager.accept(own::MARKET, 1, 14), Err(PagerError::Kernel(_))));
    assert_eq!(pager.accept(own::MARKET, 1, 22), Err(PagerError::NoAddresses));
}

#[test]
fn what_was_taken_by_force_is_forgotten() {
    let world = World::install(20);
    let mut pager = pager();
    world.borrow_mut().in_flight = true;
    pager.accept(own::MARKET, 7, 13).unwrap();
    // The kernel has removed everything.
    world.borrow_mut().full.retain(|_, object| *object == ObjectType::PageTable);
    world.borrow_mut().mapped.clear();
    assert!(!pager.taken(7), "the heap did not have it");
    assert_eq!(pager.read(7, 0, &mut [0]), Err(Gone));
    assert_eq!(pager.leases().count(), 0);
    world.borrow_mut().in_flight = true;
    assert_eq!(pager.accept(own::MARKET, 8, 13), Ok(()));
}

#[test]
fn pages_of_the_base_are_mapped_in_a_row() {
    let world = World::install(105);
    let mut pager = pager();
    let start = pager.map_base(100).unwrap();
    let expected: Vec<u64> = (0..100).map(|at| start + at * 4096).collect();
    assert_eq!(world.borrow().mapped.keys().copied().collect::<Vec<_>>(), expected);
    assert!(matches!(pager.map_base(3), Err(PagerError::Kernel(_))), "the base has 2 left");
}

#[test]
fn addresses_are_aligned_disjoint_and_merge_again() {
    let mut addresses = Addresses::new(0x4000_0000, 20);
    let mut taken: Vec<(u64, u8)> = Vec::new();
    for bits in [12, 16, 12, 14, 13, 18, 12] {
        let address = addresses.take(bits).unwrap();
        assert_eq!(address % (1 << bits), 0);
        for &(other, size) in &taken {
            assert!(address + (1 << bits) <= other || other + (1 << size) <= address);
        }
        taken.push((address, bits));
    }
    assert_eq!(addresses.take(20), None);
    for (address, bits) in taken {
        addresses.give(address, bits);
    }
    assert_eq!(addresses.take(20), Some(0x4000_0000));
    assert_eq!(addresses.take(12), None);
}
