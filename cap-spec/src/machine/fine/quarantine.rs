//! An IOMMU that fails, and the memory that it may go on reaching.
//!
//! * The IOMMU is asked to forget, and does not say in time that it has ([`Event::TimeOut`](super::Event::TimeOut)): it has
//!   *failed*, and is not asked again. No function is a bus master from then on, so that no DMA begins and no message is
//!   sent; but what was under way may land at any time, through translations that may be remembered for ever.
//! * What was in reach of a function then goes into *quarantine* as soon as it is withdrawn: a frame or table that is taken
//!   out of a domain, and a domain from which a function is taken. What the failed flush was waited for goes there at once.
//! * No Untyped's watermark is lowered below memory in quarantine: a Revoke ends there, and returns how many bytes of the
//!   Untyped that keeps back. Nothing is made of them again, and nobody maps them (`InUse`). Nothing more is mapped in a
//!   domain (`InvalidCapability`, 1), and no function is attached (`Forbidden`). A call is refused so only if it would be
//!   done otherwise: in which order these errors come with others is left open here.
//! * An interrupt pin is masked at its source before its route changes, so that nothing comes by what is remembered of it.
//!
//! The kernel tells a number of ranges apart, and may keep back what lies between two of them as well.

use alloc::collections::BTreeSet;

use super::super::invariants::extent_of;
use super::super::state::{Cap, Extent, State, VmId};
use super::bytes::Bytes;
use crate::abi::{DOMAIN_BITS, Error, Fault};

/// What an IOMMU that has failed may go on reaching.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quarantine {
    /// The IOMMU has failed.
    pub has_failed: bool,
    /// Memory that is never handed out again.
    pub kept: Bytes,
}

impl Quarantine {
    /// This was in reach of a function, and has been withdrawn.
    pub(super) fn keep(&mut self, withdrawn: &BTreeSet<Extent>) {
        withdrawn.iter().for_each(|extent| self.kept.add(extent.base, extent.bytes()));
    }

    /// True if some of this is in quarantine.
    pub(super) fn keeps(&self, extent: Extent) -> bool {
        self.kept.touches(extent.base, extent.bytes())
    }

    /// Why what would be done is refused, after the IOMMU has failed.
    pub(super) fn refusal(&self, before: &State, after: &State) -> Option<Fault> {
        if !self.has_failed {
            return None;
        }
        let added: BTreeSet<Mapped> = mapped(after).difference(&mapped(before)).copied().collect();
        let attached = |state: &State| state.functions.values().filter(|function| function.domain.is_some()).count();
        if added.iter().any(|(space, ..)| after.domains.contains_key(space)) {
            Some(Fault::new(Error::InvalidCapability, 1))
        } else if attached(after) > attached(before) {
            Some(Fault::new(Error::Forbidden, 0))
        } else if added.iter().any(|(.., extent)| self.keeps(*extent)) {
            Some(Fault::new(Error::InUse, 0))
        } else {
            None
        }
    }
}

/// Something that is mapped: the address space, where, and what.
type Mapped = (VmId, u64, Extent);

/// Everything that is mapped.
fn mapped(state: &State) -> BTreeSet<Mapped> {
    let of = |cap: &Cap| match *cap {
        Cap::Frame { mapping: Some(mapping), .. } => Some((mapping.vm, mapping.gpa)),
        Cap::PageTable { place: Some(place), .. } => Some((place.vm, place.gpa)),
        _ => None,
    };
    let found = state.slots.values().filter_map(|slot| {
        let ((space, gpa), extent) = (of(&slot.cap)?, extent_of(&slot.cap)?);
        Some((space, gpa, extent))
    });
    found.collect()
}

/// True if something that is mapped in a domain covers some of this.
pub(super) fn is_in_reach(state: &State, extent: Extent) -> bool {
    mapped(state).iter().any(|(space, _, other)| state.domains.contains_key(space) && !other.is_apart_from(extent))
}

/// What functions could reach before, and cannot any more by what the tables say.
pub(super) fn withdrawn(before: &State, after: &State) -> BTreeSet<Extent> {
    let gone = mapped(before).difference(&mapped(after)).copied().collect::<BTreeSet<Mapped>>();
    let of_domains = gone.into_iter().filter(|(space, ..)| before.domains.contains_key(space));
    let left = before.functions.iter().filter_map(|(number, function)| {
        let domain = function.domain?;
        let stays = after.functions.get(number).is_some_and(|function| function.domain == Some(domain));
        (!stays).then_some(Extent { base: domain.0, bits: DOMAIN_BITS })
    });
    of_domains.map(|(.., extent)| extent).chain(left).collect()
}
