//! What an operation is: when it may happen, and what it makes of the state.
//!
//! An operation has *parameters* (constants, relations and functions to numbers that the caller, or the world, chooses),
//! *requirements* on the state before and the parameters, and one *update* for each symbol that it changes: a definition
//! of the symbol afterwards by the state before. A symbol without an update stays as it is. So an operation is
//! deterministic by its form: no symbol can be left open.

use crate::parse::{Head, Scope, formula, head, term, variable};
use crate::term::{Formula, Sort, Term, Variable};
use crate::vocabulary::Vocabulary;
use cap_spec::abi::Label;

/// What the names of symbols begin with, in the state after an operation.
pub const AFTER: &str = "after_";

/// An operation as it is written. Seeded bugs are edits of it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its name.
    pub name: &'static str,
    /// The labels that do it; of none: a step of the world, or of a preempted operation.
    pub labels: &'static [Label],
    constants: Vec<&'static str>,
    relations: Vec<&'static str>,
    functions: Vec<&'static str>,
    requires: Vec<(&'static str, String)>,
    updates: Vec<(&'static str, String)>,
}

/// An operation as it is read.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// The labels that do it.
    pub labels: &'static [Label],
    /// Constants that are chosen.
    pub constants: Vec<Variable>,
    /// Relations that are chosen.
    pub relations: Vec<Head>,
    /// Functions to numbers that are chosen.
    pub functions: Vec<Head>,
    /// What must be true before.
    pub requires: Vec<(&'static str, Formula)>,
    /// What is different afterwards.
    pub updates: Vec<Update>,
}

/// The new meaning of a symbol.
#[derive(Clone, Debug)]
pub struct Update {
    /// The symbol.
    pub symbol: String,
    /// Names for its arguments.
    pub places: Vec<Variable>,
    /// Its value of them.
    pub value: Value,
}

/// Of a relation or of a function to numbers.
#[derive(Clone, Debug)]
pub enum Value {
    /// It holds if this does.
    Relation(Formula),
    /// It is this.
    Number(Term),
}

impl Draft {
    /// An operation that requires and changes nothing.
    pub fn new(name: &'static str, labels: &'static [Label]) -> Draft {
        Draft {
            name,
            labels,
            constants: Vec::new(),
            relations: Vec::new(),
            functions: Vec::new(),
            requires: Vec::new(),
            updates: Vec::new(),
        }
    }

    /// With constants, a word each.
    pub fn constants(mut self, names: &'static str) -> Draft {
        self.constants.extend(names.split_whitespace());
        self
    }

    /// With a relation to be chosen.
    pub fn relation(mut self, head: &'static str) -> Draft {
        self.relations.push(head);
        self
    }

    /// With a function to numbers to be chosen.
    pub fn function(mut self, head: &'static str) -> Draft {
        self.functions.push(head);
        self
    }

    /// Requires this too.
    pub fn require(mut self, name: &'static str, text: impl Into<String>) -> Draft {
        self.requires.push((name, text.into()));
        self
    }

    /// Requires this no longer.
    ///
    /// # Panics
    /// If it never did.
    pub fn without(mut self, name: &str) -> Draft {
        let before = self.requires.len();
        self.requires.retain(|(other, _)| *other != name);
        assert!(self.requires.len() < before, "{} does not require {name}", self.name);
        self
    }

    /// Makes this of a symbol, whatever was made of it before.
    pub fn update(mut self, head: &'static str, text: impl Into<String>) -> Draft {
        self.updates.retain(|(other, _)| *other != head);
        self.updates.push((head, text.into()));
        self
    }

    /// Leaves a symbol as it is.
    ///
    /// # Panics
    /// If it did not change it.
    pub fn keep(mut self, head: &str) -> Draft {
        let before = self.updates.len();
        self.updates.retain(|(other, _)| *other != head);
        assert!(self.updates.len() < before, "{} does not change {head}", self.name);
        self
    }

    /// Under another name.
    pub fn named(mut self, name: &'static str) -> Draft {
        self.name = name;
        self
    }

    /// Reads it.
    ///
    /// # Panics
    /// If it is not well-formed: operations are part of the program.
    pub fn read(&self) -> Operation {
        let vocabulary = Vocabulary::get();
        let constants: Vec<Variable> = self.constants.iter().map(|name| variable(name)).collect();
        let relations: Vec<Head> = self.relations.iter().map(|text| head(text)).collect();
        let functions: Vec<Head> = self.functions.iter().map(|text| head(text)).collect();
        let mut scope: Scope = vocabulary.scope.clone();
        let sorts = |head: &Head| -> Vec<Sort> { head.places.iter().map(|place| place.sort).collect() };
        scope.relations.extend(relations.iter().map(|head| (head.name.clone(), sorts(head))));
        scope.functions.extend(functions.iter().map(|head| (head.name.clone(), sorts(head))));
        scope.constants = constants.clone();
        let requires = self.requires.iter().map(|(name, text)| (*name, formula(text, &scope, &[]))).collect();
        let update = |(text, body): &(&'static str, String)| {
            let Head { name, places } = head(text);
            let symbol = vocabulary.symbol(&name).unwrap_or_else(|| panic!("{name} is not in the vocabulary"));
            let value = match symbol.is_number {
                true => Value::Number(term(body, &scope, &places)),
                false => Value::Relation(formula(body, &scope, &places)),
            };
            Update { symbol: name, places, value }
        };
        let updates = self.updates.iter().map(update).collect();
        Operation { name: self.name, labels: self.labels, constants, relations, functions, requires, updates }
    }
}

impl Operation {
    /// A claim in which names that begin with `after_` are of the state afterwards: those of what stays as it is are plain.
    pub fn claim(&self, formula: &Formula) -> Formula {
        formula.renamed(&|name| match name.strip_prefix(AFTER) {
            Some(before) if !self.changes(before) => before.into(),
            _ => name.into(),
        })
    }

    /// What says of the state afterwards what the formula says of a state.
    pub fn afterwards(&self, formula: &Formula) -> Formula {
        formula.renamed(&|name| if self.changes(name) { format!("{AFTER}{name}") } else { name.into() })
    }

    /// True if it changes this symbol.
    pub fn changes(&self, symbol: &str) -> bool {
        self.updates.iter().any(|update| update.symbol == symbol)
    }

    /// True if it changes something that the formula is about.
    pub fn concerns(&self, formula: &Formula) -> bool {
        let mut found = false;
        formula.symbols(&mut |symbol| found |= self.changes(symbol));
        found
    }
}
