//! Time: the TSC, in ticks, and what it means.

use crate::events;

/// The time-stamp counter now. Monotonic; every VM and every core sees the same one. On the host: nanoseconds.
#[inline]
pub fn now() -> u64 {
    #[cfg(target_os = "none")]
    {
        crate::arch::tsc()
    }
    #[cfg(not(target_os = "none"))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// A clock of known frequency, which counts from an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
    epoch: u64,
}

impl Clock {
    /// A clock of `hz` ticks a second (at least 1) that counts from TSC value `epoch`.
    pub const fn new(hz: u64, epoch: u64) -> Clock {
        Clock { hz: if hz == 0 { 1 } else { hz }, epoch }
    }

    /// Ticks in so many microseconds; saturates.
    pub const fn ticks_of_us(&self, us: u64) -> u64 {
        let ticks = us as u128 * self.hz as u128 / 1_000_000;
        if ticks > u64::MAX as u128 { u64::MAX } else { ticks as u64 }
    }

    /// Microseconds in so many ticks, rounded down.
    pub const fn us_of_ticks(&self, ticks: u64) -> u64 {
        (ticks as u128 * 1_000_000 / self.hz as u128) as u64
    }

    /// Microseconds since the epoch at this TSC value, 0 before it.
    pub const fn us_at(&self, tsc: u64) -> u64 {
        self.us_of_ticks(tsc.saturating_sub(self.epoch))
    }

    /// The TSC value so many microseconds from now.
    pub fn in_us(&self, us: u64) -> u64 {
        now().saturating_add(self.ticks_of_us(us))
    }

    /// Ticks a second.
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// TSC value of the epoch.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Gives the core up until the TSC has reached `deadline`. Events that happen meanwhile stay pending.
pub fn sleep_until(deadline: u64) {
    while now() < deadline {
        // Refused only if the own Vcpu's capability is gone; then waiting costs CPU time, as there is no other way.
        let _ = events::wait(events::NOBODY, deadline);
    }
}

/// The TSC value so many nanoseconds from now, as a deadline of a wait; 0, which is none, if it is never reached.
pub fn deadline_after(ns: u64, tsc_hz: u64) -> u64 {
    let ticks = u128::from(ns) * u128::from(tsc_hz) / 1_000_000_000;
    u64::try_from(ticks).ok().and_then(|ticks| now().checked_add(ticks)).unwrap_or(0)
}

/// Measures the CPU time of a stretch of work, which may be interrupted by other VMs.
#[derive(Clone, Copy, Debug)]
pub struct CpuTimer {
    tsc: u64,
    used: u64,
}

impl CpuTimer {
    /// Begins to measure.
    pub fn start() -> CpuTimer {
        CpuTimer { tsc: now(), used: events::cpu_share().used_ticks }
    }

    /// Ticks that the VM has run since. The kernel counts them at each switch away from it, so the error is up to what is
    /// run between two switches; without a switch it is none.
    pub fn elapsed(&self) -> u64 {
        cpu_ticks(now().saturating_sub(self.tsc), events::cpu_share().used_ticks.saturating_sub(self.used))
    }

    /// Ticks that have passed since, if the VM has not been switched away from meanwhile: then they are all its own, exactly.
    pub fn undisturbed(&self) -> Option<u64> {
        let passed = now().saturating_sub(self.tsc);
        (events::cpu_share().used_ticks == self.used).then_some(passed)
    }
}

/// CPU time, from the ticks that have passed and those that the kernel has counted meanwhile.
const fn cpu_ticks(passed: u64, counted: u64) -> u64 {
    if counted == 0 || counted > passed { passed } else { counted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_what_was_counted_unless_nothing_was() {
        assert_eq!(cpu_ticks(100, 0), 100);
        assert_eq!(cpu_ticks(100, 30), 30);
        // What was counted late was run before the start.
        assert_eq!(cpu_ticks(100, 130), 100);
    }

    #[test]
    fn ticks_and_microseconds_agree_without_overflow() {
        let clock = Clock::new(2_500_000_000, 1_000);
        assert_eq!(clock.ticks_of_us(3), 7_500);
        assert_eq!(clock.us_of_ticks(7_499), 2);
        assert_eq!(clock.us_at(999), 0);
        assert_eq!(clock.us_at(1_000 + 2_500), 1);
        assert_eq!(clock.ticks_of_us(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(0, 0).hz(), 1);
    }
}
