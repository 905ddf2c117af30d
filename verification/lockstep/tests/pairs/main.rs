//! One negative test for every pair of a label and an error that the ABI declares or implies, each with the argument that
//! must be named. Kernel and abstract machine are in lock-step all the time.

mod cases;
mod depth;
mod world;

use crate::cases::{Case, device_cases, state_cases};
use crate::depth::probe_depth;
use crate::world::{at, world};
use cap_spec::abi::{Error, Fault, Label, ObjectType, Register, slots};
use cap_spec::properties::Property;
use cap_spec::spec::{ArgKind, LABELS};
use claims::{Established, Tier};
use lockstep::pairs::Seen;
use lockstep::script::{Step, hand_over, root, tenant, threats};
use lockstep::system::{Reply, System, place};

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
    let of_spec = lockstep::pairs::possible().len();
    Established {
        check: "lockstep-pairs".into(),
        property: Property::FailureChangesNothing.name().into(),
        tier: Tier::Tested,
        tool: "lockstep".into(),
        bound: format!("all {of_spec} pairs of label and error that the specification has, one state each"),
        of: "kernel library, 2 cores".into(),
    }
    .tell();
}
