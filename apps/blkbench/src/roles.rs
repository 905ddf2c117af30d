//! The roles, in a VM.

use crate::work::{Bench, Order, Rest, Work, hold};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write};
use userlib::arch::halt_until;
use userlib::market::{Event, FixedBid, Price, Quantity};
use userlib::storage::{Mode, Next, Operation, Storage};
use userlib::usage::Exits;
use userlib::{App, Error, clock, println};

/// How ends are learnt of, if it is not told.
const MODES: [Mode; 3] = [Mode::Polled, Mode::Interrupt, Mode::ADAPTIVE];
/// Queue depths that are tried.
const DEPTHS: [usize; 4] = [1, 4, 16, 32];
/// Pages that are used, if it is not told.
const PAGES: u64 = 1 << 20;
/// Operations of each kind, if it is not told.
const OPERATIONS: u64 = 256;
/// Milliseconds that `keep` keeps for, if it is not told.
const KEEP_MS: u64 = 1_000;
const LARGEST: usize = 32;
/// Operations that `steady` counts together.
const BATCH: u64 = 16;
/// Microseconds between two looks of `steady`, where it is polled.
const NAP_US: u64 = 100;
/// Microseconds for which the storage server may take to make new queues.
const PATIENCE_US: u64 = 10_000_000;

/// The application.
///
/// # Errors
/// When it has no namespace, its role is none, or the namespace does not hold what was written.
pub fn run(app: &mut App) -> Result<(), Error> {
    let mode: Option<Mode> = app.arg("mode").map(str::parse).transpose().map_err(|wrong| failed(&wrong))?;
    let modes = mode.as_ref().map_or(&MODES[..], core::slice::from_ref);
    let storage = app.storage()?;
    let (pages, operations) = (app.number("pages", PAGES), app.number("operations", OPERATIONS));
    println!("a namespace of {} pages", storage.pages());
    let mut bench = Bench::new(storage, pages, app.arg("role") != Some("measure"), app.clock().hz());
    match app.arg("role") {
        None | Some("check") => check(app, &mut bench, operations, modes),
        Some("measure") => measure(&mut bench, operations, modes),
        Some("steady") => steady(app, &mut bench, mode.unwrap_or(Mode::Interrupt)),
        Some("keep") => keep(app, &mut bench),
        Some(_) => Err(Error::failed("`role` must be `check`, `measure`, `steady` or `keep`")),
    }?;
    println!("{} impossible ends", bench.storage.faults());
    Ok(())
}

fn failed(wrong: &dyn Display) -> Error {
    Error::failed(format!("{wrong}"))
}

/// All pages, one after the other.
fn all(bench: &mut Bench, operation: Operation, rest: &mut Rest<'_>) -> Result<Exits, Error> {
    let (mode, order, operations) = (Mode::Interrupt, Order::Sequential, bench.pages);
    Ok(bench.run(&Work { mode, depth: LARGEST, operation, order, operations }, rest)?.exits)
}

fn check(app: &mut App, bench: &mut Bench, operations: u64, modes: &[Mode]) -> Result<(), Error> {
    let mut exits = all(bench, Operation::Read, &mut hold)?;
    println!("{} pages are zero", bench.pages);
    exits.add(all(bench, Operation::Write, &mut hold)?);
    let mut done = 2 * bench.pages;
    for order in [Order::Random, Order::Sequential] {
        for &mode in modes {
            for depth in DEPTHS {
                for operation in [Operation::Read, Operation::Write] {
                    let cost = bench.run(&Work { mode, depth, operation, order, operations }, &mut hold)?;
                    exits.add(cost.exits);
                    done += operations;
                }
            }
            app.work_done(done, 0);
        }
    }
    exits.add(all(bench, Operation::Read, &mut hold)?);
    done += bench.pages;
    app.work_done(done, 0);
    println!("{done} pages read or written and right, {} exits, {} preemptions", exits.own, exits.preemptions);
    Ok(())
}

fn measure(bench: &mut Bench, operations: u64, modes: &[Mode]) -> Result<(), Error> {
    all(bench, Operation::Read, &mut hold)?;
    for operation in [Operation::Read, Operation::Write] {
        for &mode in modes {
            bench.storage.set_acknowledge_batch(if mode == Mode::Polled { u32::MAX } else { 1 });
            for depth in [1, 32] {
                let work = Work { mode, depth, operation, order: Order::Random, operations };
                let cost = bench.run(&work, &mut hold)?;
                println!(
                    "{operation:?} by {mode}, depth {depth}: {} instructions each, {} exits, {} preemptions and {} \
                     interrupts of {}",
                    cost.begin.each() + cost.end.each(),
                    cost.exits.own,
                    cost.exits.preemptions,
                    cost.interrupts,
                    operations
                );
            }
        }
    }
    Ok(())
}

fn keep(app: &mut App, bench: &mut Bench) -> Result<(), Error> {
    let end = app.clock().in_us(1_000 * app.number("for", KEEP_MS));
    let (mut rounds, mut done, mut renewed) = (0u64, 0, 0u64);
    let mut is_new = true;
    let mut sleep = |app: &mut App, storage: &mut Storage, _| storage.wait(app, end);
    while clock::now() < end {
        let round = unless_lost(app, bench, &mut sleep, |bench, rest| {
            if is_new { fresh(bench, rest) } else { all(bench, Operation::Read, rest).map(drop) }
        })?;
        if round.is_some() {
            rounds += u64::from(!is_new);
            is_new = false;
            done += bench.pages;
            app.work_done(done, 0);
            app.sleep_until(app.clock().in_us(1_000));
        } else {
            renewed += 1;
            is_new = true;
        }
    }
    println!("{rounds} times read and right, {renewed} times with new queues");
    Ok(())
}

fn steady(app: &mut App, bench: &mut Bench, mode: Mode) -> Result<(), Error> {
    let end = app.clock().in_us(1_000 * app.number("for", KEEP_MS));
    let from = app.clock().in_us(1_000 * app.number("from", 0));
    let want = Quantity(app.number("want", 0).try_into().unwrap_or(u32::MAX));
    let depth = app.number("depth", 8).clamp(1, LARGEST as u64) as usize;
    let mut has_bid = want == Quantity::ZERO;
    let (mut exits, mut renewed) = (Exits::default(), 0u64);
    let mut seconds: Vec<u64> = Vec::new();
    // Keeps the core, and looks for what happens in the market; when it waits for an interrupt nothing may happen there.
    let mut stay = |app: &mut App, storage: &mut Storage, next| {
        match next {
            Next::Look if storage.mode() == Mode::Polled => halt_until(app.clock().in_us(NAP_US)),
            Next::Look => core::hint::spin_loop(),
            Next::Sleep => storage.halt(),
        }
        Ok(app.poll()?)
    };
    let mut is_new = true;
    while clock::now() < end {
        if !has_bid && clock::now() >= from {
            let good = app.iops_good().ok_or(Error::failed("operations are not sold"))?;
            let bid = FixedBid { units: want, value: app.value_of_work(), keep: Price::ZERO };
            app.market().bid_by(good, &bid)?;
            has_bid = true;
        }
        let batches = seconds.iter().sum::<u64>() / BATCH;
        let operation = if batches.is_multiple_of(2) { Operation::Read } else { Operation::Write };
        let work = Work { mode, depth, operation, order: Order::Random, operations: BATCH };
        let done = unless_lost(app, bench, &mut stay, |bench, rest| {
            if is_new { fresh(bench, rest).map(|()| None) } else { bench.run(&work, rest).map(Some) }
        })?;
        match done {
            None => (renewed, is_new) = (renewed + 1, true),
            Some(None) => is_new = false,
            Some(Some(cost)) => {
                let second = (app.clock().us_at(clock::now()) / 1_000_000) as usize;
                seconds.resize(seconds.len().max(second + 1), 0);
                seconds[second] += BATCH;
                exits.add(cost.exits);
            }
        }
    }
    app.work_done(seconds.iter().sum(), 0);
    let mut line = String::new();
    // To a string it does not fail.
    let _ = seconds.iter().try_for_each(|operations| write!(line, " {operations}"));
    println!("operations right in each second:{line}");
    println!("{} exits, {} preemptions, {renewed} times with new queues", exits.own, exits.preemptions);
    Ok(())
}

/// Sees that all pages are zero, and writes them.
fn fresh(bench: &mut Bench, rest: &mut Rest<'_>) -> Result<(), Error> {
    all(bench, Operation::Read, rest)?;
    println!("{} pages are zero", bench.pages);
    all(bench, Operation::Write, rest).map(drop)
}

/// Passes the time while nothing ends, and tells what happens in the market.
type Pass<'a> = dyn FnMut(&mut App, &mut Storage, Next) -> Result<Option<Event>, Error> + 'a;

/// If it is the loss of the namespace. What else happens to its server is told, and the rest concerns nobody here.
fn is_loss(event: Event) -> bool {
    if event == Event::StorageRestarted {
        println!("the storage server was started again");
    }
    event == Event::StorageLost
}

/// Does something with the namespace. None if that was lost meanwhile: there are new queues then.
fn unless_lost<T>(
    app: &mut App,
    bench: &mut Bench,
    pass: &mut Pass<'_>,
    work: impl FnOnce(&mut Bench, &mut Rest<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let mut is_lost = false;
    let mut rest = |storage: &mut Storage, next| {
        is_lost |= pass(app, storage, next)?.is_some_and(is_loss);
        if is_lost { Err(Error::failed("the namespace is lost")) } else { Ok(()) }
    };
    let done = work(bench, &mut rest);
    if !is_lost {
        let done = done?;
        if !app.poll()?.is_some_and(is_loss) {
            return Ok(Some(done));
        }
    }
    await_queues(app, bench)?;
    Ok(None)
}

/// Waits for new queues after a loss.
fn await_queues(app: &mut App, bench: &mut Bench) -> Result<(), Error> {
    let deadline = app.clock().in_us(PATIENCE_US);
    while clock::now() < deadline {
        if let Some(Event::StorageRenewed { space }) = app.market().wait(deadline)? {
            return bench.renew(&space);
        }
    }
    Err(Error::failed("there are no new queues"))
}
