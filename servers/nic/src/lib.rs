//! The network server: it drives the physical function (PF) of the Intel 82576 and does for its virtual functions (VFs)
//! what the market says.
//!
//! This library is the whole of it but the hardware: [`Server`] takes messages of the market, looks at the device when that
//! is due, and has reports for the market; `main.rs` sleeps and moves the messages.
//!
//! Guarantees: a VF sends and receives only between [`ToNic::Configure`] and [`ToNic::Close`], with the address that it was
//! given. A limit holds from the moment on that the market names, and is reported when it does. What the market sends is checked; what is impossible is reported and closes the VF. However much VFs ask or
//! forge, reports are bounded: each kind of report about a VF waits at most once, and what VFs can cause leaves once in
//! [`VF_REPORTS_NS`]. What each holder has sent and received is told as often, if it has changed, and when it loses its VF.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod holders;

use alloc::collections::VecDeque;
use core::mem::discriminant;
use device::Registers;
use holders::Holders;
use igb::{Event, Link, Nic, Vlans};
use igbvf::MacAddress;
use proto::nic::{FromNic, MAX_VFS, Settings, ToNic};

const _: () = assert!(MAX_VFS == igb::VFS);

/// Nanoseconds between two bundles of reports that VFs can cause: whoever reads them has other things to do.
pub const VF_REPORTS_NS: u64 = 100_000_000;

/// The state of the server.
#[derive(Debug)]
pub struct Server<R> {
    nic: Nic<R>,
    reports: VecDeque<FromNic>,
    /// From when on reports that VFs can cause leave again.
    vf_reports_ns: u64,
    /// Limits that are still to come, with their times, by VF.
    coming: [Option<(u64, u64)>; MAX_VFS],
    holders: Holders,
    /// When it is told again what they have sent and received.
    count_ns: u64,
}

impl<R: Registers> Server<R> {
    /// Takes the device and resets it; all VFs are closed. `now_ns` is the time, in nanoseconds since some moment.
    pub fn new(registers: R, now_ns: u64) -> Server<R> {
        let nic = Nic::new(registers, &[], now_ns);
        Server {
            nic,
            reports: VecDeque::new(),
            vf_reports_ns: 0,
            coming: [None; MAX_VFS],
            holders: Holders::default(),
            count_ns: now_ns,
        }
    }

    /// Does what the market says.
    pub fn take(&mut self, message: ToNic, now_ns: u64) {
        match message {
            ToNic::Configure { vf, settings } => {
                let is_possible = self.nic.configure(usize::from(vf), Some(driver_settings(&settings)), now_ns);
                if !is_possible {
                    // What the VF had before is not what it shall have either. If there is no such VF, nothing is closed.
                    self.nic.configure(usize::from(vf), None, now_ns);
                    self.report(FromNic::Impossible { vf });
                }
                self.change_holder(vf, is_possible.then_some(settings.mac));
                self.forget_coming(vf);
                self.report_limit(vf);
            }
            ToNic::Close { vf } => {
                if !self.nic.configure(usize::from(vf), None, now_ns) {
                    self.report(FromNic::Impossible { vf });
                }
                self.change_holder(vf, None);
                self.forget_coming(vf);
                self.report_limit(vf);
            }
            ToNic::Limit { vf, bits_per_s, from_ns } => {
                if let Some(coming) = self.coming.get_mut(usize::from(vf)) {
                    *coming = Some((from_ns, bits_per_s));
                    self.begin_limits(now_ns);
                }
            }
            ToNic::Count => {
                self.report_counts(now_ns);
                self.report(FromNic::Counted);
            }
            ToNic::Crash => panic!("the network server was ordered to crash"),
        }
    }

    /// A VF that was just closed has another holder, by its address, or none; the last one is told what it had.
    fn change_holder(&mut self, vf: u8, mac: Option<[u8; 6]>) {
        let Some(counters) = self.nic.counters(usize::from(vf)) else { return };
        if let Some((mac, counts)) = self.holders.change(usize::from(vf), mac, &counters) {
            self.report(FromNic::Counters { mac, counts });
        }
    }

    /// Reports of each holder what it has sent and received, if that has changed.
    fn report_counts(&mut self, now_ns: u64) {
        self.nic.count(now_ns);
        self.count_ns = now_ns.saturating_add(VF_REPORTS_NS);
        for vf in 0..MAX_VFS {
            let Some(counters) = self.nic.counters(vf) else { continue };
            if let Some((mac, counts)) = self.holders.news(vf, &counters) {
                self.report(FromNic::Counters { mac, counts });
            }
        }
    }

    /// Sets the limits whose time has come.
    fn begin_limits(&mut self, now_ns: u64) {
        for vf in 0..MAX_VFS {
            if let Some((_, bits_per_s)) = self.coming[vf].take_if(|(from_ns, _)| *from_ns <= now_ns) {
                self.nic.set_limit(vf, Some(bits_per_s), now_ns);
                self.report_limit(vf as u8);
            }
        }
    }

    fn forget_coming(&mut self, vf: u8) {
        if let Some(coming) = self.coming.get_mut(usize::from(vf)) {
            *coming = None;
        }
    }

    /// Reports what a VF may send now; nothing if there is no such VF.
    fn report_limit(&mut self, vf: u8) {
        if usize::from(vf) < MAX_VFS {
            let bits_per_s = self.nic.limit(usize::from(vf)).unwrap_or(Some(0));
            self.report(FromNic::InForce { vf, bits_per_s });
        }
    }

    /// Does all that is due. To be called at [`Server::due_ns`].
    pub fn poll(&mut self, now_ns: u64) {
        self.begin_limits(now_ns);
        if now_ns >= self.count_ns {
            self.report_counts(now_ns);
        }
        // Each pass takes at most one message of a VF; the rest is due at once again, after the market's turn.
        for _ in 0..PASSES {
            let Some(event) = self.nic.poll(now_ns) else { return };
            let report = match event {
                Event::Ready => FromNic::Ready,
                Event::PhyFailed => FromNic::Failed,
                Event::LinkChanged(link) => FromNic::Link { up: link == Link::Up },
                Event::VfReset(vf) => FromNic::VfReset { vf: vf as u8 },
                Event::VfReady(vf) => FromNic::VfReady { vf: vf as u8 },
                Event::Refused(vf) => FromNic::Refused { vf: vf as u8 },
                Event::Forged(vfs) => FromNic::Forged { vfs, frames: self.nic.forged_frames() },
            };
            self.report(report);
        }
    }

    /// When [`Server::poll`] is due.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        let begins = self.coming.iter().flatten().map(|(from_ns, _)| *from_ns);
        begins.min().unwrap_or(u64::MAX).min(self.nic.due_ns())
    }

    /// Takes the oldest report that is to leave now. One that finds no room is given back with [`Server::give_back`].
    pub fn next_report(&mut self, now_ns: u64) -> Option<FromNic> {
        let held_back = now_ns < self.vf_reports_ns;
        let at = self.reports.iter().position(|report| !held_back || !is_caused_by_vf(report))?;
        let report = self.reports.remove(at)?;
        if is_caused_by_vf(&report) && !self.reports.iter().any(is_caused_by_vf) {
            self.vf_reports_ns = now_ns.saturating_add(VF_REPORTS_NS);
        }
        Some(report)
    }

    /// A report found no room, and waits on, unless there is a newer one of its kind.
    pub fn give_back(&mut self, report: FromNic) {
        if !self.reports.iter().any(|waiting| is_alike(waiting, &report)) {
            self.reports.push_front(report);
        }
    }

    /// Keeps a report until there is room for it on the way; an older one of the same kind about the same VF gives way.
    fn report(&mut self, report: FromNic) {
        self.reports.retain(|waiting| !is_alike(waiting, &report));
        self.reports.push_back(report);
    }
}

/// Events of the driver that are looked at before the market has its turn: two of each VF.
const PASSES: usize = 2 * MAX_VFS;

/// True if two reports are of the same kind about the same VF, or the same address.
fn is_alike(one: &FromNic, other: &FromNic) -> bool {
    if let (FromNic::Counters { mac: one, .. }, FromNic::Counters { mac: other, .. }) = (one, other) {
        return one == other;
    }
    discriminant(one) == discriminant(other) && vf_of(one) == vf_of(other)
}

/// True if the holder of a VF can cause it, as often as it likes.
fn is_caused_by_vf(report: &FromNic) -> bool {
    match report {
        FromNic::VfReady { .. } | FromNic::VfReset { .. } | FromNic::Refused { .. } | FromNic::Forged { .. } => true,
        FromNic::Ready
        | FromNic::Failed
        | FromNic::Link { .. }
        | FromNic::InForce { .. }
        | FromNic::Impossible { .. }
        | FromNic::Counters { .. }
        | FromNic::Counted => false,
    }
}

/// Which VF a report is about; `None`: the device.
fn vf_of(report: &FromNic) -> Option<u8> {
    match *report {
        FromNic::VfReady { vf }
        | FromNic::VfReset { vf }
        | FromNic::Refused { vf }
        | FromNic::InForce { vf, .. }
        | FromNic::Impossible { vf } => Some(vf),
        FromNic::Ready
        | FromNic::Failed
        | FromNic::Link { .. }
        | FromNic::Forged { .. }
        | FromNic::Counters { .. }
        | FromNic::Counted => None,
    }
}

/// The market's settings as the driver takes them, which checks them.
fn driver_settings(settings: &Settings) -> igb::Settings {
    igb::Settings {
        vlans: settings.vlan.map_or(Vlans::None, Vlans::Port),
        limit_bits_per_s: settings.limit_bits_per_s,
        ..igb::Settings::with_mac(MacAddress(settings.mac))
    }
}

#[cfg(test)]
mod tests;
