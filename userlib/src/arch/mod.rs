//! What only a VM has: start-up, descriptor tables and traps, the local APIC. Compiled for `target_os = "none"` only;
//! the rest of userlib also builds on the host.

mod apic;
mod copy;
mod interrupts;
mod start;
mod traps;
mod upcall;

use core::arch::asm;

pub use apic::end_of_interrupt;
pub use copy::copy;
pub use interrupts::{EVENT_VECTOR, TIMER_VECTOR, event, halt_until, halt_while, on_event};
pub use start::{guard_page, memory_end};
pub use traps::{FIRST_VECTOR, Handler, TrapFrame, set_handler};
pub use upcall::FAULT_VECTOR;

/// Lets the processor forget all translations.
///
/// # Safety
/// The page tables must map everything in use where it was.
unsafe fn flush_tlb() {
    // SAFETY: writes back the value read; the caller vouches for the tables.
    unsafe {
        asm!("mov {scratch}, cr3", "mov cr3, {scratch}", scratch = out(reg) _, options(nostack, preserves_flags));
    }
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: the descriptor tables are installed before any code of the image runs.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: changes the interrupt flag only.
    unsafe { asm!("cli", options(nostack)) };
}

/// Whether interrupts are let in.
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & 1 << 9 != 0
}

/// Sleeps on the core, which stays this VM's and is charged, until an interrupt. Call it with interrupts off: they are
/// let in for the sleep alone, so that none is missed between a check and the sleep.
pub fn halt() {
    // SAFETY: interrupts are delivered through the installed tables; `sti` takes effect after `hlt` has begun.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is not intercepted and has no other effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}
