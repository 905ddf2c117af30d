//! Invocations with any registers, by a root VM and by a tenant of it, against the specification.

use crate::bytes::Bytes;
use crate::{Checked, Target};
use cap_spec::abi::Label;
use cap_spec::machine::Call;
use lockstep::mutants::Mutant;
use lockstep::script::{self, Step};
use lockstep::system::{Pace, System, place};
use std::cell::RefCell;

/// Steps of one input.
const STEPS: usize = 48;
/// Bits of the memory that is not scrubbed at the start: little, as each input begins at boot.
const DIRTY_BITS: u8 = 13;

/// How the world begins, and steps: see [`step`].
pub const INVOCATIONS: Target = Target {
    name: "invocations",
    about: "Calls with any registers: kernel and specification answer the same, and are in the same state; neither panics.",
    check: |input| invocations(input, None),
    twin: |input| invocations(input, Some(Mutant::RightsNotMasked)),
    seeds,
    inputs: 10_000,
};

thread_local! {
    /// Worlds after their first steps, which would take longer than the rest.
    static WORLDS: RefCell<Vec<((u8, bool), System)>> = const { RefCell::new(Vec::new()) };
}

/// A world with nobody but the root VM, with a tenant in the making, or with one that runs.
fn world(start: u8, mutant: Option<Mutant>) -> Result<System, String> {
    let key = (start % 3, mutant.is_some());
    let known =
        WORLDS.with_borrow(|worlds| worlds.iter().find(|(known, _)| *known == key).map(|(_, world)| world.clone()));
    if let Some(world) = known {
        return Ok(world);
    }
    let steps = match key.0 {
        0 => Vec::new(),
        1 => script::build_tenant(1),
        _ => script::launched_tenant(1),
    };
    let mut system = System::with_dirty_memory(DIRTY_BITS, mutant);
    for step in steps {
        system.step(step).map_err(|divergence| format!("{step}: {divergence}"))?;
    }
    WORLDS.with_borrow_mut(|worlds| worlds.push((key, system.clone())));
    Ok(system)
}

fn invocations(input: &[u8], mutant: Option<Mutant>) -> Checked {
    let mut bytes = Bytes::new(input);
    let Some(start) = bytes.byte() else { return Ok(()) };
    let mut system = world(start, mutant)?.at_pace(Pace { states: 4, invariants: 16 });
    for _ in 0..STEPS {
        let Some(step) = step(&mut bytes) else { break };
        system.step(step).map_err(|divergence| format!("{step}: {divergence}"))?;
    }
    // What differs since the last look.
    system.at_pace(Pace::EACH).step(Step::Decide(0)).map_err(|divergence| format!("at the end: {divergence}"))?;
    Ok(())
}

/// A step. Bit 0 of its first byte is the core; of bits 1 to 3, 0 to 5 are invocations; then the label and the registers,
/// each one byte that says how many follow, so that small numbers, which name slots, are likely.
fn step(bytes: &mut Bytes) -> Option<Step> {
    let first = bytes.byte()?;
    let core = first & 1;
    match first >> 1 & 7 {
        6 => Some(Step::Advance(u64::from(bytes.half()?))),
        7 => match bytes.byte()? % 4 {
            0 => Some(Step::Decide(core)),
            1 => Some(Step::Input(bytes.word()?)),
            2 => Some(Step::Restart),
            _ => Some(Step::Fault(bytes.byte()?.into(), [bytes.long()?, bytes.long()?])),
        },
        _ => {
            // A few numbers that are no label, and rarely any at all.
            let label = match bytes.byte()? {
                0xff => bytes.long()?,
                label => u64::from(label) % (Label::COUNT as u64 + 4),
            };
            let cptr = register(bytes)?;
            let mut args = [0; 5];
            for arg in &mut args {
                *arg = register(bytes)?;
            }
            Some(Step::Invoke(core, Call { cptr, label, args }))
        }
    }
}

fn register(bytes: &mut Bytes) -> Option<u64> {
    Some(match bytes.byte()? {
        small @ 0..0xf8 => small.into(),
        0xf8 | 0xf9 => bytes.half()?.into(),
        0xfa => u64::from(bytes.half()?) << 12,
        0xfb | 0xfc => bytes.word()?.into(),
        0xfd => u64::MAX,
        _ => bytes.long()?,
    })
}

/// The bytes of which [`step`] makes this call by core 0.
fn bytes_of(call: Call) -> Vec<u8> {
    let mut bytes = vec![0, call.label as u8];
    for register in std::iter::once(call.cptr).chain(call.args) {
        match register {
            0..0xf8 => bytes.push(register as u8),
            _ => {
                bytes.push(0xff);
                bytes.extend(register.to_le_bytes());
            }
        }
    }
    bytes
}

/// The making of a tenant, what may go wrong with it, and copies with fewer rights.
fn seeds() -> Vec<Vec<u8>> {
    let bytes = |steps: &[Step]| -> Vec<u8> {
        let calls = steps.iter().filter_map(|step| match step {
            Step::Invoke(_, call) => Some(bytes_of(*call)),
            _ => None,
        });
        calls.flatten().collect()
    };
    let make = bytes(&script::build_tenant(0));
    let hand_over = bytes(&[script::hand_over(), script::launch().to_vec()].concat());
    let copy = |rights: u64| {
        let copied = script::root(Label::CNodeCopy, place::CNODE, &[50, script::tenant::FRAMES[0], rights]);
        let used = script::root(Label::FrameMap, 50, &[script::tenant::VM, 0x3000, 7]);
        let revoked = script::root(Label::CNodeRevoke, place::CNODE, &[script::tenant::BASE]);
        bytes(&[copied, used, revoked])
    };
    let mut seeds = vec![[vec![0], make].concat(), [vec![1], hand_over].concat()];
    seeds.extend([1, 3, 31].map(|rights| [vec![1], copy(rights)].concat()));
    seeds.extend(script::threats().iter().map(|threat| [vec![1], bytes(threat)].concat()));
    // Each label once, by the root VM and by the tenant.
    seeds.extend((0..Label::COUNT as u8).map(|label| vec![label % 3, label & 1, label, 5, 20, 5, 31, 1, 1]));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        for step in script::build_tenant(0) {
            let Step::Invoke(_, call) = step else { continue };
            assert_eq!(super::step(&mut Bytes::new(&bytes_of(call))), Some(Step::Invoke(0, call)));
        }
    }
}
