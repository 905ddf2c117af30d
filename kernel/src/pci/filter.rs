//! What the holder of a function sees of its configuration space, and what it may change there.
//!
//! **Reads** give all but addresses of the machine: base address registers, also of virtual functions, show their type bits
//! only; the expansion ROM, messages of MSI, Enhanced Allocation and what a bridge has in its header read as zero. A virtual
//! function shows the vendor and device that the specification takes from it.
//!
//! **Writes** reach the error bits of Status and of Device Status, where a 1 clears, and Max_Read_Request_Size. Everything
//! else is refused, registers that are not known among it: what a vendor defines may be a way to any register of the
//! device. So nothing moves memory, makes a bus master, sends interrupts, resets, changes power, or enables virtual functions.

use super::bar::{BARS, TYPE_BITS};
use super::express::{DEVICE_CONTROL, DEVICE_ERRORS, INITIATE_FLR, MAX_READ_REQUEST};
use super::function::{Function, Kind};
use super::registers::{BAR0, CAPABILITIES, COMMAND, EXTENDED, HEADER_END, ID, ROM, STATUS_ERRORS};
use super::sriov::VF_BAR0;
use super::{CONFIG_BYTES, bar};

/// Highest number of Max_Read_Request_Size that is not reserved.
const LARGEST_READ_REQUEST: u32 = 5;
/// Bytes of the capabilities of MSI-X, of SR-IOV, and of those that have nothing behind two dwords but page requests.
const MSIX_BYTES: u16 = 0xc;
const SRIOV_BYTES: u16 = 0x40;
const SMALL_BYTES: u16 = 0x10;

/// What the holder reads at an offset, where the function says `value`. Ones, where there is no dword.
pub fn read(function: &Function, offset: u16, value: u32) -> u32 {
    if offset >= CONFIG_BYTES || !offset.is_multiple_of(4) {
        return u32::MAX;
    }
    match (function.kind, offset) {
        (Kind::Virtual(_), ID) => return u32::from(function.device) << 16 | u32::from(function.vendor),
        (Kind::Endpoint | Kind::Virtual(_), BAR0..ROM) => {
            if let Some(number) = register(BAR0, offset) {
                return if function.bars.get(number).is_some_and(Option::is_some) { value & TYPE_BITS } else { 0 };
            }
        }
        (Kind::Endpoint | Kind::Virtual(_), ROM) => return 0,
        (Kind::Bridge(_) | Kind::Other, BAR0..CAPABILITIES) => return 0,
        (Kind::Bridge(_) | Kind::Other, CAPABILITIES) => return value & 0xff,
        (Kind::Bridge(_) | Kind::Other, CAPABILITIES..HEADER_END) => return 0,
        _ => {}
    }
    let offsets = &function.offsets;
    let behind_head = |at: u16, bytes: u16| at != 0 && (at + 4..at.saturating_add(bytes)).contains(&offset);
    let hidden = behind_head(offsets.msi, offsets.msi_bytes) || behind_head(offsets.enhanced_allocation, EXTENDED);
    if hidden && offset < EXTENDED {
        return 0;
    }
    if offsets.sriov != 0
        && let Some(number) = register(offsets.sriov + VF_BAR0, offset)
    {
        let bars = function.sriov.as_ref().map(|sriov| &sriov.bars);
        return if bars.and_then(|bars| *bars.get(number)?).is_some() { value & TYPE_BITS } else { 0 };
    }
    value
}

/// The number of a base address register, the first of which is at `first`.
fn register(first: u16, offset: u16) -> Option<usize> {
    (0..BARS).find(|&number| bar::offset(first, number) == offset)
}

/// What is to be written at an offset if the holder writes `value` where the function says `current`: the bits that it may
/// change from `value`, the others as they are, or as zeros where a 1 would clear. None if it may change nothing, or the
/// value is reserved.
pub fn write(function: &Function, offset: u16, current: u32, value: u32) -> Option<u32> {
    // Ones are said by a function that is not there, or is not yet, and are kept by none that is.
    if matches!(function.kind, Kind::Bridge(_) | Kind::Other) || is_kernels(function, offset) || current == u32::MAX {
        return None;
    }
    /// Status and Device Status are in the high halves, and nothing but errors can be written there.
    const LOW: u32 = 0xffff;
    let express = function.offsets.express;
    if offset == COMMAND {
        return Some(current & LOW | value & u32::from(STATUS_ERRORS) << 16);
    }
    if express != 0 && offset == express + DEVICE_CONTROL {
        if (value & u32::from(MAX_READ_REQUEST)) >> MAX_READ_REQUEST.trailing_zeros() > LARGEST_READ_REQUEST {
            return None;
        }
        let kept = current & LOW & !u32::from(INITIATE_FLR | MAX_READ_REQUEST);
        return Some(kept | value & u32::from(MAX_READ_REQUEST) | value & u32::from(DEVICE_ERRORS) << 16);
    }
    None
}

/// Whether a dword belongs to a capability that is the kernel's alone, also if a function claims that another one lies there.
fn is_kernels(function: &Function, offset: u16) -> bool {
    let offsets = &function.offsets;
    let own = [
        (offsets.msi, offsets.msi_bytes),
        (offsets.msix, MSIX_BYTES),
        (offsets.enhanced_allocation, 4),
        (offsets.sriov, SRIOV_BYTES),
        (offsets.acs, SMALL_BYTES),
        (offsets.ari, SMALL_BYTES),
        (offsets.ats, SMALL_BYTES),
        (offsets.page_request, SMALL_BYTES),
        (offsets.pasid, SMALL_BYTES),
    ];
    own.into_iter().any(|(at, bytes)| at != 0 && (at..at.saturating_add(bytes)).contains(&offset))
}
