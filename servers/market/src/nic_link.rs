//! The network server and the virtual functions (VFs) of its device: launch, restart, and who holds which VF.
//!
//! The boot capability of the device's physical function (PF) stays the market's, and so do those of the VFs that it makes
//! before anybody has a lease. The network server gets a lease of the PF, an application a lease of a VF. So the server can
//! be ended and started again without an application's losing its function, and revoking a VF leaves nothing of it with its
//! last holder: the kernel resets it, and it is `Busy` until that is over.
//!
//! Guarantees: a VF has one holder at most; the server hears of a holder's settings before the holder runs, and of its end
//! after the lease is revoked. What the server says changes nothing but lines on the console, and what is told at the end of
//! what holders have sent and received.

use crate::archive::Image;
use crate::boot::Boot;
use crate::device_server::{DeviceServer, Role};
use crate::launch::Builder;
use crate::machine::{Attention, Invoke, Machine, Peer, Slot};
use crate::memory::MemoryError;
use crate::root::{Root, SERVER_WINDOW};
use crate::sold_rate::SoldRate;
use alloc::{format, string::String, vec::Vec};
use cap_spec::abi::slots;
use core::fmt;
use proto::nic::{Counts, MAX_VFS, PHYSICAL_SLOT, Settings, ToNic, UNIT_BITS_PER_S, VF_MESSAGES};
use proto::start::{NIC_IRQ_SLOT, NIC_SLOT};

/// Vendor and device of the Intel 82576's physical functions.
const INTEL_82576: (u16, u16) = (0x8086, 0x10c9);
/// Index that the network server has in its start-up page.
const NIC_APP: u16 = 0xfffd;
/// Event bit of the network server's channel.
pub const NIC_EVENT: u64 = 1 << 34;
/// Event bit for the network server's own end.
pub const NIC_STOPPED_EVENT: u64 = 1 << 35;
/// Where its rings and its handler page are mapped.
const RING_WINDOW: u64 = SERVER_WINDOW + 0x5000;
/// See [`RING_WINDOW`].
pub const NIC_HANDLER_PAGE: u64 = SERVER_WINDOW + 0x7000;
/// Pages that it can retype: the domain of the physical function, and room to align it.
pub const FREE_PAGES: u64 = 8;
/// The core that it runs on.
pub const NIC_CORE: u8 = 0;
/// Its CPU time there, in microseconds: it looks at the link and at mailboxes every 10 ms, and at what virtual functions
/// have sent several times in a millisecond.
const BUDGET_MICROS: u64 = 200;
const PERIOD_MICROS: u64 = 5_000;
/// Interrupt routes that the device can have, of its virtual functions.
pub const ROUTES: u64 = MAX_VFS as u64 * VF_MESSAGES as u64;
/// Messages that wait for room in the ring to it. All VFs can be configured and closed anew several times.
const MAX_OUTBOX: usize = 16 * MAX_VFS;
const ROLE: Role = Role {
    peer: Peer::Nic,
    name: "nic",
    app: NIC_APP,
    event: NIC_EVENT,
    stopped_event: NIC_STOPPED_EVENT,
    rings: RING_WINDOW,
    handler_page: NIC_HANDLER_PAGE,
    free_pages: FREE_PAGES,
    most_messages: MAX_OUTBOX,
};

/// Why there is nothing to lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoNic {
    /// The kernel hands out no function of such a device.
    NoDevice,
    /// There are too few interrupt routes for one VF.
    NoRoutes,
}

impl fmt::Display for NoNic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoNic::NoDevice => write!(
                out,
                "this scenario needs an Intel 82576 with virtual functions, behind an IOMMU; the machine hands out none"
            ),
            NoNic::NoRoutes => {
                write!(out, "this scenario needs interrupt routes for virtual functions; there are too few")
            }
        }
    }
}

/// One virtual function.
#[derive(Debug)]
struct Vf {
    /// Its capability.
    function: Slot,
    /// The routes of its messages, of which the holder has leases.
    routes: [Slot; VF_MESSAGES as usize],
    /// The application that has a lease of it.
    holder: Option<usize>,
    /// How often the IOMMU has stopped it since it has that holder.
    stopped: u64,
    /// Bits per second that its holder may send.
    limit: SoldRate,
}

/// An application that has or may have a VF.
#[derive(Clone, Copy, Debug, Default)]
struct Station {
    /// The VLAN that its VF is in.
    vlan: Option<u16>,
    /// It has had a VF.
    had_vf: bool,
    /// What it has sent and received, as those servers have said that have ended, and the one that runs.
    counts: [Counts; 2],
}

/// The market's side of the network server.
#[derive(Debug)]
pub struct NicLink {
    physical: Slot,
    vfs: Vec<Vf>,
    /// By application.
    stations: Vec<Station>,
    /// The first route of the first virtual function.
    route: u64,
    server: DeviceServer,
}

impl NicLink {
    /// Finds the device, makes its virtual functions and reserves the server's CPU time. The server is not started. `vlans`
    /// says of each application in which VLAN its virtual function is.
    ///
    /// # Errors
    /// [`MemoryError`], and inside of it what the machine lacks.
    pub fn find<M: Machine>(
        root: &mut Root<M>,
        boot: &Boot,
        vlans: impl Iterator<Item = Option<u16>>,
    ) -> Result<Result<NicLink, NoNic>, MemoryError> {
        let found = boot.functions.iter().find_map(|&function| {
            let info = root.machine.function_info(function).ok()?;
            ((info.vendor, info.device) == INTEL_82576 && info.vfs > 0).then_some((function, info.vfs))
        });
        let Some((physical, vfs)) = found else { return Ok(Err(NoNic::NoDevice)) };
        let routes = boot.message_routes.end.saturating_sub(boot.message_routes.start);
        let count = u64::from(vfs).min(MAX_VFS as u64).min(routes / u64::from(VF_MESSAGES)) as u16;
        if count == 0 {
            return Ok(Err(NoNic::NoRoutes));
        }
        let first = root.memory.slots.take(count).ok_or(MemoryError::NoSlots)?;
        root.machine.enable_vfs(physical, count, first)?;
        let mut all = Vec::with_capacity(usize::from(count));
        for at in 0..count {
            let mut routes = [Slot::root(0); VF_MESSAGES as usize];
            let first_route = boot.message_routes.start + u64::from(at * VF_MESSAGES);
            for (slot, route) in routes.iter_mut().zip(first_route..) {
                *slot = root.slot()?;
                root.machine.split_irq(Slot::root(slots::IRQ), route, *slot)?;
            }
            let function = Slot::nested(first.node(), first.index() + at);
            all.push(Vf { function, routes, holder: None, stopped: 0, limit: SoldRate::nothing() });
        }
        let (core_time, tsc_hz) = (boot.time(NIC_CORE), boot.tsc_hz);
        let server = DeviceServer::reserve(root, ROLE, core_time, nic_reservation(tsc_hz), tsc_hz)?;
        let stations = vlans.map(|vlan| Station { vlan, ..Station::default() }).collect();
        Ok(Ok(NicLink { physical, vfs: all, stations, route: boot.message_routes.start, server }))
    }

    /// Launches the server with a lease of the physical function, and tells it of the VFs that have holders, and of what
    /// these may send: `limits` by application.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn start<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        image: &Image<'_>,
        limits: &[Option<u64>],
    ) -> Result<(), MemoryError> {
        let physical = self.physical;
        self.server.start(root, image, Vec::new(), |root, builder, _| {
            Ok(root.machine.lease_function(physical, builder.slot(PHYSICAL_SLOT))?)
        })?;
        for Station { counts: [past, now], .. } in &mut self.stations {
            // It counts from zero.
            *past = past.plus(core::mem::take(now));
        }
        for vf in 0..self.vfs.len() {
            self.vfs[vf].limit.forget();
            if let Some(app) = self.vfs[vf].holder {
                self.configure(vf, app, limits.get(app).copied().flatten(), root.machine.now());
            }
        }
        Ok(())
    }

    /// Ends the server, and takes back what it had. The VFs stay their holders'.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn end<M: Machine>(&mut self, root: &mut Root<M>) -> Result<(), MemoryError> {
        // The lease goes with the server's CNode.
        self.server.end(root)
    }

    /// True while the server runs, or should.
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// VFs that have no holder and are out of their reset.
    pub fn available<M: Machine>(&self, root: &mut Root<M>) -> impl Iterator<Item = usize> {
        let free = self.vfs.iter().enumerate().filter(|(_, vf)| vf.holder.is_none());
        free.filter(move |(_, vf)| root.machine.function_info(vf.function).is_ok()).map(|(at, _)| at)
    }

    /// Gives a VF to an application whose VM is being made: a lease, and a route for each of its messages. It may send so
    /// many bits per second.
    ///
    /// # Errors
    /// [`MemoryError`]; [`NicLink::take_back`] takes back what was given.
    pub fn give<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        vf: usize,
        app: usize,
        limit: Option<u64>,
        builder: &Builder,
    ) -> Result<(), MemoryError> {
        let routes = (0..VF_MESSAGES).map(|message| builder.slot(NIC_IRQ_SLOT + message));
        self.lease(root, vf, app, limit, [builder.slot(NIC_SLOT)].into_iter().chain(routes))
    }

    /// Makes a VF ready for an application that runs: as [`NicLink::give`], but into slots of the market's, which it
    /// returns: first the function, then the routes.
    ///
    /// # Errors
    /// As [`NicLink::give`].
    pub fn lend<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        vf: usize,
        app: usize,
        limit: Option<u64>,
    ) -> Result<Vec<Slot>, MemoryError> {
        let parts: Vec<Slot> = (0..=VF_MESSAGES).map(|_| root.slot()).collect::<Result<_, _>>()?;
        self.lease(root, vf, app, limit, parts.iter().copied())?;
        Ok(parts)
    }

    /// Leases a VF and its routes, into these slots, and tells the server.
    fn lease<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        vf: usize,
        app: usize,
        limit: Option<u64>,
        mut to: impl Iterator<Item = Slot>,
    ) -> Result<(), MemoryError> {
        self.vfs[vf].holder = Some(app);
        self.vfs[vf].stopped = 0;
        let first = to.next().ok_or(MemoryError::NoSlots)?;
        root.machine.lease_function(self.vfs[vf].function, first)?;
        let of_vf = self.first_route(vf);
        for ((parent, route), to) in self.vfs[vf].routes.into_iter().zip(of_vf..).zip(to) {
            root.machine.split_irq(parent, route, to)?;
        }
        self.configure(vf, app, limit, root.machine.now());
        Ok(())
    }

    /// The route of a VF's first message.
    fn first_route(&self, vf: usize) -> u64 {
        self.route + vf as u64 * u64::from(VF_MESSAGES)
    }

    /// VFs that there are.
    pub fn count(&self) -> u32 {
        self.vfs.len() as u32
    }

    /// True if an application has a VF.
    pub fn holds(&self, app: usize) -> bool {
        self.vfs.iter().any(|vf| vf.holder == Some(app))
    }

    /// VFs of which an application has a lease that the kernel knows of: of what it deleted there is none.
    pub fn leased<M: Machine>(&self, root: &mut Root<M>, app: usize) -> u64 {
        let of_app = self.vfs.iter().filter(|vf| vf.holder == Some(app));
        of_app.filter(|vf| root.machine.identify(vf.function).is_ok_and(|found| found.has_children)).count() as u64
    }

    /// An application may send so many bits per second from this TSC value on; nothing happens if it has no VF, or that is
    /// what it may send.
    pub fn limit(&mut self, app: usize, bits_per_s: u64, from: u64, now: u64) {
        let Some(at) = self.vfs.iter().position(|vf| vf.holder == Some(app)) else { return };
        if let Some(from_ns) = self.vfs[at].limit.change(bits_per_s, from, now, self.server.tsc_hz()) {
            self.server.send_limit(at as u8, &ToNic::Limit { vf: at as u8, bits_per_s, from_ns });
        }
    }

    /// Takes note of what the server says about the limit of a VF.
    pub fn in_force(&mut self, vf: u8, bits_per_s: Option<u64>) {
        if let Some(vf) = self.vfs.get_mut(usize::from(vf)) {
            vf.limit.says(bits_per_s);
        }
    }

    /// Units of bandwidth that the server has put in force for an application. `None` if it has no VF, or no limit, or if the
    /// server was told one less than `patience` ticks ago that is not in force.
    pub fn units_in_force(&self, app: usize, now: u64, patience: u64) -> Option<u64> {
        let vf = self.vfs.iter().find(|vf| vf.holder == Some(app))?;
        vf.limit.units(UNIT_BITS_PER_S, now, patience)
    }

    /// Takes an application's VF back. Returns which it was, if it had one.
    ///
    /// # Errors
    /// The kernel's; then the VF is not given to anybody else.
    pub fn take_back<M: Machine>(&mut self, root: &mut Root<M>, app: usize) -> Result<Option<usize>, MemoryError> {
        let Some(vf) = self.vfs.iter().position(|vf| vf.holder == Some(app)) else { return Ok(None) };
        root.machine.revoke(self.vfs[vf].function)?;
        for route in self.vfs[vf].routes {
            root.machine.revoke(route)?;
        }
        self.vfs[vf].holder = None;
        self.server.send(&ToNic::Close { vf: vf as u8 });
        Ok(Some(vf))
    }

    /// The function with this requester id was stopped: the application that holds it, and how often that has happened to it.
    pub fn was_stopped<M: Machine>(&mut self, root: &mut Root<M>, requester: u16) -> Option<(usize, u64)> {
        let vf =
            self.vfs.iter_mut().filter(|vf| vf.holder.is_some()).find(
                |vf| matches!(root.machine.function_info(vf.function), Ok(info) if info.requester == requester),
            )?;
        vf.stopped += 1;
        Some((vf.holder?, vf.stopped))
    }

    /// The application that holds a VF.
    pub fn holder(&self, vf: u8) -> Option<usize> {
        self.vfs.get(usize::from(vf))?.holder
    }

    fn configure(&mut self, vf: usize, app: usize, limit_bits_per_s: Option<u64>, now: u64) {
        self.vfs[vf].limit.begin(limit_bits_per_s, now);
        let Some(station) = self.stations.get_mut(app) else { return };
        station.had_vf = true;
        let settings = Settings { mac: mac(app), vlan: station.vlan, limit_bits_per_s };
        self.server.send(&ToNic::Configure { vf: vf as u8, settings });
    }

    /// Asks the server what everybody has sent and received up to now.
    pub fn ask_for_counts(&mut self) {
        self.server.send(&ToNic::Count);
    }

    /// Takes note of what the server says that the holder of an address has sent and received. What is less than it said
    /// before, or of an address that nobody has had, counts for nothing.
    pub fn counted(&mut self, address: [u8; 6], counts: Counts) {
        let mut stations = self.stations.iter_mut().enumerate();
        if let Some((_, station)) = stations.find(|(app, station)| station.had_vf && mac(*app) == address)
            && counts.is_later(station.counts[1])
        {
            station.counts[1] = counts;
        }
    }

    /// What an application has sent and received by the VFs that it has had; `None` if it has had none.
    pub fn counts(&self, app: usize) -> Option<Counts> {
        let Station { counts: [past, now], .. } = self.stations.get(app).filter(|station| station.had_vf)?;
        Some(past.plus(*now))
    }

    /// Lets the server panic.
    pub fn crash(&mut self) {
        self.server.send(&ToNic::Crash);
    }

    /// The applications that have a VF.
    pub fn holders(&self) -> Vec<usize> {
        self.vfs.iter().filter_map(|vf| vf.holder).collect()
    }

    /// Wakes the server after the next [`NicLink::flush`], as it waits for room in its ring.
    pub fn wants_signal(&mut self, attention: Attention) {
        self.server.wants_signal(attention);
    }

    /// Moves what is queued into the ring as far as there is room, and wakes the server if it sleeps. True if something is
    /// left.
    pub fn flush<M: Machine>(&mut self, machine: &mut M) -> bool {
        self.server.flush(machine)
    }
}

/// Budget and period of the network server, in ticks.
pub const fn nic_reservation(tsc_hz: u64) -> (u64, u64) {
    (tsc_hz / 1000 * BUDGET_MICROS / 1000, tsc_hz / 1000 * PERIOD_MICROS / 1000)
}

/// The Ethernet address of an application's VF: locally administered, and its own by the application's number.
pub fn mac(app: usize) -> [u8; 6] {
    let [high, low] = (app as u16 + 1).to_be_bytes();
    [0x02, b'n', b'k', 0, high, low]
}

/// An address as people write it.
pub fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
