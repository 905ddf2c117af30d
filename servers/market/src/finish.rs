//! Reconciliation of every interval, and the end of the run.

use crate::archive::GoodKind;
use crate::machine::{Invoke, Machine};
use crate::root::GLOBAL_STATS_PAGE;
use crate::server::{Phase, Server, account};
use crate::tenant::{State, Tenant};
use crate::usage::SHORT_MICROS;
use alloc::{format, string::String, vec::Vec};
use cap_spec::abi::{ObjectType, STATS_PAGE, stats_page};
use market_mechanism::{Credits, Quantity};
use proto::console::ToConsole;
use proto::host::{End, Record, TOLD_TO_END, stop_reason};
use proto::storage::storage_units;

/// Value for the debug-exit port after a run of which everything is well: QEMU's exit status is then 33.
pub const SUCCESS: u8 = 0x10;
/// After any other: 35.
pub const FAILURE: u8 = 0x11;
/// Why a run ended that was told to.
pub const STOPPED: &str = "the run was stopped by a command";
/// How long the console server may take to write out what it has and to power off.
const POWER_OFF_MS: u64 = 10_000;
/// Free blocks about which the kernel is asked in each interval of pages.
const AUDITED_BLOCKS: usize = 32;
/// Totals go to the host once in so many intervals of pages, and at the end.
const TOTALS_EVERY: u64 = 10;

/// How long a server of a device may take to put a limit in force, and to say so.
const IN_FORCE_MICROS: u64 = 50_000;

/// How long the network server may take to say what was sent and received up to the end.
const COUNT_MICROS: u64 = 50_000;

/// A run that is about to end: the network server is asked for the last counts, and all goes on until it has answered.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Why, if that is before its time.
    reason: Option<&'static str>,
    /// TSC value at which it ends at the latest.
    pub deadline: u64,
    /// The network server has answered, or there is none.
    is_counted: bool,
}

/// Units by the ledger, and units that exist, as the kernel says, or the server of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    leased: u64,
    existing: u64,
}

impl<M: Machine> Server<'_, M> {
    /// Reconciles everything; returns how many units exist.
    pub(crate) fn reconcile(&mut self) -> u64 {
        let left = (0..self.markets.len()).map(|good| self.reconcile_good(good)).sum();
        self.check_books();
        left
    }

    /// Compares what the ledger says is leased of a good with the kernel's capabilities, application by application. Every
    /// difference is reported and makes the run fail. Returns how many units exist.
    pub(crate) fn reconcile_good(&mut self, good: usize) -> u64 {
        let mut wrong: Vec<String> = Vec::new();
        let mut left = 0;
        for app in 0..self.tenants.len() {
            let (what, count) = match self.markets[good].kind {
                GoodKind::Page => ("pages", self.count_pages(app)),
                GoodKind::Cpu(_) if usize::from(self.archive.cpu_goods[app]) != good => continue,
                GoodKind::Cpu(_) => ("CPU time", self.count_time(app)),
                GoodKind::Vf => ("functions", self.count_vfs(app, good)),
                GoodKind::Bandwidth => match self.count_bandwidth(app, good) {
                    Some(count) => ("bandwidth", count),
                    None => continue,
                },
                GoodKind::Operations => match self.count_operations(app, good) {
                    Some(count) => ("hundreds of operations a second", count),
                    None => continue,
                },
                GoodKind::Storage => match self.count_storage(app, good) {
                    Some(count) => ("MiB of namespaces", count),
                    None => continue,
                },
            };
            self.tally.leased += count.leased;
            self.tally.existing += count.existing;
            left += count.existing;
            if count.leased != count.existing {
                let (leased, existing) = (count.leased, count.existing);
                wrong.push(format!("{what} of {}: {leased} leased, {existing} exist", self.name(app)));
            }
        }
        if !self.markets[good].rounds.verify() {
            wrong.push(format!("good {good}: more leased than there is"));
        }
        self.tally.intervals += 1;
        self.note(wrong);
        left
    }

    /// Reconciles the CPU time of a core whose round was closed, if its reservations are set. If the kernel does not admit
    /// one yet, as what another gave up is free from that one's next period only, it is looked at when it does.
    pub(crate) fn reconcile_begun(&mut self, good: usize) {
        let market = &mut self.markets[good];
        let is_time = matches!(market.kind, GoodKind::Cpu(_));
        if is_time && market.unreconciled && !market.retry && self.phase == Phase::Running {
            market.unreconciled = false;
            self.reconcile_good(good);
        }
    }

    /// Virtual functions by the ledger, and by the leases that the kernel knows of.
    fn count_vfs(&mut self, app: usize, good: usize) -> Count {
        let leased = self.markets[good].rounds.lease(account(app)).filter(|_| self.tenants[app].is_running());
        let leased = leased.map_or(0, |lease| u64::from(lease.base.0) + u64::from(lease.running.0));
        let existing = self.nic.as_ref().map_or(0, |nic| nic.leased(&mut self.root, app));
        // One that is still in its reset is not late; and what a tenant has deleted itself it has given up.
        let is_deleted = self.nic.as_ref().is_some_and(|nic| nic.holds(app));
        let is_excused = existing == 0 && (is_deleted || self.spare_vf().is_none());
        Count { leased: if is_excused { 0 } else { leased }, existing }
    }

    /// Reconciles what a device's server has a part in at the end of an interval: limits hold from its beginning on, which
    /// only the servers see, and tell; functions come when they are out of their reset, namespaces when they are erased.
    pub(crate) fn reconcile_ended(&mut self, good: usize) {
        if core::mem::take(&mut self.markets[good].unreconciled) {
            self.reconcile_good(good);
        }
    }

    /// Mb/s by the ledger, and by what the network server says that it has put in force; `None` if it has no function to send
    /// with, and while the limit may still be about to be put in force.
    fn count_bandwidth(&mut self, app: usize, good: usize) -> Option<Count> {
        let patience = self.clock.span(IN_FORCE_MICROS);
        let existing = self.nic.as_ref()?.units_in_force(app, self.root.machine.now(), patience)?;
        let lease = self.markets[good].rounds.lease(account(app)).filter(|_| self.tenants[app].is_running());
        let leased = lease.map_or(0, |lease| u64::from(lease.base.0) + u64::from(lease.running.0));
        Some(Count { leased, existing })
    }

    /// Units of operations by the ledger, and by what the storage server says that it has put in force; `None` as for
    /// bandwidth.
    fn count_operations(&mut self, app: usize, good: usize) -> Option<Count> {
        let patience = self.clock.span(IN_FORCE_MICROS);
        let existing = self.storage.as_ref()?.units_in_force(app, self.root.machine.now(), patience)?;
        let lease = self.markets[good].rounds.lease(account(app)).filter(|_| self.tenants[app].is_running());
        let leased = lease.map_or(0, |lease| u64::from(lease.base.0) + u64::from(lease.running.0));
        Some(Count { leased, existing })
    }

    /// MiB of a namespace by the ledger, and of the one that an application has; `None` while it has none as its queues are
    /// made anew, or as one in its base was refused, which is tried again.
    fn count_storage(&mut self, app: usize, good: usize) -> Option<Count> {
        let lease = self.markets[good].rounds.lease(account(app)).filter(|_| self.tenants[app].is_running());
        let leased = lease.map_or(0, |lease| u64::from(lease.base.0) + u64::from(lease.running.0));
        let link = self.storage.as_ref()?;
        if self.plan().apps[app].base_storage && link.is_without(app) {
            return None;
        }
        let held = link.held_bytes(app)?;
        // A part of a namespace is none.
        let leased = if leased < storage_units(self.plan().apps[app].storage_bytes).into() { 0 } else { leased };
        // It may have got a larger one than it pays for.
        Some(Count { leased, existing: storage_units(held.min(self.plan().apps[app].storage_bytes)).into() })
    }

    /// Checks what is no good's: money, free memory, and the CPU time that was delivered.
    pub(crate) fn check_books(&mut self) {
        let mut wrong = self.check_usage();
        let shortfall = self.root.machine.read_word(GLOBAL_STATS_PAGE + stats_page::WORST_SHORTFALL as u64);
        let most = self.clock.span(SHORT_MICROS);
        if shortfall > most && self.tally.shortfall <= most {
            wrong.push(format!("a period of CPU time came {shortfall} ticks short, more than {most}"));
        }
        self.tally.shortfall = shortfall;
        let dirty = self.root.memory.audit(&mut self.root.machine, AUDITED_BLOCKS);
        if dirty > 0 {
            wrong.push(format!("{dirty} free pages are not as they were given back"));
        }
        if let Err(corruption) = self.ledger.verify() {
            wrong.push(format!("ledger: {corruption:?}"));
        }
        if self.sum() != self.paid_in {
            wrong.push(format!("money: {} credits were paid in, {} are there", self.paid_in, self.sum()));
        }
        for app in 0..self.tenants.len() {
            let (balance, escrow) = self.money(app);
            let lines = self.tenants[app].movements.sum();
            if balance + escrow != lines {
                let (name, held) = (self.name(app), balance + escrow);
                wrong.push(format!("statement of {name}: its lines add up to {lines} credits, it has {held}"));
            }
        }
        self.tally.checks += 1;
        self.note(wrong);
        if self.tally.checks.is_multiple_of(TOTALS_EVERY) {
            self.report_totals();
        }
    }

    /// Counts differences; each makes the run fail.
    pub(crate) fn note(&mut self, wrong: Vec<String>) {
        self.tally.mismatches += wrong.len() as u64;
        for reason in wrong {
            self.fail(reason);
        }
    }

    /// Pages of the base and of all leases. A tenant that deletes the capability of a lease has given it back.
    fn count_pages(&mut self, app: usize) -> Count {
        let mut count = Count::default();
        let tenant = &self.tenants[app];
        let State::Running(running) = &tenant.state else {
            // Nothing may be left of one that does not run: the kernel was asked when it ended.
            count.existing = tenant.left[0];
            return count;
        };
        let base = self.root.memory.slot(running.base);
        if self.root.machine.identify(base).is_ok_and(|found| found.has_children) {
            count.existing += u64::from(tenant.base_pages);
        }
        let mut deleted = Vec::new();
        for (number, lease) in &self.tenants[app].leases {
            let found = self.root.machine.identify(lease.handle);
            let Ok(found) = found else { continue };
            if (found.object, found.bits) != (ObjectType::Untyped, lease.bits) {
                continue;
            }
            // What it named for the running notice goes when the notice ends.
            if found.has_children || self.tenants[app].named.contains(number) {
                count.existing += u64::from(lease.pages());
            } else {
                deleted.push((*number, lease.pages()));
            }
        }
        for (number, pages) in deleted {
            if self.markets[0].rounds.release(account(app), Quantity(pages)).is_ok() {
                self.take_lease(app, number);
            }
        }
        if let Some(lease) = self.markets[0].rounds.lease(account(app)) {
            count.leased = u64::from(lease.base.0) + u64::from(lease.running.0);
        }
        count
    }

    /// Units of CPU time by the ledger, and by the budget that the kernel delivers.
    fn count_time(&mut self, app: usize) -> Count {
        let mut count = Count::default();
        let tenant = &self.tenants[app];
        if !tenant.is_running() {
            count.existing = tenant.left[1];
            return count;
        }
        let good = usize::from(self.archive.cpu_goods[app]);
        let (time, period) = (tenant.time, tenant.reservation.1.max(1));
        if let Some(lease) = self.markets[good].rounds.lease(account(app)) {
            count.leased = u64::from(lease.base.0) + u64::from(lease.running.0);
        }
        if let Ok(found) = self.root.machine.identify(time)
            && found.object == ObjectType::CpuTime
            && found.in_use
        {
            let per_frame = u128::from(found.detail) * u128::from(self.clock.frame()) / u128::from(period);
            count.existing = (per_frame / u128::from(self.clock.unit().max(1))) as u64;
        }
        count
    }

    /// All money that accounts and operator have.
    fn sum(&self) -> Credits {
        let places = self.ledger.balances().iter().map(|balance| balance.free + balance.escrow);
        self.ledger.treasury() + places.sum()
    }

    pub(crate) fn report_totals(&mut self) {
        let sum = self.sum();
        let word = |offset: usize| self.root.machine.read_word(GLOBAL_STATS_PAGE + offset as u64);
        let record = Record::Totals {
            t: self.micros(),
            intervals: self.tally.intervals,
            sum: sum.0,
            expected: self.paid_in.0,
            leased: self.tally.leased,
            existing: self.tally.existing,
            mismatches: self.tally.mismatches,
            skipped: self.markets.iter().map(|market| market.skipped).sum(),
            worst_shortfall: word(stats_page::WORST_SHORTFALL),
            longest_hold: word(stats_page::LONGEST_HOLD),
            slowest_notice: self.tally.slowest_notice,
            slowest_cut: self.tally.slowest_cut,
        };
        self.record(record);
    }

    /// Begins the end of the run. `reason` is why it ends before its time.
    pub(crate) fn end_run(&mut self, reason: Option<&'static str>) {
        if self.phase != Phase::Running || self.ending.is_some() {
            return;
        }
        let deadline = self.root.machine.now() + self.clock.span(COUNT_MICROS);
        let asked = self.nic.as_mut().map(|nic| nic.ask_for_counts());
        self.flush_nic();
        self.ending = Some(Ending { reason, deadline, is_counted: asked.is_none() });
    }

    /// The network server has said what was sent and received.
    pub(crate) fn ending_counted(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.is_counted = true;
        }
    }

    /// Ends the run that is about to end, if nothing is to be waited for any more.
    pub(crate) fn go_on_ending(&mut self) {
        let now = self.root.machine.now();
        if let Some(ending) = self.ending.take_if(|ending| ending.is_counted || ending.deadline <= now) {
            self.finish(ending.reason);
        }
    }

    /// Takes everything back and ends the run, at once.
    pub(crate) fn finish(&mut self, reason: Option<&str>) {
        for good in 0..self.markets.len() {
            if self.markets[good].begins.is_some() {
                // Nobody goes on; what the books say of the interval to come shall be so when they are compared.
                self.begin_interval(good);
            }
        }
        self.reconcile();
        for app in 0..self.tenants.len() {
            if self.tenants[app].is_running() {
                self.end_tenant(app, End::RunOver);
            }
        }
        let left = self.reconcile();
        if left != 0 {
            self.fail(format!("{left} units are left after everything was taken back"));
        }
        self.report_accounts();
        self.report_network();
        self.report_totals();
        self.report_own_cost();
        let problems = self.problems(reason);
        let status = match problems.len() {
            0 => 0,
            all if reason == Some(STOPPED) && all == self.problems_of_stopping() => TOLD_TO_END,
            _ => 1,
        };
        let t = self.micros();
        self.record(Record::End { t, status, reason: problems.join("; ") });
        let value = if status == 0 { SUCCESS } else { FAILURE };
        self.console.send(&ToConsole::PowerOff { value });
        let deadline = self.root.machine.now() + self.clock.ticks(POWER_OFF_MS);
        self.phase = Phase::PowerOff { deadline, value };
    }

    /// Tells what applications have sent and received by virtual functions.
    fn report_network(&mut self) {
        let t = self.micros();
        for app in 0..self.tenants.len() {
            if let Some(counts) = self.nic.as_ref().and_then(|nic| nic.counts(app)) {
                self.record(Record::Network { t, app: app as u16, counts });
            }
        }
    }

    /// Tells what the market itself has cost: CPU time that was not for sale.
    fn report_own_cost(&mut self) {
        let used = self.root.machine.read_word(STATS_PAGE + stats_page::USED_TICKS as u64);
        let rounds: u64 = self.markets.iter().map(|market| market.rounds.round().0).sum();
        // A run that was ended before its first interval has no time to compare with.
        let ticks = self.root.machine.now().saturating_sub(self.clock.epoch);
        let own = u128::from(used.saturating_sub(self.used_before)) * 1000;
        match own.checked_div(u128::from(ticks)) {
            Some(permille) => self.say(&format!(
                "{rounds} rounds, {}.{} % of core 0 for the market itself",
                permille / 10,
                permille % 10
            )),
            None => self.say("ended before the first round"),
        }
    }

    /// How many of [`Server::problems`] are but what follows from the command to end the run.
    fn problems_of_stopping(&self) -> usize {
        let awaited = self.plan().apps.iter().zip(&self.tenants).filter(|(app, _)| app.awaited);
        let had_not_ended = |tenant: &Tenant| match tenant.state {
            State::Ended(End::RunOver) | State::Waiting | State::Starting | State::Running(_) => true,
            State::Ended(_) => false,
        };
        1 + awaited.filter(|(_, tenant)| had_not_ended(tenant)).count()
    }

    /// Everything that keeps the run from being a success.
    fn problems(&self, reason: Option<&str>) -> Vec<String> {
        let mut problems: Vec<String> = reason.map(String::from).into_iter().collect();
        problems.extend(self.failures.iter().cloned());
        for (app, tenant) in self.plan().apps.iter().zip(&self.tenants).filter(|(app, _)| app.awaited) {
            match &tenant.state {
                State::Ended(End::Exit { status: 0 } | End::Killed) => {}
                State::Ended(End::Exit { status }) => problems.push(format!("{} exited with {status}", app.name)),
                State::Ended(End::Fault { reason, .. }) => {
                    problems.push(format!("{} stopped at a fault: {}", app.name, stop_reason(*reason)));
                }
                State::Ended(End::Unpaid) => problems.push(format!("{} could not pay its base", app.name)),
                State::Ended(End::RunOver) => problems.push(format!("{} had not ended", app.name)),
                State::Ended(End::Destroyed) => problems.push(format!("{} destroyed its own VM", app.name)),
                State::Ended(End::Stopped) => problems.push(format!("{} stopped itself", app.name)),
                State::Waiting | State::Starting | State::Running(_) => {
                    problems.push(format!("{} never ran to its end", app.name));
                }
            }
        }
        if self.console.lost > 0 {
            problems.push(format!("{} messages to the host were lost", self.console.lost));
        }
        problems
    }
}
