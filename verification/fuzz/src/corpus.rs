//! Inputs that are kept: `corpus/TARGET/`, a file each, named by a hash of what is in it.
//!
//! They were found by libFuzzer and thinned out to those that reach something that the others do not. A finding is kept
//! here too, once it is mended.

use crate::{MAX_INPUT, Target};
use std::fs;
use std::io;
use std::path::PathBuf;

/// Where they are.
pub fn folder(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The well-formed inputs of a target and those that are kept, in the same order each time.
///
/// # Errors
/// When a file can't be read, or is longer than an input may be.
pub fn inputs(target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = (target.seeds)();
    let folder = folder(target);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = entries.map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let input = fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        if input.len() > MAX_INPUT {
            return Err(format!("{} has more than {MAX_INPUT} bytes: make it smaller", file.display()));
        }
        inputs.push(input);
    }
    Ok(inputs)
}
