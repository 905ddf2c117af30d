//! Exits that the back end settles by itself, without the kernel lock: CPUID, MSRs, XSETBV, debug registers, reflected
//! exceptions. They touch only the Vcpu that is loaded on this core.
//!
//! What a normal processor would refuse gets the exception that it would give; what guests don't have gets #UD or #GP.

use super::entry;
use super::exit::length;
use super::features::Features;
use super::permission;
use super::state::{EFER_SVME, Saved};
use super::switch::{self, Constants, Loaded};
use super::vmcb::{Clean, EVENT_ERROR, EVENT_EXCEPTION, EVENT_VALID, Vmcb};
use crate::arch::apic;
use crate::arch::cpu::{self, Msr, cpuid, rdmsr, rdtsc};

/// Exceptions that the kernel injects or reflects.
mod exception {
    pub const UD: u8 = 6;
    pub const GP: u8 = 13;
    pub const AC: u8 = 17;
}

/// EFER bits that must stay as they are: LME, LMA.
const EFER_FIXED: u64 = 1 << 8 | 1 << 10;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// APIC_BASE as a guest sees it: x2APIC, enabled, the usual address.
const APIC_BASE: u64 = 0xfee0_0c00;
/// LVT timer bits that a guest may set: vector and mask (one-shot mode is 0).
const LVT_ALLOWED: u64 = apic::LVT_MASKED | 0xff;

/// Initial counts in a row, with no question for the current count between, after which a guest that has its core to
/// itself writes them without an exit: whoever calibrates the timer has done so by then.
const COUNTS_WATCHED: u8 = 1;

/// A guest that was left, with what its core holds of it.
pub struct Guest<'a> {
    /// Its registers.
    pub saved: &'a mut Saved,
    /// Its control block.
    pub vmcb: &'a mut Vmcb,
    /// What the core's registers hold.
    pub loaded: &'a mut Loaded,
    /// Constants of the machine.
    pub constants: &'a Constants,
    /// What the processor has.
    pub features: &'a Features,
}

/// The instruction asked for a #GP.
struct Refused;

impl Guest<'_> {
    /// Goes past an intercepted instruction: to where the processor says, or else by the instruction's length without
    /// prefixes.
    fn advance(&mut self, length: u64) {
        let next = self.vmcb.save.rip.wrapping_add(length);
        self.vmcb.save.rip = if self.features.next_rip { self.vmcb.control.next_rip } else { next };
        entry::end_shadow(&mut self.vmcb.control);
    }

    /// Injects an exception. An interrupt whose delivery the exit cut off goes back to the APIC first: it comes again
    /// when the guest can take it. An exception that was cut off comes again by itself.
    fn inject(&mut self, vector: u8, error: Option<u32>) {
        let cut_off = self.saved.pending.take_cut_off();
        if cut_off & EVENT_VALID != 0 && cut_off as u8 >= 32 {
            apic::end_one();
            apic::self_ipi(cut_off as u8);
        }
        let event = EVENT_VALID | EVENT_EXCEPTION | u64::from(vector);
        let error = error.map_or(0, |error| EVENT_ERROR | u64::from(error) << 32);
        entry::inject(&mut self.vmcb.control, event | error);
    }

    /// #UD: the instruction does not exist for guests.
    #[cold]
    pub fn undefined(&mut self) {
        self.inject(exception::UD, None);
    }

    /// #GP(0): the operand is refused.
    #[cold]
    pub fn protection(&mut self) {
        self.inject(exception::GP, Some(0));
    }

    /// Gives an intercepted exception back to the guest. Endless loops of such exceptions are broken as the core takes
    /// pending NMIs after the exit.
    #[cold]
    pub fn reflect(&mut self, vector: u8) {
        let error = self.vmcb.control.exit_info1 as u32;
        self.inject(vector, (vector == exception::AC).then_some(error));
    }

    /// First touch of DR0 to DR3; the instruction is executed again.
    #[cold]
    pub fn debug_registers(&mut self) {
        switch::begin_debug(self.saved, self.vmcb);
    }

    /// CPUID: the processor's answer without what guests don't have.
    #[cold]
    pub fn cpuid(&mut self) {
        let (leaf, subleaf) = (self.vmcb.save.rax as u32, self.saved.registers.rcx as u32);
        let osxsave = self.vmcb.save.cr4 & CR4_OSXSAVE != 0;
        let [eax, ebx, ecx, edx] = self.features.guest_cpuid(leaf, subleaf, osxsave, self.constants.xcr0);
        self.vmcb.save.rax = u64::from(eax);
        self.saved.registers.rbx = u64::from(ebx);
        self.saved.registers.rcx = u64::from(ecx);
        *self.saved.registers.rdx() = u64::from(edx);
        self.advance(length::CPUID);
    }

    /// XSETBV: subsets of what the kernel enabled, as the manual's rules allow them.
    #[cold]
    pub fn xsetbv(&mut self) {
        const X87: u64 = 1;
        const SSE: u64 = 2;
        const AVX: u64 = 4;
        let value = self.vmcb.save.rax & 0xffff_ffff | *self.saved.registers.rdx() << 32;
        let register = self.saved.registers.rcx as u32;
        let legal = value & !self.constants.xcr0 == 0 && value & X87 != 0 && (value & AVX == 0 || value & SSE != 0);
        if self.vmcb.save.cpl != 0 || register != 0 || !legal {
            return self.protection();
        }
        self.saved.xcr0 = value;
        self.saved.special = true;
        self.loaded.set_xcr0(value);
        self.advance(length::XSETBV);
    }

    /// RDMSR or WRMSR of a register that is not open.
    #[cold]
    pub fn msr(&mut self) {
        let register = self.saved.registers.rcx as u32;
        let result = if self.vmcb.save.cpl != 0 {
            Err(Refused)
        } else if self.vmcb.control.exit_info1 & 1 != 0 {
            let value = self.vmcb.save.rax & 0xffff_ffff | *self.saved.registers.rdx() << 32;
            self.write_msr(register, value)
        } else {
            self.read_msr(register).map(|value| {
                self.vmcb.save.rax = value & 0xffff_ffff;
                *self.saved.registers.rdx() = value >> 32;
            })
        };
        match result {
            Ok(()) => self.advance(length::MSR),
            Err(Refused) => self.protection(),
        }
    }

    fn read_msr(&mut self, register: u32) -> Result<u64, Refused> {
        Ok(match register {
            0x10 => rdtsc(),
            0x1b => APIC_BASE,
            0x277 => self.vmcb.save.g_pat,
            0x802 => u64::from(apic::id()),
            0x803 => rdmsr(Msr::X2APIC_VERSION),
            0x808 => cpu::cr8() << 4,
            0x80f => apic::SVR,
            0x832 => u64::from(self.saved.timer_lvt),
            0x838 => rdmsr(Msr::X2APIC_TIMER_INITIAL),
            0x839 => self.current_count(),
            0x83e => u64::from(self.saved.timer_divide),
            0xc000_0080 => self.vmcb.save.efer & !EFER_SVME,
            0xc000_0103 => self.saved.tsc_aux,
            _ => return Err(Refused),
        })
    }

    fn write_msr(&mut self, register: u32, value: u64) -> Result<(), Refused> {
        match register {
            0x1b if value & !0x100 == APIC_BASE => {}
            0x277 if value.to_le_bytes().iter().all(|&kind| matches!(kind, 0 | 1 | 4..=7)) => {
                self.vmcb.save.g_pat = value;
                self.vmcb.control.clean.remove(Clean::NESTED);
            }
            0x808 if value <= 0xff => cpu::set_cr8(value >> 4),
            0x80f if value == apic::SVR => {}
            0x832 if value & !LVT_ALLOWED == 0 && (value as u8 >= 32 || value & apic::LVT_MASKED != 0) => {
                self.note_count();
                self.open_timer(false);
                self.saved.timer_lvt = value as u32;
                self.loaded.load_timer(self.saved, self.constants);
            }
            0x838 if value <= u64::from(u32::MAX) => {
                let span = self.constants.timer.span_of(value as u32, self.saved.timer_divide);
                self.saved.timer_due = if value == 0 { 0 } else { rdtsc() + span };
                self.loaded.load_timer(self.saved, self.constants);
                self.saved.counts_written = self.saved.counts_written.saturating_add(1);
                let unmasked = self.saved.timer_lvt & apic::LVT_MASKED as u32 == 0;
                if self.saved.counts_written > COUNTS_WATCHED && unmasked && !self.loaded.is_shared() {
                    self.open_timer(true);
                }
            }
            0x83e if value & !0xb == 0 => {
                self.note_count();
                self.saved.timer_divide = value as u32;
                self.loaded.load_timer(self.saved, self.constants);
            }
            0x83f if (32..=255).contains(&value) => apic::self_ipi(value as u8),
            0xc000_0080 => {
                let efer = self.vmcb.save.efer;
                if value & !(self.features.efer | EFER_FIXED) != 0 || value & EFER_FIXED != efer & EFER_FIXED {
                    return Err(Refused);
                }
                self.vmcb.save.efer = value | EFER_SVME;
                self.vmcb.control.clean.remove(Clean::CONTROL_REGISTERS);
            }
            0xc000_0103 if value <= u64::from(u32::MAX) => {
                self.saved.tsc_aux = value;
                self.loaded.set_tsc_aux(value);
            }
            _ => return Err(Refused),
        }
        self.saved.special = true;
        self.saved.interrupts = true;
        Ok(())
    }

    /// Lets the guest write its initial count without an exit, or not.
    fn open_timer(&mut self, open: bool) {
        self.vmcb.control.msrpm_base_pa = permission::msrpm(open);
        self.vmcb.control.clean.remove(Clean::PERMISSION_MAPS);
    }

    /// If the timer was armed without an exit, takes it as armed now.
    fn note_count(&mut self) {
        if self.vmcb.control.msrpm_base_pa == permission::msrpm(true) {
            let count = rdmsr(Msr::X2APIC_TIMER_INITIAL) as u32;
            if count != 0 {
                self.saved.timer_due = rdtsc() + self.constants.timer.span_of(count, self.saved.timer_divide);
            }
        }
    }

    /// The timer's current count, computed: the register itself is never read. A guest that asks is watched when it
    /// writes the next initial counts; if it armed the timer without an exit, it is told as if it had done so just now.
    fn current_count(&mut self) -> u64 {
        self.note_count();
        self.open_timer(false);
        self.saved.counts_written = 0;
        let now = rdtsc();
        if self.saved.timer_due <= now {
            return 0;
        }
        u64::from(self.constants.timer.count_of(self.saved.timer_due - now, self.saved.timer_divide))
    }
}

/// The extended features that the processor has and the kernel lets guests use: x87, SSE, AVX, PKRU.
pub fn supported_xcr0() -> u64 {
    const KEPT: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 9;
    let [low, _, _, high] = cpuid(0xd, 0);
    (u64::from(low) | u64::from(high) << 32) & KEPT
}
