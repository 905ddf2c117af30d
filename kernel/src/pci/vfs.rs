//! Virtual functions (PCI Express Base Specification, chapter 9): firmware gives them no addresses, so they get theirs here.
//!
//! [`plan`] checks everything and changes nothing; [`enable`] does what it says, [`start`] takes each function up once it
//! had time to appear, and [`disable`] ends them all.
//!
//! The memory goes into the window of the bridge right above for memory of any kind, below 4 GiB, where prefetchable memory
//! may lie too. If there is no room, this window grows at its ends, and those of the bridges above with it, into addresses
//! that nobody claims. Such addresses are sought between the lowest and the highest at which firmware has put memory of
//! devices below 4 GiB: that all between them leads to devices, or is named by the platform's tables, is assumed.

use super::bar::{BARS, Bar};
use super::enumerate::{self, Functions, MAX_DEPTH, MAX_FUNCTIONS, MAX_PLATFORM, Path};
use super::function::{Function, Kind};
use super::registers::{CLASS, COMMAND, MEMORY_DECODE};
use super::sriov::{Enabled, Sriov};
use super::window::{self, GRANULE};
use super::{Bdf, ConfigAccess, control};
use crate::firmware::memory_map::Region;
use heapless::Vec;

/// Microseconds that virtual functions have to appear (PCI Express Base Specification, 9.3.3.3.1).
pub const ENABLE_US: u32 = 100_000;
/// Microseconds after which virtual functions are gone (as above).
pub const DISABLE_US: u32 = 1_000_000;
/// Bytes of the pages in which memory is handed out; a virtual function's memory is never smaller.
const PAGE: u64 = 4096;
/// Most claims that a search goes past; each function and bridge has at most 14.
const MAX_CLAIMS: usize = 14 * MAX_FUNCTIONS + MAX_PLATFORM;

/// Why there can be no such virtual functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// There is no such function, or it has no virtual ones to offer.
    NoSriov,
    /// It has virtual functions already.
    Enabled,
    /// None, or more than it offers.
    Count,
    /// The registers of their memory make no sense, or that memory is smaller than a page.
    Memory,
    /// The way from the function to the root is not clear.
    Path,
    /// They would be on buses that the bridge above does not lead to, or where somebody else is.
    RoutingIds,
    /// Nowhere is there room for their memory.
    NoRoom,
    /// The table of functions has no room for them, or there was none for all that is there.
    TableFull,
}

/// Virtual functions that can be enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whose they are.
    pub physical: Bdf,
    /// How many.
    pub count: u16,
    /// The first.
    pub first: Bdf,
    /// Memory of the first.
    pub bars: [Option<Bar>; BARS],
    /// Windows that grow, from the bridge right above upwards.
    pub windows: Vec<(Bdf, Region), MAX_DEPTH>,
}

/// Chooses addresses for `count` virtual functions of `physical`.
///
/// # Errors
/// As [`PlanError`] says.
pub fn plan(functions: &Functions, physical: Bdf, count: u16) -> Result<Plan, PlanError> {
    let function = functions.get(physical).ok_or(PlanError::NoSriov)?;
    let sriov = function.sriov.as_ref().ok_or(PlanError::NoSriov)?;
    if sriov.enabled.is_some() {
        return Err(PlanError::Enabled);
    }
    if count == 0 || count > sriov.max {
        return Err(PlanError::Count);
    }
    if !functions.all_known || functions.list.len() + usize::from(count) > MAX_FUNCTIONS {
        return Err(PlanError::TableFull);
    }
    let path = functions.path(function).ok_or(PlanError::Path)?;
    let first = routing_ids(functions, function, sriov, count, &path)?;
    let unusable = |bar: &Bar| bar.refused.is_some() || bar.region.bytes() < PAGE;
    if sriov.bars.iter().flatten().any(unusable) {
        return Err(PlanError::Memory);
    }
    let sizes = sriov.bars.iter().flatten().map(|bar| bar.region.bytes());
    let align = sizes.clone().max().unwrap_or(PAGE);
    let bytes = sizes
        .map(|bytes| bytes.checked_mul(count.into()))
        .try_fold(0, |sum: u64, bytes| sum.checked_add(bytes?))
        .ok_or(PlanError::NoRoom)?;
    let mut plan = Plan { physical, count, first, bars: sriov.bars, windows: Vec::new() };
    if bytes != 0 {
        let space = Space { functions, path: &path };
        let memory = space.find(bytes, align).ok_or(PlanError::NoRoom)?;
        plan.windows = space.widen(memory).ok_or(PlanError::NoRoom)?;
        place(&mut plan.bars, memory.start, count);
    }
    Ok(plan)
}

/// Gives the registers their addresses: one behind the other, the largest first, so that each is aligned.
fn place(bars: &mut [Option<Bar>; BARS], mut at: u64, count: u16) {
    let mut order: [usize; BARS] = core::array::from_fn(|number| number);
    order.sort_unstable_by_key(|&number| {
        let bytes = bars.get(number).and_then(|bar| Some(bar.as_ref()?.region.bytes()));
        (core::cmp::Reverse(bytes), number)
    });
    for number in order {
        if let Some(Some(bar)) = bars.get_mut(number) {
            let bytes = bar.region.bytes();
            bar.region = Region::of(at, bytes);
            at = bar.region.start.saturating_add(bytes.saturating_mul(count.into()));
        }
    }
}

/// The first of the routing ids, all of which the bridge above leads to, and which nobody has.
fn routing_ids(
    functions: &Functions,
    function: &Function,
    sriov: &Sriov,
    count: u16,
    path: &Path,
) -> Result<Bdf, PlanError> {
    let bridge = path.first().and_then(|&at| functions.get(at)?.bridge());
    let own = function.at.bus();
    let buses = bridge.map_or(own..=own, |bridge| bridge.secondary..=bridge.subordinate);
    let is_free = |at: Bdf| {
        let led_to = buses.contains(&at.bus())
            // A bus further down may be that of another bridge.
            && (at.bus() == own || !functions.iter().filter_map(Function::bridge).any(|other| {
                other.secondary > own && (other.secondary..=other.subordinate).contains(&at.bus())
            }));
        led_to && functions.get(at).is_none() && !is_promised(functions, at)
    };
    if sriov.first_offset == 0 || (count > 1 && sriov.stride == 0) {
        return Err(PlanError::RoutingIds);
    }
    let ids = || (0..count).map(|index| sriov.routing_id(function.at, index));
    let first = ids().next().flatten().ok_or(PlanError::RoutingIds)?;
    ids().all(|at| at.is_some_and(is_free)).then_some(first).ok_or(PlanError::RoutingIds)
}

/// Whether a virtual function that is enabled has this address, whether or not it was started.
fn is_promised(functions: &Functions, at: Bdf) -> bool {
    functions.iter().any(|function| {
        let enabled = function.sriov.as_ref().and_then(|sriov| Some((sriov, sriov.enabled?)));
        enabled.is_some_and(|(sriov, Enabled { count, .. })| {
            (0..count).any(|index| sriov.routing_id(function.at, index) == Some(at))
        })
    })
}

/// Where memory for a function may be sought.
struct Space<'a> {
    functions: &'a Functions,
    path: &'a Path,
}

impl Space<'_> {
    fn window(&self, bridge: Bdf) -> Region {
        self.functions.get(bridge).and_then(Function::bridge).map_or(Region::of(0, 0), |bridge| bridge.windows.memory)
    }

    /// So many free bytes: in the window above, else where it can grow to.
    fn find(&self, bytes: u64, align: u64) -> Option<Region> {
        let windows = self.path.iter().map(|&bridge| self.window(bridge));
        let above = windows.clone().find(|window| window.bytes() != 0);
        // Bridges without a window get one of their own.
        let without = windows.take_while(|window| window.bytes() == 0).count();
        let unit = if without == 0 { 1 } else { GRANULE };
        let (bytes, align) = (bytes.checked_next_multiple_of(unit)?, align.max(unit));
        let hole = self.functions.hole()?;
        let Some(window) = above else { return self.first_free(hole, bytes, align) };
        let below = self.functions.claims(self.path).filter(|claim| claim.end <= window.start).map(|claim| claim.end);
        let behind =
            self.functions.claims(self.path).filter(|claim| claim.start >= window.end).map(|claim| claim.start);
        let start = below.fold(hole.start, u64::max).checked_next_multiple_of(GRANULE)?.min(window.start);
        let end = (behind.fold(hole.end, u64::min) & !(GRANULE - 1)).max(window.end);
        // The less a window grows, the better: upwards before downwards.
        [window, Region { start: window.start, end }, Region { start, end }]
            .into_iter()
            .find_map(|within| self.first_free(within, bytes, align))
    }

    /// The first so many bytes that nobody claims.
    fn first_free(&self, within: Region, bytes: u64, align: u64) -> Option<Region> {
        let mut start = within.start;
        for _ in 0..MAX_CLAIMS {
            let found = Region::of(start.checked_next_multiple_of(align)?, bytes);
            if found.end > within.end {
                return None;
            }
            let in_the_way =
                self.functions.claims(self.path).filter(|claim| claim.overlaps(found)).map(|claim| claim.end).max();
            match in_the_way {
                None => return Some(found),
                // Behind it: so each claim is met once.
                Some(end) => start = end,
            }
        }
        None
    }

    /// The windows that must grow so that this memory is reached. None if one would take what others claim.
    fn widen(&self, memory: Region) -> Option<Vec<(Bdf, Region), MAX_DEPTH>> {
        let hole = self.functions.hole()?;
        let mut grown = Vec::new();
        let mut needed = memory.rounded_outwards(GRANULE);
        for &bridge in self.path {
            let window = self.window(bridge);
            if window.bytes() != 0 {
                if window.contains(needed) {
                    needed = window;
                    continue;
                }
                needed = Region { start: needed.start.min(window.start), end: needed.end.max(window.end) };
            }
            let added = if window.bytes() == 0 {
                [needed, Region::of(0, 0)]
            } else {
                [Region { start: needed.start, end: window.start }, Region { start: window.end, end: needed.end }]
            };
            let is_free = |added: &Region| {
                added.bytes() == 0
                    || hole.contains(*added) && !self.functions.claims(self.path).any(|claim| claim.overlaps(*added))
            };
            if !added.iter().all(is_free) {
                return None;
            }
            grown.push((bridge, needed)).ok()?;
        }
        Some(grown)
    }
}

/// Enables virtual functions as planned, with no change of the table in between. Returns after how many microseconds
/// [`start`] may be called; None if a bridge or the function did not take what it was told: then there are no virtual
/// functions, and windows that have grown stay so, which harms nobody.
pub fn enable(functions: &mut Functions, config: &mut impl ConfigAccess, plan: &Plan) -> Option<u32> {
    let path = functions.path(functions.get(plan.physical)?)?;
    // From the root down: a window never exceeds the one above it.
    for &(bridge, memory) in plan.windows.iter().rev() {
        if !window::set(config, bridge, memory) {
            return None;
        }
        if let Some(Function { kind: Kind::Bridge(record), .. }) = functions.get_mut(bridge) {
            record.windows.memory = memory;
        }
    }
    for bridge in path {
        let command = config.read_half(bridge, COMMAND);
        config.write_half(bridge, COMMAND, command | MEMORY_DECODE);
    }
    let sriov = functions.get_mut(plan.physical)?.sriov.as_mut()?;
    if !sriov.start(config, plan.physical, plan.count, &plan.bars) {
        return None;
    }
    sriov.bars = plan.bars;
    sriov.enabled = Some(Enabled { count: plan.count, first: plan.first });
    Some(ENABLE_US)
}

/// Takes virtual function `index` of `physical` into the table: quiet, and answering at its memory. None if there is none,
/// or it does not answer yet, or the table is full.
pub fn start(functions: &mut Functions, config: &mut impl ConfigAccess, physical: Bdf, index: u16) -> Option<Bdf> {
    let owner = functions.get(physical)?;
    let sriov = owner.sriov.as_ref().filter(|sriov| sriov.enabled.is_some_and(|enabled| index < enabled.count))?;
    let at = sriov.routing_id(physical, index)?;
    let class = config.read(at, CLASS);
    if class == u32::MAX || functions.get(at).is_some() {
        return None;
    }
    control::quiet(config, at);
    let (offsets, express, msix, _) = enumerate::take(config, at);
    // What its holder left in it could not be taken from it.
    if !express.is_some_and(|express| express.flr) {
        return None;
    }
    let own = |bar: Bar| {
        let bytes = bar.region.bytes();
        Bar { region: Region::of(bar.region.start.saturating_add(bytes.saturating_mul(index.into())), bytes), ..bar }
    };
    let mut function = Function {
        at,
        vendor: owner.vendor,
        device: sriov.device,
        class: class >> 8,
        kind: Kind::Virtual(physical),
        above: owner.above,
        bars: sriov.bars.map(|bar| bar.map(own)),
        offsets,
        express,
        msix,
        sriov: None,
    };
    enumerate::refuse_all(&mut function);
    // In the specification the bit has no meaning here; there are devices in which it has.
    let command = config.read_half(at, COMMAND);
    config.write_half(at, COMMAND, command | MEMORY_DECODE);
    functions.list.push(function).ok()?;
    Some(at)
}

/// Ends all virtual functions of `physical` and takes them out of the table. Returns after how many microseconds they are
/// gone, and others may be enabled; None if there were none.
pub fn disable(functions: &mut Functions, config: &mut impl ConfigAccess, physical: Bdf) -> Option<u32> {
    let sriov = functions.get_mut(physical)?.sriov.as_mut().filter(|sriov| sriov.enabled.is_some())?;
    sriov.stop(config, physical);
    sriov.enabled = None;
    functions.list.retain(|function| function.kind != Kind::Virtual(physical));
    Some(DISABLE_US)
}
