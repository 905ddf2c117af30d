//! Starting the other cores: INIT, start-up IPI, and no fixed delays: each core says that it is there.

use super::physical::Taken;
use crate::arch::{apic, core_area, cpu};
use core::sync::atomic::Ordering;
use kernel::types::CoreId;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_stack: u8;
}

/// How long a core may take from the start-up IPI to its first sign, in microseconds, before the IPI is repeated.
const PATIENCE_US: u64 = 200;
/// How often the start-up IPI is sent, which makes 200 ms in all: an emulator on a busy host may take that long.
const ATTEMPTS: u32 = 1000;

/// Starts the cores with these ids as core 1, 2, ...; returns how many run, the boot core included. A core that does not
/// answer is left out, and those behind it take its number.
pub fn start(page: Taken, ids: impl Iterator<Item = u32>, tsc_hz: u64) -> usize {
    let (start, end) = (&raw const trampoline_start, &raw const trampoline_end);
    // SAFETY: the trampoline is read-only data between its two symbols.
    let trampoline = unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) };
    // SAFETY: the page was taken for this, and no core has been started from it.
    unsafe { page.fill(0..page.bytes(), trampoline) };
    let stack_word = (&raw const trampoline_stack).addr() - start.addr();
    let mut count = 1;
    for apic_id in ids {
        let number = CoreId::new(count as u8);
        let core = core_area::core(number);
        core.apic_id.store(apic_id, Ordering::Relaxed);
        core.number.store(count as u32, Ordering::Relaxed);
        // SAFETY: no core starts from the page at this time.
        unsafe { page.put(stack_word, &core_area::stack_top(number).to_le_bytes()) };
        // SAFETY: the MADT's other cores wait since reset, and this one was not started yet.
        unsafe { apic::send_init(apic_id) };
        let answered = (0..ATTEMPTS).any(|_| {
            // SAFETY: as before, and the page holds the trampoline with this core's stack.
            unsafe { apic::send_startup(apic_id, (page.base().get() >> 12) as u8) };
            let start = cpu::rdtsc();
            while !core.ready.load(Ordering::Acquire)
                && cpu::rdtsc().wrapping_sub(start) < tsc_hz / 1_000_000 * PATIENCE_US
            {
                core::hint::spin_loop();
            }
            core.ready.load(Ordering::Acquire)
        });
        if !answered {
            log::warn!("core with APIC id {apic_id} does not answer; it is left out");
            // SAFETY: it has given no sign. It must not start later on a stack that another core has by then.
            unsafe { apic::send_init(apic_id) };
            continue;
        }
        count += 1;
    }
    count
}
