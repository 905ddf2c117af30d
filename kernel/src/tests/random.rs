//! Random calls of two Vcpus of the root VM, with the invariants checked after every one, preempted or not.
//!
//! Arguments are mostly plausible: slots that are in use, sizes that exist. A failing seed replays.

use super::base::*;
use crate::decode::Call;
use crate::run::Outcome;
use crate::testing::Random;
use crate::types::CoreId;
use cap_spec::abi::{Label, ObjectType};

/// Slots that the calls work on.
const LOW: u64 = 14;
const HIGH: u64 = 40;
/// Steps of the long test.
const STEPS: u64 = 100_000;

/// A capability pointer: mostly of the root CNode, sometimes of a second level.
fn pointer(random: &mut Random) -> u64 {
    let index = random.within(1, HIGH);
    if random.below(5) == 0 { random.within(LOW, HIGH) << 16 | random.within(1, 8) } else { index }
}

/// A CNode capability: mostly the root's.
fn cnode(random: &mut Random) -> u64 {
    if random.below(3) == 0 { pointer(random) } else { CNODE }
}

fn free(random: &mut Random) -> u64 {
    if random.below(4) == 0 { random.within(1, 8) } else { random.within(LOW, HIGH) }
}

fn address(random: &mut Random) -> u64 {
    random.below(4) << 30 | random.below(3) << 21 | random.below(4) << 12
}

fn plausible(random: &mut Random) -> Call {
    let label = match random.below(10) {
        0..2 => Label::UntypedRetype,
        2 => Label::CNodeCopy,
        3 => Label::CNodeMove,
        4 => Label::CNodeDelete,
        _ => Label::from_number(random.within(1, 42)).unwrap_or(Label::Nop),
    };
    let any = |random: &mut Random| match random.below(3) {
        0 => random.below(3),
        1 => pointer(random),
        _ => random.next(),
    };
    let (cap, args) = match label {
        Label::UntypedRetype => {
            let object = random.within(1, 8);
            let size = match object {
                1 => random.within(12, 17),
                2 => 6,
                3 => 12,
                _ => 0,
            };
            let untyped = if random.below(2) == 0 { MEMORY } else { pointer(random) };
            (untyped, [object, size, cnode(random), free(random), random.within(1, 3)])
        }
        Label::CNodeCopy | Label::CNodeMint | Label::CNodeMove => {
            let badge = if matches!(label, Label::CNodeMint) { random.below(3) } else { 0 };
            (cnode(random), [free(random), pointer(random), 31, badge, 0])
        }
        Label::CNodeDelete | Label::CNodeRevoke | Label::CNodeIdentify => {
            let index = if random.below(60) == 0 { MEMORY } else { free(random) };
            (cnode(random), [index, 0, 0, 0, 0])
        }
        Label::FrameMap => (pointer(random), [pointer(random), address(random), 1 | random.below(8), 0, 0]),
        Label::PageTableMap => (pointer(random), [pointer(random), address(random), random.within(1, 3), 0, 0]),
        Label::CpuTimeSplit | Label::CpuTimeResize => {
            (pointer(random), [random.within(MS / 4, 3 * MS), 10 * MS, cnode(random), free(random), 0])
        }
        Label::ChannelGrant => (pointer(random), [pointer(random), 31, random.below(2), 0, 0]),
        Label::IrqSplit | Label::IoPortSplit => {
            (pointer(random), [random.below(30), random.within(1, 4), cnode(random), free(random), 0])
        }
        Label::MachineReset => (MACHINE, [0; 5]),
        Label::VcpuStop | Label::VcpuWait | Label::ChannelWait => {
            // Not the root's own Vcpu, or the test would end.
            (random.within(LOW, HIGH), [1, 1, 0, 0, 0])
        }
        _ => (pointer(random), [0; 5].map(|_| any(random))),
    };
    Call { cap, label: label as u64, args }
}

/// Calls until `steps`; what becomes of the world is checked after each.
fn run(seed: u64, steps: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut world = World::new();
    let core = CoreId::new(0);
    let mut done = 0;
    for step in 0..steps {
        let call = plausible(&mut random);
        world.kernel.machine.patience.set((random.below(2) == 0).then_some(0));
        let outcome = world.kernel.handle_call(core, &call);
        done += u64::from(matches!(outcome, Outcome::Done { status, .. } if status.0 == 0));
        let faults = world.faults();
        assert!(faults.is_empty(), "seed {seed}, step {step}, {call:x?} gave {outcome:?}: {faults:#?}");
        world.kernel.machine.now += random.below(MS / 2);
        if random.below(4) == 0 {
            world.kernel.on_deadline(CoreId::new(1));
            world.kernel.schedule(CoreId::new(1));
        }
        world.kernel.machine.outputs.clear();
        world.kernel.machine.expelled.clear();
        world.kernel.machine.kicked.clear();
        world.kernel.machine.results.clear();
        if outcome == Outcome::Blocked || world.kernel.schedule(core).run != Some(world.vcpu) {
            // Its budget is spent, or it sleeps: on to where it runs again.
            for _ in 0..1000 {
                world.kernel.machine.now += MS;
                world.kernel.on_deadline(core);
                if world.kernel.schedule(core).run == Some(world.vcpu) {
                    break;
                }
            }
            if world.kernel.schedule(core).run != Some(world.vcpu) {
                // It sleeps for good or took its own time away: a new world.
                world = World::new();
            }
        }
    }
    world.kernel.machine.patience.set(None);
    world.revoke(MEMORY);
    assert_eq!(world.watermark(MEMORY), 0, "everything can be taken back");
    assert_eq!(world.slot(MEMORY).cap.object_type(), ObjectType::Untyped);
    done
}

#[test]
fn every_step_keeps_the_invariants() {
    let seeds = 20;
    let done: u64 = (0..seeds).map(|seed| run(seed, STEPS / seeds)).sum();
    assert!(done > STEPS / 20, "only {done} calls succeeded");
}
