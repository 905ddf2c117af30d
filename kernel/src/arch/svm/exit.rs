//! Why a guest was left: the exit codes of APM volume 2, appendix C, as far as the kernel intercepts them, and from them
//! the intercepts.

use super::vmcb::REFUSED;

/// The code of a VMMCALL exit.
pub const VMMCALL: u32 = 0x81;

/// The code of a nested page fault.
pub const NESTED_FAULT: u32 = 0x400;

/// An exit. Codes that the kernel does not ask for are kept, not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// MOV to or from a debug register.
    DebugRegister,
    /// An intercepted exception with this vector.
    Exception(u8),
    /// NMI: still pending, taken at the next window.
    Nmi,
    /// INIT.
    Init,
    /// CPUID.
    Cpuid,
    /// IN or OUT.
    Port,
    /// RDMSR or WRMSR.
    Msr,
    /// Shutdown.
    Shutdown,
    /// VMMCALL.
    Vmmcall,
    /// XSETBV.
    Xsetbv,
    /// An instruction that guests don't have; the code.
    Instruction(u32),
    /// Nested page fault.
    NestedFault,
    /// VMRUN refused the state.
    Invalid,
    /// Anything else; the code.
    Other(u32),
}

impl Exit {
    /// The meaning of an exit code. Only the low half counts: processors and emulators differ in the high one.
    #[inline]
    pub const fn decode(code: u64) -> Exit {
        match code as u32 {
            VMMCALL => Exit::Vmmcall,
            0x61 => Exit::Nmi,
            NESTED_FAULT => Exit::NestedFault,
            // #DB, #AC, #MC.
            code @ (0x41 | 0x51 | 0x52) => Exit::Exception((code - 0x40) as u8),
            // Reads and writes of DR0 to DR3.
            0x20..=0x23 | 0x30..=0x33 => Exit::DebugRegister,
            0x63 => Exit::Init,
            0x72 => Exit::Cpuid,
            0x7b => Exit::Port,
            0x7c => Exit::Msr,
            0x7f => Exit::Shutdown,
            0x8d => Exit::Xsetbv,
            // RDPMC, RSM, INVD, INVLPGA, task switch.
            code @ (0x6f | 0x73 | 0x76 | 0x7a | 0x7d) => Exit::Instruction(code),
            // VMRUN, VMLOAD to SKINIT, WBINVD to MWAIT, RDPRU.
            code @ (0x80 | 0x82..=0x86 | 0x89..=0x8c | 0x8e) => Exit::Instruction(code),
            // INVLPGB, legal or not, MCOMMIT, TLBSYNC.
            code @ (0xa0 | 0xa1 | 0xa3 | 0xa4) => Exit::Instruction(code),
            REFUSED => Exit::Invalid,
            code => Exit::Other(code),
        }
    }
}

/// The intercept words of a control block: for CR, DR, exceptions, and three of instructions. Exit code `n` is bit
/// `n % 32` of word `n / 32`, and what [`Exit::decode`] knows is intercepted, nothing else.
pub const INTERCEPTS: [u32; 6] = {
    let mut words = [0; 6];
    let mut code = 0;
    while code < 6 * 32 {
        if !matches!(Exit::decode(code), Exit::Other(_)) {
            words[code as usize / 32] |= 1 << (code % 32);
        }
        code += 1;
    }
    words
};

/// Lengths of intercepted instructions without NRIPS. A prefix that a guest puts before one is not skipped: it then
/// executes the rest of its own instruction again, which harms nobody else.
pub mod length {
    /// XSETBV.
    pub const XSETBV: u64 = 3;
    /// CPUID.
    pub const CPUID: u64 = 2;
    /// RDMSR and WRMSR.
    pub const MSR: u64 = 2;
}
