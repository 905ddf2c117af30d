//! Whether the disk has room for what a command is about to build, seen before it starts: a compiler that runs out of it
//! half an hour later says so in many ways, none of which says how much was needed.

use crate::paths;
use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// Makes sure that the target folder can grow to `whole` MiB; what it holds already counts.
///
/// # Errors
/// When the disk has less; the message says how much is missing, and what to type.
pub fn ensure_disk(whole: u64) -> Result<()> {
    let target = paths::target();
    let on = target.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let disk = statvfs(on).with_context(|| format!("cannot ask how full the disk of {} is", on.display()))?;
    enough(whole, used(&target) / MIB, disk.blocks_available() * disk.fragment_size() / MIB, &paths::shown(&target))
}

fn enough(whole: u64, used: u64, free: u64, target: &str) -> Result<()> {
    let more = whole.saturating_sub(used);
    if free < more {
        bail!(
            "{target} takes {whole} MiB in all, {more} MiB more than now, and {free} MiB of the disk are free: free some \
             (type: cargo clean, if there are builds of older sources in it), or name a folder on another disk in \
             CARGO_TARGET_DIR"
        );
    }
    Ok(())
}

/// Bytes of all files below a folder. What vanishes meanwhile, as other builds run, counts as nothing.
fn used(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => folders.push(entry.path()),
                // Cargo links a result to where users look for it: each name counts for its part.
                Ok(data) => bytes += data.len() / data.nlink().max(1),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_already_counts() {
        assert!(enough(8000, 0, 8000, "target").is_ok());
        assert!(enough(8000, 7000, 1000, "target").is_ok());
        assert!(enough(8000, 9000, 0, "target").is_ok());
        let error = enough(8000, 7000, 999, "target").unwrap_err().to_string();
        assert!(error.contains("1000 MiB more") && error.contains("999 MiB of the disk are free"), "{error}");
        assert!(error.contains("cargo clean") && error.contains("CARGO_TARGET_DIR"), "{error}");
    }

    #[test]
    fn names_of_one_file_count_once() {
        let folder = std::env::temp_dir().join(format!("nonkernel-disk-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("deps")).unwrap();
        std::fs::write(folder.join("deps/one"), vec![1; 1 << 20]).unwrap();
        let once = used(&folder);
        std::fs::hard_link(folder.join("deps/one"), folder.join("one")).unwrap();
        let twice = used(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(once, 1 << 20);
        assert_eq!(twice, once);
        assert_eq!(used(&folder), 0);
    }
}
