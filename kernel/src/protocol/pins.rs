//! What the interrupt pins that are bound do: each is masked, *open* (it delivers its vector to the core that runs its
//! Vcpu) or *parked* (it delivers an NMI to the core that its Vcpu will run on).
//!
//! Guarantee: a pin is open only towards the core that holds its Vcpu's state, and a masked one is remembered as one that
//! may have fired, so that its Vcpu gets its vector when it runs again. A pin is parked only when its Vcpu goes out after it
//! was open: so it costs its core at most one NMI for each time that its Vcpu has run. An NMI that it raised may be taken only
//! after it is open again: then it may have fired, too. Used under the kernel lock only.

use crate::kernel::MAX_ROUTES;
use crate::types::CoreId;
use crate::vm::MAX_CORES;

/// The pins, bit per pin.
#[derive(Clone, Debug)]
pub struct Pins {
    bound: u128,
    /// Masked, and may have fired meanwhile.
    missed: u128,
    open: [u128; MAX_CORES],
    parked: [u128; MAX_CORES],
    /// Open, and parked before: the core has taken no NMI since.
    reopened: [u128; MAX_CORES],
    /// Pins were bound to the Vcpu whose state the core holds, and it has not looked at them.
    fresh: [bool; MAX_CORES],
}

/// Pins that may have raised an NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Those that were parked, which are to be masked.
    pub parked: u128,
    /// Those that are open by now: their Vcpu, whose state the core holds, gets their vectors.
    pub open: u128,
}

const _: () = assert!(MAX_ROUTES <= u128::BITS as usize);

impl Pins {
    /// Every pin masked, and none bound.
    pub const fn new() -> Pins {
        const NONE: [u128; MAX_CORES] = [0; MAX_CORES];
        Pins { bound: 0, missed: 0, open: NONE, parked: NONE, reopened: NONE, fresh: [false; MAX_CORES] }
    }

    /// A pin, masked until now, was bound to a Vcpu of this core. `held`: the core holds the Vcpu's state, and looks at the
    /// pin before it enters a guest again. `own`: nor does another core go on before, and what came before is kept.
    pub fn bind(&mut self, pin: u8, core: CoreId, held: bool, own: bool) {
        self.bound |= 1 << pin;
        self.fresh[index(core)] |= held;
        if !(held && own) {
            self.missed |= 1 << pin;
        }
    }

    /// A pin was masked for good.
    pub fn unbind(&mut self, pin: u8) {
        let others = !(1 << pin);
        self.bound &= others;
        self.missed &= others;
        let everywhere = self.open.iter_mut().chain(&mut self.parked).chain(&mut self.reopened);
        everywhere.for_each(|pins| *pins &= others);
    }

    /// All that are bound.
    pub fn bound(&self) -> u128 {
        self.bound
    }

    /// True if pins were bound that the core has not looked at.
    #[inline(always)]
    pub fn are_fresh(&self, core: CoreId) -> bool {
        self.fresh[index(core)]
    }

    /// The core has looked at what was bound.
    pub fn looked(&mut self, core: CoreId) {
        self.fresh[index(core)] = false;
    }

    /// The pin's Vcpu runs on the core: the pin is to be opened. True if it may have fired before.
    pub fn open(&mut self, pin: u8, core: CoreId) -> bool {
        let bit = 1 << pin;
        self.open[index(core)] |= bit;
        self.reopened[index(core)] |= self.parked[index(core)] & bit;
        self.parked[index(core)] &= !bit;
        let missed = self.missed & bit != 0;
        self.missed &= !bit;
        missed
    }

    /// The pin's Vcpu leaves the core. True: the pin is to be parked; false: it stays masked, as it may have fired.
    pub fn leave(&mut self, pin: u8, core: CoreId) -> bool {
        let bit = 1 << pin;
        self.open[index(core)] &= !bit;
        self.reopened[index(core)] &= !bit;
        let parked = self.missed & bit == 0;
        if parked {
            self.parked[index(core)] |= bit;
        }
        parked
    }

    /// True if an NMI of the core may have been a pin's.
    #[inline(always)]
    pub fn may_have_fired(&self, core: CoreId) -> bool {
        (self.parked[index(core)] | self.reopened[index(core)]) != 0
    }

    /// The core has taken an NMI: those that may have raised it.
    pub fn fire(&mut self, core: CoreId) -> Fired {
        let parked = core::mem::take(&mut self.parked[index(core)]);
        self.missed |= parked;
        Fired { parked, open: core::mem::take(&mut self.reopened[index(core)]) }
    }

    /// The Vcpu whose state the core holds is no more: the pins that are open towards it, which are to be masked.
    pub fn close(&mut self, core: CoreId) -> u128 {
        let closed = core::mem::take(&mut self.open[index(core)]);
        self.reopened[index(core)] = 0;
        self.missed |= closed;
        closed
    }
}

impl Default for Pins {
    fn default() -> Pins {
        Pins::new()
    }
}

fn index(core: CoreId) -> usize {
    core.get() as usize % MAX_CORES
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: CoreId = CoreId::new(1);

    #[test]
    fn one_that_is_bound_while_its_vcpu_is_out_costs_no_core_an_nmi() {
        let mut pins = Pins::new();
        for _ in 0..3 {
            pins.bind(4, CORE, false, false);
            assert!(!pins.may_have_fired(CORE) && !pins.are_fresh(CORE));
            assert!(!pins.leave(4, CORE), "it has not run");
            pins.unbind(4);
        }
        pins.bind(4, CORE, false, false);
        assert!(pins.open(4, CORE), "it gets its vector when it runs");
        assert!(pins.leave(4, CORE) && pins.may_have_fired(CORE));
        pins.unbind(4);
        assert!(!pins.may_have_fired(CORE) && pins.bound() == 0);
    }

    #[test]
    fn one_that_has_fired_stays_masked_until_its_vcpu_runs_again() {
        let mut pins = Pins::new();
        for pin in [4, 5] {
            pins.bind(pin, CORE, true, true);
        }
        assert!(pins.are_fresh(CORE));
        pins.looked(CORE);
        for pin in [4, 5] {
            assert!(!pins.open(pin, CORE), "bound by itself");
            assert!(pins.leave(pin, CORE));
        }
        assert_eq!(pins.fire(CORE), Fired { parked: 0b11_0000, open: 0 });
        assert!(!pins.may_have_fired(CORE));
        assert!(pins.open(4, CORE), "the vector of the one that runs");
        assert_eq!(
            (pins.leave(4, CORE), pins.leave(5, CORE)),
            (true, false),
            "another one that runs parks its own only"
        );
        assert_eq!(pins.fire(CORE), Fired { parked: 0b1_0000, open: 0 });
    }

    #[test]
    fn what_is_missed_between_bind_and_opening_is_remembered() {
        let mut pins = Pins::new();
        pins.bind(7, CORE, true, false);
        assert!(!pins.leave(7, CORE), "its Vcpu went out before its core looked");
        assert!(pins.open(7, CORE));
        assert_eq!(pins.close(CORE), 1 << 7);
        assert_eq!(pins.close(CORE), 0);
        assert!(pins.open(7, CORE));
    }

    #[test]
    fn one_whose_nmi_is_taken_when_it_is_open_again_has_fired() {
        let mut pins = Pins::new();
        pins.bind(4, CORE, true, true);
        assert!(!pins.open(4, CORE) && pins.leave(4, CORE));
        assert!(!pins.open(4, CORE), "the NMI, if there is one, is still to come");
        assert!(pins.may_have_fired(CORE));
        assert_eq!(pins.fire(CORE), Fired { parked: 0, open: 1 << 4 });
        assert!(!pins.may_have_fired(CORE), "once is enough");
        assert!(pins.leave(4, CORE) && !pins.open(4, CORE) && pins.leave(4, CORE));
        assert_eq!(pins.fire(CORE), Fired { parked: 1 << 4, open: 0 }, "parked again");
        assert!(pins.open(4, CORE) && !pins.may_have_fired(CORE), "it was masked before: nothing is to come");
    }
}
