//! The entries of a schedule and the two sorted lists that link them.

use super::{MAX_RESERVATIONS, Schedule, admission};
use crate::types::VcpuId;

/// The end of a list, and no entry.
pub(super) const NIL: u8 = u8::MAX;

/// Where an entry is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not in use.
    Free,
    /// Runnable with budget left: in the ready list, by deadline.
    Ready,
    /// Runnable, budget spent: in the timer list, by the end of its period.
    Depleted,
    /// Stopped or asleep: in the timer list if it has an instant to wake at.
    Blocked,
}

/// One reservation. Its size is a power of two, so that its place is found by a shift.
#[derive(Clone, Copy, Debug)]
#[repr(align(128))]
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) next: u8,
    pub(super) prev: u8,
    /// Another one took the core from it by an NMI: what entering it again costs is not its own.
    pub(super) interrupted: bool,
    /// It has ordered an alarm in this period.
    pub(super) alarmed: bool,
    /// 1 if it is first among equal deadlines, else 0: how much earlier its key in the ready list is.
    pub(super) favour: u8,
    pub(super) vcpu: VcpuId,
    pub(super) budget: u64,
    pub(super) period: u64,
    /// `budget / period` in 2^-32, rounded down.
    pub(super) rate: u64,
    /// What is left of this period's budget.
    pub(super) remaining: u64,
    /// End of this period.
    pub(super) deadline: u64,
    /// The key in the list it is in: [`Entry::rank`], or the instant to wake at.
    pub(super) key: u64,
    /// What it overran and has not paid back.
    pub(super) debt: u64,
    /// What it has used and nobody has been told.
    pub(super) used: u64,
    /// A resize that waits for a boundary; period 0 is none.
    pub(super) pending_budget: u64,
    pub(super) pending_period: u64,
    /// The resize takes effect at the first boundary that is not before this.
    pub(super) pending_from: u64,
}

impl Entry {
    pub(super) const FREE: Entry = Entry {
        state: State::Free,
        next: NIL,
        prev: NIL,
        interrupted: false,
        alarmed: false,
        favour: 0,
        vcpu: VcpuId::new(0),
        budget: 0,
        period: 1,
        rate: 0,
        remaining: 0,
        deadline: 0,
        key: u64::MAX,
        debt: 0,
        used: 0,
        pending_budget: 0,
        pending_period: 0,
        pending_from: 0,
    };

    /// Takes over a budget and a period (not 0).
    pub(super) fn set(&mut self, budget: u64, period: u64) {
        self.budget = budget;
        self.period = if period == 0 { 1 } else { period };
        self.rate = admission::rate_down(budget, self.period);
        self.pending_period = 0;
    }

    /// Its part of a span of at most a period, rounded down: of a whole period exactly the budget.
    #[inline]
    pub(super) fn part_of(&self, span: u64) -> u64 {
        if span >= self.period { self.budget } else { ((span as u128 * self.rate as u128) >> 32) as u64 }
    }

    /// Uses ticks of the budget; what is beyond it becomes debt, of at most one budget.
    #[inline]
    pub(super) fn spend(&mut self, ticks: u64) {
        if ticks <= self.remaining {
            self.remaining -= ticks;
        } else {
            self.debt = self.debt.saturating_add(ticks - self.remaining).min(self.budget);
            self.remaining = 0;
        }
    }

    /// When its share is free for others: at the end of its period, and later by the time in which its share is what it
    /// overran.
    pub(super) fn free_from(&self) -> u64 {
        let ticks = (self.debt as u128 * self.period as u128).checked_div(self.budget as u128).unwrap_or(0);
        self.deadline.saturating_add(ticks as u64)
    }

    /// Its place among those that are ready: the deadline, or a tick before it if it is favoured. No deadline is 0.
    #[inline]
    pub(super) const fn rank(&self) -> u64 {
        self.deadline.wrapping_sub(self.favour as u64)
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.budget == self.period
    }
}

/// A doubly linked list through the entries, sorted by key; of equal keys the one that came first is first.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) head: u8,
    pub(super) tail: u8,
    /// The head's key; `u64::MAX` of an empty list.
    pub(super) first: u64,
}

impl List {
    pub(super) const EMPTY: List = List { head: NIL, tail: NIL, first: u64::MAX };
}

impl Schedule {
    #[inline]
    pub(super) fn entry(&self, index: u8) -> &Entry {
        &self.entries[index as usize & (MAX_RESERVATIONS - 1)]
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, index: u8) -> &mut Entry {
        &mut self.entries[index as usize & (MAX_RESERVATIONS - 1)]
    }

    /// Takes an entry out of the list it is in, if any.
    #[inline]
    pub(super) fn withdraw(&mut self, index: u8) {
        match self.entry(index).state {
            State::Ready => self.unlink_ready(index),
            State::Depleted => {
                self.kept = self.kept.min(self.entry(index).deadline);
                self.unlink_timer(index);
            }
            State::Blocked if self.entry(index).key != u64::MAX => self.unlink_timer(index),
            State::Blocked | State::Free => {}
        }
    }

    #[inline]
    pub(super) fn link_ready(&mut self, index: u8) {
        let entry = self.entry_mut(index);
        entry.state = State::Ready;
        entry.key = entry.rank();
        self.ready = self.link(self.ready, index);
    }

    #[inline]
    pub(super) fn unlink_ready(&mut self, index: u8) {
        self.ready = self.unlink(self.ready, index);
    }

    #[inline]
    pub(super) fn link_timer(&mut self, index: u8) {
        self.timers = self.link(self.timers, index);
    }

    #[inline]
    pub(super) fn unlink_timer(&mut self, index: u8) {
        self.timers = self.unlink(self.timers, index);
    }

    /// Inserts an entry by its key, searching from the end: new keys are mostly late ones.
    #[inline]
    pub(super) fn link(&mut self, mut list: List, index: u8) -> List {
        let key = self.entry(index).key;
        let mut before = list.tail;
        for _ in 0..MAX_RESERVATIONS {
            if before == NIL || self.entry(before).key <= key {
                break;
            }
            before = self.entry(before).prev;
        }
        let after = if before == NIL { list.head } else { self.entry(before).next };
        let entry = self.entry_mut(index);
        entry.prev = before;
        entry.next = after;
        if before == NIL {
            list.head = index;
            list.first = key;
        } else {
            self.entry_mut(before).next = index;
        }
        if after == NIL {
            list.tail = index;
        } else {
            self.entry_mut(after).prev = index;
        }
        list
    }

    #[inline]
    pub(super) fn unlink(&mut self, mut list: List, index: u8) -> List {
        let Entry { prev, next, .. } = *self.entry(index);
        if prev == NIL {
            list.head = next;
            list.first = if next == NIL { u64::MAX } else { self.entry(next).key };
        } else {
            self.entry_mut(prev).next = next;
        }
        if next == NIL {
            list.tail = prev;
        } else {
            self.entry_mut(next).prev = prev;
        }
        list
    }
}
