//! What is known of a good: its rounds, and prices as people read them.

use super::History;
use market_mechanism::Credits;
use market_mechanism::types::{
    MIB_PER_GIB, PAGES_PER_GIB, Price, UNITS_PER_CORE, UNITS_PER_GIGABIT, UNITS_PER_THOUSAND,
};
use proto::nic::{BANDWIDTH_GOOD, VF_GOOD};
use proto::storage::{IOPS_GOOD, STORAGE_GOOD};

/// A point of a good's history: after one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Microseconds since the start of the run.
    pub t: u64,
    /// 1e-15 credit per unit and interval.
    pub ask: Price,
    /// 1e-15 credit per unit and interval.
    pub clearing: Price,
    /// Units sold, bases included.
    pub sold: u32,
    /// Per application, bases excluded.
    pub holdings: Vec<u32>,
}

/// A good.
#[derive(Clone, Debug)]
pub struct GoodState {
    /// Name.
    pub name: String,
    /// Interval.
    pub interval_ms: u32,
    /// Units for sale.
    pub supply: u32,
    /// One sample per round.
    pub history: History<Sample>,
    /// All payments of its rounds.
    pub paid: Credits,
}

impl GoodState {
    /// True for memory.
    pub fn is_page(&self) -> bool {
        self.name == "page"
    }

    /// True for what virtual functions of the network device may send.
    pub fn is_bandwidth(&self) -> bool {
        self.name == BANDWIDTH_GOOD
    }

    /// True for reads and writes of namespaces.
    pub fn is_iops(&self) -> bool {
        self.name == IOPS_GOOD
    }

    /// True for CPU time.
    pub(super) fn is_cpu(&self) -> bool {
        self.name.starts_with("cpu.")
    }

    /// True for what only applications with a virtual function of the network device take part in.
    pub fn is_of_nic(&self) -> bool {
        self.is_bandwidth() || self.name == VF_GOOD
    }

    /// What people read prices in, and how many units that is.
    fn measure(&self) -> (&'static str, u32) {
        match () {
            () if self.is_page() => ("credits/GiB-hour", PAGES_PER_GIB),
            () if self.is_bandwidth() => ("credits/Gb/s-hour", UNITS_PER_GIGABIT),
            () if self.is_cpu() => ("credits/core-hour", UNITS_PER_CORE),
            () if self.is_iops() => ("credits/1,000 ops/s-hour", UNITS_PER_THOUSAND),
            () if self.name == STORAGE_GOOD => ("credits/GiB-hour of storage", MIB_PER_GIB),
            () => ("credits/VF-hour", 1),
        }
    }

    /// What people read prices in.
    pub fn price_unit(&self) -> &'static str {
        self.measure().0
    }

    /// A price as people read it: for a GiB, a core or a Gb/s, for an hour.
    pub fn per_hour(&self, price: Price) -> Credits {
        price.per_hour(self.measure().1, u64::from(self.interval_ms) * 1_000_000)
    }

    /// As [`GoodState::per_hour`], as a number to draw.
    pub fn per_hour_f64(&self, price: Price) -> f64 {
        to_f64(self.per_hour(price))
    }
}

/// An amount as a number to draw; exact amounts are [`Credits`].
pub fn to_f64(amount: Credits) -> f64 {
    amount.0 as f64 / Credits::ONE.0 as f64
}
