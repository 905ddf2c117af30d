//! Which effort and which window to compress with, given the prices.
//!
//! A plan costs CPU time, and memory for as long as it takes; it brings the bytes by which the output is smaller than the
//! input. What each plan brings and costs is measured as it is used. The best plan is the one with the highest profit on
//! the next stretch of input. When CPU time is dear that is a plan of little effort, when pages are dear one of a small
//! window.

use alloc::vec::Vec;

use userlib::market::{HitPoint, Price, Quantity};

/// Bytes of input of which costs and gains are said.
pub const STRETCH: u64 = 1 << 16;
/// Bytes saved that are a unit of work.
pub const UNIT: u64 = 1024;

/// A way of compressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// zlib's level, 1 to 9.
    pub level: i32,
    /// log2 of the window in bytes, 9 to 15.
    pub window_bits: i32,
    /// zlib's memory level, 1 to 9.
    pub memory_level: i32,
    /// Pages that the compressor's state takes.
    pub pages: u32,
    /// What is expected before anything was measured, per stretch: bytes of output and ticks.
    expected: (u64, u64),
}

const fn plan(level: i32, window_bits: i32, memory_level: i32, pages: u32, expected: (u64, u64)) -> Plan {
    Plan { level, window_bits, memory_level, pages, expected }
}

/// Every plan, in ascending order of memory. Expectations are of program text, a little on the hopeful side, so that
/// each plan is tried before it is judged.
pub const PLANS: [Plan; 10] = [
    plan(1, 12, 4, 39, (26_000, 4_000_000)),
    plan(3, 12, 5, 41, (19_500, 6_500_000)),
    plan(1, 13, 6, 48, (25_000, 4_000_000)),
    plan(6, 13, 6, 48, (17_500, 9_000_000)),
    plan(1, 14, 7, 63, (24_000, 4_000_000)),
    plan(6, 14, 7, 63, (16_500, 9_000_000)),
    plan(1, 15, 8, 93, (23_500, 4_000_000)),
    plan(3, 15, 8, 93, (16_800, 6_200_000)),
    plan(6, 15, 8, 93, (15_500, 10_000_000)),
    plan(9, 15, 9, 121, (15_300, 20_000_000)),
];

/// Plans that fit into the base.
pub const BASE_PLANS: usize = 2;

/// How many of `pages` pages in a row some plan can use.
pub fn useful(pages: u32) -> u32 {
    PLANS[BASE_PLANS..].iter().map(|plan| plan.pages).filter(|&needed| needed <= pages).max().unwrap_or(0)
}

/// What a plan brought and cost, per stretch; fading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Experience {
    output: u64,
    ticks: u64,
}

/// The prices of the moment, and what they are paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// What 1,024 bytes saved are worth.
    pub per_unit: Price,
    /// A unit of CPU time, per interval.
    pub cpu: Price,
    /// Ticks that such a unit is.
    pub cpu_ticks: u64,
    /// A page, per interval.
    pub page: Price,
    /// Ticks of CPU time that this application has in an interval of the page good.
    pub ticks_per_page_interval: u64,
}

/// What is known about the plans.
#[derive(Clone, Debug)]
pub struct Plans {
    known: [Experience; PLANS.len()],
}

impl Plans {
    /// Expectations only.
    pub fn new() -> Plans {
        Plans { known: PLANS.map(|plan| Experience { output: plan.expected.0, ticks: plan.expected.1 }) }
    }

    /// Takes note of what a plan did.
    pub fn measured(&mut self, plan: usize, input: u64, output: u64, ticks: u64) {
        // Headers and first matches would distort what a short stretch says.
        if input < STRETCH / 2 {
            return;
        }
        let per_stretch = |amount: u64| u128::from(amount) * u128::from(STRETCH) / u128::from(input);
        let blend = |before: u64, now: u128| u64::try_from((u128::from(before) + now) / 2).unwrap_or(u64::MAX);
        let known = &mut self.known[plan];
        known.output = blend(known.output, per_stretch(output));
        known.ticks = blend(known.ticks, per_stretch(ticks)).max(1);
    }

    /// The best plan among those that need at most `pages` pages beyond the base.
    pub fn best(&self, pages: u32, prices: &Prices) -> usize {
        let fits = |at: &usize| *at < BASE_PLANS || PLANS[*at].pages <= pages;
        (0..PLANS.len()).filter(fits).max_by_key(|&at| self.profit(at, prices)).unwrap_or(0)
    }

    /// How many bytes saved per interval having so many pages is worth, for a page good's bid: what the plan brings more
    /// than the best one of the base, before the pages are paid.
    pub fn points(&self, prices: &Prices) -> Vec<HitPoint> {
        let per_byte = i128::from((prices.per_unit.0 / UNIT).max(1));
        let base = (0..BASE_PLANS).map(|at| self.gain(at, prices)).max().unwrap_or(0);
        let mut points: Vec<HitPoint> = Vec::new();
        for (at, plan) in PLANS.iter().enumerate().skip(BASE_PLANS) {
            let more = (self.gain(at, prices) - base).max(0) / per_byte;
            // As much as is worked through in an interval.
            let worth = more * i128::from(prices.ticks_per_page_interval) / i128::from(self.known[at].ticks);
            let hits = u64::try_from(worth).unwrap_or(u64::MAX);
            let pages = Quantity(plan.pages);
            match points.last_mut() {
                // Of the plans with the same memory the best one counts.
                Some(last) if last.pages == pages => last.hits = last.hits.max(hits),
                _ => points.push(HitPoint { pages, hits }),
            }
        }
        points
    }

    /// What a unit of CPU time is worth with this plan: the bytes that it saves.
    pub fn cpu_value(&self, at: usize, prices: &Prices) -> Price {
        let worth = self.saved_worth(at, prices) * i128::from(prices.cpu_ticks) / i128::from(self.known[at].ticks);
        Price(u64::try_from(worth.max(0)).unwrap_or(u64::MAX)).min(Price::LIMIT)
    }

    /// What the bytes saved on a stretch are worth.
    fn saved_worth(&self, at: usize, prices: &Prices) -> i128 {
        let saved = i128::from(STRETCH) - i128::from(self.known[at].output);
        saved * i128::from(prices.per_unit.0) / i128::from(UNIT)
    }

    /// Worth of the bytes saved on a stretch less what the CPU time costs.
    fn gain(&self, at: usize, prices: &Prices) -> i128 {
        let cpu = i128::from(self.known[at].ticks) * i128::from(prices.cpu.0) / i128::from(prices.cpu_ticks.max(1));
        self.saved_worth(at, prices) - cpu
    }

    /// Gain on a stretch less what its pages cost meanwhile.
    fn profit(&self, at: usize, prices: &Prices) -> i128 {
        let pages = if at < BASE_PLANS { 0 } else { i128::from(PLANS[at].pages) };
        let ticks = i128::from(self.known[at].ticks);
        let rent = pages * i128::from(prices.page.0) * ticks / i128::from(prices.ticks_per_page_interval.max(1));
        self.gain(at, prices) - rent
    }
}

impl Default for Plans {
    fn default() -> Plans {
        Plans::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Prices = Prices {
        per_unit: Price(1_000_000),
        cpu: Price(1),
        cpu_ticks: 100_000,
        page: Price(1),
        ticks_per_page_interval: 10_000_000,
    };

    #[test]
    fn dear_pages_mean_a_small_window_and_dear_cpu_time_little_effort() {
        let plans = Plans::new();
        assert_eq!(plans.best(1_000, &CHEAP), PLANS.len() - 1);
        let dear_pages = Prices { page: Price(1 << 40), ..CHEAP };
        assert!(plans.best(1_000, &dear_pages) < BASE_PLANS);
        let dear_cpu = Prices { cpu: Price(1 << 40), ..CHEAP };
        assert_eq!(PLANS[plans.best(1_000, &dear_cpu)].level, 1);
        // What is not held cannot be used.
        assert_eq!(PLANS[plans.best(70, &CHEAP)].pages, 63);
        assert!(plans.best(0, &CHEAP) < BASE_PLANS);
    }

    #[test]
    fn effort_and_window_fall_as_prices_rise() {
        let plans = Plans::new();
        let by = |prices: &dyn Fn(u64) -> Prices| -> Vec<u32> {
            (0..40).map(|at| PLANS[plans.best(1_000, &prices(1 << at))].pages).collect()
        };
        let pages = by(&|price| Prices { page: Price(price), ..CHEAP });
        assert!(pages.is_sorted_by(|a, b| a >= b) && pages[0] > pages[39], "{pages:?}");
        let levels: Vec<i32> =
            (0..40).map(|at| PLANS[plans.best(1_000, &Prices { cpu: Price(1 << at), ..CHEAP })].level).collect();
        assert!(levels.is_sorted_by(|a, b| a >= b) && levels[0] > levels[39], "{levels:?}");
    }

    #[test]
    fn pages_that_make_no_window_are_of_no_use() {
        assert_eq!([0, 47, 48, 62, 63, 500].map(useful), [0, 0, 48, 48, 63, 121]);
    }

    #[test]
    fn pages_are_worth_what_they_save() {
        let plans = Plans::new();
        let points = plans.points(&CHEAP);
        assert_eq!(points.iter().map(|point| point.pages.0).collect::<Vec<_>>(), [48, 63, 93, 121]);
        assert!(points[0].hits > 0);
        let twice = plans.points(&Prices { ticks_per_page_interval: 20_000_000, ..CHEAP });
        assert!(twice[0].hits.abs_diff(2 * points[0].hits) <= 2);
        // When CPU time is dear, great effort is of no use; a larger window without more effort still is.
        let dear_cpu = plans.points(&Prices { cpu: Price(1 << 40), ..CHEAP });
        assert_eq!(dear_cpu[3].hits, 0);
        assert!(dear_cpu[2].hits > 0);
    }

    #[test]
    fn what_was_measured_counts() {
        let mut plans = Plans::new();
        let best = plans.best(1_000, &CHEAP);
        for _ in 0..20 {
            // It turns out to save nothing.
            plans.measured(best, STRETCH, STRETCH, 1_000_000);
        }
        assert_ne!(plans.best(1_000, &CHEAP), best);
        assert!(plans.cpu_value(best, &CHEAP) < Plans::new().cpu_value(best, &CHEAP));
        let before = plans.clone();
        plans.measured(0, 10, 100, 1);
        assert_eq!(plans.known, before.known, "too short to tell");
    }
}
