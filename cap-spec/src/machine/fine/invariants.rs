//! What is true of every machine that [`step`](super::step) leads to, whatever interrupts what: the rules of the abstract
//! machine, and those about what hardware remembers.

use super::super::invariants::{self, Broken, extent_of};
use super::super::launch;
use super::super::state::{Cap, Extent, SlotId};
use super::quarantine::is_in_reach;
use super::{Fine, Flush, Hold};
use crate::abi::{PAGE_BITS, VCPU_BITS};
use crate::properties::Property;

/// A rule that a machine breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FineBroken {
    /// A rule of the abstract machine.
    State(Broken),
    /// Something stale is remembered by one who is not told to forget it: a core.
    Core(u8),
    /// The same: the IOMMU.
    Iommu,
    /// Memory of this Untyped that may be given out holds something.
    Dirty(SlotId),
    /// Memory of this Untyped that may be given out is remembered by hardware.
    Remembered(SlotId),
    /// An IOMMU that has failed may reach what is not in quarantine, and will not be when it is withdrawn.
    Reached(Extent),
    /// A capability that a check of a launch has passed breaks the rules of the launch, or is none.
    Passed(SlotId),
    /// After a Revoke of this slot, something of what was derived from it is left.
    Left(SlotId),
}

impl FineBroken {
    /// The property that does not hold.
    pub fn property(&self) -> Property {
        match self {
            FineBroken::State(broken) => broken.property(),
            FineBroken::Core(_) | FineBroken::Iommu => Property::EntriesBacked,
            FineBroken::Dirty(_) | FineBroken::Remembered(_) | FineBroken::Reached(_) => Property::CleanBeforeReuse,
            FineBroken::Passed(_) => Property::AuthorityConfined,
            FineBroken::Left(_) => Property::RevokeComplete,
        }
    }
}

/// Checks every rule.
///
/// # Errors
/// The first rule found broken.
pub fn check(fine: &Fine) -> Result<(), FineBroken> {
    invariants::check(&fine.state).map_err(FineBroken::State)?;
    check_entries(fine)?;
    check_clean(fine)?;
    check_passed(fine)
}

/// What is stale is being flushed; of an IOMMU that has failed, it leads into quarantine, or to what goes there.
fn check_entries(fine: &Fine) -> Result<(), FineBroken> {
    let stale = fine.hardware.stale(&fine.state);
    let none = Flush::default();
    let pending = fine.hold.as_ref().map_or(&none, |Hold { flush, .. }| flush);
    if let Some(core) = stale.cores.difference(&pending.cores).next() {
        return Err(FineBroken::Core(*core));
    }
    if fine.quarantine.has_failed {
        let is_kept = |extent: &Extent| fine.quarantine.keeps(*extent) || is_in_reach(&fine.state, *extent);
        let mut reached = fine.hardware.stale_io(&fine.state).filter(|extent| !is_kept(extent));
        return reached.next().map_or(Ok(()), |extent| Err(FineBroken::Reached(extent)));
    }
    if stale.iommu && !pending.iommu { Err(FineBroken::Iommu) } else { Ok(()) }
}

/// Everything that hardware remembers of memory: where it leads.
fn remembered(fine: &Fine) -> impl Iterator<Item = Extent> {
    let hardware = &fine.hardware;
    let cached = hardware.tlb.iter().map(|(_, cached)| cached).chain(hardware.iotlb.iter().map(|(_, cached)| cached));
    let running = hardware.running.values().map(|vcpu| Extent { base: vcpu.0, bits: VCPU_BITS });
    cached
        .map(|cached| cached.leads_to())
        .chain(hardware.dma.iter().map(|dma| Extent { base: dma.page, bits: PAGE_BITS }))
        .chain(running)
}

/// What lies at or above a watermark is zero, and no hardware remembers it.
fn check_clean(fine: &Fine) -> Result<(), FineBroken> {
    for (id, slot) in &fine.state.slots {
        let Cap::Untyped { extent, device, watermark } = slot.cap else { continue };
        let free = (extent.base + watermark, extent.bytes() - watermark);
        if !device && fine.dirt.touches(free.0, free.1) {
            return Err(FineBroken::Dirty(*id));
        }
        let is_free = |other: Extent| other.base < free.0 + free.1 && free.0 < other.base + other.bytes();
        if free.1 != 0 && remembered(fine).any(is_free) {
            return Err(FineBroken::Remembered(*id));
        }
    }
    Ok(())
}

/// What a check of a launch has passed is derived from its base, and keeps to the rules.
fn check_passed(fine: &Fine) -> Result<(), FineBroken> {
    for check in fine.checks.values().filter(|check| fine.state.vms.contains_key(&check.vm)) {
        let below = fine.state.descendants(check.base);
        let is_right = |slot: &SlotId| {
            *slot == check.base
                || below.contains(slot) && (*slot == check.invoked || launch::keeps(&fine.state, check.vm, *slot))
        };
        if let Some(slot) = check.passed.iter().find(|slot| !is_right(slot)) {
            return Err(FineBroken::Passed(*slot));
        }
    }
    Ok(())
}

/// A Revoke of the capability in `target` has just been answered: nothing that was derived from it is left, and of an
/// Untyped, nothing that names, maps or remembers its memory, but for what is in quarantine.
///
/// # Errors
/// Something is left.
pub fn check_revoked(fine: &Fine, target: SlotId) -> Result<(), FineBroken> {
    check_entries(fine)?;
    let left = Err(FineBroken::Left(target));
    let Some(slot) = fine.state.slots.get(&target) else { return Ok(()) };
    if fine.state.has_children(target) {
        return left;
    }
    if let Cap::Untyped { extent, watermark, .. } = slot.cap {
        let meets = |other: Extent| !other.is_apart_from(extent);
        let is_above = |cap: &Cap| matches!(cap, Cap::Untyped { .. });
        let names =
            fine.state.slots.values().any(|slot| !is_above(&slot.cap) && extent_of(&slot.cap).is_some_and(meets));
        let kept = fine.quarantine.kept.reaches_into(extent.base, extent.bytes());
        let is_seen = |other: Extent| meets(other) && !fine.quarantine.keeps(other);
        if watermark != kept || names || remembered(fine).any(is_seen) {
            return left;
        }
    }
    Ok(())
}
