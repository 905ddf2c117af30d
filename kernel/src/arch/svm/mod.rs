//! The back end for AMD's secure virtual machines with nested paging.
//!
//! `vmcb` and `exit` are the manual's words; `permission` what guests may touch directly; `state` what is kept of a
//! Vcpu; `switch` everything that changes with the VM; `emulate` the exits that need nothing but the Vcpu.

pub mod emulate;
pub mod exit;
pub mod features;
mod permission;
pub mod state;
pub mod switch;
pub mod vmcb;

use crate::arch::cpu::{self, Msr, rdmsr, wrmsr};
use core::cell::UnsafeCell;
use kernel::types::CoreId;
use kernel::vm::MAX_CORES;
use x86_64::registers::control::{Cr4, Cr4Flags};

/// Where the processor keeps the host's state while a guest runs: a page per core.
#[repr(C, align(4096))]
struct HostSave(UnsafeCell<[u8; 4096]>);

// SAFETY: only the processor touches it.
unsafe impl Sync for HostSave {}

static HOST_SAVE: [HostSave; MAX_CORES] = [const { HostSave(UnsafeCell::new([0; 4096])) }; MAX_CORES];

/// Turns SVM and XSAVE on for this core; from then on it takes interrupts and NMIs at the kernel's windows only.
///
/// # Safety
/// `features::Features::detect` must have succeeded, and the IDT be loaded.
pub unsafe fn turn_on(core: CoreId) {
    let save_area = HOST_SAVE[usize::from(core.get()) % MAX_CORES].0.get() as u64;
    // SAFETY: the caller says that the features exist; the save area belongs to this core; XCR0 is what CPUID allows.
    unsafe {
        wrmsr(Msr::EFER, rdmsr(Msr::EFER) | state::EFER_SVME);
        wrmsr(Msr::VM_HSAVE_PA, save_area);
        Cr4::update(|cr4| cr4.insert(Cr4Flags::OSXSAVE));
        cpu::xsetbv(emulate::supported_xcr0());
        wrmsr(Msr::TSC_AUX, 0);
        crate::arch::interrupts::close();
    }
}
