//! The bench: measures the kernel's operations in instructions (TSC ticks under the instruction clock) and exits.
//!
//! A root image of its own. The kernel command line says what it measures: `bench=single` what one VM does by itself
//! (boot it with `root_budget_us=9000`, or what takes longer than the root VM's budget is counted with the wait for the
//! next period), `bench=vms` what takes several VMs, `bench=cores` what takes two cores, `bench=many` how many VMs fit.
//! Each row is the least of several runs, less what reading the clock costs.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use cap_spec::abi::{PRICE_BOARD, ROOT_BOOT_INFO, Rights, VCPU_BITS, VM_BITS, boot_info, slots};
use core::sync::atomic::{AtomicU64, Ordering};
use guests::children;
use guests::interrupt;
use guests::measure::{Cost, RUNS, Start, end, least, once, row, tell, tell_figure, tell_kernel, tell_longest_hold};
use guests::root::{CHILD_BITS, Root, option, tsc, word};
use guests::timer;
use userlib::arch::{TrapFrame, disable_interrupts, enable_interrupts, set_handler};
use userlib::cap::{CNode, Cap, Channel, Fault, Frame, IoPort, Irq, PageTable, PortWidth, Slot, Untyped, own};
use userlib::market::Board;

userlib::entry!(main);

/// Ticks of a period of 10 ms under the instruction clock.
const PERIOD: u64 = 10_000_000;

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let outcome = match option("bench").as_str() {
        "vms" => virtual_machines(&mut root),
        "cores" => two_cores(&mut root),
        "many" => many(&mut root),
        _ => single(&mut root),
    };
    end(&root, outcome.map_err(|fault| format!("{fault:?}")))
}

/// A round trip with a child on another core, both awake: shared memory only.
fn two_cores(root: &mut Root) -> Result<(), Fault> {
    let (page, address) = root.shared_page()?;
    let child = root.child(children::ping(), 1, &[page], 1, PERIOD / 2, PERIOD)?;
    root.launch(&child)?;
    own::VCPU.wait(1, 0)?;
    // SAFETY: the page is mapped there for as long as the root VM lives, and shared with the child.
    let (to, from) =
        unsafe { (AtomicU64::from_ptr(address as *mut u64), AtomicU64::from_ptr((address + 64) as *mut u64)) };
    let mut best = Cost::MOST;
    for number in 1..=200 {
        best = least(
            best,
            once(|| {
                to.store(number, Ordering::Release);
                while from.load(Ordering::Acquire) != number {
                    core::hint::spin_loop();
                }
                Ok(())
            })?,
        );
    }
    tell(root, "message round trip, both awake on two cores", best);
    Ok(())
}

/// What one VM does by itself.
fn single(root: &mut Root) -> Result<(), Fault> {
    tell_kernel(root, "reset to first application instruction", word(ROOT_BOOT_INFO, boot_info::TSC_AT_START));
    entering(root)?;
    capabilities(root)?;
    revoking(root)?;
    memory(root)?;
    faults(root)?;
    interrupts(root)
}

fn entering(root: &mut Root) -> Result<(), Fault> {
    let cost = row(|| Ok(()), |_| own::VCPU.nop(), |()| Ok(()))?;
    tell(root, "null invoke", cost);
    root.make::<Frame>(12)?.map(own::VM, PRICE_BOARD, Rights::READ)?;
    // SAFETY: the page has just been mapped there, and stays.
    let board = unsafe { Board::mapped(core::hint::black_box(8)) };
    let ask = board.watch(core::hint::black_box(3)).unwrap_or_else(|| panic!("no such good"));
    let cost = row(
        || Ok(()),
        |_| {
            if let Some(price) = ask.now() {
                // SAFETY: no instruction: the price is wanted in a register, and that is all.
                unsafe { core::arch::asm!("/* {} */", in(reg) price.0, options(nomem, nostack, preserves_flags)) };
            }
            Ok(())
        },
        |()| Ok(()),
    )?;
    tell(root, "read a price", cost);
    Ok(())
}

fn capabilities(root: &mut Root) -> Result<(), Fault> {
    let work: Cap<Untyped> = root.make(20)?;
    let first = root.slots(64);
    let one = row(|| Ok(()), |()| work.retype::<Frame>(12, first).map(drop), |()| work.revoke())?;
    tell(root, "retype 1 frame", one);
    let many = row(|| Ok(()), |()| work.retype_many::<Frame>(12, first, 64), |()| work.revoke())?;
    tell(root, "retype 64 frames, each", many.each(64));
    let frame: Cap<Frame> = work.retype(12, first)?;
    let second = Slot::root(first.index() + 1);
    let rights = Rights::READ | Rights::WRITE;
    let copy = row(|| Ok(()), |()| second.copy(frame, rights).map(drop), |()| second.delete())?;
    tell(root, "copy", copy);
    let mint = row(|| Ok(()), |()| second.mint(frame, Rights::READ, 0).map(drop), |()| second.delete())?;
    tell(root, "mint", mint);
    let moved =
        row(|| Ok(()), |()| second.move_from(frame).map(drop), |()| first.move_from(second.cap::<Frame>()).map(drop))?;
    tell(root, "move", moved);
    let deleted = row(|| second.copy(frame, rights).map(drop), |()| second.delete(), |()| Ok(()))?;
    tell(root, "delete", deleted);
    work.revoke()
}

/// A CNode of the bench's own, with room for 1,000 descendants.
const MANY: u16 = 1000;

fn revoking(root: &mut Root) -> Result<(), Fault> {
    let node: Cap<CNode> = root.make(10)?;
    let inside = |index: u16| Slot::in_node(node.slot().index(), index);
    let work: Cap<Untyped> = root.make(23)?;
    let source_slot = root.slot();
    let window = root.window(u64::from(MANY));
    for table in 0..2u64 {
        // The window may reach into a second and third table.
        let table_slot: Cap<PageTable> = root.make(0)?;
        if table_slot.map(own::VM, window + (table + 1) * (2 << 20), 1).is_err() {
            table_slot.delete()?;
        }
    }
    let empty = row(|| work.retype::<Frame>(12, source_slot).map(drop), |()| source_slot.revoke(), |()| work.revoke())?;
    for count in [1u16, 10, 100, 1000] {
        let copies = row(
            || {
                let source: Cap<Frame> = work.retype(12, source_slot)?;
                (1..=count.min(MANY)).try_for_each(|index| inside(index).copy(source, Rights::READ).map(drop))
            },
            |()| source_slot.revoke(),
            |()| work.revoke(),
        )?;
        tell(root, &format!("revoke {count}, per child"), copies.less(empty).each(count.into()));
        // Frames are children of an Untyped of their own, so that scrubbing can be taken off by its own row.
        let pages = |count: u16| -> Result<(), Fault> {
            (0..count)
                .step_by(50)
                .try_for_each(|from| work.retype_many::<Frame>(12, inside(from + 1), 50.min(count - from)))
        };
        let scrub = scrub_cost(work, inside(1))?;
        let nothing = row(|| Ok(()), |()| work.revoke(), |()| Ok(()))?;
        let frames = row(|| pages(count), |()| work.revoke(), |()| Ok(()))?;
        tell(root, &format!("revoke {count}, per frame"), frames.less(nothing).each(count.into()).less(scrub));
        let mapped = row(
            || {
                pages(count)?;
                (0..count).try_for_each(|index| {
                    inside(index + 1).cap::<Frame>().map(own::VM, window + u64::from(index) * 4096, Rights::READ)
                })
            },
            |()| work.revoke(),
            |()| Ok(()),
        )?;
        tell(root, &format!("revoke {count}, per mapped frame"), mapped.less(nothing).each(count.into()).less(scrub));
    }
    Ok(())
}

/// What scrubbing one page costs: a large frame against a small one, each revoked.
fn scrub_cost(work: Cap<Untyped>, slot: Slot) -> Result<Cost, Fault> {
    let small = row(|| work.retype::<Frame>(12, slot).map(drop), |()| work.revoke(), |()| Ok(()))?;
    let large = row(|| work.retype::<Frame>(21, slot).map(drop), |()| work.revoke(), |()| Ok(()))?;
    Ok(large.less(small).each(511))
}

fn memory(root: &mut Root) -> Result<(), Fault> {
    let work: Cap<Untyped> = root.make(22)?;
    let slot = root.slot();
    tell(root, "scrub of a 4 KiB page", Cost { exits: 0, ..scrub_cost(work, slot)? });
    // The seller and the buyer in one VM: the lease is made, granted, accepted, retyped, mapped and touched; then the
    // seller takes it back, which unmaps, flushes and scrubs.
    let block: Cap<Untyped> = work.retype(12, slot)?;
    let channel: Cap<Channel> = root.make(0)?;
    let seller = root.slot().mint(channel, Rights::all(), 1)?;
    let buyer = root.slot().mint(channel, Rights::all(), 2)?;
    let (lease, accepted, frame) = (root.slot(), root.slot(), root.slot());
    let address = root.window(1);
    let cost = row(
        || Ok(()),
        |()| {
            let lease: Cap<Untyped> = block.retype(12, lease)?;
            seller.grant_move(lease, Rights::all())?;
            let accepted: Cap<Untyped> = buyer.accept(accepted)?;
            let frame: Cap<Frame> = accepted.retype(12, frame)?;
            frame.map(own::VM, address, Rights::READ | Rights::WRITE)?;
            // SAFETY: the page has just been mapped there.
            unsafe { (address as *mut u64).write_volatile(1) };
            block.revoke()
        },
        |()| Ok(()),
    )?;
    tell(root, "buy one page of memory, map it, touch it, give it back", cost);
    Ok(())
}

/// Frame that the upcall's handler maps, and where.
static UPCALL_FRAME: AtomicU64 = AtomicU64::new(0);
static UPCALL_ADDRESS: AtomicU64 = AtomicU64::new(0);
const UPCALL_VECTOR: u8 = 0x50;

fn faults(root: &mut Root) -> Result<(), Fault> {
    // A page fault of the guest's own tables, handled by the guest: its handler makes the page present again.
    let page = guests::page_fault::prepare();
    let cost = row(
        || {
            page.take_away();
            Ok(())
        },
        |()| {
            page.touch();
            Ok(())
        },
        |()| Ok(()),
    )?;
    page.done();
    tell(root, "page fault handled by the application itself", cost);
    let (frame, _) = (root.make::<Frame>(12)?, ());
    let address = root.window(1);
    UPCALL_FRAME.store(u64::from(frame.slot().index()), Ordering::Relaxed);
    UPCALL_ADDRESS.store(address, Ordering::Relaxed);
    set_handler(UPCALL_VECTOR, Some(upcall));
    own::VCPU.set_upcall(UPCALL_VECTOR, 0)?;
    let cost = row(
        || Ok(()),
        |()| {
            // SAFETY: nothing is mapped there; the upcall maps a page and the access is done again.
            unsafe { (address as *mut u64).write_volatile(1) };
            Ok(())
        },
        |()| frame.unmap(),
    )?;
    own::VCPU.set_upcall(0, 0)?;
    tell(root, "nested fault, upcall, retry", cost);
    Ok(())
}

fn upcall(_: &mut TrapFrame) {
    let frame: Cap<Frame> = Slot::root(UPCALL_FRAME.load(Ordering::Relaxed) as u16).cap();
    let _ = frame.map(own::VM, UPCALL_ADDRESS.load(Ordering::Relaxed), Rights::READ | Rights::WRITE);
    let busy = (cap_spec::abi::INFO_PAGE as usize + cap_spec::abi::info_page::UPCALL_BUSY) as *mut u64;
    // SAFETY: the info page is mapped there for as long as the VM lives.
    unsafe { busy.write_volatile(0) };
}

/// Vector of the interrupts that are measured.
const VECTOR: u8 = 0x55;

fn interrupts(root: &mut Root) -> Result<(), Fault> {
    let raised = interrupt::with_handler(VECTOR, || timer_interrupt(root));
    tell(root, "interrupt: device raises to first instruction of the handler", raised);
    let (ports, irq): (Cap<IoPort>, Cap<Irq>) = (Slot::root(slots::CONSOLE).cap(), Slot::root(slots::IRQ).cap());
    let route = irq.split(COM2_ROUTE, 1, root.slot())?;
    route.bind(own::VCPU, VECTOR)?;
    let (running, waiting) = interrupt::with_handler(VECTOR, || -> Result<_, Fault> {
        Ok((serial_interrupt(ports, false)?, serial_interrupt(ports, true)?))
    })?;
    route.slot().delete()?;
    // Both are counted from the instruction that gives the device its work; how long the device takes is the same. What it
    // takes longer to wake is the kernel's. (Its own count has what it did while the device worked, too.)
    let more = waiting.ticks.saturating_sub(running.ticks);
    let woken = Cost { ticks: more + raised.ticks, kernel: more, exits: waiting.exits - running.exits };
    tell(root, "device wakes a waiting VM, to its handler", woken);
    Ok(())
}

/// The least time from the expiry of the one-shot timer, which raises its vector at a known count, to the handler's first
/// instruction. (It is the one device whose work is given with no exit; serial port and IOAPIC deliver the same way.)
fn timer_interrupt(root: &Root) -> Cost {
    const TICKS: u64 = 20_000;
    let counts = timer::counts_in(TICKS, root.tsc_hz / 1000) as u32;
    timer::prepare(VECTOR);
    let mut best = Cost::MOST;
    // The first ones are written through the kernel.
    for _ in 0..RUNS {
        interrupt::forget();
        let start = Start::now();
        let armed = timer::arm(counts);
        let came = wait_for_interrupt();
        let cost = start.until_counted(came.at, came.kernel);
        best = least(best, Cost { ticks: came.at.saturating_sub(armed + TICKS), ..cost });
    }
    best
}

/// Lets interrupts in until the handler has run, and says when.
fn wait_for_interrupt() -> interrupt::Came {
    enable_interrupts();
    while interrupt::stamp() == 0 {
        core::hint::black_box(());
    }
    disable_interrupts();
    interrupt::came()
}

/// First port of the second UART, and its route.
const COM2: u16 = 0x2f8;
const COM2_ROUTE: u64 = 3;
/// What it says of an interrupt for a byte that has waited in its FIFO.
const WAITED_LONG: u32 = 0xc;

/// The least time from the instruction that gives the second UART a byte to send to itself, up to the handler of the
/// interrupt that it raises when the byte has waited long enough in its FIFO (four characters' time); the VM spins
/// meanwhile, or waits.
fn serial_interrupt(ports: Cap<IoPort>, waits: bool) -> Result<Cost, Fault> {
    let write = |register: u16, value: u32| ports.output(COM2 + register, PortWidth::Byte, value);
    // 115,200 bits per second of 8 bits; loopback; a FIFO that tells of 14 bytes, or of less after a while.
    for (register, value) in [(3, 0x83), (0, 1), (1, 0), (3, 3), (4, 0x13)] {
        write(register, value)?;
    }
    let mut best = Cost::MOST;
    for _ in 0..RUNS {
        write(2, 0xc7)?;
        write(1, 1)?;
        interrupt::forget();
        let start = Start::now();
        write(0, 0x5a)?;
        if waits {
            // Interrupts are on before the VM sleeps, so the handler runs when it wakes.
            enable_interrupts();
            own::VCPU.wait(1 << 63, start.tsc + PERIOD)?;
        }
        let came = wait_for_interrupt();
        let cost = start.until_counted(came.at, came.kernel);
        // While a VM waits, every NMI that its core takes may have been its device's: then it gets a spurious interrupt.
        if ports.input(COM2 + 2, PortWidth::Byte)? & 0xf == WAITED_LONG {
            best = least(best, cost);
        }
        ports.input(COM2, PortWidth::Byte)?;
        write(1, 0)?;
    }
    // As it was: FIFO on, no loopback.
    write(2, 1)?;
    write(4, 3)?;
    Ok(best)
}

/// Round trips of which the least is taken.
const TRIPS: usize = 100;

fn virtual_machines(root: &mut Root) -> Result<(), Fault> {
    let (page, address) = root.shared_page()?;
    let (stamp, kernel) = (|| word(address, 0), || word(address, 8));
    let block: Cap<Untyped> = root.make(CHILD_BITS)?;
    // What the revocation scrubs is the row of scrubbing: the pages that the child was made of.
    let (work, slot): (Cap<Untyped>, Slot) = (root.make(22)?, root.slot());
    let scrub = scrub_cost(work, slot)?;
    let scrubbed = Cost { ticks: scrub.ticks * CHILD_PAGES, kernel: scrub.kernel * CHILD_PAGES, exits: 0 };
    let mut best = (Cost::MOST, Cost::MOST);
    for run in 0..RUNS {
        // The time of the child before is free from the end of its period on; and this one begins well inside a budget of
        // the root VM's own.
        if run > 0 {
            own::VCPU.wait(1 << 63, (tsc() / PERIOD + 2) * PERIOD)?;
        }
        let time = root.core_time(0).split(PERIOD / 10, PERIOD, root.slot())?;
        let start = Start::now();
        let child = root.child_from(block, time, children::stamps(), 14, &[page])?;
        root.launch(&child)?;
        own::VCPU.wait(1, 0)?;
        best.0 = least(best.0, start.until_counted(stamp(), kernel()));
        if run == 0 {
            let first = Start::RESET.until_counted(stamp(), kernel());
            tell(root, "reset to first instruction of the first tenant", first);
        }
        time.delete()?;
        let destroyed = once(|| block.revoke())?;
        best.1 = least(best.1, destroyed.less(scrubbed));
        child.channel.delete()?;
    }
    tell(root, "new VM with one vCPU to its first instruction", best.0);
    tell(root, "destroy a VM", best.1);

    let child = root.child(children::echo(), 1, &[page], 0, PERIOD * 3 / 10, PERIOD)?;
    let base = Slot::in_node(child.cnode.slot().index(), slots::BASE);
    // Three pages of tables and code and one more are the child's own.
    let besides = (1 << CHILD_BITS) - base.identify()?.amount - 4 * 4096;
    tell_figure(root, "memory of a VM besides its own pages, in bytes", besides);
    root.launch(&child)?;
    own::VCPU.wait(1, 0)?;
    let mut trip = Cost::MOST;
    for _ in 0..TRIPS {
        let start = Start::now();
        child.channel.signal_wait(1, 0)?;
        let cost = start.until(tsc());
        trip = least(trip, Cost { exits: cost.exits + 1, ..cost });
    }
    tell(root, "message round trip, one core, sleeping receivers", trip);
    child.block.revoke()?;
    child.time.delete()?;
    // One that notes the count, too, when it has the core: an instruction more, behind the first one.
    let child = root.child(children::stamps(), 1, &[page], 0, PERIOD * 3 / 10, PERIOD)?;
    root.launch(&child)?;
    own::VCPU.wait(1, 0)?;
    let mut switch = Cost::MOST;
    for _ in 0..TRIPS {
        let start = Start::now();
        child.channel.signal_wait(1, 0)?;
        switch = least(switch, Cost { exits: 1, ..start.until_counted(stamp(), kernel()) });
    }
    tell(root, "switch between two VMs", switch);
    lock(root)
}

/// Pages of [`CHILD_BITS`] that a child of the bench takes: 17 of its own, Vm, Vcpu, CNode and three tables.
const CHILD_PAGES: u64 = 17 + OVERHEAD_PAGES;
/// What a VM costs besides its own pages.
const OVERHEAD_PAGES: u64 = ((1 << VM_BITS) + (1 << VCPU_BITS) + 4096 + 3 * 4096) / 4096;

/// Makes VMs, each launched and run up to its first instruction, until the memory is gone.
fn many(root: &mut Root) -> Result<(), Fault> {
    /// Slots for the blocks that the VMs lie in, log2: one for each that could ever fit, and slot 0, which holds nothing.
    const SHELF_BITS: u8 = 13;
    let (page, address) = root.shared_page()?;
    let shelf = root.make::<CNode>(SHELF_BITS)?.slot().index();
    let mut count = 0u16;
    loop {
        let start = root.mark();
        let Ok(block) = root.make::<Untyped>(CHILD_BITS) else { break };
        let block = Slot::in_node(shelf, 1 + count).move_from(block)?;
        let time = root.core_time(0).split(PERIOD / 50, PERIOD / 10, root.slot())?;
        let child = root.child_from(block, time, children::echo(), 14, &[page])?;
        let before = word(address, 0);
        root.launch(&child)?;
        while word(address, 0) == before {
            own::VCPU.wait(1, tsc() + PERIOD / 10)?;
        }
        count += 1;
        // It keeps its memory and its life; its core and the slots that named its parts are for the next one.
        root.return_to(start)?;
    }
    root.text(&format!("{count} VMs\n"));
    let each = (1 << 30) / u64::from(count.max(1));
    tell_figure(root, "1 GiB divided by the VMs of 17 pages that fit, in bytes", each);
    Ok(())
}

/// The longest hold of the kernel lock since the start, while one neighbour makes and revokes objects, another sleeps and
/// wakes as often as it can, and the root VM revokes 1,000 frames and 200 capabilities again and again and launches a VM
/// with 1,000 capabilities.
fn lock(root: &mut Root) -> Result<(), Fault> {
    let mut pages = Vec::new();
    for code in [children::churn(), children::storm()] {
        let (page, address) = root.shared_page()?;
        let child = root.child(code, 1, &[page], 0, PERIOD / 10, PERIOD)?;
        let node = child.cnode.slot().index();
        Slot::in_node(node, slots::BASE).cap::<Untyped>().retype::<Untyped>(15, Slot::in_node(node, 24))?;
        root.launch(&child)?;
        pages.push(address);
    }
    let (node, work): (Cap<CNode>, Cap<Untyped>) = (root.make(11)?, root.make(22)?);
    let inside = |index: u16| Slot::in_node(node.slot().index(), index);
    for _ in 0..RUNS {
        (0..1000).step_by(50).try_for_each(|from| work.retype_many::<Frame>(12, inside(from + 1), 50))?;
        let source: Cap<Frame> = inside(1).cap();
        (0..200).try_for_each(|index| inside(1100 + index).copy(source, Rights::READ).map(drop))?;
        work.revoke()?;
        own::VCPU.wait(1 << 63, tsc() + PERIOD)?;
    }
    launch_many(root)?;
    if let Some(idle) = pages.iter().position(|&page| word(page, 0) < 20) {
        panic!("neighbour {idle} did next to nothing");
    }
    tell_longest_hold(root, "hostile load")
}

/// Launches a VM in whose base are [`MANY`] capabilities more than a VM needs, and takes it away.
fn launch_many(root: &mut Root) -> Result<(), Fault> {
    /// log2 of the base: the child's own pages and a CNode of 64 KiB.
    const BITS: u8 = CHILD_BITS + 1;
    let block: Cap<Untyped> = root.make(BITS)?;
    let time = root.core_time(0).split(PERIOD / 50, PERIOD, root.slot())?;
    let child = root.child_in(block, BITS, time, children::echo(), 0, &[])?;
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    let many: Cap<CNode> = base.retype(10, root.slot())?;
    let frame: Cap<Frame> = base.retype(12, Slot::in_node(node, 24))?;
    let inside = |index: u16| Slot::in_node(many.slot().index(), index);
    (1..=MANY).try_for_each(|index| inside(index).copy(frame, Rights::READ).map(drop))?;
    Slot::in_node(node, 25).move_from(many)?;
    root.launch(&child)?;
    block.revoke()
}
