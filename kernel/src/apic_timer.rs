//! Arithmetic of the APIC timer: counts, divide configurations and ticks of the TSC.

/// How fast the timer counts, against the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerScale {
    /// Ticks of the TSC per count of the timer undivided, in 2^-32; not 0.
    ticks_per_count: u64,
}

impl TimerScale {
    /// From the frequencies in Hz of TSC and timer.
    pub const fn new(tsc_hz: u64, timer_hz: u64) -> TimerScale {
        let timer_hz = if timer_hz == 0 { 1 } else { timer_hz };
        let ticks = ((tsc_hz as u128) << 32) / timer_hz as u128;
        TimerScale { ticks_per_count: if ticks == 0 { 1 } else { ticks as u64 } }
    }

    /// Ticks that so many counts take at a divide configuration; saturates.
    pub fn span_of(self, count: u32, divide: u32) -> u64 {
        let ticks = (u128::from(count) * u128::from(self.ticks_per_count)) << divide_log2(divide);
        u64::try_from(ticks >> 32).unwrap_or(u64::MAX)
    }

    /// Counts that a span of ticks takes at a divide configuration: rounded up, so that a timer never fires early, and at
    /// least 1, as 0 would stop it.
    pub fn count_of(self, span: u64, divide: u32) -> u32 {
        let per_count = u128::from(self.ticks_per_count) << divide_log2(divide);
        u32::try_from((u128::from(span) << 32).div_ceil(per_count)).unwrap_or(u32::MAX).max(1)
    }
}

/// log2 of the divisor that a divide configuration (bits 0, 1 and 3) means: 0 is a division by 2, 0b1011 none.
const fn divide_log2(divide: u32) -> u32 {
    let code = divide & 3 | divide >> 1 & 4;
    (code + 1) & 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divide_configurations_are_the_manuals() {
        let table = [
            (0b0000, 2),
            (0b0001, 4),
            (0b0010, 8),
            (0b0011, 16),
            (0b1000, 32),
            (0b1001, 64),
            (0b1010, 128),
            (0b1011, 1),
        ];
        for (configuration, divisor) in table {
            assert_eq!(1 << divide_log2(configuration), divisor, "{configuration:#b}");
        }
    }

    #[test]
    fn what_is_left_of_a_timer_survives_a_switch_and_never_fires_early() {
        for (tsc, timer) in [(1_000_000_000, 1_000_000_000), (2_490_000_000, 25_000_000), (800_000_000, 1_000_000_000)]
        {
            let scale = TimerScale::new(tsc, timer);
            for divide in [0, 0b0011, 0b1011] {
                for count in [1, 7, 1000, 123_456, 40_000_000] {
                    let span = scale.span_of(count, divide);
                    let again = scale.count_of(span, divide);
                    assert!(again.abs_diff(count) <= 1, "{count} became {again}");
                    assert!(scale.span_of(again, divide) >= span);
                }
            }
        }
    }

    #[test]
    fn extremes_saturate() {
        let scale = TimerScale::new(u64::MAX, 0);
        assert_eq!(scale.span_of(u32::MAX, 0b1010), u64::MAX);
        assert_eq!(scale.count_of(0, 0), 1);
        assert_eq!(TimerScale::new(1, 1_000_000).count_of(u64::MAX, 0b1011), u32::MAX);
    }
}
