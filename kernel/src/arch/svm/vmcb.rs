//! The virtual machine control block (APM volume 2, appendix B), under the manual's names.
//!
//! It is memory that the processor reads at VMRUN and writes at #VMEXIT; between the two nobody else does, so Rust may
//! hold references to it.

use bitflags::bitflags;
use core::mem::offset_of;

bitflags! {
    /// VMCB parts that have not changed since the last VMRUN (appendix B, clean field): those of which the kernel changes
    /// something by name, and all others.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(transparent)]
    pub struct Clean: u32 {
        /// Intercepts, TSC offset.
        const INTERCEPTS = 1 << 0;
        /// IOPM and MSRPM base.
        const PERMISSION_MAPS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// Nested CR3, PAT.
        const NESTED = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        const _ = (1 << 13) - 1;
    }
}

/// TLB_CONTROL: flush every ASID at this VMRUN.
pub const FLUSH_ALL: u32 = 1;

/// The exit code of a VMRUN that has refused the guest's state and done nothing, its low half.
pub const REFUSED: u32 = u32::MAX;

/// Bit of EVENTINJ and EXITINTINFO: there is an error code.
pub const EVENT_ERROR: u64 = 1 << 11;
/// Bit of EVENTINJ and EXITINTINFO: valid.
pub const EVENT_VALID: u64 = 1 << 31;
/// Type field of EVENTINJ and EXITINTINFO.
pub const EVENT_TYPE: u64 = 7 << 8;
/// Type of an event: exception.
pub const EVENT_EXCEPTION: u64 = 3 << 8;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes: bits 40 to 47 and 52 to 55 of the descriptor, packed.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// Control area, as far as it is used.
#[derive(Default)]
#[repr(C)]
pub struct Control {
    /// CR reads in the low half, writes in the high.
    pub intercept_cr: u32,
    /// DR reads in the low half, writes in the high.
    pub intercept_dr: u32,
    /// Exceptions, then instructions.
    pub intercepts: [u32; 4],
    pub(super) _reserved0: [u64; 5],
    /// I/O permission map.
    pub iopm_base_pa: u64,
    /// MSR permission map.
    pub msrpm_base_pa: u64,
    /// Added to the TSC.
    pub tsc_offset: u64,
    /// Address-space number.
    pub guest_asid: u32,
    /// What to flush at VMRUN.
    pub tlb_control: u32,
    /// Virtual interrupt control.
    pub int_ctl: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// Why the guest was left.
    pub exit_code: u64,
    /// First detail of the exit.
    pub exit_info1: u64,
    /// Second detail.
    pub exit_info2: u64,
    /// The event whose delivery the exit cut off.
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_enable: u64,
    pub(super) _reserved1: [u64; 2],
    /// The event to inject at VMRUN.
    pub event_inj: u64,
    /// Nested page table root.
    pub nested_cr3: u64,
    /// Last-branch virtualization, virtual VMLOAD and VMSAVE.
    pub lbr_control: u64,
    /// What has not changed.
    pub clean: Clean,
    pub(super) _reserved2: u32,
    /// Next instruction, where the CPU has NRIPS.
    pub next_rip: u64,
}

/// State save area, as far as it is used.
#[derive(Default)]
#[repr(C)]
pub struct Save {
    /// Segment registers in the order of their encoding: ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Global descriptor table.
    pub gdtr: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Interrupt descriptor table.
    pub idtr: Segment,
    /// Task register.
    pub tr: Segment,
    pub(super) _reserved0: [u64; 5],
    pub(super) _reserved1: [u8; 3],
    /// Current privilege level.
    pub cpl: u8,
    pub(super) _reserved2: u32,
    /// Extended features.
    pub efer: u64,
    pub(super) _reserved3: [u64; 14],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    pub(super) _reserved4: [u64; 11],
    /// RSP.
    pub rsp: u64,
    pub(super) _reserved5: [u64; 3],
    /// RAX.
    pub rax: u64,
    /// MSRs that VMLOAD and VMSAVE switch: STAR to SYSENTER_EIP.
    pub(super) _vmsave: [u64; 8],
    /// CR2.
    pub cr2: u64,
    pub(super) _reserved6: [u64; 4],
    /// Page attribute table.
    pub g_pat: u64,
}

/// The whole block: one page.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// Control area.
    pub control: Control,
    _reserved0: [u8; 0x400 - size_of::<Control>()],
    /// State save area.
    pub save: Save,
    _reserved1: [u8; 0xc00 - size_of::<Save>()],
}

/// Index of a segment in [`Save::segments`].
pub mod segment {
    /// CS.
    pub const CS: usize = 1;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Control, iopm_base_pa) == 0x40);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, event_inj) == 0xa8);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, g_pat) == 0x268);
};
