//! A market that wants to see a running tenant, or what a tenant has left behind.

use alloc::format;
use cap_spec::abi::{Error, Register, Rights, slots};
use guests::children;
use guests::root::{CHILD_CHANNEL, Child, Root, SHARED};
use userlib::cap::{Cap, Channel, CpuTime, Fault, Frame, PageTable, Slot, Untyped, Vcpu, VcpuPage, Vm, own};

use crate::keeping::Keeper;
use crate::{Check, end, micros, told};

/// A market that wants to see a running tenant: every way to keep a hand in it makes the launch fail, and afterwards
/// nothing that it holds reads or steers the tenant.
pub fn hostile_market(root: &mut Root) -> Check {
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
        ("a table of the market's", |root, child| {
            let table: Cap<PageTable> = root.make(0)?;
            table.map(child.vm, 0x4000_0000, 2)
        }),
        ("a frame in flight to the market", |_, child| {
            let node = child.cnode.slot().index();
            let theirs: Cap<Channel> = Slot::in_node(node, CHILD_CHANNEL).cap();
            theirs.grant(Slot::in_node(node, 21).cap::<Frame>(), Rights::READ)
        }),
        ("the Vcpu in flight to the tenant", |_, child| child.channel.grant(child.vcpu, Rights::all())),
        ("the address space in flight to the tenant", |_, child| child.channel.grant(child.vm, Rights::all())),
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
    honest_launch(root)
}

/// An honest launch, of a tenant that fills its base, a lease and its registers with a pattern. Everything that the market
/// still holds is tried, and refused for the right reason; then it takes all of the memory back, and finds zeros.
fn honest_launch(root: &mut Root) -> Check {
    let rights = Rights::READ | Rights::WRITE;
    let period = micros(root, 10_000);
    let keeper = Keeper::start(root, 10)?;
    let Keeper { ref child, block, page, .. } = keeper;
    let table: Cap<PageTable> = root.make(0).map_err(told("table"))?;
    let time: Cap<CpuTime> = root.core_time(0).split(period / 20, period, root.slot()).map_err(told("time"))?;
    let other: Cap<Vcpu> = root.make(0).map_err(told("Vcpu"))?;
    other.attach(own::VM, 0, 0, 0).map_err(told("attach"))?;
    let empty = root.slot();
    let gone = Error::InvalidCapability;
    let node = child.cnode.slot().index();
    let theirs: Cap<Channel> = Slot::in_node(node, CHILD_CHANNEL).cap();
    let moved: Cap<Vcpu> = Slot::in_node(node, slots::VCPU).cap();
    let attempts = [
        ("stopping it", child.vcpu.stop(), gone),
        ("reading a register", child.vcpu.register(Register::Rip).map(drop), gone),
        ("setting a register", child.vcpu.set_register(Register::Rip, 0), gone),
        ("reading a register of the Vcpu where it went", moved.register(Register::Rip).map(drop), gone),
        ("binding other time", child.vcpu.bind_time(time), gone),
        ("unbinding its time", child.vcpu.unbind_time(), gone),
        ("using its time", other.bind_time(child.time), Error::InUse),
        ("dividing its time", child.time.split(period / 20, period, empty).map(drop), Error::InUse),
        ("naming another handler", child.vcpu.set_handler(child.channel), gone),
        ("signalling as its own Vcpu", child.vcpu.signal(1), gone),
        ("its info page", child.vcpu.page(VcpuPage::Info, empty).map(drop), gone),
        ("mapping a page", page.map(child.vm, SHARED, rights), gone),
        ("mapping a table", table.map(child.vm, 0x4000_0000, 2), gone),
        ("its statistics", child.vm.statistics_page(empty).map(drop), gone),
        ("copying its CNode", empty.copy(child.cnode, Rights::all()).map(drop), gone),
        ("a slot of its CNode", empty.copy(Slot::in_node(node, slots::VM).cap::<Vm>(), Rights::all()).map(drop), gone),
        ("retyping its block", child.block.retype::<Frame>(12, empty).map(drop), Error::NotEnoughMemory),
        ("retyping its lease", block.retype::<Frame>(12, empty).map(drop), Error::NotEnoughMemory),
        ("granting as the tenant", theirs.grant(page, rights), gone),
        ("accepting as the tenant", theirs.accept::<Frame>(empty).map(drop), gone),
        ("accepting what is not in flight", child.channel.accept::<Frame>(empty).map(drop), Error::ChannelEmpty),
        ("granting its Vcpu", child.channel.grant(child.vcpu, Rights::all()), gone),
    ];
    for (what, outcome, wanted) in attempts {
        match outcome {
            Err(fault) if fault.error == wanted => {}
            other => return Err(format!("{what}: {other:?}, not {wanted:?}")),
        }
    }
    // What the market grants stays in flight, as the tenant does not take it: it can be taken back there, and no other way.
    child.channel.grant(page, Rights::READ).map_err(told("grant"))?;
    if child.channel.grant(page, Rights::READ).map_err(|fault| fault.error) != Err(Error::ChannelFull) {
        return Err("a second grant went through".into());
    }
    if child.channel.accept::<Frame>(empty).map(drop).map_err(|fault| fault.error) != Err(Error::ChannelEmpty) {
        return Err("the market accepted its own grant".into());
    }
    // The tenant has run on through all of this.
    keeper.expect_whole(root)?;
    time.delete().map_err(told("time"))?;
    other.delete().map_err(told("Vcpu"))?;
    keeper.end(root)
}
