//! The root VM's CSpace: which slots are empty, and second-level CNodes as they are needed.
//!
//! Slots are handed out in runs whose length is a power of two up to 64, because one `Retype` fills consecutive slots.
//! A run never leaves its 64 aligned slots, so that finding one is a test of words.

use crate::machine::Slot;
use alloc::vec::Vec;

/// Slots per word of the map.
const WORD: u16 = 64;

/// One CNode's slots; a set bit is a slot in use.
#[derive(Debug)]
struct Node {
    node: u16,
    used: Vec<u64>,
    free: u32,
}

impl Node {
    fn take(&mut self, count: u16) -> Option<u16> {
        if u32::from(count) > self.free {
            return None;
        }
        let mask = if count >= WORD { u64::MAX } else { (1 << count) - 1 };
        for (at, word) in self.used.iter_mut().enumerate() {
            if *word == u64::MAX {
                continue;
            }
            let mut shift = 0;
            while shift < WORD {
                if *word & mask << shift == 0 {
                    *word |= mask << shift;
                    self.free -= u32::from(count);
                    return Some(at as u16 * WORD + shift);
                }
                shift += count;
            }
        }
        None
    }
}

/// All slots that the market may fill.
#[derive(Debug)]
pub struct Slots {
    /// The root CNode first.
    nodes: Vec<Node>,
}

impl Slots {
    /// The slots `first..end` of the root CNode.
    pub fn new(first: u16, end: u16) -> Slots {
        let mut root = Node { node: 0, used: Vec::new(), free: 0 };
        for word in 0..end.div_ceil(WORD) {
            let mut used = 0u64;
            for bit in 0..WORD {
                let slot = word * WORD + bit;
                if slot < first || slot >= end {
                    used |= 1 << bit;
                } else {
                    root.free += 1;
                }
            }
            root.used.push(used);
        }
        Slots { nodes: alloc::vec![root] }
    }

    /// Adds the slots of a CNode of 2^`bits` slots (6 to 16), whose capability is in slot `node` of the root CNode.
    pub fn add_node(&mut self, node: u16, bits: u8) {
        let words = 1usize << (bits - 6);
        let mut used = alloc::vec![0u64; words];
        // Slot 0 of every CNode is the kernel's.
        used[0] = 1;
        self.nodes.push(Node { node, used, free: (1 << bits) - 1 });
    }

    /// `count` consecutive empty slots (a power of two, at most 64), in the second level if there is room.
    pub fn take(&mut self, count: u16) -> Option<Slot> {
        let count = count.clamp(1, WORD).next_power_of_two();
        // Newest first: the root CNode is kept for what can only be there.
        self.nodes.iter_mut().rev().find_map(|node| {
            let index = node.take(count)?;
            Some(Slot::nested(node.node, index))
        })
    }

    /// An empty slot of the root CNode.
    pub fn take_root(&mut self) -> Option<Slot> {
        let index = self.nodes.first_mut()?.take(1)?;
        Some(Slot::root(index))
    }

    /// A slot is empty again.
    pub fn give(&mut self, slot: Slot) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.node == slot.node()) else { return };
        let (word, bit) = (usize::from(slot.index() / WORD), 1u64 << (slot.index() % WORD));
        if let Some(word) = node.used.get_mut(word).filter(|word| **word & bit != 0) {
            *word &= !bit;
            node.free += 1;
        }
    }

    /// Consecutive slots are empty again.
    pub fn give_run(&mut self, first: Slot, count: u16) {
        for at in 0..count {
            self.give(Slot::nested(first.node(), first.index() + at));
        }
    }

    /// How many slots are empty.
    pub fn free(&self) -> u32 {
        self.nodes.iter().map(|node| node.free).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_disjoint_and_come_back() {
        let mut slots = Slots::new(10, 256);
        assert_eq!(slots.free(), 246);
        let run = slots.take(64).unwrap();
        assert_eq!((run.node(), run.index()), (0, 64));
        let pair = slots.take(2).unwrap();
        assert_eq!(pair.index(), 10);
        assert_eq!(slots.take(1).unwrap().index(), 12);
        slots.give_run(run, 64);
        slots.give(run);
        assert_eq!(slots.free(), 243, "giving a slot twice counts once");
        assert_eq!(slots.take(64), Some(run));
    }

    #[test]
    fn the_second_level_is_used_first_and_never_its_slot_0() {
        let mut slots = Slots::new(16, 64);
        slots.add_node(16, 6);
        let all: Vec<Slot> = core::iter::from_fn(|| slots.take(1)).collect();
        assert_eq!(all.len(), 63 + 48);
        assert!(all.iter().all(|slot| slot.index() != 0));
        assert_eq!(all[0], Slot::nested(16, 1));
        assert_eq!(slots.take(1), None);
        slots.give(Slot::root(20));
        assert_eq!(slots.take_root(), Some(Slot::root(20)));
    }
}
