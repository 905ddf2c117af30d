//! The LLVM IR of the programs and of the kernel's library, as the compiler makes it.

use crate::ir::{Module, parse};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates whose functions may be called.
const CRATES: [&str; 3] = ["kernel_harness", "kernel", "cap_spec"];
/// What the compiler leaves alone, so that few instructions occur.
const FLAGS: &str = "--emit=llvm-ir -C no-vectorize-loops -C no-vectorize-slp";

/// Compiles the programs at an optimisation level (`1`, `2`, `3`, `s`), and reads what came out.
///
/// # Errors
/// The compiler's, and what is not understood.
pub fn module(root: &Path, level: &str) -> Result<Module> {
    let target = root.join("target/symbolic").join(level);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root)
        .args(["rustc", "--quiet", "--package", "kernel-harness", "--profile", "symbolic"])
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_PROFILE_SYMBOLIC_OPT_LEVEL", level);
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the programs do not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut module = Module::default();
    for name in CRATES {
        let path = emitted(&String::from_utf8_lossy(&output.stdout), name)?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        parse(&text, &mut module).with_context(|| path.display().to_string())?;
    }
    Ok(module)
}

/// Where the IR of a crate lies: beside its library, of which cargo tells.
fn emitted(messages: &str, name: &str) -> Result<PathBuf> {
    let library = format!("/lib{name}-");
    let mut texts = messages.rsplit('"');
    let Some(path) = texts.find(|text| text.contains(&library) && text.ends_with(".rmeta")) else {
        bail!("cargo does not tell where it has put {name}")
    };
    let path = Path::new(path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    Ok(path.with_file_name(format!("{}.ll", stem.trim_start_matches("lib"))))
}
