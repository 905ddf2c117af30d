//! The fine machine refines the atomic one: an invocation that nobody interrupts, with all the steps and flushes of its
//! own, is answered as `step` answers and leaves the state that `step` leaves.

use cap_spec::abi::Label;
use cap_spec::machine::fine::{Answer, Event, check, run, step as fine_step};
use cap_spec::machine::{Cap, State, VcpuId, step};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use lockstep::random::Random;
use specification::world::{World, forget_outputs, runnable};
use std::collections::BTreeMap;

/// Runs, one a seed.
const SEEDS: u64 = 700;
/// Invocations of a run.
const LENGTH: usize = 200;

/// Where the rules leave a watermark to the kernel, the atomic machine does as the fine one did.
fn take_choices(atomic: &mut State, fine: &State) {
    for (slot, alternatives) in std::mem::take(&mut atomic.choices) {
        if let (Some(Cap::Untyped { watermark: chosen, .. }), Some(Cap::Untyped { watermark, .. })) =
            (fine.slots.get(&slot).map(|slot| &slot.cap), atomic.slots.get_mut(&slot).map(|slot| &mut slot.cap))
            && alternatives.contains(chosen)
        {
            *watermark = *chosen;
        }
    }
}

/// What differs, if something does.
fn difference(atomic: &State, fine: &State) -> String {
    let mut text = String::new();
    macro_rules! maps {
        ($($field:ident),*) => { $(
            let keys: std::collections::BTreeSet<_> = atomic.$field.keys().chain(fine.$field.keys()).collect();
            for key in keys.into_iter().filter(|key| atomic.$field.get(key) != fine.$field.get(key)) {
                text += &format!("{key:x?}: {:x?} | {:x?}\n", atomic.$field.get(key), fine.$field.get(key));
            }
        )* };
    }
    maps!(slots, cnodes, tables, vms, vcpus, channels, functions, domains);
    if atomic.dying != fine.dying {
        text += &format!("dying: {:x?}\n", fine.dying);
    }
    text
}

#[test]
fn what_nobody_interrupts_is_what_the_atomic_machine_does() {
    let mut done: BTreeMap<Label, usize> = BTreeMap::new();
    let (mut calls, mut steps_taken, mut longest) = (0_u64, 0_u64, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let mut random = Random::new(seed);
        for _ in 0..LENGTH {
            world.revive();
            // Hardware remembers something before each call; no call is begun.
            for _ in 0..4 {
                let event = world.choose();
                if !matches!(event, Event::Invoke(..)) {
                    fine_step(&mut world.fine, event);
                }
            }
            let Some(invoker) = random.pick::<VcpuId>(&runnable(&world.fine.state)) else { break };
            let call = world.call(invoker);
            world.unfinished.remove(&invoker);
            let mut atomic = world.fine.state.clone();
            let expected = step(&mut atomic, invoker, call);
            let (answer, steps) = run(&mut world.fine, invoker, call);
            take_choices(&mut atomic, &world.fine.state);
            let label = Label::from_number(call.label);
            let is_there = atomic.vcpus.get(&invoker).is_some_and(|vcpu| vcpu.vm.is_some());
            let told = if is_there { Answer::Answered(invoker, expected) } else { Answer::Gone(invoker) };
            assert_eq!(answer, told, "seed {seed}, {label:?}");
            world.fine.state.choices.clear();
            assert!(atomic == world.fine.state, "seed {seed}, {label:?}:\n{}", difference(&atomic, &world.fine.state));
            assert_eq!(check(&world.fine), Ok(()), "seed {seed}, {label:?} {call:x?}");
            if let (Ok(_), Some(label)) = (expected, label) {
                *done.entry(label).or_default() += 1;
            }
            (calls, steps_taken, longest) = (calls + 1, steps_taken + steps as u64, longest.max(steps));
            forget_outputs(&mut world.fine.state);
        }
    }
    println!("{calls} invocations, {steps_taken} steps, the longest {longest}: {done:?}");
    for label in [Label::CNodeDelete, Label::CNodeRevoke, Label::VcpuLaunch, Label::FrameUnmap, Label::PageTableUnmap] {
        assert!(done.get(&label).is_some_and(|count| *count >= 10), "{label:?} was done too rarely: {done:?}");
    }
    assert!(longest > 50, "no long operation was among them");
    Established {
        check: "specification-fine-refines-atomic".into(),
        property: Property::Refinement.name().into(),
        tier: Tier::Tested,
        tool: "random runs".into(),
        bound: format!("{SEEDS} runs, {calls} invocations in {steps_taken} steps, up to {longest} for one"),
        of: "specification: the fine machine against the atomic one".into(),
    }
    .tell();
}
