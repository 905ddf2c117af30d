//! Reads the tables of a scenario key by key and collects every complaint with its place.

use super::tree::{Node, Place, Value};
use super::units;
use market_mechanism::Credits;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// A complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub reason: String,
}

/// Collects complaints.
#[derive(Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Adds one.
    pub fn add(&self, place: Place, reason: impl Into<String>) {
        self.0.borrow_mut().push(Problem { place, reason: reason.into() });
    }

    /// All of them, in the order of their places.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| problem.place);
        problems
    }
}

/// A value with the place that a later complaint about it names.
#[derive(Clone, Copy, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// One table being read. Whatever is not asked for by [`Section::finish`] is an unknown key.
pub struct Section<'a> {
    name: String,
    place: Place,
    entries: BTreeMap<String, Node>,
    asked: RefCell<BTreeSet<&'static str>>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// Reads a node, which must be a table; an absent one reads as empty.
    pub fn new(name: &str, node: Option<Node>, problems: &'a Problems) -> Section<'a> {
        let (place, entries) = match node {
            None => (Place::Line(1), BTreeMap::new()),
            Some(Node { place, value: Value::Table(entries) }) => (place, entries),
            Some(Node { place, value }) => {
                problems.add(place, format!("`{name}` must be a table, not {}", value.kind()));
                (place, BTreeMap::new())
            }
        };
        Section { name: name.to_string(), place, entries, asked: RefCell::default(), problems }
    }

    /// Where the table starts.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes entries whose key satisfies `wanted`, for keys that are data.
    pub fn take_where(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Node)> {
        let keys: Vec<String> = self.entries.keys().filter(|key| wanted(key)).cloned().collect();
        keys.into_iter().filter_map(|key| self.entries.remove(&key).map(|node| (key, node))).collect()
    }

    /// Takes an entry as it is.
    pub fn node(&mut self, key: &'static str) -> Option<Node> {
        self.asked.borrow_mut().insert(key);
        self.entries.remove(key)
    }

    /// The elements of an array of tables.
    pub fn tables(&mut self, key: &'static str) -> Vec<Node> {
        match self.node(key) {
            None => Vec::new(),
            Some(Node { value: Value::List(items), .. }) => items,
            Some(Node { place, value }) => {
                self.problems.add(place, format!("write [[{key}]], not {}", value.kind()));
                Vec::new()
            }
        }
    }

    fn convert<T>(&mut self, key: &'static str, convert: impl FnOnce(Value) -> Result<T, String>) -> Option<Placed<T>> {
        let Node { place, value } = self.node(key)?;
        match convert(value) {
            Ok(value) => Some(Placed { value, place }),
            Err(reason) => {
                self.problems.add(place, format!("`{key}`: {reason}"));
                None
            }
        }
    }

    /// A string.
    pub fn text(&mut self, key: &'static str) -> Option<Placed<String>> {
        self.convert(key, |value| match value {
            Value::Text(text) => Ok(text),
            other => Err(format!("must be a string, not {}", other.kind())),
        })
    }

    /// A whole number in a range.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<Placed<i64>> {
        self.convert(key, |value| match value {
            Value::Integer(number) if range.contains(&number) => Ok(number),
            Value::Integer(number) => Err(format!("{number} is not from {} to {}", range.start(), range.end())),
            other => Err(format!("must be a whole number, not {}", other.kind())),
        })
    }

    /// true or false.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let placed = self.convert(key, |value| match value {
            Value::Boolean(value) => Ok(value),
            other => Err(format!("must be true or false, not {}", other.kind())),
        });
        placed.map(|placed| placed.value)
    }

    /// Credits, not negative.
    pub fn credits(&mut self, key: &'static str) -> Option<Placed<Credits>> {
        self.convert(key, |value| {
            let text = match value {
                Value::Text(text) | Value::Float(text) => text,
                Value::Integer(number) => number.to_string(),
                other => return Err(format!("must be a number of credits, not {}", other.kind())),
            };
            let credits = units::credits(&text)?;
            if credits < Credits::ZERO { Err(format!("{text} is negative")) } else { Ok(credits) }
        })
    }

    /// A duration in milliseconds.
    pub fn milliseconds(&mut self, key: &'static str) -> Option<Placed<u64>> {
        self.unit(key, "a duration such as \"5 s\"", units::milliseconds)
    }

    /// A size in bytes.
    pub fn bytes(&mut self, key: &'static str) -> Option<Placed<u64>> {
        self.unit(key, "a size such as \"512 MiB\"", units::bytes)
    }

    fn unit(
        &mut self,
        key: &'static str,
        what: &str,
        parse: impl FnOnce(&str) -> Result<u64, String>,
    ) -> Option<Placed<u64>> {
        self.convert(key, |value| match value {
            Value::Text(text) => parse(&text),
            other => Err(format!("must be {what}, not {}", other.kind())),
        })
    }

    /// An array of strings.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let placed = self.convert(key, |value| {
            let Value::List(items) = value else {
                return Err(format!("must be an array of strings, not {}", value.kind()));
            };
            let text = |item: Node| match item.value {
                Value::Text(text) => Ok(text),
                Value::Integer(number) => Ok(number.to_string()),
                Value::Float(number) => Ok(number),
                other => Err(format!("must be an array of strings, but one element is {}", other.kind())),
            };
            items.into_iter().map(text).collect()
        });
        placed.map(|placed| placed.value)
    }

    /// Complains about a key that must be there and isn't.
    pub fn missing(&self, key: &str) {
        if !self.problems.0.borrow().iter().any(|problem| problem.reason.starts_with(&format!("`{key}`:"))) {
            self.problems.add(self.place, format!("{} has no `{key}`", self.name));
        }
    }

    /// Complains about every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.asked.into_inner();
        let known: Vec<&str> = asked.into_iter().collect();
        for (key, node) in self.entries {
            self.problems
                .add(node.place, format!("unknown key `{key}` in {}; known are: {}", self.name, known.join(", ")));
        }
    }
}
