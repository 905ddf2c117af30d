//! Terms over bit vectors of 1 to 128 bits: what registers and bytes hold after the inputs are left open.
//!
//! Terms are shared: two that are built alike are one, so that a formula is a graph and not a tree. What is built is
//! simplified by rules that hold for every value; a term of one bit is a truth value.

use crate::evaluate::{compare, compute, mask};
use rustc_hash::FxHashMap;

/// A term: its number in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(u32);

impl Term {
    /// Its number.
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// An operation on two terms of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// Sum, modulo 2^width.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient without sign; of 0 all ones, as in SMT-LIB.
    Udiv,
    /// Remainder without sign; of 0 the dividend.
    Urem,
    /// Bits of both.
    And,
    /// Bits of either.
    Or,
    /// Bits of one.
    Xor,
    /// Shifted left; 0 from the width on.
    Shl,
    /// Shifted right, filled with 0.
    Lshr,
    /// Shifted right, filled with the sign.
    Ashr,
}

/// A comparison of two terms of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// The same.
    Eq,
    /// Less, without sign.
    Ult,
    /// Less or the same, without sign.
    Ule,
    /// Less, with sign.
    Slt,
    /// Less or the same, with sign.
    Sle,
}

/// What a term is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A number.
    Constant(u32, u128),
    /// An unknown: its width, and its number among the variables.
    Variable(u32, u32),
    /// All bits inverted.
    Not(Term),
    /// An operation.
    Binary(Binary, Term, Term),
    /// A comparison.
    Compare(Compare, Term, Term),
    /// The second if the first holds, else the third.
    Ite(Term, Term, Term),
    /// The first above the second.
    Concat(Term, Term),
    /// Bits from the second number down to the third.
    Extract(Term, u32, u32),
    /// Filled with 0 up to this width.
    Zext(Term, u32),
    /// Filled with the sign up to this width.
    Sext(Term, u32),
    /// A function of which nothing is known but that it is one: its number, width, and arguments.
    Apply(u32, u32, Vec<Term>),
}

/// All terms.
#[derive(Debug, Default)]
pub struct Pool {
    nodes: Vec<Node>,
    widths: Vec<u32>,
    known: FxHashMap<Node, Term>,
    /// Names of the variables.
    pub variables: Vec<String>,
    /// Names of the functions.
    pub functions: Vec<String>,
    /// What was compared with a number already.
    compared: FxHashMap<(Term, u128), Term>,
    /// What was taken apart and put together already, see `parts`.
    pub(crate) extracted: FxHashMap<(Term, u32, u32), Term>,
    pub(crate) joined: FxHashMap<Vec<Term>, Term>,
}

impl Pool {
    /// No terms.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// What a term is made of.
    pub fn node(&self, term: Term) -> &Node {
        &self.nodes[term.0 as usize]
    }

    /// What the terms are made of, in the order in which they were built: parts come before what is made of them.
    pub fn nodes(&self) -> impl Iterator<Item = (Term, &Node)> {
        (0..).map(Term).zip(&self.nodes)
    }

    /// How many bits a term has.
    pub fn width(&self, term: Term) -> u32 {
        self.widths[term.0 as usize]
    }

    /// How many terms there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn add(&mut self, node: Node, width: u32) -> Term {
        if let Some(&term) = self.known.get(&node) {
            return term;
        }
        let term = Term(self.nodes.len() as u32);
        self.nodes.push(node.clone());
        self.widths.push(width);
        self.known.insert(node, term);
        term
    }

    /// A number.
    pub fn constant(&mut self, width: u32, value: u128) -> Term {
        self.add(Node::Constant(width, mask(width, value)), width)
    }

    /// A truth value.
    pub fn truth(&mut self, value: bool) -> Term {
        self.constant(1, value.into())
    }

    /// The number that a term is, if it is one.
    pub fn value(&self, term: Term) -> Option<u128> {
        match *self.node(term) {
            Node::Constant(_, value) => Some(value),
            _ => None,
        }
    }

    /// True for the truth value `true`.
    pub fn is_true(&self, term: Term) -> bool {
        self.width(term) == 1 && self.value(term) == Some(1)
    }

    /// True for the truth value `false`.
    pub fn is_false(&self, term: Term) -> bool {
        self.width(term) == 1 && self.value(term) == Some(0)
    }

    /// A new unknown.
    pub fn variable(&mut self, width: u32, name: String) -> Term {
        let number = self.variables.len() as u32;
        self.variables.push(name);
        self.add(Node::Variable(width, number), width)
    }

    /// A function of which nothing is known, of these arguments.
    pub fn apply(&mut self, name: &str, width: u32, arguments: Vec<Term>) -> Term {
        let number = match self.functions.iter().position(|known| known == name) {
            Some(number) => number,
            None => {
                self.functions.push(name.into());
                self.functions.len() - 1
            }
        };
        self.add(Node::Apply(number as u32, width, arguments), width)
    }

    /// All bits inverted.
    pub fn not(&mut self, a: Term) -> Term {
        let width = self.width(a);
        match *self.node(a) {
            Node::Constant(_, value) => self.constant(width, !value),
            Node::Not(inner) => inner,
            _ => self.add(Node::Not(a), width),
        }
    }

    fn is_not(&self, a: Term, b: Term) -> bool {
        matches!(*self.node(a), Node::Not(inner) if inner == b)
            || matches!(*self.node(b), Node::Not(inner) if inner == a)
    }

    /// Both hold.
    pub fn and(&mut self, a: Term, b: Term) -> Term {
        self.binary(Binary::And, a, b)
    }

    /// One holds.
    pub fn or(&mut self, a: Term, b: Term) -> Term {
        // g and c, or g and not c: g.
        if let (&Node::Binary(Binary::And, g, c), &Node::Binary(Binary::And, h, d)) = (self.node(a), self.node(b)) {
            if g == h && self.is_not(c, d) {
                return g;
            }
            if g == h {
                let either = self.or(c, d);
                return self.and(g, either);
            }
        }
        self.binary(Binary::Or, a, b)
    }

    /// All hold.
    pub fn all(&mut self, terms: impl IntoIterator<Item = Term>) -> Term {
        let truth = self.truth(true);
        terms.into_iter().fold(truth, |all, term| self.and(all, term))
    }

    /// One of them holds.
    pub fn any(&mut self, terms: impl IntoIterator<Item = Term>) -> Term {
        let falsity = self.truth(false);
        terms.into_iter().fold(falsity, |any, term| self.or(any, term))
    }

    /// An operation.
    pub fn binary(&mut self, operation: Binary, a: Term, b: Term) -> Term {
        let width = self.width(a);
        assert_eq!(width, self.width(b), "{operation:?} of two widths");
        if let (Some(x), Some(y)) = (self.value(a), self.value(b)) {
            return self.constant(width, compute(operation, width, x, y));
        }
        let commutes = matches!(operation, Binary::Add | Binary::Mul | Binary::And | Binary::Or | Binary::Xor);
        // Numbers stand on the right.
        let (a, b) = if commutes && self.value(a).is_some() { (b, a) } else { (a, b) };
        let ones = mask(width, u128::MAX);
        match (operation, self.value(b)) {
            (
                Binary::Add | Binary::Sub | Binary::Or | Binary::Xor | Binary::Shl | Binary::Lshr | Binary::Ashr,
                Some(0),
            ) => return a,
            (Binary::Mul | Binary::And, Some(0)) => return b,
            (Binary::And, Some(value)) if value == ones => return a,
            (Binary::Or, Some(value)) if value == ones => return b,
            (Binary::Xor, Some(value)) if value == ones => return self.not(a),
            (Binary::Mul | Binary::Udiv, Some(1)) => return a,
            (Binary::Sub, Some(value)) => {
                let negative = self.constant(width, value.wrapping_neg());
                return self.binary(Binary::Add, a, negative);
            }
            (Binary::Add, Some(value)) => {
                if let Node::Binary(Binary::Add, inner, other) = *self.node(a)
                    && let Some(other) = self.value(other)
                {
                    let sum = self.constant(width, value.wrapping_add(other));
                    return self.binary(Binary::Add, inner, sum);
                }
            }
            // The lowest bits.
            (Binary::And, Some(value)) if width > 1 && (value + 1).is_power_of_two() => {
                let low = self.extract(a, value.trailing_ones() - 1, 0);
                return self.zext(low, width);
            }
            (Binary::Shl, Some(shift)) if shift < u128::from(width) => {
                let shift = shift as u32;
                let high = self.extract(a, width - 1 - shift, 0);
                let low = self.constant(shift, 0);
                return self.concat(high, low);
            }
            (Binary::Lshr, Some(shift)) if shift < u128::from(width) => {
                let high = self.extract(a, width - 1, shift as u32);
                return self.zext(high, width);
            }
            _ => {}
        }
        if a == b {
            match operation {
                Binary::And | Binary::Or => return a,
                Binary::Sub | Binary::Xor => return self.constant(width, 0),
                _ => {}
            }
        }
        if self.is_not(a, b) {
            match operation {
                Binary::And => return self.constant(width, 0),
                Binary::Or | Binary::Xor => return self.constant(width, ones),
                _ => {}
            }
        }
        if width == 1 && matches!(operation, Binary::And | Binary::Or) {
            for (x, y) in [(a, b), (b, a)] {
                if let Node::Binary(inner, p, q) = *self.node(x)
                    && (p == y || q == y)
                    && matches!(inner, Binary::And | Binary::Or)
                {
                    // x contains y already, or y contains x.
                    return if inner == operation { x } else { y };
                }
            }
        }
        let (a, b) = if commutes && width > 1 && self.value(b).is_none() && a > b { (b, a) } else { (a, b) };
        self.add(Node::Binary(operation, a, b), width)
    }

    /// The same.
    pub fn eq(&mut self, a: Term, b: Term) -> Term {
        self.compare(Compare::Eq, a, b)
    }

    /// A comparison.
    pub fn compare(&mut self, operation: Compare, a: Term, b: Term) -> Term {
        let width = self.width(a);
        assert_eq!(width, self.width(b), "{operation:?} of two widths");
        if let (Some(x), Some(y)) = (self.value(a), self.value(b)) {
            return self.truth(compare(operation, width, x, y));
        }
        if a == b {
            return self.truth(!matches!(operation, Compare::Ult | Compare::Slt));
        }
        if operation == Compare::Eq {
            let (a, b) = if self.value(a).is_some() { (b, a) } else { (a, b) };
            if let Some(value) = self.value(b) {
                return self.is_number(a, value);
            }
            let (a, b) = if a > b { (b, a) } else { (a, b) };
            return self.add(Node::Compare(Compare::Eq, a, b), 1);
        }
        match (operation, self.value(a), self.value(b)) {
            (Compare::Ult, _, Some(0)) => return self.truth(false),
            (Compare::Ult, _, Some(1)) => return self.is_number(a, 0),
            (Compare::Ule, Some(0), _) => return self.truth(true),
            (Compare::Ult, Some(0), _) => {
                let zero = self.is_number(b, 0);
                return self.not(zero);
            }
            _ => {}
        }
        // What is filled with 0 is compared without that, if the other is a number.
        if matches!(operation, Compare::Ult | Compare::Ule) {
            match (self.node(a).clone(), self.value(b)) {
                (Node::Zext(inner, _), Some(value)) => {
                    let narrow = self.width(inner);
                    if value > mask(narrow, u128::MAX) {
                        return self.truth(true);
                    }
                    let value = self.constant(narrow, value);
                    return self.compare(operation, inner, value);
                }
                (Node::Ite(condition, x, y), Some(_)) if self.value(x).is_some() || self.value(y).is_some() => {
                    let (x, y) = (self.compare(operation, x, b), self.compare(operation, y, b));
                    return self.ite(condition, x, y);
                }
                _ => {}
            }
        }
        self.add(Node::Compare(operation, a, b), 1)
    }

    /// True if a term is this number.
    fn is_number(&mut self, a: Term, value: u128) -> Term {
        let width = self.width(a);
        if width == 1 {
            return if value == 1 { a } else { self.not(a) };
        }
        match *self.node(a) {
            Node::Constant(_, own) => self.truth(own == value),
            Node::Zext(inner, _) => {
                let narrow = self.width(inner);
                if value > mask(narrow, u128::MAX) { self.truth(false) } else { self.is_number(inner, value) }
            }
            Node::Binary(Binary::Add, inner, other) if self.value(other).is_some() => {
                let other = self.value(other).unwrap_or(0);
                self.is_number(inner, mask(width, value.wrapping_sub(other)))
            }
            Node::Concat(high, low) => {
                let split = self.width(low);
                let high = self.is_number(high, value >> split);
                let low = self.is_number(low, mask(split, value));
                self.and(high, low)
            }
            Node::Ite(condition, x, y) if self.has_number(x) || self.has_number(y) => {
                // Choices share what they choose from: each is looked at once.
                if let Some(&known) = self.compared.get(&(a, value)) {
                    return known;
                }
                let (x, y) = (self.is_number(x, value), self.is_number(y, value));
                let term = self.ite(condition, x, y);
                self.compared.insert((a, value), term);
                term
            }
            _ => {
                let number = self.constant(width, value);
                self.add(Node::Compare(Compare::Eq, a, number), 1)
            }
        }
    }

    /// True for a number, and for a choice one side of which is one.
    fn has_number(&self, term: Term) -> bool {
        match *self.node(term) {
            Node::Constant(..) => true,
            Node::Ite(_, x, y) => self.value(x).is_some() || self.value(y).is_some(),
            _ => false,
        }
    }

    /// The second if the first holds, else the third.
    pub fn ite(&mut self, condition: Term, a: Term, b: Term) -> Term {
        let width = self.width(a);
        assert_eq!(width, self.width(b), "a choice of two widths");
        if a == b || self.is_true(condition) {
            return a;
        }
        if self.is_false(condition) {
            return b;
        }
        if let Node::Not(inner) = *self.node(condition) {
            return self.ite(inner, b, a);
        }
        if width == 1 {
            match (self.value(a), self.value(b)) {
                (Some(1), _) => return self.or(condition, b),
                (Some(0), _) => {
                    let other = self.not(condition);
                    return self.and(other, b);
                }
                (_, Some(0)) => return self.and(condition, a),
                (_, Some(1)) => {
                    let other = self.not(condition);
                    return self.or(other, a);
                }
                _ => {}
            }
        }
        if let Node::Ite(inner, x, _) = *self.node(a)
            && inner == condition
        {
            return self.ite(condition, x, b);
        }
        if let Node::Ite(inner, x, y) = *self.node(b) {
            if inner == condition {
                return self.ite(condition, a, y);
            }
            if x == a {
                let either = self.or(condition, inner);
                return self.ite(either, a, y);
            }
        }
        self.add(Node::Ite(condition, a, b), width)
    }
}
