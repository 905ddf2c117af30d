//! The local APIC in x2APIC mode: enabling, NMI and start-up IPIs, end of interrupt, and the guests' one-shot timer.

use super::cpu::{Msr, cpuid, rdmsr, wrmsr};

/// APIC_BASE: x2APIC enable and global enable.
const X2APIC_ON: u64 = 1 << 11 | 1 << 10;
/// SVR: software enable, spurious vector 255.
pub const SVR: u64 = 0x1ff;
/// LVT: masked.
pub const LVT_MASKED: u64 = 1 << 16;
/// ICR: delivery mode NMI, assert.
const ICR_NMI: u64 = 0x4400;
/// ICR: delivery mode INIT, assert.
const ICR_INIT: u64 = 0x4500;
/// ICR: delivery mode start-up, assert.
const ICR_STARTUP: u64 = 0x4600;
/// Vectors that can be in service or requested at once: the bound of every drain.
const MAX_IN_SERVICE: u32 = 256;

/// True if the CPU has an x2APIC.
pub fn present() -> bool {
    cpuid(1, 0)[2] & 1 << 21 != 0
}

/// Writes a register of this core's APIC.
#[inline(always)]
fn write(register: Msr, value: u64) {
    // SAFETY: an APIC touches no memory. IPIs go to this kernel's own cores, and what they or the timer raise is taken by a
    // guest or by the recording stubs, as the kernel runs with GIF=0.
    unsafe { wrmsr(register, value) };
}

/// Turns this core's APIC on in x2APIC mode, which it has ([`present`]), with every local interrupt masked.
pub fn init() {
    write(Msr::APIC_BASE, rdmsr(Msr::APIC_BASE) | X2APIC_ON);
    for lvt in [Msr::X2APIC_LVT_TIMER, Msr::X2APIC_LVT_LINT0, Msr::X2APIC_LVT_LINT1, Msr::X2APIC_LVT_ERROR] {
        write(lvt, LVT_MASKED);
    }
    write(Msr::X2APIC_SVR, SVR);
}

/// This core's x2APIC id.
pub fn id() -> u32 {
    rdmsr(Msr::X2APIC_ID) as u32
}

fn send(apic_id: u32, command: u64) {
    write(Msr::X2APIC_ICR, u64::from(apic_id) << 32 | command);
}

/// Sends an NMI.
pub fn send_nmi(apic_id: u32) {
    send(apic_id, ICR_NMI);
}

/// Sends INIT: the core waits for a start-up IPI.
///
/// # Safety
/// It is another core than this one, and nothing of it is in use: it forgets what it was doing.
pub unsafe fn send_init(apic_id: u32) {
    send(apic_id, ICR_INIT);
}

/// Sends a start-up IPI: the core starts in real mode at `page` * 4096.
///
/// # Safety
/// As for [`send_init`]; and the page holds start-up code that is ready for this core.
pub unsafe fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, ICR_STARTUP | u64::from(page));
}

/// Requests a vector from this core itself: it waits in the IRR until the guest that runs next takes it.
pub fn self_ipi(vector: u8) {
    write(Msr::X2APIC_SELF_IPI, u64::from(vector));
}

/// Ends every interrupt that is in service. The task priority must be 0, so that the PPR shows the ISR alone.
#[inline]
pub fn end_all() {
    let mut bound = MAX_IN_SERVICE;
    while rdmsr(Msr::X2APIC_PPR) != 0 && bound > 0 {
        end_one();
        bound -= 1;
    }
}

/// Ends the interrupt of the highest priority that is in service.
#[inline]
pub fn end_one() {
    write(Msr::X2APIC_EOI, 0);
}

/// Programs the timer: LVT word (one-shot or masked) and divide configuration, then the initial count (0 stops it).
pub fn set_timer(lvt: u64, divide: u64, count: u64) {
    write(Msr::X2APIC_LVT_TIMER, lvt);
    write(Msr::X2APIC_TIMER_DIVIDE, divide);
    write(Msr::X2APIC_TIMER_INITIAL, count);
}

/// True while some vector is requested and not yet taken. Those below 16 are none (Intel SDM volume 3, 11.5.2), and one that a
/// controller takes all the same may stay for ever.
#[inline]
pub fn any_requested() -> bool {
    rdmsr(Msr::irr(0)) >> 16 != 0 || (1..8).any(|word| rdmsr(Msr::irr(word)) != 0)
}

/// True while a vector is requested and not yet taken.
pub fn requested(vector: u8) -> bool {
    rdmsr(Msr::irr(u32::from(vector) / 32)) >> (vector % 32) & 1 != 0
}
