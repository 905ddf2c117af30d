//! Limits what a VF sends, where the device does not: its transmission is closed when it has sent more than it has paid
//! for, and opened when time has made up for that.
//!
//! Where the device has rate limiters ([`Keeper::Device`]), the meter watches them: it looks seldom, and allows a twentieth
//! more than the limit, which is as exact as limits are meant to be. So it closes nobody who is limited, and still keeps a VF
//! to nearly its limit whose device does not, or which has found a way around.
//!
//! All that was sent is charged, also what passed before the closing was noticed, and a debt outlives a change of the
//! limit. What was not sent as an opening came late may be sent later. A VF that sends is read often enough, by the rate that
//! it was seen to send at, that 100 ms of sending are within 5 % of the limit, from 10 Mb/s on; below, single frames and
//! readings count for more.

use device::rate::{Rate, time_ns, units_in};

/// A VF that was silent may send so many nanoseconds' worth at once.
pub const BURST_NS: u64 = 3_000_000;
/// So late may an opening come, and the VF's holder have its turn after it, without its losing anything by that.
const LATE_NS: u64 = 10_000_000;
/// So much earlier than it is due a VF is opened, if it is read anyway: so readings of several VFs come together.
const EARLY_NS: u64 = 250_000;
/// Nanoseconds between two readings of a VF that is silent for some time, and the shortest time between two of one that sends.
pub const IDLE_NS: u64 = 500_000;
const BUSY_NS: u64 = 30_000;
/// Nanoseconds between two readings of a VF whose limit the device keeps.
pub const WATCH_NS: u64 = 10_000_000;
/// Such a VF is closed when it has sent more than its limit and this part of it.
const ALLOWED_PART: u64 = 20;
/// The rate of the cable in bits per second, at which a VF sends while it is open; from one VF to another, and in an
/// emulator, frames can be faster.
const LINE_BITS_PER_S: u64 = 1_000_000_000;
/// What may pass between two readings: a fiftieth of what may pass in a tenth of a second. From one VF to another that
/// comes as one burst, which is to fit into a receive ring; and each reading takes its reader's time.
const SHARE_NS: u64 = 100_000_000 / 50;
const SECOND_NS: u64 = 1_000_000_000;

/// Who keeps VFs to their limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeper {
    /// The meter, by closing them.
    #[default]
    Meter,
    /// The device's rate limiters.
    Device,
}

impl Keeper {
    /// What the meter lets pass of a limit.
    fn allows(self, bits_per_s: Option<u64>) -> Option<u64> {
        match self {
            Keeper::Meter => bits_per_s,
            Keeper::Device => bits_per_s.map(|limit| limit.saturating_add(limit / ALLOWED_PART)),
        }
    }
}

/// The limit of one VF.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    keeper: Keeper,
    /// In bits; what the meter lets pass.
    rate: Rate,
    open: bool,
    /// The last reading.
    read_ns: u64,
    /// How long the next one was put off then, while the VF was open.
    wait_ns: u64,
    /// The rate at which it sends while it is open, as far as is known, in bits per second.
    speed: u64,
}

/// What a reading leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Whether the VF may send.
    pub open: bool,
    /// When to read again.
    pub next_ns: u64,
}

impl Meter {
    /// A limit from now on, or none, for somebody who owes so many bits. 0 lets nothing pass.
    #[must_use]
    pub fn new(keeper: Keeper, owed: u64, bits_per_s: Option<u64>, now_ns: u64) -> Meter {
        Meter {
            keeper,
            rate: Rate::owing(owed, keeper.allows(bits_per_s), now_ns),
            open: true,
            read_ns: now_ns,
            wait_ns: IDLE_NS,
            speed: LINE_BITS_PER_S,
        }
    }

    /// Bits that are owed, at a time at which all that was sent is charged.
    #[must_use]
    pub fn owed(&self, now_ns: u64) -> u64 {
        self.rate.owed(now_ns)
    }

    /// Another limit from now on, and who keeps it, at a time at which all that was sent is charged. What is owed stays owed,
    /// unless everything may pass from now on.
    pub fn change(&mut self, keeper: Keeper, bits_per_s: Option<u64>, now_ns: u64) {
        self.keeper = keeper;
        self.rate.change(keeper.allows(bits_per_s), now_ns);
    }

    /// Charges what was sent since the last reading.
    pub fn read(&mut self, octets: u32, now_ns: u64) -> Reading {
        let Some(bits_per_s) = self.rate.per_s() else { return Reading { open: true, next_ns: u64::MAX } };
        let was_closed = !self.open;
        let passed_ns = now_ns.saturating_sub(self.read_ns).max(1);
        let seen = u128::from(octets) * 8 * u128::from(SECOND_NS) / u128::from(passed_ns);
        let slower = self.speed.saturating_sub(self.speed / 8);
        self.speed = u64::try_from(seen).unwrap_or(u64::MAX).max(slower).max(LINE_BITS_PER_S);
        self.read_ns = now_ns;
        let burst_ns = match self.keeper {
            // All the time that passed counts, however late this reading is: the device has let nothing pass at once.
            Keeper::Device => passed_ns.max(LATE_NS),
            Keeper::Meter if was_closed || self.wait_ns < IDLE_NS => LATE_NS,
            Keeper::Meter => BURST_NS,
        };
        self.rate.charge(u64::from(octets) * 8, now_ns, burst_ns);
        let opens_ns = self.rate.opens_ns();
        self.open = opens_ns <= now_ns.saturating_add(EARLY_NS);
        let next_ns = match self.open {
            false => opens_ns,
            true if self.keeper == Keeper::Device => now_ns.saturating_add(WATCH_NS),
            true => {
                // Who was just let through may begin at any moment; the longer it is silent, the less likely that is.
                let share_ns = time_ns(units_in(SHARE_NS, bits_per_s), self.speed);
                let is_busy = was_closed || octets != 0;
                self.wait_ns = if is_busy { share_ns.max(BUSY_NS) } else { 2 * self.wait_ns }.min(IDLE_NS);
                now_ns.saturating_add(self.wait_ns)
            }
        };
        Reading { open: self.open, next_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits that a VF sends in the second of two times of 100 ms which sends at `speed` times the rate of the cable whenever
    /// it may; the limit is twice as high in the first.
    fn greedy(limit: u64, speed: u64) -> u64 {
        let mut meter = Meter::new(Keeper::Meter, 0, Some(2 * limit), 0);
        let mut now_ns = 10_000_000;
        let mut reading = meter.read(0, now_ns);
        let first = 8 * sends(&mut meter, &mut reading, &mut now_ns, speed);
        // It was silent: how fast it sends is not known yet.
        assert!(
            speed > 1 || 2 * limit > LINE_BITS_PER_S || first.abs_diff(limit / 5) <= limit / 100,
            "{limit}: {first}"
        );
        meter.change(Keeper::Meter, Some(limit), now_ns);
        reading = meter.read(0, now_ns);
        8 * sends(&mut meter, &mut reading, &mut now_ns, speed)
    }

    /// Octets that go out in 100 ms.
    fn sends(meter: &mut Meter, reading: &mut Reading, now: &mut u64, speed: u64) -> u64 {
        let (mut now_ns, mut octets) = (*now, 0);
        let end_ns = now_ns + 100_000_000;
        while now_ns < end_ns {
            let next_ns = reading.next_ns.min(end_ns);
            let sent = if reading.open { (next_ns - now_ns) * speed / 8 } else { 0 };
            (now_ns, octets) = (next_ns, octets + sent);
            *reading = meter.read(sent as u32, now_ns);
        }
        *now = now_ns;
        octets
    }

    #[test]
    fn a_greedy_sender_is_kept_within_five_percent_over_a_tenth_of_a_second() {
        for limit in [10_000_000, 20_000_000, 50_000_000, 100_000_000, 300_000_000, 999_000_000] {
            for speed in [1, 4] {
                let (bits, wanted) = (greedy(limit, speed), limit / 10);
                assert!(bits.abs_diff(wanted) <= wanted / 20, "{limit} b/s: {bits} bits, {speed} times the cable");
            }
        }
    }

    #[test]
    fn a_debt_outlives_a_change_of_the_limit() {
        let mut meter = Meter::new(Keeper::Meter, 0, Some(8_000), 0);
        // A second's worth, at once, at a time when no more than the burst is free.
        assert!(!meter.read(1_000, 0).open);
        meter.change(Keeper::Meter, Some(16_000), 0);
        assert_eq!(meter.read(0, 0), Reading { open: false, next_ns: SECOND_NS / 2 });
        assert!(meter.read(0, SECOND_NS / 2).open);
        meter.change(Keeper::Meter, Some(0), SECOND_NS);
        assert_eq!(meter.read(0, SECOND_NS), Reading { open: false, next_ns: u64::MAX });
        meter.change(Keeper::Meter, Some(8_000), 2 * SECOND_NS);
        assert!(meter.read(0, 2 * SECOND_NS).open, "nothing was owed any more");
    }

    #[test]
    fn what_a_late_opening_cost_is_sent_later() {
        const MEGABIT: u64 = 1_000_000;
        let mut meter = Meter::new(Keeper::Meter, 0, Some(100 * MEGABIT), 0);
        let (mut now_ns, mut bits): (u64, u64) = (0, 0);
        while now_ns < SECOND_NS {
            // Each opening comes 4 ms late; what passes then is 2 ms' worth, in a burst.
            let reading = meter.read(25_000, now_ns);
            bits += 8 * 25_000;
            assert!(!reading.open || now_ns > 0, "the first burst is more than is paid");
            now_ns = if reading.open { now_ns + 300_000 } else { reading.next_ns + 4_000_000 };
            if !reading.open {
                assert!(meter.read(0, now_ns).open);
            }
        }
        assert!(bits.abs_diff(100 * MEGABIT) <= MEGABIT, "{bits} in a second");
    }

    #[test]
    fn an_opening_that_is_nearly_due_comes_with_another_reading() {
        let mut meter = Meter::new(Keeper::Meter, 0, Some(8_000_000), 0);
        let Reading { open, next_ns } = meter.read(1_000, 0);
        assert_eq!((open, next_ns), (false, 1_000_000));
        assert!(!meter.read(0, next_ns - EARLY_NS - 1).open);
        assert!(meter.read(0, next_ns - EARLY_NS).open);
    }

    #[test]
    fn a_silent_time_is_not_saved_up() {
        let mut meter = Meter::new(Keeper::Meter, 0, Some(8_000_000_000), 0);
        let now_ns = 3_600_000_000_000;
        assert!(meter.read((BURST_NS + EARLY_NS) as u32, now_ns).open);
        assert_eq!(meter.read(5, now_ns), Reading { open: false, next_ns: now_ns + EARLY_NS + 5 });
        assert!(meter.read(0, now_ns + 5).open);
    }

    #[test]
    fn no_limit_and_nothing_at_all_are_limits_too() {
        let (mut free, mut shut) = (Meter::new(Keeper::Meter, 0, None, 0), Meter::new(Keeper::Meter, 0, Some(0), 0));
        assert_eq!(free.read(u32::MAX, 7), Reading { open: true, next_ns: u64::MAX });
        assert_eq!(shut.read(0, 7), Reading { open: false, next_ns: u64::MAX });
    }

    /// Bits that pass in a second from a device that lets so many pass, and whether it was ever closed.
    fn watched(limit: u64, passes: u64) -> (u64, bool) {
        let mut meter = Meter::new(Keeper::Device, 0, Some(limit), 0);
        let (mut reading, mut now_ns, mut bits, mut was_closed) = (meter.read(0, 0), 0, 0, false);
        while now_ns < SECOND_NS {
            // Every other look comes late.
            let late_ns = if now_ns.is_multiple_of(2 * WATCH_NS) { 3 * WATCH_NS } else { 0 };
            let next_ns = reading.next_ns + if reading.open { late_ns } else { 0 };
            let sent = if reading.open { units_in(next_ns - now_ns, passes) } else { 0 };
            (now_ns, bits) = (next_ns, bits + sent);
            reading = meter.read((sent / 8) as u32, now_ns);
            was_closed |= !reading.open;
        }
        (bits, was_closed)
    }

    #[test]
    fn who_is_limited_by_the_device_is_watched_and_closed_only_if_that_does_not_keep_the_limit() {
        for limit in [1_000_000, 20_000_000, 300_000_000] {
            assert!(!watched(limit, limit).1, "{limit}");
            assert!(!watched(limit, limit + limit / 25).1, "within what limits are meant to be kept to");
            for passes in [2 * limit, LINE_BITS_PER_S] {
                let (bits, was_closed) = watched(limit, passes);
                assert!(was_closed && bits <= limit + limit / 10 + units_in(8 * WATCH_NS, passes), "{limit}: {bits}");
            }
        }
        let mut shut = Meter::new(Keeper::Device, 0, Some(0), 0);
        assert_eq!(shut.read(0, 7), Reading { open: false, next_ns: u64::MAX });
    }
}
