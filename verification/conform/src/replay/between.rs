//! How far a Delete or Revoke is that was preempted: of everything there is what was before, or what is when it is
//! through. What it takes away may be weaker meanwhile, and nothing comes to be.

use std::collections::BTreeMap;
use std::fmt::Debug;

use cap_spec::machine::{Cap, Run, Slot, State, invariants::extent_of};
use lockstep::observe::comparable;

/// A state, and what the whole operation makes of it.
#[derive(Debug)]
pub(super) struct Between {
    pub(super) before: State,
    pub(super) after: State,
}

impl Between {
    /// Event words are the guests' as well, some of which run on other cores meanwhile: they are taken from what was found.
    pub(super) fn adopt(&mut self, found: &State) {
        for vcpus in [&mut self.before.vcpus, &mut self.after.vcpus] {
            for (id, vcpu) in vcpus {
                vcpu.events = found.vcpus.get(id).map_or(vcpu.events, |found| found.events);
            }
        }
    }

    /// True states lie between the two.
    ///
    /// # Errors
    /// The first thing that is neither as before nor as after, nor on its way.
    pub(super) fn check(&self, found: &State) -> Result<(), String> {
        let (before, after) = (&comparable(&self.before), &comparable(&self.after));
        // Who is being destroyed may have moved to the slot that its own object keeps for it.
        let slot_between = |id: &_, found: &Slot| match (before.slots.get(id), after.slots.get(id)) {
            (Some(before), Some(after)) => is_slot_between(before, found, after),
            (Some(before), None) => is_weaker(before, found),
            (None, _) => matches!(found.cap, Cap::CNode { .. } | Cap::Channel { .. }),
        };
        part(&before.slots, &found.slots, &after.slots, slot_between)?;
        // Tables and objects that go may be emptied step by step.
        part(&before.cnodes, &found.cnodes, &after.cnodes, |_, _| true)?;
        part(&before.vms, &found.vms, &after.vms, |_, _| false)?;
        part(&before.domains, &found.domains, &after.domains, |_, _| false)?;
        part(&before.channels, &found.channels, &after.channels, |_, _| false)?;
        part(&before.vcpus, &found.vcpus, &after.vcpus, |id, found| {
            // The Vcpus of a VM whose base goes are stopped first.
            after.vcpus.get(id).is_none_or(|after| after.run == Run::Stopped) && found.run == Run::Stopped
        })?;
        part(&before.functions, &found.functions, &after.functions, |id, found| {
            let (before, after) = (before.functions.get(id), after.functions.get(id));
            before.is_some_and(|before| found.leases <= before.leases && found.vfs <= before.vfs)
                && after.is_none_or(|after| found.leases >= after.leases && found.vfs >= after.vfs)
        })?;
        part(&before.tables, &found.tables, &after.tables, |id, found| {
            let empty = BTreeMap::new();
            let (before, after) = (before.tables.get(id).unwrap_or(&empty), after.tables.get(id).unwrap_or(&empty));
            found.iter().all(|(index, entry)| before.get(index) == Some(entry))
                && after.iter().all(|(index, entry)| found.get(index) == Some(entry))
        })?;
        if found.faults != before.faults && found.faults != after.faults {
            return Err("the records of faults have changed".into());
        }
        Ok(())
    }

    /// The abstract machine goes on from what was found. Memory does not tell what a table holds that no root leads to.
    pub(super) fn resume(self, mut found: State) -> State {
        let tables = found.slots.values().filter_map(|slot| match slot.cap {
            Cap::PageTable { id, .. } => Some(id),
            _ => None,
        });
        for table in tables.collect::<Vec<_>>() {
            let before = self.before.tables.get(&table);
            found.tables.entry(table).or_insert_with(|| before.cloned().unwrap_or_default());
        }
        found
    }
}

/// Each thing found is as before or as after, or `is_between` says that it may be; what is there before and after is there.
fn part<K: Ord + Debug, V: PartialEq + Debug>(
    before: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    is_between: impl Fn(&K, &V) -> bool,
) -> Result<(), String> {
    for (key, value) in found {
        let known = [before.get(key), after.get(key)];
        if !known.contains(&Some(value)) && !is_between(key, value) {
            return Err(format!("half-way, {key:x?} is {value:x?}; before and after: {known:x?}"));
        }
    }
    match before.keys().find(|key| after.contains_key(key) && !found.contains_key(key)) {
        Some(key) => Err(format!("half-way, {key:x?} is gone, and must stay")),
        None => Ok(()),
    }
}

/// A slot that stays: its watermark sinks, its time is given back, its mapping and bindings go, its parent passes away.
fn is_slot_between(before: &Slot, found: &Slot, after: &Slot) -> bool {
    let same = found.rights == before.rights && found.original == before.original && found.depth == before.depth;
    let cap = match (&before.cap, &found.cap, &after.cap) {
        (
            Cap::Untyped { extent, device, watermark: before },
            Cap::Untyped { extent: other, device: kind, watermark },
            Cap::Untyped { watermark: after, .. },
        ) => extent == other && device == kind && (after.min(before)..=after.max(before)).contains(&watermark),
        (
            Cap::CpuTime { reservation, free_from: before, .. },
            Cap::CpuTime { reservation: other, free_from, .. },
            Cap::CpuTime { free_from: after, .. },
        ) => reservation == other && (before..=after).contains(&free_from),
        (Cap::Irq { .. }, Cap::Irq { .. }, Cap::Irq { .. })
        | (Cap::Frame { .. }, Cap::Frame { mapping: None, .. }, Cap::Frame { .. })
        | (Cap::PageTable { .. }, Cap::PageTable { place: None, .. }, Cap::PageTable { .. }) => {
            extent_of(&before.cap) == extent_of(&found.cap)
        }
        (before, found, after) => found == before || found == after,
    };
    same && cap
}

/// A slot that goes: it is still of the same object, with the same rights.
fn is_weaker(before: &Slot, found: &Slot) -> bool {
    found.rights == before.rights
        && found.cap.object_type() == before.cap.object_type()
        && extent_of(&found.cap) == extent_of(&before.cap)
}
