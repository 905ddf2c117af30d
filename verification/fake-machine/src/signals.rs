//! What is under way between cores, devices and the clock: NMIs, the comparator, expulsions. None of it is there at once.

use crate::bug::Bug;
use crate::hardware::{Hardware, Stage};
use crate::lines::ROUTES;
use kernel::protocol::deadlines::Alarm;

/// The longest time that is skipped at once while every core halts: a guest may ask to sleep for ages.
const LONGEST_SKIP: u64 = 1 << 20;
/// Turns of the others within which an expelled core must have left its guest.
const EXPEL_TURNS: usize = 2_000;

impl Hardware {
    /// Reads the clock, which takes a tick.
    pub fn clock(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// Reads the clock, which takes no time: for checks.
    pub fn present(&self) -> u64 {
        self.clock.get()
    }

    /// Time passes; what is in flight may arrive; devices raise interrupts.
    pub fn pass(&mut self, ticks: u64) {
        self.clock.set(self.clock.get() + ticks);
        // It counts by a clock of its own, and now and then comes early, by any time.
        if let Some(alarm) = self.comparator
            && (alarm.at <= self.clock.get() || self.random.one_in(64))
        {
            self.comparator = None;
            self.send_nmi(alarm.core.get() as usize);
        }
        for core in 0..self.cores.len() {
            if self.cores[core].nmi_coming && self.random.one_in(2) {
                self.cores[core].nmi_coming = false;
                self.cores[core].nmi_pending = true;
            }
        }
        if !self.messages.is_empty() && self.random.one_in(2) {
            let (line, sent) = self.messages.remove(0);
            self.remap(line, sent);
        }
        if self.random.one_in(24) {
            let line = self.random.below(ROUTES as u64) as usize;
            self.raise(line);
        }
        self.dma_moment();
    }

    /// While every core halts and nothing is in flight, time runs on to the comparator's instant.
    pub fn skip_idle_time(&mut self) {
        let quiet = self.messages.is_empty()
            && self.iommu.is_quiet()
            && self
                .cores
                .iter()
                .all(|core| matches!(core.stage, Stage::Halted(_)) && !core.nmi_pending && !core.nmi_coming);
        if let Some(alarm) = self.comparator
            && quiet
            && (1..LONGEST_SKIP).contains(&alarm.at.saturating_sub(self.clock.get()))
        {
            self.clock.set(alarm.at);
        }
    }

    /// Sets the comparator. One that is set to the past stays silent.
    pub fn set_comparator(&mut self, alarm: Alarm) {
        self.comparator = (alarm.at > self.clock() && alarm.at != u64::MAX).then_some(alarm);
    }

    /// An NMI for a core sets out.
    pub fn send_nmi(&mut self, core: usize) {
        if self.random.one_in(2) {
            self.cores[core].nmi_pending = true;
        } else {
            self.cores[core].nmi_coming = true;
        }
    }

    /// Makes a core leave its guest and waits for it, while everybody else goes on.
    pub fn expel(&mut self, active: usize, core: usize) {
        if !self.cores[core].gate.is_in_guest() {
            return;
        }
        self.expulsions += 1;
        self.send_nmi(core);
        if self.bug == Some(Bug::FreedTable) && self.memory.has_withdrawn() {
            return;
        }
        for _ in 0..EXPEL_TURNS {
            if !self.cores[core].gate.is_in_guest() {
                return;
            }
            self.pass(1);
            let other = self.random.below(self.cores.len() as u64) as usize;
            if other != active {
                self.step_alone(other);
            }
        }
        self.violate(format!("core {core} does not acknowledge that it was expelled by core {active}"));
    }

    /// Calls a core to decide anew.
    pub fn call(&mut self, core: usize) {
        let now = self.present();
        self.cores[core].called.get_or_insert(now);
        if self.cores[core].gate.call() {
            if self.bug == Some(Bug::LostWakeup) && matches!(self.cores[core].stage, Stage::Halt(_)) {
                return;
            }
            self.send_nmi(core);
        }
    }
}
