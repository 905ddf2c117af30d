//! `cargo xtask model`: the model checker, optimised.

use crate::build;
use anyhow::{Context, Result};

/// Runs the model checker with these arguments; returns its exit status.
///
/// # Errors
/// When cargo cannot be started.
pub fn model(arguments: &[String]) -> Result<u8> {
    let mut command = build::cargo();
    command
        .args(["run", "--quiet", "--profile", "verify", "--package", "model", "--bin", "model", "--"])
        .args(arguments);
    let status = command.status().context("cannot start cargo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
