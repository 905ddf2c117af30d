//! The host's IDT and the points at which the kernel lets interrupts in.
//!
//! The kernel runs with GIF=0: neither NMI nor interrupt reaches it except inside the three functions here. An NMI only
//! leaves a mark ([`super::core_area::Core::nmi`]), whoever finds it looks at every cause; after another core's panic it
//! halts the core instead. Guests' interrupts are
//! accepted by [`drain`] alone.

use super::apic;
use super::core_area::{AREA_BYTES, Core};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::registers::control::Cr2;
use x86_64::structures::{DescriptorTablePointer, idt::Entry};

global_asm!(
    include_str!("interrupts.s"),
    area_bytes = const AREA_BYTES,
    drained = const offset_of!(Core, drained),
    drained_any = const offset_of!(Core, drained_any),
    nmi = const offset_of!(Core, nmi),
    panicking = sym crate::panic::PANICKING,
    options(att_syntax)
);

// SAFETY: as `interrupts.s` defines them. The three functions touch this core's marks and its APIC only, through the
// stubs, and GIF is 0 again when they return.
unsafe extern "C" {
    static interrupt_stubs: [[u8; 16]; 256];
    /// Takes pending NMIs.
    pub safe fn take_nmi();
    /// Takes pending NMIs, and accepts what interrupts have come from the controller to the core: the stubs record and end
    /// them.
    #[link_name = "drain"]
    safe fn drain_once();
    /// Halts until an NMI comes.
    pub safe fn idle();
}

/// Drains after which an interrupt that is still requested is not on its way any more.
const MAX_DRAINS: usize = 16;

/// Takes pending NMIs, and accepts every interrupt that is requested from this core, whose task priority is 0. One may still
/// be on its way from the controller to the core when the window closes; so the controller is asked.
#[inline]
pub fn drain() {
    for _ in 0..MAX_DRAINS {
        drain_once();
        if !apic::any_requested() {
            return;
        }
    }
}

static IDT: Once<[Entry<()>; 256]> = Once::new();

/// Loads the IDT on this core.
pub fn load() {
    let table = IDT.call_once(|| {
        let mut table = [Entry::missing(); 256];
        for (vector, entry) in table.iter_mut().enumerate() {
            // SAFETY: there is a stub for every vector, and only its address is taken.
            unsafe { entry.set_handler_addr(VirtAddr::from_ptr(&raw const interrupt_stubs[vector])) };
        }
        table
    });
    let pointer = DescriptorTablePointer { limit: (size_of_val(table) - 1) as u16, base: VirtAddr::from_ptr(table) };
    // SAFETY: the table is filled and lives for ever.
    unsafe { lidt(&pointer) };
}

/// Sets GIF=0: from here on only the functions above let interrupts in.
///
/// # Safety
/// EFER.SVME must be set.
pub unsafe fn close() {
    // SAFETY: the caller's obligation.
    unsafe { asm!("clgi", options(nostack)) };
}

/// An exception in the kernel is a defect of the kernel. The frame: the vector, an error code if the exception has one,
/// and where it happened.
#[unsafe(no_mangle)]
extern "C" fn host_exception(&[vector, first, second]: &[u64; 3]) -> ! {
    /// Exceptions with an error code, bit per vector: 8, 10 to 14, 17, 21, 29 and 30.
    const WITH_ERROR: u64 = 0x6022_7d00;
    let (error, rip) = if WITH_ERROR >> vector & 1 != 0 { (first, second) } else { (0, first) };
    panic!("exception {vector} error {error:#x} at {rip:#x}, cr2 {:#x}", Cr2::read_raw());
}
