//! Bus masters, resets, MSI-X.

use super::*;
use crate::pci::msix::{Message, Messages, TableAccess, write_entry};
use crate::pci::registers::*;
use crate::pci::{ConfigAccess, control, vfs};
use crate::types::Hpa;
use alloc::vec::Vec;

/// Of the network adapter: Device Control and Device Status, Message Control of MSI-X.
const DEVICE: u16 = 0xa8;
const MSIX: u16 = 0x70;

#[test]
fn a_bus_master_is_one_when_told_so_and_says_whether_it_is() {
    let mut fake = machine();
    let functions = found(&mut fake);
    let before = fake.word(IGB, COMMAND);
    assert!(control::bus_master(&mut fake, IGB, true));
    assert_eq!(fake.word(IGB, COMMAND), before | 4);
    assert!(control::bus_master(&mut fake, IGB, false));
    assert_eq!(fake.word(IGB, COMMAND), before);
    fake.spaces.get_mut(&IGB).unwrap().writable[1] = 0;
    assert!(!control::bus_master(&mut fake, IGB, true));
    // Errors that were seen are not cleared by the way.
    fake.set(IGB, COMMAND, before | 0xf900_0000);
    let _ = control::bus_master(&mut fake, IGB, true);
    assert_eq!(fake.word(IGB, COMMAND), before | 0xf900_0000);
    assert!(control::open_path(&functions, &mut fake, functions.get(IGB).unwrap()));
    assert_eq!(fake.word(PORT_OF_IGB, COMMAND) & 7, 6);
    assert_eq!(fake.word(PORT_OF_NVME, COMMAND) & 4, 0, "not on the way");
    fake.spaces.get_mut(&PORT_OF_NVME).unwrap().writable[1] = 0;
    assert!(!control::open_path(&functions, &mut fake, functions.get(NVME).unwrap()));
}

#[test]
fn a_reset_gives_all_back_that_it_took() {
    let mut fake = machine();
    fake.set(IGB, DEVICE, 0x2030);
    let functions = found(&mut fake);
    let igb = functions.get(IGB).unwrap();
    assert!(control::bus_master(&mut fake, IGB, true));
    let before = fake.spaces[&IGB].clone();
    assert_eq!(control::reset(&mut fake, igb), Some(control::RESET_US));
    assert_eq!([BAR0, COMMAND, DEVICE].map(|offset| fake.word(IGB, offset) & 0xffff), [0; 3], "it was reset");
    // Nothing answers for a while.
    let space = fake.spaces.remove(&IGB).unwrap();
    assert!(!control::restore(&mut fake, igb));
    fake.put(IGB, space);
    assert!(control::restore(&mut fake, igb));
    for offset in (BAR0..CAPABILITIES).step_by(4).chain([DEVICE]).filter(|&offset| offset != 0x18) {
        assert_eq!(fake.word(IGB, offset), before.word(offset), "{offset:#x}");
    }
    assert_eq!(fake.word(IGB, COMMAND) & 0x407, 0x402, "quiet, with memory");
}

#[test]
fn a_reset_of_a_virtual_function_leaves_its_registers_of_addresses_alone() {
    let mut fake = machine();
    let mut functions = found(&mut fake);
    let plan = vfs::plan(&functions, IGB, 1).unwrap();
    vfs::enable(&mut functions, &mut fake, &plan).unwrap();
    let at = vfs::start(&mut functions, &mut fake, IGB, 0).unwrap();
    let function = functions.get(at).unwrap();
    fake.writes.clear();
    assert_eq!(control::reset(&mut fake, function), Some(control::RESET_US));
    assert!(control::restore(&mut fake, function));
    assert!(fake.writes.iter().all(|&(_, offset, ..)| !(BAR0..CAPABILITIES).contains(&offset)));
    assert_eq!(fake.word(at, COMMAND) & 7, 2);
    // The physical one would lose them.
    assert_eq!(control::reset(&mut fake, functions.get(IGB).unwrap()), None);
    // One without a reset.
    fake.set(NVME, 0x84, 0x8020);
    assert_eq!(control::reset(&mut fake, found(&mut machine_without_reset()).get(NVME).unwrap()), None);
}

fn machine_without_reset() -> Fake {
    let mut fake = machine();
    fake.set(NVME, 0x84, 0x8020);
    fake
}

#[test]
fn pending_transactions_are_seen() {
    let mut fake = machine();
    let functions = found(&mut fake);
    assert!(!control::is_pending(&fake, functions.get(IGB).unwrap()));
    fake.set(IGB, DEVICE, 0x20_0000);
    assert!(control::is_pending(&fake, functions.get(IGB).unwrap()));
    assert!(!control::is_pending(&fake, functions.get(Bdf::new(0, 0, 0)).unwrap()), "it cannot tell");
}

#[test]
fn messages_are_masked_by_the_function_and_read_back() {
    let mut fake = machine();
    let functions = found(&mut fake);
    let msix = functions.get(IGB).unwrap().msix.unwrap();
    for (messages, control) in [(Messages::Masked, 0xc000), (Messages::Unmasked, 0x8000), (Messages::Off, 0)] {
        let accesses = fake.accesses.get();
        assert!(msix.try_set(&mut fake, IGB, messages));
        assert_eq!(fake.read_half(IGB, MSIX + 2) & 0xc000, control);
        assert!(fake.accesses.get() - accesses >= 3, "written, read back, and looked at here");
    }
    fake.spaces.get_mut(&IGB).unwrap().writable[usize::from(MSIX / 4)] = 0;
    assert!(!msix.try_set(&mut fake, IGB, Messages::Masked));
}

#[derive(Default)]
struct Table {
    writes: Vec<(u64, u32)>,
    reads: core::cell::RefCell<Vec<u64>>,
}

impl TableAccess for Table {
    fn write(&mut self, at: Hpa, value: u32) {
        self.writes.push((at.get(), value));
    }

    fn read(&self, at: Hpa) -> u32 {
        self.reads.borrow_mut().push(at.get());
        0
    }
}

#[test]
fn an_entry_is_masked_while_it_is_written() {
    let functions = found(&mut machine());
    let igb = functions.get(IGB).unwrap();
    let msix = igb.msix.unwrap();
    assert_eq!(msix.entry(&igb.bars, 10), None);
    let entry = msix.entry(&igb.bars, 9).unwrap();
    assert_eq!(entry, Hpa::new(0xfe24_0090));
    let mut table = Table::default();
    write_entry(&mut table, entry, Some(Message { address: 0x1_fee0_0018, data: 5 }));
    let [control, low, high, data] = [0xfe24_009c, 0xfe24_0090, 0xfe24_0094, 0xfe24_0098];
    assert_eq!(table.writes, [(control, 1), (low, 0xfee0_0018), (high, 1), (data, 5), (control, 0)]);
    assert_eq!(*table.reads.borrow(), [control]);
    let mut table = Table::default();
    write_entry(&mut table, entry, None);
    assert_eq!(table.writes, [(control, 1)]);
}
