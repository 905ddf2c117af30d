//! The named properties, checked in every state and step that is reached.
//!
//! The specification has a form of most of them, which is used here; what is about a Revoke or a Retype is said here.

use std::collections::BTreeSet;

use cap_spec::abi::Label;
use cap_spec::machine::authority::Bound;
use cap_spec::machine::interference::{may_influence, observe};
use cap_spec::machine::invariants::{self, extent_of};
use cap_spec::machine::{self as spec, Cap, Entry, Extent, SlotId, State};
use cap_spec::properties::Property;

use crate::conditions::Step;
use crate::machine::Violation;
use crate::question::Question;
use crate::world::Party;

/// The properties that are checked here.
pub const CHECKED: [Property; 11] = [
    Property::WellFormed,
    Property::NoAuthorityFromNothing,
    Property::AuthorityConfined,
    Property::NoOverlap,
    Property::EntriesBacked,
    Property::RevokeComplete,
    Property::CleanBeforeReuse,
    Property::TimeDelivered,
    Property::OneOwner,
    Property::FailureChangesNothing,
    Property::NonInterference,
];

/// The properties that a question asks for, and what they need to know of its start.
#[derive(Clone, Debug)]
pub struct Checks {
    wanted: BTreeSet<Property>,
    /// Of each VM, the most that it can ever obtain.
    bounds: Vec<Bound>,
}

fn broken(property: Property, what: impl Into<String>) -> Option<Violation> {
    Some(Violation { claim: property.name().into(), what: what.into() })
}

impl Checks {
    /// What a question asks for.
    pub fn of(question: &Question) -> Checks {
        let bound = |party: &Party| Bound::of(&question.world.state, &[party.vm].into());
        let bounds = question.parties().iter().map(bound).collect();
        Checks { wanted: question.checks.iter().copied().collect(), bounds }
    }

    fn wants(&self, property: Property) -> bool {
        self.wanted.contains(&property)
    }

    /// What is wrong with a state.
    pub fn of_state(&self, question: &Question, state: &State) -> Option<Violation> {
        if self.wanted.is_empty() {
            return None;
        }
        if let Err(rule) = invariants::check(state) {
            return broken(rule.property(), format!("the specification's invariant {rule:?} does not hold"));
        }
        if self.wants(Property::AuthorityConfined) {
            for (party, bound) in question.parties().iter().zip(&self.bounds) {
                if bound.exceeded(state, &[party.vm].into()).is_some() {
                    return broken(
                        Property::AuthorityConfined,
                        format!("{} has what nobody could give it", party.name),
                    );
                }
            }
        }
        if self.wants(Property::EntriesBacked) { entries(state) } else { None }
    }

    /// What is wrong with a step.
    pub fn of_step(&self, question: &Question, step: &Step<'_>, after: &State) -> Option<Violation> {
        let call = step.call?;
        if step.refused {
            let changes = self.wants(Property::FailureChangesNothing) && *step.before != *after;
            return if changes {
                broken(Property::FailureChangesNothing, "a refused invocation changed the state")
            } else {
                None
            };
        }
        let label = Label::from_number(call.label)?;
        let vcpu = question.parties()[step.party].vcpu;
        let found = match label {
            Label::CNodeRevoke if self.wants(Property::RevokeComplete) => {
                spec::named_slot(step.before, vcpu, call).and_then(|slot| left_over(step.before, after, slot))
            }
            Label::UntypedRetype if self.wants(Property::CleanBeforeReuse) => reused(step.before, after),
            _ => None,
        };
        if found.is_none() && self.wants(Property::NonInterference) {
            return interference(question, step, after);
        }
        found
    }
}

/// Whether a step changed what a VM observes that who made it may not influence.
fn interference(question: &Question, step: &Step<'_>, after: &State) -> Option<Violation> {
    let (before, actor) = (step.before, &question.parties()[step.party]);
    let others = question.parties().iter().filter(|other| !may_influence(before, actor.vm, other.vm));
    let mut changed = others.filter(|other| observe(before, other.vm) != observe(after, other.vm));
    let whom = changed.next()?;
    broken(Property::NonInterference, format!("a step of {} changed what {} observes", actor.name, whom.name))
}

/// Whether there is an entry without a capability that allows it.
fn entries(state: &State) -> Option<Violation> {
    for space in state.vms.keys().chain(state.domains.keys()) {
        for (gpa, entry) in spec::mappings(state, *space) {
            let Entry::Leaf { extent, rights } = entry else { continue };
            let allows = |slot: &spec::Slot| match &slot.cap {
                Cap::Frame { extent: of, mapping: Some(mapping), .. } => {
                    let same = *of == extent && mapping.vm == *space && mapping.gpa == gpa;
                    same && mapping.rights == rights && slot.rights.contains(rights)
                }
                _ => false,
            };
            if !state.slots.values().any(allows) {
                return broken(Property::EntriesBacked, format!("nothing allows the entry at {gpa:#x}"));
            }
        }
    }
    for slot in state.slots.values() {
        if let Cap::Irq { message: Some(message), .. } = &slot.cap
            && !state.functions.contains_key(&message.function)
        {
            return broken(Property::EntriesBacked, "a message of a function that is gone raises a route");
        }
    }
    None
}

/// What a Revoke of the capability in `slot` has left that it should have taken.
fn left_over(before: &State, after: &State, slot: SlotId) -> Option<Violation> {
    let gone = before.descendants(slot);
    let kept = after.slots.get(&slot);
    // It may have been among what it revoked, as when a VM revokes what it is made of.
    if kept.is_some() && after.has_children(slot) {
        return broken(Property::RevokeComplete, "a capability derived from the revoked one is left");
    }
    if gone.iter().any(|gone| after.slots.get(gone).is_some_and(|slot| Some(slot) == before.slots.get(gone))) {
        return broken(Property::RevokeComplete, "a descendant of the revoked capability is left");
    }
    // Memory of the objects that went with their capabilities, and mappings that descendants had.
    let dead: Vec<Extent> = gone
        .iter()
        .filter(|gone| before.slots[gone].original)
        .filter_map(|gone| extent_of(&before.slots[gone].cap))
        .collect();
    let is_dead = |extent: Extent| dead.iter().any(|dead| !dead.is_apart_from(extent));
    for space in after.vms.keys().chain(after.domains.keys()) {
        for (gpa, entry) in spec::mappings(after, *space) {
            let Entry::Leaf { extent, .. } = entry else { continue };
            let had = |gone: &SlotId| match &before.slots[gone].cap {
                Cap::Frame { extent: of, mapping: Some(mapping), .. } => {
                    *of == extent && mapping.vm == *space && mapping.gpa == gpa
                }
                _ => false,
            };
            if is_dead(extent) || gone.iter().any(had) {
                return broken(Property::RevokeComplete, format!("what was revoked is still mapped at {gpa:#x}"));
            }
        }
    }
    let objects = after.slots.values().filter(|slot| slot.original).filter_map(|slot| match &slot.cap {
        Cap::Untyped { .. } => None,
        cap => extent_of(cap),
    });
    if let Some(Cap::Untyped { extent, watermark, .. }) = kept.map(|slot| &slot.cap) {
        let mut inside = objects.filter(|object| !object.is_apart_from(*extent));
        if *watermark != 0 || inside.next().is_some() {
            return broken(Property::RevokeComplete, "the revoked memory is not free");
        }
    }
    None
}

/// Whether a Retype made an object of memory that was not clean.
fn reused(before: &State, after: &State) -> Option<Violation> {
    for (id, slot) in after.slots.iter().filter(|(id, slot)| slot.original && !before.slots.contains_key(id)) {
        let Some(made) = extent_of(&slot.cap) else { continue };
        let of = slot.parent.and_then(|parent| before.slots.get(&parent)).map(|parent| &parent.cap);
        if let Some(Cap::Untyped { extent, watermark, .. }) = of
            && made.base < extent.base + watermark
        {
            return broken(Property::CleanBeforeReuse, "an object was made below the watermark");
        }
        let alive = before.slots.values().filter(|other| other.original && !matches!(other.cap, Cap::Untyped { .. }));
        if alive.filter_map(|other| extent_of(&other.cap)).any(|other| !other.is_apart_from(made)) {
            return broken(
                Property::CleanBeforeReuse,
                format!("an object was made where another lives (slot {:#x})", id.0),
            );
        }
        for space in before.vms.keys().chain(before.domains.keys()) {
            let is_seen = |entry: &Entry| matches!(entry, Entry::Leaf { extent, .. } if !extent.is_apart_from(made));
            if spec::mappings(before, *space).iter().any(|(_, entry)| is_seen(entry)) {
                return broken(Property::CleanBeforeReuse, "an object was made of memory that somebody sees");
            }
        }
    }
    None
}
