//! What the I/O path costs: instructions of the turns in which something is done, and exits and interrupts, those of waiting
//! for more included.

use userlib::clock::CpuTimer;
use userlib::usage::{Exits, device_interrupts, exits};

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Ticks, if the core was not taken meanwhile. By the instruction clock a tick is an instruction.
    ticks: Option<u64>,
    exits: Exits,
    interrupts: u64,
}

/// Does a piece of work, and tells what it took.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    let (before, interrupts) = (exits(), device_interrupts());
    let timer = CpuTimer::start();
    let result = work();
    let ticks = timer.undisturbed();
    let exits = exits().since(before);
    let interrupts = device_interrupts().wrapping_sub(interrupts);
    (result, Spent { ticks: ticks.filter(|_| exits.preemptions == 0), exits, interrupts })
}

/// What operations of one kind took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    ticks: u64,
    /// Operations in the turns whose ticks are known.
    operations: u64,
    /// Exits of all turns, and of the waiting between them.
    pub exits: Exits,
    /// Interrupts of the function that were taken, likewise.
    pub interrupts: u64,
}

impl Cost {
    /// A turn with so many operations.
    pub fn turn(&mut self, spent: Spent, operations: u64) {
        self.wait(spent);
        if let Some(ticks) = spent.ticks {
            self.ticks += ticks;
            self.operations += operations;
        }
    }

    /// Waiting, whose ticks are nobody's work.
    pub fn wait(&mut self, spent: Spent) {
        self.exits.add(spent.exits);
        self.interrupts += spent.interrupts;
    }

    /// Ticks of one operation.
    #[must_use]
    pub fn each(&self) -> u64 {
        self.ticks.checked_div(self.operations).unwrap_or(0)
    }

    /// Ticks of 1024 operations, as of a KiB if an operation is a byte.
    #[must_use]
    pub fn each_kib(&self) -> u64 {
        (self.ticks << 10).checked_div(self.operations).unwrap_or(0)
    }
}
