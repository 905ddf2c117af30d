//! The probe: a root image that checks what only whole machines show, one check after the other, and reports each on a
//! line of its own: `probe NAME: ok` or `probe NAME: FAILED: why`.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use cap_spec::abi::{Error, ROOT_BOOT_INFO, Rights, boot_info, handler_page, slots, stats_page};
use guests::children;
use guests::root::{CHILD_BITS, Child, Root, SHARED, tsc, word};
use proto::host::Record;
use userlib::cap::{CNode, Cap, CpuTime, Fault, Frame, Slot, Untyped, Vcpu, VcpuPage, Vm, own};

userlib::entry!(main);

/// What went wrong in a check.
type Check = Result<(), String>;

/// A check by its name.
type Named = (&'static str, fn(&mut Root) -> Check);

const CHECKS: &[Named] = &[
    ("two_vms_keep_their_registers", two_vms_keep_their_registers),
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
        match check(&mut root) {
            Ok(()) => root.text(&format!("probe {name}: ok\n")),
            Err(why) => {
                failed += 1;
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

/// A pair of children with a shared page each, both on `core`.
fn pair(root: &mut Root, code: &[u8], core: u16) -> Result<(Vec<Child>, Vec<u64>), String> {
    let (mut children, mut pages) = (Vec::new(), Vec::new());
    let (budget, period) = (micros(root, 500), micros(root, 2000));
    for number in 0..2u64 {
        let (page, address) = root.shared_page().map_err(told("page"))?;
        // SAFETY: the page has just been mapped there.
        unsafe { (address as *mut u64).write_volatile(0x1234_5000 + number * 0x0101_0101) };
        let child = root.child(code, 1, &[page], core, budget, period).map_err(told("child"))?;
        root.launch(&child).map_err(told("launch"))?;
        children.push(child);
        pages.push(address);
    }
    Ok((children, pages))
}

/// Two VMs on one core, each with registers of its own in everything that is switched.
fn two_vms_keep_their_registers(root: &mut Root) -> Check {
    let core = if root.cores > 1 { 1 } else { 0 };
    let (children, pages) = pair(root, children::state(), core)?;
    sleep(root, 40_000);
    for &page in &pages {
        let (rounds, wrong) = (word(page, 8), word(page, 16));
        if wrong != 0 {
            return Err(format!("comparison {wrong} failed after {rounds} rounds"));
        }
        if rounds < 50 {
            return Err(format!("only {rounds} rounds"));
        }
    }
    children.iter().try_for_each(end)
}

/// A buyer of 30 % beside a neighbour that spins: it is current for its share in every stretch of 100 ms.
fn cpu_time_is_delivered(root: &mut Root) -> Check {
    let core = if root.cores > 1 { 1 } else { 0 };
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
    let second: Cap<Vcpu> = base.retype(0, Slot::in_node(node, 26)).map_err(told("vcpu"))?;
    second.attach(child.vm).map_err(told("attach"))?;
    for (register, value) in [
        (cap_spec::abi::Register::Rip, guests::root::CHILD_CODE),
        (cap_spec::abi::Register::Cr3, 0x1000),
        (cap_spec::abi::Register::Rsp, guests::root::CHILD_CODE + 0x1800),
    ] {
        second.set_register(register, value).map_err(told("register"))?;
    }
    let time: Cap<CpuTime> = root.core_time(0).split(period / 4, period, root.slot()).map_err(told("time"))?;
    second.bind_time(time).map_err(told("bind"))?;
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
