//! Objects lie in memory that is theirs alone, and nothing above a watermark was written.

extern crate std;

use super::{Checker, Node};
use crate::cap::Cap;
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{Hpa, SlotId};
use crate::untyped::bytes_of;
use cap_spec::abi::{CHANNEL_BITS, DOMAIN_BITS, PAGE_BITS, SLOT_BITS, VCPU_BITS, VM_BITS};
use std::collections::BTreeSet;
use std::format;
use std::vec::Vec;

impl<M: Machine> Checker<'_, M> {
    /// First byte and size of the object that a capability names, if it is made of memory.
    pub(super) fn extent(cap: &Cap) -> Option<(u64, u64)> {
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

    pub(super) fn check_memory(&mut self, is_clean: &impl Fn(&M, Hpa, u64) -> bool) {
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
    pub(super) fn check_coverage(&mut self, nodes: &[Node]) {
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
    pub(super) fn check_siblings(&mut self, nodes: &[Node]) {
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
}
