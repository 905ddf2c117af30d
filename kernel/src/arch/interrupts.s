# Stubs of the host's IDT. Exceptions are the kernel's own faults and end in a panic; NMI only leaves a mark; vectors
# from 32 on are guests' interrupts, which are accepted at the drain point and recorded. Interrupts below 32, which the
# controller takes from whoever sends them, are nobody's: they are accepted there, too, and forgotten.
.section .text.interrupts, "ax"
.code64

.balign 16
.global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    # Each has 16 bytes; one that needs more does not assemble.
    .org interrupt_stubs + 16 * vector
    .if vector == 2
    jmp nmi_stub
    .else
    pushq $vector
    .if vector < 32
    jmp exception_common
    .else
    jmp drain_common
    .endif
    .endif
    .set vector, vector + 1
    .endr
    .org interrupt_stubs + 16 * 256

exception_common:
    # vector, error code of those that have one, rip, cs, rflags, rsp, ss
    push %rax
    # An interrupt has no error code, comes at the drain point only, and is in service (ISR of vectors 0 to 31).
    lea drain(%rip), %rax
    cmp %rax, 16(%rsp)
    jb 1f
    lea drain_end(%rip), %rax
    cmp %rax, 16(%rsp)
    jae 1f
    push %rcx
    push %rdx
    mov $0x810, %ecx
    rdmsr
    mov 24(%rsp), %ecx
    bt %ecx, %eax
    jc drain_accepted
    pop %rdx
    pop %rcx
1:  pop %rax
    mov %rsp, %rdi
    and $-16, %rsp
    call host_exception
    ud2

drain_common:
    push %rax
    push %rcx
    push %rdx
    mov 24(%rsp), %ecx
    mov %rsp, %rax
    and $-{area_bytes}, %rax
    lock bts %rcx, {drained}(%rax)
    movb $1, {drained_any}(%rax)
drain_accepted:
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
    pop %rcx
    pop %rax
    add $8, %rsp
    iretq

nmi_stub:
    push %rax
    mov %rsp, %rax
    and $-{area_bytes}, %rax
    movb $1, {nmi}(%rax)
    cmpq $0, {panicking}(%rip)
    jne 2f
    # An NMI between STGI and HLT must not leave the core halted: the halt is skipped.
    lea idle_halt(%rip), %rax
    cmp %rax, 8(%rsp)
    jne 1f
    lea idle_after(%rip), %rax
    mov %rax, 8(%rsp)
1:  pop %rax
    iretq
    # A core has panicked. If it is another one, this one's work is over: it stays here, with NMIs masked.
2:  cmp %rax, {panicking}(%rip)
    je 1b
3:  hlt
    jmp 3b

# Takes pending NMIs; guests' interrupts stay where they are.
.balign 16
.global take_nmi
take_nmi:
    stgi
    nop
    clgi
    ret

# Takes pending NMIs and accepts every pending interrupt on the drain stubs.
.balign 16
.global drain
drain:
    stgi
    sti
    nop
    nop
    cli
drain_end:
    clgi
    ret

# Halts until an NMI comes; returns at once if one is pending.
.balign 16
.global idle
idle:
    stgi
idle_halt:
    hlt
idle_after:
    clgi
    ret
