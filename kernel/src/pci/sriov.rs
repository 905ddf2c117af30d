//! The SR-IOV capability (PCI Express Base Specification, 9.3.3): how many virtual functions a function can have, where
//! they are, and how large their memory is.

use super::bar::{self, BARS, Bar, Refusal};
use super::capability::Offsets;
use super::{Bdf, ConfigAccess};

/// SR-IOV Control, 16 bits, from the capability on.
const CONTROL: u16 = 0x08;
/// Of SR-IOV Control: there are virtual functions.
const VF_ENABLE: u16 = 1;
/// Of SR-IOV Control: they answer at memory addresses.
const VF_MEMORY_DECODE: u16 = 1 << 3;
const INITIAL_VFS: u16 = 0x0c;
const TOTAL_VFS: u16 = 0x0e;
const NUM_VFS: u16 = 0x10;
const FIRST_VF_OFFSET: u16 = 0x14;
const VF_STRIDE: u16 = 0x16;
const VF_DEVICE_ID: u16 = 0x1a;
const SUPPORTED_PAGE_SIZES: u16 = 0x1c;
const SYSTEM_PAGE_SIZE: u16 = 0x20;
/// Of the two registers of page sizes: 4 KiB.
const PAGES_OF_4_KIB: u32 = 1;
/// First base address register of the virtual functions, from the capability on.
pub const VF_BAR0: u16 = 0x24;

/// Virtual functions that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// How many.
    pub count: u16,
    /// The first.
    pub first: Bdf,
}

/// What the capability says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sriov {
    /// Offset of the capability.
    pub at: u16,
    /// Most virtual functions that may be enabled.
    pub max: u16,
    /// From the routing id of the function to that of the first virtual one.
    pub first_offset: u16,
    /// From a virtual function to the next.
    pub stride: u16,
    /// Device ID of the virtual functions.
    pub device: u16,
    /// Memory of each virtual function; once they are enabled, that of the first, which the others' follows.
    pub bars: [Option<Bar>; BARS],
    /// The virtual functions that are there.
    pub enabled: Option<Enabled>,
}

impl Sriov {
    /// Turns virtual functions off and reads the capability, if there is one. None, too, if firmware had them on (they need
    /// a second to go away), if they do not do pages of 4 KiB, or if there are none.
    pub fn take(config: &mut impl ConfigAccess, function: Bdf, offsets: &Offsets) -> Option<Sriov> {
        let at = Some(offsets.sriov).filter(|&at| at != 0)?;
        let were_on = config.read_half(function, at + CONTROL) & VF_ENABLE != 0;
        // Also off: memory, migration, and ARI, so that the routing ids are those of a hierarchy that knows none.
        config.write_half(function, at + CONTROL, 0);
        if were_on || config.read(function, at + SUPPORTED_PAGE_SIZES) & PAGES_OF_4_KIB == 0 {
            return None;
        }
        config.write(function, at + SYSTEM_PAGE_SIZE, PAGES_OF_4_KIB);
        for number in 0..BARS {
            config.write(function, bar::offset(at + VF_BAR0, number), 0);
        }
        let mut bars = bar::measure(config, function, at + VF_BAR0, BARS);
        for bar in bars.iter_mut().flatten() {
            // They get their addresses later.
            bar.refused = bar.refused.filter(|&why| why != Refusal::Unassigned);
        }
        let max = config.read_half(function, at + INITIAL_VFS).min(config.read_half(function, at + TOTAL_VFS));
        // Offset and stride may depend on the number; `start` sees whether they are the same then.
        config.write_half(function, at + NUM_VFS, max);
        (max != 0).then(|| Sriov {
            at,
            max,
            first_offset: config.read_half(function, at + FIRST_VF_OFFSET),
            stride: config.read_half(function, at + VF_STRIDE),
            device: config.read_half(function, at + VF_DEVICE_ID),
            bars,
            enabled: None,
        })
    }

    /// Routing id of virtual function `index` of `physical`; none behind the last bus.
    pub fn routing_id(&self, physical: Bdf, index: u16) -> Option<Bdf> {
        let distance = self.stride.checked_mul(index)?.checked_add(self.first_offset)?;
        physical.id().checked_add(distance).map(Bdf::from_id)
    }

    /// Enables `count` virtual functions with their memory at `bars`. Returns whether the function took all of it; if not,
    /// they are off again.
    pub fn start(&self, config: &mut impl ConfigAccess, physical: Bdf, count: u16, bars: &[Option<Bar>; BARS]) -> bool {
        const ON: u16 = VF_ENABLE | VF_MEMORY_DECODE;
        config.write_half(physical, self.at + CONTROL, 0);
        config.write(physical, self.at + SYSTEM_PAGE_SIZE, PAGES_OF_4_KIB);
        config.write_half(physical, self.at + NUM_VFS, count);
        let mut taken = config.read_half(physical, self.at + NUM_VFS) == count
            && config.read(physical, self.at + SYSTEM_PAGE_SIZE) == PAGES_OF_4_KIB
            && config.read_half(physical, self.at + FIRST_VF_OFFSET) == self.first_offset
            // A single one has no stride.
            && (count == 1 || config.read_half(physical, self.at + VF_STRIDE) == self.stride);
        for (number, bar) in bars.iter().enumerate() {
            if let Some(bar) = bar {
                taken &= bar::assign(config, physical, bar::offset(self.at + VF_BAR0, number), bar);
            }
        }
        if taken {
            config.write_half(physical, self.at + CONTROL, ON);
            taken = config.read_half(physical, self.at + CONTROL) & ON == ON;
        }
        if !taken {
            self.stop(config, physical);
        }
        taken
    }

    /// Turns the virtual functions off.
    pub fn stop(&self, config: &mut impl ConfigAccess, physical: Bdf) {
        config.write_half(physical, self.at + CONTROL, 0);
        // Read back: it has arrived.
        config.read_half(physical, self.at + CONTROL);
    }
}
