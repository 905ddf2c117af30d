//! What a core does with the kernel lock held: settle the exit, ask the library what to do next, switch, set the timer,
//! enter or halt. The mirror of the back end's loop, cut into the smallest pieces between which other cores may step.

use crate::bug::Bug;
use crate::guest;
use crate::hardware::{Exit, Run, Stage, UPCALL};
use crate::machine::FakeMachine;
use crate::setup::ROOT_VCPU;
use cap_spec::abi::{Label, ObjectType, StopReason, info_page, slots};
use kernel::machine::{Machine, SharedPage};
use kernel::protocol::Holding;
use kernel::protocol::deadlines::Alarm;
use kernel::protocol::pending::{Pending, VALID};
use kernel::types::{CoreId, SlotId, Ticks, VcpuId};
use kernel::vcpu::Run::Stopped;
use kernel::{Call, Decision, FaultAction, Kernel, Outcome};

/// What a core that holds the lock does next.
#[derive(Clone, Copy, Debug)]
enum Todo {
    /// Settle the exit.
    Settle,
    /// Ask for the next decision.
    Decide,
    /// Carry a decision out: timer, then commit.
    Commit(Decision),
    /// The short way: nothing has happened, the guest that made a hypercall goes on.
    Reenter,
}

/// What became of an exit.
#[derive(Clone, Copy, Debug)]
enum Settled {
    /// Nothing more before the next decision.
    Stays,
    /// The lock must be given up before anything else.
    Preempted,
    /// The next decision is made already.
    HandedOver(Decision),
}

/// What the loop counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Invocations that succeeded.
    pub done: u64,
    /// Invocations that were refused.
    pub refused: u64,
    /// Invocations that were preempted.
    pub preempted: u64,
    /// Vcpus switched to.
    pub switches: u64,
    /// Times the root VM was started again.
    pub restarts: u64,
    /// Hypercalls after which the guest went on at once.
    pub short: u64,
    /// Hypercalls that handed the core over.
    pub handed_over: u64,
}

/// The kernel on its machine, and where each core is in the loop.
#[derive(Debug)]
pub struct World {
    /// The library.
    pub kernel: Box<Kernel<FakeMachine>>,
    todo: Vec<Todo>,
    /// What has been done.
    pub counts: Counts,
}

impl World {
    /// All cores want the lock.
    pub fn new(mut kernel: Box<Kernel<FakeMachine>>) -> World {
        let cores = kernel.machine.0.cores.len();
        kernel.machine.0.queue = (0..cores).collect();
        World { kernel, todo: vec![Todo::Decide; cores], counts: Counts::default() }
    }

    /// One step of a core.
    pub fn step(&mut self, core: usize) {
        let hardware = &mut self.kernel.machine.0;
        if hardware.step_alone(core) {
            return;
        }
        let first = hardware.queue.front() == Some(&core) && hardware.holder.is_none();
        let stage = std::mem::replace(&mut hardware.cores[core].stage, Stage::Moving);
        let next = match stage {
            Stage::Queue(outside) if first => {
                self.take_lock(core);
                Stage::Holding(outside.locked())
            }
            Stage::LateQueue(token, by_nmi) if first => {
                self.take_lock(core);
                // Only now, with the lock: whoever expelled this core with the lock held has waited in vain.
                let gate = &self.kernel.machine.0.cores[core].gate;
                let outside = if by_nmi { token.left_by_nmi(gate).taken() } else { token.left(gate) };
                Stage::Holding(outside.locked())
            }
            Stage::Holding(holding) => self.work(core, holding),
            Stage::Committed(token, run) => {
                hardware.holder = None;
                Stage::Enter(token, run)
            }
            Stage::CommittedHalt(token) => {
                hardware.holder = None;
                Stage::Halt(token)
            }
            other => other,
        };
        self.kernel.machine.0.cores[core].stage = next;
    }

    fn take_lock(&mut self, core: usize) {
        let hardware = &mut self.kernel.machine.0;
        hardware.queue.pop_front();
        hardware.holder = Some(core);
        hardware.save_late(core);
        hardware.say(|| format!("core {core} has the lock"));
    }

    fn give_lock_up(&mut self, core: usize, holding: Holding) -> Stage {
        let hardware = &mut self.kernel.machine.0;
        hardware.holder = None;
        hardware.queue.push_back(core);
        Stage::Queue(holding.gave_up())
    }

    fn work(&mut self, core: usize, holding: Holding) -> Stage {
        let todo = self.todo[core];
        match todo {
            Todo::Settle => {
                self.todo[core] = Todo::Decide;
                match self.in_step(|world| world.settle(core)) {
                    Settled::Stays => {}
                    Settled::Preempted => return self.give_lock_up(core, holding),
                    Settled::HandedOver(decision) => {
                        self.switch(core, &decision);
                        self.todo[core] = Todo::Commit(decision);
                    }
                }
                Stage::Holding(holding)
            }
            Todo::Reenter => {
                let state = &mut self.kernel.machine.0.cores[core];
                match holding.enter(&state.gate, u64::MAX, 0) {
                    Ok(token) => {
                        self.todo[core] = Todo::Settle;
                        self.counts.short += 1;
                        Stage::Committed(token, Run { event: 0, ..state.run })
                    }
                    Err(holding) => {
                        self.kernel.on_deadline(id(core));
                        self.todo[core] = Todo::Decide;
                        Stage::Holding(holding)
                    }
                }
            }
            Todo::Decide => {
                if self.kernel.machine.0.cores[core].gate.attention(&holding) {
                    self.kernel.on_deadline(id(core));
                }
                self.kernel.machine.0.cores[core].called = None;
                let decision = self.in_step(|world| world.kernel.schedule(id(core)));
                self.kernel.machine.0.say(|| format!("core {core} decides {decision:?}"));
                self.switch(core, &decision);
                if self.restart_root() {
                    self.kernel.on_deadline(id(core));
                    return Stage::Holding(holding);
                }
                self.todo[core] = Todo::Commit(decision);
                Stage::Holding(holding)
            }
            Todo::Commit(decision) => self.commit(core, holding, decision),
        }
    }

    /// Runs a piece of the library; when it returns, what it withdrew is withdrawn.
    fn in_step<T>(&mut self, piece: impl FnOnce(&mut World) -> T) -> T {
        self.kernel.machine.0.in_step = true;
        let result = piece(self);
        self.kernel.machine.0.in_step = false;
        self.kernel.machine.0.memory.step_done();
        self.follow_owners();
        self.kernel.machine.0.iommu.step_done();
        result
    }

    // ---- settling an exit ----------------------------------------------------------------------------------------

    /// What the exit asks for.
    fn settle(&mut self, core: usize) -> Settled {
        let hardware = &mut self.kernel.machine.0;
        let at = Ticks::new(hardware.present());
        let state = &mut hardware.cores[core];
        let (exit, run, delivering) = (state.exit, state.run, state.delivering);
        if std::mem::take(&mut state.executed) {
            self.kernel.entered(id(core), run.entry);
        }
        // The state of the Vcpu that was left is this core's only while the library says so.
        let alive = self.kernel.current(id(core)) == Some(run.vcpu);
        match exit {
            Exit::Nmi => {
                self.kernel.on_nmi(id(core), at);
                let now = self.set_alarms(None, Some(core));
                if let Some(alarm) = self.kernel.machine.0.deadlines.again(now)
                    && self.kernel.machine.0.comparator.is_none()
                    && self.kernel.machine.0.bug != Some(Bug::SpentAlarm)
                {
                    self.set_alarms(Some(alarm), Some(core));
                }
                self.kernel.look_at_faults(id(core));
                self.fire_parked(core);
            }
            Exit::Invoke if alive => return self.invoke(core, run.vcpu),
            Exit::Fault { gpa, write } if alive => {
                match self.kernel.nested_fault(id(core), gpa, u64::from(write) << 1, delivering) {
                    FaultAction::Inject(vector) => {
                        if let Some(guest) = self.kernel.machine.0.guests.get_mut(&run.vcpu) {
                            guest.upcall = VALID | vector as u64;
                        }
                    }
                    FaultAction::Stop => self.kernel.stop_by_itself(id(core), StopReason::NestedFault, gpa.get(), 0),
                }
            }
            Exit::Refused if alive => self.kernel.stop_by_itself(id(core), StopReason::InvalidState, 0, 0),
            Exit::Invoke | Exit::Fault { .. } | Exit::Refused | Exit::Other => {}
        }
        Settled::Stays
    }

    /// Starts the root VM again if it has stopped and no core holds its state any more; true if so.
    fn restart_root(&mut self) -> bool {
        let machine = &self.kernel.machine;
        if machine.vcpu(ROOT_VCPU).run != Stopped || machine.0.cores.iter().any(|core| core.open_for == ROOT_VCPU) {
            return false;
        }
        self.counts.restarts += 1;
        self.in_step(|world| world.kernel.start_root(ROOT_VCPU, 0x20_0000, 0x20_1000));
        true
    }

    /// A hypercall. A preempted one is repeated by the guest with the same registers.
    fn invoke(&mut self, core: usize, vcpu: VcpuId) -> Settled {
        let call = match self.kernel.machine.0.guests.get_mut(&vcpu).and_then(|guest| guest.repeated.take()) {
            Some(call) => call,
            None => self.next_call(vcpu),
        };
        let outcome = self.kernel.handle_call(id(core), &call);
        self.kernel.machine.0.say(|| format!("core {core} {vcpu:?} {call:x?}: {outcome:?}"));
        match outcome {
            Outcome::Done { status, .. } => {
                if status.to_result().is_ok() {
                    self.counts.done += 1;
                    self.look_at_frames(vcpu, &call);
                } else {
                    self.counts.refused += 1;
                }
                if !self.kernel.machine.0.cores[core].run.entry.flush_all {
                    if self.kernel.stays(id(core)) {
                        self.todo[core] = Todo::Reenter;
                    } else if let Some(entry) = self.kernel.renumber(id(core))
                        && !entry.flush_all
                    {
                        self.kernel.machine.0.cores[core].run.entry = entry;
                        self.todo[core] = Todo::Reenter;
                    }
                }
            }
            Outcome::Blocked => self.counts.done += 1,
            Outcome::HandedOver(decision) => {
                self.counts.done += 1;
                self.counts.handed_over += 1;
                return Settled::HandedOver(decision);
            }
            // One that destroys itself is stopped before it is gone, so it can leave the rest to others, and be started
            // again by one of them.
            Outcome::Preempted | Outcome::Gone => {
                if let Some(guest) = self.kernel.machine.0.guests.get_mut(&vcpu) {
                    guest.repeated = Some(call);
                }
                if outcome == Outcome::Preempted {
                    self.counts.preempted += 1;
                    return Settled::Preempted;
                }
            }
        }
        Settled::Stays
    }

    /// Mostly anything; but a guest keeps its own Vcpus running, so that runs stay lively.
    fn next_call(&mut self, vcpu: VcpuId) -> Call {
        let mut random = self.kernel.machine.0.random.clone();
        let now = self.kernel.machine.0.present();
        let mut call = guest::call(&self.kernel, vcpu, now, &mut random);
        if random.one_in(6)
            && let Some(slot) = guest::stopped_sibling(&self.kernel, vcpu)
        {
            call = Call { cap: slot as u64, label: Label::VcpuStart as u64, args: [0; 5] };
        }
        if self.kernel.machine.0.ping_pong && guest::shares_channel(&self.kernel, vcpu) && !random.one_in(16) {
            call = Call { cap: slots::CONSOLE as u64, label: Label::ChannelWait as u64, args: [2, 0, 0, 0, 0] };
        }
        self.kernel.machine.0.random = random;
        call
    }

    /// After a Retype: frames are scrubbed memory, and nothing older may be seen in them.
    fn look_at_frames(&mut self, vcpu: VcpuId, call: &Call) {
        if call.label != Label::UntypedRetype as u64 || call.args[0] != ObjectType::Frame as u64 {
            return;
        }
        let vm = self.kernel.machine.vcpu(vcpu).vm;
        let [_, _, cnode, index, count] = call.args;
        let Some(base) = guest::cnode_base(&self.kernel, vm, cnode) else { return };
        for number in 0..count {
            let slot = self.kernel.machine.slot(SlotId::new(base.get() + (index + number) as u32));
            if let kernel::cap::Cap::Frame { base, bits, .. } = slot.cap {
                for page in 0..(1_u64 << bits) / crate::memory::PAGE {
                    self.kernel.machine.0.frame_made(base.get() / crate::memory::PAGE + page);
                }
            }
        }
    }

    // ---- switching -----------------------------------------------------------------------------------------------

    /// Unloads and loads the machine's part of Vcpus, and their routes.
    fn switch(&mut self, core: usize, decision: &Decision) {
        if let Some(saved) = decision.save {
            self.unload(core, saved);
        }
        let Some(next) = decision.run else { return };
        if decision.load {
            if self.kernel.machine.0.cores[core].open_for.is_some() {
                // Its owner was destroyed, or taken off its VM: what is requested here is nobody's.
                self.close_routes(core);
                self.kernel.machine.0.cores[core].requested = [0; 4];
                self.kernel.unloaded(id(core), None, Ticks::new(1), false);
            }
            self.kernel.machine.0.cores[core].open_for = next;
            self.counts.switches += 1;
        }
        if decision.load || self.kernel.machine.0.pins.are_fresh(id(core)) {
            self.open_routes(core, next);
        }
    }

    /// Park, read back, drain: what is requested here belongs to the one that leaves.
    fn unload(&mut self, core: usize, leaving: VcpuId) {
        let hardware = &mut self.kernel.machine.0;
        let before = hardware.cores[core].open_for;
        if leaving != before || !hardware.memory.has_vcpu(leaving) || !hardware.memory.vcpu(leaving).vm.is_some() {
            hardware
                .violate(format!("core {core} saves the state of {leaving:?}, which it does not hold or is destroyed"));
            return;
        }
        let mut woken = self.park_routes(core, leaving);
        let hardware = &mut self.kernel.machine.0;
        let requested = std::mem::take(&mut hardware.cores[core].requested);
        hardware.cores[core].open_for = VcpuId::NONE;
        if let Some(guest) = hardware.guests.get_mut(&leaving) {
            for vector in (0..=255_u8).filter(|vector| requested[*vector as usize / 64] >> (vector % 64) & 1 != 0) {
                guest.pending.raise(vector);
            }
            // One that came before the Vcpu slept wakes it.
            woken |= guest.pending != Pending::NONE && self.kernel.wake_by_interrupt(leaving);
        }
        self.kernel.unloaded(id(core), Some(leaving), Ticks::new(1), woken);
    }

    // ---- entering ------------------------------------------------------------------------------------------------

    fn commit(&mut self, core: usize, holding: Holding, decision: Decision) -> Stage {
        let until = decision.until.get();
        if decision.run.is_none() {
            // Whoever routes were bound to is out by now.
            self.kernel.machine.0.pins.looked(id(core));
        }
        if !self.kernel.stays(id(core)) {
            // Draining interrupts woke somebody.
            self.todo[core] = Todo::Decide;
            return self.give_lock_up(core, holding);
        }
        let hardware = &mut self.kernel.machine.0;
        hardware.cores[core].until = until;
        let mut now = hardware.clock();
        if until <= now {
            self.kernel.on_deadline(id(core));
            self.todo[core] = Todo::Decide;
            return self.give_lock_up(core, holding);
        }
        // A deadline that is set already, and comes earlier, is left alone: it costs one NMI.
        let set = hardware.cores[core].deadline;
        if set > until || set <= now {
            hardware.cores[core].deadline = until;
            let alarm = hardware.deadlines.set(id(core), until);
            now = now.max(self.set_alarms(alarm, None));
        }
        let hardware = &mut self.kernel.machine.0;
        let gate = &hardware.cores[core].gate;
        let stage = match decision.run {
            Some(_) => holding.enter(gate, until, now).map(|token| {
                let run = self.prepare(core, &decision);
                Stage::Committed(token, run)
            }),
            None => holding.halt(gate, until, now).map(Stage::CommittedHalt),
        };
        match stage {
            Ok(stage) => {
                self.todo[core] = Todo::Settle;
                stage
            }
            Err(holding) => {
                self.kernel.on_deadline(id(core));
                self.todo[core] = Todo::Decide;
                Stage::Holding(holding)
            }
        }
    }

    /// Sets the comparator, reads the clock again, and calls every core whose instant passed meanwhile, but one that
    /// decides anew in any case.
    fn set_alarms(&mut self, mut alarm: Option<Alarm>, decides: Option<usize>) -> u64 {
        let hardware = &mut self.kernel.machine.0;
        loop {
            if let Some(alarm) = alarm {
                let pause = hardware.random.below(4);
                hardware.pass(pause);
                hardware.set_comparator(alarm);
            }
            if hardware.bug == Some(Bug::SilentTimer) {
                return 0;
            }
            let now = hardware.clock();
            let Some(due) = hardware.deadlines.passed(now) else { return now };
            hardware.cores[due.get() as usize].deadline = 0;
            if Some(usize::from(due.get())) != decides {
                hardware.call(due.get() as usize);
            }
            alarm = hardware.deadlines.earliest();
        }
    }

    /// What VMRUN gets.
    fn prepare(&mut self, core: usize, decision: &Decision) -> Run {
        let vcpu = decision.run.unwrap_or(VcpuId::NONE);
        let vm = self.kernel.machine.vcpu(vcpu).vm;
        let event = self.kernel.take_event_vector(vcpu);
        let hardware = &mut self.kernel.machine.0;
        let mut injected = 0;
        if let Some(guest) = hardware.guests.get_mut(&vcpu) {
            if let Some(vector) = event {
                guest.pending.raise(vector);
                guest.owed.entry(vector).or_insert(0);
            }
            // Vectors go through the core's own interrupt controller; what was cut off, and upcalls, are injected.
            let vectors = guest.pending.take_vectors();
            injected = std::mem::take(&mut guest.upcall);
            if guest.pending.is_delivering() {
                injected = guest.pending.take_cut_off();
            }
            guest.halted = false;
            for (requested, new) in hardware.cores[core].requested.iter_mut().zip(vectors) {
                *requested |= new;
            }
        }
        if let Some(vector) = event {
            hardware.say(|| format!("core {core} {vcpu:?} is told of events by {vector}"));
        }
        if injected != 0 && injected as u8 == UPCALL {
            // The guest reads the fault and gives the word free.
            self.kernel.machine.set_shared_word(SharedPage::Info(vcpu), info_page::UPCALL_BUSY, 0);
        }
        Run { vcpu, vm, entry: decision.entry, event: injected }
    }
}

/// Invokes without being preempted, for the set-up: core 0 runs `vcpu` before and after.
pub fn invoke_wholly(kernel: &mut Kernel<FakeMachine>, call: &Call) -> Result<(), cap_spec::abi::Fault> {
    loop {
        loop {
            let decision = kernel.schedule(id(0));
            if let Some(vcpu) = decision.run {
                kernel.machine.0.cores[0].open_for = vcpu;
            }
            if decision.run == Some(ROOT_VCPU) {
                break;
            }
            kernel.machine.0.pass(50);
            kernel.on_deadline(id(0));
        }
        let outcome = kernel.handle_call(id(0), call);
        kernel.machine.0.memory.step_done();
        kernel.machine.0.iommu.step_done();
        match outcome {
            Outcome::Done { status, .. } => return status.to_result(),
            Outcome::Preempted => {}
            Outcome::Blocked | Outcome::HandedOver(_) | Outcome::Gone => panic!("set-up: {call:x?} does not return"),
        }
    }
}

pub(crate) const fn id(core: usize) -> CoreId {
    CoreId::new(core as u8)
}
