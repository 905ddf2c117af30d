//! An application that computes and never looks at the market. It has asked to be interrupted by notices: its handler gives
//! up the block that it chose, and only that ends the computation. Afterwards it looks at what has become of the others.
//!
//! Argument: `rival`, for the application that takes its pages away by bidding more for as many.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use guests::rivalry::{bid, hold, is_rival, keep};
use userlib::market::{Event, Market, Notice};
use userlib::{App, Error, clock, println};

userlib::main!(run);

/// Pages that the application leases, each a block of its own, and those that the rival takes away.
const PAGES: u32 = 8;
const RIVALS: u32 = 3;
/// log2 bytes of a page.
const PAGE_BITS: u8 = 12;

/// TSC value at which the handler ran, and the notice's deadline; 0 before.
static HEARD: AtomicU64 = AtomicU64::new(0);
static DEADLINE: AtomicU64 = AtomicU64::new(0);
/// A bit for each lease (their numbers are small) that the handler gave up.
static GIVEN: AtomicU64 = AtomicU64::new(0);

fn run(app: &mut App) -> Result<(), Error> {
    if is_rival(app) {
        hold(app, PAGE_BITS, RIVALS)?;
        keep(app);
        return Ok(());
    }
    hold(app, PAGE_BITS, PAGES)?;
    let page = app.page_good();
    let leased = leases(&mut app.market());
    for lease in leased {
        app.market().pager().write(lease, 0, &lease.to_le_bytes())?;
    }
    app.on_notice(give_up_the_oldest)?;
    println!("computes");
    let rounds = compute();
    let (heard, deadline) = (HEARD.load(Ordering::Relaxed), DEADLINE.load(Ordering::Relaxed));
    let given = GIVEN.load(Ordering::Relaxed);
    println!(
        "{rounds} rounds; heard {} us after the notice",
        app.clock().us_of_ticks(heard - (deadline - app.interval_ticks(page)))
    );
    // Until the next round's result all that may go has gone.
    let mut noticed = 0;
    let is_over = || clock::now() > deadline;
    loop {
        match app.wait(0)? {
            Some(Event::Notice(notice)) if notice.good == page => noticed += notice.units,
            Some(Event::Taken { leases }) => {
                return Err(Error::failed(alloc::format!("{leases:?} were taken by force")));
            }
            Some(Event::Round { good, record }) if good == page && record.holding == PAGES - RIVALS && is_over() => {
                break;
            }
            _ => {}
        }
    }
    let kept = leases(&mut app.market());
    let mut contents = [0; 4];
    for lease in &kept {
        app.market().pager().read(*lease, 0, &mut contents)?;
        if contents != lease.to_le_bytes() || given & 1 << lease != 0 {
            return Err(Error::failed("a page that was kept is another one"));
        }
    }
    println!("noticed {noticed}, given up {}, kept {}", given.count_ones(), kept.len());
    bid(app, 0)?;
    Ok(())
}

fn leases(market: &mut Market) -> Vec<u32> {
    market.pager().leases().map(|(lease, _)| lease).collect()
}

/// The handler. The market would take the youngest blocks, so that the oldest ones show who has chosen.
fn give_up_the_oldest(market: &mut Market, notice: &Notice) {
    let chosen: Vec<u32> = leases(market).into_iter().take(notice.units as usize).collect();
    let given = market.give_up(&chosen);
    println!("notice of {} pages: {given:?} given up, {chosen:?}", notice.units);
    let bits = chosen.iter().fold(0, |bits, lease| bits | 1u64 << lease);
    GIVEN.fetch_or(bits, Ordering::Relaxed);
    DEADLINE.store(notice.deadline_tsc, Ordering::Relaxed);
    HEARD.store(clock::now(), Ordering::Relaxed);
}

/// Computes until the handler has run, and would for ever. It allocates, as the handler does: neither may find the heap
/// in the middle of something.
fn compute() -> u64 {
    let mut rounds = 0u64;
    while HEARD.load(Ordering::Relaxed) == 0 {
        let numbers: Vec<u64> = (0..rounds % 300).map(|number| number.wrapping_mul(rounds)).collect();
        core::hint::black_box(&numbers);
        rounds += 1;
    }
    rounds
}
