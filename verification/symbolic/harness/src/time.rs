//! What is proved of CPU time: the library splits reservations as the specification says; by its rules (Split, Resize, the end
//! of a reservation) a reservation's children have in sum what it says they have, and no more than it can give; and a share is
//! never more than a core and one unit.
//!
//! Library and sums are apart because the share of a reservation is a quotient of 128 bits, of which nothing has to be known: the
//! library and the rules have it from one function (which the test of the specification compares with `cap_spec`'s), and the
//! rules keep the sums whatever it is. They name budget and period only to ask for the share, so it is general enough to say
//! that the share *is* the budget, and to let budgets be any. That the shares are enough for EDF is the argument of
//! `sched::admission`.

use cap_spec::abi::ObjectType;
use kernel::cap::Cap;
use kernel::nested::EntryFormat;
use kernel::sched::{CAPACITY, Limits, Share};
use kernel::slot::MAX_DEPTH;
use kernel::types::{CoreId, Hpa, SlotId, Ticks, VcpuId};
use kernel::{Config, Invocation};

use crate::forest::{argument, begin, carry_out, end, slot_argument};
use crate::input::{assert, assume, input, observe};
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
pub const fn limits() -> Limits {
    Limits::new(CONFIG.tsc_hz, CONFIG.switch)
}

/// The share of a budget and a period on that machine.
pub fn share(budget: u64, period: u64) -> Share {
    limits().share(Ticks::new(budget), Ticks::new(period))
}

/// A machine on which budget and share are the same.
fn budget_itself(budget: u64, _period: u64) -> Share {
    Share::new(budget)
}

/// What a slot takes of its parent; nothing if it is no reservation.
fn taken(record: &Record, share: impl Fn(u64, u64) -> Share) -> Share {
    match record.cap {
        Cap::CpuTime { budget, period, .. } => share(budget, period),
        _ => Share::ZERO,
    }
}

impl<const N: usize> State<N> {
    /// `cpu_time::split` of the specification.
    pub fn split_time(
        &mut self,
        from: SlotId,
        to: SlotId,
        budget: u64,
        period: u64,
        share: impl Fn(u64, u64) -> Share,
    ) {
        let source = self.get(from);
        let Cap::CpuTime { core, vcpu, budget: own, period: p, free_from, allocated } = source.cap else { return };
        let allocated = Share::new(allocated).plus(share(budget, period)).get();
        self.set_cap(from, Cap::CpuTime { core, vcpu, budget: own, period: p, free_from, allocated });
        let child = Cap::CpuTime { core, vcpu: VcpuId::NONE, budget, period, free_from, allocated: 0 };
        self.make(from, to, child, source.rights);
    }

    /// `cpu_time::resize` of the specification, of a reservation that is bound to nobody.
    pub fn resize_time(&mut self, slot: SlotId, budget: u64, period: u64, share: impl Fn(u64, u64) -> Share) {
        let parent = self.get(slot).parent;
        if !self.has(parent) {
            return;
        }
        let (
            Cap::CpuTime { core, vcpu, budget: old_budget, period: old_period, free_from, allocated },
            Cap::CpuTime { core: c, vcpu: v, budget: b, period: p, free_from: above_from, allocated: given },
        ) = (self.get(slot).cap, self.get(parent).cap)
        else {
            return;
        };
        let (old, new) = (share(old_budget, old_period), share(budget, period));
        let own_from = if new > old { free_from.max(above_from) } else { free_from };
        let freed = if new < old { above_from.max(own_from) } else { above_from };
        let left = Share::new(given).minus(old).plus(new).get();
        self.set_cap(
            parent,
            Cap::CpuTime { core: c, vcpu: v, budget: b, period: p, free_from: freed, allocated: left },
        );
        self.set_cap(slot, Cap::CpuTime { core, vcpu, budget, period, free_from: own_from, allocated });
    }

    /// `cpu_time::give_back` of the specification, of a reservation that goes, and from which nothing is derived.
    pub fn take_time_leaf(&mut self, slot: SlotId, share: impl Fn(u64, u64) -> Share) {
        let leaf = self.get(slot);
        if let Cap::CpuTime { free_from: own_from, .. } = leaf.cap {
            let share = taken(&leaf, share);
            for (above, number) in self.slots.iter_mut().zip(1..) {
                if let Cap::CpuTime { free_from, allocated, .. } = &mut above.cap
                    && SlotId::new(number) == leaf.parent
                {
                    *allocated = Share::new(*allocated).minus(share).get();
                    *free_from = own_from.max(*free_from);
                }
            }
        }
        self.take_leaf(slot);
    }

    /// Of each slot: if it is a reservation, its children have in sum what it says, and that is no more than it may give away.
    fn are_within(&self, share: impl Fn(u64, u64) -> Share) -> [bool; N] {
        let shares = self.slots.map(|record| taken(&record, &share).get());
        let mut holds = [true; N];
        for ((record, number), (own, holds)) in self.slots.iter().zip(1..).zip(shares.iter().zip(&mut holds)) {
            let Cap::CpuTime { allocated, .. } = record.cap else { continue };
            let (mut given, mut has_whole) = (0u64, false);
            for (child, share) in self.slots.iter().zip(shares) {
                let is_child = child.is_full() & (child.parent == SlotId::new(number));
                given = given.wrapping_add(if is_child { share } else { 0 });
                has_whole |= is_child & (share == Share::WHOLE.get());
            }
            // All of it may be given in one piece, and else no more than is its own, and leaves a core its reserve.
            let is_enough = (given <= CAPACITY.get()) | (has_whole & (given == Share::WHOLE.get()));
            *holds = (allocated == given) & (given <= *own) & is_enough;
        }
        holds
    }

    /// Asserts that of each slot.
    fn assert_within(&self) {
        for (holds, number) in self.are_within(budget_itself).into_iter().zip(10..) {
            assert(number, holds);
        }
    }
}

/// A share is at most one unit more than a core: what the programs about sums take as known.
pub fn share_is_bounded<const N: usize>(kernel: &mut Small<N>) {
    kernel.configure(&CONFIG);
    let (budget, period) = (Ticks::new(argument(2)), Ticks::new(argument(3)));
    let found = kernel.limits().share(budget, period);
    assert(1, found.get() <= Share::WHOLE.get() + 1);
    assert(2, found == share(budget.get(), period.get()));
    observe(0, found.get());
}

/// `CpuTime.Split`, from what decoding has checked on.
pub fn split<const N: usize>(kernel: &mut Small<N>) {
    kernel.configure(&CONFIG);
    let mut wanted = begin(kernel, KINDS);
    let (from, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let (budget, period) = (argument(2), argument(3));
    let source = wanted.get(from);
    assume(matches!(source.cap, Cap::CpuTime { .. }) & !wanted.get(to).is_full() & (source.depth < MAX_DEPTH - 1));
    wanted.split_time(from, to, budget, period, share);
    assert(2, carry_out(kernel, Invocation::SplitTime { from, to, budget, period }));
    end(kernel, &wanted);
}

/// What decoding has checked of a Resize.
fn assume_resizable<const N: usize>(state: &State<N>, slot: SlotId) {
    let target = state.get(slot);
    assume(!target.boot & !state.has_children(slot) & state.has(target.parent));
    let above = if state.has(target.parent) { state.get(target.parent) } else { Record::EMPTY };
    assume(matches!(target.cap, Cap::CpuTime { .. }) & matches!(above.cap, Cap::CpuTime { .. }));
}

/// Inputs of a slot that hold these of a reservation.
const BUDGET: u32 = 2;
const ALLOCATED: u32 = 4;

/// An input of a slot of [`any_within`].
fn field(slot: SlotId, number: u32) -> u64 {
    input(slot.get().wrapping_mul(8).wrapping_add(number))
}

/// Any reservations, whose children have in sum what they say, and no more than they can give.
fn any_within<const N: usize>() -> State<N> {
    let mut state = State { slots: [Record::EMPTY; N] };
    for (number, record) in (1..).zip(&mut state.slots) {
        let word = |number_of: u32| field(SlotId::new(number), number_of);
        let (kind, parent, budget) = (word(0), SlotId::new(word(1) as u32), word(BUDGET));
        let reservation = Cap::CpuTime {
            core: CoreId::new(0),
            vcpu: VcpuId::NONE,
            budget,
            period: 0,
            free_from: word(3),
            allocated: word(ALLOCATED),
        };
        let cap = match kind {
            0 => Cap::Null,
            1 => reservation,
            _ => Cap::Machine,
        };
        *record = Record { cap, parent, ..Record::EMPTY };
        assume(budget <= Share::WHOLE.get() + 1);
    }
    let mut is_derived = true;
    for record in &state.slots {
        let has_parent = state.has(record.parent) && state.get(record.parent).is_full();
        is_derived &= !record.is_full() | !record.parent.is_some() | has_parent;
    }
    assume(is_derived);
    assume(state.are_within(budget_itself).iter().all(|holds| *holds));
    state
}

/// The slot that an operation is about: the last of `N`, and its parent the first. The rules use ids to tell slots apart and
/// for nothing else (which the test of the specification looks at), so any two slots are these under other names; and a sum whose last member changes is the rest and that.
const fn slots<const N: usize>() -> (SlotId, SlotId) {
    (SlotId::new(1), SlotId::new(N as u32))
}

/// Split keeps the sums, if there is room.
pub fn split_keeps_sums<const N: usize>(_: &mut Small<N>) {
    let mut state = any_within::<N>();
    let (from, to) = slots::<N>();
    let wanted = argument(2);
    assume((wanted <= Share::WHOLE.get() + 1) & !state.get(to).is_full());
    let (own, given) = (Share::new(field(from, BUDGET)), Share::new(field(from, ALLOCATED)));
    assume(matches!(state.get(from).cap, Cap::CpuTime { .. }) & own.has_room(given, Share::new(wanted)));
    state.split_time(from, to, wanted, 0, budget_itself);
    state.assert_within();
}

/// Resize keeps the sums, if there is room.
pub fn resize_keeps_sums<const N: usize>(_: &mut Small<N>) {
    let mut state = any_within::<N>();
    let (above, slot) = slots::<N>();
    let wanted = argument(2);
    assume(wanted <= Share::WHOLE.get() + 1);
    assume_resizable(&state, slot);
    let target = state.get(slot);
    let (own, given) = (Share::new(field(above, BUDGET)), Share::new(field(above, ALLOCATED)));
    let others = given.minus(Share::new(field(slot, BUDGET)));
    assume((target.parent == above) & own.has_room(others, Share::new(wanted)));
    state.resize_time(slot, wanted, 0, budget_itself);
    state.assert_within();
}

/// What goes keeps the sums.
pub fn end_keeps_sums<const N: usize>(_: &mut Small<N>) {
    let mut state = any_within::<N>();
    let (above, slot) = slots::<N>();
    let target = state.get(slot);
    assume(target.is_full() & !state.has_children(slot) & ((target.parent == above) | !target.parent.is_some()));
    state.take_time_leaf(slot, budget_itself);
    state.assert_within();
}

/// Split keeps no sums if the room is not asked for: the sums must be found to say something.
pub fn split_without_room<const N: usize>(_: &mut Small<N>) {
    let mut state = any_within::<N>();
    let (from, to) = slots::<N>();
    let wanted = argument(2);
    assume((wanted <= Share::WHOLE.get()) & !state.get(to).is_full());
    assume(matches!(state.get(from).cap, Cap::CpuTime { .. }));
    state.split_time(from, to, wanted, 0, budget_itself);
    state.assert_within();
}
