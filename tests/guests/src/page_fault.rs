//! A page fault in the guest's own page tables, handled by the guest with no exit.

use core::arch::{asm, global_asm};

/// Guest-virtual address of the page that comes and goes: the first page behind 256 GiB, in tables of its own.
const ADDRESS: u64 = 0x40_0000_0000;
const PRESENT: u64 = 0x63;

#[repr(C, align(4096))]
struct Table([u64; 512]);

static mut LOWER: Table = Table([0; 512]);
#[unsafe(no_mangle)]
static mut PAGE_FAULT_TABLE: Table = Table([0; 512]);
static mut PAGE: Table = Table([0; 512]);
#[unsafe(no_mangle)]
static mut PAGE_FAULT_ENTRY: u64 = 0;
static mut IDT: Table = Table([0; 512]);

global_asm!(
    ".global page_fault_handler",
    "page_fault_handler:",
    "push rax",
    "mov rax, [rip + PAGE_FAULT_ENTRY]",
    "mov [rip + PAGE_FAULT_TABLE], rax",
    "mov rax, cr2",
    "invlpg [rax]",
    "pop rax",
    "add rsp, 8",
    "iretq",
);

unsafe extern "C" {
    static page_fault_handler: u8;
}

/// The page, and the IDT that was loaded before.
pub struct Page {
    idt: [u8; 10],
}

/// Makes tables for the page and points vector 14 at a handler that makes it present.
pub fn prepare() -> Page {
    let mut idt = [0u8; 10];
    // SAFETY: one Vcpu; the tables are this module's; the entry of the third level is not used by the image, which lies
    // below 1 GiB.
    unsafe {
        asm!("sidt [{}]", in(reg) &mut idt);
        let top: u64;
        asm!("mov {}, cr3", out(reg) top);
        let third = (*core::ptr::with_exposed_provenance::<u64>(top as usize)) & !0xfff;
        let entry = core::ptr::with_exposed_provenance_mut::<u64>((third + (ADDRESS >> 30 & 511) * 8) as usize);
        entry.write_volatile((&raw const LOWER) as u64 | 3);
        (&raw mut LOWER.0[0]).write_volatile((&raw const PAGE_FAULT_TABLE) as u64 | 3);
        PAGE_FAULT_ENTRY = (&raw const PAGE) as u64 | PRESENT;
        let handler = (&raw const page_fault_handler) as u64;
        let selector: u64;
        asm!("mov {:r}, cs", out(reg) selector, options(nomem, nostack));
        IDT.0[28] = (handler & 0xffff) | (selector & 0xffff) << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        IDT.0[29] = handler >> 32;
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _);
        crate::trap::load_idt((&raw const IDT) as u64, 4095);
    }
    Page { idt }
}

impl Page {
    /// Takes the page out of the tables.
    pub fn take_away(&self) {
        // SAFETY: nothing but `touch` uses the page.
        unsafe {
            (&raw mut PAGE_FAULT_TABLE.0[0]).write_volatile(0);
            asm!("invlpg [{}]", in(reg) ADDRESS);
        }
    }

    /// Writes to the page: it faults, the handler makes it present, the write is done again.
    #[inline(always)]
    pub fn touch(&self) {
        // SAFETY: the handler is installed.
        unsafe { asm!("mov byte ptr [{}], 1", in(reg) ADDRESS) };
    }

    /// Loads the IDT that was there before.
    pub fn done(self) {
        // SAFETY: it was loaded before.
        unsafe { asm!("lidt [{}]", in(reg) &self.idt) };
    }
}
