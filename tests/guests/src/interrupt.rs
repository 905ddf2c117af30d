//! An interrupt whose handler notes when it came, at its first instruction: what the bench measures latencies with.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

#[repr(C, align(4096))]
struct Table([u64; 512]);

static mut IDT: Table = Table([0; 512]);
#[unsafe(no_mangle)]
static INTERRUPT_STAMP: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static INTERRUPT_COUNT: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".global interrupt_stub",
    "interrupt_stub:",
    "push rax",
    "push rdx",
    "rdtsc",
    "mov [rip + INTERRUPT_STAMP], eax",
    "mov [rip + INTERRUPT_STAMP + 4], edx",
    "mov qword ptr [rip + INTERRUPT_COUNT], {mark}",
    "push rcx",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "pop rcx",
    "pop rdx",
    "pop rax",
    "iretq",
    mark = const proto::host::COUNT_MARK,
);

unsafe extern "C" {
    static interrupt_stub: u8;
}

/// Runs `work` with an IDT that has this one vector.
pub fn with_handler<T>(vector: u8, work: impl FnOnce() -> T) -> T {
    let mut before = [0u8; 10];
    let handler = (&raw const interrupt_stub) as u64;
    // SAFETY: one Vcpu; the table is this module's and complete before it is loaded; afterwards the IDT is what it was.
    unsafe {
        asm!("sidt [{}]", in(reg) &mut before, options(nostack));
        let selector: u64;
        asm!("mov {:r}, cs", out(reg) selector, options(nomem, nostack));
        let low = (handler & 0xffff) | (selector & 0xffff) << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        (&raw mut IDT.0[2 * usize::from(vector)]).write(low);
        (&raw mut IDT.0[2 * usize::from(vector) + 1]).write(handler >> 32);
        crate::trap::load_idt((&raw const IDT) as u64, 4095);
    }
    let result = work();
    // SAFETY: what SIDT gave.
    unsafe { asm!("lidt [{}]", in(reg) &before, options(nostack)) };
    result
}

/// Forgets the last interrupt.
pub fn forget() {
    INTERRUPT_STAMP.store(0, Ordering::Relaxed);
}

/// When the last interrupt came; 0 for never.
pub fn stamp() -> u64 {
    INTERRUPT_STAMP.load(Ordering::Relaxed)
}

/// When the last interrupt came, and the count of instructions that were no VM's until then.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// The clock.
    pub at: u64,
    /// See [`crate::measure::kernel_count`].
    pub kernel: u64,
}

/// The last interrupt.
pub fn came() -> Came {
    Came { at: stamp(), kernel: INTERRUPT_COUNT.load(Ordering::Relaxed) }
}
