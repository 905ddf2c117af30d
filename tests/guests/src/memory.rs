//! Attacks by memory accesses: outside of the VM's memory, to what is read-only, through page tables that point
//! anywhere, and during upcalls.

use cap_spec::abi::{ExitKind, IMAGE_BASE, INFO_PAGE, PRICE_BOARD, START_PAGE, STATS_PAGE, info_page, stats_page};
use userlib::cap::own;
use userlib::println;

use crate::attempt;
use crate::capabilities::Random;
use crate::instructions::Tally;
use crate::root::{set_word, word};

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

/// Pages that the launcher maps READ into every VM.
const READ_ONLY: [u64; 3] = [PRICE_BOARD, START_PAGE, STATS_PAGE];

/// Reads and writes outside of its memory and to read-only pages, with an upcall vector: each must end in an upcall.
pub fn touch_what_is_not_its_own() -> Tally {
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    let mut tally = Tally::default();
    with_faults_counted(&mut tally, |tally| {
        for address in OUTSIDE {
            expect_upcall(tally, address, read_faults(address));
            expect_upcall(tally, address, write_faults(address));
        }
        for address in READ_ONLY {
            expect_upcall(tally, address, write_faults(address));
        }
        tally.attempts
    });
    tally
}

/// Counts an attempt that must have been stopped by an upcall that tells of this page.
fn expect_upcall(tally: &mut Tally, page: u64, got: Option<u8>) {
    tally.expect(&[Some(UPCALL)], got);
    tally.wrong += u64::from(word(INFO_PAGE, info_page::FAULT_GPA) & !0xfff != page & !0xfff);
}

/// Makes an attack that says how many nested faults it has made, and compares that with what the kernel has counted.
fn with_faults_counted(tally: &mut Tally, attack: impl FnOnce(&mut Tally) -> u64) {
    let counted = || {
        let exits = word(STATS_PAGE, stats_page::EXITS + ExitKind::NestedFault as usize * 8);
        [word(INFO_PAGE, info_page::FAULT_COUNT), word(STATS_PAGE, stats_page::UPCALLS), exits]
    };
    let before = counted();
    let made = attack(tally);
    let after = counted();
    tally.wrong += u64::from((0..before.len()).any(|index| after[index] - before[index] != made));
    println!("hostile: {made} nested faults");
}

/// Reads a byte and returns the vector that came.
pub fn read_faults(address: u64) -> Option<u8> {
    with_upcall(|| attempt!("mov al, [{0}]"; in(reg) address, out("al") _))
}

/// Writes a byte and returns the vector that came.
pub fn write_faults(address: u64) -> Option<u8> {
    with_upcall(|| attempt!("mov byte ptr [{0}], 0x55"; in(reg) address))
}

/// Makes an access, and clears the busy word if an upcall came, as a handler that is done with the fault must. QEMU may
/// deliver an upcall a second time (see `userlib::arch`), here in the place of the next access: what the kernel has not
/// counted was no fault, and the access is made again.
fn with_upcall(access: impl Fn() -> Option<u8>) -> Option<u8> {
    loop {
        let before = word(INFO_PAGE, info_page::FAULT_COUNT);
        let vector = access();
        if vector != Some(UPCALL) {
            return vector;
        }
        let faults = word(INFO_PAGE, info_page::FAULT_COUNT);
        set_word(INFO_PAGE, info_page::UPCALL_BUSY, 0);
        if faults != before {
            return vector;
        }
    }
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

/// What a frame that wild page tables point to is to the VM.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Nothing: whatever use is made of it ends in an upcall.
    NotItsOwn,
    /// It may be read, and no more. The processor writes to a table that it walks.
    ReadOnly,
    /// [`MARKED`], whose words are no entries of a table.
    Marked,
}

#[repr(C, align(4096))]
struct Table([u64; 512]);

/// A page of the VM's own, full of [`MARK`], whose low bit is clear: as an entry of a table it is not present.
static mut MARKED: Table = Table([MARK; 512]);
const MARK: u64 = 0x006d_6172_6b65_6400;

/// The processor's tables from the third level on, of which the last entry that it follows is wild.
static mut TABLES: [Table; 3] = [Table([0; 512]), Table([0; 512]), Table([0; 512])];

/// The address that entry 256 of the top table leads to.
const WILD: u64 = 0xffff_8000_0000_0000;
/// Memory of the machine of this test.
const MACHINE_BYTES: u64 = 128 << 20;
/// More physical address bits than this the emulated processor does not have: above it every entry is refused by itself.
const PHYSICAL_BITS: u32 = 40;
const PRESENT: u64 = 3;
const LARGE: u64 = 0x83;

/// Guest page tables that point anywhere: frames that are not the VM's own, most of them near something that matters, and
/// some that are, each used as a page of every size and as a table of every level, read and written. `gone` are pages that
/// it had once, `end` is where its memory ends.
///
/// (Whatever is not its own cannot be its top table and the attacker go on; that has a test of its own in the probe.)
pub fn wild_page_tables(seed: u64, count: u64, end: u64, gone: &[u64]) -> Tally {
    let _ = own::VCPU.set_upcall(UPCALL, 0);
    let mut random = Random(seed);
    let mut tally = Tally::default();
    with_faults_counted(&mut tally, |tally| {
        (0..count)
            .map(|_| {
                let (address, frame) = draw(&mut random, end, gone);
                (0..3).map(|level| wild_page(tally, address, frame, level)).sum::<u64>()
                    + (0..3).map(|level| wild_table(tally, address, frame, level, random.below(512))).sum::<u64>()
            })
            .sum()
    });
    tally
}

/// A frame, and what it is to the VM.
fn draw(random: &mut Random, end: u64, gone: &[u64]) -> (u64, Frame) {
    let one_of = |random: &mut Random, list: &[u64]| list[random.below(list.len() as u64) as usize] & !0xfff;
    let not_its_own = match random.below(8) {
        0 => return (one_of(random, &READ_ONLY), Frame::ReadOnly),
        1 => return ((&raw const MARKED) as u64, Frame::Marked),
        2 => one_of(random, &OUTSIDE),
        3 => one_of(random, gone),
        // The next pages behind its memory, and the ones before it.
        4 => one_of(random, &[end, end + 0x1000, end + 0x1f_f000, end + 0x20_0000, IMAGE_BASE - 0x1000]),
        // RAM of the machine, where the kernel and others are.
        5 => random.below(INFO_PAGE) & !0xfff,
        6 => end + (random.below(MACHINE_BYTES - end) & !0xfff),
        _ => (MACHINE_BYTES + random.below((1 << PHYSICAL_BITS) - MACHINE_BYTES)) & !0xfff,
    };
    (not_its_own, Frame::NotItsOwn)
}

/// Makes the tables of [`WILD`] lead to this entry at this level: the top table's is level 3.
fn lead_to(entry: u64, level: usize) {
    let top: u64;
    // SAFETY: the tables are used by this guest's only Vcpu, and for these addresses only; entry 256 of the top table is
    // not used otherwise.
    unsafe {
        core::arch::asm!("mov {}, cr3", out(reg) top, options(nomem, nostack));
        let set = |table: usize, entry: u64| match table {
            3 => core::ptr::with_exposed_provenance_mut::<u64>((top + 256 * 8) as usize).write_volatile(entry),
            table => (&raw mut TABLES[table].0[0]).write_volatile(entry),
        };
        for above in level + 1..4 {
            set(above, (&raw const TABLES[above - 1]) as u64 | PRESENT);
        }
        set(level, entry);
        core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack));
    }
}

/// Reads and writes a frame as a page, or within a page, of 4 KiB, 2 MiB or 1 GiB. Returns how many nested faults there
/// must have been.
fn wild_page(tally: &mut Tally, address: u64, frame: Frame, level: usize) -> u64 {
    let mask = (0x1000 << (9 * level)) - 1;
    lead_to(address & !mask | if level == 0 { PRESENT } else { LARGE }, level);
    let at = WILD + (address & mask);
    match frame {
        Frame::NotItsOwn => {
            expect_upcall(tally, address, read_faults(at));
            expect_upcall(tally, address, write_faults(at));
            2
        }
        Frame::ReadOnly => {
            tally.expect(&[None], read_faults(at));
            // The start-up page, for one, never changes.
            tally.wrong += u64::from(
                address == START_PAGE && (0..512).any(|index| word(at, index * 8) != word(address, index * 8)),
            );
            expect_upcall(tally, address, write_faults(at));
            1
        }
        Frame::Marked => {
            tally.expect(&[None], read_faults(at));
            tally.wrong += u64::from((0..512).any(|index| word(at, index * 8) != MARK));
            tally.expect(&[None], write_faults(at));
            tally.wrong += u64::from(word(address, 0) != MARK & !0xff | 0x55);
            set_word(address, 0, MARK);
            0
        }
    }
}

/// Makes the processor walk a frame as a table of the level 1, 2 or 3, with this index. As [`wild_page`].
fn wild_table(tally: &mut Tally, address: u64, frame: Frame, level: usize, index: u64) -> u64 {
    lead_to(address | PRESENT, level + 1);
    let at = WILD + (index << (12 + 9 * level));
    for got in [read_faults(at), write_faults(at)] {
        match frame {
            Frame::NotItsOwn | Frame::ReadOnly => expect_upcall(tally, address, got),
            Frame::Marked => tally.expect(&[Some(PAGE_FAULT)], got),
        }
    }
    if frame == Frame::Marked { 0 } else { 2 }
}

const PAGE_FAULT: u8 = 14;

const _: () = assert!(IMAGE_BASE == 0x20_0000 && INFO_PAGE == 0x10_0000);
