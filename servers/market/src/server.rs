//! The market server: its state, its start, and the loop that does what is due.
//!
//! [`Server::step`] does everything that is due at this moment and says when, and for which events, to wake it again;
//! it never waits itself. So the same code runs in the root VM and, step by step, in the host's tests.

mod start;

use crate::archive::{Archive, ArchiveError, GoodKind};
use crate::boot::Boot;
use crate::clock::Clock;
use crate::console_link::{CONSOLE_CORE, ConsoleLink};
use crate::faults::FAULT_EVENT;
use crate::finish::Ending;
use crate::launch::{Layout, input_pages};
use crate::machine::{Invoke, Machine, Peer, Slot};
use crate::memory::{Memory, MemoryError};
use crate::nic_link::{NIC_EVENT, NIC_STOPPED_EVENT, NicLink, NoNic};
use crate::root::{BOARD_PAGE, Root};
use crate::slots::Slots;
use crate::storage_link::{NoStorage, STORAGE_EVENT, STORAGE_STOPPED_EVENT, StorageLink};
use crate::tenant::{State, Tenant};
use alloc::{boxed::Box, collections::VecDeque, format, string::String, vec::Vec};
use cap_spec::abi::{self, Error, stats_page};
use core::fmt;
use market_mechanism::curve_lane::{Award, Entry};
use market_mechanism::ledger::Ledger;
use market_mechanism::rounds::{Report, RoundError, Rounds, Workspace};
use market_mechanism::{AccountId, Credits};
use proto::console::ToConsole;
use proto::host::{Command, Record};
use proto::market::Movement;
use proto::nic::{CABLE_UNITS, KEPT_UNITS};
use proto::plan::Plan;
use proto::storage::CONTROLLER_UNITS;
pub use start::base_units;
pub(crate) use start::set_aside;
use start::{bases_at_start, elastic_pages, elastic_time, find_storage, make_market, map_global_stats, start_nic};

/// Accounts of the ledger.
pub const ACCOUNTS: usize = 16;
/// Postings that the journal holds between two drains: what one round of all accounts can make, and some.
pub const JOURNAL: usize = 192;
/// All the money there is; far more than any run can earn.
const ISSUED: Credits = Credits(1 << 110);
/// Event bit of the first application's channel.
pub const CLIENT_EVENTS: u32 = 0;
/// Event bit of the first application's handler channel.
pub const HANDLER_EVENTS: u32 = 16;
/// Event bit of the console server's channel.
pub const CONSOLE_EVENT: u64 = 1 << 32;
/// How long to wait before something is tried again that another VM holds up.
const RETRY_MICROS: u64 = 1_000;

/// Why the market cannot start, or go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `BootInfo` is not what it must be.
    Boot(&'static str),
    /// The archive is wrong.
    Archive(ArchiveError),
    /// Something could not be made.
    Memory(&'static str, MemoryError),
    /// The mechanism refused a good's terms or an account.
    Rounds(RoundError),
    /// An application is to have a virtual function, and there is none.
    NoNic(NoNic),
    /// An application is to have a namespace, and there is none.
    NoStorage(NoStorage),
    /// Not enough memory or CPU time for what the plan promises.
    TooMuch(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Boot(problem) => write!(out, "boot information {problem}"),
            Failure::Archive(error) => write!(out, "boot archive: {error}"),
            Failure::Memory(what, MemoryError::NoMemory) => write!(out, "{what}: out of memory"),
            Failure::Memory(what, MemoryError::NoSlots) => write!(out, "{what}: out of slots"),
            Failure::Memory(what, MemoryError::Kernel(fault)) => {
                write!(out, "{what}: {:?} at argument {} ({})", fault.error, fault.argument, fault.detail)
            }
            Failure::Rounds(error) => write!(out, "rounds: {error}"),
            Failure::NoNic(what) => write!(out, "{what}"),
            Failure::NoStorage(what) => write!(out, "{what}"),
            Failure::TooMuch(what) => write!(out, "the machine has too little {what}"),
        }
    }
}

/// One good.
#[derive(Debug)]
pub struct Market {
    /// What it is made of.
    pub kind: GoodKind,
    /// Its rounds.
    pub rounds: Rounds<ACCOUNTS>,
    /// A reservation could not be changed yet; it is tried again.
    pub retry: bool,
    /// The interval whose reservations or limits were set last, or whose functions or namespaces there are, was not
    /// reconciled yet.
    pub unreconciled: bool,
    /// How long before its interval a round closes, in ticks.
    pub lead: u64,
    /// When the interval of pages, functions or namespaces begins whose round was closed last; `None` if it has begun.
    pub begins: Option<u64>,
    /// From when on what the last round took may go: a whole interval after the notice of it.
    pub free_from: u64,
    /// The last rounds, oldest first, at most [`KEPT_ROUNDS`].
    pub past: VecDeque<Cleared>,
    /// TSC value from which on this interval's warnings are due; `u64::MAX` when they were sent.
    pub warn_at: u64,
    /// Intervals of the nominal grid that passed without a round because the market was late.
    pub skipped: u64,
}

/// How many rounds of a good can be explained.
pub const KEPT_ROUNDS: usize = 16;

/// A round that was cleared.
#[derive(Clone, Debug)]
pub struct Cleared {
    /// On what terms, and with what result.
    pub report: Report,
    /// Its bids as they counted, and what they got.
    pub bids: Vec<(Entry, Award)>,
}

impl Market {
    /// Bids of the last round, and what they got.
    pub fn last(&self) -> &[(Entry, Award)] {
        self.past.back().map_or(&[], |cleared| &cleared.bids)
    }

    /// Keeps a round, in the memory of the oldest one when there are enough.
    pub fn keep(&mut self, report: Report, bids: impl Iterator<Item = (Entry, Award)>) {
        let oldest = if self.past.len() == KEPT_ROUNDS { self.past.pop_front() } else { None };
        let mut cleared = oldest.unwrap_or(Cleared { report, bids: Vec::new() });
        cleared.report = report;
        cleared.bids.clear();
        cleared.bids.extend(bids);
        self.past.push_back(cleared);
    }

    /// A round of pages was closed, the last notice of it left at `noticed_at`, and its interval begins at `start` by the
    /// grid: later if the notices of the round before it were so late that what they tell of would go too early.
    pub fn begin_after(&mut self, start: u64, interval: u64, noticed_at: u64) {
        self.begins = Some(start.max(self.free_from));
        self.free_from = noticed_at + interval;
    }

    /// TSC value at which the next round is due.
    pub fn due(&self) -> u64 {
        self.rounds.next_close().0.saturating_sub(self.lead)
    }
}

/// What happens at a time.
#[derive(Clone, Debug)]
pub struct Due {
    /// TSC value.
    pub at: u64,
    /// What.
    pub command: Command,
}

/// Sums that are reported at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Intervals reconciled, of all goods.
    pub intervals: u64,
    /// Times that money, free memory and the use of CPU time were checked.
    pub checks: u64,
    /// The worst shortfall of CPU time, in ticks, when that was done last.
    pub shortfall: u64,
    /// Units leased by the ledger, summed over the intervals.
    pub leased: u64,
    /// Units that exist as capabilities, likewise.
    pub existing: u64,
    /// Mismatches of all intervals.
    pub mismatches: u64,
    /// Most ticks from a round's result to the last of its notices.
    pub slowest_notice: u64,
    /// Most ticks from the start of an interval of pages until all that was lost was out of reach.
    pub slowest_cut: u64,
}

/// Whether the run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It goes on.
    Running,
    /// Everything was taken back; the console server is to power the machine off, at this time at the latest.
    PowerOff {
        /// TSC value from which on the market writes to the port itself.
        deadline: u64,
        /// Value for the port.
        value: u8,
    },
}

/// When and for what to wake the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// TSC value at which there is something to do.
    pub at: u64,
    /// Events that matter.
    pub mask: u64,
}

/// The market server.
#[derive(Debug)]
pub struct Server<'a, M> {
    /// Machine and memory.
    pub root: Root<M>,
    /// Time.
    pub clock: Clock,
    /// The run, images and inputs.
    pub archive: Archive<'a>,
    /// Who owns what money.
    pub ledger: Box<Ledger<ACCOUNTS, JOURNAL>>,
    /// The goods, in the plan's order.
    pub markets: Vec<Market>,
    /// The applications, in the plan's order.
    pub tenants: Vec<Tenant>,
    /// The console server.
    pub console: ConsoleLink,
    /// The network server, if an application is to have a virtual function of its device.
    pub nic: Option<NicLink>,
    /// The storage server, if an application is to have a namespace.
    pub storage: Option<StorageLink>,
    /// Frame of the price board.
    pub board: Slot,
    /// What was paid into all accounts; counted apart from the ledger, which must agree.
    pub paid_in: Credits,
    /// What was reconciled.
    pub tally: Tally,
    /// Whether the run goes on.
    pub phase: Phase,
    /// The run is about to end.
    pub(crate) ending: Option<Ending>,
    pub(crate) work: Box<Workspace<ACCOUNTS>>,
    pub(crate) events: Vec<Due>,
    pub(crate) next_event: usize,
    pub(crate) failures: Vec<String>,
    /// Times that the network server was started again.
    pub(crate) nic_restarts: u32,
    /// Times that the storage server was started again.
    pub(crate) storage_restarts: u32,
    /// True from its end until the storage server, started again, has found its device.
    pub(crate) storage_stopped: bool,
    /// Ticks that the market had used when it began to serve.
    pub(crate) used_before: u64,
}

/// The account of an application.
pub fn account(app: usize) -> AccountId {
    AccountId(app as u32)
}

impl<'a, M: Machine> Server<'a, M> {
    /// Reads boot information and archive, launches the console server, and prepares goods and applications. Nothing of
    /// the plan is started yet: that is the first step's work.
    ///
    /// # Errors
    /// [`Failure`]; the caller tells the host and ends the run.
    pub fn start(machine: M, archive: &'a [u8]) -> Result<Server<'a, M>, (M, Failure)> {
        let boot = match Boot::read(&machine) {
            Ok(boot) => boot,
            Err(problem) => return Err((machine, Failure::Boot(problem))),
        };
        let archive = match Archive::open(archive, boot.cores) {
            Ok(archive) => archive,
            Err(error) => return Err((machine, Failure::Archive(error))),
        };
        let memory = Memory::new(Slots::new(boot.first_free, boot.slots), &boot.untypeds);
        let mut root = Root::new(machine, memory);
        match Self::prepare(&mut root, &boot, &archive) {
            Ok(parts) => Ok(Self::assemble(root, archive, parts)),
            Err(failure) => Err((root.machine, failure)),
        }
    }

    fn prepare(root: &mut Root<M>, boot: &Boot, archive: &Archive<'a>) -> Result<Parts, Failure> {
        let began = root.machine.now();
        let failed = |what| move |error| Failure::Memory(what, error);
        root.add_heap().map_err(failed("heap"))?;
        let console = ConsoleLink::launch(root, boot, archive).map_err(|error| match error {
            MemoryError::Kernel(fault) if fault.error == Error::NotAdmitted => Failure::TooMuch(format!(
                "CPU time for the console server on core {CONSOLE_CORE}, of which root_budget_us may leave nothing"
            )),
            error => Failure::Memory("console server", error),
        })?;
        let board = root.own_page(BOARD_PAGE).map_err(failed("price board"))?;
        map_global_stats(root).map_err(failed("statistics page"))?;
        // Launching the console server took this long; each application is of its kind.
        let launch = root.machine.now().saturating_sub(began);
        let nic = start_nic(root, boot, archive)?;
        let storage = find_storage(root, boot, archive)?;
        if nic.is_some() || storage.is_some() {
            crate::faults::listen(root).map_err(|error| Failure::Memory("what IOMMUs stop", error))?;
        }
        // Before any application runs: what it did before the first round would be work that nobody paid for.
        while root.memory.scrub_next(&mut root.machine).map_err(failed("memory"))? {}
        let (plan, apps) = (&archive.plan, archive.plan.apps.len() as u64);
        let now = root.machine.now();
        let clock = Clock::starting_after(now, 2 * launch * (apps + 1), boot.tsc_hz);
        let mut tenants = Vec::new();
        for (at, app) in plan.apps.iter().enumerate() {
            let input = archive.inputs[at].len() as u64;
            let layout = Layout::new(&archive.images[at], app.base_pages.into(), input);
            let base_pages = (layout.pages + input_pages(input)) as u32;
            let time = root.slot().map_err(failed("CPU time"))?;
            let good = &plan.goods[usize::from(archive.cpu_goods[at])];
            let (budget, period) = clock.reservation(app.base_cpu, good.interval_ms);
            root.machine.split_time(boot.time(app.core), budget, period, time).map_err(|fault| match fault.error {
                Error::NotAdmitted => Failure::TooMuch(format!("CPU time for the base of {}", app.name)),
                _ => Failure::Memory("CPU time", fault.into()),
            })?;
            let mut tenant = Tenant::new(layout, base_pages, time, (budget, period));
            let (base, input) = set_aside(root, &layout, input).map_err(failed("base and input"))?;
            (tenant.base, tenant.input) = (Some(base), input);
            tenants.push(tenant);
        }
        let mut markets = Vec::new();
        for (at, good) in plan.goods.iter().enumerate() {
            let kind = archive.kinds[at];
            let elastic = match kind {
                GoodKind::Page => elastic_pages(root, tenants.len()),
                GoodKind::Cpu(core) => elastic_time(root, boot, core, &clock).map_err(failed("CPU time"))?,
                GoodKind::Bandwidth => {
                    let bases = tenants.iter().enumerate().filter_map(|(app, of)| base_units(archive, app, of, at));
                    (CABLE_UNITS - KEPT_UNITS).saturating_sub(bases.sum())
                }
                GoodKind::Vf => {
                    let bases = tenants.iter().enumerate().filter_map(|(app, of)| base_units(archive, app, of, at));
                    nic.as_ref().map_or(0, NicLink::count).saturating_sub(bases.sum())
                }
                GoodKind::Operations => {
                    let bases = tenants.iter().enumerate().filter_map(|(app, of)| base_units(archive, app, of, at));
                    CONTROLLER_UNITS.saturating_sub(bases.sum())
                }
                // What namespaces there are the scenario says.
                GoodKind::Storage => good.supply_limit.unwrap_or(0),
            };
            markets.push(make_market(at, good, kind, elastic, archive, &clock)?);
        }
        let (cores, restarts) = (boot.cores as u16, boot.restarts);
        Ok(Parts { clock, console, nic, storage, board, tenants, markets, cores, restarts })
    }

    fn assemble(root: Root<M>, archive: Archive<'a>, parts: Parts) -> Server<'a, M> {
        let clock = parts.clock;
        let event = |event: &proto::plan::Event| Due { at: clock.at(event.at_ms), command: event.command.clone() };
        let events = archive.plan.events.iter().map(event).collect();
        let mut server = Server {
            root,
            clock,
            archive,
            ledger: Box::new(Ledger::new(ISSUED)),
            markets: parts.markets,
            tenants: parts.tenants,
            console: parts.console,
            nic: parts.nic,
            storage: parts.storage,
            board: parts.board,
            paid_in: Credits::ZERO,
            tally: Tally::default(),
            phase: Phase::Running,
            ending: None,
            work: Box::new(Workspace::new()),
            events,
            next_event: 0,
            failures: Vec::new(),
            nic_restarts: 0,
            storage_restarts: 0,
            storage_stopped: false,
            used_before: 0,
        };
        server.used_before = server.root.machine.read_word(abi::STATS_PAGE + stats_page::USED_TICKS as u64);
        server.console.send(&ToConsole::Epoch { tsc: clock.epoch });
        let goods = 0..server.markets.len();
        let bases: Vec<u32> = goods.map(|good| bases_at_start(&server.archive, &server.tenants, good)).collect();
        let for_sale = server.markets.iter().map(|market| market.rounds.board_line(0).supply.0);
        let supply = for_sale.zip(&bases).map(|(units, base)| units.saturating_add(*base)).collect();
        server.record(Record::Begin {
            version: proto::VERSION,
            tsc_hz: clock.tsc_hz,
            cores: parts.cores,
            restarts: parts.restarts as u32,
            supply,
            bases,
        });
        server.open_accounts();
        for good in 0..server.markets.len() {
            server.publish(good);
        }
        for (app, tenant) in server.tenants.iter_mut().enumerate() {
            if server.archive.plan.apps[app].starts {
                tenant.state = State::Starting;
            }
        }
        // The host hears of the run before it hears of its applications.
        server.console.flush(&mut server.root.machine);
        server
    }

    fn open_accounts(&mut self) {
        for app in 0..self.tenants.len() {
            let budget = Credits(self.archive.plan.apps[app].budget);
            let opened = self.ledger.open(account(app)).and_then(|()| self.ledger.top_up(account(app), budget));
            match opened {
                Ok(()) => {
                    self.paid_in += budget;
                    self.write_payment(app, Movement::TopUp, budget);
                }
                Err(error) => self.fail(format!("account of application {app}: {error}")),
            }
            self.drain_journal();
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.archive.plan
    }

    /// Notes something that makes the run fail.
    pub(crate) fn fail(&mut self, reason: String) {
        self.say(&reason);
        if self.failures.len() < 8 {
            self.failures.push(reason);
        }
    }

    /// The journal is kept in memory only as long as a round needs it; its chain stays in the ledger's head.
    pub(crate) fn drain_journal(&mut self) {
        while self.ledger.drain().is_some() {}
    }

    /// Does all that is due now. `events` are those that were taken when the market woke.
    pub fn step(&mut self, events: u64) -> Wake {
        if let Phase::PowerOff { deadline, .. } = self.phase {
            self.flush();
            let retry = self.root.machine.now() + self.clock.span(RETRY_MICROS);
            return Wake { at: retry.min(deadline), mask: CONSOLE_EVENT };
        }
        // Whoever has lost something has had it long enough, whatever others want of the market now.
        self.begin_intervals();
        self.revoke_storage();
        self.look_for_stopped();
        if events & FAULT_EVENT != 0 {
            self.hear_faults();
        }
        let more = self.serve_clients(events) | self.serve_console() | self.serve_nic() | self.serve_storage();
        self.do_events();
        self.close_rounds();
        self.start_waiting();
        self.lend_vfs();
        self.warn();
        let pending = self.flush();
        // After all that somebody waits for.
        (0..self.markets.len()).for_each(|good| self.reconcile_begun(good));
        self.check_end();
        self.next_wake(more, pending)
    }

    fn next_wake(&self, more: bool, pending: bool) -> Wake {
        let now = self.root.machine.now();
        let limit = self.run_limit();
        let mut at = self.ending.as_ref().map_or(limit, |ending| ending.deadline);
        if more || self.phase != Phase::Running {
            at = now;
        }
        if pending {
            at = at.min(now + self.clock.span(RETRY_MICROS));
        }
        for market in &self.markets {
            at = at.min(market.due()).min(market.warn_at).min(market.begins.unwrap_or(u64::MAX));
        }
        if let Some(event) = self.events.get(self.next_event) {
            at = at.min(event.at);
        }
        for tenant in &self.tenants {
            at = tenant.shocks.iter().map(|shock| shock.until).chain(tenant.storage_until).fold(at, u64::min);
        }
        if self.waits_for_vf() || self.waits_for_storage() {
            at = at.min(now + self.clock.span(RETRY_MICROS));
        }
        let mut mask = CONSOLE_EVENT;
        if self.nic.is_some() {
            mask |= NIC_EVENT | NIC_STOPPED_EVENT | FAULT_EVENT;
        }
        if self.storage.is_some() {
            mask |= STORAGE_EVENT | STORAGE_STOPPED_EVENT | FAULT_EVENT;
        }
        for (app, tenant) in self.tenants.iter().enumerate().filter(|(_, tenant)| tenant.is_running()) {
            mask |= 1 << (HANDLER_EVENTS as usize + app);
            if !self.over_limit(tenant) {
                mask |= 1 << (CLIENT_EVENTS as usize + app);
            }
        }
        Wake { at, mask }
    }

    /// The time at which the run ends whatever happens.
    fn run_limit(&self) -> u64 {
        self.plan().limit_ms.map_or(u64::MAX, |limit| self.clock.at(limit))
    }

    /// Ends the run when every awaited application has ended, or at its limit.
    fn check_end(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        let now = self.root.machine.now();
        let awaited = self.plan().apps.iter().zip(&self.tenants).filter(|(app, _)| app.awaited);
        let done = awaited.clone().all(|(_, tenant)| tenant.has_ended());
        if done && awaited.count() > 0 {
            self.end_run(None);
        } else if now >= self.run_limit() {
            self.end_run(Some("the run's limit was reached"));
        }
        self.go_on_ending();
    }

    /// The peer of a client, for messages.
    pub(crate) fn peer(app: usize) -> Peer {
        Peer::App(app as u16)
    }
}

struct Parts {
    clock: Clock,
    console: ConsoleLink,
    nic: Option<NicLink>,
    storage: Option<StorageLink>,
    board: Slot,
    tenants: Vec<Tenant>,
    markets: Vec<Market>,
    cores: u16,
    restarts: u64,
}
