//! The part of the local x2APIC that a VM owns: end of interrupt and initial count of the one-shot timer are written
//! with no exit; its vector is set and its count read through the kernel.

use core::arch::asm;

/// x2APIC MSRs, by the names of the manual.
const EOI: u32 = 0x80b;
const LVT_TIMER: u32 = 0x832;
const TIMER_INITIAL_COUNT: u32 = 0x838;
const TIMER_CURRENT_COUNT: u32 = 0x839;

/// # Safety
/// The MSR and value must be ones whose effect the caller has considered.
unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: as the caller says.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// # Safety
/// The MSR must be one that the VM may read.
unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as the caller says.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Ends the interrupt in service. Not for fault upcalls: those are injected and never in service.
pub fn end_of_interrupt() {
    // SAFETY: affects interrupt priority only.
    unsafe { write_msr(EOI, 0) };
}

/// Counts of the timer in 2^20 ticks of the TSC. Makes two exits; call it once. Interrupts by the timer stay masked.
pub fn calibrate_timer(vector: u8) -> u64 {
    const TICKS: u64 = 1 << 14;
    // SAFETY: the timer is this VM's; with interrupts off an expiry would only be pending, and none comes within the
    // measured time.
    let (counts, ticks) = unsafe {
        write_msr(LVT_TIMER, u64::from(vector));
        write_msr(TIMER_INITIAL_COUNT, u64::from(u32::MAX));
        let start = super::tsc();
        while super::tsc().wrapping_sub(start) < TICKS {
            core::hint::spin_loop();
        }
        let left = read_msr(TIMER_CURRENT_COUNT);
        let ticks = super::tsc().wrapping_sub(start);
        write_msr(TIMER_INITIAL_COUNT, 0);
        (u64::from(u32::MAX).saturating_sub(left), ticks)
    };
    ((counts << 20) / ticks.max(1)).max(1)
}

/// Lets the timer fire once after this many counts (0: never).
pub fn arm_timer(counts: u32) {
    // SAFETY: the timer is this VM's and its vector is set.
    unsafe { write_msr(TIMER_INITIAL_COUNT, u64::from(counts)) };
}
