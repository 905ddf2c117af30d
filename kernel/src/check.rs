//! The invariants of the capability core as a program: run between any two steps of anything, on the host only.
//!
//! [`invariants`] visits everything that is reachable from the boot capabilities and says what is wrong. It knows nothing
//! of how operations work, only what must be true in between.

extern crate std;

use crate::cap::{Cap, Mapping, Zombie};
use crate::channel::Handled;
use crate::cspace::slots_of;
use crate::function::MAX_FUNCTIONS;
use crate::kernel::{Kernel, MAX_ROUTES};
use crate::machine::Machine;
use crate::nested::{Entry, entry_bits, leaf_level};
use crate::sched::{CAPACITY, Share};
use crate::slot::{MAX_DEPTH, Slot};
use crate::types::{CoreId, EndId, FunctionId, Gpa, Hpa, SlotId, Ticks, VcpuId, VmId};
use crate::untyped::bytes_of;
use cap_spec::abi::{CHANNEL_BITS, DOMAIN_BITS, PAGE_BITS, SLOT_BITS, VCPU_BITS, VCPU_ROUTES, VM_BITS};
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

/// A full slot as others see it.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// The slot.
    pub id: SlotId,
    /// What it was derived from; `None` for a boot capability.
    pub parent: Option<SlotId>,
    /// What it holds.
    pub slot: Slot,
    /// Steps from its boot capability today.
    pub steps: u8,
}

/// Everything that hangs together with the boot capabilities in the root CNode, and what is wrong with it.
struct Checker<'a, M> {
    kernel: &'a Kernel<M>,
    nodes: BTreeMap<SlotId, Node>,
    faults: Vec<String>,
}

/// Adds a fault unless the condition holds.
macro_rules! hold {
    ($checker:expr, $condition:expr, $($text:tt)*) => {
        if !$condition {
            $checker.faults.push(format!($($text)*));
        }
    };
}

/// Every full slot that the forest reaches from the boot capabilities in a CNode (slot 0 and number of slots).
pub fn forest<M: Machine>(kernel: &Kernel<M>, root: SlotId, slots: u32) -> Vec<Node> {
    let mut checker = Checker { kernel, nodes: BTreeMap::new(), faults: Vec::new() };
    checker.walk_forest(root, slots);
    checker.nodes.into_values().collect()
}

/// What is wrong, in words; nothing if every invariant holds. `root` and `slots` are the root VM's CNode, in which the
/// boot capabilities lie; `is_clean` says whether memory of the machine is all zero.
pub fn invariants<M: Machine>(
    kernel: &Kernel<M>,
    root: SlotId,
    slots: u32,
    is_clean: impl Fn(&M, Hpa, u64) -> bool,
) -> Vec<String> {
    let mut checker = Checker { kernel, nodes: BTreeMap::new(), faults: Vec::new() };
    checker.walk_forest(root, slots);
    checker.check_places(root, slots);
    checker.check_memory(&is_clean);
    checker.check_mappings(&is_clean);
    checker.check_processors();
    checker.check_ends();
    checker.check_time();
    checker.check_ranges();
    checker.check_functions();
    checker.check_launches();
    checker.check_zombies();
    checker.faults
}

impl<M: Machine> Checker<'_, M> {
    fn slot(&self, id: SlotId) -> Slot {
        *self.kernel.machine.slot(id)
    }

    // ---- forest --------------------------------------------------------------------------------------------------

    fn walk_forest(&mut self, root: SlotId, slots: u32) {
        for index in 1..slots {
            let id = root.plus(index);
            let slot = self.slot(id);
            if slot.boot && !slot.is_empty() {
                hold!(self, !slot.prev.is_some() && !slot.next.is_some(), "boot capability {id:?} has siblings");
                self.walk_tree(id);
            }
        }
    }

    fn walk_tree(&mut self, boot: SlotId) {
        let mut open: Vec<(SlotId, Option<SlotId>, u8)> = std::vec![(boot, None, 0)];
        while let Some((id, parent, steps)) = open.pop() {
            let slot = self.slot(id);
            if slot.is_empty() {
                self.faults.push(format!("{id:?} is linked below {parent:?} and empty"));
                continue;
            }
            if self.nodes.insert(id, Node { id, parent, slot, steps }).is_some() {
                self.faults.push(format!("{id:?} is in the forest twice"));
                return;
            }
            hold!(self, slot.depth < MAX_DEPTH, "{id:?} is too deep");
            hold!(self, steps <= slot.depth, "{id:?} is deeper than it says");
            hold!(self, slot.boot == parent.is_none(), "{id:?} is a boot capability below something");
            hold!(self, slot.first_child.is_some() == slot.last_child.is_some(), "{id:?} has half a list");
            let (mut child, mut before) = (slot.first_child, id);
            while child.is_some() {
                let at = self.slot(child);
                let first = before == id;
                hold!(self, at.first == first && at.prev == before, "{child:?} has a wrong younger link");
                open.push((child, Some(id), steps.saturating_add(1)));
                if at.last {
                    hold!(self, at.next == id && slot.last_child == child, "{child:?} has a wrong end of list");
                    break;
                }
                if open.len() > 1 << 20 || !at.next.is_some() {
                    self.faults.push(format!("children of {id:?} have no end"));
                    return;
                }
                before = child;
                child = at.next;
            }
        }
    }

    /// Full slots lie in CNodes and channels that exist (or are being emptied), and nothing else does there.
    fn check_places(&mut self, root: SlotId, slots: u32) {
        let mut places = BTreeSet::new();
        let nodes: Vec<Node> = self.nodes.values().copied().collect();
        let mut cnodes = std::vec![(root, slots)];
        for node in &nodes {
            match node.slot.cap {
                Cap::CNode { base, bits, .. } if node.slot.original && !node.slot.boot => {
                    cnodes.push((base, slots_of(bits)));
                }
                Cap::Channel { id, .. } if node.slot.original => {
                    places.insert(id.in_flight(1));
                    places.insert(id.in_flight(2));
                }
                Cap::Zombie(Zombie { home, first, remaining, .. }) => {
                    places.insert(home);
                    for index in 0..remaining {
                        places.insert(first.plus(index));
                    }
                }
                _ => {}
            }
        }
        for (base, slots) in cnodes {
            hold!(self, self.slot(base).is_empty(), "slot 0 of the CNode at {base:?} is in use");
            for index in 1..slots {
                places.insert(base.plus(index));
            }
        }
        for &place in &places {
            let full = !self.slot(place).is_empty();
            hold!(self, full == self.nodes.contains_key(&place), "{place:?} is full and in no tree");
        }
        for node in &nodes {
            hold!(self, places.contains(&node.id), "{:?} lies in no object", node.id);
        }
    }

    // ---- memory --------------------------------------------------------------------------------------------------

    /// First byte and size of the object that a capability names, if it is made of memory.
    fn extent(cap: &Cap) -> Option<(u64, u64)> {
        let (base, bits) = match *cap {
            Cap::Untyped { base, bits, .. } | Cap::Doomed { base, bits } | Cap::Frame { base, bits, .. } => {
                (base, bits)
            }
            Cap::CNode { base, bits, .. } => (base.address(), bits + SLOT_BITS),
            Cap::PageTable { base, .. } => (base, PAGE_BITS),
            Cap::Vm { id } => (id.address(), VM_BITS),
            Cap::IommuDomain { id, .. } => (id.address(), DOMAIN_BITS),
            Cap::Vcpu { id } => (id.address(), VCPU_BITS),
            Cap::Channel { id, .. } => (id.address(), CHANNEL_BITS),
            Cap::Zombie(zombie) => {
                let first = if zombie.home.get() < zombie.first.get() { zombie.home } else { zombie.first };
                (first.address(), zombie.bits)
            }
            Cap::Null
            | Cap::CpuTime { .. }
            | Cap::Irq { .. }
            | Cap::IoPort { .. }
            | Cap::Machine
            | Cap::PciFunction { .. } => return None,
        };
        Some((base.get(), bytes_of(bits)))
    }

    fn check_memory(&mut self, is_clean: &impl Fn(&M, Hpa, u64) -> bool) {
        let nodes: Vec<Node> = self.nodes.values().copied().collect();
        let mut owners: Vec<(u64, u64, SlotId)> = Vec::new();
        for node in &nodes {
            let Some((base, bytes)) = Self::extent(&node.slot.cap) else { continue };
            hold!(self, base.is_multiple_of(bytes), "{:?} is not aligned", node.id);
            if let Cap::Untyped { watermark, device, .. } = node.slot.cap {
                hold!(self, watermark <= bytes, "watermark of {:?} is beyond its end", node.id);
                let clean = device || is_clean(&self.kernel.machine, Hpa::new(base + watermark), bytes - watermark);
                hold!(self, clean, "{:?} is dirty above its watermark", node.id);
            } else if node.slot.original && !matches!(node.slot.cap, Cap::Doomed { .. }) {
                owners.push((base, bytes, node.id));
            }
            let Some(parent) = node.parent else { continue };
            let Slot { cap: above, rights, .. } = self.slot(parent);
            // What is made of an Untyped has all rights: none is needed to make it.
            hold!(
                self,
                matches!(above, Cap::Untyped { .. }) || rights.contains(node.slot.rights),
                "{:?} has a right that its parent {parent:?} lacks",
                node.id
            );
            let Some((start, size)) = Self::extent(&above) else {
                let derives = match above {
                    Cap::Machine => true,
                    Cap::PciFunction { .. } => matches!(node.slot.cap, Cap::Frame { device: true, .. }),
                    _ => false,
                };
                hold!(self, derives, "{:?} is memory below something else", node.id);
                continue;
            };
            let inside = base >= start && base - start + bytes <= size;
            hold!(self, inside, "{:?} reaches beyond its parent {parent:?}", node.id);
            if let Cap::Untyped { watermark, .. } = above {
                hold!(self, node.slot.original, "{:?} is a copy of an Untyped", node.id);
                hold!(self, base - start + bytes <= watermark, "{:?} lies above the watermark", node.id);
            }
        }
        owners.sort_unstable();
        for pair in owners.windows(2) {
            if let [(base, bytes, one), (next, _, other)] = pair {
                hold!(self, base + bytes <= *next, "{one:?} and {other:?} share memory");
            }
        }
        self.check_siblings(&nodes);
        self.check_coverage(&nodes);
    }

    /// Whatever lies in the memory of an Untyped is derived from it: nobody can scrub memory in which something lives.
    fn check_coverage(&mut self, nodes: &[Node]) {
        let untypeds: Vec<(SlotId, u64, u64)> = nodes
            .iter()
            .filter(|node| matches!(node.slot.cap, Cap::Untyped { .. }))
            .filter_map(|node| Self::extent(&node.slot.cap).map(|(base, bytes)| (node.id, base, bytes)))
            .collect();
        for node in nodes.iter().filter(|node| node.slot.original && !matches!(node.slot.cap, Cap::Untyped { .. })) {
            let Some((base, _)) = Self::extent(&node.slot.cap) else { continue };
            let mut above = BTreeSet::new();
            let mut at = node.parent;
            while let Some(id) = at {
                above.insert(id);
                at = self.nodes.get(&id).and_then(|node| node.parent);
            }
            if matches!(node.slot.cap, Cap::Doomed { .. }) {
                continue;
            }
            for &(id, start, size) in &untypeds {
                let inside = base >= start && base - start < size;
                hold!(self, !inside || above.contains(&id), "{:?} lies in {id:?} and is not below it", node.id);
            }
        }
    }

    /// Untypeds with the same parent have no byte in common.
    fn check_siblings(&mut self, nodes: &[Node]) {
        let mut extents: Vec<(SlotId, u64, u64)> = nodes
            .iter()
            .filter(|node| node.slot.original && !matches!(node.slot.cap, Cap::Doomed { .. }))
            .filter_map(|node| {
                let (base, bytes) = Self::extent(&node.slot.cap)?;
                // Zombies may lie in what their siblings were.
                if matches!(node.slot.cap, Cap::Zombie(_)) { None } else { Some((node.parent?, base, bytes)) }
            })
            .collect();
        extents.sort_unstable();
        for pair in extents.windows(2) {
            if let [(one, base, bytes), (other, next, _)] = pair {
                hold!(self, one != other || base + bytes <= *next, "children of {one:?} share memory");
            }
        }
    }

    // ---- address spaces ------------------------------------------------------------------------------------------

    fn live_vms(&self) -> BTreeSet<VmId> {
        self.originals(|cap| if let Cap::Vm { id } = cap { Some(*id) } else { None })
    }

    fn live_domains(&self) -> BTreeSet<VmId> {
        self.originals(|cap| if let Cap::IommuDomain { id, .. } = cap { Some(*id) } else { None })
    }

    fn live_vcpus(&self) -> BTreeSet<VcpuId> {
        self.originals(|cap| if let Cap::Vcpu { id } = cap { Some(*id) } else { None })
    }

    fn originals<T: Ord>(&self, name: impl Fn(&Cap) -> Option<T>) -> BTreeSet<T> {
        self.nodes.values().filter(|node| node.slot.original).filter_map(|node| name(&node.slot.cap)).collect()
    }

    fn check_mappings(&mut self, is_clean: &impl Fn(&M, Hpa, u64) -> bool) {
        let vms = self.live_vms().union(&self.live_domains()).copied().collect::<BTreeSet<_>>();
        let mut listed: BTreeMap<SlotId, VmId> = BTreeMap::new();
        for &vm in &vms {
            let (mut at, mut before) = (self.kernel.machine.vm(vm).mappings, SlotId::NONE);
            while at.is_some() && listed.len() <= self.nodes.len() {
                hold!(self, self.nodes.contains_key(&at), "{vm:?} lists {at:?}, which is in no tree");
                hold!(self, listed.insert(at, vm).is_none(), "{at:?} is listed twice");
                let Some(&Mapping { vm: named, next, prev, .. }) = self.slot(at).cap.mapping() else {
                    self.faults.push(format!("{vm:?} lists {at:?}, which is not mapped"));
                    break;
                };
                hold!(self, named == vm && prev == before, "{at:?} has a wrong mapping link");
                before = at;
                at = next;
            }
        }
        let nodes: Vec<Node> = self.nodes.values().copied().collect();
        for node in &nodes {
            match node.slot.cap.mapping() {
                Some(mapping) => {
                    hold!(self, listed.get(&node.id) == Some(&mapping.vm), "{:?} is mapped and not listed", node.id);
                }
                None => {
                    if let Cap::PageTable { base, .. } = node.slot.cap {
                        let clean = is_clean(&self.kernel.machine, base, 1 << PAGE_BITS);
                        hold!(self, clean, "{:?} is in no tree and not empty", node.id);
                    }
                }
            }
        }
        for &vm in &vms {
            self.check_tree(vm, &listed);
            self.check_foreign(vm, &listed);
        }
    }

    /// Every entry of a VM's tree is some mapped capability's. (A boot VM's own entries are the kernel's.)
    fn check_tree(&mut self, vm: VmId, listed: &BTreeMap<SlotId, VmId>) {
        if self.kernel.machine.vm(vm).is_cut() {
            return;
        }
        let header = self.kernel.machine.vm(vm);
        let is_boot = header.region_bits == 0 && !header.is_domain();
        let records: Vec<(Slot, Mapping)> = listed
            .iter()
            .filter(|(_, named)| **named == vm)
            .filter_map(|(id, _)| {
                let slot = self.slot(*id);
                slot.cap.mapping().map(|mapping| (slot, *mapping))
            })
            .collect();
        let (format, level) = (self.kernel.machine.vm(vm).format, self.kernel.machine.vm(vm).root_level());
        let mut open = std::vec![(vm.root(), level, 0_u64)];
        while let Some((table, level, start)) = open.pop() {
            for index in 0..512 {
                let raw = self.kernel.machine.table_entry(table, index);
                let gpa = Gpa::new(start + ((index as u64) << entry_bits(level)));
                match format.decode(raw, level) {
                    Entry::Empty => hold!(self, raw == 0, "entry {gpa:?} of {vm:?} is absent and not 0"),
                    Entry::Table(next) => {
                        let owned = records.iter().any(|(slot, mapping)| {
                            mapping.gpa == gpa
                                && mapping.level == level - 1
                                && matches!(slot.cap, Cap::PageTable { base, .. } if base == next)
                        });
                        hold!(self, owned || is_boot, "table {next:?} of {vm:?} at {gpa:?} is nobody's");
                        if owned {
                            open.push((next, level - 1, gpa.get()));
                        }
                    }
                    Entry::Leaf(memory) => {
                        let owned = records.iter().any(|(slot, mapping)| {
                            mapping.gpa == gpa
                                && slot.rights.contains(mapping.rights)
                                && format.rights(raw) == mapping.rights
                                && matches!(slot.cap, Cap::Frame { base, bits, .. }
                                    if base == memory && leaf_level(bits) == level)
                        });
                        hold!(self, owned || is_boot, "memory {memory:?} of {vm:?} at {gpa:?} is nobody's");
                    }
                }
            }
        }
    }

    fn check_foreign(&mut self, vm: VmId, listed: &BTreeMap<SlotId, VmId>) {
        let header = *self.kernel.machine.vm(vm);
        let mut foreign = 0;
        for (id, _) in listed.iter().filter(|(_, named)| **named == vm) {
            foreign += u32::from(self.slot(*id).cap.mapping().is_some_and(|mapping| mapping.foreign));
        }
        let mut vcpu = header.vcpus;
        while vcpu.is_some() {
            let processor = self.kernel.machine.vcpu(vcpu);
            foreign += u32::from(processor.foreign);
            vcpu = processor.next;
        }
        hold!(self, foreign == header.foreign, "{vm:?} counts {} foreign parts of {foreign}", header.foreign);
    }

    // ---- launches ------------------------------------------------------------------------------------------------

    /// What the check of a launch has passed is marked by it and keeps to the rules.
    fn check_launches(&mut self) {
        for vcpu in self.live_vcpus() {
            for slot in self.kernel.passed(vcpu) {
                hold!(self, slot.is_ok(), "the check of {vcpu:?} has passed {slot:?}");
            }
        }
    }

    // ---- processors ----------------------------------------------------------------------------------------------

    fn check_processors(&mut self) {
        let (vms, vcpus) = (self.live_vms(), self.live_vcpus());
        let mut attached = BTreeSet::new();
        for &vm in &vms {
            let (mut at, mut before) = (self.kernel.machine.vm(vm).vcpus, VcpuId::NONE);
            while at.is_some() && attached.insert(at) {
                hold!(self, vcpus.contains(&at), "{vm:?} has {at:?}, which is dead");
                let processor = *self.kernel.machine.vcpu(at);
                hold!(self, processor.vm == vm && processor.prev == before, "{at:?} has a wrong link");
                before = at;
                at = processor.next;
            }
            self.check_cspace(vm);
        }
        for &vcpu in &vcpus {
            let processor = *self.kernel.machine.vcpu(vcpu);
            hold!(self, processor.vm.is_some() == attached.contains(&vcpu), "{vcpu:?} and its VM disagree");
            let bound = (0..MAX_ROUTES as u16)
                .filter(|&route| self.kernel.route(route).is_some_and(|entry| entry.vcpu == vcpu));
            hold!(self, bound.count() == usize::from(processor.routes), "{vcpu:?} miscounts its routes");
            hold!(self, processor.routes <= VCPU_ROUTES, "{vcpu:?} takes too many routes");
            hold!(self, processor.routes == 0 || processor.time.is_some(), "{vcpu:?} takes interrupts without a core");
        }
        for route in 0..MAX_ROUTES as u16 {
            let live = self.kernel.route(route).is_none_or(|entry| vcpus.contains(&entry.vcpu));
            hold!(self, live, "route {route} goes to a dead Vcpu");
        }
        for core in (0..self.kernel.core_count as u8).map(CoreId::new) {
            let state = self.kernel.core(core);
            for vcpu in [state.current, state.loaded] {
                hold!(self, !vcpu.is_some() || vcpus.contains(&vcpu), "{core:?} has {vcpu:?}, which is dead");
            }
            if state.current.is_some() && vcpus.contains(&state.current) {
                let processor = *self.kernel.machine.vcpu(state.current);
                hold!(self, processor.run == crate::vcpu::Run::Runnable, "{core:?} runs what must not run");
                hold!(self, processor.time.is_some() && processor.core == core, "{core:?} runs another's Vcpu");
                hold!(self, vms.contains(&processor.vm), "{core:?} runs a dead VM");
            }
        }
    }

    fn check_cspace(&mut self, vm: VmId) {
        let header = *self.kernel.machine.vm(vm);
        if header.cspace.is_some() {
            let named = matches!(self.slot(header.cspace_original).cap, Cap::CNode { vm: owner, base, bits }
                if owner == vm && base == header.cspace && slots_of(bits) == header.cspace_slots);
            hold!(self, named && self.nodes.contains_key(&header.cspace_original), "{vm:?} has a wrong CSpace");
        }
        if header.base.is_some() {
            let named = matches!(self.slot(header.base).cap, Cap::Untyped { vm: owner, .. } if owner == vm);
            hold!(self, named, "{vm:?} has a wrong base");
        }
        for node in self.nodes.clone().values() {
            match node.slot.cap {
                Cap::CNode { vm: owner, .. } if owner == vm => {
                    hold!(self, header.cspace_original == node.id, "{:?} is not {vm:?}'s CSpace", node.id);
                }
                Cap::Untyped { vm: owner, .. } if owner == vm => {
                    hold!(self, header.base == node.id, "{:?} is not {vm:?}'s base", node.id);
                }
                _ => {}
            }
        }
    }

    fn check_ends(&mut self) {
        let channels = self.originals(|cap| if let Cap::Channel { id, .. } = cap { Some(*id) } else { None });
        let vcpus = self.live_vcpus();
        let domains = self.originals(|cap| if let Cap::IommuDomain { id, .. } = cap { Some(*id) } else { None });
        let mut received: BTreeMap<EndId, VcpuId> = BTreeMap::new();
        for &vcpu in &vcpus {
            let (mut at, mut before) = (self.kernel.machine.vcpu(vcpu).receives, EndId::NONE);
            while at.is_some() && received.insert(at, vcpu).is_none() {
                hold!(self, channels.contains(&at.channel()), "{vcpu:?} receives at {at:?}, which is dead");
                let end = *self.kernel.machine.channel(at.channel()).end(at.end());
                hold!(self, end.receiver == vcpu && end.prev == before, "{at:?} has a wrong link");
                before = at;
                at = end.next;
            }
            let handler = self.kernel.machine.vcpu(vcpu).handler;
            if handler.is_some() {
                let named = channels.contains(&handler.channel())
                    && self.kernel.machine.channel(handler.channel()).end(handler.end()).handled == Handled::Vcpu(vcpu);
                hold!(self, named, "{vcpu:?} has a wrong handler");
            }
        }
        let of_domains = domains.iter().map(|&domain| (Handled::Domain(domain), self.kernel.machine.vm(domain).faults));
        let of_all: Vec<_> = of_domains.chain([(Handled::Machine, self.kernel.faults)]).collect();
        for (of, faults) in of_all {
            let end = faults.handler;
            let named = !end.is_some()
                || channels.contains(&end.channel())
                    && self.kernel.machine.channel(end.channel()).end(end.end()).handled == of;
            hold!(self, named, "{of:?} has a wrong handler");
        }
        for &channel in &channels {
            for end in [1, 2] {
                let id = EndId::of(channel, end);
                let record = *self.kernel.machine.channel(channel).end(end);
                let receiver = received.get(&id).copied().unwrap_or(VcpuId::NONE);
                hold!(self, record.receiver == receiver, "{id:?} names a receiver that does not name it");
                let named = match record.handled {
                    Handled::Nothing => true,
                    Handled::Vcpu(vcpu) => vcpus.contains(&vcpu) && self.kernel.machine.vcpu(vcpu).handler == id,
                    Handled::Domain(domain) => {
                        domains.contains(&domain) && self.kernel.machine.vm(domain).faults.handler == id
                    }
                    Handled::Machine => self.kernel.faults.handler == id,
                };
                hold!(self, named, "{id:?} names something as handled that does not name it");
            }
        }
    }

    // ---- CPU time and ranges -------------------------------------------------------------------------------------

    fn check_time(&mut self) {
        let mut shares: BTreeMap<SlotId, u64> = BTreeMap::new();
        let nodes: Vec<Node> = self.nodes.values().copied().collect();
        let share = |budget, period| self.kernel.limits.share(Ticks::new(budget), Ticks::new(period)).get();
        for node in &nodes {
            if let (Cap::CpuTime { budget, period, .. }, Some(parent)) = (node.slot.cap, node.parent) {
                *shares.entry(parent).or_default() += share(budget, period);
            }
        }
        let mut faults = Vec::new();
        for node in &nodes {
            let Cap::CpuTime { core, vcpu, budget, period, allocated, .. } = node.slot.cap else { continue };
            let given = shares.get(&node.id).copied().unwrap_or(0);
            let own = share(budget, period);
            let limit = if own == Share::WHOLE.get() && given != own { CAPACITY.get() } else { own };
            if given != allocated || given > limit {
                faults.push(format!("{:?} gives {given} and says {allocated} of {limit}", node.id));
            }
            if vcpu.is_some() {
                let processor = self.kernel.machine.vcpu(vcpu);
                let bound = processor.time == node.id && processor.core == core && !node.slot.has_children();
                let planned = processor
                    .reservation
                    .and_then(|id| self.kernel.core(core).schedule.reservation(id))
                    .is_some_and(|reservation| reservation.vcpu == vcpu);
                if !bound || !planned {
                    faults.push(format!("{:?} and {vcpu:?} disagree", node.id));
                }
            }
        }
        for vcpu in self.live_vcpus() {
            let time = self.kernel.machine.vcpu(vcpu).time;
            if time.is_some() && !matches!(self.slot(time).cap, Cap::CpuTime { vcpu: named, .. } if named == vcpu) {
                faults.push(format!("{vcpu:?} has time that is not its own"));
            }
        }
        self.faults.append(&mut faults);
    }

    /// Children of a range have no route or port in common, and lie in it.
    fn check_ranges(&mut self) {
        let mut taken: BTreeMap<SlotId, Vec<(u32, u32)>> = BTreeMap::new();
        for node in self.nodes.clone().values() {
            let (Cap::Irq { first, count } | Cap::IoPort { first, count }) = node.slot.cap else { continue };
            let Some(parent) = node.parent else { continue };
            let (Cap::Irq { first: start, count: all } | Cap::IoPort { first: start, count: all }) =
                self.slot(parent).cap
            else {
                self.faults.push(format!("{:?} is a range below something else", node.id));
                continue;
            };
            let (low, high) = (u32::from(first), u32::from(first) + count);
            let inside = first >= start && high <= u32::from(start) + all;
            hold!(self, inside && count > 0, "{:?} reaches beyond its parent", node.id);
            let others = taken.entry(parent).or_default();
            let apart = others.iter().all(|&(from, to)| high <= from || to <= low);
            others.push((low, high));
            hold!(self, apart, "{:?} overlaps a sibling", node.id);
        }
    }

    /// A function has one holder, is attached to a live domain that counts it, and its messages raise routes.
    fn check_functions(&mut self) {
        let domains = self.live_domains();
        let mut attached: BTreeMap<VmId, u16> = BTreeMap::new();
        let mut leases: BTreeMap<FunctionId, Vec<u8>> = BTreeMap::new();
        let mut vfs: BTreeMap<FunctionId, u16> = BTreeMap::new();
        for node in self.nodes.clone().values() {
            let Cap::PciFunction { lease, function } = node.slot.cap else { continue };
            leases.entry(function).or_default().push(lease);
            if let (0, Some(parent)) = (lease, node.parent)
                && let Cap::PciFunction { function: physical, .. } = self.slot(parent).cap
            {
                *vfs.entry(physical).or_default() += 1;
            }
        }
        for number in (0..MAX_FUNCTIONS as u16).map(FunctionId::new) {
            let state = *self.kernel.function(number);
            if state.domain.is_some() {
                *attached.entry(state.domain).or_default() += 1;
                hold!(self, domains.contains(&state.domain), "{number:?} is attached to what is no domain");
                hold!(self, leases.contains_key(&number), "{number:?} is attached and nobody's");
            }
            let mut chain = leases.remove(&number).unwrap_or_default();
            chain.sort_unstable();
            let is_chain = chain.is_empty() || chain.iter().copied().eq(0..=state.leases);
            hold!(self, is_chain, "{number:?} has leases {chain:?} and counts {}", state.leases);
            let made = vfs.get(&number).copied().unwrap_or(0);
            hold!(self, made == state.vfs, "{number:?} has {made} virtual functions and counts {}", state.vfs);
        }
        for &domain in &domains {
            let (counts, has) = (self.kernel.machine.vm(domain).functions, attached.get(&domain).copied().unwrap_or(0));
            hold!(self, counts == has, "{domain:?} counts {counts} functions and has {has}");
        }
        let messages: Vec<_> = (0..MAX_ROUTES as u16).filter_map(|route| self.kernel.message(route)).collect();
        for (at, message) in messages.iter().enumerate() {
            hold!(self, !messages[..at].contains(message), "{message:?} raises two routes");
        }
    }

    // ---- zombies -------------------------------------------------------------------------------------------------

    fn check_zombies(&mut self) {
        for node in self.nodes.clone().values() {
            let Cap::Zombie(zombie) = node.slot.cap else { continue };
            hold!(self, !node.slot.has_children() && node.slot.original, "zombie {:?} is no leaf", node.id);
            let next = self.slot(zombie.next).cap;
            let prev = self.slot(zombie.prev).cap;
            let linked = matches!(next, Cap::Zombie(Zombie { prev, .. }) if prev == node.id)
                && matches!(prev, Cap::Zombie(Zombie { next, .. }) if next == node.id);
            hold!(self, linked, "zombie {:?} is in no circle", node.id);
        }
    }
}

/// The reservation of a Vcpu as its core's schedule has it.
pub fn reservation<M: Machine>(kernel: &Kernel<M>, vcpu: VcpuId) -> Option<crate::sched::Reservation> {
    let header = kernel.machine.vcpu(vcpu);
    kernel.core(header.core).schedule.reservation(header.reservation?)
}
