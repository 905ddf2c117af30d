//! An application that asks everything that can be asked of the market, and writes down the answers: a line for each on
//! the console, and its statement as files. Its rival (argument `rival`) outbids it later.
#![no_std]
#![no_main]

extern crate alloc;

use userlib::console::File;
use userlib::market::{Credits, Curve, Event, Offer, Price, Quantity, RoundNo, Segment};
use userlib::{App, Error, println};

userlib::main!(run);

/// Pages that it bids for, that it buys at the desk, and that the rival bids for.
const BID: u32 = 8;
const DESK: u32 = 2;
const RIVALS: u32 = 12;

fn run(app: &mut App) -> Result<(), Error> {
    let page = app.page_good();
    app.market().block_bits(page, 12);
    let value = app.value_of_work();
    if app.args().iter().any(|argument| argument == "rival") {
        bid(app, RIVALS, value)?;
        app.sleep_until(app.clock().in_us(600_000));
        return Ok(());
    }
    for (number, good) in app.market().goods().iter().enumerate() {
        println!("good {number} {} base {}", good.name, good.base.0);
    }

    // Limits: a price that nothing is sold at, then a budget for three units, then neither.
    app.market().max_price(page, Price(1));
    bid(app, BID, value)?;
    let record = round(app, page, |_| true)?;
    println!("max_price {} {}", record.round, record.holding);
    let explained = app.market().explain(page, None)?;
    println!(
        "too low {} {} {} {:?} {}",
        explained.round, explained.wanted, explained.won, explained.reason, explained.would_have_won
    );
    app.market().max_price(page, Price::LIMIT);
    app.market().budget(page, Credits(3 * i128::from(value.0)));
    bid(app, BID, value)?;
    let record = round(app, page, |record| record.holding > 0)?;
    println!("budget {} {} {}", record.round, record.holding, record.payment);
    let explained = app.market().explain(page, Some(RoundNo(record.round)))?;
    println!("short of money {} {} {} {:?}", explained.round, explained.wanted, explained.won, explained.reason);
    app.market().budget(page, Credits::MAX);

    // A bid that ends by itself: what it won is lost after the last round.
    let last = RoundNo(record.round + 3);
    app.market().last_round(page, last);
    bid(app, BID, value)?;
    println!("last round {}", last.0);
    let notice = loop {
        match app.wait(0)? {
            Some(Event::Notice(notice)) if notice.good == page => break notice,
            _ => {}
        }
    };
    println!("ended by itself {} {}", notice.round, notice.units);
    let leases: alloc::vec::Vec<u32> = app.market().pager().leases().map(|(lease, _)| lease).collect();
    app.market().give_up(&leases)?;
    app.market().last_round(page, RoundNo(u64::MAX));

    bid(app, BID, value)?;
    let record = round(app, page, |record| record.holding == BID)?;
    println!("all {} {} {}", record.round, record.holding, record.payment);
    let cost = app.market().estimate(page, BID)?;
    println!("estimate {} {cost}", record.round);
    let ask = app.market().ask(page);
    let line = app.market().line(page).unwrap_or_default();
    println!("ask {} {} {}", line.round.0, ask.map_or(0, |ask| ask.0), line.clearing.0);
    while app.market().pager().pages() < u64::from(BID) {
        app.wait(0)?;
    }

    // The desk, and back.
    let asked = userlib::clock::now();
    let lease = app.market().lease(page, DESK)?;
    app.market().pager().write(lease, 0, &[1])?;
    let usable = app.clock().us_of_ticks(userlib::clock::now() - asked);
    println!("lease {lease} {} pages", app.market().pager().pages());
    println!("usable after {usable} us");
    let pages = app.market().release(page, &[lease])?;
    println!("release {pages} {} pages", app.market().pager().pages());

    // The rival comes: a warning, a notice, and an answer to why.
    let (mut warned, mut noticed) = (None, None);
    let lost = loop {
        match app.wait(0)? {
            Some(Event::AtRisk { good, units }) if good == page => {
                println!("at risk {units}");
                warned = Some(units);
            }
            Some(Event::Notice(notice)) if notice.good == page => {
                let left = app.clock().us_of_ticks(notice.deadline_tsc.saturating_sub(userlib::clock::now()));
                println!("notice {} {} in {left} us", notice.round, notice.units);
                noticed = Some(notice);
            }
            Some(Event::Round { good, record }) if good == page && record.holding < BID => break record,
            _ => {}
        }
    };
    let explained = app.market().explain(page, Some(RoundNo(lost.round)))?;
    println!("lost {} {} {:?} {}", explained.round, explained.won, explained.reason, explained.would_have_won);
    let Some(notice) = noticed.filter(|_| warned.is_some()) else {
        return Err(Error::failed("there was no warning or no notice"));
    };
    let leases: alloc::vec::Vec<u32> =
        app.market().pager().leases().map(|(lease, _)| lease).take(notice.units as usize).collect();
    let given = app.market().give_up(&leases)?;
    println!("give up {given}, notices left {}", app.market().notices().len());
    for record in app.market().history(page) {
        println!(
            "history {} {} {} {} {}",
            record.round, record.holding, record.payment, record.clearing.0, record.ask.0
        );
    }

    let statement = app.market().statement()?;
    println!("statement {} {} {} {}", statement.balance, statement.escrow, statement.paid, statement.adds_up());
    let mut csv = File::create("statement.csv");
    let mut json = File::create("statement.json");
    // Writing to an output file does not fail.
    let _ = statement.write_csv(app.clock(), &mut csv);
    let _ = statement.write_json(app.clock(), &mut json);
    csv.close();
    json.close();
    Ok(())
}

/// Bids for so many pages at one value.
fn bid(app: &mut App, units: u32, value: Price) -> Result<(), Error> {
    let curve = Curve::new(&[Segment { quantity: Quantity(units), value }]).map_err(|_| Error::failed("no curve"))?;
    let offer = Offer { curve, keep: Price::ZERO, max_payment: Credits::MAX };
    let page = app.page_good();
    Ok(app.market().bid(page, &offer)?)
}

/// Waits for the result of a round of a good that is as wanted.
fn round(
    app: &mut App,
    wanted: u16,
    is_it: fn(&userlib::market::RoundRecord) -> bool,
) -> Result<userlib::market::RoundRecord, Error> {
    loop {
        match app.wait(0)? {
            Some(Event::Round { good, record }) if good == wanted && is_it(&record) => return Ok(record),
            _ => {}
        }
    }
}
