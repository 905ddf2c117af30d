//! The trace of this kernel ([`kernel::trace`]), if the command line has asked for one: writes records, and stops the
//! emulator for the checker.

use crate::Nonkernel;
use crate::arch::core_area::this;
use crate::arch::cpu::{self, rdtsc};
use cap_spec::abi::Label;
use core::arch::{asm, naked_asm};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::Call;
use kernel::trace::{Kind, Returned, STOP_PORT, Trace};
use kernel::types::{CoreId, VcpuId};

/// The checker finds it by this symbol.
#[unsafe(no_mangle)]
pub static TRACE: Trace = Trace::off();

/// The call that is being worked on takes capabilities away: when it ends, the checker looks at all of memory.
static TAKES: AtomicBool = AtomicBool::new(false);

/// From here on everything is recorded.
pub fn turn_on(kernel: &mut Nonkernel) {
    TRACE.turn_on(core::ptr::from_mut(kernel) as u64, kernel::LAYOUT);
}

/// Records something that happened under the kernel lock, if there is a trace.
#[inline(always)]
pub fn record(kind: Kind, what: u64, how: u64) {
    if TRACE.is_on() {
        // SAFETY: what is called keeps every register, and the stack below is free, as this target has no red zone.
        unsafe { asm!("call {keep}", keep = sym keep_registers, in("rdi") kind as u64, in("rsi") what, in("rdx") how) };
    }
}

/// [`write_two`] for a caller who keeps nothing out of its way: so that those who trace nothing pay for a branch alone.
#[unsafe(naked)]
extern "C" fn keep_registers() {
    naked_asm!(
        "push rax; push rcx; push rdx; push rsi; push rdi; push r8; push r9; push r10; push r11; push rbp",
        "mov rbp, rsp; and rsp, -16",
        "call {write}",
        "mov rsp, rbp",
        "pop rbp; pop r11; pop r10; pop r9; pop r8; pop rdi; pop rsi; pop rdx; pop rcx; pop rax",
        "ret",
        write = sym write_two,
    )
}

extern "C" fn write_two(kind: Kind, what: u64, how: u64) {
    write(kind, &[what, how]);
}

/// Records something, with more to say of it; there is a trace.
pub fn write(kind: Kind, details: &[u64]) {
    if TRACE.record(this().id(), kind, rdtsc(), details) {
        ask();
    }
}

/// True if there is a trace.
#[inline(always)]
pub fn is_on() -> bool {
    TRACE.is_on()
}

/// A call begins. True if there is a trace.
#[inline(always)]
pub fn call(kernel: &mut Nonkernel, core: CoreId, invoker: VcpuId, call: &Call) -> bool {
    if TRACE.is_on() {
        begun(kernel, core, invoker, call);
        return true;
    }
    false
}

#[cold]
#[inline(never)]
fn begun(kernel: &mut Nonkernel, core: CoreId, invoker: VcpuId, call: &Call) {
    let &Call { cap, label, args: [a, b, c, d, e] } = call;
    TAKES.store([Label::CNodeDelete as u64, Label::CNodeRevoke as u64].contains(&label), Ordering::Relaxed);
    kernel.trace_call(core, true);
    write(Kind::Call, &[invoker.address().get(), cap, label, a, b, c, d, e]);
}

/// The call that this core works on ends, and its invoker does not go on with it.
#[inline(always)]
pub fn returned(kernel: &mut Nonkernel, core: CoreId, how: Returned) {
    if TRACE.is_on() {
        ended(kernel, core, how, 0, [0; 2]);
    }
}

/// The call that this core works on, if there is one, is done.
pub fn done(kernel: &mut Nonkernel, core: CoreId, status: u64, results: [u64; 2]) {
    ended(kernel, core, Returned::Done, status, results);
}

#[cold]
#[inline(never)]
fn ended(kernel: &mut Nonkernel, core: CoreId, how: Returned, status: u64, [first, second]: [u64; 2]) {
    if !kernel.trace_call(core, false) {
        return;
    }
    write(Kind::Return, &[how as u64, status, first, second]);
    let took = how == Returned::Done && status == 0 && TAKES.load(Ordering::Relaxed);
    if took || matches!(how, Returned::Preempted | Returned::Gone) {
        ask();
    }
}

/// The checker is to look at all of memory, if there is a trace.
pub fn look() {
    if TRACE.is_on() {
        ask();
    }
}

/// Stops the machine until the checker has looked at it. The emulator may take a few more instructions to stop.
#[cold]
fn ask() {
    TRACE.ask();
    let (port, value) = STOP_PORT;
    // SAFETY: the device behind this port stops the emulator; nobody else has it, and it reaches no memory.
    unsafe { cpu::port_out(port, 1, value) };
    while !TRACE.is_answered() {
        spin_loop();
    }
}
