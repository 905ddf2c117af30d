# The world switch: saves, enters, restores, decides nothing.
.section .text.enter, "ax"
.code64
.balign 16
.global svm_enter
svm_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push %rdi
    mov {vmcb}(%rdi), %rax
    mov {gpr}+8*1(%rdi), %rcx
    mov {gpr}+8*2(%rdi), %rdx
    mov {gpr}+8*3(%rdi), %rbx
    mov {gpr}+8*5(%rdi), %rbp
    mov {gpr}+8*6(%rdi), %rsi
    mov {gpr}+8*8(%rdi), %r8
    mov {gpr}+8*9(%rdi), %r9
    mov {gpr}+8*10(%rdi), %r10
    mov {gpr}+8*11(%rdi), %r11
    mov {gpr}+8*12(%rdi), %r12
    mov {gpr}+8*13(%rdi), %r13
    mov {gpr}+8*14(%rdi), %r14
    mov {gpr}+8*15(%rdi), %r15
    mov {gpr}+8*7(%rdi), %rdi
    vmrun
    # RAX and RSP are the host's again; everything else is the guest's.
    mov (%rsp), %rax
    mov %rcx, {gpr}+8*1(%rax)
    mov %rdx, {gpr}+8*2(%rax)
    mov %rbx, {gpr}+8*3(%rax)
    mov %rbp, {gpr}+8*5(%rax)
    mov %rsi, {gpr}+8*6(%rax)
    mov %rdi, {gpr}+8*7(%rax)
    mov %r8, {gpr}+8*8(%rax)
    mov %r9, {gpr}+8*9(%rax)
    mov %r10, {gpr}+8*10(%rax)
    mov %r11, {gpr}+8*11(%rax)
    mov %r12, {gpr}+8*12(%rax)
    mov %r13, {gpr}+8*13(%rax)
    mov %r14, {gpr}+8*14(%rax)
    mov %r15, {gpr}+8*15(%rax)
    pop %rdi
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
