//! Programs with a mistake in them: each makes the kernel's library, or what comes after it, do what a bug in it would do.
//! A proof that does not refute every one of them shows nothing.

use cap_spec::abi::Rights;
use kernel::Invocation;
use kernel::machine::Machine;
use kernel::types::SlotId;

use crate::forest::{argument, assume_movable, begin, begin_copy, carry_out, end, slot_argument};
use crate::input::assume;
use crate::world::{Kinds, Small};

/// A copy has one right more than it should have.
pub fn rights_kept<const N: usize>(kernel: &mut Small<N>) {
    let (wanted, from, to, mask) = begin_copy(kernel);
    carry_out(kernel, Invocation::Derive { from, to, mask: mask.union(Rights::GRANT), badge: 0 });
    end(kernel, &wanted);
}

/// A move forgets to tell the eldest child where its parent is.
pub fn link_left<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::ALL);
    let (from, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    assume_movable(&wanted, from, to);
    wanted.relocate(from, to, Rights::all());
    carry_out(kernel, Invocation::Move { from, to, mask: Rights::all() });
    let child = kernel.machine.slot(to).last_child;
    if child.is_some() {
        kernel.machine.slot_mut(child).next = from;
    }
    end(kernel, &wanted);
}

/// A deletion takes the youngest child along instead of handing it on.
pub fn children_lost<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::ALL);
    let slot = slot_argument::<N>(0);
    let target = wanted.get(slot);
    assume(target.is_full() & !target.boot & !target.original);
    wanted.remove(slot);
    let child = kernel.machine.slot(slot).first_child;
    carry_out(kernel, Invocation::Delete(slot));
    if child.is_some() {
        kernel.machine.slot_mut(child).cap = kernel::cap::Cap::Null;
    }
    end(kernel, &wanted);
}

/// A move whose destination was checked with an error by one.
pub fn slot_behind<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::ALL);
    let from = slot_argument::<N>(0);
    let to = SlotId::new(argument(1) as u32);
    assume((to.get() >= 1) & (to.get() <= N as u32 + 1));
    let is_free = !wanted.has(to) || !wanted.get(to).is_full();
    assume(wanted.get(from).is_full() & !wanted.get(from).boot & is_free);
    carry_out(kernel, Invocation::Move { from, to, mask: Rights::all() });
    if wanted.has(to) {
        wanted.relocate(from, to, Rights::all());
    }
    end(kernel, &wanted);
}
