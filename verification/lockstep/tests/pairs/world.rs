//! A world in which every label can succeed.

use cap_spec::abi::{Label, ObjectType};
use lockstep::script::{Step, build_tenant, retype, root};
use lockstep::system::place;

/// Slots of the root CNode that [`world`] fills besides those of the tenant.
pub(super) mod at {
    pub const FRAME: u64 = 60;
    pub const TABLE: u64 = 61;
    pub const VM: u64 = 62;
    /// Attached to `VM`, without time.
    pub const VCPU: u64 = 63;
    pub const CNODE: u64 = 64;
    /// Of core 1, idle.
    pub const TIME: u64 = 65;
    /// Route 5.
    pub const IRQ: u64 = 66;
    /// Ports 0x3f8 to 0x3ff.
    pub const PORTS: u64 = 67;
    /// 32 KiB.
    pub const UNTYPED: u64 = 68;
    /// Both ends of a channel; the root VM receives at end 1, and a Vm is in flight towards it.
    pub const CHANNEL: u64 = 69;
    pub const CHANNEL_END: u64 = 70;
    pub const DETACHED: u64 = 71;
    /// Route 6, bound.
    pub const BOUND_IRQ: u64 = 72;
    /// Attached to the root VM, with time of core 1, stopped.
    pub const SECOND: u64 = 73;
    pub const SECOND_TIME: u64 = 74;
    /// Capabilities without any right.
    pub const BARE_CNODE: u64 = 80;
    pub const BARE_FRAME: u64 = 81;
    pub const BARE_VM: u64 = 82;
    pub const BARE_VCPU: u64 = 83;
    pub const BARE_CHANNEL: u64 = 84;
    pub const BARE_MACHINE: u64 = 85;
    pub const BARE_TIME: u64 = 86;
    pub const BARE_PORTS: u64 = 87;
    pub const BARE_DOMAIN: u64 = 88;
    /// With tables of levels 2 and 1 at 0, and `IO_FRAME` at 0x1000.
    pub const DOMAIN: u64 = 75;
    pub const IO_TABLES: u64 = 76;
    pub const IO_FRAME: u64 = 79;
    /// Routes 25 and 26, raised by message 1 of the plain function, which is attached to `DOMAIN`, and by none.
    pub const MESSAGE_IRQ: u64 = 93;
    pub const FREE_IRQ: u64 = 94;
    /// Stays empty.
    pub const EMPTY: u64 = 100;
}

/// A world in which every label can succeed.
pub(super) fn world() -> Vec<Step> {
    use at::*;
    let mut steps = build_tenant(1);
    let clean = place::CLEAN;
    let copy = |to, from, mask| root(Label::CNodeCopy, place::CNODE, &[to, from, mask]);
    steps.extend([
        retype(clean, ObjectType::Frame, 12, FRAME, 1),
        retype(clean, ObjectType::PageTable, 0, TABLE, 1),
        retype(clean, ObjectType::Vm, 0, VM, 1),
        retype(clean, ObjectType::Vcpu, 0, VCPU, 1),
        retype(clean, ObjectType::CNode, 6, CNODE, 1),
        retype(clean, ObjectType::Untyped, 15, UNTYPED, 1),
        retype(clean, ObjectType::Channel, 0, CHANNEL, 1),
        retype(clean, ObjectType::Vcpu, 0, DETACHED, 1),
        retype(clean, ObjectType::Vcpu, 0, SECOND, 1),
        root(Label::CpuTimeSplit, place::CPU_TIME + 1, &[500, 10_000, place::CNODE, TIME]),
        root(Label::CpuTimeSplit, place::CPU_TIME + 1, &[2_000, 10_000, place::CNODE, SECOND_TIME]),
        root(Label::IrqSplit, place::ROUTES, &[5, 1, place::CNODE, IRQ]),
        root(Label::IrqSplit, place::ROUTES, &[6, 1, place::CNODE, BOUND_IRQ]),
        root(Label::IoPortSplit, place::PORTS, &[0x3f8, 8, place::CNODE, PORTS]),
        root(Label::VcpuAttach, VCPU, &[VM]),
        root(Label::VcpuAttach, SECOND, &[place::VM]),
        root(Label::VcpuBindTime, SECOND, &[SECOND_TIME]),
        root(Label::IrqBind, BOUND_IRQ, &[SECOND, 40]),
        root(Label::CNodeMint, place::CNODE, &[CHANNEL_END, CHANNEL, 31, 2]),
        root(Label::ChannelBind, CHANNEL, &[place::VCPU, 4]),
        retype(clean, ObjectType::IommuDomain, 0, DOMAIN, 1),
        retype(clean, ObjectType::PageTable, 0, IO_TABLES, 2),
        retype(clean, ObjectType::Frame, 12, IO_FRAME, 1),
        root(Label::PageTableMapIo, IO_TABLES, &[DOMAIN, 0, 2]),
        root(Label::PageTableMapIo, IO_TABLES + 1, &[DOMAIN, 0, 1]),
        root(Label::FrameMapIo, IO_FRAME, &[DOMAIN, 0x1000, 3]),
        root(Label::IrqSplit, place::ROUTES, &[25, 1, place::CNODE, MESSAGE_IRQ]),
        root(Label::IrqSplit, place::ROUTES, &[26, 1, place::CNODE, FREE_IRQ]),
        root(Label::PciFunctionAttach, place::PLAIN, &[DOMAIN]),
        root(Label::PciFunctionBindMsix, place::PLAIN, &[1, MESSAGE_IRQ]),
        root(Label::IrqBind, MESSAGE_IRQ, &[SECOND, 41]),
        copy(BARE_DOMAIN, DOMAIN, 0),
        copy(BARE_CNODE, CNODE, 0),
        copy(BARE_FRAME, FRAME, 0),
        copy(BARE_VM, VM, 0),
        copy(BARE_VCPU, VCPU, 0),
        copy(BARE_CHANNEL, CHANNEL, 0),
        copy(BARE_MACHINE, place::MACHINE, 0),
        // What can't be copied loses its rights on a way through the channel.
        root(Label::CpuTimeSplit, place::CPU_TIME + 1, &[100, 10_000, place::CNODE, BARE_TIME]),
        root(Label::ChannelGrant, CHANNEL, &[BARE_TIME, 0, 1]),
        root(Label::ChannelAccept, CHANNEL_END, &[place::CNODE, BARE_TIME]),
        root(Label::IoPortSplit, place::PORTS, &[0x2f8, 8, place::CNODE, BARE_PORTS]),
        root(Label::ChannelGrant, CHANNEL, &[BARE_PORTS, 0, 1]),
        root(Label::ChannelAccept, CHANNEL_END, &[place::CNODE, BARE_PORTS]),
        root(Label::ChannelGrant, CHANNEL_END, &[VM, 31, 0]),
    ]);
    steps
}
