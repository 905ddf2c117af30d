//! Everything that can be derived, where nothing can be derived any more.

use super::refused;
use cap_spec::abi::{Error, Label, ObjectType};
use lockstep::pairs::Seen;
use lockstep::script::{Step, retype, root};
use lockstep::system::{System, place};

/// Everything that can be derived, at the depth at which nothing can be derived any more.
pub(super) fn probe_depth(seen: &mut Seen) {
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
