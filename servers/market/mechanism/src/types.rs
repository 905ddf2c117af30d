//! Amounts, prices, quantities, demand curves and bids.
//!
//! Every kind of number is its own type, so that an amount cannot be taken for a price or a unit count. All money is
//! whole multiples of 1e-15 credit and nothing is ever rounded except where a function says so.

use core::fmt;
use core::iter::Sum;
use core::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use core::str::FromStr;

/// An amount of money in 1e-15 credit: a balance, a payment, a sum. Negative only in differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credits(pub i128);

impl Credits {
    /// Nothing.
    pub const ZERO: Credits = Credits(0);
    /// One credit.
    pub const ONE: Credits = Credits(1_000_000_000_000_000);
    /// The largest amount that may exist in one ledger. Far below the integer's end, so that sums of two such amounts
    /// and of any round's payments cannot overflow.
    pub const MAX: Credits = Credits(1 << 120);

    /// The price times the quantity; exact.
    #[must_use]
    pub const fn of(price: Price, quantity: Quantity) -> Credits {
        // Below 2^96, as a price has 64 bits and a quantity 32.
        Credits(price.0 as i128 * quantity.0 as i128)
    }

    /// The smaller of two amounts.
    #[must_use]
    pub fn min(self, other: Credits) -> Credits {
        if self <= other { self } else { other }
    }

    /// The larger of two amounts.
    #[must_use]
    pub fn max(self, other: Credits) -> Credits {
        if self >= other { self } else { other }
    }
}

impl Add for Credits {
    type Output = Credits;
    fn add(self, other: Credits) -> Credits {
        Credits(self.0 + other.0)
    }
}

impl Sub for Credits {
    type Output = Credits;
    fn sub(self, other: Credits) -> Credits {
        Credits(self.0 - other.0)
    }
}

impl Neg for Credits {
    type Output = Credits;
    fn neg(self) -> Credits {
        Credits(-self.0)
    }
}

impl AddAssign for Credits {
    fn add_assign(&mut self, other: Credits) {
        self.0 += other.0;
    }
}

impl SubAssign for Credits {
    fn sub_assign(&mut self, other: Credits) {
        self.0 -= other.0;
    }
}

impl Sum for Credits {
    fn sum<I: Iterator<Item = Credits>>(amounts: I) -> Credits {
        amounts.fold(Credits::ZERO, Add::add)
    }
}

/// In credits, as a decimal number without trailing zeros: exact.
impl fmt::Display for Credits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = Credits::ONE.0.unsigned_abs();
        let size = self.0.unsigned_abs();
        let (whole, mut rest) = (size / one, size % one);
        if self.0 < 0 {
            out.write_str("-")?;
        }
        write!(out, "{whole}")?;
        if rest != 0 {
            let mut width = 15;
            while rest.is_multiple_of(10) {
                rest /= 10;
                width -= 1;
            }
            write!(out, ".{rest:0width$}")?;
        }
        Ok(())
    }
}

/// Why a text is no amount of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseCreditsError {
    /// Something other than digits, one leading minus and one point.
    NotANumber,
    /// More than 15 digits after the point: finer than the smallest amount.
    TooFine,
    /// Larger than [`Credits::MAX`].
    TooLarge,
}

impl fmt::Display for ParseCreditsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ParseCreditsError::NotANumber => "not a decimal number of credits",
            ParseCreditsError::TooFine => "more than 15 digits after the point",
            ParseCreditsError::TooLarge => "larger than any amount the ledger can hold",
        })
    }
}

impl core::error::Error for ParseCreditsError {}

/// Reads a decimal number of credits, such as `0.05`; exact, the inverse of `Display`.
impl FromStr for Credits {
    type Err = ParseCreditsError;

    fn from_str(text: &str) -> Result<Credits, ParseCreditsError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let point_without_fraction = digits.contains('.') && fraction.is_empty();
        if whole.is_empty() || point_without_fraction || !all_digits(whole) || !all_digits(fraction) {
            return Err(ParseCreditsError::NotANumber);
        }
        if fraction.len() > 15 {
            return Err(ParseCreditsError::TooFine);
        }
        let mut size: i128 = 0;
        let zeros = core::iter::repeat_n(b'0', 15 - fraction.len());
        for digit in whole.bytes().chain(fraction.bytes()).chain(zeros) {
            size = size * 10 + i128::from(digit - b'0');
            if size > Credits::MAX.0 {
                return Err(ParseCreditsError::TooLarge);
            }
        }
        Ok(Credits(if negative { -size } else { size }))
    }
}

/// A price or a value in 1e-15 credit *per unit and interval*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(pub u64);

/// Nanoseconds in an hour.
const HOUR_NS: i128 = 3_600_000_000_000;

impl Price {
    /// Nothing.
    pub const ZERO: Price = Price(0);
    /// The highest value, `keep`, reserve or fee that is accepted (4,611 credits per unit and interval): the sum of two
    /// of them still fits 64 bits.
    pub const LIMIT: Price = Price(1 << 62);

    /// The price per unit and interval of something that costs `per_hour` when `units` of it are held for an hour, with
    /// intervals of `interval_ns` nanoseconds. For a core-hour: 100 units of 10 ms. **Rounds down.** `None` when the
    /// amount is negative, `units` is 0 or the price exceeds [`Price::LIMIT`].
    #[must_use]
    pub fn from_per_hour(per_hour: Credits, units: u32, interval_ns: u64) -> Option<Price> {
        if per_hour.0 < 0 || units == 0 {
            return None;
        }
        let price = per_hour.0.checked_mul(i128::from(interval_ns))?.checked_div(i128::from(units) * HOUR_NS)?;
        let price = Price(u64::try_from(price).ok()?);
        (price <= Price::LIMIT).then_some(price)
    }

    /// What `units` cost when held for an hour at this price, with intervals of `interval_ns` nanoseconds. **Rounds
    /// down** when the interval does not divide the hour. An interval of 0 counts as 1 ns.
    #[must_use]
    pub fn per_hour(self, units: u32, interval_ns: u64) -> Credits {
        // Below 2^127 even for the longest price, as units times hour has at most 32 + 42 bits and a price that was
        // accepted has 62; saturating for the others.
        let per_interval = i128::from(self.0) * i128::from(units);
        Credits(per_interval.saturating_mul(HOUR_NS) / i128::from(interval_ns.max(1)))
    }

    /// The sum, at most `u64::MAX`.
    #[must_use]
    pub const fn saturating_add(self, other: Price) -> Price {
        Price(self.0.saturating_add(other.0))
    }

    /// The difference, at least 0.
    #[must_use]
    pub const fn saturating_sub(self, other: Price) -> Price {
        Price(self.0.saturating_sub(other.0))
    }
}

/// `cpu.N` units that make a whole core.
pub const UNITS_PER_CORE: u32 = 100;
/// Pages of 4 KiB in a GiB.
pub const PAGES_PER_GIB: u32 = 262_144;
/// Units of bandwidth, of 1 Mb/s each, in a Gb/s.
pub const UNITS_PER_GIGABIT: u32 = 1_000;
/// Units of operations, of 100 reads and writes a second each, in a thousand a second.
pub const UNITS_PER_THOUSAND: u32 = 10;
/// Units of namespaces, of 1 MiB each, in a GiB.
pub const MIB_PER_GIB: u32 = 1_024;

/// A number of units of one good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(pub u32);

impl Quantity {
    /// None.
    pub const ZERO: Quantity = Quantity(0);

    /// The sum, at most `u32::MAX`.
    #[must_use]
    pub const fn saturating_add(self, other: Quantity) -> Quantity {
        Quantity(self.0.saturating_add(other.0))
    }

    /// The difference, at least 0.
    #[must_use]
    pub const fn saturating_sub(self, other: Quantity) -> Quantity {
        Quantity(self.0.saturating_sub(other.0))
    }
}

/// Who pays: one account of the ledger. Numbers are never used twice in the life of a market.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u32);

/// What is sold: an index into the market's list of goods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoodId(pub u16);

/// A point or a span on the market's clock. The unit is the caller's (the server counts nanoseconds); the rules only
/// compare and add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Ticks {
    /// The point `span` later, or the last one there is.
    #[must_use]
    pub const fn saturating_add(self, span: Ticks) -> Ticks {
        Ticks(self.0.saturating_add(span.0))
    }
}

/// The number of a round, which is also that of the interval it closes just before. Round `k` sells interval `k + 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundNo(pub u64);

impl RoundNo {
    /// The round after this one.
    #[must_use]
    pub const fn next(self) -> RoundNo {
        RoundNo(self.0 + 1)
    }
}

/// A stretch of a demand curve: so many units, each worth `value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Segment {
    /// What each of these units is worth, per interval.
    pub value: Price,
    /// How many units; at least 1.
    pub quantity: Quantity,
}

/// The most segments a curve may have.
pub const MAX_SEGMENTS: usize = 8;

/// Demand: what the first units above the base are worth, then the next ones, and so on. Values strictly decrease, so
/// what a unit adds never grows with the units before it, which is what makes the greedy allocation exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Curve {
    len: u8,
    segments: [Segment; MAX_SEGMENTS],
}

/// Why a list of segments is no curve, or a bid no bid. `segment` counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurveError {
    /// More than [`MAX_SEGMENTS`].
    TooManySegments,
    /// A segment of no units.
    EmptySegment {
        /// Which one.
        segment: u8,
    },
    /// A segment worth as much as, or more than, the one before it.
    NotDecreasing {
        /// The later one.
        segment: u8,
    },
    /// A value above [`Price::LIMIT`].
    ValueTooHigh {
        /// Which one.
        segment: u8,
    },
    /// More units in all than a [`Quantity`] can count.
    TooManyUnits,
    /// `keep` above [`Price::LIMIT`].
    KeepTooHigh,
    /// `max_payment` below 0.
    NegativeMaxPayment,
}

impl fmt::Display for CurveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CurveError::TooManySegments => write!(out, "more than {MAX_SEGMENTS} segments"),
            CurveError::EmptySegment { segment } => {
                write!(out, "segment {segment}: quantity is 0")
            }
            CurveError::NotDecreasing { segment } => {
                write!(out, "segment {segment}: value is not below the one before")
            }
            CurveError::ValueTooHigh { segment } => {
                write!(out, "segment {segment}: value is above {}", Price::LIMIT.0)
            }
            CurveError::TooManyUnits => out.write_str("more units than 32 bits can count"),
            CurveError::KeepTooHigh => write!(out, "keep is above {}", Price::LIMIT.0),
            CurveError::NegativeMaxPayment => out.write_str("max_payment is below 0"),
        }
    }
}

impl core::error::Error for CurveError {}

impl Curve {
    /// No demand at all.
    pub const EMPTY: Curve =
        Curve { len: 0, segments: [Segment { value: Price::ZERO, quantity: Quantity::ZERO }; MAX_SEGMENTS] };

    /// The curve of these segments, most valuable first. No segments means no demand.
    ///
    /// # Errors
    /// The first rule of [`CurveError`] that the list breaks.
    pub fn new(segments: &[Segment]) -> Result<Curve, CurveError> {
        if segments.len() > MAX_SEGMENTS {
            return Err(CurveError::TooManySegments);
        }
        let mut curve = Curve::EMPTY;
        let mut units: u32 = 0;
        for (&new, segment) in segments.iter().zip(0u8..) {
            if new.quantity == Quantity::ZERO {
                return Err(CurveError::EmptySegment { segment });
            }
            if new.value > Price::LIMIT {
                return Err(CurveError::ValueTooHigh { segment });
            }
            if curve.segments().last().is_some_and(|last| last.value <= new.value) {
                return Err(CurveError::NotDecreasing { segment });
            }
            units = units.checked_add(new.quantity.0).ok_or(CurveError::TooManyUnits)?;
            curve.segments[usize::from(segment)] = new;
            curve.len += 1;
        }
        Ok(curve)
    }

    /// A curve of one segment: `quantity` units worth `value` each.
    ///
    /// # Errors
    /// [`CurveError::EmptySegment`] or [`CurveError::ValueTooHigh`].
    pub fn flat(quantity: Quantity, value: Price) -> Result<Curve, CurveError> {
        Curve::new(&[Segment { value, quantity }])
    }

    /// The segments, most valuable first.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..usize::from(self.len)]
    }

    /// How many units are demanded in all.
    #[must_use]
    pub fn demand(&self) -> Quantity {
        Quantity(self.segments().iter().map(|part| part.quantity.0).sum())
    }

    /// What unit number `unit` (from 1) adds; 0 beyond the demand.
    #[must_use]
    pub fn marginal(&self, unit: Quantity) -> Price {
        let mut last = 0;
        for segment in self.segments() {
            last += segment.quantity.0;
            if unit.0 <= last {
                return segment.value;
            }
        }
        Price::ZERO
    }

    /// What the first `quantity` units are worth together.
    #[must_use]
    pub fn value_of(&self, quantity: Quantity) -> Credits {
        let mut left = quantity;
        let mut sum = Credits::ZERO;
        for segment in self.segments() {
            let taken = left.min(segment.quantity);
            sum += Credits::of(segment.value, taken);
            left = left.saturating_sub(taken);
        }
        sum
    }
}

/// A standing, sealed bid for one good. One per account and good; a later one replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bid {
    /// Who bids and pays.
    pub account: AccountId,
    /// What units above the base are worth.
    pub curve: Curve,
    /// Added to the value of each unit that the account already holds: what losing one would cost it.
    pub keep: Price,
    /// The most that one round may cost.
    pub max_payment: Credits,
    /// The last round in which the bid counts.
    pub valid_until: RoundNo,
}

impl Bid {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`CurveError::KeepTooHigh`] or [`CurveError::NegativeMaxPayment`].
    pub fn check(&self) -> Result<(), CurveError> {
        if self.keep > Price::LIMIT {
            return Err(CurveError::KeepTooHigh);
        }
        if self.max_payment < Credits::ZERO {
            return Err(CurveError::NegativeMaxPayment);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(quantity: u32, value: u64) -> Segment {
        Segment { value: Price(value), quantity: Quantity(quantity) }
    }

    #[test]
    fn a_curve_must_decrease_strictly() {
        assert!(Curve::new(&[segment(1, 5), segment(2, 3)]).is_ok());
        assert_eq!(Curve::new(&[segment(1, 5), segment(2, 5)]), Err(CurveError::NotDecreasing { segment: 1 }));
        assert_eq!(
            Curve::new(&[segment(1, 5), segment(2, 3), segment(1, 4)]),
            Err(CurveError::NotDecreasing { segment: 2 })
        );
    }

    #[test]
    fn a_curve_refuses_what_it_cannot_represent() {
        let nine: [Segment; 9] = core::array::from_fn(|at| segment(1, 20 - at as u64));
        assert_eq!(Curve::new(&nine), Err(CurveError::TooManySegments));
        assert!(Curve::new(&nine[..8]).is_ok());
        assert_eq!(Curve::new(&[segment(0, 5)]), Err(CurveError::EmptySegment { segment: 0 }));
        assert_eq!(Curve::new(&[segment(1, Price::LIMIT.0 + 1)]), Err(CurveError::ValueTooHigh { segment: 0 }));
        assert_eq!(Curve::new(&[segment(u32::MAX, 5), segment(1, 3)]), Err(CurveError::TooManyUnits));
        assert_eq!(
            Curve::new(&[segment(u32::MAX, Price::LIMIT.0)]).map(|curve| curve.demand()),
            Ok(Quantity(u32::MAX))
        );
    }

    #[test]
    fn a_bid_refuses_what_its_types_leave_open() {
        let bid = Bid {
            account: AccountId(1),
            curve: Curve::EMPTY,
            keep: Price::LIMIT,
            max_payment: Credits::ZERO,
            valid_until: RoundNo(0),
        };
        assert_eq!(bid.check(), Ok(()));
        let keep = Price(Price::LIMIT.0 + 1);
        assert_eq!(Bid { keep, ..bid }.check(), Err(CurveError::KeepTooHigh));
        let max_payment = Credits(-1);
        assert_eq!(Bid { max_payment, ..bid }.check(), Err(CurveError::NegativeMaxPayment));
    }

    #[test]
    fn value_and_marginals_agree() {
        let curve = Curve::new(&[segment(2, 9), segment(3, 4)]).unwrap();
        let mut sum = Credits::ZERO;
        for unit in 1..=7 {
            sum += Credits::of(curve.marginal(Quantity(unit)), Quantity(1));
            assert_eq!(curve.value_of(Quantity(unit)), sum);
        }
        assert_eq!(sum, Credits(2 * 9 + 3 * 4));
    }

    #[test]
    fn conversion_per_hour_rounds_down() {
        // A core-hour is 100 units x 360,000 intervals: 1e15 / 3.6e7 = 27,777,777.8.
        let per_core = Price::from_per_hour(Credits::ONE, UNITS_PER_CORE, 10_000_000).unwrap();
        assert_eq!(per_core, Price(27_777_777));
        assert_eq!(per_core.per_hour(UNITS_PER_CORE, 10_000_000), Credits(27_777_777 * 36_000_000));
        // A GiB-hour is 262,144 pages x 36,000 intervals: 1e15 / 9,437,184,000 = 105,963.8.
        let per_gib = Price::from_per_hour(Credits::ONE, PAGES_PER_GIB, 100_000_000).unwrap();
        assert_eq!(per_gib, Price(105_963));
        assert!(per_gib.per_hour(PAGES_PER_GIB, 100_000_000) <= Credits::ONE);
        assert_eq!(Price::from_per_hour(Credits(-1), 1, 1), None);
        assert_eq!(Price::from_per_hour(Credits(1), 0, 1), None);
        assert_eq!(Price::from_per_hour(Credits::MAX, 1, u64::MAX), None);
    }

    #[test]
    fn amounts_are_written_and_read_exactly() {
        for (amount, text) in [
            (0, "0"),
            (1, "0.000000000000001"),
            (-1_500_000_000_000_000, "-1.5"),
            (50_000_000_000_000, "0.05"),
            (Credits::MAX.0, "1329227995784915872903.807060280344576"),
        ] {
            assert_eq!(format!("{}", Credits(amount)), text);
            assert_eq!(text.parse(), Ok(Credits(amount)));
        }
        assert_eq!("1.50".parse(), Ok(Credits(1_500_000_000_000_000)));
        for (text, error) in [
            ("", ParseCreditsError::NotANumber),
            ("-", ParseCreditsError::NotANumber),
            (".5", ParseCreditsError::NotANumber),
            ("5.", ParseCreditsError::NotANumber),
            ("1e3", ParseCreditsError::NotANumber),
            ("0.0000000000000001", ParseCreditsError::TooFine),
            ("9999999999999999999999999", ParseCreditsError::TooLarge),
        ] {
            assert_eq!(text.parse::<Credits>(), Err(error), "{text}");
        }
    }
}
