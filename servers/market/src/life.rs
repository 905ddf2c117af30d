//! The life of an application: its start, and how everything it had is taken back.

use crate::archive::GoodKind;
use crate::console_link::{CONSOLE_HANDLER_PAGE, bind_other_end, fill_start_page};
use crate::launch::Builder;
use crate::machine::{Invoke, Machine, Slot};
use crate::memory::{BlockId, MemoryError, PAGE_BITS};
use crate::nic_link::mac;
use crate::root::{HANDLER_PAGE, STATS_PAGE, TENANT_STRIDE, TENANT_WINDOW};
use crate::server::{CLIENT_EVENTS, HANDLER_EVENTS, Phase, Server, account, base_units};
use crate::tenant::{PageLease, Running, Standstill, State};
use alloc::{format, vec::Vec};
use cap_spec::abi::{self, Error, Label, ObjectType, Rights, handler_page, slots, stats_page};
use market_mechanism::ledger::LedgerError;
use market_mechanism::rounds::RoundError;
use market_mechanism::{Credits, Price, Quantity};
use proto::host::{End, Record, stop_reason};
use proto::start::{INPUT_BASE, Start, events};
use proto::storage::storage_units;

/// log2 bytes of the block for a tenant's rings, start-up page and channels: four pages.
pub const SIDE_BITS: u8 = PAGE_BITS + 2;
const PAGE: u64 = 1 << PAGE_BITS;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// What a VM invokes to sleep.
pub const WAITS: [Label; 2] = [Label::VcpuWait, Label::ChannelWait];
/// What a VM can invoke that ends what it is made of.
const DESTROYS: [Label; 2] = [Label::CNodeRevoke, Label::CNodeDelete];
/// A Vcpu that does not sleep has its turn once in so many periods: its budget may be the first of one and the last of the
/// next one, and a debt costs it at most one budget.
const LONGEST_WAIT_PERIODS: u64 = 4;
/// Kinds of exits that the statistics page counts.
const EXIT_KINDS: usize = 32;

impl<M: Machine> Server<'_, M> {
    /// Starts every application that waits for it.
    pub(crate) fn start_waiting(&mut self) {
        for app in 0..self.tenants.len() {
            if matches!(self.tenants[app].state, State::Starting) && self.phase == Phase::Running {
                self.try_start(app);
            }
        }
    }

    /// The application shall start, at once if what it is to have is there.
    pub(crate) fn order_start(&mut self, app: usize) {
        if !matches!(self.tenants[app].state, State::Waiting) {
            let name = self.name(app);
            self.say(&format!("{name} was started before"));
            return;
        }
        self.tenants[app].state = State::Starting;
        self.try_start(app);
    }

    /// Its base in all goods that it takes part in.
    fn base(&self, app: usize) -> Vec<(usize, Quantity)> {
        let base = |good| base_units(&self.archive, app, &self.tenants[app], good).map(|base| (good, Quantity(base)));
        (0..self.markets.len()).filter_map(base).collect()
    }

    /// The base of an application, which was set aside, joins what there is: the application takes it at once, or has ended,
    /// so that it is for sale. Before that no round sees it, and nobody buys what is another's.
    fn add_base(&mut self, app: usize) {
        if !core::mem::replace(&mut self.tenants[app].has_joined, true) {
            for (good, base) in self.base(app) {
                self.markets[good].rounds.add_supply(base);
            }
        }
    }

    fn try_start(&mut self, app: usize) {
        // A virtual function that somebody had is busy for a time.
        if self.has_base_vf(app) && self.available_vf().is_none() {
            return;
        }
        if self.wants_storage(app) && !self.is_storage_ready(app) {
            return;
        }
        self.add_base(app);
        let bases = self.base(app);
        // All or nothing: what was paid for one good would not come back when another one cannot be paid.
        let cost = bases.iter().fold(Credits::ZERO, |sum, (good, base)| {
            let (first, deposit) = self.markets[*good].rounds.entry_cost(*base, self.base_price(*good));
            sum + first + deposit
        });
        if self.ledger.free(account(app)) < cost {
            return self.refuse_start(app, LedgerError::NotEnough.into());
        }
        for (good, base) in &bases {
            let price = self.base_price(*good);
            let mut actions = Vec::new();
            let mut emit = |action| actions.push(action);
            let added = self.markets[*good].rounds.add(account(app), *base, price, &mut self.ledger, &mut emit);
            self.drain_journal();
            self.write_lines(*good, &actions);
            if let Err(error) = added {
                return self.refuse_start(app, error);
            }
        }
        let (base, input) = (self.tenants[app].base.take(), core::mem::take(&mut self.tenants[app].input));
        let Some(base) = base else { return };
        let mut running = Running {
            base,
            side: None,
            input,
            channel: Slot::root(0),
            slots: Vec::new(),
            started: 0,
            kernel_pages: None,
            standstill: Standstill::default(),
        };
        let launched = self.launch(app, &mut running);
        if launched.is_ok() {
            running.started = self.root.machine.now();
        }
        self.tenants[app].state = State::Running(running);
        match launched {
            Ok(()) => {
                let (t, base_pages) = (self.micros(), self.tenants[app].base_pages);
                self.record(Record::Started { t, app: app as u16, base_pages });
                self.console.flush(&mut self.root.machine);
            }
            Err(error) => {
                let name = self.name(app);
                self.fail(format!("{name} cannot be launched: {error:?}"));
                self.end_tenant(app, launch_failure());
            }
        }
    }

    /// Contract price of a unit of a good's base in each interval.
    fn base_price(&self, good: usize) -> Price {
        Price(self.plan().goods[good].base_price)
    }

    /// Ends an application that the rules, or its money, do not let start.
    fn refuse_start(&mut self, app: usize, error: RoundError) {
        let name = self.name(app);
        self.say(&format!("{name} cannot start: {error}"));
        let end = match error {
            RoundError::Ledger(_) => End::Unpaid,
            _ => launch_failure(),
        };
        self.end_tenant(app, end);
    }

    /// Makes the VM of an application and starts it. What is made is noted in `running`, also when it fails half-way.
    fn launch(&mut self, app: usize, running: &mut Running) -> Result<(), MemoryError> {
        let (layout, time) = (self.tenants[app].layout, self.tenants[app].time);
        let image = self.archive.images[app];
        let own_vcpu = Slot::root(slots::VCPU);
        let root = &mut self.root;
        let mut builder = Builder::new(root, running.base, layout, &image)?;
        let vcpu = builder.vcpu();
        root.machine.invoke(Label::VcpuBindTime, vcpu, [time.raw(), 0, 0, 0, 0])?;
        let side = root.take(SIDE_BITS)?;
        running.side = Some(side);
        let side = root.memory.slot(side);
        let window = TENANT_WINDOW + app as u64 * TENANT_STRIDE;

        builder.share_rings(root, side, window, &mut running.slots)?;
        let foreign = [
            (self.console.app_rings[app][0], abi::CONSOLE_RING, READ_WRITE),
            (self.console.app_rings[app][1], abi::CONSOLE_RING + PAGE, READ_WRITE),
            (self.board, abi::PRICE_BOARD, Rights::READ),
        ];
        for (frame, gpa, rights) in foreign {
            let copy = root.slot()?;
            running.slots.push(copy);
            root.machine.copy(copy, frame, rights)?;
            builder.map(root, copy, gpa, rights)?;
        }
        let (handler, stats) = builder.map_kernel_pages(root)?;
        running.slots.extend([handler, stats]);
        running.kernel_pages = Some([handler, stats]);
        root.map(handler, window + HANDLER_PAGE, Rights::READ)?;
        root.map(stats, window + STATS_PAGE, Rights::READ)?;

        let input = self.archive.inputs[app];
        let mut rest = input;
        let mut gpa = INPUT_BASE;
        for block in &running.input {
            let bits = root.memory.bits(*block);
            let frame = root.make(root.memory.slot(*block), ObjectType::Frame, bits)?;
            running.slots.push(frame);
            let (part, left) = rest.split_at(rest.len().min(1 << bits));
            root.fill(frame, bits, part)?;
            builder.map(root, frame, gpa, Rights::READ)?;
            rest = left;
            gpa += 1 << bits;
        }
        let page = root.make(side, ObjectType::Frame, PAGE_BITS)?;
        running.slots.push(page);
        let start = self.start_page(app, &builder);
        let root = &mut self.root;
        fill_start_page(root, page, &start)?;
        builder.map(root, page, abi::START_PAGE, Rights::READ)?;

        // Channels: the market speaks for end 1 of its own, the tenant for end 1 of the one to the console server.
        let channel = root.make(side, ObjectType::Channel, 0)?;
        running.slots.push(channel);
        running.channel = channel;
        root.machine.bind_channel(channel, own_vcpu, 1 << (CLIENT_EVENTS as usize + app))?;
        bind_other_end(root, channel, vcpu, events::MARKET)?;
        root.machine.mint_end(builder.slot(slots::MARKET), channel, READ_WRITE, 2)?;
        let console = self.console.app_channels[app];
        root.machine.bind_channel(console, vcpu, events::CONSOLE)?;
        root.machine.mint_end(builder.slot(slots::CONSOLE), console, READ_WRITE, 1)?;
        let stopped = root.make(side, ObjectType::Channel, 0)?;
        running.slots.push(stopped);
        bind_other_end(root, stopped, own_vcpu, 1 << (HANDLER_EVENTS as usize + app))?;
        root.machine.invoke(Label::VcpuSetHandler, vcpu, [stopped.raw(), 0, 0, 0, 0])?;

        root.machine.open_rings(Self::peer(app), window, window + PAGE);
        self.give_vf(app, &builder)?;
        self.give_storage(app, &mut builder)?;
        builder.launch(&mut self.root)
    }

    fn start_page(&self, app: usize, builder: &Builder) -> Start {
        let (plan, tenant) = (self.plan(), &self.tenants[app]);
        let of = &plan.apps[app];
        Start {
            version: proto::VERSION,
            app: app as u16,
            name: of.name.clone(),
            args: of.args.clone(),
            goods: plan.goods.iter().map(|good| good.name.clone()).collect(),
            cpu_good: self.archive.cpu_goods[app],
            interval_ticks: plan.goods.iter().map(|good| self.clock.ticks(good.interval_ms.into())).collect(),
            epoch_tsc: self.clock.epoch,
            tsc_hz: self.clock.tsc_hz,
            valuation: (u128::from(of.valuation) * u128::from(tenant.valuation_ppm()) / 1_000_000) as u64,
            budget: of.budget,
            income_per_second: self.income(app),
            deadline_tsc: if of.deadline_ms == 0 { 0 } else { self.clock.at(of.deadline_ms) },
            input_bytes: self.archive.inputs[app].len() as u64,
            bases: (0..plan.goods.len()).map(|good| self.base_beside_pages(app, good)).collect(),
            base_charges: (0..plan.goods.len()).map(|good| self.base_charge(app, good).0).collect(),
            base_pages: of.base_pages,
            free_slots_end: builder.free_slots_end(),
            image_end: builder.image_end(),
            seed: plan.seed.wrapping_add(app as u64),
            nic_mac: of.nic.then(|| mac(app)),
            storage_units: storage_units(of.storage_bytes),
            storage: self.storage.as_ref().and_then(|link| link.space(app)),
            has_vf: self.has_base_vf(app),
        }
    }

    /// Units of a good in an application's base, pages apart.
    fn base_beside_pages(&self, app: usize, good: usize) -> u32 {
        match self.markets[good].kind {
            GoodKind::Page => 0,
            GoodKind::Cpu(_) | GoodKind::Bandwidth | GoodKind::Operations | GoodKind::Vf | GoodKind::Storage => {
                base_units(&self.archive, app, &self.tenants[app], good).unwrap_or(0)
            }
        }
    }

    /// Ends the applications whose Vcpu has stopped by itself or was stopped by their own VM, and the run if the console
    /// server's has.
    pub(crate) fn look_for_stopped(&mut self) {
        for app in 0..self.tenants.len() {
            if !self.tenants[app].is_running() {
                continue;
            }
            let page = TENANT_WINDOW + app as u64 * TENANT_STRIDE + HANDLER_PAGE;
            if let Some(end @ End::Fault { reason, .. }) = self.stopped(page) {
                let name = self.name(app);
                self.say(&format!("{name} was stopped by the kernel: {}", stop_reason(reason)));
                self.end_tenant(app, end);
            } else if self.stands_still(app) {
                let name = self.name(app);
                self.say(&format!("{name} has stopped itself"));
                self.end_tenant(app, End::Stopped);
            }
        }
        if let Some(End::Fault { reason, .. }) = self.stopped(CONSOLE_HANDLER_PAGE) {
            self.failures.push(format!("the console server stopped: {}", stop_reason(reason)));
            self.phase = Phase::PowerOff { deadline: self.root.machine.now(), value: crate::finish::FAILURE };
        }
    }

    /// True if an application does not run any more by its own doing: it stopped its Vcpu, or revoked what it is made of.
    /// The kernel tells nobody of that, as these are invocations like any others. But who ran, has invoked nothing that
    /// waits since, and then does not run within the longest time that it can wait for its CPU time, never will. Who has
    /// waited meanwhile may just sleep; if it has invoked `Vcpu.Stop`, or has revoked or deleted something just then, it is
    /// signalled and must run then.
    fn stands_still(&mut self, app: usize) -> bool {
        let used_ticks = self.stats_word(app, stats_page::USED_TICKS);
        let waits = WAITS.into_iter().map(|label| self.invocations(app, label)).sum();
        let destroyed = DESTROYS.into_iter().map(|label| self.invocations(app, label)).sum();
        let has_stopped = self.invocations(app, Label::VcpuStop) > 0;
        let now = self.root.machine.now();
        let longest_wait = LONGEST_WAIT_PERIODS * self.tenants[app].reservation.1 + self.clock.frame();
        let State::Running(running) = &mut self.tenants[app].state else { return false };
        let seen = &mut running.standstill;
        if seen.used_ticks != used_ticks {
            let (waited, has_destroyed) = (waits != seen.waits, destroyed != seen.destroyed);
            *seen = Standstill { used_ticks, waits, waited, destroyed, has_destroyed, since: now, signalled: false };
        }
        if used_ticks == 0 || now.saturating_sub(seen.since) <= longest_wait {
            return false;
        }
        if !seen.waited || seen.signalled {
            return true;
        }
        if has_stopped || seen.has_destroyed {
            (seen.since, seen.signalled) = (now, true);
            // That its channel is gone would be seen elsewhere.
            let _ = self.root.machine.signal(running.channel);
        }
        false
    }

    /// How often an application's VM has invoked this label.
    pub(crate) fn invocations(&self, app: usize, label: Label) -> u64 {
        self.stats_word(app, stats_page::INVOCATIONS + size_of::<u64>() * label as usize)
    }

    /// Ends the applications whose VM or Vcpu is not there any more, because they destroyed it themselves.
    pub(crate) fn look_for_destroyed(&mut self) {
        for app in 0..self.tenants.len() {
            let State::Running(Running { kernel_pages: Some(pages), .. }) = self.tenants[app].state else { continue };
            let gone = |slot| self.root.machine.identify(slot).is_err_and(|fault| fault.error == Error::SlotEmpty);
            if pages.into_iter().any(gone) {
                let name = self.name(app);
                self.say(&format!("{name} has destroyed its own VM"));
                self.end_tenant(app, End::Destroyed);
            }
        }
    }

    /// What a handler page says about a stop.
    pub(crate) fn stopped(&self, page: u64) -> Option<End> {
        let word = |offset: usize| self.root.machine.read_word(page + offset as u64);
        if word(handler_page::COUNT) == 0 {
            return None;
        }
        Some(End::Fault {
            reason: word(handler_page::REASON) as u8,
            detail: [word(handler_page::DETAIL), word(handler_page::DETAIL2)],
            registers: (0..handler_page::REGISTER_WORDS).map(|at| word(handler_page::REGISTERS + 8 * at)).collect(),
        })
    }

    /// Takes everything back that an application has, ends its accounts' part in the rounds, and tells the host.
    pub(crate) fn end_tenant(&mut self, app: usize, end: End) {
        if self.tenants[app].has_ended() {
            return;
        }
        let ordered = self.root.machine.now();
        let launched = matches!(&self.tenants[app].state, State::Running(running) if running.started != 0);
        let state = core::mem::replace(&mut self.tenants[app].state, State::Ended(end.clone()));
        let (mut exits, mut used_ticks) = (Vec::new(), 0);
        if let State::Running(running) = state {
            // A launch that failed half-way has no statistics page yet, and has not run either.
            if launched {
                exits = (0..EXIT_KINDS).map(|kind| self.stats_word(app, stats_page::EXITS + 8 * kind)).collect();
                used_ticks = self.stats_word(app, stats_page::USED_TICKS);
            }
            self.take_all(app, running);
        }
        // Of an application that was not launched.
        self.take_storage(app);
        let tenant = &mut self.tenants[app];
        let spare: Vec<BlockId> = tenant.base.take().into_iter().chain(core::mem::take(&mut tenant.input)).collect();
        let time = tenant.time;
        self.give_blocks(app, &spare);
        if let Err(error) = self.root.drop_slot(time) {
            self.fail(format!("CPU time of application {app}: {error:?}"));
        }
        if self.root.machine.identify(time).is_ok() {
            let (budget, period) = self.tenants[app].reservation;
            self.tenants[app].left[1] = budget * self.clock.frame() / period.max(1) / self.clock.unit().max(1);
        }
        self.add_base(app);
        let reclaim_us = self.clock.span_micros(self.root.machine.now() - ordered);
        for good in 0..self.markets.len() {
            if self.markets[good].rounds.lease(account(app)).is_some() {
                if let Err(error) = self.markets[good].rounds.remove(account(app), &mut self.ledger) {
                    self.fail(format!("application {app} leaves good {good}: {error}"));
                }
                self.drain_journal();
            }
        }
        let tenant = &self.tenants[app];
        let (work, page_ms, cpu_ticks_bought) = (tenant.work, tenant.page_ms, tenant.cpu_ticks);
        let (kilobits_bought, operations_bought) = (tenant.kilobits, tenant.operations);
        let (t, paid, app) = (self.micros(), self.paid(app), app as u16);
        self.record(Record::Ended {
            t,
            app,
            end,
            work,
            paid,
            exits,
            used_ticks,
            page_ms,
            cpu_ticks_bought,
            kilobits_bought,
            operations_bought,
            reclaim_us,
        });
    }

    /// Destroys the VM, then takes back leases, rings and input.
    fn take_all(&mut self, app: usize, running: Running) {
        self.root.machine.close_rings(Self::peer(app));
        // Before the memory that it reaches by DMA.
        self.take_vf(app);
        self.take_storage(app);
        self.give_blocks(app, &[running.base]);
        let tenant = &mut self.tenants[app];
        let leases = core::mem::take(&mut tenant.leases);
        tenant.waiting.clear();
        tenant.outbox.clear();
        tenant.named.clear();
        let slots: Vec<Slot> = leases.values().flat_map(PageLease::slots).collect();
        let blocks: Vec<BlockId> =
            leases.values().map(|lease| lease.block).chain(running.side).chain(running.input).collect();
        self.give_blocks(app, &blocks);
        slots.into_iter().for_each(|slot| self.root.memory.slots.give(slot));
        for slot in running.slots {
            if let Err(error) = self.root.drop_slot(slot) {
                self.fail(format!("capability of application {app}: {error:?}"));
            }
        }
    }

    /// Takes blocks of an application back, and asks the kernel whether nothing of them is left with it.
    fn give_blocks(&mut self, app: usize, blocks: &[BlockId]) {
        for block in blocks {
            if let Err(error) = self.root.give(*block) {
                self.fail(format!("memory cannot be taken back: {error:?}"));
            }
            let memory = &self.root.memory;
            // What the kernel keeps back is out of everybody's reach.
            if !memory.is_kept(*block) && !memory.is_clean(&mut self.root.machine, *block) {
                self.tenants[app].left[0] += 1 << (self.root.memory.bits(*block) - PAGE_BITS);
            }
        }
    }
}

/// The end of an application that could not be launched: no Vcpu has run, so there is no reason.
pub(crate) fn launch_failure() -> End {
    End::Fault { reason: abi::StopReason::None as u8, detail: [0; 2], registers: Vec::new() }
}
