//! A program's proof: translated once, then asked of a solver piece by piece.

use crate::evaluate::Evaluation;
use crate::exec::Machine;
use crate::ir::Module;
use crate::smt::{Answer, Solver, query};
use crate::term::Term;
use anyhow::{Context, Result, bail};
use kernel_harness::Program;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a loop goes round at most that does not end by its numbers, beyond the slots of the world.
const UNWIND: usize = 2;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// In words.
    pub what: String,
    /// Cannot all be true at the same time, if the program is right.
    pub terms: Vec<Term>,
    /// There has to be a state: the assumptions are not contradictory.
    pub must_exist: bool,
}

/// What a proof has found.
#[derive(Debug)]
pub struct Proof {
    /// Terms in the formula.
    pub terms: usize,
    /// Things that were shown not to happen.
    pub obligations: usize,
    /// Assertions that were shown to hold.
    pub assertions: usize,
    /// What does not hold, with the inputs that show it.
    pub failures: Vec<String>,
    /// What the solver could not say.
    pub open: Vec<String>,
    /// How long it took.
    pub time: Duration,
}

impl Proof {
    /// True if everything was shown.
    pub fn holds(&self) -> bool {
        self.failures.is_empty() && self.open.is_empty()
    }
}

/// The questions of a program that has been run.
pub fn questions(machine: &mut Machine) -> Vec<Question> {
    let assumptions = machine.assumptions.clone();
    let mut questions = vec![Question { what: "the assumptions".into(), terms: assumptions.clone(), must_exist: true }];
    let conditions: Vec<Term> = machine.obligations.iter().map(|obligation| obligation.condition).collect();
    // With what was assumed before: an obligation counts only with that.
    let obligations = machine.obligations.clone();
    let mut bad = Vec::new();
    for (obligation, condition) in obligations.iter().zip(conditions) {
        let assumed = machine.pool.all(assumptions[..obligation.assumed].iter().copied());
        bad.push(machine.pool.and(assumed, condition));
    }
    let bad = machine.pool.any(bad);
    questions.push(Question {
        what: "no panic, no access outside of memory".into(),
        terms: vec![bad],
        must_exist: false,
    });
    let mut numbers: Vec<u32> = machine.assertions.iter().map(|assertion| assertion.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        let same: Vec<_> = machine.assertions.iter().filter(|other| other.number == number).cloned().collect();
        let mut fails = Vec::new();
        for assertion in same {
            let assumed = machine.pool.all(assumptions[..assertion.assumed].iter().copied());
            fails.push(machine.pool.and(assumed, assertion.fails));
        }
        let fails = machine.pool.any(fails);
        questions.push(Question { what: format!("assertion {number}"), terms: vec![fails], must_exist: false });
    }
    questions
}

/// Proves a program. Files of queries are left in `folder`. One that has a mistake in it is asked only until it is found.
///
/// # Errors
/// What is not understood, and a solver that does not work.
pub fn prove(module: &Module, program: &Program, solver: &Solver, folder: &Path, limit: Duration) -> Result<Proof> {
    let started = Instant::now();
    let mut machine = Machine::new(module, program.slots + UNWIND);
    machine.run(program.name)?;
    let questions = questions(&mut machine);
    let mut inputs: Vec<(u64, Term)> = machine.inputs().collect();
    inputs.sort_unstable();
    let terms: Vec<Term> = inputs.iter().map(|(_, term)| *term).collect();
    let mut proof = Proof {
        terms: machine.pool.len(),
        obligations: machine.obligations.len(),
        assertions: machine.assertions.len(),
        failures: Vec::new(),
        open: Vec::new(),
        time: Duration::ZERO,
    };
    if proof.assertions == 0 {
        bail!("{} asserts nothing", program.name);
    }
    for (number, question) in questions.iter().enumerate() {
        let path = folder.join(format!("{}-{number}.smt2", program.name));
        let text =
            format!("; {} of {}\n{}", question.what, program.name, query(&machine.pool, &question.terms, &terms));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        match (solver.ask(&path, limit)?, question.must_exist) {
            (Answer::Unsatisfiable, false) | (Answer::Satisfiable(_), true) => {}
            (Answer::Unsatisfiable, true) => proof.failures.push("the assumptions exclude every state".into()),
            (Answer::Satisfiable(values), false) => {
                let evaluation = Evaluation::new(&machine.pool, values.iter().copied());
                let broken = machine.obligations.iter().find(|other| evaluation.value(other.condition) == 1);
                let what = match broken {
                    Some(obligation) if number == 1 => obligation.what.clone(),
                    _ => question.what.clone(),
                };
                let shown: Vec<String> = inputs
                    .iter()
                    .map(|(number, term)| (number, evaluation.value(*term)))
                    .filter(|(_, value)| *value != 0)
                    .map(|(number, value)| format!("{number}={value:#x}"))
                    .collect();
                proof.failures.push(format!("{what}, with inputs {}", shown.join(" ")));
                if program.is_wrong {
                    break;
                }
            }
            (Answer::Unknown(why), _) => proof.open.push(format!("{}: {why} ({})", question.what, path.display())),
        }
    }
    proof.time = started.elapsed();
    Ok(proof)
}
