//! Patterns of invocations: which a VM may make, and which a property is about.
//!
//! A pattern names a label and what its arguments may be: `Copy`, `Copy(source = frame, rights = [read, all])`,
//! `Untyped.Retype(type = Frame)`. Arguments have the names that `docs/specification.md` gives them, and `on` is the invoked
//! capability. One without a name is what the invocation is about: the source of a copy or grant, what lies in the slot of
//! a Delete or Revoke, and otherwise the invoked capability. What is not said may be anything.

use cap_spec::abi::{Label, ObjectType, Rights};
use cap_spec::spec::{ArgKind, ArgSpec, LABELS};

use super::tokens::{Token, Tokens};
use super::wrong::{Wrong, choice};

/// What an argument may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Anything that fits.
    Any,
    /// A capability for one of these.
    Things(Vec<Wanted>),
    /// One of these numbers.
    Numbers(Vec<u64>),
}

/// A capability that an argument may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// The number of what it is for.
    pub thing: usize,
    /// Which of those that are for it.
    pub which: Which,
}

/// Which of the capabilities for a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Which {
    /// Any.
    Any,
    /// One that was derived from none for it that a VM has: as at the start.
    First,
    /// One that was derived from another.
    Derived,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// The label.
    pub label: Label,
    /// The invoked capability.
    pub on: Choice,
    /// Arguments 1 to 5.
    pub args: [Choice; 5],
}

/// The names that a text may use.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// VMs.
    pub parties: Vec<String>,
    /// Capabilities and channels.
    pub things: Vec<String>,
    /// Variables, with their values.
    pub variables: Vec<(String, Vec<String>)>,
}

impl Names {
    /// The number of a thing.
    pub fn thing(&self, name: &str) -> Option<usize> {
        self.things.iter().position(|thing| thing == name)
    }

    /// The number of a VM.
    pub fn party(&self, name: &str) -> Option<usize> {
        self.parties.iter().position(|party| party == name)
    }
}

/// Which argument an invocation is about; 0 is the invoked capability.
fn subject(label: Label) -> usize {
    match label {
        Label::CNodeCopy | Label::CNodeMint | Label::CNodeMove => 2,
        Label::CNodeDelete | Label::CNodeRevoke | Label::CNodeIdentify | Label::ChannelGrant => 1,
        _ => 0,
    }
}

/// The name of a type as patterns write it.
pub fn type_name(object: ObjectType) -> String {
    match object {
        ObjectType::Null => "any".into(),
        object => format!("{object:?}"),
    }
}

/// A label as patterns write it in full.
pub fn label_name(label: Label) -> String {
    format!("{}.{}", type_name(label.object()), label.spec().name)
}

/// Reads a label: `Copy`, or `CNode.Copy` where several types have one of this name.
fn label(tokens: &mut Tokens) -> Result<Label, Wrong> {
    let (mut name, start) = tokens.word("the name of an invocation", "such as Copy, or CNode.Copy")?;
    let mut object = None;
    if tokens.takes(".") {
        object = Some(name);
        name = tokens.word("the name of an invocation", "such as Copy, or CNode.Copy")?.0;
    }
    let same = |left: &str, right: &str| left.eq_ignore_ascii_case(right);
    let fits = |label: &Label| object.as_ref().is_none_or(|object| same(object, &type_name(label.object())));
    let of_name = LABELS.iter().filter(|spec| same(spec.name, &name)).map(|spec| spec.label);
    let found: Vec<Label> = of_name.filter(fits).collect();
    match found[..] {
        [label] => Ok(label),
        [] => {
            let all: Vec<String> = LABELS.iter().map(|spec| spec.label).filter(fits).map(label_name).collect();
            let help = match (&object, all.is_empty()) {
                (Some(_), false) => format!("write {}", choice(all)),
                _ => "docs/specification.md has all invocations".into(),
            };
            Err(tokens.text.wrong(start, format!("there is no invocation `{name}`"), help))
        }
        _ => {
            let help = format!("write {}", choice(found.into_iter().map(label_name)));
            Err(tokens.text.wrong(start, format!("several types have an invocation `{name}`"), help))
        }
    }
}

/// Reads a pattern.
///
/// # Errors
/// A label, argument or value that does not exist.
pub fn pattern(tokens: &mut Tokens, names: &Names) -> Result<Pattern, Wrong> {
    let label = label(tokens)?;
    let mut pattern = Pattern { label, on: Choice::Any, args: [const { Choice::Any }; 5] };
    if !tokens.takes("(") {
        return Ok(pattern);
    }
    while !tokens.takes(")") {
        let mut number = subject(label);
        if tokens.peek_second() == Some(&Token::Sign("=")) {
            let (name, span) = tokens.word("the name of an argument", "")?;
            let known = label.spec().args.iter().map(|arg| arg.name);
            number = match known.clone().position(|known| known == name) {
                Some(position) => position + 1,
                None if name == "on" => 0,
                None => {
                    let help = format!("write {}", choice(known.chain(["on"])));
                    let what = format!("{} has no argument `{name}`", label_name(label));
                    return Err(tokens.text.wrong(span, what, help));
                }
            };
            tokens.expect("=")?;
        }
        let values = values(tokens, names, (number > 0).then(|| &label.spec().args[number - 1]))?;
        if number == 0 {
            pattern.on = values;
        } else {
            pattern.args[number - 1] = values;
        }
        if !tokens.takes(",") && tokens.peek() != Some(&Token::Sign(")")) {
            return Err(tokens.wrong("`,` or `)` is missing here", ""));
        }
    }
    Ok(pattern)
}

/// Reads what an argument may be: one value, or several in brackets. `None` is the invoked capability.
fn values(tokens: &mut Tokens, names: &Names, arg: Option<&ArgSpec>) -> Result<Choice, Wrong> {
    if tokens.takes_word("any") {
        return Ok(Choice::Any);
    }
    let is_list = tokens.takes("[");
    let is_number = arg.is_some_and(|arg| matches!(arg.kind, ArgKind::Number));
    let mut things = Vec::new();
    let mut numbers = Vec::new();
    loop {
        match arg {
            Some(arg) if is_number => numbers.push(number(tokens, arg.name)?),
            _ => things.push(wanted(tokens, names)?),
        }
        if !is_list || tokens.takes("]") {
            break;
        }
        tokens.expect(",")?;
    }
    Ok(if is_number { Choice::Numbers(numbers) } else { Choice::Things(things) })
}

/// Reads which capability: `frame`, `first(frame)` or `derived(frame)`.
fn wanted(tokens: &mut Tokens, names: &Names) -> Result<Wanted, Wrong> {
    let which = [("first", Which::First), ("derived", Which::Derived)]
        .into_iter()
        .find(|(word, _)| tokens.peek_second() == Some(&Token::Sign("(")) && tokens.takes_word(word));
    let Some((_, which)) = which else { return Ok(Wanted { thing: thing(tokens, names)?, which: Which::Any }) };
    tokens.expect("(")?;
    let thing = thing(tokens, names)?;
    tokens.expect(")")?;
    Ok(Wanted { thing, which })
}

/// Reads the name of a capability or channel.
///
/// # Errors
/// If the question has none of this name.
pub fn thing(tokens: &mut Tokens, names: &Names) -> Result<usize, Wrong> {
    let (name, span) = tokens.word("the name of a capability", format!("write {}", choice(&names.things)))?;
    names.thing(&name).ok_or_else(|| {
        let help = format!("write {}, or add [capability.{name}]", choice(&names.things));
        tokens.text.wrong(span, format!("there is no capability `{name}`"), help)
    })
}

/// Reads a number, or the words that stand for one: rights, types, yes and no.
fn number(tokens: &mut Tokens, argument: &str) -> Result<u64, Wrong> {
    let help = match argument {
        "rights" => "write all, none, or some of read, write, execute, grant and control with + between them",
        "type" => "write Untyped, CNode, Frame, PageTable, Vm, Vcpu, Channel or IommuDomain",
        "move" => "write yes or no",
        _ => "write a number such as 1 or 0x1000",
    };
    if let Some(Token::Number(number)) = tokens.peek() {
        let number = *number;
        tokens.take();
        return Ok(number);
    }
    if argument == "rights" {
        return rights(tokens).map(|rights| rights.bits().into());
    }
    let (word, span) = tokens.word("a value", help)?;
    let types = (0..=u64::from(u8::MAX)).map_while(ObjectType::from_number);
    let found = match word.as_str() {
        "yes" if argument == "move" => Some(1),
        "no" if argument == "move" => Some(0),
        _ if argument == "type" => {
            types.into_iter().find(|object| type_name(*object) == word).map(|object| object as u64)
        }
        _ => None,
    };
    found.ok_or_else(|| tokens.text.wrong(span, format!("`{word}` is no value of `{argument}`"), help))
}

/// Reads rights: `read + write`, `all`, `none`.
///
/// # Errors
/// A word that is no right.
pub fn rights(tokens: &mut Tokens) -> Result<Rights, Wrong> {
    let help = "write all, none, or some of read, write, execute, grant and control with + between them";
    let mut found = Rights::empty();
    loop {
        let (word, span) = tokens.word("a right", help)?;
        found |= match word.as_str() {
            "all" => Rights::all(),
            "none" => Rights::empty(),
            "read" => Rights::READ,
            "write" => Rights::WRITE,
            "execute" => Rights::EXECUTE,
            "grant" => Rights::GRANT,
            "control" => Rights::CONTROL,
            _ => return Err(tokens.text.wrong(span, format!("`{word}` is no right"), help)),
        };
        if !tokens.takes("+") {
            return Ok(found);
        }
    }
}
