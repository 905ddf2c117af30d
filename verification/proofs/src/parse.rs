//! The notation in which formulas are written, and its reader.
//!
//! `all x y: anc(x, y) -> full(x) & full(y)`. From the weakest: `all` and `some` (up to the end of the parenthesis), `<->`,
//! `->` (to the right), `|`, `&`, `!`. Atoms are `name(terms)`, `left = right`, `left != right`, `left <= right`. The first
//! letter of a variable or constant tells its sort, see [`Sort::of_letter`]; names that begin with a capital are types
//! and rights. Capture cannot happen: a definition binds names that end in `_`, which nobody else uses.

use crate::term::{Formula, KINDS, RIGHTS, Sort, Term, Variable};
use std::collections::HashMap;

/// A name with arguments: `anc(x, y)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The name.
    pub name: String,
    /// The arguments.
    pub places: Vec<Variable>,
}

/// What names mean when a formula is read.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The sorts of the arguments of each relation.
    pub relations: HashMap<String, Vec<Sort>>,
    /// The sorts of the arguments of each function to numbers.
    pub functions: HashMap<String, Vec<Sort>>,
    /// Abbreviations.
    pub definitions: HashMap<String, (Vec<Variable>, Formula)>,
    /// Constants.
    pub constants: Vec<Variable>,
}

struct Reader<'a> {
    text: &'a str,
    tokens: Vec<String>,
    at: usize,
    scope: &'a Scope,
    bound: Vec<Variable>,
}

/// A variable of this name.
pub fn variable(name: &str) -> Variable {
    let sort = name.chars().next().and_then(Sort::of_letter);
    Variable { name: name.into(), sort: sort.unwrap_or_else(|| panic!("no sort has variables like {name}")) }
}

/// Reads a head.
///
/// # Panics
/// If it is none: formulas are part of the program.
pub fn head(text: &str) -> Head {
    let tokens = tokens(text);
    let places = tokens[1..].iter().filter(|token| token.chars().all(is_word)).map(|token| variable(token)).collect();
    Head { name: tokens[0].clone(), places }
}

/// Reads a formula, in which `free` may occur.
///
/// # Panics
/// As [`head`].
pub fn formula(text: &str, scope: &Scope, free: &[Variable]) -> Formula {
    let mut reader = Reader { text, tokens: tokens(text), at: 0, scope, bound: free.to_vec() };
    let read = reader.formula();
    reader.end();
    read
}

/// Reads a term, in which `free` may occur.
///
/// # Panics
/// As [`head`].
pub fn term(text: &str, scope: &Scope, free: &[Variable]) -> Term {
    let mut reader = Reader { text, tokens: tokens(text), at: 0, scope, bound: free.to_vec() };
    let read = reader.term();
    reader.end();
    read
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn tokens(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let letters: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        let start = at;
        if letters[at].is_whitespace() {
            at += 1;
            continue;
        }
        if is_word(letters[at]) {
            while at < letters.len() && is_word(letters[at]) {
                at += 1;
            }
        } else {
            let rest: String = letters[at..].iter().take(3).collect();
            let symbol = ["<->", "->", "!=", "<="].into_iter().find(|symbol| rest.starts_with(symbol));
            at += symbol.map_or(1, str::len);
        }
        found.push(letters[start..at].iter().collect());
    }
    found
}

impl Reader<'_> {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned().unwrap_or_else(|| panic!("too short: {}", self.text))
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_it = self.peek() == token;
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, token: &str) {
        assert!(self.takes(token), "{token} expected at {:?}: {}", self.peek(), self.text);
    }

    fn end(&self) {
        assert_eq!(self.at, self.tokens.len(), "more than a formula: {}", self.text);
    }

    fn formula(&mut self) -> Formula {
        for (word, is_all) in [("all", true), ("some", false)] {
            if self.takes(word) {
                let before = self.bound.len();
                while !self.takes(":") {
                    let name = self.next();
                    self.bound.push(variable(&name));
                }
                let mut inner = self.formula();
                for variable in self.bound.drain(before..).rev() {
                    let boxed = Box::new(inner);
                    inner = if is_all { Formula::All(variable, boxed) } else { Formula::Some(variable, boxed) };
                }
                return inner;
            }
        }
        let left = self.implication();
        if self.takes("<->") { Formula::Same(Box::new(left), Box::new(self.implication())) } else { left }
    }

    fn implication(&mut self) -> Formula {
        let left = self.any();
        if !self.takes("->") {
            return left;
        }
        let right = if matches!(self.peek(), "all" | "some") { self.formula() } else { self.implication() };
        Formula::Implies(Box::new(left), Box::new(right))
    }

    fn any(&mut self) -> Formula {
        let mut parts = vec![self.every()];
        while self.takes("|") {
            parts.push(self.every());
        }
        if parts.len() == 1 { parts.remove(0) } else { Formula::Or(parts) }
    }

    fn every(&mut self) -> Formula {
        let mut parts = vec![self.single()];
        while self.takes("&") {
            parts.push(self.single());
        }
        if parts.len() == 1 { parts.remove(0) } else { Formula::And(parts) }
    }

    fn single(&mut self) -> Formula {
        if self.takes("!") {
            return self.single().negated();
        }
        if matches!(self.peek(), "all" | "some") {
            return self.formula();
        }
        if self.takes("(") {
            let inner = self.formula();
            self.expect(")");
            return inner;
        }
        if self.takes("true") {
            return Formula::And(Vec::new());
        }
        if self.takes("false") {
            return Formula::Or(Vec::new());
        }
        let name = self.peek().to_string();
        if let Some(sorts) = self.scope.relations.get(&name) {
            self.at += 1;
            let terms = self.arguments();
            self.check(&name, &terms, sorts);
            return Formula::Holds(name, terms);
        }
        if let Some((places, body)) = self.scope.definitions.get(&name) {
            self.at += 1;
            let terms = self.arguments();
            self.check(&name, &terms, &places.iter().map(|place| place.sort).collect::<Vec<_>>());
            let map: Vec<_> = places.iter().cloned().zip(terms).collect();
            return body.with(&map);
        }
        let left = self.term();
        let relation = self.next();
        let right = self.term();
        assert_eq!(left.sort(), right.sort(), "{relation} of different sorts: {}", self.text);
        match relation.as_str() {
            "=" => Formula::Equal(left, right),
            "!=" => Formula::Equal(left, right).negated(),
            "<=" => Formula::AtMost(left, right),
            other => panic!("{other} is no relation: {}", self.text),
        }
    }

    fn check(&self, name: &str, terms: &[Term], sorts: &[Sort]) {
        let found: Vec<Sort> = terms.iter().map(Term::sort).collect();
        assert_eq!(found, sorts, "arguments of {name}: {}", self.text);
    }

    fn arguments(&mut self) -> Vec<Term> {
        self.expect("(");
        let mut terms = vec![self.term()];
        while self.takes(",") {
            terms.push(self.term());
        }
        self.expect(")");
        terms
    }

    fn term(&mut self) -> Term {
        if self.takes("if") {
            let condition = self.formula();
            self.expect("then");
            let left = self.term();
            self.expect("else");
            return Term::If(Box::new(condition), Box::new(left), Box::new(self.term()));
        }
        let mut left = self.simple();
        loop {
            if self.takes("+") {
                left = Term::Plus(Box::new(left), Box::new(self.simple()));
            } else if self.takes("-") {
                left = Term::Minus(Box::new(left), Box::new(self.simple()));
            } else {
                return left;
            }
        }
    }

    fn simple(&mut self) -> Term {
        let name = self.next();
        if let Ok(number) = name.parse() {
            return Term::Number(number);
        }
        if let Some(sorts) = self.scope.functions.get(&name) {
            let terms = self.arguments();
            self.check(&name, &terms, sorts);
            return Term::Value(name, terms);
        }
        for (sort, elements) in [(Sort::Kind, &KINDS[..]), (Sort::Right, &RIGHTS[..])] {
            if let Some(at) = elements.iter().position(|element| *element == name) {
                return Term::Element(sort, at);
            }
        }
        let named = |known: &&Variable| known.name == name;
        if let Some(bound) = self.bound.iter().rev().find(named) {
            return Term::Variable(bound.clone());
        }
        match self.scope.constants.iter().find(named) {
            Some(constant) => Term::Constant(constant.clone()),
            None => panic!("{name} is not known: {}", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            relations: [("full".into(), vec![Sort::Slot]), ("anc".into(), vec![Sort::Slot, Sort::Slot])].into(),
            functions: [("share".into(), vec![Sort::Slot])].into(),
            ..Scope::default()
        }
    }

    #[test]
    fn precedence_is_as_told() {
        let one = formula("all x y: anc(x, y) -> full(x) & !full(y) | x = y", &scope(), &[]);
        let two = formula("all x: all y: (anc(x, y) -> ((full(x) & (!full(y))) | (x = y)))", &scope(), &[]);
        assert_eq!(one, two);
    }

    #[test]
    #[should_panic = "arguments of anc"]
    fn sorts_are_checked() {
        formula("all x o: anc(x, o)", &scope(), &[]);
    }

    #[test]
    #[should_panic = "z is not known"]
    fn names_are_checked() {
        formula("all x: anc(x, z)", &scope(), &[]);
    }
}
