//! The storage server, and the functions of the NVMe controller that it administers: launch, restart, and who holds which
//! virtual function (VF).
//!
//! The market keeps all functions and their domains. The storage server has the registers and some pages of memory of each,
//! mapped, and no capability. An application has the page of doorbells of its VF, mapped, a window of the VF's domain, and
//! the route of one message. So nobody but the market can attach, reset or lease a function; and an application can neither
//! see the registers of its VF nor change what its admin queue's addresses stand for: those pages are outside of its window,
//! the submission queue is for the VF to read only, and nobody looks at what the VF writes into the completion queue.
//!
//! Guarantees: a VF has one holder at most. When it is taken back its doorbells are unmapped, it is reset (not before the
//! storage server has done with it what it was about to do), and the storage server erases its namespace before either is given
//! to anybody else. A holder that loses only its namespace keeps the VF,
//! which the storage server takes offline, so that its queues are gone; it gets others when what was there is erased. When the
//! storage server ends, functions and their memory stay as they are, so that holders go on.

use crate::archive::Image;
use crate::boot::Boot;
use crate::device_server::{DeviceServer, Role};
use crate::launch::Builder;
use crate::machine::{Attention, Invoke, Machine, Peer, Slot};
use crate::memory::{MemoryError, PAGE_BITS};
use crate::nic_link::ROUTES as NIC_ROUTES;
use crate::root::{Root, SERVER_WINDOW};
use crate::storage_function::{Function, Tries};
use crate::storage_state::{Refused, State, Wanted};
use alloc::{format, vec, vec::Vec};
use cap_spec::abi::{Rights, slots};
use core::fmt;
use proto::start::{DOORBELLS, STORAGE_IRQ_SLOT, STORAGE_SLOT};
use proto::storage::{MAX_VFS, MESSAGE, Space, ToStorage, UNIT_OPERATIONS, WINDOW, WINDOW_BITS, function_at, page};

/// Class code of NVMe controllers (PCI Code and ID Assignment Specification, 1.9).
const NVME_CLASS: u32 = 0x01_0802;
/// Index that the storage server has in its start-up page.
const STORAGE_APP: u16 = 0xfffc;
/// Event bit of the storage server's channel.
pub const STORAGE_EVENT: u64 = 1 << 37;
/// Event bit for the storage server's own end.
pub const STORAGE_STOPPED_EVENT: u64 = 1 << 38;
/// Where its handler page is mapped.
pub const STORAGE_HANDLER_PAGE: u64 = SERVER_WINDOW + 0xa000;
/// The core that it runs on.
pub const STORAGE_CORE: u8 = 0;
/// Its CPU time there, in microseconds: it works when a VF changes hands, and looks each millisecond at those with limits.
const BUDGET_MICROS: u64 = 200;
const PERIOD_MICROS: u64 = 5_000;
const PAGE: u64 = 1 << PAGE_BITS;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
const ROLE: Role = Role {
    peer: Peer::Storage,
    name: "storage",
    app: STORAGE_APP,
    event: STORAGE_EVENT,
    stopped_event: STORAGE_STOPPED_EVENT,
    rings: SERVER_WINDOW + 0x8000,
    handler_page: STORAGE_HANDLER_PAGE,
    free_pages: 0,
    most_messages: 16 * MAX_VFS,
};

/// Why there is no storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStorage {
    /// The kernel hands out no function of such a device.
    NoDevice,
    /// There are too few interrupt routes for one VF.
    NoRoutes,
}

impl fmt::Display for NoStorage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoStorage::NoDevice => write!(
                out,
                "this scenario needs an NVMe controller with virtual functions, behind an IOMMU; the machine hands out none"
            ),
            NoStorage::NoRoutes => {
                write!(out, "this scenario needs interrupt routes for virtual functions; there are too few")
            }
        }
    }
}

/// The market's side of the storage server.
#[derive(Debug)]
pub struct StorageLink {
    physical: Function,
    vfs: Vec<(Function, State)>,
    /// The route of the first VF.
    first_route: u64,
    server: DeviceServer,
    /// The storage server has said that the controller works.
    is_up: bool,
}

impl StorageLink {
    /// Finds the device, makes its virtual functions, domains and memory, and reserves the server's CPU time. The server is
    /// not started: the virtual functions are not there yet.
    ///
    /// # Errors
    /// [`MemoryError`], and inside of it what the machine lacks.
    pub fn find<M: Machine>(root: &mut Root<M>, boot: &Boot) -> Result<Result<StorageLink, NoStorage>, MemoryError> {
        let found = boot.functions.iter().find_map(|&function| {
            let info = root.machine.function_info(function).ok()?;
            (info.class == NVME_CLASS && info.vfs > 0).then_some((function, info.vfs))
        });
        let Some((physical, vfs)) = found else { return Ok(Err(NoStorage::NoDevice)) };
        // The network device has the first routes.
        let first_route = boot.message_routes.start + NIC_ROUTES;
        let routes = boot.message_routes.end.saturating_sub(first_route);
        let count = u64::from(vfs).min(MAX_VFS as u64).min(routes) as u16;
        if count == 0 {
            return Ok(Err(NoStorage::NoRoutes));
        }
        let first = root.memory.slots.take(count).ok_or(MemoryError::NoSlots)?;
        root.machine.enable_vfs(physical, count, first)?;
        let physical = Function::new(root, physical, page::PF_END)?;
        let vfs = (0..count)
            .map(|at| {
                let function = Slot::nested(first.node(), first.index() + at);
                Ok((Function::new(root, function, page::VF_END)?, State::Idle))
            })
            .collect::<Result<_, MemoryError>>()?;
        let (core_time, tsc_hz) = (boot.time(STORAGE_CORE), boot.tsc_hz);
        let server = DeviceServer::reserve(root, ROLE, core_time, storage_reservation(tsc_hz), tsc_hz)?;
        Ok(Ok(StorageLink { physical, vfs, first_route, server, is_up: false }))
    }

    /// Launches the server, unless virtual functions are not there yet: false then. It is told of those that have holders, and of
    /// what these may do: `limits` by application.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn start<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        image: &Image<'_>,
        limits: &[Option<u64>],
    ) -> Result<bool, MemoryError> {
        let functions = core::iter::once(&mut self.physical).chain(self.vfs.iter_mut().map(|(function, _)| function));
        for function in functions {
            if !function.find_registers(root)? {
                return Ok(false);
            }
        }
        self.physical.attach(root)?;
        let functions = core::iter::once(&self.physical).chain(self.vfs.iter().map(|(function, _)| function));
        let args = vec![format!("vfs={}", self.vfs.len())];
        self.server.start(root, image, args, |root, builder, slots| {
            for (number, function) in functions.enumerate() {
                let base = function_at(number);
                let pages = function.registers.iter().flatten().chain(&function.memory);
                for (&frame, gpa) in pages.zip((base..).step_by(PAGE as usize)) {
                    // A capability is mapped in one place, and a server that is started again is another place.
                    let copy = root.slot()?;
                    slots.push(copy);
                    root.machine.copy(copy, frame, READ_WRITE)?;
                    builder.map(root, copy, gpa, READ_WRITE)?;
                }
            }
            Ok(())
        })?;
        self.is_up = false;
        for (vf, (function, state)) in self.vfs.iter_mut().enumerate() {
            function.limit.forget();
            if let State::Held(app, space, _) | State::Ready(app, space) = state {
                let per_s = limits.get(*app).copied().flatten();
                function.limit.begin(per_s, root.machine.now());
                self.server.send(&ToStorage::Keep { vf: vf as u8, namespace: space.namespace, per_s });
            }
        }
        self.server.send(&ToStorage::Begin);
        Ok(true)
    }

    /// Ends the server. What VFs have stays theirs; what it was about to do will be asked of it anew.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn end<M: Machine>(&mut self, root: &mut Root<M>) -> Result<(), MemoryError> {
        self.server.end(root)
    }

    /// True while the server runs, or should.
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// The controller works: what the server was about to do for VFs is asked of it, again if it was started again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn came_up<M: Machine>(&mut self, root: &mut Root<M>, wanted: &[Wanted]) -> Result<(), MemoryError> {
        self.is_up = true;
        let now = root.machine.now();
        for vf in 0..self.vfs.len() {
            match self.vfs[vf].1 {
                State::Preparing(app) | State::Renewing(app, _) => self.prepare(root, vf, wanted[app])?,
                State::Leaving | State::Releasing | State::Losing(..) => {
                    self.server.send(&ToStorage::Release { vf: vf as u8 })
                }
                State::Without(app, _) if wanted[app].is_entitled => self.renew(root, app, wanted[app], now)?,
                State::Idle | State::Ready(..) | State::Held(..) | State::Without(..) | State::Dead => {}
            }
        }
        Ok(())
    }

    /// The first VF that nobody has and that is out of its reset, if the controller works.
    fn free<M: Machine>(&self, root: &mut Root<M>) -> Option<usize> {
        let mut free = self.vfs.iter().enumerate().filter(|(_, (_, state))| *state == State::Idle && self.is_up);
        free.find(|(_, (function, _))| root.machine.function_info(function.function).is_ok()).map(|(vf, _)| vf)
    }

    /// True if an application that is to have no namespace yet can have a VF.
    pub fn has_free<M: Machine>(&self, root: &mut Root<M>) -> bool {
        self.free(root).is_some()
    }

    /// What is ready for an application. If nothing is being made ready, that is begun, as soon as a VF is free.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ready<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        app: usize,
        wanted: Wanted,
    ) -> Result<Option<Space>, MemoryError> {
        match self.of(app).map(|vf| &self.vfs[vf].1) {
            Some(State::Ready(_, space)) => return Ok(Some(*space)),
            Some(_) => return Ok(None),
            None => {}
        }
        if let Some(vf) = self.free(root) {
            self.vfs[vf].1 = State::Preparing(app);
            self.prepare(root, vf, wanted)?;
        }
        Ok(None)
    }

    /// True if an application can never have what it wants, as every VF is dead.
    pub fn is_dead(&self) -> bool {
        self.vfs.iter().all(|(_, state)| *state == State::Dead)
    }

    fn prepare<M: Machine>(&mut self, root: &mut Root<M>, vf: usize, wanted: Wanted) -> Result<(), MemoryError> {
        let Wanted { bytes, per_s, .. } = wanted;
        let function = &mut self.vfs[vf].0;
        function.attach(root)?;
        function.limit.begin(per_s, root.machine.now());
        let is_new = core::mem::take(&mut function.is_new);
        self.server.send(&ToStorage::Prepare { vf: vf as u8, is_new, bytes, per_s });
        Ok(())
    }

    /// An application may do so many reads and writes per second from this TSC value on; nothing happens if it has no VF, or
    /// that is what it may do.
    pub fn limit(&mut self, app: usize, per_s: u64, from: u64, now: u64) {
        let Some(vf) = self.of(app) else { return };
        if let Some(from_ns) = self.vfs[vf].0.limit.change(per_s, from, now, self.server.tsc_hz()) {
            self.server.send_limit(vf as u8, &ToStorage::Limit { vf: vf as u8, per_s, from_ns });
        }
    }

    /// Takes note of what the server says about the limit of a VF.
    pub fn in_force(&mut self, vf: u8, per_s: Option<u64>) {
        if let Some((function, _)) = self.vfs.get_mut(usize::from(vf)) {
            function.limit.says(per_s);
        }
    }

    /// Units of operations that the server has put in force for an application. `None` if it has no queues, or no limit, or if
    /// the server was told one less than `patience` ticks ago that is not in force.
    pub fn units_in_force(&self, app: usize, now: u64, patience: u64) -> Option<u64> {
        let (function, State::Held(..)) = &self.vfs[self.of(app)?] else { return None };
        function.limit.units(UNIT_OPERATIONS, now, patience)
    }

    /// The server has made a VF ready. Returns the application that it is for.
    pub fn prepared(&mut self, vf: u8, space: Space) -> Option<usize> {
        let (_, state) = self.vfs.get_mut(usize::from(vf))?;
        let app = state.holder()?;
        *state = match core::mem::replace(state, State::Dead) {
            State::Preparing(app) => State::Ready(app, space),
            State::Renewing(app, slots) => State::Held(app, space, slots),
            other => {
                *state = other;
                return None;
            }
        };
        Some(app)
    }

    /// The application that has a VF, or is to have it.
    pub fn holder(&self, vf: u8) -> Option<usize> {
        self.vfs.get(usize::from(vf))?.1.holder()
    }

    /// Takes its namespace and its queues from an application that has some, or is about to get new ones. False if it is
    /// neither.
    pub fn revoke(&mut self, app: usize) -> bool {
        let Some(vf) = self.of(app) else { return false };
        let state = &mut self.vfs[vf].1;
        let (State::Held(_, _, slots) | State::Renewing(_, slots)) = state else { return false };
        *state = State::Losing(app, core::mem::take(slots));
        self.server.send(&ToStorage::Release { vf: vf as u8 });
        true
    }

    /// Begins to make queues in a namespace for an application that is without, unless it has to wait for that ([`Tries`]) at this
    /// time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        app: usize,
        wanted: Wanted,
        now: u64,
    ) -> Result<(), MemoryError> {
        let Some(vf) = self.of(app) else { return Ok(()) };
        let (function, state) = &mut self.vfs[vf];
        let State::Without(_, slots) = state else { return Ok(()) };
        if function.tries.must_wait(now) {
            return Ok(());
        }
        *state = State::Renewing(app, core::mem::take(slots));
        // Else that is done when the controller is up.
        if self.is_up { self.prepare(root, vf, wanted) } else { Ok(()) }
    }

    /// True if an application has no namespace, or none any more, and is not to get one yet, as none could be made ready for it of
    /// late.
    pub fn must_wait(&self, app: usize, now: u64) -> bool {
        let (function, state) = match self.of(app) {
            Some(vf) => &self.vfs[vf],
            None => return false,
        };
        matches!(state, State::Without(..) | State::Losing(..)) && function.tries.must_wait(now)
    }

    /// The server has erased what was in the namespace of a VF. Who still has the VF gets another namespace, if it is to have
    /// one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn released<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        vf: u8,
        wanted: &[Wanted],
        now: u64,
    ) -> Result<(), MemoryError> {
        let vf = usize::from(vf);
        match self.vfs.get_mut(vf).map(|(_, state)| state) {
            Some(State::Leaving) => {
                self.reset(root, vf)?;
                self.vfs[vf].1 = State::Idle;
            }
            Some(state @ State::Releasing) => *state = State::Idle,
            Some(state @ State::Losing(..)) => {
                let State::Losing(app, slots) = core::mem::replace(state, State::Dead) else { return Ok(()) };
                *state = State::Without(app, slots);
                if wanted[app].is_entitled {
                    self.renew(root, app, wanted[app], now)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The server cannot make a VF ready; whoever gives it up is not concerned. Who has it stays without a namespace, until it
    /// is to have one again ([`StorageLink::renew`]). Returns the application that was to have one.
    pub fn refused(&mut self, vf: u8, why: Refused) -> Option<usize> {
        let (function, state) = self.vfs.get_mut(usize::from(vf))?;
        // That it has given the namespace up meanwhile makes it no better.
        if let (Refused::Impossible { now, second }, State::Renewing(..) | State::Losing(..) | State::Without(..)) =
            (why, &*state)
        {
            function.tries.failed(now, second);
        }
        match state {
            State::Preparing(_) => {
                let state_after = if why == Refused::TooLarge { State::Idle } else { State::Dead };
                core::mem::replace(state, state_after).holder()
            }
            State::Renewing(app, slots) => {
                let app = *app;
                *state = State::Without(app, core::mem::take(slots));
                Some(app)
            }
            _ => None,
        }
    }

    /// The server cannot take a VF, or its namespace, from its holder: nobody else gets it any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unreleased<M: Machine>(&mut self, root: &mut Root<M>, vf: u8) -> Result<(), MemoryError> {
        let vf = usize::from(vf);
        match self.vfs.get_mut(vf).map(|(_, state)| state) {
            Some(state @ State::Releasing) => *state = State::Dead,
            Some(state @ State::Leaving) => {
                *state = State::Dead;
                self.reset(root, vf)?;
            }
            // A holder without queues keeps what it has.
            _ => {}
        }
        Ok(())
    }

    /// Ends what a VF may reach.
    fn reset<M: Machine>(&mut self, root: &mut Root<M>, vf: usize) -> Result<(), MemoryError> {
        let function = &mut self.vfs[vf].0;
        (function.is_new, function.tries) = (true, Tries::default());
        root.machine.reset_function(function.function)?;
        root.machine.revoke(function.domain)?;
        Ok(())
    }

    /// All queues are gone, but the controller works: they will be made anew, for those who have a VF as for those who wait
    /// for one. Returns the applications that have one.
    pub fn lose_queues(&mut self) -> Vec<usize> {
        let mut holders = Vec::new();
        for (_, state) in &mut self.vfs {
            *state = match core::mem::replace(state, State::Dead) {
                State::Ready(app, _) => State::Preparing(app),
                State::Held(app, _, slots) => {
                    holders.push(app);
                    State::Renewing(app, slots)
                }
                other => other,
            };
        }
        holders
    }

    /// Every VF is useless. Returns the applications that had one or were to have one.
    pub fn fail(&mut self) -> Vec<usize> {
        let holders = self.holders();
        let is_held = |state: &State| {
            matches!(state, State::Held(..) | State::Losing(..) | State::Without(..) | State::Renewing(..))
        };
        for (_, state) in self.vfs.iter_mut().filter(|(_, state)| !is_held(state)) {
            *state = State::Dead;
        }
        holders
    }

    /// Gives an application whose VM is being made what was made ready for it, or else a VF without a namespace.
    ///
    /// # Errors
    /// [`MemoryError`]; [`StorageLink::take_back`] takes back what was given.
    pub fn give<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        app: usize,
        builder: &mut Builder,
    ) -> Result<(), MemoryError> {
        let is_without = self.of(app).is_none();
        let vf = self.of(app).or_else(|| self.free(root)).ok_or(MemoryError::NoMemory)?;
        let (function, state) = &mut self.vfs[vf];
        let Some([_, doorbells]) = function.registers else { return Err(MemoryError::NoMemory) };
        let copy = root.slot()?;
        *state = match *state {
            State::Ready(_, space) => State::Held(app, space, vec![copy]),
            State::Idle if is_without => State::Without(app, vec![copy]),
            _ => return Err(MemoryError::NoMemory),
        };
        function.attach(root)?;
        function.stopped = 0;
        root.machine.copy(copy, doorbells, READ_WRITE)?;
        builder.map(root, copy, DOORBELLS, READ_WRITE)?;
        root.machine.mint_window(builder.slot(STORAGE_SLOT), function.domain, WINDOW, WINDOW_BITS)?;
        let irq = builder.slot(STORAGE_IRQ_SLOT);
        root.machine.split_irq(Slot::root(slots::IRQ), self.first_route + vf as u64, irq)?;
        root.machine.bind_message(function.function, MESSAGE, irq)?;
        Ok(())
    }

    /// Takes what an application has of a VF, or was to have. Returns which VF that is, if there is one.
    ///
    /// # Errors
    /// The kernel's; then the VF is not given to anybody else.
    pub fn take_back<M: Machine>(&mut self, root: &mut Root<M>, app: usize) -> Result<Option<usize>, MemoryError> {
        let Some(vf) = self.of(app) else { return Ok(None) };
        let state = core::mem::replace(&mut self.vfs[vf].1, State::Dead);
        // The server must not find reset what it is about to make ready.
        let is_busy = matches!(state, State::Preparing(_) | State::Renewing(..) | State::Losing(..));
        if let State::Held(_, _, slots)
        | State::Losing(_, slots)
        | State::Without(_, slots)
        | State::Renewing(_, slots) = state
        {
            slots.into_iter().try_for_each(|slot| root.drop_slot(slot))?;
        }
        if !is_busy {
            self.reset(root, vf)?;
        }
        self.vfs[vf].1 = if is_busy { State::Leaving } else { State::Releasing };
        self.server.send(&ToStorage::Release { vf: vf as u8 });
        Ok(Some(vf))
    }

    /// What an application has, or what was made ready for it.
    pub fn space(&self, app: usize) -> Option<Space> {
        match self.vfs[self.of(app)?].1 {
            State::Ready(_, space) | State::Held(_, space, _) => Some(space),
            State::Idle
            | State::Preparing(_)
            | State::Losing(..)
            | State::Without(..)
            | State::Renewing(..)
            | State::Leaving
            | State::Releasing
            | State::Dead => None,
        }
    }

    /// Bytes of the namespace that an application has: 0 if it has none, `None` while its queues are taken or made.
    pub fn held_bytes(&self, app: usize) -> Option<u64> {
        match self.of(app).map(|vf| &self.vfs[vf].1) {
            Some(State::Held(_, space, _)) => Some(space.blocks.saturating_mul(1 << (space.block_shift & 63))),
            Some(State::Losing(..) | State::Renewing(..)) => None,
            _ => Some(0),
        }
    }

    /// True if an application has a VF that is offline, for which nothing is being made ready.
    pub fn is_without(&self, app: usize) -> bool {
        self.of(app).is_some_and(|vf| matches!(self.vfs[vf].1, State::Without(..)))
    }

    /// The VF that an application has or is to have.
    fn of(&self, app: usize) -> Option<usize> {
        self.vfs.iter().position(|(_, state)| state.holder() == Some(app))
    }

    /// The applications that have a VF or are to have one.
    pub fn holders(&self) -> Vec<usize> {
        self.vfs.iter().filter_map(|(_, state)| state.holder()).collect()
    }

    /// The function with this requester id was stopped: the application that holds it, and how often that has happened to it.
    pub fn was_stopped<M: Machine>(&mut self, root: &mut Root<M>, requester: u16) -> Option<(usize, u64)> {
        let mut is_it = |function: &Function| matches!(root.machine.function_info(function.function), Ok(info) if info.requester == requester);
        let (function, state) =
            self.vfs.iter_mut().find(|(function, state)| state.holder().is_some() && is_it(function))?;
        function.stopped += 1;
        Some((state.holder()?, function.stopped))
    }

    /// Lets the server panic, after it has switched its controller off if `fails` says so.
    pub fn crash(&mut self, fails: bool) {
        self.server.send(&if fails { ToStorage::Fail } else { ToStorage::Crash });
    }

    /// Wakes the server after the next [`StorageLink::flush`], as it waits for room in its ring.
    pub fn wants_signal(&mut self, attention: Attention) {
        self.server.wants_signal(attention);
    }

    /// Moves what is queued into the ring as far as there is room. True if something is left.
    pub fn flush<M: Machine>(&mut self, machine: &mut M) -> bool {
        self.server.flush(machine)
    }
}

/// Budget and period of the storage server, in ticks.
pub const fn storage_reservation(tsc_hz: u64) -> (u64, u64) {
    (tsc_hz / 1000 * BUDGET_MICROS / 1000, tsc_hz / 1000 * PERIOD_MICROS / 1000)
}
