//! Interrupt routes: pins of the IOAPIC, and messages of functions, that a Vcpu takes as a vector of its own, with no exit
//! while it runs. Both are called pins here.
//!
//! A pin is *open* (it delivers its vector to the core) exactly while its Vcpu's state is loaded on that core and the
//! Vcpu runs. When the Vcpu goes out, the pin is *parked*: it delivers an NMI to the core instead. Whoever takes an NMI
//! cannot tell its cause, so every pin that is parked on the core is then masked, which marks it as "may have fired", and its
//! Vcpu is woken if it waits, and pays: drivers bear a spurious interrupt, and a storm costs one NMI per wait. One that has
//! been opened since, before the NMI was taken, gets its vector. Which pin does what is [`Pins`]' to say.

use crate::Nonkernel;
use crate::arch::guests;
use kernel::protocol::pins::Pins;
use kernel::types::{CoreId, VcpuId};

fn pins(kernel: &mut Nonkernel) -> &mut Pins {
    &mut kernel.machine.pins
}

/// Opens the routes of the Vcpu whose state a core holds, which it enters.
#[cold]
pub fn open(kernel: &mut Nonkernel, core: CoreId, loaded: VcpuId) {
    pins(kernel).looked(core);
    let bound = pins(kernel).bound();
    for_each(kernel, bound, |kernel, pin, vcpu, vector| {
        if vcpu != loaded {
            return;
        }
        // SAFETY: this one runs on this core alone, which is in the kernel and has the lock.
        unsafe { guests::has_route(vcpu) };
        if pins(kernel).open(pin, core) {
            // SAFETY: as above.
            unsafe { guests::raise(vcpu, vector) };
        }
        kernel.machine.deliver(pin, core, Some(vector));
    });
}

/// Parks the routes of a Vcpu whose state leaves a core; true if it has been woken by one that may have fired. Comes before
/// its interrupts are drained.
#[cold]
pub fn park(kernel: &mut Nonkernel, core: CoreId, leaving: VcpuId) -> bool {
    let mut woken = false;
    let bound = pins(kernel).bound();
    for_each(kernel, bound, |kernel, pin, vcpu, _| {
        if vcpu != leaving {
            return;
        }
        if pins(kernel).leave(pin, core) {
            kernel.machine.deliver(pin, core, None);
        } else {
            woken |= kernel.wake_by_interrupt(vcpu);
        }
    });
    woken
}

/// Masks what is open towards a core that holds the state of a Vcpu which is no more.
#[cold]
pub fn close(kernel: &mut Nonkernel, core: CoreId) {
    let closed = pins(kernel).close(core);
    for_each(kernel, closed, |kernel, pin, _, _| mask(kernel, pin));
}

/// A core has taken an NMI: whatever is parked on it may have fired.
#[inline]
pub fn after_nmi(kernel: &mut Nonkernel, core: CoreId) {
    if pins(kernel).may_have_fired(core) {
        fire_parked(kernel, core);
    }
}

#[cold]
fn fire_parked(kernel: &mut Nonkernel, core: CoreId) {
    let fired = pins(kernel).fire(core);
    for_each(kernel, fired.parked, |kernel, pin, vcpu, _| {
        mask(kernel, pin);
        kernel.interrupt_by_nmi(vcpu);
    });
    for_each(kernel, fired.open, |_, _, vcpu, vector| {
        // SAFETY: this core holds its state, is in the kernel and has the lock.
        unsafe { guests::raise(vcpu, vector) };
    });
}

fn mask(kernel: &mut Nonkernel, pin: u8) {
    kernel.machine.mask(pin);
}

/// Calls `visit` for those of these pins that are bound: pin, Vcpu, vector. At most [`kernel::MAX_ROUTES`].
fn for_each(kernel: &mut Nonkernel, mut left: u128, mut visit: impl FnMut(&mut Nonkernel, u8, VcpuId, u8)) {
    while left != 0 {
        let pin = left.trailing_zeros() as u8;
        left &= left - 1;
        if let Some(route) = kernel.route(u16::from(pin)) {
            visit(kernel, pin, route.vcpu, route.vector);
        }
    }
}
