//! Limits what a VF sends, where the device cannot: its transmission is closed when it has sent more than it has paid
//! for, and opened when time has made up for that. (The 82576 has rate limiters, RTTBCNRC; the emulated one has none.)
//!
//! All that was sent is charged, also what passed before the closing was noticed. A VF that sends is read often enough
//! that 100 ms of sending are within 5 % of the limit, from 10 Mb/s on; below, single frames and readings count for more.

/// A VF that was silent may send so many nanoseconds' worth at once.
pub const BURST_NS: u64 = 1_000_000;
/// Nanoseconds between two readings of a VF that is silent, and the shortest time between two of one that sends.
pub const IDLE_NS: u64 = 500_000;
const BUSY_NS: u64 = 10_000;
/// The rate of the cable in bits per second, at which a VF sends while it is open.
const LINE_BITS_PER_S: u64 = 1_000_000_000;
/// What may pass between two readings: a fiftieth of what may pass in a tenth of a second.
const SHARE_NS: u64 = 100_000_000 / 50;

/// The limit of one VF.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    bits_per_s: Option<u64>,
    /// The time up to which all that was sent is paid.
    paid_ns: u64,
    open: bool,
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
    /// A limit from now on, or none. 0 lets nothing pass.
    #[must_use]
    pub const fn new(bits_per_s: Option<u64>, now_ns: u64) -> Meter {
        Meter { bits_per_s, paid_ns: now_ns, open: true }
    }

    /// Charges what was sent since the last reading.
    pub fn read(&mut self, octets: u32, now_ns: u64) -> Reading {
        let Some(bits_per_s) = self.bits_per_s else { return Reading { open: true, next_ns: u64::MAX } };
        let was_closed = !self.open;
        self.paid_ns = self.paid_ns.max(now_ns.saturating_sub(BURST_NS)).saturating_add(cost_ns(octets, bits_per_s));
        self.open = bits_per_s != 0 && self.paid_ns <= now_ns;
        let next_ns = match self.open {
            false if bits_per_s == 0 => u64::MAX,
            false => self.paid_ns,
            true if was_closed || octets != 0 => {
                let share_ns = u128::from(bits_per_s) * u128::from(SHARE_NS) / u128::from(LINE_BITS_PER_S);
                now_ns.saturating_add((share_ns as u64).clamp(BUSY_NS, IDLE_NS))
            }
            true => now_ns.saturating_add(IDLE_NS),
        };
        Reading { open: self.open, next_ns }
    }
}

/// The time that so many octets take at this rate.
fn cost_ns(octets: u32, bits_per_s: u64) -> u64 {
    let bits = u128::from(octets) * 8;
    let cost_ns = (bits * 1_000_000_000).checked_div(u128::from(bits_per_s));
    cost_ns.and_then(|cost_ns| u64::try_from(cost_ns).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits that a VF sends in 100 ms which sends at the rate of the cable whenever it may, after it was silent.
    fn greedy(limit: u64) -> u64 {
        let mut meter = Meter::new(Some(limit), 0);
        let (mut now_ns, mut octets) = (10_000_000, 0);
        let mut reading = meter.read(0, now_ns);
        let end_ns = now_ns + 100_000_000;
        while now_ns < end_ns {
            let next_ns = reading.next_ns.min(end_ns);
            let sent = if reading.open { (next_ns - now_ns) / 8 } else { 0 };
            (now_ns, octets) = (next_ns, octets + sent);
            reading = meter.read(sent as u32, now_ns);
        }
        octets * 8
    }

    #[test]
    fn a_greedy_sender_is_kept_within_five_percent_over_a_tenth_of_a_second() {
        for limit in [10_000_000, 20_000_000, 50_000_000, 100_000_000, 300_000_000, 999_000_000] {
            let (bits, wanted) = (greedy(limit), limit / 10);
            assert!(bits.abs_diff(wanted) <= wanted / 20, "{limit} b/s: {bits} bits");
        }
    }

    #[test]
    fn a_silent_time_is_not_saved_up() {
        let mut meter = Meter::new(Some(8_000_000_000), 0);
        let now_ns = 3_600_000_000_000;
        assert!(meter.read(BURST_NS as u32, now_ns).open);
        assert_eq!(meter.read(5, now_ns), Reading { open: false, next_ns: now_ns + 5 });
        assert!(meter.read(0, now_ns + 5).open);
    }

    #[test]
    fn no_limit_and_nothing_at_all_are_limits_too() {
        let (mut free, mut shut) = (Meter::new(None, 0), Meter::new(Some(0), 0));
        assert_eq!(free.read(u32::MAX, 7), Reading { open: true, next_ns: u64::MAX });
        assert_eq!(shut.read(0, 7), Reading { open: false, next_ns: u64::MAX });
    }
}
