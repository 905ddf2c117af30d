//! How fast the clocks run: the TSC against the HPET, the APIC timer against the TSC. Short spans and no fixed delays.

use crate::arch::core_area;
use crate::arch::cpu::rdtsc;
use crate::arch::hpet::Hpet;
use crate::arch::{apic, interrupts};
use core::hint::spin_loop;
use kernel::apic_timer::TimerScale;

/// Frequencies are multiples of this; one that is measured within a thousandth of a multiple is that multiple.
const STEP_HZ: u64 = 1_000_000;

/// Readings of both clocks of which the quickest counts: whoever runs this machine as a guest may take it off its
/// processor in the middle of one, and then the two values are not of one instant.
const READINGS: usize = 8;

/// Frequency of the TSC in Hz, measured over at least 100 us.
pub fn measure_tsc(hpet: Hpet) -> u64 {
    let counts = hpet.hz / 10_000;
    let (from, tsc_from) = read_both(hpet);
    while hpet.span(from, hpet.counter()) < counts {
        spin_loop();
    }
    let (to, tsc_to) = read_both(hpet);
    let span = u128::from(hpet.span(from, to).max(1));
    rounded((u128::from(tsc_to.wrapping_sub(tsc_from)) * u128::from(hpet.hz) / span) as u64)
}

/// The HPET's counter and the TSC at one instant, as nearly as can be had.
fn read_both(hpet: Hpet) -> (u64, u64) {
    let mut best = (0, 0);
    let mut least = u64::MAX;
    for _ in 0..READINGS {
        let before = rdtsc();
        let counter = hpet.counter();
        let spent = rdtsc().wrapping_sub(before);
        if spent < least {
            (least, best) = (spent, (counter, before));
        }
    }
    best
}

/// How fast this core's APIC timer counts. The timer's current count is never read (an
/// emulator aborts on it): it is let run out, with interrupts held off, until its vector is requested.
pub fn measure_apic_timer(tsc_hz: u64) -> TimerScale {
    const COUNTS: u64 = 50_000;
    const UNDIVIDED: u64 = 0b1011;
    const VECTOR: u8 = 254;
    /// Longest wait, in seconds of the TSC: a timer slower than 100 kHz is none.
    const PATIENCE_SECONDS: u64 = 1;
    let mut ticks = u64::MAX;
    // The shortest of some: see `READINGS`.
    for _ in 0..3 {
        apic::set_timer(u64::from(VECTOR), UNDIVIDED, COUNTS);
        // Writing the three registers is no part of the span, or the timer would seem slower than it is.
        let start = rdtsc();
        while !apic::requested(VECTOR) {
            spin_loop();
            assert!(rdtsc().wrapping_sub(start) < tsc_hz * PATIENCE_SECONDS, "the APIC timer does not run");
        }
        ticks = ticks.min(rdtsc().wrapping_sub(start));
        apic::set_timer(apic::LVT_MASKED, 0, 0);
        interrupts::drain();
    }
    core_area::this().forget_drained();
    let hz = rounded((u128::from(COUNTS) * u128::from(tsc_hz) / u128::from(ticks.max(1))) as u64);
    TimerScale::new(tsc_hz, hz)
}

fn rounded(hz: u64) -> u64 {
    let near = (hz + STEP_HZ / 2) / STEP_HZ * STEP_HZ;
    if hz.abs_diff(near) < hz / 1000 { near } else { hz }
}
