//! Alignment checks without end: code at CPL 3, with tables, segments and a task state of its own, that loads from an
//! odd address over and over. Each load raises #AC; the handler returns to it.
//!
//! On real processors #AC is intercepted, because its delivery can raise it again without end (CVE-2015-5307). QEMU 10
//! never raises it: unaligned accesses at CPL 3 with CR0.AM and RFLAGS.AC go through, and a misaligned `movaps` is #GP in
//! either ring. The loop has one of these too, so that there it storms with #GP.

use core::arch::{asm, global_asm};

#[repr(C, align(4096))]
struct Table([u64; 512]);

#[repr(C, align(4096))]
struct Stack([u8; 8192]);

static mut TOP: Table = Table([0; 512]);
static mut LOWER: Table = Table([0; 512]);
static mut IDT: Table = Table([0; 512]);
static mut GDT: [u64; 7] = [0; 7];
static mut TASK: [u32; 26] = [0; 26];
static mut KERNEL_STACK: Stack = Stack([0; 8192]);
static mut USER_STACK: Stack = Stack([0; 8192]);

const USER_CODE: u64 = 0x18 | 3;
const USER_DATA: u64 = 0x20 | 3;
const TASK_SELECTOR: u16 = 0x28;
/// Present, writable, user, 1 GiB page.
const USER_GIB: u64 = 0x87;

global_asm!(
    ".global ring3_storm",
    "ring3_storm:",
    "mov ecx, 1000",
    "2:",
    "mov eax, [rsp + 1]",
    "mov rax, [rsp + 3]",
    "dec ecx",
    "jnz 2b",
    // Misaligned for certain, whatever the emulator checks.
    "movaps xmm0, [rsp + 1]",
    "jmp ring3_storm",
    // Both vectors push an error code. The storm goes on at the very instruction that raised it.
    ".global ring3_handler",
    "ring3_handler:",
    "add rsp, 8",
    "iretq",
);

unsafe extern "C" {
    static ring3_storm: u8;
    static ring3_handler: u8;
}

/// Goes to CPL 3 and storms, for ever.
pub fn alignment_storm() -> ! {
    // SAFETY: one Vcpu, and nothing of the image runs after this but the storm and its handler; the tables map all of
    // the image where it is.
    unsafe {
        (&raw mut TOP.0[0]).write((&raw const LOWER) as u64 | 7);
        for gib in 0..4u64 {
            (&raw mut LOWER.0[gib as usize]).write(gib << 30 | USER_GIB);
        }
        let handler = (&raw const ring3_handler) as u64;
        for vector in 0..256 {
            let low = (handler & 0xffff) | 8 << 16 | 0xee00 << 32 | (handler >> 16 & 0xffff) << 48;
            (&raw mut IDT.0[vector * 2 % 512]).write(low);
            (&raw mut IDT.0[(vector * 2 + 1) % 512]).write(handler >> 32);
        }
        let stack = (&raw const KERNEL_STACK) as u64 + 8192;
        (&raw mut TASK[1]).write(stack as u32);
        (&raw mut TASK[2]).write((stack >> 32) as u32);
        (&raw mut TASK[25]).write(104 << 16);
        let task = (&raw const TASK) as u64;
        GDT = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            103 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
            task >> 32,
        ];
        let mut pointer = [0u8; 10];
        pointer[..2].copy_from_slice(&55u16.to_le_bytes());
        pointer[2..].copy_from_slice(&((&raw const GDT) as u64).to_le_bytes());
        crate::trap::load_idt((&raw const IDT) as u64, 4095);
        asm!(
            "lgdt [{gdt}]",
            "mov cr3, {top}",
            "ltr {task:x}",
            // CR0.AM lets RFLAGS.AC count.
            "mov rax, cr0",
            "or rax, 0x40000",
            "mov cr0, rax",
            "push {data}",
            "push {stack}",
            // AC, IF off, the bit that is always set.
            "push 0x40002",
            "push {code}",
            "push {entry}",
            "iretq",
            gdt = in(reg) &pointer,
            top = in(reg) (&raw const TOP) as u64,
            task = in(reg) TASK_SELECTOR,
            data = in(reg) USER_DATA,
            stack = in(reg) (&raw const USER_STACK) as u64 + 4096,
            code = in(reg) USER_CODE,
            entry = in(reg) (&raw const ring3_storm) as u64,
            in("rax") 0,
            options(noreturn)
        )
    }
}
