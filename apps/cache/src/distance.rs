//! How many hits would a cache of another size have? Estimated from stack distances of a sample of the keys.
//!
//! The stack distance of an access is the number of different keys since the last access to the same key; it is a hit in
//! every LRU cache that is larger (Mattson et al. 1970). Only keys whose hash falls into a sample are followed, and
//! their distances scaled up (SHARDS: Waldspurger et al., FAST'15, with its correction for frequent keys that the sample
//! has or misses). So the cost does not grow with the trace, and hits are known also for sizes larger than the present
//! one, as a ghost list would tell.

use alloc::vec::Vec;

use hashbrown::HashMap;
use userlib::market::{HitPoint, Quantity};

/// Keys that are followed at most; the sample is halved when there are more.
const MOST_KEYS: usize = 2048;
/// Times that are told apart before they are renumbered.
const TIMES: usize = 2 * MOST_KEYS;
/// Sizes for which hits are estimated: powers of two, and half-way between them.
const SIZES: usize = 29;

/// The size with this number: 1, 2, 3, 4, 6, 8, 12, ... pages.
const fn size(number: usize) -> u64 {
    match number {
        0 => 1,
        _ if number % 2 == 1 => 1 << number.div_ceil(2),
        _ => 3 << (number / 2 - 1),
    }
}

/// Estimates hits by size.
#[derive(Debug)]
pub struct Distances {
    /// Keys with this many low bits 0 are followed.
    sample_bits: u32,
    /// When each key was accessed last.
    last: HashMap<u64, u32>,
    /// A Fenwick tree over times: 1 where a key was accessed last.
    tree: Vec<u32>,
    now: u32,
    /// Accesses whose distance is less than `size(at)` and not less than that of the one before, fading.
    histogram: [u64; SIZES],
    /// All accesses, and those that the sample stands for, fading in the same way.
    accesses: u64,
    sampled: u64,
}

/// What one access counts, so that fading keeps some precision.
const ONE: u64 = 1 << 10;

impl Distances {
    /// Nothing seen yet.
    pub fn new() -> Distances {
        Distances {
            sample_bits: 0,
            last: HashMap::new(),
            tree: alloc::vec![0; TIMES + 1],
            now: 0,
            histogram: [0; SIZES],
            accesses: 0,
            sampled: 0,
        }
    }

    /// Takes note of an access. The key must be a good hash.
    pub fn access(&mut self, key: u64) {
        self.accesses += ONE;
        if !self.is_sampled(key) {
            return;
        }
        let weight = ONE << self.sample_bits;
        self.sampled += weight;
        if self.now as usize == TIMES {
            self.renumber();
        }
        if let Some(before) = self.last.insert(key, self.now) {
            let between = self.last.len() as u64 - u64::from(self.sum(before));
            let distance = between << self.sample_bits;
            if let Some(at) = (0..SIZES).find(|&at| distance < size(at)) {
                self.histogram[at] += weight;
            }
            self.add(before, false);
        }
        self.add(self.now, true);
        self.now += 1;
        if self.last.len() > MOST_KEYS {
            self.sample_bits += 1;
            let bits = self.sample_bits;
            self.last.retain(|&key, _| key.trailing_zeros() >= bits);
            self.renumber();
        }
    }

    /// Lets what was seen so far count 7/8 from now on.
    pub fn fade(&mut self) {
        for count in self.histogram.iter_mut().chain([&mut self.accesses, &mut self.sampled]) {
            *count -= *count / 8;
        }
    }

    /// Hits of caches by size, when there are `accesses` per interval.
    pub fn points(&self, accesses: u64) -> Vec<HitPoint> {
        // What the sample has too few or too many of are accesses to few frequent keys, which are hits in any cache.
        let mut hits = i128::from(self.accesses) - i128::from(self.sampled);
        let mut points = Vec::new();
        for (at, count) in self.histogram.iter().enumerate() {
            hits += i128::from(*count);
            let expected = hits.max(0) as u128 * u128::from(accesses) / u128::from(self.accesses.max(1));
            let hits = u64::try_from(expected).unwrap_or(u64::MAX);
            points.push(HitPoint { pages: Quantity(size(at) as u32), hits });
        }
        points
    }

    fn is_sampled(&self, key: u64) -> bool {
        key.trailing_zeros() >= self.sample_bits
    }

    /// Numbers the times of the keys from 0 on, in their order.
    fn renumber(&mut self) {
        let mut order: Vec<(u32, u64)> = self.last.iter().map(|(&key, &time)| (time, key)).collect();
        order.sort_unstable();
        self.tree.fill(0);
        self.now = 0;
        for (_, key) in order {
            self.last.insert(key, self.now);
            self.add(self.now, true);
            self.now += 1;
        }
    }

    /// Marks a time, or takes the mark away.
    fn add(&mut self, time: u32, mark: bool) {
        let mut at = time as usize + 1;
        while at < self.tree.len() {
            self.tree[at] = if mark { self.tree[at] + 1 } else { self.tree[at] - 1 };
            at += at & at.wrapping_neg();
        }
    }

    /// Marks at times up to this one.
    fn sum(&self, time: u32) -> u32 {
        let mut at = time as usize + 1;
        let mut sum = 0;
        while at > 0 {
            sum += self.tree[at];
            at &= at - 1;
        }
        sum
    }
}

impl Default for Distances {
    fn default() -> Distances {
        Distances::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::mix;
    use crate::sizes::{Size, simulate};

    /// A skewed trace: small numbers are frequent.
    fn trace(length: u64, spread: u64) -> impl Iterator<Item = u64> + Clone {
        (0..length).map(move |at| {
            let (a, b) = (mix(at) % spread, mix(!at) % spread);
            mix(a * b / spread)
        })
    }

    #[test]
    fn sizes_ascend_and_fit_the_policy() {
        assert_eq!((0..7).map(size).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 8, 12]);
        assert!((1..SIZES).all(|at| size(at - 1) < size(at)));
        assert_eq!(size(SIZES - 1), 3 << 13);
    }

    /// Without sampling the estimate is exact.
    #[test]
    fn small_working_sets_are_estimated_exactly() {
        let keys = trace(5_000, 300);
        let mut distances = Distances::new();
        keys.clone().for_each(|key| distances.access(key));
        assert_eq!(distances.sample_bits, 0);
        for point in distances.points(5_000).into_iter().step_by(3) {
            let exact = simulate(keys.clone(), &[Size { position: 0, pages: point.pages.0 }]);
            assert_eq!(point.hits, exact, "{} pages", point.pages.0);
        }
    }

    /// With sampling it is close.
    #[test]
    fn large_working_sets_are_estimated_within_a_few_percent() {
        const LENGTH: u64 = 200_000;
        let keys = trace(LENGTH, 30_000);
        let mut distances = Distances::new();
        keys.clone().for_each(|key| distances.access(key));
        assert!(distances.sample_bits > 0);
        for point in distances.points(LENGTH).into_iter().skip(14).step_by(4) {
            let exact = simulate(keys.clone(), &[Size { position: 0, pages: point.pages.0 }]);
            assert!(point.hits.abs_diff(exact) < LENGTH / 20, "{} pages: {} and {exact}", point.pages.0, point.hits);
        }
    }
}
