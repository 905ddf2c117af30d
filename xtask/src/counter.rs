//! Counts the kernel's instructions apart from those of VMs: builds the emulator's plugin for it (`tests/counter`), and
//! gives a machine what the plugin needs.

use crate::shared_memory::{SharedMemory, quoted};
use crate::{build, paths, process, setup};
use anyhow::{Context, Result, ensure};
use cap_spec::abi::IMAGE_BASE;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, elf};
use std::fs;
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

    /// Arguments for the emulator of a machine with this memory, which the plugin writes its count into.
    pub fn arguments(&self, memory: &SharedMemory) -> Vec<String> {
        let (library, file) = (quoted(&self.library), quoted(memory.file()));
        let Range { start, end } = self.text;
        let plugin = ["-plugin".into(), format!("{library},text={start:x}-{end:x},memory={file}")];
        plugin.into_iter().chain(memory.arguments()).collect()
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
    fn the_plugin_is_told_of_text_and_memory() {
        let counter = Counter { library: "/x/libcounter.so".into(), text: 0x10_0000..0x10_2000 };
        let file = std::env::temp_dir().join(format!("nonkernel-counter-{}", std::process::id()));
        let memory = SharedMemory::new(&file, 3).unwrap();
        let arguments = counter.arguments(&memory);
        assert_eq!(arguments[1], format!("/x/libcounter.so,text=100000-102000,memory={}", quoted(&file)));
    }
}
