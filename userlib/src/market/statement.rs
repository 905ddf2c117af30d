//! Statements of account, with the column names of FOCUS (the FinOps Open Cost and Usage Specification, 1.0).

use core::fmt::{self, Write};

use alloc::vec::Vec;
use market_mechanism::types::Credits;
use proto::market::{Movement, StatementLine, StatementPage};

use super::book::{Good, PAGE_GOOD};
use crate::clock::Clock;

/// An account, and every movement of its money that the market remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Free balance.
    pub balance: Credits,
    /// In escrow.
    pub escrow: Credits,
    /// Paid so far, also for what is not remembered.
    pub paid: Credits,
    /// The account's money before the first line.
    pub opening: Credits,
    /// Movements in the order in which they happened.
    pub lines: Vec<StatementLine>,
    /// Number of the first line.
    first: u64,
    goods: Vec<Good>,
}

/// The columns of a line.
const COLUMNS: [&str; 10] = [
    "BillingCurrency",
    "ChargeCategory",
    "ChargeDescription",
    "ServiceName",
    "ResourceType",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ConsumedQuantity",
    "ConsumedUnit",
    "BilledCost",
];

impl Statement {
    /// One without lines.
    pub(super) fn new(goods: Vec<Good>) -> Statement {
        let nothing = Credits::ZERO;
        Statement {
            balance: nothing,
            escrow: nothing,
            paid: nothing,
            opening: nothing,
            lines: Vec::new(),
            first: 0,
            goods,
        }
    }

    /// Number of the line after the last one here.
    pub(super) fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Appends what the market has answered: balance, escrow and paid, and lines. True if these were the last ones.
    pub(super) fn append(&mut self, [balance, escrow, paid]: [i128; 3], page: StatementPage) -> bool {
        if page.first != self.next() {
            // The market has forgotten lines in between.
            self.lines.clear();
        }
        if self.lines.is_empty() {
            (self.first, self.opening) = (page.first, Credits(page.opening));
        }
        self.lines.extend(page.lines);
        (self.balance, self.escrow, self.paid) = (Credits(balance), Credits(escrow), Credits(paid));
        self.next() >= page.end
    }

    /// Whether the lines lead from the opening to what the account has.
    pub fn adds_up(&self) -> bool {
        let lines: i128 = self.lines.iter().map(|line| line.amount).sum();
        self.opening + Credits(lines) == self.balance + self.escrow
    }

    /// One line per movement, with a header; first of all what is carried forward. Times are seconds since the epoch of
    /// `clock`, amounts are credits, exact, and positive where the account pays.
    pub fn write_csv(&self, clock: &Clock, out: &mut impl Write) -> fmt::Result {
        for (at, column) in COLUMNS.into_iter().enumerate() {
            write!(out, "{}{column}", if at == 0 { "" } else { "," })?;
        }
        for row in self.rows(clock) {
            for (at, value) in row.values().into_iter().enumerate() {
                write!(out, "{}{value}", if at == 0 { "\n" } else { "," })?;
            }
        }
        writeln!(out)
    }

    /// The same as one JSON object, with the balances. Every value is a string but the quantity.
    pub fn write_json(&self, clock: &Clock, out: &mut impl Write) -> fmt::Result {
        write!(
            out,
            "{{\"Balance\":\"{}\",\"Escrow\":\"{}\",\"Paid\":\"{}\",\"Charges\":[",
            self.balance, self.escrow, self.paid
        )?;
        for (at, row) in self.rows(clock).enumerate() {
            out.write_str(if at == 0 { "{" } else { ",{" })?;
            for (at, (column, value)) in COLUMNS.into_iter().zip(row.values()).enumerate() {
                let quote = if column == "ConsumedQuantity" { "" } else { "\"" };
                write!(out, "{}\"{column}\":{quote}{value}{quote}", if at == 0 { "" } else { "," })?;
            }
            out.write_str("}")?;
        }
        writeln!(out, "]}}")
    }

    fn rows<'a>(&'a self, clock: &'a Clock) -> impl Iterator<Item = Row<'a>> {
        let carried = (self.opening != Credits::ZERO).then(|| {
            let period = self.lines.first().map_or((0, 0), |line| self.period(clock, line));
            Row::new("Adjustment", "carried forward", "", (period.0, period.0), 0, self.opening)
        });
        let row = |line: &'a StatementLine| {
            let (category, description) = match line.kind {
                Movement::TopUp => ("Credit", "top-up"),
                Movement::Income => ("Credit", "income"),
                Movement::Base => ("Usage", "base"),
                Movement::Round => ("Usage", "round"),
                Movement::Desk => ("Usage", "desk"),
                Movement::Refund => ("Credit", "refund"),
                Movement::Penalty => ("Credit", "penalty"),
            };
            let resource = line.good.and_then(|good| self.goods.get(usize::from(good))).map_or("", |good| &good.name);
            let period = self.period(clock, line);
            Row::new(category, description, resource, period, line.quantity, Credits(line.amount))
        };
        carried.into_iter().chain(self.lines.iter().map(row))
    }

    /// Start and end of a line's interval, in microseconds.
    fn period(&self, clock: &Clock, line: &StatementLine) -> (u64, u64) {
        let good = self.goods.get(usize::from(line.good.unwrap_or(PAGE_GOOD)));
        let ticks = good.map_or(0, |good| good.interval_ticks);
        let at = |interval: u64| clock.us_of_ticks(interval.saturating_mul(ticks));
        (at(line.interval), at(line.interval.saturating_add(1)))
    }
}

/// A line, column by column.
struct Row<'a> {
    category: &'a str,
    description: &'a str,
    resource: &'a str,
    start: Seconds,
    end: Seconds,
    quantity: u32,
    cost: Credits,
}

impl<'a> Row<'a> {
    fn new(
        category: &'a str,
        description: &'a str,
        resource: &'a str,
        (start, end): (u64, u64),
        quantity: u32,
        gained: Credits,
    ) -> Row<'a> {
        let (start, end) = (Seconds(start), Seconds(end));
        Row { category, description, resource, start, end, quantity, cost: Credits::ZERO - gained }
    }

    /// In the order of [`COLUMNS`].
    fn values(&self) -> [&dyn fmt::Display; COLUMNS.len()] {
        [
            &"credit",
            &self.category,
            &self.description,
            &"nonkernel",
            &self.resource,
            &self.start,
            &self.end,
            &self.quantity,
            &"unit-interval",
            &self.cost,
        ]
    }
}

/// Microseconds, shown as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn line(kind: Movement, good: Option<u16>, quantity: u32, amount: i128) -> StatementLine {
        StatementLine { kind, good, interval: 3, quantity, amount }
    }

    #[test]
    fn csv_and_json_say_the_same() {
        let good = |name: &str, interval_ticks| Good {
            name: name.into(),
            interval_ticks,
            base: market_mechanism::types::Quantity(0),
            base_charge: Credits::ZERO,
        };
        let mut statement = Statement::new(std::vec![good("page", 100_000_000), good("cpu.0", 10_000_000)]);
        let lines = std::vec![line(Movement::Round, Some(1), 4, -1_500), line(Movement::Refund, None, 0, 200)];
        let page = StatementPage { first: 9, opening: 5_000_000_000_001_300, lines, end: 11 };
        assert!(statement.append([5_000_000_000_000_000, 0, 1_500], page));
        assert!(statement.adds_up());
        let clock = Clock::new(1_000_000_000, 77);
        let (mut csv, mut json) = (String::new(), String::new());
        statement.write_csv(&clock, &mut csv).unwrap();
        statement.write_json(&clock, &mut json).unwrap();
        let rows: std::vec::Vec<&str> = csv.lines().collect();
        assert_eq!(
            rows[1..],
            [
                "credit,Adjustment,carried forward,nonkernel,,0.030000,0.030000,0,unit-interval,-5.0000000000013",
                "credit,Usage,round,nonkernel,cpu.0,0.030000,0.040000,4,unit-interval,0.0000000000015",
                "credit,Credit,refund,nonkernel,,0.300000,0.400000,0,unit-interval,-0.0000000000002",
            ]
        );
        let mut objects = json.split("},{");
        for row in &rows[1..] {
            let object = objects.next().unwrap();
            assert_eq!(rows[0].split(',').count(), row.split(',').count());
            for (column, value) in COLUMNS.into_iter().zip(row.split(',')) {
                assert!(
                    object.contains(&std::format!("\"{column}\":{value}"))
                        || object.contains(&std::format!("\"{column}\":\"{value}\"")),
                    "{column} of {row} in {object}"
                );
            }
        }
        assert!(json.starts_with("{\"Balance\":\"5\",\"Escrow\":\"0\","));
    }

    #[test]
    fn a_gap_between_two_answers_moves_the_opening() {
        let mut statement = Statement::new(std::vec![]);
        let page = |first, opening, end| StatementPage {
            first,
            opening,
            lines: std::vec![line(Movement::Income, None, 0, 5)],
            end,
        };
        assert!(!statement.append([0; 3], page(0, 0, 2)));
        // Meanwhile the second line was forgotten.
        assert!(statement.append([15, 0, 0], page(2, 10, 3)));
        assert_eq!((statement.opening, statement.lines.len()), (Credits(10), 1));
        assert!(statement.adds_up());
    }
}
