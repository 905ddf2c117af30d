//! The windows of a bridge (PCI-to-PCI Bridge Architecture Specification, 3.2.5.8 and 9): which addresses it passes on
//! downwards.

use super::registers::{MEMORY_WINDOW, PREFETCHABLE_BASE_UPPER, PREFETCHABLE_LIMIT_UPPER, PREFETCHABLE_WINDOW};
use super::{Bdf, ConfigAccess};
use crate::firmware::memory_map::Region;

/// Windows begin and end at multiples of so many bytes.
pub const GRANULE: u64 = 1 << 20;
/// No window.
const NONE: Region = Region { start: 0, end: 0 };
/// Of the window of prefetchable memory: its addresses have 64 bits.
const WIDE: u32 = 1;

/// The two windows for memory, each of them empty if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// For memory of any kind, below 4 GiB.
    pub memory: Region,
    /// For prefetchable memory.
    pub prefetchable: Region,
}

impl Windows {
    /// Reads both.
    pub fn read(config: &impl ConfigAccess, bridge: Bdf) -> Windows {
        let window = |low: u32, base_upper: u32, limit_upper: u32| {
            let base = u64::from(base_upper) << 32 | u64::from(low & 0xfff0) << 16;
            let limit = u64::from(limit_upper) << 32 | u64::from(low & 0xfff0_0000) | (GRANULE - 1);
            // A bridge that nobody has set up has zeros everywhere.
            if base == 0 || base > limit { NONE } else { Region { start: base, end: limit.saturating_add(1) } }
        };
        let prefetchable = config.read(bridge, PREFETCHABLE_WINDOW);
        let upper = |offset| if prefetchable & 0xf == WIDE { config.read(bridge, offset) } else { 0 };
        Windows {
            memory: window(config.read(bridge, MEMORY_WINDOW), 0, 0),
            prefetchable: window(prefetchable, upper(PREFETCHABLE_BASE_UPPER), upper(PREFETCHABLE_LIMIT_UPPER)),
        }
    }

    /// Whether one of them has all of it.
    pub fn contain(&self, region: Region) -> bool {
        self.memory.contains(region) || self.prefetchable.contains(region)
    }
}

/// Sets the window for memory of any kind, below 4 GiB and not empty, with one write. Returns whether the bridge took it.
pub fn set(config: &mut impl ConfigAccess, bridge: Bdf, memory: Region) -> bool {
    let value = (memory.end.wrapping_sub(1) as u32 & 0xfff0_0000) | (memory.start >> 16) as u32 & 0xfff0;
    config.write(bridge, MEMORY_WINDOW, value);
    config.read(bridge, MEMORY_WINDOW) & 0xfff0_fff0 == value
}
