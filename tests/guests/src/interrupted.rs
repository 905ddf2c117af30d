//! The code of child VMs that watch their interrupts while another VM has the core now and then: none is lost, none comes
//! twice, none is another one's.
//!
//! Each has an IDT in its first extra page and counts what comes. What they tell stands in the first shared page, at the
//! offsets of [`at`](crate::switched::at).

use crate::children::children;

/// A timer that comes later than this was pending while its child was out; ticks.
pub(crate) const PROMPT_TICKS: u64 = 20_000;
/// A gap between two readings of the clock that means that another VM had the core; ticks.
pub(crate) const AWAY_TICKS: u64 = 50_000;
/// Where the IDT of [`cut_off`] is mapped.
const FAR_IDT: u64 = 0x15_0000;
/// Slot of the frame of the IDT of [`cut_off`].
pub const FAR_IDT_SLOT: u16 = 24;
/// Slot of the second Vcpu of [`cut_off`].
pub const SECOND_VCPU_SLOT: u16 = 26;

/// A child with an IDT: `name: body`. RBX is the shared page. Vectors from 32 on lead to stubs that count, note the time
/// and, if they shall, end the interrupt; labels 6, 7 and 8 are taken.
macro_rules! interrupt_children {
    ($($(#[$doc:meta])* $name:ident, $idt:literal, $before:literal, $after:literal: $($line:literal),+ ;)*) => {
        children! { $($(#[$doc])* $name:
            "mov rbx, {shared}",
            $before,
            // Addresses of code are below 64 KiB, so a gate's upper parts are 0.
            concat!("mov edi, ", $idt, " + 32 * 16"),
            "lea rsi, [rip + 8f]",
            "mov ecx, 224",
            "6:",
            "lea eax, [rsi + 0x80000]",
            "mov [rdi], eax",
            "mov dword ptr [rdi + 4], 0x8e00",
            "mov qword ptr [rdi + 8], 0",
            "add rdi, 16",
            "add rsi, 8",
            "dec ecx",
            "jnz 6b",
            $after,
            "sub rsp, 16",
            "mov word ptr [rsp], 4095",
            concat!("mov qword ptr [rsp + 2], ", $idt),
            "lidt [rsp]",
            "mov word ptr [rsp], 23",
            "lea rax, [rip + 7f]",
            "mov [rsp + 2], rax",
            "lgdt [rsp]",
            "add rsp, 16",
            $($line,)+
            ".balign 8",
            "7:",
            ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
            // 8 bytes each: push of a byte, a jump.
            "8:",
            ".set vector, 32",
            ".rept 224",
            ".balign 8",
            ".byte 0x6a, vector - 128",
            "jmp 7f",
            ".set vector, vector + 1",
            ".endr",
            "7:",
            "push rax",
            "push rcx",
            "push rdx",
            "mov rax, [rsp + 24]",
            "inc qword ptr [{shared} + 0x800 + 1024 + rax * 8]",
            "rdtsc",
            "mov [{shared} + 0x28], eax",
            "mov [{shared} + 0x2c], edx",
            "cmp qword ptr [{shared} + 0x20], 0",
            "je 7f",
            "mov ecx, 0x80b",
            "xor eax, eax",
            "xor edx, edx",
            "wrmsr",
            "7:",
            "pop rdx",
            "pop rcx",
            "pop rax",
            "add rsp, 8",
            "iretq";
        )* }
    };
}

interrupt_children! {
    /// Arms its one-shot timer for 1 to 20 units of time, again and again: each must come once, not early, and not later
    /// than the child may be out. Labels 4 and 5 are inside a round.
    timers, "0x4000", "", "":
        "mov ecx, 0x832",
        "mov eax, [rbx + 0x40]",
        "xor edx, edx",
        "wrmsr",
        // Undivided.
        "mov ecx, 0x83e",
        "mov eax, 0xb",
        "wrmsr",
        "mov r14, [rbx + 0x40]",
        "lea r14, [rbx + 0x800 + r14 * 8]",
        "1:",
        "mov r12d, 1",
        "2:",
        "mov r13, [r14]",
        "rdtsc",
        "shl rdx, 32",
        "lea r8, [rdx + rax]",
        "mov rax, [rbx + 0x30]",
        "imul rax, r12",
        "xor edx, edx",
        "mov ecx, 0x838",
        "wrmsr",
        "sti",
        "3:",
        "cmp [r14], r13",
        "je 3b",
        "cli",
        // RAX: by how much the interrupt was later than armed.
        "mov rax, [rbx + 0x28]",
        "sub rax, r8",
        "mov rcx, [rbx + 0x38]",
        "imul rcx, r12",
        "sub rax, rcx",
        "mov r9d, 1",
        "cmp rax, -64",
        "jl 9f",
        "inc r9d",
        "cmp rax, [rbx + 0x48]",
        "jg 9f",
        "inc r9d",
        "mov rcx, [r14]",
        "sub rcx, r13",
        "cmp rcx, 1",
        "jne 9f",
        // Every fourth is left alone until another VM has had the core: it does not come once more.
        "test r12d, 3",
        "jnz 5f",
        "mov r10, rax",
        "sti",
        "rdtsc",
        "shl rdx, 32",
        "lea r8, [rdx + rax]",
        "4:",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rcx, rax",
        "sub rcx, r8",
        "mov r8, rax",
        "cmp rcx, {away_ticks}",
        "jb 4b",
        "nop",
        "cli",
        "mov rax, r10",
        "inc r9d",
        "mov rcx, [r14]",
        "sub rcx, r13",
        "cmp rcx, 1",
        "jne 9f",
        "5:",
        "lea rcx, [rbx + 0x50]",
        "lea rdx, [rbx + 0x58]",
        "cmp rax, {prompt_ticks}",
        "cmovg rcx, rdx",
        "inc qword ptr [rcx]",
        "inc qword ptr [rbx + 8]",
        "inc r12",
        "cmp r12, 20",
        "jbe 2b",
        "jmp 1b",
        "9:",
        "mov [rbx + 16], r9",
        "jmp 9b";
    /// Lets its timer's interrupt come and never ends it, with interrupts on.
    holds_in_service, "0x4000", "", "":
        "mov ecx, 0x832",
        "mov eax, [rbx + 0x40]",
        "xor edx, edx",
        "wrmsr",
        "mov ecx, 0x83e",
        "mov eax, 0xb",
        "wrmsr",
        "sti",
        "2:",
        "mov ecx, 0x838",
        "mov eax, 1000",
        "xor edx, edx",
        "wrmsr",
        "mov ecx, 5000",
        "3:",
        "dec ecx",
        "jnz 3b",
        "inc qword ptr [rbx + 8]",
        "jmp 2b";
    /// Requests four vectors of itself with interrupts off, waits until another VM has had the core, and then lets them
    /// in: each must come once.
    requests, "0x4000", "", "":
        "2:",
        ".irp at, 0x60,0x68,0x70,0x78",
        "mov ecx, 0x83f",
        "mov eax, [rbx + \\at]",
        "xor edx, edx",
        "wrmsr",
        ".endr",
        "rdtsc",
        "shl rdx, 32",
        "lea r8, [rdx + rax]",
        "3:",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rcx, rax",
        "sub rcx, r8",
        "mov r8, rax",
        "cmp rcx, {away_ticks}",
        "jb 3b",
        "inc qword ptr [rbx + 8]",
        "sti",
        "nop",
        "cli",
        "mov r9d, 1",
        ".irp at, 0x60,0x68,0x70,0x78",
        "mov rcx, [rbx + \\at]",
        "mov rax, [rbx + 0x800 + rcx * 8]",
        "cmp rax, [rbx + 8]",
        "jne 9f",
        "inc r9d",
        ".endr",
        "jmp 2b",
        "9:",
        "mov [rbx + 16], r9",
        "jmp 9b";
    /// Two Vcpus of one VM. The first one's IDT is taken away under it, and it gets an interrupt (the first time) and makes
    /// one by an instruction (the second time), whose deliveries fault and stop it; the second one brings the IDT back
    /// and starts it again. RDI tells them apart.
    cut_off, "0x150000", "test rdi, rdi; jnz 5f; mov eax, {map}; mov edi, 24; mov esi, 2; mov edx, 0x150000; mov r10d, 3; vmmcall", "mov eax, {start}; mov edi, 26; vmmcall":
        "mov eax, {unmap}",
        "mov edi, 24",
        "vmmcall",
        "mov ecx, 0x83f",
        "mov eax, [rbx + 0x60]",
        "xor edx, edx",
        "wrmsr",
        "sti",
        "nop",
        "cli",
        "mov qword ptr [rbx + 8], 1",
        "mov eax, {unmap}",
        "mov edi, 24",
        "vmmcall",
        "int 0x51",
        "2:",
        "inc qword ptr [rbx + 8]",
        "jmp 2b",
        "5:",
        "xor r12d, r12d",
        "3:",
        "cmp [rbx + 0x80], r12",
        "je 3b",
        "inc r12",
        "mov eax, {map}",
        "mov edi, 24",
        "mov esi, 2",
        "mov edx, 0x150000",
        "mov r10d, 3",
        "vmmcall",
        "mov eax, {start}",
        "mov edi, {vcpu}",
        "vmmcall",
        "jmp 3b";
}

const _: () = {
    // The assembly above has these as plain numbers.
    assert!(FAR_IDT == 0x15_0000 && FAR_IDT_SLOT == 24 && SECOND_VCPU_SLOT == 26);
    assert!(crate::root::CHILD_CODE + 4096 == 0x4000);
};
