//! The one hypercall, untyped. [`crate::cap`] has the typed invocations.
//!
//! On the host there is no kernel: tests put a function in its place with [`fake::install`].
//!
//! Invocations are safe functions although a capability can take memory from under the program or exchange it, as a
//! file descriptor for the memory of a process can elsewhere: what an invocation does is outside of what Rust's types
//! speak of. Memory that was taken faults at its next use; it is never silently something else unless the image maps
//! something else there itself.

use cap_spec::abi::{Fault, Label, Status};

/// What an invocation returns: up to two result words.
pub type Outcome = Result<(u64, u64), Fault>;

/// Invokes a capability. Arguments that the label does not have are ignored by the kernel.
#[inline(always)]
pub fn invoke(cptr: u64, label: Label, args: [u64; 5]) -> Outcome {
    let (status, first, second) = raw(cptr, label as u64, args);
    Status(status).to_result().map(|()| (first, second))
}

/// Invokes with any numbers at all: for tests of what the kernel refuses.
#[inline(always)]
pub fn raw(cptr: u64, label: u64, args: [u64; 5]) -> (u64, u64, u64) {
    imp::raw(cptr, label, args)
}

#[cfg(target_os = "none")]
mod imp {
    use core::arch::asm;
    use core::arch::x86_64::__cpuid;
    use core::sync::atomic::{AtomicBool, Ordering};

    /// True where the instruction is VMCALL. Written once, at start-up.
    static INTEL: AtomicBool = AtomicBool::new(false);

    /// Looks at the processor's vendor once: the two vendors have different instructions for the same thing.
    pub fn choose_instruction() {
        let vendor = __cpuid(0);
        INTEL.store(vendor.ebx.to_le_bytes() == *b"Genu", Ordering::Relaxed);
    }

    #[inline(always)]
    pub fn raw(cptr: u64, label: u64, args: [u64; 5]) -> (u64, u64, u64) {
        let (status, first, second);
        // SAFETY: the kernel changes rax, rsi and rdx only (cap-spec); memory may change, so no `nomem`.
        unsafe {
            if INTEL.load(Ordering::Relaxed) {
                asm!("vmcall", inlateout("rax") label => status, in("rdi") cptr, inlateout("rsi") args[0] => first,
                    inlateout("rdx") args[1] => second, in("r10") args[2], in("r8") args[3], in("r9") args[4],
                    options(nostack));
            } else {
                asm!("vmmcall", inlateout("rax") label => status, in("rdi") cptr, inlateout("rsi") args[0] => first,
                    inlateout("rdx") args[1] => second, in("r10") args[2], in("r8") args[3], in("r9") args[4],
                    options(nostack));
            }
        }
        (status, first, second)
    }
}

#[cfg(target_os = "none")]
pub(crate) use imp::choose_instruction;

#[cfg(not(target_os = "none"))]
mod imp {
    pub fn raw(cptr: u64, label: u64, args: [u64; 5]) -> (u64, u64, u64) {
        super::fake::call(cptr, label, args)
    }
}

/// A function in the place of the kernel, for tests on the host.
#[cfg(not(target_os = "none"))]
pub mod fake {
    use alloc::boxed::Box;
    use cap_spec::abi::{Error, Fault, Label, Status};
    use std::cell::RefCell;

    /// A stand-in for the kernel.
    pub type Kernel = dyn FnMut(u64, Label, [u64; 5]) -> super::Outcome;

    std::thread_local! {
        static KERNEL: RefCell<Option<Box<Kernel>>> = const { RefCell::new(None) };
    }

    /// Lets this function answer the invocations of the present thread.
    pub fn install(kernel: impl FnMut(u64, Label, [u64; 5]) -> super::Outcome + 'static) {
        KERNEL.with(|slot| *slot.borrow_mut() = Some(Box::new(kernel)));
    }

    /// Without a stand-in every capability is empty. What the stand-in itself invokes succeeds and does nothing.
    pub(super) fn call(cptr: u64, label: u64, args: [u64; 5]) -> (u64, u64, u64) {
        let outcome = KERNEL.with(|slot| {
            let Ok(mut kernel) = slot.try_borrow_mut() else {
                return Ok((0, 0));
            };
            match (kernel.as_mut(), Label::from_number(label)) {
                (Some(kernel), Some(label)) => kernel(cptr, label, args),
                (Some(_), None) => Err(Fault::new(Error::InvalidLabel, 0)),
                (None, _) => Err(Fault::new(Error::InvalidCapability, 0)),
            }
        });
        match outcome {
            Ok((first, second)) => (Status::OK.0, first, second),
            Err(fault) => (Status::refused(fault).0, args[0], args[1]),
        }
    }
}
