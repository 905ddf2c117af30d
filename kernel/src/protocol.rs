//! The order in which a core leaves a guest, works, and enters or halts again. The hardware's part (`arch/`) and the
//! fake machine follow these types alike.
//!
//! ```text
//!  guest --#VMEXIT--> registers saved --left()--> [NMI: window]--> Outside --lock--> Holding
//!    ^                                                               ^                  |  work, one bounded step
//!    |                                                               +----gave_up()-----+  or decide
//!    +---VMRUN-- unlock <-- Entering <------------- enter(asid) ------------------------+
//!         Outside <--left()-- STGI; HLT; CLGI <-- unlock <-- Halting <---- halt() ------+
//! ```
//!
//! What holds because of it:
//! - *No acknowledgement needs the lock.* A core says that it is out ([`Gate::left`]) before it queues for the lock; only
//!   then can it become an [`Outside`], and only an [`Outside`] takes the lock. So whoever expels a core while holding
//!   the lock waits for an exit, never for a queue.
//! - *No call is lost.* A core says where it goes (guest or halt) while it still holds the lock. Whoever calls it later
//!   finds that and sends an NMI; whoever called it earlier left [`Gate::attention`], which is looked at after the last
//!   work under the same lock. With interrupts globally off, an NMI that comes between the unlock and VMRUN or HLT stays
//!   pending and ends either at once.
//! - *NMIs are level.* An NMI says only "look": it is taken (the STGI window) before the causes are looked at, never
//!   after, so that one which arrives during the look is pending at the next entry.

pub mod deadlines;
pub mod pending;
pub mod pins;
pub mod turns;

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Where a core is, as it tells the others.
const IN_KERNEL: u8 = 0;
const IN_GUEST: u8 = 1;
const HALTED: u8 = 2;

/// What one core tells the others, and they it.
#[derive(Debug, Default)]
pub struct Gate {
    /// Changed by its own core only: to guest or halt under the lock, to kernel without it.
    place: AtomicU8,
    /// Read and written under the lock only.
    attention: AtomicBool,
}

impl Gate {
    /// The gate of a core that is in the kernel.
    pub const fn new() -> Gate {
        Gate { place: AtomicU8::new(IN_KERNEL), attention: AtomicBool::new(false) }
    }

    /// True while the core may be running guest instructions. Reading `false` is the acknowledgement of an expulsion:
    /// everything the guest did happened before.
    #[inline]
    pub fn is_in_guest(&self) -> bool {
        self.place.load(Ordering::Acquire) == IN_GUEST
    }

    /// Asks the core, under the lock, to decide anew. True if it must be sent an NMI to notice; otherwise it is in the
    /// kernel and will look before it goes anywhere.
    #[inline]
    #[must_use]
    pub fn call(&self) -> bool {
        self.attention.store(true, Ordering::Relaxed);
        self.place.load(Ordering::Acquire) != IN_KERNEL
    }

    /// True once after [`Gate::call`]: what the core decided before no longer holds. Looked at under the lock.
    #[inline]
    pub fn attention(&self, _: &Holding) -> bool {
        // Under the lock, so that load and store need not be one operation.
        let called = self.attention.load(Ordering::Relaxed);
        if called {
            self.attention.store(false, Ordering::Relaxed);
        }
        called
    }

    /// The guest's registers are saved, or the halt is over: says so to everybody. Comes before anything that could wait.
    #[inline]
    fn left(&self) {
        self.place.store(IN_KERNEL, Ordering::Release);
    }
}

/// The core has told that it is outside guests, and holds no lock.
#[derive(Debug)]
#[must_use]
pub struct Outside(());

/// The core holds the kernel lock.
#[derive(Debug)]
#[must_use]
pub struct Holding(());

/// The core has told, under the lock, that it enters a guest. It may only unlock and enter; whatever it checked before
/// must have been checked under this hold of the lock.
#[derive(Debug)]
#[must_use]
pub struct Entering(());

/// The core has told, under the lock, that it halts. It may only unlock and halt with NMIs open.
#[derive(Debug)]
#[must_use]
pub struct Halting(());

/// The guest was left because of an NMI, which is still pending in the hardware.
#[derive(Debug)]
#[must_use]
pub struct NmiPending(());

impl Outside {
    /// A core that has just been started.
    pub const fn started() -> Outside {
        Outside(())
    }

    /// The core has got the lock.
    #[inline]
    pub fn locked(self) -> Holding {
        Holding(())
    }
}

impl Holding {
    /// The core is about to release the lock, to take it again later. What it read under it is void.
    #[inline]
    pub fn gave_up(self) -> Outside {
        Outside(())
    }

    /// The decision is to enter a guest. `until` is when the core must be back ([`crate::sched::Decision`]), `now` was
    /// read after the timer was set for it. An instant that has passed may have passed before the timer was set, so
    /// that no NMI will come: then, or when the core was called meanwhile, the core must decide again instead.
    #[inline]
    pub fn enter(self, gate: &Gate, until: u64, now: u64) -> Result<Entering, Holding> {
        if until <= now || gate.attention(&self) {
            return Err(self);
        }
        gate.place.store(IN_GUEST, Ordering::Release);
        Ok(Entering(()))
    }

    /// The decision is to halt; as [`Holding::enter`].
    #[inline]
    pub fn halt(self, gate: &Gate, until: u64, now: u64) -> Result<Halting, Holding> {
        if until <= now || gate.attention(&self) {
            return Err(self);
        }
        gate.place.store(HALTED, Ordering::Release);
        Ok(Halting(()))
    }
}

impl Entering {
    /// The guest was left, not because of an NMI, and its registers are saved.
    #[inline]
    pub fn left(self, gate: &Gate) -> Outside {
        gate.left();
        Outside(())
    }

    /// The guest was left because of an NMI, which must be taken before its causes are looked at.
    #[inline]
    pub fn left_by_nmi(self, gate: &Gate) -> NmiPending {
        gate.left();
        NmiPending(())
    }
}

impl NmiPending {
    /// The NMI was taken (the window was open and is closed again).
    #[inline]
    pub fn taken(self) -> Outside {
        Outside(())
    }
}

impl Halting {
    /// The halt is over, its NMI taken.
    #[inline]
    pub fn left(self, gate: &Gate) -> Outside {
        gate.left();
        Outside(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_in_the_kernel_is_called_without_an_nmi_and_looks_before_it_goes() {
        let gate = Gate::new();
        assert!(!gate.call());
        let holding = Outside::started().locked().enter(&gate, u64::MAX, 5).unwrap_err();
        assert!(!gate.is_in_guest());
        let entering = holding.enter(&gate, u64::MAX, 6).unwrap();
        assert!(gate.is_in_guest() && gate.call());
        let pending = entering.left_by_nmi(&gate);
        assert!(!gate.is_in_guest(), "the acknowledgement comes before the window and the lock");
        let holding = pending.taken().locked();
        assert!(gate.attention(&holding));
        assert!(!gate.attention(&holding));
        let halting = holding.halt(&gate, u64::MAX, 7).unwrap();
        assert!(gate.call() && !gate.is_in_guest(), "a halted core needs an NMI, but no expulsion");
        let _ = halting.left(&gate).locked().gave_up();
    }

    #[test]
    fn a_passed_instant_is_due() {
        let gate = Gate::new();
        let holding = Outside::started().locked().enter(&gate, 5, 5).unwrap_err();
        let holding = holding.halt(&gate, 4, 5).unwrap_err();
        assert!(holding.halt(&gate, 6, 5).is_ok());
    }
}
