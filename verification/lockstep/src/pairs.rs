//! Which errors each label can give, and which of them have been seen.

use std::collections::BTreeSet;

use cap_spec::abi::{Error, LABELS, Label};

/// Pairs of a label and an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeSet<(Label, Error)>);

impl Seen {
    /// Notes a refusal.
    pub fn insert(&mut self, label: Label, error: Error) {
        self.0.insert((label, error));
    }

    /// Takes over what another saw.
    pub fn add(&mut self, other: Seen) {
        self.0.extend(other.0);
    }

    /// Pairs that the ABI says are possible, and that have not been seen.
    pub fn missing(&self) -> Vec<(Label, Error)> {
        possible().into_iter().filter(|pair| !self.0.contains(pair)).collect()
    }

    /// Pairs that have been seen and that the ABI does not know.
    pub fn unknown(&self) -> Vec<(Label, Error)> {
        self.0.iter().filter(|(label, error)| !label.spec().can_fail_with(*error)).copied().collect()
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
            Error::ALL.into_iter().filter(|error| spec.can_fail_with(*error)).map(move |error| (spec.label, error))
        })
        .collect()
}
