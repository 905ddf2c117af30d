//! The machine: cores that run guests, address translation with stale caches, NMIs and interrupts in flight, one
//! comparator, a clock. What a core does here needs no kernel lock; what needs it is in `core_loop`.
//!
//! Every access of a guest is judged when it happens ([`Hardware::access`]): it must be one that the tables in memory
//! allow now, or allowed before the kernel step that is under way. So a translation that survives the invocation that
//! withdrew it is found by its first use.

use crate::bug::Bug;
use crate::memory::{Memory, PAGE, Use};
use crate::random::Random;
use crate::tlb::{Cached, Tlb, prefix};
use cap_spec::abi::Rights;
use kernel::Call;
use kernel::asid;
use kernel::nested::{Entry, EntryFormat, ROOT_LEVEL, entry_index};
use kernel::protocol::deadlines::{Alarm, Deadlines};
use kernel::protocol::pending::{Pending, VALID};
use kernel::protocol::{Entering, Gate, Halting, Left, NmiPending, Outside};
use kernel::types::{Gpa, Hpa, VcpuId, VmId};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

/// How the tables are written.
pub const FORMAT: EntryFormat = EntryFormat::Npt;
/// Interrupt routes that devices use: the first is route 4.
pub const ROUTES: usize = 3;
/// Number of the first route that a device uses.
pub const FIRST_ROUTE: u16 = 4;
/// Vector of fault upcalls.
pub const UPCALL: u8 = 64;
/// Vector of events.
pub const EVENT: u8 = 65;
/// Byte of a page that guests read and write: no word that the kernel shares lies there.
const TOUCHED: u64 = 0x800;
/// Accessed and dirty bits of a nested entry.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Turns of the others within which an expelled core must have left its guest.
const EXPEL_TURNS: usize = 2_000;
/// Moments a guest may be open for an interrupt that it is owed and not get it.
const OWED_MOMENTS: u32 = 100;

/// Why a guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An NMI.
    Nmi,
    /// A hypercall.
    Invoke,
    /// An access that the tables do not allow.
    Fault {
        /// Where.
        gpa: Gpa,
        /// A store.
        write: bool,
    },
    /// The guest can take an interrupt now, for which the kernel asked.
    Window,
    /// Something that the back end settles by itself.
    Other,
}

/// Where a core is in the protocol. The lock is held from `Holding` on to the release that ends `Committed` and
/// `CommittedHalt`.
#[derive(Debug)]
pub enum Stage {
    /// Between two stages.
    Moving,
    /// Waits for the lock.
    Queue(Outside),
    /// Waits for the lock, and has told nobody that it is out: the bug.
    LateQueue(Entering, bool),
    /// Works under the lock.
    Holding(kernel::protocol::Holding),
    /// Has told that it enters; the lock is still held.
    Committed(Entering, Run),
    /// The lock is free again; VMRUN is next.
    Enter(Entering, Run),
    /// In the guest.
    Guest(Entering),
    /// The guest was left, its registers are not saved yet.
    Exited(Entering),
    /// Registers are saved; the NMI that ended the guest is pending.
    Window(NmiPending),
    /// Has told that it halts; the lock is still held.
    CommittedHalt(Halting),
    /// The lock is free again; STGI is next.
    Halt(Halting),
    /// In HLT.
    Halted(Halting),
}

/// What VMRUN is given.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Who.
    pub vcpu: VcpuId,
    /// Its VM.
    pub vm: VmId,
    /// Number and flush.
    pub entry: asid::Entry,
    /// The event to inject, 0 for none.
    pub event: u64,
    /// Leave as soon as the guest is open.
    pub window: bool,
}

/// A core.
#[derive(Debug)]
pub struct Core {
    /// Where it is.
    pub stage: Stage,
    /// What it tells the others.
    pub gate: Gate,
    /// Why the guest was left last.
    pub exit: Exit,
    /// The event whose delivery that exit cut off, 0 for none.
    pub cut_off: u64,
    /// What it runs or ran last.
    pub run: Run,
    /// An entry with `run` was executed since it was decided.
    pub executed: bool,
    /// The Vcpu whose routes are unmasked towards this core.
    pub open_for: VcpuId,
    /// When its last decision ends.
    pub until: u64,
    /// Since when it has been called to decide anew.
    pub called: Option<u64>,
    tlb: Tlb,
    nmi_pending: bool,
    nmi_coming: bool,
    /// Vectors accepted by its interrupt controller.
    pub requested: [u64; 4],
    /// Which number each VM had here last.
    numbers: BTreeMap<VmId, u32>,
}

/// What the machine keeps of a Vcpu.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Registers, by the numbers of `Register`.
    pub registers: [u64; 21],
    /// Its interrupt flag.
    pub open: bool,
    /// In HLT with the core kept.
    pub halted: bool,
    /// What it is owed.
    pub pending: Pending,
    /// A hypercall that was preempted: it executes it again.
    pub repeated: Option<Call>,
    /// Vectors that a device raised and it has not seen, with the moments it was open for them.
    pub owed: BTreeMap<u8, u32>,
    /// Vectors it has seen.
    pub seen: u64,
    /// Moments it ran.
    pub moments: u64,
}

/// A device's interrupt.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Where the route leads while it is unmasked.
    pub target: Option<(usize, u8)>,
    /// Raised while masked.
    pub latched: bool,
    /// Whose it is, and as which vector, according to the kernel.
    pub owner: Option<(VcpuId, u8)>,
}

/// The whole machine.
#[derive(Debug)]
pub struct Hardware {
    /// Memory.
    pub memory: Memory,
    /// Cores.
    pub cores: Vec<Core>,
    /// Machine states of Vcpus.
    pub guests: BTreeMap<VcpuId, Guest>,
    /// Devices.
    pub lines: [Line; ROUTES],
    /// Messages of devices in flight: line, core, vector.
    messages: Vec<(usize, usize, u8)>,
    /// Deadlines of all cores (the kernel's, under the lock).
    pub deadlines: Deadlines,
    comparator: Option<Alarm>,
    clock: Cell<u64>,
    /// Who holds the kernel lock.
    pub holder: Option<usize>,
    /// Who waits for it, in order.
    pub queue: VecDeque<usize>,
    /// The kernel library is at work for the holder.
    pub in_step: bool,
    /// Chance.
    pub random: Random,
    /// The bug that is seeded.
    pub bug: Option<Bug>,
    /// What was found wrong first.
    pub violation: Option<String>,
    /// Print what happens.
    pub trace: bool,
    /// Counts guests' stores, so that each is told from every other.
    stores: u64,
    /// When the frame at a page was made, in stores.
    pub made: Vec<u64>,
    /// Guest accesses that were judged.
    pub accesses: u64,
    /// Interrupts that guests took.
    pub interrupts: u64,
    /// Expulsions of a core that was in a guest.
    pub expulsions: u64,
}

impl Hardware {
    /// A machine with this many pages and cores, reset.
    pub fn new(seed: u64, pages: usize, cores: usize, bug: Option<Bug>) -> Hardware {
        let idle = Run {
            vcpu: VcpuId::NONE,
            vm: VmId::NONE,
            entry: asid::Entry { asid: 0, flush_all: false },
            event: 0,
            window: false,
        };
        let core = || Core {
            stage: Stage::Queue(Outside::started()),
            gate: Gate::new(),
            exit: Exit::Other,
            cut_off: 0,
            run: idle,
            executed: false,
            open_for: VcpuId::NONE,
            until: u64::MAX,
            called: None,
            tlb: Tlb::default(),
            nmi_pending: false,
            nmi_coming: false,
            requested: [0; 4],
            numbers: BTreeMap::new(),
        };
        Hardware {
            memory: Memory::new(pages),
            cores: (0..cores).map(|_| core()).collect(),
            guests: BTreeMap::new(),
            lines: [Line { target: None, latched: false, owner: None }; ROUTES],
            messages: Vec::new(),
            deadlines: Deadlines::new(cores),
            comparator: None,
            clock: Cell::new(1),
            holder: None,
            queue: VecDeque::new(),
            in_step: false,
            random: Random::new(seed),
            bug,
            violation: None,
            trace: false,
            stores: 0,
            made: vec![0; pages],
            accesses: 0,
            interrupts: 0,
            expulsions: 0,
        }
    }

    /// Notes what was found wrong; the first finding counts.
    pub fn violate(&mut self, text: String) {
        self.say(|| format!("VIOLATION {text}"));
        self.violation.get_or_insert(text);
    }

    /// Prints a line of the trace.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.clock.get(), text());
        }
    }

    // ---- time and messages ---------------------------------------------------------------------------------------

    /// Reads the clock, which takes a tick.
    pub fn clock(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// Reads the clock, which takes no time: for checks.
    pub fn present(&self) -> u64 {
        self.clock.get()
    }

    /// Time passes; what is in flight may arrive; devices raise interrupts.
    pub fn pass(&mut self, ticks: u64) {
        self.clock.set(self.clock.get() + ticks);
        if let Some(alarm) = self.comparator
            && alarm.at <= self.clock.get()
        {
            self.comparator = None;
            self.send_nmi(alarm.core.get() as usize);
        }
        for core in 0..self.cores.len() {
            if self.cores[core].nmi_coming && self.random.one_in(2) {
                self.cores[core].nmi_coming = false;
                self.cores[core].nmi_pending = true;
            }
        }
        if !self.messages.is_empty() && self.random.one_in(2) {
            let (line, core, vector) = self.messages.remove(0);
            self.accept(line, core, vector);
        }
        if self.random.one_in(24) {
            let line = self.random.below(ROUTES as u64) as usize;
            self.raise(line);
        }
    }

    /// Sets the comparator. One that is set to the past stays silent.
    pub fn set_comparator(&mut self, alarm: Alarm) {
        self.comparator = (alarm.at > self.clock()).then_some(alarm);
    }

    /// An NMI for a core sets out.
    pub fn send_nmi(&mut self, core: usize) {
        if self.random.one_in(2) {
            self.cores[core].nmi_pending = true;
        } else {
            self.cores[core].nmi_coming = true;
        }
    }

    /// A device raises its interrupt.
    fn raise(&mut self, line: usize) {
        let Some((vcpu, vector)) = self.lines[line].owner else { return };
        if let Some(guest) = self.guests.get_mut(&vcpu) {
            guest.owed.entry(vector).or_insert(0);
        }
        match self.lines[line].target {
            Some((core, vector)) => self.messages.push((line, core, vector)),
            None => self.lines[line].latched = true,
        }
    }

    /// A message reaches the interrupt controller of a core.
    fn accept(&mut self, line: usize, core: usize, vector: u8) {
        if let Some((owner, _)) = self.lines[line].owner
            && self.cores[core].open_for != owner
        {
            self.violate(format!("interrupt {vector} of {owner:?} reaches core {core}, which runs another"));
        }
        self.cores[core].requested[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// Opens or masks a line; when this returns, messages that were in flight have arrived (the write was read back).
    pub fn route(&mut self, line: usize, target: Option<(usize, u8)>) {
        let (arrived, coming) = std::mem::take(&mut self.messages).into_iter().partition(|message| message.0 == line);
        self.messages = coming;
        for (line, core, vector) in Vec::<(usize, usize, u8)>::from(arrived) {
            self.accept(line, core, vector);
        }
        self.lines[line].target = target;
        if let Some((core, vector)) = target
            && self.lines[line].latched
        {
            self.lines[line].latched = false;
            self.messages.push((line, core, vector));
        }
    }

    // ---- what a core does without the lock -----------------------------------------------------------------------

    /// One step of a core that needs no lock. False if it has none to do.
    pub fn step_alone(&mut self, core: usize) -> bool {
        let stage = std::mem::replace(&mut self.cores[core].stage, Stage::Moving);
        let (next, moved) = match stage {
            Stage::Enter(token, run) => (self.vmrun(core, token, run), true),
            Stage::Guest(token) => (self.run_guest(core, token), true),
            Stage::Exited(token) => (self.save(core, token), true),
            Stage::Window(pending) => {
                self.cores[core].nmi_pending = false;
                (self.enqueue(core, pending.taken()), true)
            }
            Stage::Halt(token) | Stage::Halted(token) if self.cores[core].nmi_pending => {
                self.cores[core].nmi_pending = false;
                self.cores[core].exit = Exit::Nmi;
                let outside = token.left(&self.cores[core].gate);
                (self.enqueue(core, outside), true)
            }
            Stage::Halt(token) => (Stage::Halted(token), true),
            other => (other, false),
        };
        self.cores[core].stage = next;
        moved
    }

    fn enqueue(&mut self, core: usize, outside: Outside) -> Stage {
        self.queue.push_back(core);
        Stage::Queue(outside)
    }

    /// Registers are saved: the core says that it is out, and only then waits for anything.
    fn save(&mut self, core: usize, token: Entering) -> Stage {
        let by_nmi = self.cores[core].exit == Exit::Nmi;
        if self.bug == Some(Bug::ShootdownDeadlock) {
            if by_nmi {
                self.cores[core].nmi_pending = false;
            }
            self.queue.push_back(core);
            return Stage::LateQueue(token, by_nmi);
        }
        match token.left(&self.cores[core].gate, by_nmi) {
            Left::ByNmi(pending) => Stage::Window(pending),
            Left::Otherwise(outside) => self.enqueue(core, outside),
        }
    }

    fn vmrun(&mut self, core: usize, token: Entering, mut run: Run) -> Stage {
        if self.bug == Some(Bug::LostNmi) {
            self.cores[core].nmi_pending = false;
        }
        let state = &mut self.cores[core];
        if self.bug == Some(Bug::ForgottenFlush) {
            run.entry.asid = *state.numbers.entry(run.vm).or_insert(run.entry.asid);
        }
        if run.entry.flush_all && self.bug != Some(Bug::AsidReused) {
            state.tlb.flush_all();
        }
        state.run = run;
        state.executed = true;
        state.cut_off = 0;
        if run.event & VALID != 0 {
            return self.deliver(core, token, run.event);
        }
        Stage::Guest(token)
    }

    /// Delivers an event through the guest's own table of vectors, which an exit may cut off.
    fn deliver(&mut self, core: usize, token: Entering, event: u64) -> Stage {
        let cut = if self.cores[core].nmi_pending { self.random.one_in(2) } else { self.random.one_in(16) };
        if cut {
            self.cores[core].cut_off = event;
            let exit = if self.cores[core].nmi_pending { Exit::Nmi } else { Exit::Other };
            return self.leave(core, token, exit);
        }
        let vcpu = self.cores[core].run.vcpu;
        self.say(|| format!("core {core} {vcpu:?} takes vector {}", event as u8));
        if let Some(guest) = self.guests.get_mut(&vcpu) {
            guest.owed.remove(&(event as u8));
            guest.seen += 1;
            guest.halted = false;
            // As through an interrupt gate.
            guest.open = false;
        }
        self.interrupts += 1;
        Stage::Guest(token)
    }

    fn leave(&mut self, core: usize, token: Entering, exit: Exit) -> Stage {
        self.say(|| format!("core {core} leaves {:?}: {exit:?}", self.cores[core].run.vcpu));
        self.cores[core].exit = exit;
        Stage::Exited(token)
    }

    /// One moment of a guest.
    fn run_guest(&mut self, core: usize, token: Entering) -> Stage {
        self.check_runs(core);
        if self.cores[core].nmi_pending {
            return self.leave(core, token, Exit::Nmi);
        }
        let Run { vcpu, window, .. } = self.cores[core].run;
        let Some(guest) = self.guests.get_mut(&vcpu) else {
            self.violate(format!("{vcpu:?} runs and was never made"));
            return Stage::Guest(token);
        };
        guest.moments += 1;
        if guest.open {
            let mut lost = None;
            for (&vector, moments) in &mut guest.owed {
                *moments += 1;
                if *moments > OWED_MOMENTS {
                    lost = Some(vector);
                }
            }
            if let Some(vector) = lost {
                self.violate(format!("{vcpu:?} never got interrupt {vector}"));
            }
            if let Some(vector) = self.take_requested(core) {
                return self.deliver(core, token, VALID | vector as u64);
            }
            if window {
                self.cores[core].run.window = false;
                return self.leave(core, token, Exit::Window);
            }
        }
        let guest = &self.guests[&vcpu];
        if guest.halted {
            return Stage::Guest(token);
        }
        match self.random.below(32) {
            0..=15 => {
                let (gpa, write) = self.choose_access();
                if let Err(()) = self.access(core, gpa, write)
                    && self.random.one_in(4)
                {
                    return self.leave(core, token, Exit::Fault { gpa, write });
                }
            }
            16..=20 => self.with_guest(vcpu, |guest| guest.open = true),
            21 => self.with_guest(vcpu, |guest| guest.open = false),
            22 if self.random.one_in(4) => self.with_guest(vcpu, |guest| (guest.halted, guest.open) = (true, true)),
            23 => return self.leave(core, token, Exit::Other),
            24..=30 => return self.leave(core, token, Exit::Invoke),
            _ => {}
        }
        Stage::Guest(token)
    }

    fn with_guest(&mut self, vcpu: VcpuId, change: impl FnOnce(&mut Guest)) {
        if let Some(guest) = self.guests.get_mut(&vcpu) {
            change(guest);
        }
    }

    fn take_requested(&mut self, core: usize) -> Option<u8> {
        for word in (0..4).rev() {
            let bits = self.cores[core].requested[word];
            if bits != 0 {
                let bit = 63 - bits.leading_zeros();
                self.cores[core].requested[word] &= !(1 << bit);
                return Some((word as u32 * 64 + bit) as u8);
            }
        }
        None
    }

    /// A Vcpu that runs while no kernel step is under way must be one that may.
    fn check_runs(&mut self, core: usize) {
        if self.in_step {
            return;
        }
        let Run { vcpu, vm, .. } = self.cores[core].run;
        if !self.memory.has_vcpu(vcpu) || !self.memory.has_vm(vm) {
            self.violate(format!("core {core} runs {vcpu:?} of {vm:?}, which is destroyed"));
        } else if self.memory.vcpu(vcpu).vm != vm || self.memory.vcpu(vcpu).run != kernel::vcpu::Run::Runnable {
            self.violate(format!("core {core} runs {vcpu:?}, which is stopped or of another VM"));
        }
    }

    // ---- address translation -------------------------------------------------------------------------------------

    fn choose_access(&mut self) -> (Gpa, bool) {
        let page = *self.random.pick(&crate::guest::PAGES).unwrap_or(&0);
        (Gpa::new(page), self.random.one_in(2))
    }

    /// Guests of other cores go on while the kernel works.
    pub fn run_beside(&mut self, active: usize) {
        for core in 0..self.cores.len() {
            if core != active && matches!(self.cores[core].stage, Stage::Guest(_)) && self.random.one_in(4) {
                let (gpa, write) = self.choose_access();
                let _ = self.access(core, gpa, write);
            }
        }
    }

    /// A guest's load or store. `Err`: it faults.
    fn access(&mut self, core: usize, gpa: Gpa, write: bool) -> Result<(), ()> {
        self.accesses += 1;
        let wanted = if write { Rights::READ | Rights::WRITE } else { Rights::READ };
        let asid = self.cores[core].run.entry.asid;
        let cached = self.cores[core].tlb.leaf(asid, gpa).filter(|leaf| {
            leaf.rights.contains(wanted) && (leaf.dirty || !write)
        });
        let leaf = match cached {
            Some(leaf) if !self.random.one_in(8) => leaf,
            _ => self.walk(core, asid, gpa, wanted, write)?,
        };
        let offset = gpa.get() & (PAGE - 1);
        self.judge(core, gpa, leaf, wanted);
        self.touch(core, leaf.base.get() / PAGE, offset, write);
        Ok(())
    }

    /// Walks the tables from the lowest one that the core remembers, or from the root; sets accessed and dirty bits.
    fn walk(&mut self, core: usize, asid: u32, gpa: Gpa, wanted: Rights, write: bool) -> Result<Cached, ()> {
        let vm = self.cores[core].run.vm;
        let (mut table, mut level) = (vm.root(), ROOT_LEVEL);
        if !self.random.one_in(4)
            && let Some(cached) = self.cores[core].tlb.table(asid, gpa)
        {
            (table, level) = (cached.base, cached.level - 1);
        }
        loop {
            self.judge_table(core, gpa, table, level);
            let at = table.get() + entry_index(gpa, level) as u64 * 8;
            let entry = self.memory.word(at);
            match FORMAT.decode(entry, level) {
                Entry::Empty => return Err(()),
                Entry::Table(next) => {
                    self.set_bits(at, entry, ACCESSED);
                    let cached = Cached {
                        asid,
                        level,
                        leaf: false,
                        prefix: prefix(gpa, level),
                        base: next,
                        rights: Rights::empty(),
                        dirty: false,
                    };
                    self.cores[core].tlb.keep(cached, &mut self.random);
                    (table, level) = (next, level - 1);
                }
                Entry::Leaf(base) => {
                    let rights = FORMAT.rights(entry);
                    if !rights.contains(wanted) {
                        return Err(());
                    }
                    self.set_bits(at, entry, if write { ACCESSED | DIRTY } else { ACCESSED });
                    let cached =
                        Cached { asid, level, leaf: true, prefix: prefix(gpa, level), base, rights, dirty: write };
                    self.cores[core].tlb.keep(cached, &mut self.random);
                    return Ok(cached);
                }
            }
        }
    }

    fn set_bits(&mut self, at: u64, entry: u64, bits: u64) {
        if entry & bits != bits {
            self.memory.set_word(at, entry | bits);
        }
    }

    /// The walk of memory, without caches: the table of each level (index 4 to 1) and the leaf.
    fn truth(&self, vm: VmId, gpa: Gpa, word: impl Fn(u64) -> u64) -> ([Option<Hpa>; 5], Option<(Hpa, Rights)>) {
        let mut tables = [None; 5];
        let (mut table, mut level) = (vm.root(), ROOT_LEVEL);
        loop {
            tables[level as usize] = Some(table);
            let entry = word(table.get() + entry_index(gpa, level) as u64 * 8);
            match FORMAT.decode(entry, level) {
                Entry::Empty => return (tables, None),
                Entry::Table(next) => (table, level) = (next, level - 1),
                Entry::Leaf(base) => return (tables, Some((base, FORMAT.rights(entry)))),
            }
        }
    }

    fn judge_table(&mut self, core: usize, gpa: Gpa, table: Hpa, level: u8) {
        let vm = self.cores[core].run.vm;
        let level_index = level as usize;
        if self.truth(vm, gpa, |at| self.memory.word(at)).0[level_index] == Some(table) {
            return;
        }
        if self.in_step && self.truth(vm, gpa, |at| self.memory.word_before(at)).0[level_index] == Some(table) {
            return;
        }
        self.violate(format!(
            "core {core} walks {vm:?} at {:#x} through {:#x}, no table of level {level} of it any more",
            gpa.get(),
            table.get()
        ));
    }

    fn judge(&mut self, core: usize, gpa: Gpa, leaf: Cached, wanted: Rights) {
        let vm = self.cores[core].run.vm;
        let allows = |(base, rights): (Hpa, Rights)| base == leaf.base && rights.contains(wanted);
        let now = self.truth(vm, gpa, |at| self.memory.word(at)).1;
        let before = if self.in_step { self.truth(vm, gpa, |at| self.memory.word_before(at)).1 } else { None };
        if !now.is_some_and(allows) && !before.is_some_and(allows) {
            self.violate(format!(
                "core {core} reaches {:#x} by {vm:?} at {:#x} with {wanted:?}, which is not mapped so any more",
                leaf.base.get(),
                gpa.get()
            ));
        }
        let page = leaf.base.get() / PAGE;
        if self.memory.page_use(page) != Use::Data {
            self.violate(format!(
                "core {core} reaches page {page:#x} by {vm:?}, which is {:?}",
                self.memory.page_use(page)
            ));
        }
    }

    /// The load or store itself: what is read must have been written since the frame was made.
    fn touch(&mut self, core: usize, page: u64, _offset: u64, write: bool) {
        if page as usize >= self.made.len() {
            self.violate(format!("core {core} reaches page {page:#x}, which does not exist"));
            return;
        }
        let at = page * PAGE + TOUCHED;
        let old = self.memory.word(at);
        if old != 0 && old < self.made[page as usize] {
            self.violate(format!("core {core} sees in page {page:#x} what was there before its frame was made"));
        }
        if write {
            self.stores += 1;
            self.memory.set_word(at, self.stores);
        }
    }

    /// A frame is made at this page: what is older must be gone.
    pub fn frame_made(&mut self, page: u64) {
        if let Some(made) = self.made.get_mut(page as usize) {
            *made = self.stores + 1;
        }
        if !self.memory.is_zero(Hpa::new(page * PAGE), PAGE) {
            self.violate(format!("a frame is made at page {page:#x}, which is not scrubbed"));
        }
    }

    // ---- expulsion -----------------------------------------------------------------------------------------------

    /// Makes a core leave its guest and waits for it, while everybody else goes on.
    pub fn expel(&mut self, active: usize, core: usize) {
        if !self.cores[core].gate.is_in_guest() {
            return;
        }
        self.expulsions += 1;
        self.send_nmi(core);
        if self.bug == Some(Bug::FreedTable) {
            return;
        }
        for _ in 0..EXPEL_TURNS {
            if !self.cores[core].gate.is_in_guest() {
                return;
            }
            self.pass(1);
            let other = self.random.below(self.cores.len() as u64) as usize;
            if other != active {
                self.step_alone(other);
            }
        }
        self.violate(format!("core {core} does not acknowledge that it was expelled by core {active}"));
    }

    /// Calls a core to decide anew.
    pub fn call(&mut self, core: usize) {
        let now = self.present();
        self.cores[core].called.get_or_insert(now);
        if self.cores[core].gate.call() {
            if self.bug == Some(Bug::LostWakeup) && matches!(self.cores[core].stage, Stage::Halt(_)) {
                return;
            }
            self.send_nmi(core);
        }
    }
}
