//! An application whose heap lives on leased pages: it cannot give them back while something is allocated there, and can
//! when that is free. The argument says how it goes on:
//!
//! - `returns`: it gives the pages back, and ends well.
//! - `uses`: it ignores the notice and uses the memory until that is taken by force: it is stopped at its next access.
//! - `looks`: it ignores the notice, but hears of the force before it uses the memory: it ends with a panic that says so.
//! - `rival`: it takes the pages away from the others by bidding more.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use guests::rivalry::{bid, hold, is_rival, keep};
use userlib::{App, Error, println};

userlib::main!(run);

/// Pages in the one block, and its log2 bytes.
const PAGES: u32 = 256;
const BLOCK_BITS: u8 = 20;
/// More than the heap has without the block (`base_pages` of the scenario), and less than the block.
const BYTES: usize = 900 << 10;

fn run(app: &mut App) -> Result<(), Error> {
    hold(app, BLOCK_BITS, PAGES)?;
    if is_rival(app) {
        keep(app);
        return Ok(());
    }
    let page = app.page_good();
    let what = app.args().first().cloned().unwrap_or_default();
    let Some(lease) = app.market().pager().leases().map(|(lease, _)| lease).next() else {
        return Err(Error::failed("no lease"));
    };
    if Vec::<u8>::new().try_reserve_exact(BYTES).is_ok() {
        return Err(Error::failed("the heap has room without the lease"));
    }
    let lent = app.market().pager().lend_to_heap(lease);
    let twice = app.market().pager().lend_to_heap(lease);
    let begin = app.market().pager().address(lease).unwrap_or(0);
    let mut memory: Vec<u8> = Vec::new();
    let room = memory.try_reserve_exact(BYTES).is_ok();
    memory.resize(BYTES, 0xa5);
    let there = (begin..begin + (1 << BLOCK_BITS)).contains(&(memory.as_ptr() as u64));
    println!("lent {lent}, twice {twice}, room {room}, there {there}");
    let copied = app.market().pager().read(lease, 0, &mut [0]).is_ok();
    let released = app.market().release(page, &[lease])?;
    println!("in use: {released} pages released, copied from {copied}");
    match what.as_str() {
        "uses" => loop {
            for byte in &mut memory {
                *byte = core::hint::black_box(byte.wrapping_add(1));
            }
        },
        "looks" => loop {
            app.wait(0)?;
        },
        _ => {}
    }
    let right = memory.iter().all(|byte| *byte == 0xa5);
    drop(memory);
    let released = app.market().release(page, &[lease])?;
    println!("free: {released} pages released, right {right}");
    bid(app, 0)
}
