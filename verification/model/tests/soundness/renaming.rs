//! Other names for a state: working slots of VMs shuffled, and objects of one size made of one Untyped put in each other's
//! places, with all that lies in them.

use std::collections::BTreeMap;

use cap_spec::abi::{CptrParts, Label, SLOT_BITS};
use cap_spec::machine::invariants::extent_of;
use cap_spec::machine::{
    CNodeId, Call, Cap, ChannelId, Entry, Extent, Mapping, Receiver, Route, Slot, SlotId, State, TableId, TablePlace,
    VcpuId, VmId,
};
use cap_spec::spec::ArgKind;
use model::question::Question;
use model::world::{FIRST_WORKING, Thing};

/// A renaming: a permutation of pieces of memory, the smallest of which are slots.
pub struct Renaming {
    /// Pieces that are moved, and where to; none overlaps another.
    pieces: Vec<(Extent, u64)>,
}

impl Renaming {
    /// A renaming of a state, by chance.
    pub fn of(question: &Question, state: &State, mut seed: u64) -> Renaming {
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut shuffle = |mut pieces: Vec<u64>| {
            for last in (1..pieces.len()).rev() {
                pieces.swap(last, random(last + 1));
            }
            pieces
        };
        let mut pieces = Vec::new();
        for party in question.parties() {
            let slots: Vec<u64> =
                (FIRST_WORKING..FIRST_WORKING + party.slots).map(|index| party.root.slot(index).0).collect();
            let to = shuffle(slots.clone());
            pieces.extend(slots.into_iter().zip(to).map(|(slot, to)| (Extent { base: slot, bits: SLOT_BITS }, to)));
        }
        // Objects without a name of their own, that hold none, by Untyped, type and size.
        let mut alike: BTreeMap<(SlotId, u8, u8), Vec<u64>> = BTreeMap::new();
        for slot in state.slots.values().filter(|slot| slot.original) {
            let (Some(parent), Some(extent)) = (slot.parent, extent_of(&slot.cap)) else { continue };
            let has_name = |thing: &Thing| matches!(thing, Thing::Memory(_, named) if !named.is_apart_from(extent) && named.bits <= extent.bits);
            if question.things.iter().any(has_name) {
                continue;
            }
            alike.entry((parent, slot.cap.object_type() as u8, extent.bits)).or_default().push(extent.base);
        }
        for ((_, _, bits), bases) in alike {
            // Nested ones would have to be renamed with what holds them.
            let is_free =
                |base: &u64| pieces.iter().all(|(piece, _)| piece.is_apart_from(Extent { base: *base, bits }));
            if bases.iter().all(is_free) {
                let to = shuffle(bases.clone());
                pieces.extend(bases.into_iter().zip(to).map(|(base, to)| (Extent { base, bits }, to)));
            }
        }
        Renaming { pieces }
    }

    /// The other name of an address.
    fn address(&self, address: u64) -> u64 {
        match self.pieces.iter().find(|(piece, _)| piece.holds(address)) {
            Some((piece, to)) => to + (address - piece.base),
            None => address,
        }
    }

    fn extent(&self, extent: Extent) -> Extent {
        // What begins where a piece does may be larger, and stays.
        let whole = self.pieces.iter().find(|(piece, _)| piece.holds(extent.base) && piece.bits >= extent.bits);
        let base = whole.map_or(extent.base, |(piece, to)| to + (extent.base - piece.base));
        Extent { base, ..extent }
    }

    fn end(&self, (channel, end): (ChannelId, u8)) -> (ChannelId, u8) {
        (ChannelId(self.address(channel.0)), end)
    }

    fn cap(&self, cap: &Cap) -> Cap {
        let mut cap = cap.clone();
        match &mut cap {
            Cap::Untyped { extent, .. } => *extent = self.extent(*extent),
            Cap::CNode { id, .. } => id.0 = self.address(id.0),
            Cap::Frame { extent, mapping, .. } => {
                *extent = self.extent(*extent);
                if let Some(Mapping { vm, .. }) = mapping {
                    vm.0 = self.address(vm.0);
                }
            }
            Cap::PageTable { id, place } => {
                id.0 = self.address(id.0);
                if let Some(TablePlace { vm, .. }) = place {
                    vm.0 = self.address(vm.0);
                }
            }
            Cap::Vm(id) | Cap::IommuDomain { id, .. } => id.0 = self.address(id.0),
            Cap::Vcpu(id) => id.0 = self.address(id.0),
            Cap::CpuTime { vcpu: Some(vcpu), .. } => vcpu.0 = self.address(vcpu.0),
            Cap::Channel { id, .. } => id.0 = self.address(id.0),
            Cap::Irq { route: Some(Route { vcpu, .. }), .. } => vcpu.0 = self.address(vcpu.0),
            _ => {}
        }
        cap
    }
}

/// A state by other names.
pub fn rename(state: &State, names: &Renaming) -> State {
    let mut renamed = state.clone();
    let slot = |slot: &SlotId| SlotId(names.address(slot.0));
    let of = |slot: &Slot| Slot {
        cap: names.cap(&slot.cap),
        parent: slot.parent.map(|parent| SlotId(names.address(parent.0))),
        ..slot.clone()
    };
    renamed.slots = state.slots.iter().map(|(id, found)| (slot(id), of(found))).collect();
    renamed.cnodes = state.cnodes.iter().map(|(id, bits)| (CNodeId(names.address(id.0)), *bits)).collect();
    let entry = |entry: &Entry| match *entry {
        Entry::Table(table) => Entry::Table(TableId(names.address(table.0))),
        Entry::Leaf { extent, rights } => Entry::Leaf { extent: names.extent(extent), rights },
    };
    let entries =
        |entries: &BTreeMap<u16, Entry>| entries.iter().map(|(index, found)| (*index, entry(found))).collect();
    renamed.tables = state.tables.iter().map(|(id, found)| (TableId(names.address(id.0)), entries(found))).collect();
    renamed.vms = state.vms.iter().map(|(id, vm)| (VmId(names.address(id.0)), vm.clone())).collect();
    for vm in renamed.vms.values_mut() {
        vm.cspace = vm.cspace.map(|root| CNodeId(names.address(root.0)));
        vm.region = names.extent(vm.region);
    }
    renamed.vcpus = state.vcpus.iter().map(|(id, vcpu)| (VcpuId(names.address(id.0)), vcpu.clone())).collect();
    for vcpu in renamed.vcpus.values_mut() {
        vcpu.vm = vcpu.vm.map(|vm| VmId(names.address(vm.0)));
        vcpu.handler = vcpu.handler.map(|end| names.end(end));
    }
    renamed.domains = state.domains.iter().map(|(id, faults)| (VmId(names.address(id.0)), faults.clone())).collect();
    for function in renamed.functions.values_mut() {
        function.domain = function.domain.map(|domain| VmId(names.address(domain.0)));
    }
    let receiver = |receiver: Receiver| Receiver { vcpu: VcpuId(names.address(receiver.vcpu.0)), ..receiver };
    let ends = |ends: &[Option<Receiver>; 2]| ends.map(|end| end.map(receiver));
    renamed.channels = state.channels.iter().map(|(id, found)| (ChannelId(names.address(id.0)), ends(found))).collect();
    renamed
}

/// An invocation by other names: pointers and indices of slots that were shuffled.
pub fn rename_call(question: &Question, state: &State, names: &Renaming, action: usize, call: Call) -> Call {
    let party = &question.parties()[question.actions[action].party];
    let index = |cnode: CNodeId, index: u64| {
        let renamed = names.address(cnode.slot(index).0);
        (renamed - names.address(cnode.0)) >> SLOT_BITS
    };
    let pointer = |raw: u64| match CptrParts::from_raw(raw) {
        Some(CptrParts { node: 0, index: of }) => index(party.root, of.into()),
        Some(CptrParts { node, index: of }) => index(party.root, node.into()) << 16 | u64::from(of),
        None => raw,
    };
    let cnode_of = |raw: u64| {
        let CptrParts { node, index } = CptrParts::from_raw(raw)?;
        match &state.slots.get(&party.root.slot(index.into()))?.cap {
            Cap::CNode { id, .. } if node == 0 => Some(*id),
            _ => None,
        }
    };
    let label = Label::from_number(call.label).expect("a label");
    let mut renamed = Call { cptr: pointer(call.cptr), ..call };
    if label == Label::VcpuLaunch {
        // Named in the CSpace of the VM that is launched, whose slots are not shuffled.
        return renamed;
    }
    for (number, arg) in label.spec().args.iter().enumerate() {
        let value = call.args[number];
        renamed.args[number] = match arg.kind {
            ArgKind::Number => value,
            ArgKind::Capability(..) | ArgKind::AnyCapability => pointer(value),
            ArgKind::EmptySlot | ArgKind::FullSlot => {
                let before = if number > 0 {
                    cnode_of(call.args[number - 1]).filter(|_| label.spec().args[number - 1].name == "cnode")
                } else {
                    None
                };
                before.or_else(|| cnode_of(call.cptr)).map_or(value, |cnode| index(cnode, value))
            }
        };
    }
    renamed
}
