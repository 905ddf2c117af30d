//! What becomes of a schedule as time passes: whom it is charged to, which periods end, and when it is to be looked at again.

use super::entry::{NIL, State};
use super::{MAX_EVENTS, Schedule, Waker};

impl Schedule {
    /// Handles due events, at most [`MAX_EVENTS`]; false if some are left.
    #[inline]
    pub(super) fn settle(&mut self, now: u64) -> bool {
        if self.kept <= now {
            self.kept = if self.again <= now { u64::MAX } else { self.again };
        }
        for _ in 0..MAX_EVENTS {
            let timer = self.timers.head;
            if timer != NIL && self.timers.first <= now {
                self.unlink_timer(timer);
                if self.entry(timer).state == State::Depleted {
                    self.advance(timer, now);
                    self.interrupt(timer);
                    self.place(timer);
                } else {
                    self.release(timer, now, Waker::Interrupt);
                }
                continue;
            }
            let head = self.ready.head;
            if head == NIL {
                return true;
            }
            let entry = self.entry(head);
            if entry.deadline <= now {
                self.unlink_ready(head);
                let missed = self.entry(head).remaining;
                self.count_shortfall(missed);
                self.advance(head, now);
                self.place(head);
            } else if entry.remaining == 0 {
                self.unlink_ready(head);
                self.place(head);
            } else {
                return true;
            }
        }
        false
    }

    /// Charges the current entry, or who pays instead, for the time since somebody was last charged. A period of the
    /// current one that ended meanwhile is closed at its end, and the rest is charged to the period that `now` lies in.
    #[inline]
    pub(super) fn charge(&mut self, now: u64) {
        let index = if self.charging { self.current } else { self.payer };
        if index == NIL {
            return;
        }
        let since = self.since;
        self.since = now.max(since);
        let is_current = index == self.current;
        let entry = self.entry_mut(index);
        entry.used = entry.used.wrapping_add(now.saturating_sub(since));
        if now <= entry.deadline || !is_current {
            entry.spend(now.saturating_sub(since));
        } else {
            self.charge_across(index, since, now);
        }
    }

    /// [`Schedule::charge`] when the current entry's period has ended.
    pub(super) fn charge_across(&mut self, index: u8, since: u64, now: u64) {
        self.unlink_ready(index);
        let entry = self.entry_mut(index);
        entry.spend(entry.deadline.saturating_sub(since));
        let missed = entry.remaining;
        self.count_shortfall(missed);
        self.advance(index, now);
        let entry = self.entry_mut(index);
        // Whatever lies before the period that `now` is in was run, and is past.
        let start = entry.deadline.saturating_sub(entry.period).max(since);
        entry.spend(now.saturating_sub(start));
        // The current entry stays in the ready list, even with nothing left, until the next decision.
        self.link_ready(index);
    }

    pub(super) fn count_shortfall(&mut self, ticks: u64) {
        self.worst_shortfall = self.worst_shortfall.max(ticks);
    }

    /// Moves an entry whose period has ended (deadline <= now) into the period that `now` lies in. A resize that is due
    /// takes effect. A period that began before the entry's last deadline or before its resize counts in proportion.
    pub(super) fn advance(&mut self, index: u8, now: u64) {
        let epoch = self.epoch;
        let entry = self.entry_mut(index);
        let mut start = entry.deadline;
        if entry.pending_period != 0 && entry.pending_from <= now {
            start = start.max(entry.pending_from);
            entry.set(entry.pending_budget, entry.pending_period);
        }
        let deadline = boundary_after(epoch, entry.period, now);
        let quota = entry.part_of(deadline.saturating_sub(start));
        let repaid = entry.debt.min(quota);
        entry.debt -= repaid;
        entry.remaining = quota - repaid;
        entry.deadline = deadline;
        entry.alarmed = false;
    }

    /// Lets a blocked entry (unlinked) run again, by the wake-up rule.
    #[inline]
    pub(super) fn release(&mut self, index: u8, now: u64, by: Waker) {
        let arrived = self.entry(index).deadline > now;
        if !arrived {
            self.advance(index, now);
        }
        let least = self.least;
        // It has been awake in this period before: the reserve has paid for that.
        let interrupts = by != Waker::Neighbour && self.interrupt(index);
        // Another core's doing is not the woken one's: it pays for what that really takes, and no more.
        let fee = if interrupts && arrived && by == Waker::Interrupt { least } else { 0 };
        let entry = self.entry_mut(index);
        let fair = entry.part_of(entry.deadline.saturating_sub(now));
        entry.remaining = entry.remaining.min(fair).saturating_sub(fee);
        entry.interrupted = false;
        if entry.remaining < least {
            entry.remaining = 0;
        }
        self.place(index);
    }

    /// An entry that is to be placed comes by an NMI: true if it takes the core from the current one, which is noted there.
    #[inline]
    pub(super) fn interrupt(&mut self, index: u8) -> bool {
        let (current, rank) = (self.current, self.entry(index).rank());
        if current == NIL {
            return false;
        }
        let current = self.entry_mut(current);
        let interrupts = current.state == State::Ready && rank < current.key;
        current.interrupted |= interrupts;
        interrupts
    }

    /// Puts an unlinked runnable entry into the list where it belongs.
    #[inline]
    pub(super) fn place(&mut self, index: u8) {
        let entry = self.entry_mut(index);
        if entry.remaining == 0 {
            entry.state = State::Depleted;
            entry.key = entry.deadline;
            self.link_timer(index);
        } else {
            self.link_ready(index);
        }
    }

    /// When the present state of the lists must be looked at again if nothing happens.
    #[inline]
    pub(super) fn next_event(&self) -> u64 {
        let timer = self.timers.first.min(self.kept);
        if self.ready.head == NIL {
            return timer;
        }
        let entry = self.entry(self.ready.head);
        if entry.is_whole() && entry.pending_period == 0 && self.ready.tail == self.ready.head {
            return timer;
        }
        timer.min(self.since.saturating_add(entry.remaining)).min(entry.deadline)
    }

    /// True if the core's last decision is no longer right.
    #[inline]
    pub(super) fn is_disturbed(&self) -> bool {
        self.ready.head != self.current || self.next_event() < self.planned
    }
}

/// The first boundary of `period` (not 0) since `epoch` that is after `now`.
#[inline]
pub(super) fn boundary_after(epoch: u64, period: u64, now: u64) -> u64 {
    let passed = now.saturating_sub(epoch);
    let into = passed.checked_rem(period).unwrap_or(0);
    epoch.saturating_add(passed - into).saturating_add(period)
}
