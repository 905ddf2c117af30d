//! Whether a formula holds in a finite structure.
//!
//! A quantifier is not run through element by element: the set of elements of which its formula holds is computed as a
//! whole from the sets of its parts, and what a guard excludes is not looked at.

use crate::operation::{Operation, Update, Value};
use crate::structure::{Set, Structure, Table};
use crate::term::{Formula, Sort, Term, Variable};

/// Elements for variables, innermost last.
type Values = Vec<(Variable, usize)>;

/// Reads formulas in a structure.
pub struct Evaluator<'a> {
    structure: &'a Structure,
}

impl<'a> Evaluator<'a> {
    /// In this structure.
    pub fn new(structure: &'a Structure) -> Evaluator<'a> {
        Evaluator { structure }
    }

    /// True if the formula holds.
    pub fn holds(&self, formula: &Formula) -> bool {
        self.is_true(formula, &mut Vec::new())
    }

    /// Elements for the outermost variables of which the formula does not hold, by their names.
    pub fn counterexample(&self, formula: &Formula) -> Vec<(String, usize)> {
        let mut values = Vec::new();
        let mut at = formula;
        loop {
            match at {
                Formula::All(variable, inner) => {
                    let all = Set::first(self.structure.size(variable.sort));
                    let Some(wrong) = all.but(self.set(inner, &mut values, variable, all)).iter().next() else { break };
                    values.push((variable.clone(), wrong));
                    at = inner;
                }
                Formula::Implies(_, inner) => at = inner,
                _ => break,
            }
        }
        values.into_iter().map(|(variable, value)| (variable.name, value)).collect()
    }

    /// What an update makes of a relation.
    pub fn updated(&self, update: &Update) -> Option<Table> {
        let Value::Relation(formula) = &update.value else { return None };
        let sorts: Vec<Sort> = update.places.iter().map(|place| place.sort).collect();
        let mut table = self.structure.empty(&sorts);
        let (last, first) = update.places.split_last()?;
        let all = Set::first(self.structure.size(last.sort));
        let rows = first.first().map_or(1, |place| self.structure.size(place.sort));
        for row in 0..rows {
            let mut values: Values = first.iter().map(|place| (place.clone(), row)).collect();
            for element in self.set(formula, &mut values, last, all).iter() {
                match first {
                    [] => table.insert(&[element]),
                    _ => table.insert(&[row, element]),
                }
            }
        }
        Some(table)
    }

    /// What an update makes of a function to numbers.
    pub fn recounted(&self, update: &Update) -> Option<Vec<i64>> {
        let (Value::Number(term), [place]) = (&update.value, update.places.as_slice()) else { return None };
        let of = |element| self.number(term, &mut vec![(place.clone(), element)]);
        Some((0..self.structure.size(place.sort)).map(of).collect())
    }

    fn is_true(&self, formula: &Formula, values: &mut Values) -> bool {
        match formula {
            Formula::Holds(name, terms) => {
                let table = &self.structure.tables[name.as_str()];
                match terms.as_slice() {
                    [one] => table.has(&[self.element(one, values)]),
                    [one, two] => table.has(&[self.element(one, values), self.element(two, values)]),
                    _ => unreachable!("relations have one or two arguments"),
                }
            }
            Formula::Equal(left, right) if left.sort() == Sort::Number => {
                self.number(left, values) == self.number(right, values)
            }
            Formula::Equal(left, right) => self.element(left, values) == self.element(right, values),
            Formula::AtMost(left, right) => self.number(left, values) <= self.number(right, values),
            Formula::Not(inner) => !self.is_true(inner, values),
            Formula::And(parts) => parts.iter().all(|part| self.is_true(part, values)),
            Formula::Or(parts) => parts.iter().any(|part| self.is_true(part, values)),
            Formula::Implies(left, right) => !self.is_true(left, values) || self.is_true(right, values),
            Formula::Same(left, right) => self.is_true(left, values) == self.is_true(right, values),
            Formula::All(variable, inner) => {
                let all = Set::first(self.structure.size(variable.sort));
                self.set(inner, values, variable, all) == all
            }
            Formula::Some(variable, inner) => {
                let all = Set::first(self.structure.size(variable.sort));
                !self.set(inner, values, variable, all).is_empty()
            }
        }
    }

    /// Those of `care` of which the formula holds as values of the variable.
    fn set(&self, formula: &Formula, values: &mut Values, variable: &Variable, care: Set) -> Set {
        if care.is_empty() {
            return care;
        }
        match formula {
            Formula::Holds(name, terms) => {
                let table = &self.structure.tables[name.as_str()];
                let is_it = |term: &Term| matches!(term, Term::Variable(other) if other == variable);
                match terms.as_slice() {
                    [one] if is_it(one) => table.after(0).and(care),
                    [one, two] if is_it(two) && !is_it(one) => table.after(self.element(one, values)).and(care),
                    [one, two] if is_it(one) && !is_it(two) => table.before(self.element(two, values)).and(care),
                    [one, _] if is_it(one) => self.one_by_one(formula, values, variable, care),
                    _ if self.is_true(formula, values) => care,
                    _ => Set::default(),
                }
            }
            Formula::Equal(left, right) if left.sort() != Sort::Number => match (left, right) {
                (Term::Variable(one), Term::Variable(two)) if one == variable && two == variable => care,
                (Term::Variable(one), other) | (other, Term::Variable(one)) if one == variable => {
                    Set::one(self.element(other, values)).and(care)
                }
                _ if self.is_true(formula, values) => care,
                _ => Set::default(),
            },
            Formula::Not(inner) => care.but(self.set(inner, values, variable, care)),
            Formula::And(parts) => parts.iter().fold(care, |left, part| self.set(part, values, variable, left)),
            Formula::Or(parts) => parts
                .iter()
                .fold(Set::default(), |found, part| found.or(self.set(part, values, variable, care.but(found)))),
            Formula::Implies(left, right) => {
                let guarded = self.set(left, values, variable, care);
                care.but(guarded).or(self.set(right, values, variable, guarded))
            }
            Formula::Same(left, right) => {
                let (left, right) = (self.set(left, values, variable, care), self.set(right, values, variable, care));
                care.but(left.but(right)).but(right.but(left))
            }
            Formula::Equal(..) | Formula::AtMost(..) | Formula::All(..) | Formula::Some(..) => {
                self.one_by_one(formula, values, variable, care)
            }
        }
    }

    fn one_by_one(&self, formula: &Formula, values: &mut Values, variable: &Variable, care: Set) -> Set {
        let mut found = Set::default();
        values.push((variable.clone(), 0));
        let at = values.len() - 1;
        for element in care.iter() {
            values[at].1 = element;
            if self.is_true(formula, values) {
                found.insert(element);
            }
        }
        values.pop();
        found
    }

    fn element(&self, term: &Term, values: &Values) -> usize {
        match term {
            Term::Variable(variable) => {
                let found = values.iter().rev().find(|(other, _)| other == variable);
                found.expect("the reader has checked that every variable is bound").1
            }
            Term::Constant(constant) => self.structure.constants[constant.name.as_str()] as usize,
            Term::Element(_, at) => *at,
            _ => unreachable!("numbers are no elements"),
        }
    }

    fn number(&self, term: &Term, values: &mut Values) -> i64 {
        match term {
            Term::Number(number) => *number,
            Term::Constant(constant) => self.structure.constants[constant.name.as_str()],
            Term::Value(name, terms) => self.structure.numbers[name.as_str()][self.element(&terms[0], values)],
            Term::Plus(left, right) => self.number(left, values) + self.number(right, values),
            Term::Minus(left, right) => self.number(left, values) - self.number(right, values),
            Term::If(condition, left, right) => {
                let chosen = if self.is_true(condition, values) { left } else { right };
                self.number(chosen, values)
            }
            Term::Variable(_) | Term::Element(..) => unreachable!("elements are no numbers"),
        }
    }
}

/// The requirements of an operation that do not hold in a structure with its parameters.
pub fn unmet(operation: &Operation, before: &Structure) -> Vec<String> {
    let evaluator = Evaluator::new(before);
    let unmet = operation.requires.iter().filter(|(_, formula)| !evaluator.holds(formula));
    unmet.map(|(name, formula)| format!("{name} (at {:?})", evaluator.counterexample(formula))).collect()
}
