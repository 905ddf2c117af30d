# The world switch: saves, enters, restores, decides nothing. RDI: the saved state.
    push %rbx
    push %rbp
    push %rdi
    mov {vmcb}(%rdi), %rax
    mov {rcx}(%rdi), %rcx
    mov {rdx}(%rdi), %rdx
    mov {rbx}(%rdi), %rbx
    mov {rbp}(%rdi), %rbp
    mov {rsi}(%rdi), %rsi
    mov {r8}(%rdi), %r8
    mov {r9}(%rdi), %r9
    mov {r10}(%rdi), %r10
    mov {r11}(%rdi), %r11
    mov {r12}(%rdi), %r12
    mov {r13}(%rdi), %r13
    mov {r14}(%rdi), %r14
    mov {r15}(%rdi), %r15
    mov {rdi}(%rdi), %rdi
    vmrun
    # RAX and RSP are the host's again; everything else is the guest's.
    pop %rax
    mov %rcx, {rcx}(%rax)
    mov %rdx, {rdx}(%rax)
    mov %rbx, {rbx}(%rax)
    mov %rbp, {rbp}(%rax)
    mov %rsi, {rsi}(%rax)
    mov %rdi, {rdi}(%rax)
    mov %r8, {r8}(%rax)
    mov %r9, {r9}(%rax)
    mov %r10, {r10}(%rax)
    mov %r11, {r11}(%rax)
    mov %r12, {r12}(%rax)
    mov %r13, {r13}(%rax)
    mov %r14, {r14}(%rax)
    mov %r15, {r15}(%rax)
    pop %rbp
    pop %rbx
