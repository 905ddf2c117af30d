//! Interrupt routes on this machine: the mirror of the back end's module, around the library's [`Pins`]. And what the
//! oracle needs of them: whose each is according to the kernel.

use crate::bug::Bug;
use crate::core_loop::{World, id};
use crate::lines::{FIRST_ROUTE, ROUTES, Target};
use kernel::types::VcpuId;

impl World {
    /// Follows what the library bound: whose the interrupts of a line are.
    pub(crate) fn follow_owners(&mut self) {
        for line in 0..ROUTES {
            let bound = self.kernel.route(FIRST_ROUTE + line as u16).map(|route| (route.vcpu, route.vector));
            let hardware = &mut self.kernel.machine.0;
            let owner = bound.filter(|_| hardware.pins.bound() >> (FIRST_ROUTE + line as u16) & 1 != 0);
            if hardware.lines[line].owner != owner {
                hardware.forget_owed(line);
                hardware.lines[line].owner = owner;
            }
        }
    }

    /// Opens the routes of the Vcpu whose state a core holds, which it enters.
    pub(crate) fn open_routes(&mut self, core: usize, loaded: VcpuId) {
        self.kernel.machine.0.pins.looked(id(core));
        let bound = self.kernel.machine.0.pins.bound();
        self.for_each(bound, |world, line, vcpu, vector| {
            if vcpu != loaded {
                return;
            }
            let hardware = &mut world.kernel.machine.0;
            if hardware.pins.open(pin(line), id(core))
                && let Some(guest) = hardware.guests.get_mut(&vcpu)
            {
                guest.pending.raise(vector);
            }
            hardware.aim(line, Target::Open);
        });
    }

    /// Parks the routes of a Vcpu whose state leaves a core; true if it has been woken by one that may have fired.
    pub(crate) fn park_routes(&mut self, core: usize, leaving: VcpuId) -> bool {
        let mut woken = false;
        let bound = self.kernel.machine.0.pins.bound();
        self.for_each(bound, |world, line, vcpu, _| {
            if vcpu != leaving {
                return;
            }
            let hardware = &mut world.kernel.machine.0;
            if hardware.pins.leave(pin(line), id(core)) {
                hardware.aim(line, Target::Parked);
            } else {
                woken |= world.kernel.wake_by_interrupt(vcpu);
            }
        });
        woken
    }

    /// Masks what is open towards a core that holds the state of a Vcpu which is no more.
    pub(crate) fn close_routes(&mut self, core: usize) {
        if self.kernel.machine.0.bug == Some(Bug::RouteLeftOpen) {
            return;
        }
        let closed = self.kernel.machine.0.pins.close(id(core));
        self.for_each(closed, |world, line, _, _| world.kernel.machine.0.mask(line));
    }

    /// The core has taken an NMI: whatever is parked on it may have fired.
    pub(crate) fn fire_parked(&mut self, core: usize) {
        self.kernel.machine.0.calls_seen(core);
        let fired = self.kernel.machine.0.pins.fire(id(core));
        self.for_each(fired.parked, |world, line, vcpu, _| {
            world.kernel.machine.0.mask(line);
            world.kernel.interrupt_by_nmi(vcpu);
        });
        if self.kernel.machine.0.bug == Some(Bug::LateNmi) {
            return;
        }
        self.for_each(fired.open, |world, _, vcpu, vector| {
            if let Some(guest) = world.kernel.machine.0.guests.get_mut(&vcpu) {
                guest.pending.raise(vector);
            }
        });
    }

    fn for_each(&mut self, pins: u128, mut visit: impl FnMut(&mut World, usize, VcpuId, u8)) {
        for line in (0..ROUTES).filter(|line| pins >> pin(*line) & 1 != 0) {
            if let Some(route) = self.kernel.route(FIRST_ROUTE + line as u16) {
                visit(self, line, route.vcpu, route.vector);
            }
        }
    }
}

/// The number of a line's route.
const fn pin(line: usize) -> u8 {
    FIRST_ROUTE as u8 + line as u8
}
