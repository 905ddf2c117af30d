//! The back end for AMD's secure virtual machines with nested paging.
//!
//! `vmcb` and `exit` are the manual's words; `permission` what guests may touch directly; `state` what is kept of a
//! Vcpu; `switch` everything that changes with the VM; `emulate` the exits that need nothing but the Vcpu; `entry` what a
//! block is told before an entry and what an exit leaves in it; `core_loop` what a core does for ever.

mod core_loop;
mod emulate;
mod entry;
mod exit;
mod features;
mod permission;
mod state;
mod switch;
mod vmcb;

pub use core_loop::run;
pub use features::Features;
pub use state::{has_route, init_vcpu, raise, register, set_register, set_results};

use crate::arch::cpu::{self, Msr, rdmsr, wrmsr};
use core::cell::UnsafeCell;
use kernel::apic_timer::TimerScale;
use kernel::nested::EntryFormat;
use kernel::types::CoreId;
use kernel::vm::MAX_CORES;
use x86_64::registers::control::{Cr4, Cr4Flags};

/// What every core needs to run guests on this processor, fixed at boot.
#[derive(Clone, Copy)]
pub struct Processor {
    constants: switch::Constants,
    features: Features,
    /// The clean field of a block that did not change since its last entry.
    clean: vmcb::Clean,
}

impl Processor {
    /// How tables for guests are written.
    pub const FORMAT: EntryFormat = EntryFormat::Npt;

    /// A processor with these features, whose APIC timer counts like this.
    pub fn new(features: Features, timer: TimerScale) -> Processor {
        let constants = switch::Constants { xcr0: emulate::supported_xcr0(), timer, barrier: features.barrier };
        let clean = if features.clean_bits { vmcb::Clean::all() } else { vmcb::Clean::empty() };
        Processor { constants, features, clean }
    }
}

/// Where the processor keeps the host's state while a guest runs: a page per core.
#[repr(C, align(4096))]
struct HostSave(UnsafeCell<[u8; 4096]>);

// SAFETY: only the processor touches it.
unsafe impl Sync for HostSave {}

static HOST_SAVE: [HostSave; MAX_CORES] = [const { HostSave(UnsafeCell::new([0; 4096])) }; MAX_CORES];

/// Turns SVM and XSAVE on for this core; from then on it takes interrupts and NMIs at the kernel's windows only.
///
/// # Safety
/// [`Features::detect`] must have succeeded, and the IDT be loaded.
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
