//! A function that interrupts without end, in and out of the waits of its VM, and who shares the core with that.

use crate::station::Bench;
use crate::{Check, refused};
use alloc::format;
use cap_spec::abi::{ExitKind, stats_page};
use guests::root::{set_word, tsc, word};
use guests::{children, interrupted};
use userlib::cap::{Cap, Frame, Rights, own};

/// Vector of the stormer's interrupt.
const VECTOR: u8 = 0x51;
/// Registers of a virtual function that raise its causes and unmask them (82576 datasheet, 8.27: VTEICS, VTEIMS): in the
/// second page of BAR 0.
const RAISE: u64 = 0x520;
const UNMASK: u64 = 0x524;
/// How long it goes on, and the period of everybody.
const MS: u64 = 100;
const PERIOD_MS: u64 = 10;
/// NMIs of a neighbour in a period that are not the storm's: the end of its budget, the root VM's time, and that a stormer
/// without budget has some again.
const OTHERS: u64 = 3;

/// A VM waits for its function, which never ceases to interrupt, with a tenth of the core: once it is used up it stays out,
/// woken or not. Its neighbour, who makes the function do so, takes at most one NMI for each of the waits.
pub fn a_storm_of_interrupts_costs_a_neighbour_one_nmi_in_a_wait(bench: &mut Bench) -> Check {
    let told = refused("the storm is set up");
    let ms = bench.root.tsc_hz / 1000;
    let part = |percent: u64| PERIOD_MS * ms * percent / 100;
    let (function, irq) = (bench.stations[1].function, bench.stations[1].irq);
    let root = &mut *bench.root;

    let (page, waits) = root.shared_page().map_err(&told)?;
    // It ends its interrupts.
    set_word(waits, 0x20, 1);
    let stormer = root.child(interrupted::waits(), 2, &[page], 0, part(10), PERIOD_MS * ms).map_err(&told)?;
    irq.unbind().map_err(&told)?;
    irq.bind(stormer.vcpu, VECTOR).map_err(&told)?;

    let (page, rings) = root.shared_page().map_err(&told)?;
    set_word(rings, 0x10, RAISE);
    set_word(rings, 0x18, UNMASK);
    let registers: Cap<Frame> = function.bar(0, 1, root.slot(), 1).map_err(&told)?;
    let neighbour = root.child(children::rings(), 1, &[page, registers], 0, part(40), PERIOD_MS * ms).map_err(&told)?;
    let statistics = root.window(1);
    let frame = neighbour.vm.statistics_page(root.slot()).map_err(&told)?;
    frame.map(own::VM, statistics, Rights::READ).map_err(&told)?;

    let nmis = || word(statistics, stats_page::EXITS + ExitKind::Nmi as usize * 8);
    let read = || [nmis(), word(waits, 8), word(rings, 0), word(waits, 0x800 + usize::from(VECTOR) * 8)];
    for child in [&stormer, &neighbour] {
        root.launch(child).map_err(&told)?;
    }
    sleep_until(tsc() + 2 * PERIOD_MS * ms);
    let before = read();
    sleep_until(tsc() + MS * ms);
    let after = read();
    let [nmis, waits, rings, interrupts] = core::array::from_fn(|at| after[at] - before[at]);
    root.text(&format!("devices: {nmis} NMIs, {waits} waits, {interrupts} interrupts, {rings} messages\n"));
    for child in [&stormer, &neighbour] {
        child.time.delete().map_err(&told)?;
        child.block.revoke().map_err(&told)?;
    }
    let most = waits + OTHERS * MS / PERIOD_MS;
    if nmis > most || waits < 50 || interrupts < 50 || rings < 10 * most {
        return Err(format!("{nmis} NMIs in {waits} waits, {interrupts} interrupts, {rings} messages"));
    }
    Ok(())
}

/// Sleeps, also if its own functions wake it.
fn sleep_until(deadline: u64) {
    while tsc() < deadline {
        let _ = own::VCPU.wait(1 << 63, deadline);
    }
}
