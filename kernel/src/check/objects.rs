//! Vcpus, channels, CPU time, ranges, functions, launches and what is being destroyed.

extern crate std;

use super::{Checker, Node};
use crate::cap::{Cap, Zombie};
use crate::channel::Handled;
use crate::cspace::slots_of;
use crate::function::MAX_FUNCTIONS;
use crate::kernel::MAX_ROUTES;
use crate::machine::Machine;
use crate::sched::{CAPACITY, Share};
use crate::types::{CoreId, EndId, FunctionId, SlotId, Ticks, VcpuId, VmId};
use cap_spec::abi::VCPU_ROUTES;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::vec::Vec;

impl<M: Machine> Checker<'_, M> {
    /// What the check of a launch has passed is marked by it and keeps to the rules.
    pub(super) fn check_launches(&mut self) {
        for vcpu in self.live_vcpus() {
            for slot in self.kernel.passed(vcpu) {
                hold!(self, slot.is_ok(), "the check of {vcpu:?} has passed {slot:?}");
            }
        }
    }

    pub(super) fn check_processors(&mut self) {
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

    pub(super) fn check_cspace(&mut self, vm: VmId) {
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

    pub(super) fn check_ends(&mut self) {
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

    pub(super) fn check_time(&mut self) {
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
    pub(super) fn check_ranges(&mut self) {
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
    pub(super) fn check_functions(&mut self) {
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

    pub(super) fn check_zombies(&mut self) {
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
