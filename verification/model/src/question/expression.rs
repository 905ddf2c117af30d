//! Conditions: what a property says of a state, or of the step that has led to it.
//!
//! ```text
//! condition := condition and condition | condition or condition | not condition | ( condition ) | atom
//! atom      := VM.holds(THING [, rights])     a capability for it lies in its CSpace
//!            | VM.maps(THING [, rights])      its address space leads to it
//!            | VM.can.read(THING)             it reaches it: mapped, by a capability, or by the DMA of a function of its own
//!            | VM.uses(FUNCTION)              it is the function's holder
//!            | VM.takes(ROUTES)               the routes lead to its Vcpu
//!            | VM.runs(CORE)                  its Vcpu has CPU time of the core
//!            | FUNCTION.reaches(THING [, rights])   by DMA
//!            | FUNCTION.interrupts(VM)        a message of the function is bound to a route that leads to it
//!            | exists(THING) | launched(VM OBJECT) | timed(VCPU OBJECT)
//!            | VARIABLE = value | VARIABLE != value
//!            | VM.Invocation(...)             the step was this invocation, and succeeded
//!            | refused(VM.Invocation(...))    ... and was refused
//! ```

use cap_spec::abi::Rights;

use super::pattern::{Names, Pattern, pattern, rights, thing};
use super::tokens::{Token, Tokens};
use super::wrong::{Wrong, choice};

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All of them.
    And(Vec<Condition>),
    /// One of them.
    Or(Vec<Condition>),
    /// The opposite.
    Not(Box<Condition>),
    /// A capability for the thing, with these rights, lies in the CSpace of the VM.
    Holds(usize, usize, Rights),
    /// The address space of the VM leads to the thing with these rights.
    Maps(usize, usize, Rights),
    /// The VM reaches the memory with this right.
    Can(usize, Rights, usize),
    /// The VM is the holder of the function.
    Uses(usize, usize),
    /// The routes lead to a Vcpu of the VM.
    Takes(usize, usize),
    /// A Vcpu of the VM has CPU time of the core.
    Runs(usize, usize),
    /// The DMA of the function reaches the memory with these rights.
    Reaches(usize, usize, Rights),
    /// A message of the function is bound to a route that leads to the VM.
    Interrupts(usize, usize),
    /// The object is there.
    Exists(usize),
    /// The Vm object has been launched.
    Launched(usize),
    /// The Vcpu object has CPU time.
    Timed(usize),
    /// The variable has the value.
    Is(usize, usize),
    /// The step was such an invocation by the VM; false: it was refused.
    Step(usize, Box<Pattern>, bool),
}

impl Condition {
    /// True if it says something of the step, not of the state alone.
    pub fn is_about_steps(&self) -> bool {
        match self {
            Condition::And(parts) | Condition::Or(parts) => parts.iter().any(Condition::is_about_steps),
            Condition::Not(part) => part.is_about_steps(),
            Condition::Step(..) => true,
            _ => false,
        }
    }
}

/// Reads a condition.
///
/// # Errors
/// A name that does not exist, or something that is no condition.
pub fn condition(tokens: &mut Tokens, names: &Names) -> Result<Condition, Wrong> {
    let mut parts = vec![conjunction(tokens, names)?];
    while tokens.takes_word("or") {
        parts.push(conjunction(tokens, names)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Or(parts) })
}

fn conjunction(tokens: &mut Tokens, names: &Names) -> Result<Condition, Wrong> {
    let mut parts = vec![negation(tokens, names)?];
    while tokens.takes_word("and") {
        parts.push(negation(tokens, names)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::And(parts) })
}

fn negation(tokens: &mut Tokens, names: &Names) -> Result<Condition, Wrong> {
    if tokens.takes_word("not") {
        return Ok(Condition::Not(Box::new(negation(tokens, names)?)));
    }
    if tokens.takes("(") {
        let inner = condition(tokens, names)?;
        tokens.expect(")")?;
        return Ok(inner);
    }
    atom(tokens, names)
}

fn atom(tokens: &mut Tokens, names: &Names) -> Result<Condition, Wrong> {
    let (word, span) = tokens.word("a condition", "such as A.holds(frame)")?;
    match (word.as_str(), tokens.peek()) {
        ("exists" | "launched" | "timed", Some(Token::Sign("("))) => {
            tokens.expect("(")?;
            let thing = thing(tokens, names)?;
            tokens.expect(")")?;
            Ok(match word.as_str() {
                "exists" => Condition::Exists(thing),
                "launched" => Condition::Launched(thing),
                _ => Condition::Timed(thing),
            })
        }
        ("refused", Some(Token::Sign("("))) => {
            tokens.expect("(")?;
            let (name, span) = tokens.word("the name of a VM", format!("write {}", choice(&names.parties)))?;
            let party = names.party(&name).ok_or_else(|| no_vm(tokens, names, &name, span))?;
            tokens.expect(".")?;
            let pattern = pattern(tokens, names)?;
            tokens.expect(")")?;
            Ok(Condition::Step(party, Box::new(pattern), false))
        }
        (_, Some(Token::Sign("=" | "!="))) => {
            let Some(variable) = names.variables.iter().position(|(name, _)| *name == word) else {
                let help = format!("write {}", choice(names.variables.iter().map(|(name, _)| name)));
                return Err(tokens.text.wrong(span, format!("there is no variable `{word}`"), help));
            };
            let is_equal = tokens.takes("=");
            let _ = is_equal || tokens.takes("!=");
            let is = Condition::Is(variable, value(tokens, names, variable)?);
            Ok(if is_equal { is } else { Condition::Not(Box::new(is)) })
        }
        (_, Some(Token::Sign("."))) => {
            tokens.expect(".")?;
            if let Some(party) = names.party(&word) {
                of_vm(tokens, names, party)
            } else if let Some(function) = names.thing(&word) {
                of_function(tokens, names, function)
            } else {
                Err(no_vm(tokens, names, &word, span))
            }
        }
        _ => {
            let help = "write a condition such as A.holds(frame), exists(frame) or phase = idle";
            Err(tokens.text.wrong(span, format!("`{word}` is no condition"), help))
        }
    }
}

fn no_vm(tokens: &Tokens, names: &Names, name: &str, span: std::ops::Range<usize>) -> Wrong {
    tokens.text.wrong(span, format!("there is no VM `{name}`"), format!("write {}", choice(&names.parties)))
}

/// Reads the value of a variable.
///
/// # Errors
/// If the variable has no such value.
pub fn value(tokens: &mut Tokens, names: &Names, variable: usize) -> Result<usize, Wrong> {
    let (name, values) = &names.variables[variable];
    let (word, span) = tokens.word("a value", format!("write {}", choice(values)))?;
    values.iter().position(|value| *value == word).ok_or_else(|| {
        tokens.text.wrong(span, format!("`{name}` is never `{word}`"), format!("write {}", choice(values)))
    })
}

/// Reads what stands behind a VM and a dot.
fn of_vm(tokens: &mut Tokens, names: &Names, party: usize) -> Result<Condition, Wrong> {
    let word = match tokens.peek() {
        Some(Token::Word(word)) => word.clone(),
        _ => String::new(),
    };
    match word.as_str() {
        "holds" | "maps" => {
            tokens.take();
            let (thing, rights) = thing_and_rights(tokens, names)?;
            Ok(if word == "holds" {
                Condition::Holds(party, thing, rights)
            } else {
                Condition::Maps(party, thing, rights)
            })
        }
        "can" => {
            tokens.take();
            tokens.expect(".")?;
            let (right, span) = tokens.word("a right", "write read, write or execute")?;
            let right = match right.as_str() {
                "read" => Rights::READ,
                "write" => Rights::WRITE,
                "execute" => Rights::EXECUTE,
                _ => {
                    let help = "write can.read, can.write or can.execute; holds(thing, grant) asks for other rights";
                    return Err(tokens.text.wrong(span, format!("memory is not reached by `{right}`"), help));
                }
            };
            Ok(Condition::Can(party, right, argument(tokens, names)?))
        }
        "uses" | "takes" | "runs" => {
            tokens.take();
            let thing = argument(tokens, names)?;
            Ok(match word.as_str() {
                "uses" => Condition::Uses(party, thing),
                "takes" => Condition::Takes(party, thing),
                _ => Condition::Runs(party, thing),
            })
        }
        _ => {
            let is_known = |wrong: Wrong| Wrong {
                help: format!("{}; or one of holds, maps, can.read, uses, takes and runs", wrong.help),
                ..wrong
            };
            let pattern = pattern(tokens, names).map_err(is_known)?;
            Ok(Condition::Step(party, Box::new(pattern), true))
        }
    }
}

/// Reads what stands behind a function and a dot.
fn of_function(tokens: &mut Tokens, names: &Names, function: usize) -> Result<Condition, Wrong> {
    let help = "write reaches(THING) or interrupts(VM), of a function";
    let (word, span) = tokens.word("a condition", help)?;
    match word.as_str() {
        "reaches" => {
            let (thing, rights) = thing_and_rights(tokens, names)?;
            Ok(Condition::Reaches(function, thing, rights))
        }
        "interrupts" => {
            tokens.expect("(")?;
            let (name, span) = tokens.word("the name of a VM", format!("write {}", choice(&names.parties)))?;
            let party = names.party(&name).ok_or_else(|| no_vm(tokens, names, &name, span))?;
            tokens.expect(")")?;
            Ok(Condition::Interrupts(function, party))
        }
        _ => Err(tokens.text.wrong(span, format!("a capability does not `{word}`"), help)),
    }
}

fn argument(tokens: &mut Tokens, names: &Names) -> Result<usize, Wrong> {
    tokens.expect("(")?;
    let thing = thing(tokens, names)?;
    tokens.expect(")")?;
    Ok(thing)
}

fn thing_and_rights(tokens: &mut Tokens, names: &Names) -> Result<(usize, Rights), Wrong> {
    tokens.expect("(")?;
    let thing = thing(tokens, names)?;
    let rights = if tokens.takes(",") { rights(tokens)? } else { Rights::empty() };
    tokens.expect(")")?;
    Ok((thing, rights))
}
