//! Seeded bugs: the kernel as it would be with one rule broken. The campaign must find each of them; one that it did not
//! find would show where it is blind.
//!
//! A bug is put in around the real kernel: the call is changed before it arrives, or the kernel's memory before or
//! after it.

use cap_spec::abi::{IO_ADDRESS_BITS, Label, ObjectType, Rights, info_page};
use cap_spec::machine::{Cap, Entry, Extent, Mapping, SlotId, State, TableId, VcpuId};
use kernel::Kernel;
use kernel::cap::Cap as KernelCap;
use kernel::machine::{Machine, SharedPage};
use kernel::nested::EntryFormat;
use kernel::slot::Slot;
use kernel::types as k;

use crate::host::Host;

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Copy keeps the source's rights, whatever the mask.
    RightsNotMasked,
    /// Mint ignores which end was chosen.
    BadgeIgnored,
    /// Move takes capabilities out of a CNode that was reached without WRITE.
    TakesWithoutRight,
    /// Move leaves the VM's list of mappings with the old slot.
    MoveLosesMapping,
    /// Revoke leaves a copy of a copy.
    RevokeLeavesGrandchild,
    /// Revoke does not lower the watermark.
    WatermarkNotLowered,
    /// Revoke does not scrub.
    ScrubForgotten,
    /// Retype puts objects at the watermark, aligned or not.
    AlignmentIgnored,
    /// Unmap forgets the mapping, but leaves the entry in the page table.
    EntryLeft,
    /// Launch accepts a VM that others' memory, tables or Vcpus are part of.
    LaunchIgnoresForeign,
    /// Launch does not look where the base's frames are mapped.
    LaunchIgnoresMappings,
    /// Split does not count what it gave.
    SplitNotCounted,
    /// What is given back of a core can be used at once.
    FreeTooEarly,
    /// A signal is lost.
    SignalLost,
    /// MapIo does not look at the window of the domain's capability.
    WindowIgnored,
    /// Detach leaves the function with the domain that it had.
    DomainLeftAttached,
    /// A lease leaves the function usable by those that it descends from.
    LeaseLeavesParent,
    /// UnbindMsix leaves the message bound.
    MessageLeftBound,
}

/// What a bug remembers from before the call to after it.
#[derive(Debug, Default)]
pub struct Memory {
    slots: Vec<(k::SlotId, Slot)>,
    count: u32,
}

fn slot_id(id: SlotId) -> k::SlotId {
    k::Hpa::new(id.0).to_slot()
}

impl Mutant {
    /// Every one.
    pub const ALL: [Mutant; 18] = [
        Mutant::RightsNotMasked,
        Mutant::BadgeIgnored,
        Mutant::TakesWithoutRight,
        Mutant::MoveLosesMapping,
        Mutant::RevokeLeavesGrandchild,
        Mutant::WatermarkNotLowered,
        Mutant::ScrubForgotten,
        Mutant::AlignmentIgnored,
        Mutant::EntryLeft,
        Mutant::LaunchIgnoresForeign,
        Mutant::LaunchIgnoresMappings,
        Mutant::SplitNotCounted,
        Mutant::FreeTooEarly,
        Mutant::SignalLost,
        Mutant::WindowIgnored,
        Mutant::DomainLeftAttached,
        Mutant::LeaseLeavesParent,
        Mutant::MessageLeftBound,
    ];

    /// Before the kernel sees a call by `invoker` in the state `before`; the abstract machine has gone to `after`.
    pub fn before(
        self,
        kernel: &mut Kernel<Host>,
        before: &State,
        after: &State,
        invoker: VcpuId,
        call: &mut kernel::Call,
    ) -> Memory {
        let mut memory = Memory::default();
        let label = Label::from_number(call.label);
        match (self, label) {
            (Mutant::RightsNotMasked, Some(Label::CNodeCopy)) if call.args[2] < 32 => call.args[2] = 31,
            (Mutant::BadgeIgnored, Some(Label::CNodeMint)) if call.args[3] <= 2 => call.label = Label::CNodeCopy as u64,
            (Mutant::TakesWithoutRight, Some(Label::CNodeMove)) => {
                let root = before.vcpus[&invoker].vm.and_then(|vm| before.vms[&vm].cspace);
                let node = root.map(|root| root.slot(call.args[1] >> 16 & 0xffff));
                let is_readable =
                    |node: &SlotId| before.slots.get(node).is_some_and(|slot| slot.rights.contains(Rights::READ));
                if let Some(node) = node.filter(is_readable) {
                    memory.keep(kernel, node);
                    kernel.machine.slot_mut(slot_id(node)).rights = Rights::all();
                }
            }
            (Mutant::RevokeLeavesGrandchild, Some(Label::CNodeRevoke)) => {
                let lost = before.slots.iter().find(|(id, slot)| {
                    let grandparent = slot.parent.and_then(|parent| before.slots[&parent].parent);
                    let survives = grandparent.is_some_and(|slot| after.slots.contains_key(&slot));
                    !after.slots.contains_key(id)
                        && survives
                        && matches!(slot.cap, Cap::Frame { mapping: None, .. })
                        && after.cnodes.iter().any(|(cnode, bits)| (cnode.slot(1)..cnode.slot(1 << bits)).contains(id))
                });
                if let Some((id, _)) = lost {
                    memory.keep(kernel, *id);
                }
            }
            (Mutant::ScrubForgotten, Some(Label::CNodeRevoke)) => kernel.machine.forgets_to_zero = true,
            (Mutant::LaunchIgnoresForeign, Some(Label::VcpuLaunch)) => {
                for vm in before.vms.keys() {
                    let header = kernel.machine.vm_mut(k::VmId::at(k::Hpa::new(vm.0)));
                    memory.count = memory.count.max(header.foreign);
                    header.foreign = 0;
                }
            }
            (Mutant::LaunchIgnoresMappings, Some(Label::VcpuLaunch)) => {
                for (id, slot) in &before.slots {
                    if matches!(slot.cap, Cap::Frame { mapping: Some(_), .. }) {
                        memory.keep(kernel, *id);
                        if let Some(mapping) = kernel.machine.slot_mut(slot_id(*id)).cap.mapping_mut() {
                            mapping.vm = k::VmId::NONE;
                        }
                    }
                }
            }
            (Mutant::FreeTooEarly, Some(Label::CpuTimeSplit)) => {
                for (id, slot) in &before.slots {
                    if let (Cap::CpuTime { .. }, KernelCap::CpuTime { free_from, .. }) =
                        (&slot.cap, &mut kernel.machine.slot_mut(slot_id(*id)).cap)
                    {
                        *free_from = 0;
                    }
                }
            }
            (Mutant::WindowIgnored, Some(Label::FrameMapIo | Label::PageTableMapIo)) => {
                memory.keep_all(kernel, before, |cap| matches!(cap, Cap::IommuDomain { .. }));
                memory.change_caps(kernel, |cap| {
                    if let KernelCap::IommuDomain { bits, first, .. } = cap {
                        (*bits, *first) = (IO_ADDRESS_BITS, 0);
                    }
                });
            }
            (Mutant::LeaseLeavesParent, Some(label)) if label.object() == ObjectType::PciFunction => {
                memory.keep_all(kernel, before, |cap| matches!(cap, Cap::PciFunction { .. }));
                memory.change_caps(kernel, |cap| {
                    if let KernelCap::PciFunction { lease, function } = cap {
                        *lease = before.functions[&function.get()].leases;
                    }
                });
            }
            _ => {}
        }
        memory
    }

    /// After the kernel has answered.
    pub fn after(
        self,
        kernel: &mut Kernel<Host>,
        before: &State,
        after: &State,
        call: &kernel::Call,
        done: bool,
        memory: &Memory,
    ) {
        let label = Label::from_number(call.label);
        match (self, label) {
            (Mutant::TakesWithoutRight, Some(Label::CNodeMove)) => memory.restore_rights(kernel),
            (Mutant::MoveLosesMapping, Some(Label::CNodeMove)) if done => lose_mapping(kernel, before, after),
            (Mutant::RevokeLeavesGrandchild, Some(Label::CNodeRevoke)) if done => {
                for (id, slot) in &memory.slots {
                    let old = &before.slots[&SlotId(id.address().get())];
                    let parent = old.parent.and_then(|parent| before.slots[&parent].parent);
                    if let Some(parent) = parent.filter(|_| kernel.machine.slot(*id).is_empty()) {
                        adopt(kernel, slot_id(parent), *id, slot);
                    }
                }
            }
            (Mutant::WatermarkNotLowered, Some(Label::CNodeRevoke)) if done => {
                for (id, slot) in &after.slots {
                    if let (Some(Cap::Untyped { watermark: old, .. }), Cap::Untyped { watermark: 0, .. }) =
                        (before.slots.get(id).map(|slot| &slot.cap), &slot.cap)
                        && let KernelCap::Untyped { watermark, .. } = &mut kernel.machine.slot_mut(slot_id(*id)).cap
                    {
                        *watermark = *old;
                    }
                }
            }
            (Mutant::ScrubForgotten, _) => kernel.machine.forgets_to_zero = false,
            (Mutant::AlignmentIgnored, Some(Label::UntypedRetype)) if done => ignore_alignment(kernel, before, after),
            (Mutant::EntryLeft, Some(Label::FrameUnmap)) if done => leave_entry(kernel, before, after),
            (Mutant::LaunchIgnoresForeign, Some(Label::VcpuLaunch)) if !done => {
                for vm in before.vms.keys() {
                    let header = kernel.machine.vm_mut(k::VmId::at(k::Hpa::new(vm.0)));
                    header.foreign = cap_spec::machine::foreign_parts(before, *vm) as u32;
                }
            }
            (Mutant::LaunchIgnoresMappings, Some(Label::VcpuLaunch)) => {
                for (id, slot) in &memory.slots {
                    if let (Some(kept), Some(mapping)) =
                        (slot.cap.mapping(), kernel.machine.slot_mut(*id).cap.mapping_mut())
                    {
                        *mapping = *kept;
                    }
                }
            }
            (Mutant::SplitNotCounted, Some(Label::CpuTimeSplit)) if done => {
                for (_, slot) in after.slots.iter().filter(|(id, _)| !before.slots.contains_key(id)) {
                    let Some(parent) = slot.parent else { continue };
                    let parent = &mut kernel.machine.slot_mut(slot_id(parent)).cap;
                    if let (KernelCap::CpuTime { allocated, .. }, Cap::CpuTime { reservation, .. }) =
                        (parent, &slot.cap)
                    {
                        *allocated -= cap_spec::machine::share(&after.config, *reservation);
                    }
                }
            }
            (Mutant::SignalLost, Some(Label::ChannelSignal)) if done => {
                for (id, vcpu) in &before.vcpus {
                    let page = SharedPage::Info(k::VcpuId::at(k::Hpa::new(id.0)));
                    kernel.machine.set_shared_word(page, info_page::EVENTS, vcpu.events);
                }
            }
            (Mutant::WindowIgnored, Some(Label::FrameMapIo | Label::PageTableMapIo)) => memory.restore_caps(kernel),
            (Mutant::LeaseLeavesParent, Some(label)) if label.object() == ObjectType::PciFunction => {
                memory.restore_caps(kernel);
            }
            (Mutant::DomainLeftAttached, Some(Label::PciFunctionDetach)) if done => {
                for (number, function) in &before.functions {
                    if let (Some(domain), None) = (function.domain, after.functions[number].domain) {
                        let domain = k::VmId::at(k::Hpa::new(domain.0));
                        kernel.machine.devices.attached.insert(k::FunctionId::new(*number), domain);
                    }
                }
            }
            (Mutant::MessageLeftBound, Some(Label::PciFunctionUnbindMsix)) if done => {
                for (id, slot) in &before.slots {
                    if let (Cap::Irq { first, message: Some(message), .. }, Some(Cap::Irq { message: None, .. })) =
                        (&slot.cap, after.slots.get(id).map(|slot| &slot.cap))
                    {
                        let function = k::FunctionId::new(message.function);
                        let message = kernel::Message { function, entry: message.entry };
                        kernel.machine.devices.messages.insert(*first, message);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Memory {
    /// Remembers what a slot holds.
    fn keep(&mut self, kernel: &Kernel<Host>, id: SlotId) {
        self.slots.push((slot_id(id), *kernel.machine.slot(slot_id(id))));
    }

    /// Remembers what those slots hold that hold this.
    fn keep_all(&mut self, kernel: &Kernel<Host>, before: &State, holds: impl Fn(&Cap) -> bool) {
        before.slots.iter().filter(|(_, slot)| holds(&slot.cap)).for_each(|(id, _)| self.keep(kernel, *id));
    }

    /// Changes the capabilities in the remembered slots.
    fn change_caps(&self, kernel: &mut Kernel<Host>, change: impl Fn(&mut KernelCap)) {
        self.slots.iter().for_each(|(id, _)| change(&mut kernel.machine.slot_mut(*id).cap));
    }

    /// Gives the remembered slots their capabilities back.
    fn restore_caps(&self, kernel: &mut Kernel<Host>) {
        self.slots.iter().for_each(|(id, slot)| kernel.machine.slot_mut(*id).cap = slot.cap);
    }

    /// Gives the remembered slots their rights back.
    fn restore_rights(&self, kernel: &mut Kernel<Host>) {
        for (id, slot) in &self.slots {
            let now = kernel.machine.slot_mut(*id);
            if !now.is_empty() {
                now.rights = slot.rights;
            }
        }
    }
}

/// Puts a slot back as the youngest child of `parent`.
fn adopt(kernel: &mut Kernel<Host>, parent: k::SlotId, id: k::SlotId, content: &Slot) {
    let elder = kernel.machine.slot(parent).first_child;
    let has_elder = elder.is_some();
    *kernel.machine.slot_mut(id) = Slot {
        first_child: k::SlotId::NONE,
        last_child: k::SlotId::NONE,
        prev: parent,
        next: if has_elder { elder } else { parent },
        first: true,
        last: !has_elder,
        ..*content
    };
    kernel.machine.slot_mut(parent).first_child = id;
    if has_elder {
        let elder = kernel.machine.slot_mut(elder);
        elder.prev = id;
        elder.first = false;
    } else {
        kernel.machine.slot_mut(parent).last_child = id;
    }
}

/// The VM whose first mapping has moved still finds it where it was.
fn lose_mapping(kernel: &mut Kernel<Host>, before: &State, after: &State) {
    let Some(from) = before.slots.keys().find(|id| !after.slots.contains_key(id)) else { return };
    let Some(to) = after.slots.keys().find(|id| !before.slots.contains_key(id)) else { return };
    for vm in before.vms.keys() {
        let header = kernel.machine.vm_mut(k::VmId::at(k::Hpa::new(vm.0)));
        if header.mappings == slot_id(*to) {
            header.mappings = slot_id(*from);
        }
    }
}

/// Moves new frames down to where the watermark was.
fn ignore_alignment(kernel: &mut Kernel<Host>, before: &State, after: &State) {
    for (id, slot) in after.slots.iter().filter(|(id, _)| !before.slots.contains_key(id)) {
        let Some(Cap::Untyped { extent: from, watermark, .. }) =
            slot.parent.and_then(|parent| before.slots.get(&parent)).map(|parent| &parent.cap)
        else {
            continue;
        };
        if let (Cap::Untyped { extent, .. }, KernelCap::Untyped { base, .. }) =
            (&slot.cap, &mut kernel.machine.slot_mut(slot_id(*id)).cap)
            && extent.base > from.base + watermark
        {
            *base = k::Hpa::new(from.base + watermark);
        }
    }
}

/// Puts the entry of the frame that was just unmapped back.
fn leave_entry(kernel: &mut Kernel<Host>, before: &State, after: &State) {
    for (id, slot) in &before.slots {
        if let (Cap::Frame { extent, mapping: Some(mapping), .. }, Some(Cap::Frame { mapping: None, .. })) =
            (&slot.cap, after.slots.get(id).map(|slot| &slot.cap))
            && let Some((table, index, level)) = find_entry(before, *extent, *mapping)
        {
            let entry = EntryFormat::Npt.leaf(k::Hpa::new(extent.base), mapping.rights, level, false);
            kernel.machine.set_table_entry(k::Hpa::new(table.0), index.into(), entry);
        }
    }
}

/// The entry through which a frame is seen.
fn find_entry(state: &State, extent: Extent, mapping: Mapping) -> Option<(TableId, u16, u8)> {
    let mut table = mapping.vm.root();
    for level in (1..=4u8).rev() {
        let index = (mapping.gpa >> (3 + 9 * level) & 0x1ff) as u16;
        match state.tables.get(&table)?.get(&index)? {
            Entry::Table(next) => table = *next,
            Entry::Leaf { extent: found, .. } => return (*found == extent).then_some((table, index, level)),
        }
    }
    None
}
