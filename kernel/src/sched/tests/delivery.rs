//! What is admitted is delivered, in every period and to everybody: random reservations, sleeps and resizes, counted apart
//! from the scheduler's own books.

use super::*;

#[test]
fn shares_round_up_and_leave_the_reserve() {
    let limits = Limits::new(HZ, ticks(0));
    assert_eq!(limits.share(ticks(1), ticks(3)).get(), (1_u64 << 32).div_ceil(3));
    assert_eq!(
        LIMITS.share(ticks(MS), ticks(10 * MS)).get(),
        ((MS as u128 + 1_000) << 32).div_ceil(10 * MS as u128) as u64
    );
    assert_eq!(LIMITS.share(ticks(MS), ticks(MS)), Share::WHOLE);
    assert!(LIMITS.share(ticks(MS - 1), ticks(MS)) > Share::WHOLE, "nearly everything and two switches is too much");
    assert!(Share::WHOLE.has_room(Share::ZERO, Share::WHOLE));
    assert!(!Share::WHOLE.has_room(Share::new(1), Share::WHOLE));
    assert!(!CAPACITY.has_room(Share::ZERO, Share::WHOLE));
    assert!(Share::WHOLE.has_room(Share::ZERO, CAPACITY));
    assert!(!Share::WHOLE.has_room(Share::new(1), CAPACITY));
    assert!(CAPACITY.get() * 20 <= Share::WHOLE.get() * 19);
    assert!((CAPACITY.get() + 1) * 20 > Share::WHOLE.get() * 19, "the reserve is no more than 5 %");
}

#[test]
fn what_can_be_sold_fits_and_one_tick_more_does_not_by_much() {
    let mut random = Random::new(7);
    for _ in 0..2_000 {
        let period = ticks(random.within(LIMITS.min_period().get(), LIMITS.max_period().get()));
        let room = Share::new(random.within(1 << 28, CAPACITY.get()));
        let budget = LIMITS.budget_within(room, period);
        assert!(LIMITS.share(budget, period) <= room);
        assert!(LIMITS.share(ticks(budget.get() + 2), period) > room);
    }
}

/// Counts from outside what each Vcpu received in each of its periods.
struct Watched {
    id: ReservationId,
    /// What holds now and what will.
    budget: u64,
    period: u64,
    pending: Option<(u64, u64, u64)>,
    awake: bool,
    /// Awake since before this instant; the count is of the period that contains it.
    awake_since: u64,
    received: u64,
    /// When the count of the present period began.
    counted_from: u64,
}

impl Watched {
    /// Closes the periods that have ended at `now`.
    fn close(&mut self, now: u64, seed: u64) {
        let end = boundary_after(0, self.period, self.counted_from);
        if now < end {
            return;
        }
        assert!(self.received <= self.budget, "seed {seed}: more than its budget in a period");
        let whole = self.awake && self.awake_since <= end - self.period && self.counted_from <= end - self.period;
        if whole {
            assert_eq!(self.received, self.budget, "seed {seed}: a runnable Vcpu came up short at {end}");
        }
        self.received = 0;
        self.counted_from = end;
        if let Some((budget, period, from)) = self.pending
            && from <= end
        {
            (self.budget, self.period, self.pending) = (budget, period, None);
        }
    }
}

/// What a core can be asked for without a switch cost: sets of reservations up to the whole core, exactly.
fn random_set(random: &mut Random, limits: &Limits, room: Share) -> Vec<(u64, u64)> {
    let mut set = Vec::new();
    let mut given = Share::ZERO;
    for _ in 0..random.within(2, 12) {
        let period = random.within(1, 20) * MS;
        let budget = random.within(limits.min_budget().get(), period / 2);
        let share = limits.share(ticks(budget), ticks(period));
        if given.plus(share) <= room {
            given = given.plus(share);
            set.push((budget, period));
        }
    }
    // Fill what is left, so that the core is as full as it may be.
    let period = random.within(5, 20) * MS;
    let budget = limits.budget_within(room.minus(given), ticks(period)).get();
    if budget >= limits.min_budget().get() && budget < period {
        set.push((budget, period));
    }
    set
}

/// EDF on an exact core: every runnable Vcpu has its whole budget in every period, whatever the others do, with the
/// core sold to the last 2^-32.
#[test]
fn every_admitted_reservation_is_delivered_in_every_period() {
    let limits = Limits::new(HZ, ticks(0));
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let set = random_set(&mut random, &limits, Share::WHOLE);
        let mut core = idle(&limits);
        let mut watched: Vec<Watched> = Vec::new();
        for (&(budget, period), number) in set.iter().zip(1..) {
            let id = core.bind(vcpu(number), ticks(budget), ticks(period), ticks(0), ticks(0)).unwrap();
            watched.push(Watched {
                id,
                budget,
                period,
                pending: None,
                awake: false,
                awake_since: 0,
                received: 0,
                counted_from: 0,
            });
        }
        // Half of them never sleep.
        let steady = watched.len() / 2;
        // Who is favoured takes nothing from the others.
        if seed % 2 == 0 {
            core.favour(watched[random.below(watched.len() as u64) as usize].id);
        }
        for one in &mut watched {
            core.wake(one.id, ticks(0), Waker::Neighbour);
            one.awake = true;
        }
        let mut now = 0;
        while now < 200 * MS {
            let decision = core.decide(ticks(now));
            assert!(decision.until.get() > now || core.timers.head != NIL);
            let event = now + random.within(1, 3 * MS);
            let next = watched
                .iter()
                .map(|one| boundary_after(0, one.period, one.counted_from))
                .fold(event.min(decision.until.get()), u64::min)
                .max(now);
            if let Some((id, _)) = decision.run
                && let Some(one) = watched.iter_mut().find(|one| one.id == id)
            {
                one.received += next - now;
            }
            now = next;
            for one in &mut watched {
                one.close(now, seed);
            }
            if now == event && watched.len() > steady {
                let pick = steady + random.below((watched.len() - steady) as u64) as usize;
                let one = &mut watched[pick];
                match random.below(4) {
                    0 if one.awake => {
                        core.block(one.id, NEVER, ticks(now));
                        one.awake = false;
                    }
                    1 if one.pending.is_none() && one.awake => {
                        // Shrinking is always admitted; the new budget holds from the next boundary on.
                        let budget = random.within(limits.min_budget().get(), one.budget);
                        let from = core.resize(one.id, ticks(budget), ticks(one.period), ticks(0), ticks(now)).from;
                        one.pending = Some((budget, one.period, from.get()));
                    }
                    _ if !one.awake => {
                        core.wake(one.id, ticks(now), Waker::Neighbour);
                        one.awake = true;
                        one.awake_since = now;
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(core.worst_shortfall(), ticks(0), "seed {seed}");
    }
}

/// Handing shares on between Vcpus, with the instants that the scheduler names, never takes from a third.
#[test]
fn shares_change_hands_without_loss_to_others() {
    let limits = Limits::new(HZ, ticks(0));
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let steady_period = random.within(1, 10) * MS;
        let mut core = idle(&limits);
        // Two halves; the second changes hands all the time, with periods of any length.
        let steady = core.bind(vcpu(1), ticks(steady_period / 2), ticks(steady_period), ticks(0), ticks(0)).unwrap();
        core.wake(steady, ticks(0), Waker::Neighbour);
        let mut period = random.within(1, 10) * MS;
        let mut holder = core.bind(vcpu(2), ticks(period / 2), ticks(period), ticks(0), ticks(0)).unwrap();
        core.wake(holder, ticks(0), Waker::Neighbour);
        let mut now = 0;
        while now < 300 * MS {
            let decision = core.decide(ticks(now));
            let event = now + random.within(1, 5 * MS);
            now = event.min(decision.until.get());
            if now == event {
                period = random.within(1, 10) * MS;
                if random.below(2) == 0 {
                    let free = core.unbind(holder, ticks(now));
                    holder = core.bind(vcpu(2), ticks(period / 2), ticks(period), free, ticks(now)).unwrap();
                } else {
                    core.resize(holder, ticks(period / 2), ticks(period), ticks(0), ticks(now));
                }
                core.wake(holder, ticks(now), Waker::Neighbour);
            }
        }
        assert_eq!(core.worst_shortfall(), ticks(0), "seed {seed}");
    }
}

/// With switches and late NMIs, sets that passed admission come up short by no more than the lateness itself.
#[test]
fn the_reserve_pays_for_switches_and_late_preemption() {
    const LATE: u64 = 300;
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let set = random_set(&mut random, &LIMITS, CAPACITY);
        let (mut core, ids) = core(&set);
        for id in &ids {
            core.wake(*id, ticks(0), Waker::Neighbour);
        }
        let (mut now, mut last) = (0, None);
        while now < 200 * MS {
            let decision = core.decide(ticks(now));
            if decision.run != last {
                // The switch itself: nobody is charged for it, as after an NMI.
                core.pause(ticks(now));
                now += LIMITS.switch().get();
                last = decision.run;
                continue;
            }
            now = decision.until.get() + random.below(LATE);
        }
        assert!(
            core.worst_shortfall().get() <= LATE + LIMITS.switch().get(),
            "seed {seed}: {:?}",
            core.worst_shortfall()
        );
    }
}

/// What is refused by the stated formula really cannot be delivered: with two switches a period, or without the reserve.
#[test]
fn more_than_the_core_falls_short() {
    let limits = Limits::new(HZ, ticks(0));
    let set = [(5 * MS, 10 * MS), (5 * MS + MS / 10, 10 * MS)];
    let total = set.iter().fold(Share::ZERO, |sum, &(b, p)| sum.plus(limits.share(ticks(b), ticks(p))));
    assert!(total > Share::WHOLE);
    let (mut core, ids) = core(&set);
    for id in ids {
        core.wake(id, ticks(0), Waker::Neighbour);
    }
    let mut now = 0;
    while now < 100 * MS {
        now = core.decide(ticks(now)).until.get();
    }
    assert!(core.worst_shortfall() >= ticks(MS / 10));
}
