//! The lists of a schedule stay sorted and complete under random use.

use super::*;

/// The lists stay what they claim to be under random use.
#[test]
fn lists_stay_sorted_and_complete() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut core = idle(&LIMITS);
        let mut ids: Vec<ReservationId> = Vec::new();
        let mut now = 0;
        for _ in 0..2_000 {
            now += random.below(MS);
            let pick = random.below(ids.len().max(1) as u64) as usize;
            match random.below(8) {
                0 => {
                    let period = random.within(1, 50) * MS;
                    let budget = random.within(1, period);
                    let from = ticks(now + random.below(MS));
                    ids.extend(core.bind(vcpu(random.next() as u32), ticks(budget), ticks(period), from, ticks(now)));
                    if random.below(4) == 0 {
                        core.favour(ids[ids.len() - 1]);
                    }
                }
                1 if random.below(4) == 0 && !ids.is_empty() => {
                    core.unbind(ids.swap_remove(pick), ticks(now));
                }
                2 if !ids.is_empty() => {
                    let wake_at = if random.below(2) == 0 { NEVER } else { ticks(now + random.below(5 * MS)) };
                    core.block(ids[pick], wake_at, ticks(now));
                }
                3 if !ids.is_empty() => {
                    let period = random.within(1, 50) * MS;
                    core.resize(ids[pick], ticks(random.within(1, period)), ticks(period), ticks(now), ticks(now));
                }
                4 => core.pause(ticks(now)),
                5 | 6 if !ids.is_empty() => {
                    let by = [Waker::Neighbour, Waker::OtherCore, Waker::Interrupt];
                    core.wake(ids[pick], ticks(now), by[random.below(3) as usize]);
                    if random.below(2) == 0 {
                        core.blame(ids[pick]);
                    }
                }
                _ => {
                    core.decide(ticks(now));
                }
            }
            check_lists(&core, seed);
        }
    }
}

pub(super) fn check_lists(core: &Schedule, seed: u64) {
    let mut linked = [0_u8; MAX_RESERVATIONS];
    for (list, ready) in [(core.ready, true), (core.timers, false)] {
        let (mut index, mut before, mut key) = (list.head, NIL, 0);
        while index != NIL {
            let entry = core.entry(index);
            assert_eq!(entry.prev, before, "seed {seed}");
            assert!(entry.key >= key, "seed {seed}: not sorted");
            assert_eq!(entry.state == State::Ready, ready, "seed {seed}");
            assert!(!ready || entry.key == entry.rank(), "seed {seed}");
            linked[index as usize] += 1;
            assert_eq!(linked[index as usize], 1, "seed {seed}: a cycle");
            (before, key, index) = (index, entry.key, entry.next);
        }
        assert_eq!(list.tail, before, "seed {seed}");
        let first = if list.head == NIL { u64::MAX } else { core.entry(list.head).key };
        assert_eq!(list.first, first, "seed {seed}");
    }
    for (entry, count) in core.entries.iter().zip(linked) {
        let expected = match entry.state {
            State::Free => 0,
            State::Ready | State::Depleted => 1,
            State::Blocked => u8::from(entry.key != u64::MAX),
        };
        assert_eq!(count, expected, "seed {seed}");
    }
    assert!(core.current == NIL || core.entry(core.current).state == State::Ready, "seed {seed}");
}
