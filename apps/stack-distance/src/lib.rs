//! How many hits would a cache of another size have? Estimated from stack distances of a sample of the keys.
//!
//! The stack distance of an access is what the different keys since the last access to the same key take together; it is
//! a hit in every LRU cache that is larger (Mattson et al. 1970). Only keys whose hash falls into a sample are followed,
//! and their distances scaled up (SHARDS: Waldspurger et al., FAST'15, with its correction for frequent keys that the
//! sample has or misses). So the cost does not grow with the trace, and hits are known also for sizes larger than the
//! present one, as a ghost list would tell.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;

use hashbrown::HashMap;
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
    /// What fits into a page.
    units_per_page: u64,
    /// Keys with this many low bits 0 are followed.
    sample_bits: u32,
    /// When each key was accessed last, and what it takes.
    last: HashMap<u64, Last>,
    /// What all of them take.
    total: u64,
    /// A Fenwick tree over times: what the key takes that was accessed last then.
    tree: Vec<u64>,
    now: u32,
    /// Accesses that are hits in `size(at)` pages and not in the size before, fading.
    histogram: [u64; SIZES],
    /// All accesses, and those that the sample stands for, fading in the same way.
    accesses: u64,
    sampled: u64,
}

/// The last access to a key.
#[derive(Clone, Copy, Debug)]
struct Last {
    time: u32,
    units: u32,
}

/// What one access counts, so that fading keeps some precision.
const ONE: u64 = 1 << 10;

impl Distances {
    /// Nothing seen yet. A page holds `units_per_page` of what keys take. One key in `1 << sample_bits` is followed, or
    /// fewer.
    pub fn new(units_per_page: u32, sample_bits: u32) -> Distances {
        Distances {
            units_per_page: units_per_page.into(),
            sample_bits,
            last: HashMap::new(),
            total: 0,
            tree: alloc::vec![0; TIMES + 1],
            now: 0,
            histogram: [0; SIZES],
            accesses: 0,
            sampled: 0,
        }
    }

    /// True if this key is of the sample. The key must be a good hash.
    pub fn follows(&self, key: u64) -> bool {
        key.trailing_zeros() >= self.sample_bits
    }

    /// Takes note of an access to a key that takes so many units; `None` if that is not known, or as before.
    pub fn access(&mut self, key: u64, units: Option<u32>) {
        self.accesses += ONE;
        if !self.follows(key) {
            return;
        }
        let weight = ONE << self.sample_bits;
        self.sampled += weight;
        if let Some((distance, units)) = self.move_to_front(key, units) {
            let needed = (distance << self.sample_bits) + u64::from(units);
            if let Some(at) = (0..SIZES).find(|&at| needed <= size(at) * self.units_per_page) {
                self.histogram[at] += weight;
            }
        }
    }

    /// Takes note of what a key takes from now on, as when it is stored, which is no access that can hit.
    pub fn store(&mut self, key: u64, units: u32) {
        if self.follows(key) {
            self.move_to_front(key, Some(units));
        }
    }

    /// Lets what was seen so far count 7/8 from now on.
    pub fn fade(&mut self) {
        for count in self.histogram.iter_mut().chain([&mut self.accesses, &mut self.sampled]) {
            *count -= *count / 8;
        }
    }

    /// Pages and hits of caches by size, ascending, when there are `accesses` per interval.
    pub fn points(&self, accesses: u64) -> impl Iterator<Item = (u32, u64)> {
        // What the sample has too few or too many of are accesses to few frequent keys, which are hits in any cache.
        let mut hits = i128::from(self.accesses) - i128::from(self.sampled);
        self.histogram.iter().enumerate().map(move |(at, count)| {
            hits += i128::from(*count);
            let expected = hits.max(0) as u128 * u128::from(accesses) / u128::from(self.accesses.max(1));
            (size(at) as u32, u64::try_from(expected).unwrap_or(u64::MAX))
        })
    }

    /// Makes a followed key the one accessed last. Tells what the keys since its last access take, and what it took.
    fn move_to_front(&mut self, key: u64, units: Option<u32>) -> Option<(u64, u32)> {
        if self.now as usize == TIMES {
            self.renumber();
        }
        let before = self.last.get(&key).copied();
        let units = units.or(before.map(|last| last.units)).unwrap_or(1);
        self.last.insert(key, Last { time: self.now, units });
        let seen = before.map(|before| {
            let distance = self.total - self.sum(before.time);
            self.change(before.time, before.units, false);
            (distance, before.units)
        });
        self.change(self.now, units, true);
        self.now += 1;
        if self.last.len() > MOST_KEYS {
            self.sample_bits += 1;
            let bits = self.sample_bits;
            self.last.retain(|&key, _| key.trailing_zeros() >= bits);
            self.renumber();
        }
        seen
    }

    /// Numbers the times of the keys from 0 on, in their order.
    fn renumber(&mut self) {
        let mut order: Vec<(u64, Last)> = self.last.iter().map(|(&key, &last)| (key, last)).collect();
        order.sort_unstable_by_key(|(_, last)| last.time);
        self.tree.fill(0);
        self.now = 0;
        self.total = 0;
        for (key, last) in order {
            self.last.insert(key, Last { time: self.now, units: last.units });
            self.change(self.now, last.units, true);
            self.now += 1;
        }
    }

    /// Adds units at a time, or takes them away.
    fn change(&mut self, time: u32, units: u32, add: bool) {
        let signed = |value: u64| if add { value + u64::from(units) } else { value - u64::from(units) };
        self.total = signed(self.total);
        let mut at = time as usize + 1;
        while at < self.tree.len() {
            self.tree[at] = signed(self.tree[at]);
            at += at & at.wrapping_neg();
        }
    }

    /// Units at times up to this one.
    fn sum(&self, time: u32) -> u64 {
        let mut at = time as usize + 1;
        let mut sum = 0;
        while at > 0 {
            sum += self.tree[at];
            at &= at - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The finaliser of SplitMix64.
    fn mix(value: u64) -> u64 {
        let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// A skewed trace: small numbers are frequent.
    fn trace(length: u64, spread: u64) -> impl Iterator<Item = u64> + Clone {
        (0..length).map(move |at| {
            let (a, b) = (mix(at) % spread, mix(!at) % spread);
            mix(a * b / spread)
        })
    }

    /// What a key takes: 1 to 8 units.
    fn units(key: u64) -> u32 {
        (key >> 40) as u32 % 8 + 1
    }

    /// Hits of an LRU cache with room for so many units.
    fn simulate(keys: impl Iterator<Item = u64>, room: u64, units: impl Fn(u64) -> u32) -> u64 {
        let (mut order, mut hits) = (Vec::new(), 0);
        for key in keys {
            if let Some(at) = order.iter().position(|other| *other == key) {
                order.remove(at);
                hits += 1;
            }
            order.push(key);
            while order.iter().map(|key| u64::from(units(*key))).sum::<u64>() > room {
                order.remove(0);
            }
        }
        hits
    }

    #[test]
    fn sizes_ascend() {
        assert_eq!((0..7).map(size).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 8, 12]);
        assert!((1..SIZES).all(|at| size(at - 1) < size(at)));
        assert_eq!(size(SIZES - 1), 3 << 13);
    }

    /// Without sampling the estimate is exact when every key takes a page.
    #[test]
    fn small_working_sets_are_estimated_exactly() {
        let keys = trace(5_000, 300);
        let mut distances = Distances::new(1, 0);
        keys.clone().for_each(|key| distances.access(key, Some(1)));
        assert_eq!(distances.sample_bits, 0);
        for (pages, hits) in distances.points(5_000).step_by(3) {
            assert_eq!(hits, simulate(keys.clone(), pages.into(), |_| 1), "{pages} pages");
        }
    }

    /// And nearly so when keys take different amounts: a large one may then be evicted before a small, younger one.
    #[test]
    fn keys_may_take_different_amounts() {
        let keys = trace(5_000, 300);
        let mut distances = Distances::new(16, 0);
        keys.clone().for_each(|key| distances.access(key, Some(units(key))));
        for (pages, hits) in distances.points(5_000).step_by(3) {
            let exact = simulate(keys.clone(), u64::from(pages) * 16, units);
            assert!(hits.abs_diff(exact) < 50, "{pages} pages: {hits} and {exact}");
        }
    }

    /// With sampling it is close.
    #[test]
    fn large_working_sets_are_estimated_within_a_few_percent() {
        const LENGTH: u64 = 20_000;
        let keys = trace(LENGTH, 10_000);
        let mut distances = Distances::new(1, 1);
        keys.clone().for_each(|key| distances.access(key, Some(1)));
        assert!(distances.sample_bits > 1);
        for (pages, hits) in distances.points(LENGTH).skip(14).step_by(4) {
            let exact = simulate(keys.clone(), pages.into(), |_| 1);
            assert!(hits.abs_diff(exact) < LENGTH / 20, "{pages} pages: {hits} and {exact}");
        }
    }

    #[test]
    fn storing_is_no_access_but_counts_as_use() {
        let mut distances = Distances::new(1, 0);
        for key in [1, 2, 3] {
            distances.store(key, 1);
        }
        distances.store(1, 1);
        distances.access(1, None);
        let points: Vec<_> = distances.points(1).collect();
        assert_eq!(points[0], (1, 1));
        assert_eq!((distances.accesses, distances.sampled), (ONE, ONE));
    }
}
