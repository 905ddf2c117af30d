//! MSR and I/O permission maps: what a guest may touch without an exit. The same for every guest; a guest that shares
//! its core has its timer's initial count watched in addition, because it could not be read back when it is switched out.

/// Bytes of the MSR permission map: two pages.
const MSRPM_BYTES: usize = 8192;
/// Bytes of the I/O permission map: three pages.
const IOPM_BYTES: usize = 12288;

/// MSRs that a guest touches freely: what VMSAVE holds, and the x2APIC end of interrupt.
const OPEN: [(u32, u8); 11] = [
    (0x174, READ | WRITE),       // SYSENTER_CS
    (0x175, READ | WRITE),       // SYSENTER_ESP
    (0x176, READ | WRITE),       // SYSENTER_EIP
    (0xc000_0081, READ | WRITE), // STAR
    (0xc000_0082, READ | WRITE), // LSTAR
    (0xc000_0083, READ | WRITE), // CSTAR
    (0xc000_0084, READ | WRITE), // SFMASK
    (0xc000_0100, READ | WRITE), // FS_BASE
    (0xc000_0101, READ | WRITE), // GS_BASE
    (0xc000_0102, READ | WRITE), // KERNEL_GS_BASE
    (0x80b, WRITE),              // x2APIC EOI
];
/// x2APIC initial count: written freely by a guest that has its core to itself.
const TIMER_INITIAL: u32 = 0x838;

const READ: u8 = 1;
const WRITE: u8 = 2;

#[repr(C, align(4096))]
struct Map<const N: usize>([u8; N]);

/// Offset of an MSR's two bits in the map, in bits (APM volume 2, 15.11).
const fn bit_of(msr: u32) -> usize {
    let (base, first) = match msr {
        0..0x2000 => (0, 0),
        0xc000_0000..0xc000_2000 => (0x800, 0xc000_0000),
        _ => (0x1000, 0xc001_0000),
    };
    base * 8 + (msr - first) as usize * 2
}

const fn open(mut map: [u8; MSRPM_BYTES], msr: u32, access: u8) -> [u8; MSRPM_BYTES] {
    let bit = bit_of(msr);
    map[bit / 8] &= !(access << (bit % 8));
    map
}

const fn msr_map(own_timer: bool) -> [u8; MSRPM_BYTES] {
    let mut map = [0xff; MSRPM_BYTES];
    let mut index = 0;
    while index < OPEN.len() {
        map = open(map, OPEN[index].0, OPEN[index].1);
        index += 1;
    }
    if own_timer { open(map, TIMER_INITIAL, WRITE) } else { map }
}

static MSRPM_ALONE: Map<MSRPM_BYTES> = Map(msr_map(true));
static MSRPM_SHARED: Map<MSRPM_BYTES> = Map(msr_map(false));
static IOPM: Map<IOPM_BYTES> = Map([0xff; IOPM_BYTES]);

/// Physical address of the MSR permission map, with the timer's initial count open or watched.
pub fn msrpm(own_timer: bool) -> u64 {
    if own_timer { &raw const MSRPM_ALONE as u64 } else { &raw const MSRPM_SHARED as u64 }
}

/// Physical address of the I/O permission map: every port is intercepted.
pub fn iopm() -> u64 {
    &raw const IOPM as u64
}
