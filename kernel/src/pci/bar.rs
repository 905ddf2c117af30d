//! Base address registers (PCI Local Bus Specification, 6.2.5.1): decoding, and measuring by writing ones.
//!
//! Only memory counts. I/O ports are never handed out and not measured.

use super::{Bdf, ConfigAccess};
use crate::firmware::memory_map::Region;

/// Base address registers of a function; of them may be fewer.
pub const BARS: usize = 6;
/// Bits of a memory register that are no address.
pub const TYPE_BITS: u32 = 0xf;
/// Of a register: I/O ports.
const IO: u32 = 1;
/// Of a memory register: width of its address, and its values.
const WIDTH: u32 = 3 << 1;
const NARROW: u32 = 0;
const WIDE: u32 = 2 << 1;
/// Of a memory register: reads have no effects.
const PREFETCHABLE: u32 = 1 << 3;
/// First address that no processor has.
const ADDRESSES_END: u64 = 1 << 52;

/// Why the memory behind a register is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A reserved width, or a register of 64 bits of which the second half is missing.
    Type,
    /// Not a power of two, larger than every address, or not to be found out as the address is fixed.
    Size,
    /// Its address is not a multiple of its size.
    Alignment,
    /// Firmware gave it no address.
    Unassigned,
    /// It did not take its old value back after it was measured.
    Unstable,
    /// It overlaps memory or registers of the platform.
    Platform,
    /// It is outside the window of the bridge above it, or nobody knows which bridge that is.
    Window,
    /// It overlaps another register's memory, shares a page with another function, or lies in a window of a bridge that is
    /// not above it.
    Shared,
    /// The function has an MSI-X capability that makes no sense, so that the pages with its table are not known.
    MsixTable,
    /// The function has memory besides that of its registers (Enhanced Allocation).
    EnhancedAllocation,
    /// There are functions that the table has no room for, and nobody knows where their memory is.
    UnknownNeighbours,
}

/// One register, or two that are one of 64 bits: the first then, and the second is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The memory; of a register of virtual functions at first that of one, without an address.
    pub region: Region,
    /// 64 bits of address.
    pub wide: bool,
    /// Reads have no effects.
    pub prefetchable: bool,
    /// Why it is not handed out, if it isn't.
    pub refused: Option<Refusal>,
}

impl Bar {
    /// Notes why it is not handed out, unless there is a reason already.
    pub fn refuse(&mut self, why: Refusal) {
        self.refused = self.refused.or(Some(why));
    }
}

/// Offset of a register from the first on.
pub const fn offset(first: u16, number: usize) -> u16 {
    first + number as u16 * 4
}

/// Measures `count` registers, at most [`BARS`], from offset `first` on. The function must not decode memory meanwhile.
/// The registers are then as they were.
pub fn measure(config: &mut impl ConfigAccess, function: Bdf, first: u16, count: usize) -> [Option<Bar>; BARS] {
    let mut bars = [None; BARS];
    let mut is_upper_half = false;
    for (number, place) in bars.iter_mut().enumerate().take(count) {
        if core::mem::take(&mut is_upper_half) {
            continue;
        }
        let at = offset(first, number);
        let low = config.read(function, at);
        if low & IO != 0 {
            continue;
        }
        is_upper_half = low & WIDTH == WIDE;
        let has_upper_half = is_upper_half && number + 1 < count;
        let (mask, mut stable) = probe(config, function, at, low);
        let mut bar = Bar {
            region: Region::of(u64::from(low & !TYPE_BITS), 0),
            wide: has_upper_half,
            prefetchable: low & PREFETCHABLE != 0,
            refused: None,
        };
        let mut writable = u64::from(mask & !TYPE_BITS);
        if has_upper_half {
            let high = config.read(function, at + 4);
            let (mask, stable_high) = probe(config, function, at + 4, high);
            stable &= stable_high;
            writable |= u64::from(mask) << 32;
            bar.region.start |= u64::from(high) << 32;
        } else if writable != 0 {
            writable |= u64::from(u32::MAX) << 32;
        }
        if writable == 0 && bar.region.start == 0 {
            continue;
        }
        let is_fixed = writable == 0;
        // An address that cannot be changed: its memory is at most as large as the address is aligned.
        let bytes = 1 << if is_fixed { bar.region.start.trailing_zeros() } else { writable.trailing_zeros() };
        let is_known = matches!(low & WIDTH, NARROW | WIDE) && has_upper_half == is_upper_half;
        bar.region = Region::of(bar.region.start, bytes);
        bar.refused = match bar.region {
            _ if !is_known => Some(Refusal::Type),
            _ if !stable => Some(Refusal::Unstable),
            _ if is_fixed || (!writable).wrapping_add(1) != bytes || bytes > ADDRESSES_END / 2 => Some(Refusal::Size),
            region if !region.start.is_multiple_of(bytes) => Some(Refusal::Alignment),
            region if region.start == 0 => Some(Refusal::Unassigned),
            region if region.end > ADDRESSES_END => Some(Refusal::Size),
            _ => None,
        };
        *place = Some(bar);
    }
    bars
}

/// Which bits of a register can be written, and whether it took its old value back.
fn probe(config: &mut impl ConfigAccess, function: Bdf, at: u16, old: u32) -> (u32, bool) {
    let [ones, zeros, back] = [u32::MAX, 0, old].map(|value| {
        config.write(function, at, value);
        config.read(function, at)
    });
    (ones & !zeros, back == old)
}

/// Writes an address into a register, both halves of a wide one, and returns whether it took it.
pub fn assign(config: &mut impl ConfigAccess, function: Bdf, at: u16, bar: &Bar) -> bool {
    config.write(function, at, bar.region.start as u32);
    let mut taken = config.read(function, at) & !TYPE_BITS == bar.region.start as u32;
    if bar.wide {
        let high = (bar.region.start >> 32) as u32;
        config.write(function, at + 4, high);
        taken &= config.read(function, at + 4) == high;
    }
    taken
}
