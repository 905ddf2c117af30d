//! Delete and Revoke: how capabilities and objects die, in bounded steps.
//!
//! Removing a copy is one step. Removing an original, or the descendants of a capability, takes leaves of the forest one
//! after the other. What a capability gave is withdrawn and flushed before its slot is erased ([`Flushed`]); memory is
//! scrubbed, and so made retypeable, only when nothing is derived from the Untyped any more, and never what is in quarantine.
//!
//! A CNode or Channel has slots, which may hold originals, other CNodes, itself, or the Untyped that it was made of; and
//! there is neither a stack nor memory to remember them. So its capability becomes a *zombie*, which no lookup finds, and
//! its slots are emptied from the last to the first, 64 a step:
//! - A CNode found on the way becomes a zombie too. It moves *home*, to the slot of its own object that is kept for this,
//!   so that the slot in which it was found is free; and it joins the *circle* of zombies of the operation.
//! - The zombie that Delete began with stays in the slot that the caller named, so that the repeated call finds it and
//!   goes on. Only if that very slot lies in a CNode that dies, it moves home as well.
//! - An Untyped in a dying slot from which a zombie descends cannot wait for that zombie: the zombie may be waiting for
//!   the slot. The Untyped, and all between it and the zombie, are *doomed* (nobody can use or scrub them any more) and
//!   the zombie becomes a sibling of the Untyped. So every Untyped that could be scrubbed still has the zombie below it.
//!
//! Between any two steps all invariants hold. An operation that is given up leaves zombies; a Revoke of anything above
//! them, or a Delete of a slot that still holds one, goes on with the circle.

use crate::cap::{Cap, Zombie};
use crate::channel::Handled;
use crate::flush::Flushed;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::sched::NEVER;
use crate::slot::{MAX_DEPTH, Slot};
use crate::types::{ChannelId, CoreId, EndId, SlotId, VcpuId, VmId};
use crate::vcpu::Run;
use cap_spec::abi::{CHANNEL_BITS, SLOT_BITS};

/// Slots that one step looks at.
const SCAN: u32 = 64;
/// Vcpus of a VM that one step stops when its base is being revoked.
const STOPPED_AT_ONCE: usize = 16;
/// The slot of a channel that is kept for its zombie: the last.
const CHANNEL_HOME: u32 = 3;

/// A Delete or Revoke under way. It may be dropped between two steps: the call that is repeated finds its way back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// The slot that the caller named.
    target: SlotId,
    /// The zombie whose circle is being finished, if any.
    focus: SlotId,
    /// Keep the target, and scrub it if it is an Untyped.
    keep: bool,
    /// Of an Untyped that has been scrubbed, the bytes at its start that are not free again.
    pub(crate) kept_back: u64,
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The work is done.
    Done,
    /// More is to be done. The step took at most about three hundred instructions.
    Light,
    /// More is to be done. The step took at most about nine thousand instructions.
    Heavy,
}

impl Work {
    /// Delete of a slot.
    pub(crate) fn delete(target: SlotId) -> Work {
        Work { target, focus: SlotId::NONE, keep: false, kept_back: 0 }
    }

    /// Revoke of a slot.
    pub(crate) fn revoke(target: SlotId) -> Work {
        Work { target, focus: SlotId::NONE, keep: true, kept_back: 0 }
    }
}

impl<M: Machine> Kernel<M> {
    /// One step of a Revoke of a slot, for those who look at each by itself: true when the Revoke is done.
    #[cfg(any(test, feature = "host"))]
    pub fn revoke_step(&mut self, slot: SlotId) -> bool {
        self.destroy_step(&mut Work::revoke(slot)) == Step::Done
    }

    /// One step of a Delete of a slot, for the same: true when the Delete is done.
    #[cfg(any(test, feature = "host"))]
    pub fn delete_step(&mut self, slot: SlotId) -> bool {
        self.destroy_step(&mut Work::delete(slot)) == Step::Done
    }

    /// One bounded step.
    #[inline]
    pub(crate) fn destroy_step(&mut self, work: &mut Work) -> Step {
        if !work.focus.is_some() {
            let step = self.leaf_step(work);
            if !work.focus.is_some() {
                return step;
            }
        }
        if self.circle_step(&mut work.focus) {
            work.focus = SlotId::NONE;
            if self.slot(work.target).is_empty() {
                return Step::Done;
            }
        }
        Step::Heavy
    }

    /// Takes one leaf, or finds the zombie whose circle must be finished first.
    #[inline]
    fn leaf_step(&mut self, work: &mut Work) -> Step {
        let target = self.slot(work.target);
        if target.is_empty() {
            return Step::Done;
        }
        if !work.keep && !target.original {
            self.take_away(work.target);
            return Step::Done;
        }
        let Some(leaf) = self.leaf_to_destroy(work.target) else { return Step::Heavy };
        let cap = &self.slot(leaf).cap;
        if matches!(cap, Cap::Zombie(_)) {
            work.focus = leaf;
        } else if leaf == work.target && work.keep {
            return match cap {
                Cap::Untyped { .. } => {
                    let Some(kept_back) = self.scrub_step(leaf) else { return Step::Heavy };
                    work.kept_back = kept_back;
                    Step::Done
                }
                Cap::Doomed { .. } => {
                    self.take_away(leaf);
                    Step::Done
                }
                _ => Step::Done,
            };
        } else if self.is_to_be_emptied(leaf) {
            self.make_zombie(leaf);
            // The zombie that Delete begins with stays where the repeated call looks for it.
            work.focus = if leaf == work.target { leaf } else { self.move_home(leaf) };
        } else {
            // A copy of what stands for much is as quickly gone as any other.
            let light = !self.slot(leaf).original
                || !matches!(
                    cap,
                    Cap::PageTable { .. }
                        | Cap::Vm { .. }
                        | Cap::Vcpu { .. }
                        | Cap::IommuDomain { .. }
                        | Cap::PciFunction { .. }
                        | Cap::Irq { .. }
                );
            let gone = self.take_away(leaf);
            return match light {
                _ if gone && leaf == work.target => Step::Done,
                true => Step::Light,
                false => Step::Heavy,
            };
        }
        Step::Light
    }

    /// A leaf below `slot`. A launched VM on whose base the walk comes by is stopped for good first: it cannot make
    /// capabilities as fast as they are taken. `None` if that was this step's work.
    #[inline]
    fn leaf_to_destroy(&mut self, slot: SlotId) -> Option<SlotId> {
        let mut leaf = slot;
        for _ in 0..MAX_DEPTH {
            let at = self.slot(leaf);
            let child = at.first_child;
            if !child.is_some() {
                break;
            }
            if let Cap::Untyped { vm, .. } = at.cap
                && vm.is_some()
                && !self.is_stopped(vm)
            {
                return None;
            }
            leaf = child;
        }
        Some(leaf)
    }

    /// True if a VM whose base goes has stopped; otherwise stops some of its Vcpus. None of them starts again, and one
    /// that joins it is stopped.
    fn is_stopped(&mut self, vm: VmId) -> bool {
        let header = self.machine.vm_mut(vm);
        if !core::mem::replace(&mut header.dying, true) {
            header.to_stop = header.vcpus;
        }
        let mut vcpu = header.to_stop;
        if !vcpu.is_some() {
            return true;
        }
        for _ in 0..STOPPED_AT_ONCE {
            if !vcpu.is_some() {
                break;
            }
            self.stop_vcpu(vcpu);
            vcpu = self.machine.vcpu(vcpu).next;
        }
        self.machine.vm_mut(vm).to_stop = vcpu;
        false
    }

    // ---- one capability ------------------------------------------------------------------------------------------

    /// True for the original of an object whose slots must be emptied before it goes.
    #[inline]
    fn is_to_be_emptied(&self, slot: SlotId) -> bool {
        let at = self.slot(slot);
        match at.cap {
            Cap::CNode { .. } => at.original,
            Cap::Channel { id, .. } => {
                at.original && !(self.slot(id.in_flight(1)).is_empty() && self.slot(id.in_flight(2)).is_empty())
            }
            _ => false,
        }
    }

    /// Takes away a copy, or an original without descendants and without slots to be emptied. True when the slot is
    /// empty, false if the object needs more steps.
    #[inline]
    pub(crate) fn take_away(&mut self, slot: SlotId) -> bool {
        let &Slot { ref cap, original, .. } = self.slot(slot);
        let flushed = match *cap {
            Cap::Frame { .. } | Cap::PageTable { .. } => self.withdraw(slot),
            Cap::Untyped { bits, base, watermark, .. } => {
                self.give_memory_back(slot, bits, base.get(), watermark);
                Flushed::nothing_withdrawn()
            }
            Cap::CpuTime { .. } => {
                self.give_time_back(slot);
                Flushed::nothing_withdrawn()
            }
            Cap::Vm { id } if original => match self.dissolve_vm(id) {
                Some(flushed) => flushed,
                None => return false,
            },
            Cap::Vcpu { id } if original => match self.dissolve_vcpu(id) {
                Some(flushed) => flushed,
                None => return false,
            },
            Cap::Channel { id, .. } if original => {
                self.close_channel(id);
                Flushed::nothing_withdrawn()
            }
            Cap::Irq { first, count: 1 } => {
                self.unbind_route(first);
                self.unbind_message(first);
                Flushed::nothing_withdrawn()
            }
            Cap::IommuDomain { id, .. } if original => match self.dissolve_domain(id) {
                Some(flushed) => flushed,
                None => return false,
            },
            Cap::PciFunction { function, lease } => {
                self.give_function_back(function, lease);
                Flushed::nothing_withdrawn()
            }
            Cap::Null
            | Cap::CNode { .. }
            | Cap::Vm { .. }
            | Cap::Vcpu { .. }
            | Cap::Channel { .. }
            | Cap::Irq { .. }
            | Cap::IoPort { .. }
            | Cap::Machine
            | Cap::Zombie(_)
            | Cap::Doomed { .. }
            | Cap::IommuDomain { .. } => Flushed::nothing_withdrawn(),
        };
        self.erase(slot, flushed);
        true
    }

    /// Empties a slot whose capability reaches nothing any more. The children of a copy become its parent's.
    #[inline]
    fn erase(&mut self, slot: SlotId, flushed: Flushed) {
        if flushed.has_failed() {
            self.keep_back(slot);
        }
        self.remove(slot);
    }

    /// The Untyped in `slot` goes: if it was its parent's whole extent, the parent is as clean as it was.
    fn give_memory_back(&mut self, slot: SlotId, bits: u8, base: u64, watermark: u64) {
        let &Slot { prev, first, last, .. } = self.slot(slot);
        if !first || !last || !prev.is_some() {
            return;
        }
        if let Cap::Untyped { bits: whole, base: start, watermark: ref mut taken, .. } = self.slot_mut(prev).cap
            && whole == bits
            && start.get() == base
        {
            *taken = watermark;
        }
    }

    /// One step of the end of a VM without capabilities: its Vcpus are detached, its mappings taken back.
    fn dissolve_vm(&mut self, vm: VmId) -> Option<Flushed> {
        let header = self.machine.vm_mut(vm);
        header.dissolving = true;
        let (vcpu, mapping, base) = (header.vcpus, header.mappings, header.base);
        if vcpu.is_some() {
            self.expel_for_good(vcpu);
            self.detach(vcpu);
            return None;
        }
        if mapping.is_some() {
            // Nobody runs the VM, so this withdrawal is complete; the frame or table stays its holder's.
            let Flushed { .. } = self.unmap(mapping);
            return None;
        }
        self.clear_cspace(vm);
        if base.is_some()
            && let Cap::Untyped { vm: owner, .. } = &mut self.slot_mut(base).cap
        {
            *owner = VmId::NONE;
        }
        Some(Flushed::nothing_withdrawn())
    }

    /// One step of the end of a domain without capabilities: its functions are detached, then it is as a VM without
    /// Vcpus.
    #[cold]
    fn dissolve_domain(&mut self, domain: VmId) -> Option<Flushed> {
        self.machine.vm_mut(domain).dissolving = true;
        if self.machine.vm(domain).functions != 0 {
            self.detach_one_of(domain);
            return None;
        }
        let flushed = self.dissolve_vm(domain)?;
        self.clear_handler(Handled::Domain(domain));
        Some(flushed)
    }

    /// One step of the end of a Vcpu without capabilities.
    fn dissolve_vcpu(&mut self, vcpu: VcpuId) -> Option<Flushed> {
        self.expel_for_good(vcpu);
        // With its time go its routes: before anything that may be preempted, as no core parks them any more.
        self.unbind_time(vcpu);
        let end = self.machine.vcpu(vcpu).receives;
        if end.is_some() {
            self.unbind_end(end);
            return None;
        }
        self.clear_handler(Handled::Vcpu(vcpu));
        self.detach(vcpu);
        Some(Flushed::nothing_withdrawn())
    }

    /// Stops a Vcpu, and makes every core forget that it held its state: it is not saved again.
    pub(crate) fn expel_for_good(&mut self, vcpu: VcpuId) {
        let now = self.machine.now();
        self.block_vcpu(vcpu, Run::Stopped, NEVER, now);
        for core in (0..self.core_count as u8).map(CoreId::new) {
            if self.core(core).loaded == vcpu {
                self.core_mut(core).loaded = VcpuId::NONE;
            }
        }
    }

    /// Parts both ends of a channel from their receivers and from what they tell of.
    fn close_channel(&mut self, channel: ChannelId) {
        self.clear_end(EndId::of(channel, 1));
        self.clear_end(EndId::of(channel, 2));
    }

    // ---- zombies -------------------------------------------------------------------------------------------------

    /// Makes the original of a CNode or Channel, a leaf, a zombie in its place, with a circle of its own.
    fn make_zombie(&mut self, slot: SlotId) {
        self.changes(slot);
        let zombie = match self.slot(slot).cap {
            Cap::CNode { bits, vm, base } => {
                if vm.is_some() {
                    self.clear_cspace(vm);
                }
                let remaining = crate::cspace::slots_of(bits).wrapping_sub(1);
                let bits = bits.wrapping_add(SLOT_BITS);
                Zombie { home: base, first: base.plus(1), remaining, next: slot, prev: slot, bits }
            }
            Cap::Channel { id, .. } => {
                self.close_channel(id);
                let first = id.in_flight(1);
                let home = first.plus(CHANNEL_HOME);
                Zombie { home, first, remaining: 2, next: slot, prev: slot, bits: CHANNEL_BITS }
            }
            _ => return,
        };
        self.slot_mut(slot).cap = Cap::Zombie(zombie);
    }

    /// The zombie in a slot.
    #[inline]
    fn zombie(&self, slot: SlotId) -> Option<Zombie> {
        match self.slot(slot).cap {
            Cap::Zombie(zombie) => Some(zombie),
            _ => None,
        }
    }

    /// The zombie in a slot, to change it.
    #[inline]
    fn zombie_mut(&mut self, slot: SlotId) -> Option<&mut Zombie> {
        match &mut self.slot_mut(slot).cap {
            Cap::Zombie(zombie) => Some(zombie),
            _ => None,
        }
    }

    /// Moves a zombie to the slot that its object keeps for it; returns that slot.
    fn move_home(&mut self, slot: SlotId) -> SlotId {
        match self.zombie(slot) {
            Some(zombie) if zombie.home != slot => {
                self.relocate(slot, zombie.home);
                zombie.home
            }
            _ => slot,
        }
    }

    /// A zombie has moved to another slot: its neighbours in the circle learn of it.
    pub(crate) fn relink_zombie(&mut self, zombie: &Zombie, to: SlotId) {
        // Where it came from is empty already; alone, it was its own neighbour.
        if self.zombie(zombie.next).is_none() {
            if let Some(moved) = self.zombie_mut(to) {
                moved.next = to;
                moved.prev = to;
            }
            return;
        }
        if let Some(next) = self.zombie_mut(zombie.next) {
            next.prev = to;
        }
        if let Some(prev) = self.zombie_mut(zombie.prev) {
            prev.next = to;
        }
    }

    /// Takes a zombie out of its circle; it is then a circle of its own.
    fn leave_circle(&mut self, slot: SlotId) {
        let Some(zombie) = self.zombie(slot) else { return };
        if let Some(next) = self.zombie_mut(zombie.next) {
            next.prev = zombie.prev;
        }
        if let Some(prev) = self.zombie_mut(zombie.prev) {
            prev.next = zombie.next;
        }
        if let Some(own) = self.zombie_mut(slot) {
            own.next = slot;
            own.prev = slot;
        }
    }

    /// Takes a zombie out of its circle, whichever that is, and puts it after `focus`.
    fn join_circle(&mut self, slot: SlotId, focus: SlotId) {
        if slot == focus {
            return;
        }
        self.leave_circle(slot);
        let Some(at) = self.zombie_mut(focus) else { return };
        let next = core::mem::replace(&mut at.next, slot);
        if let Some(next) = self.zombie_mut(next) {
            next.prev = slot;
        }
        if let Some(own) = self.zombie_mut(slot) {
            own.next = next;
            own.prev = focus;
        }
    }

    /// One step towards the end of a circle: all others of it before `focus`. True when `focus` is gone, as the last.
    fn circle_step(&mut self, focus: &mut SlotId) -> bool {
        let Some(zombie) = self.zombie(*focus) else { return true };
        let at = zombie.next;
        let Some(Zombie { first, mut remaining, .. }) = self.zombie(at) else { return true };
        let end = remaining.saturating_sub(SCAN);
        while remaining > end && self.slot(first.plus(remaining.wrapping_sub(1))).is_empty() {
            remaining = remaining.wrapping_sub(1);
        }
        if let Some(zombie) = self.zombie_mut(at) {
            zombie.remaining = remaining;
        }
        if remaining == 0 {
            self.leave_circle(at);
            self.erase(at, Flushed::nothing_withdrawn());
            return at == *focus;
        }
        let slot = first.plus(remaining.wrapping_sub(1));
        if !self.slot(slot).is_empty() {
            self.empty_step(slot, focus);
        }
        false
    }

    /// One step towards emptying a slot of an object that dies.
    fn empty_step(&mut self, slot: SlotId, focus: &mut SlotId) {
        if !self.slot(slot).original {
            self.take_away(slot);
            return;
        }
        let Some(leaf) = self.leaf_to_destroy(slot) else { return };
        if self.is_to_be_emptied(leaf) {
            self.make_zombie(leaf);
            let home = self.move_home(leaf);
            self.join_circle(home, *focus);
            return;
        }
        if self.zombie(leaf).is_none() {
            self.take_away(leaf);
            return;
        }
        if leaf == slot {
            let home = self.move_home(leaf);
            if leaf == *focus {
                *focus = home;
            }
            self.join_circle(home, *focus);
        } else {
            self.doom(slot);
            self.make_sibling(leaf, slot);
            self.join_circle(leaf, *focus);
        }
    }

    /// Makes every Untyped from `slot` down to the leaf below it unusable.
    fn doom(&mut self, slot: SlotId) {
        let mut at = slot;
        for _ in 0..MAX_DEPTH {
            self.changes(at);
            let record = self.slot_mut(at);
            let child = record.first_child;
            if let Cap::Untyped { bits, base, vm, .. } = record.cap {
                record.cap = Cap::Doomed { bits, base };
                if vm.is_some() {
                    self.machine.vm_mut(vm).base = SlotId::NONE;
                }
            }
            if !child.is_some() {
                break;
            }
            at = child;
        }
    }
}
