//! The host's IDT and the points at which the kernel lets interrupts in.
//!
//! The kernel runs with GIF=0: neither NMI nor interrupt reaches it except inside the three functions here. An NMI only
//! leaves a mark ([`super::core_area::Core::nmi`]), whoever finds it looks at every cause; after another core's panic it
//! halts the core instead. Guests' interrupts are
//! accepted by [`drain`] alone.

use super::core_area::{AREA_BYTES, DRAINED_ANY_OFFSET, DRAINED_OFFSET, NMI_OFFSET};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

global_asm!(
    include_str!("interrupts.s"),
    area_bytes = const AREA_BYTES,
    drained = const DRAINED_OFFSET,
    drained_any = const DRAINED_ANY_OFFSET,
    nmi = const NMI_OFFSET,
    panicking = sym crate::panic::PANICKING,
    options(att_syntax)
);

unsafe extern "C" {
    static exception_stubs: [[u8; 16]; 32];
    static drain_stubs: [[u8; 16]; 224];
    fn nmi_stub();
    #[link_name = "take_nmi"]
    fn take_nmi_asm();
    #[link_name = "take_all"]
    fn take_all_asm();
    #[link_name = "idle"]
    fn idle_asm();
}

/// A gate of the IDT: offset in three parts, code segment 8, interrupt gate.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const EMPTY: Gate = Gate { low: 0, high: 0 };

    fn new(handler: u64) -> Gate {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
        const CODE_SEGMENT: u64 = 8 << 16;
        let low = handler & 0xffff | CODE_SEGMENT | PRESENT_INTERRUPT_GATE | (handler >> 16 & 0xffff) << 48;
        Gate { low, high: handler >> 32 }
    }
}

#[repr(C, align(16))]
struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by `build`, on one core before the others start; the hardware only reads it afterwards.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([Gate::EMPTY; 256]));

const NMI: usize = 2;

/// Fills the IDT. Called once, on the boot core before the others start.
pub fn build() {
    // SAFETY: see `Idt`: nobody else uses it yet.
    let gates = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in gates.iter_mut().enumerate() {
        // SAFETY: only the addresses of the stubs are taken; each array has a stub per vector of its range.
        let stub = unsafe {
            match vector {
                NMI => nmi_stub as *const () as u64,
                0..32 => &raw const exception_stubs[vector] as u64,
                _ => &raw const drain_stubs[vector - 32] as u64,
            }
        };
        *gate = Gate::new(stub);
    }
}

/// Loads the IDT on this core.
pub fn load() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer { limit: (size_of::<Idt>() - 1) as u16, base: IDT.0.get() as u64 };
    // SAFETY: the table is filled and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}

/// Sets GIF=0: from here on only the functions below let interrupts in.
///
/// # Safety
/// EFER.SVME must be set.
pub unsafe fn close() {
    // SAFETY: the caller's obligation.
    unsafe { asm!("clgi", options(nostack)) };
}

/// Takes pending NMIs.
#[inline]
pub fn take_nmi() {
    // SAFETY: the stub touches this core's mark only, and GIF is 0 again when it returns.
    unsafe { take_nmi_asm() };
}

/// Takes pending NMIs, and accepts every interrupt that is requested from this core: the stubs record and end them.
#[inline]
pub fn drain() {
    // SAFETY: the stubs touch this core's marks and its APIC only, and GIF is 0 again when it returns.
    unsafe { take_all_asm() };
}

/// Halts until an NMI comes.
pub fn idle() {
    // SAFETY: as for `take_nmi`.
    unsafe { idle_asm() };
}

/// What the CPU pushed for an exception in the kernel.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExceptionFrame {
    /// Number of the exception.
    pub vector: u64,
    /// Its error code, or 0.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
}

/// An exception in the kernel is a defect of the kernel.
#[unsafe(no_mangle)]
extern "C" fn host_exception(frame: &ExceptionFrame) -> ! {
    panic!("exception {} error {:#x} at {:#x}, cr2 {:#x}", frame.vector, frame.error, frame.rip, super::cpu::cr2());
}
