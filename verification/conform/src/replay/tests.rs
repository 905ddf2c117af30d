//! Mistakes that are put into a good trace, or into memory, and must be found.
//!
//! The trace is that of the lock-step kernel, which makes a tenant: no emulator is needed.

use super::*;
use cap_spec::abi::Label;
use cap_spec::machine::{Call, Entry as TableEntry, Outcome, TableId};
use kernel::machine::Machine;
use kernel::trace::{Kind, Returned};
use lockstep::script::{self, Step, tenant};
use lockstep::system::{ROOT_VCPU, System, boot_spec};

/// log2 of the bytes that are not clean at boot.
const DIRTY: u8 = 20;

type Words = [u64; WORDS];

fn words(number: usize, kind: Kind, details: &[u64]) -> Words {
    let mut words = [0; WORDS];
    words[..3].copy_from_slice(&[number as u64, (kind as u64) << 8, 0]);
    words[3..3 + details.len()].copy_from_slice(details);
    words
}

/// The kernel after these steps of the root VM, and the trace of that.
fn traced(steps: &[Step]) -> (System, Vec<Words>) {
    let mut system = System::with_dirty_memory(DIRTY, None);
    let mut trace = vec![words(0, Kind::Loaded, &[ROOT_VCPU.0])];
    for step in steps {
        let Step::Invoke(0, Call { cptr, label, args: [a, b, c, d, e] }) = *step else { panic!("{step} is no call") };
        let (_, reply) = system.step(*step).expect("lock-step agrees").expect("the root VM runs");
        trace.push(words(trace.len(), Kind::Call, &[ROOT_VCPU.0, cptr, label, a, b, c, d, e]));
        let (status, results) = match reply {
            Ok(Outcome::Done(results)) => (0, results),
            Ok(Outcome::Blocked) => panic!("{step} blocks"),
            Err(fault) => (cap_spec::abi::Status::refused(fault).0, [0; 2]),
        };
        let details = [Returned::Done as u64, status, results[0], results[1]];
        trace.push(words(trace.len(), Kind::Return, &details));
    }
    (system, trace)
}

fn steps() -> Vec<Step> {
    let slots = script::root(Label::CNodeIdentify, lockstep::system::place::CNODE, &[tenant::FRAMES[0]]);
    [script::build_tenant(1), vec![slots], script::hand_over()].concat()
}

fn boot_slots(spec: &State) -> Vec<k::SlotId> {
    let boot = spec.slots.iter().filter(|(_, slot)| slot.parent.is_none());
    boot.map(|(id, _)| k::Hpa::new(id.0).to_slot()).collect()
}

/// Replays a trace, and compares with what the kernel has in memory in the end.
fn replay(trace: &[Words], system: &System) -> Result<Replay, Divergence> {
    let spec = boot_spec(DIRTY);
    let boot = boot_slots(&spec);
    let mut replay = Replay::starting(spec, boot, ROOT_VCPU);
    replay.take(trace)?;
    let found = observe(&system.kernel, &replay.boot, &replay.spec.config);
    found.and_then(|found| replay.agree(found)).map_err(|what| replay.divergence(what))?;
    let ended = replay.settle_last().and_then(|()| replay.check_invariants());
    ended.map_err(|what| replay.divergence(what))?;
    Ok(replay)
}

/// The records with the numbers that they would have if nothing else had been written.
fn renumbered(mut trace: Vec<Words>) -> Vec<Words> {
    for (number, record) in trace.iter_mut().enumerate() {
        record[0] = number as u64;
    }
    trace
}

/// Where the calls begin: each is two records.
fn calls(trace: &[Words]) -> impl Iterator<Item = usize> {
    (1..trace.len()).step_by(2)
}

#[test]
fn a_good_trace_is_followed_to_its_end() {
    let (system, trace) = traced(&steps());
    let replay = replay(&trace, &system).unwrap();
    assert_eq!(replay.statistics.records as usize, trace.len());
    assert_eq!(replay.statistics.invocations() as usize, steps().len());
}

#[test]
fn a_changed_answer_is_found_where_it_stands() {
    let (system, trace) = traced(&steps());
    for at in calls(&trace) {
        // Another error, an error instead of none, another result.
        for (word, bit) in [(4, 1), (4, 1 << 8), (5, 1)] {
            let mut changed = trace.clone();
            changed[at + 1][word] ^= bit;
            let Err(found) = replay(&changed, &system) else { panic!("{at}, {word}") };
            assert_eq!(found.at as usize, at + 1, "{found}");
            // What the user sees is that prefix, and how it ends.
            let text = found.to_string();
            assert!(text.starts_with(&format!("the first {} records show it: ", at + 2)), "{text}");
            assert!(
                text.lines().last().is_some_and(|line| line.trim().starts_with(&format!("{} core 0", at + 1))),
                "{text}"
            );
        }
    }
}

#[test]
fn a_missing_record_is_found() {
    let (system, trace) = traced(&steps());
    for at in 0..trace.len() - 1 {
        let mut shorter = trace.clone();
        shorter.remove(at);
        let Err(found) = replay(&shorter, &system) else { panic!("{at}") };
        assert!(found.what.contains(&format!("record {at} is missing")), "{found}");
    }
}

#[test]
fn a_call_that_was_never_recorded_is_found() {
    let (system, trace) = traced(&steps());
    let effects = calls(&trace).filter(|at| trace[*at][5] != Label::CNodeIdentify as u64);
    for at in effects {
        let mut shorter = trace.clone();
        shorter.drain(at..at + 2);
        assert!(replay(&renumbered(shorter), &system).is_err(), "the call at {at}");
    }
}

#[test]
fn calls_in_another_order_are_found() {
    let (system, trace) = traced(&steps());
    let swap = |first: usize, second: usize| {
        let mut swapped = trace.clone();
        for offset in 0..2 {
            swapped.swap(first + offset, second + offset);
        }
        swapped
    };
    // As they were written, the numbers tell.
    for at in calls(&trace).take(steps().len() - 1) {
        assert!(replay(&swap(at, at + 2), &system).is_err(), "the calls at {at}");
    }
    // A kernel that numbers them in the wrong order is found by what they do: the base before what is made of it.
    assert!(replay(&renumbered(swap(1, 3)), &system).is_err());
}

#[test]
fn an_entry_that_is_left_in_a_table_is_found() {
    let unmap = script::root(Label::FrameUnmap, tenant::FRAMES[0], &[]);
    let steps = [script::build_tenant(1), vec![unmap]].concat();
    let (before, _) = traced(&steps[..steps.len() - 1]);
    let (mut system, trace) = traced(&steps);
    replay(&trace, &system).unwrap();
    let leaves = |system: &System| -> BTreeSet<(TableId, u16)> {
        let tables = system.spec.tables.iter();
        let entries =
            tables.flat_map(|(table, entries)| entries.iter().map(move |(index, entry)| (*table, *index, *entry)));
        entries.filter(|entry| matches!(entry.2, TableEntry::Leaf { .. })).map(|entry| (entry.0, entry.1)).collect()
    };
    let gone = &leaves(&before) - &leaves(&system);
    let (table, index) = *gone.first().expect("an unmapped frame");
    let (table, index) = (k::Hpa::new(table.0), usize::from(index));
    let entry = before.kernel.machine.table_entry(table, index);
    system.kernel.machine.set_table_entry(table, index, entry);
    let Err(found) = replay(&trace, &system) else { panic!("nobody sees it") };
    assert!(found.what.contains("TableId"), "{found}");
}

#[test]
fn a_capability_that_is_left_after_revoke_is_found() {
    let revoke = script::root(Label::CNodeRevoke, lockstep::system::place::CNODE, &[lockstep::system::place::CLEAN]);
    let steps = [script::build_tenant(1), vec![revoke]].concat();
    let (before, _) = traced(&steps[..steps.len() - 1]);
    let (mut system, trace) = traced(&steps);
    let replayed = replay(&trace, &system).unwrap();
    assert_eq!(replayed.statistics.taken, 1);
    let cnode = system.spec.vms[&lockstep::system::ROOT_VM].cspace.expect("a CSpace");
    let slot = k::Hpa::new(cnode.slot(tenant::FRAMES[1]).0).to_slot();
    *system.kernel.machine.slot_mut(slot) = *before.kernel.machine.slot(slot);
    assert!(replay(&trace, &system).is_err());
}

#[test]
fn events_that_a_guest_takes_while_a_call_is_preempted_are_no_difference() {
    let before = boot_spec(DIRTY);
    let mut found = comparable(&before);
    found.vcpus.get_mut(&ROOT_VCPU).expect("the root Vcpu").events ^= 1;
    let mut between = Between { after: before.clone(), before };
    assert!(between.check(&found).is_err());
    between.adopt(&found);
    between.check(&found).unwrap();
}
