//! One comparator serves the deadlines of all cores: it is set to the earliest, with that core as its destination.
//!
//! Guarantee: after each [`Deadlines::set`] whose answer was carried out, the earliest deadline either is in the
//! comparator, in the future, or its core has been called. Used under the kernel lock only.

use crate::types::CoreId;
use crate::vm::MAX_CORES;

/// No deadline.
pub const NEVER: u64 = u64::MAX;

/// What the comparator shall do: raise an NMI on `core` at `at`; [`NEVER`] switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Whom to interrupt.
    pub core: CoreId,
    /// When, in ticks.
    pub at: u64,
}

/// The deadlines of all cores and what the comparator was set to.
#[derive(Clone, Debug)]
pub struct Deadlines {
    until: [u64; MAX_CORES],
    /// Cores in use.
    count: usize,
    alarm: Alarm,
}

impl Deadlines {
    /// No deadlines, for `count` cores (at most [`MAX_CORES`]); the comparator is off.
    pub const fn new(count: usize) -> Deadlines {
        let count = if count > MAX_CORES { MAX_CORES } else { count };
        Deadlines { until: [NEVER; MAX_CORES], count, alarm: Alarm { core: CoreId::new(0), at: NEVER } }
    }

    /// A core's deadline is now `until`. `Some` says what to set the comparator to; after that, [`Deadlines::passed`]
    /// must be asked with the time read *after* the setting, because a comparator that is set to the past is silent.
    #[inline]
    pub fn set(&mut self, core: CoreId, until: u64) -> Option<Alarm> {
        let index = core.get() as usize;
        if index >= self.count {
            return None;
        }
        self.until[index] = until;
        self.earliest()
    }

    /// An NMI came, and at `now` whatever had passed was told: what the comparator must be set to again if it is spent. As
    /// it counts by another clock, it may have come early, by any time.
    pub fn again(&self, now: u64) -> Option<Alarm> {
        (self.alarm.at > now && self.alarm.at != NEVER).then_some(self.alarm)
    }

    /// A core whose deadline has passed: to be called (`core` itself decides again); its deadline is forgotten, as it
    /// will set a new one. Asked until it answers `None`; at most once for each core.
    pub fn passed(&mut self, now: u64) -> Option<CoreId> {
        let index = self.until[..self.count].iter().position(|&until| until <= now)?;
        self.until[index] = NEVER;
        Some(CoreId::new(index as u8))
    }

    /// What the comparator must be set to, if that is not what it is set to.
    pub fn earliest(&mut self) -> Option<Alarm> {
        let mut alarm = Alarm { core: self.alarm.core, at: NEVER };
        for (&at, core) in self.until[..self.count].iter().zip(0_u8..) {
            if at < alarm.at {
                alarm = Alarm { core: CoreId::new(core), at };
            }
        }
        if alarm == self.alarm {
            return None;
        }
        self.alarm = alarm;
        Some(alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_set_and_what_has_passed_is_told() {
        let mut deadlines = Deadlines::new(3);
        let [a, b, c] = [0, 1, 2].map(CoreId::new);
        assert_eq!(deadlines.set(a, 50), Some(Alarm { core: a, at: 50 }));
        assert_eq!(deadlines.set(b, 80), None);
        assert_eq!(deadlines.set(c, 30), Some(Alarm { core: c, at: 30 }));
        assert_eq!(deadlines.passed(29), None);
        // The comparator fired for c at 30 and c was slow: a's deadline passed meanwhile.
        assert_eq!(deadlines.set(c, 90), Some(Alarm { core: a, at: 50 }));
        assert_eq!(deadlines.passed(60), Some(a));
        assert_eq!(deadlines.passed(60), None);
        assert_eq!(deadlines.earliest(), Some(Alarm { core: b, at: 80 }));
        // It comes early, by whatever: it is set again.
        assert_eq!(deadlines.again(61), Some(Alarm { core: b, at: 80 }));
        assert_eq!(deadlines.again(80), None);
        deadlines.set(b, NEVER);
        deadlines.set(c, NEVER);
        assert_eq!(deadlines.set(CoreId::new(3), 1), None);
        assert_eq!(deadlines.earliest(), None);
        assert_eq!(deadlines.again(0), None);
    }
}
