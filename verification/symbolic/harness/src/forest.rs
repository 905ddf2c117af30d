//! What is proved of the derivation forest: Copy, Mint, Move, Delete of a copy, and each step of Revoke and of Delete of an
//! original, from every well-formed state.

use cap_spec::abi::{ObjectType, Rights};
use kernel::cap::Cap;
use kernel::types::{CoreId, SlotId, VcpuId};
use kernel::{Invocation, Outcome};

use crate::input::{assert, assume, input, observe};
use crate::spec::{self, State};
use crate::world::{Kinds, Small, World};

/// Inputs behind those of the slots.
const ARGUMENTS: u32 = 1 << 16;

/// An argument of the program.
pub(crate) fn argument(number: u32) -> u64 {
    input(ARGUMENTS + number)
}

/// An argument that is the id of a slot of this world.
pub(crate) fn slot_argument<const N: usize>(number: u32) -> SlotId {
    let id = argument(number) as u32;
    assume((id >= 1) & (id <= N as u32));
    SlotId::new(id)
}

/// Any well-formed state of these kinds of capability, and what the specification sees of it.
pub(crate) fn begin<const N: usize, const V: usize>(kernel: &mut Small<N, V>, kinds: Kinds) -> State<N> {
    kernel.machine.fill(kinds);
    assume(spec::is_well_formed(&kernel.machine));
    spec::view(&kernel.machine)
}

/// Asserts that the state is well-formed again, and is the one that the specification wants.
pub(crate) fn end<const N: usize, const V: usize>(kernel: &Small<N, V>, wanted: &State<N>) {
    assert(1, spec::is_well_formed(&kernel.machine));
    let found = spec::view(&kernel.machine);
    for at in 0..N {
        assert(100 + at as u32, spec::is_same(&found.slots[at], &wanted.slots[at]));
    }
    tell(&kernel.machine);
}

/// Tells every word of the slots' links, for the test of the translator.
fn tell<const N: usize, const V: usize>(world: &World<N, V>) {
    for (at, slot) in world.slots.iter().enumerate() {
        let links = [slot.first_child, slot.last_child, slot.next, slot.prev];
        for (number, link) in links.into_iter().enumerate() {
            observe((at * 8 + number) as u32, link.get().into());
        }
        let flags = [slot.original, slot.boot, slot.first, slot.last];
        let flags = flags.into_iter().fold(0, |word, flag| word << 1 | u64::from(flag));
        observe((at * 8 + 4) as u32, flags << 16 | u64::from(slot.depth) << 8 | u64::from(slot.rights.bits()));
        observe((at * 8 + 5) as u32, slot.cap.object_type() as u64);
    }
}

/// Does what was decoded.
pub(crate) fn carry_out<const N: usize, const V: usize>(kernel: &mut Small<N, V>, invocation: Invocation) -> bool {
    matches!(kernel.carry_out(CoreId::new(0), VcpuId::NONE, Ok(invocation)), Outcome::Done { .. })
}

/// What decoding has checked of a Copy.
fn assume_copyable<const N: usize>(state: &State<N>, from: SlotId, to: SlotId) {
    let source = state.get(from);
    let is_deep = source.depth >= kernel::slot::MAX_DEPTH - 1;
    assume(source.is_full() & !source.cap.object_type().is_unique() & !state.get(to).is_full() & !is_deep);
}

/// A Copy that decoding has found good: what the specification wants, source, destination, rights to keep.
pub(crate) fn begin_copy<const N: usize>(kernel: &mut Small<N>) -> (State<N>, SlotId, SlotId, Rights) {
    let mut wanted = begin(kernel, Kinds::ALL);
    let (from, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let mask = Rights::from_bits_truncate(argument(2) as u8);
    assume_copyable(&wanted, from, to);
    let cap = spec::copied(wanted.get(from).cap, 0);
    wanted.derive(from, to, mask, cap);
    (wanted, from, to, mask)
}

/// `CNode.Mint`, from what decoding has checked on.
pub fn mint<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::ALL);
    let (from, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let (mask, badge) = (Rights::from_bits_truncate(argument(2) as u8), argument(3));
    assume_copyable(&wanted, from, to);
    let source = wanted.get(from);
    let is_good = match source.cap {
        Cap::Channel { .. } if source.rights.contains(Rights::CONTROL) => (badge == 1) | (badge == 2),
        // That it is a window, and within the source's, is decoding's.
        Cap::IommuDomain { .. } => badge & 0xfff < 64,
        _ => badge == 0,
    };
    assume(is_good);
    wanted.derive(from, to, mask, spec::copied(source.cap, badge));
    assert(2, carry_out(kernel, Invocation::Derive { from, to, mask, badge }));
    end(kernel, &wanted);
}

/// `CNode.Copy`, from what decoding has checked on.
pub fn copy<const N: usize>(kernel: &mut Small<N>) {
    let (wanted, from, to, mask) = begin_copy(kernel);
    assert(2, carry_out(kernel, Invocation::Derive { from, to, mask, badge: 0 }));
    end(kernel, &wanted);
}

/// What decoding has checked of a Move.
pub(crate) fn assume_movable<const N: usize>(state: &State<N>, from: SlotId, to: SlotId) {
    let source = state.get(from);
    assume(source.is_full() & !state.get(to).is_full() & !source.boot);
}

/// `CNode.Move`.
pub fn move_<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::ALL);
    let (from, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let mask = Rights::from_bits_truncate(argument(2) as u8);
    assume_movable(&wanted, from, to);
    wanted.relocate(from, to, mask);
    assert(2, carry_out(kernel, Invocation::Move { from, to, mask }));
    end(kernel, &wanted);
}

/// Kinds that are copied.
const COPIED: Kinds = Kinds::of(&[
    ObjectType::CNode,
    ObjectType::Frame,
    ObjectType::Vm,
    ObjectType::Vcpu,
    ObjectType::Channel,
    ObjectType::Machine,
    ObjectType::IommuDomain,
]);

/// Kinds the end of which concerns slots and nothing else, if they are not mapped.
const IN_SLOTS: Kinds = Kinds::of(&[
    ObjectType::Untyped,
    ObjectType::Frame,
    ObjectType::PageTable,
    ObjectType::IoPort,
    ObjectType::Machine,
]);

/// `CNode.Delete` of a copy.
pub fn delete_copy<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, COPIED);
    let slot = slot_argument::<N>(0);
    let target = wanted.get(slot);
    assume(target.is_full() & !target.boot & !target.original);
    wanted.remove(slot);
    assert(2, carry_out(kernel, Invocation::Delete(slot)));
    end(kernel, &wanted);
}

/// A step of `CNode.Revoke`: it takes one leaf that is derived from the slot, and nothing else; the last step, when nothing is
/// derived from it any more, leaves it as it is. As each other step leaves one full slot less, Revoke ends.
pub fn revoke_step<const N: usize>(kernel: &mut Small<N>) {
    let before = begin(kernel, IN_SLOTS);
    let slot = slot_argument::<N>(0);
    assume(before.get(slot).is_full());
    // The scrub of an Untyped is another step.
    assume(!matches!(before.get(slot).cap, Cap::Untyped { .. }) | before.has_children(slot));
    let has_children = before.has_children(slot);
    let is_done = kernel.revoke_step(slot);
    assert(2, is_done != has_children);
    let mut wanted = before;
    let is_leaf = |id: SlotId| before.is_below(slot, id) & !before.has_children(id);
    take_gone(kernel, &before, u32::from(has_children), is_leaf, |leaf| wanted.take_leaf(leaf));
    end(kernel, &wanted);
}

/// A step of `CNode.Delete` of an original: as one of Revoke; the last step, when nothing is derived from it any more, takes
/// the capability itself, and with it the object.
pub fn delete_step<const N: usize>(kernel: &mut Small<N>) {
    let before = begin(kernel, IN_SLOTS);
    let slot = slot_argument::<N>(0);
    let target = before.get(slot);
    assume(target.is_full() & target.original & !target.boot);
    let has_children = before.has_children(slot);
    let is_done = kernel.delete_step(slot);
    assert(2, is_done != has_children);
    let mut wanted = before;
    let is_leaf = |id: SlotId| before.is_below(slot, id) & !before.has_children(id) | (id == slot) & !has_children;
    take_gone(kernel, &before, 1, is_leaf, |leaf| wanted.take_leaf(leaf));
    end(kernel, &wanted);
}

/// Takes those slots that were full and are empty now, of which there must be so many; asserts that they are such as may go.
fn take_gone<const N: usize>(
    kernel: &Small<N>,
    before: &State<N>,
    wanted: u32,
    may_go: impl Fn(SlotId) -> bool,
    mut take: impl FnMut(SlotId),
) {
    let mut count = 0u32;
    for ((slot, record), number) in kernel.machine.slots.iter().zip(&before.slots).zip(1..) {
        if record.is_full() & slot.is_empty() {
            assert(3, may_go(SlotId::new(number)));
            take(SlotId::new(number));
            count = count.wrapping_add(1);
        }
    }
    assert(4, count == wanted);
}
