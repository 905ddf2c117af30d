//! The derivation forest: the only code that writes the links of slots.
//!
//! Invariants: the children of a slot are the list from `first_child` to `last_child`; `first` and `last` are set on its
//! ends and nowhere else, and the ends' outer links name the parent; no walk from a slot to a leaf below it is longer
//! than [`MAX_DEPTH`]. Records that name a *slot* (a VM's mappings, a Vcpu's time, a VM's root CNode and base) follow a
//! capability that moves.

use crate::cap::Cap;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::slot::{MAX_DEPTH, Slot};
use crate::types::SlotId;

/// Children of a CpuTime, Irq or IoPort at most, so that what they have in sum is found in bounded time.
pub const MAX_SPLITS: usize = 64;

impl<M: Machine> Kernel<M> {
    /// The slot with this id.
    #[inline]
    pub(crate) fn slot(&self, id: SlotId) -> &Slot {
        self.machine.slot(id)
    }

    /// The slot with this id, to change it.
    #[inline]
    pub(crate) fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        self.machine.slot_mut(id)
    }

    /// True if nothing more can be derived from this slot.
    #[inline]
    pub(crate) fn is_too_deep(&self, source: SlotId) -> bool {
        self.slot(source).depth >= MAX_DEPTH - 1
    }

    /// Puts a capability into an empty slot as the youngest child of `parent`, which is not too deep.
    #[inline]
    pub(crate) fn insert_child(&mut self, parent: SlotId, slot: SlotId, content: Slot) {
        *self.slot_mut(slot) = content;
        self.link_child(parent, slot);
    }

    /// Makes a slot that is in no forest the youngest child of `parent`, whatever its links were.
    #[inline]
    pub(crate) fn link_child(&mut self, parent: SlotId, slot: SlotId) {
        self.changes(parent);
        let above = self.slot_mut(parent);
        let elder = above.first_child;
        let depth = above.depth.saturating_add(1);
        above.first_child = slot;
        let last = !elder.is_some();
        if last {
            above.last_child = slot;
        } else {
            let elder = self.slot_mut(elder);
            elder.prev = slot;
            elder.first = false;
        }
        let child = self.slot_mut(slot);
        child.first_child = SlotId::NONE;
        child.last_child = SlotId::NONE;
        child.next = if last { parent } else { elder };
        child.prev = parent;
        child.depth = depth;
        child.boot = false;
        child.first = true;
        child.last = last;
    }

    /// Makes both neighbours of a gap in a list of siblings name each other, or the parent name them. `prev` and `next`
    /// are the outer links of what was taken out, `first` and `last` its marks.
    #[inline]
    fn close_gap(&mut self, prev: SlotId, first: bool, next: SlotId, last: bool) {
        if first && last {
            if prev.is_some() {
                let parent = self.slot_mut(prev);
                parent.first_child = SlotId::NONE;
                parent.last_child = SlotId::NONE;
            }
        } else if first {
            self.slot_mut(prev).first_child = next;
            let next = self.slot_mut(next);
            next.prev = prev;
            next.first = true;
        } else if last {
            self.slot_mut(next).last_child = prev;
            let prev = self.slot_mut(prev);
            prev.next = next;
            prev.last = true;
        } else {
            self.slot_mut(prev).next = next;
            self.slot_mut(next).prev = prev;
        }
    }

    /// Removes a slot from the forest and empties it. Its children, if any, take its place among its siblings: they
    /// become its parent's.
    #[inline]
    pub(crate) fn remove(&mut self, slot: SlotId) {
        self.changes(slot);
        let &Slot { first_child, last_child, next, prev, first, last, .. } = self.slot(slot);
        if !first_child.is_some() {
            self.close_gap(prev, first, next, last);
        } else {
            let youngest = self.slot_mut(first_child);
            youngest.prev = prev;
            youngest.first = first;
            let eldest = self.slot_mut(last_child);
            eldest.next = next;
            eldest.last = last;
            self.point_inwards(prev, first, first_child, next, last, last_child);
        }
        *self.slot_mut(slot) = Slot::EMPTY;
    }

    /// Makes the outer neighbours of a run of siblings (or the parent) name its first and its last member.
    #[inline]
    fn point_inwards(&mut self, prev: SlotId, first: bool, youngest: SlotId, next: SlotId, last: bool, eldest: SlotId) {
        if prev.is_some() {
            let before = self.slot_mut(prev);
            if first {
                before.first_child = youngest;
            } else {
                before.next = youngest;
            }
        }
        if next.is_some() {
            let after = self.slot_mut(next);
            if last {
                after.last_child = eldest;
            } else {
                after.prev = eldest;
            }
        }
    }

    /// Takes a leaf from below `sibling` (which is no boot capability) and makes it the next elder sibling of that. Its
    /// stored depth stays, which may now be too large.
    pub(crate) fn make_sibling(&mut self, leaf: SlotId, sibling: SlotId) {
        self.changes(sibling);
        let &Slot { next, prev, first, last, .. } = self.slot(leaf);
        self.close_gap(prev, first, next, last);
        let younger = self.slot_mut(sibling);
        let (next, last) = (younger.next, younger.last);
        younger.next = leaf;
        younger.last = false;
        let moved = self.slot_mut(leaf);
        moved.prev = sibling;
        moved.next = next;
        moved.first = false;
        moved.last = last;
        let after = self.slot_mut(next);
        if last {
            after.last_child = leaf;
        } else {
            after.prev = leaf;
        }
    }

    /// The parent of a child of a capability that has at most [`MAX_SPLITS`] children; none for a boot capability.
    pub(crate) fn parent_of_split(&self, slot: SlotId) -> SlotId {
        let mut at = slot;
        for _ in 0..MAX_SPLITS {
            let &Slot { prev, first, .. } = self.slot(at);
            if first || !prev.is_some() {
                return prev;
            }
            at = prev;
        }
        SlotId::NONE
    }

    /// The children of a capability that has at most [`MAX_SPLITS`] of them, one after the other.
    pub(crate) fn splits(&self, slot: SlotId) -> impl Iterator<Item = SlotId> {
        let mut at = self.slot(slot).first_child;
        core::iter::from_fn(move || {
            let child = at;
            if !child.is_some() {
                return None;
            }
            let &Slot { next, last, .. } = self.slot(child);
            at = if last { SlotId::NONE } else { next };
            Some(child)
        })
        .take(MAX_SPLITS)
    }

    /// The slot after `slot` in a walk over all that is derived from `root`, parents before children; `None` at the end.
    pub(crate) fn next_below(&self, root: SlotId, slot: SlotId) -> Option<SlotId> {
        let mut at = self.slot(slot);
        if at.first_child.is_some() {
            return Some(at.first_child);
        }
        let mut id = slot;
        for _ in 0..MAX_DEPTH {
            if id == root {
                return None;
            }
            if !at.last {
                return Some(at.next);
            }
            id = at.next;
            at = self.slot(id);
        }
        None
    }

    /// Moves a capability with its place in the forest into an empty slot.
    #[inline]
    pub(crate) fn relocate(&mut self, from: SlotId, to: SlotId) {
        // The whole slot first, its links from the copy: so the copy is eight words.
        let moved = *self.slot(from);
        *self.slot_mut(to) = moved;
        *self.slot_mut(from) = Slot::EMPTY;
        self.changes(to);
        let &Slot { first_child, last_child, next, prev, first, last, .. } = self.slot(to);
        self.point_inwards(prev, first, to, next, last, to);
        if first_child.is_some() {
            self.slot_mut(first_child).prev = to;
            self.slot_mut(last_child).next = to;
        }
        self.follow(to);
    }

    /// Makes every record that names the slot of a capability name its new slot.
    #[inline]
    fn follow(&mut self, to: SlotId) {
        match self.slot(to).cap {
            Cap::Frame { mapping, .. } | Cap::PageTable { mapping, .. } => {
                if mapping.vm.is_some() {
                    self.relink_mapping(&mapping, to);
                }
            }
            Cap::CpuTime { vcpu, .. } => {
                if vcpu.is_some() {
                    self.machine.vcpu_mut(vcpu).time = to;
                }
            }
            Cap::CNode { vm, .. } => {
                if vm.is_some() {
                    self.machine.vm_mut(vm).cspace_original = to;
                }
            }
            Cap::Untyped { vm, .. } => {
                if vm.is_some() {
                    self.machine.vm_mut(vm).base = to;
                }
            }
            Cap::Zombie(zombie) => self.relink_zombie(&zombie, to),
            Cap::Null
            | Cap::Vm { .. }
            | Cap::Vcpu { .. }
            | Cap::Channel { .. }
            | Cap::Irq { .. }
            | Cap::IoPort { .. }
            | Cap::Machine
            | Cap::Doomed { .. }
            | Cap::IommuDomain { .. }
            | Cap::PciFunction { .. } => {}
        }
    }
}
