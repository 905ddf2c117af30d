//! Vectors that come without an exit: device interrupts, events, and the one-shot timer.
//!
//! An image starts with interrupts off and polls its event word, which costs one load. It may also ask to be
//! interrupted, by an event or by its timer.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use core::{mem, ptr};

use super::{FAULT_VECTOR, TrapFrame, apic, set_handler};
use crate::cap::{Fault, own};

/// Vector of events.
pub const EVENT_VECTOR: u8 = 0xf1;
/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf2;

static ON_EVENT: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// Timer counts in 2^20 ticks of the TSC; 0 as long as nobody needed the timer.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);

/// Lets `handler` run as soon as an event happens while this VM runs, with interrupts off, in the middle of whatever
/// runs, except where [`crate::upcalls`] says. The event stays in the event word.
pub fn on_event(handler: fn()) -> Result<(), Fault> {
    ON_EVENT.store(handler as *mut (), Ordering::Release);
    set_handler(EVENT_VECTOR, Some(on_event_vector));
    own::VCPU.set_upcall(FAULT_VECTOR, EVENT_VECTOR)?;
    super::enable_interrupts();
    Ok(())
}

fn on_event_vector(_: &mut TrapFrame) {
    call_handler();
    apic::end_of_interrupt();
}

/// Calls the handler of events as their vector does.
pub fn event() {
    let _masked = crate::upcalls::mask();
    call_handler();
}

fn call_handler() {
    let handler = ON_EVENT.load(Ordering::Acquire);
    if !handler.is_null() {
        // SAFETY: only `on_event` stores here, and what it stores is a `fn()`.
        let handler = unsafe { mem::transmute::<*mut (), fn()>(handler) };
        handler();
    }
}

fn timer(_: &mut TrapFrame) {
    apic::end_of_interrupt();
}

/// Halts on the core, which stays this VM's and is charged, until the TSC has reached `deadline`. No exit, apart from
/// the calibration of the first call. Other interrupts are taken meanwhile. Interrupts are as before afterwards.
pub fn halt_until(deadline: u64) {
    halt_while(deadline, || true);
}

/// As [`halt_until`], but only while `is_idle` is true, which is asked with interrupts off before each halt: what the
/// handler of an interrupt changes is not slept through.
pub fn halt_while(deadline: u64, is_idle: impl Fn() -> bool) {
    let enabled = super::interrupts_enabled();
    super::disable_interrupts();
    let mut rate = TIMER_RATE.load(Ordering::Relaxed);
    if rate == 0 {
        set_handler(TIMER_VECTOR, Some(timer));
        rate = apic::calibrate_timer(TIMER_VECTOR);
        TIMER_RATE.store(rate, Ordering::Relaxed);
    }
    while is_idle() {
        let left = deadline.saturating_sub(super::tsc());
        if left == 0 {
            break;
        }
        // A count of 0 would mean never. Too short a sleep is repeated, so rounding does no harm.
        let counts = (u128::from(left) * u128::from(rate)) >> 20;
        apic::arm_timer(counts.clamp(1, u128::from(u32::MAX)) as u32);
        super::halt();
    }
    apic::arm_timer(0);
    if enabled {
        super::enable_interrupts();
    }
}
