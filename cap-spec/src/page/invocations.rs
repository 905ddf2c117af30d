//! Invocations, as the reference writes them: what stands in [`LABELS`](crate::spec::LABELS).

use core::fmt::{Result, Write};

use super::source::write_cell;
use crate::abi::{Error, ObjectType, Rights};
use crate::spec::{ArgKind, LabelSpec};

/// One invocation.
pub(super) fn write_label(out: &mut impl Write, spec: &LabelSpec) -> Result {
    let object = match spec.label.object() {
        ObjectType::Null => "any",
        other => type_name(other),
    };
    writeln!(out, "#### {} {object}.{}\n\n{}\n", spec.label as u16, spec.name, spec.doc)?;
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
pub(super) fn type_name(object_type: ObjectType) -> &'static str {
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

/// Rights, by name.
fn write_rights(out: &mut impl Write, rights: Rights) -> Result {
    let mut separator = "";
    for (name, _) in rights.iter_names() {
        write!(out, "{separator}{name}")?;
        separator = ", ";
    }
    Ok(())
}
