//! The HPET: its counter to measure the TSC by, its comparator 0 as the one alarm of all cores.

use super::mmio::Registers;

const CAPABILITIES: u64 = 0x00;
const CONFIGURATION: u64 = 0x10;
const COUNTER: u64 = 0xf0;
const TIMER_CONFIGURATION: u64 = 0x100;
const COMPARATOR: u64 = 0x108;
/// CAPABILITIES: the counter has 64 bits.
const WIDE_COUNTER: u64 = 1 << 13;
/// TIMER_CONFIGURATION: interrupt enabled.
const INTERRUPT: u64 = 1 << 2;
/// TIMER_CONFIGURATION: the comparator has 64 bits.
const WIDE_TIMER: u64 = 1 << 5;
const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
/// Longest counter period that the specification allows, in femtoseconds.
const MAX_PERIOD: u64 = 100_000_000;

/// The HPET.
#[derive(Clone, Copy, Debug)]
pub struct Hpet {
    registers: Registers,
    /// Counts per second.
    pub hz: u64,
    /// All ones in the width of counter and comparator.
    mask: u64,
}

impl Hpet {
    /// Takes it over with the counter running and every alarm off; `None` if it does not look like one.
    pub fn new(registers: Registers) -> Option<Hpet> {
        let capabilities: u64 = registers.read(CAPABILITIES);
        let period = capabilities >> 32;
        if period == 0 || period > MAX_PERIOD {
            return None;
        }
        let wide = capabilities & WIDE_COUNTER != 0 && registers.read::<u64>(TIMER_CONFIGURATION) & WIDE_TIMER != 0;
        registers.write(CONFIGURATION, 0u64);
        registers.write(TIMER_CONFIGURATION, 0u64);
        registers.write(CONFIGURATION, 1u64);
        Some(Hpet { registers, hz: FEMTOSECONDS / period, mask: if wide { u64::MAX } else { u64::from(u32::MAX) } })
    }

    /// The counter.
    pub fn counter(self) -> u64 {
        self.registers.read::<u64>(COUNTER) & self.mask
    }

    /// Counts from an earlier value of the counter to a later one.
    pub fn span(self, from: u64, to: u64) -> u64 {
        to.wrapping_sub(from) & self.mask
    }

    /// The highest IOAPIC pin below `pins` that comparator 0 can raise.
    pub fn best_pin(self, pins: u8) -> Option<u8> {
        let possible = self.registers.read::<u32>(TIMER_CONFIGURATION + 4);
        (0..pins.min(32)).rev().find(|pin| possible >> pin & 1 != 0)
    }

    /// Makes comparator 0 raise edges on a pin.
    pub fn route(self, pin: u8) {
        self.registers.write(TIMER_CONFIGURATION, INTERRUPT | u64::from(pin) << 9);
    }

    /// Sets the alarm `counts` from now or one later, never earlier, cut to half the counter's range; returns what the
    /// counter is then. If that has passed already while it was being set, it may or may not be raised.
    pub fn set_alarm(self, counts: u64) -> u64 {
        // One more, as the counter may be about to change.
        let at = self.counter().wrapping_add(counts.min(self.mask / 2) + 1) & self.mask;
        self.registers.write(COMPARATOR, at);
        at
    }

    /// True if the counter has reached a value, which it had at most half its range before it.
    pub fn has_passed(self, at: u64) -> bool {
        let now = self.counter();
        self.span(now, at) > self.mask / 2 || now == at
    }
}
