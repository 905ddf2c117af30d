//! Mistakes: the machine with one rule wrong, to see that a search finds it. A check that finds none of them says nothing.

use cap_spec::abi::{Error, Fault, Label, Rights};
use cap_spec::machine::{self as spec, Call, Cap, Entry, Outcome, Run, Slot, SlotId, State, VcpuId};
use strum::IntoEnumIterator;

/// A rule that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Mistake {
    /// A copy has every right.
    CopyAddsRights,
    /// A copy can be made of what has one owner.
    CopyOfUnique,
    /// Revoke takes the children only; what was derived from these stays.
    RevokeLeavesGrandchildren,
    /// Revoke does not lower the watermark of an Untyped.
    RevokeKeepsWatermark,
    /// Move leaves the capability where it was, too.
    MoveKeepsSource,
    /// Delete does not give the children of a copy to its parent.
    DeleteForgetsChildren,
    /// Delete and Revoke leave the entries of frames in page tables.
    DeleteForgetsEntries,
    /// Unmap leaves the entry.
    UnmapForgetsEntry,
    /// Retype does not raise the watermark.
    RetypeForgetsWatermark,
    /// Retype begins at the start of an Untyped, whatever was made of it before.
    RetypeIgnoresWatermark,
    /// A Retype that is refused for lack of memory uses up what there is.
    RefusalChangesState,
    /// CPU time and routes are split without regard to what was split off before.
    SplitForgetsSiblings,
    /// A function is leased though somebody has a lease of it.
    LeaseForgetsHolder,
    /// Grant needs no right.
    GrantNeedsNoRight,
    /// Accept takes from any channel.
    AcceptTakesFromAnyChannel,
    /// A signal reaches every Vcpu.
    SignalReachesEverybody,
    /// Launch does not look for what belongs to others.
    LaunchForgetsForeignParts,
}

impl Mistake {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Mistake> {
        Mistake::iter()
    }

    /// Its name: the variant's words in lower case, with hyphens.
    pub fn name(self) -> String {
        let mut name = String::new();
        for character in format!("{self:?}").chars() {
            if character.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(character.to_ascii_lowercase());
        }
        name
    }

    /// The mistake of this name.
    pub fn from_name(name: &str) -> Option<Mistake> {
        Mistake::all().find(|mistake| mistake.name() == name)
    }

    /// An invocation by the machine with this mistake.
    ///
    /// # Errors
    /// As of [`spec::step`].
    pub fn step(self, state: &mut State, vcpu: VcpuId, call: Call) -> Result<Outcome, Fault> {
        let before = state.clone();
        let label = Label::from_number(call.label);
        let result = spec::step(state, vcpu, call);
        let invoked = slot_of(&before, vcpu, call.cptr);
        let error = result.err().map(|fault| fault.error);
        match (self, label, error) {
            (Mistake::CopyAddsRights, Some(Label::CNodeCopy), None) => {
                for slot in new_slots(&before, state) {
                    change(state, slot, |slot| slot.rights = Rights::all());
                }
            }
            (Mistake::CopyOfUnique, Some(Label::CNodeCopy), Some(Error::NotCopyable)) => {
                let (Some(source), Some(Cap::CNode { id, .. })) =
                    (slot_of(&before, vcpu, call.args[1]), invoked.map(|slot| &before.slots[&slot].cap))
                else {
                    return result;
                };
                let copy = Slot { parent: Some(source), original: true, ..before.slots[&source].clone() };
                state.slots.insert(id.slot(call.args[0]), copy);
                return Ok(Outcome::NOTHING);
            }
            (Mistake::RevokeLeavesGrandchildren, Some(Label::CNodeRevoke), None) => {
                let Some(slot) = spec::named_slot(&before, vcpu, call) else { return result };
                let spared = |id: &SlotId| before.slots[id].parent != Some(slot);
                for id in before.descendants(slot).into_iter().filter(spared) {
                    state.slots.insert(id, Slot { parent: Some(slot), ..before.slots[&id].clone() });
                }
            }
            (Mistake::RevokeKeepsWatermark, Some(Label::CNodeRevoke), None) => {
                let Some(slot) = spec::named_slot(&before, vcpu, call) else { return result };
                if let Cap::Untyped { watermark: old, .. } = before.slots[&slot].cap {
                    set_watermark(state, slot, old);
                }
            }
            (Mistake::MoveKeepsSource, Some(Label::CNodeMove), None) => {
                let Some(source) = slot_of(&before, vcpu, call.args[1]) else { return result };
                state.slots.insert(source, before.slots[&source].clone());
            }
            (Mistake::DeleteForgetsChildren, Some(Label::CNodeDelete), None) => {
                let Some(gone) = spec::named_slot(&before, vcpu, call) else { return result };
                for (child, _) in before.children(gone) {
                    change(state, child, |slot| slot.parent = Some(gone));
                }
            }
            (Mistake::DeleteForgetsEntries, Some(Label::CNodeDelete | Label::CNodeRevoke), None)
            | (Mistake::UnmapForgetsEntry, Some(Label::FrameUnmap), None) => restore_entries(&before, state),
            (Mistake::RetypeForgetsWatermark, Some(Label::UntypedRetype), None) => {
                if let Some(slot) = invoked
                    && let Cap::Untyped { watermark: old, .. } = before.slots[&slot].cap
                {
                    set_watermark(state, slot, old);
                }
            }
            (Mistake::RetypeIgnoresWatermark, Some(Label::UntypedRetype), None) => {
                let Some(Cap::Untyped { extent: of, watermark, .. }) =
                    invoked.map(|slot| before.slots[&slot].cap.clone())
                else {
                    return result;
                };
                for slot in new_slots(&before, state) {
                    change(state, slot, |slot| {
                        if let Cap::Untyped { extent, .. } | Cap::Frame { extent, .. } = &mut slot.cap
                            && extent.base >= of.base + watermark
                        {
                            extent.base = of.base;
                        }
                    });
                }
            }
            (Mistake::RefusalChangesState, Some(Label::UntypedRetype), Some(Error::NotEnoughMemory)) => {
                if let Some(slot) = invoked
                    && let Cap::Untyped { extent, .. } = before.slots[&slot].cap
                {
                    set_watermark(state, slot, extent.bytes());
                }
            }
            (
                Mistake::SplitForgetsSiblings,
                Some(Label::CpuTimeSplit | Label::IrqSplit),
                Some(Error::NotAdmitted | Error::InUse),
            ) => return invoked.map_or(result, |slot| without_children(&before, state, slot, vcpu, call)),
            (Mistake::LeaseForgetsHolder, Some(Label::PciFunctionLease), Some(Error::InUse)) => {
                let Some(Cap::PciFunction { function, lease }) = invoked.map(|slot| before.slots[&slot].cap.clone())
                else {
                    return result;
                };
                set_leases(state, function, lease);
                let again = spec::step(state, vcpu, call);
                set_leases(state, function, before.functions[&function].leases);
                return again;
            }
            (Mistake::GrantNeedsNoRight, Some(Label::ChannelGrant), Some(Error::MissingRight)) => {
                let Some(slot) = invoked else { return result };
                let rights = before.slots[&slot].rights;
                change(state, slot, |slot| slot.rights |= Rights::GRANT);
                let again = spec::step(state, vcpu, call);
                change(state, slot, |slot| slot.rights = rights);
                return again;
            }
            (Mistake::AcceptTakesFromAnyChannel, Some(Label::ChannelAccept), Some(Error::ChannelEmpty)) => {
                let Some(Cap::Channel { id, end }) = invoked.map(|slot| before.slots[&slot].cap.clone()) else {
                    return result;
                };
                let flying =
                    before.channels.keys().flat_map(|channel| [1, 2].map(|end| spec::in_flight_slot(*channel, end)));
                let Some(taken) = flying.into_iter().find(|slot| before.slots.contains_key(slot)) else {
                    return result;
                };
                let here = spec::in_flight_slot(id, end);
                state.slots.insert(here, before.slots[&taken].clone());
                state.slots.remove(&taken);
                return spec::step(state, vcpu, call);
            }
            (Mistake::SignalReachesEverybody, Some(Label::ChannelSignal | Label::VcpuSignal), None) => {
                state.vcpus.values_mut().for_each(|vcpu| vcpu.events |= 1);
            }
            (Mistake::LaunchForgetsForeignParts, Some(Label::VcpuLaunch), Some(Error::NotConfined)) => {
                let Some(Cap::Vcpu(id)) = invoked.map(|slot| before.slots[&slot].cap.clone()) else { return result };
                if let Some(vm) = before.vcpus[&id].vm.and_then(|vm| state.vms.get_mut(&vm)) {
                    vm.launched = true;
                }
                if let Some(launched) = state.vcpus.get_mut(&id) {
                    launched.run = Run::Runnable;
                }
                return Ok(Outcome::NOTHING);
            }
            _ => {}
        }
        result
    }
}

/// The slot that a VM names by a pointer.
fn slot_of(state: &State, vcpu: VcpuId, cptr: u64) -> Option<SlotId> {
    let vm = state.vcpus.get(&vcpu)?.vm?;
    let view = crate::actions::View::of(state, state.vms[&vm].cspace?);
    view.slots.into_iter().find(|(known, _)| *known == cptr).map(|(_, slot)| slot)
}

fn new_slots(before: &State, after: &State) -> Vec<SlotId> {
    after.slots.keys().filter(|id| !before.slots.contains_key(id)).copied().collect()
}

fn change(state: &mut State, slot: SlotId, change: impl FnOnce(&mut Slot)) {
    if let Some(slot) = state.slots.get_mut(&slot) {
        change(slot);
    }
}

fn set_watermark(state: &mut State, slot: SlotId, value: u64) {
    change(state, slot, |slot| {
        if let Cap::Untyped { watermark, .. } = &mut slot.cap {
            *watermark = value;
        }
    });
}

fn set_leases(state: &mut State, function: u16, leases: u8) {
    if let Some(record) = state.functions.get_mut(&function) {
        record.leases = leases;
    }
}

/// Puts the entries of frames back that a step has taken out of tables which are still there.
fn restore_entries(before: &State, state: &mut State) {
    for (id, entries) in &mut state.tables {
        let lost = before.tables.get(id).into_iter().flatten().filter(|(_, entry)| matches!(entry, Entry::Leaf { .. }));
        for (index, entry) in lost {
            entries.entry(*index).or_insert(*entry);
        }
    }
}

/// The same invocation, as if nothing had been derived from the invoked capability.
fn without_children(
    before: &State,
    state: &mut State,
    slot: SlotId,
    vcpu: VcpuId,
    call: Call,
) -> Result<Outcome, Fault> {
    let children: Vec<SlotId> = before.children(slot).map(|(id, _)| id).collect();
    for child in &children {
        change(state, *child, |slot| slot.parent = None);
    }
    let result = spec::step(state, vcpu, call);
    for child in &children {
        change(state, *child, |child| child.parent = Some(slot));
    }
    result
}
