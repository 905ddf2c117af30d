//! Limits of operations: a VF whose holder has read and written more often than it has paid for loses its namespace until time
//! has made up for that (Namespace Attachment). Its commands are refused meanwhile; its queues stay.
//!
//! What counts are the reads and writes that have ended well, of whatever size, as the controller counts them by namespace.
//! All of them are charged, also those that came before the closing, and a debt outlives a change of the limit and a time in
//! which its holder has no namespace. So over a
//! second what passes is within 5 % of the limit, from 1,000 operations a second on, if the medium does no more than some
//! 30,000: in the time between two readings no more than 3 % of them pass. While the server erases a namespace it
//! goes on to look at limits.

use crate::admin::Admin;
use device::rate::Rate;
use device::{Clock, DmaMemory, Registers};
use nvme_admin::Error;

/// A VF that was silent may do what it might have done in so many nanoseconds at once; and so late may a reading come, or the
/// VF's holder have its core and try again, without its losing anything by that.
pub const BURST_NS: u64 = 20_000_000;
/// Nanoseconds between two readings of a VF that reads or writes, and of one that does not.
pub const BUSY_NS: u64 = 1_000_000;
const IDLE_NS: u64 = 4_000_000;
/// Refusals in a row after which the controller is taken to refuse for good: each is [`BUSY_NS`] after the one before.
pub const MOST_REFUSALS: u32 = 50;

/// The limit of one VF, without the controller.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    rate: Rate,
    /// Another limit, from a time on.
    coming: Option<(u64, u64)>,
    /// Operations at the last reading.
    counted: u64,
    /// How long the next reading was put off then.
    wait_ns: u64,
    next_ns: u64,
}

impl Meter {
    /// A limit from now on, in operations per second, for somebody who owes so many, at a time at which so many were counted.
    #[must_use]
    pub fn new(owed: u64, per_s: u64, counted: u64, now_ns: u64) -> Meter {
        Meter { rate: Rate::owing(owed, Some(per_s), now_ns), coming: None, counted, wait_ns: 0, next_ns: now_ns }
    }

    /// Another limit, from `from_ns` on; what was set to come before that is forgotten.
    pub fn change(&mut self, per_s: u64, from_ns: u64, now_ns: u64) {
        self.coming = Some((from_ns, per_s));
        self.next_ns = self.next_ns.min(from_ns.max(now_ns));
    }

    /// Charges what was done since the last reading, by the limit that was in force meanwhile. True if the VF may go on.
    pub fn read(&mut self, counted: u64, now_ns: u64) -> bool {
        let operations = counted.wrapping_sub(self.counted);
        self.counted = counted;
        self.rate.charge(operations, now_ns, BURST_NS);
        if let Some((_, per_s)) = self.coming.take_if(|(from_ns, _)| *from_ns <= now_ns) {
            self.rate.change(Some(per_s), now_ns);
        }
        let opens_ns = self.rate.opens_ns();
        let is_open = opens_ns <= now_ns;
        self.wait_ns = if operations > 0 || !is_open { BUSY_NS } else { (2 * self.wait_ns).clamp(BUSY_NS, IDLE_NS) };
        let next_ns = if is_open { now_ns.saturating_add(self.wait_ns) } else { opens_ns };
        self.next_ns = self.coming.map_or(next_ns, |(from_ns, _)| next_ns.min(from_ns));
        is_open
    }

    /// Operations per second that are in force.
    #[must_use]
    pub fn per_s(&self) -> u64 {
        self.rate.per_s().unwrap_or(u64::MAX)
    }

    /// When to read again.
    #[must_use]
    pub const fn next_ns(&self) -> u64 {
        self.next_ns
    }
}

/// A VF with a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited {
    vf: usize,
    /// Its controller number, and its namespace.
    controller: u16,
    namespace: u32,
    is_open: bool,
    meter: Meter,
    /// Looks in a row for which the controller refused something.
    refusals: u32,
}

impl<R: Registers + Clone, M: DmaMemory + Clone, C: Clock + Clone> Admin<R, M, C> {
    /// Lets a VF have its namespace with this limit from now on, or without any; whether it had it before does not matter.
    ///
    /// # Errors
    /// As [`nvme_admin::Controller::execute`]: then it has none.
    pub fn begin_limit(&mut self, vf: usize, namespace: u32, per_s: Option<u64>) -> Result<(), Error> {
        self.end_limit(vf);
        let controller = self.secondary(vf)?;
        // Whoever counts must have it, too.
        if !self.controller.is_attached(namespace, self.number)? {
            self.controller.attach(namespace, self.number)?;
        }
        if !self.controller.is_attached(namespace, controller)? {
            self.open(namespace, controller)?;
        }
        let Some(per_s) = per_s else { return self.controller.detach(namespace, self.number) };
        let counted = self.controller.operations(namespace)?;
        let owed = self.debts.get_mut(vf).map_or(0, core::mem::take);
        let meter = Meter::new(owed, per_s, counted, self.clock.now_ns());
        self.limits.push(Limited { vf, controller, namespace, is_open: true, meter, refusals: 0 });
        self.look_at_limits()
    }

    /// Another limit for a VF that has one, in operations per second from `from_ns` on.
    pub fn change_limit(&mut self, vf: usize, per_s: u64, from_ns: u64) {
        let now_ns = self.clock.now_ns();
        if let Some(limited) = self.limits.iter_mut().find(|limited| limited.vf == vf) {
            limited.meter.change(per_s, from_ns, now_ns);
        }
    }

    /// A VF is to have no namespace any more. What its holder owes stays owed.
    pub(crate) fn end_limit(&mut self, vf: usize) {
        let Some(at) = self.limits.iter().position(|limited| limited.vf == vf) else { return };
        let Limited { namespace, mut meter, .. } = self.limits.swap_remove(at);
        let now_ns = self.clock.now_ns();
        // What the controller does not count any more is not known.
        if let Ok(counted) = self.controller.operations(namespace) {
            meter.read(counted, now_ns);
        }
        if let Some(debt) = self.debts.get_mut(vf) {
            *debt = debt.saturating_add(meter.rate.owed(now_ns));
        }
    }

    /// A VF has a new holder, who owes nothing.
    pub(crate) fn forget_debt(&mut self, vf: usize) {
        if let Some(debt) = self.debts.get_mut(vf) {
            *debt = 0;
        }
    }

    /// The limit that is in force for a VF; `None`: none.
    #[must_use]
    pub fn limit(&self, vf: usize) -> Option<u64> {
        self.limits.iter().find(|limited| limited.vf == vf).map(|limited| limited.meter.per_s())
    }

    /// When [`Admin::look_at_limits`] has something to do.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.limits.iter().map(|limited| limited.meter.next_ns()).min().unwrap_or(u64::MAX)
    }

    /// Reads what VFs with limits have done, if that is due, and closes and opens their namespaces. A VF for which the
    /// controller refuses something is tried again a little later; that delays no other.
    ///
    /// # Errors
    /// Those of [`nvme_admin::Controller::execute`] that are final.
    pub fn look_at_limits(&mut self) -> Result<(), Error> {
        for at in 0..self.limits.len() {
            let looked = self.look_at_limit(at);
            let settled = if matches!(looked, Err(error) if !error.is_final()) { self.put_off(at) } else { looked };
            if let Err(error) = settled
                && error.is_final()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn look_at_limit(&mut self, at: usize) -> Result<(), Error> {
        let Some(Limited { controller, namespace, is_open, meter, .. }) = self.limits.get(at).copied() else {
            return Ok(());
        };
        if meter.next_ns() > self.clock.now_ns() {
            return Ok(());
        }
        let counted = self.controller.operations(namespace)?;
        let now_ns = self.clock.now_ns();
        let Some(limited) = self.limits.get_mut(at) else { return Ok(()) };
        let opens = limited.meter.read(counted, now_ns);
        match (is_open, opens) {
            (true, false) => self.controller.detach(namespace, controller)?,
            (false, true) => self.open(namespace, controller)?,
            _ => {}
        }
        if let Some(limited) = self.limits.get_mut(at) {
            (limited.is_open, limited.refusals) = (opens, 0);
        }
        Ok(())
    }

    /// A VF with a limit to which it cannot be kept, as the controller has refused that [`MOST_REFUSALS`] times in a row.
    #[must_use]
    pub fn uncounted(&self) -> Option<usize> {
        self.limits.iter().find(|limited| limited.refusals >= MOST_REFUSALS).map(|limited| limited.vf)
    }

    /// The controller has refused something for a VF: it is looked at again later, by what the controller says of it, and
    /// whoever counts gets its namespace back.
    fn put_off(&mut self, at: usize) -> Result<(), Error> {
        let next_ns = self.clock.now_ns().saturating_add(BUSY_NS);
        let Some(limited) = self.limits.get_mut(at) else { return Ok(()) };
        limited.meter.next_ns = next_ns;
        limited.refusals = limited.refusals.saturating_add(1);
        let Limited { controller, namespace, .. } = *limited;
        let is_open = self.controller.is_attached(namespace, controller)?;
        if let Some(limited) = self.limits.get_mut(at) {
            limited.is_open = is_open;
        }
        if !self.controller.is_attached(namespace, self.number)? {
            self.controller.attach(namespace, self.number)?;
        }
        Ok(())
    }

    /// Attaches a namespace that the PF has to another controller, too. The PF has not got it meanwhile, as the emulated
    /// controller looks at the PF, not at who is to get it, to see whether it is attached.
    fn open(&mut self, namespace: u32, controller: u16) -> Result<(), Error> {
        self.controller.detach(namespace, self.number)?;
        self.controller.attach(namespace, controller)?;
        self.controller.attach(namespace, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    /// Operations of a holder that does as many as the medium does whenever it may: it hears of an opening a millisecond
    /// late, and each reading comes up to `late_ns` late.
    struct Holder {
        meter: Meter,
        now_ns: u64,
        counted: u64,
        speed: u64,
        is_open: bool,
        late_ns: u64,
        noise: u64,
    }

    impl Holder {
        fn new(per_s: u64, speed: u64, late_ns: u64) -> Holder {
            let meter = Meter::new(0, per_s, 7, 0);
            Holder { meter, now_ns: 0, counted: 7, speed, is_open: true, late_ns, noise: 1 }
        }

        /// What it does up to a time.
        fn run_to(&mut self, end_ns: u64) -> u64 {
            let before = self.counted;
            while self.now_ns < end_ns {
                self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let late_ns = (self.noise >> 33) % (self.late_ns + 1);
                let next_ns = self.meter.next_ns().max(self.now_ns).saturating_add(late_ns).min(end_ns);
                let passed_ns = next_ns - self.now_ns;
                if self.is_open {
                    self.counted += passed_ns * self.speed / SECOND;
                }
                self.now_ns = next_ns;
                let opens = self.meter.read(self.counted, self.now_ns);
                if opens && !self.is_open {
                    self.now_ns += MS;
                }
                self.is_open = opens;
            }
            self.counted - before
        }
    }

    #[test]
    fn a_greedy_holder_is_kept_within_five_percent_over_a_second() {
        for per_s in [1_000, 2_000, 5_000, 20_000] {
            for (speed, late_ns) in [(30_000, 0), (30_000, MS), (per_s * 2, 5 * MS)] {
                let mut holder = Holder::new(per_s, speed, late_ns);
                for second in 1..5 {
                    let done = holder.run_to(second * SECOND);
                    assert!(
                        done.abs_diff(per_s) <= per_s / 20,
                        "{per_s}: {done} in second {second} of {speed}, {late_ns}"
                    );
                }
            }
        }
    }

    #[test]
    fn over_a_long_time_it_is_the_limit_whatever_the_medium_does() {
        for (per_s, speed, late_ns) in [(100, 1_000_000, 5 * MS), (10_000, 1_000_000, 0), (1, 10_000, MS)] {
            let mut holder = Holder::new(per_s, speed, late_ns);
            let done = holder.run_to(3_600 * SECOND);
            assert!(done.abs_diff(3_600 * per_s) <= 36 * per_s + 20_000, "{per_s}: {done}");
        }
    }

    #[test]
    fn another_limit_holds_from_its_time_on() {
        let mut holder = Holder::new(2_000, 30_000, 0);
        holder.run_to(SECOND);
        holder.meter.change(8_000, 2 * SECOND, holder.now_ns);
        assert!(holder.run_to(2 * SECOND).abs_diff(2_000) <= 100);
        assert_eq!(holder.meter.per_s(), 8_000);
        assert!(holder.run_to(3 * SECOND).abs_diff(8_000) <= 400);
        holder.meter.change(0, 0, holder.now_ns);
        holder.run_to(3 * SECOND + MS);
        assert_eq!((holder.run_to(5 * SECOND), holder.meter.next_ns()), (0, u64::MAX));
        holder.meter.change(2_000, 0, holder.now_ns);
        assert!(holder.run_to(6 * SECOND).abs_diff(2_000) <= 100);
    }

    #[test]
    fn who_is_silent_is_looked_at_seldom() {
        let mut meter = Meter::new(0, 1_000, 0, 0);
        for (now_ns, counted, next_ns) in [(0, 0, MS), (MS, 0, 3 * MS), (3 * MS, 0, 7 * MS), (7 * MS, 0, 11 * MS)] {
            assert!(meter.read(counted, now_ns));
            assert_eq!(meter.next_ns(), next_ns);
        }
        assert!(meter.read(11, 11 * MS), "all of the time that passed");
        assert_eq!(meter.next_ns(), 12 * MS);
        assert!(!meter.read(13, 11 * MS));
        assert_eq!(meter.next_ns(), 13 * MS, "the time of two operations");
    }
}
