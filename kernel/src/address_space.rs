//! Address spaces: the tree of tables of a VM or of a domain of the IOMMU, and the list of the capabilities that are mapped
//! in it.
//!
//! Invariants:
//! - Every entry that the root leads to was put there for a capability in the VM's list `mappings`, and that
//!   capability's record names the VM and the address. (A record may be without entry: its table was taken away.)
//! - The memory of a PageTable that is in no tree is zero.
//! - Whatever leaves the tree is flushed before the capability is erased or changed: see `flush`.
//! - Of a VM that no core enters ever again ([`crate::vm::Vm::is_cut`]) the tables are left as they are, and nobody walks
//!   them: the memory that they name may be somebody else's since.

use crate::cap::{Cap, Mapping};
use crate::decode::{Invocation, Invoked};
use crate::flush::{Flushed, Withdrawn};
use crate::iommu;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::nested::{Entry, EntryFormat, GPA_BITS, IO_ROOT_LEVEL, ROOT_LEVEL, entry_bits, entry_index, leaf_level};
use crate::slot::Slot;
use crate::types::{Gpa, Hpa, SlotId, VmId};
use crate::untyped::bytes_of;
use cap_spec::abi::{Error, Fault, PAGE_BITS, Rights};

/// Guest-physical addresses at which a VM may have writable memory of others when it is launched: channel rings.
pub const RING_WINDOW: core::ops::Range<u64> = cap_spec::abi::MARKET_RING..cap_spec::abi::CONSOLE_RING + 0x2_0000;

const _: () = assert!(RING_WINDOW.start == 0x11_0000 && RING_WINDOW.end == 0x14_0000);

/// Further frames that one Map or Unmap is about at most.
const MAX_MORE: u64 = 63;
/// Entries of a table.
pub(crate) const ENTRIES: usize = 512;

/// The table with the leaves of a region of guest-physical memory, which stays what it is while only leaves are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Leaves {
    vm: VmId,
    level: u8,
    /// Which of the regions of this level's tables.
    region: u64,
    /// None if there is none.
    table: Option<Hpa>,
}

impl Leaves {
    const NONE: Leaves = Leaves { vm: VmId::NONE, level: 0, region: 0, table: None };
}

/// Rights that a mapping can have.
const MAPPABLE: Rights = Rights::READ.union(Rights::WRITE).union(Rights::EXECUTE);

impl<M: Machine> Kernel<M> {
    /// `Frame.Map`.
    #[inline]
    pub(crate) fn decode_map_frame(&self, call: &Invoked, bits: u8, mapped_in: VmId) -> Result<Invocation, Fault> {
        let vm = self.vm_argument(call, 1)?;
        let size = bytes_of(bits);
        let gpa = call.number(2, 0, (1u64 << GPA_BITS).wrapping_sub(size))?;
        if gpa & size.wrapping_sub(1) != 0 {
            return Err(Fault::new(Error::Misaligned, 2));
        }
        let rights = call.rights(3, MAPPABLE)?;
        if !rights.contains(Rights::READ) {
            return Err(Fault::new(Error::OutOfRange, 3));
        }
        if !call.slot.rights.contains(rights) {
            return Err(Fault::new(Error::MissingRight, 3));
        }
        let &[.., more, _] = call.args;
        let (level, gpa) = (leaf_level(bits), Gpa::new(gpa));
        if more != 0 {
            self.check_more(call, 4)?;
            if more > (ENTRIES - 1).wrapping_sub(entry_index(gpa, level)) as u64 {
                return Err(Fault::new(Error::OutOfRange, 4));
            }
        }
        if mapped_in.is_some() || self.is_kept_back(&call.slot.cap) {
            return Err(Fault::new(Error::InUse, 0));
        }
        let table = self.free_entry::<false>(vm, gpa, level)?;
        let more = more as u32;
        for offset in 1..=more {
            let index = entry_index(gpa, level).wrapping_add(offset as usize);
            self.check_further(self.slot(call.id.plus(offset)), bits, rights)?;
            self.check_unmapped(
                call.id.plus(offset),
                self.format.decode(self.machine.table_entry(table, index), level),
            )?;
        }
        Ok(Invocation::MapFrame { slot: call.id, vm, gpa, rights, table, more })
    }

    /// `Frame.Unmap`.
    pub(crate) fn decode_unmap_frame(&self, call: &Invoked, mapped_in: VmId) -> Result<Invocation, Fault> {
        let &[more, ..] = call.args;
        if more != 0 {
            self.check_more(call, 1)?;
        }
        if !mapped_in.is_some() {
            return Err(Fault::new(Error::NotMapped, 0));
        }
        let more = more as u32;
        for offset in 1..=more {
            let further = &self.slot(call.id.plus(offset)).cap;
            if !matches!(further, Cap::Frame { .. }) {
                return Err(Fault::new(Error::WrongType, 1));
            }
            // One flush serves all of them.
            if further.mapping().is_none_or(|mapping| mapping.vm != mapped_in) {
                return Err(Fault::new(Error::NotMapped, 1));
            }
        }
        Ok(Invocation::Unmap { slot: call.id, more })
    }

    /// Argument `number` counts slots behind the invoked one, of the same CNode.
    pub(crate) fn check_more(&self, call: &Invoked, number: u8) -> Result<(), Fault> {
        let behind = self.slots_behind(call.root, call.cptr) as u64;
        call.number(number, 0, behind.min(MAX_MORE)).map(drop)
    }

    /// Checks that one of the further frames of a Map is one, of this size and with these rights.
    #[inline(always)]
    pub(crate) fn check_further(&self, slot: &Slot, bits: u8, rights: Rights) -> Result<(), Fault> {
        if !matches!(slot.cap, Cap::Frame { bits: own, .. } if own == bits) {
            return Err(Fault::new(Error::WrongType, 4));
        }
        if slot.rights.contains(rights) { Ok(()) } else { Err(Fault::new(Error::MissingRight, 4)) }
    }

    /// Checks that one of the further frames of a Map is neither mapped nor in quarantine, and that the entry for it is empty.
    #[inline(always)]
    pub(crate) fn check_unmapped(&self, slot: SlotId, entry: Entry) -> Result<(), Fault> {
        let cap = &self.slot(slot).cap;
        if cap.mapping().is_some() || self.is_kept_back(cap) {
            return Err(Fault::new(Error::InUse, 4));
        }
        match entry {
            Entry::Empty => Ok(()),
            Entry::Table(_) | Entry::Leaf(_) => Err(Fault::new(Error::AddressOccupied, 4)),
        }
    }

    /// `PageTable.Map`.
    pub(crate) fn decode_map_table(&self, call: &Invoked, mapped_in: VmId) -> Result<Invocation, Fault> {
        let vm = self.vm_argument(call, 1)?;
        let gpa = call.number(2, 0, (1u64 << GPA_BITS) - 1)?;
        let level = call.number(3, 1, 3)? as u8;
        if mapped_in.is_some() || self.is_kept_back(&call.slot.cap) {
            return Err(Fault::new(Error::InUse, 0));
        }
        let above = level.wrapping_add(1);
        let gpa = Gpa::new(gpa & !bytes_of(entry_bits(above) as u8).wrapping_sub(1));
        let table = self.free_entry::<false>(vm, gpa, above)?;
        Ok(Invocation::MapTable { slot: call.id, vm, gpa, level, table })
    }

    /// How entries are written: in the tables of domains (`IO`), or of VMs. What is often done is compiled for each.
    #[inline(always)]
    fn format<const IO: bool>(&self) -> EntryFormat {
        if IO { iommu::FORMAT } else { self.format }
    }

    /// The table of this level that covers an address.
    ///
    /// # Errors
    /// `NoPageTable` with the level that is missing, or `AddressOccupied` if a larger frame is in the way; argument 2.
    /// A VM that is cut off has no tables.
    #[inline]
    fn table_for<const IO: bool>(&self, vm: VmId, gpa: Gpa, level: u8) -> Result<Hpa, Fault> {
        if !IO && self.machine.vm(vm).is_cut() {
            return Err(Fault::with_detail(Error::NoPageTable, 2, ROOT_LEVEL.wrapping_sub(1) as u16));
        }
        let mut table = vm.root();
        let mut at = if IO { IO_ROOT_LEVEL } else { ROOT_LEVEL };
        for _ in 1..ROOT_LEVEL {
            if at <= level {
                break;
            }
            let entry = self.machine.table_entry(table, entry_index(gpa, at));
            match self.format::<IO>().decode(entry, at) {
                Entry::Table(next) => table = next,
                Entry::Leaf(_) => return Err(Fault::new(Error::AddressOccupied, 2)),
                Entry::Empty => {
                    return Err(Fault::with_detail(Error::NoPageTable, 2, at.wrapping_sub(1) as u16));
                }
            }
            at = at.wrapping_sub(1);
        }
        Ok(table)
    }

    /// The table of this level that covers an address, in which the entry for it is empty.
    #[inline]
    pub(crate) fn free_entry<const IO: bool>(&self, vm: VmId, gpa: Gpa, level: u8) -> Result<Hpa, Fault> {
        let table = self.table_for::<IO>(vm, gpa, level)?;
        let entry = self.machine.table_entry(table, entry_index(gpa, level));
        match self.format::<IO>().decode(entry, level) {
            Entry::Empty => Ok(table),
            Entry::Table(_) | Entry::Leaf(_) => Err(Fault::new(Error::AddressOccupied, 2)),
        }
    }

    /// Maps a frame, and `more` further ones of its size from the slots behind it, and records them.
    #[inline(never)]
    pub(crate) fn map_frames<const IO: bool>(
        &mut self,
        slot: SlotId,
        vm: VmId,
        gpa: Gpa,
        rights: Rights,
        table: Hpa,
        more: u32,
    ) {
        let Cap::Frame { bits, .. } = self.slot(slot).cap else { return };
        for offset in 0..=more {
            let gpa = Gpa::new(gpa.get().wrapping_add((offset as u64).wrapping_shl(bits as u32)));
            self.map_frame::<IO>(slot.plus(offset), vm, gpa, rights, table);
        }
    }

    /// Maps a frame, and records it.
    #[inline(always)]
    pub(crate) fn map_frame<const IO: bool>(&mut self, slot: SlotId, vm: VmId, gpa: Gpa, rights: Rights, table: Hpa) {
        let Cap::Frame { bits, device, base, .. } = self.slot(slot).cap else { return };
        let level = leaf_level(bits);
        let entry = self.format::<IO>().leaf(base, rights, level, device);
        self.write_entry::<IO>(table, entry_index(gpa, level), entry);
        let header = self.machine.vm(vm);
        let steers =
            rights.contains(Rights::EXECUTE) || rights.contains(Rights::WRITE) && !RING_WINDOW.contains(&gpa.get());
        let foreign = steers && !header.launched && !header.region_holds(base, bytes_of(bits));
        self.link_mapping(slot, Mapping { vm, gpa, rights, foreign, ..Mapping::NONE });
    }

    /// Puts a table into a tree, and records it.
    pub(crate) fn map_table<const IO: bool>(&mut self, slot: SlotId, vm: VmId, gpa: Gpa, level: u8, table: Hpa) {
        let Cap::PageTable { base, .. } = self.slot(slot).cap else { return };
        if IO {
            self.machine.publish_table(base);
        }
        let entry = self.format::<IO>().table(base);
        self.write_entry::<IO>(table, entry_index(gpa, level.wrapping_add(1)), entry);
        let header = self.machine.vm(vm);
        let foreign = !header.launched && !header.region_holds(base, 1 << PAGE_BITS);
        self.link_mapping(slot, Mapping { vm, gpa, level, foreign, ..Mapping::NONE });
    }

    /// Writes an entry of a table of an address space.
    #[inline(always)]
    fn write_entry<const IO: bool>(&mut self, table: Hpa, index: usize, entry: u64) {
        self.machine.set_table_entry(table, index, entry);
        if IO {
            self.machine.publish_table_entry(table, index);
        }
    }

    /// Takes the mapping of a Frame or PageTable back, if it has one. When this returns no core reaches anything by it.
    #[inline]
    pub(crate) fn unmap(&mut self, slot: SlotId) -> Flushed {
        let flushed = self.withdraw(slot);
        self.forget_mapping(slot, &flushed);
        flushed
    }

    /// [`Kernel::unmap`] of a Frame, and of those in the `more` slots behind it, which are mapped in the same address space: one
    /// flush serves all.
    #[inline(never)]
    pub(crate) fn unmap_row(&mut self, slot: SlotId, more: u32) -> Flushed {
        let mut last = Leaves::NONE;
        let mut withdrawn: Option<Withdrawn> = None;
        for slot in (0..=more).map(|offset| slot.plus(offset)) {
            withdrawn = self.take_frame_out(slot, &mut last).or(withdrawn);
        }
        let flushed = withdrawn.map_or_else(Flushed::nothing_withdrawn, |withdrawn| self.flush(withdrawn));
        (0..=more).for_each(|offset| self.forget_mapping(slot.plus(offset), &flushed));
        flushed
    }

    /// Clears the record of a capability whose mapping has been taken back, and the memory of a table.
    #[inline]
    fn forget_mapping(&mut self, slot: SlotId, flushed: &Flushed) {
        if flushed.has_failed() {
            self.keep_back(slot);
        }
        let cap = &mut self.slot_mut(slot).cap;
        if let Some(record) = cap.mapping_mut() {
            *record = Mapping::NONE;
        }
        if let Cap::PageTable { base, .. } = *cap {
            self.machine.zero(base, 1 << PAGE_BITS);
        }
    }

    /// [`Kernel::unmap`] of a capability that is about to be erased: its record and what stands in a table are left as
    /// they were. No hardware sees the table any more, and its memory is scrubbed before it is used again.
    #[inline]
    pub(crate) fn withdraw(&mut self, slot: SlotId) -> Flushed {
        match self.take_out(slot) {
            Some(withdrawn) => self.flush(withdrawn),
            None => Flushed::nothing_withdrawn(),
        }
    }

    /// Takes a capability's entry out of its table, and the capability out of its address space's list.
    #[inline(always)]
    fn take_out(&mut self, slot: SlotId) -> Option<Withdrawn> {
        let &Mapping { vm, .. } = self.slot(slot).cap.mapping()?;
        if self.machine.vm(vm).is_domain() {
            return Some(self.take_out_of_domain(slot, vm));
        }
        self.take_out_of::<false>(slot)
    }

    /// [`Kernel::take_out`] of what is mapped in a domain. A record without entry counts as well: a unit that has failed may
    /// remember the table that the entry was in.
    #[cold]
    #[inline(never)]
    fn take_out_of_domain(&mut self, slot: SlotId, domain: VmId) -> Withdrawn {
        self.take_out_of::<true>(slot).unwrap_or(Withdrawn::from(domain))
    }

    #[inline(always)]
    fn take_out_of<const IO: bool>(&mut self, slot: SlotId) -> Option<Withdrawn> {
        let cap = &self.slot(slot).cap;
        let &mapping = cap.mapping()?;
        let withdrawn = match *cap {
            Cap::Frame { bits, base, .. } => {
                let level = leaf_level(bits);
                let table = self.table_for::<IO>(mapping.vm, mapping.gpa, level).ok();
                table.and_then(|table| self.clear_entry::<IO>(&mapping, table, level, Entry::Leaf(base)))
            }
            Cap::PageTable { base, .. } => {
                let level = mapping.level.wrapping_add(1);
                let table = self.table_for::<IO>(mapping.vm, mapping.gpa, level).ok();
                table.and_then(|table| self.clear_entry::<IO>(&mapping, table, level, Entry::Table(base)))
            }
            _ => None,
        };
        self.unlink_mapping(&mapping);
        withdrawn
    }

    /// [`Kernel::take_out`] of one frame of a row: most have their entry in the table of the one before.
    #[inline(always)]
    fn take_frame_out(&mut self, slot: SlotId, last: &mut Leaves) -> Option<Withdrawn> {
        let Cap::Frame { bits, base, mapping, .. } = self.slot(slot).cap else { return None };
        if !mapping.vm.is_some() {
            return None;
        }
        if self.machine.vm(mapping.vm).is_domain() {
            return Some(self.take_out_of_domain(slot, mapping.vm));
        }
        let level = leaf_level(bits);
        let leaves = Leaves {
            vm: mapping.vm,
            level,
            region: mapping.gpa.get() >> entry_bits(level.wrapping_add(1)),
            table: last.table,
        };
        if leaves != *last {
            *last = Leaves { table: self.table_for::<false>(mapping.vm, mapping.gpa, level).ok(), ..leaves };
        }
        let withdrawn =
            last.table.and_then(|table| self.clear_entry::<false>(&mapping, table, level, Entry::Leaf(base)));
        self.unlink_mapping(&mapping);
        withdrawn
    }

    /// Clears the entry of a table that a record names, if it still says `expected`.
    #[inline(always)]
    fn clear_entry<const IO: bool>(
        &mut self,
        mapping: &Mapping,
        table: Hpa,
        level: u8,
        expected: Entry,
    ) -> Option<Withdrawn> {
        let index = entry_index(mapping.gpa, level);
        if self.format::<IO>().decode(self.machine.table_entry(table, index), level) != expected {
            return None;
        }
        self.write_entry::<IO>(table, index, 0);
        Some(Withdrawn::from(mapping.vm))
    }

    // ---- the list of mappings ------------------------------------------------------------------------------------

    /// Records a mapping with its capability and in the VM's list.
    #[inline]
    fn link_mapping(&mut self, slot: SlotId, mapping: Mapping) {
        self.changes(slot);
        let vm = self.machine.vm_mut(mapping.vm);
        let next = vm.mappings;
        vm.mappings = slot;
        vm.foreign = vm.foreign.wrapping_add(mapping.foreign as u32);
        if let Some(next) = self.mapping_mut(next) {
            next.prev = slot;
        }
        if let Some(record) = self.slot_mut(slot).cap.mapping_mut() {
            *record = Mapping { next, prev: SlotId::NONE, ..mapping };
        }
    }

    /// The record in a slot, `None` for no slot.
    #[inline]
    fn mapping_mut(&mut self, slot: SlotId) -> Option<&mut Mapping> {
        if slot.is_some() { self.slot_mut(slot).cap.mapping_mut() } else { None }
    }

    /// Takes the capability with this record out of its VM's list.
    #[inline]
    fn unlink_mapping(&mut self, mapping: &Mapping) {
        if let Some(next) = self.mapping_mut(mapping.next) {
            next.prev = mapping.prev;
        }
        if let Some(prev) = self.mapping_mut(mapping.prev) {
            prev.next = mapping.next;
        } else {
            self.machine.vm_mut(mapping.vm).mappings = mapping.next;
        }
        if mapping.foreign {
            let vm = self.machine.vm_mut(mapping.vm);
            vm.foreign = vm.foreign.wrapping_sub(1);
        }
    }

    /// A mapped capability has moved to another slot.
    pub(crate) fn relink_mapping(&mut self, mapping: &Mapping, to: SlotId) {
        if let Some(next) = self.mapping_mut(mapping.next) {
            next.prev = to;
        }
        if let Some(prev) = self.mapping_mut(mapping.prev) {
            prev.next = to;
        } else {
            self.machine.vm_mut(mapping.vm).mappings = to;
        }
    }
}
