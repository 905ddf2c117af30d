//! Instructions that Rust does not have, in the widths and with the guarantees that the kernel wants of them: MSRs, ports,
//! task priority, time.
//!
//! MSRs are named here and nowhere else; reading one of them is safe because each exists on every CPU that the kernel
//! accepts (`boot` checks x2APIC and SVM first). Writing one can take memory safety away and is `unsafe`.

use core::arch::asm;
use x86_64::instructions::port::Port;
use x86_64::registers::{model_specific, xcontrol::XCr0};

/// A model-specific register under its manual name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr(u32);

impl Msr {
    /// APIC base and mode.
    pub const APIC_BASE: Msr = Msr(0x1b);
    /// Prediction commands; only where CPUID shows the barrier.
    pub const PRED_CMD: Msr = Msr(0x49);
    /// x2APIC: local APIC id.
    pub const X2APIC_ID: Msr = Msr(0x802);
    /// x2APIC: version.
    pub const X2APIC_VERSION: Msr = Msr(0x803);
    /// x2APIC: processor priority.
    pub const X2APIC_PPR: Msr = Msr(0x80a);
    /// x2APIC: end of interrupt.
    pub const X2APIC_EOI: Msr = Msr(0x80b);
    /// x2APIC: spurious interrupt vector and enable.
    pub const X2APIC_SVR: Msr = Msr(0x80f);
    /// x2APIC: first of eight words of the interrupt request register.
    pub const X2APIC_IRR: Msr = Msr(0x820);
    /// x2APIC: interrupt command.
    pub const X2APIC_ICR: Msr = Msr(0x830);
    /// x2APIC: LVT timer.
    pub const X2APIC_LVT_TIMER: Msr = Msr(0x832);
    /// x2APIC: LVT LINT0.
    pub const X2APIC_LVT_LINT0: Msr = Msr(0x835);
    /// x2APIC: LVT LINT1.
    pub const X2APIC_LVT_LINT1: Msr = Msr(0x836);
    /// x2APIC: LVT error.
    pub const X2APIC_LVT_ERROR: Msr = Msr(0x837);
    /// x2APIC: initial count of the timer. Its current count (0x839) is never read: an emulator aborts on it.
    pub const X2APIC_TIMER_INITIAL: Msr = Msr(0x838);
    /// x2APIC: divide configuration of the timer.
    pub const X2APIC_TIMER_DIVIDE: Msr = Msr(0x83e);
    /// x2APIC: self IPI.
    pub const X2APIC_SELF_IPI: Msr = Msr(0x83f);
    /// Extended features.
    pub const EFER: Msr = Msr(0xc000_0080);
    /// What RDTSCP and RDPID return.
    pub const TSC_AUX: Msr = Msr(0xc000_0103);
    /// SVM lock and disable.
    pub const VM_CR: Msr = Msr(0xc001_0114);
    /// Physical address of the host save area.
    pub const VM_HSAVE_PA: Msr = Msr(0xc001_0117);

    /// A word of the interrupt request register, 0 to 7.
    pub const fn irr(word: u32) -> Msr {
        Msr(Msr::X2APIC_IRR.0 + (word & 7))
    }
}

/// Reads an MSR.
#[inline(always)]
pub fn rdmsr(msr: Msr) -> u64 {
    // SAFETY: an `Msr` exists (see the module), and reading those listed has no side effect.
    unsafe { model_specific::Msr::new(msr.0).read() }
}

/// Writes an MSR.
///
/// # Safety
/// The value must be legal for the register and must not change how Rust's memory is mapped or entered.
#[inline(always)]
pub unsafe fn wrmsr(msr: Msr, value: u64) {
    // SAFETY: the caller's obligation.
    unsafe { model_specific::Msr::new(msr.0).write(value) };
}

/// Reads the time-stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID of a leaf and subleaf: eax, ebx, ecx, edx.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Reads a port of 1, 2 or 4 bytes.
///
/// # Safety
/// Reading the port must not make a device touch memory that Rust owns.
pub unsafe fn port_in(port: u16, width: u8) -> u32 {
    // SAFETY: the caller's obligation.
    unsafe {
        match width {
            1 => u32::from(Port::<u8>::new(port).read()),
            2 => u32::from(Port::<u16>::new(port).read()),
            _ => Port::new(port).read(),
        }
    }
}

/// Writes a port of 1, 2 or 4 bytes.
///
/// # Safety
/// Writing the port must not make a device touch memory that Rust owns.
pub unsafe fn port_out(port: u16, width: u8, value: u32) {
    // SAFETY: the caller's obligation.
    unsafe {
        match width {
            1 => Port::new(port).write(value as u8),
            2 => Port::new(port).write(value as u16),
            _ => Port::new(port).write(value),
        }
    }
}

/// CR8: the task priority.
#[inline(always)]
pub fn cr8() -> u64 {
    let value: u64;
    // SAFETY: reading CR8 has no side effect.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets the task priority (0 to 15).
#[inline(always)]
pub fn set_cr8(priority: u64) {
    // SAFETY: the kernel runs with interrupts off; the priority delays interrupts of guests only.
    unsafe { asm!("mov cr8, {}", in(reg) priority & 15, options(nomem, nostack, preserves_flags)) };
}

/// Sets XCR0.
///
/// # Safety
/// The value must be legal on this CPU, and CR4.OSXSAVE set.
#[inline(always)]
pub unsafe fn xsetbv(value: u64) {
    // SAFETY: the caller's obligation.
    unsafe { XCr0::write_raw(value) };
}
