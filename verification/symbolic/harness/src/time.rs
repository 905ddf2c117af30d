//! What is proved of CPU time: that a reservation's children have in sum what it says they have, and no more than it can give,
//! from every state in which that is so; and that no more is sold of a core than the core.
//!
//! The share of a reservation is a quotient of 128 bits. Nothing is said here of what that is but its bound, and that the same
//! budget and period give the same: the library and the specification have it from one function. That the shares are enough
//! for EDF is the argument of `sched::admission`.

use cap_spec::abi::ObjectType;
use kernel::cap::Cap;
use kernel::nested::EntryFormat;
use kernel::sched::{Limits, Share};
use kernel::slot::MAX_DEPTH;
use kernel::types::{Hpa, SlotId, Ticks, VcpuId};
use kernel::{Config, Invocation};

use crate::forest::{argument, begin, carry_out, end, slot_argument};
use crate::input::{assert, assume, observe};
use crate::spec::{Record, State};
use crate::world::{Kinds, Small};

/// Kinds in the world: reservations, and something else.
const KINDS: Kinds = Kinds::of(&[ObjectType::CpuTime, ObjectType::Machine]);

/// A machine of 2 GHz with a switch of 10 microseconds: budgets and periods are any, their limits these.
const CONFIG: Config = Config {
    cores: 1,
    tsc_hz: 2_000_000_000,
    switch: Ticks::new(20_000),
    epoch: Ticks::new(0),
    asids: 16,
    format: EntryFormat::Npt,
    statistics_page: Hpa::new(0),
    forbidden_routes: 0,
    first_message_route: 24,
};

/// The limits of that machine.
pub fn limits() -> Limits {
    Limits::new(CONFIG.tsc_hz, CONFIG.switch)
}

/// A share is at most one unit more than a core: what the other programs take as known.
pub fn share_is_bounded<const N: usize>(kernel: &mut Small<N>) {
    kernel.configure(&CONFIG);
    let share = kernel.limits().share(Ticks::new(argument(2)), Ticks::new(argument(3)));
    assert(1, share.get() <= Share::WHOLE.get() + 1);
    observe(0, share.get());
}

/// The share that a slot takes of its parent; nothing if it is no reservation.
fn share<const N: usize>(kernel: &Small<N>, record: &Record) -> Share {
    match record.cap {
        Cap::CpuTime { budget, period, .. } => kernel.limits().share(Ticks::new(budget), Ticks::new(period)),
        _ => Share::ZERO,
    }
}

/// True if each reservation's children have in sum what it says, and that is no more than it may give away.
fn is_within<const N: usize>(kernel: &Small<N>, state: &State<N>) -> bool {
    let mut shares = [0u64; N];
    for (share_of, record) in shares.iter_mut().zip(&state.slots) {
        *share_of = share(kernel, record).get();
    }
    let mut holds = true;
    for (at, record) in state.slots.iter().enumerate() {
        let id = SlotId::new(at as u32 + 1);
        let Cap::CpuTime { allocated, .. } = record.cap else { continue };
        let mut given = 0u64;
        for (share, child) in shares.iter().zip(&state.slots) {
            let is_child = child.is_full() & (child.parent == id) & matches!(child.cap, Cap::CpuTime { .. });
            given = given.saturating_add(if is_child { *share } else { 0 });
        }
        // All of it may be given in one piece, and else no more than is its own.
        holds &= (allocated == given) & (given <= shares[at]) & (given <= Share::WHOLE.get());
    }
    holds
}

/// Any well-formed state in which no more is given than there is.
fn begin_within<const N: usize>(kernel: &mut Small<N>) -> State<N> {
    kernel.configure(&CONFIG);
    let state = begin(kernel, KINDS);
    assume(is_within(kernel, &state));
    state
}

/// Asserts what [`end`] does, and that no more is given than there is.
fn end_within<const N: usize>(kernel: &Small<N>, wanted: &State<N>) {
    assert(7, is_within(kernel, wanted));
    end(kernel, wanted);
}

/// `CpuTime.Split`, from what decoding has checked on.
pub fn split<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin_within(kernel);
    let (from, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let (budget, period) = (argument(2), argument(3));
    let source = wanted.get(from);
    let Cap::CpuTime { core, vcpu, budget: b, period: p, free_from, allocated } = source.cap else {
        assume(false);
        return;
    };
    let (own, share) = (share(kernel, &source), kernel.limits().share(Ticks::new(budget), Ticks::new(period)));
    assume(own.has_room(Share::new(allocated), share));
    assume(!wanted.get(to).is_full() & (source.depth < MAX_DEPTH - 1) & (budget != 0) & (period >= budget));
    let allocated = allocated.saturating_add(share.get());
    wanted.set_cap(from, Cap::CpuTime { core, vcpu, budget: b, period: p, free_from, allocated });
    let child = Cap::CpuTime { core, vcpu: VcpuId::NONE, budget, period, free_from, allocated: 0 };
    wanted.make(from, to, child, source.rights);
    assert(2, carry_out(kernel, Invocation::SplitTime { from, to, budget, period }));
    end_within(kernel, &wanted);
}

/// `CpuTime.Resize` of a reservation that is bound to nobody.
pub fn resize<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin_within(kernel);
    let slot = slot_argument::<N>(0);
    let (budget, period) = (argument(2), argument(3));
    let target = wanted.get(slot);
    assume(!target.boot & !wanted.has_children(slot));
    let parent = target.parent;
    if !wanted.has(parent) {
        assume(false);
        return;
    }
    let above = wanted.get(parent);
    let (
        Cap::CpuTime { core, vcpu, budget: old_budget, period: old_period, free_from, allocated },
        Cap::CpuTime { core: c, vcpu: v, budget: b, period: p, free_from: above_from, allocated: given },
    ) = (target.cap, above.cap)
    else {
        assume(false);
        return;
    };
    let limits = *kernel.limits();
    let old = limits.share(Ticks::new(old_budget), Ticks::new(old_period));
    let new = limits.share(Ticks::new(budget), Ticks::new(period));
    let others = Share::new(given).minus(old);
    assume(share(kernel, &above).has_room(others, new) & (budget != 0) & (period >= budget));
    let own_from = if new > old { free_from.max(above_from) } else { free_from };
    let freed = if new < old { above_from.max(own_from) } else { above_from };
    let left = others.plus(new).get();
    wanted.set_cap(parent, Cap::CpuTime { core: c, vcpu: v, budget: b, period: p, free_from: freed, allocated: left });
    wanted.set_cap(slot, Cap::CpuTime { core, vcpu, budget, period, free_from: own_from, allocated });
    assert(2, carry_out(kernel, Invocation::ResizeTime { slot, parent, budget, period }));
    end_within(kernel, &wanted);
}

/// A step of Revoke of a reservation: what its child had is its own again.
pub fn give_back<const N: usize>(kernel: &mut Small<N>) {
    let before = begin_within(kernel);
    let slot = slot_argument::<N>(0);
    assume(before.get(slot).is_full() & before.has_children(slot));
    kernel.revoke_step(slot);
    let after = crate::spec::view(&kernel.machine);
    assert(7, is_within(kernel, &after));
    assert(1, crate::spec::is_well_formed(&kernel.machine));
}
