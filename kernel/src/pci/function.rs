//! What is remembered of a function.

use super::Bdf;
use super::bar::{BARS, Bar};
use super::capability::Offsets;
use super::express::Express;
use super::msix::Msix;
use super::sriov::Sriov;
use super::window::Windows;
use crate::firmware::memory_map::Region;
use crate::types::Hpa;

/// Bytes of the pages in which memory is handed out.
const PAGE: u64 = 4096;

/// What kind of function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a header of type 0.
    Endpoint,
    /// It has a header of type 1 with bus numbers that make sense.
    Bridge(Bridge),
    /// A virtual function of this one.
    Virtual(Bdf),
    /// None of these. Nothing of it is used.
    Other,
}

/// A bridge between two buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus right below it: higher than its own.
    pub secondary: u8,
    /// The highest bus below it.
    pub subordinate: u8,
    /// What addresses it passes on downwards.
    pub windows: Windows,
}

/// What is above a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// The root complex.
    Root,
    /// A bridge.
    Bridge(Bdf),
    /// Several bridges claim its bus, or claim it without being right above.
    Unclear,
}

/// A function that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its address.
    pub at: Bdf,
    /// Vendor ID; of a virtual function that of the physical one.
    pub vendor: u16,
    /// Device ID; of a virtual function that which the physical one tells.
    pub device: u16,
    /// Class code: base class in bits 23 to 16, subclass, programming interface.
    pub class: u32,
    /// What kind it is.
    pub kind: Kind,
    /// What is above it.
    pub above: Above,
    /// Its memory.
    pub bars: [Option<Bar>; BARS],
    /// Where its capabilities are.
    pub offsets: Offsets,
    /// The PCI Express capability.
    pub express: Option<Express>,
    /// The MSI-X capability.
    pub msix: Option<Msix>,
    /// The SR-IOV capability.
    pub sriov: Option<Sriov>,
}

/// Memory of a function that can be handed out, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Number of its register.
    pub bar: u8,
    /// Where it is: whole pages.
    pub region: Region,
    /// Pages with the MSI-X table and its pending bits, both of the function as a whole: they may be in other memory. Empty
    /// if there is no table.
    pub withheld: [Region; 2],
}

impl DeviceMemory {
    /// Whether the page at this address is in the memory, and not withheld.
    pub fn gives(&self, page: Hpa) -> bool {
        let page = Region::of(page.get() & !(PAGE - 1), PAGE);
        self.region.overlaps(page) && !self.withheld.iter().any(|region| region.overlaps(page))
    }
}

impl Function {
    /// The memory that can be handed out.
    pub fn memory(&self) -> impl Iterator<Item = DeviceMemory> + '_ {
        const NONE: Region = Region { start: 0, end: 0 };
        let withheld = match &self.msix {
            None => Some([NONE; 2]),
            // Without its place nothing is given; that was refused before.
            Some(msix) => msix.pages(&self.bars),
        };
        let usable = move |(number, bar): (usize, &Option<Bar>)| {
            let bar = (*bar).filter(|bar| bar.refused.is_none())?;
            Some(DeviceMemory { bar: number as u8, region: bar.region.rounded_outwards(PAGE), withheld: withheld? })
        };
        self.bars.iter().enumerate().filter_map(usable)
    }

    /// The bridge that it is, if it is one.
    pub fn bridge(&self) -> Option<&Bridge> {
        match &self.kind {
            Kind::Bridge(bridge) => Some(bridge),
            Kind::Endpoint | Kind::Virtual(_) | Kind::Other => None,
        }
    }
}
