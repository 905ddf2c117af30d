//! The memory of a machine as a file, which others than the emulator read and write too.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The memory of a machine, gone with this.
#[derive(Debug)]
pub struct SharedMemory {
    file: PathBuf,
    mib: u32,
}

impl SharedMemory {
    /// So many MiB.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn new(file: &Path, mib: u32) -> Result<SharedMemory> {
        let made = File::create(file).and_then(|memory| memory.set_len(u64::from(mib) << 20));
        made.with_context(|| format!("cannot make {}", file.display()))?;
        Ok(SharedMemory { file: file.to_path_buf(), mib })
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Arguments for the emulator of a machine that has it.
    pub fn arguments(&self) -> Vec<String> {
        let (file, mib) = (quoted(&self.file), self.mib);
        vec![
            "-object".into(),
            format!("memory-backend-file,id=memory,size={mib}M,mem-path={file},share=on"),
            "-machine".into(),
            "memory-backend=memory".into(),
        ]
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// A path within an argument of the emulator.
pub fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_are_no_ends() {
        assert_eq!(quoted(Path::new("/a,b/c")), "/a,,b/c");
    }

    #[test]
    fn memory_goes_with_the_machine() {
        let file = std::env::temp_dir().join(format!("nonkernel-memory-{}", std::process::id()));
        let memory = SharedMemory::new(&file, 3).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), 3 << 20);
        assert!(memory.arguments()[1].contains("size=3M"));
        drop(memory);
        assert!(!file.exists());
    }
}
