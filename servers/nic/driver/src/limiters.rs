//! The device's own rate limiters, one for each transmit queue, which are told what part of the link's speed a queue may
//! send at (RTTDQSEL, RTTBCNRC).
//!
//! Not every device that calls itself an 82576 has them: the emulated one ignores what is written there. So they are looked
//! for after each reset, by a register of theirs that keeps what is written, RTTBCNRM; the others may be write-only. A device
//! that keeps a word there and limits nothing is found by the meter, which goes on counting ([`crate::meter`]).
//!
//! A VF has two queues, and each has its limiter at the whole limit: who sends by both at once is closed by the meter, too.

use crate::VFS;
use crate::registers as reg;
use device::Registers;

/// Bits per second of the fastest link, and of what is not known yet: whoever's link is slower is kept slower by it.
const FASTEST: u64 = 1_000_000_000;

/// The rate limiters of all queues.
#[derive(Debug)]
pub(crate) struct Limiters {
    present: bool,
    /// The link's speed in bits per second, when it was last up.
    speed: u64,
}

impl Limiters {
    /// Those of a device that was not looked at.
    pub const fn unknown() -> Limiters {
        Limiters { present: false, speed: FASTEST }
    }

    /// Looks for them in a device that was reset, and sets what is common to them.
    pub fn find(&mut self, registers: &impl Registers) {
        let keeps = |word: u32| {
            registers.write32(reg::RTTBCNRM, word);
            registers.read32(reg::RTTBCNRM) == word
        };
        // Two words of which no bit is the same.
        self.present = keeps(!reg::RTTBCNRM_LONG & 0x3f) && keeps(reg::RTTBCNRM_LONG);
    }

    /// Whether the device has them.
    pub const fn are_present(&self) -> bool {
        self.present
    }

    /// Takes note of the link's speed while it is up. True if it has changed: all have to be set anew.
    pub fn notice_speed(&mut self, status: u32) -> bool {
        let speed = match status >> reg::STATUS_SPEED_SHIFT & 3 {
            0 => FASTEST / 100,
            1 => FASTEST / 10,
            _ => FASTEST,
        };
        speed != core::mem::replace(&mut self.speed, speed)
    }

    /// Sets those of a VF's queues to so many bits per second; `None`: no limit.
    pub fn set(&self, registers: &impl Registers, vf: usize, bits_per_s: Option<u64>) {
        if !self.present {
            return;
        }
        let word = bits_per_s.map_or(0, |bits_per_s| word(bits_per_s, self.speed));
        for queue in [vf, vf + VFS] {
            registers.write32(reg::RTTDQSEL, queue as u32);
            registers.write32(reg::RTTBCNRC, word);
        }
    }
}

/// RTTBCNRC of a queue that may send so much over a link of this speed: off if that is all that the link carries, and never
/// more than the limit. What is slower than the largest factor says, down to nothing, is the meter's to close.
fn word(bits_per_s: u64, speed: u64) -> u32 {
    if bits_per_s >= speed {
        return 0;
    }
    let factor = if bits_per_s == 0 { u64::MAX } else { (speed << reg::RTTBCNRC_POINT).div_ceil(bits_per_s) };
    reg::RTTBCNRC_ON | u32::try_from(factor).unwrap_or(u32::MAX).min(reg::RTTBCNRC_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABIT: u64 = 1_000_000;

    #[test]
    fn the_factor_is_the_links_speed_by_the_queues() {
        for (rate, speed, integer, fraction) in [
            (500, 1_000, 2, 0),
            (250, 1_000, 4, 0),
            (400, 1_000, 2, 0x2000),
            // 3.33..., rounded to what is slower.
            (300, 1_000, 3, 5_462),
            (1, 1_000, 1_000, 0),
            (50, 100, 2, 0),
            (1, 10, 10, 0),
            // The next slower one than the link.
            (999, 1_000, 1, 17),
        ] {
            let expected = reg::RTTBCNRC_ON | integer << reg::RTTBCNRC_POINT | fraction;
            assert_eq!(word(rate * MEGABIT, speed * MEGABIT), expected, "{rate} of {speed}");
        }
    }

    #[test]
    fn no_factor_lets_more_pass_than_the_limit_and_none_a_hundredth_of_a_percent_less() {
        for speed in [10, 100, 1_000].map(|speed| speed * MEGABIT) {
            for rate in (62_000..speed).step_by(99_991) {
                let factor = u64::from(word(rate, speed) & reg::RTTBCNRC_FACTOR);
                let passes = u128::from(speed << reg::RTTBCNRC_POINT) / u128::from(factor);
                assert!(
                    passes <= u128::from(rate) && u128::from(rate) - passes <= u128::from(rate / 10_000 + 1),
                    "{rate}"
                );
            }
        }
    }

    #[test]
    fn what_the_link_carries_anyway_needs_no_limiter_and_the_slowest_have_the_largest_factor() {
        assert_eq!([word(1_000 * MEGABIT, 1_000 * MEGABIT), word(300 * MEGABIT, 100 * MEGABIT)], [0, 0]);
        assert_eq!([word(0, 10 * MEGABIT), word(1, 1_000 * MEGABIT)], [reg::RTTBCNRC_ON | reg::RTTBCNRC_FACTOR; 2]);
    }
}
