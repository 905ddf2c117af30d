//! What pages are worth: hits by size, as the store estimates them, less what the own base has anyway; what a hit in
//! memory is worth more than one that is read from the namespace; and what a virtual function is worth: all hits.

use alloc::vec::Vec;

use userlib::market::{HitPoint, Price, Quantity};

/// The part of a new rate that counts at once: 1 of so many.
const SMOOTHING: u64 = 4;
/// Rates are kept in so many parts of one.
const PARTS: u64 = 256;

/// How often something happens in an interval: a mean in which what was long ago counts ever less.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    parts: u64,
}

impl Rate {
    /// Takes note of an interval.
    pub fn note(&mut self, count: u64) {
        let now = count.saturating_mul(PARTS);
        self.parts = self.parts - self.parts / SMOOTHING + now / SMOOTHING;
    }

    /// The mean, rounded down.
    pub fn per_interval(self) -> u64 {
        self.parts / PARTS
    }
}

/// What it is worth to have a value in memory that could be read from the namespace: `read` and `hit` are the ticks of such a
/// read, and of a request that needs none. A client that waits for each answer gets only `hit` of `hit + read` answers, so
/// that the rest of a hit's value is what reading costs.
pub fn worth_in_memory(per_hit: Price, read: u64, hit: u64) -> Price {
    let lost = u128::from(per_hit.0) * u128::from(read) / (u128::from(read) + u128::from(hit)).max(1);
    // Not more than `per_hit`.
    Price(lost as u64)
}

/// What buying pages adds to the hits: `hits` tells hits by pages in all, ascending; `base` of these pages are there
/// anyway, and at most `most` can be used besides. Between its points the estimate is taken as straight.
pub fn points(hits: impl Iterator<Item = (u32, u64)>, base: u32, most: u32) -> Vec<HitPoint> {
    let mut points = Vec::new();
    let (mut before, mut at_base) = ((0, 0), 0);
    let end = base.saturating_add(most);
    for point in hits {
        if before.0 < base {
            at_base = between(before, point, base);
        }
        if point.0 > base && before.0 < end {
            let pages = point.0.min(end);
            let added = between(before, point, pages).saturating_sub(at_base);
            points.push(HitPoint { pages: Quantity(pages - base), hits: added });
        }
        before = point;
    }
    points
}

/// What a virtual function or a namespace is worth for one of its intervals, which has so many `parts` of the intervals that hits
/// are counted in: the hits that clients get by it, `least` at least, as who has none never learns how many there would be.
pub fn device(hits: Rate, parts: u64, least: u64, per_hit: Price) -> Price {
    let hits = hits.per_interval().saturating_mul(parts).max(least);
    Price(per_hit.0.saturating_mul(hits)).min(Price::LIMIT)
}

/// Hits at so many pages, on the line from one point to a larger one; beyond its ends, as at the nearer one.
fn between(from: (u32, u64), to: (u32, u64), pages: u32) -> u64 {
    let run = u128::from(to.0.saturating_sub(from.0).max(1));
    let part = u128::from(pages.clamp(from.0, to.0.max(from.0)) - from.0);
    let rise = u128::from(to.1.saturating_sub(from.1));
    // Not more than `to`'s.
    from.1 + (rise * part / run) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn of(hits: &[(u32, u64)], base: u32, most: u32) -> Vec<(u32, u64)> {
        points(hits.iter().copied(), base, most).iter().map(|point| (point.pages.0, point.hits)).collect()
    }

    #[test]
    fn what_the_base_has_is_not_bid_for() {
        let hits = [(1, 10), (2, 20), (4, 40), (8, 60)];
        assert_eq!(of(&hits, 0, 100), hits);
        assert_eq!(of(&hits, 4, 100), [(4, 20)]);
        assert_eq!(of(&hits, 3, 100), [(1, 10), (5, 30)]);
        assert_eq!(of(&hits, 8, 100), vec![]);
        assert_eq!(of(&hits, 9, 100), vec![]);
    }

    #[test]
    fn nothing_is_bid_for_that_cannot_be_used() {
        let hits = [(1, 10), (2, 20), (4, 40), (8, 60), (16, 61)];
        assert_eq!(of(&hits, 2, 4), [(2, 20), (4, 30)]);
        assert_eq!(of(&hits, 2, 0), vec![]);
        assert_eq!(of(&hits, 2, u32::MAX), [(2, 20), (6, 40), (14, 41)]);
    }

    #[test]
    fn memory_is_worth_what_reading_costs() {
        let worth = |read, hit| worth_in_memory(Price(1000), read, hit).0;
        assert_eq!([worth(0, 100), worth(50, 150), worth(100, 100), worth(900, 100)], [0, 250, 500, 900]);
        assert_eq!([worth(5, 0), worth(0, 0), worth(u64::MAX, u64::MAX)], [1000, 0, 500]);
        assert_eq!(worth_in_memory(Price(u64::MAX), u64::MAX, 0), Price(u64::MAX));
    }

    #[test]
    fn a_function_is_worth_its_hits() {
        let mut rate = Rate::default();
        assert_eq!(device(rate, 10, 500, Price(3)), Price(1_500));
        (0..80).for_each(|_| rate.note(1_000));
        assert!((Price(29_900)..=Price(30_000)).contains(&device(rate, 10, 500, Price(3))));
        assert_eq!(device(rate, u64::MAX, 500, Price(3)), Price::LIMIT);
    }

    #[test]
    fn a_rate_follows_and_forgets() {
        let mut rate = Rate::default();
        (0..40).for_each(|_| rate.note(1000));
        assert!((990..=1000).contains(&rate.per_interval()), "{rate:?}");
        rate.note(0);
        assert!((740..=750).contains(&rate.per_interval()), "{rate:?}");
        (0..80).for_each(|_| rate.note(0));
        assert_eq!(rate.per_interval(), 0);
    }
}
