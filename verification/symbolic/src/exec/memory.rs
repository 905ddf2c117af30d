//! Memory: objects of a known size, byte by byte; pointers as sets of places.
//!
//! A pointer may name several places, each under a condition. What is loaded is a choice between what they hold; what is
//! stored goes to each under its condition. Objects never overlap, and no pointer leads from one into another: every access is
//! checked to lie inside of its object (by an obligation where that is not known from the numbers alone).

use super::{Machine, Value};
use crate::term::{Binary, Compare, Node, Term};
use anyhow::{Result, bail};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// A place that a pointer may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// When it is this one.
    pub condition: Term,
    /// Number of the object; 0 for the null pointer and addresses that are none.
    pub object: usize,
    /// Byte in the object: 64 bits.
    pub offset: Term,
}

/// A pointer: exactly one of the places' conditions holds.
pub type Pointer = Vec<Place>;

/// What memory holds before anything is stored.
#[derive(Clone, Debug)]
enum Start {
    /// Nobody knows: unknowns with this name.
    Unknown(String),
    /// These bytes; `None`: any.
    Bytes(Vec<Option<u8>>),
}

/// A piece of memory.
#[derive(Debug)]
pub struct Object {
    size: u64,
    start: Start,
    bytes: FxHashMap<u64, Term>,
    pointers: FxHashMap<u64, Pointer>,
    is_constant: bool,
}

/// At most so many places are looked at for one index.
const MAX_PLACES: u64 = 4096;

impl Machine<'_> {
    /// A new object of which nothing is known.
    pub fn new_object(&mut self, size: u64, name: String) -> usize {
        self.objects.push(Object {
            size,
            start: Start::Unknown(name),
            bytes: FxHashMap::default(),
            pointers: FxHashMap::default(),
            is_constant: false,
        });
        self.objects.len() - 1
    }

    /// A new object that never changes.
    pub(super) fn new_constant(&mut self, bytes: Vec<Option<u8>>) -> usize {
        let size = bytes.len() as u64;
        let object = self.new_object(size, String::new());
        self.objects[object].start = Start::Bytes(bytes);
        self.objects[object].is_constant = true;
        object
    }

    /// A pointer to one place.
    pub fn pointer(&mut self, object: usize, offset: u64) -> Pointer {
        let (condition, offset) = (self.pool.truth(true), self.pool.constant(64, offset.into()));
        vec![Place { condition, object, offset }]
    }

    /// The byte at a place.
    fn byte(&mut self, object: usize, at: u64) -> Term {
        if let Some(&byte) = self.objects[object].bytes.get(&at) {
            return byte;
        }
        let known = match &self.objects[object].start {
            Start::Bytes(bytes) => bytes.get(at as usize).copied().flatten(),
            Start::Unknown(_) => None,
        };
        let byte = match (known, &self.objects[object].start) {
            (Some(byte), _) => self.pool.constant(8, byte.into()),
            (None, Start::Unknown(name)) => {
                let name = format!("{name}.{at}");
                self.pool.variable(8, name)
            }
            (None, Start::Bytes(_)) => self.unknown(8),
        };
        self.objects[object].bytes.insert(at, byte);
        byte
    }

    /// Every place that a pointer may name, as numbers, with its condition. What lies outside of its object is an obligation.
    pub(super) fn places(
        &mut self,
        pointer: &Pointer,
        bytes: u64,
        guard: Term,
        what: &str,
    ) -> Result<Vec<(Term, usize, u64)>> {
        let mut found = Vec::new();
        for place in pointer {
            let reached = self.pool.and(guard, place.condition);
            if self.pool.is_false(reached) {
                continue;
            }
            let size = self.objects[place.object].size;
            if place.object == 0 || size < bytes {
                self.oblige(reached, format!("{what} where no memory is"));
                continue;
            }
            let mut inside = self.pool.truth(false);
            for (offset, condition) in self.offsets(place.offset, size, 1)? {
                if offset <= size - bytes {
                    let both = self.pool.and(place.condition, condition);
                    inside = self.pool.or(inside, condition);
                    if !self.pool.is_false(both) {
                        found.push((both, place.object, offset));
                    }
                }
            }
            let outside = self.pool.not(inside);
            let outside = self.pool.and(reached, outside);
            self.oblige(outside, format!("{what} outside of its object"));
        }
        Ok(found)
    }

    /// The numbers that an offset below `size` may be, each with its condition; `stride`: what it is multiplied by.
    fn offsets(&mut self, offset: Term, size: u64, stride: u64) -> Result<BTreeMap<u64, Term>> {
        if let Some(value) = self.pool.value(offset) {
            return Ok(BTreeMap::from([(value as u64, self.pool.truth(true))]));
        }
        let mut found = BTreeMap::new();
        match *self.pool.node(offset) {
            Node::Binary(Binary::Add, a, b) if self.candidates(offset, 8).is_none() || self.pool.value(b).is_none() => {
                let (a, b) = (self.offsets(a, size, stride)?, self.offsets(b, size, stride)?);
                for (x, first) in a {
                    for (y, second) in &b {
                        let both = self.pool.and(first, *second);
                        self.or_into(&mut found, x.wrapping_add(*y), both);
                    }
                }
            }
            Node::Binary(Binary::Mul, a, b) if self.pool.value(b).is_some() => {
                let factor = self.pool.value(b).unwrap_or(1) as u64;
                for (value, condition) in self.offsets(a, size, stride.wrapping_mul(factor))? {
                    self.or_into(&mut found, value.wrapping_mul(factor), condition);
                }
            }
            Node::Ite(condition, a, b) => {
                let other = self.pool.not(condition);
                for (condition, side) in [(condition, a), (other, b)] {
                    for (value, inner) in self.offsets(side, size, stride)? {
                        let both = self.pool.and(condition, inner);
                        self.or_into(&mut found, value, both);
                    }
                }
            }
            _ => {
                let values = match self.candidates(offset, 16) {
                    Some(values) => values,
                    None => {
                        let count = size.div_ceil(stride);
                        if count > MAX_PLACES {
                            bail!("an index with {count} values into an object of {size} bytes, {stride} bytes apart");
                        }
                        (0..count).collect()
                    }
                };
                for value in values {
                    let number = self.pool.constant(64, value.into());
                    let here = self.pool.eq(offset, number);
                    self.or_into(&mut found, value, here);
                }
            }
        }
        Ok(found)
    }

    /// Adds a condition for a number.
    fn or_into(&mut self, found: &mut BTreeMap<u64, Term>, value: u64, condition: Term) {
        if !self.pool.is_false(condition) {
            let known = found.get(&value).copied();
            let either = known.map_or(condition, |known| self.pool.or(known, condition));
            found.insert(value, either);
        }
    }

    /// The numbers that a term can be, as far as what was compared so far says. It may leave some out: whoever uses it
    /// has to show that it is none of those.
    fn candidates(&self, term: Term, depth: u32) -> Option<Vec<u64>> {
        if let Some(value) = self.pool.value(term) {
            return Some(vec![value as u64]);
        }
        if let Some(&bound) = self.bounds.get(&term) {
            return Some((0..bound).collect());
        }
        let width = self.pool.width(term);
        if width <= 8 {
            return Some((0..1 << width).collect());
        }
        if depth == 0 {
            return None;
        }
        let mut values = match *self.pool.node(term) {
            Node::Zext(inner, _) => self.candidates(inner, depth - 1)?,
            Node::Binary(Binary::Add, inner, other) => {
                let other = self.pool.value(other)? as u64;
                self.candidates(inner, depth - 1)?.into_iter().map(|value| value.wrapping_add(other)).collect()
            }
            Node::Ite(condition, a, b) => {
                let below = match *self.pool.node(condition) {
                    Node::Compare(Compare::Ult, x, bound) if x == a => self.pool.value(bound).map(|bound| bound as u64),
                    _ => None,
                };
                let mut values = match below {
                    Some(bound) if bound <= MAX_PLACES => (0..bound).collect(),
                    _ => self.candidates(a, depth - 1)?,
                };
                values.extend(self.candidates(b, depth - 1)?);
                values
            }
            _ => return None,
        };
        values.sort_unstable();
        values.dedup();
        (values.len() as u64 <= MAX_PLACES).then_some(values)
    }

    /// Remembers what a comparison says of the numbers that a term can be.
    pub(super) fn learn(&mut self, condition: Term) {
        let mut open = vec![condition];
        while let Some(condition) = open.pop() {
            match *self.pool.node(condition) {
                Node::Not(inner) => open.push(inner),
                Node::Binary(Binary::And | Binary::Or, a, b) => open.extend([a, b]),
                Node::Compare(Compare::Ult, term, bound) => {
                    let bound_of = bound;
                    if let Some(bound) = self.pool.value(bound).filter(|bound| *bound <= u128::from(MAX_PLACES)) {
                        let known = self.bounds.entry(term).or_insert(0);
                        *known = (*known).max(bound as u64);
                    }
                    let least = self.pool.value(term).filter(|least| *least < u128::from(MAX_PLACES));
                    if let Some(least) = least {
                        let known = self.bounds.entry(bound_of).or_insert(0);
                        *known = (*known).max(least as u64 + 1);
                    }
                }
                _ => {}
            }
        }
    }

    /// What memory holds: a number of so many bytes.
    pub(super) fn load(&mut self, pointer: &Pointer, bytes: u64, guard: Term) -> Result<Term> {
        let places = self.places(pointer, bytes, guard, "a load")?;
        let mut result: Option<Term> = None;
        for (condition, object, offset) in places {
            let parts: Vec<Term> = (0..bytes).map(|byte| self.byte(object, offset + byte)).collect();
            let word = self.pool.join(&parts);
            result = Some(match result {
                None => word,
                Some(others) => self.pool.ite(condition, word, others),
            });
        }
        Ok(match result {
            Some(word) => word,
            None => self.unknown(bytes as u32 * 8),
        })
    }

    /// Puts a number into memory.
    pub(super) fn store(&mut self, pointer: &Pointer, value: Term, guard: Term) -> Result<()> {
        let bytes = u64::from(self.pool.width(value).div_ceil(8));
        let value = self.pool.zext(value, bytes as u32 * 8);
        for (condition, object, offset) in self.places(pointer, bytes, guard, "a store")? {
            let reached = self.pool.and(guard, condition);
            if self.objects[object].is_constant {
                self.oblige(reached, "a store to what never changes".into());
                continue;
            }
            for byte in 0..bytes {
                let part = self.pool.extract(value, byte as u32 * 8 + 7, byte as u32 * 8);
                self.set_byte(object, offset + byte, part, reached);
            }
        }
        Ok(())
    }

    fn set_byte(&mut self, object: usize, at: u64, value: Term, guard: Term) {
        let value = if self.pool.is_true(guard) {
            value
        } else {
            let old = self.byte(object, at);
            self.pool.ite(guard, value, old)
        };
        self.objects[object].bytes.insert(at, value);
    }

    /// A pointer that memory holds.
    pub(super) fn load_pointer(&mut self, pointer: &Pointer, guard: Term) -> Result<Value> {
        let mut result: Pointer = Vec::new();
        for (condition, object, offset) in self.places(pointer, 8, guard, "a load")? {
            let Some(held) = self.objects[object].pointers.get(&offset).cloned() else {
                return Ok(Value::Unknown);
            };
            for place in held {
                let condition = self.pool.and(condition, place.condition);
                result.push(Place { condition, ..place });
            }
        }
        Ok(Value::Pointer(result))
    }

    /// Puts a pointer into memory.
    pub(super) fn store_pointer(&mut self, pointer: &Pointer, value: &Pointer, guard: Term) -> Result<()> {
        for (condition, object, offset) in self.places(pointer, 8, guard, "a store")? {
            let reached = self.pool.and(guard, condition);
            let mut held: Pointer = Vec::new();
            for place in value {
                let condition = self.pool.and(reached, place.condition);
                held.push(Place { condition, ..place.clone() });
            }
            if !self.pool.is_true(reached) {
                let other = self.pool.not(reached);
                for place in self.objects[object].pointers.get(&offset).cloned().unwrap_or_default() {
                    let condition = self.pool.and(other, place.condition);
                    held.push(Place { condition, ..place });
                }
            }
            held.retain(|place| !self.pool.is_false(place.condition));
            self.objects[object].pointers.insert(offset, held);
        }
        Ok(())
    }

    /// Copies bytes; source and destination may overlap.
    pub(super) fn copy(&mut self, to: &Pointer, from: &Pointer, bytes: u64, guard: Term) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let sources = self.places(from, bytes, guard, "a copy")?;
        let mut copied = Vec::with_capacity(bytes as usize);
        for byte in 0..bytes {
            let mut value: Option<Term> = None;
            for &(condition, object, offset) in &sources {
                let own = self.byte(object, offset + byte);
                value = Some(match value {
                    None => own,
                    Some(others) => self.pool.ite(condition, own, others),
                });
            }
            copied.push(match value {
                Some(value) => value,
                None => self.unknown(8),
            });
        }
        // Pointers in what is copied go along, where there is one source.
        let mut held = Vec::new();
        if let [(_, object, offset)] = sources[..] {
            let pointers = &self.objects[object].pointers;
            held.extend((0..bytes).filter_map(|byte| Some((byte, pointers.get(&(offset + byte))?.clone()))));
        } else if sources.iter().any(|(_, object, _)| !self.objects[*object].pointers.is_empty()) {
            bail!("a copy of pointers from several places");
        }
        for (condition, object, offset) in self.places(to, bytes, guard, "a copy")? {
            let reached = self.pool.and(guard, condition);
            for (byte, value) in copied.iter().enumerate() {
                self.set_byte(object, offset + byte as u64, *value, reached);
            }
            for (byte, pointer) in &held {
                let place = self.pointer(object, offset + byte);
                self.store_pointer(&place, pointer, reached)?;
            }
        }
        Ok(())
    }

    /// Fills bytes with one value.
    pub(super) fn fill(&mut self, to: &Pointer, value: Term, bytes: u64, guard: Term) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        for (condition, object, offset) in self.places(to, bytes, guard, "a fill")? {
            let reached = self.pool.and(guard, condition);
            for byte in 0..bytes {
                self.set_byte(object, offset + byte, value, reached);
            }
        }
        Ok(())
    }
}
