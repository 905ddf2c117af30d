//! CPU time of one core: earliest deadline first over hard reservations, and which entry runs until when.
//!
//! A *reservation* is a budget in every period for one Vcpu. Periods are aligned: their boundaries are multiples of the
//! period since the core's epoch. Guarantees, as long as the shares together passed [`admission`]:
//!
//! - A Vcpu that stays runnable is given its whole budget before the end of every period, and never more than its
//!   budget in a period: what it does not use is nobody else's.
//! - A Vcpu that wakes may use at most `(deadline - now) * budget / period` of what it has left, so that one that slept
//!   cannot crowd out one that did not.
//! - A reservation that is new, resized or re-bound never uses time that was promised to somebody else before: it
//!   starts at the instant from which its share is free (`not_before`), in the rest of that period in proportion.
//! - What a Vcpu overran, because the kernel could not take the core back in time, is taken off its next period, or
//!   keeps its share from the next holder for as long.
//! - Who causes a switch pays for it: who comes while the other could have gone on, and who goes by itself or has used its
//!   budget up, for the entry of the next. What makes a Vcpu's state longer to take out is its own in any case
//!   ([`Schedule::unloaded`]).
//! - The reserve pays for one arrival of each reservation in a period: its first wake-up in it, or that it was awake when
//!   it began. Each further wake-up by an alarm or a device that interrupts somebody costs the woken one a fee of a switch.
//!   An alarm that a Vcpu orders ([`Schedule::block`]) is paid for when it is ordered, whether it fires or not: it may
//!   interrupt somebody in vain, or on behalf of one that has to wait. The reserve pays for the first one in a period.
//!   What follows an NMI that a reservation caused ([`Schedule::blame`]) is charged to it until the core has decided, and
//!   the entry of whom it interrupted.
//! - A Vcpu that owns the whole core (budget = period) needs no timer at all.
//! - Of equal deadlines the one that came first runs first, but a *favoured* reservation before all of them. EDF delivers
//!   whatever the order among equals is, so nobody's promise is worth less for it.
//!
//! Every operation is bounded: lists have at most [`MAX_RESERVATIONS`] entries, and a decision handles at most
//! [`MAX_EVENTS`] due events before it asks to be called again.

mod admission;
mod entry;
#[cfg(test)]
mod tests;
mod time;

pub use admission::{CAPACITY, Limits, SWITCH_US, Share};

use crate::types::{Ticks, VcpuId};
use core::num::NonZeroU64;
use entry::{Entry, List, NIL, State};
use time::boundary_after;

/// Reservations that one core can hold. A power of two, so that an index is cut to range without a check that could fail.
pub const MAX_RESERVATIONS: usize = 128;
/// Due events (periods that ended, sleeps that ended) that one decision handles; each costs at most one walk through a
/// list of [`MAX_RESERVATIONS`].
pub const MAX_EVENTS: usize = 16;
/// No instant: no deadline, no event.
pub const NEVER: Ticks = Ticks::new(u64::MAX);

/// Which of the core's reservations: valid from [`Schedule::bind`] to [`Schedule::unbind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationId(u8);

impl ReservationId {
    /// The reservation with this number, if there is one.
    pub(crate) const fn new(number: u8) -> ReservationId {
        ReservationId(number)
    }

    /// Its number.
    pub(crate) const fn get(self) -> u8 {
        self.0
    }
}

/// What a core shall do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who runs; `None`: the core halts.
    pub run: Option<(ReservationId, VcpuId)>,
    /// When the core must decide again at the latest, [`NEVER`] if only an event can change the decision. If it is not
    /// after the `now` of the call, events are left: give the lock up and decide again.
    pub until: Ticks,
}

/// By whom a Vcpu is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waker {
    /// By the current Vcpu of its own core.
    Neighbour,
    /// By another core, which calls its own by an NMI.
    OtherCore,
    /// By an NMI of its own core, its alarm's or a device's.
    Interrupt,
}

/// What a hand-over decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// As [`Decision::until`], in ticks; never 0.
    pub until: NonZeroU64,
    /// Ticks that the one that sleeps has been current and nobody was told.
    pub used: u64,
}

/// What a resize did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// From when on the new budget and period hold, and with them what was given back is free.
    pub from: Ticks,
    /// The core must decide again: what it planned is no longer right.
    pub disturbed: bool,
}

/// A reservation as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Whose it is.
    pub vcpu: VcpuId,
    /// Ticks per period that hold now.
    pub budget: Ticks,
    /// The period that holds now.
    pub period: Ticks,
    /// Ticks it has been current since [`Schedule::take_used`] was asked last, as far as charged.
    pub used: Ticks,
    /// End of its present period, as far as known.
    pub deadline: Ticks,
    /// What is left of the present period's budget.
    pub remaining: Ticks,
    /// Neither stopped nor asleep.
    pub runnable: bool,
}

/// The reservations of one core.
#[derive(Clone, Debug)]
pub struct Schedule {
    entries: [Entry; MAX_RESERVATIONS],
    ready: List,
    timers: List,
    /// Who runs, as decided; always in the ready list.
    current: u8,
    /// The current one is being charged.
    charging: bool,
    /// Who is charged while the current one is not; [`NIL`]: nobody.
    payer: u8,
    /// Who pays for what follows the next pause, because it caused it; [`NIL`]: nobody.
    culprit: u8,
    /// From when on has nobody been charged yet. In the future: the entry until then is the reserve's.
    since: u64,
    /// The last decision's `until`.
    planned: u64,
    /// The earliest end of a period for which one waited that was stopped since, or instant for which
    /// [`Schedule::come_back_at`] asked. The core comes back for it all the same: whoever is started and stopped over and over
    /// does not make it plan anew each time.
    kept: u64,
    /// The instant for which [`Schedule::come_back_at`] asked last. While it lies ahead, `kept` is no later.
    again: u64,
    epoch: u64,
    /// A wake-up with less than this left (at least 1) waits for the next period: switching to it would cost more.
    least: u64,
    /// From the decision to the first instruction of somebody who was interrupted.
    entry_cost: u64,
    /// What an alarm costs: its NMI and the entry of whom it interrupts.
    alarm_cost: u64,
    worst_shortfall: u64,
}

impl Schedule {
    /// A core without reservations; [`Schedule::configure`] comes before everything else. It is large, and a constant so
    /// that no stack ever holds one.
    pub const NEW: Schedule = Schedule {
        entries: [Entry::FREE; MAX_RESERVATIONS],
        ready: List::EMPTY,
        timers: List::EMPTY,
        current: NIL,
        charging: false,
        payer: NIL,
        culprit: NIL,
        since: 0,
        planned: u64::MAX,
        kept: u64::MAX,
        again: 0,
        epoch: 0,
        least: 1,
        entry_cost: 0,
        alarm_cost: 0,
        worst_shortfall: 0,
    };

    /// Lets periods count from `epoch` (the same for every core).
    pub fn configure(&mut self, epoch: Ticks, limits: &Limits) {
        self.epoch = epoch.get();
        self.least = limits.switch().get().max(1);
        self.entry_cost = limits.entry().get();
        self.alarm_cost = limits.alarm().get();
    }

    // ---- what the kernel calls -----------------------------------------------------------------------------------

    /// Gives a Vcpu (stopped) a reservation that starts at `not_before`, or now if that has passed. Budget and period have
    /// been admitted, and so there is room; `None` if there is none.
    pub fn bind(
        &mut self,
        vcpu: VcpuId,
        budget: Ticks,
        period: Ticks,
        not_before: Ticks,
        now: Ticks,
    ) -> Option<ReservationId> {
        let index = self.entries.iter().position(|entry| entry.state == State::Free)? as u8;
        let start = not_before.get().max(now.get());
        let entry = self.entry_mut(index);
        *entry = Entry { state: State::Blocked, vcpu, deadline: start, ..Entry::FREE };
        entry.set(budget.get(), period.get());
        Some(ReservationId(index))
    }

    /// From now on, until it is unbound, a reservation (just bound) is first among equal deadlines: with the periods of all
    /// others as long as its own or longer, and all aligned, it has the core as soon as it wants it, within its budget.
    pub fn favour(&mut self, id: ReservationId) {
        self.entry_mut(id.0).favour = 1;
    }

    /// Takes a reservation away. The core that it belongs to does not run its Vcpu any more. Returns when its share is
    /// free for others: the end of its present period and as long after it as it takes to pay back what it overran, or
    /// `now` if it slept through that.
    pub fn unbind(&mut self, id: ReservationId, now: Ticks) -> Ticks {
        self.block(id, NEVER, now);
        if self.payer == id.0 {
            if !self.charging {
                self.charge(now.get());
                // The core has still to take the Vcpu's state out, when this can be charged no more.
                let least = self.least;
                self.entry_mut(id.0).spend(least);
            }
            self.payer = NIL;
        }
        if self.culprit == id.0 {
            self.culprit = NIL;
        }
        let free = self.entry(id.0).free_from().max(now.get());
        *self.entry_mut(id.0) = Entry::FREE;
        Ticks::new(free)
    }

    /// Changes budget and period from the first boundary of the present period on that is not before `not_before`
    /// (when a share that it grows by is free). A later resize replaces one that has not taken effect.
    pub fn resize(
        &mut self,
        id: ReservationId,
        budget: Ticks,
        period: Ticks,
        not_before: Ticks,
        now: Ticks,
    ) -> Resized {
        if self.current == id.0 {
            self.charge(now.get());
        }
        let (now, not_before) = (now.get(), not_before.get());
        let epoch = self.epoch;
        let entry = self.entry_mut(id.0);
        if entry.state == State::Free {
            return Resized { from: Ticks::new(now), disturbed: false };
        }
        let boundary = entry.deadline.max(now);
        if entry.state == State::Blocked && boundary == now && not_before <= now {
            entry.set(budget.get(), period.get());
            return Resized { from: Ticks::new(now), disturbed: false };
        }
        entry.pending_budget = budget.get();
        entry.pending_period = period.get().max(1);
        entry.pending_from = not_before;
        let from = if boundary >= not_before {
            boundary
        } else {
            boundary_after(epoch, entry.period, not_before.saturating_sub(1)).max(boundary)
        };
        Resized { from: Ticks::new(from), disturbed: self.is_disturbed() }
    }

    /// The Vcpu may run again. True if its core must decide again because of it. Does nothing if it may run already.
    #[inline]
    pub fn wake(&mut self, id: ReservationId, now: Ticks, by: Waker) -> bool {
        let entry = self.entry(id.0);
        if entry.state != State::Blocked {
            return false;
        }
        if entry.key != u64::MAX {
            self.unlink_timer(id.0);
        }
        self.release(id.0, now.get(), by);
        self.is_disturbed()
    }

    /// The core is called by an NMI, and this is who caused it. That holds until an NMI has come: if the core was in the
    /// kernel and none was sent, the next one is charged to it.
    #[inline]
    pub fn blame(&mut self, id: ReservationId) {
        self.culprit = id.0;
    }

    /// The core, which is about to decide, decides again at this instant (after `now`) at the latest. That replaces an instant
    /// for which this was asked before.
    pub(crate) fn come_back_at(&mut self, at: Ticks, now: Ticks) {
        self.again = at.get();
        let kept = if self.kept <= now.get() { u64::MAX } else { self.kept };
        self.kept = kept.min(self.again);
    }

    /// The core took an NMI for which nobody is to blame yet, and it may have been this one's.
    #[inline]
    pub fn blame_after(&mut self, id: ReservationId) {
        if !self.charging && self.payer == NIL {
            self.payer = id.0;
        }
    }

    /// As [`Schedule::blame`]: who runs, if anybody.
    #[inline]
    pub fn blame_current(&mut self) {
        self.culprit = self.current;
    }

    /// The Vcpu stops or sleeps until `wake_at` ([`NEVER`]: until it is woken). If it is asleep already, only `wake_at`
    /// changes. If it runs on another core than the caller's, that core has been expelled from it. An end of sleep costs
    /// it an alarm, but the first one in a period, and unless the whole core is its own.
    #[inline]
    pub fn block(&mut self, id: ReservationId, wake_at: Ticks, now: Ticks) {
        if self.current == id.0 {
            self.charge(now.get());
            self.current = NIL;
            // It pays for the rest of the kernel's work until somebody else is chosen.
            self.charging = false;
            self.payer = id.0;
        }
        self.withdraw(id.0);
        let alarm_cost = self.alarm_cost;
        let entry = self.entry_mut(id.0);
        if entry.state == State::Free {
            return;
        }
        entry.state = State::Blocked;
        entry.key = wake_at.get();
        if wake_at != NEVER {
            if core::mem::replace(&mut entry.alarmed, true) && !entry.is_whole() {
                entry.spend(alarm_cost);
            }
            self.link_timer(id.0);
        }
    }

    /// The current Vcpu goes to sleep for good (as [`Schedule::block`]) and wakes another ([`Schedule::wake`]), which runs
    /// next ([`Schedule::decide`]): all three at once, and [`Schedule::take_used`] of the one that sleeps. Nothing was
    /// changed since the last decision, which was to run `from`. `None` if it is not as simple as that; then nothing has
    /// happened. A function of its own, as it needs every register that the caller need not keep.
    #[inline(never)]
    pub fn hand_over(&mut self, from: ReservationId, to: ReservationId, now: Ticks) -> Option<HandOver> {
        let now = now.get();
        debug_assert!(self.current == from.0 && self.ready.head == from.0 && self.charging);
        let &Entry { deadline: end, next, .. } = self.entry(from.0);
        let taker = self.entry(to.0);
        let deadline = taker.deadline;
        let asleep = taker.state == State::Blocked && taker.key == u64::MAX;
        if !asleep || end < now || deadline <= now || self.planned <= now {
            return None;
        }
        if next != NIL && self.entry(next).deadline <= deadline {
            return None;
        }
        let remaining = taker.remaining.min(taker.part_of(deadline - now));
        if remaining < self.least {
            return None;
        }
        // The taker does not own the whole core, as the giver has a share of it: its budget ends. Before `deadline`, so
        // that the sum does not overflow.
        let event = self.timers.first.min(self.kept);
        let until = NonZeroU64::new(event.min(now.wrapping_add(remaining)).min(deadline))?;

        let taker = self.entry_mut(to.0);
        taker.remaining = remaining;
        taker.state = State::Ready;
        let rank = taker.rank();
        taker.key = rank;
        taker.prev = NIL;
        taker.next = next;
        if next == NIL {
            self.ready.tail = to.0;
        } else {
            self.entry_mut(next).prev = to.0;
        }
        self.ready.head = to.0;
        self.ready.first = rank;
        self.current = to.0;
        let used = now.saturating_sub(self.since);
        self.since = now;
        self.planned = until.get();
        let giver = self.entry_mut(from.0);
        giver.state = State::Blocked;
        giver.key = u64::MAX;
        giver.spend(used);
        Some(HandOver { until, used: used.wrapping_add(core::mem::take(&mut giver.used)) })
    }

    /// Charges the current Vcpu up to `now`: the core has left the guest because of an NMI. What follows is charged to
    /// whoever caused that, and to nobody if it was the core's own alarm.
    #[inline]
    pub fn pause(&mut self, now: Ticks) {
        self.charge(now.get());
        self.charging = false;
        self.payer = core::mem::replace(&mut self.culprit, NIL);
        self.since = self.since.max(now.get());
    }

    /// Charges whoever is being charged, handles what is due, and says who runs from now on and until when. The chosen one
    /// is charged from `now` on; if others interrupted it or made room for it, from when it has been entered.
    #[inline]
    pub fn decide(&mut self, now: Ticks) -> Decision {
        let now = now.get();
        self.charge(now);
        let settled = self.settle(now);
        let head = self.ready.head;
        self.since = now;
        if head != NIL {
            let before = if self.charging { self.current } else { self.payer };
            let caused = before != NIL && before != head && self.made_room(before);
            let paused = self.current == head && !self.charging && self.payer != head;
            if core::mem::take(&mut self.entry_mut(head).interrupted) || paused || caused {
                let cost = self.entry_cost;
                self.since = now.saturating_add(cost);
                if caused {
                    self.entry_mut(before).spend(cost);
                }
            }
        }
        self.current = head;
        self.charging = true;
        self.planned = if settled { self.next_event() } else { now };
        let run = if head == NIL { None } else { Some((ReservationId(head), self.entry(head).vcpu)) };
        Decision { run, until: Ticks::new(self.planned) }
    }

    /// True if who was charged until now is the reason that another one is entered: it has caused an NMI, or it goes
    /// without having been interrupted.
    #[inline]
    fn made_room(&self, before: u8) -> bool {
        !self.charging || self.entry(before).state != State::Ready
    }

    /// After a decision, while the core was still to be entered, it took these ticks to take something out of it that a
    /// Vcpu left there: they are charged to its reservation, or to nobody, instead of to who comes. `again`: for that one's
    /// sake the core decides again; until then it pays.
    #[cold]
    pub fn unloaded(&mut self, left: Option<ReservationId>, ticks: Ticks, again: bool) {
        self.exempt(ticks);
        let Some(ReservationId(index)) = left else { return };
        let entry = self.entry_mut(index);
        if entry.state == State::Free {
            return;
        }
        entry.used = entry.used.wrapping_add(ticks.get());
        entry.spend(ticks.get());
        if again {
            self.charging = false;
            self.payer = index;
        }
    }

    /// So many of the ticks that nobody has been charged for yet are nobody's: the reserve pays for them.
    #[cold]
    pub(crate) fn exempt(&mut self, ticks: Ticks) {
        self.since = self.since.saturating_add(ticks.get());
    }

    /// Who runs on the core as last decided.
    pub fn current(&self) -> Option<(ReservationId, VcpuId)> {
        if self.current == NIL { None } else { Some((ReservationId(self.current), self.entry(self.current).vcpu)) }
    }

    /// A reservation as it stands; `None` if there is none with this id.
    pub fn reservation(&self, id: ReservationId) -> Option<Reservation> {
        let entry = self.entry(id.0);
        if entry.state == State::Free {
            return None;
        }
        Some(Reservation {
            vcpu: entry.vcpu,
            budget: Ticks::new(entry.budget),
            period: Ticks::new(entry.period),
            used: Ticks::new(entry.used),
            deadline: Ticks::new(entry.deadline),
            remaining: Ticks::new(entry.remaining),
            runnable: entry.state != State::Blocked,
        })
    }

    /// Ticks that a reservation's Vcpu has been current since this was asked last, as far as charged.
    #[inline]
    pub fn take_used(&mut self, id: ReservationId) -> Ticks {
        Ticks::new(core::mem::take(&mut self.entry_mut(id.0).used))
    }

    /// The most that any period of a Vcpu, runnable from its start or its wake-up in it to its end, came up short.
    pub fn worst_shortfall(&self) -> Ticks {
        Ticks::new(self.worst_shortfall)
    }
}
