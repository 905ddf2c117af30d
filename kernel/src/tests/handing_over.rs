//! Handing a core over is the same as to wake, to block and to decide, one after the other.

use crate::sched::{Limits, NEVER, ReservationId, Schedule};
use crate::testing::Random;
use crate::types::{Ticks, VcpuId};
use std::vec::Vec;

const MS: u64 = 1_000_000;

/// What others can see of a schedule.
fn seen(schedule: &Schedule, ids: &[ReservationId]) -> Vec<std::string::String> {
    let reservations = ids.iter().map(|id| std::format!("{:?}", schedule.reservation(*id)));
    reservations.chain([std::format!("{:?} {:?}", schedule.current(), schedule.worst_shortfall())]).collect()
}

#[test]
fn it_is_waking_blocking_and_deciding_at_once() {
    let limits = Limits::new(1000 * MS, Ticks::new(5000));
    let (mut handed, mut refused) = (0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut schedule = Schedule::new(Ticks::new(0), &limits);
        let mut now = random.below(MS);
        let ids: Vec<ReservationId> = (1..=random.within(2, 5))
            .filter_map(|vcpu| {
                let period = random.within(1, 4) * MS;
                let budget = period / random.within(4, 12);
                let vcpu = VcpuId::new(vcpu as u32);
                schedule.bind(vcpu, Ticks::new(budget), Ticks::new(period), Ticks::new(0), Ticks::new(now))
            })
            .collect();
        for _ in 0..200 {
            now += random.below(MS / 8);
            let at = Ticks::new(now);
            let id = ids[random.below(ids.len() as u64) as usize];
            let wake_at = if random.below(2) == 0 { NEVER } else { Ticks::new(now + random.within(1, MS)) };
            let current = schedule.current().map(|(current, _)| current);
            match (random.below(4), current) {
                (0, _) => {
                    schedule.wake(id, at);
                }
                (1, Some(current)) => schedule.block(current, wake_at, at),
                (2, Some(from)) if from != id => {
                    let mut long = schedule.clone();
                    let until = schedule.hand_over(from, id, wake_at, at);
                    if until.is_none() {
                        refused += 1;
                        assert_eq!(seen(&schedule, &ids), seen(&long, &ids), "seed {seed}: nothing has happened");
                        continue;
                    }
                    handed += 1;
                    long.wake(id, at);
                    long.block(from, wake_at, at);
                    let decision = long.decide(at);
                    assert_eq!(decision.run.map(|(run, _)| run), Some(id), "seed {seed}");
                    assert_eq!(until, Some(decision.until), "seed {seed}");
                    assert_eq!(seen(&schedule, &ids), seen(&long, &ids), "seed {seed}");
                    // And they stay the same.
                    let mut short = schedule.clone();
                    for step in 1..30 {
                        let later = Ticks::new(now + step * MS / 7);
                        assert_eq!(short.decide(later), long.decide(later), "seed {seed}");
                        assert_eq!(seen(&short, &ids), seen(&long, &ids), "seed {seed}");
                    }
                }
                _ => {}
            }
            schedule.decide(at);
        }
    }
    assert!(handed > 300 && refused > 300, "{handed} handed over, {refused} not as simple as that");
}
