//! Two applications of one image that bid for the same pages: the argument `rival` is the one that bids more.

use userlib::market::{FixedBid, Offer, Policy, Price, Quantity};
use userlib::{App, Error};

/// True if this is the rival.
pub fn is_rival(app: &App) -> bool {
    app.args().iter().any(|argument| argument == "rival")
}

/// Bids for so many pages, in blocks of 2^`block_bits` bytes, until it holds them.
///
/// # Errors
/// When the market does not answer any more.
pub fn hold(app: &mut App, block_bits: u8, units: u32) -> Result<(), Error> {
    let page = app.page_good();
    app.market().block_bits(page, block_bits);
    bid(app, units)?;
    while app.market().pager().pages() < u64::from(units) {
        app.wait(0)?;
    }
    Ok(())
}

/// What a rival does with its pages: it keeps them for half a second.
pub fn keep(app: &mut App) {
    app.sleep_until(app.clock().in_us(500_000));
}

/// Bids for so many pages what a unit of work is worth; for none, withdraws the bid.
///
/// # Errors
/// When the market does not answer any more.
pub fn bid(app: &mut App, units: u32) -> Result<(), Error> {
    let (page, value) = (app.page_good(), app.value_of_work());
    let wanted = FixedBid { units: Quantity(units), value, keep: Price::ZERO };
    let line = app.market().line(page).unwrap_or_default();
    let holding = app.market().holding(page);
    let offer = if units > 0 { wanted.decide(&line, &holding) } else { Offer::NONE };
    Ok(app.market().bid(page, &offer)?)
}
