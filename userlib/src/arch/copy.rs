//! Copies to and from memory that may be taken away in the middle of it.

use core::arch::global_asm;

// Two instructions touch the memory: words first, then the bytes that are left. A fault in either resumes behind it,
// with what it left in rcx, and then the copy ends.
global_asm!(
    ".pushsection .text, \"ax\", @progbits",
    "userlib_copy:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "userlib_copy_words:",
    "rep movsq",
    "userlib_copy_after_words:",
    "mov rax, rcx",
    "test rax, rax",
    "jnz 2f",
    "mov rcx, rdx",
    "and rcx, 7",
    "userlib_copy_bytes:",
    "rep movsb",
    "userlib_copy_after_bytes:",
    "mov rax, rcx",
    "2:",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    /// Returns 0 if everything was copied.
    fn userlib_copy(to: u64, from: u64, bytes: u64) -> u64;
    static userlib_copy_words: u8;
    static userlib_copy_after_words: u8;
    static userlib_copy_bytes: u8;
    static userlib_copy_after_bytes: u8;
}

/// Copies bytes; false if one side was not there, and then a part of them may have been copied.
///
/// # Safety
/// Whatever of the two ranges is there must be readable or writable memory, and no Rust object but the caller's own may
/// live in what is written.
pub unsafe fn copy(to: u64, from: u64, bytes: u64) -> bool {
    // SAFETY: as the caller says; a fault ends the copy.
    unsafe { userlib_copy(to, from, bytes) == 0 }
}

/// Where to go on after a fault at this instruction, if it is one of the copy's.
pub fn resume_after_fault(rip: u64) -> Option<u64> {
    let words = ((&raw const userlib_copy_words) as u64, (&raw const userlib_copy_after_words) as u64);
    let bytes = ((&raw const userlib_copy_bytes) as u64, (&raw const userlib_copy_after_bytes) as u64);
    [words, bytes].into_iter().find(|(at, _)| *at == rip).map(|(_, after)| after)
}
