//! Address translation, and the oracles on it: every access of a guest is judged when it happens.
//!
//! It must be one that the tables in memory allow now, or allowed before the kernel step that is under way. So a
//! translation that survives the invocation that withdrew it is found by its first use. The walker starts where its
//! cache says, and writes accessed and dirty bits there: a table that is no longer the VM's is found before the write.

use crate::devices::has_registers;
use crate::hardware::{FORMAT, Hardware};
use crate::memory::{PAGE, Use};
use crate::tlb::{Cached, prefix};
use cap_spec::abi::Rights;
use kernel::nested::{Entry, EntryFormat, IO_ROOT_LEVEL, ROOT_LEVEL, entry_index};
use kernel::types::{Gpa, Hpa, VmId};

/// Byte of a page that guests read and write: no word that the kernel shares lies there.
const TOUCHED: u64 = 0x800;
/// Accessed and dirty bits of a nested entry.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// A tree of tables in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    /// Its root.
    pub root: Hpa,
    /// The root's level.
    pub level: u8,
    format: EntryFormat,
}

impl Tree {
    /// A VM's.
    fn of_vm(vm: VmId) -> Tree {
        Tree { root: vm.root(), level: ROOT_LEVEL, format: FORMAT }
    }

    /// A domain's.
    pub(crate) fn of_domain(domain: VmId) -> Tree {
        Tree { root: domain.root(), level: IO_ROOT_LEVEL, format: kernel::iommu::FORMAT }
    }

    /// The walk of memory, without caches: the table of each level (index 4 to 1) and the leaf.
    pub(crate) fn walk(self, gpa: Gpa, word: impl Fn(u64) -> u64) -> ([Option<Hpa>; 5], Option<(Hpa, Rights)>) {
        let mut tables = [None; 5];
        let (mut table, mut level) = (self.root, self.level);
        loop {
            tables[level as usize] = Some(table);
            let entry = word(table.get() + entry_index(gpa, level) as u64 * 8);
            match self.format.decode(entry, level) {
                Entry::Empty => return (tables, None),
                Entry::Table(next) => (table, level) = (next, level - 1),
                Entry::Leaf(base) => return (tables, Some((base, self.format.rights(entry)))),
            }
        }
    }
}

impl Hardware {
    pub(crate) fn choose_access(&mut self) -> (Gpa, bool) {
        let page = *self.random.pick(&crate::guest::PAGES).unwrap_or(&0);
        (Gpa::new(page), self.random.one_in(2))
    }

    /// A guest's load or store. `Err`: it faults.
    pub(crate) fn access(&mut self, core: usize, gpa: Gpa, write: bool) -> Result<(), ()> {
        self.accesses += 1;
        let wanted = if write { Rights::READ | Rights::WRITE } else { Rights::READ };
        let asid = self.cores[core].run.entry.asid;
        let cached =
            self.cores[core].tlb.leaf(asid, gpa).filter(|leaf| leaf.rights.contains(wanted) && (leaf.dirty || !write));
        let leaf = match cached {
            Some(leaf) if !self.random.one_in(8) => leaf,
            _ => self.walk(core, asid, gpa, wanted, write)?,
        };
        self.judge(core, gpa, leaf, wanted);
        self.touch(&format_args!("core {core}"), leaf.base.get() / PAGE, write);
        Ok(())
    }

    /// Walks the tables from the lowest one that the core remembers, or from the root; sets accessed and dirty bits.
    fn walk(&mut self, core: usize, asid: u32, gpa: Gpa, wanted: Rights, write: bool) -> Result<Cached, ()> {
        let vm = self.cores[core].run.vm;
        let (mut table, mut level) = (vm.root(), ROOT_LEVEL);
        if !self.random.one_in(4)
            && let Some(cached) = self.cores[core].tlb.table(asid, gpa)
        {
            (table, level) = (cached.base, cached.level - 1);
        }
        loop {
            self.judge_table(core, gpa, table, level);
            let at = table.get() + entry_index(gpa, level) as u64 * 8;
            let entry = self.memory.word(at);
            match FORMAT.decode(entry, level) {
                Entry::Empty => return Err(()),
                Entry::Table(next) => {
                    self.set_bits(at, entry, ACCESSED);
                    let cached = Cached {
                        asid,
                        level,
                        leaf: false,
                        prefix: prefix(gpa, level),
                        base: next,
                        rights: Rights::empty(),
                        dirty: false,
                    };
                    self.cores[core].tlb.keep(cached, &mut self.random);
                    (table, level) = (next, level - 1);
                }
                Entry::Leaf(base) => {
                    let rights = FORMAT.rights(entry);
                    if !rights.contains(wanted) {
                        return Err(());
                    }
                    self.set_bits(at, entry, if write { ACCESSED | DIRTY } else { ACCESSED });
                    let cached =
                        Cached { asid, level, leaf: true, prefix: prefix(gpa, level), base, rights, dirty: write };
                    self.cores[core].tlb.keep(cached, &mut self.random);
                    return Ok(cached);
                }
            }
        }
    }

    fn set_bits(&mut self, at: u64, entry: u64, bits: u64) {
        if entry & bits != bits {
            self.memory.set_word(at, entry | bits);
        }
    }

    fn judge_table(&mut self, core: usize, gpa: Gpa, table: Hpa, level: u8) {
        let vm = self.cores[core].run.vm;
        let level_index = level as usize;
        if Tree::of_vm(vm).walk(gpa, |at| self.memory.word(at)).0[level_index] == Some(table) {
            return;
        }
        if self.in_step && Tree::of_vm(vm).walk(gpa, |at| self.memory.word_before(at)).0[level_index] == Some(table) {
            return;
        }
        self.violate(format!(
            "core {core} walks {vm:?} at {:#x} through {:#x}, no table of level {level} of it any more",
            gpa.get(),
            table.get()
        ));
    }

    fn judge(&mut self, core: usize, gpa: Gpa, leaf: Cached, wanted: Rights) {
        let vm = self.cores[core].run.vm;
        let allows = |(base, rights): (Hpa, Rights)| base == leaf.base && rights.contains(wanted);
        let now = Tree::of_vm(vm).walk(gpa, |at| self.memory.word(at)).1;
        let before = if self.in_step { Tree::of_vm(vm).walk(gpa, |at| self.memory.word_before(at)).1 } else { None };
        if !now.is_some_and(allows) && !before.is_some_and(allows) {
            self.violate(format!(
                "core {core} reaches {:#x} by {vm:?} at {:#x} with {wanted:?}, which is not mapped so any more",
                leaf.base.get(),
                gpa.get()
            ));
        }
        let page = leaf.base.get() / PAGE;
        if self.memory.page_use(page) != Use::Data && !has_registers(page) {
            self.violate(format!(
                "core {core} reaches page {page:#x} by {vm:?}, which is {:?}",
                self.memory.page_use(page)
            ));
        }
    }

    /// The load or store itself: what is read must have been written since the frame was made.
    pub(crate) fn touch(&mut self, who: &impl std::fmt::Debug, page: u64, write: bool) {
        if page as usize >= self.made.len() {
            if has_registers(page) {
                return;
            }
            self.violate(format!("{who:?} reaches page {page:#x}, which does not exist"));
            return;
        }
        let at = page * PAGE + TOUCHED;
        let old = self.memory.word(at);
        if old != 0 && old < self.made[page as usize] {
            self.violate(format!("{who:?} sees in page {page:#x} what was there before its frame was made"));
        }
        if write {
            self.stores += 1;
            self.memory.set_word(at, self.stores);
        }
    }

    /// A frame is made at this page: what is older must be gone.
    pub fn frame_made(&mut self, page: u64) {
        if let Some(made) = self.made.get_mut(page as usize) {
            *made = self.stores + 1;
        }
        if !self.memory.is_zero(Hpa::new(page * PAGE), PAGE) {
            self.violate(format!("a frame is made at page {page:#x}, which is not scrubbed"));
        }
    }
}
