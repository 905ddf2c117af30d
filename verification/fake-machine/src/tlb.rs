//! What a core has cached of nested translations, or the IOMMU of those of functions: leaves and pointers to tables (walk
//! caches), by address-space number.
//!
//! Nothing leaves it but by a flush or by chance. In particular no change of a table in memory does.

use crate::random::Random;
use cap_spec::abi::Rights;
use kernel::nested::entry_bits;
use kernel::types::{Gpa, Hpa};

/// How many translations are kept.
const SIZE: usize = 48;

/// A translation that may be used without looking at memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Under which number.
    pub asid: u32,
    /// Level of the entry that it was read from: 1 to 3 of a leaf, 2 to 4 of a pointer to the table below.
    pub level: u8,
    /// A leaf; else a pointer to a table.
    pub leaf: bool,
    /// The addresses that it covers, shifted right by the bits of its level.
    pub prefix: u64,
    /// The memory or the table.
    pub base: Hpa,
    /// Of a leaf.
    pub rights: Rights,
    /// Of a leaf: the dirty bit is known to be set.
    pub dirty: bool,
}

/// The cached translations of one core, or of the IOMMU.
#[derive(Clone, Debug, Default)]
pub struct Tlb {
    entries: Vec<Cached>,
}

impl Tlb {
    /// Forgets everything.
    pub fn flush_all(&mut self) {
        self.entries.clear();
    }

    /// Forgets everything under a number.
    pub fn flush_number(&mut self, asid: u32) {
        self.entries.retain(|cached| cached.asid != asid);
    }

    /// Keeps a translation, in place of an older one of the same address or of any one.
    pub fn keep(&mut self, cached: Cached, random: &mut Random) {
        let same = |old: &Cached| {
            (old.asid, old.level, old.leaf, old.prefix) == (cached.asid, cached.level, cached.leaf, cached.prefix)
        };
        if let Some(old) = self.entries.iter_mut().find(|old| same(old)) {
            *old = cached;
        } else if self.entries.len() < SIZE {
            self.entries.push(cached);
        } else {
            let victim = random.below(SIZE as u64) as usize;
            self.entries[victim] = cached;
        }
    }

    /// The leaf for an address.
    pub fn leaf(&self, asid: u32, gpa: Gpa) -> Option<Cached> {
        self.entries.iter().copied().find(|c| c.asid == asid && c.leaf && c.prefix == prefix(gpa, c.level))
    }

    /// The pointer to the lowest table for an address.
    pub fn table(&self, asid: u32, gpa: Gpa) -> Option<Cached> {
        let fitting = self.entries.iter().filter(|c| c.asid == asid && !c.leaf && c.prefix == prefix(gpa, c.level));
        fitting.min_by_key(|c| c.level).copied()
    }
}

/// The part of an address that an entry of a table of this level covers as one.
pub const fn prefix(gpa: Gpa, level: u8) -> u64 {
    gpa.get() >> entry_bits(level)
}
