//! Which errors each label can give, and which of them have been seen.

use std::collections::BTreeMap;

use cap_spec::abi::{Error, Label};
use cap_spec::spec::LABELS;

/// Pairs of a label and an error that were seen, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<(Label, Error), usize>);

impl Seen {
    /// Notes a refusal.
    pub fn insert(&mut self, label: Label, error: Error) {
        *self.0.entry((label, error)).or_default() += 1;
    }

    /// Takes over what another saw.
    pub fn add(&mut self, other: Seen) {
        for (pair, count) in other.0 {
            *self.0.entry(pair).or_default() += count;
        }
    }

    /// Pairs that the ABI says are possible, and that have not been seen.
    pub fn missing(&self) -> Vec<(Label, Error)> {
        possible().into_iter().filter(|pair| !self.0.contains_key(pair)).collect()
    }

    /// Pairs that have been seen and that the ABI does not know.
    pub fn unknown(&self) -> Vec<(Label, Error)> {
        self.0.keys().filter(|(label, error)| !label.spec().can_fail_with(*error)).copied().collect()
    }

    /// The pairs, those seen most often first.
    pub fn counts(&self) -> Vec<(usize, Label, Error)> {
        let mut counts: Vec<_> = self.0.iter().map(|((label, error), count)| (*count, *label, *error)).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Every pair that the table of labels declares or implies.
pub fn possible() -> Vec<(Label, Error)> {
    LABELS
        .iter()
        .flat_map(|spec| {
            Error::ALL.iter().filter(|error| spec.can_fail_with(**error)).map(move |&error| (spec.label, error))
        })
        .collect()
}
