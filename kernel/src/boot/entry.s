# Entry from the boot loader (32-bit protected mode, paging off) and from INIT-SIPI (16-bit real mode), both to 64-bit
# mode with the identity map below. Decides nothing but whether the CPU has 1 GiB pages.

.section .multiboot2, "a"
.balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0
    .long multiboot2_end - multiboot2_header
    .long 0x100000000 - (0xe85250d6 + (multiboot2_end - multiboot2_header))
    # Entry address: the ELF header's entry is 32-bit code as well, so either tag or header serves.
    .short 3, 0
    .long 12
    .long start32
    .balign 8
    # Modules on page boundaries.
    .short 6, 0
    .long 8
    .balign 8
    .short 0, 0
    .long 8
multiboot2_end:

.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad start32

.section .boot.tables, "aw"
.balign 4096
boot_pml4:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt:
    .set page, 0
    .rept 512
    .quad (page << 30) + 0x83
    .set page, page + 1
    .endr
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
boot_gdt_end:
.balign 8
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

.section .boot.text, "ax"
.code32
.global start32
start32:
    cli
    cld
    mov %eax, %edi
    mov %ebx, %esi
    mov $0x80000001, %eax
    cpuid
    test $(1 << 26), %edx
    jz no_large_pages
    mov $core_areas + {area_bytes}, %esp
    mov $boot_main, %ebx

# Turns on paging with the boot tables and calls the function in ebx with edi and esi, on the stack in esp.
long_mode:
    mov %cr4, %eax
    or $0x660, %eax                 # PAE, MCE (else a machine check is a silent reset), OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x900, %eax                 # LME, NXE
    wrmsr
    mov %cr0, %eax
    and $0x9ffffffb, %eax           # not CD, NW, EM
    or $0x80010023, %eax            # PG, WP, NE, MP, PE
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $1f
.code64
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov %esp, %esp
    mov %edi, %edi
    mov %esi, %esi
    mov %ebx, %ebx
    call *%rbx
    ud2
.code32

no_large_pages:
    mov $0x3f8, %dx
    mov $'1', %al
    outb %al, %dx
    mov $'G', %al
    outb %al, %dx
    mov $'?', %al
    outb %al, %dx
1:  hlt
    jmp 1b

# Copied to a page below 1 MiB: it must not refer to its own absolute addresses, but for the two words that are patched.
.section .rodata.trampoline, "a"
.code16
.global trampoline_start
.global trampoline_end
.global trampoline_stack
trampoline_start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    mov (trampoline_stack - trampoline_start), %esi
    lgdtl (trampoline_gdt_pointer - trampoline_start)
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x18, $ap32
.balign 8
trampoline_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .long boot_gdt
.balign 8
trampoline_stack:
    .quad 0
trampoline_end:

.section .boot.text, "ax"
.code32
ap32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %esi, %esp
    mov $ap_main, %ebx
    jmp long_mode
