//! What a switch between two VMs keeps apart: a check for each kind of state and of interrupt.

use alloc::format;
use cap_spec::abi::{Register, Rights, StopReason, handler_page, slots};
use guests::interrupted;
use guests::root::{Root, tsc, word};
use guests::switched::at;
use userlib::cap::{Cap, Frame, Slot, Untyped, VcpuPage, own};

use crate::{
    Check, PERIOD_MICROS, Setup, end, expect_rounds, last_core, micros, second_vcpu, set_word, side_by_side, sleep,
    told,
};

/// Two VMs on one core, each with values of its own in one kind of state.
pub fn row(root: &mut Root, code: &[u8]) -> Check {
    // Numbers that differ in every byte, and in the low bits from which small fields are made.
    let setups: [Setup<'_>; 2] = [(code, &[(at::NUMBER, 0x1234_5000)]), (code, &[(at::NUMBER, 0x1335_5101)])];
    let (children, pages) = side_by_side(root, &setups)?;
    sleep(root, 30_000);
    pages.iter().try_for_each(|&page| expect_rounds(page, 50))?;
    children.iter().try_for_each(end)
}

/// What a child with a timer is told: an interrupt is late by a period at most, as it may be out.
fn timer_words(root: &Root, vector: u8, ends: u64) -> [(usize, u64); 5] {
    let ticks = micros(root, 100);
    let counts = guests::timer::counts_in(ticks, micros(root, 50_000));
    let late = micros(root, 2 * PERIOD_MICROS);
    [
        (at::VECTOR, vector.into()),
        (at::END, ends),
        (at::UNIT_COUNTS, counts),
        (at::UNIT_TICKS, ticks),
        (at::TOO_LATE, late),
    ]
}

/// How often a vector came to a child.
fn came(page: u64, vector: u8) -> u64 {
    word(page, at::COUNTS + usize::from(vector) * 8)
}

/// Nothing came to a child but these vectors.
fn expect_no_others(page: u64, vectors: &[u8]) -> Check {
    match (32..=255).find(|vector| !vectors.contains(vector) && came(page, *vector) != 0) {
        Some(vector) => Err(format!("vector {vector:#x} is its neighbour's")),
        None => Ok(()),
    }
}

/// Two VMs with one-shot timers: what is left of a count goes on while its VM is out, an expiry meanwhile is pending, and
/// each comes once, to its owner.
pub fn timers_are_switched(root: &mut Root) -> Check {
    let vectors = [0x41, 0x52];
    let words = vectors.map(|vector| timer_words(root, vector, 1));
    let setups = [(interrupted::timers(), &words[0][..]), (interrupted::timers(), &words[1][..])];
    let (children, pages) = side_by_side(root, &setups)?;
    sleep(root, 200_000);
    for (&page, vector) in pages.iter().zip(vectors) {
        expect_rounds(page, 30)?;
        expect_no_others(page, &[vector])?;
        let (prompt, pending) = (word(page, at::PROMPT), word(page, at::PENDING));
        if prompt < 5 || pending < 5 {
            return Err(format!("{prompt} timers expired while it ran, {pending} while it was out"));
        }
    }
    children.iter().try_for_each(end)
}

/// A VM that leaves an interrupt of a high vector in service, and a neighbour with a low one.
pub fn interrupts_in_service_block_nobody_else(root: &mut Root) -> Check {
    let words = [timer_words(root, 0xf0, 0), timer_words(root, 0x41, 1)];
    let setups = [(interrupted::holds_in_service(), &words[0][..]), (interrupted::timers(), &words[1][..])];
    let (children, pages) = side_by_side(root, &setups)?;
    sleep(root, 100_000);
    expect_rounds(pages[0], 50)?;
    if came(pages[0], 0xf0) < 2 {
        return Err("the high vector was never in service".into());
    }
    expect_rounds(pages[1], 15)?;
    expect_no_others(pages[0], &[0xf0])?;
    expect_no_others(pages[1], &[0x41])?;
    children.iter().try_for_each(end)
}

/// Two VMs with interrupts off and vectors requested: each gets its own when it lets them in, and no other.
pub fn requested_interrupts_are_kept(root: &mut Root) -> Check {
    let vectors = [[0x20, 0x61, 0x9a, 0xfe], [0x25, 0x66, 0xa0, 0xff]];
    let words = vectors.map(|vectors: [u8; 4]| {
        let mut words = [(at::END, 1); 5];
        for (index, vector) in vectors.into_iter().enumerate() {
            words[index] = (at::REQUESTS + 8 * index, vector.into());
        }
        words
    });
    let setups = [(interrupted::requests(), &words[0][..]), (interrupted::requests(), &words[1][..])];
    let (children, pages) = side_by_side(root, &setups)?;
    sleep(root, 60_000);
    for (&page, vectors) in pages.iter().zip(&vectors) {
        expect_rounds(page, 10)?;
        expect_no_others(page, vectors)?;
    }
    children.iter().try_for_each(end)
}

/// A VM makes everything dirty that it shares with others in turn, and revokes what it is made of, so that it dies while
/// its core holds its state. Its neighbour, which is next on that core, finds reset values and gets no interrupt but its
/// own. The neighbour is one that uses much of that itself, then one that uses nothing of it.
pub fn dead_vms_state_reaches_nobody(root: &mut Root) -> Check {
    const OWN: u8 = 0x20;
    let mark = root.mark();
    dies_beside(root, interrupted::finds_nothing(), &[OWN])?;
    root.return_to(mark).map_err(told("slots"))?;
    dies_beside(root, interrupted::finds_nothing_plainly(), &[])
}

/// A VM dies dirty beside a neighbour that gets these vectors by itself.
fn dies_beside(root: &mut Root, neighbour: &[u8], own: &[u8]) -> Check {
    const TIMER: u8 = 0x42;
    let words = [timer_words(root, TIMER, 0), timer_words(root, own.first().copied().unwrap_or(0), 1)];
    let setups = [(interrupted::dies_dirty(), &words[0][..]), (neighbour, &words[1][..])];
    let (children, pages) = side_by_side(root, &setups)?;
    for _ in 0..100 {
        if word(pages[1], at::ROUNDS) >= 10 {
            break;
        }
        sleep(root, 1_000);
    }
    expect_rounds(pages[1], 10)?;
    let before = word(pages[1], at::ROUNDS);
    set_word(pages[0], at::GO, 1);
    // The root VM sleeps until long after, so that on one core, too, the neighbour is next.
    sleep(root, 30_000);
    if word(pages[0], at::ROUNDS) != 1 || word(pages[0], at::WRONG) != 0 {
        return Err("it did not die".into());
    }
    if came(pages[0], 0xf0) != 1 {
        return Err("nothing was in service".into());
    }
    expect_rounds(pages[1], before + 100)?;
    expect_no_others(pages[1], own)?;
    children.iter().try_for_each(end)
}

/// A VM whose IDT is not there when an interrupt is delivered: it stops, the VM's second Vcpu mends it and starts it
/// again, and the interrupt, which the APIC has given out already, comes then, once. An interrupt by an instruction is
/// executed again.
pub fn cut_off_events_are_injected_again(root: &mut Root) -> Check {
    const INTERRUPT: u8 = 0x50;
    const BY_INSTRUCTION: u8 = 0x51;
    let (page, address) = root.shared_page().map_err(told("page"))?;
    set_word(address, at::REQUESTS, INTERRUPT.into());
    set_word(address, at::END, 1);
    let period = micros(root, 4_000);
    let core = last_core(root);
    let child = root.child(interrupted::cut_off(), 2, &[page], core, period / 4, period).map_err(told("child"))?;
    let handler: Cap<Frame> = child.vcpu.page(VcpuPage::Handler, root.slot()).map_err(told("handler page"))?;
    let stopped = root.window(1);
    handler.map(own::VM, stopped, Rights::READ).map_err(told("handler page"))?;
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    base.retype::<Frame>(12, Slot::in_node(node, interrupted::FAR_IDT_SLOT)).map_err(told("frame"))?;
    let (second, time) = second_vcpu(root, &child, period / 4, period)?;
    second.set_register(Register::Rdi, 1).map_err(told("register"))?;
    child.vcpu.set_handler(Slot::in_node(node, guests::root::CHILD_CHANNEL).cap()).map_err(told("handler"))?;
    root.launch(&child).map_err(told("launch"))?;
    for (stop, vector) in [(1, INTERRUPT), (2, BY_INSTRUCTION)] {
        let deadline = tsc() + micros(root, 100_000);
        while word(stopped, handler_page::COUNT) < stop && tsc() < deadline {
            let _ = own::VCPU.wait(1, deadline);
        }
        let (count, reason) = (word(stopped, handler_page::COUNT), word(stopped, handler_page::REASON));
        if count != stop || reason != StopReason::NestedFault as u64 {
            return Err(format!("stop {count} for reason {reason} instead of {stop} for a fault in delivery"));
        }
        if came(address, vector) != 0 {
            return Err("the event came before its descriptor was there".into());
        }
        set_word(address, at::MEND, stop);
    }
    sleep(root, 20_000);
    expect_rounds(address, 10)?;
    expect_no_others(address, &[INTERRUPT, BY_INSTRUCTION])?;
    let counts = [INTERRUPT, BY_INSTRUCTION].map(|vector| came(address, vector));
    // QEMU 10 delivers what was injected as an external interrupt once more if its time slice ends before the next exit
    // (`helper_vmrun` leaves the exception index set). That the kernel gives it once is the fake machine's business.
    if !matches!(counts, [1 | 2, 1]) {
        return Err(format!("the events came {counts:?} times"));
    }
    time.delete().map_err(told("time"))?;
    end(&child)
}
