//! Whether a condition is true of a state and of the step that has led to it.

use cap_spec::abi::Rights;
use cap_spec::machine::{self as spec, Call, Cap, Entry, Extent, Run, SlotId, State, VmId};
use cap_spec::spec::ArgKind;

use crate::actions::{View, fits};
use crate::question::{Choice, Condition, Pattern, Question};
use crate::world::Thing;

/// A step, as conditions see it.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The state before.
    pub before: &'a State,
    /// Who.
    pub party: usize,
    /// What was invoked; none: a step of a protocol alone.
    pub call: Option<Call>,
    /// True if it was refused.
    pub refused: bool,
}

/// What conditions are asked of.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The question.
    pub question: &'a Question,
    /// The state.
    pub state: &'a State,
    /// The values of the variables.
    pub variables: &'a [u8],
    /// What has led to it; none at the start.
    pub step: Option<Step<'a>>,
}

impl Moment<'_> {
    /// True if the condition is true.
    pub fn is(&self, condition: &Condition) -> bool {
        let Moment { question, state, .. } = *self;
        match condition {
            Condition::And(parts) => parts.iter().all(|part| self.is(part)),
            Condition::Or(parts) => parts.iter().any(|part| self.is(part)),
            Condition::Not(part) => !self.is(part),
            Condition::Holds(party, thing, rights) => self.holds(*party, *thing, *rights),
            Condition::Maps(party, thing, rights) => match self.memory(*thing) {
                Some(extent) => leads_to(state, question.parties()[*party].vm, extent, *rights),
                None => false,
            },
            Condition::Can(party, right, thing) => self.can(*party, *right, *thing),
            Condition::Uses(party, function) => match question.things[*function] {
                Thing::Function(function) => self.is_holder(*party, function),
                _ => false,
            },
            Condition::Takes(party, routes) => state.slots.values().any(|slot| match &slot.cap {
                Cap::Irq { route: Some(route), .. } => {
                    question.things[*routes].concerns(&slot.cap) && self.is_of(route.vcpu, *party)
                }
                _ => false,
            }),
            Condition::Runs(party, core) => state.slots.values().any(|slot| match &slot.cap {
                Cap::CpuTime { vcpu: Some(vcpu), .. } => {
                    let runs = state.vcpus.get(vcpu).is_some_and(|vcpu| vcpu.run != Run::Stopped);
                    question.things[*core].concerns(&slot.cap) && runs && self.is_of(*vcpu, *party)
                }
                _ => false,
            }),
            Condition::Reaches(function, thing, rights) => match (question.things[*function], self.memory(*thing)) {
                (Thing::Function(function), Some(extent)) => self.reaches(function, extent, *rights),
                _ => false,
            },
            Condition::Interrupts(function, party) => match question.things[*function] {
                Thing::Function(function) => state.slots.values().any(|slot| match &slot.cap {
                    Cap::Irq { route: Some(route), message: Some(message), .. } => {
                        message.function == function && self.is_of(route.vcpu, *party)
                    }
                    _ => false,
                }),
                _ => false,
            },
            Condition::Exists(thing) => {
                let concerns = |cap| question.things[*thing].concerns(cap);
                match question.things[*thing] {
                    Thing::Memory(object, extent) => state.slots.values().any(|slot| {
                        let same = spec::invariants::extent_of(&slot.cap) == Some(extent);
                        slot.original && same && slot.cap.object_type() == object
                    }),
                    _ => state.slots.values().any(|slot| concerns(&slot.cap)),
                }
            }
            Condition::Launched(thing) => match self.memory(*thing) {
                Some(extent) => state.vms.get(&VmId(extent.base)).is_some_and(|vm| vm.launched),
                None => false,
            },
            Condition::Timed(thing) => {
                self.memory(*thing).is_some_and(|extent| state.time_of(spec::VcpuId(extent.base)).is_some())
            }
            Condition::Is(variable, value) => usize::from(self.variables[*variable]) == *value,
            Condition::Step(party, pattern, succeeded) => self.step.is_some_and(|step| {
                let is_it = step.party == *party && step.refused != *succeeded;
                is_it && step.call.is_some_and(|call| self.matches(step.before, *party, pattern, call))
            }),
        }
    }

    fn memory(&self, thing: usize) -> Option<Extent> {
        match self.question.things[thing] {
            Thing::Memory(_, extent) => Some(extent),
            _ => None,
        }
    }

    /// The full slots that a VM can name.
    fn held(&self, party: usize) -> impl Iterator<Item = SlotId> {
        View::of(self.state, self.question.parties()[party].root).slots.into_iter().map(|(_, slot)| slot)
    }

    fn holds(&self, party: usize, thing: usize, rights: Rights) -> bool {
        let thing = self.question.things[thing];
        self.held(party).any(|slot| {
            let slot = &self.state.slots[&slot];
            slot.rights.contains(rights) && thing.concerns(&slot.cap)
        })
    }

    /// True if a Vcpu is of a VM of the question.
    fn is_of(&self, vcpu: spec::VcpuId, party: usize) -> bool {
        self.state.vcpus.get(&vcpu).is_some_and(|vcpu| vcpu.vm == Some(self.question.parties()[party].vm))
    }

    /// True if a VM has the last capability of a function's chain of leases.
    fn is_holder(&self, party: usize, function: u16) -> bool {
        let Some(record) = self.state.functions.get(&function) else { return false };
        let last = Cap::PciFunction { function, lease: record.leases };
        self.held(party).any(|slot| self.state.slots[&slot].cap == last)
    }

    fn reaches(&self, function: u16, extent: Extent, rights: Rights) -> bool {
        let domain = self.state.functions.get(&function).and_then(|function| function.domain);
        domain.is_some_and(|domain| leads_to(self.state, domain, extent, rights))
    }

    /// True if a VM reaches memory: it is mapped, or the VM holds a capability by which it could be, or a function that it
    /// holds reaches it.
    fn can(&self, party: usize, right: Rights, thing: usize) -> bool {
        let Some(extent) = self.memory(thing) else { return false };
        let by_capability = self.held(party).any(|slot| {
            let slot = &self.state.slots[&slot];
            match &slot.cap {
                Cap::Frame { extent: other, .. } => slot.rights.contains(right) && !other.is_apart_from(extent),
                // What lies below the watermark is others', until a Revoke has taken it from them.
                Cap::Untyped { extent: other, .. } => !other.is_apart_from(extent),
                _ => false,
            }
        });
        by_capability
            || leads_to(self.state, self.question.parties()[party].vm, extent, right)
            || self
                .state
                .functions
                .keys()
                .any(|function| self.is_holder(party, *function) && self.reaches(*function, extent, right))
    }

    /// True if an invocation fits a pattern. Capabilities are those of the state before it.
    fn matches(&self, before: &State, party: usize, pattern: &Pattern, call: Call) -> bool {
        if call.label != pattern.label as u64 {
            return false;
        }
        let view = View::of(before, self.question.parties()[party].root);
        let named = |cptr: u64| view.slots.iter().find(|(known, _)| *known == cptr).map(|(_, slot)| *slot);
        let is_cap = |slot: Option<SlotId>, choice: &Choice| {
            *choice == Choice::Any || slot.is_some_and(|slot| fits(self.question, before, choice, slot))
        };
        if !is_cap(named(call.cptr), &pattern.on) {
            return false;
        }
        let args = pattern.label.spec().args.iter().zip(&pattern.args).zip(call.args);
        args.into_iter().all(|((arg, choice), value)| match (arg.kind, choice) {
            (ArgKind::Number, Choice::Numbers(numbers)) => numbers.contains(&value),
            (ArgKind::Capability(..) | ArgKind::AnyCapability, choice) => is_cap(named(value), choice),
            (ArgKind::FullSlot, choice) => {
                let vcpu = self.question.parties()[party].vcpu;
                is_cap(spec::named_slot(before, vcpu, call), choice)
            }
            _ => true,
        })
    }
}

/// True if the tree of an address space leads to memory, with these rights.
fn leads_to(state: &State, space: VmId, extent: Extent, rights: Rights) -> bool {
    if !state.tables.contains_key(&space.root()) {
        return false;
    }
    spec::mappings(state, space).into_iter().any(|(_, entry)| match entry {
        Entry::Leaf { extent: other, rights: mapped } => mapped.contains(rights) && !other.is_apart_from(extent),
        Entry::Table(_) => false,
    })
}
