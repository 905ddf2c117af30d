//! Finite structures: for each sort some elements, for each relation the tuples of which it holds.

use crate::term::Sort;
use std::collections::HashMap;

/// Elements that a sort may have at most.
pub const MOST: usize = 256;
const WORDS: usize = MOST / 64;

/// A set of elements of one sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set([u64; WORDS]);

impl Set {
    /// The first `count` elements.
    pub fn first(count: usize) -> Set {
        let mut set = Set::default();
        for (word, bits) in set.0.iter_mut().enumerate() {
            let here = count.saturating_sub(word * 64).min(64);
            *bits = if here == 64 { u64::MAX } else { (1 << here) - 1 };
        }
        set
    }

    /// This element alone.
    pub fn one(element: usize) -> Set {
        let mut set = Set::default();
        set.insert(element);
        set
    }

    /// With this element.
    pub fn insert(&mut self, element: usize) {
        self.0[element / 64] |= 1 << (element % 64);
    }

    /// True if the element is in it.
    pub fn has(&self, element: usize) -> bool {
        self.0[element / 64] >> (element % 64) & 1 != 0
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    fn with(self, other: Set, join: impl Fn(u64, u64) -> u64) -> Set {
        let mut set = self;
        set.0.iter_mut().zip(other.0).for_each(|(left, right)| *left = join(*left, right));
        set
    }

    /// What is in both.
    pub fn and(self, other: Set) -> Set {
        self.with(other, |left, right| left & right)
    }

    /// What is in one or the other.
    pub fn or(self, other: Set) -> Set {
        self.with(other, |left, right| left | right)
    }

    /// What is in this and not in the other.
    pub fn but(self, other: Set) -> Set {
        self.with(other, |left, right| left & !right)
    }

    /// Its elements.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(word, mut bits)| {
            std::iter::from_fn(move || {
                let at = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(word * 64 + at)
            })
        })
    }
}

/// The tuples of which a relation holds: for the arguments but the last, the set of last ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// How many elements the argument before the last has, 1 if there is none.
    rows: usize,
    sets: Vec<Set>,
    /// The other way round, for two arguments.
    turned: Vec<Set>,
}

impl Table {
    /// Of one or two arguments with so many elements, holding of nothing.
    pub fn new(sizes: &[usize]) -> Table {
        match *sizes {
            [_] => Table { rows: 1, sets: vec![Set::default()], turned: Vec::new() },
            [rows, columns] => Table { rows, sets: vec![Set::default(); rows], turned: vec![Set::default(); columns] },
            _ => unreachable!("relations have one or two arguments"),
        }
    }

    /// Makes it hold of a tuple.
    pub fn insert(&mut self, tuple: &[usize]) {
        match *tuple {
            [last] => self.sets[0].insert(last),
            [row, last] => {
                self.sets[row].insert(last);
                self.turned[last].insert(row);
            }
            _ => unreachable!("relations have one or two arguments"),
        }
    }

    /// True if it holds of the tuple.
    pub fn has(&self, tuple: &[usize]) -> bool {
        match *tuple {
            [last] => self.sets[0].has(last),
            [row, last] => self.sets[row].has(last),
            _ => unreachable!("relations have one or two arguments"),
        }
    }

    /// The last arguments with which it holds, after this first one (0 if there is one argument).
    pub fn after(&self, row: usize) -> Set {
        self.sets[row]
    }

    /// The first arguments with which it holds, before this last one.
    pub fn before(&self, last: usize) -> Set {
        self.turned[last]
    }

    /// How many first arguments there are.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// A structure.
#[derive(Clone, Debug)]
pub struct Structure {
    sizes: HashMap<Sort, usize>,
    /// Relations.
    pub tables: HashMap<String, Table>,
    /// Functions to numbers.
    pub numbers: HashMap<String, Vec<i64>>,
    /// Constants: elements, and numbers.
    pub constants: HashMap<String, i64>,
}

impl Structure {
    /// With so many elements of each sort, and nothing said of them.
    pub fn new(sizes: HashMap<Sort, usize>) -> Structure {
        Structure { sizes, tables: HashMap::new(), numbers: HashMap::new(), constants: HashMap::new() }
    }

    /// How many elements a sort has.
    pub fn size(&self, sort: Sort) -> usize {
        sort.elements().map_or_else(|| self.sizes.get(&sort).copied().unwrap_or(0), <[_]>::len)
    }

    /// An empty relation.
    pub fn empty(&self, sorts: &[Sort]) -> Table {
        Table::new(&sorts.iter().map(|sort| self.size(*sort)).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_sets() {
        let all = Set::first(130);
        assert_eq!(all.iter().count(), 130);
        assert!(all.has(129) && !all.has(130));
        let but = all.but(Set::one(128));
        assert_eq!(but.iter().last(), Some(129));
        assert_eq!(but.or(Set::one(128)), all);
        assert!(but.and(Set::one(128)).is_empty());
        assert_eq!(Set::first(MOST).iter().count(), MOST);
    }

    #[test]
    fn a_table_can_be_read_both_ways() {
        let mut table = Table::new(&[3, 70]);
        table.insert(&[2, 69]);
        assert!(table.has(&[2, 69]) && !table.has(&[1, 69]));
        assert_eq!((table.after(2), table.before(69)), (Set::one(69), Set::one(2)));
    }
}
