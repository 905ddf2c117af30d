//! Attacks that are single instructions or registers: what guests don't have raises an exception in the guest itself,
//! and touches nobody else.

use crate::attempt;
use crate::root::word;
use crate::trap;
use cap_spec::abi::{ExitKind, STATS_PAGE, stats_page};
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

/// Exits of this VM of one kind so far.
fn exits(kind: ExitKind) -> u64 {
    word(STATS_PAGE, stats_page::EXITS + kind as usize * 8)
}

/// Tries an instruction that is intercepted: it must exit once, as an instruction that guests don't have, and be #UD.
macro_rules! intercepted {
    ($tally:ident: $($attempt:tt)*) => {{
        let before = exits(ExitKind::Instruction);
        $tally.expect(&[INVALID_OPCODE], attempt!($($attempt)*));
        $tally.wrong += u64::from(exits(ExitKind::Instruction) != before + 1);
    }};
}

/// SVM's own instructions: the guest is no hypervisor.
pub fn svm() -> Tally {
    let mut tally = Tally::default();
    intercepted!(tally: "clgi");
    intercepted!(tally: "stgi");
    intercepted!(tally: "vmrun rax"; inout("rax") 0u64 => _);
    intercepted!(tally: "vmload rax"; inout("rax") 0u64 => _);
    intercepted!(tally: "vmsave rax"; inout("rax") 0u64 => _);
    intercepted!(tally: "skinit eax"; inout("rax") 0u64 => _);
    intercepted!(tally: "invlpga rax, ecx"; inout("rax") 0u64 => _, inout("rcx") 0u64 => _);
    intercepted!(tally: "rsm");
    // INVLPGB, TLBSYNC: QEMU does not know them, so that nothing tells whether they are intercepted.
    let refused = [INVALID_OPCODE];
    tally.expect(&refused, attempt!(".byte 0x0f, 0x01, 0xfe"; inout("rax") 0u64 => _, in("rcx") 0u64, in("rdx") 0u64));
    tally.expect(&refused, attempt!(".byte 0x0f, 0x01, 0xff"));
    tally
}

/// Instructions that reach caches, monitors, counters and extended control; task switches.
pub fn caches_and_counters() -> Tally {
    let mut tally = Tally::default();
    // INVD would throw away everybody's dirty lines; WBINVD and WBNOINVD stall the machine.
    intercepted!(tally: "invd");
    intercepted!(tally: "wbinvd");
    intercepted!(tally: ".byte 0xf3, 0x0f, 0x09");
    intercepted!(tally: "monitor"; in("rax") 0x20_0000u64, in("rcx") 0u64, in("rdx") 0u64);
    intercepted!(tally: "mwait"; in("rax") 0u64, in("rcx") 0u64);
    // MONITORX, MWAITX, MCOMMIT.
    for outcome in [
        attempt!(".byte 0x0f, 0x01, 0xfa"; in("rax") 0x20_0000u64, in("rcx") 0u64, in("rdx") 0u64),
        attempt!(".byte 0x0f, 0x01, 0xfb"; in("rax") 0u64, in("rcx") 0u64),
        attempt!(".byte 0xf3, 0x0f, 0x01, 0xfa"),
    ] {
        tally.expect(&[INVALID_OPCODE], outcome);
    }
    for counter in 0..8u32 {
        intercepted!(tally: "rdpmc"; in("rcx") counter, out("rax") _, out("rdx") _);
    }
    // RDPRU.
    let refused = [INVALID_OPCODE, GENERAL_PROTECTION];
    tally.expect(&refused, attempt!(".byte 0x0f, 0x01, 0xfd"; in("rcx") 0, out("rax") _, out("rdx") _));
    // A task gate, and a jump to a task state: there are no task switches in 64-bit mode.
    trap::set_task_gate(TASK_GATE, TASK_SELECTOR);
    tally.expect(&[GENERAL_PROTECTION], attempt!("int 0x70"));
    let target = [0u32, u32::from(TASK_SELECTOR)];
    tally.expect(&[GENERAL_PROTECTION], attempt!("ljmp fword ptr [{0}]"; in(reg) &target));
    // CR4.OSXSAVE, without which XSETBV does not exist.
    let enabled = attempt!("mov {0}, cr4", "bts {0}, 18", "mov cr4, {0}"; out(reg) _);
    tally.expect(&[None], enabled);
    for (register, value) in [(0u32, 0u64), (0, 2), (0, 4), (0, 5), (0, u64::MAX), (1, 1), (0xffff_ffff, 1)] {
        let (low, high) = (value as u32, (value >> 32) as u32);
        let before = exits(ExitKind::Xsetbv);
        let got = attempt!("xsetbv"; in("rcx") register, in("rax") low, in("rdx") high);
        tally.expect(&[GENERAL_PROTECTION], got);
        tally.wrong += u64::from(exits(ExitKind::Xsetbv) != before + 1);
    }
    for priority in 0..16u64 {
        tally.expect(&[None], attempt!("mov cr8, {0}", "mov {0}, cr8"; inout(reg) priority => _));
    }
    tally.expect(&[None], attempt!("mov cr8, {}"; in(reg) 15u64));
    tally
}

/// Vector of the task gate, and the selector of the image's own task state.
const TASK_GATE: u8 = 0x70;
/// See [`TASK_GATE`].
const TASK_SELECTOR: u16 = 0x18;

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

/// MSRs that VMSAVE holds: a guest reads and writes them freely.
const OPEN: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102];
/// MSRs that a guest may read besides: TSC, APIC_BASE, PAT, parts of its x2APIC, EFER, TSC_AUX.
const READ: [u32; 13] =
    [0x10, 0x1b, 0x277, 0x802, 0x803, 0x808, 0x80f, 0x832, 0x838, 0x839, 0x83e, 0xc000_0080, 0xc000_0103];
/// MSRs some values of which it may write besides.
const WRITE: [u32; 11] = [0x1b, 0x277, 0x808, 0x80b, 0x80f, 0x832, 0x838, 0x83e, 0x83f, 0xc000_0080, 0xc000_0103];

/// Reads and writes every MSR of the architectural ranges with several values: all but those that a guest has are #GP.
pub fn every_msr() -> Tally {
    let mut tally = Tally::default();
    const REFUSED: &[Option<u8>] = &[GENERAL_PROTECTION];
    const HARMLESS: &[Option<u8>] = &[None, GENERAL_PROTECTION];
    for range in [0..0x2000u32, 0xc000_0000..0xc000_2000, 0xc001_0000..0xc001_2000, 0x4000_0000..0x4000_0100] {
        for msr in range {
            let readable = OPEN.contains(&msr) || READ.contains(&msr);
            tally.expect(if readable { &[None] } else { REFUSED }, read_msr(msr));
            // The guest's own bases are its own business, but it needs them to go on.
            if (0xc000_0100..=0xc000_0102).contains(&msr) {
                continue;
            }
            let writable = OPEN.contains(&msr) || WRITE.contains(&msr);
            for value in [0, 1, u64::MAX] {
                tally.expect(if writable { HARMLESS } else { REFUSED }, write_msr(msr, value));
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

/// Where string input would go.
struct Sink(core::cell::UnsafeCell<[u8; 8]>);
// SAFETY: the guest has one thread, and nothing is ever read.
unsafe impl Sync for Sink {}
static SINK: Sink = Sink(core::cell::UnsafeCell::new([0; 8]));

/// Every port, read and written.
pub fn every_port() -> Tally {
    let mut tally = Tally::default();
    for port in 0..=u16::MAX {
        tally.expect(&[GENERAL_PROTECTION], attempt!("in al, dx"; in("dx") port, out("al") _));
        tally.expect(&[GENERAL_PROTECTION], attempt!("out dx, al"; in("dx") port, in("al") 0xffu8));
    }
    // Wider accesses, and such that begin at the last port and would end behind it.
    for port in [0x60u16, 0x80, 0xcf8, 0xcfc, 0x3f8, 0xfffe, 0xffff] {
        tally.expect(&[GENERAL_PROTECTION], attempt!("in ax, dx"; in("dx") port, out("ax") _));
        tally.expect(&[GENERAL_PROTECTION], attempt!("in eax, dx"; in("dx") port, out("eax") _));
        tally.expect(&[GENERAL_PROTECTION], attempt!("out dx, eax"; in("dx") port, in("eax") 0xffff_ffffu32));
        tally.expect(
            &[GENERAL_PROTECTION],
            attempt!("rep insb"; in("dx") port, inout("rdi") SINK.0.get() => _, inout("rcx") 1u64 => _),
        );
        tally.expect(
            &[GENERAL_PROTECTION],
            attempt!("rep outsb"; in("dx") port, inout("rsi") SINK.0.get() => _, inout("rcx") 1u64 => _),
        );
    }
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
