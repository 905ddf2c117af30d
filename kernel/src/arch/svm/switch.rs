//! Everything that is switched when another VM gets a core, beyond what VMRUN itself switches: VMLOAD/VMSAVE state,
//! extended state, DR0 to DR3, TSC_AUX, task priority, timer, interrupts in service and requested.
//!
//! Done only when the Vcpu on a core really changes: [`load`] and [`unload`] come in pairs, and between them the core's
//! registers hold the state.

use super::permission;
use super::state::{ALL_DEBUG_ADDRESSES, Saved};
use super::vmcb::{Clean, Vmcb};
use crate::arch::core_area::Core;
use crate::arch::cpu::{self, Msr, rdmsr, rdtsc, wrmsr};
use crate::arch::{apic, interrupts};
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use kernel::apic_timer::TimerScale;

/// How far, in ticks, the time computed for an expiry may differ from the hardware's: within it the vector is raised
/// again, and the guest may see it twice.
const TIMER_SLACK: u64 = 2_000;

/// What a core's registers hold that is cheaper to compare than to write.
pub struct Loaded {
    /// XCR0 now.
    xcr0: u64,
    /// TSC_AUX now.
    tsc_aux: u64,
    /// The timer's registers are the loaded Vcpu's.
    timer: bool,
    /// Address of the state that was loaded last.
    last: u64,
    /// A Vcpu's state is loaded and has not been taken out.
    live: bool,
    /// Several Vcpus have been loaded here: timers are watched, as they must be switched.
    shared: bool,
}

/// What does not change after boot.
#[derive(Clone, Copy)]
pub struct Constants {
    /// All that a guest may enable in XCR0.
    pub xcr0: u64,
    /// How fast the APIC timer counts.
    pub timer: TimerScale,
    /// The processor has the indirect branch prediction barrier.
    pub barrier: bool,
}

impl Loaded {
    /// A core after boot: XCR0 as `boot` set it, TSC_AUX 0, no timer.
    pub const fn new(xcr0: u64) -> Loaded {
        Loaded { xcr0, tsc_aux: 0, timer: false, live: false, last: 0, shared: false }
    }

    /// True if this core holds the state of a Vcpu.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Forgets the state of a Vcpu that does not exist any more: nothing of it reaches who comes next.
    #[cold]
    pub fn discard(&mut self, core: &Core, constants: &Constants) {
        self.live = false;
        cpu::set_cr8(0);
        self.set_xcr0(constants.xcr0);
        self.set_tsc_aux(0);
        clear_debug();
        apic::set_timer(apic::LVT_MASKED, 0, 0);
        self.timer = false;
        apic::end_all();
        interrupts::drain();
        core.forget_drained();
    }

    /// True if several Vcpus have shared this core.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Loads a Vcpu's state into this core, which holds nobody's.
    #[inline]
    pub fn load(&mut self, saved: &mut Saved, vmcb: &mut Vmcb, constants: &Constants) {
        self.live = true;
        if !self.shared {
            let address = core::ptr::from_ref(saved) as u64;
            self.shared = self.last != 0 && self.last != address;
            self.last = address;
        }
        // The block may have run on another core since: nothing that this core remembers of it is good.
        vmcb.control.clean = Clean::empty();
        // SAFETY: the control block is a whole VMCB; VMLOAD reads FS, GS, TR, LDTR and MSRs that the kernel never uses.
        unsafe { asm!("vmload rax", in("rax") saved.vmcb_pa, options(nostack, readonly)) };
        restore_extended(saved);
        if saved.task_priority != 0 {
            cpu::set_cr8(saved.task_priority);
        }
        if saved.special {
            self.load_special(saved, constants);
        }
        if constants.barrier {
            predict_anew();
        }
    }

    /// Takes a Vcpu's state out of this core, but for its interrupts ([`take_interrupts`]).
    #[inline]
    pub fn unload(&mut self, saved: &mut Saved, vmcb: &mut Vmcb, constants: &Constants) {
        self.live = false;
        // SAFETY: the control block is a whole VMCB in RAM that this Vcpu owns.
        unsafe { asm!("vmsave rax", in("rax") saved.vmcb_pa, options(nostack)) };
        if saved.special {
            self.unload_special(saved, vmcb, constants);
        }
        save_extended(saved);
        saved.task_priority = cpu::cr8();
        if saved.task_priority != 0 {
            cpu::set_cr8(0);
        }
    }

    /// [`Loaded::unload`] and [`Loaded::load`] at once, of two Vcpus neither of which has ever had an interrupt or what
    /// only few have. False if it is not as simple as that; then nothing has happened.
    #[inline(always)]
    pub fn swap(&mut self, from: &mut Saved, to: &mut Saved, to_block: &mut Vmcb, constants: &Constants) -> bool {
        if from.special | from.interrupts | to.special | to.interrupts | to.owed {
            return false;
        }
        self.shared = true;
        // SAFETY: as in `unload` and `load`.
        unsafe { asm!("vmsave rax", in("rax") from.vmcb_pa, options(nostack)) };
        save_extended(from);
        let (before, after) = (cpu::cr8(), to.task_priority);
        if before | from.task_priority | after != 0 {
            from.task_priority = before;
            cpu::set_cr8(after);
        }
        to_block.control.clean = Clean::empty();
        // SAFETY: as in `load`.
        unsafe { asm!("vmload rax", in("rax") to.vmcb_pa, options(nostack, readonly)) };
        restore_extended(to);
        if constants.barrier {
            predict_anew();
        }
        true
    }

    /// What only few Vcpus have: XCR0, TSC_AUX, DR0 to DR3 and a timer of their own. While nobody's state is loaded, or
    /// one without these, XCR0 is the kernel's, TSC_AUX 0, and the timer off.
    #[cold]
    fn load_special(&mut self, saved: &mut Saved, constants: &Constants) {
        self.set_xcr0(saved.xcr0);
        self.set_tsc_aux(saved.tsc_aux);
        if saved.debug_used {
            restore_debug(saved);
        }
        if saved.timer_due != 0 || saved.timer_lvt & apic::LVT_MASKED as u32 == 0 {
            self.load_timer(saved, constants);
        }
    }

    /// The reverse of [`Loaded::load_special`]. Comes before the extended state is saved, which needs the kernel's XCR0.
    #[cold]
    fn unload_special(&mut self, saved: &mut Saved, vmcb: &mut Vmcb, constants: &Constants) {
        self.set_xcr0(constants.xcr0);
        self.set_tsc_aux(0);
        if saved.debug_used {
            save_debug(saved);
            clear_debug();
        }
        if self.timer {
            self.unload_timer(saved, vmcb, constants);
        }
    }

    /// Sets XCR0 if it is another one. The value is 1, 3, or more bits of what boot found legal.
    #[cold]
    pub fn set_xcr0(&mut self, xcr0: u64) {
        if self.xcr0 == xcr0 {
            return;
        }
        self.xcr0 = xcr0;
        // SAFETY: every value that gets into `Saved::xcr0` was checked against the constants; OSXSAVE is set at boot.
        unsafe { cpu::xsetbv(xcr0) };
    }

    /// Sets TSC_AUX if it is another one.
    #[cold]
    pub fn set_tsc_aux(&mut self, value: u64) {
        if self.tsc_aux == value {
            return;
        }
        self.tsc_aux = value;
        // SAFETY: the value has 32 bits, checked where it was taken in; the kernel does not use TSC_AUX.
        unsafe { wrmsr(Msr::TSC_AUX, value) };
    }

    /// Programs the timer for the Vcpu that is loaded, or is being loaded.
    #[cold]
    pub fn load_timer(&mut self, saved: &mut Saved, constants: &Constants) {
        let now = rdtsc();
        let mut count = 0;
        if saved.timer_due != 0 {
            if saved.timer_due > now {
                count = constants.timer.count_of(saved.timer_due - now, saved.timer_divide);
            } else {
                saved.timer_due = 0;
                if saved.timer_lvt & apic::LVT_MASKED as u32 == 0 {
                    saved.raise(saved.timer_lvt as u8);
                }
            }
        }
        apic::set_timer(u64::from(saved.timer_lvt), u64::from(saved.timer_divide), u64::from(count));
        self.timer = true;
    }

    /// Stops the timer and computes what is left of it. A guest that has the core to itself may have armed it without an
    /// exit; what it then set is counted from now, so that it comes late rather than early, once.
    #[cold]
    fn unload_timer(&mut self, saved: &mut Saved, vmcb: &mut Vmcb, constants: &Constants) {
        let now = rdtsc();
        if vmcb.control.msrpm_base_pa == permission::msrpm(true) {
            vmcb.control.msrpm_base_pa = permission::msrpm(false);
            let count = rdmsr(Msr::X2APIC_TIMER_INITIAL) as u32;
            saved.timer_due = if count == 0 { 0 } else { now + constants.timer.span_of(count, saved.timer_divide) };
        } else if saved.timer_due <= now {
            if now - saved.timer_due < TIMER_SLACK && saved.timer_lvt & apic::LVT_MASKED as u32 == 0 {
                saved.raise(saved.timer_lvt as u8);
            }
            saved.timer_due = 0;
        }
        apic::set_timer(apic::LVT_MASKED, 0, 0);
        self.timer = false;
    }
}

/// Copies the hidden part of a Vcpu's state that this core holds (segment bases, SYSCALL registers) into its block.
#[cold]
pub fn save_hidden(saved: &Saved) {
    // SAFETY: the control block is a whole VMCB in RAM that this Vcpu owns.
    unsafe { asm!("vmsave rax", in("rax") saved.vmcb_pa, options(nostack)) };
}

/// Enters the guest whose state this core holds, and returns when it is left, with its registers saved.
///
/// # Safety
/// The Vcpu's state must be loaded on this core, its control block checked, and nothing may refer to `saved` or the
/// block meanwhile.
#[inline(always)]
pub unsafe fn enter(saved: *mut Saved) {
    const ARGS: usize = offset_of!(Saved, registers.call.args);
    const R11_TO_R15: usize = offset_of!(Saved, registers.r11_to_r15);
    // SAFETY: the caller's obligation. Every register that the guest changes is declared, or pushed where Rust does not
    // allow to declare it; RAX and RSP are switched by VMRUN. What the guest's memory is to Rust is not memory.
    unsafe {
        asm!(
            include_str!("enter.s"),
            vmcb = const offset_of!(Saved, vmcb_pa),
            rdi = const offset_of!(Saved, registers.call.cap),
            rsi = const ARGS,
            rdx = const ARGS + 8,
            r10 = const ARGS + 16,
            r8 = const ARGS + 24,
            r9 = const ARGS + 32,
            rcx = const offset_of!(Saved, registers.rcx),
            rbx = const offset_of!(Saved, registers.rbx),
            rbp = const offset_of!(Saved, registers.rbp),
            r11 = const R11_TO_R15,
            r12 = const R11_TO_R15 + 8,
            r13 = const R11_TO_R15 + 16,
            r14 = const R11_TO_R15 + 24,
            r15 = const R11_TO_R15 + 32,
            inout("rdi") saved => _,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            options(att_syntax)
        );
    }
}

/// What the processor has learned of the Vcpu before does not steer the next one.
#[cold]
fn predict_anew() {
    // SAFETY: bit 0 of PRED_CMD is the barrier, which the caller knows that the processor has.
    unsafe { wrmsr(Msr::PRED_CMD, 1) };
}

#[inline(always)]
fn save_extended(saved: &mut Saved) {
    // SAFETY: the area is large enough for all that XCR0 enables (checked at boot) and aligned to 64 bytes.
    unsafe {
        asm!("xsave64 [{}]", in(reg) saved.xsave_area(), in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
    }
}

#[inline(always)]
fn restore_extended(saved: &Saved) {
    // SAFETY: the area was written by XSAVE, or by `state::init` in the same format; no guest can write to it.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) saved.xsave_area(), in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, readonly));
    }
}

#[cold]
fn restore_debug(saved: &Saved) {
    let [dr0, dr1, dr2, dr3] = saved.debug;
    // SAFETY: breakpoint addresses act only with DR7, which is the guest's while it runs and off in the kernel.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) dr0, in(reg) dr1, in(reg) dr2,
            in(reg) dr3, options(nomem, nostack, preserves_flags));
    }
}

/// Forgets the breakpoint addresses of a guest: the next one may set DR7 without having set them.
#[cold]
fn clear_debug() {
    // SAFETY: as in `restore_debug`.
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", in(reg) 0u64,
            options(nomem, nostack, preserves_flags));
    }
}

#[cold]
fn save_debug(saved: &mut Saved) {
    let [dr0, dr1, dr2, dr3] = &mut saved.debug;
    // SAFETY: reading DR0 to DR3 has no side effect.
    unsafe {
        asm!(
            "mov {}, dr0",
            "mov {}, dr1",
            "mov {}, dr2",
            "mov {}, dr3",
            out(reg) * dr0,
            out(reg) * dr1,
            out(reg) * dr2,
            out(reg) * dr3,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Gives a guest its DR0 to DR3 at its first touch of one of them.
#[cold]
pub fn begin_debug(saved: &mut Saved, vmcb: &mut Vmcb) {
    saved.debug_used = true;
    saved.special = true;
    vmcb.control.intercept_dr &= !ALL_DEBUG_ADDRESSES;
    vmcb.control.clean.remove(Clean::INTERCEPTS);
    restore_debug(saved);
}

/// Takes every interrupt of a Vcpu that is in service or requested out of this core, whose task priority is 0.
pub fn take_interrupts(saved: &mut Saved, core: &Core) {
    apic::end_all();
    interrupts::drain();
    if core.drained_any.load(Ordering::Relaxed) {
        take_drained(saved, core);
    }
}

/// Gives a Vcpu the vectors that the stubs recorded.
#[cold]
fn take_drained(saved: &mut Saved, core: &Core) {
    core.drained_any.store(false, Ordering::Relaxed);
    for (word, base) in core.drained.iter().zip([0u8, 64, 128, 192]) {
        let mut left = word.swap(0, Ordering::Relaxed);
        while left != 0 {
            saved.raise(base + left.trailing_zeros() as u8);
            left &= left - 1;
        }
    }
}
