//! Many-sorted first-order formulas: the one form in which state, invariants and operations are written.
//!
//! A formula is only ever read by three: the printer of SMT-LIB, the evaluator on finite structures, and the expansion
//! over a finite universe. All see the same tree.

/// What a variable ranges over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// Places for capabilities.
    Slot,
    /// What lives in memory, and the functions of devices.
    Object,
    /// The smallest parts of resources that matter: pieces of memory, ports, interrupt routes, functions, cores.
    Part,
    /// What remembers translations: TLBs, IOTLBs, caches of interrupt entries.
    Cache,
    /// Types of capabilities.
    Kind,
    /// Rights.
    Right,
    /// Pieces of the I/O addresses of a domain.
    Window,
    /// Entries of the MSI-X tables of functions.
    Message,
    /// Integers.
    Number,
}

impl Sort {
    /// The sort of the variables and constants whose name begins with this letter.
    pub fn of_letter(letter: char) -> Option<Sort> {
        Some(match letter {
            's' | 't' | 'd' | 'u' | 'p' | 'x' | 'y' | 'z' => Sort::Slot,
            'o' | 'q' | 'n' | 'i' | 'j' => Sort::Object,
            'a' | 'b' => Sort::Part,
            'k' => Sort::Cache,
            'c' => Sort::Kind,
            'r' => Sort::Right,
            'w' => Sort::Window,
            'm' => Sort::Message,
            'g' => Sort::Number,
            _ => return None,
        })
    }

    /// Its name in SMT-LIB.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Slot => "Slot",
            Sort::Object => "Object",
            Sort::Part => "Part",
            Sort::Cache => "Cache",
            Sort::Kind => "Kind",
            Sort::Right => "Right",
            Sort::Window => "Window",
            Sort::Message => "Message",
            Sort::Number => "Int",
        }
    }

    /// The names of its elements, if it has these and no others.
    pub fn elements(self) -> Option<&'static [&'static str]> {
        match self {
            Sort::Kind => Some(&KINDS),
            Sort::Right => Some(&RIGHTS),
            _ => None,
        }
    }

    /// Every sort that is uninterpreted: it may have any number of elements.
    pub const OPEN: [Sort; 6] = [Sort::Slot, Sort::Object, Sort::Part, Sort::Cache, Sort::Window, Sort::Message];
}

/// The types of capabilities, in the order of their numbers from 1 on.
pub const KINDS: [&str; 13] = [
    "Untyped",
    "CNode",
    "Frame",
    "PageTable",
    "Vm",
    "Vcpu",
    "CpuTime",
    "Channel",
    "Irq",
    "IoPort",
    "Machine",
    "IommuDomain",
    "PciFunction",
];
/// The rights, in the order of their bits.
pub const RIGHTS: [&str; 5] = ["READ", "WRITE", "EXECUTE", "GRANT", "CONTROL"];

/// A variable that a quantifier binds, or a place of a definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variable {
    /// Its name, whose first letter tells its sort.
    pub name: String,
    /// What it ranges over.
    pub sort: Sort,
}

/// What stands for an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// A bound variable.
    Variable(Variable),
    /// A parameter of an operation.
    Constant(Variable),
    /// An element of a sort with fixed elements.
    Element(Sort, usize),
    /// A number.
    Number(i64),
    /// The value of a function to numbers.
    Value(String, Vec<Term>),
    /// A sum.
    Plus(Box<Term>, Box<Term>),
    /// A difference.
    Minus(Box<Term>, Box<Term>),
    /// One or the other.
    If(Box<Formula>, Box<Term>, Box<Term>),
}

impl Term {
    /// Its sort.
    pub fn sort(&self) -> Sort {
        match self {
            Term::Variable(variable) | Term::Constant(variable) => variable.sort,
            Term::Element(sort, _) => *sort,
            Term::Number(_) | Term::Value(..) | Term::Plus(..) | Term::Minus(..) | Term::If(..) => Sort::Number,
        }
    }
}

/// What is true or false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formula {
    /// A relation holds.
    Holds(String, Vec<Term>),
    /// Two terms are the same.
    Equal(Term, Term),
    /// A number is at most another.
    AtMost(Term, Term),
    /// It does not hold.
    Not(Box<Formula>),
    /// All hold. Of none: true.
    And(Vec<Formula>),
    /// One holds. Of none: false.
    Or(Vec<Formula>),
    /// The second holds if the first does.
    Implies(Box<Formula>, Box<Formula>),
    /// Both hold or none.
    Same(Box<Formula>, Box<Formula>),
    /// It holds of every element.
    All(Variable, Box<Formula>),
    /// It holds of some element.
    Some(Variable, Box<Formula>),
}

impl Formula {
    /// Its negation.
    pub fn negated(self) -> Formula {
        Formula::Not(Box::new(self))
    }

    /// Calls `see` with the name of every relation and function in it.
    pub fn symbols(&self, see: &mut dyn FnMut(&str)) {
        match self {
            Formula::Holds(name, terms) => {
                see(name);
                terms.iter().for_each(|term| term.symbols(see));
            }
            Formula::Equal(left, right) | Formula::AtMost(left, right) => {
                left.symbols(see);
                right.symbols(see);
            }
            Formula::Not(inner) | Formula::All(_, inner) | Formula::Some(_, inner) => inner.symbols(see),
            Formula::And(parts) | Formula::Or(parts) => parts.iter().for_each(|part| part.symbols(see)),
            Formula::Implies(left, right) | Formula::Same(left, right) => {
                left.symbols(see);
                right.symbols(see);
            }
        }
    }

    /// The same with other names of relations and functions.
    pub fn renamed(&self, name: &dyn Fn(&str) -> String) -> Formula {
        let again = |formula: &Formula| Box::new(formula.renamed(name));
        match self {
            Formula::Holds(relation, terms) => {
                Formula::Holds(name(relation), terms.iter().map(|term| term.renamed(name)).collect())
            }
            Formula::Equal(left, right) => Formula::Equal(left.renamed(name), right.renamed(name)),
            Formula::AtMost(left, right) => Formula::AtMost(left.renamed(name), right.renamed(name)),
            Formula::Not(inner) => Formula::Not(again(inner)),
            Formula::And(parts) => Formula::And(parts.iter().map(|part| part.renamed(name)).collect()),
            Formula::Or(parts) => Formula::Or(parts.iter().map(|part| part.renamed(name)).collect()),
            Formula::Implies(left, right) => Formula::Implies(again(left), again(right)),
            Formula::Same(left, right) => Formula::Same(again(left), again(right)),
            Formula::All(variable, inner) => Formula::All(variable.clone(), again(inner)),
            Formula::Some(variable, inner) => Formula::Some(variable.clone(), again(inner)),
        }
    }

    /// True if, taken as a fact, it says that something exists: a solver makes up an element for each application.
    pub fn claims_existence(&self) -> bool {
        self.has_choice(true)
    }

    fn has_choice(&self, is_fact: bool) -> bool {
        match self {
            Formula::Holds(..) | Formula::Equal(..) | Formula::AtMost(..) => false,
            Formula::Not(inner) => inner.has_choice(!is_fact),
            Formula::And(parts) | Formula::Or(parts) => parts.iter().any(|part| part.has_choice(is_fact)),
            Formula::Implies(left, right) => left.has_choice(!is_fact) || right.has_choice(is_fact),
            Formula::Same(left, right) => {
                [true, false].iter().any(|way| left.has_choice(*way) || right.has_choice(*way))
            }
            Formula::All(_, inner) => !is_fact || inner.has_choice(is_fact),
            Formula::Some(_, inner) => is_fact || inner.has_choice(is_fact),
        }
    }

    /// The same with terms in place of variables that are free in it.
    pub fn with(&self, map: &[(Variable, Term)]) -> Formula {
        let again = |formula: &Formula| Box::new(formula.with(map));
        match self {
            Formula::Holds(name, terms) => {
                Formula::Holds(name.clone(), terms.iter().map(|term| term.with(map)).collect())
            }
            Formula::Equal(left, right) => Formula::Equal(left.with(map), right.with(map)),
            Formula::AtMost(left, right) => Formula::AtMost(left.with(map), right.with(map)),
            Formula::Not(inner) => Formula::Not(again(inner)),
            Formula::And(parts) => Formula::And(parts.iter().map(|part| part.with(map)).collect()),
            Formula::Or(parts) => Formula::Or(parts.iter().map(|part| part.with(map)).collect()),
            Formula::Implies(left, right) => Formula::Implies(again(left), again(right)),
            Formula::Same(left, right) => Formula::Same(again(left), again(right)),
            Formula::All(variable, inner) => Formula::All(variable.clone(), again(inner)),
            Formula::Some(variable, inner) => Formula::Some(variable.clone(), again(inner)),
        }
    }
}

impl Term {
    fn symbols(&self, see: &mut dyn FnMut(&str)) {
        match self {
            Term::Value(name, terms) => {
                see(name);
                terms.iter().for_each(|term| term.symbols(see));
            }
            Term::Plus(left, right) | Term::Minus(left, right) => {
                left.symbols(see);
                right.symbols(see);
            }
            Term::If(condition, left, right) => {
                condition.symbols(see);
                left.symbols(see);
                right.symbols(see);
            }
            Term::Variable(_) | Term::Constant(_) | Term::Element(..) | Term::Number(_) => {}
        }
    }

    fn renamed(&self, name: &dyn Fn(&str) -> String) -> Term {
        let again = |term: &Term| Box::new(term.renamed(name));
        match self {
            Term::Value(function, terms) => {
                Term::Value(name(function), terms.iter().map(|term| term.renamed(name)).collect())
            }
            Term::Plus(left, right) => Term::Plus(again(left), again(right)),
            Term::Minus(left, right) => Term::Minus(again(left), again(right)),
            Term::If(condition, left, right) => Term::If(Box::new(condition.renamed(name)), again(left), again(right)),
            Term::Variable(_) | Term::Constant(_) | Term::Element(..) | Term::Number(_) => self.clone(),
        }
    }

    fn with(&self, map: &[(Variable, Term)]) -> Term {
        let again = |term: &Term| Box::new(term.with(map));
        match self {
            Term::Variable(variable) => {
                map.iter().find(|(from, _)| from == variable).map_or_else(|| self.clone(), |(_, to)| to.clone())
            }
            Term::Value(name, terms) => Term::Value(name.clone(), terms.iter().map(|term| term.with(map)).collect()),
            Term::Plus(left, right) => Term::Plus(again(left), again(right)),
            Term::Minus(left, right) => Term::Minus(again(left), again(right)),
            Term::If(condition, left, right) => Term::If(Box::new(condition.with(map)), again(left), again(right)),
            Term::Constant(_) | Term::Element(..) | Term::Number(_) => self.clone(),
        }
    }
}
