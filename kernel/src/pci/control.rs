//! What the kernel does to a function: keep it quiet, let it be a bus master, reset it.
//!
//! Nothing here waits. What takes time returns how long, or is asked again.

use super::capability::Offsets;
use super::enumerate::Functions;
use super::express::{DEVICE_CONTROL, DEVICE_STATUS, INITIATE_FLR, TRANSACTIONS_PENDING};
use super::function::{Function, Kind};
use super::registers::{BAR0, BUS_MASTER, CLASS, COMMAND, INTX_DISABLE, IO_DECODE, MEMORY_DECODE};
use super::{Bdf, ConfigAccess, bar};

/// Microseconds that a function has for a function-level reset (PCI Express Base Specification, 6.6.2).
pub const RESET_US: u32 = 100_000;
/// ACS Control, 16 bits, from the capability on; ACS Capability, 16 bits, is before it.
const ACS_CAPABILITY: u16 = 4;
const ACS_CONTROL: u16 = 6;
/// Of ACS Control: source validation, translation blocking, and request redirect, completion redirect and upstream
/// forwarding: requests of functions go up to the IOMMU and not to each other, under their own ids, and untranslated.
const ACS_WANTED: u16 = 0x1f;
/// MSI: Message Control, 16 bits.
const MSI_CONTROL: u16 = 2;
/// ATS and PASID: control, 16 bits; 0 is off.
const ATS_CONTROL: u16 = 6;
const PASID_CONTROL: u16 = 6;
/// Page requests: control, 16 bits; 0 is off.
const PAGE_REQUEST_CONTROL: u16 = 4;

/// Makes a function no bus master, without I/O ports and INTx. This is also possible before its capabilities are known.
pub fn quiet(config: &mut impl ConfigAccess, function: Bdf) {
    let command = config.read_half(function, COMMAND) & !(BUS_MASTER | IO_DECODE) | INTX_DISABLE;
    config.write_half(function, COMMAND, command);
}

/// Turns off what would get past the kernel, and access control on: no MSI; addresses are never translated by the function.
pub fn confine(config: &mut impl ConfigAccess, function: Bdf, offsets: &Offsets) {
    // In this order, as page requests need translation, and PASID must not change under it.
    let off = [
        (offsets.msi, MSI_CONTROL),
        (offsets.page_request, PAGE_REQUEST_CONTROL),
        (offsets.ats, ATS_CONTROL),
        (offsets.pasid, PASID_CONTROL),
    ];
    for (at, control) in off.into_iter().filter(|&(at, _)| at != 0) {
        config.write_half(function, at + control, 0);
    }
    if offsets.acs != 0 {
        let wanted = config.read_half(function, offsets.acs + ACS_CAPABILITY) & ACS_WANTED;
        config.write_half(function, offsets.acs + ACS_CONTROL, wanted);
    }
}

/// Which parts of access control are on: bits of the ACS Control register, 0 without the capability.
pub fn access_control(config: &impl ConfigAccess, function: &Function) -> u16 {
    match function.offsets.acs {
        0 => 0,
        at => config.read_half(function.at, at + ACS_CONTROL),
    }
}

/// Makes a function a bus master, or no longer one, and returns whether it took it. When it has, all requests that it made
/// before have arrived, as they come before the answer to the read.
#[must_use]
pub fn bus_master(config: &mut impl ConfigAccess, function: Bdf, on: bool) -> bool {
    let command = config.read_half(function, COMMAND);
    let wanted = if on { command | BUS_MASTER } else { command & !BUS_MASTER };
    config.write_half(function, COMMAND, wanted);
    config.read_half(function, COMMAND) & BUS_MASTER == wanted & BUS_MASTER
}

/// Lets every bridge above a function pass memory accesses down and the function's requests up. Returns false if the way to
/// the root is not known, or a bridge did not take it.
#[must_use]
pub fn open_path(functions: &Functions, config: &mut impl ConfigAccess, function: &Function) -> bool {
    const PASS: u16 = BUS_MASTER | MEMORY_DECODE;
    let Some(path) = functions.path(function) else { return false };
    path.iter().all(|&bridge| {
        let command = config.read_half(bridge, COMMAND);
        config.write_half(bridge, COMMAND, command | PASS);
        config.read_half(bridge, COMMAND) & PASS == PASS
    })
}

/// Whether requests of the function have not been answered yet. False if it cannot tell.
pub fn is_pending(config: &impl ConfigAccess, function: &Function) -> bool {
    function.express.is_some()
        && config.read_half(function.at, function.offsets.express + DEVICE_STATUS) & TRANSACTIONS_PENDING != 0
}

/// Begins a function-level reset and returns after how many microseconds [`restore`] may be called. None, and nothing
/// happens, if the function cannot be reset, or if it has virtual functions, which are to be turned off before.
///
/// The function should be no bus master, and [`is_pending`] no longer true, or [`RESET_US`] have passed.
pub fn reset(config: &mut impl ConfigAccess, function: &Function) -> Option<u32> {
    let express = function.express.filter(|express| express.flr)?;
    if function.sriov.is_some_and(|sriov| sriov.enabled.is_some()) {
        return None;
    }
    let control = function.offsets.express + DEVICE_CONTROL;
    config.write_half(function.at, control, express.device_control | INITIATE_FLR);
    Some(RESET_US)
}

/// Gives a function back what a reset took: its addresses, the sizes of its packets, access control. It answers at its
/// memory addresses, and is quiet. Returns false, and does nothing, if it does not answer yet: try again later.
#[must_use]
pub fn restore(config: &mut impl ConfigAccess, function: &Function) -> bool {
    // Not the vendor, which a virtual function has not, and which is 1 while a function is not ready.
    if config.read(function.at, CLASS) == u32::MAX {
        return false;
    }
    if !matches!(function.kind, Kind::Virtual(_)) {
        for (number, bar) in function.bars.iter().enumerate() {
            if let Some(bar) = bar {
                // Whether it took it shows when the memory is used: nobody else answers there.
                bar::assign(config, function.at, bar::offset(BAR0, number), bar);
            }
        }
    }
    if let Some(express) = function.express {
        config.write_half(function.at, function.offsets.express + DEVICE_CONTROL, express.device_control);
    }
    confine(config, function.at, &function.offsets);
    config.write_half(function.at, COMMAND, MEMORY_DECODE | INTX_DISABLE);
    true
}
