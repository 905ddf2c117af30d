//! `cargo xtask setup`: what a fresh machine lacks, installed once.
//!
//! Two things are needed: QEMU 10.0 or later (any in `PATH` will do; else Debian's package) and the Rust target
//! `x86_64-unknown-none` (by rustup; where its server can't be reached, Debian's newest compiler and its library's
//! sources). A stamp in the target folder makes the second run do nothing; whatever cannot be done is an
//! error that says what to type. What only bootable discs need (GRUB, and UEFI firmware to try them) is installed when
//! the first one is made.

mod debian;
mod disk;
mod solvers;

use crate::{paths, process};
use anyhow::{Context, Result, anyhow, bail};
use debian::{Release, backports_source, has_suite};
pub use disk::ensure_disk;
pub use solvers::ensure_solvers;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The kernel's and the applications' target.
pub const TARGET: &str = "x86_64-unknown-none";
/// The oldest QEMU whose TCG has x2APIC, which every machine here uses.
pub const QEMU_NEEDED: (u32, u32) = (10, 0);
const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "seabios"];
/// What installing them on a minimal Debian 12 takes.
const QEMU_SIZE: &str = "about 22 MB to fetch, 120 MB on disk";
/// Below the root.
const BACKPORTS_FILE: &str = "etc/apt/sources.list.d/nonkernel-backports.sources";

/// What makes bootable discs, for BIOS and for UEFI; and firmware of the latter kind for the emulator.
const DISC_PACKAGES: [&str; 5] = ["grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "xorriso", "mtools"];
const CLIENT_PACKAGES: [&str; 2] = ["libmemcached-tools", "python3-pymemcache"];
/// The release's own interpreter, which has the packages' modules.
const PYTHON: &str = "/usr/bin/python3";
const CLIENT_PROGRAMS: [&str; 2] = ["memccapable", "memcping"];
const UEFI_PACKAGES: [&str; 1] = ["ovmf"];
/// What those packages bring.
const DISC_PROGRAMS: [&str; 3] = ["grub-mkrescue", "xorriso", "mformat"];
const DISC_FOLDERS: [&str; 2] = ["usr/lib/grub/i386-pc", "usr/lib/grub/x86_64-efi"];
const UEFI_FIRMWARE: &str = "usr/share/ovmf/OVMF.fd";

/// Debian's compiler that is new enough, its library's sources, and a linker for the target.
const RUST_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];
/// Where those packages put the compiler, below the root.
const DEBIAN_RUSTC: &str = "usr/bin/rustc";
const DEBIAN_CARGO: &str = "usr/bin/cargo";
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
    Host::this().ensure()
}

/// Who builds for the target, as the last set-up found it.
pub fn compiler() -> Compiler {
    Host::this().stamped().map_or(Compiler::Own, |tools| tools.compiler)
}

/// `cargo xtask setup`: checks everything anew, with clippy and rustfmt, which only `cargo xtask test` needs.
///
/// # Errors
/// As [`ensure`].
pub fn setup() -> Result<()> {
    let host = Host::this();
    let _ = fs::remove_file(&host.stamp);
    let tools = host.ensure()?;
    host.ensure_components()?;
    say!("set-up: {} {}", tools.qemu.display(), tools.qemu_version);
    match tools.compiler {
        Compiler::Own => say!("set-up: Rust target {TARGET}, clippy and rustfmt are installed"),
        Compiler::Debian => say!("set-up: Debian's compiler builds for {TARGET}; clippy and rustfmt are installed"),
    }
    say!("set-up: nothing is missing");
    Ok(())
}

/// Debian's cargo, set up to build the target's library from sources with Debian's linker.
pub fn debian_cargo() -> Command {
    let mut command = Command::new(Path::new("/").join(DEBIAN_CARGO));
    for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO"] {
        command.env_remove(name);
    }
    command.env("RUSTC", Path::new("/").join(DEBIAN_RUSTC)).env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "lld");
    command
}

/// Clippy and rustfmt.
///
/// # Errors
/// When they are missing and rustup can't add them.
pub fn ensure_components() -> Result<()> {
    Host::this().ensure_components()
}

/// What makes bootable discs.
///
/// # Errors
/// When it is missing and can't be installed; the message says what to type.
pub fn ensure_disc_tools() -> Result<()> {
    let host = Host::this();
    let there = || {
        DISC_PROGRAMS.iter().all(|program| host.find(program).is_some())
            && DISC_FOLDERS.iter().all(|folder| host.root.join(folder).is_dir())
    };
    host.ensure_packages(&DISC_PACKAGES, "GRUB and what writes discs", "7 MB to fetch, 45 MB on disk", there)
}

/// Clients of memcached that others wrote, for tests of the store.
///
/// # Errors
/// As [`ensure_disc_tools`].
pub fn ensure_clients() -> Result<()> {
    let host = Host::this();
    let has_module = || {
        let import = host.command(PYTHON).args(["-c", "import pymemcache"]).stderr(Stdio::null()).status();
        import.is_ok_and(|status| status.success())
    };
    let there = || CLIENT_PROGRAMS.iter().all(|program| host.find(program).is_some()) && has_module();
    host.ensure_packages(&CLIENT_PACKAGES, "clients of memcached", "1 MB to fetch, 4 MB on disk", there)
}

/// UEFI firmware for the emulator.
///
/// # Errors
/// As [`ensure_disc_tools`].
pub fn ensure_uefi() -> Result<PathBuf> {
    let host = Host::this();
    let firmware = host.root.join(UEFI_FIRMWARE);
    host.ensure_packages(&UEFI_PACKAGES, "UEFI firmware", "8 MB to fetch, 15 MB on disk", || firmware.is_file())?;
    Ok(firmware)
}

/// The machine that is set up. What is looked at, run and written is below `root` and in `path`, so that a test can be
/// on a machine of its own.
struct Host {
    /// The root of its file system.
    root: PathBuf,
    /// Folders of programs, as in `PATH`.
    path: OsString,
    /// File that says what was found.
    stamp: PathBuf,
    /// Says what is being done.
    say: Box<dyn Fn(&str)>,
}

impl Host {
    /// This one. What is done is said on standard error, as standard output may be JSON.
    fn this() -> Host {
        Host {
            root: "/".into(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            stamp: paths::target().join("setup-stamp"),
            say: Box::new(|text| tell!("set-up: {text}")),
        }
    }

    fn say(&self, text: &str) {
        (self.say)(text);
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        process::find_in(&self.path, program)
    }

    /// A program of this host, or one that cannot be started if there is none.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.find(program).unwrap_or_else(|| program.into()));
        command.env("PATH", &self.path).current_dir(paths::root());
        command
    }

    /// Runs a step of the set-up; what it prints goes where the set-up says what it does.
    fn run(&self, command: &mut Command) -> Result<()> {
        process::run(command.stdout(std::io::stderr()))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.root.join(file)).unwrap_or_default()
    }

    fn is_root(&self) -> bool {
        process::quiet(self.command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
    }

    fn release(&self) -> Release {
        Release::parse(&self.read("etc/os-release"))
    }

    fn apt(&self) -> Command {
        let mut command = self.command("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command
    }

    fn ensure(&self) -> Result<Tools> {
        if let Some(tools) = self.stamped() {
            return Ok(tools);
        }
        let (qemu, qemu_version) = self.ensure_qemu()?;
        let tools = Tools { qemu, qemu_version, compiler: self.ensure_target()? };
        if let Some(folder) = self.stamp.parent() {
            fs::create_dir_all(folder).context("cannot make the target folder")?;
        }
        fs::write(&self.stamp, self.stamp_text(&tools)?)
            .with_context(|| format!("cannot write {}", self.stamp.display()))?;
        Ok(tools)
    }

    /// Installs packages of the release itself unless what they bring is there. One at a time, as tests ask side by side.
    fn ensure_packages(&self, packages: &[&str], what: &str, size: &str, there: impl Fn() -> bool) -> Result<()> {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if there() {
            return Ok(());
        }
        let names = packages.join(" ");
        let by_hand = format!(
            "{what}: on Debian, type: sudo apt-get update && sudo apt-get install --no-install-recommends {names}"
        );
        if self.release().suite().is_none() || !self.is_root() {
            bail!("missing {by_hand}");
        }
        self.say(&format!("installing {what} ({names}; about {size})"));
        let install = || self.run(self.apt().args(["install", "-q", "-y", "--no-install-recommends"]).args(packages));
        if install().is_err() {
            self.say("reading the package lists (about 10 MB to fetch)");
            self.run(self.apt().args(["update", "-q"])).and_then(|()| install()).with_context(|| by_hand.clone())?;
        }
        if there() { Ok(()) } else { bail!("after the installation something is missing still: {by_hand}") }
    }

    /// Names everything that a later run takes for granted: when one of them changes, the stamp doesn't count.
    fn stamp_text(&self, tools: &Tools) -> Result<String> {
        let changed = fs::metadata(&tools.qemu).and_then(|data| data.modified()).context("cannot read the emulator")?;
        let seconds = changed.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let library = match tools.compiler {
            Compiler::Own => self.target_library()?,
            Compiler::Debian => self.root.join(DEBIAN_RUSTC),
        };
        let (qemu, version) = (tools.qemu.display(), &tools.qemu_version);
        Ok(format!("{qemu}\n{version}\n{seconds}\n{:?}\n{}\n", tools.compiler, library.display()))
    }

    fn stamped(&self) -> Option<Tools> {
        let stamp = fs::read_to_string(&self.stamp).ok()?;
        let mut lines = stamp.lines();
        let (qemu, qemu_version) = (lines.next()?.into(), lines.next()?.into());
        let compiler = if lines.nth(1)? == "Debian" { Compiler::Debian } else { Compiler::Own };
        let tools = Tools { qemu, qemu_version, compiler };
        let library = PathBuf::from(lines.next()?);
        let same = self.find(QEMU).as_ref() == Some(&tools.qemu)
            && library.exists()
            && self.stamp_text(&tools).is_ok_and(|text| text == stamp);
        same.then_some(tools)
    }

    /// The folder of the target's libraries in the toolchain in use.
    fn target_library(&self) -> Result<PathBuf> {
        let sysroot = process::output(self.command("rustc").args(["--print", "sysroot"]))?;
        Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib"))
    }

    fn ensure_components(&self) -> Result<()> {
        for (component, argument) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
            if process::quiet(self.command("cargo").args([argument, "--version"])).is_err() {
                self.say(&format!("adding {component} (about 5 MB to fetch, 25 MB on disk)"));
                self.run(self.command("rustup").args(["component", "add", component]))
                    .with_context(|| format!("{component} is missing; type: rustup component add {component}"))?;
            }
        }
        Ok(())
    }

    fn ensure_target(&self) -> Result<Compiler> {
        if self.target_library()?.is_dir() {
            return Ok(Compiler::Own);
        }
        self.say(&format!("adding the Rust target {TARGET} (about 15 MB to fetch, 80 MB on disk)"));
        let advice = format!(
            "the Rust target {TARGET} is missing; with rustup and a network, type: rustup target add {TARGET}\n\
             (rustup is at https://rustup.rs)"
        );
        let added = self.find("rustup").is_some()
            && self.run(self.command("rustup").args(["target", "add", TARGET])).is_ok()
            && self.target_library()?.is_dir();
        if added { Ok(Compiler::Own) } else { self.ensure_debian_compiler().context(advice) }
    }

    /// For when rustup's server can't be reached: Debian has a new enough compiler with the sources of its library.
    fn ensure_debian_compiler(&self) -> Result<Compiler> {
        if let Some(compiler) = self.debian_compiler() {
            return Ok(compiler);
        }
        let packages = RUST_PACKAGES.join(" ");
        if self.release().suite().is_none() || !self.is_root() {
            bail!(
                "or, on Debian, type: sudo apt-get update && sudo apt-get install --no-install-recommends {packages}"
            );
        }
        self.say("Debian's compiler would do instead: reading the package lists (about 10 MB to fetch)");
        self.run(self.apt().args(["update", "-q"]))?;
        // Looked at before anything is fetched: which version there is depends on the suites that the machine uses.
        let policy = process::quiet(self.command("apt-cache").env("LC_ALL", "C").args(["policy", RUST_PACKAGES[0]]));
        let policy = policy.unwrap_or_default();
        let offered = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).unwrap_or("(none)");
        let new_enough =
            parse_version(&format!("version {offered}")).is_some_and(|(major, minor, _)| (major, minor) >= RUST_NEEDED);
        if !new_enough {
            bail!(
                "and the {} that this machine's package sources offer, {offered}, is older than {}.{}",
                RUST_PACKAGES[0],
                RUST_NEEDED.0,
                RUST_NEEDED.1
            );
        }
        self.say(&format!("installing {packages} (about 185 MB to fetch, 960 MB on disk)"));
        self.run(self.apt().args(["install", "-q", "-y", "--no-install-recommends"]).args(RUST_PACKAGES))?;
        self.debian_compiler().ok_or_else(|| anyhow!("and Debian's compiler, now installed, cannot be used"))
    }

    /// Debian's compiler, if it is there and will do.
    fn debian_compiler(&self) -> Option<Compiler> {
        let rustc = self.root.join(DEBIAN_RUSTC);
        let text = process::quiet(Command::new(&rustc).arg("--version")).ok()?;
        let version = parse_version(&text.replacen("rustc ", "version ", 1))?;
        let sysroot = process::quiet(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        let linker = self.find("lld").is_some() && self.root.join(DEBIAN_CARGO).is_file();
        ((version.0, version.1) >= RUST_NEEDED && sources.is_dir() && linker).then_some(Compiler::Debian)
    }

    fn usable_qemu(&self) -> Result<(PathBuf, String), String> {
        let Some(qemu) = self.find(QEMU) else {
            return Err(format!("{QEMU} is not in PATH"));
        };
        let text = process::quiet(Command::new(&qemu).arg("--version"))?;
        match parse_version(&text) {
            Some((major, minor, version)) if (major, minor) >= QEMU_NEEDED => Ok((qemu, version)),
            Some((_, _, version)) => Err(format!("{} is version {version}, too old", qemu.display())),
            None => Err(format!("{} doesn't tell its version", qemu.display())),
        }
    }

    fn ensure_qemu(&self) -> Result<(PathBuf, String)> {
        let reason = match self.usable_qemu() {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        self.say(&format!("QEMU {}.{} or later is needed: {reason}", QEMU_NEEDED.0, QEMU_NEEDED.1));
        let release = self.release();
        let Some(suite) = release.suite() else {
            bail!(
                "{reason}. Install QEMU {}.{} or later with its BIOS files so that {QEMU} is in PATH, then run this \
                 again (only Debian 12 and later are installed to automatically; this is {})",
                QEMU_NEEDED.0,
                QEMU_NEEDED.1,
                release.name
            );
        };
        let known = self.apt_sources();
        let sources =
            (suite.ends_with("-backports") && !has_suite(&known, suite)).then(|| backports_source(&known, suite));
        if !self.is_root() {
            bail!("{}", by_hand(&reason, suite, sources.as_deref()));
        }
        let advice = || by_hand(&reason, suite, None);
        if let Some(text) = sources {
            let file = self.root.join(BACKPORTS_FILE);
            self.say(&format!("adding /{BACKPORTS_FILE} (suite {suite} of this machine's Debian mirror)"));
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        self.say("reading the package lists (about 10 MB to fetch)");
        self.run(self.apt().args(["update", "-q"])).with_context(advice)?;
        let packages = QEMU_PACKAGES.join(" ");
        self.say(&format!("installing {packages} of {suite} ({QEMU_SIZE})"));
        let install = ["install", "-q", "-y", "--no-install-recommends", "-t", suite];
        self.run(self.apt().args(install).args(QEMU_PACKAGES)).with_context(advice)?;
        self.usable_qemu().map_err(|reason| anyhow!("after the installation: {reason}"))
    }

    /// Everything in apt's source lists, one paragraph (deb822) or line (one-line format) per entry.
    fn apt_sources(&self) -> String {
        let mut text = self.read("etc/apt/sources.list");
        let folder = fs::read_dir(self.root.join("etc/apt/sources.list.d")).into_iter().flatten().flatten();
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
}

/// `QEMU emulator version 10.0.2 (Debian ...)` to its numbers.
fn parse_version(text: &str) -> Option<(u32, u32, String)> {
    let version = text.split_once("version ")?.1.split_whitespace().next()?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??, version.to_string()))
}

/// What a user without root types.
fn by_hand(reason: &str, suite: &str, sources: Option<&str>) -> String {
    let mut text = format!("{reason}, and installing it needs root. Type this, then run the command again:\n");
    if let Some(sources) = sources {
        let _ = write!(text, "  sudo tee /{BACKPORTS_FILE} <<'END'\n{sources}END\n");
    }
    let _ = write!(
        text,
        "  sudo apt-get update\n  sudo apt-get install --no-install-recommends -t {suite} {}",
        QEMU_PACKAGES.join(" ")
    );
    text
}

#[cfg(test)]
mod tests;
