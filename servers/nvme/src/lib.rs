//! The storage server: it administers an NVMe controller with virtual functions (VFs). Each holder of a VF gets a namespace
//! with nothing in it and two queue pairs, in its own memory, and drives them without anybody else.
//!
//! This library is the whole of it but the hardware: [`Server`] takes messages of the market and has reports for it;
//! `main.rs` sleeps and moves the messages. What is done to the controller is in [`admin`] and [`erasure`], namespaces are in
//! [`spaces`].
//!
//! Guarantees: a namespace is attached to one VF at most, and was read as zeroes from end to end after its last holder before
//! the next one gets it; one of which that is not so is given to nobody. When a VF is handed over, its admin queue holds
//! harmless commands only. A holder with a limit reads and writes no more often than that ([`limits`]), also after a restart;
//! one that the controller refuses to count or to close is taken offline. What the market sends is checked. A server that is
//! started again finds the controller as it was left and does not reset it, so that holders go on; if the controller does not
//! work, it says that their queues are gone.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod admin;
pub mod erasure;
pub mod limits;
pub mod spaces;

use admin::Admin;
use alloc::{collections::VecDeque, vec::Vec};
use device::{Clock, DmaMemory, Registers};
use nvme_admin::{AdminMemory, Error};
use proto::storage::{FromStorage, MAX_VFS, ToStorage};
use spaces::Spaces;

/// One function of the controller, as it is mapped.
#[derive(Clone, Debug)]
pub struct Function<R, M> {
    /// Registers with doorbells.
    pub registers: R,
    /// Memory for its administration.
    pub memory: AdminMemory<M>,
}

/// Memory that the physical function (PF) reads and writes namespaces by, each of a page or more.
#[derive(Clone, Debug)]
pub struct IoMemory<M> {
    /// For the submission queue.
    pub submission: M,
    /// For the completion queue.
    pub completion: M,
    /// For what is read.
    pub buffer: M,
}

/// What a VF is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has no holder.
    Idle,
    /// It is to have a namespace of so many bytes with this limit, and all that are large enough are others'.
    Waits(u64, Option<u64>),
    /// It has this one; the limit is what was said before [`ToStorage::Begin`].
    Has(u32, Option<u64>),
    /// It has no holder any more, and this one, which it had, is being erased.
    Erasing(u32),
}

/// The state of the server.
#[derive(Debug)]
pub struct Server<R, M, C> {
    physical: Function<R, M>,
    io: IoMemory<M>,
    vfs: Vec<(Function<R, M>, State)>,
    clock: C,
    /// None before [`ToStorage::Begin`], and when the controller does not work.
    admin: Option<(Admin<R, M, C>, Spaces)>,
    reports: VecDeque<FromStorage>,
    /// The limits that were reported last.
    in_force: [Option<u64>; MAX_VFS],
}

impl<R: Registers + Clone, M: DmaMemory + Clone, C: Clock + Clone> Server<R, M, C> {
    /// Nothing is done to the controller before [`ToStorage::Begin`].
    pub fn new(physical: Function<R, M>, io: IoMemory<M>, vfs: Vec<Function<R, M>>, clock: C) -> Server<R, M, C> {
        let vfs = vfs.into_iter().map(|function| (function, State::Idle)).collect();
        Server { physical, io, vfs, clock, admin: None, reports: VecDeque::new(), in_force: [None; MAX_VFS] }
    }

    /// Does what the market says.
    pub fn take(&mut self, message: ToStorage) {
        match message {
            ToStorage::Keep { vf, namespace, per_s } => match self.vfs.get_mut(usize::from(vf)) {
                Some((_, state @ State::Idle)) if self.admin.is_none() => *state = State::Has(namespace, per_s),
                _ => self.report(FromStorage::Impossible { vf }),
            },
            ToStorage::Begin => self.begin(),
            ToStorage::Prepare { vf, is_new, bytes, per_s } => {
                match (self.vfs.get_mut(usize::from(vf)), &mut self.admin) {
                    (Some((_, state @ State::Idle)), Some((admin, _))) => {
                        *state = State::Waits(bytes, per_s);
                        if is_new {
                            admin.forget_debt(usize::from(vf));
                        }
                        self.serve_waiting();
                    }
                    _ => self.report(FromStorage::Impossible { vf }),
                }
            }
            ToStorage::Limit { vf, per_s, from_ns } => self.change_limit(vf, per_s, from_ns),
            ToStorage::Release { vf } => self.release(vf),
            ToStorage::Crash => panic!("the storage server was ordered to crash"),
            ToStorage::Fail => {
                nvme_admin::switch_off(&self.physical.registers);
                panic!("the storage server was ordered to switch its controller off and to crash")
            }
        }
    }

    /// Takes the oldest report. One that finds no room is given back with [`Server::give_back`].
    pub fn next_report(&mut self) -> Option<FromStorage> {
        self.reports.pop_front()
    }

    /// A report found no room, and waits on.
    pub fn give_back(&mut self, report: FromStorage) {
        self.reports.push_front(report);
    }

    /// Keeps a report until there is room for it on the way; the same one is not kept twice.
    fn report(&mut self, report: FromStorage) {
        if !self.reports.contains(&report) {
            self.reports.push_back(report);
        }
    }

    /// Brings the controller up, without a reset if VFs are to be kept and it works.
    fn begin(&mut self) {
        if self.admin.is_some() {
            return;
        }
        let kept: Vec<(usize, u32)> = self.kept().collect();
        let adopted = if kept.is_empty() { Err(Error::NotReady) } else { self.bring_up(true) };
        let up = adopted.or_else(|_| {
            if !kept.is_empty() {
                self.vfs.iter_mut().for_each(|(_, state)| *state = State::Idle);
                self.report(FromStorage::Lost);
            }
            self.bring_up(false)
        });
        match up {
            Ok(up) => {
                self.report(FromStorage::Ready { namespaces: up.1.count() });
                self.admin = Some(up);
            }
            Err(_) => self.report(FromStorage::Failed),
        }
    }

    /// VFs that have a namespace, with it.
    fn kept(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.vfs.iter().enumerate().filter_map(|(vf, (_, state))| match *state {
            State::Has(namespace, _) => Some((vf, namespace)),
            State::Idle | State::Waits(..) | State::Erasing(_) => None,
        })
    }

    fn bring_up(&self, adopt: bool) -> Result<(Admin<R, M, C>, Spaces), Error> {
        let mut admin = Admin::bring_up(self.physical.clone(), &self.io, self.clock.clone(), adopt)?;
        let kept: Vec<(usize, u32)> = self.kept().collect();
        for vf in (0..self.vfs.len()).filter(|vf| kept.iter().all(|(other, _)| other != vf)) {
            admin.end_vf(vf)?;
        }
        let spaces = Spaces::found(&mut admin, kept.into_iter().map(|(_, namespace)| namespace))?;
        for (vf, (_, state)) in self.vfs.iter().enumerate() {
            if let State::Has(namespace, per_s) = *state {
                admin.begin_limit(vf, namespace, per_s)?;
            }
        }
        Ok((admin, spaces))
    }

    /// Gives VFs that wait what there is for them, in the order of their numbers.
    fn serve_waiting(&mut self) {
        for vf in 0..self.vfs.len() {
            let (Some((function, State::Waits(bytes, per_s))), Some((admin, spaces))) =
                (self.vfs.get(vf).cloned(), self.admin.as_mut())
            else {
                continue;
            };
            let number = vf as u8;
            if !spaces.could_give(bytes) {
                self.end_waiting(vf, FromStorage::TooLarge { vf: number });
                continue;
            }
            let Some(namespace) = spaces.take(bytes) else { continue };
            match admin.prepare(vf, function, namespace, per_s) {
                Ok(space) => {
                    if let Some((_, state)) = self.vfs.get_mut(vf) {
                        *state = State::Has(namespace, per_s);
                    }
                    self.report(FromStorage::Prepared { vf: number, space });
                }
                Err(error) => {
                    // It has nothing but zeroes; but whether the VF can reach it is not known.
                    let is_ended = admin.end_vf(vf).is_ok();
                    spaces.give(namespace, is_ended);
                    self.end_waiting(vf, FromStorage::Impossible { vf: number });
                    self.look_at(error);
                }
            }
        }
    }

    fn end_waiting(&mut self, vf: usize, report: FromStorage) {
        if let Some((_, state)) = self.vfs.get_mut(vf) {
            *state = State::Idle;
        }
        self.report(report);
    }

    /// Sets another limit for a VF; one that waits for its namespace gets that with it.
    fn change_limit(&mut self, vf: u8, per_s: u64, from_ns: u64) {
        match (self.vfs.get_mut(usize::from(vf)), self.admin.as_mut()) {
            (Some((_, State::Waits(_, limit))), _) => *limit = Some(per_s),
            (Some((_, State::Has(..))), Some((admin, _))) => admin.change_limit(usize::from(vf), per_s, from_ns),
            // Who has none, or none any more, is told of that otherwise.
            _ => {}
        }
    }

    /// Looks at what VFs with limits have done, reports limits that have begun, and does one command of erasing. To be called
    /// after [`Server::take`] and at [`Server::due_ns`].
    pub fn poll(&mut self) {
        let Some((admin, spaces)) = self.admin.as_mut() else { return };
        let looked = admin.look_at_limits();
        while let Some(vf) = admin.uncounted() {
            if admin.end_vf(vf).is_err() {
                // Started again, the server finds that, and resets the controller.
                nvme_admin::switch_off(&self.physical.registers);
                panic!("what VF {vf} reads and writes can neither be counted nor ended");
            }
            self.reports.push_back(FromStorage::Uncounted { vf: vf as u8 });
        }
        let limits: [Option<u64>; MAX_VFS] = core::array::from_fn(|vf| admin.limit(vf));
        let erased = looked.and_then(|()| spaces.go_on_erasing(admin));
        let before = core::mem::replace(&mut self.in_force, limits);
        for (vf, (before, per_s)) in (0..).zip(before.into_iter().zip(limits)) {
            if before != per_s {
                self.report(FromStorage::InForce { vf, per_s });
            }
        }
        match erased {
            Ok(None) => {}
            Ok(Some(namespace)) => self.end_erasing(namespace),
            Err(error) => self.look_at(error),
        }
    }

    /// When [`Server::poll`] is due, in nanoseconds of the clock.
    pub fn due_ns(&self) -> u64 {
        match &self.admin {
            Some((_, spaces)) if spaces.is_erasing() => 0,
            Some((admin, _)) => admin.due_ns(),
            None => u64::MAX,
        }
    }

    /// Takes a VF's namespace, and begins to erase it.
    fn release(&mut self, vf: u8) {
        let place = usize::from(vf);
        let (Some((_, state)), Some((admin, spaces))) = (self.vfs.get_mut(place), self.admin.as_mut()) else {
            return self.report(FromStorage::Unreleased { vf });
        };
        if matches!(state, State::Erasing(_)) {
            return;
        }
        let had = core::mem::replace(state, State::Idle);
        let ended = admin.end_vf(place);
        if let State::Has(namespace, _) = had {
            spaces.give(namespace, ended.is_ok());
            if spaces.erase(namespace) {
                *state = State::Erasing(namespace);
                return;
            }
        }
        match ended {
            Ok(()) => self.report(FromStorage::Released { vf }),
            Err(error) => {
                self.report(FromStorage::Unreleased { vf });
                self.look_at(error);
            }
        }
        self.serve_waiting();
    }

    /// A namespace is erased, or can never be: its VF is free, and others may have waited for it.
    fn end_erasing(&mut self, namespace: u32) {
        for vf in 0..self.vfs.len() {
            if let Some((_, state)) = self.vfs.get_mut(vf)
                && *state == State::Erasing(namespace)
            {
                *state = State::Idle;
                self.report(FromStorage::Released { vf: vf as u8 });
            }
        }
        self.serve_waiting();
    }

    /// A controller that does not answer is not asked again.
    fn look_at(&mut self, error: Error) {
        if error.is_final() {
            self.admin = None;
            self.report(FromStorage::Failed);
        }
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
