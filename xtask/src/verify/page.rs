//! `verification/CLAIMS.md`: what is claimed, how far, shown by what, and what is assumed.

use super::record::{Entry, Record};
use super::register::{Check, Register, When};
use crate::paths;
use cap_spec::properties::Property;
use std::fmt::Write;
use std::path::PathBuf;

const HEAD: &str = "\
# Claims
Made by `cargo xtask verify --write` from what its checks have told (`established.jsonl`) and from `claims.toml`; don't edit. \
`cargo xtask verify` runs the checks of the CI tier again and fails when one of them does not show exactly what stands here; \
`cargo xtask verify --full` runs all; `cargo xtask verify NAME` runs one. Times are those of the last run that was recorded, on \
two cores.

How far a claim goes, from the strongest:
- **proved for any size**: for any number of slots, objects and VMs, by a solver, on the specification.
- **proved for all states to a bound**: for every state that satisfies the invariant, reachable or not, of a system of the stated size.
- **exhaustively checked to a bound**: every state or sequence of a system of the stated size that can be reached.
- **read off the binary**: of the machine code that ships.
- **tested**: on random, directed or real runs.
- **assumed**: not shown here.
";

/// Where it is.
pub fn file() -> PathBuf {
    paths::root().join("verification/CLAIMS.md")
}

/// The page.
///
/// # Errors
/// Never: writing to a string succeeds.
pub fn text(register: &Register, record: &Record) -> Result<String, std::fmt::Error> {
    let mut out = String::from(HEAD);
    for property in Property::all() {
        write!(out, "\n## {}\n{}\n\n", property.name(), property.statement())?;
        properties_rows(&mut out, register, record, property)?;
    }
    out.push_str("\n## Not claimed\n");
    for gap in &register.gaps {
        let of = gap.property.as_ref().map(|property| format!("**{property}**: ")).unwrap_or_default();
        writeln!(out, "- {of}{} {}", gap.what, gap.why)?;
    }
    out.push_str("\n## Assumptions\nEverything above holds only if these do.\n\n");
    out.push_str("| of | assumed | where the manual says so | relied on in |\n|---|---|---|---|\n");
    for row in &register.assumptions {
        writeln!(out, "| {} | {} | {} | {} |", row.of, row.text, row.source, row.used)?;
    }
    out.push_str("\n## Checks\n| check | what it does | command | tier | claims |\n|---|---|---|---|---|\n");
    for check in &register.checks {
        let Check { name, about, run, .. } = check;
        writeln!(out, "| `{name}` | {about} | `{run}` | {} | {} |", tier(check), check.expected().len())?;
    }
    Ok(out)
}

fn properties_rows(
    out: &mut String,
    register: &Register,
    record: &Record,
    property: Property,
) -> Result<(), std::fmt::Error> {
    let mut rows: Vec<&Entry> = record.entries.iter().filter(|entry| entry.told.property == property.name()).collect();
    rows.sort_by_key(|entry| entry.told.tier);
    if rows.is_empty() {
        let is_gap = register.gaps.iter().any(|gap| gap.property.as_deref() == Some(property.name()));
        out.push_str(if is_gap { "Not claimed, see below.\n" } else { "No run has shown it yet.\n" });
        return Ok(());
    }
    out.push_str("| tier | of | bound | tool | command | time |\n|---|---|---|---|---|---|\n");
    for Entry { by, told, seconds, commit } in rows {
        let check = register.checks.iter().find(|check| check.name == *by);
        // What CI does not show again was shown on the sources of then.
        let at = check.filter(|check| check.tier == When::Full).map(|_| format!(", at {commit}")).unwrap_or_default();
        writeln!(
            out,
            "| {} | {} | {} | {} | `cargo xtask verify {by}` | {}{at} |",
            told.tier.words(),
            told.of,
            told.bound,
            told.tool,
            time(*seconds)
        )?;
    }
    Ok(())
}

fn tier(check: &Check) -> &'static str {
    match check.tier {
        When::Ci => "CI",
        When::Full => "full",
    }
}

/// Seconds, rounded so that another run is likely to say the same.
fn time(seconds: u64) -> String {
    match seconds {
        0..5 => "some s".into(),
        5..95 => format!("{} s", (seconds + 5) / 10 * 10),
        _ => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded() {
        assert_eq!([0, 14, 15, 94, 95, 121].map(time), ["some s", "10 s", "20 s", "90 s", "2 min", "3 min"]);
    }

    #[test]
    fn every_property_has_a_chapter() {
        let mut register = Register::read().unwrap();
        let page = text(&register, &Record::default()).unwrap();
        for property in Property::all() {
            assert!(page.contains(&format!("\n## {}\n", property.name())));
        }
        // One that is listed as not claimed says so.
        register.gaps.first_mut().unwrap().property = Some(Property::NoPanic.name().into());
        assert!(text(&register, &Record::default()).unwrap().contains("Not claimed, see below."));
    }

    #[test]
    fn the_page_is_that_of_the_record() {
        let page = text(&Register::read().unwrap(), &Record::read().unwrap()).unwrap();
        let written = std::fs::read_to_string(file()).unwrap();
        assert!(page == written, "type: cargo xtask verify --page");
    }
}
