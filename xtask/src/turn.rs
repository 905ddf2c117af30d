//! One run at a time writes to `target/run`: another one waits, so that neither takes the other's results for its own.

use crate::{interrupt, paths};
use anyhow::{Context, Result};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::time::Duration;

/// How often is looked whether the other run has ended.
const TICK: Duration = Duration::from_millis(50);

/// Held by the run whose turn it is. However its process ends, the next one's turn comes.
pub struct Turn {
    _locked: File,
}

/// Waits until no other run writes to the folder; says so if that is not at once. `None` if the user interrupts the wait.
///
/// # Errors
/// When the target folder can't be written.
pub fn wait() -> Result<Option<Turn>> {
    let path = paths::run_lock();
    fs::create_dir_all(paths::target()).with_context(|| format!("cannot make {}", paths::target().display()))?;
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    let mut waits = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Turn { _locked: file })),
            Err(TryLockError::WouldBlock) => {}
            // A file system without locks is no reason not to run.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                return Ok(Some(Turn { _locked: file }));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        if interrupt::count() > 0 {
            return Ok(None);
        }
        if !waits {
            tell!(
                "another run uses {}: waiting for it (with another CARGO_TARGET_DIR, both can run at once)",
                paths::shown(&paths::run_folder())
            );
            waits = true;
        }
        std::thread::sleep(TICK);
    }
}
