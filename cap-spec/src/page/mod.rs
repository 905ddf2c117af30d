//! The reference, written from the very sources that kernel, guests and checks use.
//!
//! Invocations come from [`LABELS`]; the prose of each chapter is the text with which its module opens; what a state is,
//! enumerations, bits and layouts come from doc comments; properties from [`crate::properties`].
//! `docs/specification.md` is what [`write_reference`] writes; a test compares.

mod invocations;
mod source;

use core::fmt::{Result, Write};

use crate::abi::{ObjectType, VERSION};
use crate::properties::Property;
use crate::spec::LABELS;
use invocations::{type_name, write_label};
use source::{write_cell, write_enumeration, write_fields, write_layout, write_prose};

const ERRORS: &str = include_str!("../abi/errors.rs");
const OBJECTS: &str = include_str!("../abi/objects.rs");
const LAYOUT: &str = include_str!("../abi/layout.rs");
const STATE: &str = include_str!("../machine/state.rs");
const MACHINE: &str = include_str!("../machine/mod.rs");

/// The chapter of an object.
struct Object {
    object: ObjectType,
    /// The module that says what its invocations do.
    module: &'static str,
    /// Heads of what there is of it in the state, with what that is the state of.
    state: &'static [(&'static str, &'static str)],
}

const CAPABILITY: &str = "What a capability has";
const OBJECT: &str = "What the object has";

macro_rules! objects {
    ($($object:ident in $module:literal: $($title:expr => $head:literal),*;)*) => {
        const CHAPTERS: &[Object] = &[$(Object {
            object: ObjectType::$object,
            module: include_str!(concat!("../machine/", $module, ".rs")),
            state: &[$(($head, $title)),*],
        }),*];
    };
}

objects! {
    Untyped in "untyped": CAPABILITY => "Untyped {";
    CNode in "cnode": CAPABILITY => "CNode {";
    Frame in "frame": CAPABILITY => "Frame {", "A mapping" => "pub struct Mapping {";
    PageTable in "page_table": CAPABILITY => "PageTable {", "A place" => "pub struct TablePlace {";
    Vm in "vm": OBJECT => "pub struct Vm {";
    Vcpu in "vcpu": OBJECT => "pub struct Vcpu {";
    CpuTime in "cpu_time": CAPABILITY => "CpuTime {", "A reservation" => "pub struct Reservation {",
        "A period" => "pub struct Period {";
    Channel in "channel": CAPABILITY => "Channel {", "A receiver, of each end" => "pub struct Receiver {";
    Irq in "irq": CAPABILITY => "Irq {", "A route" => "pub struct Route {", "A message" => "pub struct Message {";
    IoPort in "ioport": CAPABILITY => "IoPort {";
    Machine in "machine_object":;
    IommuDomain in "iommu_domain": CAPABILITY => "IommuDomain {", OBJECT => "pub struct Faults {";
    PciFunction in "pci_function": CAPABILITY => "PciFunction {", "What the function has" => "pub struct Function {",
        "What is fixed about it" => "pub struct FunctionFacts {";
}

macro_rules! subjects {
    ($($title:literal: $($module:literal),*;)*) => {
        /// Chapters that are about no single object: title, and the modules whose prose they are.
        const SUBJECTS: &[(&str, &[&str])] = &[$(($title, &[$(include_str!(concat!("../machine/", $module, ".rs"))),*])),*];
    };
}

subjects! {
    "The CSpace": "lookup";
    "Derivation, and what goes with what": "derivation";
    "Mappings": "address_space";
    "Launch": "launch";
    "Faults": "faults";
    "Delivery of CPU time": "edf";
    "Hardware that remembers, and operations that are interrupted": "fine/mod";
    "What hardware remembers": "fine/hardware";
    "Delete and Revoke in steps": "fine/destroy", "dying", "fine/bounds";
    "An IOMMU that fails": "fine/quarantine";
    "Launch in steps": "fine/launch";
    "Authority": "authority";
    "Non-interference": "interference";
}

/// Writes the reference, in Markdown.
///
/// # Errors
/// Those of `out`.
pub fn write_reference(out: &mut impl Write) -> Result {
    writeln!(out, "# The specification, with the ABI, version {VERSION}\n")?;
    writeln!(out, "Generated from `cap-spec` by `cargo xtask abi`. Do not edit.\n")?;
    write_contents(out)?;
    writeln!(out, "## The invocation\n")?;
    writeln!(
        out,
        "A guest invokes a capability with VMMCALL (AMD) or VMCALL (Intel) at CPL 0:\n\n\
         | register | before | after |\n|---|---|---|\n\
         | `rax` | label | status: 0, or error in bits 0 to 7, argument in 8 to 15, detail in 16 to 31 |\n\
         | `rdi` | capability pointer: node << 16 \\| index | unchanged |\n\
         | `rsi` | argument 1 | result 1 |\n\
         | `rdx` | argument 2 | result 2 |\n\
         | `r10`, `r8`, `r9` | arguments 3, 4, 5 | unchanged |\n\n\
         The kernel reads registers only. A refused invocation changes nothing.\n"
    )?;
    write_prose(out, MACHINE, "##")?;
    writeln!(out, "## Object types\n")?;
    write_enumeration(out, OBJECTS, "pub enum ObjectType {")?;
    writeln!(out, "## Rights\n")?;
    write_enumeration(out, OBJECTS, "pub struct Rights: u8 {")?;
    writeln!(out, "## Errors\n")?;
    write_enumeration(out, ERRORS, "pub enum Error {")?;
    writeln!(out, "## Any capability\n")?;
    write_invocations(out, ObjectType::Null)?;
    for chapter in CHAPTERS {
        writeln!(out, "## {}\n", type_name(chapter.object))?;
        write_prose(out, chapter.module, "##")?;
        for (head, title) in chapter.state {
            write_fields(out, STATE, head, title)?;
        }
        write_invocations(out, chapter.object)?;
    }
    for (title, modules) in SUBJECTS {
        writeln!(out, "## {title}\n")?;
        for module in *modules {
            write_prose(out, module, "##")?;
        }
    }
    write_properties(out)?;
    writeln!(out, "## Pages that kernel and guests share\n")?;
    write_layout(out, LAYOUT)
}

/// What there is, with links.
fn write_contents(out: &mut impl Write) -> Result {
    write!(out, "Objects:")?;
    for (number, chapter) in CHAPTERS.iter().enumerate() {
        write!(out, "{}", if number == 0 { " " } else { ", " })?;
        write_link(out, type_name(chapter.object))?;
    }
    write!(out, ".\n\nSubjects:")?;
    let titles = SUBJECTS.iter().map(|(title, _)| *title);
    for (number, title) in titles.chain(["Properties", "Pages that kernel and guests share"]).enumerate() {
        write!(out, "{}", if number == 0 { " " } else { "; " })?;
        write_link(out, title)?;
    }
    writeln!(out, ".\n")
}

/// A link to a chapter of the page.
fn write_link(out: &mut impl Write, title: &str) -> Result {
    write!(out, "[{title}](#")?;
    for character in title.chars().filter(|character| *character != ',') {
        out.write_char(if character == ' ' { '-' } else { character.to_ascii_lowercase() })?;
    }
    out.write_char(')')
}

/// Every invocation of an object.
fn write_invocations(out: &mut impl Write, object: ObjectType) -> Result {
    for label in LABELS.iter().filter(|spec| spec.label.object() == object) {
        write_label(out, label)?;
    }
    Ok(())
}

/// What is claimed, and where its form is that can be checked.
fn write_properties(out: &mut impl Write) -> Result {
    writeln!(out, "## Properties\n")?;
    writeln!(
        out,
        "What is claimed, each under the one name that specification, checks and claims share. The checkable form is code of \
         `cap-spec`, by its path in the crate, where it is a property of states or steps. Which checks have established \
         it, how far and of what, the checks tell themselves (`verification/claims`).\n"
    )?;
    writeln!(out, "| property | statement | checkable form |\n|---|---|---|")?;
    for property in Property::all() {
        write!(out, "| `{}` | ", property.name())?;
        write_cell(out, property.statement())?;
        write!(out, " | ")?;
        write_cell(out, property.form())?;
        writeln!(out, " |")?;
    }
    writeln!(out)
}
