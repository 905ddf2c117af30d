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

/// How long the clocks are compared before a machine counts as slow, and how long it is left at that.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// Notices when a machine that serves clients is much slower than the host: what is to expire in a second lasts longer then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    /// When the two were compared last: the host's clock, and the machine's in microseconds.
    from: Option<(Instant, u64)>,
    is_slow: bool,
}

impl Lag {
    /// What to tell of it: when it becomes slow, and when it is no more.
    pub fn look(&mut self, now: Instant, machine_us: u64) -> Option<String> {
        let (since, from_us) = *self.from.get_or_insert((now, machine_us));
        let host = now.saturating_duration_since(since);
        // A machine tells its time with its rounds, which may be a minute apart.
        if host < SLOW_FOR || machine_us == from_us {
            return None;
        }
        self.from = Some((now, machine_us));
        let machine = Duration::from_micros(machine_us.saturating_sub(from_us));
        let was_slow = core::mem::replace(&mut self.is_slow, machine < host * 3 / 4);
        match (was_slow, self.is_slow) {
            (false, true) => {
                let per_s = machine.as_secs_f64() / host.as_secs_f64();
                Some(format!(
                    "the machine is slower than this host's clock: its seconds last {:.1} s",
                    1.0 / per_s.max(0.001)
                ))
            }
            (true, false) => Some("the machine keeps pace with this host's clock again".into()),
            _ => None,
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

    #[test]
    fn a_machine_that_becomes_slow_is_told_of_once_and_so_is_its_coming_back() {
        let mut lag = Lag::default();
        let start = Instant::now();
        let mut look = |s: u64, machine_s: u64| lag.look(start + Duration::from_secs(s), machine_s * 1_000_000);
        assert_eq!((look(0, 0), look(9, 1)), (None, None), "too early to say");
        assert_eq!(look(10, 9), None);
        assert_eq!(
            look(20, 14).as_deref(),
            Some("the machine is slower than this host's clock: its seconds last 2.0 s")
        );
        assert_eq!((look(30, 15), look(41, 15)), (None, None), "that is known, and then nothing is told");
        assert_eq!(look(42, 27).as_deref(), Some("the machine keeps pace with this host's clock again"));
        assert_eq!(look(52, 37), None);
    }
}
