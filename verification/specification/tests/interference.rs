//! Non-interference and confinement of authority, on random runs of two tenants and the root VM.

use cap_spec::abi::Label;
use cap_spec::machine::authority::Bound;
use cap_spec::machine::interference::{may_influence, observe};
use cap_spec::machine::{Call, Outcome, State, VcpuId, VmId, step};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use lockstep::generate;
use lockstep::random::Random;
use lockstep::system::{ROOT_VCPU, ROOT_VM};
use specification::world::{forget_outputs, runnable, two_tenants};
use std::collections::BTreeSet;

/// Runs, one a seed.
const SEEDS: u64 = 400;
/// Invocations of a run.
const LENGTH: usize = 150;

/// Somebody who can run: mostly a tenant.
fn somebody(state: &State, random: &mut Random) -> Option<VcpuId> {
    let all = runnable(state);
    let tenants: Vec<VcpuId> = all.iter().copied().filter(|vcpu| *vcpu != ROOT_VCPU).collect();
    random.pick(&tenants).filter(|_| !random.one_in(8)).or_else(|| random.pick(&all))
}

/// A copy of a state, and what a call was answered there.
fn after(state: &State, invoker: VcpuId, call: Call) -> (State, Result<Outcome, cap_spec::abi::Fault>) {
    let mut state = state.clone();
    let answer = step(&mut state, invoker, call);
    (state, answer)
}

fn tell(check: &str, property: Property, bound: String) {
    Established {
        check: check.into(),
        property: property.name().into(),
        tier: Tier::Tested,
        tool: "random runs".into(),
        bound,
        of: "specification: the atomic machine".into(),
    }
    .tell();
}

#[test]
fn a_step_changes_nothing_for_who_is_unrelated() {
    let (mut steps, mut unseen, mut answers) = (0_u64, 0_u64, 0_u64);
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut state = two_tenants(seed % 3 != 0);
        for _ in 0..LENGTH {
            let Some(actor) = somebody(&state, &mut random) else { break };
            let call = generate::call(&state, actor, &mut random);
            if matches!(Label::from_number(call.label), Some(Label::VcpuStop)) && actor == ROOT_VCPU {
                continue;
            }
            let acting = state.vcpus[&actor].vm.expect("who invokes has a VM");
            let observers: Vec<VmId> =
                state.vms.keys().copied().filter(|vm| !may_influence(&state, acting, *vm)).collect();
            let (mut next, answer) = after(&state, actor, call);
            steps += 1;
            for observer in observers {
                let context = format!("seed {seed}: {acting:x?} by {call:x?} ({answer:?}), {observer:x?}");
                assert_eq!(observe(&state, observer), observe(&next, observer), "{context}");
                unseen += 1;
                // What it observes is all that its answers depend on.
                let own = |vcpu: &&VcpuId| state.vcpus[*vcpu].vm == Some(observer);
                let Some(&asker) = runnable(&state).iter().find(own) else { continue };
                let question = generate::call(&state, asker, &mut random);
                let (without, expected) = after(&state, asker, question);
                let (with, found) = after(&next, asker, question);
                assert_eq!(found, expected, "{context}: {question:x?}");
                assert_eq!(observe(&with, observer), observe(&without, observer), "{context}: {question:x?}");
                answers += 1;
            }
            forget_outputs(&mut next);
            state = next;
        }
    }
    println!("{steps} steps, {unseen} seen by nobody unrelated, {answers} answers compared");
    assert!(unseen > 1_000 && answers > 500, "hardly anybody was unrelated");
    let bound = format!("{SEEDS} runs, {steps} steps, {unseen} pairs of a step and an unrelated VM, {answers} answers");
    tell("specification-non-interference", Property::NonInterference, bound);
}

#[test]
fn nobody_obtains_what_is_beyond_its_bound() {
    let (mut steps, mut checks, mut beyond) = (0_u64, 0_u64, 0_u64);
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut state = two_tenants(seed % 3 != 0);
        let tenants: Vec<VmId> = state.vms.keys().copied().filter(|vm| *vm != ROOT_VM).collect();
        let mut watched: Vec<(BTreeSet<VmId>, Bound)> = tenants
            .iter()
            .map(|vm| BTreeSet::from([*vm]))
            .chain([tenants.iter().copied().collect()])
            .map(|vms| (vms.clone(), Bound::of(&state, &vms)))
            .collect();
        beyond +=
            watched.iter().filter(|(_, bound)| state.slots.values().any(|slot| !bound.allows(slot))).count() as u64;
        for _ in 0..LENGTH {
            let Some(actor) = somebody(&state, &mut random) else { break };
            let call = generate::call(&state, actor, &mut random);
            let _ = step(&mut state, actor, call);
            forget_outputs(&mut state);
            steps += 1;
            for (vms, bound) in &mut watched {
                // A VM that is made of the memory of one that is gone is another.
                vms.retain(|vm| state.vms.contains_key(vm));
                let exceeded = bound.exceeded(&state, vms).map(|slot| &state.slots[&slot]);
                assert_eq!(exceeded, None, "seed {seed}: {call:x?} by {actor:x?}, {vms:x?}");
                checks += 1;
            }
        }
    }
    println!("{steps} steps, {checks} checks, {beyond} bounds that leave something out");
    assert!(beyond > 20, "hardly a bound left anything out");
    let bound =
        format!("{SEEDS} runs, {steps} steps, {checks} checks of a bound, {beyond} of which leave something out");
    tell("specification-confinement", Property::AuthorityConfined, bound);
}
