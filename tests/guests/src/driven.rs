//! A child VM that drives a device by a program of stores: what a driver would do, recorded where the driver runs against
//! a [`Recorder`], and done by the child, in its own VM, to its own registers and memory.
//!
//! The program stands in the first shared page, as do the child's counts of interrupts by vector.

use crate::interrupted::interrupt_children;
use crate::root::{SHARED, set_word, word};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use device::{DmaMemory, IoAddress, Registers};
use userlib::cap::{Cap, Channel, Fault, own};

interrupt_children! {
    /// Does the stores of its program, once or again and again, as [`at::COMMAND`] says.
    driven, "0x4000", "", "":
        "mov qword ptr [rbx + 0x20], 1",
        "sti",
        "1:",
        "cmp qword ptr [rbx + 0x38], 0",
        "jne 2f",
        // Tells the root VM that it has nothing to do, and waits for it.
        "mov eax, {signal_wait}",
        "mov edi, {channel}",
        "mov esi, 1",
        "xor edx, edx",
        "vmmcall",
        "jmp 1b",
        "2:",
        "cmp qword ptr [rbx + 0x38], 3",
        "je 5f",
        "lea rsi, [rbx + 0x100]",
        "3:",
        "mov edi, [rsi]",
        "cmp edi, -1",
        "je 4f",
        "mov eax, [rsi + 4]",
        "mov [rdi], eax",
        "add rsi, 8",
        "jmp 3b",
        "4:",
        "inc qword ptr [rbx + 0x30]",
        "pause",
        "cmp qword ptr [rbx + 0x38], 1",
        "jne 1b",
        "mov qword ptr [rbx + 0x38], 0",
        "jmp 1b",
        // Watches a vector for a while, without giving the core up.
        "5:",
        "mov rdx, [rbx + 0x40]",
        "mov rax, [rbx + 0x800 + rdx * 8]",
        "mov [rbx + 0x48], rax",
        "mov ecx, {watched}",
        "9:",
        "dec ecx",
        "jnz 9b",
        "mov rax, [rbx + 0x800 + rdx * 8]",
        "sub rax, [rbx + 0x48]",
        "mov [rbx + 0x48], rax",
        "inc qword ptr [rbx + 0x30]",
        "mov qword ptr [rbx + 0x38], 0",
        "jmp 1b";
}

/// Offsets in the first shared page.
mod at {
    /// How often the program was done.
    pub const DONE: usize = 0x30;
    /// 0: it waits; [`ONCE`]; [`ALWAYS`]; [`WATCH`].
    pub const COMMAND: usize = 0x38;
    /// The vector to watch, and how often it came meanwhile.
    pub const VECTOR: usize = 0x40;
    pub const CAME: usize = 0x48;
    /// The program: addresses and values, 32 bits each, and all ones behind them.
    pub const PROGRAM: usize = 0x100;
    /// Counts of interrupts by vector; from vector 32 on.
    pub const COUNTS: usize = 0x800;
}
const ONCE: u64 = 1;
const ALWAYS: u64 = 2;
const WATCH: u64 = 3;
/// Rounds of two instructions for which it watches.
pub(crate) const WATCHED: u32 = 300_000;
/// Stores of a program at most.
const MOST_STORES: usize = (at::COUNTS - at::PROGRAM) / 8 - 1;

/// The root VM's side of a child: its first shared page.
#[derive(Clone, Copy, Debug)]
pub struct Driven {
    page: u64,
    channel: Cap<Channel>,
}

impl Driven {
    /// The page is mapped here in the root VM, and was zero when the child was launched; the root VM's end of its channel.
    pub const fn new(page: u64, channel: Cap<Channel>) -> Driven {
        Driven { page, channel }
    }

    /// How often the child has done its program.
    pub fn done(&self) -> u64 {
        word(self.page, at::DONE)
    }

    /// Gives it a program, which it does once; returns when it has.
    pub fn run(&self, program: &Program) -> Result<(), Fault> {
        self.write(program);
        let before = self.done();
        self.command(ONCE)?;
        self.until_done(before)
    }

    /// Has it watch a vector for a while (600,000 instructions), in which it does not give its core up. Meanwhile this does
    /// `work`. Says how often the vector came: once at most without a cause, when the kernel, which knows only that something
    /// may have fired while the VM waited, raises it.
    pub fn watch(&self, vector: u8, work: impl FnOnce()) -> Result<u64, Fault> {
        set_word(self.page, at::VECTOR, vector.into());
        let before = self.done();
        self.command(WATCH)?;
        work();
        self.until_done(before)?;
        Ok(word(self.page, at::CAME))
    }

    fn until_done(&self, before: u64) -> Result<(), Fault> {
        while self.done() == before || word(self.page, at::COMMAND) != 0 {
            own::VCPU.wait(1, 0)?;
        }
        Ok(())
    }

    /// Gives it a program, which it does again and again from now on.
    pub fn repeat(&self, program: &Program) -> Result<(), Fault> {
        self.write(program);
        self.command(ALWAYS)
    }

    fn command(&self, command: u64) -> Result<(), Fault> {
        set_word(self.page, at::COMMAND, command);
        self.channel.signal()
    }

    fn write(&self, program: &Program) {
        let stores = program.0.borrow();
        assert!(stores.len() <= MOST_STORES, "the program is too long");
        for (index, &(address, value)) in stores.iter().enumerate() {
            set_word(self.page, at::PROGRAM + 8 * index, u64::from(address) | u64::from(value) << 32);
        }
        set_word(self.page, at::PROGRAM + 8 * stores.len(), u64::MAX);
    }

    /// Interrupts of a vector that it took.
    pub fn interrupts(&self, vector: u8) -> u64 {
        word(self.page, at::COUNTS + 8 * usize::from(vector))
    }

    /// Interrupts that it took, whatever their vector.
    pub fn all_interrupts(&self) -> u64 {
        (32..=255).map(|vector| self.interrupts(vector)).sum()
    }
}

/// Stores in the order in which they are to be done.
#[derive(Clone, Debug, Default)]
pub struct Program(Rc<RefCell<Vec<(u32, u32)>>>);

impl Program {
    /// One store more.
    pub fn store(&self, address: u32, value: u32) {
        self.0.borrow_mut().push((address, value));
    }

    /// None of the stores so far.
    pub fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Registers or memory at an address of the child, for a driver: what it writes becomes part of a program, and what it reads
/// is what it has written last.
#[derive(Clone, Debug)]
pub struct Recorder {
    program: Program,
    at: u32,
    io: IoAddress,
    words: usize,
}

impl Recorder {
    /// So many pages at this address of the child; the device sees memory from `io` on.
    pub fn new(program: &Program, at: u64, io: IoAddress, pages: usize) -> Recorder {
        Recorder { program: program.clone(), at: at as u32, io, words: pages * 512 }
    }
}

impl Registers for Recorder {
    fn read32(&self, offset: u32) -> u32 {
        let stores = self.program.0.borrow();
        let last = stores.iter().rev().find(|(address, _)| *address == self.at + offset);
        last.map_or(0, |&(_, value)| value)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.program.store(self.at + offset, value);
    }
}

impl DmaMemory for Recorder {
    fn io_address(&self) -> IoAddress {
        self.io
    }

    fn words(&self) -> usize {
        self.words
    }

    fn load(&self, word: usize) -> u64 {
        let half = |offset| u64::from(self.read32(word as u32 * 8 + offset));
        half(0) | half(4) << 32
    }

    fn store(&self, word: usize, value: u64) {
        self.write32(word as u32 * 8, value as u32);
        self.write32(word as u32 * 8 + 4, (value >> 32) as u32);
    }
}

/// Where a page that is shared behind the first one is, in the child.
pub const fn shared(page: u64) -> u64 {
    SHARED + 4096 * (1 + page)
}
