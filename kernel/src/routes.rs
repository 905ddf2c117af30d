//! Interrupt routes: pins of the IOAPIC that a Vcpu takes as a vector of its own, with no exit while it runs.
//!
//! A pin is *open* (it delivers its vector to the core) exactly while its Vcpu's state is loaded on that core and the
//! Vcpu runs. While the Vcpu is out, the pin is *parked*: it delivers an NMI to the core instead. Whoever takes an NMI
//! cannot tell its cause, so every pin that is parked on the core is then masked, its vector is marked as "may have
//! fired", and its Vcpu is woken if it waits: drivers bear a spurious interrupt, and a storm costs one NMI per wait.

use crate::Nonkernel;
use crate::arch::ioapic::DELIVER_NMI;
use crate::arch::{core_area, guests};
use core::sync::atomic::Ordering;
use kernel::MAX_ROUTES;
use kernel::types::{CoreId, VcpuId};
use kernel::vm::MAX_CORES;

/// What the pins do beyond what the core knows of them.
pub struct Routes {
    /// Pins that are bound: what is done for each of them is done for no others.
    bound: u128,
    /// Pins that are parked on each core: bit per pin.
    parked: [u128; MAX_CORES],
    /// Pins that were bound since the core last looked.
    fresh: [bool; MAX_CORES],
}

const _: () = assert!(MAX_ROUTES <= u128::BITS as usize);

impl Routes {
    /// Every pin masked.
    pub const fn new() -> Routes {
        Routes { bound: 0, parked: [0; MAX_CORES], fresh: [false; MAX_CORES] }
    }

    /// A route was bound to a Vcpu of this core, which holds the Vcpu's state: the core opens or parks it before it goes
    /// on. If it does not, the caller parks it.
    pub fn bound(&mut self, pin: u8, core: CoreId, held: bool) {
        self.bound |= 1 << pin;
        self.fresh[index(core)] |= held;
    }

    /// A route was parked on a core.
    pub fn parked(&mut self, pin: u8, core: CoreId) {
        self.parked[index(core)] |= 1 << pin;
    }

    /// A route was masked for good.
    pub fn unbound(&mut self, pin: u8) {
        self.bound &= !(1 << pin);
        self.parked.iter_mut().for_each(|parked| *parked &= !(1 << pin));
    }

    /// True if the core must open or park routes that were bound meanwhile.
    #[inline(always)]
    pub fn are_fresh(&self, core: CoreId) -> bool {
        self.fresh[index(core)]
    }
}

/// Opens the routes of the Vcpu whose state a core has just loaded, and parks those of its others that were bound
/// meanwhile.
#[cold]
pub fn open(kernel: &mut Nonkernel, core: CoreId, loaded: VcpuId) {
    kernel.machine.routes.fresh[index(core)] = false;
    for_each(kernel, |kernel, pin, vcpu, vector| {
        // What another core's Vcpus have is that core's.
        if kernel.vcpu_core(vcpu) != core {
            return;
        }
        // SAFETY: a route names a live Vcpu, and this one runs on this core alone, which is in the kernel and has the lock.
        unsafe { guests::has_route(vcpu) };
        if vcpu == loaded {
            kernel.machine.routes.parked[index(core)] &= !(1 << pin);
            let apic_id = core_area::core(core).apic_id.load(Ordering::Relaxed);
            let _ = kernel.machine.io_apic().map(|io_apic| io_apic.route(pin, apic_id, u32::from(vector)));
        } else {
            park_one(kernel, core, pin);
        }
    });
}

/// Parks the routes of a Vcpu whose state leaves a core. Comes before its interrupts are drained.
#[cold]
pub fn park(kernel: &mut Nonkernel, core: CoreId, leaving: VcpuId) {
    for_each(kernel, |kernel, pin, vcpu, _| {
        if vcpu == leaving {
            park_one(kernel, core, pin);
        }
    });
}

/// A core has taken an NMI: whatever is parked on it may have fired.
#[inline]
pub fn after_nmi(kernel: &mut Nonkernel, core: CoreId) {
    if kernel.machine.routes.parked[index(core)] != 0 {
        fire_parked(kernel, core);
    }
}

#[cold]
fn fire_parked(kernel: &mut Nonkernel, core: CoreId) {
    let parked = core::mem::take(&mut kernel.machine.routes.parked[index(core)]);
    for_each(kernel, |kernel, pin, vcpu, vector| {
        if parked >> pin & 1 != 0 {
            kernel.machine.io_apic().inspect(|io_apic| io_apic.mask(pin));
            // SAFETY: as in `open`: what is parked on a core is of its own Vcpus.
            unsafe { guests::raise(vcpu, vector) };
            kernel.wake_by_interrupt(vcpu);
        }
    });
}

fn park_one(kernel: &mut Nonkernel, core: CoreId, pin: u8) {
    let apic_id = core_area::core(core).apic_id.load(Ordering::Relaxed);
    let routed = kernel.machine.io_apic().is_some_and(|io_apic| io_apic.route(pin, apic_id, DELIVER_NMI));
    if routed {
        kernel.machine.routes.parked(pin, core);
    }
}

/// Calls `visit` for every route that is bound: pin, Vcpu, vector. At most [`MAX_ROUTES`].
fn for_each(kernel: &mut Nonkernel, mut visit: impl FnMut(&mut Nonkernel, u8, VcpuId, u8)) {
    let mut left = kernel.machine.routes.bound;
    while left != 0 {
        let pin = left.trailing_zeros() as u8;
        left &= left - 1;
        if let Some(route) = kernel.route(u16::from(pin)) {
            visit(kernel, pin, route.vcpu, route.vector);
        }
    }
}

fn index(core: CoreId) -> usize {
    usize::from(core.get()) % MAX_CORES
}
