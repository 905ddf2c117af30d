//! The page of the documentation that describes the ABI, written from the very data that kernel and guests use.
//!
//! Invocations come from [`LABELS`]; enumerations, bits and layouts, whose meaning stands in doc comments, come from the
//! source text of the [`abi`](crate::abi) modules. `docs/abi.md` is what [`write_page`] writes; a test compares.

use core::fmt::{Result, Write};

use crate::abi::{Error, ObjectType, Rights, VERSION};
use crate::spec::{ArgKind, LABELS, LabelSpec};

const ERRORS: &str = include_str!("abi/errors.rs");
const OBJECTS: &str = include_str!("abi/objects.rs");
const LAYOUT: &str = include_str!("abi/layout.rs");

/// Writes the page, in Markdown.
///
/// # Errors
/// Those of `out`.
pub fn write_page(out: &mut impl Write) -> Result {
    writeln!(out, "# The ABI, version {VERSION}\n")?;
    writeln!(out, "Generated from `cap-spec` by `cargo xtask abi`. Do not edit.\n")?;
    writeln!(
        out,
        "A guest invokes a capability with VMMCALL (AMD) or VMCALL (Intel) at CPL 0:\n\n\
         | register | before | after |\n|---|---|---|\n\
         | `rax` | label | status: 0, or error in bits 0 to 7, argument in 8 to 15, detail in 16 to 31 |\n\
         | `rdi` | capability pointer: node << 16 \\| index | unchanged |\n\
         | `rsi` | argument 1 | result 1 |\n\
         | `rdx` | argument 2 | result 2 |\n\
         | `r10`, `r8`, `r9` | arguments 3, 4, 5 | unchanged |\n\n\
         The kernel reads registers only. A refused invocation changes nothing. The invoked capability is argument 0; \
         it is looked up first, then the label is checked against its type, then its rights; then the arguments in \
         order, each wholly; then the state, in the order in which the errors stand below.\n"
    )?;
    writeln!(out, "## Object types\n")?;
    write_enumeration(out, OBJECTS, "pub enum ObjectType {")?;
    writeln!(out, "## Rights\n")?;
    write_enumeration(out, OBJECTS, "pub struct Rights: u8 {")?;
    writeln!(out, "## Errors\n")?;
    write_enumeration(out, ERRORS, "pub enum Error {")?;
    writeln!(out, "## Invocations\n")?;
    for label in LABELS {
        write_label(out, label)?;
    }
    write_layout(out)
}

/// One invocation.
fn write_label(out: &mut impl Write, spec: &LabelSpec) -> Result {
    let object = match spec.label.object() {
        ObjectType::Null => "any",
        other => type_name(other),
    };
    writeln!(out, "### {} {object}.{}\n\n{}\n", spec.label as u16, spec.name, spec.doc)?;
    if !spec.label.rights().is_empty() {
        write!(out, "Needs ")?;
        write_rights(out, spec.label.rights())?;
        writeln!(out, ".\n")?;
    }
    if !spec.args.is_empty() {
        writeln!(out, "| | argument | kind | meaning |\n|---|---|---|---|")?;
        for (number, arg) in (1..).zip(spec.args) {
            write!(out, "| {number} | `{}` | ", arg.name)?;
            match arg.kind {
                ArgKind::Number => write!(out, "number")?,
                ArgKind::Capability(object_type, rights) => {
                    write!(out, "{}", type_name(object_type))?;
                    if !rights.is_empty() {
                        write!(out, " with ")?;
                        write_rights(out, rights)?;
                    }
                }
                ArgKind::AnyCapability => write!(out, "any capability")?,
                ArgKind::EmptySlot => write!(out, "empty slot")?,
                ArgKind::FullSlot => write!(out, "full slot")?,
            }
            write!(out, " | ")?;
            write_cell(out, arg.doc)?;
            writeln!(out, " |")?;
        }
        writeln!(out)?;
    }
    for (number, result) in (1..).zip(spec.results) {
        writeln!(out, "Result {number}: {result}.\n")?;
    }
    write!(out, "Errors:")?;
    let mut separator = " ";
    let implied = Error::ALL.iter().copied().filter(|error| spec.can_fail_with(*error) && !spec.errors.contains(error));
    for error in implied.chain(spec.errors.iter().copied()) {
        write!(out, "{separator}{error:?}")?;
        separator = ", ";
    }
    writeln!(out, ".\n")
}

/// The name of a type, as documents write it.
fn type_name(object_type: ObjectType) -> &'static str {
    match object_type {
        ObjectType::Null => "Null",
        ObjectType::Untyped => "Untyped",
        ObjectType::CNode => "CNode",
        ObjectType::Frame => "Frame",
        ObjectType::PageTable => "PageTable",
        ObjectType::Vm => "Vm",
        ObjectType::Vcpu => "Vcpu",
        ObjectType::CpuTime => "CpuTime",
        ObjectType::Channel => "Channel",
        ObjectType::Irq => "Irq",
        ObjectType::IoPort => "IoPort",
        ObjectType::Machine => "Machine",
        ObjectType::IommuDomain => "IommuDomain",
        ObjectType::PciFunction => "PciFunction",
    }
}

fn write_rights(out: &mut impl Write, rights: Rights) -> Result {
    let mut separator = "";
    for (name, _) in rights.iter_names() {
        write!(out, "{separator}{name}")?;
        separator = ", ";
    }
    Ok(())
}

/// Text in a cell of a table.
fn write_cell(out: &mut impl Write, text: &str) -> Result {
    for character in text.chars() {
        if character == '|' {
            out.write_char('\\')?;
        }
        out.write_char(character)?;
    }
    Ok(())
}

/// What a line of source says about the ABI.
enum Line<'a> {
    /// Text of a doc comment.
    Doc(&'a str),
    /// `NAME = VALUE` of a constant or a variant.
    Item(&'a str, &'a str),
    /// The head of a module or an enumeration, with its name.
    Open(&'a str),
    /// The end of one.
    Close,
    /// Anything else.
    Other,
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    if let Some(doc) = line.strip_prefix("///") {
        return Line::Doc(doc.trim());
    }
    let opened = ["pub mod ", "pub enum ", "pub struct "].iter().find_map(|head| line.strip_prefix(head));
    if let Some(name) = opened.and_then(|rest| rest.strip_suffix(" {")) {
        return Line::Open(name);
    }
    if line == "}" {
        return Line::Close;
    }
    let item = line.strip_prefix("pub const ").or(line.strip_prefix("const ")).unwrap_or(line);
    match item.strip_suffix([';', ',']).and_then(|item| item.split_once(" = ")) {
        Some((name, value)) if name.starts_with(char::is_uppercase) => {
            Line::Item(name.split(':').next().unwrap_or(name), value)
        }
        _ => Line::Other,
    }
}

/// The variants after the line `head`, as a table.
fn write_enumeration(out: &mut impl Write, source: &str, head: &str) -> Result {
    let lines = source.lines().skip_while(|line| line.trim() != head).skip(1);
    write_items(out, lines.take_while(|line| line.trim() != "}"), "number")
}

/// Constants or variants with their doc comments, as a table.
fn write_items<'a>(out: &mut impl Write, lines: impl Iterator<Item = &'a str>, what: &str) -> Result {
    writeln!(out, "| {what} | name | meaning |\n|---|---|---|")?;
    let mut is_fresh = true;
    let mut docs: [&str; 8] = [""; 8];
    let mut count = 0;
    for line in lines {
        match parse(line) {
            Line::Doc(text) => {
                if is_fresh {
                    count = 0;
                }
                is_fresh = false;
                if count < docs.len() {
                    docs[count] = text;
                    count += 1;
                }
            }
            Line::Item(name, value) => {
                write!(out, "| {value} | `{name}` |")?;
                for text in &docs[..count] {
                    out.write_char(' ')?;
                    write_cell(out, text)?;
                }
                writeln!(out, " |")?;
                is_fresh = true;
                count = 0;
            }
            // A blank line ends what a comment can belong to.
            _ if line.trim().is_empty() => count = 0,
            _ => {}
        }
    }
    writeln!(out)
}

/// Everything in the source of the layouts: first the constants that stand alone, then every module and enumeration.
fn write_layout(out: &mut impl Write) -> Result {
    writeln!(out, "## Addresses and magic numbers\n")?;
    // What belongs to a module, an enumeration or an `impl` is indented.
    let alone = LAYOUT.lines().filter(|line| !line.starts_with(' '));
    write_items(out, alone, "value")?;
    let mut lines = LAYOUT.lines();
    while let Some(line) = lines.next() {
        let Line::Open(name) = parse(line) else { continue };
        writeln!(out, "## `{name}`\n")?;
        let before = LAYOUT.lines().take_while(|other| !core::ptr::eq(*other, line));
        write_docs_of(out, before)?;
        let body = lines.clone().take_while(|line| !line.starts_with('}'));
        let what = if line.starts_with("pub mod") { "offset or value" } else { "number" };
        write_items(out, body, what)?;
        lines.by_ref().find(|line| line.starts_with('}'));
    }
    Ok(())
}

/// The doc comment in which `before` ends.
fn write_docs_of<'a>(out: &mut impl Write, before: impl Iterator<Item = &'a str> + Clone) -> Result {
    let total = before.clone().count();
    let length = |line: &str| matches!(parse(line), Line::Doc(_)) || line.starts_with("#[");
    let other = before.clone().enumerate().filter(|(_, line)| !length(line)).map(|(at, _)| at + 1).last().unwrap_or(0);
    for line in before.skip(other).take(total - other) {
        if let Line::Doc(text) = parse(line) {
            writeln!(out, "{text}")?;
        }
    }
    writeln!(out)
}
