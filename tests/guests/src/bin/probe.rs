//! The probe: a root image that checks what only whole machines show, one check after the other, and reports each on a
//! line of its own: `probe NAME: ok` or `probe NAME: FAILED: why`.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use cap_spec::abi::{Error, ROOT_BOOT_INFO, Register, Rights, boot_info, handler_page, slots, stats_page};
use guests::children;
use guests::root::{CHILD_BITS, Child, Root, SHARED, tsc, word};
use guests::switched::{self, at};
use proto::host::Record;
use userlib::cap::{CNode, Cap, CpuTime, Fault, Frame, Slot, Untyped, Vcpu, VcpuPage, Vm, own};

userlib::entry!(main);

/// What went wrong in a check.
type Check = Result<(), String>;

/// A check by its name.
type Named = (&'static str, fn(&mut Root) -> Check);

const CHECKS: &[Named] = &[
    ("general_registers_are_switched", |root| row(root, switched::general_registers())),
    ("vector_registers_are_switched", |root| row(root, switched::vector_registers())),
    ("control_words_are_switched", |root| row(root, switched::control_words())),
    ("protection_keys_are_switched", |root| row(root, switched::protection_keys())),
    ("extended_control_is_switched", |root| row(root, switched::extended_control())),
    ("debug_registers_are_switched", |root| row(root, switched::debug_registers())),
    ("tsc_aux_is_switched", |root| row(root, switched::tsc_aux())),
    ("task_priority_is_switched", |root| row(root, switched::task_priority())),
    ("hidden_state_is_switched", |root| row(root, switched::hidden_state())),
    ("timers_are_switched", timers_are_switched),
    ("interrupts_in_service_block_nobody_else", interrupts_in_service_block_nobody_else),
    ("requested_interrupts_are_kept", requested_interrupts_are_kept),
    ("cut_off_events_are_injected_again", cut_off_events_are_injected_again),
    ("cpu_time_is_delivered", cpu_time_is_delivered),
    ("spinner_is_taken_back", spinner_is_taken_back),
    ("shootdown_reaches_a_running_core", shootdown_reaches_a_running_core),
    ("races_of_two_cores", races_of_two_cores),
    ("hostile_market", hostile_market),
    ("stopped_vm_is_reported", stopped_vm_is_reported),
];

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let mut failed = 0;
    for (name, check) in CHECKS {
        let mark = root.mark();
        match check(&mut root) {
            Ok(()) => root.text(&format!("probe {name}: ok\n")),
            Err(why) => {
                failed += 1;
                // What it leaves does not spoil the next one.
                let _ = root.return_to(mark);
                root.text(&format!("probe {name}: FAILED: {why}\n"));
            }
        }
    }
    let reason = if failed == 0 { String::new() } else { format!("{failed} checks failed") };
    root.record(&Record::End { t: 0, status: u8::from(failed != 0), reason });
    root.exit(if failed == 0 { 0x10 } else { 0x11 })
}

/// Ticks of a span in microseconds.
fn micros(root: &Root, micros: u64) -> u64 {
    root.tsc_hz * micros / 1_000_000
}

/// Sleeps without an event.
fn sleep(root: &Root, micros_to_sleep: u64) {
    let _ = own::VCPU.wait(1 << 63, tsc() + micros(root, micros_to_sleep));
}

fn told(what: &'static str) -> impl Fn(Fault) -> String {
    move |fault| format!("{what}: {fault:?}")
}

/// Takes everything of a child back, so that the next check has its time.
fn end(child: &Child) -> Check {
    child.time.delete().map_err(told("time"))?;
    child.block.revoke().map_err(told("block"))
}

/// Code for a child, and what its shared page says to it.
type Setup<'a> = (&'a [u8], &'a [(usize, u64)]);

/// Children side by side on the last core, each with a page of its own that the root VM sees, for a quarter of the time.
fn side_by_side(root: &mut Root, setups: &[Setup<'_>]) -> Result<(Vec<Child>, Vec<u64>), String> {
    let (mut children, mut pages) = (Vec::new(), Vec::new());
    let core = last_core(root);
    let (budget, period) = (micros(root, 500), micros(root, PERIOD_MICROS));
    for &(code, words) in setups {
        let (page, address) = root.shared_page().map_err(told("page"))?;
        words.iter().for_each(|&(offset, value)| set_word(address, offset, value));
        let child = root.child(code, 2, &[page], core, budget, period).map_err(told("child"))?;
        root.launch(&child).map_err(told("launch"))?;
        children.push(child);
        pages.push(address);
    }
    Ok((children, pages))
}

/// Period of the children of [`side_by_side`].
const PERIOD_MICROS: u64 = 2_000;

/// The root VM's neighbours are on another core if there is one.
fn last_core(root: &Root) -> u16 {
    (root.cores - 1) as u16
}

/// Writes a word of a page that is shared with a child.
fn set_word(page: u64, offset: usize, value: u64) {
    // SAFETY: the page is mapped there, and nobody refers to it.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(page as usize + offset).write_volatile(value) };
}

/// A child has made at least so many rounds and found nothing wrong.
fn expect_rounds(page: u64, least: u64) -> Check {
    let (rounds, wrong) = (word(page, at::ROUNDS), word(page, at::WRONG));
    if wrong != 0 {
        return Err(format!("comparison {wrong} failed after {rounds} rounds"));
    }
    if rounds < least { Err(format!("only {rounds} rounds")) } else { Ok(()) }
}

/// Two VMs on one core, each with values of its own in one kind of state.
fn row(root: &mut Root, code: &[u8]) -> Check {
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
fn timers_are_switched(root: &mut Root) -> Check {
    let vectors = [0x41, 0x52];
    let words = vectors.map(|vector| timer_words(root, vector, 1));
    let setups = [(switched::timers(), &words[0][..]), (switched::timers(), &words[1][..])];
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
fn interrupts_in_service_block_nobody_else(root: &mut Root) -> Check {
    let words = [timer_words(root, 0xf0, 0), timer_words(root, 0x41, 1)];
    let setups = [(switched::holds_in_service(), &words[0][..]), (switched::timers(), &words[1][..])];
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
fn requested_interrupts_are_kept(root: &mut Root) -> Check {
    let vectors = [[0x20, 0x61, 0x9a, 0xfe], [0x25, 0x66, 0xa0, 0xff]];
    let words = vectors.map(|vectors: [u8; 4]| {
        let mut words = [(at::END, 1); 5];
        for (index, vector) in vectors.into_iter().enumerate() {
            words[index] = (at::REQUESTS + 8 * index, vector.into());
        }
        words
    });
    let setups = [(switched::requests(), &words[0][..]), (switched::requests(), &words[1][..])];
    let (children, pages) = side_by_side(root, &setups)?;
    sleep(root, 60_000);
    for (&page, vectors) in pages.iter().zip(&vectors) {
        expect_rounds(page, 10)?;
        expect_no_others(page, vectors)?;
    }
    children.iter().try_for_each(end)
}

/// A VM whose IDT is not there when an interrupt is delivered: it stops, the VM's second Vcpu mends it and starts it
/// again, and the interrupt, which the APIC has given out already, comes then, once. An interrupt by an instruction is
/// executed again.
fn cut_off_events_are_injected_again(root: &mut Root) -> Check {
    const INTERRUPT: u8 = 0x50;
    const BY_INSTRUCTION: u8 = 0x51;
    let (page, address) = root.shared_page().map_err(told("page"))?;
    set_word(address, at::REQUESTS, INTERRUPT.into());
    set_word(address, at::END, 1);
    let period = micros(root, 4_000);
    let core = last_core(root);
    let child = root.child(switched::cut_off(), 2, &[page], core, period / 4, period).map_err(told("child"))?;
    let handler: Cap<Frame> = child.vcpu.page(VcpuPage::Handler, root.slot()).map_err(told("handler page"))?;
    let stopped = root.window(1);
    handler.map(own::VM, stopped, Rights::READ).map_err(told("handler page"))?;
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    base.retype::<Frame>(12, Slot::in_node(node, switched::FAR_IDT_SLOT)).map_err(told("frame"))?;
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
        if count != stop || reason != cap_spec::abi::StopReason::NestedFault as u64 {
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
    if counts != [1, 1] {
        return Err(format!("the events came {counts:?} times"));
    }
    time.delete().map_err(told("time"))?;
    end(&child)
}

/// Makes a second Vcpu of a child that starts at the same code, on core 0.
fn second_vcpu(root: &mut Root, child: &Child, budget: u64, period: u64) -> Result<(Cap<Vcpu>, Cap<CpuTime>), String> {
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    let second: Cap<Vcpu> =
        base.retype(0, Slot::in_node(node, switched::SECOND_VCPU_SLOT)).map_err(told("second Vcpu"))?;
    second.attach(child.vm).map_err(told("attach"))?;
    for (register, value) in [
        (Register::Rip, guests::root::CHILD_CODE),
        (Register::Cr3, 0x1000),
        (Register::Rsp, guests::root::CHILD_CODE + 0x1800),
    ] {
        second.set_register(register, value).map_err(told("register"))?;
    }
    let time: Cap<CpuTime> = root.core_time(0).split(budget, period, root.slot()).map_err(told("time"))?;
    second.bind_time(time).map_err(told("bind"))?;
    Ok((second, time))
}

/// A buyer of 30 % beside a neighbour that spins: it is current for its share in every stretch of 100 ms.
fn cpu_time_is_delivered(root: &mut Root) -> Check {
    let core = last_core(root);
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let (other, _) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, 10_000);
    let budget = period * 3 / 10;
    let victim = root.child(children::current(), 1, &[page], core, budget, period).map_err(told("victim"))?;
    let neighbour = root.child(children::spin(), 1, &[other], core, period / 2, period).map_err(told("neighbour"))?;
    root.launch(&victim).map_err(told("launch"))?;
    root.launch(&neighbour).map_err(told("launch"))?;
    sleep(root, 20_000);
    for stretch in 0..3 {
        let (from, start) = (word(address, 0), tsc());
        sleep(root, 100_000);
        let (got, took) = (word(address, 0) - from, tsc() - start);
        let due = (u128::from(took) * 3 / 10) as u64;
        // 1 % over 100 ms, and the ends of the stretch may cut a period.
        if got + due / 100 + micros(root, 100) < due {
            return Err(format!("stretch {stretch}: {got} of {due} ticks"));
        }
    }
    let slot = root.slot();
    let machine: Cap<userlib::cap::Machine> = Slot::root(slots::MARKET).cap();
    let frame = machine.statistics_page(slot).map_err(told("statistics"))?;
    let at = root.window(1);
    frame.map(own::VM, at, Rights::READ).map_err(told("statistics"))?;
    let short = word(at, stats_page::WORST_SHORTFALL);
    if short > micros(root, 20) {
        return Err(format!("a period came up {short} ticks short"));
    }
    end(&victim)?;
    end(&neighbour)
}

/// `cli; spin` on the root VM's own core: the root VM goes on, and can kill it.
fn spinner_is_taken_back(root: &mut Root) -> Check {
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, 10_000);
    let child = root.child(children::spin(), 1, &[page], 0, period / 2, period).map_err(told("child"))?;
    root.launch(&child).map_err(told("launch"))?;
    sleep(root, 30_000);
    if word(address, 0) == 0 {
        return Err("it never ran".into());
    }
    end(&child)?;
    let after = word(address, 0);
    sleep(root, 10_000);
    if word(address, 0) != after { Err("it runs after it was revoked".into()) } else { Ok(()) }
}

/// A page is taken away while a VM on another core reads it: the reader faults, and reads nothing of the new owner.
fn shootdown_reaches_a_running_core(root: &mut Root) -> Check {
    if root.cores < 2 {
        return Ok(());
    }
    let (count, address) = root.shared_page().map_err(told("page"))?;
    // 0x11_0000 is the counter; what is read lies outside of the ring window's first page.
    let lease: Cap<Untyped> = root.make(12).map_err(told("lease"))?;
    let frame: Cap<Frame> = lease.retype(12, root.slot()).map_err(told("frame"))?;
    let period = micros(root, 10_000);
    let child = root.child(children::reader(), 1, &[count], 1, period / 2, period).map_err(told("child"))?;
    frame.map(child.vm, 0x14_0000, Rights::READ).map_err(told("map"))?;
    root.launch(&child).map_err(told("launch"))?;
    sleep(root, 20_000);
    if word(address, 0) == 0 {
        return Err("the reader never ran".into());
    }
    lease.revoke().map_err(told("revoke"))?;
    let after = word(address, 0);
    sleep(root, 20_000);
    if word(address, 0) > after + 1 {
        return Err("the reader went on".into());
    }
    end(&child)
}

/// Two Vcpus of one VM on two cores, each mapping, unmapping, copying and deleting the same capabilities.
fn races_of_two_cores(root: &mut Root) -> Check {
    if root.cores < 2 {
        return Ok(());
    }
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, 4_000);
    let child = root.child(children::remap(), 1, &[page], 1, period / 2, period).map_err(told("child"))?;
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    base.retype::<Frame>(12, Slot::in_node(node, 24)).map_err(told("frame"))?;
    let (_, time) = second_vcpu(root, &child, period / 4, period)?;
    root.launch(&child).map_err(told("launch"))?;
    sleep(root, 60_000);
    if word(address, 0) < 50 {
        return Err(format!("only {} rounds", word(address, 0)));
    }
    time.delete().map_err(told("time"))?;
    end(&child)
}

/// A market that wants to see a running tenant: every way to keep a hand in it makes the launch fail, and afterwards
/// nothing that it holds reads or steers the tenant.
fn hostile_market(root: &mut Root) -> Check {
    let rights = Rights::READ | Rights::WRITE;
    let period = micros(root, 10_000);
    type Trick = fn(&mut Root, &Child) -> Result<(), Fault>;
    let tricks: &[(&str, Trick)] = &[
        ("a frame mapped in the market's VM", |root, child| {
            let inside = Slot::in_node(child.cnode.slot().index(), 19).cap::<Frame>();
            inside.unmap()?;
            let at = root.window(1);
            inside.map(own::VM, at, Rights::READ)
        }),
        ("a copy of a frame", |root, child| {
            let inside = Slot::in_node(child.cnode.slot().index(), 21).cap::<Frame>();
            root.slot().copy(inside, Rights::READ).map(drop)
        }),
        ("a copy of the address space", |root, child| root.slot().copy(child.vm, Rights::WRITE).map(drop)),
        ("a copy of the CNode", |root, child| root.slot().copy(child.cnode, Rights::all()).map(drop)),
        ("a copy of the Vcpu", |root, child| root.slot().copy(child.vcpu, Rights::all()).map(drop)),
        ("the info page", |root, child| child.vcpu.page(VcpuPage::Info, root.slot()).map(drop)),
        ("writable memory of the market's", |root, child| {
            let frame: Cap<Frame> = root.make(12)?;
            frame.map(child.vm, 0x18_0000, Rights::READ | Rights::WRITE)
        }),
        ("a second VM in the base", |_, child| {
            let node = child.cnode.slot().index();
            Slot::in_node(node, slots::BASE).cap::<Untyped>().retype::<Vm>(0, Slot::in_node(node, 40)).map(drop)
        }),
    ];
    for (what, trick) in tricks {
        let (page, _) = root.shared_page().map_err(told("page"))?;
        let child = root.child(children::count(), 1, &[page], 0, period / 10, period).map_err(told("child"))?;
        trick(root, &child).map_err(|fault| format!("{what}: {fault:?}"))?;
        match root.launch(&child) {
            Err(Fault { error: Error::NotConfined, .. }) => {}
            other => return Err(format!("{what}: launch says {other:?}")),
        }
        end(&child)?;
    }
    // An honest launch; then everything that the market still holds is tried.
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let child = root.child(children::count(), 1, &[page], 0, period / 10, period).map_err(told("child"))?;
    root.launch(&child).map_err(told("launch"))?;
    let slot = root.slot();
    let attempts = [
        ("its Vcpu", child.vcpu.stop()),
        ("its address space", page.map(child.vm, SHARED, rights)),
        ("its CNode", Slot::root(slot.index()).copy(child.cnode, Rights::all()).map(drop)),
        ("its block", child.block.retype::<Frame>(12, slot).map(drop)),
    ];
    for (what, outcome) in attempts {
        if outcome.is_ok() {
            return Err(format!("{what} is still in the market's hands"));
        }
    }
    sleep(root, 20_000);
    if word(address, 0) == 0 {
        return Err("the honest tenant never ran".into());
    }
    end(&child)
}

/// A VM that stops by itself is reported to its handler, with reason and registers.
fn stopped_vm_is_reported(root: &mut Root) -> Check {
    let period = micros(root, 10_000);
    // The reader has nothing to read: a nested page fault without an upcall.
    let (page, _) = root.shared_page().map_err(told("page"))?;
    let child = root.child(children::reader(), 1, &[page], 0, period / 10, period).map_err(told("child"))?;
    let handler: Cap<Frame> = child.vcpu.page(VcpuPage::Handler, root.slot()).map_err(told("handler page"))?;
    let at = root.window(1);
    handler.map(own::VM, at, Rights::READ).map_err(told("handler page"))?;
    let node: Cap<CNode> = child.cnode;
    child
        .vcpu
        .set_handler(Slot::in_node(node.slot().index(), guests::root::CHILD_CHANNEL).cap())
        .map_err(told("handler"))?;
    root.launch(&child).map_err(told("launch"))?;
    let events = own::VCPU.wait(1, tsc() + micros(root, 100_000)).map_err(told("wait"))?;
    if events == 0 || word(at, handler_page::COUNT) != 1 {
        return Err("the handler was not told".into());
    }
    let (reason, address) = (word(at, handler_page::REASON), word(at, handler_page::DETAIL));
    let rip = word(at, handler_page::REGISTERS + 16 * 8);
    if reason != cap_spec::abi::StopReason::NestedFault as u64 || address != 0x14_0000 {
        return Err(format!("reason {reason}, address {address:#x}"));
    }
    if !(guests::root::CHILD_CODE..guests::root::CHILD_CODE + 64).contains(&rip) {
        return Err(format!("rip {rip:#x}"));
    }
    let left = child.block.slot().identify().map_err(told("block"))?;
    if left.size_bits != CHILD_BITS || word(ROOT_BOOT_INFO, boot_info::RESTARTS) != 0 {
        return Err("the block or the root VM is not what it was".into());
    }
    end(&child)
}
