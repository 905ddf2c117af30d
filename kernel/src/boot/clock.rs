//! How fast the clocks run: the TSC against the HPET, the APIC timer against the TSC. Short spans and no fixed delays.

use crate::arch::core_area;
use crate::arch::cpu::rdtsc;
use crate::arch::hpet::Hpet;
use crate::arch::{apic, interrupts};
use core::hint::spin_loop;
use kernel::apic_timer::TimerScale;

/// Frequencies are multiples of this; one that is measured within a thousandth of a multiple is that multiple.
const STEP_HZ: u64 = 1_000_000;

/// Frequency of the TSC in Hz, measured over 100 us.
pub fn measure_tsc(hpet: Hpet) -> u64 {
    let counts = hpet.hz / 10_000;
    let (from, tsc_from) = (hpet.counter(), rdtsc());
    let (mut to, mut tsc_to) = (from, tsc_from);
    while hpet.span(from, to) < counts {
        spin_loop();
        (to, tsc_to) = (hpet.counter(), rdtsc());
    }
    let span = u128::from(hpet.span(from, to));
    rounded((u128::from(tsc_to.wrapping_sub(tsc_from)) * u128::from(hpet.hz) / span) as u64)
}

/// How fast this core's APIC timer counts. The timer's current count is never read (an
/// emulator aborts on it): it is let run out, with interrupts held off, until its vector is requested.
pub fn measure_apic_timer(tsc_hz: u64) -> TimerScale {
    const COUNTS: u64 = 50_000;
    const UNDIVIDED: u64 = 0b1011;
    const VECTOR: u8 = 254;
    /// Longest wait, in seconds of the TSC: a timer slower than 100 kHz is none.
    const PATIENCE_SECONDS: u64 = 1;
    apic::set_timer(u64::from(VECTOR), UNDIVIDED, COUNTS);
    // Writing the three registers is no part of the span, or the timer would seem slower than it is.
    let start = rdtsc();
    while !apic::requested(VECTOR) {
        spin_loop();
        assert!(rdtsc().wrapping_sub(start) < tsc_hz * PATIENCE_SECONDS, "the APIC timer does not run");
    }
    let ticks = rdtsc().wrapping_sub(start);
    apic::set_timer(apic::LVT_MASKED, 0, 0);
    interrupts::drain();
    core_area::this().forget_drained();
    let hz = rounded((u128::from(COUNTS) * u128::from(tsc_hz) / u128::from(ticks.max(1))) as u64);
    TimerScale::new(tsc_hz, hz)
}

fn rounded(hz: u64) -> u64 {
    let near = (hz + STEP_HZ / 2) / STEP_HZ * STEP_HZ;
    if hz.abs_diff(near) < hz / 1000 { near } else { hz }
}
