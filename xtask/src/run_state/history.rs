//! What a run has told over time, in a memory that has an end: a run that serves clients has none.

use std::ops::Deref;

/// Most points of a history: more than ten minutes of rounds of 10 ms.
const MOST: usize = 1 << 16;

/// Points in the order of their time, [`MOST`] at most: all of the newest quarter, and of those before, one of so many, evenly
/// from the first one on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<T> {
    points: Vec<T>,
    /// So many are thinned out.
    old: usize,
    /// Of those one in so many is kept.
    stride: usize,
}

impl<T> Default for History<T> {
    fn default() -> History<T> {
        History { points: Vec::new(), old: 0, stride: 1 }
    }
}

impl<T> History<T> {
    /// One more point.
    pub fn push(&mut self, point: T) {
        if self.points.len() >= MOST {
            let (old, stride) = (self.old, self.stride);
            let keeps = |at: usize| at < old || at >= MOST / 4 * 3 || (at - old).is_multiple_of(stride);
            self.old = (0..MOST / 4 * 3).filter(|&at| keeps(at)).count();
            retain(&mut self.points, keeps);
            if self.old > MOST / 2 {
                let old = self.old;
                retain(&mut self.points, |at| at >= old || at.is_multiple_of(2));
                (self.old, self.stride) = (old.div_ceil(2), stride * 2);
            }
        }
        self.points.push(point);
    }
}

/// Keeps the points at some places.
fn retain<T>(points: &mut Vec<T>, keeps: impl Fn(usize) -> bool) {
    let mut places = 0..;
    points.retain(|_| places.next().is_some_and(&keeps));
}

impl<T> Deref for History<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.points
    }
}

impl<'a, T> IntoIterator for &'a History<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.points.iter()
    }
}

impl<T> From<Vec<T>> for History<T> {
    fn from(points: Vec<T>) -> History<T> {
        let mut history = History::default();
        points.into_iter().for_each(|point| history.push(point));
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_without_end_keeps_all_of_the_last_points_and_one_in_so_many_before() {
        let mut history = History::default();
        for point in 0..20 * MOST {
            history.push(point);
            assert!(history.len() <= MOST && history.last() == Some(&point));
        }
        assert_eq!(history.first(), Some(&0));
        assert!(history.is_sorted_by(|a, b| a < b));
        let newest: Vec<usize> = history[history.len() - MOST / 4..].to_vec();
        assert!(newest.windows(2).all(|pair| pair[1] == pair[0] + 1), "all of the last ones are there");
        // Of what is long past as much is left from its beginning as from its end.
        let old = &history[..history.old];
        let most = old.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        let mean = old[old.len() - 1] / old.len();
        assert!(old.len() >= MOST / 4 && most <= 2 * mean, "{} {mean} {most}", old.len());
    }

    #[test]
    fn a_short_history_is_whole() {
        let history = History::from((0..MOST).collect::<Vec<_>>());
        assert_eq!(history.len(), MOST);
    }
}
