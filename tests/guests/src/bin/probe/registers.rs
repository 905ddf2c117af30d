//! Reserved and dangerous bits of CR0, CR4 and EFER, and page tables anywhere for CR3, each tried by a VM of its own, as
//! it may be the attacker's end.

use alloc::format;
use alloc::string::String;
use cap_spec::abi::{Register, Rights, StopReason, handler_page};
use core::arch::asm;
use guests::capabilities::Random;
use guests::control::{self, at};
use guests::memory::OUTSIDE;
use guests::root::{CHILD_CHANNEL, CHILD_CODE, Child, Root, set_word, tsc, word};
use userlib::cap::{Cap, Frame, Slot, VcpuPage, own};

use crate::{Check, end, micros, told};

/// A register, as [`at::REGISTER`] names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    Cr0 = 0,
    Cr4 = 1,
    Efer = 2,
    Cr3 = 3,
}

/// What must come of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// #GP, and nothing has changed.
    Refused,
    /// It is the guest's own business, and it goes on.
    Taken,
    /// The processor may refuse it or let the guest have it, and a guest that is in no legal state then ends. The emulator
    /// is not strict here.
    Harmless,
}

const GENERAL_PROTECTION: u64 = 13;

/// Each bit that is tried: register, bits to set, bits to clear.
fn cases() -> impl Iterator<Item = (Which, u64, u64, Wanted)> {
    use Wanted::{Harmless, Refused, Taken};
    use Which::{Cr0, Cr4, Efer};
    // PE; PG; both; NW without CD; all that is reserved below bit 32.
    let cr0 = [(0, 1), (0, 1 << 31), (0, 1 << 31 | 1), (1 << 29, 1 << 30), (0x1ffa_ffc0, 0)];
    let cr0 = cr0.into_iter().map(|(set, clear)| (Cr0, set, clear, Harmless));
    // VMXE, SMXE, CET and what is reserved are among these; PAE is what long mode cannot be without.
    let cr4 = (12..32).map(|bit| (Cr4, 1 << bit, 0, Harmless)).chain([(Cr4, 0, 1 << 5, Harmless)]);
    let reserved = [1, 2, 3, 4, 5, 6, 7, 9, 13, 15, 16, 17, 18, 20, 21, 31, 32, 63];
    let efer = [
        // LME; LMA; both.
        (Efer, 0, 1 << 8, Refused),
        (Efer, 0, 1 << 10, Refused),
        (Efer, 0, 1 << 8 | 1 << 10, Refused),
        // SVME, as it reads, is 0 and stays set behind the guest's back: the next entry needs it.
        (Efer, 0, 1 << 12, Taken),
        (Efer, 1 << 12, 0, Refused),
        // SCE, NXE; FFXSR where the processor has it.
        (Efer, 1, 0, Taken),
        (Efer, 0, 1 << 11, Taken),
        (Efer, 1 << 14, 0, if has_fast_save() { Taken } else { Refused }),
    ];
    cr0.chain(cr4).chain(efer).chain(reserved.into_iter().map(|bit| (Efer, 1 << bit, 0, Refused)))
}

/// FFXSR, as CPUID tells it.
fn has_fast_save() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 25 != 0
}

/// CR0, CR4 and EFER of the root VM itself.
fn own_registers() -> [u64; 3] {
    let (cr0, cr4, low, high): (u64, u64, u32, u32);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr4", "rdmsr", out(reg) cr0, out(reg) cr4, in("ecx") 0xc000_0080u32,
            out("eax") low, out("edx") high, options(nomem, nostack));
    }
    [cr0, cr4, u64::from(low) | u64::from(high) << 32]
}

/// Each case in a VM of its own: it goes on with registers that are right, or ends for a clear reason; EFER is what it was
/// in either case, and the registers of its neighbour, the root VM, are too.
pub fn control_registers_one_by_one(root: &mut Root) -> Check {
    let own = own_registers();
    let (mut went_on, mut refused, mut ended) = (0, 0, 0);
    for (which, set, clear, wanted) in cases() {
        let outcome = attempt(root, which, set, clear, wanted)
            .map_err(|why| format!("{which:?} with {set:#x} set and {clear:#x} cleared: {why}"))?;
        match outcome {
            Outcome::WentOn => went_on += 1,
            Outcome::Refused => refused += 1,
            Outcome::Ended => ended += 1,
        }
        if own_registers() != own {
            return Err(format!(
                "{which:?} with {set:#x} set and {clear:#x} cleared: its neighbour's registers changed"
            ));
        }
    }
    // Whatever the processor is like, what EFER refuses it refuses here, and some bits are the guest's own.
    if refused < 20 || went_on < 3 {
        return Err(format!("{went_on} went on, {refused} were refused, {ended} ended"));
    }
    Ok(())
}

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The register took the value, or dropped the bits.
    WentOn,
    /// An exception came.
    Refused,
    /// The attacker was stopped.
    Ended,
}

fn attempt(root: &mut Root, which: Which, set: u64, clear: u64, wanted: Wanted) -> Result<Outcome, String> {
    let mark = root.mark();
    let (child, page, stopped) = write_in_a_child(root, which, set, clear)?;
    let outcome = judge(page, stopped, which, set, clear, wanted);
    end(&child)?;
    root.return_to(mark).map_err(told("slots"))?;
    outcome
}

/// Launches a VM that makes an attempt, and waits until it has gone on or stopped. Returns it, the page that it tells in,
/// and its handler page.
fn write_in_a_child(root: &mut Root, which: Which, set: u64, clear: u64) -> Result<(Child, u64, u64), String> {
    let (page, address) = root.shared_page().map_err(told("page"))?;
    for (offset, value) in [(at::REGISTER, which as u64), (at::SET, set), (at::CLEAR, clear)] {
        set_word(address, offset, value);
    }
    let period = micros(root, 4_000);
    let child = root.child(control::writer(), control::PAGES, &[page], 0, period / 4, period).map_err(told("child"))?;
    let handler: Cap<Frame> = child.vcpu.page(VcpuPage::Handler, root.slot()).map_err(told("handler page"))?;
    let stopped = root.window(1);
    handler.map(own::VM, stopped, Rights::READ).map_err(told("handler page"))?;
    let channel = Slot::in_node(child.cnode.slot().index(), CHILD_CHANNEL).cap();
    child.vcpu.set_handler(channel).map_err(told("handler"))?;
    root.launch(&child).map_err(told("launch"))?;
    // It tells when it has stopped; otherwise it is looked at every now and then.
    let deadline = tsc() + micros(root, 1_000_000);
    while word(address, at::ROUNDS) == 0 && word(stopped, handler_page::COUNT) == 0 && tsc() < deadline {
        own::VCPU.wait(1, tsc() + micros(root, 1_000)).map_err(told("wait"))?;
    }
    Ok((child, address, stopped))
}

/// Each of these as the top page table of a VM of its own that it is not in, and a frame of the machine's as likely as not
/// in somebody else: the next instruction cannot be fetched, nor an upcall be delivered, so that the VM ends, for a nested
/// fault in just this frame.
pub fn top_page_tables_anywhere(root: &mut Root) -> Check {
    const ADDRESS_BITS: u32 = 40;
    let mut random = Random(1);
    let beyond = CHILD_CODE + 4096 * (1 + u64::from(control::PAGES));
    let near = [0, beyond, beyond + 4096, 0x1f_f000, 0x20_0000];
    let far = core::iter::from_fn(|| Some(random.below(1 << ADDRESS_BITS))).take(16);
    let frames = OUTSIDE.into_iter().chain(near).chain(far).map(|address| address & !0xfff);
    // The first of them is what the child's tables lie in.
    for frame in frames.filter(|frame| !(4096..beyond).contains(frame)) {
        let mark = root.mark();
        let (child, page, stopped) = write_in_a_child(root, Which::Cr3, frame, 0)?;
        let [count, reason, gpa] =
            [handler_page::COUNT, handler_page::REASON, handler_page::DETAIL].map(|offset| word(stopped, offset));
        if (count, reason, gpa & !0xfff, word(page, at::ROUNDS)) != (1, StopReason::NestedFault as u64, frame, 0) {
            return Err(format!("with CR3 {frame:#x} it was stopped {count} times, for {reason} at {gpa:#x}"));
        }
        end(&child)?;
        root.return_to(mark).map_err(told("slots"))?;
    }
    Ok(())
}

/// What came of an attempt, and whether it may.
fn judge(page: u64, stopped: u64, which: Which, set: u64, clear: u64, wanted: Wanted) -> Result<Outcome, String> {
    let three = |offset: usize| [0, 8, 16].map(|register| word(page, offset + register));
    let (before, after, later) = (three(at::BEFORE), three(at::AFTER), three(at::LATER));
    let (vector, exceptions) = (word(page, at::VECTOR), word(page, at::EXCEPTIONS));
    let told =
        format!("before {before:x?}, after {after:x?}, later {later:x?}, {exceptions} exceptions, last {vector}");
    if word(stopped, handler_page::COUNT) != 0 {
        let reason = word(stopped, handler_page::REASON);
        let clear_ones = [StopReason::InvalidState, StopReason::Shutdown, StopReason::NestedFault];
        let efer = word(stopped, handler_page::REGISTERS + (Register::ALL.len() + 3) * 8);
        // Without paging there is no long mode: the processor itself shows that.
        let lma = if which == Which::Cr0 { 1 << 10 } else { 0 };
        return if wanted != Wanted::Harmless || !clear_ones.iter().any(|&known| known as u64 == reason) {
            Err(format!("it was stopped for {reason}; {told}"))
        } else if (efer ^ before[2]) & !lma != 0 {
            Err(format!("it was stopped with EFER {efer:#x}; {told}"))
        } else {
            Ok(Outcome::Ended)
        };
    }
    if word(page, at::ROUNDS) == 0 {
        return Err(format!("it neither ended nor went on; {told}"));
    }
    if after != later {
        return Err(format!("an entry has changed its registers; {told}"));
    }
    if exceptions != 0 {
        let right = wanted != Wanted::Taken && vector == GENERAL_PROTECTION && exceptions == 1 && after == before;
        return if right { Ok(Outcome::Refused) } else { Err(told) };
    }
    // What it asked for, or without the bits that do not exist.
    let mut all = before;
    all[which as usize] = (before[which as usize] | set) & !clear;
    let right = wanted != Wanted::Refused && (after == all || wanted == Wanted::Harmless && after == before);
    if right { Ok(Outcome::WentOn) } else { Err(told) }
}
