//! `cargo xtask new NAME`: a new application from `userlib/template/`, ready to build, bid and be tested.
//!
//! In the template's files `{{name}}` stands for the application's name. The workspace takes every folder in `apps/`.

use crate::{build, paths};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;

const MARK: &str = "{{name}}";
/// The template's manifest; not named `Cargo.toml` there, so that cargo doesn't take the template for a package.
const MANIFEST: &str = "Cargo.toml.template";

/// Makes `apps/NAME`.
///
/// # Errors
/// When the name won't do, is taken, or the files can't be written.
pub fn new(name: &str) -> Result<()> {
    check_name(name)?;
    let folder = paths::root().join("apps").join(name);
    ensure!(!folder.exists(), "{} exists already", paths::shown(&folder));
    ensure!(
        !build::taken_names()?.iter().any(|taken| taken == name),
        "the workspace has a package or a program `{name}` already"
    );
    copy(&paths::root().join("userlib/template"), &folder, name)?;
    say!("made {}; next, type:", paths::shown(&folder));
    say!("  cargo xtask build {name}");
    say!("  cargo xtask run tiny --set app.digest.image={name}");
    Ok(())
}

/// Names that Rust, cargo or the template use for something else.
const RESERVED: [&str; 9] = ["alloc", "application", "build", "core", "deps", "examples", "incremental", "std", "test"];

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > 24 || !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        bail!("`{name}` won't do: take up to 24 lower-case letters, digits and hyphens, a letter first");
    }
    ensure!(!RESERVED.contains(&name), "`{name}` won't do: Rust, cargo or the template use it for something else");
    Ok(())
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let file = entry.file_name();
        let target = to.join(if file == MANIFEST { "Cargo.toml".as_ref() } else { file.as_os_str() });
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target, name)?;
        } else {
            let text =
                fs::read_to_string(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
            fs::write(&target, text.replace(MARK, name))
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_packages() {
        for good in ["a", "my-app", "x2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "2x", "My", "a_b", "../x", "a b", "abcdefghijklmnopqrstuvwxy", "core", "build"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
