//! The table of functions, and the walk that fills it.
//!
//! Every bus is visited, at most 256: there may be several root buses, and no bridge leads from one to the next.

use super::bar::{self, BARS, Bar, Refusal};
use super::capability::Offsets;
use super::express::Express;
use super::function::{Above, Bridge, Function, Kind};
use super::msix::Msix;
use super::registers::{
    BAR0, BRIDGE_ROM, BUS_NUMBERS, CLASS, COMMAND, HEADER_TYPE, HOST_BRIDGE, ID, MEMORY_DECODE, MULTI_FUNCTION,
    NO_VENDOR, ROM, ROM_ENABLE,
};
use super::sriov::Sriov;
use super::window::Windows;
use super::{Bdf, ConfigAccess, control};
use crate::firmware::memory_map::Region;
use core::ops::RangeInclusive;
use heapless::Vec;

/// Most functions that are remembered, virtual ones included.
pub const MAX_FUNCTIONS: usize = 256;
/// Most ranges of the platform that are remembered.
pub const MAX_PLATFORM: usize = 192;
/// Most bridges above a function whose way to the root is followed.
pub const MAX_DEPTH: usize = 8;

/// The bridges above a function, the one right above it first.
pub type Path = Vec<Bdf, MAX_DEPTH>;

/// The functions of segment 0.
pub struct Functions {
    pub(super) list: Vec<Function, MAX_FUNCTIONS>,
    pub(super) platform: Vec<Region, MAX_PLATFORM>,
    left_out: usize,
    /// Everything that claims memory is known: each function, and all ranges of the platform.
    pub(super) all_known: bool,
}

impl Default for Functions {
    fn default() -> Self {
        Functions::new()
    }
}

impl Functions {
    /// None yet.
    pub const fn new() -> Functions {
        Functions { list: Vec::new(), platform: Vec::new(), left_out: 0, all_known: false }
    }

    /// Finds the functions of these buses, makes each of them quiet, and measures what they have. `platform` is all that
    /// devices must not be given: memory, what firmware has reserved, and registers of the platform.
    ///
    /// This is for the boot, once: what the table had before is forgotten.
    pub fn enumerate(
        &mut self,
        config: &mut impl ConfigAccess,
        buses: RangeInclusive<u8>,
        platform: impl IntoIterator<Item = Region>,
    ) {
        self.list.clear();
        self.platform.clear();
        self.left_out = 0;
        self.all_known = platform.into_iter().all(|region| self.platform.push(region).is_ok());
        walk(config, buses, |config, at, header| {
            let function = identify(config, at, header);
            if self.list.push(function).is_err() {
                self.left_out += 1;
            }
        });
        for index in 0..self.list.len() {
            let above = self.list.get(index).map(|function| self.above(function.at.bus()));
            if let (Some(above), Some(function)) = (above, self.list.get_mut(index)) {
                function.above = above;
                measure(config, function);
            }
        }
        self.all_known &= self.left_out == 0;
        self.refuse();
    }

    /// The functions, in ascending order of their addresses; virtual ones after these.
    pub fn iter(&self) -> impl Iterator<Item = &Function> + Clone {
        self.list.iter()
    }

    /// The function with this address.
    pub fn get(&self, at: Bdf) -> Option<&Function> {
        self.list.iter().find(|function| function.at == at)
    }

    /// How many functions were made quiet, but had no room in the table. If there are any, nothing is handed out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The bridges from a function up to the root. None if that way is not clear: buses whose bridges contradict each
    /// other, or more than [`MAX_DEPTH`] bridges.
    pub fn path(&self, function: &Function) -> Option<Path> {
        let mut path = Path::new();
        let (mut above, mut highest) = (function.above, function.at.bus());
        // Ends: the bus of a bridge is lower than the one below it, and the path is full some time.
        loop {
            match above {
                Above::Root => return Some(path),
                Above::Unclear => return None,
                Above::Bridge(at) => {
                    let function = self.get(at)?;
                    let bridge = function.bridge().filter(|bridge| highest <= bridge.subordinate)?;
                    path.push(at).ok()?;
                    (above, highest) = (function.above, bridge.subordinate);
                }
            }
        }
    }

    pub(super) fn get_mut(&mut self, at: Bdf) -> Option<&mut Function> {
        self.list.iter_mut().find(|function| function.at == at)
    }

    fn above(&self, bus: u8) -> Above {
        let bridges = self.list.iter().filter_map(|function| Some((function.at, function.bridge()?)));
        let mut right_above = bridges.clone().filter(|(_, bridge)| bridge.secondary == bus);
        match (right_above.next(), right_above.next()) {
            (Some((at, _)), None) => Above::Bridge(at),
            (Some(_), Some(_)) => Above::Unclear,
            (None, _) if bridges.clone().any(|(_, bridge)| (bridge.secondary..=bridge.subordinate).contains(&bus)) => {
                Above::Unclear
            }
            (None, _) => Above::Root,
        }
    }

    /// Refuses memory that must not be handed out.
    fn refuse(&mut self) {
        for index in 0..self.list.len() {
            for number in 0..BARS {
                let Some(function) = self.list.get(index) else { continue };
                let unknown = (!self.all_known).then_some(Refusal::UnknownNeighbours);
                let why = unknown.or_else(|| self.refusal(function, number));
                let bar = self.list.get_mut(index).and_then(|function| function.bars.get_mut(number)?.as_mut());
                if let (Some(why), Some(bar)) = (why, bar) {
                    bar.refuse(why);
                }
            }
        }
    }
}

/// Makes every function of these buses quiet without remembering any; returns how many there are.
pub fn silence(config: &mut impl ConfigAccess, buses: RangeInclusive<u8>) -> usize {
    let mut seen = 0;
    walk(config, buses, |config, at, _| {
        take(config, at);
        seen += 1;
    });
    seen
}

/// Calls `visit` with every function of these buses, and its header type, after it was made quiet.
fn walk<C: ConfigAccess>(config: &mut C, buses: RangeInclusive<u8>, mut visit: impl FnMut(&mut C, Bdf, u8)) {
    // On an absent bus that is one read for each of 32 devices.
    for bus in buses {
        for device in 0..32 {
            for function in 0..8 {
                let at = Bdf::new(bus, device, function);
                if config.read_half(at, ID) == NO_VENDOR {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                control::quiet(config, at);
                let header = config.read_byte(at, HEADER_TYPE);
                visit(config, at, header);
                if function == 0 && header & MULTI_FUNCTION == 0 {
                    break;
                }
            }
        }
    }
}

/// Confines a function and reads its capabilities.
pub(super) fn take(config: &mut impl ConfigAccess, at: Bdf) -> (Offsets, Option<Express>, Option<Msix>, Option<Sriov>) {
    let offsets = Offsets::find(config, at);
    control::confine(config, at, &offsets);
    let msix = Msix::take(config, at, &offsets);
    (offsets, Express::take(config, at, &offsets), msix, Sriov::take(config, at, &offsets))
}

/// All but the memory, and what is above.
fn identify(config: &mut impl ConfigAccess, at: Bdf, header: u8) -> Function {
    let [vendor, device] = [ID, ID + 2].map(|offset| config.read_half(at, offset));
    let numbers = config.read(at, BUS_NUMBERS);
    let (secondary, subordinate) = ((numbers >> 8) as u8, (numbers >> 16) as u8);
    let kind = match header & !MULTI_FUNCTION {
        0 => Kind::Endpoint,
        1 if at.bus() < secondary && secondary <= subordinate => {
            Kind::Bridge(Bridge { secondary, subordinate, windows: Windows::read(config, at) })
        }
        _ => Kind::Other,
    };
    let rom = match header & !MULTI_FUNCTION {
        0 => Some(ROM),
        1 => Some(BRIDGE_ROM),
        _ => None,
    };
    if let Some(offset) = rom {
        // Its addresses are not looked at, so it must not answer there.
        let value = config.read(at, offset);
        config.write(at, offset, value & !ROM_ENABLE);
    }
    let (offsets, express, msix, sriov) = take(config, at);
    // Bridges have none, and of their header the rest means something else.
    let sriov = sriov.filter(|_| kind == Kind::Endpoint);
    let class = config.read(at, CLASS) >> 8;
    let above = Above::Unclear;
    Function { at, vendor, device, class, kind, above, bars: [None; BARS], offsets, express, msix, sriov }
}

/// Measures the memory of a function, which answers nowhere meanwhile.
fn measure(config: &mut impl ConfigAccess, function: &mut Function) {
    let count = match function.kind {
        // The processor's way to everything else would be cut off meanwhile.
        Kind::Endpoint if function.class >> 8 == HOST_BRIDGE => 0,
        Kind::Endpoint => BARS,
        Kind::Bridge(_) => 2,
        Kind::Virtual(_) | Kind::Other => 0,
    };
    if count == 0 {
        return;
    }
    let command = config.read_half(function.at, COMMAND);
    config.write_half(function.at, COMMAND, command & !MEMORY_DECODE);
    function.bars = bar::measure(config, function.at, BAR0, count);
    config.write_half(function.at, COMMAND, command);
    refuse_all(function);
}

/// Refuses the memory of a function that has more than its registers tell, or whose MSI-X table is who knows where.
pub(super) fn refuse_all(function: &mut Function) {
    let why = if function.offsets.enhanced_allocation != 0 {
        Refusal::EnhancedAllocation
    } else if function.msix.is_some_and(|msix| msix.pages(&function.bars).is_none()) {
        Refusal::MsixTable
    } else {
        return;
    };
    function.bars.iter_mut().flatten().for_each(|bar: &mut Bar| bar.refuse(why));
}
