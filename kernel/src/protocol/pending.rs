//! What a Vcpu is owed: the event whose delivery an exit cut off, and the vectors that arrived while it was out. Nothing
//! of it is lost, whatever happens between the exit and the next entry.
//!
//! At the entry, the cut-off event is injected (its delivery had begun, so the interrupt flag has no say any more), and
//! the vectors are given to the interrupt controller of the core, which delivers them when the guest can take them.

/// Bit of an event (EVENTINJ, EXITINTINFO and the VMX fields alike) that says that there is one.
pub const VALID: u64 = 1 << 31;

/// What one Vcpu is owed. All-zero means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// Event whose delivery was cut off, with its error code in the high half; 0 is none.
    cut_off: u64,
    /// Vectors that have arrived.
    vectors: [u64; 4],
}

impl Pending {
    /// Nothing.
    pub const NONE: Pending = Pending { cut_off: 0, vectors: [0; 4] };

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

    /// Takes all vectors that wait, bit per vector.
    pub fn take_vectors(&mut self) -> [u64; 4] {
        core::mem::take(&mut self.vectors)
    }

    /// Takes the event to be injected, 0 for none.
    #[inline]
    pub fn take_cut_off(&mut self) -> u64 {
        core::mem::take(&mut self.cut_off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_given_once() {
        let mut pending = Pending::NONE;
        pending.raise(33);
        pending.raise(33);
        pending.raise(255);
        pending.left(VALID | 99);
        assert!(pending.is_delivering());
        assert_eq!(pending.take_cut_off(), VALID | 99);
        assert!(!pending.is_delivering());
        assert_eq!(pending.take_vectors(), [1 << 33, 0, 0, 1 << 63]);
        assert_eq!(pending, Pending::NONE);
    }

    #[test]
    fn an_exit_without_an_event_takes_none_away() {
        let mut pending = Pending::NONE;
        pending.left(0x7fff_ffff);
        assert!(!pending.is_delivering(), "without the valid bit there was none");
        pending.left(VALID | 50);
        pending.left(0);
        assert_eq!(pending.take_cut_off(), VALID | 50);
    }
}
