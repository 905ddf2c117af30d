//! Where things are: the workspace and the folders that builds and runs write. Nothing outside them is ever written,
//! except by the set-up step's package installation.

use std::path::{Path, PathBuf};

/// The workspace's root, which holds `Cargo.toml` and `Cargo.lock`: that of the workspace whose `xtask` cargo is running,
/// which may be a copy of the one that this program was built in; else that one.
pub fn root() -> PathBuf {
    let run_by_cargo = std::env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == env!("CARGO_PKG_NAME"));
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").filter(|_| run_by_cargo);
    let here = folder.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().unwrap_or(&here).to_path_buf()
}

/// Cargo's target folder: `CARGO_TARGET_DIR` if set, else `target/` in the workspace.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) if !folder.is_empty() => std::path::absolute(&folder).unwrap_or_else(|_| folder.into()),
        _ => root().join("target"),
    }
}

/// Target folder of the kernel's build; apart from the host's, so that neither waits for the other's lock.
pub fn kernel_target() -> PathBuf {
    target().join("kernel")
}

/// Target folder of everything that runs in VMs.
pub fn guest_target() -> PathBuf {
    target().join("guests")
}

/// Flat images, kernel and boot modules.
pub fn images() -> PathBuf {
    target().join("images")
}

/// What `cargo xtask run` leaves: `result.json`, output files, `console.log`, `prices.svg`.
pub fn run_folder() -> PathBuf {
    target().join("run")
}

/// Locked by the run that writes to [`run_folder`].
pub fn run_lock() -> PathBuf {
    target().join("run.lock")
}

/// The scenarios that ship.
pub fn scenarios() -> PathBuf {
    root().join("scenarios")
}

/// A path as a user reads it: relative to the current folder where that is shorter.
pub fn shown(path: &Path) -> String {
    let relative = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf));
    relative.unwrap_or_else(|| path.to_path_buf()).display().to_string()
}
