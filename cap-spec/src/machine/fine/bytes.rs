//! Sets of bytes: memory that may hold something, as it was written since it was last zero, and memory in quarantine.

use alloc::collections::BTreeMap;

/// A set of bytes, as ranges of which no two touch: first byte, and first byte behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(BTreeMap<u64, u64>);

impl Bytes {
    /// None.
    pub const fn new() -> Bytes {
        Bytes(BTreeMap::new())
    }

    /// These bytes are among them, too.
    pub fn add(&mut self, first: u64, bytes: u64) {
        let (mut start, mut end) = (first, first + bytes);
        while let Some((&before, &behind)) = self.0.range(..=end).next_back().filter(|(_, behind)| **behind >= start) {
            self.0.remove(&before);
            (start, end) = (start.min(before), end.max(behind));
        }
        self.0.insert(start, end);
    }

    /// These bytes are not among them any more.
    pub fn clear(&mut self, first: u64, bytes: u64) {
        let end = first + bytes;
        while let Some((&before, &behind)) = self.0.range(..end).next_back().filter(|(_, behind)| **behind > first) {
            self.0.remove(&before);
            if before < first {
                self.0.insert(before, first);
            }
            if behind > end {
                self.0.insert(end, behind);
            }
        }
    }

    /// True if one of these bytes is among them.
    pub fn touches(&self, first: u64, bytes: u64) -> bool {
        self.reaches_into(first, bytes) != 0
    }

    /// How many of these bytes lie before the end of the last that is among them.
    pub fn reaches_into(&self, first: u64, bytes: u64) -> u64 {
        let end = first + bytes;
        let last = self.0.range(..end).next_back().filter(|(_, behind)| **behind > first);
        last.map_or(0, |(_, behind)| (*behind).min(end) - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_of_bytes() {
        let mut dirt = Bytes::new();
        let mut bytes = [false; 64];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (first, count, adds) = ((seed >> 40) % 56, 1 + (seed >> 50) % 8, seed >> 63 == 0);
            if adds {
                dirt.add(first, count);
            } else {
                dirt.clear(first, count);
            }
            bytes[first as usize..(first + count) as usize].fill(adds);
            for (at, holds) in bytes.iter().enumerate() {
                assert_eq!(dirt.touches(at as u64, 1), *holds, "{at} of {dirt:?}");
            }
        }
        assert!(!dirt.touches(0, 0));
    }
}
