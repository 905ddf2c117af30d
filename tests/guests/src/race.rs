//! Races: Vcpus of one VM on several cores that carry out the same script of invocations, each in an order of its own,
//! and write down how each was answered.
//!
//! The script lies in pages that the root VM shares: it is written before the start and read afterwards. What the racers
//! play with lies in a CNode of their own, behind slot [`PLAY`] of their root CNode: up to [`FIRST`] what is never taken
//! from them, and from there on what is made, moved and destroyed.

use alloc::vec::Vec;
use cap_spec::abi::{Error, Label, ObjectType, Register, slots};
use cap_spec::spec::ArgKind;

use crate::capabilities::Random;
use crate::children::children;
use crate::interrupted::SECOND_VCPU_SLOT;
use crate::root::{CHILD_CODE, SHARED, set_word, word};

/// Slot of the racers' root CNode that holds the one that they play with; log2 of its slots.
pub const PLAY: u16 = 30;
/// See [`PLAY`].
pub const PLAY_BITS: u8 = 8;
/// First slot of it that racers may empty.
pub const FIRST: u16 = 64;
/// Bytes of an entry of the script.
const ENTRY_BYTES: usize = 128;
/// Bytes of the page before the entries.
const HEADER_BYTES: usize = 4096;
/// Entries in a page.
const ENTRIES_PER_PAGE: usize = 4096 / ENTRY_BYTES;
/// How many pages the script takes at most, the header's among them: so many fit into the ring window.
const MOST_PAGES: usize = 40;

/// Slots of the CNode of [`PLAY`] that racers may use and never empty.
pub mod given {
    /// An Untyped to make everything of.
    pub const WORK: u16 = 8;
    /// An Untyped of two pages.
    pub const TWO_PAGES: u16 = 9;
    /// CPU time of core 0, and of the last core.
    pub const TIMES: [u16; 2] = [10, 11];
    /// Routes.
    pub const IRQ: u16 = 12;
    /// Ports.
    pub const PORTS: u16 = 13;
    /// Both ends of a channel; the first is its original.
    pub const ENDS: [u16; 2] = [14, 15];
    /// A Frame.
    pub const FRAME: u16 = 16;
    /// A PageTable.
    pub const TABLE: u16 = 17;
    /// A Vcpu of the racers' VM, without time.
    pub const VCPU: u16 = 18;
}

/// A route and a port of those that racers are given: of no device.
pub const ROUTE: u64 = 18;
/// See [`ROUTE`].
pub const PORT: u64 = 0x300;

/// Offsets in the first page.
mod at {
    /// Given: entries, and where the numbers start by which racers choose.
    pub const ENTRIES: usize = 0x00;
    /// Given: a racer that finds this not 0 stops making invocations; with 2 it revokes the VM's base for ever instead.
    pub const END: usize = 0x08;
    /// Given: see `ENTRIES`.
    pub const SEED: usize = 0x18;
    /// Answers that are not permitted; the last of them and its entry.
    pub const WRONG: usize = 0x20;
    /// See `WRONG`.
    pub const STATUS: usize = 0x28;
    /// See `WRONG`.
    pub const ENTRY: usize = 0x30;
    /// Invocations of each racer; 64 bytes apart, and 8 bytes behind, not 0 when it has stopped.
    pub const MADE: usize = 0x80;
}

/// Offsets in an entry, behind capability, label and arguments.
mod of {
    /// Given: the errors that may be answered, a bit for each.
    pub const PERMITTED: usize = 56;
    /// How often it was carried out.
    pub const DONE: usize = 64;
    /// How often it was refused with a permitted error.
    pub const REFUSED: usize = 72;
}

children! {
    /// A racer: RDI is its number. The first instruction but one is an endless loop (see [`SPIN`]).
    racer:
        "jmp 7f",
        "6:",
        "jmp 6b",
        "7:",
        "mov rbx, {shared}",
        "mov r12, [rbx + 0x18]",
        "add r12, rdi",
        "mov r13, rdi",
        "shl r13, 6",
        "lea r13, [rbx + r13 + 0x80]",
        "test rdi, rdi",
        "jnz 2f",
        // The VM's second Vcpu, which only the VM itself can start.
        "mov eax, {start}",
        "mov edi, 26",
        "vmmcall",
        "2:",
        "cmp qword ptr [rbx + 8], 0",
        "jne 8f",
        // xorshift64; its upper half chooses the entry.
        "mov rax, r12",
        "shl rax, 13",
        "xor r12, rax",
        "mov rax, r12",
        "shr rax, 7",
        "xor r12, rax",
        "mov rax, r12",
        "shl rax, 17",
        "xor r12, rax",
        "mov rax, r12",
        "shr rax, 32",
        "imul rax, [rbx]",
        "shr rax, 32",
        "shl rax, 7",
        "lea rbp, [rbx + rax + 0x1000]",
        "mov rdi, [rbp]",
        "mov rax, [rbp + 8]",
        "mov rsi, [rbp + 16]",
        "mov rdx, [rbp + 24]",
        "mov r10, [rbp + 32]",
        "mov r8, [rbp + 40]",
        "mov r9, [rbp + 48]",
        "vmmcall",
        "test rax, rax",
        "jnz 3f",
        "lock inc qword ptr [rbp + 64]",
        "jmp 5f",
        // A refusal: nothing above bit 31, an argument from 0 to 5, an error that is permitted.
        "3:",
        "mov rcx, rax",
        "shr rcx, 32",
        "jnz 4f",
        "movzx ecx, ah",
        "cmp ecx, 5",
        "ja 4f",
        "movzx ecx, al",
        "cmp ecx, 63",
        "ja 4f",
        "mov rdx, [rbp + 56]",
        "bt rdx, rcx",
        "jnc 4f",
        "lock inc qword ptr [rbp + 72]",
        "jmp 5f",
        "4:",
        "mov [rbx + 0x28], rax",
        "mov [rbx + 0x30], rbp",
        "lock inc qword ptr [rbx + 0x20]",
        "5:",
        "lock inc qword ptr [r13]",
        "jmp 2b",
        "8:",
        "mov qword ptr [r13 + 8], 1",
        "cmp qword ptr [rbx + 8], 2",
        "jne 8b",
        "9:",
        "mov eax, {revoke}",
        "mov edi, 1",
        "mov esi, 4",
        "vmmcall",
        "jmp 9b";
}

/// Where in [`racer`] the endless loop is, for a Vcpu that is to run and make no invocations.
pub const SPIN: u64 = 2;

const _: () = {
    // The assembly above has these as plain numbers.
    assert!(at::ENTRIES == 0 && at::END == 8 && at::SEED == 0x18 && at::WRONG == 0x20 && at::STATUS == 0x28);
    assert!(at::ENTRY == 0x30 && at::MADE == 0x80 && of::PERMITTED == 56 && of::DONE == 64 && of::REFUSED == 72);
    assert!(ENTRY_BYTES == 1 << 7 && HEADER_BYTES == 0x1000 && SECOND_VCPU_SLOT == 26 && slots::BASE == 4);
};

/// An invocation of the script.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The capability that is invoked.
    pub cap: u64,
    /// The label's number.
    pub label: u64,
    /// The arguments.
    pub args: [u64; 5],
    /// The errors that it may be refused with, a bit for each by its number.
    pub permitted: u64,
}

/// How often an [`Attempt`] was carried out, and refused as it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Carried out.
    pub done: u64,
    /// Refused.
    pub refused: u64,
}

/// The capability pointer of a slot of the CNode that racers play with.
pub fn play(index: u16) -> u64 {
    u64::from(PLAY) << 16 | u64::from(index)
}

/// A script in shared pages: the first, and how many; the pages lie one behind the other in the root VM's window.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    address: u64,
    entries: usize,
}

impl Script {
    /// How many pages a script of so many entries takes.
    pub const fn pages(entries: usize) -> usize {
        1 + entries.div_ceil(ENTRIES_PER_PAGE)
    }

    /// Writes a script into pages.
    pub fn write(address: u64, seed: u64, attempts: &[Attempt]) -> Script {
        assert!(Script::pages(attempts.len()) <= MOST_PAGES);
        let script = Script { address, entries: attempts.len() };
        for offset in (0..HEADER_BYTES).step_by(8) {
            set_word(address, offset, 0);
        }
        set_word(address, at::ENTRIES, attempts.len() as u64);
        // The generator of a racer must not start at 0.
        set_word(address, at::SEED, Random(seed).word() | 1 << 63);
        for (number, attempt) in attempts.iter().enumerate() {
            let words = [attempt.cap, attempt.label].into_iter().chain(attempt.args).chain([attempt.permitted, 0, 0]);
            for (index, value) in words.enumerate() {
                set_word(address, Script::entry(number) + index * 8, value);
            }
        }
        script
    }

    fn entry(number: usize) -> usize {
        HEADER_BYTES + number * ENTRY_BYTES
    }

    /// How an entry was answered so far.
    pub fn answers(&self, number: usize) -> Answers {
        let read = |offset| word(self.address, Script::entry(number) + offset);
        Answers { done: read(of::DONE), refused: read(of::REFUSED) }
    }

    /// The answers of all entries so far.
    pub fn all(&self) -> impl Iterator<Item = Answers> {
        (0..self.entries).map(|number| self.answers(number))
    }

    /// Invocations that a racer has made.
    pub fn made(&self, racer: usize) -> u64 {
        word(self.address, at::MADE + racer * 64)
    }

    /// The number and the status of an entry that was answered as it must not be, if any was.
    pub fn wrong(&self) -> Option<(usize, u64)> {
        let entry = word(self.address, at::ENTRY).wrapping_sub(SHARED) as usize;
        let number = entry.wrapping_sub(HEADER_BYTES) / ENTRY_BYTES;
        (word(self.address, at::WRONG) != 0).then(|| (number, word(self.address, at::STATUS)))
    }

    /// Asks the racers to stop.
    pub fn stop(&self) {
        set_word(self.address, at::END, 1);
    }

    /// Asks the racers to revoke the base of their VM from all cores, for ever.
    pub fn revoke_base(&self) {
        set_word(self.address, at::END, 2);
    }

    /// True when a racer has done so.
    pub fn has_stopped(&self, racer: usize) -> bool {
        word(self.address, at::MADE + racer * 64 + 8) != 0
    }
}

/// The bits of these errors.
pub fn bits_of(errors: &[Error]) -> u64 {
    errors.iter().fold(0, |bits, &error| bits | 1 << error as u8)
}

/// The errors that the specification knows for a label; for a number that is none, those of finding that out.
fn specified(label: u64) -> u64 {
    match Label::from_number(label) {
        Some(label) => {
            let possible = |error: &&Error| label.spec().can_fail_with(**error);
            Error::ALL.iter().filter(possible).fold(0, |bits, &error| bits | 1 << error as u8)
        }
        None => bits_of(&[Error::InvalidLabel, Error::InvalidCapability]),
    }
}

// ---- random scripts ------------------------------------------------------------------------------------------------

/// What is made of [`given::WORK`], from [`FIRST`] on, [`EACH`] of each kind.
const KINDS: [(ObjectType, u64); 7] = [
    (ObjectType::Untyped, 13),
    (ObjectType::CNode, 6),
    (ObjectType::Frame, 12),
    (ObjectType::PageTable, 0),
    (ObjectType::Vm, 0),
    (ObjectType::Vcpu, 0),
    (ObjectType::Channel, 0),
];
/// See [`KINDS`].
const EACH: u16 = 2;
/// Slots behind them for whatever comes.
const ROOM: u16 = 24;
/// Where they begin.
const EMPTY: u16 = FIRST + KINDS.len() as u16 * EACH;

fn attempt(cap: u64, label: Label, args: [u64; 5]) -> Attempt {
    Attempt { cap, label: label as u64, args, permitted: specified(label as u64) }
}

/// A script of so many random invocations, each of which may be answered as the specification says, and of those by
/// which there is always something to play with. What would end the racers is left out.
///
/// `part` is the budget and the period of what the racers split off the time that they are given, in ticks.
pub fn random_script(seed: u64, entries: usize, part: (u64, u64)) -> Vec<Attempt> {
    let mut random = Random(seed);
    let mut script = Vec::with_capacity(entries);
    let node = u64::from(PLAY);
    let made = |kind: ObjectType| FIRST + KINDS.iter().position(|&(known, _)| known == kind).unwrap_or(0) as u16 * EACH;
    for (number, (kind, bits)) in KINDS.into_iter().enumerate() {
        let first = u64::from(FIRST) + number as u64 * u64::from(EACH);
        for _ in 0..4 {
            let args = [kind as u64, bits, node, first, u64::from(EACH)];
            script.push(attempt(play(given::WORK), Label::UntypedRetype, args));
        }
    }
    script.push(attempt(node, Label::CNodeRevoke, [given::WORK.into(), 0, 0, 0, 0]));
    // A third racer, on either core, and its end. Its time is in the first slots that are free.
    for (number, time) in given::TIMES.into_iter().enumerate() {
        let slot = EMPTY + number as u16;
        for vcpu in [made(ObjectType::Vcpu), made(ObjectType::Vcpu) + 1] {
            let to = play(vcpu);
            script.push(attempt(to, Label::VcpuAttach, [slots::VM.into(), 0, 0, 0, 0]));
            for (register, value) in [(Register::Rip, CHILD_CODE), (Register::Cr3, 0x1000)] {
                script.push(attempt(to, Label::VcpuSetRegister, [register as u64, value, 0, 0, 0]));
            }
            script.push(attempt(to, Label::VcpuBindTime, [play(slot), 0, 0, 0, 0]));
            script.push(attempt(to, Label::VcpuStart, [0; 5]));
            script.push(attempt(to, Label::VcpuStop, [0; 5]));
        }
        script.push(attempt(play(time), Label::CpuTimeSplit, [part.0, part.1, node, slot.into(), 0]));
        script.push(attempt(node, Label::CNodeDelete, [slot.into(), 0, 0, 0, 0]));
    }
    for slot in EMPTY..EMPTY + ROOM {
        script.push(attempt(node, Label::CNodeDelete, [slot.into(), 0, 0, 0, 0]));
    }
    while script.len() < entries {
        let random = random_attempt(&mut random);
        if !ends_the_racers(&random) {
            script.push(random);
        }
    }
    script
}

fn random_attempt(random: &mut Random) -> Attempt {
    let label = if random.below(16) == 0 { random.interesting() } else { random.below(Label::COUNT as u64) };
    let mut cap = if random.below(4) == 0 { random.interesting() } else { play(random.below(128) as u16) };
    let mut args = [0; 5];
    for arg in &mut args {
        *arg = random.interesting();
    }
    if let Some(label) = Label::from_number(label) {
        if random.below(4) != 0 {
            cap = likely(random, label.object());
            for (arg, spec) in args.iter_mut().zip(label.spec().args) {
                let objects = u64::from(FIRST) + random.below(u64::from(EMPTY + ROOM - FIRST));
                match spec.kind {
                    ArgKind::Number => {}
                    ArgKind::Capability(kind, _) => *arg = likely(random, kind),
                    ArgKind::AnyCapability => *arg = play(objects as u16),
                    ArgKind::EmptySlot => *arg = u64::from(EMPTY) + random.below(u64::from(ROOM)),
                    ArgKind::FullSlot => *arg = objects,
                }
            }
        }
        match label {
            // An instant that has passed: nobody sleeps.
            Label::VcpuWait | Label::ChannelWait => args[1] = 1,
            // A third racer runs the same code or none.
            Label::VcpuSetRegister if args[0] == Register::Rip as u64 => args[1] = 0,
            _ => {}
        }
    }
    Attempt { cap, label, args, permitted: specified(label) }
}

/// A slot that is likely to hold an object of this type.
fn likely(random: &mut Random, kind: ObjectType) -> u64 {
    if random.below(4) == 0 {
        return play(FIRST + random.below(u64::from(EMPTY + ROOM - FIRST)) as u16);
    }
    let made = KINDS.iter().position(|&(known, _)| known == kind);
    let one_made =
        |random: &mut Random, number: usize| play(FIRST + number as u16 * EACH + random.below(u64::from(EACH)) as u16);
    match (kind, made) {
        (ObjectType::CNode, _) if random.below(2) == 0 => PLAY.into(),
        (ObjectType::Vm, _) if random.below(2) == 0 => slots::VM.into(),
        (ObjectType::Untyped, _) if random.below(2) == 0 => play(given::WORK),
        (ObjectType::Channel, _) if random.below(2) == 0 => play(given::ENDS[random.below(2) as usize]),
        (ObjectType::CpuTime, _) => play(given::TIMES[random.below(2) as usize]),
        (ObjectType::Irq, _) => play(given::IRQ),
        (ObjectType::IoPort, _) => play(given::PORTS),
        (_, Some(number)) => one_made(random, number),
        (_, None) => play(random.below(u64::from(FIRST)) as u16),
    }
}

/// True for what would stop the racers, take their memory, or let them lose what they are given. Only by their root CNode
/// do they reach their own objects: what lies in it is never invoked but the VM and the CNode of [`PLAY`], and never
/// handed on.
fn ends_the_racers(attempt: &Attempt) -> bool {
    let in_root = |cptr: u64| matches!(cptr >> 16, 0 | 1);
    let harmless = [u64::from(slots::VM), u64::from(PLAY)].contains(&attempt.cap);
    if in_root(attempt.cap) && !harmless && attempt.label != Label::Nop as u64 {
        return true;
    }
    let Some(label) = Label::from_number(attempt.label) else { return false };
    let given = |slot: u64| (1..u64::from(FIRST)).contains(&(slot & 0xffff));
    match label {
        Label::CNodeDelete | Label::CNodeRevoke => given(attempt.args[0]),
        Label::CNodeMove => in_root(attempt.args[1]) || given(attempt.args[1]),
        Label::CNodeCopy | Label::CNodeMint => in_root(attempt.args[1]),
        Label::ChannelGrant => in_root(attempt.args[0]) || given(attempt.args[0]),
        _ => false,
    }
}
