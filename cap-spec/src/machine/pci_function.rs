//! PciFunction: a function of a PCI Express device, physical or virtual.
//!
//! * A function has one holder: the last of a chain of leases. **Lease** makes a child that speaks for the same function,
//!   and while the child lives its parent can't use the function: `InUse`, for everything but GetInfo. Nor has it anything
//!   left of it: a function that is attached, has messages bound, or of whose registers there are Frames, is not leased
//!   (`InUse`). A capability with [`MAX_SPLITS`] children is none that is leased, either.
//! * **EnableVfs** makes the virtual functions, `count` of them, which the device must be able to have (`OutOfRange`, 1),
//!   in consecutive slots: these must exist in the CNode (`OutOfRange`, 1) and be empty (`SlotOccupied`, 1). `InUse`
//!   if there are some. The physical function stays its holder's. When the last virtual function is gone they are disabled.
//! * **GetBar** derives Frame capabilities, with READ and WRITE, to `count` pages of a BAR (`OutOfRange`: 1, 2, 5), in
//!   consecutive slots (`OutOfRange` and `SlotOccupied`, 5). `Forbidden` (2) if one of the pages is never handed out.
//!   While there are such Frames the capability is not moved: who gives it away must not keep them.
//! * **ReadConfig**, **WriteConfig**: a double word. A write concerns those bits that the holder may write; `Forbidden` (1)
//!   where there are none, or its value is reserved.
//! * **Attach** lets it be a bus master whose DMA reaches a domain. `InUse` if it is attached; `Forbidden` if it is
//!   quarantined: the IOMMU in front of it has failed. **Detach** ends that; `NotMapped` if it is not.
//! * **BindMsix** lets an entry of its MSI-X table raise an interrupt route, which must be one (`OutOfRange`, 2). `InUse`
//!   (1) if the entry is bound, (2) if the route has children or another message; `Forbidden` (2) for a route that is a pin.
//!   **UnbindMsix**: `NotMapped` (1) if the entry is not bound.
//! * **Reset** detaches it, unbinds its messages and resets it. `InUse` if it has virtual functions.
//! * After a reset, after it was enabled, and after its virtual functions were disabled, it is `Busy` for a time: for all
//!   but Lease, Detach and UnbindMsix.

use super::derivation::{Kind, check_depth, derive};
use super::dying::check_space;
use super::lookup::{Invoked, cnode_of, slot_of};
use super::state::{Cap, Extent, Function, FunctionFacts, Message, Output, SlotId, State};
use super::vcpu::wake;
use super::{MAX_SPLITS, Outcome};
use crate::abi::{Error, Fault, ObjectType, PAGE_BITS, Rights};

/// Capabilities that one invocation makes at most.
const MAX_COUNT: u64 = 64;

/// The invoked function and its lease.
fn function_of(state: &State, call: &Invoked) -> (u16, u8) {
    match state.slots[&call.slot].cap {
        Cap::PciFunction { function, lease } => (function, lease),
        _ => unreachable!("the label was checked against the type"),
    }
}

/// What is fixed about a function.
fn facts(state: &State, function: u16) -> &FunctionFacts {
    &state.config.functions[usize::from(function)]
}

/// True if somebody has a lease of it from this capability.
fn is_leased(state: &State, function: u16, lease: u8) -> bool {
    state.functions[&function].leases != lease
}

/// Checks that the invoked capability is the last of the chain of leases.
fn check_holder(state: &State, function: u16, lease: u8) -> Result<(), Fault> {
    if is_leased(state, function, lease) { Err(Fault::new(Error::InUse, 0)) } else { Ok(()) }
}

/// Checks that it is not in a reset.
fn check_ready(state: &State, function: u16) -> Result<(), Fault> {
    if state.now < state.functions[&function].ready_at { Err(Fault::new(Error::Busy, 0)) } else { Ok(()) }
}

/// Slots `index` to `index + count - 1` of the CNode that argument `number` names, the first of which was checked.
/// Argument `counted` is the count.
fn row(state: &State, call: &Invoked, number: u8, counted: u8) -> Result<alloc::vec::Vec<SlotId>, Fault> {
    let cnode = cnode_of(state, call.capability(state, number, ObjectType::CNode, Rights::WRITE)?);
    let (first, count) = (call.arg(number + 1), call.arg(counted));
    slot_of(state, cnode, first + count - 1).ok_or(Fault::new(Error::OutOfRange, counted))?;
    if (first + 1..first + count).any(|index| state.slots.contains_key(&cnode.slot(index))) {
        return Err(Fault::new(Error::SlotOccupied, counted));
    }
    Ok((first..first + count).map(|index| cnode.slot(index)).collect())
}

/// The record of a function, to change it.
fn record(state: &mut State, function: u16) -> &mut Function {
    state.functions.get_mut(&function).expect("a function with a capability has a record")
}

/// True for a function of whose registers there are Frames.
pub(super) fn has_register_frames(state: &State, slot: SlotId) -> bool {
    let is_function = matches!(state.slots[&slot].cap, Cap::PciFunction { .. });
    is_function && state.children(slot).any(|(_, child)| matches!(child.cap, Cap::Frame { .. }))
}

/// `PciFunction.Lease`.
pub(super) fn lease(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let destination = call.destination(state, 1)?;
    check_holder(state, function, lease)?;
    let has_messages = (0..facts(state, function).messages).any(|entry| route_of(state, function, entry).is_some());
    let has_frames = has_register_frames(state, call.slot);
    let is_used = state.functions[&function].domain.is_some() || has_messages || has_frames;
    if is_used || state.children(call.slot).count() >= MAX_SPLITS {
        return Err(Fault::new(Error::InUse, 0));
    }
    check_depth(state, call.slot, 0)?;
    let rights = state.slots[&call.slot].rights;
    let cap = Cap::PciFunction { function, lease: lease + 1 };
    derive(state, call.slot, destination, cap, rights, Kind::Original);
    record(state, function).leases += 1;
    Ok(Outcome::NOTHING)
}

/// `PciFunction.EnableVfs`.
pub(super) fn enable_vfs(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let (vfs, first) = (facts(state, function).vfs, facts(state, function).first_vf);
    let count = call.in_range(1, 1..=MAX_COUNT.min(vfs.into()))? as u16;
    call.destination(state, 2)?;
    let slots = row(state, &call, 2, 1)?;
    check_holder(state, function, lease)?;
    if state.functions[&function].vfs != 0 {
        return Err(Fault::new(Error::InUse, 0));
    }
    check_ready(state, function)?;
    check_depth(state, call.slot, 0)?;
    let rights = state.slots[&call.slot].rights;
    let ready_at = state.now + facts(state, function).reset_ticks;
    for (slot, number) in slots.into_iter().zip(first..) {
        derive(state, call.slot, slot, Cap::PciFunction { function: number, lease: 0 }, rights, Kind::Original);
        state.functions.insert(number, Function { ready_at, ..Function::default() });
    }
    record(state, function).vfs = count;
    Ok(Outcome::NOTHING)
}

/// `PciFunction.GetBar`.
pub(super) fn get_bar(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let bar = call.in_range(1, 0..=5)? as u8;
    let (base, pages) = facts(state, function).bars[usize::from(bar)];
    let Some(last) = u64::from(pages).checked_sub(1) else { return Err(Fault::new(Error::OutOfRange, 1)) };
    let page = call.in_range(2, 0..=last)? as u32;
    call.destination(state, 3)?;
    let count = call.in_range(5, 1..=MAX_COUNT.min(u64::from(pages - page)))? as u32;
    let slots = row(state, &call, 3, 5)?;
    if (page..page + count).any(|page| facts(state, function).withheld.contains(&(bar, page))) {
        return Err(Fault::new(Error::Forbidden, 2));
    }
    check_holder(state, function, lease)?;
    check_ready(state, function)?;
    check_depth(state, call.slot, 0)?;
    let rights = state.slots[&call.slot].rights & (Rights::READ | Rights::WRITE);
    for (slot, page) in slots.into_iter().zip(page..) {
        let extent = Extent { base: base + (u64::from(page) << PAGE_BITS), bits: PAGE_BITS };
        let cap = Cap::Frame { extent, device: true, kernel_page: false, mapping: None };
        derive(state, call.slot, slot, cap, rights, Kind::Copy);
    }
    Ok(Outcome::NOTHING)
}

/// `PciFunction.GetInfo`.
pub(super) fn get_info(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, _) = function_of(state, &call);
    let what = call.in_range(1, 0..=6)?;
    check_ready(state, function)?;
    let facts = facts(state, function);
    Ok(Outcome::Done(match what {
        6 => [facts.identity, counts(facts)],
        bar => [facts.bars[bar as usize].1.into(), 0],
    }))
}

/// What GetInfo says second: messages, virtual functions, requester id.
fn counts(facts: &FunctionFacts) -> u64 {
    u64::from(facts.messages) | u64::from(facts.vfs) << 16 | u64::from(facts.requester) << 32
}

/// The offset of a double word of configuration space.
fn offset_of(call: &Invoked) -> Result<u16, Fault> {
    let offset = call.in_range(1, 0..=4095)?;
    if offset.is_multiple_of(4) { Ok(offset as u16) } else { Err(Fault::new(Error::Misaligned, 1)) }
}

/// `PciFunction.ReadConfig`.
pub(super) fn read_config(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    offset_of(&call)?;
    check_holder(state, function, lease)?;
    check_ready(state, function)?;
    Ok(Outcome::Done([state.port_input.into(), 0]))
}

/// `PciFunction.WriteConfig`.
pub(super) fn write_config(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let offset = offset_of(&call)?;
    let value = call.in_range(2, 0..=u32::MAX.into())? as u32;
    check_holder(state, function, lease)?;
    check_ready(state, function)?;
    let Some(mask) = facts(state, function).writable.get(&offset).copied() else {
        return Err(Fault::new(Error::Forbidden, 1));
    };
    state.outputs.push(Output::Config { function, offset, value: value & mask });
    Ok(Outcome::NOTHING)
}

/// `PciFunction.Attach`.
pub(super) fn attach(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let Cap::IommuDomain { id, .. } =
        state.slots[&call.capability(state, 1, ObjectType::IommuDomain, Rights::CONTROL)?].cap
    else {
        unreachable!("argument 1 was checked to be an IommuDomain")
    };
    check_space(state, id, 1)?;
    check_holder(state, function, lease)?;
    if state.functions[&function].domain.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    if facts(state, function).quarantined {
        return Err(Fault::new(Error::Forbidden, 0));
    }
    check_ready(state, function)?;
    record(state, function).domain = Some(id);
    Ok(Outcome::NOTHING)
}

/// `PciFunction.Detach`.
pub(super) fn detach(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    if is_leased(state, function, lease) || state.functions[&function].domain.is_none() {
        return Err(Fault::new(Error::NotMapped, 0));
    }
    record(state, function).domain = None;
    Ok(Outcome::NOTHING)
}

/// The slot of the route that a message raises.
fn route_of(state: &State, function: u16, entry: u16) -> Option<SlotId> {
    let wanted = Some(Message { function, entry });
    let is_it = |cap: &Cap| matches!(cap, Cap::Irq { message, .. } if *message == wanted);
    state.slots.iter().find(|(_, slot)| is_it(&slot.cap)).map(|(id, _)| *id)
}

/// Chooses the message that raises the route in a slot.
fn set_message(state: &mut State, slot: SlotId, to: Option<Message>) {
    if let Some(Cap::Irq { message, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap) {
        *message = to;
    }
}

/// Argument 1: an entry of the MSI-X table.
fn entry_of(state: &State, call: &Invoked, function: u16) -> Result<u16, Fault> {
    match u64::from(facts(state, function).messages).checked_sub(1) {
        Some(last) => Ok(call.in_range(1, 0..=last)? as u16),
        None => Err(Fault::new(Error::OutOfRange, 1)),
    }
}

/// `PciFunction.BindMsix`.
pub(super) fn bind_msix(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let entry = entry_of(state, &call, function)?;
    let irq = call.capability(state, 2, ObjectType::Irq, Rights::empty())?;
    let Cap::Irq { first, count, route, message } = state.slots[&irq].cap else {
        unreachable!("argument 2 was checked to be an Irq")
    };
    if count != 1 {
        return Err(Fault::new(Error::OutOfRange, 2));
    }
    check_holder(state, function, lease)?;
    if route_of(state, function, entry).is_some() {
        return Err(Fault::new(Error::InUse, 1));
    }
    if message.is_some() || state.has_children(irq) {
        return Err(Fault::new(Error::InUse, 2));
    }
    if first < state.config.first_message_route {
        return Err(Fault::new(Error::Forbidden, 2));
    }
    check_ready(state, function)?;
    set_message(state, irq, Some(Message { function, entry }));
    // The message may have fired before its core can deliver it.
    if let Some(route) = route {
        wake(state, route.vcpu);
    }
    Ok(Outcome::NOTHING)
}

/// `PciFunction.UnbindMsix`.
pub(super) fn unbind_msix(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    let entry = entry_of(state, &call, function)?;
    match route_of(state, function, entry) {
        Some(irq) if !is_leased(state, function, lease) => set_message(state, irq, None),
        _ => return Err(Fault::new(Error::NotMapped, 1)),
    }
    Ok(Outcome::NOTHING)
}

/// Detaches a function, unbinds its messages, and resets it unless virtual functions would go with that.
pub(super) fn quiesce(state: &mut State, function: u16) {
    for entry in 0..facts(state, function).messages {
        if let Some(irq) = route_of(state, function, entry) {
            set_message(state, irq, None);
        }
    }
    let (now, ticks) = (state.now, facts(state, function).reset_ticks);
    let record = record(state, function);
    record.domain = None;
    if record.vfs == 0 {
        record.ready_at = now + ticks;
    }
}

/// `PciFunction.Reset`.
pub(super) fn reset(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (function, lease) = function_of(state, &call);
    if is_leased(state, function, lease) || state.functions[&function].vfs != 0 {
        return Err(Fault::new(Error::InUse, 0));
    }
    check_ready(state, function)?;
    quiesce(state, function);
    Ok(Outcome::NOTHING)
}

/// A capability to a function goes.
pub(super) fn give_back(state: &mut State, function: u16, lease: u8) {
    quiesce(state, function);
    if lease != 0 {
        record(state, function).leases = lease - 1;
        return;
    }
    // A virtual function: boot capabilities never go.
    state.functions.remove(&function);
    let physical = (0..)
        .zip(&state.config.functions)
        .find(|(_, facts)| (facts.first_vf..facts.first_vf + facts.vfs).contains(&function));
    let Some((physical, ticks)) = physical.map(|(number, facts)| (number, facts.reset_ticks)) else { return };
    let now = state.now;
    let record = record(state, physical);
    record.vfs -= 1;
    if record.vfs == 0 {
        record.ready_at = record.ready_at.max(now + ticks);
    }
}
