//! Statements of account, with the column names of FOCUS (the FinOps Open Cost and Usage Specification, 1.0).

use alloc::string::String;
use core::fmt::{self, Write};

use alloc::vec::Vec;
use market_mechanism::types::Credits;

use crate::clock::Clock;

/// One charge: for one good and interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Name of the good.
    pub good: String,
    /// The interval that was paid for.
    pub interval: u64,
    /// Its length in ticks.
    pub interval_ticks: u64,
    /// Units held in it beyond the base.
    pub quantity: u32,
    /// Paid, in 1e-15 credit.
    pub payment: u64,
}

/// An account, and the charges that the client remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Free balance.
    pub balance: Credits,
    /// In escrow.
    pub escrow: Credits,
    /// Paid so far, also for what is not remembered.
    pub paid: Credits,
    /// Charges, good by good, in the order of time.
    pub charges: Vec<Charge>,
}

/// The columns of a charge.
const COLUMNS: [&str; 9] = [
    "BillingCurrency",
    "ChargeCategory",
    "ServiceName",
    "ResourceType",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ConsumedQuantity",
    "ConsumedUnit",
    "BilledCost",
];

impl Statement {
    /// One line per charge, with a header. Times are seconds since the epoch of `clock`, amounts are credits, exact.
    pub fn write_csv(&self, clock: &Clock, out: &mut impl Write) -> fmt::Result {
        for (at, column) in COLUMNS.into_iter().enumerate() {
            write!(out, "{}{column}", if at == 0 { "" } else { "," })?;
        }
        for charge in &self.charges {
            write!(
                out,
                "\ncredit,Usage,nonkernel,{},{},{},",
                charge.good,
                Seconds(clock, charge.interval, charge),
                Seconds(clock, charge.interval + 1, charge)
            )?;
            write!(out, "{},unit-interval,{}", charge.quantity, Credits(charge.payment.into()))?;
        }
        writeln!(out)
    }

    /// The same as one JSON object, with the balances.
    pub fn write_json(&self, clock: &Clock, out: &mut impl Write) -> fmt::Result {
        write!(
            out,
            "{{\"Balance\":\"{}\",\"Escrow\":\"{}\",\"Paid\":\"{}\",\"Charges\":[",
            self.balance, self.escrow, self.paid
        )?;
        for (at, charge) in self.charges.iter().enumerate() {
            let values = [
                &"\"credit\"" as &dyn fmt::Display,
                &"\"Usage\"",
                &"\"nonkernel\"",
                &Quoted(&charge.good),
                &Seconds(clock, charge.interval, charge),
                &Seconds(clock, charge.interval + 1, charge),
                &charge.quantity,
                &"\"unit-interval\"",
                &Quoted(&Credits(charge.payment.into())),
            ];
            out.write_str(if at == 0 { "{" } else { ",{" })?;
            for (at, (column, value)) in COLUMNS.into_iter().zip(values).enumerate() {
                write!(out, "{}\"{column}\":{value}", if at == 0 { "" } else { "," })?;
            }
            out.write_str("}")?;
        }
        writeln!(out, "]}}")
    }
}

/// A value that needs no escaping, in quotation marks.
struct Quoted<T: fmt::Display>(T);

impl<T: fmt::Display> fmt::Display for Quoted<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\"", self.0)
    }
}

/// The start of an interval, in seconds.
struct Seconds<'a>(&'a Clock, u64, &'a Charge);

impl fmt::Display for Seconds<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.us_of_ticks(self.1.saturating_mul(self.2.interval_ticks));
        write!(out, "{}.{:06}", us / 1_000_000, us % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_json_say_the_same() {
        let charge =
            Charge { good: "cpu.0".into(), interval: 3, interval_ticks: 10_000_000, quantity: 4, payment: 1_500 };
        let statement = Statement {
            balance: Credits(5_000_000_000_000_000),
            escrow: Credits::ZERO,
            paid: Credits(1_500),
            charges: std::vec![charge],
        };
        let clock = Clock::new(1_000_000_000, 77);
        let (mut csv, mut json) = (String::new(), String::new());
        statement.write_csv(&clock, &mut csv).unwrap();
        statement.write_json(&clock, &mut json).unwrap();
        let row = csv.lines().nth(1).unwrap();
        assert_eq!(row, "credit,Usage,nonkernel,cpu.0,0.030000,0.040000,4,unit-interval,0.0000000000015");
        assert_eq!(csv.lines().next().unwrap().split(',').count(), row.split(',').count());
        for (column, value) in COLUMNS.into_iter().zip(row.split(',')) {
            assert!(
                json.contains(&std::format!("\"{column}\":{value}"))
                    || json.contains(&std::format!("\"{column}\":\"{value}\"")),
                "{column}"
            );
        }
        assert!(json.starts_with("{\"Balance\":\"5\",\"Escrow\":\"0\","));
    }
}
