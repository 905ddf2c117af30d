//! Which keys there are, how often each is asked for, and what belongs to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Keys at random, the small ones much more often than the large ones; the same for the same seed.
#[derive(Clone, Debug)]
pub struct Keys {
    state: u64,
    count: u64,
}

impl Keys {
    /// Keys from 0 up to `count` (at least 1).
    pub fn new(seed: u64, count: u64) -> Keys {
        Keys { state: seed, count: count.max(1) }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// The next key: the product of two uniform numbers, so that no size of a cache is the last that helps.
    pub fn next_key(&mut self) -> u64 {
        let (a, b) = (self.random() % self.count, self.random() % self.count);
        a * b / self.count
    }
}

/// A key as the server knows it.
pub fn name(key: u64) -> String {
    format!("k{key}")
}

/// What belongs to a key.
pub fn value(key: u64, bytes: usize) -> Vec<u8> {
    // Eight bytes at a time, all of them printable.
    let word =
        |at: u64| (key + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7 & 0x3f3f_3f3f_3f3f_3f3f | 0x4040_4040_4040_4040;
    let mut value: Vec<u8> = (0..bytes.div_ceil(8) as u64).flat_map(|at| word(at << 32).to_le_bytes()).collect();
    value.truncate(bytes);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_keys_are_more_frequent_and_all_are_there() {
        let mut keys = Keys::new(1, 100);
        let mut counts = [0; 100];
        (0..100_000).for_each(|_| counts[keys.next_key() as usize] += 1);
        let sums: Vec<u32> = counts.chunks(25).map(|part| part.iter().sum()).collect();
        assert!(sums.windows(2).all(|pair| pair[0] > pair[1]) && sums[0] > 10 * sums[3] && sums[3] > 0, "{sums:?}");
    }

    #[test]
    fn values_differ() {
        assert_ne!(value(1, 100), value(2, 100));
        assert_eq!(value(7, 3).len(), 3);
    }
}
