//! Formulas as SMT-LIB 2: with quantifiers, for proofs; or spelt out over a finite universe, for models.
//!
//! A proof must hold in every universe, and is left to the solvers' quantifier reasoning. A model need only be found:
//! a universe of a few elements a sort will do, and there every quantifier is a finite conjunction or disjunction.

use crate::operation::{AFTER, Operation, Value};
use crate::term::{Formula, Sort, Term, Variable};
use crate::vocabulary::{Symbol, Vocabulary};
use std::fmt::Write as _;

/// How many elements each open sort has; `None`: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Universe {
    /// Any number.
    Any,
    /// These, in the order of [`Sort::OPEN`].
    Finite([usize; 6]),
}

impl Universe {
    fn size(self, sort: Sort) -> Option<usize> {
        if let Some(elements) = sort.elements() {
            return Some(elements.len());
        }
        match self {
            Universe::Any => None,
            Universe::Finite(sizes) => Sort::OPEN.iter().position(|open| *open == sort).map(|at| sizes[at]),
        }
    }
}

/// A query that is being written.
pub struct Script {
    universe: Universe,
    text: String,
}

fn element(sort: Sort, at: usize) -> String {
    match sort.elements() {
        Some(elements) => elements[at].to_string(),
        None => format!("{}{at}", sort.name()),
    }
}

/// Bound variables and what stands for them in a finite universe.
type Bound = Vec<(Variable, usize)>;

impl Script {
    /// The vocabulary and its sorts, in this universe.
    pub fn new(universe: Universe) -> Script {
        let mut script = Script { universe, text: String::from("(set-logic ALL)\n") };
        for sort in Sort::OPEN {
            script.line(&format!("(declare-sort {} 0)", sort.name()));
        }
        for sort in [Sort::Kind, Sort::Right] {
            let elements: Vec<String> =
                sort.elements().into_iter().flatten().map(|element| format!("({element})")).collect();
            script.line(&format!("(declare-datatypes (({} 0)) (({})))", sort.name(), elements.join(" ")));
        }
        for sort in Sort::OPEN {
            let Some(size) = universe.size(sort) else { continue };
            let names: Vec<String> = (0..size).map(|at| element(sort, at)).collect();
            for name in &names {
                script.line(&format!("(declare-const {name} {})", sort.name()));
            }
            if size > 1 {
                script.line(&format!("(assert (distinct {}))", names.join(" ")));
            }
        }
        for Symbol { name, places, is_number, .. } in &Vocabulary::get().symbols {
            script.declare(name, places, *is_number);
        }
        script
    }

    /// The query's text.
    pub fn finished(mut self) -> String {
        self.line("(check-sat)");
        self.text
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn declare(&mut self, name: &str, places: &[Variable], is_number: bool) {
        let sorts: Vec<&str> = places.iter().map(|place| place.sort.name()).collect();
        let result = if is_number { "Int" } else { "Bool" };
        self.line(&format!("(declare-fun {name} ({}) {result})", sorts.join(" ")));
    }

    /// A remark.
    pub fn remark(&mut self, text: &str) {
        self.line(&format!("; {text}"));
    }

    /// What is true.
    pub fn assert(&mut self, formula: &Formula) {
        let text = self.formula(formula, &Vec::new());
        self.line(&format!("(assert {text})"));
    }

    /// The parameters of an operation, and what it makes of the state.
    pub fn operation(&mut self, operation: &Operation) {
        for constant in &operation.constants {
            self.line(&format!("(declare-const {} {})", constant.name, constant.sort.name()));
            if let (Universe::Finite(_), Some(size)) = (self.universe, self.universe.size(constant.sort)) {
                let cases: Vec<String> =
                    (0..size).map(|at| format!("(= {} {})", constant.name, element(constant.sort, at))).collect();
                self.line(&format!("(assert (or false {}))", cases.join(" ")));
            }
        }
        for head in &operation.relations {
            self.declare(&head.name, &head.places, false);
        }
        for head in &operation.functions {
            self.declare(&head.name, &head.places, true);
        }
        for update in &operation.updates {
            let places: Vec<String> =
                update.places.iter().map(|place| format!("({} {})", place.name, place.sort.name())).collect();
            let (result, body) = match &update.value {
                Value::Relation(formula) => ("Bool", self.formula(formula, &Vec::new())),
                Value::Number(term) => ("Int", self.term(term, &Vec::new())),
            };
            let name = &update.symbol;
            self.line(&format!("(define-fun {AFTER}{name} ({}) {result} {body})", places.join(" ")));
        }
    }

    fn list(&self, head: &str, parts: impl Iterator<Item = String>) -> String {
        let mut text = format!("({head}");
        for part in parts {
            let _ = write!(text, " {part}");
        }
        text.push(')');
        text
    }

    fn formula(&self, formula: &Formula, bound: &Bound) -> String {
        let again = |inner: &Formula| self.formula(inner, bound);
        match formula {
            Formula::Holds(relation, terms) => self.list(relation, terms.iter().map(|term| self.term(term, bound))),
            Formula::Equal(left, right) => {
                let (left, right) = (self.term(left, bound), self.term(right, bound));
                self.equal(&left, &right)
            }
            Formula::AtMost(left, right) => {
                format!("(<= {} {})", self.term(left, bound), self.term(right, bound))
            }
            Formula::Not(inner) => match again(inner).as_str() {
                "true" => "false".into(),
                "false" => "true".into(),
                text => format!("(not {text})"),
            },
            Formula::And(parts) => self.join("and", "true", "false", parts.iter().map(again)),
            Formula::Or(parts) => self.join("or", "false", "true", parts.iter().map(again)),
            Formula::Implies(left, right) => match again(left).as_str() {
                "true" => again(right),
                "false" => "true".into(),
                left => format!("(=> {left} {})", again(right)),
            },
            Formula::Same(left, right) => format!("(= {} {})", again(left), again(right)),
            Formula::All(variable, inner) => self.quantified("forall", variable, inner, bound),
            Formula::Some(variable, inner) => self.quantified("exists", variable, inner, bound),
        }
    }

    /// Elements of a finite universe are the same only if they are one: what is known is not left to the solver.
    fn equal(&self, left: &str, right: &str) -> String {
        let is_element = |text: &str| {
            Sort::OPEN
                .iter()
                .any(|sort| text.strip_prefix(sort.name()).is_some_and(|rest| rest.parse::<usize>().is_ok()))
                || [Sort::Kind, Sort::Right].iter().any(|sort| sort.elements().is_some_and(|all| all.contains(&text)))
        };
        if left == right {
            "true".into()
        } else if is_element(left) && is_element(right) {
            "false".into()
        } else {
            format!("(= {left} {right})")
        }
    }

    fn join(&self, word: &str, neutral: &str, absorbing: &str, parts: impl Iterator<Item = String>) -> String {
        let mut kept = Vec::new();
        for part in parts {
            if part == absorbing {
                return part;
            }
            if part != neutral {
                kept.push(part);
            }
        }
        match kept.len() {
            0 => neutral.into(),
            1 => kept.remove(0),
            _ => self.list(word, kept.into_iter()),
        }
    }

    fn quantified(&self, word: &str, variable: &Variable, inner: &Formula, bound: &Bound) -> String {
        let finite = match self.universe {
            Universe::Any => None,
            Universe::Finite(_) => self.universe.size(variable.sort),
        };
        let Some(size) = finite else {
            let inner = self.formula(inner, bound);
            return format!("({word} (({} {})) {inner})", variable.name, variable.sort.name());
        };
        let cases = (0..size).map(|at| {
            let mut bound = bound.clone();
            bound.push((variable.clone(), at));
            self.formula(inner, &bound)
        });
        match word {
            "forall" => self.join("and", "true", "false", cases),
            _ => self.join("or", "false", "true", cases),
        }
    }

    fn term(&self, term: &Term, bound: &Bound) -> String {
        let again = |inner: &Term| self.term(inner, bound);
        match term {
            Term::Variable(variable) => match bound.iter().rev().find(|(other, _)| other == variable) {
                Some((_, at)) => element(variable.sort, *at),
                None => variable.name.clone(),
            },
            Term::Constant(constant) => constant.name.clone(),
            Term::Element(sort, at) => element(*sort, *at),
            Term::Number(number) => number.to_string(),
            Term::Value(function, terms) => self.list(function, terms.iter().map(again)),
            Term::Plus(left, right) => format!("(+ {} {})", again(left), again(right)),
            Term::Minus(left, right) => format!("(- {} {})", again(left), again(right)),
            Term::If(condition, left, right) => {
                format!("(ite {} {} {})", self.formula(condition, bound), again(left), again(right))
            }
        }
    }
}
