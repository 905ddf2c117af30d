//! The rounds of a run in numbers: what a good cost, who held how much of it, and how the two went together.

use std::ops::Range;
use xtask::run_state::{GoodState, RunState, Sample};

/// A good by its name (`page`, `cpu.0`).
///
/// # Panics
/// If the run has none of this name.
pub fn good<'a>(run: &'a RunState, name: &str) -> &'a GoodState {
    run.goods.iter().find(|good| good.name == name).expect("the good")
}

fn inside(good: &GoodState, time: Range<u64>) -> impl Iterator<Item = &Sample> {
    good.history.iter().filter(move |sample| time.contains(&sample.t))
}

/// The ask of a good (credits per hour) and an application's holding of it (units), round by round, in a part of the run
/// (microseconds).
///
/// # Panics
/// If the run has no such good or application.
pub fn ask_and_holding(run: &RunState, name: &str, app: &str, time: Range<u64>) -> Vec<(f64, f64)> {
    let app = run.apps.iter().position(|found| found.name == app).expect("the application");
    let good = good(run, name);
    inside(good, time).map(|sample| (good.per_hour_f64(sample.ask), f64::from(sample.holdings[app]))).collect()
}

/// The applications that held the only unit of a good, one after the other.
///
/// # Panics
/// If there are more units, or a round's price is not what was paid for it: payments are by the rule that the value of who
/// lost is the price.
pub fn holders_of_one(good: &GoodState) -> Vec<usize> {
    let mut holders = Vec::new();
    let mut paid = 0;
    for round in &good.history {
        let units: u32 = round.holdings.iter().sum();
        assert!(units <= 1, "{round:?}");
        paid += i128::from(units) * i128::from(round.clearing.0);
        holders.extend(round.holdings.iter().position(|units| *units > 0));
    }
    assert_eq!(good.paid.0, paid, "{:?}", good.history);
    holders.dedup();
    holders
}

/// The mean of an application's holding over rounds.
///
/// # Panics
/// If there are fewer than five: then a mean says nothing.
pub fn mean_holding(rounds: &[(f64, f64)]) -> f64 {
    assert!(rounds.len() >= 5, "only {} rounds", rounds.len());
    rounds.iter().map(|(_, holding)| holding).sum::<f64>() / rounds.len() as f64
}

/// The highest clearing price of a good (credits per hour) in a part of the run (microseconds); 0 if there was no round.
pub fn highest_clearing(run: &RunState, name: &str, time: Range<u64>) -> f64 {
    let good = good(run, name);
    inside(good, time).map(|sample| good.per_hour_f64(sample.clearing)).fold(0.0, f64::max)
}

/// Pearson's correlation, -1 to 1; not a number if either side never changes.
pub fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|pair| of(pair.0 - x, pair.1 - y)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_is_that_of_known_numbers() {
        assert!((correlation(&[(1.0, 2.0), (2.0, 4.0), (5.0, 10.0)]) - 1.0).abs() < 1e-12);
        assert!((correlation(&[(1.0, 4.0), (2.0, 2.0), (3.0, 3.0)]) + 0.5).abs() < 1e-12);
        assert!(correlation(&[(1.0, 4.0), (2.0, 4.0)]).is_nan());
    }
}
