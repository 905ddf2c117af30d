//! What the own VM has cost so far: the exits that the kernel counts, and the interrupts that it has taken itself.

use cap_spec::abi::{ExitKind, STATS_PAGE, stats_page};
use core::sync::atomic::Ordering;

use crate::own_device;
use crate::shared::{SharedMemory, Words};

/// Kinds of exits that there is room for.
const KINDS: usize = 32;

/// Exits of a VM since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// Those that it caused itself.
    pub own: u64,
    /// Those by which the kernel took the core: NMIs, at the end of a budget and for others.
    pub preemptions: u64,
}

impl Exits {
    /// Counts others in.
    pub fn add(&mut self, others: Exits) {
        self.own = self.own.wrapping_add(others.own);
        self.preemptions = self.preemptions.wrapping_add(others.preemptions);
    }

    /// Those since an earlier moment.
    #[must_use]
    pub fn since(self, earlier: Exits) -> Exits {
        Exits {
            own: self.own.wrapping_sub(earlier.own),
            preemptions: self.preemptions.wrapping_sub(earlier.preemptions),
        }
    }
}

/// Interrupts of the own devices that were taken so far; wraps.
#[must_use]
pub fn device_interrupts() -> u64 {
    own_device::interrupts()
}

/// Exits of the own VM so far. No exit.
#[must_use]
pub fn exits() -> Exits {
    // SAFETY: the launcher maps the statistics page there, to be read, for as long as the VM lives.
    let page = unsafe { SharedMemory::new(STATS_PAGE, 4096) };
    let count = |kind: usize| page.load(stats_page::EXITS / 8 + kind, Ordering::Relaxed);
    // Each is read once: the core may be taken in between, which must not count as an exit of its own.
    let preemptions = ExitKind::Nmi as usize;
    let own = (0..KINDS).filter(|&kind| kind != preemptions).fold(0u64, |sum, kind| sum.wrapping_add(count(kind)));
    Exits { own, preemptions: count(preemptions) }
}
