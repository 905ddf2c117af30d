//! Limits what a VF sends, where the device cannot: its transmission is closed when it has sent more than it has paid
//! for, and opened when time has made up for that. (The 82576 has rate limiters, RTTBCNRC; the emulated one has none.)
//!
//! All that was sent is charged, also what passed before the closing was noticed, so the rate is kept over any time that
//! is long against the distance of two readings plus [`BURST_NS`].

/// A VF that was silent may send so many nanoseconds' worth at once.
pub const BURST_NS: u64 = 1_000_000;

/// The limit of one VF.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    bits_per_s: Option<u64>,
    /// The time up to which all that was sent is paid.
    paid_ns: u64,
}

impl Meter {
    /// A limit from now on, or none. 0 lets nothing pass.
    #[must_use]
    pub const fn new(bits_per_s: Option<u64>, now_ns: u64) -> Meter {
        Meter { bits_per_s, paid_ns: now_ns }
    }

    /// Charges what was sent since the last time.
    pub fn charge(&mut self, octets: u32, now_ns: u64) {
        let Some(bits_per_s) = self.bits_per_s else { return };
        let bits = u128::from(octets) * 8;
        let cost_ns = (bits * 1_000_000_000).checked_div(u128::from(bits_per_s)).unwrap_or(u128::MAX);
        let cost_ns = u64::try_from(cost_ns).unwrap_or(u64::MAX);
        self.paid_ns = self.paid_ns.max(now_ns.saturating_sub(BURST_NS)).saturating_add(cost_ns);
    }

    /// When the VF may send again; not later than `now_ns` if it may now.
    #[must_use]
    pub fn opens_ns(&self, now_ns: u64) -> u64 {
        match self.bits_per_s {
            None => now_ns,
            Some(0) => u64::MAX,
            Some(_) => self.paid_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A VF that sends at 1 Gb/s whenever it may, read every `step_ns`; bits sent in `total_ns`.
    fn greedy(limit: u64, step_ns: u64, total_ns: u64) -> u64 {
        let (mut meter, mut octets, mut open) = (Meter::new(Some(limit), 0), 0, true);
        for now_ns in (step_ns..=total_ns).step_by(step_ns as usize) {
            let sent = if open { step_ns / 8 } else { 0 };
            octets += sent;
            meter.charge(sent as u32, now_ns);
            open = meter.opens_ns(now_ns) <= now_ns;
        }
        octets * 8
    }

    #[test]
    fn a_greedy_sender_is_kept_within_five_percent() {
        for limit in [10_000_000, 100_000_000, 300_000_000, 999_000_000] {
            for step_ns in [10_000, 100_000, 500_000] {
                for total_ns in [100_000_000, 1_000_000_000] {
                    let wanted = limit * (total_ns / 1_000_000) / 1000;
                    // What a sender gets through between two readings must be little against the whole.
                    if step_ns + BURST_NS * limit / 1_000_000_000 > wanted / 25 {
                        continue;
                    }
                    let bits = greedy(limit, step_ns, total_ns);
                    assert!(bits.abs_diff(wanted) <= wanted / 20, "{limit} b/s, {step_ns} ns: {bits} in {total_ns} ns");
                }
            }
        }
    }

    #[test]
    fn a_silent_time_is_not_saved_up() {
        let mut meter = Meter::new(Some(8_000_000_000), 0);
        let now_ns = 3_600_000_000_000;
        meter.charge(BURST_NS as u32, now_ns);
        assert_eq!(meter.opens_ns(now_ns), now_ns);
        meter.charge(5, now_ns);
        assert_eq!(meter.opens_ns(now_ns), now_ns + 5);
    }

    #[test]
    fn no_limit_and_nothing_at_all_are_limits_too() {
        let (mut free, mut closed) = (Meter::new(None, 0), Meter::new(Some(0), 0));
        free.charge(u32::MAX, 7);
        closed.charge(u32::MAX, 7);
        assert_eq!((free.opens_ns(7), closed.opens_ns(7)), (7, u64::MAX));
    }
}
