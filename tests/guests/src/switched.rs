//! The code of child VMs that watch what a switch between two VMs must keep apart: one child for each kind of state.
//!
//! A **row** fills its registers with numbers of its own (from the first shared word) and goes on comparing them while
//! it is preempted and gives the core up. What it tells stands in the first shared page, at the offsets of [`at`].
//! `interrupted` has those that watch their interrupts.

use crate::children::children;

/// Offsets in the first shared page.
pub mod at {
    /// Given: the number that a row fills its registers with.
    pub const NUMBER: usize = 0x00;
    /// Rounds made.
    pub const ROUNDS: usize = 0x08;
    /// Number of the first comparison that failed; 0 while all is right.
    pub const WRONG: usize = 0x10;
    /// Given: not 0 if interrupts are to be ended.
    pub const END: usize = 0x20;
    /// TSC at the last interrupt.
    pub const STAMP: usize = 0x28;
    /// Given: counts of the timer in a unit of time; and ticks in the same.
    pub const UNIT_COUNTS: usize = 0x30;
    /// See `UNIT_COUNTS`.
    pub const UNIT_TICKS: usize = 0x38;
    /// Given: vector of the timer.
    pub const VECTOR: usize = 0x40;
    /// Given: ticks after which an interrupt of the timer is too late.
    pub const TOO_LATE: usize = 0x48;
    /// Timers that expired while the child was on its core, and while it was out.
    pub const PROMPT: usize = 0x50;
    /// See `PROMPT`.
    pub const PENDING: usize = 0x58;
    /// Given: four vectors that the child requests of itself.
    pub const REQUESTS: usize = 0x60;
    /// Given: how often the second Vcpu is to mend the IDT and to start the first one again.
    pub const MEND: usize = 0x80;
    /// Given: not 0 when the child is to do what it waits with.
    pub const GO: usize = 0x88;
    /// Where the general registers' row keeps what it expects.
    pub const EXPECTED: usize = 0x100;
    /// Interrupts that came, a word for each vector.
    pub const COUNTS: usize = 0x800;
}

/// What the general registers' row puts into RAX after a sleep: no number that it compares.
pub(crate) const SLEPT: u64 = 0x5eed;
/// A child that fills state and goes on comparing it: `name: init => compare`. RBX is the shared page, R12 the number,
/// R13 counts comparisons; a comparison that fails jumps to 9.
macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident: $($fill:literal),+ => $($compare:literal),+ ;)*) => {
        children! { $($(#[$doc])* $name:
            "mov rbx, {shared}",
            "mov r12, [rbx]",
            $($fill,)+
            "2:",
            "mov r13d, 1",
            $($compare,)+
            "inc qword ptr [rbx + 8]",
            "test byte ptr [rbx + 8], 3",
            "jnz 2b",
            // Every fourth round: sleep for a moment instead of being preempted.
            "rdtsc",
            "shl rdx, 32",
            "or rdx, rax",
            "add rdx, 20000",
            "mov eax, {wait}",
            "mov edi, {vcpu}",
            "mov esi, 2",
            "vmmcall",
            "jmp 2b",
            "9:",
            "mov [rbx + 16], r13",
            "jmp 9b";
        )* }
    };
}

rows! {
    /// YMM0 to YMM15, all of their bits.
    vector_registers:
        // CR4.OSXSAVE.
        "mov rax, cr4",
        "bts rax, 18",
        "mov cr4, rax",
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "lea rax, [r12 + \\n]",
        "vmovq xmm\\n, rax",
        "vpbroadcastq ymm\\n, xmm\\n",
        ".endr"
    =>
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "vmovdqu [rsp - 64], ymm\\n",
        "lea rax, [r12 + \\n]",
        ".irp word, 64,56,48,40",
        "cmp rax, [rsp - \\word]",
        "jne 9f",
        "inc r13d",
        ".endr",
        ".endr";
    /// The x87 stack, its control word, and MXCSR.
    control_words:
        "fninit",
        "push r12",
        "fild qword ptr [rsp]",
        // Rounding control: bits 10 and 11 of the one, 13 and 14 of the other.
        "mov r14d, r12d",
        "and r14d, 3",
        "mov r15d, r14d",
        "shl r14d, 10",
        "or r14d, 0x37f",
        "shl r15d, 13",
        "or r15d, 0x1f80",
        "mov [rsp], r14",
        "fldcw [rsp]",
        "mov [rsp], r15",
        "ldmxcsr [rsp]",
        "pop rax"
    =>
        "push 0",
        "fnstcw [rsp]",
        "pop rax",
        "cmp eax, r14d",
        "jne 9f",
        "inc r13d",
        "push 0",
        "stmxcsr [rsp]",
        "pop rax",
        // The sticky flags of the conversions are not compared.
        "and eax, 0xffc0",
        "cmp eax, r15d",
        "jne 9f",
        "inc r13d",
        "push 0",
        "fld st(0)",
        "fistp qword ptr [rsp]",
        "pop rax",
        "cmp rax, r12",
        "jne 9f";
    /// PKRU.
    protection_keys:
        // CR4.PKE.
        "mov rax, cr4",
        "bts rax, 22",
        "mov cr4, rax",
        "mov eax, r12d",
        "xor ecx, ecx",
        "xor edx, edx",
        "wrpkru"
    =>
        "xor ecx, ecx",
        "rdpkru",
        "cmp eax, r12d",
        "jne 9f";
    /// XCR0: x87 and SSE in one VM, AVX too in the other.
    extended_control:
        "mov rax, cr4",
        "bts rax, 18",
        "mov cr4, rax",
        "mov r14d, r12d",
        "and r14d, 1",
        "shl r14d, 2",
        "or r14d, 3",
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, r14d",
        "xsetbv"
    =>
        "xor ecx, ecx",
        "xgetbv",
        "cmp eax, r14d",
        "jne 9f";
    /// DR0 to DR3, DR6, and DR7 with no breakpoint enabled.
    debug_registers:
        ".irp n, 0,1,2,3",
        "lea rax, [r12 + \\n]",
        "mov dr\\n, rax",
        ".endr",
        "mov r14d, r12d",
        "and r14d, 15",
        "mov r15d, r14d",
        "or r14d, 0xffff0ff0",
        "mov dr6, r14",
        "shl r15d, 16",
        "or r15d, 0x400",
        "mov dr7, r15"
    =>
        ".irp n, 0,1,2,3",
        "mov rax, dr\\n",
        "lea rcx, [r12 + \\n]",
        "cmp rax, rcx",
        "jne 9f",
        "inc r13d",
        ".endr",
        "mov rax, dr6",
        "cmp rax, r14",
        "jne 9f",
        "inc r13d",
        "mov rax, dr7",
        "cmp rax, r15",
        "jne 9f";
    /// TSC_AUX, read by the instruction that does not exit.
    tsc_aux:
        "mov ecx, 0xc0000103",
        "mov eax, r12d",
        "xor edx, edx",
        "wrmsr"
    =>
        "rdtscp",
        "cmp ecx, r12d",
        "jne 9f";
    /// CR8, which is the task priority of the core's APIC.
    task_priority:
        "mov r14d, r12d",
        "and r14d, 15",
        "mov cr8, r14"
    =>
        "mov rax, cr8",
        "cmp rax, r14",
        "jne 9f";
    /// What VMLOAD and VMSAVE move: FS, GS, KernelGS, SYSCALL and SYSENTER registers, LDTR and TR; and CR2 and the
    /// tables, which VMRUN moves.
    hidden_state:
        // A descriptor table in the shared page: two available task states, one for each VM.
        "mov qword ptr [rbx + 0x200], 0",
        ".irp n, 1,3",
        "mov rax, 0x0000890000000067",
        "mov [rbx + 0x200 + 8 * \\n], rax",
        "mov qword ptr [rbx + 0x208 + 8 * \\n], 0",
        ".endr",
        "sub rsp, 16",
        "mov r14d, r12d",
        "and r14d, 1",
        // Limits differ too.
        "lea eax, [r14 + 0x27]",
        "mov [rsp], ax",
        "lea rax, [rbx + 0x200]",
        "mov [rsp + 2], rax",
        "lgdt [rsp]",
        "mov [rsp + 2], r12",
        "lidt [rsp]",
        "add rsp, 16",
        "shl r14d, 4",
        "add r14d, 8",
        "ltr r14w",
        // Empty selectors that differ in their privilege.
        "mov r15d, r12d",
        "and r15d, 3",
        "lldt r15w",
        "mov fs, r15d",
        "mov gs, r15d",
        "mov cr2, r12",
        ".irp msr, 0x174,0x175,0x176,0xc0000081,0xc0000082,0xc0000083,0xc0000084,0xc0000100,0xc0000101,0xc0000102",
        "mov ecx, \\msr",
        "mov eax, r12d",
        "xor edx, edx",
        "wrmsr",
        ".endr"
    =>
        // The code segment's register has 16 bits.
        "mov ecx, 0x174",
        "rdmsr",
        "cmp ax, r12w",
        "jne 9f",
        "inc r13d",
        ".irp msr, 0x175,0x176,0xc0000081,0xc0000082,0xc0000083,0xc0000084,0xc0000100,0xc0000101,0xc0000102",
        "mov ecx, \\msr",
        "rdmsr",
        "shl rdx, 32",
        "or rax, rdx",
        "cmp rax, r12",
        "jne 9f",
        "inc r13d",
        ".endr",
        "mov rax, cr2",
        "cmp rax, r12",
        "jne 9f",
        "inc r13d",
        "str eax",
        "cmp eax, r14d",
        "jne 9f",
        "inc r13d",
        "sldt eax",
        "cmp eax, r15d",
        "jne 9f",
        "inc r13d",
        "mov eax, fs",
        "cmp eax, r15d",
        "jne 9f",
        "inc r13d",
        "mov eax, gs",
        "cmp eax, r15d",
        "jne 9f",
        "inc r13d",
        "sgdt [rsp - 16]",
        "movzx eax, word ptr [rsp - 16]",
        "mov ecx, r12d",
        "and ecx, 1",
        "add ecx, 0x27",
        "cmp eax, ecx",
        "jne 9f",
        "inc r13d",
        "sidt [rsp - 16]",
        "cmp r12, [rsp - 14]",
        "jne 9f";
}

children! {
    /// General registers, compared with memory so that none is left out; those that a hypercall does not change are
    /// compared after it too.
    general_registers:
        "mov rax, [{shared}]",
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14",
        "imul rcx, rax, \\n + 3",
        "mov [{shared} + 0x100 + 8 * \\n], rcx",
        ".endr",
        "1:",
        "mov rax, [{shared} + 0x100]",
        "mov rcx, [{shared} + 0x108]",
        "mov rdx, [{shared} + 0x110]",
        "mov rbx, [{shared} + 0x118]",
        "mov rbp, [{shared} + 0x120]",
        "mov rsi, [{shared} + 0x128]",
        "mov rdi, [{shared} + 0x130]",
        "mov r8, [{shared} + 0x138]",
        "mov r9, [{shared} + 0x140]",
        "mov r10, [{shared} + 0x148]",
        "mov r11, [{shared} + 0x150]",
        "mov r12, [{shared} + 0x158]",
        "mov r13, [{shared} + 0x160]",
        "mov r14, [{shared} + 0x168]",
        "mov r15, [{shared} + 0x170]",
        "2:",
        "cmp rax, [{shared} + 0x100]",
        "jne 9f",
        "cmp rdx, [{shared} + 0x110]",
        "jne 9f",
        "cmp rsi, [{shared} + 0x128]",
        "jne 9f",
        "cmp rdi, [{shared} + 0x130]",
        "jne 9f",
        "3:",
        "cmp rcx, [{shared} + 0x108]",
        "jne 9f",
        "cmp rbx, [{shared} + 0x118]",
        "jne 9f",
        "cmp rbp, [{shared} + 0x120]",
        "jne 9f",
        "cmp r8, [{shared} + 0x138]",
        "jne 9f",
        "cmp r9, [{shared} + 0x140]",
        "jne 9f",
        "cmp r10, [{shared} + 0x148]",
        "jne 9f",
        "cmp r11, [{shared} + 0x150]",
        "jne 9f",
        "cmp r12, [{shared} + 0x158]",
        "jne 9f",
        "cmp r13, [{shared} + 0x160]",
        "jne 9f",
        "cmp r14, [{shared} + 0x168]",
        "jne 9f",
        "cmp r15, [{shared} + 0x170]",
        "jne 9f",
        "inc qword ptr [{shared} + 8]",
        "cmp eax, {slept}",
        "je 1b",
        "test byte ptr [{shared} + 8], 63",
        "jnz 2b",
        // Every 64th round: sleep for a moment. The answer is 0, which is not what RAX is to hold; then only the others
        // are compared.
        "rdtsc",
        "shl rdx, 32",
        "or rdx, rax",
        "add rdx, 20000",
        "mov eax, {wait}",
        "mov edi, {vcpu}",
        "mov esi, 2",
        "vmmcall",
        "mov eax, {slept}",
        "jmp 3b",
        "9:",
        "mov qword ptr [{shared} + 16], 1",
        "jmp 9b";
}

const _: () = {
    use at::*;
    // The assembly above has these as plain numbers.
    assert!(NUMBER == 0 && ROUNDS == 8 && WRONG == 16 && END == 0x20 && STAMP == 0x28 && UNIT_COUNTS == 0x30);
    assert!(UNIT_TICKS == 0x38 && VECTOR == 0x40 && TOO_LATE == 0x48 && PROMPT == 0x50 && PENDING == 0x58);
    assert!(REQUESTS == 0x60 && MEND == 0x80 && GO == 0x88 && EXPECTED == 0x100 && COUNTS == 0x800);
};
