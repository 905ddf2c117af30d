//! Attacks that are single instructions or registers: what guests don't have raises an exception in the guest itself,
//! and touches nobody else.

use crate::attempt;
use crate::trap;
use core::arch::asm;

const INVALID_OPCODE: Option<u8> = Some(6);
const GENERAL_PROTECTION: Option<u8> = Some(13);

/// What an attack found: how many attempts it made, and how many ended otherwise than they must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts made.
    pub attempts: u64,
    /// Attempts that the kernel let through although it must not, or stopped with another exception.
    pub wrong: u64,
}

impl Tally {
    /// Counts an attempt that must have ended in one of these ways.
    pub fn expect(&mut self, wanted: &[Option<u8>], got: Option<u8>) {
        self.attempts += 1;
        if !wanted.contains(&got) {
            self.wrong += 1;
        }
    }
}

/// SVM's own instructions: the guest is no hypervisor.
pub fn svm() -> Tally {
    let mut tally = Tally::default();
    let refused = [INVALID_OPCODE];
    tally.expect(&refused, attempt!("clgi"));
    tally.expect(&refused, attempt!("stgi"));
    tally.expect(&refused, attempt!("vmrun rax"; inout("rax") 0u64 => _));
    tally.expect(&refused, attempt!("vmload rax"; inout("rax") 0u64 => _));
    tally.expect(&refused, attempt!("vmsave rax"; inout("rax") 0u64 => _));
    tally.expect(&refused, attempt!("skinit eax"; inout("rax") 0u64 => _));
    tally.expect(&refused, attempt!("invlpga rax, ecx"; inout("rax") 0u64 => _, inout("rcx") 0u64 => _));
    tally
}

/// Instructions that reach caches, monitors, counters and extended control.
pub fn caches_and_counters() -> Tally {
    let mut tally = Tally::default();
    // INVD would throw away everybody's dirty lines; WBINVD stalls the machine. Either is refused or does nothing.
    let harmless = [None, INVALID_OPCODE, GENERAL_PROTECTION];
    tally.expect(&harmless, attempt!("invd"));
    tally.expect(&harmless, attempt!("wbinvd"));
    tally.expect(&[INVALID_OPCODE], attempt!("monitor"; in("rax") 0x20_0000u64, in("rcx") 0u64, in("rdx") 0u64));
    tally.expect(&[INVALID_OPCODE], attempt!("mwait"; in("rax") 0u64, in("rcx") 0u64));
    let refused = [INVALID_OPCODE, GENERAL_PROTECTION];
    for counter in 0..8u32 {
        tally.expect(&refused, attempt!("rdpmc"; in("rcx") counter, out("rax") _, out("rdx") _));
    }
    tally.expect(&refused, attempt!(".byte 0x0f, 0x01, 0xfd"; in("rcx") 0, out("rax") _, out("rdx") _));
    for (register, value) in [(0u32, 0u64), (0, 2), (0, 4), (0, u64::MAX), (1, 1), (0xffff_ffff, 1)] {
        let (low, high) = (value as u32, (value >> 32) as u32);
        tally.expect(&refused, attempt!("xsetbv"; in("rcx") register, in("rax") low, in("rdx") high));
    }
    for priority in 0..16u64 {
        tally.expect(&[None], attempt!("mov cr8, {0}", "mov {0}, cr8"; inout(reg) priority => _));
    }
    tally.expect(&[None], attempt!("mov cr8, {}"; in(reg) 15u64));
    tally
}

/// Reserved and dangerous bits of control registers.
pub fn control_registers() -> Tally {
    let mut tally = Tally::default();
    let (cr0, cr4): (u64, u64);
    // SAFETY: reads registers.
    unsafe { asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4, options(nomem, nostack)) };
    let refused = [GENERAL_PROTECTION];
    for bit in 32..64 {
        tally.expect(&refused, attempt!("mov cr0, {}"; in(reg) cr0 | 1 << bit));
        tally.expect(&refused, attempt!("mov cr4, {}"; in(reg) cr4 | 1 << bit));
    }
    // Paging off with long mode active, and not-write-through without cache-disable.
    tally.expect(&refused, attempt!("mov cr4, {}"; in(reg) cr4 & !(1 << 5)));
    tally.expect(&refused, attempt!("mov cr0, {}"; in(reg) cr0 | 1 << 29 & !(1 << 30)));
    tally
}

/// Reserved and dangerous bits of EFER.
pub fn extended_features() -> Tally {
    let mut tally = Tally::default();
    let refused = [GENERAL_PROTECTION];
    for bit in [1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 25, 30, 31] {
        tally.expect(&refused, write_msr(0xc000_0080, 1 << bit | 0x500));
    }
    tally
}

/// Debug registers: breakpoints on the guest's own code and on everything else, general detect.
pub fn debug_registers() -> Tally {
    let mut tally = Tally::default();
    let harmless = [None, Some(1), INVALID_OPCODE, GENERAL_PROTECTION];
    for value in [0u64, 0x10_0000, 0x20_0000, 0x7fff_ffff_ffff, u64::MAX] {
        tally
            .expect(&harmless, attempt!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}"; in(reg) value));
        tally.expect(&harmless, attempt!("mov dr7, {}"; in(reg) 0xffff_27ffu64));
        tally.expect(&harmless, attempt!("mov dr7, {}"; in(reg) value));
        tally.expect(&harmless, attempt!("mov dr6, {}"; in(reg) value));
    }
    // General detect is cleared again, or every later access would raise #DB.
    tally.expect(&harmless, attempt!("mov dr7, {}"; in(reg) 0x400u64));
    tally.expect(&harmless, attempt!("mov dr7, {}"; in(reg) 0x400u64));
    tally
}

/// Reads and writes every MSR of the architectural ranges with several values.
pub fn every_msr() -> Tally {
    let mut tally = Tally::default();
    for range in [0..0x2000u32, 0xc000_0000..0xc000_2000, 0xc001_0000..0xc001_2000, 0x4000_0000..0x4000_0100] {
        for msr in range {
            let harmless = [None, GENERAL_PROTECTION];
            tally.expect(&harmless, read_msr(msr));
            // The guest's own bases are its own business, but it needs them to go on.
            if (0xc000_0100..=0xc000_0102).contains(&msr) {
                continue;
            }
            for value in [0, 1, u64::MAX] {
                tally.expect(&harmless, write_msr(msr, value));
            }
        }
    }
    tally
}

/// Inter-processor interrupts by the ICR: INIT, SIPI, NMI, SMI and fixed, to everybody.
pub fn interrupt_commands() -> Tally {
    let mut tally = Tally::default();
    for mode in 0..8u64 {
        for shorthand in 0..4u64 {
            for destination in [0u64, 1, 2, 0xffff_ffff] {
                let command = destination << 32 | shorthand << 18 | 1 << 14 | mode << 8 | 0x40;
                tally.expect(&[GENERAL_PROTECTION], write_msr(0x830, command));
            }
        }
    }
    // Self-IPI, spurious vector (APIC off), every LVT but the timer.
    for msr in [0x83f, 0x80f, 0x828, 0x82f, 0x833, 0x834, 0x835, 0x836, 0x837, 0x1b] {
        tally.expect(&[GENERAL_PROTECTION], write_msr(msr, 0));
    }
    tally
}

/// Every port, read and written.
pub fn every_port() -> Tally {
    let mut tally = Tally::default();
    for port in 0..=u16::MAX {
        tally.expect(&[GENERAL_PROTECTION], attempt!("in al, dx"; in("dx") port, out("al") _));
        tally.expect(&[GENERAL_PROTECTION], attempt!("out dx, al"; in("dx") port, in("al") 0xffu8));
    }
    tally.expect(&[GENERAL_PROTECTION], attempt!("in eax, dx"; in("dx") 0xcf8u16, out("eax") _));
    tally.expect(&[GENERAL_PROTECTION], attempt!("out dx, ax"; in("dx") 0x604u16, in("ax") 0x2000u16));
    tally
}

/// Spins with interrupts off, for ever.
pub fn spin_with_interrupts_off() -> ! {
    // SAFETY: touches nothing.
    unsafe { asm!("cli", "2:", "jmp 2b", options(noreturn)) }
}

/// Halts with interrupts off, for ever.
pub fn halt_with_interrupts_off() -> ! {
    // SAFETY: touches nothing.
    unsafe { asm!("cli", "2:", "hlt", "jmp 2b", options(noreturn)) }
}

/// Takes a timer interrupt, never ends it, and spins with interrupts on.
pub fn never_end_an_interrupt() -> ! {
    write_msr(0x832, 0x40);
    write_msr(0x83e, 0xb);
    loop {
        write_msr(0x838, 1000);
        // SAFETY: the interrupt comes to a stub that returns and does not write the EOI register.
        unsafe { asm!("sti", "mov ecx, 2000", "2:", "dec ecx", "jnz 2b", out("ecx") _) };
    }
}

/// Loads an empty IDT and raises an exception: a triple fault.
pub fn triple_fault() -> ! {
    trap::load_idt(0, 0);
    // SAFETY: the guest ends here.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// #DB after every instruction, for ever.
pub fn debug_storm() -> ! {
    // SAFETY: sets the trap flag; the stub returns each time.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "2:", "nop", "jmp 2b", options(noreturn)) }
}

/// A breakpoint on the stack that the #DB handler itself writes: on real processors #DB within delivery of #DB, without
/// end unless it is intercepted.
pub fn debug_storm_in_delivery() -> ! {
    let stack: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack)) };
    let _ = attempt!("mov dr0, {0}", "mov dr7, {1}"; in(reg) stack - 64, in(reg) 0x000f_0703u64);
    debug_storm()
}

/// #UD without end: the handler returns to the instruction that raised it. ([`crate::ring3`] has the same with #AC.)
pub fn exception_storm() -> ! {
    // SAFETY: raises #UD for ever; the stub returns to the instruction that raised it.
    unsafe { asm!("2:", "ud2", "jmp 2b", options(noreturn)) }
}

fn read_msr(msr: u32) -> Option<u8> {
    attempt!("rdmsr"; in("ecx") msr, out("eax") _, out("edx") _)
}

fn write_msr(msr: u32, value: u64) -> Option<u8> {
    attempt!("wrmsr"; in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32)
}
