//! The interval of pages, or functions, that begins: what was lost goes first, then comes what was won.
//!
//! A round of pages closes [`PAGE_LEAD_MICROS`] before the interval that the ledger then counts as running. In between,
//! tenants still have what they lose at its first tick. So nothing here goes by what the round said, but by what the
//! ledger says and what is there: whoever has more loses the difference, whoever has less gets it.
//!
//! Guarantees: nothing is taken before its deadline, nor before a whole interval has passed since the notice of it left
//! ([`Market::begins`](crate::server::Market::begins)); all that goes is out of its holders' reach before anything else
//! is done. It is scrubbed afterwards: that takes longer by far, and the market's CPU time may end in the middle of it.

use crate::archive::GoodKind;
use crate::machine::{Invoke, Machine};
use crate::memory::LARGE_BITS;
use crate::server::{Server, account};
use crate::tenant::PageLease;
use alloc::{format, vec::Vec};
use proto::market::FromMarket;

/// How long before its interval a round of pages closes: enough for its clearing, its notices and its accounts, and less
/// than a period of the market's own CPU time, so that a whole one begins with the interval.
pub const PAGE_LEAD_MICROS: u64 = 5_000;
/// Leases that one message names at most: each is at most 5 bytes long, so they always fit.
const LEASES_PER_MESSAGE: usize = 256;

const _: () = assert!(LEASES_PER_MESSAGE * 5 + 64 <= proto::MAX_MESSAGE);

impl<M: Machine> Server<'_, M> {
    /// Begins the intervals of pages, functions and namespaces whose time has come.
    pub(crate) fn begin_intervals(&mut self) {
        let now = self.root.machine.now();
        for good in 0..self.markets.len() {
            if self.markets[good].begins.is_some_and(|at| at <= now) {
                self.begin_interval(good);
            }
        }
    }

    /// Begins an interval of pages, functions or namespaces that has not begun: at once.
    pub(crate) fn begin_interval(&mut self, good: usize) {
        let begins = self.markets[good].begins.take();
        match self.markets[good].kind {
            GoodKind::Page => self.begin_pages(good, begins),
            GoodKind::Vf => {
                self.move_vfs();
                self.markets[good].unreconciled = true;
            }
            GoodKind::Storage => {
                self.move_namespaces();
                self.markets[good].unreconciled = true;
            }
            GoodKind::Cpu(_) | GoodKind::Bandwidth | GoodKind::Operations => {}
        }
    }

    fn begin_pages(&mut self, good: usize, begins: Option<u64>) {
        let mut losers = Vec::with_capacity(self.tenants.len());
        for app in 0..self.tenants.len() {
            let lost = self.excess(app);
            if lost > 0 {
                losers.push((app, self.cut(app, lost)));
            }
        }
        if let Some(begins) = begins.filter(|_| !losers.is_empty()) {
            let passed = self.root.machine.now().saturating_sub(begins);
            self.tally.slowest_cut = self.tally.slowest_cut.max(passed);
        }
        let mut gone = Vec::new();
        for (app, chosen) in losers {
            let forced = self.forget(app, chosen, &mut gone);
            for leases in forced.chunks(LEASES_PER_MESSAGE) {
                self.post(app, &FromMarket::Taken { leases: leases.to_vec() });
            }
            self.signal_tenant(app);
        }
        for (app, lease) in gone {
            self.give_back(app, &lease);
        }
        // The round that sold this interval was the one before the last.
        let round = self.markets[good].rounds.round().0.saturating_sub(2);
        for app in 0..self.tenants.len() {
            let won = self.entitled(app).saturating_sub(self.tenants[app].leased_pages());
            // Who loses a large block for some of its pages gets the others anew, in pieces as large as can be.
            let bits = if self.tenants[app].lost { LARGE_BITS } else { self.tenants[app].block_bits };
            self.tenants[app].lost = false;
            self.deliver(app, won, bits, round);
        }
        self.end_page_interval();
    }

    /// Pages beyond its base that the ledger says an application has in the interval that runs, or is about to begin.
    fn entitled(&self, app: usize) -> u32 {
        self.markets[0].rounds.lease(account(app)).map_or(0, |lease| lease.running.0)
    }

    /// Pages that an application has only until the next interval begins.
    pub(crate) fn excess(&self, app: usize) -> u32 {
        let tenant = &self.tenants[app];
        if tenant.is_running() { tenant.leased_pages().saturating_sub(self.entitled(app)) } else { 0 }
    }

    /// Puts `units` pages out of a tenant's reach: what it named, then the youngest. Returns the leases: they are still in
    /// its list, for each instruction here is one for which somebody has what is not his any more.
    fn cut(&mut self, app: usize, units: u32) -> Vec<u32> {
        let chosen = self.tenants[app].choose(units);
        for &number in &chosen {
            let Some(lease) = self.tenants[app].leases.get(&number) else { continue };
            if let Err(error) = self.root.machine.delete(lease.handle) {
                self.fail(format!("lease {number} of application {app} cannot be cut off: {error:?}"));
            }
        }
        chosen
    }

    /// Takes leases that were cut off from a tenant's lists. They join `gone`; returns those that it did not name.
    fn forget(&mut self, app: usize, chosen: Vec<u32>, gone: &mut Vec<(usize, PageLease)>) -> Vec<u32> {
        let tenant = &mut self.tenants[app];
        let named = core::mem::take(&mut tenant.named);
        tenant.lost = true;
        let mut forced = Vec::new();
        for number in chosen {
            let Some(lease) = tenant.leases.remove(&number) else { continue };
            if lease.waiting.is_some() {
                tenant.waiting.retain(|waiting| *waiting != number);
            }
            if named.binary_search(&number).is_err() {
                forced.push(number);
            }
            gone.push((app, lease));
        }
        forced
    }

    /// Takes a lease back at once; returns its pages.
    pub(crate) fn take_lease(&mut self, app: usize, number: u32) -> u32 {
        let Some(lease) = self.tenants[app].leases.remove(&number) else { return 0 };
        self.tenants[app].waiting.retain(|waiting| *waiting != number);
        self.give_back(app, &lease);
        lease.pages()
    }

    /// Scrubs the memory of a lease that is in no list any more, and takes back its slots.
    fn give_back(&mut self, app: usize, lease: &PageLease) {
        if let Err(error) = self.root.give(lease.block) {
            self.fail(format!("a lease of application {app} cannot be taken back: {error:?}"));
        }
        // The revocation above has emptied these.
        lease.slots().for_each(|slot| self.root.memory.slots.give(slot));
    }
}
