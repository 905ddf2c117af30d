//! Loses all of its leases and watches, by its own clock, how: when the notice came, and how long each page could be
//! touched. It ends with status 0 only if nothing was taken early or late.
//!
//! Arguments: pages; log2 bytes of the blocks to ask for; ticks after the deadline for which a page may be in reach;
//! microseconds to sleep between two looks at all pages, if another core's instructions are time here.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use cap_spec::abi::PRICE_BOARD;
use guests::memory::{UPCALL, read_faults};
use guests::root::word;
use guests::tenant::Tenant;
use guests::trap;
use proto::market::{FromMarket, RequestBody, Segment};
use userlib::cap::own;
use userlib::pager::Pager;
use userlib::slots::Slots;
use userlib::{clock, println};

userlib::entry!(main);

/// The good `page`.
const PAGE: u16 = 0;
/// What is bid for a page and interval, 1e-15 credit: far above any reserve price.
const VALUE: u64 = 100_000_000;
/// Offset of the sequence word in a line of the price board.
const SEQUENCE: usize = 8;

/// A page and what became of it.
struct Page {
    address: u64,
    /// When it was last in reach, and when it was first found to be out of it.
    last: u64,
    gone: u64,
}

fn main() -> ! {
    let mut tenant = Tenant::new();
    trap::install();
    let (pages, bits, allowed) = (tenant.number(0, 0), tenant.number(1, 12), tenant.number(2, 0));
    let pause = tenant.micros(tenant.number(3, 0));
    let wrong = match lose(&mut tenant, pages as u32, bits as u8, allowed, pause) {
        Ok(wrong) => wrong,
        Err(why) => {
            println!("notice: {why}");
            1
        }
    };
    tenant.exit(wrong, pages)
}

/// A bid for so many pages.
fn bid(pages: u32, block_bits: u8) -> RequestBody {
    let curve = if pages == 0 { Vec::new() } else { [Segment { quantity: pages, value: VALUE }].into() };
    RequestBody::Bid { good: PAGE, curve, keep: 0, max_payment: u64::MAX, valid_until: u64::MAX, block_bits }
}

/// Buys the pages and maps them. Returns how many leases they are, and the pages.
fn fill(tenant: &mut Tenant, pages: u32, bits: u8) -> Result<(usize, Vec<Page>), &'static str> {
    let mut pager = Pager::new(Slots::new(tenant.start.free_slots_end), own::BASE, own::VM);
    let mut held = Vec::new();
    let mut leases = 0;
    if !tenant.ask(bid(pages, bits)) {
        return Err("no bid");
    }
    let deadline = clock::now() + tenant.micros(4_000_000);
    while held.len() < pages as usize {
        match tenant.next_message(deadline) {
            Some(FromMarket::Lease { lease, bits, .. }) => {
                pager.accept(own::MARKET, lease, bits).map_err(|_| "a lease cannot be used")?;
                own::MARKET.signal().map_err(|_| "no signal")?;
                let first = pager.address(lease).ok_or("a lease is not mapped")?;
                let page = |number: u64| Page { address: first + number * 4096, last: 0, gone: 0 };
                held.extend((0..1 << (bits - 12)).map(page));
                leases += 1;
            }
            Some(_) => {}
            None => return Err("too few leases"),
        }
    }
    Ok((leases, held))
}

/// Bids no more, and watches. Returns how much was wrong.
fn lose(tenant: &mut Tenant, pages: u32, bits: u8, allowed: u64, pause: u64) -> Result<u32, &'static str> {
    own::VCPU.set_upcall(UPCALL, 0).map_err(|_| "no upcall")?;
    let (leases, mut held) = fill(tenant, pages, bits)?;
    let interval = tenant.start.interval_ticks[usize::from(PAGE)];
    if !tenant.ask(bid(0, bits)) {
        return Err("no bid");
    }
    // The next round of pages is the one that takes them. Without a pause, so that what is seen first came first.
    let patience = clock::now() + 3 * interval;
    let mut sequence = word(PRICE_BOARD, SEQUENCE);
    let mut published = 0;
    let (deadline, noticed) = loop {
        let now = clock::now();
        // The board before the ring: when the board has the result, the notice must be in the ring.
        if word(PRICE_BOARD, SEQUENCE) != sequence {
            sequence = word(PRICE_BOARD, SEQUENCE);
            published += 1;
        }
        match tenant.market.receive() {
            Ok(Some(FromMarket::Notice { good: PAGE, units, deadline_tsc, .. })) if units == pages => {
                break (deadline_tsc, clock::now());
            }
            Ok(Some(FromMarket::Round { good: PAGE, holding: 0, .. })) => {
                return Err("the result came before the notice");
            }
            Ok(_) if now < patience => {}
            _ => return Err("no notice"),
        }
    };
    let (mut early, mut rounds) = (0, 0);
    let end = deadline + tenant.micros(20_000);
    while clock::now() < end && held.iter().any(|page| page.gone == 0) {
        if pause > 0 {
            clock::sleep_until(clock::now() + pause);
        }
        rounds += u64::from(clock::now() > deadline);
        for page in held.iter_mut().filter(|page| page.gone == 0) {
            // A page that is found must have been there at the earlier of the two readings, at least.
            let before = clock::now();
            if read_faults(page.address).is_none() {
                page.last = before;
            } else {
                page.gone = clock::now();
                early += u32::from(page.gone < deadline);
            }
        }
    }
    let after = |at: u64| at as i64 - deadline as i64;
    let last = held.iter().map(|page| page.last).max().unwrap_or(0);
    let kept = held.iter().filter(|page| page.gone == 0).count();
    let (first_gone, last_gone) =
        (held.iter().map(|page| page.gone).min().unwrap_or(0), held.iter().map(|page| page.gone).max().unwrap_or(0));
    println!(
        "notice: {} pages in {leases} leases; noticed {} ticks before the deadline; {early} early, {kept} kept; last in reach {}, \
         found gone {} to {}; {rounds} rounds after it",
        held.len(),
        deadline - noticed,
        after(last),
        after(first_gone),
        after(last_gone),
    );
    let mut wrong = early + kept as u32;
    let mut check = |right: bool, what: &str| {
        if !right {
            println!("notice: WRONG: {what}");
            wrong += 1;
        }
    };
    check(published <= 1, "the board had the result before the notice came");
    check(noticed + interval <= deadline, "the notice was less than an interval before the deadline");
    check(after(last) <= allowed as i64, "a page was in reach for too long");
    Ok(wrong)
}
