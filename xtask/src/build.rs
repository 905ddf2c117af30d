//! Builds what runs inside the machine: the kernel, the servers, the applications and the test guests.
//!
//! Kernel and guests have target folders of their own below the workspace's, so that neither waits for the host
//! build's lock. Which packages there are is asked of cargo, so that a new folder in `apps/` needs no entry here.

use crate::{image, paths, process, setup};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Image of the root VM.
pub const ROOT_IMAGE: &str = "market-server";
/// Image of the console server.
pub const CONSOLE_IMAGE: &str = "console-server";
/// Image of the network server.
pub const NIC_IMAGE: &str = "nic-server";
/// Image of the storage server.
pub const STORAGE_IMAGE: &str = "nvme-server";
/// The images of servers, which no application has.
pub const SERVER_IMAGES: [&str; 4] = [ROOT_IMAGE, CONSOLE_IMAGE, NIC_IMAGE, STORAGE_IMAGE];

/// What a build made: the kernel and one flat image per program, all in [`paths::images`].
#[derive(Clone, Debug)]
pub struct Built {
    /// The kernel's ELF file.
    pub kernel: PathBuf,
    /// Flat images by name.
    pub images: BTreeMap<String, PathBuf>,
}

impl Built {
    /// The image with this name.
    ///
    /// # Errors
    /// When no package builds it.
    pub fn image(&self, name: &str) -> Result<Vec<u8>> {
        let Some(path) = self.images.get(name) else {
            let known: Vec<&str> = self.images.keys().map(String::as_str).collect();
            bail!("there is no image `{name}`; there are: {}", known.join(", "));
        };
        fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// One package that builds programs for VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPackage {
    /// Package name.
    pub name: String,
    /// Its programs; each becomes an image of that name.
    pub programs: Vec<String>,
    /// Folder of its manifest.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_default_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    test: bool,
}

impl Target {
    fn is(&self, wanted: &str) -> bool {
        self.kind.iter().any(|kind| kind == wanted)
    }
}

fn metadata() -> Result<Metadata> {
    let text = process::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cannot read cargo's metadata")
}

/// Packages with tests that run on the host: those that are for the host altogether, and those of which only the
/// library is.
///
/// # Errors
/// When the workspace is broken; cargo says how.
pub fn host_packages() -> Result<(Vec<String>, Vec<String>)> {
    let metadata = metadata()?;
    let defaults = &metadata.workspace_default_members;
    let (whole, rest): (Vec<Package>, Vec<Package>) =
        metadata.packages.into_iter().partition(|package| defaults.contains(&package.id));
    let tested = |package: &Package| package.targets.iter().any(|target| target.is("lib") && target.test);
    let libraries = rest.into_iter().filter(tested).map(|package| package.name).collect();
    Ok((whole.into_iter().map(|package| package.name).collect(), libraries))
}

/// Names that packages and programs of the workspace have, in the order of the alphabet.
///
/// # Errors
/// When the workspace is broken; cargo says how.
pub fn taken_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for package in metadata()?.packages {
        names.extend(package.targets.into_iter().filter(|target| target.is("bin")).map(|target| target.name));
        names.push(package.name);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The packages below `apps/`, the servers and the test guests.
///
/// # Errors
/// When the workspace is broken; cargo says how.
pub fn guest_packages() -> Result<Vec<GuestPackage>> {
    let metadata = metadata()?;
    let root = paths::root();
    let guest =
        |folder: &Path| ["apps", "servers", "tests/guests"].iter().any(|parent| folder.starts_with(root.join(parent)));
    let mut packages = Vec::new();
    for package in metadata.packages {
        let folder = package.manifest_path.parent().map(Path::to_path_buf).unwrap_or_default();
        let programs: Vec<String> =
            package.targets.into_iter().filter(|target| target.is("bin")).map(|target| target.name).collect();
        if guest(&folder) && !programs.is_empty() {
            packages.push(GuestPackage { name: package.name, programs, folder });
        }
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

/// The cargo that runs this, in the workspace, without what `cargo run` put into the environment for this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(&name);
        }
    }
    command
}

/// Arguments of every build for the machine, after `build` or `clippy`.
pub fn kernel_arguments() -> Vec<String> {
    let mut arguments: Vec<String> =
        ["-p", "kernel", "--bin", "nonkernel", "--features", "machine"].map(str::to_string).into();
    arguments.extend(common_arguments(&paths::kernel_target()));
    arguments
}

/// As [`kernel_arguments`], for everything that runs in VMs.
pub fn guest_arguments(packages: &[GuestPackage]) -> Vec<String> {
    let mut arguments: Vec<String> =
        packages.iter().flat_map(|package| ["-p".to_string(), package.name.clone()]).collect();
    arguments.push("--bins".into());
    arguments.extend(common_arguments(&paths::guest_target()));
    arguments
}

fn common_arguments(target: &Path) -> [String; 5] {
    let folder = target.display().to_string();
    ["--target".into(), setup::TARGET.into(), "--release".into(), "--target-dir".into(), folder]
}

/// What every program for a VM is linked with; `userlib/image.ld` says why.
const GUEST_FLAGS: [&str; 2] = ["-Crelocation-model=static", "-Clink-arg=-Tuserlib/image.ld"];

/// [`cargo`] for the target. `subcommand` is `build` or `clippy`.
pub fn target_cargo(subcommand: &str) -> Command {
    let mut command = cargo();
    if setup::compiler() == setup::Compiler::Debian && subcommand == "build" {
        // There is no ready-made library for the target, and no linker of its own.
        command = setup::debian_cargo();
        command.current_dir(paths::root()).arg(subcommand).arg("-Zbuild-std=core,alloc,compiler_builtins");
        return command;
    }
    command.arg(subcommand);
    command
}

/// [`target_cargo`] for programs that run in VMs.
pub fn guest_cargo(subcommand: &str) -> Command {
    let mut command = target_cargo(subcommand);
    command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", GUEST_FLAGS.join("\x1f"));
    command
}

/// Builds the kernel and the programs with these names (only their packages), and makes flat images of them.
///
/// # Errors
/// When a build fails (cargo has said why), there is no such program, or an image is malformed.
pub fn build(programs: &[&str]) -> Result<Built> {
    let packages = guest_packages()?;
    let known: Vec<&String> = packages.iter().flat_map(|package| &package.programs).collect();
    if let Some(unknown) = programs.iter().find(|name| !known.iter().any(|program| program == *name)) {
        let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
        bail!("there is no program `{unknown}`; there are: {}", known.join(", "));
    }
    let needed = |package: &GuestPackage| package.programs.iter().any(|name| programs.contains(&name.as_str()));
    let packages: Vec<GuestPackage> = packages.into_iter().filter(needed).collect();
    let kernel = build_kernel()?;
    let images = if packages.is_empty() { BTreeMap::new() } else { build_guests(&packages)? };
    Ok(Built { kernel, images })
}

/// Builds everything.
///
/// # Errors
/// As [`build`].
pub fn build_all() -> Result<Built> {
    let kernel = build_kernel()?;
    let images = build_guests(&guest_packages()?)?;
    Ok(Built { kernel, images })
}

/// Builds the kernel alone; returns its ELF file.
///
/// # Errors
/// As [`build`].
pub fn build_kernel() -> Result<PathBuf> {
    process::run(target_cargo("build").args(kernel_arguments()))?;
    Ok(release_folder(&paths::kernel_target()).join("nonkernel"))
}

/// Builds these packages and makes a flat image of each program.
///
/// # Errors
/// As [`build`].
pub fn build_guests(packages: &[GuestPackage]) -> Result<BTreeMap<String, PathBuf>> {
    process::run(guest_cargo("build").args(guest_arguments(packages)))?;
    let folder = paths::images();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut images = BTreeMap::new();
    for program in packages.iter().flat_map(|package| &package.programs) {
        let elf = release_folder(&paths::guest_target()).join(program);
        let data = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let flat = image::flatten(&data).with_context(|| format!("{program} makes no image"))?;
        let file = folder.join(format!("{program}.img"));
        // An image that is the same keeps its time, so that nothing that depends on it is done again.
        if fs::read(&file).ok().as_ref() != Some(&flat) {
            fs::write(&file, flat).with_context(|| format!("cannot write {}", file.display()))?;
        }
        images.insert(program.clone(), file);
    }
    Ok(images)
}

fn release_folder(target: &Path) -> PathBuf {
    target.join(setup::TARGET).join("release")
}

/// What an earlier build left, without building: for tests that `cargo xtask test` runs after it has built.
///
/// # Errors
/// When nothing was built.
pub fn built_before() -> Result<Built> {
    let kernel = release_folder(&paths::kernel_target()).join("nonkernel");
    let mut images = BTreeMap::new();
    let folder = paths::images();
    for entry in fs::read_dir(&folder).with_context(|| format!("nothing is built in {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "img")
            && let Some(name) = path.file_stem()
        {
            images.insert(name.to_string_lossy().into_owned(), path.clone());
        }
    }
    if !kernel.is_file() || images.is_empty() {
        bail!("nothing is built in {}; type: cargo xtask build", paths::target().display());
    }
    Ok(Built { kernel, images })
}
