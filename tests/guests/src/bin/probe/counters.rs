//! That the statistics pages count what was done: exits by reason, invocations by label, refusals by error, switches,
//! shootdowns and upcalls, per VM and for all.

use alloc::format;
use alloc::string::String;
use cap_spec::abi::{Error, ExitKind, Label, Rights, STATS_PAGE, slots, stats_page};
use guests::memory::{UPCALL, read_faults};
use guests::root::{Root, word};
use guests::{attempt, children, trap};
use userlib::arch::FAULT_VECTOR;
use userlib::cap::{Cap, Frame, Machine, Slot, own};

use crate::{Check, end, micros, told};

/// Counters of a page: exits up to `UPCALLS`, then invocations and refusals.
const WORDS: usize = 192;

/// All counters of a page.
fn counters(page: u64) -> [u64; WORDS] {
    core::array::from_fn(|index| word(page, index * 8))
}

/// By how much each counter has grown.
fn growth(before: &[u64; WORDS], after: &[u64; WORDS]) -> [u64; WORDS] {
    core::array::from_fn(|index| after[index].wrapping_sub(before[index]))
}

const fn exit(kind: ExitKind) -> usize {
    stats_page::EXITS / 8 + kind as usize
}

const fn call(label: Label) -> usize {
    stats_page::INVOCATIONS / 8 + label as usize
}

const fn refusal(error: Error) -> usize {
    stats_page::REFUSALS / 8 + error as usize
}

/// Counters that depend on when the clock strikes.
const BY_TIME: [usize; 5] = [
    exit(ExitKind::Nmi),
    stats_page::SWITCHES / 8,
    stats_page::USED_TICKS / 8,
    stats_page::LONGEST_HOLD / 8,
    stats_page::WORST_SHORTFALL / 8,
];

/// What was counted is what was done, and nothing else.
fn expect(what: &str, growth: &[u64; WORDS], done: &[(usize, u64)]) -> Check {
    for (index, &got) in growth.iter().enumerate() {
        let wanted = done.iter().filter(|(at, _)| *at == index).map(|(_, count)| count).sum::<u64>();
        if got != wanted && !BY_TIME.contains(&index) {
            return Err(format!("{what}: word {index:#x} grew by {got}, not {wanted}"));
        }
    }
    Ok(())
}

/// The root VM does a known number of things of each kind, alone on the machine.
pub fn statistics_count_what_is_done(root: &mut Root) -> Check {
    let machine: Cap<Machine> = Slot::root(slots::MARKET).cap();
    let global_frame = machine.statistics_page(root.slot()).map_err(told("statistics"))?;
    let global = root.window(1);
    global_frame.map(own::VM, global, Rights::READ).map_err(told("statistics"))?;
    let frame: Cap<Frame> = root.make(12).map_err(told("frame"))?;
    let (empty, address) = (root.slot(), root.window(1));
    let before = (counters(STATS_PAGE), counters(global));
    let done = do_things(frame, empty, address)?;
    let after = (counters(STATS_PAGE), counters(global));
    expect("the VM's page", &growth(&before.0, &after.0), &done)?;
    expect("the global page", &growth(&before.1, &after.1), &done)?;
    global_frame.slot().delete().map_err(told("statistics"))?;
    statistics_of_two_vms(root)
}

/// Does things that are counted; returns what the counters must have grown by.
fn do_things(frame: Cap<Frame>, empty: Slot, address: u64) -> Result<[(usize, u64); 19], String> {
    (0..17).try_for_each(|_| own::VCPU.nop()).map_err(told("nop"))?;
    let mut invoked = 17;
    for _ in 0..3 {
        frame.map(own::VM, address, Rights::READ).map_err(told("map"))?;
        frame.unmap().map_err(told("unmap"))?;
        invoked += 2;
    }
    let refused = [frame.unmap(), frame.unmap()].map(|outcome| outcome.err().map(|fault| fault.error));
    let unknown = userlib::invoke::raw(own::VCPU.cptr(), 1 << 40, [0; 5]).0;
    let missing = empty.cap::<Frame>().unmap().err().map(|fault| fault.error);
    invoked += 4;
    if refused != [Some(Error::NotMapped); 2] || unknown == 0 || missing != Some(Error::InvalidCapability) {
        return Err(format!("refused with {refused:?}, {unknown:#x} and {missing:?}"));
    }
    own::VCPU.set_upcall(UPCALL, 0).map_err(told("upcall"))?;
    trap::within(|| {
        for _ in 0..5 {
            core::hint::black_box(core::arch::x86_64::__cpuid(0));
        }
        for _ in 0..6 {
            let _ = attempt!("rdmsr"; in("ecx") 0x10, out("eax") _, out("edx") _);
        }
        for _ in 0..4 {
            let _ = attempt!("in al, dx"; in("dx") 0x80u16, out("al") _);
        }
        for _ in 0..2 {
            let _ = attempt!("xsetbv"; in("rcx") 0, in("rax") 0, in("rdx") 0);
            // The trap flag: #DB after the next instruction.
            let _ = attempt!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop");
        }
        for _ in 0..7 {
            let _ = attempt!("clgi");
        }
        for _ in 0..3 {
            let _ = attempt!("mov {}, dr0"; out(reg) _);
        }
        for _ in 0..9 {
            let _ = read_faults(address);
        }
    });
    own::VCPU.set_upcall(FAULT_VECTOR, 0).map_err(told("upcall"))?;
    invoked += 2;
    Ok([
        (exit(ExitKind::Invoke), invoked),
        (call(Label::Nop), 17),
        (call(Label::FrameMap), 3),
        (call(Label::FrameUnmap), 3 + 2 + 1),
        (call(Label::VcpuSetUpcall), 2),
        (refusal(Error::NotMapped), 2),
        (refusal(Error::InvalidCapability), 1),
        (refusal(Error::InvalidLabel), 1),
        (stats_page::SHOOTDOWNS / 8, 3),
        (exit(ExitKind::Cpuid), 5),
        (exit(ExitKind::Msr), 6),
        (exit(ExitKind::Port), 4),
        (exit(ExitKind::Xsetbv), 2),
        (exit(ExitKind::Exception), 2),
        (exit(ExitKind::Instruction), 7),
        // Only the first touch: from then on the registers are the VM's.
        (exit(ExitKind::Register), 1),
        (exit(ExitKind::NestedFault), 9),
        (stats_page::UPCALLS / 8, 9),
        (exit(ExitKind::Other), 0),
    ])
}

/// A child's invocations and switches stand in its own page and in the global one, and not in the root VM's.
fn statistics_of_two_vms(root: &mut Root) -> Check {
    const TRIPS: u64 = 25;
    let (page, _) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, 2_000);
    let child = root.child(children::echo(), 1, &[page], 0, period / 4, period).map_err(told("child"))?;
    let frame = child.vm.statistics_page(root.slot()).map_err(told("statistics"))?;
    let theirs = root.window(1);
    frame.map(own::VM, theirs, Rights::READ).map_err(told("statistics"))?;
    root.launch(&child).map_err(told("launch"))?;
    own::VCPU.wait(1, 0).map_err(told("wait"))?;
    let before = (counters(STATS_PAGE), counters(theirs));
    for _ in 0..TRIPS {
        child.channel.signal_wait(1, 0).map_err(told("round trip"))?;
    }
    let after = (counters(STATS_PAGE), counters(theirs));
    let done = [(exit(ExitKind::Invoke), TRIPS), (call(Label::ChannelWait), TRIPS)];
    let (own, child_growth) = (growth(&before.0, &after.0), growth(&before.1, &after.1));
    expect("the root VM's page", &own, &done)?;
    expect("the child's page", &child_growth, &done)?;
    for (whose, growth) in [("the root VM", own), ("the child", child_growth)] {
        let (switches, used) = (growth[stats_page::SWITCHES / 8], growth[stats_page::USED_TICKS / 8]);
        if switches < TRIPS || used == 0 {
            return Err(format!("{whose} was switched to {switches} times and used {used} ticks"));
        }
    }
    end(&child)
}
