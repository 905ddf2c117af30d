//! The one-shot timer: how fast it counts, learnt by the root VM for children that arm theirs, and arming it.

use core::arch::asm;

use crate::root::tsc;
use userlib::cap::own;

const LVT: u32 = 0x832;
const DIVIDE: u32 = 0x83e;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
/// Divide configuration: not at all.
const UNDIVIDED: u64 = 0xb;

/// Counts of the undivided timer in so many ticks, measured over `span` ticks. The timer's vector stays masked.
pub fn counts_in(ticks: u64, span: u64) -> u64 {
    write_msr(DIVIDE, UNDIVIDED);
    write_msr(INITIAL_COUNT, u64::from(u32::MAX));
    let start = tsc();
    let _ = own::VCPU.wait(1 << 63, start + span);
    let (left, end) = (read_msr(CURRENT_COUNT), tsc());
    write_msr(INITIAL_COUNT, 0);
    (u64::from(u32::MAX) - left) * ticks / (end - start)
}

/// Lets the timer come as `vector`, undivided.
pub fn prepare(vector: u8) {
    write_msr(LVT, vector.into());
    write_msr(DIVIDE, UNDIVIDED);
}

/// Arms the timer for so many counts, and says when. With interrupts off or a vector that is handled.
#[inline(always)]
pub fn arm(counts: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only the count changes.
    unsafe {
        asm!("rdtsc", "mov r8d, eax", "mov r9d, edx", "mov eax, r10d", "xor edx, edx", "wrmsr", in("ecx") INITIAL_COUNT,
            in("r10") counts, out("r8") low, out("r9") high, out("eax") _, out("edx") _, options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

fn write_msr(msr: u32, value: u64) {
    // SAFETY: only the timer's registers are named, whose vector is masked: nothing but the count changes.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as above.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}
