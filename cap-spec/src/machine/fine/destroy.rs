//! Delete and Revoke in bounded steps: which states others see between them.
//!
//! * A step takes one leaf of the forest, and lets go of what it holds: its mapping, its CPU time, one Vcpu or mapping of
//!   an address space that dissolves. What hardware remembers of that is then flushed, and only when it has been is the
//!   slot *erased*, still in the same hold of the lock.
//! * A launched VM on whose base the walk comes by is stopped for good first, [`STOPPED_AT_ONCE`] of its Vcpus in a step.
//! * The original of a CNode, and of a Channel with something in flight, becomes a zombie (chapter `dying`), and moves
//!   home, unless a Delete began with it. Its slots are emptied from the last to the first, [`SCAN`] a step. A zombie that
//!   is found in one of them moves home as well; of an Untyped in one of them from which a zombie descends, the line down
//!   to the zombie is doomed, and the zombie becomes the Untyped's sibling: it may be waiting for that very slot.
//! * When nothing is derived from a revoked Untyped any more it is scrubbed from its watermark down, [`SCRUB`] bytes a
//!   step, but not below what is in quarantine.
//! * An Untyped gives its extent back if it is its parent's whole extent, is not doomed and has no sibling.
//!
//! An operation that is given up leaves what it has begun in `dying`; a Revoke of anything above it goes on with it.
//! Which of several children goes first is left to the kernel: here it is the one in the lowest slot.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::super::address_space::{unmap_frame, unmap_table};
use super::super::derivation::{give_memory_back, relocate, slots_of_object, take, whole_of_parent};
use super::super::dying::{Zombie, home};
use super::super::faults::free_end;
use super::super::state::{CNodeId, Cap, Run, Slot, SlotId, State, VmId};
use super::super::vcpu::take_time;
use super::super::{in_flight_slot, pci_function};
use super::bytes::Bytes;
use super::quarantine::Quarantine;

/// Slots that one step looks at.
pub const SCAN: u64 = 64;
/// Vcpus of a VM that one step stops when its base is being revoked.
pub const STOPPED_AT_ONCE: usize = 16;
/// Bytes that one step makes zero.
pub const SCRUB: u64 = 16 << 12;

/// A Delete or Revoke under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destroy {
    /// The slot that the caller named.
    pub target: SlotId,
    /// Revoke: the target stays, and is scrubbed if it is an Untyped.
    pub keeps: bool,
    /// The zombie whose circle is being finished.
    pub focus: Option<SlotId>,
    /// The slot that is erased as soon as everything is flushed. The lock is not given up before.
    pub erasing: Option<SlotId>,
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The operation is done.
    Done {
        /// Bytes of a revoked Untyped that are kept back, as an IOMMU that has failed may reach them.
        kept: u64,
    },
    /// More is to be done.
    More,
}

impl Progress {
    /// It is done, and nothing is kept back.
    const DONE: Progress = Progress::Done { kept: 0 };
}

impl Destroy {
    /// `CNode.Delete` of a slot.
    pub(super) fn delete(target: SlotId) -> Destroy {
        Destroy { target, keeps: false, focus: None, erasing: None }
    }

    /// `CNode.Revoke` of a slot.
    pub(super) fn revoke(target: SlotId) -> Destroy {
        Destroy { target, keeps: true, focus: None, erasing: None }
    }

    /// One bounded step, or the end of one: everything that was let go of has been flushed.
    pub(super) fn step(&mut self, state: &mut State, dirt: &mut Bytes, quarantine: &Quarantine) -> Progress {
        if let Some(slot) = self.erasing.take() {
            return self.erase(state, slot);
        }
        if self.focus.is_none()
            && let Some(progress) = self.leaf_step(state, dirt, quarantine)
        {
            return progress;
        }
        self.circle_step(state)
    }

    /// Empties a slot whose capability reaches nothing any more.
    fn erase(&mut self, state: &mut State, slot: SlotId) -> Progress {
        let circle = state.dying.zombies.get(&slot).map(|zombie| zombie.circle);
        if !state.dying.hides(slot) && !has_siblings(state, slot) && whole_of_parent(state, slot).is_some() {
            give_memory_back(state, slot, &BTreeSet::new());
        }
        take(state, slot);
        if self.focus == Some(slot) {
            self.focus = circle.and_then(|circle| members(state, circle).next()).map(|(slot, _)| slot);
        }
        if self.focus.is_some() || self.keeps || state.slots.contains_key(&self.target) {
            Progress::More
        } else {
            Progress::DONE
        }
    }

    /// Lets go of what the capability in a slot holds, or of a part of that; when all is, the slot is to be erased.
    fn let_go(&mut self, state: &mut State, slot: SlotId) {
        if let_go(state, slot) {
            self.erasing = Some(slot);
        }
    }

    /// Works at one leaf below the target. `None` if it is a zombie, whose circle must be finished first.
    fn leaf_step(&mut self, state: &mut State, dirt: &mut Bytes, quarantine: &Quarantine) -> Option<Progress> {
        let Some(target) = state.slots.get(&self.target) else { return Some(Progress::DONE) };
        if !self.keeps && !target.original {
            self.let_go(state, self.target);
            return Some(Progress::More);
        }
        let Some(leaf) = leaf_below(state, self.target) else { return Some(Progress::More) };
        if state.dying.zombies.contains_key(&leaf) {
            self.focus = Some(leaf);
            return None;
        }
        if leaf == self.target && self.keeps {
            if state.dying.doomed.contains(&leaf) {
                self.erasing = Some(leaf);
                return Some(Progress::More);
            }
            return Some(scrub_step(state, dirt, quarantine, leaf));
        }
        if is_to_be_emptied(state, leaf) {
            make_zombie(state, leaf);
            // The zombie that a Delete begins with stays where the repeated call looks for it.
            self.focus = Some(if leaf == self.target { leaf } else { move_home(state, leaf) });
        } else {
            self.let_go(state, leaf);
        }
        Some(Progress::More)
    }

    /// Works at one zombie of the circle.
    fn circle_step(&mut self, state: &mut State) -> Progress {
        let Some(focus) = self.focus else { return Progress::More };
        let circle = state.dying.zombies[&focus].circle;
        // The others go first, so that the slot which the caller named stays full while there is work; and of these the
        // one that was met last, so that an Untyped is doomed only if it lies in what was made of it.
        let others = members(state, circle).filter(|(slot, _)| *slot != focus);
        let at = others.max_by_key(|(_, zombie)| zombie.turn).map_or(focus, |(slot, _)| slot);
        let slots = slots_by_number(state, at);
        let mut left = state.dying.zombies[&at].left;
        let end = left.saturating_sub(SCAN);
        while left > end && !state.slots.contains_key(&slots(left - 1)) {
            left -= 1;
        }
        if let Some(zombie) = state.dying.zombies.get_mut(&at) {
            zombie.left = left;
        }
        if left == 0 {
            self.erasing = Some(at);
        } else if state.slots.contains_key(&slots(left - 1)) {
            self.empty_step(state, slots(left - 1), circle);
        }
        Progress::More
    }

    /// One step towards emptying a slot of an object that dies.
    fn empty_step(&mut self, state: &mut State, slot: SlotId, circle: u64) {
        if !state.slots[&slot].original {
            self.let_go(state, slot);
            return;
        }
        let Some(leaf) = leaf_below(state, slot) else { return };
        if is_to_be_emptied(state, leaf) {
            make_zombie(state, leaf);
            let home = move_home(state, leaf);
            join(state, home, circle);
        } else if !state.dying.zombies.contains_key(&leaf) {
            self.let_go(state, leaf);
        } else if leaf == slot {
            let home = move_home(state, leaf);
            if self.focus == Some(leaf) {
                self.focus = Some(home);
            }
            join(state, home, circle);
        } else {
            doom(state, slot, leaf);
            join(state, leaf, circle);
        }
    }
}

/// True if another capability was derived from the same one as this.
fn has_siblings(state: &State, slot: SlotId) -> bool {
    state.slots[&slot].parent.is_some_and(|parent| state.children(parent).count() > 1)
}

/// The zombies of a circle.
fn members(state: &State, circle: u64) -> impl Iterator<Item = (SlotId, Zombie)> {
    let all = state.dying.zombies.iter().map(|(slot, zombie)| (*slot, *zombie));
    all.filter(move |(_, zombie)| zombie.circle == circle)
}

/// A zombie joins a circle as its last, and leaves its own.
fn join(state: &mut State, slot: SlotId, circle: u64) {
    let turn = members(state, circle).map(|(_, zombie)| zombie.turn + 1).max().unwrap_or(0);
    if let Some(zombie) = state.dying.zombies.get_mut(&slot) {
        (zombie.circle, zombie.turn) = (circle, turn);
    }
}

/// A leaf below a slot, or the slot itself; `None` if a VM had to be stopped first, which was this step's work.
fn leaf_below(state: &mut State, slot: SlotId) -> Option<SlotId> {
    let mut leaf = slot;
    loop {
        let Some(child) = state.children(leaf).next().map(|(child, _)| child) else { return Some(leaf) };
        if let Some(vm) = launched_from(state, leaf)
            && !close(state, vm)
        {
            return None;
        }
        leaf = child;
    }
}

/// The launched VM whose base is in the slot.
fn launched_from(state: &State, slot: SlotId) -> Option<VmId> {
    let Cap::Untyped { extent, .. } = state.slots[&slot].cap else { return None };
    state
        .vms
        .iter()
        .find(|(vm, object)| object.launched && object.region == extent && extent.holds(vm.0))
        .map(|at| *at.0)
}

/// True if a VM whose base goes has stopped; otherwise stops some of its Vcpus.
fn close(state: &mut State, vm: VmId) -> bool {
    state.dying.closing.insert(vm);
    let running = state.vcpus.values_mut().filter(|vcpu| vcpu.vm == Some(vm) && vcpu.run != Run::Stopped);
    running.take(STOPPED_AT_ONCE).map(|vcpu| vcpu.run = Run::Stopped).count() == 0
}

/// One step of scrubbing what was revoked, if it is an Untyped.
fn scrub_step(state: &mut State, dirt: &mut Bytes, quarantine: &Quarantine, slot: SlotId) -> Progress {
    let Some(Cap::Untyped { extent, device, watermark }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) else {
        return Progress::DONE;
    };
    // Down to a multiple of what is cleared at once: the next step clears as much as it may.
    let kept = if *device { 0 } else { quarantine.kept.reaches_into(extent.base, *watermark) };
    let bottom = if *device { 0 } else { (watermark.saturating_sub(1) / SCRUB * SCRUB).max(kept) };
    if !*device {
        dirt.clear(extent.base + bottom, *watermark - bottom);
    }
    *watermark = bottom;
    if bottom == kept { Progress::Done { kept } } else { Progress::More }
}

/// True for the original of an object whose slots must be emptied before it goes.
fn is_to_be_emptied(state: &State, slot: SlotId) -> bool {
    let Slot { cap, original, .. } = &state.slots[&slot];
    let has_slots = match cap {
        Cap::CNode { .. } => true,
        Cap::Channel { .. } => !slots_of_object(state, slot).is_empty(),
        _ => false,
    };
    *original && has_slots && !state.dying.zombies.contains_key(&slot)
}

/// By number from 0, the slots of the object of a zombie.
fn slots_by_number(state: &State, zombie: SlotId) -> impl Fn(u64) -> SlotId + use<> {
    let first = match state.slots[&zombie].cap {
        Cap::CNode { id, .. } => id.slot(1),
        Cap::Channel { id, .. } => in_flight_slot(id, 1),
        _ => unreachable!("only CNodes and Channels become zombies"),
    };
    move |number| first.behind(number)
}

/// Makes the original of a CNode or Channel, a leaf, a zombie in its place, with a circle of its own.
fn make_zombie(state: &mut State, slot: SlotId) {
    let zombie = match state.slots[&slot].cap {
        Cap::CNode { id: CNodeId(base), slot_bits } => {
            for vm in state.vms.values_mut().filter(|vm| vm.cspace == Some(CNodeId(base))) {
                vm.cspace = None;
            }
            Zombie { circle: base, turn: 0, left: (1 << slot_bits) - 1 }
        }
        Cap::Channel { id, .. } => {
            state.channels.insert(id, [None; 2]);
            free_end(state, (id, 1));
            free_end(state, (id, 2));
            Zombie { circle: id.0, turn: 0, left: 2 }
        }
        _ => unreachable!("only CNodes and Channels become zombies"),
    };
    state.dying.zombies.insert(slot, zombie);
}

/// Moves a zombie to the slot that its object keeps for it; returns that slot.
fn move_home(state: &mut State, slot: SlotId) -> SlotId {
    match home(&state.slots[&slot].cap) {
        Some(home) if home != slot => {
            relocate(state, slot, home);
            home
        }
        _ => slot,
    }
}

/// Dooms every Untyped from `slot` down to the zombie below it, which becomes a sibling of the first.
fn doom(state: &mut State, slot: SlotId, zombie: SlotId) {
    let mut line = Vec::new();
    let mut at = state.slots[&zombie].parent;
    while let Some(above) = at {
        line.push(above);
        at = if above == slot { None } else { state.slots[&above].parent };
    }
    state.dying.doomed.extend(line);
    let parent = state.slots[&slot].parent;
    if let Some(zombie) = state.slots.get_mut(&zombie) {
        zombie.parent = parent;
    }
}

/// Lets go of what the capability in a slot holds, or of a part of that. True if it holds nothing any more.
fn let_go(state: &mut State, slot: SlotId) -> bool {
    let Slot { cap, original, .. } = state.slots[&slot].clone();
    match cap {
        Cap::Frame { .. } => unmap_frame(state, slot),
        Cap::PageTable { .. } => unmap_table(state, slot),
        Cap::CpuTime { vcpu: Some(vcpu), .. } => take_time(state, vcpu),
        Cap::Irq { count: 1, .. } => {
            if let Some(Cap::Irq { route, message, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) {
                (*route, *message) = (None, None);
            }
        }
        Cap::Vm(vm) if original => return dissolve(state, vm),
        Cap::IommuDomain { id, .. } if original => return dissolve(state, id),
        Cap::Vcpu(id) if original => {
            if let Some(vcpu) = state.vcpus.get_mut(&id) {
                vcpu.run = Run::Stopped;
            }
            take_time(state, id);
            let received = state.channels.values_mut().flatten();
            if let Some(end) = received.into_iter().find(|end| end.is_some_and(|end| end.vcpu == id)) {
                *end = None;
                return false;
            }
        }
        Cap::PciFunction { function, .. } => pci_function::quiesce(state, function),
        _ => {}
    }
    true
}

/// One step of the end of an address space: one of its Vcpus, functions or mappings. True if it has none.
fn dissolve(state: &mut State, space: VmId) -> bool {
    state.dying.dissolving.insert(space);
    if let Some(vcpu) = state.vcpus.values_mut().find(|vcpu| vcpu.vm == Some(space)) {
        vcpu.run = Run::Stopped;
        vcpu.vm = None;
        return false;
    }
    if let Some(function) = state.functions.values_mut().find(|function| function.domain == Some(space)) {
        function.domain = None;
        return false;
    }
    let is_mapped = |slot: &Slot| match slot.cap {
        Cap::Frame { mapping, .. } => mapping.is_some_and(|mapping| mapping.vm == space),
        Cap::PageTable { place, .. } => place.is_some_and(|place| place.vm == space),
        _ => false,
    };
    let Some((&slot, found)) = state.slots.iter().find(|(_, slot)| is_mapped(slot)) else { return true };
    if matches!(found.cap, Cap::Frame { .. }) {
        unmap_frame(state, slot);
    } else {
        unmap_table(state, slot);
    }
    false
}
