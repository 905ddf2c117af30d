//! Memory that an IOMMU which has failed may go on reaching.
//!
//! A unit that does not say that it has forgotten a translation may have it for ever. No function is a bus master from then
//! on (see [`crate::machine::Devices::iommu_has_failed`]), but nobody knows when the unit is done with what functions had
//! asked of it before. So what it may reach is never handed out again: a frame or table that was mapped in a domain when the
//! unit failed, once it is taken out of the domain, and a domain from which a function could not be detached.
//!
//! Guarantees: no Untyped's watermark is lowered below memory in quarantine, so that nothing is made of it again, whatever
//! Untypeds are merged; and no capability to it is mapped again. As nothing is mapped in a domain after the failure,
//! nobody can bring more into quarantine than was in reach then. Whoever has it mapped already goes on as before.
//!
//! There is room for a number of ranges. Where there are more, the nearest two become one, and what lies between them stays
//! out of use as well.

use crate::cap::Cap;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::types::{Hpa, SlotId};
use crate::untyped::bytes_of;
use cap_spec::abi::PAGE_BITS;
use heapless::Vec;

/// Ranges that are told apart.
const MAX_RANGES: usize = 64;

/// Addresses from the first on, up to the second.
type Range = (u64, u64);

/// What is in quarantine: ranges of which no two touch.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine(Vec<Range, MAX_RANGES>);

impl Quarantine {
    /// Nothing.
    pub(crate) const EMPTY: Quarantine = Quarantine(Vec::new());

    /// Adds memory, for good.
    pub(crate) fn add(&mut self, base: Hpa, bytes: u64) {
        let mut added = (base.get(), base.get().wrapping_add(bytes));
        // What the sum of two ranges touches one of them has touched before: one pass is enough.
        self.0.retain(|&range| {
            let touches = gap(range, added) == 0;
            if touches {
                added = hull(range, added);
            }
            !touches
        });
        if self.0.is_full()
            && let Some(nearest) = self.0.iter_mut().min_by_key(|range| gap(**range, added))
        {
            *nearest = hull(*nearest, added);
            return;
        }
        // There is room.
        let _ = self.0.push(added);
    }

    /// How many bytes from `base` on have to stay in use, so that none of `bytes` bytes that is in quarantine comes free.
    #[inline]
    pub(crate) fn kept_of(&self, base: Hpa, bytes: u64) -> u64 {
        let (first, end) = (base.get(), base.get().wrapping_add(bytes));
        let ends = self.0.iter().filter(|range| range.0 < end && first < range.1).map(|range| range.1.min(end));
        ends.max().map_or(0, |end| end.wrapping_sub(first))
    }
}

/// Bytes between two ranges.
fn gap(one: Range, other: Range) -> u64 {
    one.0.saturating_sub(other.1).max(other.0.saturating_sub(one.1))
}

/// Two ranges, and what lies between.
fn hull(one: Range, other: Range) -> Range {
    (one.0.min(other.0), one.1.max(other.1))
}

/// What a Frame or PageTable capability names.
fn extent(cap: &Cap) -> Option<(Hpa, u64)> {
    match *cap {
        Cap::Frame { base, bits, .. } => Some((base, bytes_of(bits))),
        Cap::PageTable { base, .. } => Some((base, 1 << PAGE_BITS)),
        _ => None,
    }
}

impl<M: Machine> Kernel<M> {
    /// Puts into quarantine what a capability names whose mapping has been taken back, if that was one in a domain. Its
    /// record is still there.
    #[cold]
    pub(crate) fn keep_back(&mut self, slot: SlotId) {
        let cap = &self.slot(slot).cap;
        if let (Some(mapping), Some((base, bytes))) = (cap.mapping(), extent(cap))
            && self.machine.vm(mapping.vm).is_domain()
        {
            self.quarantine.add(base, bytes);
        }
    }

    /// True if something of what a capability names is in quarantine.
    #[inline]
    pub(crate) fn is_kept_back(&self, cap: &Cap) -> bool {
        // Nearly always nothing is, and this is asked often.
        !self.quarantine.0.is_empty()
            && extent(cap).is_some_and(|(base, bytes)| self.quarantine.kept_of(base, bytes) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1000;

    fn page(number: u64) -> Hpa {
        Hpa::new(number * PAGE)
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut quarantine = Quarantine::EMPTY;
        for (first, pages) in [(10, 2), (20, 2), (12, 8), (30, 1), (15, 2), (9, 1)] {
            quarantine.add(page(first), pages * PAGE);
        }
        assert_eq!(quarantine.0.len(), 2);
        let kept = |first, pages: u64| quarantine.kept_of(page(first), pages * PAGE) / PAGE;
        assert_eq!((kept(0, 9), kept(0, 10), kept(9, 1), kept(21, 4), kept(22, 8)), (0, 10, 1, 1, 0));
        assert_eq!((kept(0, 31), kept(0, 30), kept(30, 8), kept(31, 8)), (31, 22, 1, 0));
    }

    #[test]
    fn everything_that_was_added_is_there_however_much_it_is() {
        let mut quarantine = Quarantine::EMPTY;
        // Apart from each other, in an order that is none.
        let pages = (0..500_u64).map(|index| index * 7_919 % 1_009 * 3);
        for number in pages.clone() {
            quarantine.add(page(number), PAGE);
            assert!(quarantine.0.len() <= MAX_RANGES);
        }
        for number in pages {
            assert_eq!(quarantine.kept_of(page(number), PAGE), PAGE);
        }
        let apart = |one: &Range| quarantine.0.iter().filter(|other| gap(*one, **other) == 0).count() == 1;
        assert!(quarantine.0.iter().all(apart));
    }
}
