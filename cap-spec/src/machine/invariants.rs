//! What is true of every state that [`step`](super::step) leads to.
//!
//! The tests check these after random sequences of invocations; the kernel, which agrees with this machine, inherits
//! them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::authority::covers;
use super::cpu_time::{WHOLE, share};
use super::state::{Cap, Extent, SlotId, State};
use super::{MAX_DEPTH, address_space};
use crate::abi::{CHANNEL_BITS, DOMAIN_BITS, PAGE_BITS, Rights, SLOT_BITS, VCPU_BITS, VCPU_ROUTES, VM_BITS};
use crate::properties::Property;

/// A rule that a state breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// Parents are full slots, and following them ends at a boot capability.
    Forest(SlotId),
    /// No capability lies [`MAX_DEPTH`] or more steps below a boot capability.
    Depth(SlotId),
    /// A copy has no right that its source lacks, and names the same object.
    Copy(SlotId),
    /// What a capability allows, the one that it was derived from allows as well (chapter `authority`).
    Authority(SlotId),
    /// Each object has exactly one original capability, and each original one live object.
    Original(SlotId),
    /// An object lies inside the Untyped that it was made from, below the watermark.
    Containment(SlotId),
    /// No byte belongs to two objects.
    Overlap(SlotId),
    /// A slot is slot 1 or above of a live CNode, or one of a live Channel.
    Place(SlotId),
    /// A mapping has no right that its capability lacks; what the VM sees is backed by a capability that records it.
    Mapping(SlotId),
    /// A record names a live object.
    Dangling(SlotId),
    /// Children of a reservation stay within it; a Vcpu has at most one reservation, and a split one has no Vcpu.
    Time(SlotId),
    /// Children of a range of routes or ports lie inside it and apart from each other; a Vcpu takes so many routes at most.
    Range(SlotId),
    /// Leases of a function are a chain, a virtual function is its physical function's, a message raises one route, and a
    /// function is attached to a live domain.
    Function(u16),
    /// An interrupt route leads to one Vcpu and is raised by one message.
    Route(u16),
    /// The reservations in use of a core do not exceed the core.
    Sold(u8),
}

impl Broken {
    /// The property that does not hold.
    pub const fn property(&self) -> Property {
        match self {
            Broken::Forest(_)
            | Broken::Depth(_)
            | Broken::Original(_)
            | Broken::Place(_)
            | Broken::Dangling(_)
            | Broken::Range(_) => Property::WellFormed,
            Broken::Copy(_) | Broken::Authority(_) => Property::NoAuthorityFromNothing,
            Broken::Containment(_) | Broken::Overlap(_) => Property::NoOverlap,
            Broken::Mapping(_) => Property::EntriesBacked,
            Broken::Time(_) | Broken::Sold(_) => Property::TimeDelivered,
            Broken::Function(_) | Broken::Route(_) => Property::OneOwner,
        }
    }
}

/// The memory of the object that a capability names, if it names one in memory.
pub fn extent_of(cap: &Cap) -> Option<Extent> {
    match *cap {
        Cap::Untyped { extent, .. } | Cap::Frame { extent, .. } => Some(extent),
        Cap::CNode { id, slot_bits } => Some(Extent { base: id.0, bits: slot_bits + SLOT_BITS }),
        Cap::PageTable { id, .. } => Some(Extent { base: id.0, bits: PAGE_BITS }),
        Cap::Vm(id) => Some(Extent { base: id.0, bits: VM_BITS }),
        Cap::Vcpu(id) => Some(Extent { base: id.0, bits: VCPU_BITS }),
        Cap::Channel { id, .. } => Some(Extent { base: id.0, bits: CHANNEL_BITS }),
        Cap::IommuDomain { id, .. } => Some(Extent { base: id.0, bits: DOMAIN_BITS }),
        Cap::CpuTime { .. } | Cap::Irq { .. } | Cap::IoPort { .. } | Cap::Machine | Cap::PciFunction { .. } => None,
    }
}

/// Checks every rule.
///
/// # Errors
/// The first rule found broken.
pub fn check(state: &State) -> Result<(), Broken> {
    for id in state.slots.keys() {
        check_derivation(state, *id)?;
        check_place(state, *id)?;
        check_records(state, *id)?;
        check_parts(state, *id)?;
    }
    check_objects(state)?;
    check_functions(state)?;
    check_routes(state)?;
    check_sold(state)?;
    check_mappings(state)
}

/// Forest, depth, copies and containment of one slot.
fn check_derivation(state: &State, id: SlotId) -> Result<(), Broken> {
    let slot = &state.slots[&id];
    if slot.depth >= MAX_DEPTH {
        return Err(Broken::Depth(id));
    }
    let mut above = slot.parent;
    for _ in 0..MAX_DEPTH {
        above = match above {
            Some(parent) => state.slots.get(&parent).ok_or(Broken::Forest(id))?.parent,
            None => break,
        };
    }
    if above.is_some() {
        return Err(Broken::Forest(id));
    }
    let Some(parent) = slot.parent.map(|parent| &state.slots[&parent]) else { return Ok(()) };
    let is_page = matches!(slot.cap, Cap::Frame { kernel_page: true, .. })
        || matches!((&slot.cap, &parent.cap), (Cap::Frame { device: true, .. }, Cap::PciFunction { .. }));
    if !covers(&state.config, parent, slot) {
        return Err(Broken::Authority(id));
    }
    if !slot.original && !is_page {
        let same = parent.cap.object_type() == slot.cap.object_type()
            && extent_of(&parent.cap) == extent_of(&slot.cap)
            && parent.rights.contains(slot.rights);
        if !same {
            return Err(Broken::Copy(id));
        }
    }
    if let (true, Cap::Untyped { extent, watermark, .. }, Some(made)) =
        (slot.original, &parent.cap, extent_of(&slot.cap))
    {
        let inside = extent.holds(made.base) && made.base - extent.base + made.bytes() <= *watermark;
        if !inside {
            return Err(Broken::Containment(id));
        }
    }
    Ok(())
}

/// A slot is a place where capabilities may lie.
fn check_place(state: &State, id: SlotId) -> Result<(), Broken> {
    let in_cnode = state.cnodes.iter().any(|(cnode, bits)| id >= cnode.slot(1) && id < cnode.slot(1 << bits));
    let in_channel =
        state.channels.keys().any(|channel| [1, 2].map(|end| super::in_flight_slot(*channel, end)).contains(&id));
    let is_home = state.dying.zombies.contains_key(&id) && super::home(&state.slots[&id].cap) == Some(id);
    if in_cnode || in_channel || is_home { Ok(()) } else { Err(Broken::Place(id)) }
}

/// What a capability records names live objects.
fn check_records(state: &State, id: SlotId) -> Result<(), Broken> {
    let slot = &state.slots[&id];
    let alive = match &slot.cap {
        Cap::Frame { mapping: Some(mapping), .. } => {
            let io = state.domains.contains_key(&mapping.vm);
            if !slot.rights.contains(mapping.rights) || !io && !mapping.rights.contains(Rights::READ) {
                return Err(Broken::Mapping(id));
            }
            io || state.vms.contains_key(&mapping.vm)
        }
        Cap::PageTable { id: table, place } => {
            let is_alive = |space| state.vms.contains_key(&space) || state.domains.contains_key(&space);
            state.tables.contains_key(table) && place.is_none_or(|place| is_alive(place.vm))
        }
        Cap::CpuTime { vcpu: Some(vcpu), .. } => state.vcpus.contains_key(vcpu),
        Cap::Irq { route, message, .. } => {
            route.is_none_or(|route| state.vcpus.contains_key(&route.vcpu))
                && message.is_none_or(|message| state.functions.contains_key(&message.function))
        }
        Cap::IommuDomain { id, .. } => state.domains.contains_key(id),
        Cap::PciFunction { function, lease } => {
            state.functions.get(function).is_some_and(|state| *lease <= state.leases)
        }
        Cap::CNode { id: cnode, slot_bits } => state.cnodes.get(cnode) == Some(slot_bits),
        Cap::Vm(vm) => state.vms.contains_key(vm),
        Cap::Vcpu(vcpu) => state.vcpus.contains_key(vcpu),
        Cap::Channel { id: channel, .. } => state.channels.contains_key(channel),
        _ => true,
    };
    if alive { Ok(()) } else { Err(Broken::Dangling(id)) }
}

/// Children of reservations and ranges.
fn check_parts(state: &State, id: SlotId) -> Result<(), Broken> {
    let slot = &state.slots[&id];
    match &slot.cap {
        Cap::CpuTime { reservation, vcpu, .. } => {
            let given: u64 = state
                .children(id)
                .map(|(_, child)| match child.cap {
                    Cap::CpuTime { reservation, .. } => share(&state.config, reservation),
                    _ => 0,
                })
                .sum();
            let split_and_bound = vcpu.is_some() && state.has_children(id);
            let users = state.slots.values().filter(
                |other| matches!(&other.cap, Cap::CpuTime { vcpu: user, .. } if user.is_some() && user == vcpu),
            );
            if given > share(&state.config, *reservation) || split_and_bound || users.count() > 1 {
                return Err(Broken::Time(id));
            }
        }
        Cap::Irq { first, count, .. } | Cap::IoPort { first, count } => {
            let mut parts: Vec<(u32, u32)> = state
                .children(id)
                .filter_map(|(_, child)| match child.cap {
                    Cap::Irq { first, count, .. } | Cap::IoPort { first, count } => Some((u32::from(first), count)),
                    _ => None,
                })
                .collect();
            parts.sort_unstable();
            if let Cap::Irq { route: Some(route), .. } = slot.cap
                && state.routes_of(route.vcpu) > usize::from(VCPU_ROUTES)
            {
                return Err(Broken::Range(id));
            }
            let mut end = u32::from(*first);
            for (start, length) in parts {
                if start < end {
                    return Err(Broken::Range(id));
                }
                end = start + length;
            }
            if end > u32::from(*first) + count {
                return Err(Broken::Range(id));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Originals and objects are in one-to-one relation, and no two objects overlap.
fn check_objects(state: &State) -> Result<(), Broken> {
    let mut counted = 0;
    let mut pieces: Vec<(Extent, SlotId)> = Vec::new();
    for (id, slot) in state.slots.iter().filter(|(_, slot)| slot.original) {
        match slot.cap {
            Cap::CNode { .. }
            | Cap::Vm(_)
            | Cap::Vcpu(_)
            | Cap::Channel { .. }
            | Cap::PageTable { .. }
            | Cap::IommuDomain { .. } => counted += 1,
            _ => {}
        }
        if let Some(extent) = extent_of(&slot.cap).filter(|_| !matches!(slot.cap, Cap::Untyped { .. })) {
            pieces.push((extent, *id));
        }
    }
    // The root of an address space is a part of it.
    let objects = state.cnodes.len() + state.vcpus.len() + state.channels.len() + state.tables.len();
    if let (true, Some(id)) = (counted != objects, state.slots.keys().next()) {
        return Err(Broken::Original(*id));
    }
    pieces.sort_unstable();
    for pair in pieces.windows(2) {
        if !pair[0].0.is_apart_from(pair[1].0) {
            return Err(Broken::Overlap(pair[1].1));
        }
    }
    Ok(())
}

/// A function's records: attached to a live domain and unleased beyond its capabilities; a message raises one route.
fn check_functions(state: &State) -> Result<(), Broken> {
    for (number, function) in &state.functions {
        let caps: Vec<(SlotId, u8)> = state
            .slots
            .iter()
            .filter_map(|(id, slot)| match slot.cap {
                Cap::PciFunction { function, lease } if function == *number => Some((*id, lease)),
                _ => None,
            })
            .collect();
        let mut leases: Vec<u8> = caps.iter().map(|(_, lease)| *lease).collect();
        leases.sort_unstable();
        let is_chain = leases.iter().copied().eq(0..=function.leases);
        let vfs = state.slots.values().filter(|slot| match (&slot.cap, slot.parent) {
            (Cap::PciFunction { lease: 0, .. }, Some(parent)) => {
                matches!(state.slots[&parent].cap, Cap::PciFunction { function, .. } if function == *number)
            }
            _ => false,
        });
        let mut messages: Vec<_> = state
            .slots
            .values()
            .filter_map(|slot| match slot.cap {
                Cap::Irq { message: Some(message), .. } if message.function == *number => Some(message.entry),
                _ => None,
            })
            .collect();
        let all = messages.len();
        messages.sort_unstable();
        messages.dedup();
        let is_attached = function.domain.is_none_or(|domain| state.domains.contains_key(&domain));
        if !is_chain || vfs.count() != usize::from(function.vfs) || messages.len() != all || !is_attached {
            return Err(Broken::Function(*number));
        }
    }
    Ok(())
}

/// A route is bound by one capability at most.
fn check_routes(state: &State) -> Result<(), Broken> {
    let mut bound = BTreeSet::new();
    for slot in state.slots.values() {
        if let Cap::Irq { first, count, route, message } = slot.cap
            && (route.is_some() || message.is_some())
            && (count != 1 || !bound.insert(first))
        {
            return Err(Broken::Route(first));
        }
    }
    Ok(())
}

/// What is in use of a core is not more than the core.
fn check_sold(state: &State) -> Result<(), Broken> {
    let mut sold: BTreeMap<u8, u64> = BTreeMap::new();
    for slot in state.slots.values() {
        if let Cap::CpuTime { core, reservation, vcpu: Some(_), .. } = slot.cap {
            *sold.entry(core).or_default() += share(&state.config, reservation);
        }
    }
    match sold.into_iter().find(|(_, share)| *share > WHOLE) {
        Some((core, _)) => Err(Broken::Sold(core)),
        None => Ok(()),
    }
}

/// What an address space shows is what capabilities say: a frame that its tree leads to has a capability that records this address.
fn check_mappings(state: &State) -> Result<(), Broken> {
    let recorded: BTreeSet<_> = state
        .slots
        .values()
        .filter_map(|slot| match slot.cap {
            Cap::Frame { extent, mapping: Some(mapping), .. } => Some((mapping.vm, mapping.gpa, extent)),
            _ => None,
        })
        .collect();
    for vm in state.vms.keys().chain(state.domains.keys()) {
        for (gpa, entry) in address_space::mappings(state, *vm) {
            if let super::Entry::Leaf { extent, .. } = entry
                && !recorded.contains(&(*vm, gpa, extent))
            {
                return Err(Broken::Mapping(SlotId(extent.base)));
            }
        }
    }
    Ok(())
}
