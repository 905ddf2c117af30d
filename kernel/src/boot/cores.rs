//! Starting the other cores: INIT, start-up IPI, and no fixed delays: each core says that it is there.

use super::physical::Taken;
use crate::arch::{apic, core_area, cpu};
use core::sync::atomic::Ordering;
use kernel::firmware::memory_map::Region;
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
pub fn start(page: u64, ids: impl Iterator<Item = u32>, tsc_hz: u64) -> usize {
    let (code, stack_word) = {
        let (start, end) = (&raw const trampoline_start as u64, &raw const trampoline_end as u64);
        // SAFETY: the trampoline is read-only data between its two symbols.
        let code = unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) };
        (code, &raw const trampoline_stack as u64 - start)
    };
    // SAFETY: boot took the page out of the memory map for this.
    unsafe { Taken(Region { start: page, end: page + 4096 }).fill(code) };
    let mut count = 1;
    for apic_id in ids {
        let number = CoreId::new(count as u8);
        let core = core_area::core(number);
        core.apic_id.store(apic_id, Ordering::Relaxed);
        core.number.store(count as u32, Ordering::Relaxed);
        // SAFETY: the word lies in the page above; no core starts from it at this time.
        unsafe { core::ptr::write_volatile((page + stack_word) as *mut u64, core_area::stack_top(number)) };
        apic::send_init(apic_id);
        let answered = (0..ATTEMPTS).any(|_| {
            apic::send_startup(apic_id, (page >> 12) as u8);
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
            // It must not start later on a stack that another core has by then.
            apic::send_init(apic_id);
            continue;
        }
        count += 1;
    }
    count
}
