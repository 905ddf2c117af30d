//! Bootable discs: an ISO image from which GRUB loads the kernel by Multiboot2, with the boot module beside it. It boots
//! by BIOS and by UEFI.

use crate::{process, setup};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Characters of a kernel command line that mean nothing to GRUB's shell.
const PLAIN: &str = " =._,:/+-";

/// Writes the disc.
///
/// # Errors
/// When GRUB's tools are missing and can't be installed, a file can't be read or written, or the command line has
/// characters that GRUB would take for its own.
pub fn make(kernel: &Path, module: &Path, command_line: &str, disc: &Path) -> Result<()> {
    ensure!(
        command_line.chars().all(|c| c.is_ascii_alphanumeric() || PLAIN.contains(c)),
        "the kernel command line has characters that GRUB takes for its own: {command_line}"
    );
    setup::ensure_disc_tools()?;
    let folder = disc.with_extension("disc");
    let grub = folder.join("boot/grub");
    fs::create_dir_all(&grub).with_context(|| format!("cannot make {}", grub.display()))?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, folder.join("boot").join(name)).with_context(|| format!("cannot copy {}", from.display()))
    };
    copy(kernel, "nonkernel")?;
    copy(module, "module")?;
    fs::write(grub.join("grub.cfg"), menu(command_line)).context("cannot write the disc's menu")?;
    let made = process::quiet(Command::new("grub-mkrescue").arg("-o").arg(disc).arg(&folder));
    let _ = fs::remove_dir_all(&folder);
    made.map_err(|error| anyhow::anyhow!("grub-mkrescue failed: {error}")).map(drop)
}

/// GRUB's menu: one entry, at once.
fn menu(command_line: &str) -> String {
    format!(
        "set timeout=0\nset default=0\nmenuentry nonkernel {{\n  multiboot2 /boot/nonkernel {command_line}\n  \
         module2 /boot/module\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_grub_would_change_is_refused() {
        let nowhere = Path::new("/nonexistent");
        for line in ["a=$b", "a;b", "a{b}", "a\nb", "'a'"] {
            let error = make(nowhere, nowhere, line, nowhere).unwrap_err();
            assert!(error.to_string().contains("takes for its own"), "{error}");
        }
        assert!(menu("root_budget_us=2000 seed=7").contains("/boot/nonkernel root_budget_us=2000 seed=7\n"));
    }
}
