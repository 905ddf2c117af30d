//! A rate that is sold and that the server of a device keeps: what it was told for one function, and what it says that it has
//! put in force.

/// The rate of one function, in whatever its server counts per second.
#[derive(Clone, Copy, Debug)]
pub struct SoldRate {
    /// What the server was told last; `None`: no limit.
    told: Option<u64>,
    /// The TSC value from which on that is to hold.
    since: u64,
    /// What the server says that it has put in force; `None`: nothing yet.
    in_force: Option<Option<u64>>,
}

impl SoldRate {
    /// Of a function that nobody has.
    pub const fn nothing() -> SoldRate {
        SoldRate { told: Some(0), since: 0, in_force: None }
    }

    /// The server has just been started, and has put nothing in force.
    pub fn forget(&mut self) {
        self.in_force = None;
    }

    /// The server is told now what a holder may do.
    pub fn begin(&mut self, per_s: Option<u64>, now: u64) {
        (self.told, self.since) = (per_s, now);
    }

    /// A holder may do so much from a TSC value on. Returns that moment in nanoseconds if the server is to be told: it is not
    /// if it was told so before.
    pub fn change(&mut self, per_s: u64, from: u64, now: u64, tsc_hz: u64) -> Option<u64> {
        if self.told == Some(per_s) {
            return None;
        }
        (self.told, self.since) = (Some(per_s), now.max(from));
        Some((u128::from(from) * 1_000_000_000 / u128::from(tsc_hz)) as u64)
    }

    /// Takes note of what the server says.
    pub fn says(&mut self, per_s: Option<u64>) {
        self.in_force = Some(per_s);
    }

    /// Units, of so much each, that are in force. `None` if there is no limit, or if the server was told one less than
    /// `patience` ticks ago that is not in force.
    pub fn units(&self, unit: u64, now: u64, patience: u64) -> Option<u64> {
        if self.in_force != Some(self.told) && now < self.since.saturating_add(patience) {
            return None;
        }
        // What is no whole number of units is nothing that was sold.
        self.in_force.unwrap_or(Some(0)).map(|per_s| per_s.div_ceil(unit))
    }
}
