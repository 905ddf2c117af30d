//! What benches measure with: the clock of instructions, exits, and the least of several runs.

use crate::root::{Root, exits, tsc, word};
use alloc::string::String;
use cap_spec::abi::{Rights, slots, stats_page};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use device::Registers;
use proto::host::Record;
use userlib::cap::{Cap, Fault, Machine, Slot, own};
use userlib::dma::MappedRegisters;

/// Runs per row.
pub const RUNS: usize = 8;

/// What one run cost: ticks and exits.
#[derive(Clone, Copy)]
pub struct Cost {
    /// Ticks of the clock: instructions.
    pub ticks: u64,
    /// Exits of the VM.
    pub exits: u64,
}

/// Runs something once between two readings of clock and exits.
pub fn once(work: impl FnOnce() -> Result<(), Fault>) -> Result<Cost, Fault> {
    let before = exits();
    let start = tsc();
    work()?;
    let end = tsc();
    Ok(Cost { ticks: end - start - clock_cost(), exits: exits() - before })
}

/// What reading the clock twice costs by itself.
pub fn clock_cost() -> u64 {
    let start = tsc();
    tsc() - start
}

/// The cheaper one.
pub fn least(a: Cost, b: Cost) -> Cost {
    if b.ticks < a.ticks { b } else { a }
}

/// The least of several runs; each is set up by `before`, outside of the measured time.
pub fn row<S>(
    mut before: impl FnMut() -> Result<S, Fault>,
    mut work: impl FnMut(&S) -> Result<(), Fault>,
    mut after: impl FnMut(S) -> Result<(), Fault>,
) -> Result<Cost, Fault> {
    let mut best = Cost { ticks: u64::MAX, exits: 0 };
    for _ in 0..RUNS {
        let state = before()?;
        best = least(best, once(|| work(&state))?);
        after(state)?;
    }
    Ok(best)
}

/// Reports a row.
pub fn tell(root: &Root, operation: &str, cost: Cost) {
    let Cost { ticks, exits } = cost;
    root.record(&Record::Bench {
        operation: operation.into(),
        instructions: ticks,
        exits,
        writes: None,
        interrupts: None,
    });
}

/// Reports for how long the kernel lock was held at most, since the boot.
pub fn tell_longest_hold(root: &mut Root, load: &str) -> Result<(), Fault> {
    let slot = root.slot();
    let machine: Cap<Machine> = Slot::root(slots::MARKET).cap();
    let frame = machine.statistics_page(slot)?;
    let address = root.window(1);
    frame.map(own::VM, address, Rights::READ)?;
    let ticks = word(address, stats_page::LONGEST_HOLD);
    tell(root, &alloc::format!("longest hold of the kernel lock, {load}"), Cost { ticks, exits: 0 });
    Ok(())
}

/// Reports how the bench went, and ends the machine.
pub fn end(root: &Root, outcome: Result<(), String>) -> ! {
    let reason = outcome.err().unwrap_or_default();
    let status = u8::from(!reason.is_empty());
    if status != 0 {
        root.text(&alloc::format!("bench: {reason}\n"));
    }
    root.record(&Record::End { t: 0, status, reason });
    root.exit(0x10 + status)
}

/// What work with devices cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoCost {
    /// Instructions of the VM that were measured.
    pub ticks: u64,
    /// Exits of the VM meanwhile.
    pub exits: u64,
    /// Writes to registers of devices.
    pub writes: u64,
    /// Interrupts of devices.
    pub interrupts: u64,
}

impl core::ops::Add for IoCost {
    type Output = IoCost;

    fn add(self, other: IoCost) -> IoCost {
        IoCost {
            ticks: self.ticks + other.ticks,
            exits: self.exits + other.exits,
            writes: self.writes + other.writes,
            interrupts: self.interrupts + other.interrupts,
        }
    }
}

/// Writes by [`Counted`] registers so far.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Registers whose writes are counted, by one instruction each, which [`Meter`] takes off.
#[derive(Clone, Copy, Debug)]
pub struct Counted(pub MappedRegisters);

impl Registers for Counted {
    #[inline(always)]
    fn read32(&self, offset: u32) -> u32 {
        self.0.read32(offset)
    }

    #[inline(always)]
    fn write32(&self, offset: u32, value: u32) {
        // SAFETY: increments the counter, which is an integer that only this and loads use. An instruction, whatever the
        // compiler would make of it.
        unsafe { asm!("inc qword ptr [rip + {}]", sym WRITES, options(nostack)) };
        self.0.write32(offset, value);
    }
}

/// Adds up what stretches of work cost. Nobody else's work may fall into them.
#[derive(Debug)]
pub struct Meter {
    interrupts: fn() -> u64,
    sum: IoCost,
    before: IoCost,
}

impl Meter {
    /// Of a device that has interrupted so often.
    pub fn new(interrupts: fn() -> u64) -> Meter {
        Meter { interrupts, sum: IoCost::default(), before: IoCost::default() }
    }

    /// A stretch begins.
    #[inline(always)]
    pub fn start(&mut self) {
        let (exits, writes, interrupts) = (exits(), WRITES.load(Ordering::Relaxed), (self.interrupts)());
        self.before = IoCost { exits, writes, interrupts, ticks: tsc() };
    }

    /// A stretch ends.
    #[inline(always)]
    pub fn stop(&mut self) {
        let end = tsc();
        let (sum, before) = (&mut self.sum, &self.before);
        let writes = WRITES.load(Ordering::Relaxed) - before.writes;
        sum.ticks += (end - before.ticks).saturating_sub(clock_cost() + writes);
        sum.writes += writes;
        sum.exits += exits() - before.exits;
        sum.interrupts += (self.interrupts)() - before.interrupts;
    }

    /// What the stretches since the last call cost together.
    pub fn take(&mut self) -> IoCost {
        core::mem::take(&mut self.sum)
    }
}

/// Reports the cost of so many operations, as that of one.
pub fn tell_io(root: &Root, operation: &str, operations: u64, cost: IoCost) {
    root.record(&Record::Bench {
        operation: operation.into(),
        instructions: cost.ticks / operations,
        exits: cost.exits.div_ceil(operations),
        writes: Some(cost.writes * 1000 / operations),
        interrupts: Some(cost.interrupts * 1000 / operations),
    });
}
