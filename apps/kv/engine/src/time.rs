//! Time as the caller tells it, and expiry as memcached counts it.
//!
//! The engine has no clock: every call that depends on time is told it. Times of items are whole seconds since shortly
//! before the store was made, which fit 32 bits for 136 years.

/// A moment: microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// The moment so many microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// The moment so many seconds after the Unix epoch.
    pub const fn from_seconds(seconds: u64) -> Time {
        Time(seconds.saturating_mul(1_000_000))
    }

    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0
    }
}

/// The longest expiry that is relative to now, in seconds; what is larger is a Unix time (protocol.txt, "Expiration
/// times").
const MOST_RELATIVE: u64 = 60 * 60 * 24 * 30;

/// Seconds that a store's own time is ahead at its start, so that 0 can mean "never" and 1 "before the start".
const HEAD_START: u64 = 2;

/// The seconds of one store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Time,
    now: Time,
    /// The second of `now`, which is asked for more often than it changes.
    second: Second,
}

/// A second in the store's own time; 0 is none, as in "never expires".
pub(crate) type Second = u32;

impl Clock {
    pub fn new(now: Time) -> Clock {
        Clock { started: now, now, second: HEAD_START as Second }
    }

    /// Takes note of the time. It never goes backwards.
    pub fn set(&mut self, now: Time) {
        if now > self.now {
            self.now = now;
            self.second = u32::try_from(self.uptime() + HEAD_START).unwrap_or(u32::MAX);
        }
    }

    pub fn time(&self) -> Time {
        self.now
    }

    /// Whole seconds since the start.
    pub fn uptime(&self) -> u64 {
        self.now.seconds() - self.started.seconds()
    }

    pub fn now(&self) -> Second {
        self.second
    }

    /// When something expires whose `exptime` a client gave: 0 is never, a negative one at once, up to thirty days from
    /// now, larger ones are Unix times.
    pub fn expiry(&self, exptime: i32) -> Second {
        let second = match u64::try_from(exptime) {
            Ok(0) => return 0,
            Ok(relative) if relative <= MOST_RELATIVE => u64::from(self.now()) + relative,
            Ok(absolute) => match absolute.checked_sub(self.started.seconds()) {
                Some(after) if after > 0 => after + HEAD_START,
                _ => 1,
            },
            Err(_) => 1,
        };
        u32::try_from(second).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_never_relative_absolute_or_past() {
        let mut clock = Clock::new(Time::from_seconds(1_700_000_000));
        clock.set(Time::from_micros(1_700_000_005_999_999));
        assert_eq!(clock.now(), 7);
        assert_eq!(clock.expiry(0), 0);
        assert_eq!(clock.expiry(-1), 1);
        assert_eq!(clock.expiry(i32::MIN), 1);
        assert_eq!(clock.expiry(10), 17);
        assert_eq!(clock.expiry(60 * 60 * 24 * 30), 7 + 2_592_000);
        // One more is a Unix time in 1970.
        assert_eq!(clock.expiry(60 * 60 * 24 * 30 + 1), 1);
        assert_eq!(clock.expiry(1_700_000_000), 1);
        assert_eq!(clock.expiry(1_700_000_010), 12);
    }

    #[test]
    fn time_does_not_go_backwards() {
        let mut clock = Clock::new(Time::from_seconds(10));
        clock.set(Time::from_seconds(20));
        clock.set(Time::from_seconds(15));
        assert_eq!(clock.uptime(), 10);
    }
}
