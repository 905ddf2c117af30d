//! That whoever uses up what can be split or bound meets refusals and nothing else, and that all of it comes back.

use alloc::format;
use alloc::string::String;
use cap_spec::abi::{Error, slots};
use guests::root::Root;
use userlib::arch::{disable_interrupts, enable_interrupts};
use userlib::cap::{Cap, CpuTime, Fault, IoPort, Irq, Slot, own};

use crate::{Check, last_core, micros, sleep, told};

/// What a split may be refused with when everything is used up: the last one when no such part is left.
const REFUSALS: [Error; 5] = [Error::InUse, Error::TooDeep, Error::NotAdmitted, Error::Forbidden, Error::OutOfRange];
/// More splits than any limit allows.
const ENOUGH: u64 = 200;

/// Splits a part off, as often as it goes and then as deep as it goes. Says how many there were.
fn split_up(
    root: &mut Root,
    what: &str,
    whole: Slot,
    mut split: impl FnMut(Slot, u64, Slot) -> Result<(), Fault>,
) -> Result<u64, String> {
    let mut made = 0;
    let mut refused = 0;
    for part in 0..ENOUGH {
        let to = root.slot();
        match split(whole, part, to) {
            Ok(()) => made += 1,
            Err(fault) if REFUSALS.contains(&fault.error) => refused += 1,
            Err(fault) => return Err(format!("{what}, part {part}: {fault:?}")),
        }
    }
    if made == 0 || refused == 0 {
        return Err(format!("{what}: {made} parts, {refused} refusals"));
    }
    // Part 3 of each is split off its own parent again and again.
    let mut parent = Slot::root(root.mark() - ENOUGH as u16 + 3);
    for depth in 0..ENOUGH {
        let to = root.slot();
        match split(parent, 3, to) {
            Ok(()) => parent = to,
            Err(fault) if REFUSALS.contains(&fault.error) && depth > 0 => return Ok(made + depth),
            Err(fault) => return Err(format!("{what}, depth {depth}: {fault:?}")),
        }
    }
    Err(format!("{what}: split without end"))
}

/// Routes, ports and CPU time are split up until they are refused, and every route is bound; then everything is given
/// back and can be had again.
pub fn exhaustion_ends_in_refusals(root: &mut Root) -> Check {
    let (irq, ports): (Cap<Irq>, Cap<IoPort>) = (Slot::root(slots::IRQ).cap(), Slot::root(slots::CONSOLE).cap());
    let period = micros(root, 10_000);
    let time = root.core_time(last_core(root));
    for round in 0..2 {
        let mark = root.mark();
        let routes =
            split_up(root, "routes", irq.slot(), |from, part, to| from.cap::<Irq>().split(part, 1, to).map(drop))?;
        split_up(root, "ports", ports.slot(), |from, part, to| {
            from.cap::<IoPort>().split(0x300 + part as u16, 1, to).map(drop)
        })?;
        split_up(root, "CPU time", time.slot(), |from, _, to| {
            // Each smaller than its parent, as deep as it goes.
            let amount = from.identify()?.amount.min(period / 50);
            from.cap::<CpuTime>().split(amount - amount / 20, period, to).map(drop)
        })?;
        // Every route that is a range of one and not split further; a handler that nobody installed ends what comes.
        let (mut bound, mut twice) = (0, 0);
        for part in 0..routes.min(24) as u16 {
            let route: Cap<Irq> = Slot::root(mark + part).cap();
            match route.bind(own::VCPU, 0x60) {
                Ok(()) => bound += 1,
                Err(Fault { error: Error::InUse | Error::Forbidden, .. }) => continue,
                Err(fault) => return Err(format!("route {part}: {fault:?}")),
            }
            twice += u64::from(route.bind(own::VCPU, 0x61).is_err_and(|fault| fault.error == Error::InUse));
        }
        if bound < 8 || twice != bound {
            return Err(format!("round {round}: {bound} routes bound, {twice} refused a second time"));
        }
        sleep(root, 20_000);
        root.return_to(mark).map_err(told("giving back"))?;
        // A route that led to a sleeper may have fired, and who has an interrupt to take does not sleep. The instruction
        // after the enabling one is still without.
        enable_interrupts();
        core::hint::spin_loop();
        disable_interrupts();
    }
    Ok(())
}
