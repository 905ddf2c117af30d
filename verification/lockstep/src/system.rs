//! Both machines side by side: the same world, the same steps, the same answers.

mod boot;

pub use boot::{CORES, FIRST_MESSAGE_ROUTE, FUNCTION_NUMBERS, ROOT_VCPU, ROOT_VM, boot_spec, place};

use crate::host::Host;
use crate::mutants::Mutant;
use crate::observe::{comparable, observe};
use crate::script::Step;
use crate::seen::check_devices;
use boot::{DEVICE, ENTRY, ROOT_CNODE, boot_kernel};
use cap_spec::abi::{Fault, FaultRecord, Label, SLOT_BITS};
use cap_spec::machine::{
    self as spec, Call, Cap, Extent, Outcome, Output, Period, Run, Slot, SlotId, State, Vcpu, VcpuId,
};
use kernel::cap::Cap as KernelCap;
use kernel::{Kernel, Outcome as KernelOutcome, types as k};
use std::collections::BTreeSet;
use std::fmt;

/// How the two machines part.
#[derive(Clone, Debug)]
pub struct Divergence(pub String);

impl fmt::Display for Divergence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What an invocation was answered.
pub type Reply = Result<Outcome, Fault>;

/// The two machines.
#[derive(Clone)]
pub struct System {
    /// The kernel library.
    pub kernel: Kernel<Host>,
    /// The abstract machine.
    pub spec: State,
    boot: Vec<k::SlotId>,
    /// Whose state each core holds.
    held: [Option<VcpuId>; CORES as usize],
    mutant: Option<Mutant>,
    /// How often what takes long is done.
    pace: Pace,
    steps: usize,
}

/// Steps from one look at everything to the next. Answers are compared after every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Until the states are compared again.
    pub states: usize,
    /// Until the specification's invariants are checked again.
    pub invariants: usize,
}

impl Pace {
    /// Everything after every step.
    pub const EACH: Pace = Pace { states: 1, invariants: 1 };
    /// Of the many steps of a long campaign: what parts and stays apart is found some steps late, and the replay, which
    /// looks after each, finds the step.
    pub const LONG: Pace = Pace { states: 8, invariants: 64 };
}

fn kernel_slot(index: u64) -> k::SlotId {
    k::Hpa::new(ROOT_CNODE.0).to_slot().plus(index as u32)
}

fn kernel_vcpu(id: VcpuId) -> k::VcpuId {
    k::VcpuId::at(k::Hpa::new(id.0))
}

impl System {
    /// Both machines after boot; the kernel with a bug or without.
    pub fn new(mutant: Option<Mutant>) -> System {
        System::with_dirty_memory(20, mutant)
    }

    /// The same with this pace, which is [`Pace::EACH`] otherwise.
    pub fn at_pace(self, pace: Pace) -> System {
        System { pace, ..self }
    }

    /// The same with next to no memory that has not been scrubbed yet: cheap to copy.
    pub fn small() -> System {
        System::with_dirty_memory(12, None)
    }

    /// The same with 2^`bits` bytes (12 to 21) of memory that has not been scrubbed yet.
    pub fn with_dirty_memory(bits: u8, mutant: Option<Mutant>) -> System {
        let (kernel, boot) = boot_kernel(bits);
        let mut system = System {
            kernel,
            spec: boot_spec(bits),
            boot,
            held: [None; CORES as usize],
            mutant,
            pace: Pace::EACH,
            steps: 0,
        };
        for core in 0..CORES {
            system.decide(core);
        }
        system
    }

    /// Who can invoke on a core now.
    pub fn current(&self, core: u8) -> Option<VcpuId> {
        let current = self.kernel.current(k::CoreId::new(core))?;
        Some(VcpuId(current.address().get()))
    }

    /// One step of both machines. What was invoked, and the answer; `None` if the step was no invocation, or its core
    /// idles.
    ///
    /// # Errors
    /// What differs: answers, states, the kernel's own records, or a broken invariant of the specification.
    pub fn step(&mut self, step: Step) -> Result<Option<(Label, Reply)>, Divergence> {
        let answer = match step {
            Step::Invoke(core, call) => self.invoke(core % CORES, call)?,
            Step::Advance(ticks) => {
                self.advance(ticks)?;
                None
            }
            Step::Decide(core) => {
                self.kernel.on_deadline(k::CoreId::new(core % CORES));
                self.decide(core % CORES);
                self.follow_expiries()?;
                None
            }
            Step::Input(value) => {
                self.kernel.machine.port_input = value;
                self.kernel.machine.devices.input = value;
                self.spec.port_input = value;
                None
            }
            Step::Restart => {
                self.kernel.start_root(kernel_vcpu(ROOT_VCPU), ENTRY, 0);
                spec::start_root(&mut self.spec, ROOT_VCPU, ENTRY);
                None
            }
            Step::Fault(number, words) => {
                if let Some(record) = FaultRecord::from_words(words) {
                    let function = (usize::from(number) < FUNCTION_NUMBERS).then_some(number);
                    self.tell_world();
                    self.kernel.report_fault(function.map(k::FunctionId::new), record, false);
                    spec::report(&mut self.spec, function, record);
                    self.follow_expiries()?;
                }
                None
            }
        };
        self.compare_outputs()?;
        self.steps += 1;
        if self.steps.is_multiple_of(self.pace.states) {
            self.compare()?;
        }
        if self.steps.is_multiple_of(self.pace.invariants) {
            let broken = |broken| Divergence(format!("broken in both machines: {broken:x?}"));
            spec::invariants::check(&self.spec).map_err(broken)?;
        }
        Ok(answer)
    }

    /// The world as the abstract machine must know it: what cores do, and whose state they hold.
    fn tell_world(&mut self) {
        self.spec.now = self.kernel.machine.now;
        self.spec.periods.clear();
        for vcpu in self.spec.vcpus.keys() {
            let id = kernel_vcpu(*vcpu);
            if let (Some(reservation), Some(free)) = (self.kernel.reservation_of(id), self.kernel.free_from_of(id)) {
                let (end, length) = (reservation.deadline.get(), reservation.period.get());
                let period = Period { end, length, free: free.get() };
                self.spec.periods.insert(*vcpu, period);
            }
        }
        self.spec.holders.clear();
        for (core, held) in self.held.iter().enumerate() {
            if let Some(vcpu) = held {
                self.spec.holders.insert(*vcpu, core as u8);
            }
        }
    }

    /// An invocation on a core, by who runs there.
    fn invoke(&mut self, core: u8, call: Call) -> Result<Option<(Label, Reply)>, Divergence> {
        let Some(invoker) = self.current(core) else { return Ok(None) };
        self.tell_world();
        let before = self.spec.clone();
        let expected = spec::step(&mut self.spec, invoker, call);
        if expected.is_err() && before != self.spec {
            return Err(Divergence(format!("the specification refuses {expected:?} and changes its state")));
        }
        let made = self.made(&before)?;
        self.kernel.machine.must_yield = self.can_repeat(&before, invoker, call);
        let found = self.call_kernel(core, invoker, call, &before);
        for frame in made {
            self.kernel.machine.scribble(frame.base, frame.bytes());
        }
        self.release_held();
        let has_invoker = self.spec.vcpus.contains_key(&invoker);
        match found {
            Some(found) if found == expected => {}
            None if !has_invoker || self.spec.vcpus[&invoker].vm.is_none() => {}
            found => {
                return Err(Divergence(format!("expected {expected:x?}, the kernel says {found:x?}")));
            }
        }
        self.take_choices();
        self.decide(core);
        self.follow_expiries()?;
        Ok(Label::from_number(call.label).map(|label| (label, expected)))
    }

    /// The kernel alone is called by who runs on a core, and preempted as often as it allows; after `repeats` repetitions
    /// the invoker does something else. What the abstract machine then says of the kernel's state is no longer true.
    /// True if the call was left unfinished.
    pub fn abandon(&mut self, core: u8, call: Call, repeats: usize) -> bool {
        let call = kernel::Call { cap: call.cptr, label: call.label, args: call.args };
        self.kernel.machine.must_yield = true;
        let is_left = (0..=repeats).all(|_| {
            self.current(core).is_some()
                && self.kernel.handle_call(k::CoreId::new(core), &call) == KernelOutcome::Preempted
        });
        self.kernel.machine.outputs.clear();
        self.decide(core);
        is_left
    }

    /// True if a Delete or Revoke that is preempted finds its way back when the invoker repeats it: if the invoker runs on,
    /// finds what it invoked, and the target's surroundings do not go with it. Otherwise a preempted call may end with
    /// work left for a Revoke further up, where the abstract machine is through at once.
    fn can_repeat(&self, before: &State, invoker: VcpuId, call: Call) -> bool {
        let after = &self.spec;
        let runs_on =
            after.vcpus.get(&invoker).is_some_and(|vcpu| vcpu.run == Run::Runnable) && after.time_of(invoker).is_some();
        let finds_it =
            before.slots.keys().all(|slot| after.slots.contains_key(slot) || !is_path(before, invoker, *slot, call));
        let is_kept = |slot: &SlotId| after.slots.contains_key(slot);
        let target = spec::named_slot(before, invoker, call);
        let stays = match (Label::from_number(call.label), target) {
            (Some(Label::CNodeRevoke), Some(target)) => is_kept(&target),
            (Some(Label::CNodeDelete), Some(target)) => before.slots[&target].parent.as_ref().is_none_or(is_kept),
            _ => true,
        };
        runs_on && finds_it && stays
    }

    /// The kernel's answer; `None` if the invoker is gone.
    fn call_kernel(&mut self, core: u8, invoker: VcpuId, call: Call, before: &State) -> Option<Reply> {
        let core = k::CoreId::new(core);
        let mut kernel_call = kernel::Call { cap: call.cptr, label: call.label, args: call.args };
        let mutant = self
            .mutant
            .map(|mutant| (mutant, mutant.before(&mut self.kernel, before, &self.spec, invoker, &mut kernel_call)));
        let reply = loop {
            match self.kernel.handle_call(core, &kernel_call) {
                KernelOutcome::Done { status, results } => {
                    break Some(status.to_result().map(|()| Outcome::Done(results)));
                }
                KernelOutcome::Blocked | KernelOutcome::HandedOver(_) => break Some(Ok(Outcome::Blocked)),
                KernelOutcome::Gone => break None,
                KernelOutcome::Preempted if self.current(core.get()) == Some(invoker) => {}
                KernelOutcome::Preempted => break None,
            }
        };
        if let Some((mutant, memory)) = mutant {
            let done = matches!(reply, Some(Ok(_)));
            mutant.after(&mut self.kernel, before, &self.spec, &kernel_call, done, &memory);
        }
        reply
    }

    /// Frames that the specification has just made; all memory that it gave out must be clean.
    fn made(&self, before: &State) -> Result<Vec<Extent>, Divergence> {
        let mut frames = Vec::new();
        for (id, slot) in &self.spec.slots {
            if before.slots.contains_key(id) || !slot.original || slot.parent.is_none() {
                continue;
            }
            let Some(extent) = spec::invariants::extent_of(&slot.cap).filter(|extent| extent.base < DEVICE.base) else {
                continue;
            };
            let is_retyped = slot.parent.and_then(|parent| before.slots.get(&parent)).is_some_and(|parent| {
                matches!(parent.cap, Cap::Untyped { extent: from, watermark, .. } if extent.base >= from.base + watermark)
            });
            if !is_retyped {
                continue;
            }
            if !self.kernel.machine.is_clean(extent.base, extent.bytes()) {
                return Err(Divergence(format!("{extent:x?} is given out dirty")));
            }
            if matches!(slot.cap, Cap::Frame { .. }) {
                frames.push(extent);
            }
        }
        Ok(frames)
    }

    /// Cores forget the state of Vcpus that were destroyed or lost their VM.
    fn release_held(&mut self) {
        for held in &mut self.held {
            if held.is_some_and(|vcpu| self.spec.vcpus.get(&vcpu).is_none_or(|vcpu| vcpu.vm.is_none())) {
                *held = None;
            }
        }
    }

    /// Where the rules leave a watermark to the kernel, the abstract machine does as the kernel did.
    fn take_choices(&mut self) {
        for (slot, alternatives) in std::mem::take(&mut self.spec.choices) {
            let found = kernel::machine::Machine::slot(&self.kernel.machine, k::Hpa::new(slot.0).to_slot());
            if let (
                KernelCap::Untyped { watermark: chosen, .. },
                Some(Slot { cap: Cap::Untyped { watermark, .. }, .. }),
            ) = (found.cap, self.spec.slots.get_mut(&slot))
                && alternatives.contains(&chosen)
            {
                *watermark = chosen;
            }
        }
    }

    /// A core decides who runs; returns until when.
    fn decide(&mut self, core: u8) -> u64 {
        loop {
            let decision = self.kernel.schedule(k::CoreId::new(core));
            let held = &mut self.held[usize::from(core)];
            if decision.save.is_some() {
                *held = None;
            }
            if let Some(run) = decision.run {
                *held = Some(VcpuId(run.address().get()));
                self.kernel.entered(k::CoreId::new(core), decision.entry);
            }
            if decision.until.get() > self.kernel.machine.now {
                return decision.until.get();
            }
        }
    }

    /// Sleepers that the kernel woke because of their deadline wake in the abstract machine, if they may. What it says to
    /// sleepers that were signalled must be what the abstract machine said.
    fn follow_expiries(&mut self) -> Result<(), Divergence> {
        let woken = std::mem::take(&mut self.kernel.machine.woken);
        for (vcpu, events) in woken {
            let id = VcpuId(vcpu.address().get());
            if let Some(at) = self.spec.completions.iter().position(|completion| *completion == (id, events)) {
                self.spec.completions.remove(at);
            } else if spec::expire(&mut self.spec, id) != Some(events) {
                return Err(Divergence(format!("{id:x?} wakes with events {events:#x}, which it must not")));
            }
        }
        let missed = std::mem::take(&mut self.spec.completions);
        if missed.is_empty() { Ok(()) } else { Err(Divergence(format!("must wake, and does not: {missed:x?}"))) }
    }

    /// Time passes in small pieces: every core decides when it said it would.
    fn advance(&mut self, ticks: u64) -> Result<(), Divergence> {
        let end = self.kernel.machine.now + ticks;
        while self.kernel.machine.now < end {
            let due = (0..CORES).map(|core| self.decide(core)).min();
            let now = due.unwrap_or(end).clamp(self.kernel.machine.now + 1, end);
            self.kernel.machine.now = now;
            self.spec.now = now;
            for core in 0..CORES {
                self.kernel.on_deadline(k::CoreId::new(core));
                self.decide(core);
            }
            self.follow_expiries()?;
        }
        Ok(())
    }

    /// Compares what was done to the world.
    fn compare_outputs(&mut self) -> Result<(), Divergence> {
        let mut found = std::mem::take(&mut self.kernel.machine.outputs);
        let writes = std::mem::take(&mut self.kernel.machine.devices.writes);
        found.extend(writes.into_iter().map(|(function, offset, value)| Output::Config {
            function: function.get(),
            offset,
            value,
        }));
        let expected = std::mem::take(&mut self.spec.outputs);
        if found == expected {
            Ok(())
        } else {
            Err(Divergence(format!("the world is told {found:x?}; expected {expected:x?}")))
        }
    }

    /// Compares the states.
    fn compare(&mut self) -> Result<(), Divergence> {
        let mut found = observe(&self.kernel, &self.boot, &self.spec.config).map_err(Divergence)?;
        check_devices(&self.kernel, &found).map_err(Divergence)?;
        self.tell_world();
        found.now = self.spec.now;
        found.port_input = self.spec.port_input;
        found.periods = self.spec.periods.clone();
        found.holders = self.spec.holders.clone();
        // The kernel keeps a sleeper's deadline in the schedule, where it shows when it passes.
        for (id, vcpu) in &mut found.vcpus {
            if let (Run::Blocked { deadline, .. }, Some(Vcpu { run: Run::Blocked { deadline: expected, .. }, .. })) =
                (&mut vcpu.run, self.spec.vcpus.get(id))
            {
                *deadline = *expected;
            }
        }
        let expected = comparable(&self.spec);
        if found != expected {
            return Err(Divergence(difference(&expected, &found)));
        }
        Ok(())
    }
}

/// True if the invoker finds the invoked capability through this slot.
fn is_path(state: &State, invoker: VcpuId, slot: SlotId, call: Call) -> bool {
    let Some(parts) = cap_spec::abi::CptrParts::from_raw(call.cptr) else { return false };
    let Some(root) = state.vcpus[&invoker].vm.and_then(|vm| state.vms[&vm].cspace) else { return false };
    if slot == root.slot(parts.node.into()) || (parts.node == 0 && slot == root.slot(parts.index.into())) {
        return true;
    }
    // The original of the root CNode, and the slot itself if it lies in a second CNode.
    match (&state.slots[&slot].cap, state.slots.get(&root.slot(parts.node.into())).map(|slot| &slot.cap)) {
        (Cap::CNode { id, .. }, _) if *id == root => true,
        (_, Some(Cap::CNode { id, .. })) => slot.0 == id.0 + (u64::from(parts.index) << SLOT_BITS),
        _ => false,
    }
}

/// Lists what differs, a line each.
pub fn difference(expected: &State, found: &State) -> String {
    let mut text = String::from("the states differ (expected | found):\n");
    let mut line = |what: String, left: String, right: String| {
        if left != right {
            text.push_str(&format!("  {what}: {left} | {right}\n"));
        }
    };
    macro_rules! maps {
        ($($field:ident),*) => { $(
            let keys: BTreeSet<_> = expected.$field.keys().chain(found.$field.keys()).collect();
            for key in keys {
                line(
                    format!("{key:x?}"),
                    format!("{:x?}", expected.$field.get(key)),
                    format!("{:x?}", found.$field.get(key)),
                );
            }
        )* };
    }
    maps!(slots, cnodes, tables, vms, vcpus, channels, functions, domains);
    line("faults".into(), format!("{:x?}", expected.faults), format!("{:x?}", found.faults));
    text
}
