//! Memory that may hold something: bytes that were written since they were last zero.

use alloc::collections::BTreeMap;

/// A set of bytes, as ranges of which no two touch: first byte, and first byte behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dirt(BTreeMap<u64, u64>);

impl Dirt {
    /// None.
    pub const fn new() -> Dirt {
        Dirt(BTreeMap::new())
    }

    /// These bytes are written.
    pub fn add(&mut self, first: u64, bytes: u64) {
        let (mut start, mut end) = (first, first + bytes);
        while let Some((&before, &behind)) = self.0.range(..=end).next_back().filter(|(_, behind)| **behind >= start) {
            self.0.remove(&before);
            (start, end) = (start.min(before), end.max(behind));
        }
        self.0.insert(start, end);
    }

    /// These bytes are made zero.
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

    /// True if one of these bytes may hold something.
    pub fn touches(&self, first: u64, bytes: u64) -> bool {
        bytes != 0 && self.0.range(..first + bytes).next_back().is_some_and(|(_, behind)| *behind > first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_of_bytes() {
        let mut dirt = Dirt::new();
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
