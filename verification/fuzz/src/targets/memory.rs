//! The memory map: what of a table's entries is RAM, by each of its edges.

use super::firmware::in_order;
use crate::bytes::Bytes;
use crate::{Checked, Target, ensure};
use kernel::firmware::memory_map::{MemoryMap, Region, blocks, untypeds};

const PAGE: u64 = 4096;
const ENTRY: usize = 24;
/// Entries up to which nothing can be left out for want of room: each makes two regions more at most.
const FEW: usize = 20;

/// Entries of 24 bytes, as firmware tells them: start, length, kind.
pub const MAP: Target = Target {
    name: "memory-map",
    about: "The memory map against its table: a page is RAM exactly if an entry says so and none says otherwise.",
    check: |input| map(input, |_| true),
    twin: |input| map(input, |kind| kind == 1),
    seeds,
    inputs: 20_000,
};

/// The entries of a table. Of the last one, the 4 bytes that mean nothing may be missing.
fn entries(table: &[u8]) -> impl Iterator<Item = (Region, u32)> {
    table.chunks(ENTRY).filter_map(|entry| {
        let mut entry = Bytes::new(entry);
        let (start, bytes, kind) = (entry.long()?, entry.long()?, entry.word()?);
        Some((Region::of(start, bytes), kind))
    })
}

/// Checks the map of a table of whose entries only those of a kind are told.
fn map(table: &[u8], is_told: impl Fn(u32) -> bool) -> Checked {
    let told: Vec<u8> =
        table.chunks(ENTRY).filter(|entry| entries(entry).all(|(_, kind)| is_told(kind))).flatten().copied().collect();
    let mut map = MemoryMap::default();
    map.add_table(&told, ENTRY);
    ensure(in_order(&map), || format!("not in order: {:x?}", map.regions().collect::<Vec<_>>()))?;
    let is_few = table.len() / ENTRY < FEW;
    for edge in entries(table).flat_map(|(region, _)| [region.start, region.end]) {
        for at in [edge.wrapping_sub(1), edge] {
            let page = Region::of(at & !(PAGE - 1), PAGE);
            if page.bytes() != PAGE {
                continue;
            }
            let is_ram = entries(table).any(|(region, kind)| kind == 1 && region.contains(page));
            let is_other = entries(table).any(|(region, kind)| kind != 1 && region.overlaps(page));
            let found = map.regions().any(|region| region.overlaps(page));
            ensure(!found || is_ram && !is_other, || format!("{page:x?} is no RAM"))?;
            ensure(found || !is_few || !is_ram || is_other, || format!("{page:x?} is RAM that was left out"))?;
        }
    }
    for region in map.regions() {
        let mut at = region.start;
        for (block, bits) in blocks(region, 40) {
            ensure(block == at && block.is_multiple_of(1 << bits), || format!("block {block:#x} of 2^{bits}"))?;
            at += 1 << bits;
        }
        ensure(at == region.end, || format!("blocks of {region:x?} end at {at:#x}"))?;
    }
    let handed: u64 = untypeds(&map).map(|(_, bits)| 1u64 << bits).sum();
    ensure(handed <= map.bytes(), || format!("{handed:#x} of {:#x} bytes are handed out", map.bytes()))?;
    let mut rest = map.clone();
    if let Some(start) = rest.allocate(3 * PAGE, 4 * PAGE, 0x10_0000) {
        let taken = Region::of(start, 3 * PAGE);
        let was_ram = map.regions().any(|region| region.contains(taken));
        ensure(was_ram && start % (4 * PAGE) == 0 && start >= 0x10_0000, || format!("{taken:x?} was allocated"))?;
        ensure(!rest.regions().any(|region| region.overlaps(taken)), || format!("{taken:x?} is there twice"))?;
    }
    Ok(())
}

fn seeds() -> Vec<Vec<u8>> {
    let table = |entries: &[[u64; 3]]| entries.concat().into_iter().flat_map(u64::to_le_bytes).collect();
    vec![
        table(&[[0, 0x9_fc00, 1], [0x10_0000, 0x4000_0000, 1], [0xf_0000, 0x1_0000, 2]]),
        table(&[[0x1000, 0x9000, 1], [0x1800, 0x1000, 2], [0x8000, u64::MAX, 7], [0x1_0000_0000, 0x8000_0000, 1]]),
    ]
}
