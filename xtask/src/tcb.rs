//! `cargo xtask tcb`: lines of code by trust class, counted from tokens, and the table in README.md.
//!
//! A line counts when a token of code is on it: not when it is blank, a comment or documentation, and not when it
//! belongs to a test or to what only the host has (`#[cfg(test)]`, `#[cfg(any(test, ...))]`, `#[test]`, and the files of
//! modules that are declared so). Assembly counts the lines that are neither blank nor comment.

use crate::{paths, readme, report};
use anyhow::{Context, Result, anyhow, ensure};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// Trust classes: name, what they are trusted for, folders, and at most how many lines they are meant to have.
const CLASSES: [(&str, &str, &[&str], Option<usize>); 5] = [
    ("kernel", "isolation", &["kernel/src", "cap-spec/src/abi"], Some(8_000)),
    ("market", "who gets what; money", &["servers/market/src", "servers/market/mechanism/src"], None),
    ("other servers", "their own device's shared part", &OTHER_SERVERS, None),
    ("userlib", "nothing but its own application", &USERLIB, None),
    ("applications", "nothing", &["apps"], None),
];

const OTHER_SERVERS: [&str; 6] = [
    "servers/console/src",
    "servers/proto/src",
    "servers/nic/driver/src",
    "servers/nic/src",
    "servers/nvme/driver/src",
    "servers/nvme/src",
];
const USERLIB: [&str; 6] = [
    "userlib/src",
    "userlib/app-net/src",
    "userlib/device/src",
    "userlib/igbvf/src",
    "userlib/nvme-queue/src",
    "userlib/net/src",
];

/// What was counted in one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Trust class.
    pub class: String,
    /// What it is trusted for.
    pub trusted_for: String,
    /// Lines of code.
    pub lines: usize,
    /// At most so many, if there is a target.
    pub target: Option<usize>,
    /// True if the target is met.
    pub met: Option<bool>,
    /// Of which assembly.
    pub assembly_lines: usize,
    /// `unsafe` blocks.
    pub unsafe_blocks: usize,
    /// Lines inside them.
    pub unsafe_lines: usize,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.lines += other.lines;
        self.assembly_lines += other.assembly_lines;
        self.unsafe_blocks += other.unsafe_blocks;
        self.unsafe_lines += other.unsafe_lines;
    }
}

/// Counts, prints the table (or JSON), and brings README's table up to date. With `files`, the files of the first class,
/// the largest first, come before the table; with `since`, what has come since that revision comes after it.
///
/// # Errors
/// When a file can't be read or is no Rust, or git does not know the revision.
pub fn tcb(json: Option<&Path>, files: bool, since: Option<&str>) -> Result<()> {
    let root = paths::root();
    if files {
        say!("{}", file_table(&root, CLASSES[0].2)?);
    }
    let counts = count_all(&root)?;
    say!("{}", table(&counts).trim_end());
    if let Some(revision) = since {
        say!("\n{}", growth(revision, &count_revision(&root, revision)?, &counts));
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&counts).context("cannot encode the counts")?;
        write_json(path, &text)?;
    }
    readme::bring_up_to_date("tcb", &markdown(&counts))
}

/// Counts a revision of this repository.
fn count_revision(root: &Path, revision: &str) -> Result<Vec<Count>> {
    let folder = std::env::temp_dir().join(format!("nonkernel-tcb-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let counts = check_out(root, revision, &folder).and_then(|()| count_all(&folder));
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    counts
}

/// Unpacks a revision into a folder.
fn check_out(root: &Path, revision: &str, folder: &Path) -> Result<()> {
    let mut archive = Command::new("git")
        .args(["archive", "--format=tar", "--end-of-options", revision])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run git; it is needed for `--since`")?;
    let files = archive.stdout.take().context("git says nothing")?;
    let unpacked = Command::new("tar").arg("-x").current_dir(folder).stdin(files).status();
    let is_known = archive.wait().is_ok_and(|status| status.success());
    ensure!(is_known, "git does not know the revision `{revision}`; try `cargo xtask tcb --since HEAD~1`");
    ensure!(unpacked.is_ok_and(|status| status.success()), "cannot unpack the revision `{revision}`");
    Ok(())
}

/// How much more, or less, each class has than before.
fn growth(revision: &str, before: &[Count], now: &[Count]) -> String {
    let classes = before.iter().zip(now).map(|(before, now)| {
        let more = now.lines as i64 - before.lines as i64;
        format!("{} {} {more:+} = {}", now.class, before.lines, now.lines)
    });
    format!("since {revision}: {}", classes.collect::<Vec<_>>().join(", "))
}

/// Writes JSON to a file, or to standard output for `-`.
///
/// # Errors
/// When the file can't be written.
pub fn write_json(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") {
        say!("{text}");
        return Ok(());
    }
    fs::write(path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// Counts every class below `root`.
///
/// # Errors
/// As [`tcb`].
pub fn count_all(root: &Path) -> Result<Vec<Count>> {
    let mut counts = Vec::new();
    for (class, trusted_for, folders, target) in CLASSES {
        let mut sum = Count { class: class.into(), trusted_for: trusted_for.into(), target, ..Count::default() };
        count_files(root, folders)?.iter().for_each(|(_, count)| sum.add(count));
        sum.met = target.map(|most| sum.lines <= most);
        counts.push(sum);
    }
    Ok(counts)
}

/// Counts every file below some folders of `root`, but for those of modules that are for tests or the host only.
fn count_files(root: &Path, folders: &[&str]) -> Result<Vec<(PathBuf, Count)>> {
    let mut counted: Vec<(PathBuf, Count)> = Vec::new();
    let mut left_out: Vec<PathBuf> = Vec::new();
    for folder in folders {
        for file in source_files(&root.join(folder))? {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            if file.extension().is_some_and(|extension| extension == "s") {
                counted.push((file, count_assembly(&text)));
                continue;
            }
            let (count, modules) = count_rust(&text).with_context(|| format!("cannot count {}", file.display()))?;
            left_out.extend(modules.iter().map(|module| module_path(&file, module)));
            counted.push((file, count));
        }
    }
    // A module's file is `NAME.rs`, its children's are below `NAME`.
    counted.retain(|(file, _)| !left_out.iter().any(|path| file.with_extension("").starts_with(path)));
    Ok(counted)
}

/// The files below some folders, the largest first.
fn file_table(root: &Path, folders: &[&str]) -> Result<String> {
    let mut counted = count_files(root, folders)?;
    counted.sort_by(|(a, x), (b, y)| y.lines.cmp(&x.lines).then(a.cmp(b)));
    let mut all = vec![["file", "lines of code", "unsafe blocks", "lines in them"].map(String::from).to_vec()];
    all.extend(counted.iter().map(|(file, count)| {
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let numbers = [count.lines, count.unsafe_blocks, count.unsafe_lines];
        std::iter::once(name).chain(numbers.map(|number| report::grouped(number as u64))).collect()
    }));
    Ok(report::aligned(&all, 1))
}

/// Where the files of module `name` are that `file` declares, without extension.
fn module_path(file: &Path, name: &str) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new(""));
    match file.file_stem().unwrap_or_default().to_string_lossy().as_ref() {
        "lib" | "main" | "mod" => folder.join(name),
        stem => folder.join(stem).join(name),
    }
}

/// Rust and assembly files, but for integration tests and examples.
fn source_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(files) };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let package_tests = ["tests", "examples"].contains(&name.as_str()) && !folder.ends_with("src");
        if path.is_dir() && !package_tests {
            files.extend(source_files(&path)?);
        } else if name.ends_with(".rs") || name.ends_with(".s") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn count_assembly(text: &str) -> Count {
    let code = |line: &&str| {
        let line = line.trim_start();
        !line.is_empty() && !["#", "//", "/*", "*"].iter().any(|comment| line.starts_with(comment))
    };
    let lines = text.lines().filter(code).count();
    Count { lines, assembly_lines: lines, ..Count::default() }
}

/// Counts a file, and names the modules that it declares for tests or the host only.
fn count_rust(text: &str) -> Result<(Count, Vec<String>)> {
    // A first line such as `#!/usr/bin/env` never occurs here; inner attributes are tokens.
    let tokens = TokenStream::from_str(text).map_err(|error| anyhow!("it is no Rust: {error}"))?;
    let mut counter = Counter::default();
    if counter.is_test_file(&tokens) {
        return Ok((Count::default(), Vec::new()));
    }
    counter.stream(tokens, false);
    let count = Count {
        lines: counter.lines.len(),
        unsafe_blocks: counter.blocks,
        unsafe_lines: counter.unsafe_lines.len(),
        ..Count::default()
    };
    Ok((count, counter.left_out))
}

#[derive(Default)]
struct Counter {
    lines: BTreeSet<usize>,
    unsafe_lines: BTreeSet<usize>,
    blocks: usize,
    left_out: Vec<String>,
}

impl Counter {
    /// True for `#![cfg(test)]` at the top.
    fn is_test_file(&self, tokens: &TokenStream) -> bool {
        let mut before = [None, None];
        for token in tokens.clone() {
            if let (Some('#'), Some('!'), TokenTree::Group(group)) = (before[0], before[1], &token)
                && is_test_attribute(&group.stream())
            {
                return true;
            }
            let mark = if let TokenTree::Punct(punct) = &token { Some(punct.as_char()) } else { None };
            before = [before[1], mark];
        }
        false
    }

    fn stream(&mut self, tokens: TokenStream, in_unsafe: bool) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            if is_punct(&token, '#') {
                let inner = tokens.peek().is_some_and(|next| is_punct(next, '!'));
                let mark = if inner { tokens.next() } else { None };
                if let Some(TokenTree::Group(group)) = tokens
                    .next_if(|next| matches!(next, TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket))
                {
                    if is_documentation(&group.stream()) {
                        continue;
                    }
                    if !inner && is_test_attribute(&group.stream()) {
                        self.left_out.extend(skip_item(&mut tokens));
                        continue;
                    }
                    self.token(TokenTree::Group(group), in_unsafe);
                }
                self.token(token, in_unsafe);
                if let Some(mark) = mark {
                    self.token(mark, in_unsafe);
                }
                continue;
            }
            let is_unsafe = matches!(&token, TokenTree::Ident(ident) if ident == "unsafe");
            self.token(token, in_unsafe);
            if is_unsafe
                && let Some(TokenTree::Group(group)) = tokens
                    .next_if(|next| matches!(next, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace))
            {
                self.blocks += 1;
                self.token(TokenTree::Group(group), true);
            }
        }
    }

    fn token(&mut self, token: TokenTree, in_unsafe: bool) {
        match token {
            TokenTree::Group(group) => {
                self.line(group.span_open().start().line, group.span_open().end().line, in_unsafe);
                self.line(group.span_close().start().line, group.span_close().end().line, in_unsafe);
                self.stream(group.stream(), in_unsafe);
            }
            other => {
                let span = other.span();
                self.line(span.start().line, span.end().line, in_unsafe);
            }
        }
    }

    fn line(&mut self, first: usize, last: usize, in_unsafe: bool) {
        for line in first..=last {
            self.lines.insert(line);
            if in_unsafe {
                self.unsafe_lines.insert(line);
            }
        }
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// `doc = ...`, which is also what documentation comments become.
fn is_documentation(attribute: &TokenStream) -> bool {
    matches!(attribute.clone().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == "doc")
}

/// `test`, `cfg(test)`, `cfg(all(test, ...))`, `cfg(any(test, ...))`.
fn is_test_attribute(attribute: &TokenStream) -> bool {
    let mut tokens = attribute.clone().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(ident)), None) => ident == "test",
        (Some(TokenTree::Ident(ident)), Some(TokenTree::Group(group))) if ident == "cfg" => {
            let inner = group.stream().to_string().replace(' ', "");
            inner == "test" || inner.starts_with("all(test,") || inner.starts_with("any(test,")
        }
        _ => false,
    }
}

/// Skips the item behind a test attribute: up to its `;` or its braces. For `mod NAME;` returns the name.
fn skip_item(tokens: &mut impl Iterator<Item = TokenTree>) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    for token in tokens {
        if matches!(&token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace) {
            return None;
        }
        if is_punct(&token, ';') {
            let name = words.pop();
            return if words.last().is_some_and(|word| word == "mod") { name } else { None };
        }
        words.push(token.to_string());
    }
    None
}

fn rows(counts: &[Count]) -> Vec<Vec<String>> {
    let row = |count: &Count| {
        let number = |number: usize| report::grouped(number as u64);
        vec![
            count.class.clone(),
            count.trusted_for.clone(),
            number(count.lines),
            count.target.map_or("-".into(), |most| format!("<= {}", number(most))),
            count.met.map_or("-", |met| if met { "yes" } else { "NO" }).into(),
            number(count.unsafe_blocks),
            number(count.unsafe_lines),
        ]
    };
    counts.iter().map(row).collect()
}

const HEADER: [&str; 7] = ["part", "trusted for", "lines of code", "target", "met", "unsafe blocks", "lines in them"];

fn table(counts: &[Count]) -> String {
    let mut all = vec![HEADER.map(String::from).to_vec()];
    all.extend(rows(counts));
    report::aligned(&all, 2)
}

/// The table of README.md, without its marks.
pub fn markdown(counts: &[Count]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(HEADER.map(String::from).to_vec());
    text += "|---|---|---:|---:|---|---:|---:|\n";
    text.extend(rows(counts).into_iter().map(line));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources;

    #[test]
    fn growth_is_told_for_each_class() {
        let count = |lines| Count { class: "kernel".into(), lines, ..Count::default() };
        assert_eq!(growth("v1", &[count(100)], &[count(90)]), "since v1: kernel 100 -10 = 90");
        assert_eq!(growth("v1", &[count(100)], &[count(101)]), "since v1: kernel 100 +1 = 101");
    }

    #[test]
    fn a_revision_that_nobody_knows_is_refused() {
        let refusal = count_revision(&paths::root(), "no-such-revision").unwrap_err().to_string();
        assert!(refusal.contains("git does not know the revision `no-such-revision`"), "{refusal}");
    }

    #[test]
    fn counts_are_written_with_these_names() {
        let class = "kernel".to_string();
        let count = Count { class, lines: 7, target: Some(6), met: Some(false), unsafe_blocks: 1, ..Count::default() };
        let expected = serde_json::json!({
            "class": "kernel", "trusted_for": "", "lines": 7, "target": 6, "met": false, "assembly_lines": 0,
            "unsafe_blocks": 1, "unsafe_lines": 0,
        });
        assert_eq!(serde_json::to_value(count).expect("it is encoded"), expected);
    }

    #[test]
    fn what_has_a_target_meets_it_or_not() {
        let count = |class: &str, lines, target: Option<usize>| {
            let met = target.map(|most| lines <= most);
            Count { class: class.into(), trusted_for: "x".into(), lines, target, met, ..Count::default() }
        };
        let shown = markdown(&[count("a", 8_001, Some(8_000)), count("b", 8_000, Some(8_000)), count("c", 1, None)]);
        let rows: Vec<&str> = shown.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| a | x | 8,001 | <= 8,000 | NO | 0 | 0 |",
                "| b | x | 8,000 | <= 8,000 | yes | 0 | 0 |",
                "| c | x | 1 | - | - | 0 | 0 |"
            ]
        );
        let counts = count_all(&paths::root()).unwrap();
        assert!(counts.iter().all(|count| count.met == count.target.map(|most| count.lines <= most)));
        assert_eq!(counts[0].target, Some(8_000));
    }

    #[test]
    fn only_code_counts() {
        let text = r##"//! Module.
/// Documentation
/// of two lines.
#[inline]
pub fn f() -> u32 { // comment
    /* block
       comment */
    let text = "two
lines";
    // SAFETY: none.
    unsafe {
        g();
    }
    text.len() as u32
}

#[doc = "more"]
unsafe fn g() {}

#[cfg(test)]
mod tests {
    #[test]
    fn t() {}
}

#[test]
fn u() { f(); }
"##;
        let (count, left_out) = count_rust(text).unwrap();
        // #[inline], fn, two lines of the string, unsafe, g, brace, text.len, brace, unsafe fn.
        assert_eq!((count.lines, count.unsafe_blocks, count.unsafe_lines), (10, 1, 3));
        assert!(left_out.is_empty());
        assert_eq!(count_rust("#![cfg(test)]\nfn f() {}\n").unwrap().0.lines, 0);
        let (count, left_out) = count_rust("#[cfg(any(test, feature = \"host\"))]\npub mod check;\nmod b;\n").unwrap();
        assert_eq!((count.lines, left_out), (1, vec!["check".to_string()]));
        assert!(count_rust("fn (").is_err());
    }

    #[test]
    fn every_source_of_an_image_is_in_one_class() {
        // Of the specification the kernel has `abi` alone, and a root that declares modules; a template is copied into apps.
        let elsewhere = ["cap-spec/src", "userlib/template"];
        let root = paths::root();
        let mut seen = 0;
        for file in sources::SYSTEM.iter().flat_map(|folder| source_files(&root.join(folder)).unwrap()) {
            let file = file.strip_prefix(&root).unwrap();
            // What is not below `src` is of the build.
            if !file.iter().any(|part| part == "src") {
                continue;
            }
            let is_in =
                |(_, _, folders, _): &&(_, _, &[&str], _)| folders.iter().any(|folder| file.starts_with(folder));
            let classes = CLASSES.iter().filter(is_in).count();
            let is_elsewhere = elsewhere.iter().any(|folder| file.starts_with(folder));
            assert!(classes == 1 || (classes == 0 && is_elsewhere), "{} is in {classes} classes", file.display());
            seen += classes;
        }
        assert!(seen > 200, "{seen}");
    }

    #[test]
    fn modules_are_where_the_language_says() {
        assert_eq!(module_path(Path::new("src/lib.rs"), "tests"), Path::new("src/tests"));
        assert_eq!(module_path(Path::new("src/a/mod.rs"), "tests"), Path::new("src/a/tests"));
        assert_eq!(module_path(Path::new("src/sched.rs"), "tests"), Path::new("src/sched/tests"));
    }

    #[test]
    fn assembly_counts_instructions() {
        assert_eq!(count_assembly("# c\n\n  mov rax, rbx\n// d\nlabel:\n").lines, 2);
    }

    #[test]
    fn this_repository_has_a_kernel() {
        let counts = count_all(&paths::root()).unwrap();
        assert!(counts[0].class == "kernel" && counts[0].lines > 100);
        // The list by file is of the same lines, and leaves tests out.
        let files = count_files(&paths::root(), CLASSES[0].2).unwrap();
        assert_eq!(files.iter().map(|(_, count)| count.lines).sum::<usize>(), counts[0].lines);
        assert!(files.iter().all(|(file, _)| !file.ends_with("check.rs") && !file.ends_with("tests/mod.rs")));
        assert!(file_table(&paths::root(), CLASSES[0].2).unwrap().lines().count() == files.len() + 1);
    }
}
