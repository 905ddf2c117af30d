//! What follows from the call graph: what a guest or a device can make run, where that may panic, how deep its stack gets.

use crate::graph::Graph;
use crate::image::Image;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a core's area that are its stack at least: the area (`arch/core_area.rs`) less one page for the core's state.
pub const STACK_BYTES: u64 = 32 * 1024 - 4096;
/// What runs from the first entry of a guest on, on every core.
pub const CORE_LOOP: &str = "nonkernel::arch::svm::core_loop::run";
/// What an interrupt or NMI may put on top: the longest of these stubs, and what the processor pushes itself.
const STUBS: [&str; 3] = ["exception_common", "drain_common", "nmi_stub"];
/// Bytes that the processor pushes for an interrupt: five words, an error code, and alignment to 16.
const PUSHED: u64 = 6 * 8 + 15;

/// `panics.toml`: sites that are left, and why no guest reaches them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// One row a file of the source.
    #[serde(rename = "file", default)]
    pub files: Vec<AllowedFile>,
}

/// A file with sites that may panic, as far as the binary says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedFile {
    /// Its name.
    pub name: String,
    /// How many lines of it may panic.
    pub lines: usize,
    /// Why that cannot come to be.
    pub why: String,
}

/// What was found.
#[derive(Debug)]
pub struct Findings {
    /// Functions of the program.
    pub functions: usize,
    /// Functions that can be reached from the core loop without a panic.
    pub reached: usize,
    /// What is wrong, a line each.
    pub faults: Vec<String>,
    /// Functions in reach that call what panics, with the places in the source.
    pub panics: BTreeMap<String, BTreeSet<String>>,
    /// Bytes of the deepest stack, and the functions on the way there.
    pub deepest: (u64, Vec<String>),
}

/// True for what never returns: it writes the epitaph and halts.
fn panics(name: &str) -> bool {
    const ENDS: [&str; 5] = [
        "core::panicking::",
        "core::option::expect_failed",
        "core::option::unwrap_failed",
        "core::result::unwrap_failed",
        "core::slice::index::slice_index_fail",
    ];
    ENDS.iter().any(|end| name.starts_with(end)) || name == "__rustc::rust_begin_unwind"
}

/// Looks at the kernel.
///
/// # Errors
/// When the core loop is not there.
pub fn of(image: &Image, graph: &Graph) -> Result<Findings> {
    let named = |name: &str| image.functions.iter().position(|function| function.name == name);
    let name = |at: usize| image.functions[at].name.clone();
    let root = named(CORE_LOOP).with_context(|| format!("the binary has no function {CORE_LOOP}"))?;
    let all = 0..image.functions.len();
    let ends: BTreeSet<usize> = all.clone().filter(|at| panics(&name(*at))).collect();
    let mut reached = graph.reachable(root, &ends);
    reached.retain(|at| !ends.contains(at));
    let mut faults = Vec::new();
    for symbol in
        image.symbols.keys().filter(|symbol| symbol.contains("__rust_alloc") || symbol.contains("__rdl_alloc"))
    {
        faults.push(format!("there is a heap: {symbol}"));
    }
    for at in &reached {
        let node = &graph.nodes[*at];
        if node.is_dynamic {
            faults.push(format!("{} moves its stack pointer by what is not known", name(*at)));
        }
        for call in &node.unknown {
            faults.push(format!("{} calls what is not known at {call:#x}", name(*at)));
        }
    }
    let mut deepest = (0, Vec::new());
    match graph.circle(&reached) {
        Some(circle) => {
            faults.push(format!("recursion: {}", circle.into_iter().map(name).collect::<Vec<_>>().join(" -> ")))
        }
        None => {
            let (bytes, way) = graph.deepest(root, &reached);
            // The functions that boot takes before the loop, none of which returns, and a stub on top.
            let boot: u64 = ["boot_main", "ap_main"]
                .iter()
                .filter_map(|boot| named(boot))
                .map(|at| graph.nodes[at].frame)
                .max()
                .unwrap_or(0);
            let stub = STUBS.iter().filter_map(|stub| named(stub)).map(|at| graph.nodes[at].frame).max().unwrap_or(0);
            deepest = (bytes + boot + stub + PUSHED, way.into_iter().map(name).collect());
            if deepest.0 > STACK_BYTES {
                faults.push(format!("the stack may need {} bytes of {STACK_BYTES}", deepest.0));
            }
        }
    }
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for at in &reached {
        let node = &graph.nodes[*at];
        if node.callees.iter().any(|callee| ends.contains(callee)) {
            found.insert(name(*at), node.locations.clone());
        }
    }
    Ok(Findings { functions: image.functions.len(), reached: reached.len(), faults, panics: found, deepest })
}

/// The lines that may panic, by file.
pub fn by_file(panics: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, line) in panics.values().flatten().filter_map(|place| place.split_once(':')) {
        files.entry(file).or_default().insert(line);
    }
    files
}

/// Compares the places that may panic with the list of those that are known.
pub fn compare(panics: &BTreeMap<String, BTreeSet<String>>, allowed: &Allowed) -> Vec<String> {
    let mut faults = Vec::new();
    let found = by_file(panics);
    for (function, _) in panics.iter().filter(|(_, places)| places.is_empty()) {
        faults.push(format!("{function} may panic at a place that is not known"));
    }
    let listed: BTreeMap<&str, &AllowedFile> = allowed.files.iter().map(|row| (row.name.as_str(), row)).collect();
    for (file, lines) in &found {
        match listed.get(file) {
            None => faults.push(format!("{file} may panic in {lines:?}, and panics.toml does not say why it does not")),
            Some(row) if row.why.trim().is_empty() => faults.push(format!("{file}: panics.toml gives no reason")),
            Some(row) if row.lines != lines.len() => {
                faults.push(format!("{file} may panic in {lines:?}, panics.toml knows {} lines of it", row.lines));
            }
            Some(_) => {}
        }
    }
    let gone = listed.keys().filter(|name| !found.contains_key(**name));
    faults.extend(gone.map(|name| format!("{name} does not panic any more: take it out of panics.toml")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(places: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        BTreeMap::from([("f".to_string(), places.iter().map(|place| (*place).to_string()).collect())])
    }

    #[test]
    fn a_list_that_grows_or_goes_stale_is_told() {
        let row = |lines| AllowedFile { name: "a.rs".into(), lines, why: "because".into() };
        let one = Allowed { files: vec![row(1)] };
        assert_eq!(compare(&found(&["a.rs:1"]), &one), Vec::<String>::new());
        assert_eq!(compare(&found(&["a.rs:1", "a.rs:2"]), &one).len(), 1, "one line more");
        assert_eq!(compare(&found(&["a.rs:1", "b.rs:2"]), &one).len(), 1, "another file");
        assert_eq!(compare(&BTreeMap::new(), &one).len(), 1, "it is gone");
        assert_eq!(compare(&found(&[]), &Allowed { files: vec![] }).len(), 1, "nobody knows where");
        let none = Allowed { files: vec![AllowedFile { why: " ".into(), ..row(1) }] };
        assert_eq!(compare(&found(&["a.rs:1"]), &none).len(), 1, "no reason");
    }
}
