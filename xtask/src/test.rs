//! `cargo xtask test`: formatting, lints, host tests, and whole machines, everything that CI runs.
//!
//! Machine tests need the images; they are built once, and the tests find them by `NONKERNEL_BUILT`. Two machines run
//! side by side, as the instruction clock keeps one core busy each.

use crate::{abi, bench, build, process, setup, verify};
use anyhow::{Context, Result, anyhow};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Set for machine tests: everything is built already.
pub const BUILT: &str = "NONKERNEL_BUILT";
/// The packages whose tests start emulators.
const MACHINE_TESTS: [&str; 2] = ["device-tests", "e2e"];
/// Machines side by side.
const MACHINES: &str = "2";
/// What the target folder takes when everything is built and tested, in MiB, with some to spare.
const DISK: u64 = 9000;
/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave out what needs an emulator.
    pub host_only: bool,
    /// Run only tests whose names contain this.
    pub filter: Option<String>,
}

/// Passed and failed tests; each check counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Counts the `test result:` lines of cargo.
    fn of_line(line: &str) -> Tally {
        let Some(rest) = line.trim().strip_prefix("test result: ") else { return Tally::default() };
        let number = |what: &str| {
            let part = rest.split([';', '.']).find(|part| part.trim().ends_with(what));
            part.and_then(|part| part.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Tally { passed: number(" passed"), failed: number(" failed") }
    }
}

/// Runs everything. Returns whether all of it passed; the last line is `N passed, N failed`.
///
/// # Errors
/// When the set-up fails.
pub fn test(options: &Options) -> Result<bool> {
    let start = Instant::now();
    setup::ensure_disk(DISK)?;
    setup::ensure()?;
    setup::ensure_components()?;
    setup::ensure_clients()?;
    let mut tally = Tally::default();
    if options.filter.is_none() {
        tally.add(step("format", format));
        tally.add(step("lints of host code", lint_host));
        tally.add(step("lints of guest code", lint_guests));
        tally.add(step("reference of the ABI", abi::check));
    }
    // The default members are for the host; of servers, userlib and applications the libraries are tested there too.
    let (mut whole, libraries) = build::host_packages()?;
    if options.filter.is_none() {
        // Checks run these, and more.
        let elsewhere = verify::tested_packages()?;
        whole.retain(|name| !elsewhere.contains(name));
        tally.add(step_with("verification", || verification(options)));
    }
    let filter = options.filter.as_deref();
    tally.add(step_with("host tests", || host_tests(&whole, None, filter)));
    tally.add(step_with("host tests of libraries for VMs", || host_tests(&libraries, Some("--lib"), filter)));
    // What must not compile, above all.
    tally.add(step_with("examples of libraries for VMs", || host_tests(&libraries, Some("--doc"), filter)));
    if !options.host_only {
        match build::build_all() {
            Ok(_) => {
                tally.add(step_with("machine tests", || machine_tests(filter)));
                if options.filter.is_none() {
                    tally.add(step("bench", || bench::bench(&bench::Options::default())));
                }
            }
            Err(error) => {
                say!("FAILED: build: {error:#}");
                tally.failed += 1;
            }
        }
    }
    say!("\n{:.0} s", start.elapsed().as_secs_f64());
    say!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Tally {
    step_with(name, || check().map(|()| Tally { passed: 1, failed: 0 }))
}

/// Runs one step; an error counts as a failed test, unless failures are counted already.
fn step_with(name: &str, check: impl FnOnce() -> Result<Tally>) -> Tally {
    let start = Instant::now();
    say!("\n== {name}");
    let tally = check().unwrap_or_else(|error| {
        say!("FAILED: {name}: {error:#}");
        Tally { passed: 0, failed: 1 }
    });
    say!("== {name}: {} passed, {} failed, {:.0} s", tally.passed, tally.failed, start.elapsed().as_secs_f64());
    tally
}

fn format() -> Result<()> {
    process::run(build::cargo().args(["fmt", "--all", "--check"])).context("type: cargo fmt --all")
}

fn lint_host() -> Result<()> {
    let strict = ["--", "-D", "warnings"];
    process::run(build::cargo().args(["clippy", "--quiet", "--all-targets"]).args(strict))?;
    // Of the others, what runs on the host: their libraries' tests.
    let (_, libraries) = build::host_packages()?;
    let packages = libraries.iter().flat_map(|name| ["--package", name]);
    process::run(build::cargo().args(["clippy", "--quiet", "--lib", "--profile", "test"]).args(packages).args(strict))
}

fn lint_guests() -> Result<()> {
    let strict = ["--", "-D", "warnings"];
    process::run(build::target_cargo("clippy").arg("--quiet").args(build::kernel_arguments()).args(strict))?;
    let packages = build::guest_packages()?;
    process::run(build::guest_cargo("clippy").arg("--quiet").args(build::guest_arguments(&packages)).args(strict))
}

fn verification(options: &Options) -> Result<Tally> {
    let options = verify::Options { host_only: options.host_only, ..Default::default() };
    let (passed, failed) = verify::verify(&options)?;
    Ok(Tally { passed, failed })
}

/// Tests of these packages, or with `only`, of one kind of their targets.
fn host_tests(packages: &[String], only: Option<&str>, filter: Option<&str>) -> Result<Tally> {
    let mut command = build::cargo();
    command.args(["test", "--no-fail-fast"]).args(only);
    let packages = packages.iter().filter(|name| !MACHINE_TESTS.contains(&name.as_str()));
    command.args(packages.flat_map(|name| ["--package", name]));
    counted(command.args(filter))
}

fn machine_tests(filter: Option<&str>) -> Result<Tally> {
    let mut command = build::cargo();
    command.env(BUILT, "1").args(["test", "--no-fail-fast"]);
    command.args(MACHINE_TESTS.iter().flat_map(|name| ["--package", name])).args(filter);
    command.args(["--", "--test-threads", MACHINES]);
    counted(&mut command)
}

/// Runs cargo's tests, shows their output, and counts them.
fn counted(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::typed(command)))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read the tests' output")?;
            say!("{line}");
            tally.add(Tally::of_line(&line));
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && tally.failed == 0 {
        // A test program that did not build, or died.
        return Err(anyhow!("`{}` failed: {status}", process::typed(command)));
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let line = "test result: ok. 29 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.15s";
        assert_eq!(Tally::of_line(line), Tally { passed: 29, failed: 1 });
        assert_eq!(Tally::of_line("running 5 tests"), Tally::default());
    }
}
