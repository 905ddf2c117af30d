//! Virtual time: the time-stamp counter, and the start of the run from which everything else counts.

/// Ticks, milliseconds and microseconds of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Ticks per second.
    pub tsc_hz: u64,
    /// When interval 0 of every good begins; a multiple of every period of CPU time.
    pub epoch: u64,
}

/// Length of the frame in which CPU time is sold, in milliseconds.
pub const FRAME_MS: u64 = 10;
/// Longest stretch of a period, in frames.
pub const MAX_STRETCH: u64 = 8;

impl Clock {
    /// The clock of a run that starts at the first common boundary of all periods at least `lead` ticks from `now`.
    pub fn starting_after(now: u64, lead: u64, tsc_hz: u64) -> Clock {
        let longest = (tsc_hz / 1000 * FRAME_MS * MAX_STRETCH).max(1);
        Clock { tsc_hz, epoch: (now + lead).next_multiple_of(longest) }
    }

    /// Ticks in so many milliseconds. A whole number per millisecond, so that periods and intervals stay aligned.
    pub const fn ticks(&self, ms: u64) -> u64 {
        (self.tsc_hz / 1000).saturating_mul(ms)
    }

    /// The TSC value at so many milliseconds of the run.
    pub const fn at(&self, ms: u64) -> u64 {
        self.epoch.saturating_add(self.ticks(ms))
    }

    /// Microseconds since the start of the run, 0 before it.
    pub const fn micros(&self, tsc: u64) -> u64 {
        self.span_micros(tsc.saturating_sub(self.epoch))
    }

    /// Microseconds in so many ticks.
    pub const fn span_micros(&self, ticks: u64) -> u64 {
        (ticks as u128 * 1_000_000 / self.tsc_hz as u128) as u64
    }

    /// Ticks in so many microseconds.
    pub const fn span(&self, micros: u64) -> u64 {
        (self.tsc_hz / 1000).saturating_mul(micros) / 1000
    }

    /// Ticks of one frame of CPU time.
    pub const fn frame(&self) -> u64 {
        self.ticks(FRAME_MS)
    }

    /// Ticks per frame of one unit of CPU time, 1 % of a core.
    pub const fn unit(&self) -> u64 {
        self.frame() / 100
    }

    /// Budget and period that deliver `units` of CPU time where a round sells `interval_ms`: a small holding has its
    /// period stretched by 2, 4 or 8 at the same share, as far as whole periods fit the interval, which spares switches.
    pub const fn reservation(&self, units: u32, interval_ms: u32) -> (u64, u64) {
        let mut stretch = MAX_STRETCH;
        while stretch > 1 {
            let fits = (interval_ms as u64).is_multiple_of(FRAME_MS * stretch);
            if fits && units as u64 * stretch <= MAX_STRETCH {
                break;
            }
            stretch /= 2;
        }
        (units as u64 * self.unit() * stretch, self.frame() * stretch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_starts_on_a_boundary_of_every_period() {
        let clock = Clock::starting_after(123_456_789, 5_000_000, 1_000_000_000);
        assert_eq!(clock.epoch % 80_000_000, 0);
        assert!(clock.epoch >= 128_456_789);
        assert_eq!(clock.micros(clock.at(7)), 7_000);
        assert_eq!(clock.micros(0), 0);
    }

    #[test]
    fn small_holdings_are_stretched_at_the_same_share_within_the_interval() {
        let clock = Clock { tsc_hz: 1_000_000_000, epoch: 0 };
        assert_eq!(clock.reservation(1, 10), (100_000, 10_000_000));
        assert_eq!(clock.reservation(1, 80), (800_000, 80_000_000));
        assert_eq!(clock.reservation(2, 80), (800_000, 40_000_000));
        assert_eq!(clock.reservation(3, 80), (600_000, 20_000_000));
        assert_eq!(clock.reservation(5, 80), (500_000, 10_000_000));
        assert_eq!(clock.reservation(1, 20), (200_000, 20_000_000));
    }
}
