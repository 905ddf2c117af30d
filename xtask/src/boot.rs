//! `cargo xtask boot IMAGE`: the kernel with one image as its root VM and no market, for test guests and benches.

use crate::build::{self, Built};
use crate::emulator::{Acceleration, Config, Loader};
use crate::run_state::RunState;
use crate::session::{Seen, Session};
use crate::{disc, image, interrupt, paths, setup, turn};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How the kernel gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The emulator loads it, by PVH.
    Direct,
    /// From a disc, by BIOS, GRUB and Multiboot2.
    Bios,
    /// From a disc, by UEFI, GRUB and Multiboot2.
    Uefi,
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct Guest {
    /// How.
    pub start: Start,
    /// Image that becomes the root VM.
    pub image: String,
    /// Cores.
    pub cores: u16,
    /// Memory.
    pub memory_mib: u32,
    /// Kernel command line, which the guest finds in its `BootInfo`.
    pub command_line: String,
    /// Images that go into its boot archive.
    pub images: Vec<String>,
    /// How instructions are executed.
    pub acceleration: Acceleration,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
}

impl Guest {
    /// This image on one core with 128 MiB under the instruction clock.
    pub fn new(image: &str) -> Guest {
        Guest {
            start: Start::Direct,
            image: image.into(),
            cores: 1,
            memory_mib: 128,
            command_line: String::new(),
            images: Vec::new(),
            acceleration: Acceleration::InstructionClock,
            extra: Vec::new(),
        }
    }

    /// The machine, with its boot module written to `module`, and beside it a disc if it starts from one.
    ///
    /// # Errors
    /// When an image is missing or the module can't be written.
    pub fn config(&self, built: &Built, module: &Path) -> Result<Config> {
        let archive = image::archive_of_images(&self.images, built)?;
        let bytes = image::boot_module(&built.image(&self.image)?, &archive)?;
        fs::write(module, bytes).with_context(|| format!("cannot write {}", module.display()))?;
        let loader = match self.start {
            Start::Direct => Loader::Emulator,
            Start::Bios | Start::Uefi => {
                let image = module.with_extension("iso");
                disc::make(
                    &built.kernel,
                    module,
                    &self.acceleration.command_line(&self.command_line, self.cores),
                    &image,
                )?;
                let uefi = if self.start == Start::Uefi { Some(setup::ensure_uefi()?) } else { None };
                Loader::Disc { image, uefi }
            }
        };
        Ok(Config {
            loader,
            kernel: built.kernel.clone(),
            module: Some(module.to_path_buf()),
            command_line: self.command_line.clone(),
            cores: self.cores,
            memory_mib: self.memory_mib,
            acceleration: self.acceleration,
            extra: self.extra.clone(),
        })
    }
}

/// Runs a session to its end without showing anything but what `show` does; stops it after `timeout` of wall time.
///
/// # Errors
/// When it times out or doesn't end well; the message has the console's last lines.
pub fn to_end(session: &mut Session, timeout: Duration, mut show: impl FnMut(&Seen)) -> Result<()> {
    loop {
        let seen = session.next(Instant::now() + Duration::from_millis(100))?;
        show(&seen);
        let reason = match seen {
            Seen::Off => match session.failure() {
                None => return Ok(()),
                Some(failure) => failure,
            },
            _ if interrupt::count() > 0 => "interrupted".into(),
            _ if session.elapsed() > timeout => format!("timed out after {} s", timeout.as_secs()),
            _ if session.is_stuck() => "the machine sent its last record and did not go off".into(),
            _ => continue,
        };
        session.stop();
        bail!("{reason}\n{}", session.last_lines());
    }
}

/// Builds and boots a guest and prints its console and records.
///
/// # Errors
/// When it doesn't end well.
pub fn boot(guest: &Guest, timeout: Duration) -> Result<()> {
    interrupt::catch()?;
    let tools = setup::ensure()?;
    let Some(_turn) = turn::wait()? else { bail!("interrupted before the boot") };
    let mut programs = vec![guest.image.as_str()];
    programs.extend(guest.images.iter().map(String::as_str));
    let built = build::build(&programs)?;
    let folder = paths::run_folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let config = guest.config(&built, &folder.join("boot.module"))?;
    let log = folder.join("console.log");
    let mut session = Session::start(&tools, &config, RunState::bare(), Some(&log))?;
    to_end(&mut session, timeout, |seen| match seen {
        Seen::Line(line) => say!("{line}"),
        Seen::Record(record) => say!("record: {record:?}"),
        Seen::Off | Seen::Nothing => {}
    })
}
