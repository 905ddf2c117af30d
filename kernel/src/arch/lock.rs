//! The kernel lock: one fair ticket lock around the one kernel. What it guards exists as `&mut` only inside its guard.

use crate::Nonkernel;
use crate::storage::Hardware;
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::Kernel;

/// The kernel and its lock.
static KERNEL: KernelLock = KernelLock {
    next: AtomicU32::new(0),
    serving: AtomicU32::new(0),
    kernel: UnsafeCell::new(Kernel::new(Hardware::new())),
};

struct KernelLock {
    next: AtomicU32,
    serving: AtomicU32,
    kernel: UnsafeCell<Nonkernel>,
}

// SAFETY: the kernel is reached only through the guard, which exists once at a time.
unsafe impl Sync for KernelLock {}

/// Holding the lock: the capability core over this machine. It takes no space, as there is one kernel.
pub struct Lock(());

impl Lock {
    /// Waits for its turn. A core that waits owes nobody an acknowledgement: it is outside its guest.
    #[inline(always)]
    pub fn take() -> Lock {
        let ticket = KERNEL.next.fetch_add(1, Ordering::Relaxed);
        while KERNEL.serving.load(Ordering::Acquire) != ticket {
            spin_loop();
        }
        Lock(())
    }

    /// True while somebody waits behind the holder.
    #[inline]
    pub fn is_contended() -> bool {
        KERNEL.next.load(Ordering::Relaxed).wrapping_sub(KERNEL.serving.load(Ordering::Relaxed)) > 1
    }
}

impl Deref for Lock {
    type Target = Nonkernel;

    #[inline(always)]
    fn deref(&self) -> &Nonkernel {
        // SAFETY: a `Lock` exists only between `take` and `drop` of the ticket that is being served: once.
        unsafe { &*KERNEL.kernel.get() }
    }
}

impl DerefMut for Lock {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Nonkernel {
        // SAFETY: as for `deref`.
        unsafe { &mut *KERNEL.kernel.get() }
    }
}

impl Drop for Lock {
    #[inline(always)]
    fn drop(&mut self) {
        let serving = KERNEL.serving.load(Ordering::Relaxed);
        KERNEL.serving.store(serving.wrapping_add(1), Ordering::Release);
    }
}
