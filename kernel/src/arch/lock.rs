//! The kernel lock: one fair ticket lock around the one kernel. What it guards exists as `&mut` only inside its guard.

use crate::Nonkernel;
use crate::storage::Hardware;
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::ops::{Deref, DerefMut};
use kernel::Kernel;
use kernel::protocol::turns::Turns;

/// The kernel and its lock.
static KERNEL: KernelLock = KernelLock { turns: Turns::new(), kernel: UnsafeCell::new(Kernel::new(Hardware::new())) };

struct KernelLock {
    turns: Turns,
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
        let turn = KERNEL.turns.queue();
        while !KERNEL.turns.has_come(&turn) {
            spin_loop();
        }
        Lock(())
    }

    /// True while somebody waits behind the holder.
    #[inline]
    pub fn is_contended() -> bool {
        KERNEL.turns.is_contended()
    }
}

impl Deref for Lock {
    type Target = Nonkernel;

    #[inline(always)]
    fn deref(&self) -> &Nonkernel {
        // SAFETY: a `Lock` exists only between `take` and `drop`, in its turn: once.
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
        KERNEL.turns.end();
    }
}
