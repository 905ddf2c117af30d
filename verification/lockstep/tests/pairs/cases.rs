//! Calls that a state forbids, one for each reason.

use super::good_call;
use crate::world::at;
use cap_spec::abi::{Error, Label, ObjectType, Register, Rights, VCPU_ROUTES};
use lockstep::script::{Step, root, tenant};
use lockstep::system::place;

/// A call that the state forbids: steps after [`world`], the call, and what must come.
pub(super) struct Case(
    pub(super) Vec<Step>,
    pub(super) Label,
    pub(super) u64,
    pub(super) Vec<u64>,
    pub(super) Error,
    pub(super) u8,
);

/// What the labels list beyond that.
pub(super) fn state_cases() -> Vec<Case> {
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
pub(super) fn device_cases() -> Vec<Case> {
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
