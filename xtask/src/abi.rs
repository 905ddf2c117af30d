//! `cargo xtask abi`: writes `docs/specification.md`, the reference of the ABI and of what it means, from `cap-spec`.

use crate::paths;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

fn reference() -> Result<String> {
    let mut text = String::new();
    cap_spec::page::write_reference(&mut text).context("cannot write the reference")?;
    Ok(text)
}

fn file() -> PathBuf {
    paths::root().join("docs/specification.md")
}

/// Writes the reference.
///
/// # Errors
/// When the file can't be written.
pub fn write() -> Result<()> {
    let path = file();
    fs::create_dir_all(paths::root().join("docs")).context("cannot make docs/")?;
    fs::write(&path, reference()?).with_context(|| format!("cannot write {}", path.display()))?;
    say!("{} is up to date", paths::shown(&path));
    Ok(())
}

/// Checks that the committed reference is what the sources say.
///
/// # Errors
/// When it isn't.
pub fn check() -> Result<()> {
    if fs::read_to_string(file()).ok() != Some(reference()?) {
        bail!("docs/specification.md is not what cap-spec says; type: cargo xtask abi");
    }
    Ok(())
}
