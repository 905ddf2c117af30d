//! The abstraction function: what state of the abstract machine a state of the kernel stands for.
//!
//! On the way it checks the representation: that the links of the derivation forest, the lists of mappings, Vcpus and
//! receivers, and the counters agree with what they stand for, and that every full slot of a live CNode is in the forest.

use std::collections::{BTreeMap, BTreeSet};

use cap_spec::abi::Rights;
use cap_spec::machine::{
    CNodeId, Cap, ChannelId, Config, Entry, Extent, Faults, Function, Mapping, Message, Receiver, Reservation, Route,
    Run, Slot, SlotId, State, TableId, TablePlace, Vcpu, VcpuId, Vm, VmId, Window, foreign_parts,
};
use kernel::cap::Cap as KernelCap;
use kernel::channel::Channel;
use kernel::fault::Faults as KernelFaults;
use kernel::nested::Entry as NestedEntry;
use kernel::slot::Slot as KernelSlot;
use kernel::types as k;
use kernel::vcpu::Vcpu as KernelVcpu;
use kernel::vm::Vm as KernelVm;
use kernel::{Message as KernelMessage, Route as KernelRoute};

/// What is wrong with a representation.
pub type Defect = String;

/// A kernel at rest, as far as its state is to be seen: in the host's memory, or in that of a running machine.
pub trait Seen {
    /// A slot.
    fn slot(&self, id: k::SlotId) -> KernelSlot;
    /// The header of a VM or domain.
    fn vm(&self, id: k::VmId) -> KernelVm;
    /// The header of a Vcpu.
    fn vcpu(&self, id: k::VcpuId) -> KernelVcpu;
    /// A channel.
    fn channel(&self, id: k::ChannelId) -> Channel;
    /// The entries of a table.
    fn table(&self, table: u64) -> [u64; 512];
    /// The event word of a Vcpu.
    fn events(&self, vcpu: k::VcpuId) -> u64;
    /// The registers of a Vcpu that no core holds, if they are to be seen.
    fn registers(&self, vcpu: k::VcpuId) -> [u64; 21];
    /// Who takes an interrupt route.
    fn route(&self, route: u16) -> Option<KernelRoute>;
    /// What raises it.
    fn message(&self, route: u16) -> Option<KernelMessage>;
    /// The domain of a function, its leases, its virtual functions, and from when on it is ready.
    fn function_state(&self, function: k::FunctionId) -> (k::VmId, u8, u16, k::Ticks);
    /// What all functions were stopped from.
    fn faults(&self) -> KernelFaults;
    /// True if a Delete or Revoke may be half done: then what is being destroyed counts as if it were not yet.
    fn is_between(&self) -> bool {
        false
    }
}

/// The slot's address.
fn slot_id(id: k::SlotId) -> SlotId {
    SlotId(id.address().get())
}

fn vm_id(id: k::VmId) -> VmId {
    VmId(id.address().get())
}

fn vcpu_id(id: k::VcpuId) -> VcpuId {
    VcpuId(id.address().get())
}

fn some_vcpu(id: k::VcpuId) -> Option<VcpuId> {
    id.is_some().then(|| vcpu_id(id))
}

fn channel_id(id: k::ChannelId) -> ChannelId {
    ChannelId(id.address().get())
}

/// The state that the kernel stands for. `boot` are the slots of the boot capabilities.
pub fn observe(seen: &impl Seen, boot: &[k::SlotId], config: &Config) -> Result<State, Defect> {
    let mut state = State::new(config.clone());
    for slot in boot {
        walk(seen, &mut state, *slot, None)?;
    }
    collect_objects(seen, &mut state)?;
    state.faults = abstract_faults(&seen.faults());
    check_places(seen, &state)?;
    check_lists(seen, &state)?;
    Ok(state)
}

/// Visits a slot and everything below it.
fn walk(seen: &impl Seen, state: &mut State, root: k::SlotId, parent: Option<SlotId>) -> Result<(), Defect> {
    let mut open = vec![(root, parent)];
    while let Some((id, parent)) = open.pop() {
        let slot = seen.slot(id);
        if slot.is_empty() {
            return Err(format!("{id:?} is linked and empty"));
        }
        if slot.boot != parent.is_none() {
            return Err(format!("{id:?}: boot is {}", slot.boot));
        }
        let content = Slot {
            cap: abstract_cap(seen, id, &slot)?,
            rights: slot.rights,
            parent,
            depth: slot.depth,
            original: slot.original,
        };
        if state.slots.insert(slot_id(id), content).is_some() {
            return Err(format!("{id:?} is linked twice"));
        }
        let children = children(seen, id, &slot)?;
        open.extend(children.into_iter().map(|child| (child, Some(slot_id(id)))));
    }
    Ok(())
}

/// The children of a slot, with all links checked.
fn children(seen: &impl Seen, id: k::SlotId, slot: &KernelSlot) -> Result<Vec<k::SlotId>, Defect> {
    let mut found = Vec::new();
    if !slot.first_child.is_some() {
        if slot.last_child.is_some() {
            return Err(format!("{id:?} has a last child only"));
        }
        return Ok(found);
    }
    let mut at = slot.first_child;
    let mut before = id;
    loop {
        let child = seen.slot(at);
        if child.prev != before || child.first != found.is_empty() {
            return Err(format!("{at:?}: prev {:?}, first {}; expected prev {before:?}", child.prev, child.first));
        }
        found.push(at);
        if found.len() > 1 << 16 {
            return Err(format!("children of {id:?} form a circle"));
        }
        if child.last {
            let ends_well = child.next == id && slot.last_child == at;
            return if ends_well { Ok(found) } else { Err(format!("the list of children of {id:?} ends wrong")) };
        }
        before = at;
        at = child.next;
    }
}

/// What a capability stands for.
fn abstract_cap(seen: &impl Seen, id: k::SlotId, slot: &KernelSlot) -> Result<Cap, Defect> {
    Ok(match slot.cap {
        KernelCap::Zombie(zombie) if seen.is_between() => match zombie.bits {
            cap_spec::abi::CHANNEL_BITS => Cap::Channel { id: ChannelId(zombie.first.address().get()), end: 1 },
            bits => Cap::CNode { id: CNodeId(zombie.home.address().get()), slot_bits: bits - cap_spec::abi::SLOT_BITS },
        },
        KernelCap::Doomed { bits, base } if seen.is_between() => {
            Cap::Untyped { extent: Extent { base: base.get(), bits }, device: false, watermark: 1 << bits }
        }
        KernelCap::Null | KernelCap::Zombie(_) | KernelCap::Doomed { .. } => {
            return Err(format!("{id:?} holds {:?}", slot.cap));
        }
        KernelCap::Untyped { bits, device, base, watermark, .. } => {
            Cap::Untyped { extent: Extent { base: base.get(), bits }, device, watermark }
        }
        KernelCap::CNode { bits, base, .. } => Cap::CNode { id: CNodeId(base.address().get()), slot_bits: bits },
        KernelCap::Frame { bits, device, kernel_page, base, ref mapping } => Cap::Frame {
            extent: Extent { base: base.get(), bits },
            device,
            kernel_page,
            mapping: mapping.vm.is_some().then(|| Mapping {
                vm: vm_id(mapping.vm),
                gpa: mapping.gpa.get(),
                rights: mapping.rights,
            }),
        },
        KernelCap::PageTable { base, ref mapping } => Cap::PageTable {
            id: TableId(base.get()),
            place: mapping.vm.is_some().then(|| TablePlace {
                vm: vm_id(mapping.vm),
                gpa: mapping.gpa.get(),
                level: mapping.level,
            }),
        },
        KernelCap::Vm { id } => Cap::Vm(vm_id(id)),
        KernelCap::Vcpu { id } => Cap::Vcpu(vcpu_id(id)),
        KernelCap::CpuTime { core, vcpu, budget, period, free_from, .. } => Cap::CpuTime {
            core: core.get(),
            reservation: Reservation { budget, period },
            free_from,
            vcpu: some_vcpu(vcpu),
        },
        KernelCap::Channel { end, id } => Cap::Channel { id: channel_id(id), end },
        KernelCap::Irq { first, count } => {
            let bound = seen.route(first).filter(|_| count == 1 && !slot.has_children());
            let route = bound.map(|route| Route { vcpu: vcpu_id(route.vcpu), vector: route.vector });
            let message = seen.message(first).filter(|_| count == 1 && !slot.has_children());
            let message = message.map(|message| Message { function: message.function.get(), entry: message.entry });
            Cap::Irq { first, count, route, message }
        }
        KernelCap::IoPort { first, count } => Cap::IoPort { first, count },
        KernelCap::Machine => Cap::Machine,
        KernelCap::IommuDomain { bits, id, first } => {
            Cap::IommuDomain { id: vm_id(id), window: Window { first, bits } }
        }
        KernelCap::PciFunction { lease, function } => Cap::PciFunction { function: function.get(), lease },
    })
}

/// The objects that original capabilities name.
fn collect_objects(seen: &impl Seen, state: &mut State) -> Result<(), Defect> {
    let originals: Vec<Cap> = state.slots.values().filter(|slot| slot.original).map(|slot| slot.cap.clone()).collect();
    for cap in originals {
        match cap {
            Cap::CNode { id, slot_bits } => {
                state.cnodes.insert(id, slot_bits);
            }
            Cap::Vm(id) => {
                let header = seen.vm(k::VmId::at(k::Hpa::new(id.0)));
                let cspace = header.cspace.is_some().then(|| CNodeId(header.cspace.address().get()));
                let region = Extent { base: header.region_base.get(), bits: header.region_bits };
                state.vms.insert(id, Vm { cspace, region, launched: header.launched });
                collect_tables(seen, state, id)?;
            }
            Cap::IommuDomain { id, .. } => {
                let header = seen.vm(k::VmId::at(k::Hpa::new(id.0)));
                state.domains.insert(id, abstract_faults(&header.faults));
                collect_tables(seen, state, id)?;
            }
            Cap::PciFunction { function, .. } => {
                let (domain, leases, vfs, ready_at) = seen.function_state(k::FunctionId::new(function));
                let domain = domain.is_some().then(|| vm_id(domain));
                state.functions.insert(function, Function { domain, leases, vfs, ready_at: ready_at.get() });
            }
            Cap::Vcpu(id) => {
                let vcpu = abstract_vcpu(seen, k::VcpuId::at(k::Hpa::new(id.0)));
                state.vcpus.insert(id, vcpu);
            }
            Cap::Channel { id, .. } => {
                let channel = seen.channel(k::ChannelId::at(k::Hpa::new(id.0)));
                let ends =
                    channel.ends.map(|end| some_vcpu(end.receiver).map(|vcpu| Receiver { vcpu, bits: end.bits }));
                state.channels.insert(id, ends);
            }
            _ => {}
        }
    }
    Ok(())
}

fn abstract_faults(faults: &kernel::fault::Faults) -> Faults {
    let (handler, kept, lost) = faults.shown();
    let handler = handler.is_some().then(|| (channel_id(handler.channel()), handler.end()));
    Faults { handler, kept: kept.collect(), lost }
}

fn abstract_vcpu(seen: &impl Seen, id: k::VcpuId) -> Vcpu {
    let header = seen.vcpu(id);
    Vcpu {
        vm: header.vm.is_some().then(|| vm_id(header.vm)),
        run: match header.run {
            kernel::vcpu::Run::Stopped => Run::Stopped,
            kernel::vcpu::Run::Runnable => Run::Runnable,
            kernel::vcpu::Run::Blocked => Run::Blocked { mask: header.wait_mask, deadline: 0 },
        },
        events: seen.events(id),
        registers: seen.registers(id),
        upcall: [header.fault_vector, header.event_vector],
        handler: header.handler.is_some().then(|| (channel_id(header.handler.channel()), header.handler.end())),
    }
}

/// The tables that the root of a VM leads to, as hardware walks them.
fn collect_tables(seen: &impl Seen, state: &mut State, vm: VmId) -> Result<(), Defect> {
    let header = seen.vm(k::VmId::at(k::Hpa::new(vm.0)));
    let format = header.format;
    if seen.is_between() && header.is_cut() {
        // Its base is on its way out, and no core enters it ever again: what its tables say means nothing any more.
        state.tables.insert(vm.root(), BTreeMap::new());
        return Ok(());
    }
    let mut open = vec![(vm.root(), header.root_level())];
    while let Some((table, level)) = open.pop() {
        let mut entries = BTreeMap::new();
        for (index, raw) in (0..).zip(seen.table(table.0)) {
            if raw == 0 {
                continue;
            }
            let entry = match format.decode(raw, level) {
                NestedEntry::Empty => return Err(format!("{table:?}[{index}] is {raw:#x}")),
                NestedEntry::Table(next) => {
                    open.push((TableId(next.get()), level - 1));
                    Entry::Table(TableId(next.get()))
                }
                NestedEntry::Leaf(base) => {
                    Entry::Leaf { extent: Extent { base: base.get(), bits: 3 + 9 * level }, rights: format.rights(raw) }
                }
            };
            entries.insert(index, entry);
        }
        if state.tables.insert(table, entries).is_some() {
            return Err(format!("{table:?} is in two places"));
        }
    }
    Ok(())
}

/// Every full slot of a live CNode or Channel is in the forest, and slot 0 of every CNode is empty.
fn check_places(seen: &impl Seen, state: &State) -> Result<(), Defect> {
    let check = |id: SlotId| {
        let slot = seen.slot(k::Hpa::new(id.0).to_slot());
        if !slot.is_empty() && !state.slots.contains_key(&id) {
            return Err(format!("{id:?} holds {:?} outside the forest", slot.cap));
        }
        Ok(())
    };
    for (cnode, slot_bits) in &state.cnodes {
        if !seen.is_between() && !seen.slot(k::Hpa::new(cnode.0).to_slot()).is_empty() {
            return Err(format!("slot 0 of {cnode:?} is full"));
        }
        for index in 1..1 << slot_bits {
            check(cnode.slot(index))?;
        }
    }
    for channel in state.channels.keys() {
        for end in [1, 2] {
            check(cap_spec::machine::in_flight_slot(*channel, end))?;
        }
    }
    Ok(())
}

/// The lists through VMs and Vcpus name exactly what they should.
fn check_lists(seen: &impl Seen, state: &State) -> Result<(), Defect> {
    let none = BTreeSet::new();
    let Records { mappings, shares, times, routes, attached, receives } = Records::of(state);
    for id in state.vms.keys().chain(state.domains.keys()) {
        let header = seen.vm(k::VmId::at(k::Hpa::new(id.0)));
        let mut listed = BTreeSet::new();
        let mut at = header.mappings;
        while at.is_some() {
            if !listed.insert(slot_id(at)) {
                return Err(format!("mappings of {id:?} form a circle"));
            }
            at = seen.slot(at).cap.mapping().map(|mapping| mapping.next).ok_or(format!("{at:?} unmapped"))?;
        }
        let recorded = mappings.get(id).unwrap_or(&none);
        if listed != *recorded {
            return Err(format!("mappings of {id:?}: listed {listed:?}, recorded {recorded:?}"));
        }
    }
    for (id, vm) in &state.vms {
        let header = seen.vm(k::VmId::at(k::Hpa::new(id.0)));
        let mut listed = BTreeSet::new();
        let mut at = header.vcpus;
        while at.is_some() {
            if !listed.insert(vcpu_id(at)) {
                return Err(format!("Vcpus of {id:?} form a circle"));
            }
            at = seen.vcpu(at).next;
        }
        let attached = attached.get(id).cloned().unwrap_or_default();
        if listed != attached {
            return Err(format!("Vcpus of {id:?}: listed {listed:?}, attached {attached:?}"));
        }
        let foreign = foreign_parts(state, *id);
        if !vm.launched && header.foreign as usize != foreign {
            return Err(format!("{id:?} counts {} foreign parts, has {foreign}", header.foreign));
        }
    }
    for (id, slot) in &state.slots {
        if let (Cap::CpuTime { .. }, KernelCap::CpuTime { allocated, .. }) =
            (&slot.cap, seen.slot(k::Hpa::new(id.0).to_slot()).cap)
        {
            let given = shares.get(id).copied().unwrap_or(0);
            if allocated != given {
                return Err(format!("{id:x?} counts a share of {allocated:#x}, its children have {given:#x}"));
            }
        }
    }
    for id in state.vcpus.keys() {
        let header = seen.vcpu(k::VcpuId::at(k::Hpa::new(id.0)));
        let mut listed = BTreeSet::new();
        let mut at = header.receives;
        while at.is_some() {
            if !listed.insert((channel_id(at.channel()), at.end())) {
                return Err(format!("ends of {id:?} form a circle"));
            }
            at = seen.channel(at.channel()).end(at.end()).next;
        }
        let receives = receives.get(id).cloned().unwrap_or_default();
        if listed != receives {
            return Err(format!("ends of {id:?}: listed {listed:?}, received {receives:?}"));
        }
        let time = header.time.is_some().then(|| slot_id(header.time));
        if time != times.get(id).copied() {
            return Err(format!("{id:?}: time {time:?}, bound {:?}", times.get(id)));
        }
        let routes = routes.get(id).copied().unwrap_or(0);
        if header.routes != routes {
            return Err(format!("{id:?} counts {} routes, has {routes}", header.routes));
        }
    }
    Ok(())
}

/// What the records of a state say that lists must name, by who has the list.
#[derive(Default)]
struct Records {
    mappings: BTreeMap<VmId, BTreeSet<SlotId>>,
    /// What the children of CPU time have of it.
    shares: BTreeMap<SlotId, u64>,
    times: BTreeMap<VcpuId, SlotId>,
    routes: BTreeMap<VcpuId, u16>,
    attached: BTreeMap<VmId, BTreeSet<VcpuId>>,
    receives: BTreeMap<VcpuId, BTreeSet<(ChannelId, u8)>>,
}

impl Records {
    fn of(state: &State) -> Records {
        let mut records = Records::default();
        for (id, slot) in &state.slots {
            records.add(state, *id, slot);
        }
        for (id, vcpu) in &state.vcpus {
            if let Some(vm) = vcpu.vm {
                records.attached.entry(vm).or_default().insert(*id);
            }
        }
        for (channel, ends) in &state.channels {
            for (end, receiver) in [1, 2].into_iter().zip(ends) {
                if let Some(receiver) = receiver {
                    records.receives.entry(receiver.vcpu).or_default().insert((*channel, end));
                }
            }
        }
        records
    }

    fn add(&mut self, state: &State, id: SlotId, slot: &Slot) {
        match slot.cap {
            Cap::Frame { mapping: Some(Mapping { vm, .. }), .. }
            | Cap::PageTable { place: Some(TablePlace { vm, .. }), .. } => {
                self.mappings.entry(vm).or_default().insert(id);
            }
            Cap::CpuTime { reservation, vcpu, .. } => {
                if let Some(parent) = slot.parent {
                    *self.shares.entry(parent).or_default() += cap_spec::machine::share(&state.config, reservation);
                }
                self.times.extend(vcpu.map(|vcpu| (vcpu, id)));
            }
            Cap::Irq { route: Some(route), .. } => *self.routes.entry(route.vcpu).or_default() += 1,
            _ => {}
        }
    }
}

/// The tables that the root of a VM or domain leads to.
fn reachable(state: &State) -> BTreeSet<TableId> {
    let mut reachable = BTreeSet::new();
    let mut open: Vec<TableId> = state.vms.keys().chain(state.domains.keys()).map(|vm| vm.root()).collect();
    while let Some(table) = open.pop() {
        if reachable.insert(table) {
            let entries = state.tables.get(&table).into_iter().flat_map(BTreeMap::values);
            open.extend(entries.filter_map(|entry| match entry {
                Entry::Table(next) => Some(*next),
                Entry::Leaf { .. } => None,
            }));
        }
    }
    reachable
}

/// The abstract machine's state as far as the kernel's tells it: tables that no root leads to are unspecified.
pub fn comparable(state: &State) -> State {
    let mut state = state.clone();
    let reachable = reachable(&state);
    state.tables.retain(|table, _| reachable.contains(table));
    state
}

/// True if what was observed is the abstract machine's state, as far as [`comparable`] goes; without a copy of it.
pub fn is_observed(state: &mut State, found: &State) -> bool {
    let reachable = reachable(state);
    let tables = std::mem::take(&mut state.tables);
    let (seen, unseen): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tables.into_iter().partition(|(table, _)| reachable.contains(table));
    state.tables = seen;
    let same = state == found;
    state.tables.extend(unseen);
    same
}

/// Rights of a mapping that hardware knows.
pub const MAPPABLE: Rights = Rights::READ.union(Rights::WRITE).union(Rights::EXECUTE);
