//! Irq: ranges of interrupt routes.
//!
//! Invariants: a route is bound to at most one Vcpu, which has CPU time, and is unmasked only then; no two capabilities
//! that can use a route exist, as a child's routes are not its parent's while it lives. What a route is bound to stands
//! in the kernel's table of routes; a Vcpu counts the routes that name it.

use crate::cap::Cap;
use crate::decode::{Invocation, Invoked};
use crate::derivation::MAX_SPLITS;
use crate::kernel::{Kernel, MAX_ROUTES, Route};
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{SlotId, VcpuId};
use cap_spec::abi::{Error, Fault, Label};

impl<M: Machine> Kernel<M> {
    /// Every label of Irq.
    pub(crate) fn decode_irq(&self, label: Label, call: &Invoked, first: u16, count: u32) -> Result<Invocation, Fault> {
        match label {
            Label::IrqSplit => {
                let (from, to, first, count) = self.decode_split(call, first, count)?;
                Ok(Invocation::SplitIrq { from, to, first, count })
            }
            Label::IrqBind => {
                if count != 1 {
                    return Err(Fault::new(Error::OutOfRange, 0));
                }
                let vcpu = self.vcpu_argument(call, 1)?;
                let vector = call.number(2, 32, 255)? as u8;
                if call.slot.has_children() || self.route(first).is_some() {
                    return Err(Fault::new(Error::InUse, 0));
                }
                if !self.machine.vcpu(vcpu).time.is_some() {
                    return Err(Fault::new(Error::NotConfigured, 1));
                }
                if self.is_route_forbidden(first) {
                    return Err(Fault::new(Error::Forbidden, 0));
                }
                Ok(Invocation::BindIrq { route: first, vcpu, vector })
            }
            _ => {
                if count != 1 || call.slot.has_children() || self.route(first).is_none() {
                    return Err(Fault::new(Error::NotMapped, 0));
                }
                Ok(Invocation::UnbindIrq(first))
            }
        }
    }

    /// True for a route that is never handed out: the kernel's own, the cascade's, the timer's.
    pub(crate) fn is_route_forbidden(&self, route: u16) -> bool {
        route as usize >= MAX_ROUTES || self.forbidden_routes.wrapping_shr(route as u32) & 1 != 0
    }

    /// Checks a Split of a range of routes or ports, all but what is forbidden: capability, destination, and the part.
    pub(crate) fn decode_split(
        &self,
        call: &Invoked,
        first: u16,
        count: u32,
    ) -> Result<(SlotId, SlotId, u16, u32), Fault> {
        let end = (first as u64).wrapping_add(count as u64);
        let part_first = call.number(1, first as u64, end.wrapping_sub(1))?;
        let part_count = call.number(2, 1, end.wrapping_sub(part_first))?;
        let &[_, _, cnode, index, _] = call.args;
        let to = self.destination(call.root, cnode, index, 3)?;
        let bound = matches!(call.slot.cap, Cap::Irq { count: 1, .. })
            && !call.slot.has_children()
            && self.route(first).is_some();
        let (part_first, part_count) = (part_first as u16, part_count as u32);
        if bound || self.splits(call.id).count() >= MAX_SPLITS || self.is_taken(call.id, part_first, part_count) {
            return Err(Fault::new(Error::InUse, 0));
        }
        if matches!(call.slot.cap, Cap::IoPort { .. }) && crate::ioport::is_forbidden(part_first, part_count) {
            return Err(Fault::new(Error::Forbidden, 1));
        }
        if self.is_too_deep(call.id) {
            return Err(Fault::new(Error::TooDeep, 0));
        }
        Ok((call.id, to, part_first, part_count))
    }

    /// True if a child of a range has one of these routes or ports.
    pub(crate) fn is_taken(&self, slot: SlotId, first: u16, count: u32) -> bool {
        let start = first as u32;
        let end = start.wrapping_add(count);
        self.splits(slot).any(|child| match self.slot(child).cap {
            Cap::Irq { first, count } | Cap::IoPort { first, count } => {
                (first as u32) < end && start < (first as u32).wrapping_add(count)
            }
            _ => false,
        })
    }

    /// Makes a child that owns part of a range, with the same rights.
    pub(crate) fn split_range(&mut self, from: SlotId, to: SlotId, cap: Cap) {
        self.insert_child(from, to, Slot::of(cap, self.slot(from).rights, true));
    }

    /// Delivers a route to a Vcpu on its core. As it may have fired before its core can deliver it, one that waits wakes.
    pub(crate) fn bind_route(&mut self, route: u16, vcpu: VcpuId, vector: u8) {
        let Some(entry) = self.routes.get_mut(route as usize) else { return };
        *entry = Route { vcpu, vector };
        let header = self.machine.vcpu_mut(vcpu);
        header.routes = header.routes.wrapping_add(1);
        let (core, reservation) = (header.core, header.reservation);
        let held = self.core(core).loaded == vcpu;
        if held
            && core != self.active
            && let Some(reservation) = reservation
        {
            self.core_mut(core).schedule.blame(reservation);
        }
        self.machine.route_irq(route, Some((core, vector)), held);
        self.wake_sleeper(vcpu, false);
    }

    /// Masks a route and takes it off its Vcpu.
    pub(crate) fn unbind_route(&mut self, route: u16) {
        let Some(entry) = self.routes.get_mut(route as usize) else { return };
        let vcpu = core::mem::replace(entry, Route::NONE).vcpu;
        if vcpu.is_some() {
            self.machine.route_irq(route, None, false);
            let header = self.machine.vcpu_mut(vcpu);
            header.routes = header.routes.wrapping_sub(1);
        }
    }

    /// Masks every route of a Vcpu.
    pub(crate) fn unbind_routes(&mut self, vcpu: VcpuId) {
        if self.machine.vcpu(vcpu).routes == 0 {
            return;
        }
        for route in 0..MAX_ROUTES as u16 {
            if self.route(route).is_some_and(|entry| entry.vcpu == vcpu) {
                self.unbind_route(route);
            }
        }
    }
}
