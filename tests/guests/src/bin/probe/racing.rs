//! That two cores may do the same things at the same time: every answer is one that the specification knows, what was done
//! and undone balances, and afterwards all memory and time come back whole and clean.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use cap_spec::abi::{Error, Label, ObjectType, ROOT_BOOT_INFO, Register, Rights, boot_info, handler_page, slots};
use guests::race::{self, Attempt, FIRST, PLAY, PLAY_BITS, PORT, ROUTE, SPIN, Script, bits_of, given, play};
use guests::root::{CHILD_CODE, CHILD_TOP, Child, Root, tsc, word};
use userlib::cap::{
    CNode, Cap, Channel, CpuTime, Fault, Frame, IoPort, Irq, PageTable, Slot, Untyped, Vcpu, VcpuPage, own,
};

use crate::keeping::Keeper;
use crate::{Check, last_core, micros, second_vcpu, sleep, told};

/// log2 of the bytes of a racers' block, and of what is made of [`given::WORK`].
const BLOCK_BITS: u8 = 18;
/// See [`BLOCK_BITS`].
const WORK_BITS: u8 = 16;
/// Period of everybody who races.
const PERIOD_MICROS: u64 = 4_000;
/// Entries of a random script.
const ENTRIES: usize = 320;

/// A race under way.
struct Race {
    child: Child,
    script: Script,
    /// The time of the second racer, and what others are given their time from.
    times: Vec<Cap<CpuTime>>,
    /// Where the handler pages of both racers are, as long as there are any.
    handlers: Vec<u64>,
    /// What the root VM's slots and window were before it.
    mark: u16,
    window: u64,
}

impl Race {
    /// Lets the racers revoke the base of their VM, the handler pages with it.
    fn revoke_base(&mut self) {
        self.handlers.clear();
        self.script.revoke_base();
    }

    /// True if nothing has stopped a racer, as nothing may; false if the emulator has broken one. With a thread for each core it
    /// now and then saves the state of the host, which only it knows, as that of the guest that is left (CAVEATS.md): page tables
    /// that no racer has.
    fn is_whole(&self) -> Result<bool, String> {
        let Some((&page, number)) =
            self.handlers.iter().zip(1..).find(|(page, _)| word(**page, handler_page::COUNT) != 0)
        else {
            return Ok(true);
        };
        let register = |register: Register| word(page, handler_page::REGISTERS + register as usize * 8);
        if register(Register::Cr3) != CHILD_TOP {
            return Ok(false);
        }
        let [reason, detail, access] =
            [handler_page::REASON, handler_page::DETAIL, handler_page::DETAIL2].map(|offset| word(page, offset));
        let rip = register(Register::Rip);
        Err(format!("racer {number} was stopped for {reason} with {detail:#x} and {access:#x} at {rip:#x}"))
    }
}

/// Lets the root VM read the handler page of a racer.
fn handler_of(root: &mut Root, vcpu: Cap<Vcpu>) -> Result<u64, Fault> {
    let handler: Cap<Frame> = vcpu.page(VcpuPage::Handler, root.slot())?;
    let address = root.window(1);
    handler.map(own::VM, address, Rights::READ)?;
    Ok(address)
}

/// What racers split off the time that they are given: budget and period.
fn part(root: &Root) -> (u64, u64) {
    (micros(root, 100), micros(root, PERIOD_MICROS))
}

/// Makes two racers, on the first and the last core, of a VM in this block, and gives them what they play with.
fn race(root: &mut Root, block: Cap<Untyped>, seed: u64, attempts: &[Attempt]) -> Result<Race, String> {
    let made = make(root, block, seed, attempts).map_err(told("race"))?;
    let (second, time) = second_vcpu(root, &made.child, micros(root, 1_000), micros(root, PERIOD_MICROS))?;
    second.set_register(Register::Rdi, 1).map_err(told("register"))?;
    let mut race = made;
    race.times.push(time);
    race.handlers.push(handler_of(root, second).map_err(told("handler"))?);
    root.launch(&race.child).map_err(told("launch"))?;
    Ok(race)
}

fn make(root: &mut Root, block: Cap<Untyped>, seed: u64, attempts: &[Attempt]) -> Result<Race, Fault> {
    let (mark, window) = (root.mark(), root.window(0));
    let mut pages = Vec::new();
    let (first, address) = root.shared_page()?;
    pages.push(first);
    for _ in 1..Script::pages(attempts.len()) {
        pages.push(root.shared_page()?.0);
    }
    let script = Script::write(address, seed, attempts);
    let last = last_core(root);
    let period = micros(root, PERIOD_MICROS);
    let time = root.core_time(last).split(period / 2, period, root.slot())?;
    let child = root.child_in(block, BLOCK_BITS, time, race::racer(), 1, &pages)?;
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    let holder: Cap<CNode> = base.retype(PLAY_BITS, root.slot())?;
    let inside = |index: u16| Slot::in_node(holder.slot().index(), index);
    base.retype::<Untyped>(WORK_BITS, inside(given::WORK))?;
    base.retype::<Untyped>(13, inside(given::TWO_PAGES))?;
    base.retype::<Frame>(12, inside(given::FRAME))?;
    base.retype::<PageTable>(0, inside(given::TABLE))?;
    // It takes part by being started and stopped only.
    let third: Cap<Vcpu> = base.retype(0, inside(given::VCPU))?;
    third.attach(child.vm, CHILD_CODE + SPIN, 0x1000, 0)?;
    let [one, two] = given::ENDS;
    let channel = root.make::<Channel>(0)?;
    inside(two).mint(channel, Rights::all(), 2)?;
    inside(one).move_from(channel)?;
    Slot::root(slots::IRQ).cap::<Irq>().split(ROUTE, 1, inside(given::IRQ))?;
    Slot::root(slots::CONSOLE).cap::<IoPort>().split(PORT as u16, 1, inside(given::PORTS))?;
    let mut times = Vec::new();
    for (core, to) in [0, last].into_iter().zip(given::TIMES) {
        let whole = root.core_time(core).split(period / 20, period, root.slot())?;
        whole.split(period / 20, period, inside(to))?;
        times.push(whole);
    }
    Slot::in_node(node, PLAY).move_from(holder)?;
    let first = handler_of(root, child.vcpu)?;
    Ok(Race { child, script, times, handlers: Vec::from([first]), mark, window })
}

/// Sleeps until this is so, or something was answered as it must not be. False if it does not come to that, as a racer is not
/// whole ([`Race::is_whole`]).
fn until(root: &Root, race: &Race, what: &str, done: impl Fn() -> bool) -> Result<bool, String> {
    let deadline = tsc() + micros(root, PATIENCE_MICROS);
    while !done() {
        if let Some((entry, status)) = race.script.wrong() {
            return Err(format!("entry {entry} was answered with {status:#x}"));
        }
        if !race.is_whole()? {
            return Ok(false);
        }
        if tsc() > deadline {
            let stuck = race.script.all().enumerate().filter(|(_, answers)| answers.done == 0 || answers.refused == 0);
            let stuck: Vec<_> = stuck.take(8).collect();
            return Err(format!("never {what}; {} and {} made, {stuck:?}", race.script.made(0), race.script.made(1)));
        }
        sleep(root, 2_000);
    }
    Ok(true)
}

/// For what only a machine that hangs, or that leaves no time to one of its cores, does not come to, however busy its host is.
const PATIENCE_MICROS: u64 = 300_000_000;

/// Takes everything back, under the racers if they still run, and looks at what comes back.
fn take_back(root: &mut Root, race: &Race) -> Check {
    // The block first, as long as they have time to resist.
    race.child.block.revoke().map_err(told("block"))?;
    race.child.time.delete().map_err(told("time"))?;
    race.times.iter().try_for_each(|time| time.delete().map_err(told("time")))?;
    root.is_clean(race.child.block, BLOCK_BITS).map_err(told("block"))??;
    if let Some((entry, status)) = race.script.wrong() {
        return Err(format!("entry {entry} was answered with {status:#x}"));
    }
    let last = root.core_time(last_core(root)).slot().identify().map_err(told("time"))?;
    if last.has_children && root.cores > 1 {
        return Err("time of the last core is missing".into());
    }
    for (slot, what) in [(slots::IRQ, "a route"), (slots::CONSOLE, "a port")] {
        if Slot::root(slot).identify().map_err(told("range"))?.has_children {
            return Err(format!("{what} is missing"));
        }
    }
    match word(ROOT_BOOT_INFO, boot_info::RESTARTS) {
        0 => {}
        restarts => return Err(format!("the root VM was restarted {restarts} times")),
    }
    root.reset_window(race.window);
    root.return_to(race.mark).map_err(told("slots"))
}

/// One kind of attempt of the first race: what it is, and what undoes it.
struct Move {
    what: &'static str,
    /// What undoes it: that was done as often, or once less.
    undone_by: Option<&'static str>,
    attempt: Attempt,
}

/// Everything that two holders of the same capabilities do and undo, each with the refusals of who comes second, and no
/// others.
fn moves(part: (u64, u64)) -> Vec<Move> {
    use Error::*;
    const COPY: u16 = FIRST;
    const PAGES: u16 = FIRST + 1;
    const HERE: u16 = FIRST + 3;
    const THERE: u16 = FIRST + 4;
    const ACCEPTED: u16 = FIRST + 5;
    const TIME: u16 = FIRST + 6;
    const NODE: u16 = FIRST + 7;
    const OTHER_NODE: u16 = FIRST + 8;
    const ROUTES: u16 = FIRST + 9;
    const PORTS: u16 = FIRST + 10;
    const KNOT: u16 = FIRST + 11;
    let vm = u64::from(slots::VM);
    let node = u64::from(PLAY);
    let all = u64::from(Rights::all().bits());
    let frame = play(given::FRAME);
    let vcpu = play(given::VCPU);
    let make = |of: u16, kind: ObjectType, bits: u64, to: u16, count: u64| {
        (play(of), Label::UntypedRetype, [kind as u64, bits, node, to.into(), count])
    };
    let (frames, cnode) = (ObjectType::Frame, ObjectType::CNode);
    let delete = |slot: u16| (node, Label::CNodeDelete, [slot.into(), 0, 0, 0, 0]);
    let revoke = |slot: u16| (node, Label::CNodeRevoke, [slot.into(), 0, 0, 0, 0]);
    let on = |cap: u64, label: Label, args: &[u64]| {
        let mut all = [0; 5];
        all[..args.len()].copy_from_slice(args);
        (cap, label, all)
    };
    type Call = (u64, Label, [u64; 5]);
    let list: &[(&'static str, Option<&'static str>, Call, &[Error])] = &[
        ("map", Some("unmap"), on(frame, Label::FrameMap, &[vm, 0x15_0000, 3, 0]), &[InUse]),
        ("unmap", None, on(frame, Label::FrameUnmap, &[0]), &[NotMapped]),
        ("copy", Some("delete the copy"), on(node, Label::CNodeCopy, &[COPY.into(), frame, 3]), &[SlotOccupied]),
        ("delete the copy", None, delete(COPY), &[SlotEmpty]),
        ("make two pages", None, make(given::TWO_PAGES, frames, 12, PAGES, 2), &[SlotOccupied, NotEnoughMemory]),
        (
            "map the pages",
            None,
            on(play(PAGES), Label::FrameMap, &[vm, 0x15_2000, 3, 1]),
            &[InvalidCapability, WrongType, InUse],
        ),
        ("revoke two pages", None, revoke(given::TWO_PAGES), &[]),
        ("make a knot", None, make(given::WORK, ObjectType::Untyped, 14, KNOT, 1), &[SlotOccupied, NotEnoughMemory]),
        ("grant", Some("accept"), on(play(given::ENDS[0]), Label::ChannelGrant, &[frame, 3, 0]), &[ChannelFull]),
        (
            "accept",
            Some("delete what came"),
            on(play(given::ENDS[1]), Label::ChannelAccept, &[node, ACCEPTED.into()]),
            &[SlotOccupied, ChannelEmpty],
        ),
        ("delete what came", None, delete(ACCEPTED), &[SlotEmpty]),
        ("mint", Some("delete the mint"), on(node, Label::CNodeMint, &[HERE.into(), frame, 1, 0]), &[SlotOccupied]),
        (
            "move there",
            None,
            on(node, Label::CNodeMove, &[THERE.into(), play(HERE)]),
            &[SlotOccupied, InvalidCapability],
        ),
        ("delete the mint", None, delete(HERE), &[SlotEmpty]),
        ("delete what moved", None, delete(THERE), &[SlotEmpty]),
        (
            "put a table in",
            Some("take it out"),
            on(play(given::TABLE), Label::PageTableMap, &[vm, 0x20_0000, 1]),
            &[InUse],
        ),
        ("take it out", None, on(play(given::TABLE), Label::PageTableUnmap, &[]), &[NotMapped]),
        (
            "split time",
            Some("delete time"),
            on(play(given::TIMES[0]), Label::CpuTimeSplit, &[part.0, part.1, node, TIME.into()]),
            &[SlotOccupied],
        ),
        ("resize time", None, on(play(TIME), Label::CpuTimeResize, &[part.0 * 3 / 4, part.1]), &[InvalidCapability]),
        ("delete time", None, delete(TIME), &[SlotEmpty]),
        ("bind time", None, on(vcpu, Label::VcpuBindTime, &[play(TIME)]), &[InvalidCapability, InUse, Running]),
        ("unbind time", None, on(vcpu, Label::VcpuUnbindTime, &[]), &[NotConfigured, Running]),
        ("start", None, on(vcpu, Label::VcpuStart, &[]), &[NotConfigured, Running]),
        ("stop", None, on(vcpu, Label::VcpuStop, &[]), &[]),
        ("read a register", None, on(vcpu, Label::VcpuGetRegister, &[Register::Rsp as u64]), &[Running, Busy]),
        ("signal", None, on(vcpu, Label::VcpuSignal, &[4]), &[]),
        ("make a CNode", None, make(KNOT, cnode, 6, NODE, 1), &[InvalidCapability, SlotOccupied, NotEnoughMemory]),
        (
            "make another",
            None,
            make(KNOT, cnode, 6, OTHER_NODE, 1),
            &[InvalidCapability, SlotOccupied, NotEnoughMemory],
        ),
        (
            "a CNode into itself",
            None,
            on(play(NODE), Label::CNodeMove, &[5, play(NODE)]),
            &[InvalidCapability, SlotOccupied],
        ),
        (
            "one into the other",
            None,
            on(play(NODE), Label::CNodeMove, &[6, play(OTHER_NODE)]),
            &[InvalidCapability, SlotOccupied],
        ),
        (
            "and back",
            None,
            on(play(OTHER_NODE), Label::CNodeCopy, &[7, play(NODE), all]),
            &[InvalidCapability, SlotOccupied],
        ),
        ("revoke the knot", None, revoke(KNOT), &[SlotEmpty]),
        ("revoke what it is of", None, revoke(given::WORK), &[]),
        (
            "split routes",
            Some("delete routes"),
            on(play(given::IRQ), Label::IrqSplit, &[ROUTE, 1, node, ROUTES.into()]),
            &[SlotOccupied],
        ),
        (
            "bind a route",
            None,
            on(play(ROUTES), Label::IrqBind, &[slots::VCPU.into(), 0x60]),
            &[InvalidCapability, InUse],
        ),
        ("delete routes", None, delete(ROUTES), &[SlotEmpty]),
        (
            "split ports",
            Some("delete ports"),
            on(play(given::PORTS), Label::IoPortSplit, &[PORT, 1, node, PORTS.into()]),
            &[SlotOccupied],
        ),
        ("delete ports", None, delete(PORTS), &[SlotEmpty]),
    ];
    let into_move = |&(what, undone_by, (cap, label, args), errors): &(_, _, Call, &[Error])| {
        let attempt = Attempt { cap, label: label as u64, args, permitted: bits_of(errors) };
        Move { what, undone_by, attempt }
    };
    list.iter().map(into_move).collect()
}

/// The same capabilities used from two cores: each thing was done and, if it can be, refused; what was done and undone
/// balances; then all is taken back while the racers run on, or while they revoke it themselves. False if the race came to
/// nothing, as a racer is not whole: all is taken back then, too.
fn race_of_moves(
    root: &mut Root,
    block: Cap<Untyped>,
    seed: u64,
    least: u64,
    themselves: bool,
) -> Result<bool, String> {
    let moves = moves(part(root));
    let attempts: Vec<Attempt> = moves.iter().map(|known| known.attempt).collect();
    let mut race = race(root, block, seed, &attempts)?;
    let script = race.script;
    let ran = until(root, &race, "everything done and refused", || {
        let each = script.all().zip(&moves);
        script.made(0).min(script.made(1)) >= least
            && each
                .into_iter()
                .all(|(answers, known)| answers.done > 0 && (answers.refused > 0 || known.attempt.permitted == 0))
    })?;
    script.stop();
    let ended = ran && until(root, &race, "stopped", || script.has_stopped(0) && script.has_stopped(1))?;
    for (number, known) in moves.iter().enumerate().filter(|_| ended) {
        let Some(undoing) = known.undone_by.and_then(|what| moves.iter().position(|other| other.what == what)) else {
            continue;
        };
        let (done, mut undone) = (script.answers(number).done, script.answers(undoing).done);
        let mut most = 1;
        if known.what == "mint" {
            // It may also lie, and die, where it was moved to.
            undone += moves
                .iter()
                .position(|other| other.what == "delete what moved")
                .map_or(0, |at| script.answers(at).done);
            most = 2;
        }
        if !(undone..=undone + most).contains(&done) {
            return Err(format!("{} was done {done} times and undone {undone} times", known.what));
        }
    }
    if ended && themselves {
        race.revoke_base();
    }
    take_back(root, &race)?;
    Ok(ended)
}

/// Random invocations from two cores, with third racers that come and go; the block is taken away under them. As above.
fn race_at_random(
    root: &mut Root,
    block: Cap<Untyped>,
    seed: u64,
    least: u64,
    themselves: bool,
) -> Result<bool, String> {
    let attempts = race::random_script(seed, ENTRIES, part(root));
    let mut race = race(root, block, seed, &attempts)?;
    let script = race.script;
    let ran = until(root, &race, "made enough", || script.made(0).min(script.made(1)) >= least)?;
    let (done, refused) =
        script.all().fold((0, 0), |(done, refused), answers| (done + answers.done, refused + answers.refused));
    // Some must go through, or only the first checks would be raced.
    if ran && done < refused / 50 {
        return Err(format!("only {done} were carried out, {refused} were refused"));
    }
    if ran && themselves {
        race.revoke_base();
        until(root, &race, "stopped", || script.has_stopped(0) || script.has_stopped(1))?;
    }
    take_back(root, &race)?;
    Ok(ran)
}

/// Two Vcpus of one VM on two cores, each mapping, unmapping, copying, moving, deleting, granting, binding, starting,
/// making and revoking the same objects.
pub fn races_of_two_cores(root: &mut Root) -> Check {
    if root.cores < 2 {
        return Ok(());
    }
    let block = root.make(BLOCK_BITS).map_err(told("block"))?;
    ended(race_of_moves(root, block, 1, 4_000, false)?)?;
    ended(race_of_moves(root, block, 2, 4_000, true)?)
}

/// Where cores take turns, the emulator breaks no racer.
fn ended(race: bool) -> Check {
    if race { Ok(()) } else { Err("a racer has page tables that are not its own".into()) }
}

/// The same random invocations from two cores.
pub fn random_races_of_two_cores(root: &mut Root) -> Check {
    if root.cores < 2 {
        return Ok(());
    }
    let block = root.make(BLOCK_BITS).map_err(told("block"))?;
    (1..=4).try_for_each(|seed| ended(race_at_random(root, block, seed, 4_000, seed % 2 == 0)?))
}

/// Both for some seconds, on a machine whose cores run side by side, beside a tenant that keeps what it has.
pub fn races_for_real(root: &mut Root) -> Check {
    /// Of each kind at least, however long that takes on a host that has no time for it.
    const LEAST: u64 = 2;
    /// It is seen once in some minutes.
    const MOST_BROKEN: u64 = 2;
    const SECONDS: u64 = 8;
    let keeper = Keeper::start(root, 5)?;
    let block = root.make(BLOCK_BITS).map_err(told("block"))?;
    let enough = tsc() + micros(root, SECONDS * 1_000_000);
    let (mut ended, mut broken) = (0, 0);
    for round in 0.. {
        if ended >= 2 * LEAST && tsc() > enough {
            break;
        }
        for race in [race_of_moves, race_at_random] {
            let has_ended = race(root, block, round, 2_000, round % 2 == 0)?;
            (ended, broken) = (ended + u64::from(has_ended), broken + u64::from(!has_ended));
        }
        if broken > MOST_BROKEN {
            return Err(format!("{broken} races came to nothing, as a racer had page tables that were not its own"));
        }
    }
    root.text(&format!("probe: {ended} races, {broken} more in which the emulator has broken a racer\n"));
    keeper.expect_whole(root)?;
    keeper.end(root)
}
