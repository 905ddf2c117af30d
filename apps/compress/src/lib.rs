//! `compress`: its input as a gzip file, with a window and an effort that follow the prices.
//!
//! A KiB by which the output is smaller than the input is worth the application's valuation. Between members of the
//! file it chooses the plan with the highest profit ([`plan`]): a large window takes pages, which it leases one by one
//! and uses as a row ([`arena`]); great effort takes CPU time. What it bids for either is what it expects to save by it.
//! When pages are under notice, it ends the member at once and goes on with a smaller window.
//!
//! The output, `NAME.gz`, has several members; `gzip -d` gives the input back.
//!
//! Argument: `name=NAME` (`output`).
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arena;
pub mod gzip;
pub mod plan;

use alloc::format;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use userlib::clock::CpuTimer;
use userlib::console::File;
use userlib::market::{Event, FixedBid, MarginalHit, Offer, Price, Quantity, UNITS_PER_CORE};
use userlib::{App, Error, println};

use arena::Arena;
use gzip::Member;
use plan::{BASE_PLANS, PLANS, Plans, Prices, STRETCH, UNIT};

/// Bytes of input between two looks at the market.
const PIECE: usize = 8 * 1024;
/// Bytes of input in a member.
const MEMBER: usize = 256 * 1024;
/// Of a core, the application can use all but what market and servers keep.
const MOST_UNITS: Quantity = Quantity(UNITS_PER_CORE - 10);

/// Rounds for which pages that are of no use are kept, as the others that would make them useful may follow.
const PATIENCE: u32 = 3;
/// Rounds for which no more than the useful pages are bid for after others were given back.
const PAUSE: u32 = 10;

/// What is going on.
struct Work {
    arena: Arena,
    plans: Plans,
    /// The plan in use.
    plan: usize,
    /// Memory of the plans of the base.
    own: Vec<MaybeUninit<u8>>,
    /// Rounds in which there were pages of no use.
    useless_rounds: u32,
    /// Rounds until more than the useful pages are bid for again.
    pause: u32,
    /// How often each plan was used, for the report.
    used: [u32; PLANS.len()],
}

/// The application.
pub fn run(app: &mut App) -> Result<(), Error> {
    let input = app.input();
    let most = PLANS[..BASE_PLANS].iter().map(|plan| plan.pages).max().unwrap_or(0);
    let mut work = Work {
        arena: Arena::default(),
        plans: Plans::new(),
        plan: 0,
        own: alloc::vec![MaybeUninit::uninit(); most as usize * 4096],
        useless_rounds: 0,
        pause: 0,
        used: [0; PLANS.len()],
    };
    let mut file = File::create(&format!("{}.gz", app.arg("name").unwrap_or("output")));
    let (mut rest, mut written) = (input, 0);
    work.bid(app)?;
    // Also an empty input makes one member.
    loop {
        let length = work.member(app, rest, &mut file, &mut written)?;
        rest = &rest[length..];
        let saved = (input.len() - rest.len()).saturating_sub(written) as u64;
        app.work_done(saved / UNIT, 0);
        if rest.is_empty() {
            break;
        }
    }
    file.close();
    for good in [app.page_good(), app.cpu_good()] {
        app.market().bid(good, &Offer::NONE)?;
    }
    let leases = work.arena.shrink(usize::MAX);
    let page = app.page_good();
    app.market().release(page, &leases)?;
    println!("{} bytes in, {written} bytes out, members by plan: {:?}", input.len(), work.used);
    Ok(())
}

impl Work {
    /// Makes one member of the beginning of `input`, and says how many bytes of it are in.
    fn member(&mut self, app: &mut App, input: &[u8], file: &mut File, written: &mut usize) -> Result<usize, Error> {
        self.look(app)?;
        self.give_up(app)?;
        self.plan = self.plans.best(self.arena.row(), &prices(app));
        let plan = &PLANS[self.plan];
        let leased = if self.plan < BASE_PLANS {
            None
        } else {
            // SAFETY: only compressors use the pages, one at a time, and they are given back in `give_up` only, which runs
            // after a member was finished.
            unsafe { self.arena.memory(plan.pages, app.market().pager()) }
        };
        // The plans of the base always have their memory.
        let mut own = core::mem::take(&mut self.own);
        let (at, memory) = match leased {
            Some(memory) => (self.plan, memory),
            None => (self.plan.min(BASE_PLANS - 1), own.as_mut_slice()),
        };
        self.plan = at;
        self.used[at] += 1;
        let mut member =
            Member::begin(&PLANS[at], memory).ok_or_else(|| Error::failed("the plan needs more memory"))?;
        let timer = CpuTimer::start();
        let (mut taken, mut made) = (0, 0);
        let mut output = Vec::new();
        for piece in input[..input.len().min(MEMBER)].chunks(PIECE) {
            member.write(piece, &mut output);
            taken += piece.len();
            made += output.len();
            file.write(&output);
            output.clear();
            self.look(app)?;
            let (due, pages) = (self.due(app), self.arena.len());
            if due > 0 && (self.plan < BASE_PLANS || pages - due < PLANS[self.plan].pages as usize) {
                break;
            }
            // Pages or prices have changed so that another window is best now. Short members would cost more than it brings.
            let best = self.plans.best(self.arena.row(), &prices(app));
            if taken as u64 >= STRETCH && PLANS[best].window_bits != PLANS[self.plan].window_bits {
                break;
            }
        }
        member.finish(&mut output);
        made += output.len();
        file.write(&output);
        *written += made;
        self.own = own;
        self.plans.measured(at, taken as u64, made as u64, timer.elapsed());
        Ok(taken)
    }

    /// Takes in what happened in the market.
    fn look(&mut self, app: &mut App) -> Result<(), Error> {
        let page = app.page_good();
        while let Some(event) = app.poll()? {
            match event {
                Event::Leased { lease, .. } => {
                    if let Some(address) = app.market().pager().address(lease) {
                        self.arena.add(address, lease);
                    }
                }
                Event::Taken { leases } => leases.iter().for_each(|&lease| self.arena.remove(lease)),
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
        Ok(())
    }

    /// Pages that are here and under notice, which userlib remembers until its deadline.
    fn due(&self, app: &mut App) -> usize {
        let page = app.page_good();
        let market = app.market();
        let notices = market.notices().iter().filter(|notice| notice.good == page);
        self.arena.due(notices.map(|notice| notice.units as usize).sum())
    }

    /// Gives up the pages that are under notice, from the end of the row, and gives back those that were of no use for
    /// long. Between members only.
    fn give_up(&mut self, app: &mut App) -> Result<(), Error> {
        let due = self.due(app);
        if due > 0 {
            let leases = self.arena.shrink(due);
            app.market().give_up(&leases)?;
        }
        if self.useless_rounds > PATIENCE {
            let useless = self.arena.len() - plan::useful(self.arena.row()) as usize;
            let leases = self.arena.shrink(useless);
            let page = app.page_good();
            app.market().release(page, &leases)?;
            (self.useless_rounds, self.pause) = (0, PAUSE);
        }
        Ok(())
    }

    /// Bids for pages and CPU time at what they are expected to save.
    fn bid(&mut self, app: &mut App) -> Result<(), Error> {
        let now = prices(app);
        let per_hit = Price((now.per_unit.0 / UNIT).max(1));
        let useful = plan::useful(self.arena.row());
        self.useless_rounds = if self.arena.len() > useful as usize { self.useless_rounds + 1 } else { 0 };
        let mut points = self.plans.points(&now);
        if self.pause > 0 {
            // A part of the pages for a window costs money and brings nothing; so it is not asked for all the time.
            self.pause -= 1;
            points.retain(|point| point.pages.0 <= useful);
        }
        let (page, cpu) = (app.page_good(), app.cpu_good());
        app.market().bid_by(page, &MarginalHit { points: &points, per_hit, refill: Price::ZERO })?;
        let value = self.plans.cpu_value(self.plan, &now);
        app.market().bid_by(cpu, &FixedBid { units: MOST_UNITS, value, keep: Price::ZERO })?;
        Ok(())
    }
}

/// The prices of the moment.
fn prices(app: &mut App) -> Prices {
    let (page, cpu) = (app.page_good(), app.cpu_good());
    let clearing = [page, cpu].map(|good| app.market().line(good).map_or(Price::ZERO, |line| line.clearing));
    let cpu_ticks = (app.interval_ticks(cpu) / u64::from(UNITS_PER_CORE)).max(1);
    let lease = app.market().holding(cpu).lease;
    let units = u64::from(lease.base.0) + u64::from(lease.running.0);
    let cpu_intervals = app.interval_ticks(page) / app.interval_ticks(cpu).max(1);
    Prices {
        per_unit: app.value_of_work(),
        cpu: clearing[1],
        cpu_ticks,
        page: clearing[0],
        ticks_per_page_interval: units.max(1) * cpu_ticks * cpu_intervals.max(1),
    }
}
