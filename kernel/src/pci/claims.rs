//! Who claims which addresses: the platform, the memory behind the registers of all functions, and the windows of the bridges.

use super::bar::{Bar, Refusal};
use super::enumerate::{Functions, Path};
use super::function::Function;
use crate::firmware::memory_map::Region;

/// Bytes of the pages in which memory is handed out.
const PAGE: u64 = 4096;
/// Where IOAPICs, timers, local APICs, messages and firmware have their addresses on every PC. No device's memory is there.
pub const PLATFORM: Region = Region { start: 0xfec0_0000, end: 1 << 32 };
/// What was all memory of the first PC, with its holes for devices.
const FIRST_MIB: Region = Region { start: 0, end: 1 << 20 };

impl Functions {
    /// All that the platform, functions and bridges claim, in whole pages, but the windows of the bridges of this path. What was refused
    /// counts: the device answers there nevertheless.
    pub(super) fn claims<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = Region> + Clone + 'a {
        let of_function = move |function: &'a Function| {
            let bridge = function.bridge().filter(|_| !path.contains(&function.at));
            let windows = bridge.map(|bridge| [bridge.windows.memory, bridge.windows.prefetchable]);
            own(function).chain(windows.into_iter().flatten()).filter(|region| region.bytes() != 0)
        };
        self.list.iter().flat_map(of_function).chain(self.platform.iter().copied())
    }

    /// Why the memory behind a register must not be handed out, as far as its surroundings say.
    pub(super) fn refusal(&self, function: &Function, number: usize) -> Option<Refusal> {
        let bar = (*function.bars.get(number)?)?;
        let pages = bar.region.rounded_outwards(PAGE);
        if self.platform.iter().copied().chain([PLATFORM, FIRST_MIB]).any(|region| region.overlaps(pages)) {
            return Some(Refusal::Platform);
        }
        let Some(path) = self.path(function) else { return Some(Refusal::Window) };
        let windows = |bridge| Some(self.get(bridge)?.bridge()?.windows);
        if !path.iter().filter_map(|&bridge| windows(bridge)).all(|windows| windows.contain(pages)) {
            return Some(Refusal::Window);
        }
        let other_bars = function.bars.iter().enumerate().filter(|&(other, _)| other != number);
        let overlaps_own = other_bars.filter_map(|(_, bar)| *bar).any(|other| other.region.overlaps(bar.region));
        let others = self.list.iter().filter(|other| other.at != function.at);
        let overlaps_others = others.clone().flat_map(own).any(|region| region.overlaps(pages));
        let elsewhere = others.filter(|other| !path.contains(&other.at)).filter_map(Function::bridge);
        let overlaps_windows = elsewhere
            .flat_map(|bridge| [bridge.windows.memory, bridge.windows.prefetchable])
            .any(|window| window.overlaps(pages));
        (overlaps_own || overlaps_others || overlaps_windows).then_some(Refusal::Shared)
    }

    /// From the lowest to the highest address below 4 GiB at which firmware has put memory of devices. Between them nothing
    /// but such memory is assumed, besides what the platform's tables name.
    pub(super) fn hole(&self) -> Option<Region> {
        let windows = self.list.iter().filter_map(Function::bridge).map(|bridge| bridge.windows.memory);
        let bars = self.list.iter().flat_map(|function| function.bars.iter().flatten());
        let bars = bars.filter(|bar| bar.refused.is_none()).map(|bar| bar.region);
        let known = windows
            .chain(bars)
            .filter(|region| region.bytes() != 0 && region.start >= FIRST_MIB.end && region.end <= PLATFORM.start);
        known.reduce(|all, region| Region { start: all.start.min(region.start), end: all.end.max(region.end) })
    }
}

/// The memory of a function, and that of all of its virtual functions.
fn own(function: &Function) -> impl Iterator<Item = Region> + Clone + '_ {
    let pages = |bar: &Bar| bar.region.rounded_outwards(PAGE);
    let virtual_bars = function.sriov.as_ref().and_then(|sriov| Some((sriov.enabled?.count, &sriov.bars)));
    let of_all = |(count, bars): (u16, &'_ [Option<Bar>; 6])| {
        bars.map(|bar| bar.map(|bar| Region::of(bar.region.start, bar.region.bytes().saturating_mul(count.into()))))
    };
    let virtual_regions = virtual_bars.map(of_all).into_iter().flatten().flatten();
    // Address 0 is memory, which no bridge passes on.
    let assigned = function.bars.iter().flatten().filter(|bar| bar.region.start != 0);
    assigned.map(pages).chain(virtual_regions)
}
