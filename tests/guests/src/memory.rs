//! Attacks by memory accesses: outside of the VM's memory, to what is read-only, through page tables that point
//! anywhere, and during upcalls.

use cap_spec::abi::{IMAGE_BASE, PRICE_BOARD, START_PAGE, STATS_PAGE};
use userlib::cap::own;

use crate::attempt;

/// Vector that the attacks ask for as fault upcall.
pub const UPCALL: u8 = 0x60;

/// Addresses that no tenant has: kernel and firmware, device registers, ECAM, holes, far away.
pub const OUTSIDE: [u64; 14] = [
    0x1000,
    0x9_f000,
    0xf_0000,
    0x18_0000,
    0xb000_0000,
    0xe000_0000,
    0xfec0_0000,
    0xfed0_0000,
    0xfed9_0000,
    0xfee0_0000,
    0xffff_0000,
    0x1_0000_0000,
    0x20_0000_0000,
    0x7f_ffff_f000,
];

/// Reads and writes outside of its memory and to read-only pages, with an upcall vector. Returns (accesses, of which
/// went through).
pub fn touch_what_is_not_its_own() -> (u64, u64) {
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    let mut through = 0;
    let mut accesses = 0;
    for address in OUTSIDE {
        through += u64::from(read_faults(address).is_none());
        through += u64::from(write_faults(address).is_none());
        accesses += 2;
    }
    for address in [PRICE_BOARD, START_PAGE, STATS_PAGE] {
        through += u64::from(write_faults(address).is_none());
        accesses += 1;
    }
    (accesses, through)
}

/// Reads a byte and returns the vector that came.
pub fn read_faults(address: u64) -> Option<u8> {
    end_upcall(attempt!("mov al, [{0}]"; in(reg) address, out("al") _))
}

/// Writes a byte and returns the vector that came.
pub fn write_faults(address: u64) -> Option<u8> {
    end_upcall(attempt!("mov byte ptr [{0}], 0x55"; in(reg) address))
}

/// Clears the busy word, as a handler that is done with the fault must.
fn end_upcall(vector: Option<u8>) -> Option<u8> {
    if vector == Some(UPCALL) {
        let busy = (cap_spec::abi::INFO_PAGE + cap_spec::abi::info_page::UPCALL_BUSY as u64) as *mut u64;
        // SAFETY: the info page is mapped there for as long as the VM lives.
        unsafe { busy.write_volatile(0) };
    }
    vector
}

/// Touches memory that is not there with no upcall vector: the VM is stopped.
pub fn fault_without_upcall() -> ! {
    let _ = own::VCPU.set_upcall(0, 0);
    loop {
        let _ = read_faults(OUTSIDE[4]);
    }
}

/// A second fault while the first one's upcall is busy: the VM is stopped.
pub fn fault_during_upcall() -> ! {
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    loop {
        let _ = attempt!("mov al, [{0}]"; in(reg) OUTSIDE[4], out("al") _);
    }
}

/// The IDT itself lies in memory that is not there: the upcall cannot be delivered.
pub fn fault_in_delivery() -> ! {
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    crate::trap::load_idt(OUTSIDE[4], 0xfff);
    loop {
        // SAFETY: reads memory that is not there; the VM ends.
        unsafe { core::ptr::with_exposed_provenance::<u8>(OUTSIDE[5] as usize).read_volatile() };
    }
}

/// The stack lies in memory that is not there when the upcall is to be delivered.
pub fn upcall_without_stack() -> ! {
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    // SAFETY: nothing returns; the VM ends.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}",
            "2:",
            "mov al, [{outside}]",
            "jmp 2b",
            stack = in(reg) OUTSIDE[5] + 0x800,
            outside = in(reg) OUTSIDE[4],
            options(noreturn)
        )
    }
}

/// Guest page tables that point anywhere: a table in the image is filled with random frame numbers and walked.
/// Returns (accesses, of which went through to memory that is not the image's).
pub fn wild_page_tables(seed: u64, count: u64) -> (u64, u64) {
    #[repr(C, align(4096))]
    struct Table([u64; 512]);
    static mut WILD: Table = Table([0; 512]);
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    let top: u64;
    // SAFETY: reads CR3.
    unsafe { core::arch::asm!("mov {}, cr3", out(reg) top, options(nomem, nostack)) };
    let mut random = crate::capabilities::Random(seed);
    let mut through = 0;
    for _ in 0..count {
        // Entry 256 of the top table leads to WILD, whose entries are 1 GiB pages or tables anywhere.
        let frame = random.word() & 0x000f_ffff_ffff_f000;
        let entry = if random.below(2) == 0 { frame & !0x3fff_ffff | 0x83 } else { frame | 3 };
        let index = random.below(512) as usize;
        // SAFETY: the table is used by this guest's only Vcpu; entry 256 of the top table is not used otherwise.
        unsafe {
            (&raw mut WILD.0[index]).write_volatile(entry);
            let slot = core::ptr::with_exposed_provenance_mut::<u64>((top + 256 * 8) as usize);
            slot.write_volatile((&raw const WILD) as u64 | 3);
            core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack));
        }
        let address = 0xffff_8000_0000_0000 + ((index as u64) << 30) + (random.word() & 0x3fff_f000);
        let got = end_upcall(attempt!("mov al, [{0}]"; in(reg) address, out("al") _));
        // What the wild table happens to point into the image or its pages is the guest's own.
        let own_memory = entry & 0x80 != 0 && frame >> 30 == 0;
        through += u64::from(got.is_none() && !own_memory);
    }
    (count, through)
}

const _: () = assert!(IMAGE_BASE == 0x20_0000);
