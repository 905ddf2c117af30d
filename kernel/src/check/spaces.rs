//! Every entry of a nested page table is a mapped capability's, and the other way round.

extern crate std;

use super::{Checker, Node};
use crate::cap::{Cap, Mapping};
use crate::machine::Machine;
use crate::nested::{Entry, entry_bits, leaf_level};
use crate::slot::Slot;
use crate::types::{Gpa, Hpa, SlotId, VmId};
use cap_spec::abi::PAGE_BITS;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::vec::Vec;

impl<M: Machine> Checker<'_, M> {
    pub(super) fn check_mappings(&mut self, is_clean: &impl Fn(&M, Hpa, u64) -> bool) {
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
    pub(super) fn check_tree(&mut self, vm: VmId, listed: &BTreeMap<SlotId, VmId>) {
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

    pub(super) fn check_foreign(&mut self, vm: VmId, listed: &BTreeMap<SlotId, VmId>) {
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
}
