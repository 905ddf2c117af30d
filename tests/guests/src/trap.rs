//! Runs single instructions under an IDT of its own and says which exception they raised.
//!
//! Every vector from 0 to 255 leads to one stub that unwinds to the place which [`attempt!`] named, whatever was going
//! on; so a hostile guest can try anything and go on. Interrupts are never ended and the interrupt flag stays as the
//! gate left it: clear.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// Where to go on after an exception; 0: nobody expects one.
#[unsafe(no_mangle)]
static TRAP_RECOVERY: AtomicU64 = AtomicU64::new(0);
/// Stack pointer to go on with.
#[unsafe(no_mangle)]
static TRAP_STACK: AtomicU64 = AtomicU64::new(0);
/// Vector that came, or [`NO_VECTOR`].
#[unsafe(no_mangle)]
static TRAP_VECTOR: AtomicU64 = AtomicU64::new(NO_VECTOR);
/// How many came since the start.
#[unsafe(no_mangle)]
static TRAP_COUNT: AtomicU64 = AtomicU64::new(0);

/// Value of the vector word while nothing has come.
pub const NO_VECTOR: u64 = u64::MAX;

global_asm!(
    ".section .text",
    ".balign 16",
    ".global trap_stubs",
    "trap_stubs:",
    ".set i, 0",
    ".rept 256",
    ".balign 16",
    "push i",
    "jmp trap_common",
    ".set i, i + 1",
    ".endr",
    "trap_common:",
    "lock inc qword ptr [rip + TRAP_COUNT]",
    "pop qword ptr [rip + TRAP_VECTOR]",
    "cmp qword ptr [rip + TRAP_RECOVERY], 0",
    "je 3f",
    "mov rsp, [rip + TRAP_STACK]",
    "jmp qword ptr [rip + TRAP_RECOVERY]",
    // Nobody expects it: a storm. Return to where it came from, which raises it again or goes on.
    "3:",
    "iretq",
);

unsafe extern "C" {
    /// First of 256 stubs, 16 bytes apart.
    static trap_stubs: u8;
}

/// An interrupt gate (AMD64 Architecture Programmer's Manual, volume 2, 8.2, long-mode gate).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    words: [u64; 2],
}

#[repr(C, align(4096))]
struct Table([Gate; 256]);

static mut TABLE: Table = Table([Gate { words: [0; 2] }; 256]);

/// Points the IDT at the stubs of this module.
pub fn install() {
    let selector: u64;
    // SAFETY: reads a selector, touches no memory.
    unsafe { asm!("mov {:r}, cs", out(reg) selector, options(nomem, nostack)) };
    for vector in 0..256u64 {
        let address = (&raw const trap_stubs) as u64 + vector * 16;
        let low = (address & 0xffff) | (selector & 0xffff) << 16 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
        let gate = Gate { words: [low, address >> 32] };
        // SAFETY: the guest has one thread, and the table is not loaded before it is complete.
        unsafe { (&raw mut TABLE.0[vector as usize]).write(gate) };
    }
    load_idt((&raw const TABLE) as u64, 256 * 16 - 1);
}

/// Makes a vector's gate a task gate, until the next [`install`].
pub fn set_task_gate(vector: u8, selector: u16) {
    let gate = Gate { words: [u64::from(selector) << 16 | 0x8500 << 32, 0] };
    // SAFETY: the guest has one thread; the processor reads a gate as a whole only when the vector is raised.
    unsafe { (&raw mut TABLE.0[usize::from(vector)]).write(gate) };
}

/// Runs `work` with the stubs of this module and brings the IDT back that was there before.
pub fn within(work: impl FnOnce()) {
    let mut before = [0u8; 10];
    // SAFETY: SIDT writes ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) &mut before, options(nostack)) };
    install();
    work();
    // SAFETY: what SIDT gave.
    unsafe { asm!("lidt [{}]", in(reg) &before, options(nostack)) };
}

/// Loads the IDT register. With a limit of 0 the next exception is a triple fault.
pub fn load_idt(base: u64, limit: u16) {
    let mut descriptor = [0u8; 10];
    descriptor[..2].copy_from_slice(&limit.to_le_bytes());
    descriptor[2..].copy_from_slice(&base.to_le_bytes());
    // SAFETY: LIDT reads ten bytes; a bad table harms this guest only, which is what it is for.
    unsafe { asm!("lidt [{}]", in(reg) &descriptor, options(nostack)) };
}

/// How many exceptions and interrupts have come since the start.
pub fn count() -> u64 {
    TRAP_COUNT.load(Ordering::Relaxed)
}

/// Takes the vector that the last attempt raised.
pub fn take_vector() -> Option<u8> {
    TRAP_RECOVERY.store(0, Ordering::Relaxed);
    match TRAP_VECTOR.swap(NO_VECTOR, Ordering::Relaxed) {
        NO_VECTOR => None,
        vector => Some(vector as u8),
    }
}

/// Runs assembly and gives the vector that it raised, if any: `attempt!("vmrun rax", in("rax") 0)`.
///
/// The operands must not be in `r14` or `r15`; everything else the sequence may change must be named.
#[macro_export]
macro_rules! attempt {
    ($($line:literal),+ $(; $($operand:tt)*)?) => {{
        // SAFETY: the sequence may raise any exception; the stubs come back to label 2 with the stack pointer as it
        // was. What it may do to memory or devices is what the kernel under test must bear.
        #[allow(clippy::macro_metavars_in_unsafe, reason = "the operands are the attack")]
        unsafe {
            core::arch::asm!(
                "lea r14, [rip + 2f]",
                "mov [rip + TRAP_RECOVERY], r14",
                "mov [rip + TRAP_STACK], rsp",
                "mov qword ptr [rip + TRAP_VECTOR], -1",
                $($line,)+
                "2:",
                $($($operand)*,)?
                out("r14") _, out("r15") _,
            );
        }
        $crate::trap::take_vector()
    }};
}
