//! Address-space numbers (ASID on AMD, VPID on Intel) of one core, with generations.
//!
//! Guarantee: translations cached under a number are never used by another VM, nor by the same VM after its tables lost
//! an entry. Numbers are handed out upwards and never twice within a *core generation*; when they run out, the core
//! generation moves, every VM's tag of this core is stale at one comparison, and the entry that follows flushes
//! everything. A VM whose own TLB generation moved since its last entry here gets a new number, which no cached
//! translation carries, so nothing has to be flushed for it.
//!
//! The flush stays due until the core says that an entry which carried it was really executed ([`Allocator::entered`]):
//! a decision that was dropped before the entry loses nothing.

/// What one VM remembers of one core. All-zero means "never entered there".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(32))]
pub struct Tag {
    /// Core generation in which `asid` was given; 0 is none.
    generation: u64,
    /// The VM's TLB generation when `asid` was given.
    seen: u64,
    /// The number.
    asid: u32,
}

impl Tag {
    /// No number given.
    pub const NONE: Tag = Tag { generation: 0, seen: 0, asid: 0 };
}

/// How to enter: the number, and whether this entry must flush every number of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number to enter with; never 0, which is the host's.
    pub asid: u32,
    /// Flush all numbers at this entry.
    pub flush_all: bool,
}

/// The numbers of one core.
#[derive(Clone, Copy, Debug)]
pub struct Allocator {
    /// Current core generation, from 1.
    generation: u64,
    /// The next number to give.
    next: u32,
    /// One past the largest number.
    end: u32,
    /// A flush of all numbers must go with the next entry.
    flush_due: bool,
}

impl Allocator {
    /// All numbers of a core that has `count` of them, 0 (the host's) included, as CPUID says. A `count` below 2 is taken
    /// as 2, the least that virtualization hardware has. The first entry flushes, whatever firmware left behind.
    pub const fn new(count: u32) -> Allocator {
        let end = if count < 2 { 2 } else { count };
        Allocator { generation: 1, next: 1, end, flush_due: true }
    }

    /// The number with which to enter a VM on this core.
    ///
    /// `tag` is the VM's memory of this core, `tlb_generation` the VM's count of withdrawals from its tables. Must be
    /// called after the last chance for either to change before the entry, that is under the kernel lock.
    #[inline(always)]
    pub fn enter(&mut self, tag: &mut Tag, tlb_generation: u64) -> Entry {
        if tag.generation != self.generation || tag.seen != tlb_generation {
            self.give(tag, tlb_generation);
        }
        Entry { asid: tag.asid, flush_all: self.flush_due }
    }

    /// Gives `tag` a number that is unused since the last flush.
    #[inline(never)]
    fn give(&mut self, tag: &mut Tag, tlb_generation: u64) {
        if self.next >= self.end {
            self.generation = self.generation.wrapping_add(1);
            self.next = 1;
            self.flush_due = true;
        }
        *tag = Tag { generation: self.generation, seen: tlb_generation, asid: self.next };
        self.next = self.next.wrapping_add(1);
    }

    /// The hardware executed an entry with what [`Allocator::enter`] answered last: its flush is done.
    #[inline]
    pub fn entered(&mut self, entry: Entry) {
        if entry.flush_all {
            self.flush_due = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Allocator {
        /// True if translations cached under `tag`'s number on this core may still be used by its VM.
        fn is_current(&self, tag: &Tag, tlb_generation: u64) -> bool {
            tag.generation == self.generation && tag.seen == tlb_generation
        }
    }

    #[test]
    fn a_vm_keeps_its_number_until_its_tables_change() {
        let mut core = Allocator::new(16);
        let mut tag = Tag::NONE;
        let first = core.enter(&mut tag, 0);
        assert!(first.flush_all, "the first entry of a core flushes");
        core.entered(first);
        assert_eq!(core.enter(&mut tag, 0), Entry { asid: first.asid, flush_all: false });
        let moved = core.enter(&mut tag, 1);
        assert_ne!(moved.asid, first.asid);
        assert!(!moved.flush_all);
    }

    #[test]
    fn exhaustion_flushes_once_and_makes_all_tags_stale() {
        let mut core = Allocator::new(3);
        let (mut a, mut b, mut c) = (Tag::NONE, Tag::NONE, Tag::NONE);
        for tag in [&mut a, &mut b] {
            let entry = core.enter(tag, 0);
            core.entered(entry);
        }
        let third = core.enter(&mut c, 0);
        assert!(third.flush_all);
        assert!(!core.is_current(&a, 0) && !core.is_current(&b, 0) && core.is_current(&c, 0));
        core.entered(third);
        assert_eq!(core.enter(&mut c, 0), Entry { asid: third.asid, flush_all: false });
    }

    #[test]
    fn a_flush_that_was_not_executed_stays_due() {
        let mut core = Allocator::new(2);
        let (mut a, mut b) = (Tag::NONE, Tag::NONE);
        assert!(core.enter(&mut a, 0).flush_all);
        let entry = core.enter(&mut b, 0);
        assert!(entry.flush_all, "the decision for a was dropped, so nothing has been flushed yet");
        core.entered(entry);
        assert!(!core.enter(&mut b, 0).flush_all);
    }

    #[test]
    fn one_number_is_enough() {
        let mut core = Allocator::new(0);
        let (mut a, mut b) = (Tag::NONE, Tag::NONE);
        for _ in 0..5 {
            for tag in [&mut a, &mut b] {
                let entry = core.enter(tag, 0);
                assert_eq!(entry, Entry { asid: 1, flush_all: true });
                core.entered(entry);
            }
        }
    }

    /// A core with a TLB that keeps everything until a flush: what it holds under a number must be of the VM and of the
    /// TLB generation that enters with it. Dropped decisions included.
    #[test]
    fn no_stale_translation_is_ever_reached() {
        for seed in 0..200_u64 {
            let mut random = crate::testing::Random::new(seed);
            let count = 2 + random.below(6) as u32;
            let mut core = Allocator::new(count);
            let mut tags = [Tag::NONE; 5];
            let mut generations = [0_u64; 5];
            let mut cached: [Option<(usize, u64)>; 16] = [None; 16];
            for _ in 0..500 {
                let vm = random.below(5) as usize;
                match random.below(4) {
                    0 => generations[vm] += 1,
                    1 => {
                        // The VM is destroyed and another is made in its memory, which is zero.
                        tags[vm] = Tag::NONE;
                        generations[vm] = 1_000_000 + random.below(1 << 40);
                    }
                    _ => {}
                }
                let entry = core.enter(&mut tags[vm], generations[vm]);
                if random.below(4) == 0 {
                    continue;
                }
                if entry.flush_all {
                    cached = [None; 16];
                }
                core.entered(entry);
                assert!(entry.asid > 0 && entry.asid < count);
                let line = &mut cached[entry.asid as usize];
                assert!(line.is_none() || *line == Some((vm, generations[vm])), "seed {seed}");
                *line = Some((vm, generations[vm]));
            }
        }
    }
}
