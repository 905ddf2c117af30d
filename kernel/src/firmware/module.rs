//! The header of the boot module: where the root VM's image and the archive lie. Layout: `cap_spec::abi::module_header`.

use super::field;
use cap_spec::abi::{IMAGE_BASE, MODULE_MAGIC, VERSION, module_header as at};

/// Bytes of the header page; the root image follows it.
pub const HEADER_BYTES: u64 = 4096;
/// Bytes of a large page: the root VM's memory is a multiple of it.
const LARGE: u64 = 0x20_0000;
/// Most memory that the root VM may ask for: its window up to the archive.
const MEMORY_MAX: u64 = cap_spec::abi::ROOT_ARCHIVE - IMAGE_BASE;

/// A checked header. Offsets and bytes are within the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Bytes of the root image, which starts at [`HEADER_BYTES`].
    pub image_bytes: u64,
    /// Bytes of memory from `IMAGE_BASE` on, a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// First instruction.
    pub entry: u64,
    /// Initial top page table.
    pub cr3: u64,
    /// Offset of the archive, a multiple of a page.
    pub archive_offset: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

/// Why a module is no boot module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// Shorter than its header page.
    Truncated,
    /// No magic number.
    Magic,
    /// Built for another ABI version.
    Version(u64),
    /// The image does not fit in the module or in its memory, or its entry or page table lies outside.
    Image,
    /// The memory is no multiple of 2 MiB, none, or more than the window.
    Memory,
    /// The archive runs off the module or is not page-aligned.
    Archive,
}

/// Checks the header at the start of a module of `bytes` bytes.
///
/// # Errors
/// As [`ModuleError`] says.
pub fn parse(header: &[u8], bytes: u64) -> Result<Module, ModuleError> {
    let word = |offset| field::<u64>(header, offset).ok_or(ModuleError::Truncated);
    if word(at::MAGIC)? != MODULE_MAGIC {
        return Err(ModuleError::Magic);
    }
    if word(at::ABI_VERSION)? != u64::from(VERSION) {
        return Err(ModuleError::Version(word(at::ABI_VERSION)?));
    }
    let module = Module {
        image_bytes: word(at::IMAGE_BYTES)?,
        memory_bytes: word(at::MEMORY_BYTES)?,
        entry: word(at::ENTRY)?,
        cr3: word(at::CR3)?,
        archive_offset: word(at::ARCHIVE_OFFSET)?,
        archive_bytes: word(at::ARCHIVE_BYTES)?,
    };
    let memory = module.memory_bytes;
    if memory == 0 || memory > MEMORY_MAX || !memory.is_multiple_of(LARGE) {
        return Err(ModuleError::Memory);
    }
    let end = HEADER_BYTES.checked_add(module.image_bytes).ok_or(ModuleError::Image)?;
    let inside = |address: u64| (IMAGE_BASE..IMAGE_BASE + memory).contains(&address);
    let cr3_fits = module.cr3.is_multiple_of(4096) && inside(module.cr3);
    if end > bytes || module.image_bytes > memory || !inside(module.entry) || !cr3_fits {
        return Err(ModuleError::Image);
    }
    let archive_end = module.archive_offset.checked_add(module.archive_bytes).ok_or(ModuleError::Archive)?;
    let starts_well = module.archive_offset >= end && module.archive_offset.is_multiple_of(4096);
    if module.archive_bytes > 0 && (archive_end > bytes || !starts_well) {
        return Err(ModuleError::Archive);
    }
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(words: [u64; 8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (index, word) in words.into_iter().enumerate() {
            bytes[index * 8..index * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    const GOOD: [u64; 8] =
        [MODULE_MAGIC, VERSION as u64, 0x1800, 0x20_0000, IMAGE_BASE + 0x40, IMAGE_BASE + 0x1000, 0x3000, 0x100];

    fn with(index: usize, word: u64) -> [u8; 64] {
        let mut words = GOOD;
        words[index] = word;
        header(words)
    }

    #[test]
    fn a_good_header_is_read() {
        let module = parse(&header(GOOD), 0x3100).unwrap();
        assert_eq!((module.image_bytes, module.archive_offset, module.archive_bytes), (0x1800, 0x3000, 0x100));
    }

    #[test]
    fn each_bad_field_is_refused() {
        use ModuleError::*;
        for (index, word, error) in [
            (0, 1, Magic),
            (1, 99, Version(99)),
            (2, 0x2101, Image),
            (2, u64::MAX, Image),
            (3, 0, Memory),
            (3, 0x20_1000, Memory),
            (3, 1 << 40, Memory),
            (4, IMAGE_BASE - 1, Image),
            (4, IMAGE_BASE + 0x20_0000, Image),
            (5, IMAGE_BASE + 8, Image),
            (5, 0, Image),
            (6, 0x2000, Archive),
            (6, 0x3001, Archive),
            (6, u64::MAX, Archive),
            (7, 0x101, Archive),
            (7, u64::MAX, Archive),
        ] {
            assert_eq!(parse(&with(index, word), 0x3100), Err(error), "word {index} = {word:#x}");
        }
        for cut in 0..64 {
            assert!(parse(&header(GOOD)[..cut], 0x3100).is_err());
        }
    }
}
