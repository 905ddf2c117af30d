//! The comparison of the formulas with the executable specification finds what it is there for: formulas that say something
//! else than is done, and steps that do something else than is said.

use cap_spec::abi::Rights;
use cap_spec::machine::{Cap, SlotId, State};
use proofs::bugs::bugs;
use proofs::correspondence::{Checked, check_step_as};
use proofs::operation::Operation;
use proofs::operations::{draft, operations};
use proofs::walk::random;
use proofs::witness::Step;
use std::cell::Cell;

/// Random steps of a search. What is to be found is found after far fewer.
const STEPS: usize = 20_000;

/// Walks until an operation drifts that is put in the place of `of`. What was found.
fn drift(of: &str, wrong: &Operation) -> Option<String> {
    let check = |step: &Step| match step.name() {
        Some(name) if name == of => check_step_as(step, wrong),
        _ => Ok(Checked::Done(None)),
    };
    random(1, STEPS, &check).err()
}

/// Under the name of the right one, by which its parameters are read off a step.
fn in_place_of(of: &'static str, operation: Operation) -> Operation {
    Operation { name: of, ..operation }
}

/// Seeded bugs of operations that make something else of the state, which the atomic machine's states show. The others
/// require too little, which no step of a right machine shows, or are about what hardware remembers.
const SHOWN: [&str; 7] = [
    "retype-moves-no-watermark",
    "move-leaves-a-copy",
    "move-loses-children",
    "delete-leaves-slots-of-a-cnode",
    "delete-leaves-a-receiver",
    "unmap-leaves-the-entry",
    "route-of-a-vcpu-without-time",
];

#[test]
fn an_operation_that_says_something_else_drifts() {
    let bugs = bugs();
    let missed: Vec<&str> = SHOWN
        .into_iter()
        .filter(|name| {
            let bug = bugs.iter().find(|bug| bug.operation.name == *name).expect("a seeded bug");
            drift(bug.of, &in_place_of(bug.of, bug.operation.clone())).is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn a_requirement_too_many_drifts() {
    let strict = [
        ("copy", "all y: !anc(s, y)"),
        ("retype", "c1 = Untyped"),
        ("delete", "orig(s)"),
        ("revoke", "some y: anc(s, y)"),
        ("map-frames", "all y: !anc(s, y)"),
    ];
    for (of, text) in strict {
        let told = drift(of, &draft(of).require("too-many", text).read());
        let told = told.unwrap_or_else(|| panic!("{of}: that {text} is not always so was not found"));
        assert!(told.contains("too-many"), "{of}: {told}");
    }
}

/// The one slot that a step has filled.
fn filled(step: &Step) -> Option<SlotId> {
    step.after.slots.keys().find(|slot| !step.before.slots.contains_key(slot)).copied()
}

/// A step that is changed so that it is none: the operation, what is wrong with it, and the change; `None` where the step
/// has nothing that could be changed so.
type Tamper = (&'static str, &'static str, fn(&Step, &mut State) -> Option<()>);

// A Delete that takes more along than it must is not among them: that it takes the least is not stated.
const TAMPERS: [Tamper; 6] = [
    ("copy", "a right too many", |step, after| {
        let slot = after.slots.get_mut(&filled(step)?)?;
        // One that the source has may be asked for: then it is a step, of another call.
        let source = step.before.slots[&slot.parent?].rights;
        (source != Rights::all()).then(|| slot.rights = Rights::all())
    }),
    ("copy", "derived from something else", |step, after| {
        let slot = after.slots.get_mut(&filled(step)?)?;
        let parent = slot.parent?;
        slot.parent = Some(step.before.slots[&parent].parent?);
        Some(())
    }),
    ("retype", "the watermark stays", |step, after| {
        let of = after.slots[&filled(step)?].parent?;
        after.slots.insert(of, step.before.slots[&of].clone());
        Some(())
    }),
    ("move", "the source stays", |step, after| {
        let source = step.before.slots.keys().find(|slot| !step.after.slots.contains_key(slot))?;
        after.slots.insert(*source, step.before.slots[source].clone());
        Some(())
    }),
    ("revoke", "a descendant stays", |step, after| {
        let gone = step.before.slots.iter().find(|(id, slot)| {
            let is_left = slot.parent.is_some_and(|parent| step.after.slots.contains_key(&parent));
            is_left && !step.after.slots.contains_key(id)
        });
        let (id, slot) = gone?;
        after.slots.insert(*id, slot.clone());
        Some(())
    }),
    ("unmap-frames", "the record stays", |step, after| {
        let is_mapped = |cap: &Cap| matches!(cap, Cap::Frame { mapping: Some(_), .. });
        let mut was = step.before.slots.iter().filter(|(id, slot)| {
            is_mapped(&slot.cap) && step.after.slots.get(id).is_some_and(|slot| !is_mapped(&slot.cap))
        });
        let (id, slot) = was.next()?;
        // One frame of a row less is another call's step.
        if was.next().is_some() {
            return None;
        }
        after.slots.insert(*id, slot.clone());
        Some(())
    }),
];

#[test]
fn a_step_that_does_something_else_drifts() {
    for (of, wrong, tamper) in TAMPERS {
        let operation = operations().iter().find(|operation| operation.name == of).expect("an operation");
        let (seen, missed) = (Cell::new(0), Cell::new(0));
        let check = |step: &Step| {
            if step.name() != Some(of) || seen.get() == 20 {
                return Ok(Checked::Done(None));
            }
            let mut after = step.after.clone();
            if tamper(step, &mut after).is_some() {
                seen.set(seen.get() + 1);
                let tampered = Step { before: step.before, after: &after, ..*step };
                if check_step_as(&tampered, operation).is_ok() {
                    missed.set(missed.get() + 1);
                }
            }
            Ok(Checked::Done(None))
        };
        random(1, STEPS, &check).unwrap_or_else(|told| panic!("{told}"));
        assert!(seen.get() > 3, "{of}: {wrong}: {} steps", seen.get());
        assert_eq!(missed.get(), 0, "{of}: {wrong}: not found in {} of {} steps", missed.get(), seen.get());
    }
}
