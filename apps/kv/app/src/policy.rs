//! What pages are worth: hits by size, as the store estimates them, less what the own base has anyway; what a hit in
//! memory is worth more than one that is read from the namespace; and what a virtual function and its bandwidth are worth: the
//! hits that clients get by them.

use alloc::vec::Vec;

use userlib::market::{FixedBid, HitPoint, Price, Quantity};

/// The part of a new rate that counts at once: 1 of so many.
const SMOOTHING: u64 = 4;
/// Bandwidth that is wanted, by what is sent in the mean.
const BURSTS: u64 = 3;
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

/// A part of a price in thousandths, rounded down; all of a price of nothing.
pub fn thousandths(part: Price, whole: Price) -> u64 {
    u128::from(part.0).saturating_mul(1000).checked_div(u128::from(whole.0)).map_or(1000, |parts| parts as u64)
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

/// What was sent: in the last interval, and in those before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    mean: Rate,
    last: u64,
    total: u64,
}

impl Sending {
    /// Takes note of how many bytes have been sent since the start.
    pub fn note(&mut self, total: u64) {
        self.last = total.saturating_sub(self.total);
        self.total = total;
        self.mean.note(self.last);
    }

    /// What to bid for bandwidth, of which there are units `held` and, as long as the application lives, those of its `base`.
    /// A unit lets `counted` bytes through in the interval that bytes and hits are counted in, and `sold` in the one that it
    /// is sold for. Answers come in bursts, and who waits for one asks for nothing meanwhile; so there is to be
    /// [`BURSTS`] times as much as is sent. A unit is worth the hits whose answers it carries, as all are of the same
    /// kind; who has none at all bids for one, at `least` hits.
    pub fn bid(
        self,
        hits: Rate,
        (counted, sold): (u64, u64),
        (base, held): (u32, u32),
        least: u64,
        per_hit: Price,
    ) -> FixedBid {
        let used = self.last.max(self.mean.per_interval()).div_ceil(counted.max(1));
        let has_none = base == 0 && held == 0;
        let wanted = used.saturating_mul(BURSTS).max(has_none.into());
        let bytes = self.mean.per_interval().max(1);
        let carried = u128::from(hits.per_interval()) * u128::from(sold) / u128::from(bytes);
        let carried = if has_none { carried.max(least.into()) } else { carried };
        let value = u128::from(per_hit.0).saturating_mul(carried);
        FixedBid {
            units: Quantity(wanted.saturating_sub(base.into()).try_into().unwrap_or(u32::MAX)),
            value: u64::try_from(value).map_or(Price::LIMIT, Price).min(Price::LIMIT),
            keep: Price::ZERO,
        }
    }
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

    #[test]
    fn thousandths_are_of_the_whole() {
        assert_eq!(thousandths(Price(3), Price(4)), 750);
        assert_eq!(thousandths(Price::LIMIT, Price::LIMIT), 1000);
        assert_eq!(thousandths(Price(0), Price(0)), 1000);
    }

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

    /// A unit is 100 bytes in an interval; there is one hit for every 50 bytes.
    #[test]
    fn bandwidth_is_worth_the_hits_that_it_carries() {
        let after = |each: &[u64], has: (u32, u32)| {
            let (mut sending, mut hits, mut total) = (Sending::default(), Rate::default(), 0);
            for bytes in each {
                total += bytes;
                sending.note(total);
                hits.note(bytes / 50);
            }
            let bid = sending.bid(hits, (100, 200), has, 7, Price(3));
            (bid.units.0, bid.value.0)
        };
        let steady = |bytes| [bytes; 100];
        // Four hits a unit; what is lost by rounding of means is less than one.
        let (units, value) = after(&steady(1_000), (0, 100));
        assert!(units == 30 && (6..=12).contains(&value), "{units} at {value}");
        assert_eq!(after(&steady(1_000), (4, 100)).0, 26);
        assert_eq!(after(&steady(1_000), (30, 0)).0, 0, "the base is enough");
        assert_eq!(after(&[1, 1, 1, 890], (10, 0)).0, 17, "what it sends now counts, too");
        // Who has nothing gets the first unit at what it is told, and who sends nothing wants nothing.
        assert_eq!(after(&[], (0, 0)), (1, 7 * 3));
        assert_eq!(after(&steady(0), (3, 0)), (0, 0));
        let huge = Sending { last: u64::MAX, total: u64::MAX, mean: Rate::default() };
        assert_eq!(huge.bid(Rate::default(), (1, u64::MAX), (0, u32::MAX), 1, Price(1)).units, Quantity(u32::MAX));
        assert_eq!(huge.bid(Rate::default(), (0, 0), (0, 0), u64::MAX, Price(u64::MAX)).value, Price::LIMIT);
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
