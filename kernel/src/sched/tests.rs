//! A core in simulation: single rules, one by one. Beside: its lists under random use (`lists`), what is delivered in the long
//! run (`delivery`), and attackers (`attackers`).

extern crate std;

mod attackers;
mod delivery;
mod lists;

use super::*;
use crate::testing::Random;
use lists::check_lists;
use std::vec::Vec;

const HZ: u64 = 1_000_000_000;
const MS: u64 = HZ / 1_000;
const LIMITS: Limits = Limits::new(HZ, Ticks::new(500));

fn ticks(value: u64) -> Ticks {
    Ticks::new(value)
}

fn vcpu(number: u32) -> VcpuId {
    VcpuId::new(number)
}

/// A core with reservations `(budget, period)` bound at 0, of Vcpus 1, 2, ...
fn core(reservations: &[(u64, u64)]) -> (Schedule, Vec<ReservationId>) {
    core_within(&LIMITS, reservations)
}

/// As [`core`], with other limits.
fn core_within(limits: &Limits, reservations: &[(u64, u64)]) -> (Schedule, Vec<ReservationId>) {
    let mut core = idle(limits);
    let ids = reservations
        .iter()
        .zip(1..)
        .map(|(&(budget, period), number)| {
            core.bind(vcpu(number), ticks(budget), ticks(period), ticks(0), ticks(0)).unwrap()
        })
        .collect();
    (core, ids)
}

/// Decides whenever it is time to; returns how long somebody ran.
fn run(core: &mut Schedule, from: u64, to: u64) -> u64 {
    let (mut now, mut ran) = (from, 0);
    while now < to {
        let decision = core.decide(ticks(now));
        let next = decision.until.get().min(to);
        ran += if decision.run.is_some() { next - now } else { 0 };
        now = next;
    }
    ran
}

#[test]
fn the_earliest_deadline_runs_and_a_spent_budget_ends() {
    let (mut core, ids) = core(&[(4 * MS, 10 * MS), (MS, 5 * MS)]);
    assert!(core.wake(ids[0], ticks(0), Waker::Neighbour));
    assert_eq!(core.decide(ticks(0)), Decision { run: Some((ids[0], vcpu(1))), until: ticks(4 * MS) });
    assert!(core.wake(ids[1], ticks(0), Waker::Neighbour), "an earlier deadline preempts");
    assert_eq!(core.decide(ticks(0)), Decision { run: Some((ids[1], vcpu(2))), until: ticks(MS) });
    assert_eq!(core.decide(ticks(MS)), Decision { run: Some((ids[0], vcpu(1))), until: ticks(5 * MS) });
    // Whoever went has paid for the entry of the next one.
    let entry = LIMITS.entry().get();
    assert_eq!(core.decide(ticks(5 * MS)).until, ticks(5 * MS + entry));
    assert_eq!(core.decide(ticks(5 * MS + entry)).run, Some((ids[1], vcpu(2))));
    assert_eq!(
        core.decide(ticks(6 * MS + 2 * entry)),
        Decision { run: None, until: ticks(10 * MS) },
        "hard: no slack is given away"
    );
    assert_eq!(core.worst_shortfall(), ticks(0));
}

#[test]
fn a_later_deadline_does_not_disturb() {
    let (mut core, ids) = core(&[(MS, 5 * MS), (MS, 10 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    assert!(!core.wake(ids[1], ticks(100), Waker::Neighbour));
    assert!(!core.wake(ids[1], ticks(200), Waker::Neighbour), "it is awake already");
}

#[test]
fn a_whole_core_is_tickless_until_it_is_shared() {
    let (mut core, ids) = core(&[(10 * MS, 10 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    assert_eq!(core.decide(ticks(0)), Decision { run: Some((ids[0], vcpu(1))), until: NEVER });
    let late = 123_456_789;
    assert_eq!(core.decide(ticks(late)), Decision { run: Some((ids[0], vcpu(1))), until: NEVER });
    assert_eq!(core.reservation(ids[0]).unwrap().used, ticks(late));
    assert_eq!(core.worst_shortfall(), ticks(0), "periods that passed unseen were all its own");
    let resized = core.resize(ids[0], ticks(5 * MS), ticks(10 * MS), ticks(0), ticks(late));
    assert_eq!(resized, Resized { from: ticks(130 * MS), disturbed: true });
    assert_eq!(core.decide(ticks(late)).until, ticks(130 * MS));
    // Another one gets what was given back, and the alarm is set for it again.
    let other = core.bind(vcpu(2), ticks(4 * MS), ticks(10 * MS), resized.from, ticks(late)).unwrap();
    core.wake(other, ticks(late), Waker::OtherCore);
    assert_eq!(core.decide(ticks(late)).run, Some((ids[0], vcpu(1))));
    assert_eq!(core.decide(ticks(130 * MS)), Decision { run: Some((other, vcpu(2))), until: ticks(134 * MS) });
    assert_eq!(core.decide(ticks(134 * MS)).run, Some((ids[0], vcpu(1))));
}

/// Instants for which the core comes back are not forgotten for one another.
#[test]
fn the_core_comes_back_for_what_it_was_asked_and_for_the_end_of_a_period() {
    let (mut core, ids) = core(&[(MS, 5 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.decide(ticks(MS));
    core.block(ids[0], NEVER, ticks(2 * MS));
    core.come_back_at(ticks(7 * MS), ticks(2 * MS));
    assert_eq!(core.decide(ticks(2 * MS)), Decision { run: None, until: ticks(5 * MS) });
    assert_eq!(core.decide(ticks(5 * MS)), Decision { run: None, until: ticks(7 * MS) });
    core.come_back_at(ticks(8 * MS), ticks(7 * MS));
    assert_eq!(core.decide(ticks(7 * MS)), Decision { run: None, until: ticks(8 * MS) });
    assert_eq!(core.decide(ticks(8 * MS)), Decision { run: None, until: NEVER });
}

#[test]
fn sleepers_wake_at_their_deadline() {
    let (mut core, ids) = core(&[(MS, 10 * MS)]);
    core.block(ids[0], ticks(3 * MS), ticks(0));
    assert_eq!(core.decide(ticks(0)), Decision { run: None, until: ticks(3 * MS) });
    assert_eq!(core.decide(ticks(3 * MS)).run, Some((ids[0], vcpu(1))));
    core.block(ids[0], ticks(7 * MS), ticks(3 * MS));
    core.block(ids[0], NEVER, ticks(3 * MS));
    assert_eq!(core.decide(ticks(8 * MS)), Decision { run: None, until: NEVER }, "the second sleep has no end");
}

#[test]
fn a_late_waker_gets_its_part_of_the_rest() {
    let (mut core, ids) = core(&[(4 * MS, 10 * MS)]);
    core.wake(ids[0], ticks(5 * MS), Waker::Neighbour);
    assert_eq!(core.reservation(ids[0]).unwrap().remaining.get().next_multiple_of(10), 2 * MS);
}

#[test]
fn waking_for_less_than_a_switch_waits_for_the_next_period() {
    let (mut core, ids) = core(&[(MS, 10 * MS)]);
    core.wake(ids[0], ticks(10 * MS - 1_000), Waker::Neighbour);
    assert_eq!(core.decide(ticks(10 * MS - 1_000)), Decision { run: None, until: ticks(10 * MS) });
    assert_eq!(core.decide(ticks(10 * MS)).until, ticks(11 * MS));
}

#[test]
fn an_overrun_is_taken_off_the_next_period() {
    let (mut core, ids) = core(&[(MS, 5 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    assert_eq!(core.decide(ticks(MS + 300)).run, None);
    assert_eq!(core.decide(ticks(5 * MS)).until, ticks(6 * MS - 300));
}

#[test]
fn an_overrun_is_paid_back_once() {
    let (mut core, ids) = core(&[(MS, 5 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.decide(ticks(MS + 300));
    assert_eq!(run(&mut core, 5 * MS, 10 * MS), MS - 300);
    assert_eq!(run(&mut core, 10 * MS, 15 * MS), MS);
}

#[test]
fn of_equal_deadlines_the_first_to_come_runs_on() {
    let (mut core, ids) = core(&[(MS, 5 * MS), (MS, 5 * MS)]);
    core.wake(ids[1], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    assert!(!core.wake(ids[0], ticks(100), Waker::Neighbour), "each switch costs; admission counts two a period");
    assert_eq!(core.decide(ticks(200)).run, Some((ids[1], vcpu(2))));
}

#[test]
fn of_equal_deadlines_the_favoured_one_runs_first() {
    let (mut core, ids) = core(&[(MS, 10 * MS), (MS, 5 * MS), (2 * MS, 10 * MS)]);
    core.favour(ids[0]);
    core.wake(ids[2], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    assert!(core.wake(ids[0], ticks(100), Waker::Interrupt), "it interrupts");
    assert_eq!(
        core.decide(ticks(100)),
        Decision { run: Some((ids[0], vcpu(1))), until: ticks(100 + ticks_of(MS, 100)) }
    );
    assert!(core.wake(ids[1], ticks(200), Waker::Neighbour), "an earlier deadline is earlier");
    core.decide(ticks(200));
    core.block(ids[1], NEVER, ticks(300));
    assert_eq!(core.decide(ticks(300)).run, Some((ids[0], vcpu(1))));
    core.block(ids[0], ticks(10 * MS), ticks(400));
    // Who was interrupted does not pay for being entered again.
    assert_eq!(core.decide(ticks(400)).until, ticks(2 * MS + 300 + LIMITS.entry().get()));
    // When a period of all begins, it is first, whatever the order of their wake-ups.
    run(&mut core, 400, 9 * MS);
    core.wake(ids[1], ticks(9 * MS), Waker::Neighbour);
    core.decide(ticks(9 * MS));
    assert_eq!(core.decide(ticks(10 * MS)).run, Some((ids[1], vcpu(2))));
    core.block(ids[1], NEVER, ticks(10 * MS));
    assert_eq!(
        core.decide(ticks(10 * MS)),
        Decision { run: Some((ids[0], vcpu(1))), until: ticks(11 * MS + LIMITS.entry().get()) }
    );
    assert!(!core.wake(ids[2], ticks(10 * MS + 1), Waker::Neighbour), "and stays first");
    // Whoever has its place in the schedule next is one of many.
    core.unbind(ids[0], ticks(10 * MS + 2));
    let heir = core.bind(vcpu(4), ticks(MS), ticks(10 * MS), ticks(0), ticks(10 * MS + 2)).unwrap();
    core.decide(ticks(10 * MS + 2));
    assert!(!core.wake(heir, ticks(10 * MS + 3), Waker::Neighbour));
}

/// What is left of a budget in every 10 ms for one that wakes at an instant of the first.
fn ticks_of(budget: u64, now: u64) -> u64 {
    ((u128::from(10 * MS - now) * u128::from(admission::rate_down(budget, 10 * MS))) >> 32) as u64
}

#[test]
fn a_period_that_ends_with_budget_left_is_looked_at() {
    let (mut core, ids) = core(&[(4 * MS, 5 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    // The core was away for 3 ms: an NMI storm, say.
    core.pause(ticks(MS));
    assert_eq!(core.decide(ticks(4 * MS)).until, ticks(5 * MS));
    assert_eq!(core.decide(ticks(5 * MS)).until, ticks(9 * MS));
    assert_eq!(core.worst_shortfall(), ticks(2 * MS + LIMITS.entry().get()));
}

#[test]
fn a_resize_that_is_seen_late_counts_from_its_instant() {
    let (mut core, ids) = core(&[(MS, 2 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.resize(ids[0], ticks(8 * MS), ticks(10 * MS), ticks(2 * MS + 100_000), ticks(MS / 2));
    core.decide(ticks(MS));
    // The period ended at 2 ms; the core looks 200 us later, when the share has been free for 100 us.
    let until = core.decide(ticks(2 * MS + 200_000)).until.get();
    assert_eq!(until.next_multiple_of(10), 2 * MS + 200_000 + 7_900_000 * 8 / 10);
}

#[test]
fn time_after_a_pause_is_not_charged() {
    let (mut core, ids) = core(&[(2 * MS, 5 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.pause(ticks(MS));
    // Nor is the entry that follows it.
    assert_eq!(core.decide(ticks(MS + 700)).until, ticks(2 * MS + 700 + LIMITS.entry().get()));
    assert_eq!(core.reservation(ids[0]).unwrap().used, ticks(MS));
}

#[test]
fn what_is_given_back_is_free_from_the_boundary_on() {
    let (mut core, ids) = core(&[(4 * MS, 10 * MS), (4 * MS, 10 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    assert_eq!(core.unbind(ids[0], ticks(MS)), ticks(10 * MS));
    assert!(core.reservation(ids[0]).is_none());
    let heir = core.bind(vcpu(3), ticks(4 * MS), ticks(10 * MS), ticks(10 * MS), ticks(MS)).unwrap();
    core.wake(heir, ticks(MS), Waker::Neighbour);
    assert_eq!(core.decide(ticks(MS)), Decision { run: None, until: ticks(10 * MS) });
    assert_eq!(core.decide(ticks(10 * MS)).until, ticks(14 * MS));
    // One that slept through the end of its period has nothing that anybody must wait for.
    assert_eq!(core.unbind(ids[1], ticks(12 * MS)), ticks(12 * MS));
}

#[test]
fn a_resize_waits_for_the_share_it_grows_by() {
    let (mut core, ids) = core(&[(MS, 2 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    let resized = core.resize(ids[0], ticks(6 * MS), ticks(8 * MS), ticks(5 * MS), ticks(MS / 2));
    assert_eq!(resized.from, ticks(6 * MS));
    assert_eq!(run(&mut core, MS / 2, 2 * MS), MS / 2);
    assert_eq!(run(&mut core, 2 * MS, 4 * MS), MS);
    assert_eq!(run(&mut core, 4 * MS, 6 * MS), MS);
    // From 6 ms to the boundary of the new period at 8 ms: a quarter of that.
    assert_eq!(run(&mut core, 6 * MS, 8 * MS), 3 * MS / 2);
    assert_eq!(run(&mut core, 8 * MS, 16 * MS), 6 * MS);
}

#[test]
fn what_was_overrun_keeps_the_share_from_the_next_holder() {
    let (mut core, ids) = core(&[(MS, 5 * MS)]);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    // A long hypercall, and then a stop: both are its own.
    core.block(ids[0], NEVER, ticks(MS + 300));
    assert_eq!(
        core.unbind(ids[0], ticks(2 * MS)),
        ticks(5 * MS + (300 + MS - 300) * 5),
        "it paid until it was taken off"
    );
    let mut core = idle(&LIMITS);
    let id = core.bind(vcpu(1), ticks(MS), ticks(5 * MS), ticks(0), ticks(0)).unwrap();
    core.wake(id, ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.block(id, NEVER, ticks(MS + 300));
    core.decide(ticks(MS + 300));
    assert_eq!(core.unbind(id, ticks(2 * MS)), ticks(5 * MS + 300 * 5));
}

#[test]
fn the_end_of_a_sleepers_work_is_its_own() {
    let (mut core, ids) = core(&[(MS, 5 * MS), (MS, 10 * MS)]);
    core.wake(ids[1], ticks(0), Waker::Neighbour);
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.block(ids[0], NEVER, ticks(100));
    core.decide(ticks(250));
    assert_eq!(core.reservation(ids[0]).unwrap().used, ticks(250));
    assert_eq!(core.reservation(ids[1]).unwrap().used, ticks(0));
}

#[test]
fn what_follows_an_nmi_is_charged_to_its_cause() {
    let (mut core, ids) = core(&[(MS, 5 * MS), (MS, 10 * MS)]);
    core.wake(ids[1], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.wake(ids[0], ticks(100), Waker::OtherCore);
    core.blame(ids[0]);
    core.pause(ticks(150));
    // Stopped before the core could turn to it.
    core.block(ids[0], NEVER, ticks(500));
    assert_eq!(core.decide(ticks(900)).run, Some((ids[1], vcpu(2))));
    let used = |core: &Schedule, id| core.reservation(id).unwrap().used;
    assert_eq!((used(&core, ids[0]), used(&core, ids[1])), (ticks(750), ticks(150)));
    // The entry of the one that was interrupted is the reserve's; the next NMI has no cause but the core's own alarm.
    core.pause(ticks(2_000));
    core.decide(ticks(2_500));
    assert_eq!(used(&core, ids[1]), ticks(150 + 1_100 - LIMITS.entry().get()));
    core.blame_current();
    core.pause(ticks(3_000));
    core.decide(ticks(3_400));
    assert_eq!(used(&core, ids[1]), ticks(150 + 2_000 - 2 * LIMITS.entry().get()), "its own cause: nothing is spared");
}

#[test]
fn only_wake_ups_that_interrupt_somebody_again_in_a_period_cost_a_fee() {
    let fee = LIMITS.switch().get();
    let (mut core, ids) = core(&[(4 * MS, 8 * MS), (MS, 16 * MS), (MS, 4 * MS)]);
    let left = |core: &Schedule| core.reservation(ids[0]).unwrap().remaining.get();
    let again = |core: &mut Schedule, at: u64, by| {
        core.block(ids[0], NEVER, ticks(at));
        core.decide(ticks(at));
        core.wake(ids[0], ticks(at), by);
        core.decide(ticks(at));
        left(core)
    };
    core.wake(ids[0], ticks(0), Waker::Interrupt);
    core.decide(ticks(0));
    assert_eq!(left(&core), 4 * MS, "the first one");
    assert_eq!(again(&mut core, 0, Waker::Interrupt), 4 * MS, "nobody else wanted the core");
    core.wake(ids[1], ticks(0), Waker::Interrupt);
    // Each time that it goes, it pays for the entry of the other one.
    let entry = LIMITS.entry().get();
    assert_eq!(again(&mut core, 0, Waker::Neighbour), 4 * MS - entry, "the current one woke it");
    assert_eq!(again(&mut core, 0, Waker::OtherCore), 4 * MS - 2 * entry, "another core's doing");
    assert_eq!(again(&mut core, 0, Waker::Interrupt), 4 * MS - 3 * entry - fee);
    core.wake(ids[2], ticks(0), Waker::Interrupt);
    assert_eq!(again(&mut core, 0, Waker::Interrupt), 4 * MS - 4 * entry - fee, "it has to wait");
}

#[test]
fn an_alarm_is_paid_for_when_it_is_ordered_but_the_first_in_a_period() {
    let alarm = LIMITS.alarm().get();
    assert_eq!(alarm, 3 * LIMITS.entry().get());
    let (mut core, ids) = core(&[(MS, 5 * MS), (10 * MS, 10 * MS)]);
    let left = |core: &Schedule, of: usize| core.reservation(ids[of]).unwrap().remaining.get();
    core.wake(ids[0], ticks(0), Waker::Neighbour);
    let sleep = |core: &mut Schedule, until, at| {
        core.decide(ticks(at));
        core.block(ids[0], until, ticks(at));
        core.wake(ids[0], ticks(at), Waker::Neighbour);
        left(core, 0)
    };
    assert_eq!(sleep(&mut core, NEVER, 0), MS, "no alarm");
    assert_eq!(sleep(&mut core, ticks(MS), 0), MS, "the first one");
    assert_eq!(sleep(&mut core, ticks(MS), 0), MS - alarm);
    assert_eq!(sleep(&mut core, NEVER, 0), MS - alarm);
    assert_eq!(sleep(&mut core, ticks(2 * MS), 0), MS - 2 * alarm, "it did not come, and is paid for");
    core.block(ids[0], NEVER, ticks(0));
    core.decide(ticks(0));
    core.wake(ids[0], ticks(5 * MS), Waker::Neighbour);
    assert_eq!(sleep(&mut core, ticks(6 * MS), 5 * MS), MS, "the first one of the next period");
    assert_eq!(sleep(&mut core, ticks(6 * MS), 5 * MS), MS - alarm);
    core.block(ids[0], NEVER, ticks(5 * MS));
    // Who has the whole core takes nothing from anybody.
    core.wake(ids[1], ticks(10 * MS), Waker::Neighbour);
    for _ in 0..2 {
        core.decide(ticks(10 * MS));
        core.block(ids[1], ticks(11 * MS), ticks(10 * MS));
        core.wake(ids[1], ticks(10 * MS), Waker::Neighbour);
    }
    assert_eq!(left(&core, 1), 10 * MS);
}

#[test]
fn who_causes_a_switch_pays_for_it() {
    let entry = LIMITS.entry().get();
    let (mut core, ids) = core(&[(MS, 5 * MS), (2 * MS, 10 * MS)]);
    let books = |core: &Schedule| [0, 1].map(|id: usize| core.reservation(ids[id]).unwrap().remaining.get());
    for id in &ids {
        core.wake(*id, ticks(0), Waker::Neighbour);
    }
    core.decide(ticks(0));
    core.block(ids[0], NEVER, ticks(1_000));
    core.decide(ticks(1_200));
    core.wake(ids[0], ticks(3_000), Waker::Neighbour);
    core.decide(ticks(3_000));
    let left = [MS - 1_200 - entry, 2 * MS - (1_800 - entry)];
    assert_eq!(books(&core), left, "it slept: the end of its work and the entry of the next are its own");
    core.unloaded(Some(ids[1]), ticks(700), false);
    core.block(ids[0], NEVER, ticks(4_000));
    assert_eq!(
        books(&core),
        [left[0] - 300, left[1] - 700],
        "what was found of the one that was taken off is that one's"
    );
    core.decide(ticks(4_000));
    // An interrupt for the sleeper is found while its state is taken out.
    core.wake(ids[0], ticks(4_600), Waker::Interrupt);
    core.unloaded(Some(ids[0]), ticks(600), true);
    assert_eq!(core.decide(ticks(4_900)).run, Some((ids[0], vcpu(1))));
    assert_eq!(books(&core)[1], left[1] - 700, "the other one has not run");
}

/// What the kernel looks for on its own behalf is not charged to whoever may have caused the NMI, nor to who runs.
#[test]
fn what_is_nobodys_is_charged_to_nobody() {
    let (mut core, ids) = core(&[(MS, 5 * MS), (2 * MS, 10 * MS)]);
    core.wake(ids[1], ticks(0), Waker::Neighbour);
    core.decide(ticks(0));
    core.pause(ticks(1_000));
    core.exempt(ticks(600));
    core.blame_after(ids[0]);
    core.decide(ticks(1_900));
    let used = |core: &Schedule| [0, 1].map(|id: usize| core.reservation(ids[id]).unwrap().used.get());
    assert_eq!(used(&core), [300, 1_000]);
    let entered = 1_900 + LIMITS.entry().get();
    core.exempt(ticks(500));
    core.decide(ticks(entered + 2_000));
    assert_eq!(used(&core), [300, 1_000 + 1_500]);
}

#[test]
fn many_events_at_once_are_handled_in_pieces() {
    let (mut core, ids) = core(&[(60_000, 10 * MS); MAX_RESERVATIONS]);
    assert!(core.bind(vcpu(999), ticks(60_000), ticks(10 * MS), ticks(0), ticks(0)).is_none());
    for id in ids {
        core.block(id, ticks(10 * MS), ticks(0));
    }
    let mut decisions = 1;
    while core.decide(ticks(10 * MS)).until <= ticks(10 * MS) {
        decisions += 1;
    }
    assert!(decisions == MAX_RESERVATIONS / MAX_EVENTS || decisions == MAX_RESERVATIONS / MAX_EVENTS + 1);
}

/// Handing over is nothing but a sleep, a wake-up and a decision; but who takes over pays for the swap, which is the same
/// for everybody and part of what it is asked for.
#[test]
fn handing_over_is_block_wake_and_decide() {
    let limits = Limits::new(HZ, ticks(19));
    assert_eq!(limits.entry(), ticks(0));
    let mut handed_over = 0;
    for seed in 0..800 {
        let mut random = Random::new(seed);
        let set: Vec<(u64, u64)> = (0..random.within(2, 5))
            .map(|_| {
                let period = random.within(1, 4) * MS;
                (random.within(period / 20, period / 4), period)
            })
            .collect();
        let (mut core, ids) = core_within(&limits, &set);
        if seed % 4 == 0 {
            core.favour(ids[0]);
        }
        let mut now = 0;
        for _ in 0..200 {
            now += random.below(MS / 4);
            let [mut from, to] = [(); 2].map(|()| ids[random.below(ids.len() as u64) as usize]);
            if random.below(4) != 0
                && let Some((current, _)) = core.current()
            {
                from = current;
            }
            let wake_at = if random.below(2) == 0 { NEVER } else { ticks(now + random.below(2 * MS)) };
            let mut fast = core.clone();
            let settled = core.current == from.0 && core.ready.head == from.0 && core.charging;
            if settled && let Some(HandOver { until, used }) = fast.hand_over(from, to, ticks(now)) {
                handed_over += 1;
                core.block(from, NEVER, ticks(now));
                assert_eq!(core.take_used(from).get(), used, "seed {seed}");
                core.wake(to, ticks(now), Waker::Neighbour);
                let decision = core.decide(ticks(now));
                assert_eq!(decision.run.map(|(id, _)| id), Some(to), "seed {seed}");
                assert_eq!(decision.until.get(), until.get(), "seed {seed}");
                for &id in &ids {
                    assert_eq!(core.reservation(id), fast.reservation(id), "seed {seed}");
                }
                assert_eq!(core.current(), fast.current());
                check_lists(&fast, seed);
                core = fast;
            } else {
                for &id in &ids {
                    assert_eq!(core.reservation(id), fast.reservation(id), "seed {seed}: it changed something");
                }
                match random.below(3) {
                    0 => core.block(from, wake_at, ticks(now)),
                    1 => drop(core.wake(to, ticks(now), Waker::Neighbour)),
                    _ => drop(core.decide(ticks(now))),
                }
            }
        }
    }
    assert!(handed_over > 500, "{handed_over}");
}

/// A core without reservations, whose periods count from 0.
fn idle(limits: &Limits) -> Schedule {
    let mut core = Schedule::NEW;
    core.configure(ticks(0), limits);
    core
}
