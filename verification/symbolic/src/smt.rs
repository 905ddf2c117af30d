//! Formulas as SMT-LIB 2 text, and the solver that is asked.

use crate::term::{Binary, Compare, Node, Pool, Term};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a solver says of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing makes it true.
    Unsatisfiable,
    /// These values of the variables do, by their numbers.
    Satisfiable(Vec<(usize, u128)>),
    /// It could not say.
    Unknown(String),
}

/// The text that asks whether all of these terms can be true at the same time.
pub fn query(pool: &Pool, terms: &[Term], values_of: &[Term]) -> String {
    let mut text = String::from("(set-logic QF_UFBV)\n");
    text.insert_str(0, "(set-option :produce-models true)\n");
    for (number, name) in pool.functions.iter().enumerate() {
        // All that there are take two words and give one.
        let _ = writeln!(text, "(declare-fun f{number} ((_ BitVec 128) (_ BitVec 128)) (_ BitVec 128)) ; {name}");
    }
    let mut printed = vec![false; pool.len()];
    for &term in terms.iter().chain(values_of) {
        define(pool, term, &mut printed, &mut text);
    }
    for term in terms {
        let _ = writeln!(text, "(assert {})", name(pool, *term));
    }
    text.push_str("(check-sat)\n");
    if !values_of.is_empty() {
        text.push_str("(get-value (");
        for term in values_of {
            let _ = write!(text, "{} ", name(pool, *term));
        }
        text.push_str("))\n");
    }
    text
}

/// A term by its name, or as the number that it is.
fn name(pool: &Pool, term: Term) -> String {
    match *pool.node(term) {
        Node::Constant(1, value) => {
            if value == 1 {
                "true".into()
            } else {
                "false".into()
            }
        }
        Node::Constant(width, value) => format!("(_ bv{value} {width})"),
        _ => format!("t{}", term.number()),
    }
}

fn sort(width: u32) -> String {
    if width == 1 { "Bool".into() } else { format!("(_ BitVec {width})") }
}

/// A term as bits, also where it is a truth value.
fn bits(pool: &Pool, term: Term) -> String {
    let name = name(pool, term);
    if pool.width(term) == 1 { format!("(ite {name} #b1 #b0)") } else { name }
}

/// The terms that a term is made of.
fn parts(pool: &Pool, term: Term) -> Vec<Term> {
    match pool.node(term) {
        Node::Constant(..) | Node::Variable(..) => Vec::new(),
        Node::Not(a) | Node::Extract(a, ..) | Node::Zext(a, _) | Node::Sext(a, _) => vec![*a],
        Node::Binary(_, a, b) | Node::Compare(_, a, b) | Node::Concat(a, b) => vec![*a, *b],
        Node::Ite(c, a, b) => vec![*c, *a, *b],
        Node::Apply(_, _, arguments) => arguments.clone(),
    }
}

/// Writes the definition of a term, after those of its parts.
fn define(pool: &Pool, term: Term, printed: &mut [bool], text: &mut String) {
    let mut open = vec![(term, false)];
    while let Some((term, ready)) = open.pop() {
        if printed[term.number()] {
            continue;
        }
        if !ready {
            open.push((term, true));
            open.extend(parts(pool, term).into_iter().map(|part| (part, false)));
            continue;
        }
        printed[term.number()] = true;
        let width = pool.width(term);
        let n = |term: Term| name(pool, term);
        let body = match pool.node(term) {
            Node::Constant(..) => continue,
            Node::Variable(..) => {
                let _ = writeln!(text, "(declare-const t{} {})", term.number(), sort(width));
                continue;
            }
            Node::Not(a) => format!("({} {})", if width == 1 { "not" } else { "bvnot" }, n(*a)),
            Node::Binary(operation, a, b) => {
                let operator = match (operation, width) {
                    (Binary::And, 1) => "and",
                    (Binary::Or, 1) => "or",
                    (Binary::Xor | Binary::Add | Binary::Sub, 1) => "xor",
                    (Binary::Mul, 1) => "and",
                    (Binary::Add, _) => "bvadd",
                    (Binary::Sub, _) => "bvsub",
                    (Binary::Mul, _) => "bvmul",
                    (Binary::Udiv, _) => "bvudiv",
                    (Binary::Urem, _) => "bvurem",
                    (Binary::And, _) => "bvand",
                    (Binary::Or, _) => "bvor",
                    (Binary::Xor, _) => "bvxor",
                    (Binary::Shl, _) => "bvshl",
                    (Binary::Lshr, _) => "bvlshr",
                    (Binary::Ashr, _) => "bvashr",
                };
                format!("({operator} {} {})", n(*a), n(*b))
            }
            Node::Compare(comparison, a, b) => {
                let operator = match comparison {
                    Compare::Eq => "=",
                    Compare::Ult => "bvult",
                    Compare::Ule => "bvule",
                    Compare::Slt => "bvslt",
                    Compare::Sle => "bvsle",
                };
                if *comparison == Compare::Eq {
                    format!("(= {} {})", n(*a), n(*b))
                } else {
                    format!("({operator} {} {})", bits(pool, *a), bits(pool, *b))
                }
            }
            Node::Ite(c, a, b) => format!("(ite {} {} {})", n(*c), n(*a), n(*b)),
            Node::Concat(a, b) => format!("(concat {} {})", bits(pool, *a), bits(pool, *b)),
            Node::Extract(a, high, low) => {
                let part = format!("((_ extract {high} {low}) {})", n(*a));
                if width == 1 { format!("(= {part} #b1)") } else { part }
            }
            Node::Zext(a, _) => format!("((_ zero_extend {}) {})", width - pool.width(*a), bits(pool, *a)),
            Node::Sext(a, _) => format!("((_ sign_extend {}) {})", width - pool.width(*a), bits(pool, *a)),
            Node::Apply(function, _, arguments) => {
                let arguments: Vec<String> = arguments.iter().map(|argument| n(*argument)).collect();
                format!("(f{function} {})", arguments.join(" "))
            }
        };
        let _ = writeln!(text, "(define-fun t{} () {} {body})", term.number(), sort(width));
    }
}

/// A solver that can be asked.
#[derive(Clone, Debug)]
pub enum Solver {
    /// bitwuzla, by a Python that has it, and the script that asks it.
    Bitwuzla(PathBuf, PathBuf),
    /// z3, by its program.
    Z3(PathBuf),
}

impl Solver {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Solver::Bitwuzla(..) => "bitwuzla",
            Solver::Z3(_) => "z3",
        }
    }

    /// Asks about the query in a file.
    ///
    /// # Errors
    /// It does not start, or says something that is no answer.
    pub fn ask(&self, query: &Path, limit: Duration) -> Result<Answer> {
        let seconds = limit.as_secs().max(1);
        let (program, mut command) = match self {
            Solver::Bitwuzla(python, script) => {
                let mut command = Command::new(python);
                command.arg(script).arg(query).arg(seconds.to_string());
                (python, command)
            }
            Solver::Z3(program) => {
                let mut command = Command::new(program);
                command.arg("-smt2").arg(format!("-T:{seconds}")).arg(query);
                (program, command)
            }
        };
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}; type: cargo xtask setup", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        Ok(match first.trim() {
            "unsat" => Answer::Unsatisfiable,
            "sat" => Answer::Satisfiable(values(rest)),
            "timeout" | "unknown" => Answer::Unknown(format!("no answer in {seconds} s")),
            other => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!("{} says: {other} {rest}{error}", self.name())
            }
        })
    }
}

/// Reads `((t1 #x00) (t2 true) ...)`.
fn values(text: &str) -> Vec<(usize, u128)> {
    let words = text.replace(['(', ')'], " ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let pair = |pair: &[&str]| {
        let number = pair[0].strip_prefix('t')?.parse().ok()?;
        let value = match pair[1] {
            "true" => 1,
            "false" => 0,
            other => match (other.strip_prefix("#x"), other.strip_prefix("#b")) {
                (Some(digits), _) => u128::from_str_radix(digits, 16).ok()?,
                (_, Some(digits)) => u128::from_str_radix(digits, 2).ok()?,
                _ => return None,
            },
        };
        Some((number, value))
    };
    words.chunks_exact(2).filter_map(pair).collect()
}
