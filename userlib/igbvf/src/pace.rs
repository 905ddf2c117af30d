//! How a sender goes on whose transmission a PF has closed for a while, as it had used up its rate.
//!
//! Such a PF notices what was sent when it reads its counters, some time later, and an emulated device sends what it is told
//! at once, much faster than a cable. So who was just let through again hands over a batch of frames and waits until the PF
//! may have read, before it hands over the next one. What it may send by its rate it sends all the same; only no burst comes
//! that has to be made up for by a long silence. After [`PACED_NS`] without a closing it sends as it likes.

/// Nanoseconds from one batch to the next; more than a network server takes from one reading to the next.
pub const BATCH_NS: u64 = 300_000;
/// For so many nanoseconds after a closing frames go out by batches.
pub const PACED_NS: u64 = 8 * BATCH_NS;

/// What may go out now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Up to when batches are counted; 0: they are not.
    until_ns: u64,
    /// From when on the next batch may go out.
    next_ns: u64,
    /// Frames of this batch that may still go out.
    left: u32,
}

impl Pace {
    /// A batch has just gone out, which had been kept back by the closing.
    pub fn was_closed(&mut self, now_ns: u64) {
        let (until_ns, next_ns) = (now_ns.saturating_add(PACED_NS), now_ns.saturating_add(BATCH_NS));
        *self = Pace { until_ns, next_ns, left: 0 };
    }

    /// True if a frame may go out; then it counts as one of a batch of so many. `now_ns` is asked only after a closing.
    #[inline]
    pub fn may_send(&mut self, batch: u32, now_ns: impl FnOnce() -> u64) -> bool {
        if self.until_ns == 0 {
            return true;
        }
        if self.left == 0 {
            let now_ns = now_ns();
            if now_ns >= self.until_ns {
                *self = Pace::default();
                return true;
            }
            if now_ns < self.next_ns {
                return false;
            }
            (self.next_ns, self.left) = (now_ns.saturating_add(BATCH_NS), batch);
        }
        self.left = self.left.saturating_sub(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames that go out at this moment.
    fn frames(pace: &mut Pace, now_ns: u64) -> usize {
        (0..100).take_while(|_| pace.may_send(5, || now_ns)).count()
    }

    #[test]
    fn batches_go_out_one_by_one_after_a_closing_and_frames_freely_later() {
        let mut pace = Pace::default();
        assert_eq!(frames(&mut pace, 0), 100);
        pace.was_closed(1_000);
        for batch in 1..8 {
            let due_ns = 1_000 + batch * BATCH_NS;
            assert_eq!(frames(&mut pace, due_ns - 1), 0);
            assert_eq!(frames(&mut pace, due_ns), 5);
        }
        assert_eq!(frames(&mut pace, 1_000 + PACED_NS - 1), 0);
        assert_eq!(frames(&mut pace, 1_000 + PACED_NS), 100);
        assert_eq!(pace, Pace::default());
    }

    #[test]
    fn another_closing_begins_anew() {
        let mut pace = Pace::default();
        pace.was_closed(0);
        pace.was_closed(PACED_NS);
        assert_eq!(frames(&mut pace, PACED_NS + BATCH_NS), 5);
        assert_eq!(frames(&mut pace, PACED_NS + BATCH_NS), 0);
    }
}
