//! Copies to and from memory that may be taken away in the middle of it.

use core::arch::global_asm;

// The one instruction that touches the memory; a fault in it resumes behind it, with what is left in rcx.
global_asm!(
    ".pushsection .text, \"ax\", @progbits",
    "userlib_copy:",
    "mov rcx, rdx",
    "userlib_copy_access:",
    "rep movsb",
    "userlib_copy_end:",
    "mov rax, rcx",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn userlib_copy(to: u64, from: u64, bytes: u64) -> u64;
    static userlib_copy_access: u8;
    static userlib_copy_end: u8;
}

/// Copies bytes and returns how many were *not* copied because one side is not there.
///
/// # Safety
/// Whatever of the two ranges is there must be readable or writable memory, and no Rust object but the caller's own may
/// live in what is written.
pub unsafe fn copy(to: u64, from: u64, bytes: u64) -> u64 {
    // SAFETY: as the caller says; a fault ends the copy.
    unsafe { userlib_copy(to, from, bytes) }
}

/// Where to go on after a fault at this instruction, if it is the copy's.
pub fn resume_after_fault(rip: u64) -> Option<u64> {
    (rip == (&raw const userlib_copy_access) as u64).then_some((&raw const userlib_copy_end) as u64)
}
