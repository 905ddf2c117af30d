//! Descriptor tables, exceptions, interrupts and upcalls.
//!
//! All 256 vectors lead to [`dispatch`], and on to the handler that was set. Vectors from [`FIRST_VECTOR`] on run on the
//! stack that was interrupted. Exceptions run on a stack of their own, so that an overflow of the stack is told as what it
//! is; without a handler they are the image's end and are reported with the registers.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::size_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::upcall::FAULT_VECTOR;

/// First vector that an interrupt, an event or a fault upcall can have.
pub const FIRST_VECTOR: u8 = 32;

/// Registers at a trap, in the order in which the stub below pushes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrapFrame {
    /// General registers.
    pub r15: u64,
    /// See `r15`.
    pub r14: u64,
    /// See `r15`.
    pub r13: u64,
    /// See `r15`.
    pub r12: u64,
    /// See `r15`.
    pub r11: u64,
    /// See `r15`.
    pub r10: u64,
    /// See `r15`.
    pub r9: u64,
    /// See `r15`.
    pub r8: u64,
    /// See `r15`.
    pub rbp: u64,
    /// See `r15`.
    pub rdi: u64,
    /// See `r15`.
    pub rsi: u64,
    /// See `r15`.
    pub rdx: u64,
    /// See `r15`.
    pub rcx: u64,
    /// See `r15`.
    pub rbx: u64,
    /// See `r15`.
    pub rax: u64,
    /// The vector.
    pub vector: u64,
    /// The exception's error code, 0 where it has none.
    pub error_code: u64,
    /// Where it happened. A handler that changes it makes the image go on there.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// What runs at a vector.
pub type Handler = fn(&mut TrapFrame);

static HANDLERS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];

/// Chooses what runs at a vector. With `None`, an interrupt is ended, no more, and an exception is the image's end.
///
/// An exception's handler runs on the exceptions' own stack, on which a second exception is not survived. When it
/// returns, what raised the exception is tried again, unless the handler has changed the frame.
pub fn set_handler(vector: u8, handler: Option<Handler>) {
    let handler = handler.map_or(ptr::null_mut(), |handler| handler as *mut ());
    HANDLERS[usize::from(vector)].store(handler, Ordering::Release);
}

extern "C" fn dispatch(frame: &mut TrapFrame) {
    let handler = HANDLERS[frame.vector as usize & 0xff].load(Ordering::Acquire);
    if !handler.is_null() {
        // SAFETY: only `set_handler` stores here, and what it stores besides null came from a `Handler`.
        let handler = unsafe { core::mem::transmute::<*mut (), Handler>(handler) };
        handler(frame);
    } else if frame.vector < u64::from(FIRST_VECTOR) {
        crate::end::exception(frame);
    } else {
        super::end_of_interrupt();
    }
}

const STUB_BYTES: u64 = 16;

global_asm!(
    ".pushsection .text, \"ax\", @progbits",
    ".balign 16",
    "userlib_stubs:",
    ".set userlib_vector, 0",
    ".rept 256",
    ".balign 16",
    // The exceptions that push an error code themselves: 8, 10-14, 17, 21, 29, 30.
    ".if (0x60227d00 >> userlib_vector) & (userlib_vector < 32) & 1",
    ".else",
    "push 0",
    ".endif",
    "push userlib_vector",
    "jmp userlib_trap",
    ".set userlib_vector, userlib_vector + 1",
    ".endr",
    "userlib_trap:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rdi, rsp",
    "cld",
    // Counted before the first instruction of Rust: see `is_repeated`.
    "cmp qword ptr [rsp + 15 * 8], {fault}",
    "jne 1f",
    "inc dword ptr [rip + {faults}]",
    "1:",
    "userlib_trap_counted:",
    // The processor aligned the stack to 16 bytes before it pushed 5 words; 17 more make 22, an even number.
    "call {dispatch}",
    "cmp qword ptr [rsp + 15 * 8], {fault}",
    "jne 2f",
    "dec dword ptr [rip + {faults}]",
    "2:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".popsection",
    dispatch = sym dispatch,
    fault = const FAULT_VECTOR,
    faults = sym FAULTS,
);

unsafe extern "C" {
    static userlib_stubs: u8;
    static userlib_trap_counted: u8;
}

/// Fault upcalls that are being handled.
static FAULTS: AtomicU32 = AtomicU32::new(0);

/// True for a fault upcall that came in the middle of another one. The kernel delivers none before the busy word is
/// cleared, but the vector may come twice: an emulator tells that it was not delivered when it was. Then the second one
/// comes before the first instruction of the first one's handler, or a little later.
pub fn is_repeated(frame: &TrapFrame) -> bool {
    let entry = (&raw const userlib_stubs) as u64..(&raw const userlib_trap_counted) as u64;
    entry.contains(&frame.rip) || FAULTS.load(Ordering::Relaxed) > 1
}

const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const TASK: u16 = 0x18;
/// Bytes of the stack on which exceptions are reported.
const EXCEPTION_STACK_BYTES: usize = 16 * 1024;

#[repr(C, align(16))]
struct Tables {
    idt: [[u64; 2]; 256],
    gdt: [u64; 5],
    /// 64-bit task-state segment; only its first interrupt stack is used.
    task: [u32; 26],
    exception_stack: [u8; EXCEPTION_STACK_BYTES],
}

struct Installed(UnsafeCell<Tables>);
// SAFETY: written by `install` only, before anything else of the image runs; afterwards only the processor uses it.
unsafe impl Sync for Installed {}
static TABLES: Installed = Installed(UnsafeCell::new(Tables {
    idt: [[0; 2]; 256],
    gdt: [0; 5],
    task: [0; 26],
    exception_stack: [0; EXCEPTION_STACK_BYTES],
}));

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fills the tables and loads them. Called once, at start-up.
pub fn install() {
    // SAFETY: nothing else has a reference to the tables (see `Installed`).
    let tables = unsafe { &mut *TABLES.0.get() };
    let stubs = (&raw const userlib_stubs) as u64;
    for (vector, gate) in tables.idt.iter_mut().enumerate() {
        let stub = stubs + vector as u64 * STUB_BYTES;
        let stack = u64::from(vector < usize::from(FIRST_VECTOR));
        *gate = interrupt_gate(stub, stack);
    }
    let stack_top = (&raw const tables.exception_stack) as u64 + EXCEPTION_STACK_BYTES as u64;
    // Interrupt stack 1 is at byte 36 of the task-state segment; the I/O map lies beyond its limit.
    tables.task[9] = stack_top as u32;
    tables.task[10] = (stack_top >> 32) as u32;
    tables.task[25] = (size_of::<[u32; 26]>() as u32) << 16;
    let task = (&raw const tables.task) as u64;
    tables.gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        (size_of::<[u32; 26]>() as u64 - 1) | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
        task >> 32,
    ];
    let gdt = Pointer { limit: (size_of::<[u64; 5]>() - 1) as u16, base: (&raw const tables.gdt) as u64 };
    let idt = Pointer { limit: (size_of::<[[u64; 2]; 256]>() - 1) as u16, base: (&raw const tables.idt) as u64 };
    // SAFETY: the tables are complete, static, and hold a flat 64-bit code segment and data segment like the ones that
    // the Vcpu started with.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov {scratch:e}, {data}",
            "mov ss, {scratch:e}",
            "mov ds, {scratch:e}",
            "mov es, {scratch:e}",
            "mov {scratch:e}, {task}",
            "ltr {scratch:x}",
            "lidt [{idt}]",
            gdt = in(reg) &gdt,
            idt = in(reg) &idt,
            scratch = out(reg) _,
            code = const CODE,
            data = const DATA,
            task = const TASK,
        );
    }
}

/// A present 64-bit interrupt gate to our code segment, on interrupt stack `stack` (0: the present one).
const fn interrupt_gate(target: u64, stack: u64) -> [u64; 2] {
    let low = (target & 0xffff) | (CODE as u64) << 16 | stack << 32 | 0x8e << 40 | (target >> 16 & 0xffff) << 48;
    [low, target >> 32]
}
