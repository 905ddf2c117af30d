//! The machine: cores that run guests, address translation with stale caches, NMIs and interrupts in flight, one
//! comparator, a clock, an IOMMU. What a core does here needs no kernel lock; what needs it is in `core_loop`.
//! What guests reach, and whether they may, is in `translate`.

use crate::bug::Bug;
use crate::devices::Functions;
use crate::iommu::Iommu;
use crate::lines::{Line, ROUTES, Target};
use crate::memory::Memory;
use crate::random::Random;
use crate::tlb::Tlb;
use kernel::Call;
use kernel::asid;
use kernel::nested::EntryFormat;
use kernel::protocol::deadlines::{Alarm, Deadlines};
use kernel::protocol::pending::{Pending, VALID};
use kernel::protocol::pins::Pins;
use kernel::protocol::{Entering, Gate, Halting, NmiPending, Outside};
use kernel::types::{Gpa, VcpuId, VmId};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

/// How the tables are written.
pub const FORMAT: EntryFormat = EntryFormat::Npt;
/// Vector of fault upcalls.
pub const UPCALL: u8 = 64;
/// Vector of events.
pub const EVENT: u8 = 65;
/// Moments a guest may be open for an interrupt that it is owed and not get it.
const OWED_MOMENTS: u32 = 40;

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
    /// An entry whose state was refused.
    Refused,
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
    cut_off: u64,
    /// That exit happened while an event was delivered.
    pub delivering: bool,
    /// The bug: the exit is still to be written into the Vcpu, although the core said that it is out.
    unsaved: bool,
    /// What it runs or ran last.
    pub run: Run,
    /// An entry with `run` was executed since it was decided.
    pub executed: bool,
    /// The Vcpu whose routes are unmasked towards this core.
    pub open_for: VcpuId,
    /// When its last decision ends.
    pub until: u64,
    /// The deadline that was set for it last; 0 when that has passed.
    pub deadline: u64,
    /// Since when it has been called to decide anew.
    pub called: Option<u64>,
    pub(crate) tlb: Tlb,
    pub(crate) nmi_pending: bool,
    pub(crate) nmi_coming: bool,
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
    /// The fault upcall that the next entry injects, 0 for none.
    pub upcall: u64,
    /// A hypercall that was preempted: it executes it again.
    pub repeated: Option<Call>,
    /// Vectors that a device raised and it has not seen, with the moments it was open for them.
    pub owed: BTreeMap<u8, u32>,
    /// Moments it was open although it is to be told of events.
    pub untold: u32,
    /// Moments it ran.
    pub moments: u64,
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
    /// Functions of devices.
    pub functions: Functions,
    /// The IOMMU in front of them.
    pub iommu: Iommu,
    /// Devices.
    pub lines: [Line; ROUTES],
    /// What the routes of Vcpus do (the kernel's, under the lock).
    pub pins: Pins,
    /// Messages of devices in flight: the line, and what it was when it sent them.
    pub(crate) messages: Vec<(usize, Target)>,
    /// Deadlines of all cores (the kernel's, under the lock).
    pub deadlines: Deadlines,
    pub(crate) comparator: Option<Alarm>,
    pub(crate) clock: Cell<u64>,
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
    pub(crate) stores: u64,
    /// When the frame at a page was made, in stores.
    pub made: Vec<u64>,
    /// The two Vcpus on core 1 do little else than to signal each other and wait.
    pub ping_pong: bool,
    /// Guest accesses that were judged.
    pub accesses: u64,
    /// Interrupts that guests took.
    pub interrupts: u64,
    /// Expulsions of a core that was in a guest.
    pub expulsions: u64,
}

impl Core {
    /// An NMI is pending or under way.
    pub fn is_called(&self) -> bool {
        self.nmi_pending || self.nmi_coming
    }
}

impl Hardware {
    /// A machine with this many pages and cores, reset.
    pub fn new(seed: u64, pages: usize, cores: usize, bug: Option<Bug>) -> Hardware {
        let idle =
            Run { vcpu: VcpuId::NONE, vm: VmId::NONE, entry: asid::Entry { asid: 0, flush_all: false }, event: 0 };
        let core = || Core {
            stage: Stage::Queue(Outside::started()),
            gate: Gate::new(),
            exit: Exit::Other,
            cut_off: 0,
            delivering: false,
            unsaved: false,
            run: idle,
            executed: false,
            open_for: VcpuId::NONE,
            until: u64::MAX,
            deadline: 0,
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
            functions: Functions::default(),
            iommu: Iommu::default(),
            lines: [Line::NEW; ROUTES],
            pins: Pins::new(),
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
            ping_pong: seed.is_multiple_of(4),
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

    /// What the back end keeps of the exit goes into the Vcpu; then the core says that it is out; and only then it waits
    /// for anything. From the moment it has said so, the Vcpu may be destroyed.
    fn save(&mut self, core: usize, token: Entering) -> Stage {
        let by_nmi = self.cores[core].exit == Exit::Nmi;
        if self.bug == Some(Bug::LateSave) {
            self.cores[core].unsaved = true;
        } else {
            self.keep_exit(core);
        }
        if self.bug == Some(Bug::ShootdownDeadlock) {
            if by_nmi {
                self.cores[core].nmi_pending = false;
            }
            self.queue.push_back(core);
            return Stage::LateQueue(token, by_nmi);
        }
        let gate = &self.cores[core].gate;
        if by_nmi {
            Stage::Window(token.left_by_nmi(gate))
        } else {
            let outside = token.left(gate);
            self.enqueue(core, outside)
        }
    }

    /// The bug: with the lock, at last, the core writes what it should have written before it said that it is out.
    pub fn save_late(&mut self, core: usize) {
        if std::mem::take(&mut self.cores[core].unsaved) {
            self.keep_exit(core);
        }
    }

    /// Writes into the Vcpu that was left what its exit cut off.
    fn keep_exit(&mut self, core: usize) {
        let Run { vcpu, vm, .. } = self.cores[core].run;
        if !self.memory.has_vcpu(vcpu) || self.memory.vcpu(vcpu).vm != vm {
            self.violate(format!("core {core} writes into the state of {vcpu:?}, which is destroyed"));
        }
        let cut_off = std::mem::take(&mut self.cores[core].cut_off);
        self.cores[core].delivering = cut_off != 0;
        if self.bug != Some(Bug::LostInterrupt)
            && let Some(guest) = self.guests.get_mut(&vcpu)
        {
            guest.pending.left(cut_off);
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
        // Those that carry a flush are the ones of interest.
        if self.random.one_in(if run.entry.flush_all { 32 } else { 2_048 }) {
            // The state of the Vcpu is not legal: nothing is done, not even the flush, and the event is left.
            let state = &mut self.cores[core];
            state.run = run;
            state.executed = self.bug == Some(Bug::RefusedFlush);
            state.cut_off = run.event;
            return self.leave(core, token, Exit::Refused);
        }
        let state = &mut self.cores[core];
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
        let cut = if self.cores[core].nmi_pending { self.random.one_in(2) } else { self.random.one_in(8) };
        if cut {
            self.cores[core].cut_off = event;
            let exit = if self.cores[core].nmi_pending { Exit::Nmi } else { Exit::Other };
            return self.leave(core, token, exit);
        }
        let vcpu = self.cores[core].run.vcpu;
        self.say(|| format!("core {core} {vcpu:?} takes vector {}", event as u8));
        if let Some(guest) = self.guests.get_mut(&vcpu) {
            guest.owed.remove(&(event as u8));
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
        let vcpu = self.cores[core].run.vcpu;
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
            if self.memory.has_vcpu(vcpu) && self.memory.vcpu(vcpu).event_pending {
                guest.untold += 1;
            } else {
                guest.untold = 0;
            }
            if guest.untold > OWED_MOMENTS {
                lost = Some(self.memory.vcpu(vcpu).event_vector);
            }
            if let Some(vector) = lost {
                self.violate(format!("{vcpu:?} never got interrupt {vector}"));
            }
            if let Some(vector) = self.take_requested(core) {
                return self.deliver(core, token, VALID | vector as u64);
            }
        }
        let guest = &self.guests[&vcpu];
        if guest.halted {
            return Stage::Guest(token);
        }
        match self.random.below(32) {
            0..=13 => {
                let (gpa, write) = self.choose_access();
                if let Err(()) = self.access(core, gpa, write)
                    && self.random.one_in(4)
                {
                    return self.leave(core, token, Exit::Fault { gpa, write });
                }
            }
            14..=18 => self.with_guest(vcpu, |guest| guest.open = true),
            19 => self.with_guest(vcpu, |guest| guest.open = false),
            20 if self.random.one_in(4) => self.with_guest(vcpu, |guest| (guest.halted, guest.open) = (true, true)),
            21 => return self.leave(core, token, Exit::Other),
            22..=30 => return self.leave(core, token, Exit::Invoke),
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

    /// Time passes and other cores go on while the kernel works.
    pub fn run_beside(&mut self, active: usize) {
        if self.random.one_in(4) {
            self.pass(1);
        }
        let core = self.random.below(self.cores.len() as u64) as usize;
        if core == active {
            return;
        }
        if matches!(self.cores[core].stage, Stage::Guest(_)) && self.random.one_in(2) {
            let (gpa, write) = self.choose_access();
            let _ = self.access(core, gpa, write);
        } else {
            self.step_alone(core);
        }
    }
}
