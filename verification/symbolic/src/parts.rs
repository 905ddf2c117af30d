//! Terms taken apart into bits, and put together of them: memory is bytes, and what is read is often what was written whole.

use crate::evaluate::signed;
use crate::term::{Binary, Node, Pool, Term};

impl Pool {
    /// The first above the second. Either may have no bits: then it is the other.
    pub fn concat(&mut self, high: Term, low: Term) -> Term {
        let (above, below) = (self.width(high), self.width(low));
        if below == 0 {
            return high;
        }
        if above == 0 {
            return low;
        }
        let width = above + below;
        match (self.node(high).clone(), self.node(low).clone()) {
            (Node::Constant(_, x), Node::Constant(_, y)) => return self.constant(width, x << below | y),
            (Node::Constant(_, 0), _) => return self.zext(low, width),
            (Node::Extract(x, top, middle), Node::Extract(y, under, bottom)) if x == y && middle == under + 1 => {
                return self.extract(x, top, bottom);
            }
            _ => {}
        }
        self.add(Node::Concat(high, low), width)
    }

    /// Bits `high` to `low`.
    pub fn extract(&mut self, a: Term, high: u32, low: u32) -> Term {
        if high - low + 1 == self.width(a) {
            return a;
        }
        // Terms share their parts: each is taken apart once. Otherwise every path through choices would be followed.
        if let Some(&known) = self.extracted.get(&(a, high, low)) {
            return known;
        }
        let term = self.extract_anew(a, high, low);
        self.extracted.insert((a, high, low), term);
        term
    }

    fn extract_anew(&mut self, a: Term, high: u32, low: u32) -> Term {
        let width = high - low + 1;
        match *self.node(a) {
            Node::Constant(_, value) => self.constant(width, value >> low),
            Node::Extract(inner, _, offset) => self.extract(inner, high + offset, low + offset),
            Node::Concat(above, below) => {
                let split = self.width(below);
                if low >= split {
                    self.extract(above, high - split, low - split)
                } else if high < split {
                    self.extract(below, high, low)
                } else {
                    let above = self.extract(above, high - split, 0);
                    let below = self.extract(below, split - 1, low);
                    self.concat(above, below)
                }
            }
            Node::Zext(inner, _) => {
                let narrow = self.width(inner);
                if low >= narrow {
                    self.constant(width, 0)
                } else if high < narrow {
                    self.extract(inner, high, low)
                } else {
                    let inner = self.extract(inner, narrow - 1, low);
                    self.zext(inner, width)
                }
            }
            Node::Ite(condition, x, y) => {
                let (x, y) = (self.extract(x, high, low), self.extract(y, high, low));
                self.ite(condition, x, y)
            }
            Node::Binary(operation @ (Binary::And | Binary::Or | Binary::Xor), x, y) => {
                let (x, y) = (self.extract(x, high, low), self.extract(y, high, low));
                self.binary(operation, x, y)
            }
            Node::Not(inner) => {
                let inner = self.extract(inner, high, low);
                self.not(inner)
            }
            Node::Binary(operation @ (Binary::Add | Binary::Mul), x, y) if low == 0 => {
                let (x, y) = (self.extract(x, high, 0), self.extract(y, high, 0));
                self.binary(operation, x, y)
            }
            _ => self.add(Node::Extract(a, high, low), width),
        }
    }

    /// Filled with 0 up to a width.
    pub fn zext(&mut self, a: Term, width: u32) -> Term {
        if self.width(a) == width {
            return a;
        }
        match *self.node(a) {
            Node::Constant(_, value) => self.constant(width, value),
            Node::Zext(inner, _) => self.zext(inner, width),
            _ => self.add(Node::Zext(a, width), width),
        }
    }

    /// Filled with the sign up to a width.
    pub fn sext(&mut self, a: Term, width: u32) -> Term {
        let own = self.width(a);
        if own == width {
            return a;
        }
        match *self.node(a) {
            Node::Constant(_, value) => self.constant(width, signed(own, value) as u128),
            // Its sign is 0.
            Node::Zext(inner, _) => self.zext(inner, width),
            _ => self.add(Node::Sext(a, width), width),
        }
    }

    /// Bytes put together, the lowest first: as whole as they were before they were taken apart.
    pub fn join(&mut self, bytes: &[Term]) -> Term {
        let (&first, rest) = bytes.split_first().expect("there is a byte");
        if rest.is_empty() {
            return first;
        }
        if let Some(&term) = self.joined.get(bytes) {
            return term;
        }
        let mut term = None;
        // Choices by the same condition: one choice between two words.
        if let Some(condition) = bytes.iter().find_map(|byte| match *self.node(*byte) {
            Node::Ite(condition, ..) => Some(condition),
            _ => None,
        }) {
            let is_same = |byte: &Term| match *self.node(*byte) {
                Node::Ite(other, ..) => other == condition,
                _ => true,
            };
            if bytes.iter().all(is_same) {
                let side = |pool: &Pool, is_first: bool| -> Vec<Term> {
                    let pick = |byte: &Term| match *pool.node(*byte) {
                        Node::Ite(_, x, y) => {
                            if is_first {
                                x
                            } else {
                                y
                            }
                        }
                        _ => *byte,
                    };
                    bytes.iter().map(pick).collect()
                };
                let (x, y) = (side(self, true), side(self, false));
                let (x, y) = (self.join(&x), self.join(&y));
                term = Some(self.ite(condition, x, y));
            }
        }
        let term = term.unwrap_or_else(|| rest.iter().fold(first, |low, high| self.concat(*high, low)));
        self.joined.insert(bytes.to_vec(), term);
        term
    }
}
