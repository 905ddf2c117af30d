//! `cache`: replays a trace of keys through a cache whose size is bought page by page.
//!
//! A hit is worth the application's valuation. How many hits further pages would bring is estimated from the accesses
//! themselves ([`stack_distance`]), and the pages are bid for at what their hits are worth
//! ([`userlib::market::MarginalHit`]); CPU time is bid for at the hits that it makes possible. Pages under notice are
//! given up shortly before the deadline, those of the objects that were not used for longest first.
//!
//! `cache.txt` says how many accesses and hits there were, and how many pages at which access ([`sizes::Report`]): given
//! these sizes, [`sizes::simulate`] on the host has the same hits.
//!
//! Argument: `passes=N`, how often the trace is replayed (1). The seed says with which key it begins.
#![no_std]

extern crate alloc;

pub mod object;
pub mod sizes;
pub mod store;
pub mod trace;

use alloc::vec::Vec;

use userlib::console::{self, File};
use userlib::market::{Event, FixedBid, HitPoint, MarginalHit, Offer, Price, Quantity, UNITS_PER_CORE};
use userlib::{App, Error, clock, println};

use object::BYTES;
use sizes::Report;
use stack_distance::Distances;
use store::Store;
use trace::Trace;

/// Accesses between two looks at the market.
const BATCH: usize = 32;
/// Progress is reported after so many accesses.
const REPORT_EVERY: u64 = 4096;
/// Of a core, the application can use all but what market and servers keep.
const MOST_UNITS: Quantity = Quantity(UNITS_PER_CORE - 10);

/// Pages to be given up.
#[derive(Clone, Copy, Debug)]
struct Due {
    units: usize,
    /// TSC value at which they are given up: late enough to use them, early enough to let go of many before the deadline.
    at: u64,
}

/// What is going on.
struct Replay {
    store: Store,
    distances: Distances,
    due: Vec<Due>,
    /// Accesses and hits up to the last round of the page good.
    counted: (u64, u64),
    /// Ticks per access while running: the fastest batch of late.
    ticks_per_access: u64,
}

/// The application.
pub fn run(app: &mut App) -> Result<(), Error> {
    let trace = Trace::new(app.input());
    let passes = app.number("passes", 1).max(1);
    let total = (trace.clone().count() as u64).saturating_mul(passes);
    let mut replay = Replay {
        store: Store::new(),
        distances: Distances::new(1, 0),
        due: Vec::new(),
        counted: (0, 0),
        ticks_per_access: 0,
    };
    let mut next_report = REPORT_EVERY;
    let mut object = [0; BYTES];
    let mut keys = trace.passes(passes, app.start().seed).peekable();
    while keys.peek().is_some() {
        replay.look(app)?;
        let start = clock::now();
        let mut count = 0;
        for key in keys.by_ref().take(BATCH) {
            replay.distances.access(key, Some(1));
            replay.store.get(key, app.market().pager(), &mut object);
            count += 1;
        }
        replay.measured(count, clock::now() - start);
        if replay.store.report().accesses >= next_report {
            let Report { hits, accesses, .. } = *replay.store.report();
            app.work_done(hits, 0);
            console::hits(hits, accesses);
            next_report += REPORT_EVERY;
        }
    }
    finish(app, &mut replay, total)
}

/// Gives everything back and writes the report.
fn finish(app: &mut App, replay: &mut Replay, total: u64) -> Result<(), Error> {
    for good in [app.page_good(), app.cpu_good()] {
        app.market().bid(good, &Offer::NONE)?;
    }
    let leases = replay.store.shrink(usize::MAX);
    let report = {
        let mut report = replay.store.report().clone();
        // The last size counts for no access any more.
        report.sizes.retain(|size| size.position < report.accesses);
        report
    };
    let page = app.page_good();
    app.market().release(page, &leases)?;
    app.work_done(report.hits, report.hits);
    let mut file = File::create("cache.txt");
    // Writing to an output file does not fail.
    let _ = report.write(&mut file);
    file.close();
    println!("{} hits in {} accesses, {} sizes", report.hits, report.accesses, report.sizes.len());
    if replay.store.damaged() > 0 || report.accesses != total {
        return Err(Error::failed("objects in the cache were damaged, or accesses are missing"));
    }
    Ok(())
}

impl Replay {
    /// Takes in what happened in the market and answers it.
    fn look(&mut self, app: &mut App) -> Result<(), Error> {
        let page = app.page_good();
        while let Some(event) = app.poll()? {
            match event {
                Event::Leased { lease, .. } => self.store.add(lease),
                Event::Notice(notice) if notice.good == page => {
                    let now = clock::now();
                    let left = notice.deadline_tsc.saturating_sub(now);
                    self.due.push(Due { units: notice.units as usize, at: now + left / 2 });
                }
                Event::Taken { leases } => self.store.taken(&leases, app.market().pager()),
                Event::Round { good, .. } if good == page => self.bid(app)?,
                Event::Notice(_)
                | Event::Round { .. }
                | Event::Unusable { .. }
                | Event::AtRisk { .. }
                | Event::Valuation { .. }
                | Event::VfLeased
                | Event::VfTaken
                | Event::NicReset
                | Event::StorageRestarted
                | Event::StorageLost
                | Event::StorageRenewed { .. }
                | Event::StopNotice { .. }
                | Event::Refused { .. } => {}
            }
        }
        if self.counted == (0, 0) && self.store.report().accesses > 0 {
            // The first bids, before the first round.
            self.bid(app)?;
        }
        if !self.due.is_empty() {
            let now = clock::now();
            let units: usize = self.due.iter().filter(|due| due.at <= now).map(|due| due.units).sum();
            self.due.retain(|due| due.at > now);
            if units > 0 {
                let leases = self.store.shrink(units);
                app.market().give_up(&leases)?;
            }
        }
        Ok(())
    }

    /// Takes note of how long some accesses took.
    fn measured(&mut self, accesses: u64, ticks: u64) {
        let now = (ticks / accesses.max(1)).max(1);
        let before =
            if self.ticks_per_access == 0 { now } else { self.ticks_per_access + self.ticks_per_access / 64 + 1 };
        // A batch that took longer was interrupted; what is remembered fades, so that one lucky batch doesn't stay.
        self.ticks_per_access = now.min(before);
    }

    /// Bids for pages and CPU time at what hits are worth. Once per interval of the page good.
    fn bid(&mut self, app: &mut App) -> Result<(), Error> {
        let report = self.store.report();
        let accesses = report.accesses - self.counted.0;
        let hits = report.hits - self.counted.1;
        self.counted = (report.accesses, report.hits);
        let per_hit = app.value_of_work();
        let point = |(pages, hits)| HitPoint { pages: Quantity(pages), hits };
        let points: Vec<HitPoint> = self.distances.points(accesses).map(point).collect();
        // A page that was lost costs at least one hit to fill again.
        let (page, cpu) = (app.page_good(), app.cpu_good());
        app.market().bid_by(page, &MarginalHit { points: &points, per_hit, refill: per_hit })?;
        self.distances.fade();
        let unit_ticks = app.interval_ticks(cpu) / u64::from(UNITS_PER_CORE);
        let value = cpu_value(unit_ticks, self.ticks_per_access, hits, accesses, per_hit);
        app.market().bid_by(cpu, &FixedBid { units: MOST_UNITS, value, keep: Price::ZERO })?;
        Ok(())
    }
}

/// What a unit of CPU time is worth: the accesses that it makes possible, times the present share of hits, times the
/// value of a hit.
fn cpu_value(unit_ticks: u64, ticks_per_access: u64, hits: u64, accesses: u64, per_hit: Price) -> Price {
    let possible = u128::from(unit_ticks / ticks_per_access.max(1));
    let worth = possible * u128::from(hits) * u128::from(per_hit.0) / u128::from(accesses.max(1));
    Price(u64::try_from(worth).unwrap_or(u64::MAX)).min(Price::LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_worth_the_hits_that_it_makes() {
        // 100,000 ticks are 50 accesses, of which every second one is a hit worth 4.
        assert_eq!(cpu_value(100_000, 2_000, 30, 60, Price(4)), Price(100));
        assert_eq!(cpu_value(100_000, 0, 0, 0, Price(4)), Price(0));
        assert_eq!(cpu_value(u64::MAX, 1, 1, 1, Price(u64::MAX)), Price::LIMIT);
    }
}
