//! CPU time: reservations as capabilities. What a core does with them is `sched`'s.
//!
//! Invariants: a reservation's children have, in sum, no more than it can give ([`Share::has_room`]); `allocated` is that
//! sum. A reservation is bound to a Vcpu, or split, or idle, never two of them; a bound one and its Vcpu name each other.
//! Time that was given back may still be promised for a running period: whoever takes it over inherits `free_from`, the
//! instant before which it is not used.

use crate::cap::Cap;
use crate::decode::{Invocation, Invoked};
use crate::derivation::MAX_SPLITS;
use crate::kernel::Kernel;
use crate::launch::Check;
use crate::machine::Machine;
use crate::sched::{NEVER, Share};
use crate::slot::Slot;
use crate::types::{CoreId, SlotId, Ticks, VcpuId};
use crate::vcpu::Run;
use cap_spec::abi::{Error, Fault, Label};

/// What a CpuTime capability says.
#[derive(Clone, Copy, Debug)]
struct Reservation {
    core: CoreId,
    vcpu: VcpuId,
    budget: u64,
    period: u64,
    free_from: u64,
    allocated: u64,
}

impl<M: Machine> Kernel<M> {
    /// What the CpuTime capability in a slot says.
    fn reservation(&self, slot: SlotId) -> Option<Reservation> {
        match self.slot(slot).cap {
            Cap::CpuTime { core, vcpu, budget, period, free_from, allocated } => {
                Some(Reservation { core, vcpu, budget, period, free_from, allocated })
            }
            _ => None,
        }
    }

    /// Changes the CpuTime capability in a slot.
    fn set_reservation(&mut self, slot: SlotId, to: Reservation) {
        let Reservation { core, vcpu, budget, period, free_from, allocated } = to;
        self.slot_mut(slot).cap = Cap::CpuTime { core, vcpu, budget, period, free_from, allocated };
    }

    /// The share of a core that a reservation takes.
    fn share(&self, budget: u64, period: u64) -> Share {
        self.limits.share(Ticks::new(budget), Ticks::new(period))
    }

    /// Both labels of CpuTime.
    pub(crate) fn decode_time(&self, label: Label, call: &Invoked) -> Result<Invocation, Fault> {
        let own = self.reservation(call.id).ok_or(Fault::new(Error::WrongType, 0))?;
        let max = self.limits.max_period().get();
        let budget = call.number(1, self.limits.min_budget().get(), max)?;
        let longest = self.limits.max_period_of(Ticks::new(budget)).get();
        let period = call.number(2, self.limits.min_period().get().max(budget), longest)?;
        let wanted = self.share(budget, period);
        let not_admitted = Fault::new(Error::NotAdmitted, 0);
        match label {
            Label::CpuTimeSplit => {
                let &[_, _, cnode, index, _] = call.args;
                let to = self.destination(call.root, cnode, index, 3)?;
                if own.vcpu.is_some() || self.splits(call.id).count() >= MAX_SPLITS {
                    return Err(Fault::new(Error::InUse, 0));
                }
                if !self.share(own.budget, own.period).has_room(Share::new(own.allocated), wanted) {
                    return Err(not_admitted);
                }
                if self.is_too_deep(call.id) {
                    return Err(Fault::new(Error::TooDeep, 0));
                }
                Ok(Invocation::SplitTime { from: call.id, to, budget, period })
            }
            _ => {
                if call.slot.has_children() || call.slot.boot {
                    return Err(Fault::new(Error::InUse, 0));
                }
                let parent = self.parent_of_split(call.id);
                let above = self.reservation(parent).ok_or(not_admitted)?;
                let others = Share::new(above.allocated).minus(self.share(own.budget, own.period));
                if !self.share(above.budget, above.period).has_room(others, wanted) {
                    return Err(not_admitted);
                }
                Ok(Invocation::ResizeTime { slot: call.id, parent, budget, period })
            }
        }
    }

    /// Makes a child reservation, with the same rights.
    pub(crate) fn split_time(&mut self, from: SlotId, to: SlotId, budget: u64, period: u64) {
        let Some(own) = self.reservation(from) else { return };
        let share = self.share(budget, period);
        self.set_reservation(from, Reservation { allocated: own.allocated.saturating_add(share.get()), ..own });
        let cap =
            Cap::CpuTime { core: own.core, vcpu: VcpuId::NONE, budget, period, free_from: own.free_from, allocated: 0 };
        self.insert_child(from, to, Slot::of(cap, self.slot(from).rights, true));
    }

    /// Changes a reservation. A bound one changes at its next period boundary; what it gives back is free from then on.
    pub(crate) fn resize_time(&mut self, slot: SlotId, parent: SlotId, budget: u64, period: u64) {
        let (Some(own), Some(above)) = (self.reservation(slot), self.reservation(parent)) else { return };
        let old = self.share(own.budget, own.period);
        let new = self.share(budget, period);
        let mut own = Reservation { budget, period, ..own };
        if new > old {
            own.free_from = own.free_from.max(above.free_from);
        }
        let mut freed_at = own.free_from;
        if own.vcpu.is_some()
            && let Some(reservation) = self.machine.vcpu(own.vcpu).reservation
        {
            let now = self.machine.now();
            let not_before = Ticks::new(own.free_from);
            let schedule = &mut self.core_mut(own.core).schedule;
            let done = schedule.resize(reservation, Ticks::new(budget), Ticks::new(period), not_before, now);
            self.machine.trace_freed(own.vcpu, done.from);
            freed_at = freed_at.max(done.from.get());
            if done.disturbed {
                self.disturb(own.core);
            }
        }
        let allocated = Share::new(above.allocated).minus(old).plus(new).get();
        let free_from = if new < old { above.free_from.max(freed_at) } else { above.free_from };
        self.set_reservation(parent, Reservation { allocated, free_from, ..above });
        self.set_reservation(slot, own);
        if own.vcpu.is_some() {
            self.machine.vcpu_mut(own.vcpu).resized = true;
        }
    }

    /// Binds an idle reservation to a stopped Vcpu without one. The core has room.
    pub(crate) fn bind_time(&mut self, vcpu: VcpuId, time: SlotId) {
        let Some(own) = self.reservation(time) else { return };
        let now = self.machine.now();
        let (budget, period) = (Ticks::new(own.budget), Ticks::new(own.period));
        let not_before = Ticks::new(own.free_from);
        let reservation = self.core_mut(own.core).schedule.bind(vcpu, budget, period, not_before, now);
        self.set_reservation(time, Reservation { vcpu, ..own });
        let header = self.machine.vcpu_mut(vcpu);
        header.reservation = reservation;
        header.core = own.core;
        header.time = time;
        // What it has checked is marked with the reservation that it had.
        header.check = Check::NONE;
        self.write_info(vcpu);
    }

    /// Takes a Vcpu off its reservation: no core runs it any more, its interrupts are masked.
    pub(crate) fn unbind_time(&mut self, vcpu: VcpuId) {
        let &crate::vcpu::Vcpu { core, time, reservation, run, .. } = self.machine.vcpu(vcpu);
        if !time.is_some() {
            return;
        }
        let now = self.machine.now();
        self.unbind_routes(vcpu);
        // It keeps what it is doing: stopped, runnable without time, or asleep.
        self.block_vcpu(vcpu, run, NEVER, now);
        if run != Run::Stopped
            && let Some(core) = self.holder(vcpu)
        {
            self.disturb(core);
        }
        let mut free_from = 0;
        if let Some(reservation) = reservation {
            let free = self.core_mut(core).schedule.unbind(reservation, now);
            self.machine.trace_freed(vcpu, free);
            free_from = free.get();
        }
        let header = self.machine.vcpu_mut(vcpu);
        header.time = SlotId::NONE;
        header.reservation = None;
        if let Some(own) = self.reservation(time) {
            let free_from = own.free_from.max(free_from);
            self.set_reservation(time, Reservation { vcpu: VcpuId::NONE, free_from, ..own });
        }
    }

    /// Gives a reservation without children, which is about to go, back to its parent.
    pub(crate) fn give_time_back(&mut self, slot: SlotId) {
        let Some(bound) = self.reservation(slot) else { return };
        if bound.vcpu.is_some() {
            self.unbind_time(bound.vcpu);
        }
        let parent = self.parent_of_split(slot);
        if !parent.is_some() {
            return;
        }
        let (Some(own), Some(above)) = (self.reservation(slot), self.reservation(parent)) else { return };
        let allocated = Share::new(above.allocated).minus(self.share(own.budget, own.period)).get();
        let free_from = above.free_from.max(own.free_from);
        self.set_reservation(parent, Reservation { allocated, free_from, ..above });
    }
}
