//! Ctrl-C and termination: remembered, and acted on by whoever runs a machine, so that no emulator is left behind.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Catches SIGINT, SIGTERM and SIGHUP from now on.
///
/// # Errors
/// When the handler can't be set.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(note).context("cannot catch Ctrl-C")
}

/// Counts one more, from wherever it came.
pub fn note() {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// How often one of them came.
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}
