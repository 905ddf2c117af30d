//! The end of an image that failed: panics and exceptions, told and then stopped.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Exit status of an application that panicked, as Rust programs have it.
pub const PANICKED: u32 = 101;

/// How an image fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It panicked. When the reporter returns, the Vcpu is stopped.
    Panic,
    /// An exception, or the use of memory that is not there. When the reporter returns, the Vcpu is stopped with the
    /// registers as they were.
    Fault,
}

/// Tells somebody why the image ends. Runs at most once; it may end the image by itself.
pub type Reporter = fn(Kind, &dyn fmt::Display);

static REPORTER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Chooses who is told of panics and exceptions.
pub fn set_reporter(reporter: Reporter) {
    REPORTER.store(reporter as *mut (), Ordering::Release);
}

#[cfg(target_os = "none")]
mod machine {
    use core::arch::asm;
    use core::sync::atomic::{AtomicBool, Ordering};
    use core::{fmt, mem};

    use super::{Kind, REPORTER, Reporter};
    use crate::arch::TrapFrame;

    static ENDING: AtomicBool = AtomicBool::new(false);

    /// Tells, unless telling is what failed.
    fn report(kind: Kind, what: &dyn fmt::Display) {
        let reporter = REPORTER.load(Ordering::Acquire);
        if reporter.is_null() || ENDING.swap(true, Ordering::AcqRel) {
            return;
        }
        // SAFETY: only `set_reporter` stores here, and what it stores came from a `Reporter`.
        let reporter = unsafe { mem::transmute::<*mut (), Reporter>(reporter) };
        reporter(kind, what);
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        report(Kind::Panic, info);
        stop()
    }

    /// Stops the Vcpu for good; its handler reads the registers as they are now.
    pub fn stop() -> ! {
        // SAFETY: with an empty descriptor table the undefined instruction is a triple fault, which stops the VM.
        unsafe { asm!("push 0", "push 0", "lidt [rsp]", "ud2", options(noreturn)) }
    }

    /// An exception of the image itself: tells it and stops.
    pub fn exception(frame: &TrapFrame) -> ! {
        report(Kind::Fault, &Exception(frame));
        stop_at(frame)
    }

    /// A use of memory that is not there: tells it and stops.
    pub fn lost_memory(frame: &TrapFrame, gpa: u64, access: u64) -> ! {
        report(Kind::Fault, &LostMemory { frame, gpa, access });
        stop_at(frame)
    }

    /// Lets what happened at this frame happen again with no descriptor table, so that the Vcpu stops with the very
    /// registers that it happened with.
    fn stop_at(frame: &TrapFrame) -> ! {
        // SAFETY: the frame is what the stub pushed; nothing runs after this but the faulting instruction.
        unsafe {
            asm!(
                "lidt [{empty}]",
                "mov rsp, rdi",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "pop r11",
                "pop r10",
                "pop r9",
                "pop r8",
                "pop rbp",
                "pop rdi",
                "pop rsi",
                "pop rdx",
                "pop rcx",
                "pop rbx",
                "pop rax",
                "add rsp, 16",
                "iretq",
                empty = in(reg) &[0u64; 2],
                in("rdi") frame,
                options(noreturn)
            )
        }
    }

    struct LostMemory<'a> {
        frame: &'a TrapFrame,
        gpa: u64,
        access: u64,
    }

    impl fmt::Display for LostMemory<'_> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            let verb = if self.access & 1 << 4 != 0 {
                "execution"
            } else if self.access & 1 << 1 != 0 {
                "write"
            } else {
                "read"
            };
            writeln!(out, "{verb} of memory that this VM does not have: {:#x}, at {:#x}", self.gpa, self.frame.rip)?;
            registers(self.frame, out)
        }
    }

    struct Exception<'a>(&'a TrapFrame);

    impl fmt::Display for Exception<'_> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            let frame = self.0;
            let name = NAMES.get(frame.vector as usize).copied().unwrap_or("exception");
            let cr2: u64;
            // SAFETY: reads a control register.
            unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
            writeln!(out, "{name}, error code {:#x}, at {:#x}", frame.error_code, frame.rip)?;
            registers(frame, out)?;
            if frame.vector == 14 {
                write!(out, " cr2 {cr2:016x}")?;
                if cr2 / 4096 == crate::arch::guard_page() / 4096 {
                    write!(out, " (the guard page: the stack has overflowed)")?;
                }
            }
            Ok(())
        }
    }

    /// Names of the exceptions, by the manual.
    const NAMES: [&str; 22] = [
        "#DE divide error",
        "#DB debug",
        "NMI",
        "#BP breakpoint",
        "#OF overflow",
        "#BR bound range",
        "#UD invalid opcode",
        "#NM device not available",
        "#DF double fault",
        "exception 9",
        "#TS invalid TSS",
        "#NP segment not present",
        "#SS stack",
        "#GP general protection",
        "#PF page fault",
        "exception 15",
        "#MF x87 floating point",
        "#AC alignment check",
        "#MC machine check",
        "#XM SIMD floating point",
        "exception 20",
        "#CP control protection",
    ];

    fn registers(frame: &TrapFrame, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = frame;
        writeln!(out, "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", f.rax, f.rbx, f.rcx, f.rdx)?;
        writeln!(out, "  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", f.rsi, f.rdi, f.rbp, f.rsp)?;
        writeln!(out, "  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", f.r8, f.r9, f.r10, f.r11)?;
        writeln!(out, "  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", f.r12, f.r13, f.r14, f.r15)?;
        write!(out, "  rflags {:08x}", f.rflags)
    }
}

#[cfg(target_os = "none")]
pub use machine::stop;
#[cfg(target_os = "none")]
pub(crate) use machine::{exception, lost_memory};
