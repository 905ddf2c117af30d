//! A description of a state of the abstract machine that leaves out names which mean nothing: what makes symmetric states
//! one.
//!
//! # Which renamings are sound
//! A renaming may merge two states only if [`step`](cap_spec::machine::step) commutes with it, and if neither the events
//! that are tried nor the property that is asked can tell the two apart. `step` treats most names by equality alone, but
//! not all. What is renamed here, and why:
//!
//! * **Slots of a CNode** that an event names as "any empty slot" or by what is in them. `step` uses a slot for equality, for
//!   "in which CNode", and for "the slots behind it" in rows (`more`, `count`), so a question whose events have rows gets no
//!   renaming of slots. Slots that events name by number (the VM's own CNode, Vm and Vcpu) are not renamed.
//! * **Objects below the watermark** of the Untyped that they were made from. An address is used in four ways: for equality;
//!   for "lies inside"; as base + watermark, which is where the next object comes to lie; and aligned to a size that
//!   divides the base. Take two states with the same watermarks, sizes and derivation, whose objects lie in
//!   different places below the watermarks. The map that shifts each live object with all that was made of it from the one place to
//!   the other keeps equality and inclusion, and shifts by multiples of the size, so it keeps alignment; and it fixes
//!   everything from the watermark up, so both states make the next object at the same place. The holes between live
//!   objects are read by nobody before Revoke, which sets the watermark to 0 with nothing left below. So the description has
//!   the watermark of each Untyped, and no address: an object is named by the slot of its original capability.
//!   Memory that the question has a name for is not renamed: each object that overlaps it is described with its distance.
//! * **Depth of derivation.** It decides one thing, `TooDeep`. States are explored with the number of capabilities above as
//!   depth, which is never more than what the slot records, so that nothing is refused here that is allowed there;
//!   counterexamples are run once more with the recorded one.
//! * **VMs that the question calls interchangeable**, with the capabilities that it names beside each: the question is
//!   checked to be the same after each swap ([`crate::symmetry`]).
//!
//! Guest-physical and I/O addresses, functions, routes, ports, cores, budgets and events are never renamed. The order in
//! which `BTreeMap` gives slots must not matter to `step`: a property test runs it on renamed states.
//!
//! # How
//! Slots are coloured by what is known of each without names, and the colours refined by those of the parent, the children,
//! the place and what is referred to, until no more differ. Slots that are then still alike are told apart one by one. The
//! description lists the slots in the order of their colours, and says everything else by their numbers in this
//! list. It is complete, so two states that differ by more than names never have the same; if slots that are alike
//! are not interchangeable, two states that could be merged may stay apart, which costs time only.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use cap_spec::abi::{SLOT_BITS, VM_BITS};
use cap_spec::machine::invariants::extent_of;
use cap_spec::machine::{
    CNodeId, Cap, ChannelId, Entry, Extent, Faults, Run, Slot, SlotId, State, TableId, VcpuId, VmId,
};
use rustc_hash::{FxHashMap, FxHasher};

/// What is renamed, and what is not.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// False: nothing is renamed.
    pub merges: bool,
    /// False: slots keep their numbers, as some event has a row of slots.
    pub renames_slots: bool,
    /// Memory that the question has names for: not renamed.
    pub named: Vec<Extent>,
    /// The CNode of the boot capabilities: its slots keep their numbers.
    pub boot: Option<CNodeId>,
    /// Its slots from this one on are reached by nobody, and renamed.
    pub first_hidden: u64,
    /// The root CNodes of the question's VMs: their slots below the second number keep theirs.
    pub roots: Vec<CNodeId>,
    /// The first slot of a root CNode that is renamed.
    pub first_working: u64,
}

/// What VMs that are interchangeable are described by: each of a group by another's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// By slot of the boot CNode, the slot that it is described by; others by themselves.
    pub slots: BTreeMap<u64, u64>,
    /// By index of [`Naming::named`], the index that it is described by.
    pub named: Vec<usize>,
    /// By number of a variable, the one whose value describes it.
    pub variables: Vec<usize>,
}

/// Describes a state, as if VMs were swapped.
pub fn describe(state: &State, naming: &Naming, swap: Option<&Swap>, description: &mut Vec<u8>) {
    if !naming.merges {
        state.hash(&mut Collect(description));
        return;
    }
    let mut form = Form::new(state, naming, swap);
    form.refine();
    form.write(description);
}

/// Collects what is hashed instead of hashing it.
pub(crate) struct Collect<'a>(pub(crate) &'a mut Vec<u8>);

impl Hasher for Collect<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// A reference to what is not there.
const NOBODY: u32 = u32::MAX;

/// Kinds of objects that have an original capability in memory, to tell equal addresses of different tables apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    CNode,
    Space,
    Vcpu,
    Channel,
    Table,
    Frame,
}

/// What is known of a slot: words without names, and references to other slots.
#[derive(Default)]
struct Node {
    words: Vec<u64>,
    refs: Vec<u32>,
}

/// A state as a graph of slots.
struct Form<'a> {
    state: &'a State,
    naming: &'a Naming,
    swap: Option<&'a Swap>,
    numbers: FxHashMap<SlotId, u32>,
    owners: FxHashMap<(Kind, u64), u32>,
    nodes: Vec<Node>,
    colours: Vec<u64>,
    global: Node,
}

impl<'a> Form<'a> {
    fn new(state: &'a State, naming: &'a Naming, swap: Option<&'a Swap>) -> Form<'a> {
        let numbers = state.slots.keys().copied().zip(0..).collect();
        let mut owners = FxHashMap::default();
        for ((_, slot), number) in state.slots.iter().zip(0_u32..) {
            if let (true, Some(object)) = (slot.original, object_of(&slot.cap)) {
                owners.insert(object, number);
            }
        }
        let mut form = Form {
            state,
            naming,
            swap,
            numbers,
            owners,
            nodes: Vec::with_capacity(state.slots.len()),
            colours: Vec::new(),
            global: Node::default(),
        };
        for (id, slot) in &state.slots {
            let mut node = Node::default();
            form.tell_place(*id, &mut node);
            form.tell_slot(slot, &mut node);
            form.nodes.push(node);
        }
        form.global = form.tell_global();
        form
    }

    /// Refers to the original capability of an object; by its address, if there is none.
    fn refer(&self, kind: Kind, address: u64, node: &mut Node) {
        match self.owners.get(&(kind, address)) {
            Some(number) => node.refs.push(*number),
            None => {
                node.refs.push(NOBODY);
                node.words.extend([u64::MAX, address]);
            }
        }
    }

    /// Refers to a slot, if there is one.
    fn refer_slot(&self, slot: Option<SlotId>, node: &mut Node) {
        node.refs.push(slot.and_then(|slot| self.numbers.get(&slot).copied()).unwrap_or(NOBODY));
    }

    /// Where a slot is.
    fn tell_place(&self, id: SlotId, node: &mut Node) {
        if let Some((cnode, bits)) = self.state.cnodes.range(..=CNodeId(id.0)).next_back()
            && id < cnode.slot(1 << bits)
        {
            let index = (id.0 - cnode.0) >> SLOT_BITS;
            self.refer(Kind::CNode, cnode.0, node);
            let is_boot = self.naming.boot == Some(*cnode);
            let first = if self.naming.roots.contains(cnode) { self.naming.first_working } else { 1 };
            node.words.push(match self.swap {
                Some(Swap { slots, .. }) if is_boot && slots.contains_key(&index) => slots[&index],
                // Nobody reaches what set-up has left there.
                _ if is_boot && index >= self.naming.first_hidden => 0,
                _ if is_boot || index < first || !self.naming.renames_slots => index,
                _ => 0,
            });
            return;
        }
        if let Some((channel, _)) = self.state.channels.range(..=ChannelId(id.0)).next_back() {
            self.refer(Kind::Channel, channel.0, node);
            node.words.push(1 << 32 | (id.0 - channel.0));
        }
    }

    /// What a slot holds, and for an original what its object is like.
    fn tell_slot(&self, slot: &Slot, node: &mut Node) {
        let Slot { cap, rights, parent, original, depth: _ } = slot;
        node.words.extend([cap.object_type() as u64, u64::from(rights.bits()) << 1 | u64::from(*original)]);
        self.refer_slot(*parent, node);
        self.tell_names(slot, node);
        match cap {
            Cap::Untyped { extent, device, watermark } => {
                node.words.extend([u64::from(extent.bits) << 1 | u64::from(*device), *watermark]);
            }
            Cap::CNode { id, slot_bits } => {
                node.words.push(u64::from(*slot_bits));
                self.refer(Kind::CNode, id.0, node);
            }
            Cap::Frame { extent, device, kernel_page: _, mapping } => {
                self.tell_memory(*extent, *device, node);
                node.words.push(mapping.is_some().into());
                if let Some(mapping) = mapping {
                    node.words.extend([mapping.gpa, u64::from(mapping.rights.bits())]);
                    self.refer(Kind::Space, mapping.vm.0, node);
                }
            }
            Cap::PageTable { id, place } => {
                node.words.push(place.is_some().into());
                if let Some(place) = place {
                    node.words.extend([place.gpa, u64::from(place.level)]);
                    self.refer(Kind::Space, place.vm.0, node);
                }
                self.tell_table(*id, node);
            }
            Cap::Vm(vm) => {
                self.refer(Kind::Space, vm.0, node);
                if *original {
                    self.tell_vm(*vm, *parent, node);
                }
            }
            Cap::Vcpu(vcpu) => {
                self.refer(Kind::Vcpu, vcpu.0, node);
                if *original {
                    self.tell_vcpu(*vcpu, node);
                }
            }
            Cap::CpuTime { core, reservation, free_from, vcpu } => {
                node.words.extend([
                    u64::from(*core),
                    reservation.budget,
                    reservation.period,
                    *free_from,
                    u64::from(vcpu.is_some()),
                ]);
                if let Some(vcpu) = vcpu {
                    self.refer(Kind::Vcpu, vcpu.0, node);
                }
            }
            Cap::Channel { id, end } => {
                node.words.push((*end).into());
                self.refer(Kind::Channel, id.0, node);
                if *original {
                    self.tell_channel(*id, node);
                }
            }
            Cap::Irq { first, count, route, message } => {
                node.words.extend([
                    u64::from(*first),
                    u64::from(*count),
                    u64::from(message.is_some()),
                    u64::from(route.is_some()),
                ]);
                if let Some(message) = message {
                    node.words.extend([u64::from(message.function), u64::from(message.entry)]);
                }
                if let Some(route) = route {
                    node.words.push(route.vector.into());
                    self.refer(Kind::Vcpu, route.vcpu.0, node);
                }
            }
            Cap::IoPort { first, count } => node.words.extend([u64::from(*first), u64::from(*count)]),
            Cap::Machine => {}
            Cap::IommuDomain { id, window } => {
                node.words.extend([window.first, u64::from(window.bits)]);
                self.refer(Kind::Space, id.0, node);
                if *original {
                    self.tell_table(id.root(), node);
                    self.tell_faults(self.state.domains.get(id), node);
                    let attached = self.state.functions.iter().filter(|(_, function)| function.domain == Some(*id));
                    node.words.push(attached.clone().count() as u64);
                    node.words.extend(attached.map(|(number, _)| u64::from(*number)));
                }
            }
            Cap::PciFunction { function, lease } => node.words.extend([u64::from(*function), u64::from(*lease)]),
        }
    }

    /// How the memory of a capability lies to what the question has names for.
    fn tell_names(&self, slot: &Slot, node: &mut Node) {
        // All RAM has nothing to tell: it is boot's, and nobody makes anything of it any more.
        let is_boot = matches!(slot.cap, Cap::Untyped { .. }) && slot.parent.is_none();
        let Some(extent) = extent_of(&slot.cap).filter(|_| !is_boot) else { return };
        let overlapping = (0..).zip(&self.naming.named).filter(|(_, named)| !extent.is_apart_from(**named));
        let mut told: Vec<[u64; 2]> = overlapping
            .map(|(index, named)| {
                let index = self.swap.map_or(index, |swap| swap.named[index]);
                [index as u64, named.base.wrapping_sub(extent.base)]
            })
            .collect();
        told.sort_unstable();
        node.words.push(told.len() as u64);
        node.words.extend(told.into_iter().flatten());
    }

    /// The memory of a frame: whose it is, and where in that.
    fn tell_memory(&self, extent: Extent, device: bool, node: &mut Node) {
        node.words.push(u64::from(extent.bits) << 1 | u64::from(device));
        if device {
            node.words.push(extent.base);
            return;
        }
        // A page of a Vm or Vcpu; both are of one size.
        let object = extent.base & !((1 << VM_BITS) - 1);
        for kind in [Kind::Space, Kind::Vcpu] {
            if let Some(owner) = self.owners.get(&(kind, object)) {
                node.refs.push(*owner);
                node.words.push(extent.base - object);
                return;
            }
        }
        self.refer(Kind::Frame, extent.base, node);
    }

    fn tell_table(&self, table: TableId, node: &mut Node) {
        node.words.push(self.state.tables.get(&table).map_or(0, |entries| entries.len() as u64));
        for (index, entry) in self.state.tables.get(&table).into_iter().flatten() {
            node.words.push((*index).into());
            match entry {
                Entry::Table(next) => {
                    node.words.push(1 << 32);
                    self.refer(Kind::Table, next.0, node);
                }
                Entry::Leaf { extent, rights } => {
                    node.words.push(2 << 32 | u64::from(rights.bits()));
                    // Registers of a device have no original; the address says which they are.
                    self.tell_memory(*extent, false, node);
                }
            }
        }
    }

    fn tell_vm(&self, id: VmId, parent: Option<SlotId>, node: &mut Node) {
        let Some(vm) = self.state.vms.get(&id) else { return };
        node.words.push(vm.launched.into());
        // The region matters to Launch alone. It is the extent of the Untyped that the VM was made from, its parent.
        let parent = parent.and_then(|parent| self.state.slots.get(&parent)).map(|parent| &parent.cap);
        let is_parent = matches!(parent, Some(Cap::Untyped { extent, .. }) if *extent == vm.region);
        let is_told = vm.launched || is_parent;
        node.words.push(if is_told { 0 } else { vm.region.base | u64::from(vm.region.bits) });
        match vm.cspace {
            Some(root) => self.refer(Kind::CNode, root.0, node),
            None => node.refs.push(NOBODY),
        }
        self.tell_table(id.root(), node);
    }

    fn tell_vcpu(&self, id: VcpuId, node: &mut Node) {
        let Some(vcpu) = self.state.vcpus.get(&id) else { return };
        match vcpu.vm {
            Some(vm) => self.refer(Kind::Space, vm.0, node),
            None => node.refs.push(NOBODY),
        }
        node.words.extend(match vcpu.run {
            Run::Stopped => [0, 0, 0],
            Run::Runnable => [1, 0, 0],
            Run::Blocked { mask, deadline } => [2, mask, deadline],
        });
        node.words.extend([vcpu.events, u64::from(vcpu.upcall[0]) << 8 | u64::from(vcpu.upcall[1])]);
        for (number, register) in (0..).zip(vcpu.registers).filter(|(_, register)| *register != 0) {
            node.words.extend([number, register]);
        }
        node.words.push(u64::MAX);
        self.tell_handler(vcpu.handler, node);
        if let Some(period) = self.state.periods.get(&id) {
            node.words.extend([u64::MAX, period.end, period.length, period.free]);
        }
        if let Some(core) = self.state.holders.get(&id) {
            node.words.extend([u64::MAX - 1, u64::from(*core)]);
        }
    }

    fn tell_handler(&self, handler: Option<(ChannelId, u8)>, node: &mut Node) {
        match handler {
            Some((channel, end)) => {
                node.words.push(end.into());
                self.refer(Kind::Channel, channel.0, node);
            }
            None => node.words.push(0),
        }
    }

    fn tell_channel(&self, id: ChannelId, node: &mut Node) {
        for receiver in self.state.channels.get(&id).into_iter().flatten() {
            match receiver {
                Some(receiver) => {
                    node.words.extend([1, receiver.bits]);
                    self.refer(Kind::Vcpu, receiver.vcpu.0, node);
                }
                None => node.words.push(0),
            }
        }
    }

    fn tell_faults(&self, faults: Option<&Faults>, node: &mut Node) {
        let Some(faults) = faults else { return };
        self.tell_handler(faults.handler, node);
        node.words.extend([u64::from(faults.lost), faults.kept.len() as u64]);
        node.words.extend(faults.kept.iter().flat_map(|record| record.to_words()));
    }

    /// What belongs to no slot.
    fn tell_global(&self) -> Node {
        let mut node = Node::default();
        let state = self.state;
        debug_assert!(state.dying == Default::default(), "nothing is half destroyed between whole invocations");
        let is_taken = state.outputs.is_empty() && state.completions.is_empty() && state.choices.is_empty();
        debug_assert!(is_taken, "what a step leaves for others is taken after each step");
        node.words.extend([state.now, u64::from(state.port_input)]);
        for (number, function) in &state.functions {
            node.words.extend([
                u64::from(*number),
                u64::from(function.leases),
                u64::from(function.vfs),
                function.ready_at,
            ]);
            match function.domain {
                Some(domain) => self.refer(Kind::Space, domain.0, &mut node),
                None => node.refs.push(NOBODY),
            }
        }
        self.tell_faults(Some(&state.faults), &mut node);
        node
    }

    /// Colours the slots, so that no two have the same colour.
    fn refine(&mut self) {
        self.colours = self.nodes.iter().map(|node| hash(&node.words)).collect();
        let mut order: Vec<u32> = Vec::new();
        let mut classes = self.classes(&mut order);
        while classes < self.nodes.len() {
            self.spread();
            let finer = self.classes(&mut order);
            if finer <= classes && finer < self.nodes.len() {
                // Those still alike are interchangeable, as far as is known: any one of them comes first.
                let alike = order.windows(2).find(|pair| self.colour(pair[0]) == self.colour(pair[1]));
                let Some(first) = alike.map(|pair| pair[0].min(pair[1]) as usize) else { break };
                self.colours[first] = hash(&[self.colours[first], 1]);
            }
            classes = classes.max(finer);
        }
    }

    fn colour(&self, node: u32) -> u64 {
        self.colours[node as usize]
    }

    /// Sorts the slots by colour; returns how many colours there are.
    fn classes(&self, order: &mut Vec<u32>) -> usize {
        order.clear();
        order.extend(0..self.nodes.len() as u32);
        order.sort_unstable_by_key(|node| (self.colour(*node), *node));
        let different = order.windows(2).filter(|pair| self.colour(pair[0]) != self.colour(pair[1])).count();
        different + usize::from(!order.is_empty())
    }

    /// Colours each slot by its own colour, those that it refers to, in order, and those that refer to it, in any order.
    fn spread(&mut self) {
        let mut incoming = vec![0_u64; self.nodes.len()];
        let mut next = Vec::with_capacity(self.nodes.len());
        for (node, colour) in self.nodes.iter().zip(&self.colours) {
            let mut hasher = FxHasher::default();
            colour.hash(&mut hasher);
            for (position, target) in (0_u64..).zip(&node.refs) {
                if *target == NOBODY {
                    NOBODY.hash(&mut hasher);
                    continue;
                }
                self.colour(*target).hash(&mut hasher);
                let sum = &mut incoming[*target as usize];
                *sum = sum.wrapping_add(hash(&[position, *colour]));
            }
            next.push(hasher.finish());
        }
        for (colour, incoming) in next.iter_mut().zip(incoming) {
            *colour = hash(&[*colour, incoming]);
        }
        self.colours = next;
    }

    /// Writes everything, with slots by their numbers in the order of the colours.
    fn write(&self, description: &mut Vec<u8>) {
        let mut order = Vec::new();
        self.classes(&mut order);
        let mut places = vec![NOBODY; self.nodes.len()];
        for (node, place) in order.iter().zip(0..) {
            places[*node as usize] = place;
        }
        for node in order.iter().map(|node| &self.nodes[*node as usize]).chain([&self.global]) {
            description.extend((node.words.len() as u16).to_le_bytes());
            description.extend((node.refs.len() as u16).to_le_bytes());
            for word in &node.words {
                description.extend(word.to_le_bytes());
            }
            for target in &node.refs {
                let place = if *target == NOBODY { NOBODY } else { places[*target as usize] };
                description.extend(place.to_le_bytes());
            }
        }
    }
}

fn hash(words: &[u64]) -> u64 {
    let mut hasher = FxHasher::default();
    for word in words {
        word.hash(&mut hasher);
    }
    hasher.finish()
}

/// The object that a capability names, by kind and address.
fn object_of(cap: &Cap) -> Option<(Kind, u64)> {
    Some(match cap {
        Cap::CNode { id, .. } => (Kind::CNode, id.0),
        Cap::Vm(id) | Cap::IommuDomain { id, .. } => (Kind::Space, id.0),
        Cap::Vcpu(id) => (Kind::Vcpu, id.0),
        Cap::Channel { id, .. } => (Kind::Channel, id.0),
        Cap::PageTable { id, .. } => (Kind::Table, id.0),
        Cap::Frame { extent, .. } => (Kind::Frame, extent.base),
        Cap::Untyped { .. } | Cap::CpuTime { .. } | Cap::Irq { .. } | Cap::IoPort { .. } => return None,
        Cap::Machine | Cap::PciFunction { .. } => return None,
    })
}
