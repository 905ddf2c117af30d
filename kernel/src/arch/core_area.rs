//! What each core has for itself: an aligned area with its state and its stack.
//!
//! The area is aligned to its size, so the kernel's stack pointer alone says which core runs: no segment base has to be
//! switched when a guest is left.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use kernel::protocol::Gate;
use kernel::types::CoreId;
use kernel::vm::MAX_CORES;

/// Bytes, and alignment, of a core's area.
pub const AREA_BYTES: usize = 32 * 1024;

/// State of a core that others, or its interrupt stubs, touch.
#[repr(C)]
pub struct Core {
    /// Set by the NMI stub: look at every cause before the next entry.
    pub nmi: AtomicBool,
    /// Where it is, and whether it was called.
    pub gate: Gate,
    /// The core has entered Rust and is ready.
    pub ready: AtomicBool,
    /// Vectors that the drain stubs accepted: bit per vector.
    pub drained: [AtomicU64; 4],
    /// `drained` may hold something.
    pub drained_any: AtomicBool,
    /// Its x2APIC id.
    pub apic_id: AtomicU32,
    /// Its number; set before it starts.
    pub number: AtomicU32,
}

impl Core {
    const fn new() -> Core {
        Core {
            nmi: AtomicBool::new(false),
            gate: Gate::new(),
            ready: AtomicBool::new(false),
            drained: [const { AtomicU64::new(0) }; 4],
            drained_any: AtomicBool::new(false),
            apic_id: AtomicU32::new(0),
            number: AtomicU32::new(0),
        }
    }

    /// Forgets what the drain stubs accepted.
    pub fn forget_drained(&self) {
        self.drained_any.store(false, Ordering::Relaxed);
        self.drained.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Its number.
    pub fn id(&self) -> CoreId {
        CoreId::new(self.number.load(Ordering::Relaxed) as u8)
    }
}

/// A core's state, and the rest of the area as its stack.
#[repr(C, align(32768))]
pub struct CoreArea {
    core: Core,
    stack: UnsafeCell<[u8; AREA_BYTES - size_of::<Core>()]>,
}

const _: () = assert!(size_of::<CoreArea>() == AREA_BYTES, "the stack pointer is masked to find the area");

// SAFETY: `core` is atomic; the stack is used by its core alone, through its stack pointer, and never through this type.
unsafe impl Sync for CoreArea {}

/// The areas of all cores; the entry code takes the first one's stack.
#[unsafe(no_mangle)]
static core_areas: [CoreArea; MAX_CORES] =
    [const { CoreArea { core: Core::new(), stack: UnsafeCell::new([0; AREA_BYTES - size_of::<Core>()]) } }; MAX_CORES];

/// The state of a core.
pub fn core(id: CoreId) -> &'static Core {
    &core_areas[usize::from(id.get()) % MAX_CORES].core
}

/// The state of the first `count` cores.
pub fn cores(count: usize) -> impl Iterator<Item = &'static Core> {
    core_areas.iter().take(count).map(|area| &area.core)
}

/// Address just above the stack of a core.
pub fn stack_top(id: CoreId) -> u64 {
    let area: *const CoreArea = &core_areas[usize::from(id.get()) % MAX_CORES];
    area as u64 + AREA_BYTES as u64
}

/// The core that executes this.
#[inline(always)]
pub fn this() -> &'static Core {
    let stack: u64;
    // SAFETY: reads the stack pointer only.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    let area = ((stack - 1) & !(AREA_BYTES as u64 - 1)) as *const Core;
    // SAFETY: the kernel's stack pointers lie in an area of `core_areas`, which begins with a `Core`.
    unsafe { &*area }
}
