//! A child that writes one value into one control register, and tells what came of it: whether it was refused, and what
//! the registers read afterwards, before and after the next entry. A wrong mode would take the attacker's own code from
//! under it, so each value has a VM of its own.

use crate::children::children;

/// Offsets in the shared page of [`writer`].
pub mod at {
    /// Rounds made after the attempt.
    pub const ROUNDS: usize = 0x00;
    /// Given: which register: 0 CR0, 1 CR4, 2 EFER, 3 CR3 (which is taken to have held 0).
    pub const REGISTER: usize = 0x08;
    /// Given: bits that are set, then bits that are cleared, in what the register holds.
    pub const SET: usize = 0x10;
    /// See `SET`.
    pub const CLEAR: usize = 0x18;
    /// CR0, CR4 and EFER before the attempt.
    pub const BEFORE: usize = 0x20;
    /// As `BEFORE`, after it, and an entry later.
    pub const AFTER: usize = 0x40;
    /// See `AFTER`.
    pub const LATER: usize = 0x60;
    /// The vector of the exception that came, and how many came.
    pub const VECTOR: usize = 0x80;
    /// See `VECTOR`.
    pub const EXCEPTIONS: usize = 0x88;
}

/// Pages that a [`writer`] needs behind its code: the first is its IDT, the last its stack.
pub const PAGES: u16 = 2;

children! {
    /// Makes an IDT whose 32 gates note the vector and go on behind the attempt, and makes the attempt.
    writer:
        "mov rbx, {shared}",
        "mov edi, 0x4000",
        "lea rsi, [rip + 8f]",
        "mov ecx, 32",
        "2:",
        // Addresses of code are below 64 KiB, so a gate's upper parts are 0.
        "lea eax, [rsi + 0x80000]",
        "mov [rdi], eax",
        "mov dword ptr [rdi + 4], 0x8e00",
        "mov qword ptr [rdi + 8], 0",
        "add rdi, 16",
        "add rsi, 8",
        "dec ecx",
        "jnz 2b",
        "sub rsp, 16",
        "mov word ptr [rsp], 511",
        "mov qword ptr [rsp + 2], 0x4000",
        "lidt [rsp]",
        "mov word ptr [rsp], 23",
        "lea rax, [rip + 7f]",
        "mov [rsp + 2], rax",
        "lgdt [rsp]",
        "add rsp, 16",
        "lea rdi, [rbx + 0x20]",
        "call 6f",
        "mov r12, rsp",
        // The value: what the register holds, with the bits.
        "mov r8, [rbx + 8]",
        "mov r9, [rbx + r8 * 8 + 0x20]",
        "or r9, [rbx + 0x10]",
        "mov rax, [rbx + 0x18]",
        "not rax",
        "and r9, rax",
        "cmp r8d, 1",
        "je 4f",
        "cmp r8d, 2",
        "je 5f",
        "ja 3f",
        "mov cr0, r9",
        "jmp 9f",
        "3:",
        "mov cr3, r9",
        "jmp 9f",
        "4:",
        "mov cr4, r9",
        "jmp 9f",
        "5:",
        "mov ecx, 0xc0000080",
        "mov eax, r9d",
        "mov rdx, r9",
        "shr rdx, 32",
        "wrmsr",
        "9:",
        "mov rsp, r12",
        "lea rdi, [rbx + 0x40]",
        "call 6f",
        // Out and in again: the state must be one that may be entered.
        "xor eax, eax",
        "mov edi, {vcpu}",
        "vmmcall",
        "lea rdi, [rbx + 0x60]",
        "call 6f",
        "2:",
        "inc qword ptr [rbx]",
        "jmp 2b",
        // CR0, CR4 and EFER to RDI.
        "6:",
        "mov rax, cr0",
        "mov [rdi], rax",
        "mov rax, cr4",
        "mov [rdi + 8], rax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "mov [rdi + 16], eax",
        "mov [rdi + 20], edx",
        "ret",
        ".balign 8",
        "7:",
        ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
        // 8 bytes each: push of a byte, a jump.
        "8:",
        ".set exception, 0",
        ".rept 32",
        ".balign 8",
        ".byte 0x6a, exception",
        "jmp 7f",
        ".set exception, exception + 1",
        ".endr",
        "7:",
        "pop qword ptr [rbx + 0x80]",
        "inc qword ptr [rbx + 0x88]",
        "jmp 9b";
}

const _: () = {
    use at::*;
    // The assembly above has these as plain numbers.
    assert!(ROUNDS == 0 && REGISTER == 8 && SET == 0x10 && CLEAR == 0x18 && BEFORE == 0x20 && AFTER == 0x40);
    assert!(LATER == 0x60 && VECTOR == 0x80 && EXCEPTIONS == 0x88);
    assert!(crate::root::CHILD_CODE + 4096 == 0x4000 && PAGES == 2);
};
