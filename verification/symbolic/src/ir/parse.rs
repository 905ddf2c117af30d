//! From text to a [`Module`].

use super::reader::{ATTRIBUTES, Reader};
use super::text::Token;
use super::{Action, Arithmetic, Block, Cast, End, Function, Global, Instruction, Module, Operand, Predicate, Type};
use crate::term::Binary;
use anyhow::{Context, Result, anyhow, bail};
use rustc_hash::FxHashMap;

/// Names of values and blocks of one function.
#[derive(Default)]
struct Names {
    values: FxHashMap<String, usize>,
    blocks: FxHashMap<String, usize>,
}

impl Names {
    fn value(&mut self, name: String) -> usize {
        let next = self.values.len();
        *self.values.entry(name).or_insert(next)
    }

    fn block(&mut self, name: String) -> usize {
        let next = self.blocks.len();
        *self.blocks.entry(name).or_insert(next)
    }
}

/// An operand of a known type.
fn operand(reader: &mut Reader, names: &mut Names, ty: &Type) -> Result<Operand> {
    reader.skip_attributes()?;
    Ok(match reader.next()? {
        Token::Local(name) => Operand::Local(names.value(name)),
        Token::Global(name) => Operand::Global(name),
        Token::Bytes(bytes) => Operand::Bytes(bytes),
        Token::Word(word) => match word.as_str() {
            "null" => Operand::Null,
            "undef" | "poison" => Operand::Undef,
            "zeroinitializer" => Operand::Zero,
            "true" => Operand::Int(1),
            "false" => Operand::Int(0),
            "inttoptr" => {
                reader.sign('(')?;
                let from = reader.ty()?;
                let Operand::Int(address) = operand(reader, names, &from)? else { bail!("an address expected") };
                if !reader.take_word("to") {
                    bail!("`to` expected");
                }
                reader.ty()?;
                reader.sign(')')?;
                Operand::IntToPtr(address)
            }
            "getelementptr" => {
                reader.skip_attributes()?;
                reader.sign('(')?;
                let unit = reader.ty()?;
                if unit != Type::Int(8) {
                    bail!("a constant place in units other than bytes");
                }
                reader.sign(',')?;
                let base = reader.ty()?;
                let Operand::Global(name) = operand(reader, names, &base)? else { bail!("a global expected") };
                reader.sign(',')?;
                let index = reader.ty()?;
                let Operand::Int(offset) = operand(reader, names, &index)? else { bail!("a number expected") };
                reader.sign(')')?;
                Operand::Offset(name, offset as u64)
            }
            _ => {
                let bits = if let Type::Int(bits) = ty { *bits } else { bail!("an unknown operand: {word}") };
                let value = match word.parse::<i128>() {
                    Ok(value) => value as u128,
                    Err(_) => word.parse::<u128>().with_context(|| format!("a number expected: {word}"))?,
                };
                Operand::Int(crate::evaluate::mask(bits, value))
            }
        },
        Token::Sign('<') => {
            reader.sign('{')?;
            let parts = aggregate(reader, names, '}')?;
            reader.sign('>')?;
            parts
        }
        Token::Sign('{') => aggregate(reader, names, '}')?,
        Token::Sign('[') => aggregate(reader, names, ']')?,
        other => bail!("an operand expected, found {other:?}"),
    })
}

fn aggregate(reader: &mut Reader, names: &mut Names, end: char) -> Result<Operand> {
    let mut parts = Vec::new();
    while !reader.take_sign(end) {
        let part = typed(reader, names)?;
        parts.push(part);
        reader.take_sign(',');
    }
    Ok(Operand::Aggregate(parts))
}

/// A type and an operand.
fn typed(reader: &mut Reader, names: &mut Names) -> Result<(Type, Operand)> {
    let ty = reader.ty()?;
    if ty == Type::Other {
        // Metadata: what stands there means nothing.
        while !matches!(reader.peek(), None | Some(Token::Sign(',' | ')'))) {
            reader.at += 1;
        }
        return Ok((ty, Operand::Undef));
    }
    let value = operand(reader, names, &ty)?;
    Ok((ty, value))
}

fn label(reader: &mut Reader, names: &mut Names) -> Result<usize> {
    if !reader.take_word("label") {
        bail!("`label` expected");
    }
    match reader.next()? {
        Token::Local(name) => Ok(names.block(name)),
        other => bail!("a block expected, found {other:?}"),
    }
}

fn indices(reader: &mut Reader) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    while reader.take_sign(',') {
        match reader.peek() {
            Some(Token::Word(_)) => found.push(reader.number()?),
            _ => break,
        }
    }
    Ok(found)
}

fn arithmetic(word: &str) -> Option<(Binary, bool)> {
    Some(match word {
        "add" => (Binary::Add, false),
        "sub" => (Binary::Sub, false),
        "mul" => (Binary::Mul, false),
        "udiv" => (Binary::Udiv, false),
        "urem" => (Binary::Urem, false),
        "and" => (Binary::And, false),
        "or" => (Binary::Or, false),
        "xor" => (Binary::Xor, false),
        "shl" => (Binary::Shl, false),
        "lshr" => (Binary::Lshr, false),
        "ashr" => (Binary::Ashr, false),
        "sdiv" => (Binary::Udiv, true),
        "srem" => (Binary::Urem, true),
        _ => return None,
    })
}

/// What an instruction does, behind its result.
fn action(reader: &mut Reader, names: &mut Names) -> Result<Action> {
    let word = loop {
        let word = reader.word()?;
        if !ATTRIBUTES.contains(&word.as_str()) {
            break word;
        }
    };
    if let Some((operation, signed_division)) = arithmetic(&word) {
        let (mut nuw, mut nsw) = (false, false);
        loop {
            if reader.take_word("nuw") {
                nuw = true;
            } else if reader.take_word("nsw") {
                nsw = true;
            } else if !(reader.take_word("exact") || reader.take_word("disjoint")) {
                break;
            }
        }
        let (ty, a) = typed(reader, names)?;
        reader.sign(',')?;
        let b = operand(reader, names, &ty)?;
        return Ok(Action::Arithmetic(Arithmetic { operation, signed_division, nuw, nsw }, ty, a, b));
    }
    Ok(match word.as_str() {
        "icmp" => {
            reader.skip_attributes()?;
            let name = reader.word()?;
            let predicate = match name.as_str() {
                "eq" => Predicate::Eq,
                "ne" => Predicate::Ne,
                "ult" => Predicate::Ult,
                "ule" => Predicate::Ule,
                "ugt" => Predicate::Ugt,
                "uge" => Predicate::Uge,
                "slt" => Predicate::Slt,
                "sle" => Predicate::Sle,
                "sgt" => Predicate::Sgt,
                "sge" => Predicate::Sge,
                _ => bail!("an unknown comparison: {name}"),
            };
            let (ty, a) = typed(reader, names)?;
            reader.sign(',')?;
            let b = operand(reader, names, &ty)?;
            Action::Compare(predicate, ty, a, b)
        }
        "trunc" | "zext" | "sext" | "ptrtoint" | "inttoptr" | "bitcast" => {
            let mut keeps = false;
            loop {
                if reader.take_word("nuw") {
                    keeps = true;
                } else if !(reader.take_word("nsw") || reader.take_word("nneg")) {
                    break;
                }
            }
            let (ty, a) = typed(reader, names)?;
            if !reader.take_word("to") {
                bail!("`to` expected");
            }
            let cast = match word.as_str() {
                "trunc" => Cast::Trunc(keeps),
                "zext" => Cast::Zext,
                "sext" => Cast::Sext,
                "ptrtoint" => Cast::PtrToInt,
                "inttoptr" => Cast::IntToPtr,
                _ => Cast::Same,
            };
            Action::Cast(cast, ty, a, reader.ty()?)
        }
        "getelementptr" => {
            loop {
                if !(reader.take_word("inbounds") || reader.take_word("nuw") || reader.take_word("nusw")) {
                    break;
                }
            }
            let unit = reader.ty()?;
            reader.sign(',')?;
            let (_, base) = typed(reader, names)?;
            let mut found = Vec::new();
            while reader.take_sign(',') {
                if matches!(reader.peek(), Some(Token::Note)) {
                    break;
                }
                found.push(typed(reader, names)?);
            }
            Action::Element(unit, base, found)
        }
        "load" => {
            reader.skip_attributes()?;
            let ty = reader.ty()?;
            reader.sign(',')?;
            let (_, place) = typed(reader, names)?;
            Action::Load(ty, place)
        }
        "store" => {
            reader.skip_attributes()?;
            let (ty, value) = typed(reader, names)?;
            reader.sign(',')?;
            let (_, place) = typed(reader, names)?;
            Action::Store(ty, value, place)
        }
        "alloca" => Action::Alloca(reader.ty()?),
        "phi" => {
            let ty = reader.ty()?;
            let mut from = Vec::new();
            while reader.take_sign('[') {
                let value = operand(reader, names, &ty)?;
                reader.sign(',')?;
                let Token::Local(block) = reader.next()? else { bail!("a block expected") };
                reader.sign(']')?;
                reader.take_sign(',');
                from.push((value, names.block(block)));
            }
            Action::Phi(ty, from)
        }
        "select" => {
            let (_, condition) = typed(reader, names)?;
            reader.sign(',')?;
            let (ty, a) = typed(reader, names)?;
            reader.sign(',')?;
            let (_, b) = typed(reader, names)?;
            Action::Select(condition, ty, a, b)
        }
        "call" => {
            reader.skip_attributes()?;
            let ty = reader.ty()?;
            reader.skip_attributes()?;
            let callee = operand(reader, names, &Type::Ptr)?;
            reader.sign('(')?;
            let mut arguments = Vec::new();
            while !reader.take_sign(')') {
                let ty = reader.ty()?;
                if ty == Type::Other {
                    while !matches!(reader.peek(), None | Some(Token::Sign(',' | ')'))) {
                        reader.at += 1;
                        reader.skip_parentheses()?;
                    }
                    reader.take_sign(',');
                    continue;
                }
                reader.skip_attributes()?;
                let value = operand(reader, names, &ty)?;
                arguments.push((ty, value));
                reader.take_sign(',');
            }
            Action::Call(ty, callee, arguments)
        }
        "extractvalue" => {
            let (ty, value) = typed(reader, names)?;
            Action::Extract(ty, value, indices(reader)?)
        }
        "insertvalue" => {
            let (ty, value) = typed(reader, names)?;
            reader.sign(',')?;
            let (inner, part) = typed(reader, names)?;
            Action::Insert(ty, value, inner, part, indices(reader)?)
        }
        "freeze" => {
            let (ty, value) = typed(reader, names)?;
            Action::Freeze(ty, value)
        }
        _ => bail!("an unknown instruction: {word}"),
    })
}

/// A line of a block: an instruction, or its end.
enum Line {
    Instruction(Instruction),
    End(End),
}

fn line(text: &str, names: &mut Names) -> Result<Line> {
    let mut reader = Reader::new(text)?;
    if let (Some(Token::Local(name)), Some(Token::Sign('='))) = (reader.tokens.first(), reader.tokens.get(1)) {
        let result = Some(names.value(name.clone()));
        reader.at = 2;
        return Ok(Line::Instruction(Instruction { result, action: action(&mut reader, names)? }));
    }
    let end = match reader.peek() {
        Some(Token::Word(word)) => match word.as_str() {
            "br" => {
                reader.at += 1;
                if reader.is_word("label") {
                    End::Jump(label(&mut reader, names)?)
                } else {
                    let (_, condition) = typed(&mut reader, names)?;
                    reader.sign(',')?;
                    let yes = label(&mut reader, names)?;
                    reader.sign(',')?;
                    End::Branch(condition, yes, label(&mut reader, names)?)
                }
            }
            "switch" => {
                reader.at += 1;
                let (ty, value) = typed(&mut reader, names)?;
                reader.sign(',')?;
                let default = label(&mut reader, names)?;
                reader.sign('[')?;
                let mut cases = Vec::new();
                while !reader.take_sign(']') {
                    let (_, case) = typed(&mut reader, names)?;
                    let Operand::Int(case) = case else { bail!("a number expected") };
                    reader.sign(',')?;
                    cases.push((case, label(&mut reader, names)?));
                }
                End::Switch(ty, value, default, cases)
            }
            "ret" => {
                reader.at += 1;
                match typed(&mut reader, names) {
                    Ok((ty, value)) => End::Return(Some((ty, value))),
                    Err(_) => End::Return(None),
                }
            }
            "unreachable" => End::Unreachable,
            _ => return Ok(Line::Instruction(Instruction { result: None, action: action(&mut reader, names)? })),
        },
        other => bail!("an instruction expected, found {other:?}"),
    };
    Ok(Line::End(end))
}

/// The first line of a function.
struct Head {
    name: String,
    result: Type,
    parameters: Vec<(Type, usize)>,
}

/// The head of a function.
fn head(text: &str, names: &mut Names) -> Result<Head> {
    let mut reader = Reader::new(text)?;
    reader.at = 1;
    reader.skip_attributes()?;
    let result = reader.ty()?;
    reader.skip_attributes()?;
    let Token::Global(name) = reader.next()? else { bail!("the name of a function expected") };
    reader.sign('(')?;
    let mut parameters = Vec::new();
    while !reader.take_sign(')') {
        let ty = reader.ty()?;
        reader.skip_attributes()?;
        let Token::Local(parameter) = reader.next()? else { bail!("a parameter expected") };
        parameters.push((ty, names.value(parameter)));
        reader.take_sign(',');
    }
    Ok(Head { name, result, parameters })
}

/// Reads a file into a module.
///
/// # Errors
/// What is not understood, with the line.
pub fn parse(text: &str, module: &mut Module) -> Result<()> {
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, text)) = lines.next() {
        let context = || format!("line {}: {}", number + 1, text.chars().take(200).collect::<String>());
        if text.starts_with("define ") {
            let body: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "}").collect();
            let Head { name, .. } = head(text, &mut Names::default()).with_context(context)?;
            match function(text, &body).with_context(context) {
                Ok(function) => {
                    module.functions.entry(name).or_insert(function);
                }
                Err(error) => {
                    module.unread.insert(name, format!("{error:#}"));
                }
            }
        } else if text.starts_with('%') && text.contains(" = type ") {
            let mut reader = Reader::new(text)?;
            let Token::Local(name) = reader.next()? else { bail!("a name expected") };
            reader.at += 2;
            if !reader.is_word("opaque") {
                module.types.insert(name, reader.ty().with_context(context)?);
            }
        } else if text.starts_with('@') {
            let Token::Global(name) = Reader::new(text)?.next()? else { bail!("a name expected") };
            match global(text).with_context(context) {
                Ok(Some(global)) => drop(module.globals.insert(name, global)),
                Ok(None) => {}
                Err(error) => drop(module.unread.insert(name, format!("{error:#}"))),
            }
        }
    }
    Ok(())
}

/// A constant; none for what is no constant.
fn global(text: &str) -> Result<Option<Global>> {
    let mut reader = Reader::new(text)?;
    reader.next()?;
    reader.sign('=')?;
    reader.skip_attributes()?;
    if !reader.take_word("constant") {
        return Ok(None);
    }
    let ty = reader.ty()?;
    if matches!(reader.peek(), None | Some(Token::Sign(','))) {
        return Ok(None);
    }
    let content = operand(&mut reader, &mut Names::default(), &ty)?;
    Ok(Some(Global { ty, content }))
}

fn function(text: &str, body: &[(usize, &str)]) -> Result<Function> {
    let mut names = Names::default();
    let Head { name, result, parameters } = head(text, &mut names)?;
    let mut blocks: Vec<(usize, Block)> = Vec::new();
    let mut open: Option<(usize, String, Vec<Instruction>)> = None;
    let mut pending = String::new();
    for &(number, text) in body {
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.starts_with(';') {
            continue;
        }
        if !text.starts_with(' ') {
            let mut reader = Reader::new(text)?;
            let block = match reader.next()? {
                Token::Word(name) | Token::Text(name) => name,
                other => bail!("a block expected, found {other:?}"),
            };
            open = Some((names.block(block.clone()), block, Vec::new()));
            continue;
        }
        // A switch has a line for each case.
        pending.push_str(trimmed);
        pending.push(' ');
        if pending.starts_with("switch ") && !pending.contains(']') {
            continue;
        }
        let context = || format!("line {}: {}", number + 1, trimmed.chars().take(200).collect::<String>());
        let read = line(&pending, &mut names).with_context(context)?;
        pending.clear();
        let Some((id, block, mut instructions)) = open.take() else { bail!("an instruction outside of a block") };
        match read {
            Line::Instruction(instruction) => {
                instructions.push(instruction);
                open = Some((id, block, instructions));
            }
            Line::End(end) => blocks.push((id, Block { name: block, instructions, end })),
        }
    }
    // The first block that stands there is where the function begins: it has the first number.
    let entry = blocks.first().map(|(id, _)| *id).ok_or_else(|| anyhow!("a function without blocks"))?;
    let count = blocks.len();
    let mut sorted: Vec<Option<Block>> = vec![None; count];
    for (id, block) in blocks {
        *sorted.get_mut(id).ok_or_else(|| anyhow!("a block that is not there"))? = Some(block);
    }
    if entry != 0 {
        bail!("the first block is not the first that is named");
    }
    let blocks =
        sorted.into_iter().collect::<Option<Vec<Block>>>().ok_or_else(|| anyhow!("a block that is not there"))?;
    Ok(Function { name, parameters, result, blocks, values: names.values.len() })
}
