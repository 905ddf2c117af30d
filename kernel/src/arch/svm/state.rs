//! What the back end keeps of a Vcpu: general registers, extended state, debug registers, its timer, what it is owed.
//! It lies in the Vcpu object, in page 0 behind the core's header; the control block is page 1.

use super::exit::INTERCEPTS;
use super::permission;
use super::vmcb::{Clean, Control, Save, Segment, Vmcb, segment};
use cap_spec::abi::{Register, handler_page};
use kernel::Call;
use kernel::protocol::pending::Pending;
use kernel::types::{Hpa, VcpuId};
use kernel::vcpu::BACK_END_OFFSET;

/// Bytes of the extended state: legacy area, header, AVX, and PKRU at its largest offset.
pub const XSAVE_BYTES: usize = 2752;

/// The XSAVE header in it (APM volume 2, 11.5.2).
const XSAVE_HEADER: core::ops::Range<usize> = 512..576;

/// Registers and more of a Vcpu that does not run.
#[repr(C, align(64))]
pub struct Saved {
    /// General registers; RSP and, but for a hypercall, RAX are in the control block.
    pub registers: Registers,
    /// Physical address of the control block.
    pub vmcb_pa: u64,
    /// Events that it is owed.
    pub pending: Pending,
    /// `pending` may hold something.
    pub owed: bool,
    /// DR0 to DR3 while it is out.
    pub debug: [u64; 4],
    /// It has touched DR0 to DR3: they are switched from then on.
    pub debug_used: bool,
    /// Its XCR0, TSC_AUX, DR0 to DR3 or timer are not as after reset: they are looked at when it is switched.
    pub special: bool,
    /// The core's interrupt controller may hold something of it: it has been given a vector, or has asked for one.
    pub interrupts: bool,
    /// Initial counts that it has written since it last asked for the current count, as far as seen.
    pub counts_written: u8,
    /// XCR0 as it set it.
    pub xcr0: u64,
    /// TSC_AUX.
    pub tsc_aux: u64,
    /// Task priority (CR8) while it is out.
    pub task_priority: u64,
    /// LVT timer word: vector and mask.
    pub timer_lvt: u32,
    /// Divide configuration of the timer.
    pub timer_divide: u32,
    /// TSC at which the timer expires, 0 while it is not armed.
    pub timer_due: u64,
    /// Extended state in the standard XSAVE format.
    xsave: ExtendedState,
}

/// Extended state, aligned as XSAVE wants it.
#[repr(C, align(64))]
struct ExtendedState([u8; XSAVE_BYTES]);

impl Saved {
    /// Address of the extended state.
    #[inline(always)]
    pub fn xsave_area(&self) -> u64 {
        self.xsave.0.as_ptr() as u64
    }
}

const _: () = {
    assert!(size_of::<Saved>() + BACK_END_OFFSET <= 4096);
    assert!(BACK_END_OFFSET.is_multiple_of(align_of::<Saved>()));
};

impl Saved {
    /// A vector has arrived for it: it gets it at the next entry, as soon as it can take it.
    pub fn raise(&mut self, vector: u8) {
        self.pending.raise(vector);
        self.owe();
    }

    /// `pending` holds something, which may go through the core's interrupt controller.
    #[inline]
    pub fn owe(&mut self) {
        self.owed = true;
        self.interrupts = true;
    }
}

/// General registers of a guest. Those that a hypercall uses come first, as the core wants to read them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// RDI; RAX, which is copied here for a hypercall only; RSI, RDX, R10, R8, R9.
    pub call: Call,
    /// RCX.
    pub rcx: u64,
    /// RBX.
    pub rbx: u64,
    /// RBP.
    pub rbp: u64,
    /// R11 to R15.
    pub r11_to_r15: [u64; 5],
}

impl Registers {
    /// RSI and RDX, in which results are returned.
    #[inline(always)]
    pub fn set_results(&mut self, results: [u64; 2]) {
        [self.call.args[0], self.call.args[1]] = results;
    }

    /// RDX.
    pub fn rdx(&mut self) -> &mut u64 {
        &mut self.call.args[1]
    }
}

/// Where a register that [`Registers`] or the control block holds is, to read it or set it.
pub fn register_of<'a>(saved: &'a mut Saved, vmcb: &'a mut Vmcb, register: Register) -> &'a mut u64 {
    let save = &mut vmcb.save;
    match register {
        Register::Rax => &mut save.rax,
        Register::Rsp => &mut save.rsp,
        Register::Rip => &mut save.rip,
        Register::Rflags => &mut save.rflags,
        Register::Cr3 => &mut save.cr3,
        Register::FsBase => &mut save.segments[segment::FS].base,
        Register::GsBase => &mut save.segments[segment::GS].base,
        Register::Rcx => &mut saved.registers.rcx,
        Register::Rbx => &mut saved.registers.rbx,
        Register::Rbp => &mut saved.registers.rbp,
        Register::Rdi => &mut saved.registers.call.cap,
        Register::Rsi => &mut saved.registers.call.args[0],
        Register::Rdx => &mut saved.registers.call.args[1],
        Register::R10 => &mut saved.registers.call.args[2],
        Register::R8 => &mut saved.registers.call.args[3],
        Register::R9 => &mut saved.registers.call.args[4],
        Register::R11 => &mut saved.registers.r11_to_r15[0],
        Register::R12 => &mut saved.registers.r11_to_r15[1],
        Register::R13 => &mut saved.registers.r11_to_r15[2],
        Register::R14 => &mut saved.registers.r11_to_r15[3],
        Register::R15 => &mut saved.registers.r11_to_r15[4],
    }
}

/// EFER: SVM enable. Set while a guest runs, never shown to it.
pub const EFER_SVME: u64 = 1 << 12;
/// EFER of a new Vcpu: LME, LMA, NXE.
const EFER_START: u64 = 1 << 8 | 1 << 10 | 1 << 11 | EFER_SVME;
/// CR0 of a new Vcpu: PG, WP, NE, ET, MP, PE.
const CR0_START: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
/// CR4 of a new Vcpu: PAE, MCE, OSFXSR, OSXMMEXCPT. Without MCE a machine check while the guest runs would be a shutdown,
/// and be told as the guest's own.
const CR4_START: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
/// MXCSR after reset.
const MXCSR_START: u32 = 0x1f80;
/// PAT after reset.
const PAT_START: u64 = 0x0007_0406_0007_0406;
/// DR0 to DR3, reads and writes.
pub const ALL_DEBUG_ADDRESSES: u32 = INTERCEPTS[1];

/// The saved state and the control block of a Vcpu.
///
/// # Safety
/// It is a live Vcpu that is current on this core, or the caller holds the kernel lock and it is current on none. What is
/// returned is not used after the kernel was, which may have reached the same Vcpu: it is fetched anew then.
#[inline(always)]
pub unsafe fn guest_of<'a>(vcpu: VcpuId) -> (&'a mut Saved, &'a mut Vmcb) {
    let saved = vcpu.address().plus(BACK_END_OFFSET as u64).get() as *mut Saved;
    let vmcb = vcpu.address().plus(4096).get() as *mut Vmcb;
    // SAFETY: both lie in the object, behind its header and in different pages; as the caller keeps to what is said
    // above, nobody else refers to either.
    unsafe { (&mut *saved, &mut *vmcb) }
}

// ---- what the kernel does with a Vcpu that is current on no core, under its lock ---------------------------------------

/// Puts a Vcpu into its initial state, with this root of its nested page tables.
///
/// # Safety
/// As for [`guest_of`].
pub unsafe fn init_vcpu(vcpu: VcpuId, root: Hpa) {
    // SAFETY: the caller's.
    let (saved, vmcb) = unsafe { guest_of(vcpu) };
    init(saved, vmcb, root, super::emulate::supported_xcr0());
}

/// Sets a register to a legal value.
///
/// # Safety
/// As for [`guest_of`].
pub unsafe fn set_register(vcpu: VcpuId, register: Register, value: u64) {
    // SAFETY: the caller's.
    let (saved, vmcb) = unsafe { guest_of(vcpu) };
    vmcb.control.clean = Clean::empty();
    *register_of(saved, vmcb, register) = value;
}

/// Reads a register.
///
/// # Safety
/// As for [`guest_of`].
pub unsafe fn register(vcpu: VcpuId, register: Register) -> u64 {
    // SAFETY: the caller's.
    let (saved, vmcb) = unsafe { guest_of(vcpu) };
    *register_of(saved, vmcb, register)
}

/// Puts the results of a successful hypercall into its registers.
///
/// # Safety
/// As for [`guest_of`].
pub unsafe fn set_results(vcpu: VcpuId, results: [u64; 2]) {
    // SAFETY: the caller's.
    let (saved, vmcb) = unsafe { guest_of(vcpu) };
    vmcb.save.rax = 0;
    saved.registers.set_results(results);
}

/// A vector has arrived for it.
///
/// # Safety
/// As for [`guest_of`].
pub unsafe fn raise(vcpu: VcpuId, vector: u8) {
    // SAFETY: the caller's.
    unsafe { guest_of(vcpu) }.0.raise(vector);
}

/// It has an interrupt route: vectors of its own may be in its core's interrupt controller.
///
/// # Safety
/// As for [`guest_of`].
pub unsafe fn has_route(vcpu: VcpuId) {
    // SAFETY: the caller's.
    unsafe { guest_of(vcpu) }.0.interrupts = true;
}

/// What a Vcpu that stopped by itself tells its handler: registers in the order of [`Register`], then CR0, CR2, CR4 and
/// EFER as the guest knows it.
pub fn handler_words(saved: &mut Saved, vmcb: &mut Vmcb) -> [u64; handler_page::REGISTER_WORDS] {
    let mut words = [0; handler_page::REGISTER_WORDS];
    for (word, &register) in words.iter_mut().zip(Register::ALL) {
        *word = *register_of(saved, vmcb, register);
    }
    let save = &vmcb.save;
    words[Register::ALL.len()..].copy_from_slice(&[save.cr0, save.cr2, save.cr4, save.efer & !EFER_SVME]);
    words
}

/// Puts both into the initial state: 64-bit mode, interrupts off, everything intercepted that a guest must not do.
pub fn init(saved: &mut Saved, vmcb: &mut Vmcb, nested_root: Hpa, xcr0: u64) {
    saved.registers = Registers::default();
    saved.vmcb_pa = core::ptr::from_ref(vmcb) as u64;
    saved.pending = Pending::NONE;
    saved.owed = false;
    saved.debug = [0; 4];
    saved.debug_used = false;
    saved.counts_written = 0;
    saved.special = false;
    saved.interrupts = false;
    saved.xcr0 = xcr0;
    saved.tsc_aux = 0;
    saved.task_priority = 0;
    saved.timer_lvt = crate::arch::apic::LVT_MASKED as u32;
    saved.timer_divide = 0;
    saved.timer_due = 0;
    // With an empty header XRSTOR gives every component its initial state, whatever lies in the area, but for MXCSR.
    saved.xsave.0[XSAVE_HEADER].fill(0);
    saved.xsave.0[24..28].copy_from_slice(&MXCSR_START.to_le_bytes());

    let [intercept_cr, intercept_dr, intercepts @ ..] = INTERCEPTS;
    vmcb.control = Control {
        intercept_cr,
        intercept_dr,
        intercepts,
        iopm_base_pa: permission::iopm(),
        msrpm_base_pa: permission::msrpm(false),
        nested_enable: 1,
        nested_cr3: nested_root.get(),
        ..Control::default()
    };
    const DATA: Segment = Segment { selector: 0x10, attributes: 0xc93, limit: u32::MAX, base: 0 };
    const CODE: Segment = Segment { selector: 0x08, attributes: 0xa9b, limit: u32::MAX, base: 0 };
    vmcb.save = Save {
        segments: [DATA; 6],
        ldtr: Segment { attributes: 0x82, ..Segment::default() },
        tr: Segment { attributes: 0x8b, limit: 0x67, ..Segment::default() },
        efer: EFER_START,
        cr0: CR0_START,
        cr4: CR4_START,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        rflags: 2,
        g_pat: PAT_START,
        ..Save::default()
    };
    vmcb.save.segments[segment::CS] = CODE;
}
