//! `cargo xtask setup`: what a fresh machine lacks, installed once.
//!
//! Two things are needed: QEMU 10.0 or later (any in `PATH` will do; else Debian's package) and the Rust target
//! `x86_64-unknown-none` (by rustup; where its server can't be reached, Debian's newest compiler and its library's
//! sources). A stamp in the target folder makes the second run do nothing; whatever cannot be done is an
//! error that says what to type. What only bootable discs need (GRUB, and UEFI firmware to try them) is installed when
//! the first one is made.

use crate::{paths, process};
use anyhow::{Context, Result, anyhow, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The kernel's and the applications' target.
pub const TARGET: &str = "x86_64-unknown-none";
/// The oldest QEMU whose TCG has x2APIC, which every machine here uses.
pub const QEMU_NEEDED: (u32, u32) = (10, 0);
const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "seabios"];
const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/nonkernel-backports.sources";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What makes bootable discs, for BIOS and for UEFI; and firmware of the latter kind for the emulator.
const DISC_PACKAGES: [&str; 5] = ["grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "xorriso", "mtools"];
const UEFI_PACKAGES: [&str; 1] = ["ovmf"];
/// What those packages bring.
const DISC_PROGRAMS: [&str; 3] = ["grub-mkrescue", "xorriso", "mformat"];
const DISC_FOLDERS: [&str; 2] = ["/usr/lib/grub/i386-pc", "/usr/lib/grub/x86_64-efi"];
const UEFI_FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";

/// Debian's compiler that is new enough, its library's sources, and a linker for the target.
const RUST_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];
/// Where those packages put the compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// The oldest compiler that will do: `rust-version` of the workspace.
const RUST_NEEDED: (u32, u32) = (1, 95);

/// What the other commands need to know of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// The emulator.
    pub qemu: PathBuf,
    /// Its version.
    pub qemu_version: String,
    /// Who builds for the target.
    pub compiler: Compiler,
}

/// Who builds for the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// The toolchain in use, which has the target.
    Own,
    /// Debian's, which has the sources of the target's library and builds them too.
    Debian,
}

/// Makes sure that everything is there; silent when the stamp says so.
///
/// # Errors
/// When something is missing and can't be installed; the message says what to type.
pub fn ensure() -> Result<Tools> {
    if let Some(tools) = stamped() {
        return Ok(tools);
    }
    let (qemu, qemu_version) = ensure_qemu()?;
    let tools = Tools { qemu, qemu_version, compiler: ensure_target()? };
    let stamp = stamp_file();
    fs::create_dir_all(paths::target()).context("cannot make the target folder")?;
    fs::write(&stamp, stamp_text(&tools)?).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(tools)
}

/// Who builds for the target, as the last set-up found it.
pub fn compiler() -> Compiler {
    stamped().map_or(Compiler::Own, |tools| tools.compiler)
}

/// `cargo xtask setup`: checks everything anew, with clippy and rustfmt, which only `cargo xtask test` needs.
///
/// # Errors
/// As [`ensure`].
pub fn setup() -> Result<()> {
    let _ = fs::remove_file(stamp_file());
    let tools = ensure()?;
    ensure_components()?;
    println!("set-up: {} {}", tools.qemu.display(), tools.qemu_version);
    match tools.compiler {
        Compiler::Own => println!("set-up: Rust target {TARGET}, clippy and rustfmt are installed"),
        Compiler::Debian => println!("set-up: Debian's compiler builds for {TARGET}; clippy and rustfmt are installed"),
    }
    println!("set-up: nothing is missing");
    Ok(())
}

/// Debian's cargo, set up to build the target's library from sources with Debian's linker.
pub fn debian_cargo() -> Command {
    let mut command = Command::new(DEBIAN_CARGO);
    for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO"] {
        command.env_remove(name);
    }
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "lld");
    command
}

/// Clippy and rustfmt.
///
/// # Errors
/// When they are missing and rustup can't add them.
pub fn ensure_components() -> Result<()> {
    for (component, argument) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
        if process::quiet(Command::new("cargo").args([argument, "--version"])).is_err() {
            println!("set-up: adding {component} (about 3 MB)");
            process::run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("{component} is missing; type: rustup component add {component}"))?;
        }
    }
    Ok(())
}

/// What makes bootable discs.
///
/// # Errors
/// When it is missing and can't be installed; the message says what to type.
pub fn ensure_disc_tools() -> Result<()> {
    let there = || {
        DISC_PROGRAMS.iter().all(|program| process::find(program).is_some())
            && DISC_FOLDERS.iter().all(|folder| Path::new(folder).is_dir())
    };
    ensure_packages(&DISC_PACKAGES, "GRUB and what writes discs", "7 MB to fetch, 45 MB on disk", there)
}

/// UEFI firmware for the emulator.
///
/// # Errors
/// As [`ensure_disc_tools`].
pub fn ensure_uefi() -> Result<PathBuf> {
    let there = || Path::new(UEFI_FIRMWARE).is_file();
    ensure_packages(&UEFI_PACKAGES, "UEFI firmware", "8 MB to fetch, 15 MB on disk", there)?;
    Ok(UEFI_FIRMWARE.into())
}

/// Installs packages of the release itself unless what they bring is there. One at a time, as tests ask side by side.
fn ensure_packages(packages: &[&str], what: &str, size: &str, there: impl Fn() -> bool) -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if there() {
        return Ok(());
    }
    let names = packages.join(" ");
    let by_hand =
        format!("{what}: on Debian, type: sudo apt-get update && sudo apt-get install --no-install-recommends {names}");
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if Release::parse(&release).suite().is_none() || !is_root() {
        bail!("missing {by_hand}");
    }
    println!("set-up: installing {what} ({names}; about {size})");
    let install = || process::run(apt().args(["install", "-q", "-y", "--no-install-recommends"]).args(packages));
    if install().is_err() {
        println!("set-up: reading the package lists (about 10 MB)");
        process::run(apt().args(["update", "-q"])).and_then(|()| install()).with_context(|| by_hand.clone())?;
    }
    if there() { Ok(()) } else { bail!("after the installation something is missing still: {by_hand}") }
}

fn stamp_file() -> PathBuf {
    paths::target().join("setup-stamp")
}

/// Names everything that a later run takes for granted: when one of them changes, the stamp doesn't count.
fn stamp_text(tools: &Tools) -> Result<String> {
    let changed = fs::metadata(&tools.qemu).and_then(|data| data.modified()).context("cannot read the emulator")?;
    let seconds = changed.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let library = match tools.compiler {
        Compiler::Own => target_library()?,
        Compiler::Debian => DEBIAN_RUSTC.into(),
    };
    let (qemu, version) = (tools.qemu.display(), &tools.qemu_version);
    Ok(format!("{qemu}\n{version}\n{seconds}\n{:?}\n{}\n", tools.compiler, library.display()))
}

fn stamped() -> Option<Tools> {
    let stamp = fs::read_to_string(stamp_file()).ok()?;
    let mut lines = stamp.lines();
    let (qemu, qemu_version) = (lines.next()?.into(), lines.next()?.into());
    let compiler = if lines.nth(1)? == "Debian" { Compiler::Debian } else { Compiler::Own };
    let tools = Tools { qemu, qemu_version, compiler };
    let library = PathBuf::from(lines.next()?);
    let same = process::find(QEMU).as_ref() == Some(&tools.qemu)
        && library.exists()
        && stamp_text(&tools).is_ok_and(|text| text == stamp);
    same.then_some(tools)
}

/// The folder of the target's libraries in the toolchain in use.
fn target_library() -> Result<PathBuf> {
    let sysroot = process::output(Command::new("rustc").current_dir(paths::root()).args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib"))
}

fn ensure_target() -> Result<Compiler> {
    if target_library()?.is_dir() {
        return Ok(Compiler::Own);
    }
    println!("set-up: adding the Rust target {TARGET} (about 10 MB to fetch, 40 MB on disk)");
    let advice = format!(
        "the Rust target {TARGET} is missing; with rustup and a network, type: rustup target add {TARGET}\n\
         (rustup is at https://rustup.rs)"
    );
    let added = process::find("rustup").is_some()
        && process::run(Command::new("rustup").current_dir(paths::root()).args(["target", "add", TARGET])).is_ok()
        && target_library()?.is_dir();
    if added { Ok(Compiler::Own) } else { ensure_debian_compiler().context(advice) }
}

/// For when rustup's server can't be reached: Debian has a new enough compiler with the sources of its library.
fn ensure_debian_compiler() -> Result<Compiler> {
    let usable = || {
        let text = process::quiet(Command::new(DEBIAN_RUSTC).arg("--version")).ok()?;
        let version = parse_version(&text.replacen("rustc ", "version ", 1))?;
        let sysroot = process::quiet(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"])).ok()?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        let linker = process::find("lld").is_some() && Path::new(DEBIAN_CARGO).is_file();
        ((version.0, version.1) >= RUST_NEEDED && sources.is_dir() && linker).then_some(Compiler::Debian)
    };
    if let Some(compiler) = usable() {
        return Ok(compiler);
    }
    let packages = RUST_PACKAGES.join(" ");
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if Release::parse(&release).suite().is_none() || !is_root() {
        bail!("or, on Debian, type: sudo apt-get update && sudo apt-get install --no-install-recommends {packages}");
    }
    println!("set-up: installing Debian's compiler and its sources instead ({packages})");
    process::run(apt().args(["update", "-q"]))?;
    process::run(apt().args(["install", "-q", "-y", "--no-install-recommends"]).args(RUST_PACKAGES))?;
    usable().ok_or_else(|| anyhow!("Debian's compiler is older than {}.{}", RUST_NEEDED.0, RUST_NEEDED.1))
}

/// `QEMU emulator version 10.0.2 (Debian ...)` to its numbers.
fn parse_version(text: &str) -> Option<(u32, u32, String)> {
    let version = text.split_once("version ")?.1.split_whitespace().next()?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??, version.to_string()))
}

fn usable_qemu() -> Result<(PathBuf, String), String> {
    let Some(qemu) = process::find(QEMU) else {
        return Err(format!("{QEMU} is not in PATH"));
    };
    let text = process::quiet(Command::new(&qemu).arg("--version"))?;
    match parse_version(&text) {
        Some((major, minor, version)) if (major, minor) >= QEMU_NEEDED => Ok((qemu, version)),
        Some((_, _, version)) => Err(format!("{} is version {version}, too old", qemu.display())),
        None => Err(format!("{} doesn't tell its version", qemu.display())),
    }
}

fn ensure_qemu() -> Result<(PathBuf, String)> {
    let reason = match usable_qemu() {
        Ok(found) => return Ok(found),
        Err(reason) => reason,
    };
    println!("set-up: QEMU {}.{} or later is needed: {reason}", QEMU_NEEDED.0, QEMU_NEEDED.1);
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = Release::parse(&release);
    let Some(suite) = release.suite() else {
        bail!(
            "{reason}. Install QEMU {}.{} or later with its BIOS files so that {QEMU} is in PATH, then run this again \
             (only Debian 12 and later are installed to automatically; this is {})",
            QEMU_NEEDED.0,
            QEMU_NEEDED.1,
            release.name
        );
    };
    let sources = (suite.ends_with("-backports") && !has_suite(&apt_sources(), suite))
        .then(|| backports_source(&apt_sources(), suite));
    if !is_root() {
        bail!("{}", by_hand(&reason, suite, sources.as_deref()));
    }
    let advice = || by_hand(&reason, suite, None);
    if let Some(text) = sources {
        println!("set-up: adding {BACKPORTS_FILE} (suite {suite} of this machine's Debian mirror)");
        fs::write(BACKPORTS_FILE, text).with_context(|| format!("cannot write {BACKPORTS_FILE}"))?;
    }
    println!("set-up: reading the package lists (about 10 MB)");
    process::run(apt().args(["update", "-q"])).with_context(advice)?;
    let install = ["install", "-q", "--no-install-recommends", "-t", suite];
    // apt-get itself says how much it fetches and how much room that takes.
    process::run(apt().args(install).arg("-y").args(QEMU_PACKAGES)).with_context(advice)?;
    usable_qemu().map_err(|reason| anyhow!("after the installation: {reason}"))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    process::quiet(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// What a user without root types.
fn by_hand(reason: &str, suite: &str, sources: Option<&str>) -> String {
    let mut text = format!("{reason}, and installing it needs root. Type this, then run the command again:\n");
    if let Some(sources) = sources {
        let _ = write!(text, "  sudo tee {BACKPORTS_FILE} <<'END'\n{sources}END\n");
    }
    let _ = write!(
        text,
        "  sudo apt-get update\n  sudo apt-get install --no-install-recommends -t {suite} {}",
        QEMU_PACKAGES.join(" ")
    );
    text
}

/// What `/etc/os-release` says.
struct Release {
    name: String,
    id: String,
    version: u32,
    codename: String,
}

impl Release {
    fn parse(text: &str) -> Release {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_string()
        };
        Release {
            name: match field("PRETTY_NAME") {
                name if name.is_empty() => "an unknown system".into(),
                name => name,
            },
            id: field("ID"),
            version: field("VERSION_ID").parse().unwrap_or(0),
            codename: field("VERSION_CODENAME"),
        }
    }

    /// The suite that has a new enough QEMU.
    fn suite(&self) -> Option<&str> {
        match (self.id.as_str(), self.version) {
            ("debian", 12) => Some("bookworm-backports"),
            ("debian", 13..) if !self.codename.is_empty() => Some(&self.codename),
            _ => None,
        }
    }
}

/// Everything in apt's source lists, one paragraph (deb822) or line (one-line format) per entry.
fn apt_sources() -> String {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let kind = file.extension().unwrap_or_default();
        if kind == "list" || kind == "sources" {
            text.push_str("\n\n");
            text.push_str(&fs::read_to_string(&file).unwrap_or_default());
        }
    }
    text
}

fn active_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with('#'))
}

fn has_suite(sources: &str, suite: &str) -> bool {
    active_lines(sources).any(|line| line.split_whitespace().any(|word| word == suite))
}

/// A source of `suite` from the mirror, and with the key, that the machine uses for the release itself.
fn backports_source(sources: &str, suite: &str) -> String {
    let base = suite.trim_end_matches("-backports");
    let (mirror, key) = mirror_of(sources, base).unwrap_or((DEFAULT_MIRROR.into(), None));
    let key = key.unwrap_or_else(|| DEFAULT_KEYRING.into());
    format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {key}\n")
}

/// Mirror and key of the entry for `base`.
fn mirror_of(sources: &str, base: &str) -> Option<(String, Option<String>)> {
    for paragraph in sources.split("\n\n") {
        let field = |name: &str| {
            active_lines(paragraph).find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) else { continue };
        if suites.split_whitespace().any(|suite| suite == base) {
            let mirror = uris.split_whitespace().next()?.to_string();
            // A key that is spelt out over several lines is not copied; Debian's own keyring is the same key.
            let key = field("Signed-By").filter(|key| key.starts_with('/')).map(str::to_string);
            return Some((mirror, key));
        }
    }
    for line in active_lines(sources) {
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(mirror), Some(suite)) = (words.next(), words.next())
            && suite == base
        {
            let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
            return Some((mirror.to_string(), key.map(str::to_string)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let parsed = parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright");
        assert_eq!(parsed, Some((10, 0, "10.0.2".into())));
        assert!((9, 2) < QEMU_NEEDED && (10, 1) > QEMU_NEEDED);
        assert_eq!(parse_version("nonsense"), None);
    }

    #[test]
    fn backports_come_from_the_machines_own_mirror_and_key() {
        let deb822 = "Types: deb\n# old\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\nSigned-By: /usr/share/keyrings/own.gpg\n\nTypes: deb\n\
                      URIs: http://other.example/sec\nSuites: bookworm-security\n";
        let text = backports_source(deb822, "bookworm-backports");
        assert!(text.contains("URIs: http://mirror.example/debian\nSuites: bookworm-backports\n"), "{text}");
        assert!(text.contains("Signed-By: /usr/share/keyrings/own.gpg\n"), "{text}");

        let one_line =
            "# deb http://no.example x\ndeb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main";
        let text = backports_source(one_line, "bookworm-backports");
        assert!(text.contains("URIs: http://one.example/debian\n") && text.contains("Signed-By: /k.gpg\n"), "{text}");

        let text = backports_source("", "bookworm-backports");
        assert!(text.contains(DEFAULT_MIRROR) && text.contains(DEFAULT_KEYRING));
    }

    #[test]
    fn a_suite_that_is_there_is_not_added_again() {
        assert!(has_suite("Suites: bookworm bookworm-backports", "bookworm-backports"));
        assert!(!has_suite("# Suites: bookworm-backports\nSuites: bookworm", "bookworm-backports"));
    }

    #[test]
    fn only_releases_that_have_a_new_qemu_are_installed_to() {
        let suite = |text: &str| Release::parse(text).suite().map(str::to_string);
        assert_eq!(suite("ID=debian\nVERSION_ID=\"12\"\n"), Some("bookworm-backports".into()));
        assert_eq!(suite("ID=debian\nVERSION_ID=13\nVERSION_CODENAME=trixie"), Some("trixie".into()));
        assert_eq!(suite("ID=debian\nVERSION_ID=11\n"), None);
        assert_eq!(suite("ID=fedora\nVERSION_ID=42\n"), None);
    }

    #[test]
    fn without_root_the_exact_commands_are_told() {
        let text = by_hand("too old", "bookworm-backports", Some("Types: deb\n"));
        assert!(
            text.contains("sudo tee /etc/apt/sources.list.d/nonkernel-backports.sources <<'END'\nTypes: deb\nEND\n")
        );
        assert!(
            text.contains("sudo apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86 seabios")
        );
    }
}
