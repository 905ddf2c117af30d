//! Whether a scenario's machine has room for what it promises its applications, seen before anything boots.
//!
//! The memory is laid out as the emulator, its firmware and the kernel's boot do it, cut by the kernel's own code, and
//! taken by the market's own code ([`market_server::rehearsal`]). A boot loader on a disc may leave its things
//! elsewhere; a few MiB to spare are enough there.

use crate::scenario::{Refused, Scenario};
use anyhow::{Context, Result, ensure};
use cap_spec::abi::PAGE_BITS;
use kernel::firmware::memory_map::{MemoryMap, untypeds};
use kernel::firmware::module;
use market_server::archive::Archive;
use market_server::launch::{Layout, input_pages};
use market_server::rehearsal::{Shortage, rehearse};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, elf};

const MIB: u64 = 1 << 20;
/// RAM from here on lies above 4 GiB, if there is as much that it does not fit below.
const HIGH: u64 = 4 << 30;
/// With at least so much RAM the emulator leaves only [`BELOW_4_GIB`] of it below 4 GiB.
const SPLIT_FROM: u64 = 0xb000_0000;
const BELOW_4_GIB: u64 = 2 << 30;
/// Below the end of low RAM, the firmware keeps its tables; the boot module ends there.
const FIRMWARE_BYTES: u64 = MIB;
/// What boot makes of the memory itself, beside the root VM's image: root CNode, Vm, Vcpu, page tables and pages.
const BOOT_BYTES: u64 = MIB;
/// The root VM's memory is aligned to this.
const LARGE_PAGE: u64 = 2 * MIB;

/// Refuses a scenario whose bases and inputs its machine cannot hold. `kernel` is the kernel's ELF file, `module` the
/// boot module, and `archive` what is in it.
///
/// # Errors
/// [`Refused`], with the line of the first application that has no room; and when kernel, module or archive are malformed.
pub fn check(scenario: &Scenario, kernel: &[u8], module: &[u8], archive: &[u8]) -> Result<()> {
    let memory = left_by_boot(u64::from(scenario.memory_mib) * MIB, kernel, module)?;
    let Some(memory) = memory else { return Err(scenario.no_room(None, "kernel and boot module").into()) };
    let bits: Vec<u8> = untypeds(&memory).map(|(_, bits)| bits).collect();
    let archive = Archive::open(archive, scenario.cores.into()).map_err(|error| anyhow::anyhow!("{error}"))?;
    match rehearse(&archive, scenario.cores, &bits) {
        Ok(()) => Ok(()),
        Err(Shortage::Servers) => Err(scenario.no_room(None, "market and console server").into()),
        Err(Shortage::App(app)) => Err(too_much(scenario, &archive, app, &bits).into()),
    }
}

/// What is wrong with an application that has no room.
fn too_much(scenario: &Scenario, archive: &Archive<'_>, app: usize, untypeds: &[u8]) -> Refused {
    let input = archive.inputs[app].len() as u64;
    let layout = Layout::new(&archive.images[app], archive.plan.apps[app].base_pages.into(), input);
    let (pages, block) = (layout.pages, size(1 << layout.bits));
    let largest = untypeds.iter().max().map_or(0, |&bits| 1u64 << bits);
    let base = format!("its base of {pages} pages, image and tables included, takes a block of {block}");
    let what = if 1 << layout.bits > largest {
        format!("{base}, and the largest that there is has {}", size(largest))
    } else {
        format!("{base} and its input {}", size(input_pages(input) << PAGE_BITS))
    };
    scenario.no_room(Some(app), &what)
}

fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes.div_ceil(1024)) }
}

/// The memory that boot leaves for Untypeds; `None` if it has not enough for itself.
fn left_by_boot(bytes: u64, kernel: &[u8], module: &[u8]) -> Result<Option<MemoryMap>> {
    let low = if bytes < SPLIT_FROM { bytes } else { BELOW_4_GIB };
    let mut memory = MemoryMap::default();
    memory.add(MIB, low.saturating_sub(MIB + FIRMWARE_BYTES));
    memory.add(HIGH, bytes - low);
    let header = module::parse(module, module.len() as u64);
    let header = header.map_err(|error| anyhow::anyhow!("the boot module is malformed: {error:?}"))?;
    let (start, end) = kernel_extent(kernel)?;
    memory.remove(start, end);
    let module_end = low.saturating_sub(FIRMWARE_BYTES);
    let Some(module_start) = module_end.checked_sub(module.len() as u64).filter(|start| *start >= end) else {
        return Ok(None);
    };
    memory.remove(module_start, module_end);
    let image = memory.allocate(header.memory_bytes, LARGE_PAGE, 0);
    Ok(image.and_then(|_| memory.allocate(BOOT_BYTES, MIB, 0)).map(|_| memory))
}

/// Where the kernel lies, up to the end of its tables and stacks.
fn kernel_extent(file: &[u8]) -> Result<(u64, u64)> {
    let elf = ElfFile64::<LittleEndian>::parse(file).context("the kernel is no ELF64 file")?;
    let endian = LittleEndian;
    let headers = elf.elf_header().program_headers(endian, file).context("bad program headers")?;
    let loaded = headers.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
    let ends = loaded.map(|segment| (segment.p_paddr(endian), segment.p_paddr(endian) + segment.p_memsz(endian)));
    let extent = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let (start, end) = extent.context("the kernel has nothing to load")?;
    ensure!(end < 1 << 30, "the kernel ends at {end:#x}");
    Ok((start, end))
}
