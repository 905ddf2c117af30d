//! Authority: what a capability allows, when one allows as much as another, and the most that somebody can ever obtain.
//!
//! * A capability **covers** another if its holder could make the other of it, by however many derivations: a copy with
//!   fewer rights, another end, a part of the same memory, time, routes, ports or I/O addresses, a page of the same object,
//!   registers or virtual functions of the same function. Every capability is covered by the one that it was derived from.
//! * VMs are **connected** if one may pass something to the other without anybody else's help: both reach a channel, a
//!   CNode, or the Vm or Vcpu of one of them. Connection is passed on: who is connected with somebody connected is connected.
//! * The **bound** of some VMs is what they and all who are connected with them can reach: what lies in their CSpaces, and in
//!   CNodes and channels that they have capabilities for. Whatever these VMs obtain for as long as they live, a capability
//!   of the bound covers it. Nobody outside can change that but by giving them a connection, and nobody outside has one to
//!   give. Who holds the memory of a VM can destroy it, and make another of the memory; that is another VM.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::in_flight_slot;
use super::invariants::extent_of;
use super::state::{CNodeId, Cap, ChannelId, Config, Extent, Slot, SlotId, State, VcpuId, VmId};
use crate::abi::{PAGE_BITS, Rights, VCPU_BITS, VM_BITS};

/// True if one range of numbers lies in another; each is its first and how many.
fn is_part(of: (u16, u32), part: (u16, u32)) -> bool {
    of.0 <= part.0 && u32::from(part.0) + part.1 <= u32::from(of.0) + of.1
}

/// True if memory lies in other memory.
fn is_inside(outer: Extent, inner: Extent) -> bool {
    outer.holds(inner.base) && inner.bits <= outer.bits
}

/// True if a capability lets its holder make the other one of it, by however many derivations.
pub fn covers(config: &Config, source: &Slot, derived: &Slot) -> bool {
    let has_rights = source.rights.contains(derived.rights);
    let is_kernel_page = |page: Extent, object: u64, bits: u8| {
        has_rights && page.bits == PAGE_BITS && is_inside(Extent { base: object, bits }, page)
    };
    match (&source.cap, &derived.cap) {
        (Cap::Untyped { extent, device, .. }, made) => {
            // What is made of memory comes with every right.
            let fits = match made {
                Cap::Untyped { device: of_device, .. } | Cap::Frame { device: of_device, .. } => of_device == device,
                _ => !device,
            };
            fits && extent_of(made).is_some_and(|made| is_inside(*extent, made))
        }
        (Cap::Frame { extent, device, kernel_page, .. }, Cap::Frame { extent: e, device: d, kernel_page: k, .. }) => {
            has_rights && (extent, device, kernel_page) == (e, d, k)
        }
        (Cap::Vm(id), Cap::Frame { extent, kernel_page: true, .. }) => is_kernel_page(*extent, id.0, VM_BITS),
        (Cap::Vcpu(id), Cap::Frame { extent, kernel_page: true, .. }) => is_kernel_page(*extent, id.0, VCPU_BITS),
        (Cap::Machine, Cap::Frame { extent, kernel_page: true, .. }) => {
            is_kernel_page(*extent, config.statistics_page, PAGE_BITS)
        }
        (Cap::PciFunction { function, .. }, Cap::Frame { extent, device: true, .. }) => {
            has_rights && is_register_page(config, *function, *extent)
        }
        (Cap::PciFunction { function, lease }, Cap::PciFunction { function: other, lease: deeper }) => {
            let facts = &config.functions[usize::from(*function)];
            let is_own = function == other && lease <= deeper;
            let is_virtual = (facts.first_vf..facts.first_vf + facts.vfs).contains(other);
            has_rights && (is_own || is_virtual)
        }
        (Cap::CpuTime { core, .. }, Cap::CpuTime { core: other, .. }) => has_rights && core == other,
        (Cap::Irq { first, count, .. }, Cap::Irq { first: f, count: c, .. })
        | (Cap::IoPort { first, count }, Cap::IoPort { first: f, count: c }) => {
            has_rights && is_part((*first, *count), (*f, *c))
        }
        (Cap::Channel { id, end }, Cap::Channel { id: other, end: chosen }) => {
            has_rights && id == other && (end == chosen || source.rights.contains(Rights::CONTROL))
        }
        (Cap::IommuDomain { id, window }, Cap::IommuDomain { id: other, window: part }) => {
            has_rights && id == other && window.holds(part.first, 1 << part.bits)
        }
        (Cap::CNode { id, .. }, Cap::CNode { id: other, .. }) => has_rights && id == other,
        (Cap::PageTable { id, .. }, Cap::PageTable { id: other, .. }) => has_rights && id == other,
        (Cap::Vm(id), Cap::Vm(other)) => has_rights && id == other,
        (Cap::Vcpu(id), Cap::Vcpu(other)) => has_rights && id == other,
        (Cap::Machine, Cap::Machine) => has_rights,
        _ => false,
    }
}

/// True for a page of registers of a function that may be handed out.
fn is_register_page(config: &Config, function: u16, page: Extent) -> bool {
    let facts = &config.functions[usize::from(function)];
    (0_u8..).zip(facts.bars).any(|(bar, (base, pages))| {
        let number = page.base.wrapping_sub(base) >> PAGE_BITS;
        page.bits == PAGE_BITS
            && page.base >= base
            && number < u64::from(pages)
            && !facts.withheld.contains(&(bar, number as u32))
    })
}

/// Who may pass something to whom, and what each can reach.
#[derive(Clone, Debug, Default)]
struct Reach {
    slots: BTreeSet<SlotId>,
    cnodes: BTreeSet<CNodeId>,
    channels: BTreeSet<ChannelId>,
    vms: BTreeSet<VmId>,
    vcpus: BTreeSet<VcpuId>,
}

impl Reach {
    /// What a VM reaches without anybody's help: its CSpace, and all that lies in objects which it has capabilities for.
    fn of(state: &State, vm: VmId) -> Reach {
        let mut reach = Reach { vms: [vm].into(), ..Reach::default() };
        let mut open: Vec<CNodeId> = state.vms.get(&vm).and_then(|vm| vm.cspace).into_iter().collect();
        let mut slots: Vec<SlotId> = Vec::new();
        loop {
            if let Some(cnode) = open.pop() {
                if let (true, Some(bits)) = (reach.cnodes.insert(cnode), state.cnodes.get(&cnode)) {
                    slots.extend(state.slots.range(cnode.slot(1)..cnode.slot(1 << bits)).map(|(id, _)| *id));
                }
                continue;
            }
            let Some(slot) = slots.pop() else { return reach };
            let Some(found) = state.slots.get(&slot) else { continue };
            if state.dying.hides(slot) || !reach.slots.insert(slot) {
                continue;
            }
            match found.cap {
                Cap::CNode { id, .. } => open.push(id),
                Cap::Channel { id, .. } => {
                    reach.channels.insert(id);
                    slots.extend([1, 2].map(|end| in_flight_slot(id, end)));
                }
                Cap::Vm(vm) => {
                    reach.vms.insert(vm);
                    open.extend(state.vms.get(&vm).and_then(|vm| vm.cspace));
                }
                Cap::Vcpu(vcpu) => {
                    reach.vcpus.insert(vcpu);
                    if let Some(vm) = state.vcpus.get(&vcpu).and_then(|vcpu| vcpu.vm) {
                        reach.vms.insert(vm);
                    }
                }
                _ => {}
            }
        }
    }

    /// True if one of the two may pass something to the other.
    fn meets(&self, other: &Reach) -> bool {
        !self.cnodes.is_disjoint(&other.cnodes)
            || !self.channels.is_disjoint(&other.channels)
            || !self.vms.is_disjoint(&other.vms)
            || !self.vcpus.is_disjoint(&other.vcpus)
    }
}

/// The VMs that are connected with one of these, these included.
pub fn connected(state: &State, vms: &BTreeSet<VmId>) -> BTreeSet<VmId> {
    let reaches: Vec<(VmId, Reach)> = state.vms.keys().map(|vm| (*vm, Reach::of(state, *vm))).collect();
    let mut found: BTreeSet<VmId> = vms.clone();
    loop {
        let inside: Vec<&Reach> = reaches.iter().filter(|(vm, _)| found.contains(vm)).map(|(_, reach)| reach).collect();
        let joins = |reach: &Reach| inside.iter().any(|other| other.meets(reach));
        let more: Vec<VmId> =
            reaches.iter().filter(|(vm, reach)| !found.contains(vm) && joins(reach)).map(|(vm, _)| *vm).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// The most that some VMs can ever obtain.
#[derive(Clone, Debug)]
pub struct Bound {
    config: Config,
    sources: Vec<Slot>,
}

impl Bound {
    /// The bound of these VMs in this state.
    pub fn of(state: &State, vms: &BTreeSet<VmId>) -> Bound {
        let slots: BTreeSet<SlotId> =
            connected(state, vms).into_iter().flat_map(|vm| Reach::of(state, vm).slots).collect();
        Bound { config: state.config.clone(), sources: slots.iter().map(|slot| state.slots[slot].clone()).collect() }
    }

    /// True if something in it covers this capability.
    pub fn allows(&self, slot: &Slot) -> bool {
        self.sources.iter().any(|source| covers(&self.config, source, slot))
    }

    /// The first capability in the CSpaces of these VMs that is beyond the bound.
    pub fn exceeded(&self, state: &State, vms: &BTreeSet<VmId>) -> Option<SlotId> {
        let held = vms.iter().flat_map(|vm| in_cspace_of(state, *vm));
        held.into_iter().find(|slot| !self.allows(&state.slots[slot]))
    }
}

/// The capabilities that a VM can name: those in its root CNode, and in the CNodes whose capabilities lie there.
pub fn in_cspace_of(state: &State, vm: VmId) -> BTreeSet<SlotId> {
    let slots = |cnode: CNodeId| {
        let bits = state.cnodes.get(&cnode).copied();
        bits.into_iter().flat_map(move |bits| state.slots.range(cnode.slot(1)..cnode.slot(1 << bits)).map(|at| *at.0))
    };
    let first: Vec<SlotId> = state.vms.get(&vm).and_then(|vm| vm.cspace).into_iter().flat_map(slots).collect();
    let second = first.iter().filter_map(|slot| match &state.slots[slot] {
        Slot { cap: Cap::CNode { id, .. }, rights, .. } if rights.contains(Rights::READ) => Some(*id),
        _ => None,
    });
    let all = first.iter().copied().chain(second.flat_map(slots));
    all.filter(|slot| !state.dying.hides(*slot)).collect()
}
