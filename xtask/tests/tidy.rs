//! What a reader of the tree relies on: where things are, and that README's tables are those of the commands.

use std::fs;
use std::path::{Path, PathBuf};
use xtask::{bench, paths, tcb};

fn readme() -> String {
    fs::read_to_string(paths::root().join("README.md")).expect("there is a README")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// No code of the kernel names these words, but that below `allowed`.
fn names_nowhere_else(words: &[&str], allowed: &[&str]) {
    let kernel = paths::root().join("kernel/src");
    let outside = |path: &PathBuf| !allowed.iter().any(|allowed| path.starts_with(kernel.join(allowed)));
    let files: Vec<PathBuf> = sources(&kernel).into_iter().filter(outside).collect();
    assert!(files.len() > 40, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("it can be read");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default().to_lowercase();
            let named = words.iter().any(|word| code.contains(word));
            assert!(!named, "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

#[test]
fn what_depends_on_svm_is_behind_arch() {
    names_nowhere_else(&["svm", "vmcb", "vmrun"], &["arch"]);
}

#[test]
fn what_depends_on_vt_d_is_behind_iommu() {
    // Besides: who finds units and turns them on, who reaches their registers, and the formats of all tables.
    let allowed = ["iommu", "arch/remapping.rs", "boot", "firmware/acpi.rs", "assignment/tests.rs", "nested.rs"];
    names_nowhere_else(&["vtd"], &allowed);
}

#[test]
fn readme_has_the_lines_of_code_of_today() {
    let table = tcb::markdown(&tcb::count_all(&paths::root()).expect("all sources can be counted"));
    assert!(readme().contains(&table), "type: cargo xtask tcb");
}

#[test]
fn readme_has_the_bench_of_the_baseline() {
    let (readme, table) = (readme(), bench::baseline_table().expect("there is a baseline"));
    assert!(table.lines().count() > 30, "{table}");
    for line in table.lines() {
        assert!(readme.contains(line.trim_end()), "README lacks: {line}");
    }
}
