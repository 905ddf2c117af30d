//! What an application of the tests starts with: its start-up page, its console, its connection to the market.
//!
//! Written against the raw parts of userlib, so that attacks have every page and every slot to themselves.

use alloc::vec::Vec;
use cap_spec::abi::START_PAGE;
use core::fmt;
use proto::market::{FromMarket, Request, RequestBody};
use proto::start::{Start, events};
use userlib::cap::own;
use userlib::channel::Endpoint;
use userlib::{clock, console, println};

/// An application of the tests.
pub struct Tenant {
    /// Its start-up page.
    pub start: Start,
    /// Its connection to the market.
    pub market: Endpoint,
    number: u32,
}

impl Tenant {
    /// Reads the start-up page and opens the console. Panics tell their message there.
    pub fn new() -> Tenant {
        console::open(Endpoint::to_console());
        userlib::end::set_reporter(|_, what: &dyn fmt::Display| println!("ended: {what}"));
        let start = read_start().unwrap_or_else(|| panic!("the start-up page cannot be read"));
        Tenant { start, market: Endpoint::to_market(), number: 0 }
    }

    /// Argument `index`, or nothing.
    pub fn argument(&self, index: usize) -> &str {
        self.start.args.get(index).map_or("", |argument| argument.as_str())
    }

    /// Argument `index` as a number, or `default`.
    pub fn number(&self, index: usize, default: u64) -> u64 {
        self.argument(index).parse().unwrap_or(default)
    }

    /// Ticks in so many microseconds.
    pub fn micros(&self, micros: u64) -> u64 {
        self.start.tsc_hz / 1_000_000 * micros
    }

    /// Sends a request; false if the connection is broken. Its number is the count of requests so far.
    pub fn ask(&mut self, body: RequestBody) -> bool {
        self.number += 1;
        let deadline = clock::now() + self.micros(500_000);
        self.market.send_waiting(&Request { number: self.number, body }, events::MARKET, deadline).is_ok()
    }

    /// Number of the last request.
    pub fn last_number(&self) -> u32 {
        self.number
    }

    /// The next message of the market, waiting for it until `deadline` at most.
    pub fn next_message(&mut self, deadline: u64) -> Option<FromMarket> {
        loop {
            if let Some(message) = self.market.receive().ok()? {
                return Some(message);
            }
            if clock::now() >= deadline {
                return None;
            }
            self.market.wait(events::MARKET, deadline).ok()?;
        }
    }

    /// Ends the application. Its last words are on their way before.
    pub fn exit(mut self, status: u32, work: u64) -> ! {
        console::flush(clock::now() + self.micros(500_000));
        self.ask(RequestBody::Exit { status, work });
        idle()
    }
}

impl Default for Tenant {
    fn default() -> Tenant {
        Tenant::new()
    }
}

/// Gives the core up for good.
pub fn idle() -> ! {
    loop {
        let _ = own::VCPU.wait(1 << 62, 0);
    }
}

/// The start-up page: length (u32), then the encoding.
fn read_start() -> Option<Start> {
    let byte = |at: u64| {
        // SAFETY: the launcher maps the start-up page there for as long as the VM lives.
        unsafe { core::ptr::with_exposed_provenance::<u8>((START_PAGE + at) as usize).read_volatile() }
    };
    let length = u32::from_le_bytes([0, 1, 2, 3].map(byte));
    if length > 4092 {
        return None;
    }
    let bytes: Vec<u8> = (0..u64::from(length)).map(|at| byte(4 + at)).collect();
    postcard::from_bytes(&bytes).ok()
}
