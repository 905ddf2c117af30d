//! Layout of what kernel and guests share: info page, handler page, statistics pages, `BootInfo`, the boot module, the
//! root VM's address space, and the slots of a freshly launched VM.
//!
//! All of it is little-endian `u64` words at fixed byte offsets, so that either side can read a word once, by value.

use strum::{FromRepr, VariantArray};

/// Registers that `Vcpu.SetRegister` and `GetRegister` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromRepr, VariantArray)]
#[repr(u8)]
pub enum Register {
    /// General registers, in the order of their encoding.
    Rax = 0,
    /// See `Rax`.
    Rcx = 1,
    /// See `Rax`.
    Rdx = 2,
    /// See `Rax`.
    Rbx = 3,
    /// Stack pointer.
    Rsp = 4,
    /// See `Rax`.
    Rbp = 5,
    /// See `Rax`.
    Rsi = 6,
    /// See `Rax`.
    Rdi = 7,
    /// See `Rax`.
    R8 = 8,
    /// See `Rax`.
    R9 = 9,
    /// See `Rax`.
    R10 = 10,
    /// See `Rax`.
    R11 = 11,
    /// See `Rax`.
    R12 = 12,
    /// See `Rax`.
    R13 = 13,
    /// See `Rax`.
    R14 = 14,
    /// See `Rax`.
    R15 = 15,
    /// Instruction pointer; must be canonical.
    Rip = 16,
    /// Flags; reserved bits must be 0 (bit 1 is set by the kernel), VM must be 0.
    Rflags = 17,
    /// Guest-physical address of the guest's top page table, 4 KiB aligned, below 2^48.
    Cr3 = 18,
    /// FS base; must be canonical.
    FsBase = 19,
    /// GS base; must be canonical.
    GsBase = 20,
}

impl Register {
    /// Every register, in the order of its number.
    pub const ALL: &'static [Register] = Register::VARIANTS;

    /// The register with this number.
    pub const fn from_number(number: u64) -> Option<Register> {
        if number > u8::MAX as u64 { None } else { Register::from_repr(number as u8) }
    }
}

/// Slots of the root CNode of a freshly launched VM, and of the root VM. The kernel fixes slot 0 only; the others are
/// the convention between whoever launches and userlib.
pub mod slots {
    /// Never addressable; the kernel's.
    pub const RESERVED: u16 = 0;
    /// The VM's own root CNode.
    pub const CNODE: u16 = 1;
    /// The VM itself.
    pub const VM: u16 = 2;
    /// Its first Vcpu.
    pub const VCPU: u16 = 3;
    /// Its base Untyped. In the root VM empty.
    pub const BASE: u16 = 4;
    /// Its end of the channel to the market server. In the root VM the `Machine`.
    pub const MARKET: u16 = 5;
    /// Its end of the channel to the console server. In the root VM the `IoPort` range.
    pub const CONSOLE: u16 = 6;
    /// In the root VM the `Irq` range.
    pub const IRQ: u16 = 7;
    /// The first slot that the VM may use as it likes. In the root VM: `BootInfo` says what follows.
    pub const FREE: u16 = 16;
}

/// The info page of a Vcpu: mapped READ, WRITE into its VM. Offsets in bytes.
pub mod info_page {
    /// Event word. The kernel ORs bits in atomically; the guest may take them with an atomic exchange and no exit.
    pub const EVENTS: usize = 0x00;
    /// Busy word of the upcall: the kernel sets it to 1 with each fault upcall; while it is not 0 a further fault
    /// stops the VM. The guest clears it when it has read the fault.
    pub const UPCALL_BUSY: usize = 0x08;
    /// Guest-physical address of the nested page fault.
    pub const FAULT_GPA: usize = 0x10;
    /// What the access was: bit 0 present, 1 write, 2 user, 4 instruction fetch (as a page-fault error code).
    pub const FAULT_ACCESS: usize = 0x18;
    /// Count of fault upcalls.
    pub const FAULT_COUNT: usize = 0x20;
    /// Frequency of the TSC in Hz; written when the Vcpu is attached.
    pub const TSC_HZ: usize = 0x28;
    /// ABI version; written when the Vcpu is attached.
    pub const ABI_VERSION: usize = 0x30;
    /// Ticks of CPU time that this Vcpu has been current on its core; written at each switch away from it.
    pub const USED_TICKS: usize = 0x38;
    /// Budget of the reservation it is bound to, in ticks per period; written when it takes effect.
    pub const BUDGET_TICKS: usize = 0x40;
    /// Period of that reservation, in ticks.
    pub const PERIOD_TICKS: usize = 0x48;
    /// Core that it runs on.
    pub const CORE: usize = 0x50;
}

/// The handler page of a Vcpu: written when the Vcpu stops by itself, for its handler. Offsets in bytes.
pub mod handler_page {
    /// Count of such stops; written last.
    pub const COUNT: usize = 0x00;
    /// Why: a `StopReason`.
    pub const REASON: usize = 0x08;
    /// Detail of the reason: gpa of a nested fault; exit code of `Instruction` and `InvalidState`.
    pub const DETAIL: usize = 0x10;
    /// Second detail: access of the fault, the exit's first information.
    pub const DETAIL2: usize = 0x18;
    /// Registers in the order of `Register`, as far as it goes, then CR0, CR2, CR4, EFER.
    pub const REGISTERS: usize = 0x40;
    /// How many words stand at `REGISTERS`.
    pub const REGISTER_WORDS: usize = 25;
}

/// Why a Vcpu stopped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StopReason {
    /// It has not stopped by itself.
    None = 0,
    /// A nested page fault and no upcall vector, the upcall busy, or a fault during delivery.
    NestedFault = 1,
    /// Triple fault (SHUTDOWN).
    Shutdown = 2,
    /// The hardware left the guest for a cause that the kernel never asked for; the details are the exit code and its
    /// information. An instruction that guests do not have raises #UD in the guest, and stops nothing.
    Instruction = 3,
    /// The hardware refused the guest's state.
    InvalidState = 7,
}

/// Statistics page of a VM, and the global one: `u64` counters, mapped READ. Offsets in bytes.
pub mod stats_page {
    /// Exits by reason: 32 counters in the order of `ExitKind`.
    pub const EXITS: usize = 0x000;
    /// Times a Vcpu was switched to.
    pub const SWITCHES: usize = 0x100;
    /// TLB shootdowns caused.
    pub const SHOOTDOWNS: usize = 0x108;
    /// Fault upcalls delivered.
    pub const UPCALLS: usize = 0x110;
    /// Ticks current on a core.
    pub const USED_TICKS: usize = 0x118;
    /// Longest hold of the kernel lock in ticks (global page only).
    pub const LONGEST_HOLD: usize = 0x120;
    /// Ticks that any period of a reservation came up short at most (global page only).
    pub const WORST_SHORTFALL: usize = 0x128;
    /// Invocations by label: 64 counters.
    pub const INVOCATIONS: usize = 0x200;
    /// Refusals by error: 64 counters, by the error's number.
    pub const REFUSALS: usize = 0x400;
}

/// Classes of exits that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitKind {
    /// `invoke`.
    Invoke = 0,
    /// Nested page fault.
    NestedFault = 1,
    /// NMI: deadline, shootdown, signal.
    Nmi = 2,
    /// CPUID.
    Cpuid = 3,
    /// RDMSR or WRMSR of a register that is not open.
    Msr = 4,
    /// IN or OUT.
    Port = 5,
    /// Intercepted exception.
    Exception = 6,
    /// Instruction that guests don't have.
    Instruction = 7,
    /// XSETBV.
    Xsetbv = 8,
    /// SHUTDOWN.
    Shutdown = 9,
    /// Failed entry.
    Invalid = 10,
    /// Control or debug register.
    Register = 11,
    /// Anything else.
    Other = 12,
}

/// What the root VM finds in its `BootInfo` page, at [`ROOT_BOOT_INFO`]. Offsets in bytes.
pub mod boot_info {
    /// [`super::super::VERSION`].
    pub const ABI_VERSION: usize = 0x00;
    /// Magic number `NKBOOT01`.
    pub const MAGIC: usize = 0x08;
    /// Times the root VM has been started before.
    pub const RESTARTS: usize = 0x10;
    /// Frequency of the TSC in Hz.
    pub const TSC_HZ: usize = 0x18;
    /// Number of cores; `CpuTime` originals of core 0, 1, ... lie in the slots from `FIRST_CPU_TIME`.
    pub const CORES: usize = 0x20;
    /// Slot of the first `CpuTime`.
    pub const FIRST_CPU_TIME: usize = 0x28;
    /// Slot of the first `Untyped`.
    pub const FIRST_UNTYPED: usize = 0x30;
    /// How many Untypeds there are. They need a Revoke (scrub) before the first Retype.
    pub const UNTYPEDS: usize = 0x38;
    /// First slot that is free, up to the end of the root CNode.
    pub const FIRST_FREE: usize = 0x40;
    /// Slots of the root CNode.
    pub const SLOTS: usize = 0x48;
    /// Bytes of the boot archive, which is mapped READ at [`super::ROOT_ARCHIVE`].
    pub const ARCHIVE_BYTES: usize = 0x50;
    /// Bytes of memory the root VM has from [`super::IMAGE_BASE`] on.
    pub const MEMORY_BYTES: usize = 0x58;
    /// TSC at the first start of the root VM, and at reset as far as known (0).
    pub const TSC_AT_START: usize = 0x60;
    /// Ticks per period that the root VM's own reservation on core 0 has, and its period.
    pub const ROOT_BUDGET: usize = 0x68;
    /// See `ROOT_BUDGET`.
    pub const ROOT_PERIOD: usize = 0x70;
    /// Ticks per period of 10 ms that a core can promise in all (the same for every core).
    pub const SELLABLE_PER_10MS: usize = 0x78;
    /// Slot of the first `PciFunction`: the physical functions that are handed out, which are none without an IOMMU.
    pub const FIRST_FUNCTION: usize = 0x80;
    /// How many there are.
    pub const FUNCTIONS: usize = 0x88;
    /// The first interrupt route that messages of functions raise; those before are pins of the machine.
    pub const FIRST_MESSAGE_ROUTE: usize = 0x90;
    /// How many interrupt routes there are.
    pub const ROUTES: usize = 0x98;
    /// size_bits of Untyped i, one byte each, from here on (at most 1,024).
    pub const UNTYPED_BITS: usize = 0x100;
    /// Kernel command line, at most 512 bytes, zero-terminated.
    pub const COMMAND_LINE: usize = 0xe00;
}

/// Magic number of `BootInfo`: `NKBOOT01`, little-endian.
pub const BOOT_INFO_MAGIC: u64 = u64::from_le_bytes(*b"NKBOOT01");

/// Guest-physical address at which every image is linked: its first byte, and its entry in 64-bit mode.
pub const IMAGE_BASE: u64 = 0x20_0000;
/// Guest-physical address of the info page of the first Vcpu.
pub const INFO_PAGE: u64 = 0x10_0000;
/// Guest-physical address of the VM's own statistics page.
pub const STATS_PAGE: u64 = 0x10_1000;
/// Guest-physical address of the price board (one page, READ).
pub const PRICE_BOARD: u64 = 0x10_2000;
/// Guest-physical address of the start-up page that the launcher fills (arguments, sizes; READ).
pub const START_PAGE: u64 = 0x10_3000;
/// Guest-physical address of the ring pages of the channel to the market server (2 pages: to it, from it).
pub const MARKET_RING: u64 = 0x11_0000;
/// Guest-physical address of the ring pages of the channel to the console server (to it, from it).
pub const CONSOLE_RING: u64 = 0x12_0000;
/// Guest-physical address of the root VM's `BootInfo` page.
pub const ROOT_BOOT_INFO: u64 = 0x10_4000;
/// Guest-physical address of the boot archive in the root VM.
pub const ROOT_ARCHIVE: u64 = 0x4000_0000;
/// Most bytes of the boot archive.
pub const ROOT_ARCHIVE_BYTES: u64 = 1 << 30;

/// Header of the boot module, which `xtask` makes: a page, then the root image, then (page-aligned) the archive.
/// Offsets in bytes.
pub mod module_header {
    /// Magic number `NKMODULE`.
    pub const MAGIC: usize = 0x00;
    /// ABI version that the root image was built for.
    pub const ABI_VERSION: usize = 0x08;
    /// Bytes of the root image in the module; it starts at offset 4096 and is copied to `IMAGE_BASE`.
    pub const IMAGE_BYTES: usize = 0x10;
    /// Bytes of memory the root VM gets from `IMAGE_BASE` on, a multiple of 2 MiB; the rest after the image is zero.
    pub const MEMORY_BYTES: usize = 0x18;
    /// Guest-physical address of the first instruction.
    pub const ENTRY: usize = 0x20;
    /// Guest-physical address of the initial top page table in the image.
    pub const CR3: usize = 0x28;
    /// Offset of the archive in the module, a multiple of 4096.
    pub const ARCHIVE_OFFSET: usize = 0x30;
    /// Bytes of the archive.
    pub const ARCHIVE_BYTES: usize = 0x38;
}

/// Magic number of the boot module: `NKMODULE`, little-endian.
pub const MODULE_MAGIC: u64 = u64::from_le_bytes(*b"NKMODULE");

/// Header at the start of every image (at [`IMAGE_BASE`]), which userlib's start-up code lays out. Offsets in bytes.
pub mod image_header {
    /// Magic number `NKIMAGE1`.
    pub const MAGIC: usize = 0x00;
    /// Guest-physical address of the first instruction.
    pub const ENTRY: usize = 0x08;
    /// Guest-physical address of the initial top page table.
    pub const CR3: usize = 0x10;
    /// Bytes of the image in the file, page-aligned up.
    pub const FILE_BYTES: usize = 0x18;
    /// Bytes it needs in memory from `IMAGE_BASE` on (image, bss, stack, first heap), page-aligned.
    pub const MEMORY_BYTES: usize = 0x20;
    /// ABI version.
    pub const ABI_VERSION: usize = 0x28;
}

/// Magic number of an image: `NKIMAGE1`, little-endian.
pub const IMAGE_MAGIC: u64 = u64::from_le_bytes(*b"NKIMAGE1");
