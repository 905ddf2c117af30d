//! Start-up: from the image header to the `main` of the image.
//!
//! The launcher starts the first Vcpu at the header's entry, in 64-bit mode, with `cr3` as the header says and
//! interrupts off. From there this module gives the image its stack, descriptor tables, a null page and a guard page
//! that fault, the way of invoking the kernel, and its first heap; then it calls what [`crate::entry!`] or
//! [`crate::main!`] named. Two exits are made: CPUID and `Vcpu.SetUpcall`.
//!
//! The page tables map all 512 GiB of guest-physical addresses at the same guest-virtual ones, so that addresses need
//! no translation anywhere in userlib; what exists, and with which rights, the nested tables alone decide.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use cap_spec::abi;

use super::{traps, upcall};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// Flags of a table entry, and of a 4 KiB page.
const TABLE: u64 = PRESENT | WRITE | ACCESSED;
const SMALL: u64 = TABLE | DIRTY;
const PAGE: u64 = 4096;
const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// A page table that the processor walks. Written by this Vcpu only, before the entry in question is used or, later,
/// by one volatile store per entry.
#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: every access is a volatile store of one aligned word (`set`), and images have one Vcpu.
unsafe impl Sync for Table {}

impl Table {
    const fn empty() -> Table {
        Table(UnsafeCell::new([0; 512]))
    }

    fn set(&self, index: usize, entry: u64) {
        assert!(index < 512);
        // SAFETY: the index is in range; the processor may read the entry at any time, so the store is volatile.
        unsafe { self.0.get().cast::<u64>().add(index).write_volatile(entry) };
    }

    fn address(&self) -> u64 {
        self.0.get() as u64
    }
}

/// 512 pages of 1 GiB. In the file, so that the image runs from its first instruction on.
#[unsafe(link_section = ".page_tables")]
#[unsafe(no_mangle)]
static USERLIB_PDPT: Table = {
    let mut entries = [0; 512];
    let mut index = 0;
    while index < 512 {
        entries[index] = (index as u64 * GIB) | SMALL | LARGE;
        index += 1;
    }
    Table(UnsafeCell::new(entries))
};

/// The first GiB in pages of 2 MiB, filled at start-up.
static FIRST_GIB: Table = Table::empty();
/// The first 2 MiB in pages of 4 KiB: null page and rings.
static FIRST_2MIB: Table = Table::empty();
/// The 2 MiB around the guard page.
static AROUND_GUARD: Table = Table::empty();
/// What a lost ring page is replaced by.
static SCRATCH: Table = Table::empty();

global_asm!(
    // The image header, at IMAGE_BASE.
    ".pushsection .image_header, \"ax\", @progbits",
    ".ascii \"NKIMAGE1\"",
    ".quad _start",
    ".quad userlib_pml4",
    ".quad __file_bytes",
    ".quad __memory_bytes",
    ".quad {version}",
    ".popsection",
    // The top page table: one entry.
    ".pushsection .page_tables, \"aw\", @progbits",
    ".balign 4096",
    "userlib_pml4:",
    ".quad USERLIB_PDPT + {table}",
    ".zero 4096 - 8",
    ".popsection",
    ".pushsection .text, \"ax\", @progbits",
    ".global _start",
    "_start:",
    "cld",
    "lea rsp, [rip + __stack_top]",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".popsection",
    version = const abi::VERSION,
    table = const TABLE,
    start = sym userlib_start,
);

const _: () = {
    // The order of the words above.
    use abi::image_header as header;
    assert!(header::MAGIC == 0 && header::ENTRY == 8 && header::CR3 == 16 && header::FILE_BYTES == 24);
    assert!(header::MEMORY_BYTES == 32 && header::ABI_VERSION == 40);
    assert!(abi::IMAGE_MAGIC == u64::from_le_bytes(*b"NKIMAGE1") && abi::IMAGE_BASE == 0x20_0000);
};

unsafe extern "C" {
    static __guard: u8;
    static __heap_start: u8;
    static __heap_end: u8;
    static __memory_end: u8;
}

unsafe extern "Rust" {
    safe fn userlib_main() -> !;
}

/// First Rust code. Called once, by `_start`.
extern "C" fn userlib_start() -> ! {
    split_page_tables();
    traps::install();
    crate::invoke::choose_instruction();
    upcall::install();
    let heap = first_heap();
    // SAFETY: the linker script keeps this range for the heap and nothing else names it.
    unsafe { crate::heap::claim(heap.start as *mut u8, (heap.end - heap.start) as usize) };
    userlib_main()
}

/// The range of memory that the linker script keeps as the first heap.
fn first_heap() -> core::ops::Range<u64> {
    (&raw const __heap_start) as u64..(&raw const __heap_end) as u64
}

/// The end of the image's memory (`IMAGE_BASE` + `MEMORY_BYTES`). What a launcher maps behind it is free.
pub fn memory_end() -> u64 {
    (&raw const __memory_end) as u64
}

/// The guard page below the stack.
pub fn guard_page() -> u64 {
    (&raw const __guard) as u64
}

/// Makes the null page and the guard page fault: the first GiB in 2 MiB pages, two of them in 4 KiB pages.
fn split_page_tables() {
    let guard = guard_page();
    let guard_region = guard / MIB2;
    for index in 0..512u64 {
        FIRST_GIB.set(index as usize, (index * MIB2) | SMALL | LARGE);
        let low = index * PAGE;
        FIRST_2MIB.set(index as usize, if low == 0 { 0 } else { low | SMALL });
        let page = guard_region * MIB2 + index * PAGE;
        AROUND_GUARD.set(index as usize, if page == guard { 0 } else { page | SMALL });
    }
    FIRST_GIB.set(0, FIRST_2MIB.address() | TABLE);
    FIRST_GIB.set(guard_region as usize, AROUND_GUARD.address() | TABLE);
    USERLIB_PDPT.set(0, FIRST_GIB.address() | TABLE);
    // SAFETY: the new tables map every page but two where it was; neither is in use.
    unsafe { super::flush_tlb() };
}

/// Puts a scratch page in the place of a page below 2 MiB that was taken away, so that whoever uses it gets nonsense
/// instead of faults. Ring pages only: their readers believe nothing they read.
pub fn replace_low_page(gpa: u64) {
    assert!(gpa < MIB2);
    FIRST_2MIB.set((gpa / PAGE) as usize, SCRATCH.address() | SMALL);
    // SAFETY: only the translation of a page that no longer exists has changed.
    unsafe { super::flush_tlb() };
}
