//! From states of the executable specification to structures of the vocabulary.
//!
//! A step is looked at as a whole: both states share the elements, so that the structures can be compared. What hardware
//! remembers and which memory is dirty is not in the specification's state: before a step it is taken to be the most that
//! a good state allows, and afterwards what the operation's formulas make of it.

use crate::structure::{Structure, Table};
use crate::term::Sort;
use crate::vocabulary::Vocabulary;
use cap_spec::abi::{Rights, SLOT_BITS};
use cap_spec::machine::{
    CNodeId, Cap, ChannelId, Entry, Extent, Slot, SlotId, State, TableId, VcpuId, VmId, Window, in_flight_slot,
    invariants::extent_of, mappings, share,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An object of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A CNode.
    CNode(CNodeId),
    /// A Channel.
    Channel(ChannelId),
    /// A VM.
    Vm(VmId),
    /// A Vcpu.
    Vcpu(VcpuId),
    /// A PageTable, not the root of an address space.
    Table(TableId),
    /// A domain.
    Domain(VmId),
    /// A function.
    Function(u16),
    /// The machine.
    Machine,
}

/// A part of a resource: everything between two addresses that no extent tells apart, and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Memory and registers from this address on.
    Memory(u64),
    /// Interrupt routes from this one on.
    Routes(u32),
    /// Ports from this one on.
    Ports(u32),
    /// A function.
    Function(u16),
    /// A core.
    Core(u8),
}

/// The elements of both states of a step.
#[derive(Debug, Default)]
pub struct Elements {
    /// Slots.
    pub slots: BTreeMap<SlotId, usize>,
    /// Objects.
    pub objects: BTreeMap<Object, usize>,
    /// Parts.
    pub parts: BTreeMap<Part, usize>,
    /// Pieces of I/O addresses: the domain, and the first.
    pub windows: BTreeMap<(VmId, u64), usize>,
    /// Messages: function and entry.
    pub messages: BTreeMap<(u16, u16), usize>,
}

/// Gives the elements numbers, from 0 on.
fn numbered<T: Ord>(all: BTreeSet<T>) -> BTreeMap<T, usize> {
    all.into_iter().zip(0..).collect()
}

/// The object that a capability names.
pub fn object_of(cap: &Cap) -> Option<Object> {
    match *cap {
        Cap::CNode { id, .. } => Some(Object::CNode(id)),
        Cap::Channel { id, .. } => Some(Object::Channel(id)),
        Cap::Vm(id) => Some(Object::Vm(id)),
        Cap::Vcpu(id) => Some(Object::Vcpu(id)),
        Cap::PageTable { id, .. } => Some(Object::Table(id)),
        Cap::IommuDomain { id, .. } => Some(Object::Domain(id)),
        Cap::PciFunction { function, .. } => Some(Object::Function(function)),
        Cap::Machine => Some(Object::Machine),
        Cap::Untyped { .. } | Cap::Frame { .. } | Cap::CpuTime { .. } | Cap::Irq { .. } | Cap::IoPort { .. } => None,
    }
}

/// The object that is recorded with a capability: one that does not live any more shows as such.
fn recorded(state: &State, cap: &Cap) -> Option<Object> {
    match cap {
        Cap::Frame { mapping: Some(mapping), .. } => Some(space(state, mapping.vm)),
        Cap::PageTable { place: Some(place), .. } => Some(space(state, place.vm)),
        Cap::CpuTime { vcpu: Some(vcpu), .. } => Some(Object::Vcpu(*vcpu)),
        Cap::Irq { route: Some(route), .. } => Some(Object::Vcpu(route.vcpu)),
        _ => None,
    }
}

/// The address space of this number.
pub fn space(state: &State, id: VmId) -> Object {
    if state.domains.contains_key(&id) { Object::Domain(id) } else { Object::Vm(id) }
}

/// The registers of a function.
fn bars(state: &State, function: u16) -> Vec<(u64, u64)> {
    let bars = &state.config.functions[usize::from(function)].bars;
    bars.iter().filter(|(_, pages)| *pages > 0).map(|&(base, pages)| (base, base + (u64::from(pages) << 12))).collect()
}

/// The virtual functions that a function can have.
fn virtual_functions(state: &State, function: u16) -> std::ops::Range<u16> {
    let facts = &state.config.functions[usize::from(function)];
    facts.first_vf..facts.first_vf + facts.vfs
}

fn statistics(state: &State) -> (u64, u64) {
    (state.config.statistics_page, state.config.statistics_page + 0x1000)
}

/// Memory that a capability covers: first address, and the one behind.
fn memory(state: &State, cap: &Cap) -> Vec<(u64, u64)> {
    match cap {
        Cap::PciFunction { function, .. } => bars(state, *function),
        Cap::Machine => vec![statistics(state)],
        _ => extent_of(cap).map(|Extent { base, bits }| (base, base + (1 << bits))).into_iter().collect(),
    }
}

/// Elements between boundaries, for each piece that lies in one of the ranges.
fn pieces<T: Ord + Copy>(ranges: &[(T, T)], more: impl Iterator<Item = T>) -> BTreeSet<T> {
    let ends: BTreeSet<T> = ranges.iter().flat_map(|(first, end)| [*first, *end]).chain(more).collect();
    ends.into_iter().filter(|at| ranges.iter().any(|(first, end)| first <= at && at < end)).collect()
}

impl Elements {
    /// Of a step.
    pub fn of(before: &State, after: &State) -> Elements {
        let caps =
            || [before, after].into_iter().flat_map(|state| state.slots.values().map(move |slot| (state, &slot.cap)));
        let slots = before.slots.keys().chain(after.slots.keys()).copied().collect();
        let mut objects: BTreeSet<Object> = BTreeSet::from([Object::Machine]);
        let (mut ranges, mut marks) = (Vec::new(), Vec::new());
        let (mut routes, mut ports) = (Vec::new(), Vec::new());
        let mut windows: BTreeMap<VmId, Vec<(u64, u64)>> = BTreeMap::new();
        let mut messages = BTreeSet::new();
        let mut parts = BTreeSet::new();
        for (state, cap) in caps() {
            objects.extend(object_of(cap));
            objects.extend(recorded(state, cap));
            ranges.extend(memory(state, cap));
            match *cap {
                Cap::Untyped { extent, watermark, .. } => marks.push(extent.base + watermark),
                Cap::Irq { first, count, message, .. } => {
                    routes.push((u32::from(first), u32::from(first) + count));
                    messages.extend(message.map(|message| (message.function, message.entry)));
                }
                Cap::IoPort { first, count } => ports.push((u32::from(first), u32::from(first) + count)),
                Cap::IommuDomain { id, window } => {
                    let list = windows.entry(id).or_default();
                    list.extend([(window.first, window.end()), (Window::WHOLE.first, Window::WHOLE.end())]);
                }
                Cap::PciFunction { function, .. } => {
                    for number in [function].into_iter().chain(virtual_functions(state, function)) {
                        parts.insert(Part::Function(number));
                        ranges.extend(bars(state, number));
                    }
                }
                Cap::CpuTime { core, .. } => {
                    parts.insert(Part::Core(core));
                }
                _ => {}
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        parts.extend(pieces(&ranges, marks.into_iter()).into_iter().map(Part::Memory));
        parts.extend(pieces(&routes, std::iter::empty()).into_iter().map(Part::Routes));
        parts.extend(pieces(&ports, std::iter::empty()).into_iter().map(Part::Ports));
        let windows = windows.into_iter().flat_map(|(domain, ranges)| {
            pieces(&ranges, std::iter::empty()).into_iter().map(move |first| (domain, first))
        });
        Elements {
            slots: numbered(slots),
            objects: numbered(objects),
            parts: numbered(parts),
            windows: numbered(windows.collect()),
            messages: numbered(messages),
        }
    }

    /// How many there are of the sort of which there are most.
    pub fn most(&self) -> usize {
        [self.slots.len(), self.objects.len(), self.parts.len(), self.windows.len(), self.messages.len()]
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    /// The number of an object.
    pub fn object(&self, object: Object) -> Option<usize> {
        self.objects.get(&object).copied()
    }

    fn memory(&self, first: u64, end: u64) -> impl Iterator<Item = usize> + '_ {
        self.parts.range(Part::Memory(first)..Part::Memory(end)).map(|(_, at)| *at)
    }

    /// The part in which an address lies.
    fn part_at(&self, address: u64) -> Option<usize> {
        self.parts.range(Part::Memory(0)..=Part::Memory(address)).next_back().map(|(_, at)| *at)
    }

    /// What a capability covers.
    fn covered(&self, state: &State, cap: &Cap) -> Vec<usize> {
        let mut found: Vec<usize> =
            memory(state, cap).into_iter().flat_map(|(first, end)| self.memory(first, end)).collect();
        let between = |first: Part, end: Part| self.parts.range(first..end).map(|(_, at)| *at);
        match *cap {
            Cap::Irq { first, count, .. } => {
                found.extend(between(Part::Routes(first.into()), Part::Routes(u32::from(first) + count)));
            }
            Cap::IoPort { first, count } => {
                found.extend(between(Part::Ports(first.into()), Part::Ports(u32::from(first) + count)));
            }
            Cap::PciFunction { function, .. } => found.extend(self.parts.get(&Part::Function(function))),
            _ => {}
        }
        found
    }

    /// What belongs to the virtual functions that a function can have.
    fn virtual_parts(&self, state: &State, function: u16) -> Vec<usize> {
        let of = |number: u16| {
            let registers = bars(state, number).into_iter().flat_map(|(first, end)| self.memory(first, end));
            registers.chain(self.parts.get(&Part::Function(number)).copied()).collect::<Vec<_>>()
        };
        virtual_functions(state, function).flat_map(of).collect()
    }

    /// A structure with these elements, in which no relation holds of anything.
    fn blank(&self) -> Structure {
        let sizes = HashMap::from([
            (Sort::Slot, self.slots.len()),
            (Sort::Object, self.objects.len()),
            (Sort::Part, self.parts.len()),
            (Sort::Cache, 1),
            (Sort::Window, self.windows.len()),
            (Sort::Message, self.messages.len()),
        ]);
        let mut structure = Structure::new(sizes);
        for symbol in &Vocabulary::get().symbols {
            let sorts: Vec<Sort> = symbol.places.iter().map(|place| place.sort).collect();
            if symbol.is_number {
                structure.numbers.insert(symbol.name.clone(), vec![0; self.slots.len()]);
            } else {
                let table = structure.empty(&sorts);
                structure.tables.insert(symbol.name.clone(), table);
            }
        }
        structure
    }

    /// A state as a structure, but for what the state does not say (hardware's memory, dirt, the bound of authority).
    pub fn structure(&self, state: &State) -> Structure {
        let mut writer = Writer { structure: self.blank(), elements: self, state };
        writer.forever();
        let shown = state
            .vms
            .keys()
            .chain(state.domains.keys())
            .map(|space| (*space, mappings(state, *space)))
            .collect::<BTreeMap<_, _>>();
        for (id, slot) in &state.slots {
            writer.slot(self.slots[id], *id, slot, &shown);
        }
        writer.places();
        writer.objects();
        writer.structure
    }
}

struct Writer<'a> {
    structure: Structure,
    elements: &'a Elements,
    state: &'a State,
}

impl Writer<'_> {
    fn say(&mut self, relation: &str, tuple: &[usize]) {
        self.table(relation).insert(tuple);
    }

    fn table(&mut self, relation: &str) -> &mut Table {
        self.structure.tables.get_mut(relation).unwrap_or_else(|| panic!("{relation} is not in the vocabulary"))
    }

    /// Two objects, if both are elements: what names none is dangling, and found by other means.
    fn pair(&mut self, relation: &str, one: Object, other: Object) {
        let find = |object| self.elements.object(object);
        let (one, other) = (find(one), find(other));
        if let (Some(one), Some(other)) = (one, other) {
            self.say(relation, &[one, other]);
        }
    }

    /// What lasts: places and seats, memory and functions.
    fn forever(&mut self) {
        let (elements, state) = (self.elements, self.state);
        for (slot, at) in &elements.slots {
            if let Some(part) = elements.part_at(slot.0) {
                self.say("at", &[*at, part]);
            }
        }
        for (object, at) in &elements.objects {
            let address = match *object {
                Object::CNode(id) => id.0,
                Object::Channel(id) => id.0,
                Object::Vcpu(id) => id.0,
                Object::Table(id) => id.0,
                Object::Vm(id) | Object::Domain(id) => id.0,
                Object::Machine => statistics(state).0,
                Object::Function(number) => {
                    self.say("isfunction", &[*at]);
                    if let Some(part) = elements.parts.get(&Part::Function(number)) {
                        self.say("seat", &[*at, *part]);
                    }
                    for part in elements.virtual_parts(state, number) {
                        self.say("vfpart", &[part, *at]);
                    }
                    continue;
                }
            };
            if let Some(part) = elements.part_at(address) {
                self.say("seat", &[*at, part]);
            }
        }
        for ((function, _), at) in &elements.messages {
            if let Some(object) = elements.object(Object::Function(*function)) {
                self.say("ofmessage", &[*at, object]);
            }
        }
        let functions = (0..state.config.functions.len()).flat_map(|number| bars(state, number as u16));
        let devices = state.slots.values().filter(|slot| matches!(slot.cap, Cap::Untyped { device: true, .. }));
        let registers: BTreeSet<usize> = functions
            .chain(devices.flat_map(|slot| memory(state, &slot.cap)))
            .flat_map(|(first, end)| elements.memory(first, end))
            .collect();
        for (part, at) in &elements.parts {
            if matches!(part, Part::Memory(_)) && !registers.contains(at) {
                self.say("ram", &[*at]);
            }
        }
    }

    fn rights(&mut self, relation: &str, slot: usize, rights: Rights) {
        for right in 0..5 {
            if rights.bits() >> right & 1 != 0 {
                self.say(relation, &[slot, right]);
            }
        }
    }

    /// What a slot holds.
    fn slot(&mut self, at: usize, id: SlotId, slot: &Slot, shown: &BTreeMap<VmId, BTreeSet<(u64, Entry)>>) {
        let (elements, state) = (self.elements, self.state);
        self.say("full", &[at]);
        self.say("kind", &[at, slot.cap.object_type() as usize - 1]);
        self.rights("right", at, slot.rights);
        if slot.original {
            self.say("orig", &[at]);
        }
        let mut above = slot.parent;
        if above.is_none() {
            self.say("boot", &[at]);
        }
        while let Some(parent) = above {
            let Some(ancestor) = elements.slots.get(&parent) else { break };
            self.say("anc", &[*ancestor, at]);
            above = state.slots.get(&parent).and_then(|slot| slot.parent);
        }
        if let Some(object) = object_of(&slot.cap).and_then(|object| elements.object(object)) {
            self.say("names", &[at, object]);
        }
        for part in elements.covered(state, &slot.cap) {
            self.say("covers", &[at, part]);
            self.say("spans", &[at, part]);
        }
        match &slot.cap {
            Cap::Untyped { extent, watermark, .. } => {
                for part in elements.memory(extent.base, extent.base + watermark) {
                    self.say("used", &[at, part]);
                }
            }
            Cap::Frame { extent, mapping: Some(mapping), .. } => {
                self.maps(at, mapping.vm);
                self.rights("maprights", at, mapping.rights);
                let shows = |(gpa, entry): &(u64, Entry)| {
                    *gpa == mapping.gpa && matches!(entry, Entry::Leaf { extent: found, .. } if found == extent)
                };
                if shown.get(&mapping.vm).is_some_and(|entries| entries.iter().any(shows)) {
                    self.say("entry", &[at]);
                }
            }
            Cap::PageTable { id: table, place: Some(place) } => {
                self.maps(at, place.vm);
                if shown.get(&place.vm).is_some_and(|entries| entries.contains(&(place.gpa, Entry::Table(*table)))) {
                    self.say("entry", &[at]);
                }
            }
            Cap::CpuTime { core, reservation, vcpu, .. } => {
                if let Some(part) = elements.parts.get(&Part::Core(*core)) {
                    self.say("spans", &[at, *part]);
                }
                self.of_object("bound", at, vcpu.map(Object::Vcpu));
                let of = |cap: &Cap| match cap {
                    Cap::CpuTime { reservation, .. } => share(&state.config, *reservation) as i64,
                    _ => 0,
                };
                let sold = state.children(id).map(|(_, child)| of(&child.cap)).sum();
                self.number("share", at, share(&state.config, *reservation) as i64);
                self.number("sold", at, sold);
            }
            Cap::Irq { route, message, .. } => {
                self.of_object("routed", at, route.map(|route| Object::Vcpu(route.vcpu)));
                if let Some(message) = message {
                    self.say("raised", &[at, elements.messages[&(message.function, message.entry)]]);
                    if route.is_some() {
                        self.say("entry", &[at]);
                    }
                }
            }
            Cap::IommuDomain { id, window } => {
                for (_, piece) in elements.windows.range((*id, window.first)..(*id, window.end())) {
                    self.say("window", &[at, *piece]);
                }
            }
            Cap::PciFunction { function, .. } => {
                for part in elements.virtual_parts(state, *function) {
                    self.say("spans", &[at, part]);
                }
            }
            _ => {}
        }
    }

    fn number(&mut self, function: &str, slot: usize, value: i64) {
        if let Some(values) = self.structure.numbers.get_mut(function) {
            values[slot] = value;
        }
    }

    fn maps(&mut self, slot: usize, id: VmId) {
        self.of_object("mapped", slot, Some(space(self.state, id)));
    }

    fn of_object(&mut self, relation: &str, slot: usize, object: Option<Object>) {
        if let Some(object) = object.and_then(|object| self.elements.object(object)) {
            self.say(relation, &[slot, object]);
        }
    }

    /// Which slots lie in which CNodes and Channels.
    fn places(&mut self) {
        let (elements, state) = (self.elements, self.state);
        for (cnode, bits) in &state.cnodes {
            let Some(object) = elements.object(Object::CNode(*cnode)) else { continue };
            for (_, slot) in elements.slots.range(cnode.slot(1)..SlotId(cnode.0 + (1 << (bits + SLOT_BITS)))) {
                self.say("within", &[*slot, object]);
            }
        }
        for channel in state.channels.keys() {
            let Some(object) = elements.object(Object::Channel(*channel)) else { continue };
            for slot in [1, 2].iter().filter_map(|end| elements.slots.get(&in_flight_slot(*channel, *end))) {
                self.say("within", &[*slot, object]);
            }
        }
    }

    /// What lives, and what is recorded of it.
    fn objects(&mut self) {
        let (elements, state) = (self.elements, self.state);
        for (object, at) in &elements.objects {
            let lives = match object {
                Object::CNode(id) => state.cnodes.contains_key(id),
                Object::Channel(id) => state.channels.contains_key(id),
                Object::Vm(id) => state.vms.contains_key(id),
                Object::Vcpu(id) => state.vcpus.contains_key(id),
                Object::Table(id) => {
                    let is_root = |space: &VmId| space.root() == *id;
                    let is_root = state.vms.keys().any(is_root) || state.domains.keys().any(is_root);
                    state.tables.contains_key(id) && !is_root
                }
                Object::Domain(id) => state.domains.contains_key(id),
                Object::Function(number) => state.functions.contains_key(number),
                Object::Machine => true,
            };
            if lives {
                self.say("lives", &[*at]);
            }
            if let Object::Function(number) = object
                && state.functions.get(number).is_some_and(|function| function.vfs != 0)
            {
                self.say("vfs", &[*at]);
            }
        }
        for slot in state.slots.values().filter(|slot| slot.parent.is_none()) {
            if let Some(object) = object_of(&slot.cap).filter(|object| !matches!(object, Object::Function(_)))
                && let Some(at) = elements.object(object)
            {
                self.say("bootmade", &[at]);
            }
        }
        for (id, vm) in &state.vms {
            vm.cspace.into_iter().for_each(|root| self.pair("cspace", Object::Vm(*id), Object::CNode(root)));
        }
        for (id, vcpu) in &state.vcpus {
            let object = Object::Vcpu(*id);
            vcpu.vm.into_iter().for_each(|vm| self.pair("runsin", object, Object::Vm(vm)));
            vcpu.handler.into_iter().for_each(|(channel, _)| self.pair("tells", object, Object::Channel(channel)));
        }
        for (id, ends) in &state.channels {
            for receiver in ends.iter().flatten() {
                self.pair("receives", Object::Channel(*id), Object::Vcpu(receiver.vcpu));
            }
        }
        for (id, faults) in &state.domains {
            faults.handler.into_iter().for_each(|(channel, _)| {
                self.pair("tells", Object::Domain(*id), Object::Channel(channel));
            });
        }
        state.faults.handler.into_iter().for_each(|(channel, _)| {
            self.pair("tells", Object::Machine, Object::Channel(channel));
        });
        for (number, function) in &state.functions {
            function.domain.into_iter().for_each(|domain| {
                self.pair("dma", Object::Function(*number), Object::Domain(domain));
            });
        }
    }
}
