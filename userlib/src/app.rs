//! An application: what it was started with, its connections, and its end.

use core::cell::{RefCell, RefMut};
use core::ops::{Deref, DerefMut};

use alloc::string::String;

use proto::nic::{BANDWIDTH_GOOD, VF_GOOD};
use proto::start::Start;
use proto::storage::{IOPS_GOOD, STORAGE_GOOD};

use crate::clock::{self, Clock};
use crate::console;
use crate::error::Error;
use crate::market::{Event, Market, MarketError, NoticeHandler, Price, RoundNo};
use crate::upcalls::{self, Masked};

/// The good that is pages.
const PAGES: u16 = 0;
/// The part of an interval, 1 of so many, for which a virtual function is not touched any more before it goes.
const SPARED_PART: u64 = 8;
/// Millionths in one.
const PPM: u64 = 1_000_000;

/// What an application has.
#[derive(Debug)]
pub struct App {
    start: Start,
    clock: Clock,
    market: &'static RefCell<Market>,
    valuation_ppm: u64,
    work: u64,
    /// True while there is a virtual function of the network device.
    pub(crate) has_vf: bool,
    vf_use_ends: Option<u64>,
    /// What such a function needs besides itself, once one was brought up.
    #[cfg(target_os = "none")]
    pub(crate) surroundings: Option<crate::virtual_function::Surroundings>,
}

/// The connection to the market, in use: no upcall comes before this is dropped.
#[derive(Debug)]
pub struct MarketInUse<'a> {
    // In this order: the connection is free before an upcall can come.
    market: RefMut<'a, Market>,
    _masked: Masked,
}

impl Deref for MarketInUse<'_> {
    type Target = Market;

    fn deref(&self) -> &Market {
        &self.market
    }
}

impl DerefMut for MarketInUse<'_> {
    fn deref_mut(&mut self) -> &mut Market {
        &mut self.market
    }
}

impl App {
    /// The connection to the market, with the leased memory. Use it for one statement at a time, as in
    /// `app.market().bid(good, &offer)?`: as long as it is in use, no upcall comes.
    pub fn market(&mut self) -> MarketInUse<'_> {
        let masked = upcalls::mask();
        // It is not in use: by the application it is only through this, and an upcall runs to its end.
        MarketInUse { market: self.market.borrow_mut(), _masked: masked }
    }

    /// From now on `handler` is called as soon as a notice arrives, in the middle of whatever runs, so that a computation
    /// need not look at the market to keep its deadlines; see [`NoticeHandler`] for what it may do. Without this, a notice
    /// is heard of when the application looks or waits.
    ///
    /// # Errors
    /// When the kernel refuses, or the market is gone.
    pub fn on_notice(&mut self, handler: NoticeHandler) -> Result<(), Error> {
        self.market().handle_notices(Some(handler));
        imp::ask_for_upcalls()?;
        // What has arrived before would be heard of only with the next event.
        Ok(self.market().take_in()?)
    }

    /// Its name in the scenario.
    pub fn name(&self) -> &str {
        &self.start.name
    }

    /// Its arguments.
    pub fn args(&self) -> &[String] {
        &self.start.args
    }

    /// The value of the argument `key=value`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.start.arg(key)
    }

    /// The value of the argument `key=NUMBER`, or `default` if there is none, or none that is a number.
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.start.number(key, default)
    }

    /// Everything that the launcher said.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// The input file; empty if there is none.
    pub fn input(&self) -> &'static [u8] {
        imp::input(self.start.input_bytes as usize)
    }

    /// The clock of the run.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The good that is pages.
    pub fn page_good(&self) -> u16 {
        PAGES
    }

    /// The good that is CPU time of the own core.
    pub fn cpu_good(&self) -> u16 {
        self.start.cpu_good
    }

    /// The good that is what the own virtual function may send, if there can be one.
    pub fn bandwidth_good(&self) -> Option<u16> {
        self.nic_good(BANDWIDTH_GOOD)
    }

    /// The good that is virtual functions of the network device, if this application can have one.
    pub fn vf_good(&self) -> Option<u16> {
        self.nic_good(VF_GOOD)
    }

    /// The good that is reads and writes of the own namespace, if they are limited.
    pub fn iops_good(&self) -> Option<u16> {
        self.storage_device_good(IOPS_GOOD)
    }

    /// The good that is the size of the own namespace, in MiB, if this application has one or can buy one.
    pub fn storage_good(&self) -> Option<u16> {
        self.storage_device_good(STORAGE_GOOD)
    }

    /// Units of a good in the base, pages apart.
    pub fn base_units(&self, good: u16) -> u32 {
        self.start.bases.get(usize::from(good)).copied().unwrap_or(0)
    }

    fn storage_device_good(&self, name: &str) -> Option<u16> {
        if self.start.storage_units > 0 { self.good(name) } else { None }
    }

    fn nic_good(&self, name: &str) -> Option<u16> {
        self.start.nic_mac?;
        self.good(name)
    }

    fn good(&self, name: &str) -> Option<u16> {
        (0..).zip(&self.start.goods).find(|(_, known)| *known == name).map(|(good, _)| good)
    }

    /// True while it has a virtual function of the network device, as far as events were looked at.
    pub fn has_vf(&self) -> bool {
        self.has_vf
    }

    /// Until when the virtual function that there is, or that is coming, can be used, by the TSC; `None` if there is no notice
    /// of its end, as far as events were looked at. Some of the interval is left then, as an application is kept from its core
    /// at times.
    pub fn vf_use_ends(&self) -> Option<u64> {
        self.vf_use_ends
    }

    /// Until when the virtual function that there is can be used whatever the market says from now on, by the TSC; `None`: it
    /// is the base's.
    #[cfg(target_os = "none")]
    pub(crate) fn vf_lasts_until(&mut self) -> Result<Option<u64>, MarketError> {
        let Some(good) = self.vf_good() else { return Ok(None) };
        if self.base_units(good) > 0 {
            return Ok(None);
        }
        let (now, interval) = (clock::now(), self.interval_ticks(good));
        let noted = self.vf_use_ends;
        let mut market = self.market();
        // What has arrived may be a notice; that of the function before is over.
        market.take_in()?;
        let notice = market.notices().iter().find(|notice| notice.good == good && notice.deadline_tsc > now);
        // Without a notice there is a whole interval from the next one on.
        let ends = notice.map_or(now.saturating_add(interval), |notice| notice.deadline_tsc);
        let ends = ends.saturating_sub(interval / SPARED_PART);
        Ok(Some(noted.map_or(ends, |noted| noted.min(ends))))
    }

    /// The interval of a good, in TSC ticks.
    pub fn interval_ticks(&self, good: u16) -> u64 {
        self.start.interval_ticks.get(usize::from(good)).copied().unwrap_or(0)
    }

    /// What a unit of work is worth now; changes with [`Event::Valuation`].
    pub fn value_of_work(&self) -> Price {
        let value = u128::from(self.start.valuation) * u128::from(self.valuation_ppm) / u128::from(PPM);
        Price(u64::try_from(value).unwrap_or(u64::MAX)).min(Price::LIMIT)
    }

    /// The deadline as a TSC value, if there is one.
    pub fn deadline(&self) -> Option<u64> {
        (self.start.deadline_tsc != 0).then_some(self.start.deadline_tsc)
    }

    /// The last interval of a good that is over before a TSC value.
    pub fn interval_before(&self, good: u16, tsc: u64) -> RoundNo {
        let since = tsc.saturating_sub(self.start.epoch_tsc);
        RoundNo((since / self.interval_ticks(good).max(1)).saturating_sub(1))
    }

    /// Reports units of work done, of `total` (0 if unknown).
    pub fn work_done(&mut self, done: u64, total: u64) {
        self.work = done;
        console::progress(done, total);
    }

    /// The next thing that has happened in the market, if any. No exit unless a lease has arrived.
    pub fn poll(&mut self) -> Result<Option<Event>, MarketError> {
        let event = self.market().poll()?;
        self.note(&event);
        Ok(event)
    }

    /// Gives the core up until something has happened in the market or the TSC has reached `deadline` (0: never).
    pub fn wait(&mut self, deadline: u64) -> Result<Option<Event>, MarketError> {
        let event = self.market().wait(deadline)?;
        self.note(&event);
        Ok(event)
    }

    /// Gives the core up until the TSC has reached `deadline`.
    pub fn sleep_until(&self, deadline: u64) {
        clock::sleep_until(deadline);
    }

    pub(crate) fn note(&mut self, event: &Option<Event>) {
        if let Some(Event::Valuation { ppm }) = event {
            self.valuation_ppm = *ppm;
        }
        match event {
            Some(Event::VfLeased) => self.has_vf = true,
            Some(Event::VfTaken) => (self.has_vf, self.vf_use_ends) = (false, None),
            Some(Event::Notice(notice)) if Some(notice.good) == self.vf_good() => {
                let spared = self.interval_ticks(notice.good) / SPARED_PART;
                self.vf_use_ends = Some(notice.deadline_tsc.saturating_sub(spared));
            }
            _ => {}
        }
    }
}

/// For applications that keep nothing of their base for themselves.
#[must_use]
pub fn keeps_nothing(_: &Start) -> u32 {
    0
}

pub use imp::start;

#[cfg(target_os = "none")]
mod imp {
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use core::fmt::{self, Write};
    use core::ptr;
    use core::sync::atomic::{AtomicPtr, Ordering};

    use proto::start::INPUT_BASE;

    use super::{App, PPM, Start};
    use crate::cap::own;
    use crate::channel::Endpoint;
    use crate::clock::{self, Clock};
    use crate::end::{self, Kind, PANICKED};
    use crate::error::Error;
    use crate::market::{Board, Credits, Good, Market, Quantity};
    use crate::pager::Pager;
    use crate::slots::Slots;
    use crate::{arch, console, events, heap, start_page};

    /// Of the base, this part is kept for page tables, CNodes and what else is made of it, but no more pages than so many.
    const KEPT_PART: u32 = 4;
    const MOST_KEPT: u32 = 256;
    /// Seconds for which output may take to leave at the end.
    const FLUSH_SECONDS: u64 = 20;
    /// Longest text about a failure, in bytes.
    const LAST_WORDS: usize = 1200;

    /// The application, once it has begun; for the reporter of failures.
    static RUNNING: AtomicPtr<App> = AtomicPtr::new(ptr::null_mut());
    /// Its connection to the market; for upcalls.
    static CONNECTION: AtomicPtr<RefCell<Market>> = AtomicPtr::new(ptr::null_mut());

    /// Runs an application, which keeps so many pages of its base for itself. What [`main!`](crate::main!) calls.
    pub fn start(run: fn(&mut App) -> Result<(), Error>, keep: fn(&Start) -> u32) -> ! {
        end::set_reporter(report);
        console::open(Endpoint::to_console());
        let app = Box::into_raw(Box::new(begin(keep)));
        RUNNING.store(app, Ordering::Release);
        // SAFETY: just made, and freed never. The reporter, the only other user, runs when nothing else will any more.
        let app = unsafe { &mut *app };
        let status = match run(app) {
            Ok(()) => 0,
            Err(error) => {
                crate::println!("error: {error}");
                1
            }
        };
        console::flush(clock::now().saturating_add(FLUSH_SECONDS.saturating_mul(app.clock.hz())));
        exit(app, status)
    }

    /// Tells the market and waits for the end. No upcall comes any more.
    fn exit(app: &mut App, status: u32) -> ! {
        arch::disable_interrupts();
        // SAFETY: whoever has the connection in use is what ends the application, and never goes on.
        let market = unsafe { &mut *app.market.as_ptr() };
        if market.exit(status, app.work).is_err() {
            end::stop();
        }
        loop {
            // Nothing that happens now matters any more; if waiting is refused, stopping is what is left.
            if own::VCPU.wait(u64::MAX, 0).is_err() {
                end::stop();
            }
        }
    }

    /// Lets events interrupt the application.
    pub fn ask_for_upcalls() -> Result<(), Error> {
        Ok(arch::on_event(on_event)?)
    }

    /// Takes in what the market says, so that a notice reaches its handler.
    fn on_event() {
        events::take(events::MARKET);
        let market = CONNECTION.load(Ordering::Acquire);
        if market.is_null() {
            return;
        }
        // SAFETY: leaked by `begin`. A cell is not for several threads, and there is one only: an upcall runs to its end
        // before what it has interrupted goes on, and never interrupts who has the cell in use (`upcalls`).
        let market = unsafe { &*market };
        if let Ok(mut market) = market.try_borrow_mut() {
            // A broken connection is told to whoever uses it next.
            let _ = market.take_in();
        }
    }

    /// Tells of a panic or fault, without allocation; a panic ends the application with a status.
    fn report(kind: Kind, what: &dyn fmt::Display) {
        let mut words = LastWords { bytes: [0; LAST_WORDS], length: 0 };
        // What does not fit is left out.
        let _ = writeln!(words, "{what}");
        let deadline = clock::now().saturating_add(events::tsc_hz());
        console::last_words(words.text(), deadline);
        let app = RUNNING.load(Ordering::Acquire);
        if kind == Kind::Panic && !app.is_null() {
            // SAFETY: a panic never returns, so no other reference to the application is used again.
            exit(unsafe { &mut *app }, PANICKED);
        }
    }

    struct LastWords {
        bytes: [u8; LAST_WORDS],
        length: usize,
    }

    impl LastWords {
        fn text(&self) -> &str {
            // Whole characters only were put in.
            core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
        }
    }

    impl Write for LastWords {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for character in text.chars() {
                let end = self.length + character.len_utf8();
                let place = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
                character.encode_utf8(place);
                self.length = end;
            }
            Ok(())
        }
    }

    /// Reads the start-up page and takes up all connections.
    fn begin(keep: fn(&Start) -> u32) -> App {
        let start = start_page::read();
        // Without a valid start-up page there is no application.
        let start = start.unwrap_or_else(|| panic!("no start-up page of version {}", proto::VERSION));
        let clock = Clock::new(start.tsc_hz, start.epoch_tsc);
        let spare = start.image_end.saturating_sub(arch::memory_end());
        // SAFETY: the launcher has mapped the image up to there, and the image itself ends at `memory_end`.
        unsafe { heap::claim(arch::memory_end() as *mut u8, spare as usize) };
        let mut pager = Pager::new(Slots::new(start.free_slots_end), own::BASE, own::VM);
        let for_nic = if start.nic_mac.is_some() { proto::nic::BASE_PAGES } else { 0 };
        let for_storage = if start.storage_units > 0 { proto::storage::BASE_PAGES } else { 0 };
        let usual = (start.base_pages / KEPT_PART).min(MOST_KEPT) + for_nic + for_storage;
        let kept = usual.saturating_add(keep(&start));
        if start.base_pages > kept {
            // Without these pages the heap is small, which shows when it is full.
            pager.heap_from_base(start.base_pages - kept);
        }
        let goods: Vec<Good> = (0..)
            .zip(start.goods.iter().zip(&start.interval_ticks))
            .map(|(number, (name, &interval_ticks)): (u16, _)| {
                let base = start.bases.get(usize::from(number)).copied().unwrap_or(0);
                let base_charge = Credits(start.base_charges.get(usize::from(number)).copied().unwrap_or(0));
                Good { name: name.clone(), interval_ticks, base: Quantity(base), base_charge }
            })
            .collect();
        // SAFETY: the launcher maps the board for as long as the VM lives.
        let board = unsafe { Board::mapped(goods.len()) };
        let mut market = Market::new(Endpoint::to_market(), board, goods, pager, clock.hz());
        market.set_free(start.budget);
        let market: &'static RefCell<Market> = Box::leak(Box::new(RefCell::new(market)));
        CONNECTION.store(ptr::from_ref(market).cast_mut(), Ordering::Release);
        let has_vf = start.has_vf;
        App { start, clock, market, valuation_ppm: PPM, work: 0, has_vf, vf_use_ends: None, surroundings: None }
    }

    /// The input, which the launcher has mapped.
    pub fn input(bytes: usize) -> &'static [u8] {
        if bytes == 0 {
            return &[];
        }
        // SAFETY: the launcher maps so many bytes there, READ, before the start, and nobody changes them.
        unsafe { core::slice::from_raw_parts(INPUT_BASE as *const u8, bytes) }
    }
}

#[cfg(not(target_os = "none"))]
mod imp {
    use super::{App, Start};
    use crate::error::Error;

    /// On the host nothing interrupts.
    #[expect(clippy::unnecessary_wraps, reason = "as on a machine")]
    pub fn ask_for_upcalls() -> Result<(), Error> {
        Ok(())
    }

    /// Says where the image belongs. What [`main!`](crate::main!) calls on the host.
    pub fn start(_run: fn(&mut App) -> Result<(), Error>, _keep: fn(&Start) -> u32) -> i32 {
        std::eprintln!("This is an application of the nonkernel: it runs in a VM, by `cargo xtask run`.");
        2
    }

    pub fn input(_bytes: usize) -> &'static [u8] {
        &[]
    }
}
