//! One negative test for every pair of a label and an error that the ABI declares or implies, each with the argument that
//! must be named. Kernel and abstract machine are in lock-step all the time.

use cap_spec::abi::{Error, Fault, Label, ObjectType, Register, Rights, VCPU_ROUTES, slots};
use cap_spec::spec::{ArgKind, LABELS};
use lockstep::pairs::Seen;
use lockstep::script::{Step, build_tenant, hand_over, retype, root, tenant, threats};
use lockstep::system::{Reply, System, place};

/// Slots of the root CNode that [`world`] fills besides those of the tenant.
mod at {
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
fn world() -> Vec<Step> {
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

/// A call of this label that succeeds in [`world`].
fn good_call(label: Label) -> (u64, Vec<u64>) {
    use at::*;
    let here = place::CNODE;
    match label {
        Label::Nop => (here, vec![]),
        Label::UntypedRetype => (UNTYPED, vec![ObjectType::Frame as u64, 12, here, EMPTY, 1]),
        Label::CNodeCopy => (here, vec![EMPTY, FRAME, 31]),
        Label::CNodeMint => (here, vec![EMPTY, CHANNEL, 31, 2]),
        Label::CNodeMove => (here, vec![EMPTY, FRAME]),
        Label::CNodeDelete | Label::CNodeRevoke | Label::CNodeIdentify => (here, vec![FRAME]),
        Label::FrameMap => (FRAME, vec![tenant::VM, 0x5000, 1, 0]),
        Label::FrameUnmap => (tenant::FRAMES[0], vec![0]),
        Label::PageTableMap => (TABLE, vec![tenant::VM, 0x20_0000, 1]),
        Label::PageTableUnmap => (tenant::TABLES[2], vec![]),
        Label::VmSetCSpace => (VM, vec![CNODE]),
        Label::VmGetPage => (VM, vec![here, EMPTY]),
        Label::VcpuAttach => (DETACHED, vec![VM, 0x1000, 0x1000, 8]),
        Label::VcpuSetRegister => (VCPU, vec![Register::Rflags as u64, 2]),
        Label::VcpuGetRegister => (VCPU, vec![Register::Rip as u64]),
        Label::VcpuBindTime => (VCPU, vec![TIME]),
        Label::VcpuUnbindTime => (tenant::VCPU, vec![]),
        Label::VcpuSetUpcall => (VCPU, vec![32, 0]),
        Label::VcpuSetHandler => (VCPU, vec![CHANNEL]),
        Label::VcpuLaunch => (tenant::VCPU, vec![slots::BASE.into(), slots::VCPU.into()]),
        Label::VcpuStart => (SECOND, vec![]),
        Label::VcpuStop => (SECOND, vec![]),
        Label::VcpuGetPage => (VCPU, vec![0, here, EMPTY]),
        Label::VcpuSignal => (VCPU, vec![1]),
        Label::VcpuWait => (place::VCPU, vec![1, 1]),
        Label::CpuTimeSplit => (TIME, vec![100, 10_000, here, EMPTY]),
        Label::CpuTimeResize => (TIME, vec![400, 10_000]),
        Label::ChannelBind => (CHANNEL_END, vec![VCPU, 1]),
        Label::ChannelSignal => (CHANNEL_END, vec![]),
        Label::ChannelWait => (CHANNEL_END, vec![4, 0]),
        Label::ChannelGrant => (CHANNEL, vec![FRAME, 31, 0]),
        Label::ChannelAccept => (CHANNEL, vec![here, EMPTY]),
        Label::IrqSplit => (place::ROUTES, vec![8, 2, here, EMPTY]),
        Label::IrqBind => (IRQ, vec![SECOND, 40]),
        Label::IrqUnbind => (BOUND_IRQ, vec![]),
        Label::IoPortSplit => (PORTS, vec![0x3f8, 2, here, EMPTY]),
        Label::IoPortIn => (PORTS, vec![0x3f8, 1]),
        Label::IoPortOut => (PORTS, vec![0x3f8, 1, 0x41]),
        Label::IoPortOutBytes => (PORTS, vec![0x3f8, 3, 0x434241, 0]),
        Label::MachineReset => (place::MACHINE, vec![]),
        Label::MachineGetPage => (place::MACHINE, vec![here, EMPTY]),
        Label::FrameMapIo => (FRAME, vec![DOMAIN, 0x5000, 2, 0]),
        Label::PageTableMapIo => (TABLE, vec![DOMAIN, 0x20_0000, 1]),
        Label::PciFunctionLease => (place::FUNCTION, vec![here, EMPTY]),
        Label::PciFunctionEnableVfs => (place::FUNCTION, vec![2, here, EMPTY]),
        Label::PciFunctionGetBar => (place::FUNCTION, vec![3, 1, here, EMPTY, 1]),
        Label::PciFunctionGetInfo => (place::FUNCTION, vec![6]),
        Label::PciFunctionReadConfig => (place::FUNCTION, vec![0]),
        Label::PciFunctionWriteConfig => (place::FUNCTION, vec![0x40, 0x1234]),
        Label::PciFunctionAttach => (place::FUNCTION, vec![DOMAIN]),
        Label::PciFunctionDetach => (place::PLAIN, vec![]),
        Label::PciFunctionBindMsix => (place::FUNCTION, vec![3, FREE_IRQ]),
        Label::PciFunctionUnbindMsix => (place::PLAIN, vec![1]),
        Label::PciFunctionReset => (place::FUNCTION, vec![]),
        Label::IommuDomainSetHandler => (DOMAIN, vec![CHANNEL]),
        Label::IommuDomainGetFault => (DOMAIN, vec![]),
        Label::MachineSetHandler => (place::MACHINE, vec![CHANNEL]),
        Label::MachineGetFault => (place::MACHINE, vec![]),
    }
}

/// A capability of this type without any right.
fn bare(object_type: ObjectType) -> u64 {
    match object_type {
        ObjectType::CNode => at::BARE_CNODE,
        ObjectType::Frame => at::BARE_FRAME,
        ObjectType::Vm => at::BARE_VM,
        ObjectType::Vcpu => at::BARE_VCPU,
        ObjectType::Channel => at::BARE_CHANNEL,
        ObjectType::Machine => at::BARE_MACHINE,
        ObjectType::CpuTime => at::BARE_TIME,
        ObjectType::IoPort => at::BARE_PORTS,
        ObjectType::IommuDomain => at::BARE_DOMAIN,
        other => panic!("no label needs rights of {other:?}"),
    }
}

/// Takes the steps, all of which must succeed; the answer to the last.
fn answer(system: &mut System, steps: &[Step]) -> Reply {
    let mut last = None;
    for (at, step) in steps.iter().enumerate() {
        last = system.step(*step).unwrap_or_else(|divergence| panic!("{step}: {divergence}"));
        if let (Some((label, Err(fault))), true) = (&last, at + 1 < steps.len()) {
            panic!("{step} ({label:?}) is refused: {fault:?}");
        }
    }
    last.expect("the last step is an invocation").1
}

/// The answer to one call, after the steps that its label needs.
fn try_call(label: Label, cptr: u64, args: &[u64]) -> Reply {
    let mut steps = world();
    if label == Label::VcpuLaunch {
        steps.extend(hand_over());
    }
    steps.push(root(label, cptr, args));
    answer(&mut System::new(None), &steps)
}

/// A call that must be refused like this.
#[track_caller]
fn refused(seen: &mut Seen, label: Label, reply: Reply, error: Error, argument: u8) {
    let fault = reply.expect_err(&format!("{label:?} must be refused with {error:?}"));
    assert_eq!(Fault { detail: 0, ..fault }, Fault::new(error, argument), "{label:?}");
    seen.insert(label, error);
}

/// What the kinds of the arguments and the invoked capability imply: each argument of a good call is spoiled by itself.
fn probe_arguments(seen: &mut Seen) {
    for spec in LABELS {
        let label = spec.label;
        let (cptr, good) = good_call(label);
        let reply = try_call(label, cptr, &good);
        assert!(reply.is_ok(), "{label:?} shall succeed in the world of this test: {reply:?}");

        refused(seen, label, try_call(label, 0, &good), Error::InvalidCapability, 0);
        if spec.label.object() != ObjectType::Null {
            let other = if spec.label.object() == ObjectType::Machine { place::CNODE } else { place::MACHINE };
            refused(seen, label, try_call(label, other, &good), Error::InvalidLabel, 0);
        }
        if !spec.label.rights().is_empty() {
            refused(seen, label, try_call(label, bare(spec.label.object()), &good), Error::MissingRight, 0);
        }
        for (index, arg) in spec.args.iter().enumerate() {
            let number = index as u8 + 1;
            let mut spoil = |value: u64, error: Error| {
                let mut args = good.clone();
                args[index] = value;
                refused(seen, label, try_call(label, cptr, &args), error, number);
            };
            match arg.kind {
                ArgKind::Number => match (label, number) {
                    // Every value is legal.
                    (Label::VcpuWait | Label::ChannelWait, 2)
                    | (Label::IoPortOutBytes, 3 | 4)
                    | (Label::VcpuAttach, 4) => {}
                    (Label::VcpuAttach, 2) => spoil(1 << 47, Error::OutOfRange),
                    (Label::VcpuSignal | Label::VcpuWait | Label::ChannelWait, 1) | (Label::ChannelBind, 2) => {
                        spoil(0, Error::OutOfRange);
                    }
                    _ => spoil(u64::MAX, Error::OutOfRange),
                },
                ArgKind::Capability(object_type, rights) => {
                    spoil(u64::MAX, Error::InvalidCapability);
                    let other = match (label, object_type) {
                        (Label::VcpuLaunch, _) => slots::VM.into(),
                        (_, ObjectType::Vm) => place::CNODE,
                        _ => place::VM,
                    };
                    spoil(other, Error::WrongType);
                    if !rights.is_empty() {
                        spoil(bare(object_type), Error::MissingRight);
                    }
                }
                ArgKind::AnyCapability => spoil(at::EMPTY, Error::InvalidCapability),
                ArgKind::EmptySlot => {
                    spoil(0, Error::OutOfRange);
                    spoil(u64::from(slots::CNODE), Error::SlotOccupied);
                }
                ArgKind::FullSlot => {
                    spoil(1 << 7, Error::OutOfRange);
                    spoil(at::EMPTY, Error::SlotEmpty);
                }
            }
        }
    }
}

/// A call that the state forbids: steps after [`world`], the call, and what must come.
struct Case(Vec<Step>, Label, u64, Vec<u64>, Error, u8);

/// What the labels list beyond that.
fn state_cases() -> Vec<Case> {
    use Label as L;
    use at::*;
    let here = place::CNODE;
    let untyped = ObjectType::Untyped as u64;
    let bind = |vcpu, time| root(L::VcpuBindTime, vcpu, &[time]);
    let second_node = || root(L::CNodeCopy, here, &[99, CNODE, Rights::READ.bits().into()]);
    let in_second_node = || root(L::CNodeMove, CNODE, &[1, FRAME]);
    vec![
        Case(vec![], L::UntypedRetype, UNTYPED, vec![untyped, 16, here, EMPTY, 1], Error::NotEnoughMemory, 0),
        Case(vec![], L::UntypedRetype, place::DEVICE, vec![2, 6, here, EMPTY, 1], Error::DeviceMemory, 1),
        Case(vec![], L::UntypedRetype, UNTYPED, vec![3, 12, here, EMPTY, 64], Error::OutOfRange, 5),
        Case(vec![], L::UntypedRetype, UNTYPED, vec![3, 12, here, FRAME - 1, 2], Error::SlotOccupied, 5),
        Case(vec![], L::CNodeCopy, here, vec![EMPTY, UNTYPED, 31], Error::NotCopyable, 2),
        Case(vec![], L::CNodeMint, here, vec![EMPTY, TABLE, 31, 0], Error::NotCopyable, 2),
        Case(
            vec![in_second_node(), second_node()],
            L::CNodeMove,
            here,
            vec![EMPTY, 99 << 16 | 1],
            Error::MissingRight,
            2,
        ),
        Case(vec![], L::CNodeMove, here, vec![EMPTY, place::MACHINE], Error::InUse, 2),
        Case(vec![], L::CNodeDelete, here, vec![place::MACHINE], Error::InUse, 1),
        Case(vec![], L::FrameMap, FRAME, vec![tenant::VM, 0x5001, 1], Error::Misaligned, 2),
        Case(vec![], L::FrameMap, BARE_FRAME, vec![tenant::VM, 0x5000, 1], Error::MissingRight, 3),
        Case(vec![], L::FrameMap, FRAME, vec![tenant::VM, 0x5000, 2], Error::OutOfRange, 3),
        Case(vec![], L::FrameMap, tenant::FRAMES[0], vec![tenant::VM, 0x5000, 1], Error::InUse, 0),
        Case(vec![], L::FrameMap, FRAME, vec![tenant::VM, 0x20_0000, 1], Error::NoPageTable, 2),
        Case(vec![], L::FrameMap, FRAME, vec![tenant::VM, 0x1000, 1], Error::AddressOccupied, 2),
        Case(vec![], L::FrameMap, FRAME, vec![tenant::VM, 0x5000, 1, 1], Error::WrongType, 4),
        Case(vec![], L::FrameUnmap, FRAME, vec![], Error::NotMapped, 0),
        Case(vec![], L::FrameUnmap, tenant::FRAMES[0], vec![9], Error::WrongType, 1),
        Case(vec![], L::PageTableMap, tenant::TABLES[0], vec![tenant::VM, 0x20_0000, 1], Error::InUse, 0),
        Case(vec![], L::PageTableMap, TABLE, vec![VM, 0, 1], Error::NoPageTable, 2),
        Case(vec![], L::PageTableMap, TABLE, vec![tenant::VM, 0, 1], Error::AddressOccupied, 2),
        Case(vec![], L::PageTableUnmap, TABLE, vec![], Error::NotMapped, 0),
        Case(vec![], L::VmSetCSpace, tenant::VM, vec![CNODE], Error::WrongPhase, 0),
        Case(vec![], L::VmSetCSpace, VM, vec![tenant::CNODE], Error::WrongPhase, 1),
        Case(vec![], L::VcpuAttach, VCPU, vec![VM], Error::InUse, 0),
        Case(vec![], L::VcpuAttach, DETACHED, vec![VM, 1 << 47], Error::OutOfRange, 2),
        Case(vec![], L::VcpuAttach, DETACHED, vec![VM, 0, 8], Error::Misaligned, 3),
        Case(vec![], L::VcpuAttach, DETACHED, vec![VM, 0, 1 << 48], Error::OutOfRange, 3),
        Case(vec![], L::VcpuSetRegister, VCPU, vec![Register::Cr3 as u64, 8], Error::Misaligned, 2),
        Case(vec![], L::VcpuSetRegister, VCPU, vec![Register::Rip as u64, 1 << 47], Error::OutOfRange, 2),
        Case(vec![], L::VcpuSetRegister, DETACHED, vec![0, 0], Error::NotConfigured, 0),
        Case(vec![], L::VcpuSetRegister, place::VCPU, vec![0, 0], Error::Running, 0),
        Case(held(), L::VcpuSetRegister, SECOND, vec![0, 0], Error::Busy, 0),
        Case(vec![], L::VcpuGetRegister, DETACHED, vec![0], Error::NotConfigured, 0),
        Case(vec![], L::VcpuGetRegister, place::VCPU, vec![0], Error::Running, 0),
        Case(held(), L::VcpuGetRegister, SECOND, vec![0], Error::Busy, 0),
        Case(vec![], L::VcpuBindTime, tenant::VCPU, vec![TIME], Error::InUse, 0),
        Case(vec![], L::VcpuBindTime, VCPU, vec![tenant::TIME], Error::InUse, 1),
        Case(vec![], L::VcpuBindTime, DETACHED, vec![TIME], Error::NotConfigured, 0),
        Case(
            vec![root(L::VcpuStart, SECOND, &[]), root(L::CNodeDelete, here, &[SECOND_TIME])],
            L::VcpuBindTime,
            SECOND,
            vec![TIME],
            Error::Running,
            0,
        ),
        Case(
            [
                held(),
                vec![
                    root(L::VcpuUnbindTime, SECOND, &[]),
                    root(L::CpuTimeSplit, place::CPU_TIME, &[100, 10_000, here, EMPTY]),
                ],
            ]
            .concat(),
            L::VcpuBindTime,
            SECOND,
            vec![EMPTY],
            Error::Busy,
            0,
        ),
        Case(vec![], L::VcpuUnbindTime, VCPU, vec![], Error::NotConfigured, 0),
        Case(vec![], L::VcpuUnbindTime, place::VCPU, vec![], Error::Running, 0),
        Case(vec![], L::VcpuSetUpcall, VCPU, vec![31, 0], Error::OutOfRange, 1),
        Case(vec![], L::VcpuSetUpcall, DETACHED, vec![32, 0], Error::NotConfigured, 0),
        Case(vec![], L::VcpuSetHandler, DETACHED, vec![CHANNEL], Error::NotConfigured, 0),
        Case(vec![], L::VcpuSetHandler, SECOND, vec![CHANNEL], Error::WrongPhase, 0),
        Case(vec![], L::VcpuLaunch, VCPU, vec![4, 3], Error::NotConfigured, 0),
        Case(vec![], L::VcpuLaunch, SECOND, vec![4, 3], Error::WrongPhase, 0),
        Case(vec![], L::VcpuStart, DETACHED, vec![], Error::NotConfigured, 0),
        Case(vec![], L::VcpuStart, tenant::VCPU, vec![], Error::WrongPhase, 0),
        Case(vec![], L::VcpuStart, place::VCPU, vec![], Error::Running, 0),
        Case(vec![], L::VcpuStop, DETACHED, vec![], Error::NotConfigured, 0),
        Case(vec![], L::VcpuSignal, DETACHED, vec![1], Error::NotConfigured, 0),
        Case(vec![], L::VcpuWait, VCPU, vec![1, 1], Error::Forbidden, 0),
        Case(vec![bind(VCPU, TIME)], L::CpuTimeSplit, TIME, vec![100, 10_000, here, EMPTY], Error::InUse, 0),
        Case(vec![], L::CpuTimeSplit, TIME, vec![600, 10_000, here, EMPTY], Error::NotAdmitted, 0),
        Case(vec![], L::CpuTimeResize, place::CPU_TIME, vec![500, 10_000], Error::InUse, 0),
        Case(vec![], L::CpuTimeResize, TIME, vec![9_000, 10_000], Error::NotAdmitted, 0),
        Case(vec![], L::ChannelBind, CHANNEL, vec![VCPU, 1], Error::InUse, 0),
        Case(vec![], L::ChannelSignal, CHANNEL, vec![], Error::NoReceiver, 0),
        Case(vec![], L::ChannelWait, CHANNEL, vec![1, 1], Error::NoReceiver, 0),
        Case(vec![], L::ChannelGrant, CHANNEL_END, vec![FRAME, 31, 0], Error::ChannelFull, 0),
        Case(vec![], L::ChannelGrant, CHANNEL, vec![UNTYPED, 31, 0], Error::NotCopyable, 1),
        Case(vec![], L::ChannelGrant, CHANNEL, vec![place::MACHINE, 31, 1], Error::InUse, 1),
        Case(vec![], L::ChannelGrant, CHANNEL, vec![tenant::FRAMES[0], 1, 1], Error::InUse, 1),
        Case(
            vec![in_second_node(), second_node()],
            L::ChannelGrant,
            CHANNEL,
            vec![99 << 16 | 1, 31, 1],
            Error::MissingRight,
            1,
        ),
        Case(vec![], L::ChannelAccept, CHANNEL_END, vec![here, EMPTY], Error::ChannelEmpty, 0),
        Case(vec![], L::IrqSplit, place::ROUTES, vec![5, 1, here, EMPTY], Error::InUse, 0),
        Case(vec![], L::IrqSplit, BOUND_IRQ, vec![6, 1, here, EMPTY], Error::InUse, 0),
        Case(vec![], L::IrqBind, place::ROUTES, vec![SECOND, 40], Error::OutOfRange, 0),
        Case(vec![], L::IrqBind, BOUND_IRQ, vec![SECOND, 40], Error::InUse, 0),
        Case(vec![], L::IrqBind, IRQ, vec![VCPU, 40], Error::NotConfigured, 1),
        Case(
            vec![root(L::IrqSplit, place::ROUTES, &[20, 1, here, EMPTY])],
            L::IrqBind,
            EMPTY,
            vec![SECOND, 40],
            Error::Forbidden,
            0,
        ),
        Case(full_of_routes(), L::IrqBind, IRQ, vec![SECOND, 40], Error::InUse, 1),
        Case(vec![], L::IrqUnbind, IRQ, vec![], Error::NotMapped, 0),
        Case(vec![], L::IoPortSplit, place::PORTS, vec![0x3f0, 16, here, EMPTY], Error::InUse, 0),
        Case(vec![], L::IoPortSplit, place::PORTS, vec![0x60, 2, here, EMPTY], Error::Forbidden, 1),
        Case(vec![], L::IoPortIn, place::PORTS, vec![0x3f8, 1], Error::InUse, 0),
        Case(vec![], L::IoPortIn, place::PORTS, vec![0x60, 2], Error::Forbidden, 1),
        Case(vec![], L::IoPortOut, place::PORTS, vec![0x3f6, 4, 0], Error::InUse, 0),
        Case(vec![], L::IoPortOut, place::PORTS, vec![0xcf8, 4, 0], Error::Forbidden, 1),
        Case(vec![], L::IoPortOut, PORTS, vec![0x3f8, 1, 0x100], Error::OutOfRange, 3),
        Case(vec![], L::IoPortOutBytes, place::PORTS, vec![0x3ff, 1, 0, 0], Error::InUse, 0),
        Case(vec![], L::IoPortOutBytes, place::PORTS, vec![0x92, 1, 0, 0], Error::Forbidden, 1),
    ]
}

/// The same for what concerns devices.
fn device_cases() -> Vec<Case> {
    use Label as L;
    use at::*;
    let here = place::CNODE;
    let function = place::FUNCTION;
    let leased = || vec![root(L::PciFunctionLease, function, &[here, EMPTY + 9])];
    let in_reset = || vec![root(L::PciFunctionReset, function, &[])];
    let with_vfs = || vec![root(L::PciFunctionEnableVfs, function, &[1, here, EMPTY + 1])];
    let window = |bits: u64, first: u64| root(L::CNodeMint, here, &[EMPTY, DOMAIN, 31, first + bits]);
    let mut cases = vec![
        Case(vec![], L::CNodeMint, here, vec![EMPTY, DOMAIN, 31, 0], Error::OutOfRange, 4),
        Case(vec![], L::CNodeMint, here, vec![EMPTY, DOMAIN, 31, 11], Error::OutOfRange, 4),
        Case(vec![], L::CNodeMint, here, vec![EMPTY, DOMAIN, 31, 0x1000 + 13], Error::OutOfRange, 4),
        Case(vec![window(20, 0x10_0000)], L::CNodeMint, here, vec![99, EMPTY, 31, 21], Error::OutOfRange, 4),
        Case(
            vec![window(20, 0x10_0000)],
            L::CNodeMint,
            here,
            vec![99, EMPTY, 31, 0x20_0000 + 12],
            Error::OutOfRange,
            4,
        ),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0x5001, 1], Error::Misaligned, 2),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 1 << 39, 1], Error::OutOfRange, 2),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0x5000, 0], Error::OutOfRange, 3),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0x5000, 4], Error::OutOfRange, 3),
        Case(vec![], L::FrameMapIo, BARE_FRAME, vec![DOMAIN, 0x5000, 1], Error::MissingRight, 3),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0x5000, 1, 1], Error::WrongType, 4),
        Case(vec![window(12, 0x5000)], L::FrameMapIo, FRAME, vec![EMPTY, 0x6000, 1], Error::OutOfRange, 2),
        Case(vec![window(12, 0x5000)], L::FrameMapIo, FRAME, vec![EMPTY, 0x5000, 1, 1], Error::OutOfRange, 4),
        Case(
            vec![root(L::PciFunctionGetBar, function, &[0, 1, here, EMPTY, 1])],
            L::FrameMapIo,
            EMPTY,
            vec![DOMAIN, 0x5000, 1],
            Error::DeviceMemory,
            0,
        ),
        Case(
            vec![root(L::VmGetPage, VM, &[here, EMPTY])],
            L::FrameMapIo,
            EMPTY,
            vec![DOMAIN, 0x5000, 1],
            Error::Forbidden,
            0,
        ),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0xfee0_0000, 1], Error::Forbidden, 2),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0xfeef_f000, 1], Error::Forbidden, 2),
        Case(vec![], L::FrameMapIo, IO_FRAME, vec![DOMAIN, 0x5000, 1], Error::InUse, 0),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0x4000_0000, 1], Error::NoPageTable, 2),
        Case(vec![], L::FrameMapIo, FRAME, vec![DOMAIN, 0x1000, 1], Error::AddressOccupied, 2),
        Case(vec![], L::PageTableMapIo, tenant::TABLES[0], vec![DOMAIN, 0x20_0000, 1], Error::InUse, 0),
        Case(vec![], L::PageTableMapIo, TABLE, vec![DOMAIN, 0x4000_0000, 1], Error::NoPageTable, 2),
        Case(vec![], L::PageTableMapIo, TABLE, vec![DOMAIN, 0, 1], Error::AddressOccupied, 2),
        Case(vec![window(20, 0x20_0000)], L::PageTableMapIo, TABLE, vec![EMPTY, 0x20_0000, 1], Error::OutOfRange, 2),
        Case(vec![], L::IrqSplit, MESSAGE_IRQ, vec![25, 1, here, EMPTY], Error::InUse, 0),
        Case(vec![], L::PciFunctionEnableVfs, place::PLAIN, vec![1, here, EMPTY], Error::OutOfRange, 1),
        Case(vec![], L::PciFunctionEnableVfs, function, vec![2, here, FRAME - 1], Error::SlotOccupied, 1),
        Case(vec![], L::PciFunctionEnableVfs, function, vec![2, here, 127], Error::OutOfRange, 1),
        Case(with_vfs(), L::PciFunctionEnableVfs, function, vec![1, here, EMPTY], Error::InUse, 0),
        Case(with_vfs(), L::PciFunctionReset, function, vec![], Error::InUse, 0),
        Case(
            [with_vfs(), vec![root(L::CNodeDelete, here, &[EMPTY + 1])]].concat(),
            L::PciFunctionEnableVfs,
            function,
            vec![1, here, EMPTY],
            Error::Busy,
            0,
        ),
        Case(vec![], L::PciFunctionGetBar, function, vec![1, 0, here, EMPTY, 1], Error::OutOfRange, 1),
        Case(vec![], L::PciFunctionGetBar, function, vec![0, 4, here, EMPTY, 1], Error::OutOfRange, 2),
        Case(vec![], L::PciFunctionGetBar, function, vec![0, 2, here, EMPTY, 3], Error::OutOfRange, 5),
        Case(vec![], L::PciFunctionGetBar, function, vec![0, 0, here, FRAME - 1, 2], Error::SlotOccupied, 5),
        Case(vec![], L::PciFunctionGetBar, function, vec![3, 0, here, EMPTY, 1], Error::Forbidden, 2),
        Case(vec![], L::PciFunctionGetBar, function, vec![3, 1, here, EMPTY, 2], Error::Forbidden, 2),
        Case(vec![], L::PciFunctionReadConfig, function, vec![2], Error::Misaligned, 1),
        Case(vec![], L::PciFunctionWriteConfig, function, vec![2, 0], Error::Misaligned, 1),
        Case(vec![], L::PciFunctionWriteConfig, function, vec![4, 0], Error::Forbidden, 1),
        Case(vec![], L::PciFunctionAttach, place::PLAIN, vec![DOMAIN], Error::InUse, 0),
        Case(vec![], L::PciFunctionAttach, place::QUARANTINED, vec![DOMAIN], Error::Forbidden, 0),
        Case(vec![], L::PciFunctionDetach, function, vec![], Error::NotMapped, 0),
        Case(vec![], L::PciFunctionBindMsix, function, vec![0, place::ROUTES], Error::OutOfRange, 2),
        Case(vec![], L::PciFunctionBindMsix, place::PLAIN, vec![1, FREE_IRQ], Error::InUse, 1),
        Case(vec![], L::PciFunctionBindMsix, function, vec![1, MESSAGE_IRQ], Error::InUse, 2),
        Case(vec![], L::PciFunctionBindMsix, function, vec![1, IRQ], Error::Forbidden, 2),
        Case(vec![], L::PciFunctionUnbindMsix, place::PLAIN, vec![0], Error::NotMapped, 1),
        Case(vec![window(20, 0)], L::IommuDomainSetHandler, EMPTY, vec![CHANNEL], Error::Forbidden, 0),
        Case(vec![window(20, 0)], L::IommuDomainSetHandler, EMPTY, vec![0], Error::Forbidden, 0),
        Case(vec![window(20, 0)], L::IommuDomainGetFault, EMPTY, vec![], Error::Forbidden, 0),
        Case(
            vec![root(L::VcpuSetHandler, VCPU, &[CHANNEL])],
            L::IommuDomainSetHandler,
            DOMAIN,
            vec![CHANNEL],
            Error::InUse,
            1,
        ),
        Case(
            vec![root(L::IommuDomainSetHandler, DOMAIN, &[CHANNEL])],
            L::MachineSetHandler,
            place::MACHINE,
            vec![CHANNEL],
            Error::InUse,
            1,
        ),
    ];
    let used = |steps| Case(steps, L::PciFunctionLease, function, vec![here, EMPTY], Error::InUse, 0);
    cases.extend([
        used(vec![root(L::PciFunctionAttach, function, &[DOMAIN])]),
        used(vec![root(L::PciFunctionBindMsix, function, &[3, FREE_IRQ])]),
        used(vec![root(L::PciFunctionGetBar, function, &[0, 0, here, EMPTY + 2, 1])]),
    ]);
    for label in [
        L::PciFunctionLease,
        L::PciFunctionGetInfo,
        L::PciFunctionEnableVfs,
        L::PciFunctionGetBar,
        L::PciFunctionReadConfig,
        L::PciFunctionWriteConfig,
        L::PciFunctionAttach,
        L::PciFunctionBindMsix,
        L::PciFunctionReset,
    ] {
        let (_, args) = good_call(label);
        if label != L::PciFunctionGetInfo {
            cases.push(Case(leased(), label, function, args.clone(), Error::InUse, 0));
        }
        if label != L::PciFunctionLease {
            cases.push(Case(in_reset(), label, function, args, Error::Busy, 0));
        }
    }
    cases
}

/// The second Vcpu of the root VM has run on core 1 and was stopped; the core has not let go of it yet.
fn held() -> Vec<Step> {
    vec![root(Label::VcpuStart, at::SECOND, &[]), Step::Decide(1), root(Label::VcpuStop, at::SECOND, &[])]
}

/// `SECOND`, which takes two routes in this world, takes all that it may.
fn full_of_routes() -> Vec<Step> {
    let more = 0..u64::from(VCPU_ROUTES) - 2;
    let bound = more.map(|number| (7 + number, at::EMPTY + 1 + number));
    let steps = bound.map(|(route, to)| {
        let split = root(Label::IrqSplit, place::ROUTES, &[route, 1, place::CNODE, to]);
        [split, root(Label::IrqBind, to, &[at::SECOND, 50])]
    });
    steps.flatten().collect()
}

/// Everything that can be derived, at the depth at which nothing can be derived any more.
fn probe_depth(seen: &mut Seen) {
    let here = place::CNODE;
    let mut system = System::new(None);
    let mut steps = Vec::new();
    // Untypeds of the same extent below each other, down to depth 30.
    for index in 0..30 {
        let above = if index == 0 { place::CLEAN } else { 19 + index };
        steps.push(retype(above, ObjectType::Untyped, 19, 20 + index, 1));
    }
    let last = 49;
    steps.extend([
        retype(last, ObjectType::CNode, 7, 50, 1),
        retype(last, ObjectType::Vm, 0, 51, 1),
        retype(last, ObjectType::Vcpu, 0, 52, 1),
        retype(last, ObjectType::Channel, 0, 53, 1),
        retype(last, ObjectType::Untyped, 12, 54, 1),
    ]);
    // The same for what is split and for the Machine's copies, down to depth 31: each moves on into slot 55, 56, ...
    let chains = [
        (place::CPU_TIME + 1, 55, Label::CpuTimeSplit, vec![900, 1_000]),
        (place::ROUTES, 57, Label::IrqSplit, vec![5, 1]),
        (place::PORTS, 59, Label::IoPortSplit, vec![0x3f8, 8]),
    ];
    for (first, slot, label, part) in &chains {
        let (mut from, mut to) = (*first, *slot);
        for _ in 0..31 {
            steps.push(root(*label, from, &[part[0], part[1], here, to]));
            if from != *first {
                // Room for the next one: out of the way, into the CNode that was just made.
                steps.push(root(Label::CNodeMove, 50, &[free_index(&steps), from]));
            }
            (from, to) = (to, if to == *slot { slot + 1 } else { *slot });
        }
    }
    // Leases go there at once.
    let mut lease = place::FUNCTION;
    for index in 96..127 {
        steps.push(root(Label::PciFunctionLease, lease, &[50, index]));
        lease = 50 << 16 | index;
    }
    let mut machine = place::MACHINE;
    for index in 0..31 {
        steps.push(root(Label::CNodeCopy, here, &[70 + index, machine, 31]));
        machine = 70 + index;
    }
    for step in steps {
        let reply = system.step(step).unwrap_or_else(|divergence| panic!("{step}: {divergence}"));
        assert!(matches!(reply, Some((_, Ok(_)))), "{step}: {reply:?}");
    }
    let mut deep = |label: Label, cptr: u64, args: &[u64], argument: u8| {
        let reply = system.step(root(label, cptr, args)).unwrap_or_else(|divergence| panic!("{label:?}: {divergence}"));
        refused(seen, label, reply.expect("an invocation").1, Error::TooDeep, argument);
    };
    let empty = 120;
    deep(Label::UntypedRetype, 54, &[ObjectType::Frame as u64, 12, here, empty, 1], 0);
    deep(Label::CNodeCopy, here, &[empty, 50, 31], 2);
    deep(Label::CNodeMint, here, &[empty, 53, 31, 2], 2);
    deep(Label::VmGetPage, 51, &[here, empty], 0);
    deep(Label::VcpuGetPage, 52, &[1, here, empty], 0);
    deep(Label::ChannelGrant, 53, &[53, 31, 0], 1);
    deep(Label::CpuTimeSplit, 55, &[900, 1_000, here, empty], 0);
    deep(Label::IrqSplit, 57, &[5, 1, here, empty], 0);
    deep(Label::IoPortSplit, 59, &[0x3f8, 8, here, empty], 0);
    deep(Label::MachineGetPage, machine, &[here, empty], 0);
    deep(Label::PciFunctionLease, lease, &[here, empty], 0);
    deep(Label::PciFunctionEnableVfs, lease, &[1, here, empty], 0);
    deep(Label::PciFunctionGetBar, lease, &[0, 0, here, empty, 1], 0);
}

/// The next index of the CNode into which these steps move things out of the way.
fn free_index(steps: &[Step]) -> u64 {
    let moves = |step: &&Step| matches!(step, Step::Invoke(_, call) if call.label == Label::CNodeMove as u64);
    1 + steps.iter().filter(moves).count() as u64
}

/// The answer to a launch, with these steps before the VM is handed over.
fn launch_after(before: &[Step]) -> Reply {
    let mut steps = world();
    steps.extend_from_slice(before);
    steps.extend(hand_over());
    steps.push(root(Label::VcpuLaunch, tenant::VCPU, &[slots::BASE.into(), slots::VCPU.into()]));
    answer(&mut System::new(None), &steps)
}

/// Every way in which a VM is not confined to its base.
fn probe_launch(seen: &mut Seen) {
    let here = place::CNODE;
    for threat in threats() {
        refused(seen, Label::VcpuLaunch, launch_after(&threat), Error::NotConfined, 1);
    }
    // What is no threat: a read-only page of the kernel outside, foreign memory to read, a ring in its window.
    let harmless = [
        root(Label::VmGetPage, tenant::VM, &[here, 90]),
        root(Label::VcpuGetPage, tenant::VCPU, &[1, here, 91]),
        root(Label::FrameMap, tenant::FOREIGN, &[tenant::VM, 0x3000, 1]),
        root(Label::FrameMap, at::FRAME, &[tenant::VM, 0x11_0000, 3]),
    ];
    assert!(launch_after(&harmless).is_ok());
}

#[test]
fn every_error_of_every_label_is_given_and_names_its_argument() {
    let mut seen = Seen::default();
    probe_arguments(&mut seen);
    for Case(before, label, cptr, args, error, argument) in state_cases().into_iter().chain(device_cases()) {
        let mut steps = world();
        steps.extend(before);
        steps.push(root(label, cptr, &args));
        refused(&mut seen, label, answer(&mut System::new(None), &steps), error, argument);
    }
    probe_depth(&mut seen);
    probe_launch(&mut seen);
    assert_eq!(seen.missing(), [], "pairs that the ABI declares or implies and no test has produced");
    assert_eq!(seen.unknown(), [], "pairs that the ABI does not know");
}
