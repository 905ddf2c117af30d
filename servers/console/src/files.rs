//! The files that a client has open: length and hash so far.

use alloc::collections::BTreeMap;
use sha2::{Digest, Sha256};

/// Files that one client can have open at a time.
pub const MAX_OPEN: usize = 8;
/// Bytes in one piece.
const MAX_PIECE: usize = 1024;

#[derive(Debug, Default)]
struct File {
    bytes: u64,
    hash: Sha256,
}

/// A client's open files by their number.
#[derive(Debug, Default)]
pub struct Files {
    open: BTreeMap<u16, File>,
}

impl Files {
    /// Opens a file. `false` if it is open, or too many are.
    pub fn begin(&mut self, file: u16) -> bool {
        if self.open.len() >= MAX_OPEN || self.open.contains_key(&file) {
            return false;
        }
        self.open.insert(file, File::default());
        true
    }

    /// Adds bytes. `false` if the file is not open or the piece is too long.
    pub fn append(&mut self, file: u16, data: &[u8]) -> bool {
        let Some(open) = self.open.get_mut(&file).filter(|_| data.len() <= MAX_PIECE) else { return false };
        open.bytes += data.len() as u64;
        open.hash.update(data);
        true
    }

    /// Closes a file; its length and hash.
    pub fn end(&mut self, file: u16) -> Option<(u64, [u8; 32])> {
        let closed = self.open.remove(&file)?;
        Some((closed.bytes, closed.hash.finalize().into()))
    }
}
