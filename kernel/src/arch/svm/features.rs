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
}

/// Name of the hypervisor in leaf 0x4000_0000.
const NAME: [u32; 3] = [u32::from_le_bytes(*b"NonK"), u32::from_le_bytes(*b"erne"), u32::from_le_bytes(*b"lVMM")];

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
        Ok(Features { asids, next_rip: bits & 1 << 3 != 0, clean_bits: bits & 1 << 5 != 0, barrier })
    }

    /// CPUID as a guest sees it.
    pub fn guest_cpuid(&self, leaf: u32, subleaf: u32, osxsave: bool, xcr0: u64) -> [u32; 4] {
        /// SMX, VMX, MONITOR, PDCM, TSC deadline, OSXSAVE.
        const LEAF1_ECX_HIDDEN: u32 = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 24 | 1 << 27;
        const HYPERVISOR: u32 = 1 << 31;
        /// MCE, MTRR, MCA, DS, ACPI, TM.
        const LEAF1_EDX_HIDDEN: u32 = 1 << 7 | 1 << 12 | 1 << 14 | 1 << 21 | 1 << 22 | 1 << 29;
        /// WAITPKG, CET shadow stacks, supervisor protection keys.
        const LEAF7_ECX_HIDDEN: u32 = 1 << 5 | 1 << 7 | 1 << 31;
        /// CET indirect branch tracking and everything that is behind an MSR which guests don't have.
        const LEAF7_EDX_HIDDEN: u32 = 1 << 20 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31;
        /// SVM, OSVW, IBS, SKINIT, LWP, performance counters, MONITORX.
        const EXTENDED_ECX_HIDDEN: u32 =
            1 << 2 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 15 | 1 << 23 | 1 << 24 | 1 << 28 | 1 << 29;
        /// INVLPGB, RDPRU, MCOMMIT, WBNOINVD and speculation control.
        const SIZES_EBX_HIDDEN: u32 = 1 << 3 | 1 << 4 | 1 << 8 | 1 << 9 | 0xfff << 12;
        /// XSAVEC, XSAVES.
        const XSAVE_EXTENSIONS_HIDDEN: u32 = 1 << 1 | 1 << 3;
        let mut answer = cpuid(leaf, subleaf);
        let [eax, ebx, ecx, edx] = &mut answer;
        match leaf {
            1 => {
                *ecx = *ecx & !LEAF1_ECX_HIDDEN | HYPERVISOR | u32::from(osxsave) << 27;
                *edx &= !LEAF1_EDX_HIDDEN;
            }
            // Monitor, thermal and power, performance counters.
            5 | 6 | 0xa => answer = [0; 4],
            7 if subleaf == 0 => {
                *ecx &= !LEAF7_ECX_HIDDEN;
                *edx &= !LEAF7_EDX_HIDDEN;
            }
            0xd => match subleaf {
                0 => {
                    (*eax, *edx) = (xcr0 as u32, (xcr0 >> 32) as u32);
                    *ecx = extended_bytes(xcr0) as u32;
                }
                1 => {
                    *eax &= !XSAVE_EXTENSIONS_HIDDEN;
                    (*ebx, *ecx, *edx) = (0, 0, 0);
                }
                component if component < 64 && xcr0 >> component & 1 != 0 => {}
                _ => answer = [0; 4],
            },
            0x4000_0000 => answer = [0x4000_0000, NAME[0], NAME[1], NAME[2]],
            0x4000_0001..=0x4fff_ffff => answer = [0; 4],
            0x8000_0001 => {
                *ecx &= !EXTENDED_ECX_HIDDEN;
                *edx &= !(LEAF1_EDX_HIDDEN & 0xffff);
            }
            0x8000_0008 => *ebx &= !SIZES_EBX_HIDDEN,
            0x8000_000a | 0x8000_001b | 0x8000_001c | 0x8000_001f | 0x8000_0022 => answer = [0; 4],
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
