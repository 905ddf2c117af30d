//! What benches measure with: the clock of instructions, the count of those that no VM executed, exits, and the least of
//! several runs.

use crate::root::{Root, exits, tsc, word};
use alloc::string::String;
use cap_spec::abi::{Rights, slots, stats_page};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use device::Registers;
use proto::host::{COUNT_BITS, COUNT_MARK, Record};
use userlib::cap::{Cap, Fault, Machine, Slot, own};
use userlib::dma::MappedRegisters;

/// Runs per row.
pub const RUNS: usize = 8;

/// What one run cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Ticks of the clock: instructions.
    pub ticks: u64,
    /// How many of them the kernel executed; 0 where nobody counts.
    pub kernel: u64,
    /// Exits of the VM.
    pub exits: u64,
}

impl Cost {
    /// More than anything costs.
    pub const MOST: Cost = Cost { ticks: u64::MAX, kernel: 0, exits: 0 };

    /// Without what this part cost; exits are those of the whole. (Of the VM's instructions the part may have one more, as
    /// the compiler arranges them.)
    pub fn less(self, part: Cost) -> Cost {
        let ticks = self.ticks.saturating_sub(part.ticks);
        Cost { ticks, kernel: self.kernel.saturating_sub(part.kernel).min(ticks), exits: self.exits }
    }

    /// That of one of so many; exits are those of all.
    pub fn each(self, count: u64) -> Cost {
        Cost { ticks: self.ticks / count, kernel: self.kernel / count, exits: self.exits }
    }
}

/// Has the count of instructions that were no VM's written into this word, by `tests/counter`.
#[inline(always)]
fn ask(word: &AtomicU64) {
    // SAFETY: stores into an integer that may be shared.
    unsafe {
        asm!("mov qword ptr [{}], {}", in(reg) word.as_ptr(), const COUNT_MARK, options(nostack, preserves_flags));
    }
}

/// The counts of what was no VM's ([`COUNT_MARK`]); see [`between`].
#[inline(always)]
pub fn kernel_count() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    ask(&COUNT);
    COUNT.load(Ordering::Relaxed)
}

/// Instructions, and writes to registers, from one [`kernel_count`] to a later one.
#[inline(always)]
fn between(before: u64, after: u64) -> (u64, u64) {
    let instructions = after.wrapping_sub(before) & ((1 << COUNT_BITS) - 1);
    (instructions, (after >> COUNT_BITS).wrapping_sub(before >> COUNT_BITS) & (u64::MAX >> COUNT_BITS))
}

/// The kernel's part of a cost, if the emulator counts it.
fn counted(kernel: u64) -> Option<u64> {
    (kernel_count() != u64::from(COUNT_MARK)).then_some(kernel)
}

/// The same, worked out by now: the compiler would do it behind the reading of the clock that follows, where it counts.
#[inline(always)]
fn worked_out(mut value: u64) -> u64 {
    // SAFETY: no instruction.
    unsafe { asm!("/* {} */", inout(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Readings of exits, count and clock, the latter last.
#[derive(Clone, Copy)]
pub struct Start {
    exits: u64,
    kernel: u64,
    /// The clock.
    pub tsc: u64,
}

impl Start {
    /// Those at the machine's reset.
    pub const RESET: Start = Start { exits: 0, kernel: 0, tsc: 0 };

    /// Reads them.
    #[inline(always)]
    pub fn now() -> Start {
        let (exits, kernel) = (worked_out(exits()), kernel_count());
        Start { exits, kernel, tsc: tsc() }
    }

    /// What was spent since, where the clock showed `end`; count and exits are those of now.
    #[inline(always)]
    pub fn until(&self, end: u64) -> Cost {
        self.until_counted(end, kernel_count())
    }

    /// As [`Start::until`], where the count was this.
    #[inline(always)]
    pub fn until_counted(&self, end: u64, kernel: u64) -> Cost {
        Cost { ticks: end - self.tsc, kernel: between(self.kernel, kernel).0, exits: exits() - self.exits }
    }
}

/// Runs something once between two readings.
pub fn once(work: impl FnOnce() -> Result<(), Fault>) -> Result<Cost, Fault> {
    let start = Start::now();
    work()?;
    let end = tsc();
    let cost = start.until(end);
    Ok(Cost { ticks: cost.ticks - clock_cost(), ..cost })
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
    let mut best = Cost::MOST;
    for _ in 0..RUNS {
        let state = before()?;
        best = least(best, once(|| work(&state))?);
        after(state)?;
    }
    Ok(best)
}

/// Reports a row.
pub fn tell(root: &Root, operation: &str, cost: Cost) {
    let Cost { ticks: instructions, kernel, exits } = cost;
    let (kernel, writes, interrupts) = (counted(kernel), None, None);
    root.record(&Record::Bench { operation: operation.into(), instructions, kernel, exits, writes, interrupts });
}

/// Reports a row of what the kernel alone does.
pub fn tell_kernel(root: &Root, operation: &str, ticks: u64) {
    tell(root, operation, Cost { ticks, kernel: ticks, exits: 0 });
}

/// Reports a row of what are no instructions.
pub fn tell_figure(root: &Root, operation: &str, instructions: u64) {
    let (kernel, writes, interrupts) = (None, None, None);
    root.record(&Record::Bench { operation: operation.into(), instructions, kernel, exits: 0, writes, interrupts });
}

/// Reports for how long the kernel lock was held at most, since the boot.
pub fn tell_longest_hold(root: &mut Root, load: &str) -> Result<(), Fault> {
    let slot = root.slot();
    let machine: Cap<Machine> = Slot::root(slots::MARKET).cap();
    let frame = machine.statistics_page(slot)?;
    let address = root.window(1);
    frame.map(own::VM, address, Rights::READ)?;
    let ticks = word(address, stats_page::LONGEST_HOLD);
    tell_kernel(root, &alloc::format!("longest hold of the kernel lock, {load}"), ticks);
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
    /// Ticks of the clock: instructions.
    pub ticks: u64,
    /// Exits of the VM meanwhile.
    pub exits: u64,
    /// Writes to registers of devices, the kernel's among them where somebody counts.
    pub writes: u64,
    /// Interrupts of devices.
    pub interrupts: u64,
    /// Instructions of the kernel among the former; 0 where nobody counts.
    pub kernel: u64,
}

impl core::ops::Add for IoCost {
    type Output = IoCost;

    fn add(self, other: IoCost) -> IoCost {
        IoCost {
            ticks: self.ticks + other.ticks,
            exits: self.exits + other.exits,
            writes: self.writes + other.writes,
            interrupts: self.interrupts + other.interrupts,
            kernel: self.kernel + other.kernel,
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

/// The count as the stretch of a [`Meter`] began: here, so that no instruction of it puts it elsewhere.
static BEFORE: AtomicU64 = AtomicU64::new(0);

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
        self.before = IoCost { exits, writes, interrupts, ..IoCost::default() };
        // The former is written before this asks, and so not within the stretch.
        ask(&BEFORE);
        self.before.ticks = tsc();
    }

    /// A stretch ends.
    #[inline(always)]
    pub fn stop(&mut self) {
        let (end, after) = (tsc(), kernel_count());
        let (sum, before) = (&mut self.sum, &self.before);
        let own_writes = WRITES.load(Ordering::Relaxed) - before.writes;
        let (kernel, writes) = between(BEFORE.load(Ordering::Relaxed), after);
        sum.ticks += (end - before.ticks).saturating_sub(clock_cost() + own_writes);
        sum.writes += own_writes + writes;
        sum.exits += exits() - before.exits;
        sum.interrupts += (self.interrupts)() - before.interrupts;
        sum.kernel += kernel;
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
        kernel: counted(cost.kernel / operations),
        exits: cost.exits.div_ceil(operations),
        writes: Some(cost.writes * 1000 / operations),
        interrupts: Some(cost.interrupts * 1000 / operations),
    });
}
