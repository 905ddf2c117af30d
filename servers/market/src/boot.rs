//! `BootInfo`: what the kernel gives the root VM.

use crate::machine::{Machine, Slot};
use alloc::vec::Vec;
use cap_spec::abi::{self, BOOT_INFO_MAGIC, ROOT_BOOT_INFO, boot_info};
use core::ops::Range;

/// Most functions of devices that are handed out.
const MAX_FUNCTIONS: u64 = 1024;
/// Most Untypeds that `BootInfo` has room for.
const MAX_UNTYPEDS: u64 = 1024;

/// What `BootInfo` says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Times the root VM was started before.
    pub restarts: u64,
    /// Frequency of the TSC.
    pub tsc_hz: u64,
    /// Cores.
    pub cores: u64,
    /// Slot of core 0's CPU time; the others follow.
    pub first_time: u16,
    /// The Untypeds with their log2 bytes.
    pub untypeds: Vec<(Slot, u8)>,
    /// First empty slot of the root CNode.
    pub first_free: u16,
    /// Slots of the root CNode.
    pub slots: u16,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// The functions of devices that the kernel hands out.
    pub functions: Vec<Slot>,
    /// The interrupt routes that messages of functions can raise.
    pub message_routes: Range<u64>,
}

impl Boot {
    /// Reads and checks the page.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(machine: &impl Machine) -> Result<Boot, &'static str> {
        let word = |offset: usize| machine.read_word(ROOT_BOOT_INFO + offset as u64);
        let slot = |offset: usize| u16::try_from(word(offset)).map_err(|_| "names a slot that cannot exist");
        if word(boot_info::MAGIC) != BOOT_INFO_MAGIC {
            return Err("lacks its magic number");
        }
        if word(boot_info::ABI_VERSION) != u64::from(abi::VERSION) {
            return Err("has another version");
        }
        let (tsc_hz, cores) = (word(boot_info::TSC_HZ), word(boot_info::CORES));
        if tsc_hz < 1_000_000 {
            return Err("has no frequency of the clock");
        }
        if cores == 0 || cores > 256 {
            return Err("has no cores");
        }
        let count = word(boot_info::UNTYPEDS);
        if count == 0 || count > MAX_UNTYPEDS {
            return Err("has no memory");
        }
        let first = slot(boot_info::FIRST_UNTYPED)?;
        let untypeds = (0..count)
            .map(|at| {
                let bits = word(boot_info::UNTYPED_BITS + (at as usize & !7)) >> (8 * (at & 7));
                (Slot::root(first.wrapping_add(at as u16)), bits as u8)
            })
            .collect();
        let functions = word(boot_info::FUNCTIONS);
        if functions > MAX_FUNCTIONS {
            return Err("has too many functions of devices");
        }
        let first_function = slot(boot_info::FIRST_FUNCTION)?;
        let functions = (0..functions).map(|at| Slot::root(first_function.wrapping_add(at as u16))).collect();
        Ok(Boot {
            restarts: word(boot_info::RESTARTS),
            tsc_hz,
            cores,
            first_time: slot(boot_info::FIRST_CPU_TIME)?,
            untypeds,
            first_free: slot(boot_info::FIRST_FREE)?,
            slots: word(boot_info::SLOTS).min(1 << 15) as u16,
            archive_bytes: word(boot_info::ARCHIVE_BYTES),
            functions,
            message_routes: word(boot_info::FIRST_MESSAGE_ROUTE)..word(boot_info::ROUTES),
        })
    }

    /// The CPU time of a core.
    pub fn time(&self, core: u8) -> Slot {
        Slot::root(self.first_time + u16::from(core))
    }
}
