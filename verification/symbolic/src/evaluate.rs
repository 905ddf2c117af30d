//! What operations make of numbers, and the value of every term for given inputs.

use crate::term::{Binary, Compare, Node, Pool, Term};
use rustc_hash::FxHashMap;

/// The lowest `width` bits of a number.
pub fn mask(width: u32, value: u128) -> u128 {
    if width >= 128 { value } else { value & ((1 << width) - 1) }
}

/// A number of this width with its sign.
pub fn signed(width: u32, value: u128) -> i128 {
    let shift = 128 - width;
    ((value << shift) as i128) >> shift
}

/// What an operation makes of two numbers.
pub fn compute(operation: Binary, width: u32, a: u128, b: u128) -> u128 {
    let shift = u32::try_from(b).ok().filter(|shift| *shift < width);
    let value = match operation {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Udiv => a.checked_div(b).unwrap_or(u128::MAX),
        Binary::Urem => a.checked_rem(b).unwrap_or(a),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl => shift.map_or(0, |shift| a << shift),
        Binary::Lshr => shift.map_or(0, |shift| a >> shift),
        Binary::Ashr => (signed(width, a) >> shift.unwrap_or(width - 1)) as u128,
    };
    mask(width, value)
}

/// What a comparison makes of two numbers.
pub fn compare(operation: Compare, width: u32, a: u128, b: u128) -> bool {
    match operation {
        Compare::Eq => a == b,
        Compare::Ult => a < b,
        Compare::Ule => a <= b,
        Compare::Slt => signed(width, a) < signed(width, b),
        Compare::Sle => signed(width, a) <= signed(width, b),
    }
}

/// The value of every term, for given values of the variables.
#[derive(Debug)]
pub struct Evaluation {
    values: Vec<u128>,
}

impl Evaluation {
    /// Computes all terms. Variables are given by the numbers of their terms; the others are 0.
    pub fn new(pool: &Pool, given: impl IntoIterator<Item = (usize, u128)>) -> Evaluation {
        let given: FxHashMap<usize, u128> = given.into_iter().collect();
        let mut values: Vec<u128> = Vec::with_capacity(pool.len());
        for (term, node) in pool.nodes() {
            let width = pool.width(term);
            let of = |term: &Term| values[term.number()];
            let value = match node {
                Node::Constant(_, value) => *value,
                Node::Variable(..) => given.get(&term.number()).copied().unwrap_or(0),
                Node::Not(a) => !of(a),
                Node::Binary(operation, a, b) => compute(*operation, width, of(a), of(b)),
                Node::Compare(operation, a, b) => compare(*operation, pool.width(*a), of(a), of(b)).into(),
                Node::Ite(c, a, b) => {
                    if of(c) == 1 {
                        of(a)
                    } else {
                        of(b)
                    }
                }
                Node::Concat(a, b) => of(a) << pool.width(*b) | of(b),
                Node::Extract(a, _, low) => of(a) >> low,
                Node::Zext(a, _) => of(a),
                Node::Sext(a, _) => signed(pool.width(*a), of(a)) as u128,
                // The one function that there is: division.
                Node::Apply(_, _, arguments) => of(&arguments[0]).checked_div(of(&arguments[1])).unwrap_or(0),
            };
            values.push(mask(width, value));
        }
        Evaluation { values }
    }

    /// The value of a term.
    pub fn value(&self, term: Term) -> u128 {
        self.values[term.number()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift: the same numbers in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    const BINARIES: [Binary; 11] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Udiv,
        Binary::Urem,
        Binary::And,
        Binary::Or,
        Binary::Xor,
        Binary::Shl,
        Binary::Lshr,
        Binary::Ashr,
    ];
    const COMPARES: [Compare; 5] = [Compare::Eq, Compare::Ult, Compare::Ule, Compare::Slt, Compare::Sle];

    /// Terms are built at random from unknowns and small numbers, and with each the number that it stands for: whatever is
    /// simplified on the way, its value stays that.
    #[test]
    fn simplified_terms_keep_their_values() {
        let mut random = Random(0x1234_5678_9abc_def1);
        for _ in 0..400 {
            let mut pool = Pool::new();
            let mut given = Vec::new();
            let mut terms: Vec<(Term, u128)> = Vec::new();
            for number in 0..6 {
                let width = [1, 8, 8, 16, 64, 1][number];
                let value = mask(width, random.below(u64::MAX).into());
                let term = pool.variable(width, format!("x{number}"));
                given.push((term.number(), value));
                terms.push((term, value));
            }
            for _ in 0..300 {
                let (a, x) = terms[random.below(terms.len() as u64) as usize];
                let width = pool.width(a);
                let same: Vec<(Term, u128)> =
                    terms.iter().copied().filter(|(term, _)| pool.width(*term) == width).collect();
                let (b, y) = same[random.below(same.len() as u64) as usize];
                let made = match random.below(9) {
                    0 | 1 => {
                        let operation = BINARIES[random.below(11) as usize];
                        (pool.binary(operation, a, b), compute(operation, width, x, y))
                    }
                    2 => {
                        let operation = COMPARES[random.below(5) as usize];
                        (pool.compare(operation, a, b), compare(operation, width, x, y).into())
                    }
                    3 => (pool.not(a), mask(width, !x)),
                    4 => {
                        let (condition, holds) = terms[if random.below(2) == 0 { 0 } else { 5 }];
                        (pool.ite(condition, a, b), if holds == 1 { x } else { y })
                    }
                    5 if width * 2 <= 64 => (pool.concat(a, b), x << width | y),
                    6 => {
                        let high = random.below(width.into()) as u32;
                        let low = random.below(u64::from(high) + 1) as u32;
                        (pool.extract(a, high, low), mask(high - low + 1, x >> low))
                    }
                    7 if width < 64 => match random.below(2) {
                        0 => (pool.zext(a, 64), x),
                        _ => (pool.sext(a, 64), mask(64, signed(width, x) as u128)),
                    },
                    _ => {
                        let value = u128::from(random.below(4));
                        (pool.constant(width, value), mask(width, value))
                    }
                };
                terms.push(made);
                if width.is_multiple_of(8) && width > 8 {
                    let bytes: Vec<Term> = (0..width / 8).map(|at| pool.extract(a, at * 8 + 7, at * 8)).collect();
                    terms.push((pool.join(&bytes), x));
                }
            }
            let evaluation = Evaluation::new(&pool, given);
            for (term, value) in terms {
                assert_eq!(evaluation.value(term), value, "{:?}", pool.node(term));
            }
        }
    }
}
