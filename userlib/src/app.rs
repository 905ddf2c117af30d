//! An application: what it was started with, its connections, and its end.

use alloc::string::String;

use proto::start::Start;

use crate::clock::{self, Clock};
use crate::console;
use crate::market::{Event, Market, MarketError, Price, RoundNo};

/// The good that is pages.
const PAGES: u16 = 0;
/// Millionths in one.
const PPM: u64 = 1_000_000;

/// What an application has.
#[derive(Debug)]
pub struct App {
    start: Start,
    clock: Clock,
    /// The connection to the market, with the leased memory.
    pub market: Market,
    valuation_ppm: u64,
    work: u64,
}

impl App {
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
        self.start.args.iter().find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='))
    }

    /// The value of the argument `key=NUMBER`, or `default` if there is none, or none that is a number.
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.arg(key).and_then(|value| value.parse().ok()).unwrap_or(default)
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
        let event = self.market.poll()?;
        self.note(&event);
        Ok(event)
    }

    /// Gives the core up until something has happened in the market or the TSC has reached `deadline` (0: never).
    pub fn wait(&mut self, deadline: u64) -> Result<Option<Event>, MarketError> {
        let event = self.market.wait(deadline)?;
        self.note(&event);
        Ok(event)
    }

    /// Gives the core up until the TSC has reached `deadline`.
    pub fn sleep_until(&self, deadline: u64) {
        clock::sleep_until(deadline);
    }

    fn note(&mut self, event: &Option<Event>) {
        if let Some(Event::Valuation { ppm }) = event {
            self.valuation_ppm = *ppm;
        }
    }
}

pub use imp::start;

#[cfg(target_os = "none")]
mod imp {
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::fmt::{self, Write};
    use core::ptr;
    use core::sync::atomic::{AtomicPtr, Ordering};

    use cap_spec::abi::START_PAGE;
    use proto::start::{INPUT_BASE, Start};

    use super::{App, PAGES, PPM};
    use crate::cap::own;
    use crate::channel::Endpoint;
    use crate::clock::{self, Clock};
    use crate::end::{self, Kind, PANICKED};
    use crate::error::Error;
    use crate::market::{Board, Good, Market, Quantity};
    use crate::pager::Pager;
    use crate::shared::SharedMemory;
    use crate::slots::Slots;
    use crate::{arch, console, events, heap};

    const PAGE: usize = 4096;
    /// Of the base, this part is kept for page tables and CNodes, but no more pages than so many.
    const KEPT_PART: u32 = 4;
    const MOST_KEPT: u32 = 256;
    /// Seconds for which output may take to leave at the end.
    const FLUSH_SECONDS: u64 = 20;
    /// Longest text about a failure, in bytes.
    const LAST_WORDS: usize = 1200;

    /// The application, once it has begun; for the reporter of failures.
    static RUNNING: AtomicPtr<App> = AtomicPtr::new(ptr::null_mut());

    /// Runs an application. What [`main!`](crate::main!) calls.
    pub fn start(run: fn(&mut App) -> Result<(), Error>) -> ! {
        end::set_reporter(report);
        console::open(Endpoint::to_console());
        let app = Box::into_raw(Box::new(begin()));
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

    /// Tells the market and waits for the end.
    fn exit(app: &mut App, status: u32) -> ! {
        if app.market.exit(status, app.work).is_err() {
            end::stop();
        }
        loop {
            // Nothing that happens now matters any more; if waiting is refused, stopping is what is left.
            if own::VCPU.wait(u64::MAX, 0).is_err() {
                end::stop();
            }
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
    fn begin() -> App {
        let start = read_start();
        let clock = Clock::new(start.tsc_hz, start.epoch_tsc);
        let spare = start.image_end.saturating_sub(arch::memory_end());
        // SAFETY: the launcher has mapped the image up to there, and the image itself ends at `memory_end`.
        unsafe { heap::claim(arch::memory_end() as *mut u8, spare as usize) };
        let mut pager = Pager::new(Slots::new(start.free_slots_end), own::BASE, own::VM);
        let kept = (start.base_pages / KEPT_PART).min(MOST_KEPT);
        if start.base_pages > kept {
            // Without these pages the heap is small, which shows when it is full.
            pager.heap_from_base(start.base_pages - kept);
        }
        let goods: Vec<Good> = (0..)
            .zip(start.goods.iter().zip(&start.interval_ticks))
            .map(|(number, (name, &interval_ticks)): (u16, _)| {
                let base = if number == start.cpu_good && number != PAGES { start.base_cpu } else { 0 };
                Good { name: name.clone(), interval_ticks, base: Quantity(base) }
            })
            .collect();
        // SAFETY: the launcher maps the board for as long as the VM lives.
        let board = unsafe { Board::mapped(goods.len()) };
        let mut market = Market::new(Endpoint::to_market(), board, goods, pager, clock.hz());
        market.set_free(start.budget);
        App { start, clock, market, valuation_ppm: PPM, work: 0 }
    }

    /// The start-up page. Without a valid one there is no application.
    fn read_start() -> Start {
        // SAFETY: the launcher maps the page for as long as the VM lives.
        let page = unsafe { SharedMemory::new(START_PAGE, PAGE) };
        let mut bytes = [0; PAGE];
        page.read_bytes(0, &mut bytes);
        let (length, rest) = bytes.split_at(4);
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let start = rest.get(..length).and_then(|encoded| postcard::from_bytes::<Start>(encoded).ok());
        match start {
            Some(start) if start.version == proto::VERSION => start,
            _ => panic!("no start-up page of version {}", proto::VERSION),
        }
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
    use super::App;
    use crate::error::Error;

    /// Says where the image belongs. What [`main!`](crate::main!) calls on the host.
    pub fn start(_run: fn(&mut App) -> Result<(), Error>) -> i32 {
        std::eprintln!("This is an application of the nonkernel: it runs in a VM, by `cargo xtask run`.");
        2
    }

    pub fn input(_bytes: usize) -> &'static [u8] {
        &[]
    }
}
