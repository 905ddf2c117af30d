//! What the market does about the network server: hears its reports, starts it again, gives VFs out and takes them back.

use crate::archive::GoodKind;
use crate::launch::Builder;
use crate::machine::{Invoke, Machine, Peer, Received, Slot};
use crate::memory::MemoryError;
use crate::nic_link::{NIC_HANDLER_PAGE, mac, written};
use crate::server::{Phase, Server, account, base_units};
use crate::tenant::State;
use alloc::{format, vec::Vec};
use proto::host::{End, stop_reason};
use proto::market::FromMarket;
use proto::nic::{FromNic, UNIT_BITS_PER_S, VF_MESSAGES};

/// Reports that are read before applications have their turn.
const BURST: u32 = 16;
/// Times that the server is started again in a run.
pub const MAX_RESTARTS: u32 = 8;

impl<M: Machine> Server<'_, M> {
    /// True if an application has a virtual function in its base.
    pub(crate) fn has_base_vf(&self, app: usize) -> bool {
        self.plan().apps[app].nic && self.plan().apps[app].base_vf > 0
    }

    /// True if an application is to have a virtual function by the ledger.
    fn is_entitled_to_vf(&self, app: usize) -> bool {
        let Some(market) = self.markets.iter().find(|market| market.kind == GoodKind::Vf) else {
            return self.has_base_vf(app);
        };
        let lease = market.rounds.lease(account(app)).unwrap_or_default();
        self.tenants[app].is_running() && lease.base.0 + lease.running.0 > 0
    }

    /// Takes VFs from those who have lost them; those who have won one get it when it is out of its reset. Nothing moves
    /// while an interval is still to begin: the ledger is ahead then, and losers have what they lose until their deadline.
    pub(crate) fn move_vfs(&mut self) {
        if self.are_vfs_to_begin() {
            return;
        }
        for app in 0..self.tenants.len() {
            let has_one = self.nic.as_ref().is_some_and(|nic| nic.holds(app));
            if has_one && !self.is_entitled_to_vf(app) {
                self.take_vf(app);
                self.post(app, &FromMarket::VfTaken);
                self.signal_tenant(app);
            }
        }
        self.lend_vfs();
    }

    /// True while an interval of VFs is still to begin for which the ledger has changed already.
    fn are_vfs_to_begin(&self) -> bool {
        self.markets.iter().any(|market| market.kind == GoodKind::Vf && market.begins.is_some())
    }

    /// Sends VFs on their way to those who are to have one, first to who has lacked one for longest: else who gives its own
    /// back and buys again would go before others for ever. Applications that wait for one of their base come before all of
    /// them.
    pub(crate) fn lend_vfs(&mut self) {
        if self.are_vfs_to_begin() {
            return;
        }
        let now = self.root.machine.now();
        let mut lacking = Vec::new();
        for app in 0..self.tenants.len() {
            let lacks = self.lacks_vf(app);
            let since = &mut self.tenants[app].lacks_vf_since;
            *since = lacks.then(|| since.unwrap_or(now));
            lacking.extend(since.map(|since| (since, app)));
        }
        lacking.sort_unstable();
        for (_, app) in lacking {
            let (vf, limit) = (self.spare_vf(), self.limit(app));
            let (Some(vf), Some(nic)) = (vf, self.nic.as_mut()) else { return };
            match nic.lend(&mut self.root, vf, app, limit) {
                Ok(parts) => {
                    self.tenants[app].vf_parts.extend(parts);
                    self.tenants[app].granted = self.root.machine.now();
                    self.tenants[app].lacks_vf_since = None;
                    let (name, mac) = (self.name(app), written(mac(app)));
                    self.say(&format!("virtual function {vf} goes to {name}, with address {mac}"));
                    self.flush_nic();
                    self.flush_tenant(app);
                }
                Err(error) => self.fail(format!("virtual function {vf} cannot be leased: {error:?}")),
            }
        }
    }

    /// True if an application runs and is to have a VF that it has not.
    fn lacks_vf(&self, app: usize) -> bool {
        // What the ledger counts as running has begun only when those who lost have lost.
        let is_bought = self.markets.iter().any(|market| market.kind == GoodKind::Vf && market.begins.is_none());
        let has_one = self.nic.as_ref().is_none_or(|nic| nic.holds(app));
        is_bought && self.phase == Phase::Running && !has_one && self.is_entitled_to_vf(app)
    }

    /// Moves the next part of a VF into the channel, if what was there before was accepted.
    pub(crate) fn grant_vf_part(&mut self, app: usize, channel: Slot) -> bool {
        let left = self.tenants[app].vf_parts.len();
        let Some(&slot) = self.tenants[app].vf_parts.front() else { return false };
        if self.root.machine.grant_moving(channel, slot).is_err() {
            return false;
        }
        self.root.memory.slots.give(slot);
        self.tenants[app].vf_parts.pop_front();
        self.tenants[app].granted = self.root.machine.now();
        let part = 1 + usize::from(VF_MESSAGES) - left;
        self.post(app, &FromMarket::Vf { part: part as u8 });
        true
    }

    /// The VF that an application that starts could have now.
    pub(crate) fn available_vf(&mut self) -> Option<usize> {
        self.nic.as_ref()?.available(&mut self.root).next()
    }

    /// The VF that one that runs could have now, beside those that wait for one of their base.
    pub(crate) fn spare_vf(&mut self) -> Option<usize> {
        let waiting = (0..self.tenants.len()).filter(|&app| self.waits_for_base_vf(app)).count();
        self.nic.as_ref()?.available(&mut self.root).nth(waiting)
    }

    /// True if an application is to start, and has a VF in its base.
    fn waits_for_base_vf(&self, app: usize) -> bool {
        matches!(self.tenants[app].state, State::Starting) && self.has_base_vf(app)
    }

    /// True if an application only waits for a VF to come out of its reset, or back.
    pub(crate) fn waits_for_vf(&self) -> bool {
        (0..self.tenants.len()).any(|app| self.waits_for_base_vf(app) || self.lacks_vf(app))
    }

    /// Gives an application that is being launched its VF, if it is to have one.
    pub(crate) fn give_vf(&mut self, app: usize, builder: &Builder) -> Result<(), MemoryError> {
        if !self.has_base_vf(app) {
            return Ok(());
        }
        let (vf, limit) = (self.available_vf(), self.limit(app));
        let (Some(vf), Some(nic)) = (vf, self.nic.as_mut()) else { return Err(MemoryError::NoMemory) };
        nic.give(&mut self.root, vf, app, limit, builder)?;
        let (name, mac) = (self.name(app), written(mac(app)));
        self.say(&format!("virtual function {vf} goes to {name}, with address {mac}"));
        // The server hears of it before the application runs.
        self.flush_nic();
        Ok(())
    }

    /// Bits per second that an application may send by the ledger; `None` if bandwidth is not sold.
    fn limit(&self, app: usize) -> Option<u64> {
        self.sold(app, GoodKind::Bandwidth).map(|units| units * UNIT_BITS_PER_S)
    }

    /// Units of a good that an application has by the ledger, and at its start by the plan; `None` if the good is not sold, or
    /// the application takes no part in it.
    pub(crate) fn sold(&self, app: usize, kind: GoodKind) -> Option<u64> {
        let good = self.markets.iter().position(|market| market.kind == kind)?;
        let base = base_units(&self.archive, app, &self.tenants[app], good)?;
        let lease = self.markets[good].rounds.lease(account(app)).unwrap_or_default();
        Some(u64::from(base) + u64::from(lease.running.0))
    }

    /// When the interval began, or begins, that the ledger counts as running, as a TSC value.
    pub(crate) fn running_since(&self, good: usize) -> u64 {
        let rounds = &self.markets[good].rounds;
        rounds.next_close().0.saturating_sub(rounds.terms().interval.0)
    }

    /// Tells the network server what every holder of a VF may send, from the beginning of the interval on that the ledger
    /// counts as running.
    pub(crate) fn apply_limits(&mut self, good: usize) {
        let begins = self.running_since(good);
        for app in 0..self.tenants.len() {
            let limit = self.limit(app);
            if let (Some(limit), Some(nic)) = (limit, self.nic.as_mut()) {
                nic.limit(app, limit, begins, self.root.machine.now());
            }
        }
        self.flush_nic();
    }

    /// Takes an application's VF back.
    pub(crate) fn take_vf(&mut self, app: usize) {
        let Some(nic) = self.nic.as_mut() else { return };
        match nic.take_back(&mut self.root, app) {
            Ok(None) => {}
            Ok(Some(vf)) => {
                // What had not left yet was revoked with the rest.
                let parts = core::mem::take(&mut self.tenants[app].vf_parts);
                parts.into_iter().for_each(|slot| self.root.memory.slots.give(slot));
                let name = self.name(app);
                self.say(&format!("virtual function {vf} is back from {name}"));
            }
            Err(error) => self.fail(format!("virtual function of application {app}: {error:?}")),
        }
    }

    /// Moves messages to the network server. True if some are left.
    pub(crate) fn flush_nic(&mut self) -> bool {
        self.nic.as_mut().is_some_and(|nic| nic.flush(&mut self.root.machine))
    }

    /// Hears what the network server reports, and starts it again if it has stopped. True if there may be more.
    pub(crate) fn serve_nic(&mut self) -> bool {
        if !self.nic.as_ref().is_some_and(|nic| nic.is_running()) {
            return false;
        }
        if let Some(End::Fault { reason, .. }) = self.stopped(NIC_HANDLER_PAGE) {
            self.restart_nic(stop_reason(reason));
            return false;
        }
        for _ in 0..BURST {
            match self.root.machine.receive(Peer::Nic) {
                Received::Nothing => return false,
                Received::Message(bytes, attention) => {
                    if let Some(nic) = self.nic.as_mut() {
                        nic.wants_signal(attention);
                    }
                    match postcard::from_bytes(&bytes) {
                        Ok(report) => self.hear(report),
                        Err(_) => return self.restart_nic("it sent what is no message"),
                    }
                }
                Received::Damaged => return self.restart_nic("it broke the rules of its ring"),
            }
        }
        true
    }

    /// Ends the network server and starts it again; holders of VFs keep them, and see their device reset. False.
    fn restart_nic(&mut self, why: &str) -> bool {
        self.say(&format!("the network server stopped: {why}"));
        let (Some(mut nic), Some(image)) = (self.nic.take(), self.archive.nic) else { return false };
        let ended = nic.end(&mut self.root);
        self.nic_restarts += 1;
        let again = if self.nic_restarts <= MAX_RESTARTS {
            let limits: Vec<Option<u64>> = (0..self.tenants.len()).map(|app| self.limit(app)).collect();
            ended.and_then(|()| nic.start(&mut self.root, &image, &limits))
        } else {
            ended.and(Err(MemoryError::NoMemory))
        };
        self.nic = Some(nic);
        match again {
            Ok(()) => self.say("the network server was started again"),
            Err(error) => self.fail(format!("the network server cannot be started again: {error:?}")),
        }
        false
    }

    fn hear(&mut self, report: FromNic) {
        if report == FromNic::Ready && self.nic_restarts > 0 {
            // Only now: what they ask of a device that is not set up is lost.
            let holders = self.nic.as_ref().map_or_else(Vec::new, |nic| nic.holders());
            holders.into_iter().for_each(|app| self.post(app, &FromMarket::NicReset));
        }
        let of = |vf: u8| match self.nic.as_ref().and_then(|nic| nic.holder(vf)) {
            Some(app) => format!("virtual function {vf} ({})", self.name(app)),
            None => format!("virtual function {vf}"),
        };
        let line = match report {
            FromNic::Ready => "network device: ready".into(),
            FromNic::Failed => "network device: it does not work".into(),
            FromNic::Link { up } => format!("network device: link {}", if up { "up" } else { "down" }),
            FromNic::VfReady { vf } => format!("{}: ready", of(vf)),
            FromNic::VfReset { vf } => format!("{}: reset", of(vf)),
            FromNic::Forged { vfs, frames } => {
                format!("forged frames from virtual functions {vfs:#010b}, {frames} so far")
            }
            FromNic::InForce { vf, bits_per_s } => {
                if let Some(nic) = self.nic.as_mut() {
                    nic.in_force(vf, bits_per_s);
                }
                return;
            }
            FromNic::Counters { mac, counts } => {
                if let Some(nic) = self.nic.as_mut() {
                    nic.counted(mac, counts);
                }
                return;
            }
            FromNic::Counted => return self.ending_counted(),
            FromNic::Refused { vf } => format!("{}: asked for what it may not have", of(vf)),
            FromNic::Impossible { vf } => format!("{}: impossible settings", of(vf)),
        };
        self.say(&line);
    }
}
