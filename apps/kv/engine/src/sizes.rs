//! How many items there are of each size, which `stats sizes` tells while it is on.
//!
//! An item counts from when it is stored while this is on, as in memcached: looking for those that were there before would
//! keep all clients waiting. There are no more rows than items of so many different sizes have room for.

use alloc::collections::BTreeMap;

/// Bytes that sizes are rounded up to.
pub(crate) const STEP: usize = 32;

/// The histogram.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    rows: BTreeMap<u32, u64>,
    /// The number of the histogram, which items in it have; 0 while there is none.
    current: u8,
    last: u8,
}

impl Sizes {
    pub fn is_on(&self) -> bool {
        self.current != 0
    }

    /// The number that an item gets that is stored now.
    pub fn current(&self) -> u8 {
        self.current
    }

    /// Begins a histogram. True if its number may be that of an old one, and is to be taken from all items first.
    pub fn begin(&mut self) -> bool {
        let wraps = self.last == u8::MAX;
        self.last = if wraps { 1 } else { self.last + 1 };
        self.current = self.last;
        wraps
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.current = 0;
        self.rows = BTreeMap::new();
    }

    /// Counts an item of so many bytes.
    pub fn add(&mut self, bytes: usize) {
        *self.rows.entry(row(bytes)).or_default() += 1;
    }

    /// Counts an item with this number no more.
    pub fn subtract(&mut self, number: u8, bytes: usize) {
        if number == 0 || number != self.current {
            return;
        }
        if let Some(count) = self.rows.get_mut(&row(bytes)) {
            *count -= 1;
            if *count == 0 {
                self.rows.remove(&row(bytes));
            }
        }
    }

    /// The first row from this one on: its number, its upper bound in bytes, and how many items are in it.
    pub fn from(&self, first: usize) -> Option<(usize, u64, u64)> {
        let (row, count) = self.rows.range(u32::try_from(first).ok()?..).next()?;
        Some((*row as usize, u64::from(*row) * STEP as u64, *count))
    }
}

fn row(bytes: usize) -> u32 {
    bytes.div_ceil(STEP) as u32
}
