//! What makes a guest exit, on the host: the file of the back end that holds it, unchanged, against a list written out by
//! hand from APM volume 2, appendix C. Some of it the emulator does not know, so no machine test sees it.
#![allow(dead_code, missing_docs)]

#[path = "../src/arch/svm/exit.rs"]
mod exit;
#[path = "../src/arch/svm/vmcb.rs"]
mod vmcb;

use exit::{Exit, INTERCEPTS};

/// Exit codes that the intercepts must have: first, last, the manual's name without VMEXIT_, and what it is.
const WANTED: &[(u32, u32, &str, &str)] = &[
    (0x20, 0x23, "DR0_READ to DR3_READ", "MOV from a register that is loaded when it is first used"),
    (0x30, 0x33, "DR0_WRITE to DR3_WRITE", "MOV to one"),
    (0x41, 0x41, "EXCP1", "#DB, by which a guest can keep a core busy without end"),
    (0x51, 0x51, "EXCP17", "#AC, likewise"),
    (0x52, 0x52, "EXCP18", "#MC, the machine's"),
    (0x61, 0x61, "NMI", "by which the kernel takes a core back"),
    (0x63, 0x63, "INIT", "resets the core"),
    (0x6f, 0x6f, "RDPMC", "reads counters of the core"),
    (0x72, 0x72, "CPUID", "what the kernel says that there is"),
    (0x73, 0x73, "RSM", "leaves system management mode"),
    (0x76, 0x76, "INVD", "drops what others have written"),
    (0x7a, 0x7a, "INVLPGA", "flushes another address space"),
    (0x7b, 0x7b, "IOIO", "IN and OUT"),
    (0x7c, 0x7c, "MSR", "RDMSR and WRMSR"),
    (0x7d, 0x7d, "TASK_SWITCH", "through a task gate or segment"),
    (0x7f, 0x7f, "SHUTDOWN", "resets the machine"),
    (0x80, 0x80, "VMRUN", "starts a guest of one's own; without this intercept VMRUN refuses every state"),
    (0x81, 0x81, "VMMCALL", "calls the kernel"),
    (0x82, 0x82, "VMLOAD", "reads physical memory"),
    (0x83, 0x83, "VMSAVE", "writes physical memory"),
    (0x84, 0x84, "STGI", "enables interrupts of the machine"),
    (0x85, 0x85, "CLGI", "disables them, NMIs too"),
    (0x86, 0x86, "SKINIT", "starts another kernel"),
    (0x89, 0x89, "WBINVD", "writes back the caches of all"),
    (0x8a, 0x8a, "MONITOR", "watches an address"),
    (0x8b, 0x8b, "MWAIT", "sleeps, whether or not a watch is armed"),
    (0x8c, 0x8c, "MWAIT_CONDITIONAL", "sleeps if a watch is armed"),
    (0x8d, 0x8d, "XSETBV", "what extended state there is to switch"),
    (0x8e, 0x8e, "RDPRU", "reads counters of the core"),
    (0xa0, 0xa0, "INVLPGB", "flushes other cores"),
    (0xa1, 0xa1, "INVLPGB_ILLEGAL", "likewise, by an illegal operand"),
    (0xa3, 0xa3, "MCOMMIT", "waits for memory errors"),
    (0xa4, 0xa4, "TLBSYNC", "waits for other cores"),
];

/// Whether an exit with this code can happen.
fn is_intercepted(code: u32) -> bool {
    INTERCEPTS[code as usize / 32] >> (code % 32) & 1 != 0
}

#[test]
fn what_is_listed_is_intercepted_and_nothing_else() {
    for code in 0..INTERCEPTS.len() as u32 * 32 {
        let wanted = WANTED.iter().find(|&&(first, last, ..)| (first..=last).contains(&code));
        assert_eq!(is_intercepted(code), wanted.is_some(), "exit code {code:#x}: {wanted:?}");
    }
}

#[test]
fn the_list_is_in_order_so_that_nothing_is_in_it_twice() {
    assert!(WANTED.iter().all(|&(first, last, ..)| first <= last));
    assert!(WANTED.windows(2).all(|pair| pair[0].1 < pair[1].0));
}

/// Where each word lies in the control block (appendix B): the codes count from its first byte.
#[test]
fn an_exit_code_is_the_number_of_its_bit_in_the_control_block() {
    use core::mem::offset_of;
    assert_eq!(offset_of!(vmcb::Control, intercept_cr), 0);
    assert_eq!(offset_of!(vmcb::Control, intercept_dr), 4);
    assert_eq!(offset_of!(vmcb::Control, intercepts), 8);
    assert_eq!(size_of::<[u32; 4]>() + 8, size_of_val(&INTERCEPTS));
}

#[test]
fn what_guests_may_do_with_the_kernels_help_is_told_from_what_they_may_not() {
    let decoded = [
        (0x20, Exit::DebugRegister),
        (0x33, Exit::DebugRegister),
        (0x41, Exit::Exception(1)),
        (0x51, Exit::Exception(17)),
        (0x52, Exit::Exception(18)),
        (0x61, Exit::Nmi),
        (0x63, Exit::Init),
        (0x72, Exit::Cpuid),
        (0x7b, Exit::Port),
        (0x7c, Exit::Msr),
        (0x7f, Exit::Shutdown),
        (0x81, Exit::Vmmcall),
        (0x8d, Exit::Xsetbv),
        (0x400, Exit::NestedFault),
        (u64::MAX, Exit::Invalid),
    ];
    for (code, exit) in decoded {
        assert_eq!(Exit::decode(code), exit);
    }
    let told = |code| decoded.iter().any(|&(other, _)| other == u64::from(code));
    for &(first, _, name, _) in WANTED.iter().filter(|&&(first, ..)| !told(first) && first > 0x33) {
        assert_eq!(Exit::decode(first.into()), Exit::Instruction(first), "{name}");
    }
}
