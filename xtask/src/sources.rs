//! The repository's own sources as one tar archive: the input `@sources` of scenarios.
//!
//! Taken is what runs on the machine ([`SYSTEM`], but for tests and what they compare with), so that a run of the default scenario stays short: its output leaves
//! over a serial port, byte by byte. The archive is deterministic: files in the order of their paths, no owners, no times,
//! no modes. Only tracked files are taken (git knows them); where git knows none, everything but hidden files and target
//! folders.

use crate::{paths, process};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders of what runs on the machine.
pub(crate) const SYSTEM: [&str; 5] = ["apps", "cap-spec", "kernel", "servers", "userlib"];

/// The archive.
///
/// # Errors
/// When a tracked file can't be read.
pub fn archive() -> Result<Vec<u8>> {
    archive_of(&paths::root(), &tracked(&paths::root())?)
}

/// The files of `root` that belong to the system, relative to it, in the order of their paths.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let git = process::quiet(Command::new("git").current_dir(root).args(["ls-files", "-z", "--cached"]));
    let mut files: Vec<PathBuf> = match git {
        // A copy of the tree inside another repository has git too, which knows nothing of it.
        Ok(list) if !list.is_empty() => list.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect(),
        _ => {
            let mut files = Vec::new();
            walk(root, Path::new(""), &mut files)?;
            files
        }
    };
    // A tracked file may just have been removed, and a submodule is no file.
    let is_test = |file: &Path| file.iter().any(|part| part == "tests");
    let is_system = |file: &Path| SYSTEM.iter().any(|folder| file.starts_with(folder)) && !is_test(file);
    files.retain(|file| is_system(file) && root.join(file).is_file());
    files.sort();
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(folder);
    for entry in fs::read_dir(&full).with_context(|| format!("cannot read {}", full.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') || name == "target" {
            continue;
        }
        let path = folder.join(&name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(root, &path, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn archive_of(root: &Path, files: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let full = root.join(file);
        let data = fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
        append(&mut archive, &file.to_string_lossy(), &data)?;
    }
    archive.into_inner().context("cannot end the archive")
}

/// Appends one plain file with nothing in its header that depends on the machine or the time.
///
/// # Errors
/// When the path is too long for the format.
pub fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).with_context(|| format!("`{path}` is no name for an archive"))?;
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    archive.append(&header, data).context("cannot write to memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_the_kernel_and_is_the_same_twice() {
        let first = archive().unwrap();
        assert_eq!(first, archive().unwrap());
        let mut found = false;
        for entry in tar::Archive::new(first.as_slice()).entries().unwrap() {
            let path = entry.unwrap().path().unwrap().into_owned();
            assert!(SYSTEM.iter().any(|folder| path.starts_with(folder)), "{path:?}");
            found |= path == Path::new("kernel/src/lib.rs");
        }
        assert!(found);
    }
}
