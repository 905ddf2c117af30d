//! What a Vcpu is owed: the event whose delivery an exit cut off, an upcall, and vectors that arrived while it was out.
//! Says what the next entry injects, so that nothing is lost and nothing is delivered when it must not be.
//!
//! Order: the cut-off event first (it had begun); then a fault upcall, whatever the guest's interrupt flag says; then one
//! vector, the highest, when the guest can take it. Whatever is left asks for an interrupt window.

/// Bit of an event (EVENTINJ, EXITINTINFO and the VMX fields alike) that says that there is one.
pub const VALID: u64 = 1 << 31;

/// An external interrupt with this vector, as an event: type 0.
pub const fn external(vector: u8) -> u64 {
    VALID | vector as u64
}

/// What an entry does about events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inject {
    /// The event to inject, 0 for none.
    pub event: u64,
    /// Exit as soon as the guest can take an interrupt: there is more.
    pub window: bool,
}

/// What one Vcpu is owed. All-zero means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// Event whose delivery was cut off, with its error code in the high half; 0 is none.
    cut_off: u64,
    /// Vector of a fault upcall, 0 is none.
    upcall: u64,
    /// Vectors that have arrived.
    vectors: [u64; 4],
}

impl Pending {
    /// Nothing.
    pub const NONE: Pending = Pending { cut_off: 0, upcall: 0, vectors: [0; 4] };

    /// The guest was left; `event` is what the hardware says was being delivered (meaningful only with [`VALID`]).
    #[inline]
    pub fn left(&mut self, event: u64) {
        if event & VALID != 0 {
            self.cut_off = event;
        }
    }

    /// True if an event is waiting whose delivery was cut off: a fault now is a fault during delivery, for which there
    /// is no upcall.
    pub const fn is_delivering(&self) -> bool {
        self.cut_off != 0
    }

    /// A vector has arrived for it. One that is there already stays one, as in an APIC.
    #[inline]
    pub fn raise(&mut self, vector: u8) {
        self.vectors[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// A fault is to be told by this vector. False, and nothing changes, if that cannot be now.
    #[inline]
    pub fn raise_upcall(&mut self, vector: u8) -> bool {
        if vector == 0 || self.is_delivering() || self.upcall != 0 {
            return false;
        }
        self.upcall = vector as u64;
        true
    }

    /// True if a vector or an upcall waits: the Vcpu must not sleep.
    pub fn is_owed(&self) -> bool {
        self.cut_off != 0 || self.upcall != 0 || self.vectors != [0; 4]
    }

    /// Takes all vectors that wait, bit per vector, for a back end that gives them to the APIC of its core instead, which
    /// then delivers them when the guest can take them.
    pub fn take_vectors(&mut self) -> [u64; 4] {
        core::mem::take(&mut self.vectors)
    }

    /// Takes out what the entry injects. `open`: the guest has interrupts on and is in no interrupt shadow.
    #[inline]
    pub fn enter(&mut self, open: bool) -> Inject {
        let mut event = 0;
        if self.cut_off != 0 {
            event = self.cut_off;
            self.cut_off = 0;
        } else if self.upcall != 0 {
            event = external(self.upcall as u8);
            self.upcall = 0;
        } else if open && let Some(vector) = self.highest() {
            self.vectors[vector as usize / 64] &= !(1 << (vector % 64));
            event = external(vector);
        }
        Inject { event, window: self.upcall != 0 || self.vectors != [0; 4] }
    }

    /// The highest vector that waits: the one of the highest priority.
    fn highest(&self) -> Option<u8> {
        for (word, base) in self.vectors.iter().zip([0_u8, 64, 128, 192]).rev() {
            if *word != 0 {
                return Some(base + 63 - word.leading_zeros() as u8);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_event_comes_first_then_the_upcall_then_the_highest_vector() {
        let mut pending = Pending::NONE;
        pending.raise(33);
        pending.raise(200);
        assert!(pending.raise_upcall(64));
        assert!(!pending.raise_upcall(65), "one at a time");
        pending.left(external(99));
        assert!(pending.is_delivering());
        assert_eq!(pending.enter(false), Inject { event: external(99), window: true });
        assert_eq!(pending.enter(false), Inject { event: external(64), window: true });
        assert_eq!(pending.enter(false), Inject { event: 0, window: true });
        assert_eq!(pending.enter(true), Inject { event: external(200), window: true });
        assert_eq!(pending.enter(true), Inject { event: external(33), window: false });
        assert_eq!(pending, Pending::NONE);
    }

    #[test]
    fn what_the_hardware_did_not_deliver_is_injected_again() {
        let mut pending = Pending::NONE;
        pending.raise(50);
        let inject = pending.enter(true);
        pending.left(inject.event);
        assert!(!pending.raise_upcall(64), "a fault during delivery has no upcall");
        assert!(pending.is_owed());
        assert_eq!(pending.enter(false).event, external(50));
        pending.left(0x7fff_ffff);
        assert!(!pending.is_owed(), "without the valid bit there was none");
    }
}
