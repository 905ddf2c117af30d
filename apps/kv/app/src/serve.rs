//! The server in its VM: one loop over network, clients and market.
//!
//! The market is looked at between two rounds of serving, each of which is short against the interval of a notice; so
//! whatever is to go is given up in time, and no page is used that is gone.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use app_net::{Network, Next};
use kv_server::kv_engine::{PAGE_BYTES, Retrievals, Store, Time, Usage};
use kv_server::{Server, Settings};
use userlib::market::{BANDWIDTH_UNIT, Event, FixedBid, MarginalHit, Price, Quantity};
use userlib::storage::{Storage, StorageFunction};
use userlib::{App, Error, Start, clock, console, events, println, usage};

use crate::memory::{COLD_TABLE_BYTES_PER_PAGE, Items, Memory, TABLE_BYTES_PER_PAGE};
use crate::pages::MappedPages;
use crate::policy::{self, Rate, Sending};
use crate::shelf::Shelf;

/// Pages of the base for items, if it is not told.
const ITEM_PAGES: u64 = 32;
/// Of the base, this part is for the tables of the store, and that for the buffers of clients.
const TABLES_PART: u64 = 4;
const CLIENTS_PART: u64 = 2;
/// Of the base, this part is for the table of the namespace's pages, of which each takes so many bytes.
const COLD_PART: u64 = 64;
const COLD_TABLE_BYTES: u64 = 16;
/// Pages that are kept free while there is a namespace, so that what comes costs nothing that is there.
const FREE_PAGES: usize = 4;
/// Of the clients that there may be, this part may be ones that have not connected yet.
const OPENING_PART: usize = 4;
/// When the machine was started, if it is not told: 2026.
const EPOCH_S: u64 = 1_767_225_600;
/// Entries of the store that are looked at for expiry in each interval of the page good.
const CRAWLED: usize = 64;

/// Hits a second that a function is bought for, and reads for a namespace, if it is not told.
const LEAST_HITS: u64 = 1_000;

/// Pages to be given up.
#[derive(Clone, Copy, Debug)]
struct Due {
    units: usize,
    /// TSC value at which they are given up: late enough to use them, early enough to let go of many before the deadline, and
    /// to be on the core once more before it.
    at: u64,
}

/// What is going on.
struct Kv {
    server: Server<MappedPages, Shelf<Storage>>,
    memory: Memory,
    due: Vec<Due>,
    /// Whether it keeps its core while it has nothing to do.
    keeps_core: bool,
    /// Pages of the base for items, and how many can be bought besides.
    own_pages: u32,
    most_pages: u32,
    /// When the next bid is due, by the TSC.
    next_bid: u64,
    /// Hits, accesses, and hits that were read from the namespace, up to the last bid; and how many there are between two.
    counted: [u64; 3],
    hits: Rate,
    accesses: Rate,
    reads: Rate,
    /// Bytes that leave by the function.
    sending: Sending,
    /// The namespace, while its queues are gone.
    lost: Option<Storage>,
    /// What there is for a namespace before the first one was bought.
    unused: Option<StorageFunction>,
    /// Pages of the namespace that it uses at most.
    cold_pages: usize,
    /// Of a value that has come from there.
    value: Vec<u8>,
    /// Ticks up to the last bid, and those since then in which it rested.
    looked_at: u64,
    rested: u64,
}

/// The application.
///
/// # Errors
/// When it has no virtual function, an argument is wrong, the base is too small, or the market is gone.
pub fn run(app: &mut App) -> Result<(), Error> {
    let end = app.arg("for").map(|_| app.clock().in_us(1_000 * app.number("for", 0)));
    let started_s = app.number("epoch", EPOCH_S);
    let time = |now_ns: u64| Time::from_micros(started_s.saturating_mul(1_000_000).saturating_add(now_ns / 1_000));
    let seed = app.start().seed ^ clock::now();
    bid_for_function(app, Rate::default())?;
    let mut network = Network::new(app, seed)?;
    let mut kv = Kv::new(app, &mut network, time)?;
    let mut is_known = false;
    // The server has something to do, whether the network has found anything or not.
    let mut goes_on = true;
    loop {
        while let Some(event) = network.event(app)? {
            kv.take(app, event)?;
        }
        kv.give_up(app)?;
        kv.bid(app, time(network.now_ns()), &mut network)?;
        let next = network.poll();
        let now_ns = network.now_ns();
        let is_idle = matches!(next, Next::Sleep(_)) && !goes_on;
        let has_more = !is_idle && kv.server.serve(network.sockets(), time(now_ns));
        // What comes from the namespace is somebody's answer.
        let has_moved = kv.move_values(time(now_ns));
        goes_on = is_idle || has_more || has_moved;
        if !is_known
            && network.link_is_up()
            && let Some(address) = network.address()
        {
            is_known = true;
            println!("serving at {address}, port {}", Settings::default().port);
        }
        if end.is_some_and(|end| clock::now() >= end) {
            return kv.finish(app);
        }
        if !is_idle || has_moved {
            continue;
        }
        let deadline = kv.due.iter().map(|due| due.at).chain(end).fold(kv.next_bid, u64::min);
        let before = clock::now();
        let event = network.rest(app, next, deadline)?;
        kv.rested += clock::now() - before;
        if let Some(event) = event {
            kv.take(app, event)?;
        }
    }
}

/// Pages of the base that items take beyond what every application keeps of it.
#[must_use]
pub fn pages_kept(start: &Start) -> u32 {
    start.number("items", ITEM_PAGES).saturating_sub(ITEM_PAGES).try_into().unwrap_or(u32::MAX)
}

impl Kv {
    fn new(app: &mut App, network: &mut Network, time: impl Fn(u64) -> Time) -> Result<Kv, Error> {
        let base = u64::from(app.start().base_pages) * PAGE_BYTES as u64;
        let own_pages = app.number("items", ITEM_PAGES) as u32;
        let settings = Settings::default();
        let client_bytes = (settings.receive_bytes + settings.transmit_bytes) as u64;
        let clients = app.number("clients", base / CLIENTS_PART / client_bytes).clamp(2, settings.most_clients as u64);
        let has_storage = app.storage_good().is_some();
        let page_bytes = TABLE_BYTES_PER_PAGE + if has_storage { COLD_TABLE_BYTES_PER_PAGE } else { 0 };
        let table_pages = base / TABLES_PART / page_bytes;
        let most_pages = app.number("pages", table_pages.saturating_sub(own_pages.into())) as u32;
        let seed = app.start().seed;
        let key = || core::array::from_fn(|_| ((clock::now() ^ seed) >> 2) as u8);
        let mut shelf = Shelf::new(&key());
        let cold_pages = app.number("cold", base / COLD_PART / COLD_TABLE_BYTES) as usize;
        let mut unused = None;
        if app.start().storage.is_some() {
            shelf.open(app.storage()?, cold_pages);
        } else if has_storage {
            unused = Some(app.storage_function()?);
        }
        let mut items: Items<_> = Store::new(MappedPages::default(), shelf, &key(), time(network.now_ns()));
        Memory::base(&mut items, app.market().pager(), own_pages)?;
        items.set_usage(cost);
        let settings = Settings {
            most_clients: clients as usize,
            most_opening: (clients as usize).div_ceil(OPENING_PART),
            ..settings
        };
        let server = Server::new(items, network.sockets(), settings);
        Ok(Kv {
            server,
            memory: Memory::default(),
            due: Vec::new(),
            keeps_core: network.keeps_core(),
            own_pages,
            most_pages,
            next_bid: 0,
            counted: [0; 3],
            hits: Rate::default(),
            accesses: Rate::default(),
            reads: Rate::default(),
            sending: Sending::default(),
            lost: None,
            unused,
            cold_pages,
            value: Vec::new(),
            looked_at: clock::now(),
            rested: 0,
        })
    }

    /// Answers what has happened in the market.
    fn take(&mut self, app: &mut App, event: Event) -> Result<(), Error> {
        let page = app.page_good();
        match event {
            Event::Leased { lease, .. } => self.memory.arrived(self.server.store(), app.market().pager(), lease),
            Event::Notice(notice) if notice.good == page => {
                let tsc = clock::now();
                let half = notice.deadline_tsc.saturating_sub(tsc) / 2;
                // Who keeps its core uses its budget up, and is then away for up to a period.
                let away = if self.keeps_core { events::cpu_share().period_ticks } else { 0 };
                self.due.push(Due { units: notice.units as usize, at: tsc + half.saturating_sub(away) });
            }
            Event::Taken { leases } => self.memory.taken(self.server.store(), &leases),
            Event::NicReset => println!("the function was reset and is up again"),
            Event::StorageRestarted => println!("the storage server was started again, with nothing lost"),
            Event::StorageLost => {
                // What is under way there fails, and is a miss, as is all that was there.
                if let Some(mut storage) = self.server.store().cold_mut().lose() {
                    storage.lose();
                    self.lost = Some(storage);
                }
            }
            Event::StorageRenewed { space } => {
                let storage = match (self.lost.take(), self.unused.take()) {
                    (Some(mut storage), _) => {
                        storage.renew(&space)?;
                        storage
                    }
                    (None, Some(function)) => function.open(&space)?,
                    (None, None) => return Ok(()),
                };
                self.server.store().cold_mut().open(storage, self.cold_pages);
                println!("there are new queues");
            }
            Event::VfLeased => println!("another function is up"),
            Event::VfTaken => println!("the function was lost to who paid more for it"),
            Event::Notice(_)
            | Event::Round { .. }
            | Event::Unusable { .. }
            | Event::AtRisk { .. }
            | Event::Valuation { .. }
            | Event::StopNotice { .. }
            | Event::Refused { .. } => {}
        }
        Ok(())
    }

    /// Once per interval of the page good: bids for pages, for a function and for its bandwidth at what their hits are worth,
    /// and tells how many hits there were. While there is no function, all are worth what they were: clients will be back.
    fn bid(&mut self, app: &mut App, now: Time, network: &mut Network) -> Result<(), Error> {
        let tsc = clock::now();
        if tsc < self.next_bid {
            return Ok(());
        }
        self.next_bid = tsc + app.interval_ticks(app.page_good());
        let is_reached = network.link_is_up();
        let (own, most) = (self.own_pages, self.most_pages);
        let items = self.server.store();
        let Retrievals { hits, misses, cold_reads: reads } = items.retrievals();
        let accesses = hits + misses;
        let [new_hits, new_accesses, new_reads] =
            [hits - self.counted[0], accesses - self.counted[1], reads - self.counted[2]];
        self.counted = [hits, accesses, reads];
        if is_reached {
            self.hits.note(new_hits);
            self.accesses.note(new_accesses);
            // Who has no namespace does not learn how many reads there would be.
            if items.cold_mut().is_open() {
                self.reads.note(new_reads);
            }
            self.sending.note(network.sent_bytes());
        }
        items.crawl(now, CRAWLED);
        let points = policy::points(items.hits_by_pages(self.accesses.per_interval()), own, most);
        if is_reached {
            items.fade_distances();
        }
        let busy = (tsc - self.looked_at).saturating_sub(self.rested);
        (self.looked_at, self.rested) = (tsc, 0);
        let page = app.page_good();
        let per_hit = match items.cold_mut().read_ticks() {
            Some(read) => policy::worth_in_memory(app.value_of_work(), read, busy / new_accesses.max(1)),
            None => app.value_of_work(),
        };
        MEMORY_WORTH.store(policy::thousandths(per_hit, app.value_of_work()), Ordering::Relaxed);
        // A page that was lost costs at least one hit to fill again.
        app.market().bid_by(page, &MarginalHit { points: &points, per_hit, refill: per_hit })?;
        bid_for_function(app, self.hits)?;
        bid_for_namespace(app, self.reads)?;
        self.bid_for_bandwidth(app)?;
        app.work_done(hits, 0);
        console::hits(hits, accesses);
        Ok(())
    }

    /// Bids for bandwidth at what the hits are worth that it carries.
    fn bid_for_bandwidth(&self, app: &mut App) -> Result<(), Error> {
        let Some(good) = app.bandwidth_good() else { return Ok(()) };
        let (hz, sold) = (app.clock().hz().max(1), app.interval_ticks(good));
        let bytes = |ticks: u64| (u128::from(ticks) * u128::from(BANDWIDTH_UNIT / 8) / u128::from(hz)) as u64;
        let unit = (bytes(app.interval_ticks(app.page_good())), bytes(sold));
        let least = app.number("hits", LEAST_HITS).saturating_mul(sold) / hz;
        let lease = app.market().holding(good).lease;
        let has = (lease.base.0, lease.running.0);
        let bid = self.sending.bid(self.hits, unit, has, least, app.value_of_work());
        Ok(app.market().bid_by(good, &bid)?)
    }

    /// Moves values to the namespace, so that pages are free for what comes and for who is to get them, and back from there.
    /// True if anybody who has waited can go on.
    fn move_values(&mut self, now: Time) -> bool {
        let due: usize = self.due.iter().map(|due| due.units).sum();
        let items = self.server.store();
        if items.cold_mut().is_open() {
            // What does not find room now does when writes have ended.
            items.make_room(now, due + FREE_PAGES);
        }
        items.cold_mut().turn(clock::now());
        let mut has_moved = false;
        let mut value = core::mem::take(&mut self.value);
        while let Some(ended) = self.server.store().cold_mut().ended(&mut value) {
            let bytes = ended.succeeded.then(|| core::iter::once(&value[..]));
            self.server.deliver(now, ended.ticket, bytes);
            has_moved = true;
        }
        self.value = value;
        has_moved
    }

    /// Gives up what is due.
    fn give_up(&mut self, app: &mut App) -> Result<(), Error> {
        if self.due.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        let units: usize = self.due.iter().filter(|due| due.at <= now).map(|due| due.units).sum();
        self.due.retain(|due| due.at > now);
        if units > 0 {
            let leases = self.memory.shrink(self.server.store(), units);
            app.market().give_up(&leases)?;
        }
        Ok(())
    }

    /// Says what it has done.
    fn finish(mut self, app: &mut App) -> Result<(), Error> {
        let store = self.server.store();
        let (counters, totals) = (store.counters(), store.totals());
        let Retrievals { hits, misses, .. } = store.retrievals();
        app.work_done(hits, hits);
        println!(
            "{hits} hits, {misses} misses, {} evictions, {} pages given back, {} items lost",
            totals.evictions, counters.pages_given_back, counters.items_lost
        );
        Ok(())
    }
}

/// Bids for a namespace at what the hits are worth that are read from it, unless the base has one: all of it, or nothing.
fn bid_for_namespace(app: &mut App, reads: Rate) -> Result<(), Error> {
    let units = app.start().storage_units;
    let Some(good) = app.storage_good().filter(|&good| app.base_units(good) < units) else { return Ok(()) };
    let worth = worth_of(app, good, reads, app.number("cold_hits", LEAST_HITS));
    let value = Price(worth.0 / u64::from(units));
    Ok(app.market().bid_by(good, &FixedBid { units: Quantity(units), value, keep: Price::ZERO })?)
}

/// What hits are worth in an interval of this good, of which there are `least` in a second at least.
fn worth_of(app: &App, good: u16, hits: Rate, least: u64) -> Price {
    let interval = app.interval_ticks(good);
    let parts = interval / app.interval_ticks(app.page_good()).max(1);
    let least = least.saturating_mul(interval) / app.clock().hz().max(1);
    policy::device(hits, parts, least, app.value_of_work())
}

/// What a hit in memory was worth to the last bid for pages ([`Usage::memory_worth`]).
static MEMORY_WORTH: AtomicU64 = AtomicU64::new(1000);

/// What the VM has cost so far, and what it bids by.
fn cost() -> Usage {
    let exits = usage::exits();
    Usage {
        own_exits: exits.own,
        preemptions: exits.preemptions,
        device_interrupts: usage::device_interrupts(),
        memory_worth: MEMORY_WORTH.load(Ordering::Relaxed),
    }
}

/// Bids for a virtual function at what its hits are worth, unless the base has one.
fn bid_for_function(app: &mut App, hits: Rate) -> Result<(), Error> {
    let Some(good) = app.vf_good().filter(|_| !app.start().has_vf) else { return Ok(()) };
    let value = worth_of(app, good, hits, app.number("hits", LEAST_HITS));
    Ok(app.market().bid_by(good, &FixedBid { units: Quantity(1), value, keep: Price::ZERO })?)
}
