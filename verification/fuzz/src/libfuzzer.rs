//! The targets under libFuzzer: building the program with coverage, and running it.

use crate::{MAX_INPUT, NAME, Target, corpus};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What makes the compiler put counters and comparisons in, as `cargo fuzz` does, without a sanitizer: what is fuzzed is safe
/// Rust.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// Where the program runs. Named, so that what runs while it is built has no counters.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Kept inputs of a target at most.
const KEPT: usize = 30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn output_folder() -> PathBuf {
    root().join("target/fuzz")
}

/// Builds the program.
///
/// # Errors
/// When it does not build.
pub fn build() -> Result<PathBuf, String> {
    let folder = output_folder();
    let mut cargo = Command::new("rustup");
    cargo.current_dir(root()).args(["run", "nightly", "cargo", "build", "--quiet", "--profile", "verify"]);
    cargo.args(["--package", "fuzz-libfuzzer", "--target", HOST, "--target-dir"]).arg(&folder);
    // Cargo of the other toolchain, which runs this, has set it for itself.
    cargo.env("RUSTFLAGS", FLAGS).env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    run_to_end(&mut cargo, "the fuzz targets do not build with coverage")?;
    Ok(folder.join(HOST).join("verify/fuzz-libfuzzer"))
}

/// Runs a target on so many inputs, from those that are kept.
///
/// # Errors
/// When something is found: libFuzzer has printed it, and written the input into `target/fuzz/findings`.
pub fn run(program: &Path, target: &Target, runs: usize, keep: bool) -> Result<(), String> {
    let [seeds, found, findings] =
        ["seeds", "found", "findings"].map(|name| output_folder().join(name).join(target.name));
    let kept = corpus::folder(target);
    for folder in [&seeds, &found, &findings, &kept] {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let file = seeds.join(number.to_string());
        fs::write(&file, seed).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    eprintln!("{}: {runs} inputs", target.name);
    let mut command = libfuzzer(program, target);
    command.args([format!("-runs={runs}"), "-seed=1".into(), "-timeout=20".into(), "-print_final_stats=1".into()]);
    command.arg(format!("-artifact_prefix={}/", findings.display())).args([&found, &kept, &seeds]);
    run_to_end(&mut command, &format!("{}: something was found, see {}", target.name, findings.display()))?;
    if keep { thin_out(program, target, &[&found, &seeds]) } else { Ok(()) }
}

/// Keeps the smallest inputs that together reach all that was reached, the first of them.
fn thin_out(program: &Path, target: &Target, from: &[&PathBuf]) -> Result<(), String> {
    let (kept, merged) = (corpus::folder(target), output_folder().join("merged").join(target.name));
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged).map_err(|error| format!("cannot make {}: {error}", merged.display()))?;
    let mut command = libfuzzer(program, target);
    command.args(["-merge=1"]).arg(&merged).arg(&kept).args(from);
    run_to_end(&mut command, "inputs can't be thinned out")?;
    let failed = |error| format!("inputs can't be kept in {}: {error}", kept.display());
    let mut files = fs::read_dir(&merged).and_then(|files| files.collect::<Result<Vec<_>, _>>()).map_err(failed)?;
    // As many as there may be, spread over all sizes.
    files.sort_by_key(|file| (file.metadata().map(|data| data.len()).unwrap_or(u64::MAX), file.file_name()));
    fs::remove_dir_all(&kept).and_then(|()| fs::create_dir_all(&kept)).map_err(failed)?;
    let every = files.len().div_ceil(KEPT).max(1);
    for file in files.iter().rev().step_by(every) {
        fs::copy(file.path(), kept.join(file.file_name())).map_err(failed)?;
    }
    Ok(())
}

fn libfuzzer(program: &Path, target: &Target) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env(NAME, target.name).arg(format!("-max_len={MAX_INPUT}"));
    command
}

fn run_to_end(command: &mut Command, otherwise: &str) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{otherwise} ({status})")) }
}
