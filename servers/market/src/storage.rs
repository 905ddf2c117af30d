//! What the market does about the storage server: starts it, hears its reports, starts it again, and gives namespaces with
//! virtual functions out and takes them back.

use crate::archive::GoodKind;
use crate::launch::Builder;
use crate::machine::{Machine, Peer, Received};
use crate::memory::MemoryError;
use crate::nic::MAX_RESTARTS;
use crate::server::{Server, account};
use crate::storage_link::STORAGE_HANDLER_PAGE;
use crate::storage_state::{Refused, Wanted};
use crate::tenant;
use alloc::{format, vec::Vec};
use market_mechanism::Quantity;
use proto::host::{End, stop_reason};
use proto::market::FromMarket;
use proto::storage::{FromStorage, Space, UNIT_OPERATIONS, storage_units};

/// Reports that are read before applications have their turn.
const BURST: u32 = 16;

impl<M: Machine> Server<'_, M> {
    /// True if an application gets a virtual function of the storage device.
    pub(crate) fn wants_storage(&self, app: usize) -> bool {
        self.plan().apps[app].storage_bytes > 0
    }

    /// What an application is to have, by plan and ledger. Its namespace is whole, or not there.
    fn wanted(&self, app: usize) -> Wanted {
        let per_s = self.sold(app, GoodKind::Operations).map(|units| units * UNIT_OPERATIONS);
        let of = &self.plan().apps[app];
        let sold = self.sold(app, GoodKind::Storage);
        let is_entitled = of.base_storage || sold.is_some_and(|units| units >= storage_units(of.storage_bytes).into());
        Wanted { is_entitled, bytes: of.storage_bytes, per_s }
    }

    /// What all applications are to have.
    fn all_wanted(&self) -> Vec<Wanted> {
        (0..self.tenants.len()).map(|app| self.wanted(app)).collect()
    }

    /// Tells the storage server what every holder of a namespace may do, from the beginning of the interval on that the ledger
    /// counts as running.
    pub(crate) fn apply_operations(&mut self, good: usize) {
        let begins = self.running_since(good);
        for app in 0..self.tenants.len() {
            let per_s = self.wanted(app).per_s;
            if let (Some(per_s), Some(link)) = (per_s, self.storage.as_mut()) {
                link.limit(app, per_s, begins, self.root.machine.now());
            }
        }
        self.flush_storage();
    }

    /// True if everything is ready for an application that is to have a virtual function, and a namespace if that is in its
    /// base; that is begun if nobody has begun it.
    pub(crate) fn is_storage_ready(&mut self, app: usize) -> bool {
        let (wanted, has_base) = (self.wanted(app), self.plan().apps[app].base_storage);
        let Some(link) = self.storage.as_mut() else { return false };
        if !has_base {
            return link.has_free(&mut self.root);
        }
        let ready = link.ready(&mut self.root, app, wanted);
        self.flush_storage();
        ready.map(|space| space.is_some()).unwrap_or_else(|error| {
            self.fail(format!("namespace of application {app}: {error:?}"));
            false
        })
    }

    /// Takes namespaces from those who have lost them by price, and has others made for those who have won them. Nothing moves
    /// while an interval is still to begin, as with [`Server::move_vfs`].
    pub(crate) fn move_namespaces(&mut self) {
        if self.markets.iter().any(|market| market.kind == GoodKind::Storage && market.begins.is_some()) {
            return;
        }
        let (all, now) = (self.all_wanted(), self.root.machine.now());
        let running = |server: &Self, app: usize| server.tenants[app].is_running() && server.wants_storage(app);
        for (app, _) in all.iter().enumerate().filter(|(_, wanted)| !wanted.is_entitled) {
            if running(self, app) {
                self.take_namespace(app);
            }
        }
        for (app, wanted) in all.into_iter().enumerate().filter(|(_, wanted)| wanted.is_entitled) {
            if running(self, app)
                && let Some(link) = self.storage.as_mut()
            {
                match link.renew(&mut self.root, app, wanted, now) {
                    Ok(()) if link.must_wait(app, now) => self.return_storage(app),
                    Ok(()) => {}
                    Err(error) => self.fail(format!("namespace of application {app}: {error:?}")),
                }
            }
        }
        self.flush_storage();
    }

    /// True if something only waits for the device: functions that come out of a reset.
    pub(crate) fn waits_for_storage(&self) -> bool {
        let mut tenants = self.tenants.iter().enumerate();
        let is_waiting = |(app, of): (usize, &tenant::Tenant)| {
            matches!(of.state, tenant::State::Starting) && self.wants_storage(app)
        };
        self.storage.as_ref().is_some_and(|link| !link.is_running()) || tenants.any(is_waiting)
    }

    /// Gives an application that is being launched what was made ready for it, if it is to have a namespace.
    pub(crate) fn give_storage(&mut self, app: usize, builder: &mut Builder) -> Result<(), MemoryError> {
        if !self.wants_storage(app) {
            return Ok(());
        }
        self.storage.as_mut().ok_or(MemoryError::NoMemory)?.give(&mut self.root, app, builder)
    }

    /// Takes an application's virtual function and namespace back.
    pub(crate) fn take_storage(&mut self, app: usize) {
        self.tenants[app].storage_until = None;
        let Some(link) = self.storage.as_mut() else { return };
        match link.take_back(&mut self.root, app) {
            Ok(None) => {}
            Ok(Some(vf)) => {
                let name = self.name(app);
                self.say(&format!("storage function {vf} is back from {name}"));
            }
            Err(error) => self.fail(format!("storage function of application {app}: {error:?}")),
        }
    }

    /// Tells an application that it loses its namespace when an interval of pages has passed.
    pub(crate) fn order_revocation(&mut self, app: usize) {
        let interval = u64::from(self.plan().goods[0].interval_ms);
        let deadline_tsc = self.root.machine.now().saturating_add(self.clock.ticks(interval));
        let good = self.markets.iter().position(|market| market.kind == GoodKind::Storage);
        let has_one = self.tenants[app].is_running() && self.wanted(app).is_entitled;
        let units = self.sold(app, GoodKind::Storage).filter(|_| has_one);
        let (Some(good), Some(units)) = (good, units) else {
            let name = self.name(app);
            return self.say(&format!("{name} has no namespace that could be taken"));
        };
        // One under notice loses what it was told, when it was told.
        if self.tenants[app].storage_until.is_none() {
            self.tenants[app].storage_until = Some(deadline_tsc);
            let (units, round) = (units as u32, self.markets[good].rounds.round().0);
            self.post_urgent(app, &FromMarket::Notice { good: good as u16, round, units, deadline_tsc });
            self.signal_tenant(app);
        }
    }

    /// Takes namespaces whose deadline has come. Who has no queues by then has lost its namespace otherwise.
    pub(crate) fn revoke_storage(&mut self) {
        let now = self.root.machine.now();
        for app in 0..self.tenants.len() {
            let is_due = self.tenants[app].storage_until.take_if(|until| *until <= now).is_some();
            if is_due && self.storage.as_ref().is_some_and(|link| link.space(app).is_some()) {
                self.take_namespace(app);
            }
        }
    }

    /// Takes its queues and its namespace from an application, which keeps its virtual function: it gets others when what was
    /// there is erased, if it is to have some.
    fn take_namespace(&mut self, app: usize) {
        self.tenants[app].storage_until = None;
        if self.storage.as_mut().is_some_and(|link| link.revoke(app)) {
            self.flush_storage();
            self.post(app, &FromMarket::StorageLost);
            self.signal_tenant(app);
            let name = self.name(app);
            self.say(&format!("the namespace of {name} is taken"));
        }
    }

    /// Moves messages to the storage server. True if some are left.
    pub(crate) fn flush_storage(&mut self) -> bool {
        self.storage.as_mut().is_some_and(|link| link.flush(&mut self.root.machine))
    }

    /// Starts the storage server when its functions are there, hears what it reports, and starts it again if it has stopped.
    /// True if there may be more.
    pub(crate) fn serve_storage(&mut self) -> bool {
        let (Some(link), Some(image)) = (self.storage.as_ref(), self.archive.storage) else { return false };
        if !link.is_running() {
            let limits: Vec<Option<u64>> = self.all_wanted().into_iter().map(|wanted| wanted.per_s).collect();
            // One that cannot be started again has failed the run.
            if self.storage_restarts <= MAX_RESTARTS
                && let Some(link) = self.storage.as_mut()
                && let Err(error) = link.start(&mut self.root, &image, &limits)
            {
                self.storage_restarts = MAX_RESTARTS + 1;
                self.fail(format!("the storage server cannot be started: {error:?}"));
            }
            return false;
        }
        if let Some(End::Fault { reason, .. }) = self.stopped(STORAGE_HANDLER_PAGE) {
            self.restart_storage(stop_reason(reason));
            return false;
        }
        for _ in 0..BURST {
            match self.root.machine.receive(Peer::Storage) {
                Received::Nothing => return false,
                Received::Message(bytes, attention) => {
                    if let Some(link) = self.storage.as_mut() {
                        link.wants_signal(attention);
                    }
                    match postcard::from_bytes(&bytes) {
                        Ok(report) => self.hear_storage(report),
                        Err(_) => return self.restart_storage("it sent what is no message"),
                    }
                }
                Received::Damaged => return self.restart_storage("it broke the rules of its ring"),
            }
        }
        true
    }

    /// Ends the storage server; the next turn starts it again. Holders of functions go on. False.
    fn restart_storage(&mut self, why: &str) -> bool {
        self.say(&format!("the storage server stopped: {why}"));
        let Some(link) = self.storage.as_mut() else { return false };
        let ended = link.end(&mut self.root);
        self.storage_restarts += 1;
        self.storage_stopped = true;
        if self.storage_restarts > MAX_RESTARTS || ended.is_err() {
            self.storage_restarts = MAX_RESTARTS + 1;
            self.fail(format!("the storage server cannot be started again: {ended:?}"));
        }
        false
    }

    fn hear_storage(&mut self, report: FromStorage) {
        let wanted = self.all_wanted();
        let Some(link) = self.storage.as_mut() else { return };
        let line = match report {
            FromStorage::InForce { vf, per_s } => return link.in_force(vf, per_s),
            FromStorage::Ready { namespaces } => {
                let came_up = link.came_up(&mut self.root, &wanted);
                if let Err(error) = came_up {
                    self.fail(format!("storage functions: {error:?}"));
                }
                if core::mem::take(&mut self.storage_stopped) {
                    self.tell_storage_restarted();
                }
                format!("storage device: ready, {namespaces} namespaces")
            }
            FromStorage::Failed => {
                self.lose_storage();
                "storage device: it does not work".into()
            }
            FromStorage::Lost => {
                for app in link.lose_queues() {
                    self.tenants[app].storage_until = None;
                    self.post(app, &FromMarket::StorageLost);
                }
                "storage device: it was reset".into()
            }
            FromStorage::Prepared { vf, space } => match link.prepared(vf, space) {
                Some(app) => {
                    if self.tenants[app].is_running() {
                        self.post(app, &FromMarket::StorageRenewed { space });
                    }
                    let (name, Space { namespace, blocks, block_shift, .. }) = (self.name(app), space);
                    let kib = blocks.saturating_mul(1 << (block_shift & 63)) >> 10;
                    format!("storage function {vf} is ready for {name}: namespace {namespace}, {kib} KiB")
                }
                None => return,
            },
            FromStorage::Uncounted { vf } => {
                match link.holder(vf) {
                    Some(app) if self.tenants[app].is_running() => self.take_namespace(app),
                    // It waits for another function.
                    Some(app) => self.take_storage(app),
                    None => {}
                }
                format!("storage function {vf}: the controller does not keep it to its limit")
            }
            FromStorage::Released { vf } => {
                let (now, app) = (self.root.machine.now(), link.holder(vf));
                let (released, waits) = (
                    link.released(&mut self.root, vf, &wanted, now),
                    app.filter(|app| wanted[*app].is_entitled && link.must_wait(*app, now)),
                );
                if let Err(error) = released {
                    self.fail(format!("storage functions: {error:?}"));
                }
                if let Some(app) = waits {
                    self.return_storage(app);
                }
                format!("storage function {vf}: its namespace is erased")
            }
            FromStorage::TooLarge { vf } => {
                let app = link.refused(vf, Refused::TooLarge);
                self.cannot_have_storage(app);
                format!("storage function {vf}: there is no namespace of that size")
            }
            FromStorage::Impossible { vf } => {
                let (now, second) = (self.root.machine.now(), self.clock.ticks(1_000));
                let app = link.refused(vf, Refused::Impossible { now, second });
                self.cannot_have_storage(app);
                format!("storage function {vf}: it cannot be made ready")
            }
            FromStorage::Unreleased { vf } => {
                if let Err(error) = link.unreleased(&mut self.root, vf) {
                    self.fail(format!("storage functions: {error:?}"));
                }
                format!("storage function {vf}: the controller does not release it")
            }
        };
        self.say(&line);
    }

    /// Those who had queues all the while hear that the storage server was started again. Others hear of new queues.
    fn tell_storage_restarted(&mut self) {
        for app in 0..self.tenants.len() {
            let has_queues = self.storage.as_ref().is_some_and(|link| link.space(app).is_some());
            if has_queues && self.tenants[app].is_running() {
                self.post(app, &FromMarket::StorageRestarted);
            }
        }
    }

    /// There is no namespace for an application that was to have one. One that cannot start ends. One that runs gives back what
    /// it has bought: that was its own doing if its function did not answer, so it is paid for only what somebody else buys. One
    /// in its base is tried again when the next interval begins, and then ever more seldom.
    fn cannot_have_storage(&mut self, app: Option<usize>) {
        let Some(app) = app else { return };
        if self.tenants[app].is_running() {
            return self.return_storage(app);
        }
        let name = self.name(app);
        self.fail(format!("{name} cannot be launched: there is no namespace for it"));
        self.end_tenant(app, crate::life::launch_failure());
    }

    /// True if an application is not to get a namespace yet, and so is not to buy one.
    pub(crate) fn must_wait_for_storage(&self, app: usize) -> bool {
        let now = self.root.machine.now();
        self.storage.as_ref().is_some_and(|link| link.must_wait(app, now))
    }

    /// Leaves those who have to wait for a namespace out of the round that is about to be closed, and takes the others in again.
    pub(crate) fn suspend_waiting(&mut self, good: usize) {
        for app in 0..self.tenants.len() {
            let waits = self.must_wait_for_storage(app);
            // Who takes no part is none to leave out.
            let _ = self.markets[good].rounds.suspend(account(app), waits);
        }
    }

    /// Gives back all that an application has bought of the good of namespaces, as if it had done so itself.
    fn return_storage(&mut self, app: usize) {
        let Some(good) = self.markets.iter().position(|market| market.kind == GoodKind::Storage) else { return };
        let rounds = &mut self.markets[good].rounds;
        let units = rounds.lease(account(app)).map_or(Quantity::ZERO, |lease| lease.running);
        if units > Quantity::ZERO && rounds.release(account(app), units).is_ok() {
            let name = self.name(app);
            self.say(&format!("{name} gives back {} MiB, as no namespace was made ready for it", units.0));
        }
    }

    /// The queues of all functions are gone: who has one hears of it, who waits for one does not start.
    fn lose_storage(&mut self) {
        let holders = self.storage.as_mut().map(crate::storage_link::StorageLink::fail).unwrap_or_default();
        for app in holders {
            if self.tenants[app].is_running() {
                self.post(app, &FromMarket::StorageLost);
            } else {
                self.cannot_have_storage(Some(app));
            }
        }
    }
}
