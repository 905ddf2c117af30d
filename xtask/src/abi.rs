//! `cargo xtask abi`: writes `docs/abi.md`, the page of the ABI, from `cap-spec`'s data.

use crate::paths;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

fn page() -> Result<String> {
    let mut text = String::new();
    cap_spec::page::write_page(&mut text).context("cannot write the page")?;
    Ok(text)
}

fn file() -> PathBuf {
    paths::root().join("docs/abi.md")
}

/// Writes the page.
///
/// # Errors
/// When the file can't be written.
pub fn write() -> Result<()> {
    let path = file();
    fs::create_dir_all(paths::root().join("docs")).context("cannot make docs/")?;
    fs::write(&path, page()?).with_context(|| format!("cannot write {}", path.display()))?;
    say!("{} is up to date", paths::shown(&path));
    Ok(())
}

/// Checks that the committed page is what the data says.
///
/// # Errors
/// When it isn't.
pub fn check() -> Result<()> {
    if fs::read_to_string(file()).ok() != Some(page()?) {
        bail!("docs/abi.md is not what cap-spec says; type: cargo xtask abi");
    }
    Ok(())
}
