//! `{{name}}`: counts the lines of its input, and bids for CPU time as long as there is something to do.
#![no_std]

use userlib::market::{FixedBid, Offer, Price, Quantity};
use userlib::{App, Error, println};

/// Bytes between two looks at the market.
const PIECE: usize = 4096;

/// The application. What it returns becomes its exit status; `?` works on everything of userlib.
///
/// # Errors
/// When the market does not answer any more.
pub fn run(app: &mut App) -> Result<(), Error> {
    let input = app.input();
    let cpu = app.cpu_good();
    // The bid stands until it is replaced: up to ten units of CPU time, at what a unit of work is worth to us.
    let bid = bid(app.value_of_work());
    app.market().bid_by(cpu, &bid)?;
    let (mut lines, mut done) = (0, 0);
    for piece in input.chunks(PIECE) {
        lines += count_lines(piece);
        done += piece.len();
        app.work_done(done as u64, input.len() as u64);
        // Prices, notices and leases arrive as events; see `userlib::market::Event`.
        while app.poll()?.is_some() {}
    }
    app.market().bid(cpu, &Offer::NONE)?;
    println!("{}: {lines} lines", app.name());
    Ok(())
}

/// The policy: a fixed bid. Others are in `userlib::market`; your own is anything that makes an `Offer`.
fn bid(value: Price) -> FixedBid {
    FixedBid { units: Quantity(10), value, keep: Price::ZERO }
}

/// Line ends in these bytes.
fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use userlib::market::{Holding, Line, Policy};

    #[test]
    fn lines_are_counted() {
        assert_eq!(count_lines(b"one\ntwo\n\nthree"), 3);
    }

    #[test]
    fn it_bids_what_work_is_worth() {
        let offer = bid(Price(7)).decide(&Line::default(), &Holding::default());
        assert_eq!(offer.curve.segments().len(), 1);
        assert_eq!(offer.curve.segments()[0].value, Price(7));
    }
}
