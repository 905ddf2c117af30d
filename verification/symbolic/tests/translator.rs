//! The translator against the compiler: every program is executed on the host and translated, for the same inputs, and both
//! must come to the same. Inputs are worlds that the kernel's library has made, with arguments at random, and noise.

mod random;

use kernel::Invocation;
use kernel::cap::{Cap, Mapping};
use kernel::machine::Machine as _;
use kernel::slot::{MAX_DEPTH, Slot};
use kernel::types::{CoreId, Hpa, SlotId, VcpuId, VmId};
use kernel_harness::world::{Small, World};
use kernel_harness::{PROGRAMS, spec};
use random::Random;
use rustc_hash::FxHashMap;
use std::path::Path;
use symbolic::evaluate::Evaluation;
use symbolic::exec::Machine;
use symbolic::{build, native};

/// Slots of the worlds.
const SLOTS: usize = 4;
/// Inputs of one slot (`world.rs`), and where arguments begin (`forest.rs`).
const FIELDS: u32 = 16;
const ARGUMENTS: u32 = 1 << 16;

impl Random {
    fn slot(&mut self) -> SlotId {
        SlotId::new(1 + self.below(SLOTS as u64) as u32)
    }
}

/// Any capability of a kind that every program has.
fn any_cap(random: &mut Random) -> Cap {
    let base = Hpa::new(random.bits());
    match random.below(12) {
        0 => Cap::Untyped { bits: 20, device: false, vm: VmId::NONE, base, watermark: random.bits() },
        1..=6 => Cap::Frame { bits: 12, device: false, kernel_page: false, base, mapping: Mapping::NONE },
        _ => Cap::Machine,
    }
}

/// A world that the kernel's library has made, by steps at random.
fn any_world(random: &mut Random) -> World<SLOTS> {
    let mut kernel: Small<SLOTS> = kernel::Kernel::new(World::new());
    kernel.give(random.slot(), any_cap(random));
    for _ in 0..random.below(12) {
        let (from, to) = (random.slot(), random.slot());
        let source = *kernel.machine.slot(from);
        let is_free = kernel.machine.slot(to).is_empty();
        let mask = cap_spec::abi::Rights::from_bits_truncate(random.bits() as u8);
        let is_unique = source.cap.object_type().is_unique();
        let invocation = match random.below(4) {
            0 if is_free && !is_unique && source.depth < MAX_DEPTH - 1 => {
                Invocation::Derive { from, to, mask, badge: 0 }
            }
            1 if is_free && !source.boot => Invocation::Move { from, to, mask },
            2 if !source.boot && !source.original => Invocation::Delete(from),
            3 if is_free && from != to => {
                kernel.give(to, any_cap(random));
                continue;
            }
            _ => continue,
        };
        if !source.is_empty() {
            kernel.carry_out(CoreId::new(0), VcpuId::NONE, Ok(invocation));
        }
    }
    assert!(spec::is_well_formed(&kernel.machine), "{:?}", kernel.machine);
    kernel.machine
}

/// The inputs that make a world.
fn inputs_of(world: &World<SLOTS>) -> FxHashMap<u32, u64> {
    let mut inputs = FxHashMap::default();
    for (number, slot) in world.slots.iter().enumerate() {
        let Slot { cap, first_child, last_child, next, prev, rights, depth, original, boot, first, last, .. } = *slot;
        let (head, words) = match cap {
            Cap::Null => (0, [0; 2]),
            Cap::Untyped { bits, base, watermark, .. } => (1 | u64::from(bits) << 8, [base.get(), watermark]),
            Cap::Frame { bits, base, .. } => (3 | u64::from(bits) << 8, [base.get(), 0]),
            Cap::Machine => (11, [0; 2]),
            other => panic!("{other:?} is not made here"),
        };
        let flags = u64::from(rights.bits()) | u64::from(depth) << 8 | u64::from(original) << 16;
        let flags = flags | u64::from(boot) << 17 | u64::from(first) << 18 | u64::from(last) << 19;
        let pair = |low: SlotId, high: SlotId| u64::from(low.get()) | u64::from(high.get()) << 32;
        let fields = [head, pair(first_child, last_child), pair(next, prev), flags, words[0], words[1], 0, 0];
        for (field, value) in fields.into_iter().enumerate() {
            inputs.insert(number as u32 * FIELDS + field as u32, value);
        }
    }
    inputs
}

/// Inputs without any sense.
fn noise(random: &mut Random) -> FxHashMap<u32, u64> {
    let number = |random: &mut Random| match random.below(3) {
        0 => random.below(8) | random.below(8) << 32,
        1 => random.below(16),
        _ => random.bits(),
    };
    let slots = (0..SLOTS as u32).flat_map(|slot| (0..8).map(move |field| slot * FIELDS + field));
    slots.map(|input| (input, number(random))).collect()
}

#[test]
fn what_is_translated_does_what_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let module = build::module(&root, "1").expect("the programs build, and are understood");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut has_panicked = 0;
    for program in PROGRAMS.iter().filter(|program| program.slots == SLOTS) {
        let mut machine = Machine::new(&module, SLOTS + 2);
        machine.run(program.name).expect(program.name);
        let inputs: Vec<_> = machine.inputs().collect();
        let (mut finished, mut panicked, mut wrong) = (0, 0, 0);
        for round in 0..600 {
            let mut given = if round % 4 == 0 { noise(&mut random) } else { inputs_of(&any_world(&mut random)) };
            for argument in 0..6 {
                let value = if random.below(12) == 0 { random.bits() } else { 1 + random.below(SLOTS as u64) };
                given.insert(ARGUMENTS + argument, value);
            }
            let run = native::run(program, given.clone());
            let values = inputs
                .iter()
                .map(|(number, term)| (term.number(), u128::from(given.get(&(*number as u32)).copied().unwrap_or(0))));
            let evaluation = Evaluation::new(&machine.pool, values);
            let is_broken = |other: &&symbolic::exec::Obligation| evaluation.value(other.condition) == 1;
            let broken = machine.obligations.iter().find(is_broken);
            // In noise a loop may end later than where the formula stops looking: of that it says nothing.
            if machine.obligations.iter().filter(is_broken).any(|other| other.what.starts_with("a loop that goes on")) {
                continue;
            }
            assert_eq!(run.has_panicked, broken.is_some(), "{} of {given:?}: {broken:?}", program.name);
            if run.has_panicked {
                panicked += 1;
                continue;
            }
            finished += 1;
            let truth = |term| evaluation.value(term) == 1;
            // Of what lies on several paths, that on the one that was taken.
            let paths = machine.reached.iter().zip(&machine.assumptions);
            let assumed: Vec<bool> =
                paths.filter(|(reached, _)| truth(**reached)).map(|(_, assumption)| truth(*assumption)).collect();
            assert_eq!(run.assumed, assumed, "{} of {given:?}", program.name);
            let asserted: Vec<(u32, bool)> = machine
                .assertions
                .iter()
                .filter(|assertion| truth(assertion.reached))
                .map(|assertion| (assertion.number, !truth(assertion.fails)))
                .collect();
            assert_eq!(run.asserted, asserted, "{} of {given:?}", program.name);
            let observed: Vec<(u32, u64)> = machine
                .observed
                .iter()
                .filter(|(_, reached, _)| truth(*reached))
                .map(|(number, _, value)| (*number, evaluation.value(*value) as u64))
                .collect();
            assert_eq!(run.observed, observed, "{} of {given:?}", program.name);
            wrong += u32::from(run.asserted.iter().any(|(_, holds)| !holds));
        }
        println!("{}: {finished} finished, {panicked} panicked, {wrong} with a wrong assertion", program.name);
        // What was made mostly does not panic, whether it satisfies the assumptions or not.
        assert!(finished > 15, "{}", program.name);
        has_panicked += u32::from(panicked > 0);
    }
    // Noise panics, but in the programs that are about the rules alone.
    assert!(has_panicked > 10, "{has_panicked}");
}
