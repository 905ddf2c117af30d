//! The roles, in a VM.

use crate::work::{Bench, Order, Rest, Work, hold};
use userlib::market::Event;
use userlib::storage::{Operation, Queue, Storage};
use userlib::usage::Exits;
use userlib::{App, Error, clock, println};

/// Queue depths that are tried.
const DEPTHS: [usize; 4] = [1, 4, 16, 32];
/// Pages that are used, if it is not told.
const PAGES: u64 = 1 << 20;
/// Operations of each kind, if it is not told.
const OPERATIONS: u64 = 256;
/// Milliseconds that `keep` keeps for, if it is not told.
const KEEP_MS: u64 = 1_000;
const LARGEST: usize = 32;
/// Microseconds for which the storage server may take to make new queues.
const PATIENCE_US: u64 = 10_000_000;

/// The application.
///
/// # Errors
/// When it has no namespace, its role is none, or the namespace does not hold what was written.
pub fn run(app: &mut App) -> Result<(), Error> {
    let storage = app.storage()?;
    let (pages, operations) = (app.number("pages", PAGES), app.number("operations", OPERATIONS));
    println!("a namespace of {} pages", storage.pages());
    let mut bench = Bench::new(storage, pages, app.arg("role") != Some("measure"), app.clock().hz());
    match app.arg("role") {
        None | Some("check") => check(app, &mut bench, operations),
        Some("measure") => measure(&mut bench, operations),
        Some("keep") => keep(app, &mut bench),
        Some(_) => Err(Error::failed("`role` must be `check`, `measure` or `keep`")),
    }?;
    println!("{} impossible ends", bench.storage.faults());
    Ok(())
}

/// All pages, one after the other.
fn all(bench: &mut Bench, operation: Operation, rest: &mut Rest<'_>) -> Result<Exits, Error> {
    let (queue, order, operations) = (Queue::Interrupting, Order::Sequential, bench.pages);
    Ok(bench.run(&Work { queue, depth: LARGEST, operation, order, operations }, rest)?.exits)
}

fn check(app: &mut App, bench: &mut Bench, operations: u64) -> Result<(), Error> {
    let mut exits = all(bench, Operation::Read, &mut hold)?;
    println!("{} pages are zero", bench.pages);
    exits.add(all(bench, Operation::Write, &mut hold)?);
    let mut done = 2 * bench.pages;
    for order in [Order::Random, Order::Sequential] {
        for queue in [Queue::Polled, Queue::Interrupting] {
            for depth in DEPTHS {
                for operation in [Operation::Read, Operation::Write] {
                    let cost = bench.run(&Work { queue, depth, operation, order, operations }, &mut hold)?;
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

fn measure(bench: &mut Bench, operations: u64) -> Result<(), Error> {
    all(bench, Operation::Read, &mut hold)?;
    for operation in [Operation::Read, Operation::Write] {
        for queue in [Queue::Polled, Queue::Interrupting] {
            bench.storage.set_acknowledge_batch(if queue == Queue::Polled { u32::MAX } else { 1 });
            for depth in [1, 32] {
                let work = Work { queue, depth, operation, order: Order::Random, operations };
                let cost = bench.run(&work, &mut hold)?;
                println!(
                    "{operation:?} {queue:?} depth {depth}: {} instructions each, {} exits and {} preemptions of {}",
                    cost.begin.each() + cost.end.each(),
                    cost.exits.own,
                    cost.exits.preemptions,
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
    while clock::now() < end {
        // Another event than the loss concerns nobody here.
        let mut loss = None;
        let mut rest = |storage: &mut Storage, _| match storage.wait(app, end)? {
            Some(event @ Event::StorageLost) => {
                loss = Some(event);
                Err(Error::failed("the namespace is lost"))
            }
            _ => Ok(()),
        };
        let round = if is_new {
            all(bench, Operation::Read, &mut rest)
                .map(|_| println!("{} pages are zero", bench.pages))
                .and_then(|()| all(bench, Operation::Write, &mut rest).map(|_| ()))
        } else {
            all(bench, Operation::Read, &mut rest).map(|_| rounds += 1)
        };
        if loss.is_none() {
            round?;
            is_new = false;
            done += bench.pages;
            app.work_done(done, 0);
            loss = app.poll()?.filter(|event| *event == Event::StorageLost);
        }
        if loss.is_some() {
            await_queues(app, bench)?;
            renewed += 1;
            is_new = true;
        } else {
            app.sleep_until(app.clock().in_us(1_000));
        }
    }
    println!("{rounds} times read and right, {renewed} times with new queues");
    Ok(())
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
