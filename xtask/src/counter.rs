//! Counts the kernel's instructions apart from those of VMs: builds the emulator's plugin for it (`tests/counter`), and
//! gives a machine what the plugin needs.

use crate::{build, paths, process, setup};
use anyhow::{Context, Result, ensure};
use cap_spec::abi::IMAGE_BASE;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, elf};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Package and library.
const PACKAGE: &str = "counter";

/// The plugin.
#[derive(Debug)]
pub struct Counter {
    library: PathBuf,
    text: Range<u64>,
}

impl Counter {
    /// Builds the plugin, for this kernel.
    ///
    /// # Errors
    /// When the emulator takes no plugins, the build fails, or guests have code where the kernel has its own.
    pub fn build(tools: &setup::Tools, kernel: &Path) -> Result<Counter> {
        let help = process::output(Command::new(&tools.qemu).arg("-help"))?;
        ensure!(
            help.lines().any(|line| line.starts_with("-plugin ")),
            "{} takes no plugins, by which the bench tells VM and kernel apart; Debian's does",
            tools.qemu.display()
        );
        let folder = paths::target();
        process::run(build::cargo().args(["build", "--quiet", "--package", PACKAGE, "--target-dir"]).arg(&folder))?;
        let file = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        Ok(Counter { library: folder.join(format!("debug/lib{PACKAGE}.so")), text: text_of(&file)? })
    }

    /// A machine's memory of so many MiB as a file, which the plugin writes its count into.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn memory(&self, file: &Path, mib: u32) -> Result<Memory> {
        let made = File::create(file).and_then(|memory| memory.set_len(u64::from(mib) << 20));
        made.with_context(|| format!("cannot make {}", file.display()))?;
        Ok(Memory(file.to_path_buf()))
    }

    /// Arguments for the emulator of a machine with so many MiB, whose memory is this file.
    pub fn arguments(&self, memory: &Memory, mib: u32) -> Vec<String> {
        let (library, file) = (quoted(&self.library), quoted(&memory.0));
        let Range { start, end } = self.text;
        vec![
            "-plugin".into(),
            format!("{library},text={start:x}-{end:x},memory={file}"),
            "-object".into(),
            format!("memory-backend-file,id=memory,size={mib}M,mem-path={file},share=on"),
            "-machine".into(),
            "memory-backend=memory".into(),
        ]
    }
}

/// A path within an argument of the emulator.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The memory of a machine, gone with this.
#[derive(Debug)]
pub struct Memory(PathBuf);

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Where the instructions of a kernel are, which are below those of every image.
fn text_of(kernel: &[u8]) -> Result<Range<u64>> {
    let elf = ElfFile64::<LittleEndian>::parse(kernel).context("the kernel is no ELF64 file")?;
    let headers = elf.elf_header().program_headers(LittleEndian, kernel).context("bad program headers")?;
    let is_text = |header: &&elf::ProgramHeader64<LittleEndian>| {
        header.p_type(LittleEndian) == elf::PT_LOAD && header.p_flags(LittleEndian) & elf::PF_X != 0
    };
    let text = headers.iter().find(is_text).context("the kernel has no text")?;
    let first = text.p_vaddr(LittleEndian);
    let end = first.saturating_add(text.p_memsz(LittleEndian));
    ensure!(end <= IMAGE_BASE, "the kernel's text ends at {end:#x}, where images of guests are");
    Ok(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_whose_text_is_not_below_images_is_refused() {
        // A header, and one program header: of text from 1 MiB on.
        let kernel = |bytes: u64| {
            let mut file = vec![0u8; 64 + 56];
            file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
            let mut put = |at: usize, field: &[u8]| file[at..at + field.len()].copy_from_slice(field);
            put(16, &[2, 0, 62, 0, 1]);
            put(32, &64u64.to_le_bytes());
            put(52, &[64, 0, 56, 0, 1]);
            put(64, &[1, 0, 0, 0, 5]);
            put(64 + 16, &0x10_0000u64.to_le_bytes());
            put(64 + 40, &bytes.to_le_bytes());
            file
        };
        assert_eq!(text_of(&kernel(0x2000)).unwrap(), 0x10_0000..0x10_2000);
        assert_eq!(text_of(&kernel(IMAGE_BASE - 0x10_0000)).unwrap().end, IMAGE_BASE);
        let refusal = text_of(&kernel(IMAGE_BASE - 0x10_0000 + 1)).unwrap_err().to_string();
        assert!(refusal.contains("0x200001"), "{refusal}");
        assert!(text_of(b"no kernel").is_err());
    }

    #[test]
    fn commas_in_paths_are_no_ends() {
        assert_eq!(quoted(Path::new("/a,b/c")), "/a,,b/c");
    }

    #[test]
    fn memory_goes_with_the_machine() {
        let counter = Counter { library: "/x/libcounter.so".into(), text: 0x10_0000..0x10_2000 };
        let file = std::env::temp_dir().join(format!("nonkernel-counter-{}", std::process::id()));
        let memory = counter.memory(&file, 3).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), 3 << 20);
        let arguments = counter.arguments(&memory, 3);
        assert_eq!(arguments[1], format!("/x/libcounter.so,text=100000-102000,memory={}", quoted(&file)));
        drop(memory);
        assert!(!file.exists());
    }
}
