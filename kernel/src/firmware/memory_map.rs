//! Which physical memory is RAM that the kernel may hand out, and its cutting into naturally aligned blocks.
//!
//! Invariant: the regions of a [`MemoryMap`] are page-aligned, ascending and disjoint, whatever firmware said.

use super::field;
use heapless::Vec;

/// Most regions that are kept; firmware maps have about ten.
pub const MAX_REGIONS: usize = 64;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// log2 of the bytes of the largest boot Untyped, unless that makes more than [`MAX_UNTYPEDS`] of them.
const UNTYPED_BITS: u8 = 26;
/// Type of usable RAM in a table of firmware.
const RAM: u32 = 1;
/// Most Untypeds that `BootInfo` can tell of.
const MAX_UNTYPEDS: usize = 1024;

/// A range of physical memory: first byte, and first byte behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
}

impl Region {
    /// The range of so many bytes from an address on.
    pub const fn of(start: u64, bytes: u64) -> Region {
        Region { start, end: start.saturating_add(bytes) }
    }

    /// Bytes in it.
    pub const fn bytes(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether some byte is in both.
    pub const fn overlaps(self, other: Region) -> bool {
        self.start < other.end && other.start < self.end && self.bytes() != 0 && other.bytes() != 0
    }

    /// Whether all of another range is in this one.
    pub const fn contains(self, other: Region) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The smallest range around this one whose ends are multiples of `unit`, a power of two; at the end of all addresses,
    /// up to the last multiple.
    pub const fn rounded_outwards(self, unit: u64) -> Region {
        let end = match self.end.checked_next_multiple_of(unit) {
            Some(end) => end,
            None => !(unit - 1),
        };
        Region { start: self.start & !(unit - 1), end }
    }
}

/// Regions of RAM, page-aligned, ascending and disjoint.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    regions: Vec<Region, MAX_REGIONS>,
}

impl MemoryMap {
    /// Adds usable memory, rounded inwards to pages. What is known already stays known once; a region too many is left out.
    pub fn add(&mut self, start: u64, bytes: u64) {
        let end = start.saturating_add(bytes) & !(PAGE - 1);
        let Some(start) = start.checked_next_multiple_of(PAGE).filter(|&start| start < end) else { return };
        self.remove(start, end);
        let at = self.regions.partition_point(|region| region.start < start);
        let _ = self.regions.insert(at, Region { start, end });
    }

    /// Adds what a table of firmware calls RAM, and calls nothing else in another entry. PVH and Multiboot2 agree on the
    /// entries: start, bytes, type.
    pub fn add_table(&mut self, table: &[u8], entry_bytes: usize) {
        let entries = || entries(table, entry_bytes);
        entries().filter(|&(_, kind)| kind == RAM).for_each(|(region, _)| self.add(region.start, region.bytes()));
        let others = entries().filter(|&(_, kind)| kind != RAM);
        others.for_each(|(region, _)| self.remove(region.start, region.end));
    }

    /// Adds what such a table names at all, whatever it calls it, in whole pages.
    pub fn add_named(&mut self, table: &[u8], entry_bytes: usize) {
        for (region, _) in entries(table, entry_bytes) {
            let pages = region.rounded_outwards(PAGE);
            self.add(pages.start, pages.bytes());
        }
    }

    /// Takes a range out, rounded outwards to pages. One that ends before it begins is none.
    pub fn remove(&mut self, start: u64, end: u64) {
        if end <= start {
            return;
        }
        let (start, end) = (start & !(PAGE - 1), end.checked_next_multiple_of(PAGE).unwrap_or(!(PAGE - 1)));
        for Region { start: first, end: last } in core::mem::take(&mut self.regions) {
            for left in [Region { start: first, end: last.min(start) }, Region { start: first.max(end), end: last }] {
                if left.start < left.end {
                    let _ = self.regions.push(left);
                }
            }
        }
    }

    /// Takes the first `bytes` bytes (a multiple of a page) at an alignment (a power of two) from `floor` on out of the
    /// map, and returns their address.
    pub fn allocate(&mut self, bytes: u64, align: u64, floor: u64) -> Option<u64> {
        let found = self.regions.iter().find_map(|region| {
            let start = region.start.max(floor).checked_next_multiple_of(align)?;
            (start.checked_add(bytes)? <= region.end).then_some(start)
        })?;
        self.remove(found, found + bytes);
        Some(found)
    }

    /// Whether regions may have been left out.
    pub fn is_full(&self) -> bool {
        self.regions.is_full()
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.regions.iter().copied()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.regions().map(Region::bytes).sum()
    }
}

/// Entries of a table of firmware: range and type.
fn entries(table: &[u8], entry_bytes: usize) -> impl Iterator<Item = (Region, u32)> + '_ {
    table.chunks(entry_bytes).filter_map(|entry| {
        let [start, bytes] = field(entry, 0)?;
        Some((Region::of(start, bytes), field(entry, 16)?))
    })
}

/// Cuts a region into naturally aligned powers of two, each of at most 2^`max_bits` bytes, in ascending order:
/// (address, log2 of the bytes).
pub fn blocks(region: Region, max_bits: u8) -> impl Iterator<Item = (u64, u8)> {
    let mut at = region.start;
    core::iter::from_fn(move || {
        let left = region.end.checked_sub(at).filter(|&left| left >= PAGE)?;
        let aligned = if at == 0 { u32::from(max_bits) } else { at.trailing_zeros() };
        let bits = aligned.min(left.ilog2()).min(u32::from(max_bits)) as u8;
        let block = (at, bits);
        at += 1 << bits;
        Some(block)
    })
}

/// How boot cuts the memory that is left into Untypeds, in ascending order: (address, log2 of the bytes).
pub fn untypeds(memory: &MemoryMap) -> impl Iterator<Item = (u64, u8)> {
    let by_count = (memory.bytes() / (MAX_UNTYPEDS as u64 / 2)).max(1).ilog2() as u8;
    let largest = UNTYPED_BITS.max(by_count);
    memory.regions().flat_map(move |region| blocks(region, largest)).take(MAX_UNTYPEDS)
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::super::tests::random;
    use super::*;
    use alloc::vec::Vec;

    fn map(regions: &[(u64, u64)]) -> MemoryMap {
        let mut map = MemoryMap::default();
        regions.iter().for_each(|&(start, bytes)| map.add(start, bytes));
        map
    }

    fn list(map: &MemoryMap) -> Vec<(u64, u64)> {
        map.regions().map(|region| (region.start, region.end)).collect()
    }

    #[test]
    fn ranges_overlap_contain_and_are_rounded() {
        let region = |start, end| Region { start, end };
        let one = region(0x1000, 0x3000);
        assert!(one.overlaps(region(0x2fff, 0x3000)) && one.overlaps(region(0, u64::MAX)));
        assert!(!one.overlaps(region(0x3000, 0x4000)) && !one.overlaps(region(0, 0x1000)));
        assert!(!one.overlaps(region(0x2000, 0x2000)), "an empty one");
        assert!(one.contains(one) && !one.contains(region(0x1000, 0x3001)) && !one.contains(region(0xfff, 0x3000)));
        assert_eq!(region(0x1fff, 0x2001).rounded_outwards(0x1000), one);
        assert_eq!(region(1, u64::MAX).rounded_outwards(0x1000), region(0, !0xfff));
    }

    #[test]
    fn all_that_a_table_names_is_known_whatever_it_is_called() {
        let entry = |start: u64, bytes: u64, kind: u64| [start, bytes, kind].map(u64::to_le_bytes).concat();
        let table = [entry(0x1000, 0x1000, 1), entry(0xb000_0800, 0x1000, 2), entry(0x1000, 0x1000, 4)].concat();
        let mut map = MemoryMap::default();
        map.add_named(&table, 24);
        let named: [Region; 2] = [Region::of(0x1000, 0x1000), Region::of(0xb000_0000, 0x2000)];
        assert!(map.regions().eq(named) && !map.is_full());
    }

    #[test]
    fn regions_are_rounded_inwards_sorted_and_disjoint() {
        let map = map(&[(0x10_0000, 0x10_0000), (0x123, 0x9_f000), (0x18_0000, 0x10_0000), (0x50_0001, 0x1000)]);
        assert_eq!(list(&map), [(0x1000, 0x9_f000), (0x10_0000, 0x18_0000), (0x18_0000, 0x28_0000)]);
    }

    #[test]
    fn removal_rounds_outwards_and_splits() {
        let mut map = map(&[(0x10_0000, 0x10_0000)]);
        map.remove(0x12_0001, 0x12_0002);
        assert_eq!(list(&map), [(0x10_0000, 0x12_0000), (0x12_1000, 0x20_0000)]);
        map.remove(0, u64::MAX);
        assert_eq!(list(&map), []);
    }

    #[test]
    fn a_range_that_ends_before_it_begins_takes_nothing_and_doubles_nothing() {
        let mut map = map(&[(0x10_0000, 0x10_0000)]);
        map.remove(0x18_0000, 0x14_0000);
        map.remove(0x18_0000, 0x18_0000);
        assert_eq!(list(&map), [(0x10_0000, 0x20_0000)]);
    }

    #[test]
    fn what_is_also_called_something_else_is_no_ram() {
        let mut table = Vec::new();
        for (start, bytes, kind) in [(0x1800u64, 0x1000u64, 2u32), (0x1000, 0x9000, 1), (0x8000, u64::MAX, 7)] {
            table.extend([start, bytes].iter().flat_map(|word| word.to_le_bytes()));
            table.extend(u64::from(kind).to_le_bytes());
        }
        let mut map = MemoryMap::default();
        map.add_table(&table, 24);
        assert_eq!(list(&map), [(0x3000, 0x8000)]);
    }

    #[test]
    fn allocation_is_aligned_and_leaves_the_map() {
        let mut map = map(&[(0x10_1000, 0x80_0000)]);
        assert_eq!(map.allocate(0x20_0000, 0x20_0000, 0), Some(0x20_0000));
        assert_eq!(list(&map), [(0x10_1000, 0x20_0000), (0x40_0000, 0x90_1000)]);
        assert_eq!(map.allocate(0x1000, 0x1000, 0), Some(0x10_1000));
        assert_eq!(map.allocate(0x100_0000, 0x1000, 0), None);
    }

    #[test]
    fn blocks_cover_a_region_exactly_and_are_naturally_aligned() {
        let mut state = 7;
        for _ in 0..1000 {
            let start = (random(&mut state) % 0x10_0000) << 12;
            let region = Region { start, end: start + ((random(&mut state) % 0x4000) << 12) };
            let mut at = region.start;
            for (address, bits) in blocks(region, 22) {
                assert_eq!(address, at);
                assert!((12..=22).contains(&bits) && address % (1 << bits) == 0);
                at += 1 << bits;
            }
            assert_eq!(at, region.end);
        }
    }

    #[test]
    fn any_sequence_of_entries_keeps_the_invariant() {
        let mut state = 99;
        for _ in 0..300 {
            let mut map = MemoryMap::default();
            for _ in 0..40 {
                map.add(
                    random(&mut state) >> (random(&mut state) % 60),
                    random(&mut state) >> (random(&mut state) % 60),
                );
                map.remove(random(&mut state) >> 30, random(&mut state) >> 20);
            }
            let regions = list(&map);
            assert!(regions.iter().all(|&(start, end)| start < end && start % 4096 == 0 && end % 4096 == 0));
            assert!(regions.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        }
    }
}
