//! Keeps a machine under the instruction clock from running ahead of the host's clock.
//!
//! Under that clock CPU time is exact, but a machine that sleeps skips to what it sleeps for, so that an hour of it may pass
//! in a minute: too fast for clients outside. So the emulator is stopped whenever what the machine tells is too new. A
//! machine that is busy may be slower than the host; what it is late then it never makes up for.

use std::time::{Duration, Instant};

/// How far ahead a machine may be: less would only make the pauses more and shorter.
const SLACK: Duration = Duration::from_millis(1);
/// The longest pause; who waits for this program waits so long at most.
const LONGEST: Duration = Duration::from_millis(50);

/// Compares the two clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// A moment at which both were compared last without a lead of the machine's: the host's, and microseconds of its.
    start: Option<(Instant, u64)>,
}

impl Pace {
    /// How long the machine is to be stopped, as it is `machine_us` for it.
    pub fn pause(&mut self, now: Instant, machine_us: u64) -> Option<Duration> {
        let (since, from_us) = *self.start.get_or_insert((now, machine_us));
        let passed = Duration::from_micros(machine_us.saturating_sub(from_us));
        match passed.checked_sub(now.saturating_duration_since(since)) {
            Some(lead) => (lead > SLACK).then(|| lead.min(LONGEST)),
            None => {
                self.start = Some((now, machine_us));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_ahead_pauses_and_one_that_is_late_does_not_catch_up() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        assert_eq!(pace.pause(at(0), 500_000), None);
        assert_eq!(pace.pause(at(2), 510_000), ms(8));
        assert_eq!(pace.pause(at(10), 511_000), None, "within the slack");
        assert_eq!(pace.pause(at(11), 1_511_000), Some(LONGEST));
        assert_eq!(pace.pause(at(5_000), 1_600_000), None);
        assert_eq!(pace.pause(at(5_001), 1_610_000), ms(9), "the lost seconds are lost");
    }
}
