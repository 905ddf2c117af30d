//! Non-interference: what a VM can find out through the kernel's interface, and whose steps may change that.
//!
//! * [`observe`] is everything that the answers to a VM's invocations depend on: of each capability that it can name, what
//!   Identify tells, and what other invocations of it would find; of its own Vcpus, what they are doing; and what is mapped
//!   where. Physical addresses are in it only where no answer tells them apart: as the VM's own names.
//! * A VM **may influence** another if it holds, or can destroy, something that the other observes: a capability that the
//!   other's were derived from or that was derived from them, an object that both have capabilities for, or that a record
//!   of one names; and if both have CPU time from the same reservation, out of which either may grow.
//! * A step of a VM that may not influence another changes nothing of what the other observes, and so no answer that it
//!   gets, now or later.
//!
//! Excluded are timing (also that of periods, and of who is on which core), the price board, and the kernel lock.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::address_space::mappings;
use super::authority::in_cspace_of;
use super::cnode::identity;
use super::cpu_time::share;
use super::derivation::slots_of_object;
use super::in_flight_slot;
use super::state::{Cap, ChannelId, Entry, Extent, Receiver, SlotId, State, VcpuId, VmId};
use crate::abi::{Rights, SLOT_BITS};

/// What a VM finds out about one thing: numbers, whose meaning depends on the thing.
type Facts = Vec<u64>;

/// What a VM can find out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observation {
    /// Of each capability that it can name.
    pub capabilities: BTreeMap<SlotId, Facts>,
    /// Of each of its Vcpus.
    pub vcpus: BTreeMap<VcpuId, Facts>,
    /// What it sees at which address: log2 of the bytes, and rights.
    pub memory: BTreeSet<(u64, u8, Rights)>,
}

/// What a VM observes.
pub fn observe(state: &State, vm: VmId) -> Observation {
    let capabilities = in_cspace_of(state, vm).into_iter().map(|slot| (slot, facts(state, slot))).collect();
    let own = state.vcpus.iter().filter(|(_, vcpu)| vcpu.vm == Some(vm));
    let vcpus = own.map(|(id, _)| (*id, facts_of_vcpu(state, *id))).collect();
    let is_there = state.vms.contains_key(&vm);
    let seen = if is_there { mappings(state, vm) } else { BTreeSet::new() };
    let memory = seen.into_iter().filter_map(|(gpa, entry)| match entry {
        Entry::Leaf { extent: Extent { bits, .. }, rights } => Some((gpa, bits, rights)),
        Entry::Table(_) => None,
    });
    Observation { capabilities, vcpus, memory: memory.collect() }
}

/// What the answers to invocations of one capability depend on.
fn facts(state: &State, id: SlotId) -> Facts {
    let slot = &state.slots[&id];
    let mut found: Facts = identity(state, id).to_vec();
    found.extend([u64::from(slot.depth), slot.original.into(), slot.parent.is_some().into()]);
    match &slot.cap {
        Cap::Untyped { device, .. } => found.push((*device).into()),
        Cap::CNode { id, slot_bits } => {
            found.push(state.vms.values().any(|vm| vm.cspace == Some(*id)).into());
            let full = state.slots.range(id.slot(1)..id.slot(1 << slot_bits));
            found.extend(full.map(|(slot, _)| (slot.0 - id.0) >> SLOT_BITS));
        }
        Cap::Frame { mapping, .. } => {
            found.extend(mapping.iter().flat_map(|mapping| [mapping.gpa, mapping.rights.bits().into()]));
        }
        Cap::PageTable { place, .. } => found.extend(place.iter().flat_map(|place| [place.gpa, place.level.into()])),
        Cap::Vm(vm) => {
            found.extend([u64::from(state.vms[vm].cspace.is_some()), state.vms[vm].launched.into()]);
            found.extend(facts_of_space(state, *vm));
        }
        Cap::IommuDomain { id, .. } => {
            let faults = &state.domains[id];
            found.extend([faults.kept.len() as u64, faults.lost.into(), faults.handler.is_some().into()]);
            found.extend(facts_of_space(state, *id));
        }
        Cap::Vcpu(vcpu) => found.extend(facts_of_vcpu(state, *vcpu)),
        Cap::CpuTime { reservation, core, .. } => {
            let given = |of: SlotId| -> u64 {
                let parts = state.children(of).filter_map(|(_, child)| match child.cap {
                    Cap::CpuTime { reservation, .. } => Some(share(&state.config, reservation)),
                    _ => None,
                });
                parts.sum()
            };
            found.extend([reservation.period, (*core).into(), given(id), state.children(id).count() as u64]);
            // What it may grow by.
            found.extend(slot.parent.map(given));
        }
        Cap::Channel { id, .. } => {
            found.extend(state.channels[id].iter().map(|end| u64::from(end.is_some())));
            found.extend([1, 2].map(|end| u64::from(state.slots.contains_key(&in_flight_slot(*id, end)))));
        }
        Cap::Irq { route, message, .. } => {
            found.extend(route.iter().map(|route| u64::from(route.vector)));
            found.extend(message.iter().map(|message| u64::from(message.entry)));
            found.extend(parts(state, id));
        }
        Cap::IoPort { .. } => found.extend(parts(state, id)),
        Cap::Machine => {
            found.extend([
                state.faults.kept.len() as u64,
                state.faults.lost.into(),
                state.faults.handler.is_some().into(),
            ]);
        }
        Cap::PciFunction { function, lease } => {
            let record = &state.functions[function];
            found.extend([u64::from(record.leases == *lease), record.vfs.into(), record.ready_at]);
            let is_its =
                |cap: &Cap| matches!(cap, Cap::Irq { message: Some(message), .. } if message.function == *function);
            found.push(state.slots.values().filter(|slot| is_its(&slot.cap)).count() as u64);
        }
    }
    found
}

/// Ranges that were split off: first and how many.
fn parts(state: &State, of: SlotId) -> Facts {
    let ranges = state.children(of).filter_map(|(_, child)| match child.cap {
        Cap::Irq { first, count, .. } | Cap::IoPort { first, count } => Some([first.into(), count.into()]),
        _ => None,
    });
    ranges.flatten().collect()
}

/// Which entries of an address space's tree are taken: what mapping something there is answered.
fn facts_of_space(state: &State, space: VmId) -> Facts {
    let taken = mappings(state, space).into_iter().flat_map(|(gpa, entry)| match entry {
        Entry::Leaf { extent, .. } => [gpa, extent.bits.into()],
        Entry::Table(_) => [gpa, 0],
    });
    taken.collect()
}

/// What a Vcpu is doing.
fn facts_of_vcpu(state: &State, id: VcpuId) -> Facts {
    let vcpu = &state.vcpus[&id];
    let run = match vcpu.run {
        super::Run::Stopped => [0, 0, 0],
        super::Run::Runnable => [1, 0, 0],
        super::Run::Blocked { mask, deadline } => [2, mask, deadline],
    };
    let is_launched = vcpu.vm.is_some_and(|vm| state.vms[&vm].launched);
    let mut found = run.to_vec();
    found.extend([vcpu.events, vcpu.vm.is_some().into(), is_launched.into(), state.time_of(id).is_some().into()]);
    found.extend([state.routes_of(id) as u64, vcpu.handler.is_some().into()]);
    found.extend(vcpu.upcall.map(u64::from));
    found.extend(vcpu.registers);
    found
}

/// Something that a step can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Thing {
    /// An object, by its address; a VM by its root's.
    Object(u64),
    /// A function of a device.
    Function(u16),
    /// What is left of the reservation in a slot.
    Room(SlotId),
    /// What is told to the holders of the machine.
    Machine,
}

/// What a VM can name, and all that lies in objects which it can name.
fn reach(state: &State, vm: VmId) -> BTreeSet<SlotId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<SlotId> = in_cspace_of(state, vm).into_iter().collect();
    while let Some(next) = open.pop() {
        let Some(slot) = state.slots.get(&next) else { continue };
        if !found.insert(next) {
            continue;
        }
        match slot.cap {
            Cap::CNode { id, slot_bits } => {
                open.extend(state.slots.range(id.slot(1)..id.slot(1 << slot_bits)).map(|(slot, _)| *slot));
            }
            Cap::Channel { id, .. } => open.extend([1, 2].map(|end| in_flight_slot(id, end))),
            _ => {}
        }
    }
    found
}

/// These slots, and all that would go if they were revoked and deleted.
fn with_what_goes(state: &State, slots: BTreeSet<SlotId>) -> BTreeSet<SlotId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<SlotId> = slots.into_iter().collect();
    while let Some(next) = open.pop() {
        if state.slots.contains_key(&next) && found.insert(next) {
            open.extend(state.children(next).map(|(child, _)| child));
            open.extend(slots_of_object(state, next));
        }
    }
    found
}

/// Whose things they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Of one who takes a step.
    Actor,
    /// Of one who observes.
    Observer,
}

/// The things that a VM with these capabilities and Vcpus can change, or observes.
fn things(state: &State, role: Role, slots: &BTreeSet<SlotId>, own: &[VcpuId]) -> BTreeSet<Thing> {
    let mut found = BTreeSet::new();
    let mut vcpus: Vec<VcpuId> = own.to_vec();
    for slot in slots {
        let held = &state.slots[slot];
        match held.cap {
            Cap::Untyped { .. } | Cap::IoPort { .. } => {}
            Cap::CNode { id, .. } => {
                found.insert(Thing::Object(id.0));
                let users = state.vms.iter().filter(|(_, vm)| vm.cspace == Some(id));
                found.extend(users.map(|(vm, _)| Thing::Object(vm.0)));
            }
            Cap::Frame { extent, mapping, .. } => {
                found.insert(Thing::Object(extent.base));
                found.extend(mapping.map(|mapping| Thing::Object(mapping.vm.0)));
            }
            Cap::PageTable { id, place } => {
                found.insert(Thing::Object(id.0));
                found.extend(place.map(|place| Thing::Object(place.vm.0)));
            }
            Cap::Vm(vm) => {
                found.insert(Thing::Object(vm.0));
                found.extend(state.vms[&vm].cspace.map(|cnode| Thing::Object(cnode.0)));
                vcpus.extend(vcpus_of(state, vm));
            }
            Cap::Vcpu(vcpu) => vcpus.push(vcpu),
            Cap::CpuTime { vcpu, .. } => {
                found.insert(Thing::Room(*slot));
                found.extend(held.parent.map(Thing::Room));
                found.extend(vcpu.map(|vcpu| Thing::Object(vcpu.0)));
            }
            Cap::Channel { id, .. } => {
                found.insert(Thing::Object(id.0));
                if role == Role::Actor {
                    found.extend(told_through(state, id));
                }
            }
            Cap::Irq { route, message, .. } => {
                found.extend(route.map(|route| Thing::Object(route.vcpu.0)));
                found.extend(message.map(|message| Thing::Function(message.function)));
            }
            Cap::Machine => {
                found.insert(Thing::Machine);
            }
            Cap::IommuDomain { id, .. } => {
                found.insert(Thing::Object(id.0));
                let attached = state.functions.iter().filter(|(_, function)| function.domain == Some(id));
                found.extend(attached.map(|(function, _)| Thing::Function(*function)));
            }
            Cap::PciFunction { function, .. } => {
                found.insert(Thing::Function(function));
                found.extend(state.functions[&function].domain.map(|domain| Thing::Object(domain.0)));
            }
        }
    }
    for id in vcpus {
        found.insert(Thing::Object(id.0));
        found.extend(state.vcpus[&id].vm.map(|vm| Thing::Object(vm.0)));
        found.extend(state.vcpus[&id].handler.map(|(channel, _)| Thing::Object(channel.0)));
        found.extend(state.time_of(id).map(Thing::Room));
        if role == Role::Actor {
            let receives = |ends: &[Option<Receiver>; 2]| ends.iter().flatten().any(|end| end.vcpu == id);
            let channels = state.channels.iter().filter(|(_, ends)| receives(ends));
            found.extend(channels.map(|(channel, _)| Thing::Object(channel.0)));
        }
    }
    found
}

/// Who is told something through a channel, and what that tells of.
fn told_through(state: &State, channel: ChannelId) -> impl Iterator<Item = Thing> {
    let told = move |handler: Option<(ChannelId, u8)>| handler.is_some_and(|(of, _)| of == channel);
    let receivers = state.channels[&channel].iter().flatten().map(|receiver| Thing::Object(receiver.vcpu.0));
    let vcpus = state.vcpus.iter().filter(move |(_, vcpu)| told(vcpu.handler)).map(|(id, _)| Thing::Object(id.0));
    let domains = state.domains.iter().filter(move |(_, faults)| told(faults.handler));
    let machine = told(state.faults.handler).then_some(Thing::Machine);
    receivers.chain(vcpus).chain(domains.map(|(id, _)| Thing::Object(id.0))).chain(machine)
}

/// The Vcpus of a VM.
fn vcpus_of(state: &State, vm: VmId) -> Vec<VcpuId> {
    state.vcpus.iter().filter(|(_, vcpu)| vcpu.vm == Some(vm)).map(|(id, _)| *id).collect()
}

/// True if a step of `actor` might change something that `observer` observes.
pub fn may_influence(state: &State, actor: VmId, observer: VmId) -> bool {
    if actor == observer {
        return true;
    }
    let changed = with_what_goes(state, reach(state, actor));
    let named = reach(state, observer);
    let mut seen = with_what_goes(state, named.clone());
    for slot in &named {
        let mut parent = state.slots[slot].parent;
        while let Some(above) = parent {
            seen.insert(above);
            parent = state.slots.get(&above).and_then(|slot| slot.parent);
        }
    }
    let of_actor = things(state, Role::Actor, &changed, &vcpus_of(state, actor));
    let mut of_observer = things(state, Role::Observer, &named, &vcpus_of(state, observer));
    of_observer.insert(Thing::Object(observer.0));
    of_observer.extend(state.vms.get(&observer).and_then(|vm| vm.cspace).map(|cnode| Thing::Object(cnode.0)));
    !changed.is_disjoint(&seen) || !of_actor.is_disjoint(&of_observer)
}
