//! Which slots of the own CSpace are empty: the root CNode's, and those of further CNodes made when they run out.
//!
//! Slots are given out in runs of a power of two up to [`MAX_RUN`], because one `Retype` fills consecutive slots. A run
//! lies within 64 aligned slots, so that finding one is a test of words.

use alloc::vec::Vec;
use core::ops::Range;

use cap_spec::abi::slots;

use crate::cap::{CNode, Cap, Fault, Slot, Untyped};

/// The longest run.
pub const MAX_RUN: u16 = 64;
/// Sizes of further CNodes, in log2 slots: a large one if the base has room for it, else one of a page.
const NODE_BITS: [u8; 2] = [8, 6];

/// One CNode's map: a set bit is a slot in use.
#[derive(Debug)]
struct Node {
    node: u16,
    used: Vec<u64>,
}

impl Node {
    fn take(&mut self, count: u16) -> Option<Slot> {
        let run = u64::MAX >> (MAX_RUN - count);
        for (at, word) in self.used.iter_mut().enumerate() {
            let mut shift = 0;
            while *word != u64::MAX && shift < MAX_RUN {
                if *word & run << shift == 0 {
                    *word |= run << shift;
                    return Some(Slot::in_node(self.node, at as u16 * MAX_RUN + shift));
                }
                shift += count;
            }
        }
        None
    }
}

/// Of the root CNode's empty slots, this part is kept for further CNodes, but not more than [`MOST_KEPT`].
const KEPT_PART: u16 = 8;
/// See [`KEPT_PART`].
const MOST_KEPT: u16 = 64;

/// The empty slots of the own CSpace.
#[derive(Debug)]
pub struct Slots {
    nodes: Vec<Node>,
    /// Slots of the root CNode that are kept for further CNodes: only there a CNode is of use.
    kept: Range<u16>,
}

impl Slots {
    /// The slots `FREE..end` of the own root CNode; an eighth of them, at most 64, are for further CNodes.
    pub fn new(end: u16) -> Slots {
        let mut used = alloc::vec![u64::MAX; usize::from(end.div_ceil(MAX_RUN))];
        let kept = end - (end.saturating_sub(slots::FREE) / KEPT_PART).min(MOST_KEPT)..end;
        for slot in slots::FREE..kept.start {
            used[usize::from(slot / MAX_RUN)] &= !(1 << (slot % MAX_RUN));
        }
        Slots { nodes: alloc::vec![Node { node: 0, used }], kept }
    }

    /// Takes `count` (1 to 64, rounded up to a power of two) consecutive empty slots.
    pub fn take(&mut self, count: u16) -> Option<Slot> {
        let count = count.clamp(1, MAX_RUN).next_power_of_two();
        // Newest first, as that is where there is room.
        self.nodes.iter_mut().rev().find_map(|node| node.take(count))
    }

    /// Says that `count` slots from `first` on are empty again: the same number as was taken.
    pub fn give(&mut self, first: Slot, count: u16) {
        let count = count.clamp(1, MAX_RUN).next_power_of_two();
        let run = u64::MAX >> (MAX_RUN - count);
        let node = self.nodes.iter_mut().find(|node| Slot::in_node(node.node, first.index()) == first);
        if let Some(word) = node.and_then(|node| node.used.get_mut(usize::from(first.index() / MAX_RUN))) {
            *word &= !(run << (first.index() % MAX_RUN));
        }
    }

    /// Like [`Slots::take`]; makes a further CNode from `base` if there is no such run.
    pub fn take_or_grow(&mut self, count: u16, base: Cap<Untyped>) -> Result<Slot, Fault> {
        if let Some(slot) = self.take(count) {
            return Ok(slot);
        }
        let full = Fault::new(crate::cap::Error::SlotOccupied, 0);
        let place = self.kept.clone().next().map(Slot::root).ok_or(full)?;
        let mut refused = full;
        for bits in NODE_BITS {
            match base.retype::<CNode>(bits, place) {
                Ok(_) => {
                    let mut used = alloc::vec![0; 1 << (bits - 6)];
                    // Slot 0 of every CNode is the kernel's.
                    used[0] = 1;
                    self.nodes.push(Node { node: place.index(), used });
                    self.kept.start += 1;
                    return self.take(count).ok_or(full);
                }
                Err(fault) => refused = fault,
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::fake;

    #[test]
    fn runs_are_disjoint_and_come_back() {
        let mut slots = Slots::new(208);
        let run = slots.take(64).unwrap();
        assert_eq!(run, Slot::root(64));
        assert_eq!(slots.take(3), Some(Slot::root(16)));
        assert_eq!(slots.take(1), Some(Slot::root(20)));
        assert_eq!(slots.take(32), Some(Slot::root(32)));
        assert_eq!(slots.take(64), None, "the last 24 are kept");
        slots.give(run, 64);
        assert_eq!(slots.take(64), Some(run));
        assert_eq!(slots.take(32), Some(Slot::root(128)));
        assert_eq!(slots.take(32), None);
    }

    #[test]
    fn a_further_cnode_is_made_when_slots_run_out() {
        fake::install(|_, label, args| {
            assert_eq!(label, crate::cap::Label::UntypedRetype);
            // The base has room for the small one only.
            if args[1] == 8 { Err(Fault::new(crate::cap::Error::NotEnoughMemory, 0)) } else { Ok((0, 0)) }
        });
        let mut slots = Slots::new(32);
        let base = Slot::root(slots::BASE).cap();
        for at in 0..14 {
            assert_eq!(slots.take_or_grow(1, base), Ok(Slot::root(16 + at)));
        }
        // The root CNode is full but for the two slots that are kept.
        assert_eq!(slots.take_or_grow(2, base), Ok(Slot::in_node(30, 2)));
        assert_eq!(slots.take_or_grow(1, base), Ok(Slot::in_node(30, 1)));
        assert_eq!(slots.take_or_grow(64, base), Err(Fault::new(crate::cap::Error::SlotOccupied, 0)));
        assert_eq!(slots.take_or_grow(32, base), Ok(Slot::in_node(31, 32)));
        assert!(slots.take_or_grow(64, base).is_err());
    }
}
