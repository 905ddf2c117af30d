//! When to look at the rings: at interrupts, all the time, or whichever suits the load.
//!
//! In adaptive mode an interrupt masks its vector and the application polls until several looks in a row found nothing;
//! then the vector is unmasked. Causes that came while it was masked stay in the device and raise the interrupt at that
//! moment, so nothing is slept through.

use crate::function::{MOST_INTERRUPT_DELAY_US, VECTORS};
use crate::registers as reg;
use device::Registers;
use device::look::Looks;
pub use device::look::{Mode, Next};

/// The mode of one vector.
#[derive(Debug)]
pub struct Moderation<R> {
    registers: R,
    vector_bit: u32,
    looks: Looks,
    masked: bool,
}

impl<R: Registers> Moderation<R> {
    /// For a vector that [`crate::Function::route_interrupts`] uses.
    pub fn new(registers: R, vector: u8, mode: Mode) -> Moderation<R> {
        let vector_bit = 1 << vector.min(VECTORS - 1);
        let mut moderation = Moderation { registers, vector_bit, looks: Looks::new(mode), masked: false };
        moderation.set_mode(mode);
        moderation
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.looks.mode()
    }

    /// Changes the mode, at any time.
    pub fn set_mode(&mut self, mode: Mode) {
        self.looks = Looks::new(mode);
        match mode {
            Mode::Interrupt | Mode::Adaptive { .. } => self.unmask(),
            Mode::Polled => self.mask(),
        }
    }

    /// As [`crate::Function::set_interrupt_delay_us`], for this vector.
    pub fn set_delay_us(&self, delay_us: u32) {
        set_delay_us(&self.registers, self.vector_bit.trailing_zeros() as u8, delay_us);
    }

    /// To be called when the vector's interrupt has come. A spurious call does no harm.
    #[inline]
    pub fn interrupted(&mut self) {
        self.looks.interrupted();
        if let Mode::Adaptive { .. } = self.mode()
            && !self.masked
        {
            self.mask();
        }
    }

    /// To be called after a look at the rings, with whether it found anything.
    #[inline]
    pub fn looked(&mut self, found: bool) -> Next {
        let next = self.looks.looked(found);
        if next == Next::Sleep && self.masked {
            self.unmask();
        }
        next
    }

    fn mask(&mut self) {
        self.masked = true;
        self.registers.write32(reg::VTEIMC, self.vector_bit);
    }

    fn unmask(&mut self) {
        self.masked = false;
        self.registers.write32(reg::VTEIMS, self.vector_bit);
    }
}

/// See [`crate::Function::set_interrupt_delay_us`].
pub(crate) fn set_delay_us(registers: &impl Registers, vector: u8, delay_us: u32) {
    let interval = delay_us.min(MOST_INTERRUPT_DELAY_US) << 2;
    registers.write32(reg::vteitr(vector.min(VECTORS - 1)), interval | reg::VTEITR_CNT_IGNR);
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::fake::FakeRegisters;

    #[test]
    fn an_adaptive_vector_is_masked_while_there_is_work() {
        let registers = FakeRegisters::default();
        let mut moderation = Moderation::new(&registers, 1, Mode::Adaptive { idle_looks: 2 });
        assert_eq!(*registers.writes().last().unwrap(), (reg::VTEIMS, 2));
        moderation.interrupted();
        assert_eq!(*registers.writes().last().unwrap(), (reg::VTEIMC, 2));
        let before = registers.writes();
        moderation.interrupted();
        assert_eq!(moderation.looked(true), Next::Look);
        assert_eq!(moderation.looked(false), Next::Look);
        assert_eq!(moderation.looked(true), Next::Look);
        assert_eq!(moderation.looked(false), Next::Look);
        assert_eq!(registers.writes(), before, "work costs no register write");
        assert_eq!(moderation.looked(false), Next::Sleep);
        assert_eq!(*registers.writes().last().unwrap(), (reg::VTEIMS, 2));
        let before = registers.writes();
        assert_eq!(moderation.looked(false), Next::Sleep);
        assert_eq!(registers.writes(), before);
    }

    #[test]
    fn a_polled_vector_stays_masked() {
        let registers = FakeRegisters::default();
        let mut moderation = Moderation::new(&registers, 0, Mode::Polled);
        assert_eq!(*registers.writes().last().unwrap(), (reg::VTEIMC, 1));
        assert_eq!((moderation.looked(false), moderation.looked(true)), (Next::Look, Next::Look));
        moderation.set_mode(Mode::Interrupt);
        assert_eq!(*registers.writes().last().unwrap(), (reg::VTEIMS, 1));
        assert_eq!((moderation.looked(true), moderation.looked(false)), (Next::Look, Next::Sleep));
    }
}
