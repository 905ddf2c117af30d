//! What decides the hits: the least-recently-used rule, and how many pages the cache had when.
//!
//! [`Rule`] is used by the application and by [`simulate`], so given the same sizes both have the same hits. The
//! application's report can be read back with [`Report::parse`] and simulated on the host.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use lru::LruCache;

/// A cache of a changing number of places that evicts what was not used for longest. `P` is what a place is.
#[derive(Debug)]
pub struct Rule<P> {
    entries: LruCache<u64, P>,
    capacity: usize,
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<P> {
    /// It is here.
    Hit(P),
    /// It goes into this place, which was another key's before.
    Reuse(P),
    /// There is room: give it a place with [`Rule::insert`].
    Room,
    /// The cache has no place at all.
    None,
}

impl<P: Copy + PartialEq> Rule<P> {
    /// An empty cache without places.
    pub fn new() -> Rule<P> {
        Rule { entries: LruCache::unbounded(), capacity: 0 }
    }

    /// Looks a key up. After `Room` the key must be inserted.
    pub fn access(&mut self, key: u64) -> Access<P> {
        if let Some(place) = self.entries.get(&key) {
            return Access::Hit(*place);
        }
        if self.capacity == 0 {
            return Access::None;
        }
        if self.entries.len() < self.capacity {
            return Access::Room;
        }
        match self.entries.pop_lru() {
            Some((_, place)) => {
                self.entries.push(key, place);
                Access::Reuse(place)
            }
            None => Access::None,
        }
    }

    /// Gives a key its place.
    pub fn insert(&mut self, key: u64, place: P) {
        self.entries.push(key, place);
    }

    /// Changes the number of places, and hands over those that become free.
    pub fn resize(&mut self, capacity: usize, mut freed: impl FnMut(P)) {
        self.capacity = capacity;
        while self.entries.len() > capacity {
            if let Some((_, place)) = self.entries.pop_lru() {
                freed(place);
            }
        }
    }

    /// The number of places.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// True if some key has this place. Looks at all of them.
    pub fn has(&self, place: P) -> bool {
        self.entries.iter().any(|(_, other)| *other == place)
    }

    /// Every key with its place, which may be exchanged.
    pub fn places(&mut self) -> impl Iterator<Item = (u64, &mut P)> {
        self.entries.iter_mut().map(|(&key, place)| (key, place))
    }
}

impl<P: Copy + PartialEq> Default for Rule<P> {
    fn default() -> Rule<P> {
        Rule::new()
    }
}

/// From access `position` on (counted from 0) the cache had `pages` pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Accesses before.
    pub position: u64,
    /// Pages, each with one object.
    pub pages: u32,
}

/// Hits of a cache that had these sizes (in the order of their positions) on these keys.
pub fn simulate(keys: impl Iterator<Item = u64>, sizes: &[Size]) -> u64 {
    let mut rule = Rule::new();
    let mut sizes = sizes.iter().peekable();
    let mut hits = 0;
    for (position, key) in (0..).zip(keys) {
        while let Some(size) = sizes.next_if(|size| size.position <= position) {
            rule.resize(size.pages as usize, |()| {});
        }
        match rule.access(key) {
            Access::Hit(()) => hits += 1,
            Access::Room => rule.insert(key, ()),
            Access::Reuse(()) | Access::None => {}
        }
    }
    hits
}

/// What the application writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Accesses.
    pub accesses: u64,
    /// Hits among them.
    pub hits: u64,
    /// Every change of the size.
    pub sizes: Vec<Size>,
}

impl Report {
    /// Takes note of a size. Several at one position are one, except that a growth after a shrink stays apart: what was
    /// evicted in between does not come back.
    pub fn size(&mut self, position: u64, pages: u32) {
        let before = self.sizes.len().checked_sub(2).map_or(0, |at| self.sizes[at].pages);
        match self.sizes.last_mut() {
            Some(last) if last.position == position && (pages <= last.pages || last.pages >= before) => {
                last.pages = pages;
            }
            _ => self.sizes.push(Size { position, pages }),
        }
    }

    /// The report as a text: `accesses N`, `hits N`, `position pages`, then a line of two numbers for each size.
    pub fn write(&self, out: &mut impl Write) -> core::fmt::Result {
        writeln!(out, "accesses {}\nhits {}\nposition pages", self.accesses, self.hits)?;
        self.sizes.iter().try_for_each(|size| writeln!(out, "{} {}", size.position, size.pages))
    }

    /// Reads a report back. `None` if it is none.
    pub fn parse(text: &str) -> Option<Report> {
        let mut lines = text.lines();
        let accesses = lines.next()?.strip_prefix("accesses ")?.parse().ok()?;
        let hits = lines.next()?.strip_prefix("hits ")?.parse().ok()?;
        if lines.next()? != "position pages" {
            return None;
        }
        let size = |line: &str| {
            let (position, pages) = line.split_once(' ')?;
            Some(Size { position: position.parse().ok()?, pages: pages.parse().ok()? })
        };
        let sizes = lines.map(size).collect::<Option<Vec<Size>>>()?;
        Some(Report { accesses, hits, sizes })
    }

    /// The report as a string.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let size = |position, pages| Size { position, pages };
        let keys = [1, 2, 1, 3, 2, 1, 3];
        assert_eq!(simulate(keys.into_iter(), &[]), 0);
        assert_eq!(simulate(keys.into_iter(), &[size(0, 9)]), 4);
        // With two places, 3 evicts 2, 2 evicts 1, and so on: only the first 1 is a hit.
        assert_eq!(simulate(keys.into_iter(), &[size(0, 2)]), 1);
        // Shrunk to one place before the second 1, which stays: it was used last of all but 2.
        assert_eq!(simulate([1, 2, 2, 1].into_iter(), &[size(0, 2), size(2, 1)]), 1);
        assert_eq!(simulate([1, 2, 2, 1].into_iter(), &[size(0, 2), size(2, 1), size(3, 0)]), 1);
    }

    #[test]
    fn a_shrink_and_a_growth_at_one_position_keep_their_order() {
        let size = |position, pages| Size { position, pages };
        let mut report = Report::default();
        for (position, pages) in [(0, 2), (3, 1), (3, 0), (3, 1), (3, 2), (3, 1), (5, 4), (5, 3)] {
            report.size(position, pages);
        }
        assert_eq!(report.sizes, [size(0, 2), size(3, 0), size(3, 1), size(5, 3)]);
        // Both keys were evicted; as one change to 2 pages they would have stayed.
        assert_eq!(simulate([1, 2, 1, 2, 1].into_iter(), &[size(0, 2), size(3, 0), size(3, 2)]), 1);
        assert_eq!(simulate([1, 2, 1, 2, 1].into_iter(), &[size(0, 2), size(3, 2)]), 3);
    }

    #[test]
    fn a_report_reads_back() {
        let mut report = Report { accesses: 10, hits: 3, sizes: Vec::new() };
        report.size(0, 1);
        report.size(0, 2);
        report.size(7, 0);
        assert_eq!(report.sizes.len(), 2);
        assert_eq!(Report::parse(&report.to_text()), Some(report));
        for bad in ["", "accesses 1\nhits x\nposition pages\n", "accesses 1\nhits 1\nposition pages\n3"] {
            assert_eq!(Report::parse(bad), None);
        }
    }
}
