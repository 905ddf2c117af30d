//! `cargo run -p binary -- FILE`: reads the kernel's ELF file, and says what can be read off it.

use anyhow::{Context, Result};
use binary::findings::{self, Allowed, Findings, STACK_BYTES};
use binary::graph::Graph;
use binary::image::Image;
use cap_spec::properties::Property;
use claims::{Established, Tier};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Sites that may panic, and why no guest reaches them.
const ALLOWED: &str = include_str!("../panics.toml");

/// What can be read off the kernel's machine code: calls, recursion, panics, stack.
#[derive(Parser)]
#[command(name = "binary", about)]
struct Arguments {
    /// The kernel's ELF file, as `cargo xtask build` makes it.
    file: PathBuf,
    /// Also list the functions that may panic, with the places in the source.
    #[arg(long)]
    panics: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let file = &arguments.file;
    let data =
        std::fs::read(file).with_context(|| format!("cannot read {}; type: cargo xtask build", file.display()))?;
    let image = Image::parse(&data)?;
    let graph = Graph::of(&image);
    let mut found = findings::of(&image, &graph)?;
    let allowed: Allowed = toml::from_str(ALLOWED).context("panics.toml")?;
    found.faults.extend(findings::compare(&found.panics, &allowed));
    let Findings { functions, reached, faults, panics, deepest: (bytes, way) } = found;
    println!("{functions} functions, {reached} of them in reach of guests and devices");
    println!("deepest stack: {bytes} bytes of {STACK_BYTES} at least: {}", way.join(" -> "));
    let sites: usize = findings::by_file(&panics).values().map(std::collections::BTreeSet::len).sum();
    println!(
        "{} functions in reach may panic, by {sites} lines of the source; panics.toml says why none does",
        panics.len()
    );
    if arguments.panics {
        panics.iter().for_each(|(function, places)| println!("  {function}: {places:?}"));
    }
    faults.iter().for_each(|fault| println!("FAILED: {fault}"));
    if !faults.is_empty() {
        return Ok(false);
    }
    let told = |property: Property, bound: String| Established {
        check: "binary".into(),
        property: property.name().into(),
        tier: Tier::ReadOffTheBinary,
        tool: "call graph of the machine code".into(),
        bound,
        of: "kernel binary, SVM, VT-d".into(),
    };
    let stack = "no heap, no recursion and no unknown call in reach of guests and devices";
    let panics = format!("{sites} lines of the source may panic, each with a reason why it does not");
    let depth = format!("the stack stays below {STACK_BYTES} bytes on every way without a panic");
    told(Property::NoPanic, format!("{stack}; {panics}; {depth}")).tell();
    Ok(true)
}
