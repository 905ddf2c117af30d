//! Irq: ranges of interrupt routes.
//!
//! Invariants: a route is bound to at most one Vcpu, which has CPU time and takes [`VCPU_ROUTES`] at most, and is unmasked
//! only then; no two capabilities that can use a route exist, as a child's routes are not its parent's while it lives. What a
//! route is bound to stands in the kernel's table of routes; a Vcpu counts the routes that name it. Those that are no pins are
//! raised by at most one message of a function each, and the machine is told of a route only while it has both.

use crate::cap::Cap;
use crate::decode::{Invocation, Invoked};
use crate::derivation::MAX_SPLITS;
use crate::kernel::{Kernel, MAX_ROUTES, Message, Route};
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{FunctionId, SlotId, VcpuId};
use crate::vcpu::Vcpu;
use cap_spec::abi::{Error, Fault, Label, VCPU_ROUTES};

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
                if self.machine.vcpu(vcpu).routes >= VCPU_ROUTES {
                    return Err(Fault::new(Error::InUse, 1));
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
            && (self.route(first).is_some() || self.message(first).is_some());
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
        *entry = Route { vcpu, vector, ..*entry };
        let header = self.machine.vcpu_mut(vcpu);
        header.routes = header.routes.wrapping_add(1);
        self.deliver_route(route);
        self.wake_sleeper(vcpu, false);
    }

    /// Tells the machine of a route that has got a Vcpu or a message: it is delivered once it has what it needs.
    fn deliver_route(&mut self, route: u16) {
        let Some(Route { vcpu, vector, message }) = self.route(route) else { return };
        if message.is_none() && self.is_message_route(route) {
            return;
        }
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        let held = self.core(core).loaded == vcpu;
        if held
            && core != self.active
            && let Some(reservation) = reservation
        {
            self.core_mut(core).schedule.blame(reservation);
        }
        self.machine.route_irq(route, Some((core, vector)), held);
    }

    /// True for a route that messages of functions raise.
    pub(crate) fn is_message_route(&self, route: u16) -> bool {
        route >= self.first_message_route
    }

    /// Lets a message raise a route that has none.
    pub(crate) fn bind_message(&mut self, route: u16, message: Message) {
        let Some(entry) = self.routes.get_mut(route as usize) else { return };
        entry.message = Some(message);
        self.machine.bind_message(route, message);
        self.deliver_route(route);
        let vcpu = self.route(route).map_or(VcpuId::NONE, |route| route.vcpu);
        if vcpu.is_some() {
            self.wake_sleeper(vcpu, false);
        }
    }

    /// Masks the message of a route for good, if it has one.
    #[cold]
    pub(crate) fn unbind_message(&mut self, route: u16) {
        let Some(message) = self.routes.get_mut(route as usize).and_then(|entry| entry.message.take()) else { return };
        if self.route(route).is_some() {
            self.machine.route_irq(route, None, false);
        }
        self.machine.unbind_message(route, message);
    }

    /// Masks every message of a function for good.
    pub(crate) fn unbind_messages(&mut self, function: FunctionId) {
        for route in 0..MAX_ROUTES as u16 {
            if self.message(route).is_some_and(|message| message.function == function) {
                self.unbind_message(route);
            }
        }
    }

    /// Masks a route and takes it off its Vcpu.
    pub(crate) fn unbind_route(&mut self, route: u16) {
        let Some(entry) = self.routes.get_mut(route as usize) else { return };
        let Route { vcpu, message, .. } = *entry;
        *entry = Route { message, ..Route::NONE };
        if vcpu.is_some() {
            if message.is_some() || !self.is_message_route(route) {
                self.machine.route_irq(route, None, false);
            }
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
