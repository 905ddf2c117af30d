//! Events: bits that the kernel sets in the info page, taken by an atomic exchange and without an exit.

use core::sync::atomic::{AtomicU64, Ordering};

use cap_spec::abi::info_page;
pub use proto::start::events::{CONSOLE, FIRST_FREE, MARKET};

use crate::cap::{Fault, own};
use crate::shared::{SharedMemory, Words};
use crate::upcalls;

/// A bit that nobody binds, for who waits for no event: the launcher uses the lower ones, and [`FIRST_FREE`] counts up from
/// there.
pub const NOBODY: u64 = 1 << 63;

/// Taken out of the info page, but not asked for yet.
static STASH: AtomicU64 = AtomicU64::new(0);

/// The info page.
#[cfg(target_os = "none")]
#[inline(always)]
pub(crate) fn info() -> SharedMemory {
    // SAFETY: the launcher maps the info page of the first Vcpu there, for as long as the VM lives.
    unsafe { SharedMemory::new(cap_spec::abi::INFO_PAGE, 4096) }
}

/// On the host, a page that no kernel writes.
#[cfg(not(target_os = "none"))]
pub(crate) fn info() -> SharedMemory {
    static PAGE: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
    // SAFETY: static, and accessed by atomic words only.
    unsafe { SharedMemory::new(PAGE.as_ptr() as u64, 4096) }
}

/// As [`wait`], of who is the market itself, or speaks to others than the market and has its own meaning of each bit.
pub fn wait_only(mask: u64, deadline: u64) -> Result<u64, Fault> {
    match take(mask) {
        0 => own::VCPU.wait(mask, deadline),
        events => Ok(events),
    }
}

/// Takes those of the events in `mask` that have happened. No exit.
pub fn take(mask: u64) -> u64 {
    // A load first: an exchange of a line that the kernel writes now and then is dearer than looking at it.
    let info = info();
    if info.load(info_page::EVENTS / 8, Ordering::Relaxed) != 0 {
        STASH.fetch_or(info.swap(info_page::EVENTS / 8, 0), Ordering::Relaxed);
    }
    STASH.fetch_and(!mask, Ordering::Relaxed) & mask
}

/// Gives the core up until one of the events in `mask` has happened or the TSC has reached `deadline` (0: never).
/// Returns the events, which are taken; 0 at the deadline. Upcalls come meanwhile, if they were asked for.
///
/// The sleep of an application is interrupted by the market in any case: who does not run when the market signals it is
/// taken for one that has destroyed itself. The event stays pending if it is not asked for.
pub fn wait(mask: u64, deadline: u64) -> Result<u64, Fault> {
    wait_unless(mask, deadline, || false)
}

/// As [`wait`], but does not sleep if `happened` says so, which is asked when no interrupt can come between the answer and
/// the sleep: so a driver whose handler notes an interrupt sleeps through none. An interrupt that is pending ends the sleep.
pub fn wait_unless(mask: u64, deadline: u64, happened: impl Fn() -> bool) -> Result<u64, Fault> {
    loop {
        let (events, asked) = wait_masked(mask, deadline, &happened)?;
        match events & MARKET & !mask {
            0 => {}
            _ if asked => upcall(),
            market => drop(STASH.fetch_or(market, Ordering::Relaxed)),
        }
        if events & mask != 0 || events == 0 {
            return Ok(events & mask);
        }
    }
}

/// Sleeps once. The kernel makes no upcall to who sleeps, so that the sleep also ends for the event of upcalls, if they
/// were asked for; and between the look at the events and the sleep none may come, as it would take some along. Returns the
/// events, and whether upcalls were asked for.
fn wait_masked(mask: u64, deadline: u64, happened: impl Fn() -> bool) -> Result<(u64, bool), Fault> {
    let masked = upcalls::mask();
    let asked = masked.hides_upcalls();
    match take(if asked { mask | MARKET } else { mask }) {
        0 if happened() => Ok((0, asked)),
        0 => own::VCPU.wait(mask | MARKET, deadline).map(|events| (events, asked)),
        events => Ok((events, asked)),
    }
}

/// What a sleeping Vcpu is told by itself.
fn upcall() {
    #[cfg(target_os = "none")]
    crate::arch::event();
}

/// What the info page tells about the own CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    /// Ticks that this Vcpu has been current on its core, up to when it was last switched away from.
    pub used_ticks: u64,
    /// Budget per period, in ticks.
    pub budget_ticks: u64,
    /// Period, in ticks.
    pub period_ticks: u64,
    /// Core that it runs on.
    pub core: u64,
}

/// Reads the own CPU time. No exit. The words are read one by one, so that a change may show in some of them only.
pub fn cpu_share() -> CpuShare {
    let word = |offset: usize| info().load(offset / 8, Ordering::Relaxed);
    CpuShare {
        used_ticks: word(info_page::USED_TICKS),
        budget_ticks: word(info_page::BUDGET_TICKS),
        period_ticks: word(info_page::PERIOD_TICKS),
        core: word(info_page::CORE),
    }
}

/// Frequency of the TSC in Hz.
pub fn tsc_hz() -> u64 {
    info().load(info_page::TSC_HZ / 8, Ordering::Relaxed)
}
