//! What the source text says: doc comments of modules, of the fields of a state, of constants and enumerations.

use alloc::string::String;
use core::fmt::{Result, Write};

/// Text in a cell of a table.
pub(super) fn write_cell(out: &mut impl Write, text: &str) -> Result {
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
pub(super) fn write_enumeration(out: &mut impl Write, source: &str, head: &str) -> Result {
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
                    write_cell(out, &without_links(text))?;
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
pub(super) fn write_layout(out: &mut impl Write, source: &str) -> Result {
    writeln!(out, "### Addresses and magic numbers\n")?;
    // What belongs to a module, an enumeration or an `impl` is indented.
    let alone = source.lines().filter(|line| !line.starts_with(' '));
    write_items(out, alone, "value")?;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let Line::Open(name) = parse(line) else { continue };
        writeln!(out, "### `{name}`\n")?;
        let before = source.lines().take_while(|other| !core::ptr::eq(*other, line));
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
            writeln!(out, "{}", without_links(text))?;
        }
    }
    writeln!(out)
}

/// The prose with which a module opens. Headings in it get `level` more marks.
pub(super) fn write_prose(out: &mut impl Write, source: &str, level: &str) -> Result {
    for line in source.lines().map_while(|line| line.strip_prefix("//!")) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let marks = if line.starts_with("# ") { level } else { "" };
        writeln!(out, "{marks}{}", without_links(line))?;
    }
    writeln!(out)
}

/// A line without the links that only `rustdoc` can follow.
fn without_links(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        let Some((inner, behind)) = after.split_once(']') else {
            text.push('[');
            rest = after;
            continue;
        };
        match behind.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((target, behind)) if !target.contains("://") => {
                text.push_str(inner);
                rest = behind;
            }
            _ if inner.starts_with('`') => {
                text.push_str(&inner.replace("super::", ""));
                rest = behind;
            }
            _ => {
                text.push('[');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// The fields after the line `head` of a source, with their doc comments, as a list. Nothing if there are none.
pub(super) fn write_fields(out: &mut impl Write, source: &str, head: &str, title: &str) -> Result {
    let mut lines = source.lines().skip_while(|line| line.trim() != head);
    let Some(first) = lines.next() else { return Ok(()) };
    let indent = first.len() - first.trim_start().len();
    let is_end = |line: &str| line.trim_start().starts_with('}') && line.len() - line.trim_start().len() == indent;
    writeln!(out, "{title}:\n")?;
    let mut doc = String::new();
    for line in lines.take_while(|line| !is_end(line)).map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(&without_links(text));
        } else if let Some((name, _)) = line.split_once(':') {
            writeln!(out, "- `{}`:{doc}", name.trim_start_matches("pub "))?;
            doc.clear();
        }
    }
    writeln!(out)
}
