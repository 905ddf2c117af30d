//! The invariants of the capability core as a program: run between any two steps of anything, on the host only.
//!
//! [`invariants`] visits everything that is reachable from the boot capabilities and says what is wrong. It knows nothing
//! of how operations work, only what must be true in between.

extern crate std;

use crate::cap::{Cap, Zombie};
use crate::cspace::slots_of;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::slot::{MAX_DEPTH, Slot};
use crate::types::{Hpa, SlotId, VcpuId, VmId};
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

mod memory;
mod objects;
mod spaces;

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
}

/// The reservation of a Vcpu as its core's schedule has it.
pub fn reservation<M: Machine>(kernel: &Kernel<M>, vcpu: VcpuId) -> Option<crate::sched::Reservation> {
    let header = kernel.machine.vcpu(vcpu);
    kernel.core(header.core).schedule.reservation(header.reservation?)
}
