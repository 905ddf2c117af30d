//! Flat images out of ELF files, and the boot module: header page, root image, archive with plan, images and inputs.
//!
//! The formats are `cap_spec::abi`'s `image_header` and `module_header`; this file is their only writer.

use crate::{build, sources};
use anyhow::{Context, Result, bail, ensure};
use cap_spec::abi::{IMAGE_BASE, IMAGE_MAGIC, MODULE_MAGIC, VERSION, image_header, module_header};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, elf};
use proto::plan::Plan;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// The root VM gets its memory in steps of this.
const LARGE_PAGE: u64 = 2 << 20;
/// An image larger than this is a mistake in a linker script.
const MAX_IMAGE: u64 = 64 << 20;

/// The header of a flat image, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// First instruction.
    pub entry: u64,
    /// Top page table.
    pub cr3: u64,
    /// Bytes in the file.
    pub file_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

impl ImageHeader {
    /// Reads and checks the header at the start of a flat image.
    ///
    /// # Errors
    /// When it is not an image of this ABI version, or its sizes contradict each other.
    pub fn read(image: &[u8]) -> Result<ImageHeader> {
        let word = |at: usize| -> Result<u64> {
            let bytes = image.get(at..at + 8).context("shorter than its header")?;
            Ok(u64::from_le_bytes(bytes.try_into()?))
        };
        ensure!(word(image_header::MAGIC)? == IMAGE_MAGIC, "it has no image header: is it linked with userlib?");
        let version = word(image_header::ABI_VERSION)?;
        ensure!(version == u64::from(VERSION), "it is built for ABI version {version}, not {VERSION}");
        let header = ImageHeader {
            entry: word(image_header::ENTRY)?,
            cr3: word(image_header::CR3)?,
            file_bytes: word(image_header::FILE_BYTES)?,
            memory_bytes: word(image_header::MEMORY_BYTES)?,
        };
        let inside = |address: u64| (IMAGE_BASE..IMAGE_BASE + header.memory_bytes).contains(&address);
        ensure!(header.memory_bytes <= MAX_IMAGE, "it wants {} bytes of memory", header.memory_bytes);
        ensure!(inside(header.entry) && inside(header.cr3), "entry or page table lies outside of it");
        ensure!(header.cr3.is_multiple_of(PAGE), "its page table is not page-aligned");
        ensure!(header.memory_bytes >= header.file_bytes, "its memory is smaller than its file");
        ensure!(
            header.memory_bytes.is_multiple_of(PAGE) && header.file_bytes.is_multiple_of(PAGE),
            "its sizes are no whole pages"
        );
        Ok(header)
    }
}

/// The loadable bytes of an ELF file as they lie in memory from `IMAGE_BASE` on, page-aligned, header checked.
///
/// # Errors
/// When it is not an ELF64 file linked at `IMAGE_BASE` with a valid image header.
pub fn flatten(file: &[u8]) -> Result<Vec<u8>> {
    let elf = ElfFile64::<LittleEndian>::parse(file).context("it is no ELF64 file")?;
    let endian = LittleEndian;
    let mut flat: Vec<u8> = Vec::new();
    for segment in elf.elf_header().program_headers(endian, file).context("bad program headers")? {
        let file_size = segment.p_filesz(endian);
        if segment.p_type(endian) != elf::PT_LOAD || file_size == 0 {
            continue;
        }
        let address = segment.p_vaddr(endian);
        let Some(start) = address.checked_sub(IMAGE_BASE).filter(|start| start + file_size <= MAX_IMAGE) else {
            bail!("a segment at {address:#x} lies outside of the image, which starts at {IMAGE_BASE:#x}");
        };
        let data = segment.data(endian, file).ok().context("a segment lies outside of the file")?;
        let range = start as usize..(start + file_size) as usize;
        if flat.len() < range.end {
            flat.resize(range.end, 0);
        }
        flat[range].copy_from_slice(data);
    }
    flat.resize((flat.len() as u64).next_multiple_of(PAGE) as usize, 0);
    let header = ImageHeader::read(&flat)?;
    // The linker script may count pages behind the last initialised byte: they are zero.
    ensure!(header.file_bytes >= flat.len() as u64, "its header says {} bytes, not {}", header.file_bytes, flat.len());
    flat.resize(header.file_bytes as usize, 0);
    Ok(flat)
}

/// The archive for the market server: the plan, the images it names and the console server's, and the inputs
/// (one per application that has one, in the plan's order).
///
/// # Errors
/// When an image is missing or a name is too long.
pub fn archive(plan: &Plan, inputs: &[Option<Vec<u8>>], built: &build::Built) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let plan_bytes = postcard::to_allocvec(plan).context("cannot encode the plan")?;
    sources::append(&mut archive, "plan", &plan_bytes)?;
    let mut images: Vec<String> = plan.apps.iter().map(|app| app.image.clone()).collect();
    images.push(build::CONSOLE_IMAGE.into());
    if plan.apps.iter().any(|app| app.nic) {
        images.push(build::NIC_IMAGE.into());
    }
    if plan.apps.iter().any(|app| app.storage_bytes > 0) {
        images.push(build::STORAGE_IMAGE.into());
    }
    append_images(&mut archive, images, built)?;
    for (app, input) in plan.apps.iter().zip(inputs) {
        if let Some(input) = input {
            sources::append(&mut archive, &format!("inputs/{}", app.name), input)?;
        }
    }
    archive.into_inner().context("cannot end the archive")
}

/// An archive of images alone, for a root VM that is not the market server.
///
/// # Errors
/// When an image is missing.
pub fn archive_of_images(images: &[String], built: &build::Built) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    append_images(&mut archive, images.to_vec(), built)?;
    archive.into_inner().context("cannot end the archive")
}

fn append_images(archive: &mut tar::Builder<Vec<u8>>, mut images: Vec<String>, built: &build::Built) -> Result<()> {
    images.sort_unstable();
    images.dedup();
    images.iter().try_for_each(|name| sources::append(archive, &format!("images/{name}"), &built.image(name)?))
}

/// The boot module of a root image and an archive.
///
/// # Errors
/// When the root image's header is wrong.
pub fn boot_module(root_image: &[u8], archive: &[u8]) -> Result<Vec<u8>> {
    let header = ImageHeader::read(root_image).context("the root image is malformed")?;
    let archive_offset = (PAGE + root_image.len() as u64).next_multiple_of(PAGE);
    let mut module = vec![0u8; archive_offset as usize];
    let mut word = |at: usize, value: u64| module[at..at + 8].copy_from_slice(&value.to_le_bytes());
    word(module_header::MAGIC, MODULE_MAGIC);
    word(module_header::ABI_VERSION, u64::from(VERSION));
    word(module_header::IMAGE_BYTES, root_image.len() as u64);
    word(module_header::MEMORY_BYTES, header.memory_bytes.next_multiple_of(LARGE_PAGE));
    word(module_header::ENTRY, header.entry);
    word(module_header::CR3, header.cr3);
    word(module_header::ARCHIVE_OFFSET, archive_offset);
    word(module_header::ARCHIVE_BYTES, archive.len() as u64);
    module[PAGE as usize..PAGE as usize + root_image.len()].copy_from_slice(root_image);
    module.extend_from_slice(archive);
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(memory: u64) -> Vec<u8> {
        let mut image = vec![0u8; 2 * PAGE as usize];
        let mut word = |at: usize, value: u64| image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        word(image_header::MAGIC, IMAGE_MAGIC);
        word(image_header::ABI_VERSION, u64::from(VERSION));
        word(image_header::ENTRY, IMAGE_BASE + 0x40);
        word(image_header::CR3, IMAGE_BASE + PAGE);
        word(image_header::FILE_BYTES, 2 * PAGE);
        word(image_header::MEMORY_BYTES, memory);
        image
    }

    #[test]
    fn a_module_says_where_everything_is() {
        let root = image(3 * PAGE);
        let module = boot_module(&root, b"archive").unwrap();
        let word = |at: usize| u64::from_le_bytes(module[at..at + 8].try_into().unwrap());
        assert_eq!(word(module_header::MAGIC), MODULE_MAGIC);
        assert_eq!(word(module_header::MEMORY_BYTES), 2 << 20);
        assert_eq!(&module[4096..4096 + root.len()], &root[..]);
        let at = word(module_header::ARCHIVE_OFFSET) as usize;
        assert_eq!(at % 4096, 0);
        assert_eq!(&module[at..at + word(module_header::ARCHIVE_BYTES) as usize], b"archive");
    }

    #[test]
    fn contradicting_headers_are_refused() {
        assert!(ImageHeader::read(&image(3 * PAGE)).is_ok());
        assert!(ImageHeader::read(&image(PAGE)).is_err(), "memory smaller than the file");
        assert!(ImageHeader::read(&image(2 * PAGE + 1)).is_err(), "no whole pages");
        assert!(ImageHeader::read(&image(1 << 40)).is_err(), "absurd memory");
        assert!(ImageHeader::read(&[0; 4096]).is_err(), "no magic");
        assert!(ImageHeader::read(b"NKIMAGE1").is_err(), "too short");
        assert!(flatten(b"no elf").is_err());
    }
}
