//! What the processor has, and what of it guests see.

use super::emulate::supported_xcr0;
use super::state::XSAVE_BYTES;
use crate::arch::cpu::{Msr, cpuid, rdmsr};

/// SVM as this processor has it.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Address-space numbers, the host's included.
    pub asids: u32,
    /// The next instruction's address is in the control block.
    pub next_rip: bool,
    /// The clean field is looked at.
    pub clean_bits: bool,
    /// Indirect branch prediction barrier.
    pub barrier: bool,
    /// EFER bits that a guest may change: SCE, NXE, and FFXSR where the processor has it. VMRUN refuses other ones.
    pub efer: u64,
}

/// Name of the hypervisor in leaf 0x4000_0000.
const NAME: [u32; 3] = [u32::from_le_bytes(*b"NonK"), u32::from_le_bytes(*b"erne"), u32::from_le_bytes(*b"lVMM")];

/// A word with these bits.
const fn bits(mut list: &[u32]) -> u32 {
    let mut word = 0;
    while let [bit, rest @ ..] = list {
        word |= 1 << *bit;
        list = rest;
    }
    word
}

/// XSAVEC, XSAVES: bits of leaf 13, subleaf 1.
const XSAVE_EXTENSIONS_HIDDEN: u32 = bits(&[1, 3]);

/// What a leaf shows of the processor that guests don't have: bits of eax, ebx, ecx and edx.
const HIDDEN: [(u32, [u32; 4]); 12] = [
    // SMX, VMX, MONITOR, PDCM, TSC deadline, OSXSAVE; MCE, MTRR, MCA, DS, ACPI, TM.
    (1, [0, 0, bits(&[3, 5, 6, 15, 24, 27]), bits(&[7, 12, 14, 21, 22, 29])]),
    // Monitor, thermal and power, performance counters.
    (5, [!0; 4]),
    (6, [!0; 4]),
    (0xa, [!0; 4]),
    // WAITPKG, CET shadow stacks, supervisor protection keys; CET indirect branch tracking and everything that is behind
    // an MSR which guests don't have.
    (7, [0, 0, bits(&[5, 7, 31]), bits(&[20, 26, 27, 28, 29, 30, 31])]),
    // SVM, OSVW, IBS, SKINIT, LWP, performance counters, MONITORX; MCE, MTRR, MCA.
    (0x8000_0001, [0, 0, bits(&[2, 9, 10, 12, 15, 23, 24, 28, 29]), bits(&[7, 12, 14])]),
    // INVLPGB, RDPRU, MCOMMIT, WBNOINVD and speculation control.
    (0x8000_0008, [0, bits(&[3, 4, 8, 9]) | 0xfff << 12, 0, 0]),
    // SVM, instruction-based sampling, lightweight profiling, memory encryption, extended performance monitoring.
    (0x8000_000a, [!0; 4]),
    (0x8000_001b, [!0; 4]),
    (0x8000_001c, [!0; 4]),
    (0x8000_001f, [!0; 4]),
    (0x8000_0022, [!0; 4]),
];

impl core::fmt::Display for Features {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "SVM: {} ASIDs, next RIP {}, clean bits {}", self.asids, self.next_rip, self.clean_bits)
    }
}

impl Features {
    /// Looks at the processor.
    ///
    /// # Errors
    /// Why guests can't run here.
    pub fn detect() -> Result<Features, &'static str> {
        const SVM: u32 = 1 << 2;
        const SVM_DISABLED: u64 = 1 << 4;
        const XSAVE: u32 = 1 << 26;
        if cpuid(0x8000_0000, 0)[0] < 0x8000_000a || cpuid(0x8000_0001, 0)[2] & SVM == 0 {
            return Err("the processor has no SVM");
        }
        if rdmsr(Msr::VM_CR) & SVM_DISABLED != 0 {
            return Err("firmware turned SVM off");
        }
        let [_, asids, _, bits] = cpuid(0x8000_000a, 0);
        if bits & 1 == 0 {
            return Err("the processor has no nested paging");
        }
        if cpuid(1, 0)[2] & XSAVE == 0 || extended_bytes(supported_xcr0()) > XSAVE_BYTES {
            return Err("the processor has no XSAVE, or a state that does not fit");
        }
        let barrier = cpuid(0x8000_0008, 0)[1] & 1 << 12 != 0;
        let fast_save = u64::from(cpuid(0x8000_0001, 0)[3] >> 25 & 1);
        let efer = 1 << 0 | 1 << 11 | fast_save << 14;
        Ok(Features { asids, next_rip: bits & 1 << 3 != 0, clean_bits: bits & 1 << 5 != 0, barrier, efer })
    }

    /// CPUID as a guest sees it.
    pub fn guest_cpuid(&self, leaf: u32, subleaf: u32, osxsave: bool, xcr0: u64) -> [u32; 4] {
        const HYPERVISOR: u32 = 1 << 31;
        let mut answer = cpuid(leaf, subleaf);
        for (_, hidden) in HIDDEN.iter().filter(|(hiding, _)| *hiding == leaf) {
            answer.iter_mut().zip(hidden).for_each(|(word, hidden)| *word &= !hidden);
        }
        match (leaf, subleaf) {
            (1, _) => answer[2] |= HYPERVISOR | u32::from(osxsave) << 27,
            (0xd, 0) => answer = [xcr0 as u32, answer[1], extended_bytes(xcr0) as u32, (xcr0 >> 32) as u32],
            (0xd, 1) => answer = [answer[0] & !XSAVE_EXTENSIONS_HIDDEN, 0, 0, 0],
            (0xd, component) if component < 64 && xcr0 >> component & 1 != 0 => {}
            (0x4000_0000, _) => answer = [0x4000_0000, NAME[0], NAME[1], NAME[2]],
            (0xd | 0x4000_0001..=0x4fff_ffff, _) => answer = [0; 4],
            _ => {}
        }
        answer
    }
}

/// Bytes of the standard XSAVE format for these components.
fn extended_bytes(xcr0: u64) -> usize {
    /// Legacy area and header.
    const FIXED: usize = 576;
    (2..63)
        .filter(|component| xcr0 >> component & 1 != 0)
        .map(|component| {
            let [bytes, offset, _, _] = cpuid(0xd, component);
            (bytes + offset) as usize
        })
        .fold(FIXED, usize::max)
}
