//! Paths told in words: who did what by which capability, what came of it, and what changed.

use std::collections::BTreeMap;

use cap_spec::abi::{Fault, Label, ObjectType, Rights, SLOT_BITS};
use cap_spec::machine::invariants::extent_of;
use cap_spec::machine::{Call, Cap, Extent, Outcome, Slot, SlotId, State, in_flight_slot};
use cap_spec::spec::ArgKind;
use serde::Serialize;

use crate::actions::View;
use crate::question::{Question, label_name, type_name};
use crate::search::Trace;
use crate::subject::{Event, Situation, Subject};
use crate::world::Thing;

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Who.
    pub vm: String,
    /// What, in words.
    pub what: String,
    /// The invocation, by its name in `docs/specification.md`; none for a step of a protocol alone.
    pub label: Option<String>,
    /// What came of it.
    pub result: String,
    /// What changed.
    pub changes: Vec<String>,
}

/// Words for an invocation, with arguments in braces; the others are told by name and arguments.
fn phrase(label: Label) -> Option<&'static str> {
    Some(match label {
        Label::UntypedRetype => "makes {count} {type} of {on}, into slot {index}",
        Label::CNodeCopy => "copies {source} into slot {index} of {on}, with the rights {rights}",
        Label::CNodeMint => "mints {source} into slot {index} of {on}, with the rights {rights}, for {badge}",
        Label::CNodeMove => "moves {source} into slot {index} of {on}",
        Label::CNodeDelete => "deletes {index}",
        Label::CNodeRevoke => "revokes what was derived from {index}",
        Label::FrameMap => "maps {on} at {gpa} of {vm}, with the rights {rights}",
        Label::FrameMapIo => "maps {on} at {address} of {domain}, with the rights {rights}",
        Label::FrameUnmap => "unmaps {on}",
        Label::PageTableMap => "puts {on} into the tree of {vm}, at level {level}",
        Label::PageTableUnmap => "takes {on} out of its tree",
        Label::VmSetCSpace => "gives {on} the CSpace {root}",
        Label::VcpuAttach => "makes {on} a processor of {vm}",
        Label::VcpuBindTime => "gives {on} the CPU time {time}",
        Label::VcpuUnbindTime => "takes the CPU time off {on}",
        Label::VcpuLaunch => "launches {on}",
        Label::VcpuStart => "starts {on}",
        Label::VcpuStop => "stops {on}",
        Label::CpuTimeSplit => "splits {budget} of {period} ticks off {on}, into slot {index}",
        Label::CpuTimeResize => "changes {on} to {budget} of {period} ticks",
        Label::ChannelSignal => "signals over {on}",
        Label::ChannelGrant => "grants {source} over {on}, with the rights {rights}, {move}",
        Label::ChannelAccept => "accepts from {on} into slot {index}",
        Label::IrqSplit => "splits {count} routes from {first} on off {on}, into slot {index}",
        Label::IrqBind => "binds {on} to {vcpu}",
        Label::IrqUnbind => "unbinds {on}",
        Label::PciFunctionLease => "leases {on}, into slot {index}",
        Label::PciFunctionAttach => "attaches {on} to {domain}",
        Label::PciFunctionDetach => "detaches {on}",
        Label::PciFunctionBindMsix => "lets message {entry} of {on} raise {irq}",
        Label::PciFunctionUnbindMsix => "unbinds message {entry} of {on}",
        Label::PciFunctionReset => "resets {on}",
        _ => return None,
    })
}

/// Names for what a path meets.
struct Namer<'a> {
    question: &'a Question,
    /// Objects that the question has no name for, in the order in which they appeared.
    made: Vec<(ObjectType, Extent)>,
}

/// Tells a path.
pub fn tell(subject: &Subject, trace: &Trace<Subject>) -> Vec<Told> {
    let mut namer = Namer { question: &subject.question, made: Vec::new() };
    if let Some(start) = trace.states.first() {
        namer.learn(&start.state);
    }
    let mut told = Vec::new();
    for (event, pair) in trace.events.iter().zip(trace.states.windows(2)) {
        told.push(namer.step(subject, &pair[0], event, &pair[1]));
    }
    told
}

/// Tells an event in a state.
pub fn tell_event(subject: &Subject, before: &Situation, event: &Event) -> String {
    let mut namer = Namer { question: &subject.question, made: Vec::new() };
    namer.learn(&before.state);
    let vm = &subject.question.parties()[subject.question.actions[event.action].party].name;
    format!("{vm} {}", namer.event(&before.state, event))
}

/// Tells an invocation by a VM in a state.
pub fn tell_call(question: &Question, before: &State, party: usize, call: Call) -> String {
    let mut namer = Namer { question, made: Vec::new() };
    namer.learn(before);
    format!("{} {}", question.parties()[party].name, namer.call(before, party, call))
}

/// Tells what a step has come to.
pub fn tell_result(subject: &Subject, before: &Situation, event: &Event) -> String {
    event
        .call
        .map_or_else(|| "done".into(), |call| result(call, subject.perform(&before.state, event.action, call).result))
}

/// What each VM holds, and what else a state is.
pub fn tell_state(subject: &Subject, situation: &Situation) -> Vec<String> {
    let question = &subject.question;
    let mut namer = Namer { question, made: Vec::new() };
    namer.learn(&situation.state);
    let mut lines: Vec<String> = situation
        .state
        .slots
        .keys()
        .filter_map(|id| {
            namer.place(&situation.state, *id).map(|place| format!("{place}: {}", namer.slot(&situation.state, *id)))
        })
        .collect();
    let values = question.names.variables.iter().zip(&situation.variables);
    lines.extend(values.map(|((name, values), value)| format!("{name} = {}", values[usize::from(*value)])));
    lines
}

/// The result of an invocation.
fn result(call: Call, result: Result<Outcome, Fault>) -> String {
    match result {
        Ok(Outcome::Blocked) => "it sleeps".into(),
        Ok(Outcome::Done([0, 0])) => "done".into(),
        Ok(Outcome::Done([first, second])) => format!("done: {first:#x}, {second:#x}"),
        Err(Fault { error, argument, .. }) => {
            let args = Label::from_number(call.label).map(|label| label.spec().args);
            let of = match (argument, args) {
                (0, _) | (_, None) => "the invoked capability".into(),
                (number, Some(args)) => {
                    args.get(usize::from(number) - 1).map_or_else(String::new, |arg| format!("`{}`", arg.name))
                }
            };
            format!("refused: {error:?}, because of {of}")
        }
    }
}

/// Rights in words.
pub fn rights(rights: Rights) -> String {
    if rights == Rights::all() {
        return "all".into();
    }
    let names: Vec<String> = rights.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    if names.is_empty() { "none".into() } else { names.join("+") }
}

impl Namer<'_> {
    /// Gives every object of a state a name.
    fn learn(&mut self, state: &State) {
        for slot in state.slots.values().filter(|slot| slot.original) {
            let Some(extent) = extent_of(&slot.cap) else { continue };
            let object = slot.cap.object_type();
            let is_named = self.question.things.contains(&Thing::Memory(object, extent));
            // What boot and set-up have made is nobody's business.
            let is_hidden = slot.parent.is_none();
            if !is_named && !is_hidden && !self.made.contains(&(object, extent)) {
                self.made.push((object, extent));
            }
        }
    }

    /// The name of what a capability is for.
    fn object(&self, cap: &Cap) -> String {
        let kind = type_name(cap.object_type());
        let exact = |thing: &Thing| match (thing, extent_of(cap)) {
            (Thing::Memory(object, extent), Some(of)) => *object == cap.object_type() && *extent == of,
            (Thing::Memory(..), None) => false,
            (thing, _) => thing.concerns(cap),
        };
        let position = self.question.things.iter().position(exact);
        let part = match cap {
            Cap::Irq { first, count, .. } | Cap::IoPort { first, count } => {
                format!(" ({first}..={})", u32::from(*first) + count - 1)
            }
            Cap::CpuTime { reservation, .. } => format!(" ({} of {} ticks)", reservation.budget, reservation.period),
            Cap::PciFunction { lease, .. } if *lease > 1 => format!(" (lease {lease})"),
            Cap::Channel { end, .. } => format!(" (end {end})"),
            _ => String::new(),
        };
        if let Some(position) = position {
            return format!("{}{part}", self.question.names.things[position]);
        }
        let Some(extent) = extent_of(cap) else { return format!("{kind}{part}") };
        for party in self.question.parties() {
            let own = [(party.vm.0, "Vm"), (party.vcpu.0, "Vcpu"), (party.root.0, "CNode")];
            if let Some((_, what)) = own.iter().find(|(base, what)| *base == extent.base && *what == kind) {
                return format!("{}'s own {what}", party.name);
            }
        }
        match self.made.iter().filter(|(object, _)| *object == cap.object_type()).position(|(_, of)| *of == extent) {
            Some(number) => format!("{kind} {}{part}", number + 1),
            None => format!("{kind} at {:#x}{part}", extent.base),
        }
    }

    /// Where a slot is; none for slots that no VM has.
    fn place(&self, state: &State, id: SlotId) -> Option<String> {
        let (cnode, bits) = state.cnodes.range(..=cap_spec::machine::CNodeId(id.0)).next_back()?;
        if id < cnode.slot(1 << bits) {
            let index = (id.0 - cnode.0) >> SLOT_BITS;
            if let Some(party) = self.question.parties().iter().find(|party| party.root == *cnode) {
                let is_own = index < crate::world::FIRST_WORKING;
                return (!is_own).then(|| format!("{} slot {index}", party.name));
            }
            if *cnode == crate::world::World::boot() {
                return None;
            }
            let cap = Cap::CNode { id: *cnode, slot_bits: *bits };
            return Some(format!("{} slot {index}", self.object(&cap)));
        }
        let (channel, end) = state
            .channels
            .keys()
            .flat_map(|channel| [1, 2].map(|end| (*channel, end)))
            .find(|(channel, end)| in_flight_slot(*channel, *end) == id)?;
        let name = self.object(&Cap::Channel { id: channel, end });
        Some(format!("in flight in {name}"))
    }

    /// What a slot holds.
    fn slot(&self, state: &State, id: SlotId) -> String {
        let Slot { cap, rights: of, parent, .. } = &state.slots[&id];
        let mut words = format!("{}, rights {}", self.object(cap), rights(*of));
        if let Some(place) = parent.and_then(|parent| self.place(state, parent)) {
            words += &format!(", derived from {place}");
        }
        match cap {
            Cap::Untyped { watermark, .. } => words += &format!(", {watermark:#x} bytes given out"),
            Cap::Frame { mapping: Some(mapping), .. } => {
                let space = self.space(state, mapping.vm);
                words += &format!(", mapped at {:#x} of {space} with {}", mapping.gpa, rights(mapping.rights));
            }
            Cap::PageTable { place: Some(place), .. } => {
                words += &format!(", in the tree of {}", self.space(state, place.vm))
            }
            Cap::CpuTime { vcpu: Some(_), .. } | Cap::Irq { route: Some(_), .. } => words += ", bound",
            Cap::Irq { message: Some(message), .. } => words += &format!(", raised by message {}", message.entry),
            _ => {}
        }
        words
    }

    fn space(&self, state: &State, id: cap_spec::machine::VmId) -> String {
        if state.domains.contains_key(&id) {
            return self.object(&Cap::IommuDomain { id, window: cap_spec::machine::Window::WHOLE });
        }
        match self.question.parties().iter().find(|party| party.vm == id) {
            Some(party) => party.name.clone(),
            None => self.object(&Cap::Vm(id)),
        }
    }

    /// A capability that a pointer names.
    fn pointer(&self, state: &State, view: &View, cptr: u64) -> String {
        match view.slots.iter().find(|(known, _)| *known == cptr) {
            Some((_, slot)) => {
                let name = self.object(&state.slots[slot].cap);
                if cptr < crate::world::FIRST_WORKING { name } else { format!("{name} (slot {cptr})") }
            }
            None => format!("the empty slot {cptr}"),
        }
    }

    /// What an event is, in words.
    fn event(&self, before: &State, event: &Event) -> String {
        let action = &self.question.actions[event.action];
        match (event.call, &action.name) {
            (None, name) => name.clone().unwrap_or_else(|| "takes a step of its protocol".into()),
            (Some(call), None) => self.call(before, action.party, call),
            (Some(call), Some(name)) => format!("{name}: {}", self.call(before, action.party, call)),
        }
    }

    /// What an invocation is, in words.
    fn call(&self, before: &State, party: usize, call: Call) -> String {
        let party = &self.question.parties()[party];
        let view = View::of(before, party.root);
        let label = Label::from_number(call.label).expect("events are made of labels");
        let mut values: BTreeMap<&str, String> = BTreeMap::new();
        values.insert("on", self.pointer(before, &view, call.cptr));
        for (arg, value) in label.spec().args.iter().zip(call.args) {
            let word = match (arg.kind, arg.name) {
                (ArgKind::Capability(..) | ArgKind::AnyCapability, _) => self.pointer(before, &view, value),
                (ArgKind::FullSlot, _) => match cap_spec::machine::named_slot(before, party.vcpu, call) {
                    Some(slot) => format!("{} (slot {value})", self.object(&before.slots[&slot].cap)),
                    None => format!("slot {value}"),
                },
                (_, "rights") => rights(Rights::from_bits_truncate(value as u8)),
                (_, "type") => ObjectType::from_number(value).map_or_else(|| value.to_string(), type_name),
                (_, "move") => if value == 1 { "moving it" } else { "as a copy" }.into(),
                (_, "gpa" | "address") => format!("{value:#x}"),
                _ => value.to_string(),
            };
            values.insert(arg.name, word);
        }
        match phrase(label) {
            Some(phrase) => values
                .iter()
                .fold(phrase.to_owned(), |words, (name, value)| words.replace(&format!("{{{name}}}"), value)),
            None => {
                let args = label.spec().args.iter().map(|arg| format!("{} = {}", arg.name, values[arg.name]));
                let args: Vec<String> = args.collect();
                format!("invokes {} of {}({})", label.spec().name, values["on"], args.join(", "))
            }
        }
    }

    fn step(&mut self, subject: &Subject, before: &Situation, event: &Event, after: &Situation) -> Told {
        let action = &self.question.actions[event.action];
        let vm = self.question.parties()[action.party].name.clone();
        let what = self.event(&before.state, event);
        let result = tell_result(subject, before, event);
        self.learn(&after.state);
        let mut changes = Vec::new();
        let (old, new) = (&before.state, &after.state);
        for id in old.slots.keys().filter(|id| !new.slots.contains_key(id)) {
            changes.extend(self.place(old, *id).map(|place| format!("- {place}: {}", self.slot(old, *id))));
        }
        for (id, slot) in &new.slots {
            let Some(place) = self.place(new, *id) else { continue };
            match old.slots.get(id) {
                None => changes.push(format!("+ {place}: {}", self.slot(new, *id))),
                Some(was) if was != slot => changes.push(format!("~ {place}: {}", self.slot(new, *id))),
                Some(_) => {}
            }
        }
        for (number, function) in &new.functions {
            let was = old.functions.get(number).and_then(|function| function.domain);
            if function.domain != was {
                let cap = Cap::PciFunction { function: *number, lease: 0 };
                let to = function.domain.map_or_else(|| "nothing".into(), |domain| self.space(new, domain));
                changes.push(format!("~ the DMA of {} goes to {to}", self.object(&cap)));
            }
        }
        for ((name, values), (was, is)) in
            self.question.names.variables.iter().zip(before.variables.iter().zip(&after.variables))
        {
            if was != is {
                changes.push(format!("~ {name} = {}", values[usize::from(*is)]));
            }
        }
        let label = event.call.and_then(|call| Label::from_number(call.label)).map(label_name);
        Told { vm, what, label, result, changes }
    }
}
