//! That CPU time is delivered in every period, whatever neighbours do, and that idle cores cost nothing.

use alloc::format;
use alloc::vec::Vec;
use cap_spec::abi::{ExitKind, Rights, slots, stats_page};
use core::arch::asm;
use guests::children::{self, at, watcher};
use guests::interrupted;
use guests::root::{Child, Root, tsc, word};
use guests::switched::at as state;
use userlib::cap::{Cap, Machine, Slot, Untyped, own};

use crate::keeping::Keeper;
use crate::{Check, end, last_core, micros, set_word, sleep, told};

/// A period may come up short by this many microseconds.
pub const SHORT_MICROS: u64 = 20;
/// Periods in 100 ms.
const PERIODS: u64 = 10;

/// Ticks between two readings of the buyer's clock that count as away, if an instruction of another core is no time for
/// it: more than its loop takes, less than any visit to the kernel.
const AWAY: u64 = 300;

/// A child on a core for a part of every 10 ms, and its page.
pub fn neighbour(root: &mut Root, code: &[u8], core: u16, percent: u64) -> Result<(Child, u64), alloc::string::String> {
    neighbour_every(root, code, core, percent, 10_000)
}

/// As [`neighbour`], for a part of every so many microseconds.
fn neighbour_every(
    root: &mut Root,
    code: &[u8],
    core: u16,
    percent: u64,
    period_micros: u64,
) -> Result<(Child, u64), alloc::string::String> {
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, period_micros);
    let child = root.child(code, 1, &[page], core, period * percent / 100, period).map_err(told("child"))?;
    let base: Cap<Untyped> = Slot::in_node(child.cnode.slot().index(), slots::BASE).cap();
    base.retype::<Untyped>(15, Slot::in_node(child.cnode.slot().index(), 24)).map_err(told("memory"))?;
    Ok((child, address))
}

/// A buyer of 30 % beside neighbours on its core and on the other one that spin with interrupts off, sleep and wake as
/// often as they can, with periods a tenth of the buyer's and with every interrupt pending, and hold the kernel's lock by
/// making and revoking objects: no period comes up more than 20 us short, and no 100 ms more than 1 %.
///
/// On one core the buyer's own clock is the judge of both. On two, the emulator lets an instruction of one core be time
/// for the other, so that a gap must be longer to count as one, and of the 20 us the kernel's own figure is the judge.
pub fn cpu_time_is_delivered(root: &mut Root) -> Check {
    let core = last_core(root);
    let alone = root.cores == 1;
    let (victim, seen) = neighbour(root, children::periods(), core, 30)?;
    let period = micros(root, 10_000);
    let gap = if alone { AWAY } else { micros(root, 60) };
    for (offset, value) in [(at::PERIOD, period), (at::BUDGET, period * 30 / 100), (at::GAP, gap)] {
        set_word(seen, offset, value);
    }
    let mut neighbours = Vec::new();
    for (code, percent, every) in [
        (children::spin(), 8, 10_000),
        (children::storm(), 10, 10_000),
        (children::storm(), 10, 1_000),
        (children::pending(), 10, 1_000),
        (children::churn(), 10, 10_000),
    ] {
        neighbours.push(neighbour_every(root, code, core, percent, every)?);
    }
    if !alone {
        neighbours.push(neighbour(root, children::churn(), 0, 30)?);
        neighbours.push(neighbour(root, children::storm(), 0, 20)?);
    }
    root.launch(&victim).map_err(told("launch"))?;
    for (child, _) in &neighbours {
        root.launch(child).map_err(told("launch"))?;
    }
    sleep(root, 350_000);
    let read = |offset| word(seen, offset);
    let (periods, stretches) = (read(at::PERIODS), read(at::STRETCHES));
    let (worst, worst_stretch) = (read(at::SHORT), read(at::STRETCH_SHORT));
    if periods < 3 * PERIODS || stretches < 3 {
        return Err(format!("only {periods} periods and {stretches} stretches"));
    }
    if alone && worst > micros(root, SHORT_MICROS) {
        return Err(format!("a period of {periods} came up {worst} ticks short"));
    }
    let one_percent = period * 30 / 100 * PERIODS / 100;
    if worst_stretch > one_percent {
        return Err(format!("100 ms came up {worst_stretch} ticks short, {one_percent} are allowed"));
    }
    for (number, &(_, page)) in neighbours.iter().enumerate() {
        if word(page, 0) < 20 {
            return Err(format!("neighbour {number} made {} rounds only", word(page, 0)));
        }
    }
    kernel_counts_no_shortfall(root)?;
    end(&victim)?;
    neighbours.iter().try_for_each(|(child, _)| end(child))
}

/// A buyer of 30 % of a core that nobody else wants is given that, and no more: in no period 20 us less or 20 us more.
pub fn budget_is_also_the_most(root: &mut Root) -> Check {
    let (child, seen) = neighbour(root, children::periods(), last_core(root), 30)?;
    let period = micros(root, 10_000);
    // While the root VM sleeps, no other core executes anything: the child's clock is its own.
    for (offset, value) in [(at::PERIOD, period), (at::BUDGET, period * 30 / 100), (at::GAP, 2_000)] {
        set_word(seen, offset, value);
    }
    root.launch(&child).map_err(told("launch"))?;
    sleep(root, 350_000);
    let (periods, short, over) = (word(seen, at::PERIODS), word(seen, at::SHORT), word(seen, at::OVER));
    let most = micros(root, SHORT_MICROS);
    if periods < 3 * PERIODS || short > most || over > most {
        return Err(format!("of {periods} periods one came up {short} ticks short, and one had {over} too many"));
    }
    end(&child)
}

/// A VM that owns its whole core is never called by the kernel; one that has half of it is, at least once a period. Its own
/// clock sees that, and its statistics page.
pub fn whole_core_is_tickless(root: &mut Root) -> Check {
    const SLEEP_MICROS: u64 = 200_000;
    // Readings while the root VM falls asleep and wakes up: its instructions are time on the other core, too.
    const OTHERS: u64 = 8;
    if root.cores == 1 {
        // A part of the only core is the root VM's.
        return Ok(());
    }
    let period = micros(root, 10_000);
    for (percent, least, most) in [(100, 0, 0), (50, 20, u64::MAX)] {
        let (page, seen) = root.shared_page().map_err(told("page"))?;
        set_word(seen, watcher::GAP, AWAY);
        let (core, budget) = (last_core(root), period * percent / 100);
        let child = root.child(children::gaps(), 1, &[page], core, budget, period).map_err(told("child"))?;
        let statistics = statistics_of(root, &child)?;
        root.launch(&child).map_err(told("launch"))?;
        let nmis = stats_page::EXITS + ExitKind::Nmi as usize * 8;
        let read = || [word(statistics, nmis), word(seen, watcher::GAPS), word(seen, watcher::ROUNDS)];
        sleep(root, 20_000);
        let before = read();
        sleep(root, SLEEP_MICROS);
        let after = read();
        let [nmis, gaps, rounds] = core::array::from_fn(|at| after[at] - before[at]);
        if nmis < least || nmis > most || gaps < least || gaps > most.saturating_add(OTHERS) || rounds < 1_000 {
            return Err(format!("with {percent} %: {nmis} NMIs and {gaps} gaps in {rounds} readings"));
        }
        end(&child)?;
    }
    Ok(())
}

/// A VM that owns its whole core halts until its timer comes, again and again: neither is an exit. (To arm the timer is
/// one, of an MSR, on a core that others have used.)
pub fn halted_whole_core_wakes_with_no_exit(root: &mut Root) -> Check {
    const VECTOR: u8 = 0x41;
    const WAIT_MICROS: u64 = 100;
    const SLEEP_MICROS: u64 = 100_000;
    if root.cores == 1 {
        // A part of the only core is the root VM's.
        return Ok(());
    }
    let (page, seen) = root.shared_page().map_err(told("page"))?;
    let counts = guests::timer::counts_in(micros(root, WAIT_MICROS), micros(root, 50_000));
    for (offset, value) in [(state::VECTOR, VECTOR.into()), (state::UNIT_COUNTS, counts), (state::END, 1)] {
        set_word(seen, offset, value);
    }
    let (core, period) = (last_core(root), micros(root, 10_000));
    let child = root.child(interrupted::halts(), 2, &[page], core, period, period).map_err(told("child"))?;
    let statistics = statistics_of(root, &child)?;
    root.launch(&child).map_err(told("launch"))?;
    let read = || {
        let kinds = (0..32).filter(|kind| *kind != ExitKind::Msr as usize);
        let exits: u64 = kinds.map(|kind| word(statistics, stats_page::EXITS + kind * 8)).sum();
        let came = word(seen, state::COUNTS + usize::from(VECTOR) * 8);
        [exits, word(seen, state::ROUNDS), came]
    };
    sleep(root, 20_000);
    let before = read();
    sleep(root, SLEEP_MICROS);
    let after = read();
    let [exits, rounds, came] = core::array::from_fn(|at| after[at] - before[at]);
    let most = SLEEP_MICROS / WAIT_MICROS;
    if exits != 0 || rounds > most + 1 || rounds < most * 9 / 10 || came.abs_diff(rounds) > 1 {
        return Err(format!("{exits} exits, {rounds} waits and {came} interrupts where there is time for {most}"));
    }
    end(&child)
}

/// A child's statistics page, where the root VM sees it.
fn statistics_of(root: &mut Root, child: &Child) -> Result<u64, alloc::string::String> {
    let frame = child.vm.statistics_page(root.slot()).map_err(told("statistics"))?;
    let statistics = root.window(1);
    frame.map(own::VM, statistics, Rights::READ).map_err(told("statistics"))?;
    Ok(statistics)
}

/// No period of anybody came up more than 20 us short since the start, says the kernel.
fn kernel_counts_no_shortfall(root: &mut Root) -> Check {
    let machine: Cap<Machine> = Slot::root(slots::MARKET).cap();
    let frame = machine.statistics_page(root.slot()).map_err(told("statistics"))?;
    let at = root.window(1);
    frame.map(own::VM, at, Rights::READ).map_err(told("statistics"))?;
    let short = word(at, stats_page::WORST_SHORTFALL);
    if short > micros(root, SHORT_MICROS) {
        return Err(format!("the kernel says that a period came up {short} ticks short"));
    }
    frame.slot().delete().map_err(told("statistics"))
}

/// An attack beside two victims on the boot core: one keeps its CPU time, judged as in [`cpu_time_is_delivered`], the
/// other what is in its memory and registers.
pub fn beside_a_victim(root: &mut Root, attack: fn(&mut Root) -> Check) -> Check {
    let (victim, seen) = neighbour(root, children::periods(), 0, 20)?;
    let period = micros(root, 10_000);
    let alone = root.cores == 1;
    let gap = if alone { 2_000 } else { micros(root, 60) };
    for (offset, value) in [(at::PERIOD, period), (at::BUDGET, period * 20 / 100), (at::GAP, gap)] {
        set_word(seen, offset, value);
    }
    root.launch(&victim).map_err(told("launch"))?;
    let keeper = Keeper::start(root, 5)?;
    attack(root)?;
    sleep(root, 130_000);
    keeper.expect_whole(root)?;
    keeper.end(root)?;
    let (periods, short) = (word(seen, at::PERIODS), word(seen, at::SHORT));
    if periods < 10 || alone && short > micros(root, SHORT_MICROS) {
        return Err(format!("the victim came up {short} ticks short in {periods} periods"));
    }
    kernel_counts_no_shortfall(root)?;
    end(&victim)
}

/// Nobody but the root VM wants a core. The clock counts the instructions of all cores, so a known number of them, in one
/// stretch of the root VM's time, takes just so many ticks only if the other cores execute none.
pub fn idle_cores_execute_nothing(root: &mut Root) -> Check {
    const LOOPS: u64 = 30_000;
    const INSTRUCTIONS: u64 = 2 * LOOPS;
    let mut least = u64::MAX;
    for _ in 0..8 {
        // It wakes to a whole budget.
        sleep(root, 4_000);
        let start = tsc();
        // SAFETY: counts a register down.
        unsafe { asm!("2:", "dec {0}", "jnz 2b", inout(reg) LOOPS => _, options(nomem, nostack)) };
        least = least.min(tsc() - start);
    }
    if !(INSTRUCTIONS..=INSTRUCTIONS + INSTRUCTIONS / 50).contains(&least) {
        return Err(format!("{INSTRUCTIONS} instructions took {least} ticks"));
    }
    Ok(())
}
