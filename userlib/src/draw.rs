//! Numbers that look random and are the same in every run. Nothing secret may depend on them.

/// A linear congruential generator (Knuth's MMIX). Any value is a seed.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `below`, which is not 0 and at most 2^31.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes() {
        let mut draw = Draw(3);
        let mut seen = [0; 7];
        (0..700).for_each(|_| seen[draw.below(7) as usize] += 1);
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(Draw(3).below(1 << 31), Draw(3).below(1 << 31));
    }
}
