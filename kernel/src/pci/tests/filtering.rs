//! What a holder sees and may write, over all of a configuration space.

use super::*;
use crate::pci::capability::Offsets;
use crate::pci::filter::{read, write};
use crate::pci::registers::*;
use crate::pci::{ConfigAccess, Function, vfs};
use alloc::vec::Vec;

/// Machine, table, and the network adapter, the disc controller and a virtual function of each.
fn four() -> (Fake, Vec<Function>) {
    let mut fake = machine();
    let mut functions = found(&mut fake);
    let mut all = Vec::new();
    for physical in [IGB, NVME] {
        let plan = vfs::plan(&functions, physical, 1).unwrap();
        vfs::enable(&mut functions, &mut fake, &plan).unwrap();
        let at = vfs::start(&mut functions, &mut fake, physical, 0).unwrap();
        all.extend([*functions.get(physical).unwrap(), *functions.get(at).unwrap()]);
    }
    (fake, all)
}

/// Registers of a function in which addresses are, and what is seen of them.
fn hidden(function: &Function) -> Vec<(u16, u32)> {
    let mut hidden: Vec<(u16, u32)> = (BAR0..0x28).step_by(4).map(|offset| (offset, 0)).collect();
    hidden.push((ROM, 0));
    match function.at {
        // The third is for I/O ports, not handed out. Then the messages of MSI, and the virtual functions' memory.
        IGB => {
            hidden.extend((0x54..0x68).step_by(4).map(|offset| (offset, 0)));
            hidden.extend((0x184..0x19c).step_by(4).map(|offset| (offset, 0)));
            hidden.extend([(0x1c, 4), (0x184, 0xc), (0x190, 0xc)]);
        }
        NVME => {
            hidden.push((BAR0, 4));
            hidden.extend((0x144..0x15c).step_by(4).map(|offset| (offset, 0)));
            hidden.push((0x144, 4));
        }
        _ => hidden.push((ID, u32::from(function.device) << 16 | u32::from(function.vendor))),
    }
    hidden
}

#[test]
fn all_is_read_but_addresses() {
    let (fake, all) = four();
    for function in &all {
        let hidden = hidden(function);
        for offset in (0..4096).step_by(4) {
            let expected = hidden.iter().rev().find(|(at, _)| *at == offset);
            for value in [fake.read(function.at, offset), u32::MAX, 0x1234_5678] {
                let seen = read(function, offset, value);
                let is_type = (BAR0..0x28).contains(&offset) || function.offsets.sriov + 0x24 <= offset;
                match expected {
                    None => assert_eq!(seen, value, "{} {offset:#x}", function.at),
                    Some(&(ID, id)) => assert_eq!(seen, id),
                    Some(&(_, 0)) if !is_type => assert_eq!(seen, 0, "{} {offset:#x}", function.at),
                    Some(_) => assert_eq!(seen & !0xf, 0, "{} {offset:#x}", function.at),
                }
            }
            if let Some(&(_, expected)) = expected {
                assert_eq!(
                    read(function, offset, fake.read(function.at, offset)),
                    expected,
                    "{} {offset:#x}",
                    function.at
                );
            }
        }
        for offset in [1, 2, 3, 4096, 4100, u16::MAX] {
            assert_eq!(read(function, offset, 0), u32::MAX);
        }
    }
}

#[test]
fn nothing_is_written_but_errors_and_the_size_of_reads() {
    let (fake, all) = four();
    for function in &all {
        let device = function.offsets.express + 8;
        for offset in 0..=u16::MAX {
            let current = if offset < 4096 { fake.read(function.at, offset & !3) } else { 0 };
            for value in [0, u32::MAX, 0xffff_0fff, 0x5000, 0xa5a5_25a5] {
                let current = current ^ 0x0001_0547;
                let written = write(function, offset, current, value);
                let expected = match offset {
                    COMMAND => Some(current & 0xffff | value & 0xf900_0000),
                    _ if offset == device && value & 0x7000 > 0x5000 => None,
                    _ if offset == device => Some(current & 0x0fff | value & 0x000f_7000),
                    _ => None,
                };
                assert_eq!(written, expected, "{} {offset:#x} {value:#x}", function.at);
            }
        }
    }
}

#[test]
fn a_capability_that_lies_upon_the_kernels_is_the_kernels() {
    let (_, all) = four();
    let mut function = all[0];
    let device = function.offsets.express + 8;
    assert!(write(&function, device, 0, 0).is_some());
    let offsets = function.offsets;
    for at in [device, device - 4, device - 8] {
        let changes: [fn(&mut Offsets, u16); 6] = [
            |offsets, at| (offsets.msi, offsets.msi_bytes) = (at, 0xc),
            |offsets, at| offsets.msix = at,
            |offsets, at| offsets.sriov = at,
            |offsets, at| offsets.acs = at,
            |offsets, at| offsets.ats = at,
            |offsets, at| offsets.page_request = at,
        ];
        for change in changes {
            function.offsets = offsets;
            change(&mut function.offsets, at);
            assert_eq!(write(&function, device, 0, 0), None);
        }
    }
}

#[test]
fn of_a_bridge_next_to_nothing_is_seen_and_nothing_written() {
    let mut fake = machine();
    let functions = found(&mut fake);
    let port = functions.get(PORT_OF_IGB).unwrap();
    for offset in (0..4096).step_by(4) {
        assert_eq!(write(port, offset, 0, u32::MAX), None);
        let expected = match offset {
            0x34 => fake.read(port.at, 0x34),
            BAR0..HEADER_END => 0,
            _ => fake.read(port.at, offset),
        };
        assert_eq!(read(port, offset, fake.read(port.at, offset)), expected, "{offset:#x}");
    }
}
