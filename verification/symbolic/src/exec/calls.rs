//! Calls: of the module's functions, of what the compiler provides, and of the four by which a program speaks to the proof.

use super::{Assertion, Machine, Value, short};
use crate::ir::Type;
use crate::term::{Binary, Compare, Term};
use anyhow::{Result, anyhow, bail};

/// Calls that do nothing that is looked at here.
const WITHOUT_EFFECT: [&str; 5] =
    ["llvm.lifetime.", "llvm.experimental.noalias", "llvm.assume", "llvm.dbg.", "llvm.donothing"];

impl Machine<'_> {
    /// A call by name. `None`: it never comes back.
    pub(super) fn call_or_intrinsic(
        &mut self,
        ty: &Type,
        name: &str,
        arguments: Vec<Value>,
        guard: Term,
    ) -> Result<Option<Value>> {
        if WITHOUT_EFFECT.iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(Some(Value::Unknown));
        }
        if name.contains("9panicking") {
            self.oblige(guard, short(name));
            return Ok(None);
        }
        match name {
            "symbolic_input" => return self.input(arguments).map(Some),
            "symbolic_assume" => {
                let holds = self.argument(&arguments, 0, 1)?;
                let not_here = self.pool.not(guard);
                let assumption = self.pool.or(not_here, holds);
                self.assumptions.push(assumption);
                self.reached.push(guard);
                return Ok(Some(Value::Unknown));
            }
            "symbolic_assert" => {
                let number = self.fixed(&arguments, 0, 32)? as u32;
                let holds = self.argument(&arguments, 1, 1)?;
                let fails = self.pool.not(holds);
                let fails = self.pool.and(guard, fails);
                self.assertions.push(Assertion { number, reached: guard, fails, assumed: self.assumptions.len() });
                return Ok(Some(Value::Unknown));
            }
            "symbolic_observe" => {
                let number = self.fixed(&arguments, 0, 32)? as u32;
                let value = self.argument(&arguments, 1, 64)?;
                self.observed.push((number, guard, value));
                return Ok(Some(Value::Unknown));
            }
            "__udivti3" => {
                // What both sides of a comparison have in common: only that it is a function of its arguments.
                let (a, b) = (self.argument(&arguments, 0, 128)?, self.argument(&arguments, 1, 128)?);
                return Ok(Some(Value::Number(self.pool.apply("udiv128", 128, vec![a, b]))));
            }
            "memcmp" | "bcmp" => bail!("{name} is not known"),
            _ => {}
        }
        if let Some(rest) = name.strip_prefix("llvm.") {
            return self.intrinsic(ty, rest, arguments, guard).map(Some);
        }
        let value = self.call(name, arguments, guard)?;
        Ok(match (value, ty) {
            (Some(value), _) => Some(value),
            (None, _) => None,
        })
    }

    fn argument(&mut self, arguments: &[Value], at: usize, width: u32) -> Result<Term> {
        let value = arguments.get(at).cloned().ok_or_else(|| anyhow!("argument {at} is missing"))?;
        self.number(value, width)
    }

    /// An argument that is a number, not a term.
    fn fixed(&mut self, arguments: &[Value], at: usize, width: u32) -> Result<u128> {
        let term = self.argument(arguments, at, width)?;
        self.pool.value(term).ok_or_else(|| anyhow!("argument {at} has to be a number"))
    }

    fn input(&mut self, arguments: Vec<Value>) -> Result<Value> {
        let number = self.fixed(&arguments, 0, 32)? as u64;
        let term = match self.inputs.get(&number) {
            Some(term) => *term,
            None => {
                let term = self.pool.variable(64, format!("input{number}"));
                self.inputs.insert(number, term);
                term
            }
        };
        Ok(Value::Number(term))
    }

    fn intrinsic(&mut self, ty: &Type, name: &str, arguments: Vec<Value>, guard: Term) -> Result<Value> {
        let kind = name.split(".p0").next().unwrap_or(name);
        let base = name.split('.').next().unwrap_or(name);
        if matches!(base, "memcpy" | "memmove" | "memset") {
            let bytes = self.fixed(&arguments, 2, 64)? as u64;
            let to = self.as_pointer(arguments[0].clone())?;
            if base == "memset" {
                let value = self.argument(&arguments, 1, 8)?;
                self.fill(&to, value, bytes, guard)?;
            } else {
                let from = self.as_pointer(arguments[1].clone())?;
                self.copy(&to, &from, bytes, guard)?;
            }
            return Ok(Value::Unknown);
        }
        let width = name.rsplit('.').next().and_then(|ty| ty.strip_prefix('i')).and_then(|bits| bits.parse().ok());
        let width: u32 = width.ok_or_else(|| anyhow!("llvm.{name} is not known"))?;
        let a = self.argument(&arguments, 0, width)?;
        let two = |machine: &mut Self| machine.argument(&arguments, 1, width);
        let pool = |machine: &mut Self, compare, b| machine.pool.compare(compare, a, b);
        Ok(Value::Number(match kind.trim_end_matches(&format!(".i{width}")) {
            "umin" => {
                let b = two(self)?;
                let less = pool(self, Compare::Ult, b);
                self.pool.ite(less, a, b)
            }
            "umax" => {
                let b = two(self)?;
                let less = pool(self, Compare::Ult, b);
                self.pool.ite(less, b, a)
            }
            "smin" => {
                let b = two(self)?;
                let less = pool(self, Compare::Slt, b);
                self.pool.ite(less, a, b)
            }
            "smax" => {
                let b = two(self)?;
                let less = pool(self, Compare::Slt, b);
                self.pool.ite(less, b, a)
            }
            "uadd.sat" => {
                let b = two(self)?;
                let sum = self.pool.binary(Binary::Add, a, b);
                let overflows = self.pool.compare(Compare::Ult, sum, a);
                let most = self.pool.constant(width, u128::MAX);
                self.pool.ite(overflows, most, sum)
            }
            "usub.sat" => {
                let b = two(self)?;
                let difference = self.pool.binary(Binary::Sub, a, b);
                let underflows = self.pool.compare(Compare::Ult, a, b);
                let zero = self.pool.constant(width, 0);
                self.pool.ite(underflows, zero, difference)
            }
            "uadd.with.overflow" => {
                let b = two(self)?;
                let sum = self.pool.binary(Binary::Add, a, b);
                let overflows = self.pool.compare(Compare::Ult, sum, a);
                return Ok(Value::Aggregate(vec![Value::Number(sum), Value::Number(overflows)]));
            }
            "usub.with.overflow" => {
                let b = two(self)?;
                let difference = self.pool.binary(Binary::Sub, a, b);
                let underflows = self.pool.compare(Compare::Ult, a, b);
                return Ok(Value::Aggregate(vec![Value::Number(difference), Value::Number(underflows)]));
            }
            "umul.with.overflow" => {
                let b = two(self)?;
                let (wide_a, wide_b) = (self.pool.zext(a, width * 2), self.pool.zext(b, width * 2));
                let wide = self.pool.binary(Binary::Mul, wide_a, wide_b);
                let product = self.pool.extract(wide, width - 1, 0);
                let above = self.pool.extract(wide, width * 2 - 1, width);
                let zero = self.pool.constant(width, 0);
                let fits = self.pool.eq(above, zero);
                let overflows = self.pool.not(fits);
                return Ok(Value::Aggregate(vec![Value::Number(product), Value::Number(overflows)]));
            }
            "fshl" | "fshr" => {
                // Two words behind each other, shifted by less than a word (LangRef, llvm.fshl).
                let low = two(self)?;
                let by = self.argument(&arguments, 2, width)?;
                let limit = self.pool.constant(width, width.into());
                let by = self.pool.binary(Binary::Urem, by, limit);
                let by = self.pool.zext(by, width * 2);
                let both = self.pool.concat(a, low);
                if base == "fshl" {
                    let shifted = self.pool.binary(Binary::Shl, both, by);
                    self.pool.extract(shifted, width * 2 - 1, width)
                } else {
                    let shifted = self.pool.binary(Binary::Lshr, both, by);
                    self.pool.extract(shifted, width - 1, 0)
                }
            }
            "ctpop" => {
                let mut sum = self.pool.constant(width, 0);
                for bit in 0..width {
                    let bit = self.pool.extract(a, bit, bit);
                    let bit = self.pool.zext(bit, width);
                    sum = self.pool.binary(Binary::Add, sum, bit);
                }
                sum
            }
            "cttz" | "ctlz" => {
                let mut count = self.pool.constant(width, width.into());
                let bits: Vec<u32> =
                    if kind.starts_with("cttz") { (0..width).rev().collect() } else { (0..width).collect() };
                for bit in bits {
                    let is_set = self.pool.extract(a, bit, bit);
                    let zeros = if kind.starts_with("cttz") { bit } else { width - 1 - bit };
                    let zeros = self.pool.constant(width, zeros.into());
                    count = self.pool.ite(is_set, zeros, count);
                }
                count
            }
            "expect" => a,
            _ => bail!("llvm.{name} of {ty:?} is not known"),
        }))
    }
}
